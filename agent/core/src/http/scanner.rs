//! The incremental scanner: a byte machine with counters. Feeding the same bytes in any chunking gives the same verdict.
//! Must never: allocate, look back, or let one byte past the first violation.

use super::{
    BODY_LIMIT, HEAD_LIMIT, HEADER_LIMIT, HEADERS_LIMIT, METHOD_LIMIT, TARGET_LIMIT, Violation,
};

/// What the scanner says after some bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing wrong yet, and the head isn't whole.
    NeedMore,
    /// A whole head, within all rules.
    Head(Head),
    /// Refused. Every later `feed` says the same.
    Violation(Violation),
}

/// A head that passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its length in bytes, blank line included, counted from the first byte fed.
    pub len: usize,
    /// Length of the body that follows, in bytes; at most [`BODY_LIMIT`].
    pub content_length: u64,
    /// Whether the caller wants the connection kept.
    pub keep_alive: bool,
    /// The caller's version: HTTP/1.`minor`.
    pub minor: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Method,
    TargetStart,
    Target,
    Version,
    LineStart,
    Name,
    Value,
    /// After CR: the line feed that must follow, and what comes then.
    Lf,
    FinalLf,
    Done,
}

/// Headers that frame the message or ask the server for something else than an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Other,
    ContentLength,
    Connection,
}

/// Scans one head. Make a new one for each request.
#[derive(Debug, Clone)]
pub struct Scanner {
    at: At,
    verdict: Verdict,
    /// Bytes taken in all.
    len: usize,
    /// Bytes taken in this element (method, target, version, header line).
    part: usize,
    headers: usize,
    field: Field,
    /// Lower-case start of the word being read: a method, header name or connection option.
    word: [u8; 20],
    word_len: usize,
    takes_body: bool,
    preface: bool,
    minor: u8,
    length: Option<u64>,
    /// Whether the digits of Content-Length have ended.
    length_closed: bool,
    close: bool,
    keep: bool,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scanner before the first byte of a head.
    pub const fn new() -> Self {
        Self {
            at: At::Method,
            verdict: Verdict::NeedMore,
            len: 0,
            part: 0,
            headers: 0,
            field: Field::Other,
            word: [0; 20],
            word_len: 0,
            takes_body: false,
            preface: false,
            minor: 0,
            length: None,
            length_closed: false,
            close: false,
            keep: false,
        }
    }

    /// Whether no byte has been fed yet: an idle connection, not a slow head.
    pub const fn is_fresh(&self) -> bool {
        self.len == 0
    }

    /// Takes the next bytes. After a head is whole, the rest of `bytes` isn't looked at: it is body, or the next request.
    pub fn feed(&mut self, bytes: &[u8]) -> Verdict {
        let mut rest = bytes;
        while self.verdict == Verdict::NeedMore {
            let plain = self.plain_run(rest);
            rest = rest.get(plain..).unwrap_or_default();
            let Some((&byte, after)) = rest.split_first() else {
                break;
            };
            rest = after;
            if let Err(violation) = self.take(byte) {
                self.verdict = Verdict::Violation(violation);
            }
        }
        self.verdict
    }

    /// Takes the run of bytes that can't change the state, as far as no limit lies within it.
    fn plain_run(&mut self, bytes: &[u8]) -> usize {
        let room = |limit: usize| (limit - self.part).min(HEAD_LIMIT - self.len);
        let run = match self.at {
            At::Target => run_of(bytes, room(TARGET_LIMIT), is_target),
            At::Value if self.field == Field::Other => run_of(bytes, room(HEADER_LIMIT), is_value),
            _ => return 0,
        };
        self.len += run;
        self.part += run;
        run
    }

