//! `application/x-www-form-urlencoded`, as token endpoints read it.

use std::fmt::Write as _;

/// Its media type.
pub const MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// A form under construction. What it holds may be an assertion: it has no `Debug`.
#[derive(Default)]
#[expect(missing_debug_implementations, reason = "it may hold an assertion")]
pub struct Form(String);

impl Form {
    /// An empty one.
    pub const fn new() -> Self {
        Self(String::new())
    }

    /// Adds one pair, both percent-encoded: whatever isn't unreserved (RFC 3986), space included, as `%XX`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !self.0.is_empty() {
            self.0.push('&');
        }
        push(&mut self.0, name);
        self.0.push('=');
        push(&mut self.0, value);
        self
    }

    /// The body.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

fn push(text: &mut String, value: &str) {
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
}
