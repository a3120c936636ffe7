//! `application/x-www-form-urlencoded`, as token endpoints take it.

use std::fmt::Write as _;

/// Its media type.
pub(super) const MEDIA: &str = "application/x-www-form-urlencoded";

/// The fields, in their order. A value may be an assertion: whoever takes the bytes keeps them secret.
pub(super) fn form(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut body = String::new();
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        push(&mut body, name);
        body.push('=');
        push(&mut body, value);
    }
    body.into_bytes()
}

fn push(body: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            body.push(char::from(byte));
        } else {
            let _infallible = write!(body, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::form;

    #[test]
    fn only_one_reading_is_left() {
        let body = form(&[("a", "b c+d&e=f"), ("scope", "api://x/.default"), ("é", "")]);
        let text = String::from_utf8(body).unwrap();
        assert_eq!(
            text,
            "a=b%20c%2Bd%26e%3Df&scope=api%3A%2F%2Fx%2F.default&%C3%A9="
        );
    }
}