    fn take(&mut self, byte: u8) -> Result<(), Violation> {
        if self.len == HEAD_LIMIT {
            return Err(Violation::HeadTooLong);
        }
        self.len += 1;
        if byte == 0 {
            return Err(Violation::Nul);
        }
        match self.at {
            At::Method => self.method(byte),
            At::TargetStart => self.target_start(byte),
            At::Target => self.target(byte),
            At::Version => self.version(byte),
            At::LineStart => self.line_start(byte),
            At::Name => self.name(byte),
            At::Value => self.value(byte),
            At::Lf | At::FinalLf if byte != b'\n' => Err(Violation::BareCr),
            At::Lf => {
                self.enter(At::LineStart);
                Ok(())
            }
            At::FinalLf => self.finish(),
            At::Done => Ok(()),
        }
    }

    fn enter(&mut self, at: At) {
        self.at = at;
        self.part = 0;
        self.word_len = 0;
    }

    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.word.get_mut(self.word_len) {
            *slot = byte.to_ascii_lowercase();
        }
        // One past the buffer marks a word that is longer than any we know.
        self.word_len = (self.word_len + 1).min(self.word.len() + 1);
    }

    fn word(&self) -> &[u8] {
        self.word.get(..self.word_len).unwrap_or_default()
    }

    fn method(&mut self, byte: u8) -> Result<(), Violation> {
        if byte == b' ' && self.part > 0 {
            // `put` in lower case passes as well: it is no method of ours, and the dialect answers it 405.
            self.takes_body = matches!(self.word(), b"post" | b"put");
            self.preface = self.word() == b"pri";
            self.enter(At::TargetStart);
            return Ok(());
        }
        if byte == b'\n' {
            return Err(Violation::BareLf);
        }
        if !is_token(byte) || self.part == METHOD_LIMIT {
            return Err(Violation::BadMethod);
        }
        self.part += 1;
        self.push(byte);
        Ok(())
    }

    fn target_start(&mut self, byte: u8) -> Result<(), Violation> {
        match byte {
            b'/' => {
                self.enter(At::Target);
                self.part = 1;
                Ok(())
            }
            b'*' if self.preface => Err(Violation::Http2Preface),
            b'\n' => Err(Violation::BareLf),
            _ => Err(Violation::NotOriginForm),
        }
    }

    fn target(&mut self, byte: u8) -> Result<(), Violation> {
        match byte {
            b' ' => {
                self.enter(At::Version);
                Ok(())
            }
            b'\n' => Err(Violation::BareLf),
            // HTTP/0.9: a request line that ends after the target.
            b'\r' => Err(Violation::UnsupportedVersion),
            _ if !is_target(byte) => Err(Violation::BadTarget),
            _ if self.part == TARGET_LIMIT => Err(Violation::TargetTooLong),
            _ => {
                self.part += 1;
                Ok(())
            }
        }
    }

    fn version(&mut self, byte: u8) -> Result<(), Violation> {
        const START: &[u8; 7] = b"HTTP/1.";
        let at = self.part;
        self.part += 1;
        match (START.get(at), byte) {
            (_, b'\n') => Err(Violation::BareLf),
            (Some(want), _) if *want == byte => Ok(()),
            (None, b'0' | b'1') if at == START.len() => {
                self.minor = byte - b'0';
                Ok(())
            }
            (None, b'\r') if at == START.len() + 1 => {
                self.enter(At::Lf);
                Ok(())
            }
            _ => Err(Violation::UnsupportedVersion),
        }
    }

    fn line_start(&mut self, byte: u8) -> Result<(), Violation> {
        match byte {
            b'\r' => {
                self.enter(At::FinalLf);
                Ok(())
            }
            b' ' | b'\t' => Err(Violation::ObsoleteFold),
            _ if is_token(byte) && self.headers == HEADERS_LIMIT => Err(Violation::TooManyHeaders),
            _ => {
                self.headers += 1;
                self.enter(At::Name);
                self.name(byte)
            }
        }
    }

    fn name(&mut self, byte: u8) -> Result<(), Violation> {
        if self.part == HEADER_LIMIT {
            return Err(Violation::HeaderTooLong);
        }
        self.part += 1;
        match byte {
            b':' if self.word_len > 0 => self.colon(),
            b' ' | b'\t' => Err(Violation::SpaceBeforeColon),
            b'\n' => Err(Violation::BareLf),
            _ if is_token(byte) => {
                self.push(byte);
                Ok(())
            }
            _ => Err(Violation::BadHeaderName),
        }
    }

    fn colon(&mut self) -> Result<(), Violation> {
        self.field = match self.word() {
            b"content-length" if self.length.is_some() => {
                return Err(Violation::DuplicateContentLength);
            }
            b"content-length" => Field::ContentLength,
            b"connection" => Field::Connection,
            b"transfer-encoding" => return Err(Violation::TransferEncoding),
            b"expect" => return Err(Violation::Expect),
            b"upgrade" => return Err(Violation::Upgrade),
            _ => Field::Other,
        };
        self.length_closed = false;
        self.word_len = 0;
        self.at = At::Value;
        Ok(())
    }

    fn value(&mut self, byte: u8) -> Result<(), Violation> {
        match byte {
            b'\r' => {
                self.value_ends()?;
                self.enter(At::Lf);
                return Ok(());
            }
            b'\n' => return Err(Violation::BareLf),
            _ if !is_value(byte) => return Err(Violation::BadHeaderValue),
            _ if self.part == HEADER_LIMIT => return Err(Violation::HeaderTooLong),
            _ => self.part += 1,
        }
        match (self.field, byte) {
            (Field::ContentLength, _) => self.length_byte(byte),
            (Field::Connection, b' ' | b'\t' | b',') => {
                self.option_ends();
                Ok(())
            }
            (Field::Connection, _) => {
                self.push(byte);
                Ok(())
            }
            (Field::Other, _) => Ok(()),
        }
    }

    fn length_byte(&mut self, byte: u8) -> Result<(), Violation> {
        match (byte, self.length) {
            (b' ' | b'\t', None) => Ok(()),
            (b' ' | b'\t', Some(_)) => {
                self.length_closed = true;
                Ok(())
            }
            (b'0'..=b'9', so_far) if !self.length_closed => {
                let digit = u64::from(byte - b'0');
                self.length = Some(so_far.unwrap_or(0).saturating_mul(10).saturating_add(digit));
                Ok(())
            }
            _ => Err(Violation::BadContentLength),
        }
    }

    fn value_ends(&mut self) -> Result<(), Violation> {
        match (self.field, self.length) {
            (Field::ContentLength, None) => Err(Violation::BadContentLength),
            (Field::ContentLength, Some(length)) if length > BODY_LIMIT => {
                Err(Violation::BodyTooLong)
            }
            _ => {
                if self.field == Field::Connection {
                    self.option_ends();
                }
                Ok(())
            }
        }
    }

    fn option_ends(&mut self) {
        match self.word() {
            b"close" => self.close = true,
            b"keep-alive" => self.keep = true,
            _ => {}
        }
        self.word_len = 0;
    }

    fn finish(&mut self) -> Result<(), Violation> {
        let content_length = self.length.unwrap_or(0);
        if content_length > 0 && !self.takes_body {
            return Err(Violation::BodyNotAllowed);
        }
        self.at = At::Done;
        self.verdict = Verdict::Head(Head {
            len: self.len,
            content_length,
            keep_alive: !self.close && (self.minor == 1 || self.keep),
            minor: self.minor,
        });
        Ok(())
    }
}

/// How many of the first `room` bytes are plain. Generic, so that the test is inlined.
fn run_of(bytes: &[u8], room: usize, plain: impl Fn(u8) -> bool) -> usize {
    bytes
        .iter()
        .take(room)
        .take_while(|byte| plain(**byte))
        .count()
}

/// RFC 9110, 5.6.2: `tchar`.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// RFC 3986: `pchar`, `/` and `?`. What SDKs send raw in a query (`:` and `/` of a resource) is within it.
const fn is_target(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'%'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b';'
                | b'='
                | b':'
                | b'@'
                | b'/'
                | b'?'
        )
}

/// Visible ASCII, SP and HTAB.
const fn is_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte < 0x7f)
}
