//! The query: pairs, decoded once, each name at most once.
//! Must never: choose between two values of one name, or between two meanings of one byte (`;`, `+`).

/// Why a query is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum QueryFault {
    /// `%` without two hexadecimal digits, or what it stands for isn't UTF-8.
    #[error("the query has a malformed percent-encoding")]
    BadEncoding,
    /// A control character, encoded or not.
    #[error("the query has a control character")]
    Control,
    /// `;`, which some servers take for `&`. Write `%3B`.
    #[error("the query has a ';'")]
    Semicolon,
    /// `+`, which some servers take for a space. Write `%2B` or `%20`.
    #[error("the query has a '+'")]
    Plus,
    /// A value without a name.
    #[error("the query has a parameter without a name")]
    Nameless,
    /// One name twice, whatever its case: an upstream that ignores case would choose.
    #[error("the query has a parameter twice")]
    Duplicate,
}

/// Decoded names and values, in the order of the wire.
pub type Pairs = Vec<(String, String)>;

/// Splits and decodes what stands after the `?`.
///
/// # Errors
/// Whatever could be read in two ways.
pub fn parse(raw: &str) -> Result<Pairs, QueryFault> {
    let mut pairs = Pairs::new();
    for part in raw.split('&').filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let (name, value) = (decode(name)?, decode(value)?);
        if name.is_empty() {
            return Err(QueryFault::Nameless);
        }
        if pairs.iter().any(|(n, _)| n.eq_ignore_ascii_case(&name)) {
            return Err(QueryFault::Duplicate);
        }
        pairs.push((name, value));
    }
    Ok(pairs)
}

/// Appends `name=value` to a target, encoded so that only one reading is left.
pub fn push_pair(target: &mut String, name: &str, value: &str) {
    target.push(if target.contains('?') { '&' } else { '?' });
    push_text(target, name);
    target.push('=');
    push_text(target, value);
}

fn push_text(target: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            target.push(char::from(byte));
        } else {
            push_encoded(target, byte);
        }
    }
}

pub(super) fn push_encoded(target: &mut String, byte: u8) {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    target.push('%');
    target.push(DIGITS[usize::from(byte >> 4)]);
    target.push(DIGITS[usize::from(byte & 15)]);
}

/// The byte that two hexadecimal digits stand for.
pub(super) fn hex(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn decode(part: &str) -> Result<String, QueryFault> {
    let mut decoded = Vec::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => decoded.push(hex(bytes.next(), bytes.next()).ok_or(QueryFault::BadEncoding)?),
            b';' => return Err(QueryFault::Semicolon),
            b'+' => return Err(QueryFault::Plus),
            _ => decoded.push(byte),
        }
    }
    let text = String::from_utf8(decoded).map_err(|_| QueryFault::BadEncoding)?;
    if text.chars().any(char::is_control) {
        return Err(QueryFault::Control);
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Pairs {
        list.iter()
            .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn raw_and_encoded_are_the_same() {
        let want = pairs(&[
            ("api-version", "2018-02-01"),
            ("resource", "https://vault.azure.net"),
        ]);
        for raw in [
            "api-version=2018-02-01&resource=https://vault.azure.net",
            "api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net",
            "api%2Dversion=2018-02-01&&%72esource=https%3a//vault.azure.net&",
        ] {
            assert_eq!(parse(raw), Ok(want.clone()), "{raw}");
        }
        assert_eq!(parse(""), Ok(vec![]));
        assert_eq!(parse("a=b=c&d"), Ok(pairs(&[("a", "b=c"), ("d", "")])));
        assert_eq!(
            parse("a=%252F"),
            Ok(pairs(&[("a", "%2F")])),
            "decoded once, not twice"
        );
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use QueryFault::*;
        for (raw, fault) in [
            ("a=%", BadEncoding),
            ("a=%f", BadEncoding),
            ("a=%zz", BadEncoding),
            ("a=%ff", BadEncoding),
            ("a=%00", Control),
            ("a=x%0d%0aMetadata:%20true", Control),
            ("a=b;c=d", Semicolon),
            ("a=b+c", Plus),
            ("=b", Nameless),
            ("a=1&a=1", Duplicate),
            ("a=1&%61=2", Duplicate),
            ("resource=x&Resource=y", Duplicate),
        ] {
            assert_eq!(parse(raw), Err(fault), "{raw}");
        }
        for raw in ["a=%3B", "a=%2B", "a=%20", "a=1&b=1"] {
            assert!(parse(raw).is_ok(), "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn rebuilt_is_a_fixpoint(raw in "[ -~]{0,60}") {
            if let Ok(pairs) = parse(&raw) {
                let mut target = String::from("/");
                for (name, value) in &pairs {
                    push_pair(&mut target, name, value);
                }
                let again = target.split_once('?').map_or("", |(_, query)| query);
                proptest::prop_assert_eq!(parse(again), Ok(pairs));
            }
        }
    }
}
