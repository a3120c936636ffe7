//! What the scanner and the gate refuse, each with its stable name, status and words for the caller.
//! Must never: carry bytes of the request, for these words go into answers and audit records.

/// A head that breaks a rule. The connection answers once and closes: after a violation, nobody knows where the next
/// request would begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// The method is empty, too long, or no token.
    BadMethod,
    /// The first bytes of an HTTP/2 connection.
    Http2Preface,
    /// The target doesn't start with `/`: absolute form, authority form or `*`.
    NotOriginForm,
    /// A byte in the target that RFC 3986 doesn't allow there: `#`, controls, non-ASCII, `\` and the like.
    BadTarget,
    /// The target is longer than [`super::TARGET_LIMIT`].
    TargetTooLong,
    /// Not `HTTP/1.0` or `HTTP/1.1`.
    UnsupportedVersion,
    /// A line feed without a carriage return before it.
    BareLf,
    /// A carriage return without a line feed after it.
    BareCr,
    /// A NUL byte.
    Nul,
    /// A header line that starts with white space (obsolete folding).
    ObsoleteFold,
    /// White space between a header's name and its colon.
    SpaceBeforeColon,
    /// A header name that is no token, or a line without a colon.
    BadHeaderName,
    /// A byte in a header value that is neither visible ASCII nor SP nor HTAB.
    BadHeaderValue,
    /// More than [`super::HEADERS_LIMIT`] headers.
    TooManyHeaders,
    /// A header line longer than [`super::HEADER_LIMIT`].
    HeaderTooLong,
    /// A head longer than [`super::HEAD_LIMIT`].
    HeadTooLong,
    /// Any `Transfer-Encoding`.
    TransferEncoding,
    /// A `Content-Length` that is not just digits.
    BadContentLength,
    /// More than one `Content-Length`, equal or not.
    DuplicateContentLength,
    /// A body longer than [`super::BODY_LIMIT`].
    BodyTooLong,
    /// A body with a method that takes none.
    BodyNotAllowed,
    /// `Expect`.
    Expect,
    /// `Upgrade`.
    Upgrade,
    /// The connection ended within a head or a body (noticed by the gate).
    Truncated,
    /// The head took too long (noticed by the gate, which has the clock).
    SlowHead,
    /// The body took too long (noticed by the gate).
    SlowBody,
}

impl Violation {
    /// All of them, for tables and tests.
    pub const ALL: [Self; 26] = [
        Self::BadMethod,
        Self::Http2Preface,
        Self::NotOriginForm,
        Self::BadTarget,
        Self::TargetTooLong,
        Self::UnsupportedVersion,
        Self::BareLf,
        Self::BareCr,
        Self::Nul,
        Self::ObsoleteFold,
        Self::SpaceBeforeColon,
        Self::BadHeaderName,
        Self::BadHeaderValue,
        Self::TooManyHeaders,
        Self::HeaderTooLong,
        Self::HeadTooLong,
        Self::TransferEncoding,
        Self::BadContentLength,
        Self::DuplicateContentLength,
        Self::BodyTooLong,
        Self::BodyNotAllowed,
        Self::Expect,
        Self::Upgrade,
        Self::Truncated,
        Self::SlowHead,
        Self::SlowBody,
    ];

    /// The stable name: stands in audit records.
    pub const fn name(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status to answer with.
    pub const fn status(self) -> u16 {
        self.row().1
    }

    /// Words for the caller.
    pub const fn text(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::BadMethod => ("bad_method", 400, "The request method is malformed"),
            Self::Http2Preface => ("http2_preface", 400, "HTTP/2 is not spoken here"),
            Self::NotOriginForm => (
                "not_origin_form",
                400,
                "The request target must start with '/'",
            ),
            Self::BadTarget => (
                "bad_target",
                400,
                "The request target has a character that must be percent-encoded",
            ),
            Self::TargetTooLong => ("target_too_long", 414, "The request target is too long"),
            Self::UnsupportedVersion => (
                "unsupported_version",
                505,
                "Only HTTP/1.0 and HTTP/1.1 are spoken here",
            ),
            Self::BareLf => ("bare_lf", 400, "Lines must end in CR LF"),
            Self::BareCr => (
                "bare_cr",
                400,
                "A carriage return must be followed by a line feed",
            ),
            Self::Nul => ("nul", 400, "The request head has a NUL byte"),
            Self::ObsoleteFold => ("obsolete_fold", 400, "Folded header lines are not accepted"),
            Self::SpaceBeforeColon => (
                "space_before_colon",
                400,
                "White space between a header's name and its colon is not accepted",
            ),
            Self::BadHeaderName => ("bad_header_name", 400, "A header name is malformed"),
            Self::BadHeaderValue => ("bad_header_value", 400, "A header value is malformed"),
            Self::TooManyHeaders => ("too_many_headers", 431, "Too many headers"),
            Self::HeaderTooLong => ("header_too_long", 431, "A header is too long"),
            Self::HeadTooLong => ("head_too_long", 431, "The request head is too long"),
            Self::TransferEncoding => (
                "transfer_encoding",
                400,
                "Transfer-Encoding is not accepted: send a Content-Length",
            ),
            Self::BadContentLength => ("bad_content_length", 400, "Content-Length is malformed"),
            Self::DuplicateContentLength => (
                "duplicate_content_length",
                400,
                "Content-Length must be given once",
            ),
            Self::BodyTooLong => ("body_too_long", 413, "The request body is too long"),
            Self::BodyNotAllowed => ("body_not_allowed", 400, "This method takes no request body"),
            Self::Expect => ("expect", 417, "Expect is not supported"),
            Self::Upgrade => ("upgrade", 400, "Upgrade is not supported"),
            Self::Truncated => ("truncated", 400, "The request ended too early"),
            Self::SlowHead => ("slow_head", 408, "The request head took too long"),
            Self::SlowBody => ("slow_body", 408, "The request body took too long"),
        }
    }
}
