//! The canonical path: decoded once, unambiguous, the same for policy and for the upstream.
//! Must never: repair a path that two servers could read in two ways. It is refused instead (attack 43).

/// Why a path is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum PathFault {
    /// Doesn't start with `/`.
    #[error("the path must start with '/'")]
    Relative,
    /// `%` without two hexadecimal digits.
    #[error("the path has a malformed percent-encoding")]
    BadEncoding,
    /// `%25`: what it hides would be decoded by the next one.
    #[error("the path is percent-encoded twice")]
    DoubleEncoding,
    /// An encoded `/`, or `\` in any form.
    #[error("the path has an encoded separator")]
    EncodedSeparator,
    /// A control byte, white space, `#`, or an encoded `?`: one that decodes twice would cut the path there.
    #[error("the path has a control character, white space, '#' or '?'")]
    Control,
    /// A byte beyond ASCII: invalid UTF-8 or full-width look-alikes. No metadata service has such a path.
    #[error("the path has a character beyond ASCII")]
    NotAscii,
    /// `.` or `..`, in any form, or a segment that ends in a dot, which some servers cut off.
    #[error("the path has a dot segment")]
    DotSegment,
    /// `;`: parameters that some servers cut off before they look at the path.
    #[error("the path has a ';'")]
    Parameter,
    /// A number that isn't written as its plain digits: `00` and `+0` may be index 0 for the service and aren't for policy.
    #[error("the path has a number that is not written plainly")]
    Number,
}

/// The segments of a path: percent-decoded once, no empty ones (so `//` and a trailing slash vanish), no dot segments.
///
/// # Errors
/// Whatever could be read in two ways.
pub fn segments(raw: &str) -> Result<Vec<String>, PathFault> {
    let rest = raw.strip_prefix('/').ok_or(PathFault::Relative)?;
    let mut segments = Vec::new();
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        let segment = decode(part)?;
        if segment.ends_with('.') {
            return Err(PathFault::DotSegment);
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// The canonical path of these segments: what policy sees.
pub fn join(segments: &[String]) -> String {
    if segments.is_empty() {
        return "/".to_owned();
    }
    let mut path = String::with_capacity(segments.iter().map(|s| s.len() + 1).sum());
    for segment in segments {
        path.push('/');
        path.push_str(segment);
    }
    path
}

/// The canonical path as it goes over the wire.
pub fn encode(path: &str) -> String {
    let mut encoded = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte == b'/' || is_pchar(byte) {
            encoded.push(char::from(byte));
        } else {
            super::query::push_encoded(&mut encoded, byte);
        }
    }
    encoded
}

fn decode(part: &str) -> Result<String, PathFault> {
    let mut segment = String::with_capacity(part.len());
    let mut bytes = part.bytes();
    while let Some(byte) = bytes.next() {
        let byte = if byte == b'%' {
            match super::query::hex(bytes.next(), bytes.next()).ok_or(PathFault::BadEncoding)? {
                b'%' => return Err(PathFault::DoubleEncoding),
                b'/' => return Err(PathFault::EncodedSeparator),
                byte => byte,
            }
        } else {
            byte
        };
        match byte {
            b'\\' => return Err(PathFault::EncodedSeparator),
            b';' => return Err(PathFault::Parameter),
            0..=b' ' | 0x7f | b'#' | b'?' => return Err(PathFault::Control),
            0x80.. => return Err(PathFault::NotAscii),
            _ => segment.push(char::from(byte)),
        }
    }
    Ok(segment)
}

/// RFC 3986 `pchar` without `;`, which is never in a canonical path, and without `%`.
const fn is_pchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canonical(raw: &str) -> Result<String, PathFault> {
        segments(raw).map(|s| join(&s))
    }

    #[test]
    fn one_form_for_all_spellings() {
        for raw in [
            "/metadata/instance/compute",
            "//metadata///instance/compute/",
            "/metadata/%69nstance/compute",
            "/%6detadata/instance/compute//",
        ] {
            assert_eq!(
                canonical(raw),
                Ok("/metadata/instance/compute".into()),
                "{raw}"
            );
        }
        assert_eq!(canonical("/"), Ok("/".into()));
        assert_eq!(canonical("///"), Ok("/".into()));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        use PathFault::*;
        for (raw, fault) in [
            ("metadata", Relative),
            ("/a%2", BadEncoding),
            ("/a%", BadEncoding),
            ("/a%zz", BadEncoding),
            ("/a%+1", BadEncoding),
            ("/a%252fb", DoubleEncoding),
            ("/%25", DoubleEncoding),
            ("/a%2fb", EncodedSeparator),
            ("/a%2Fb", EncodedSeparator),
            ("/a%5cb", EncodedSeparator),
            ("/a\\b", EncodedSeparator),
            ("/a%00", Control),
            ("/a%0d%0ab", Control),
            ("/a%7f", Control),
            ("/a%20", Control),
            ("/a%23b", Control),
            ("/a#b", Control),
            ("/a%3fb", Control),
            ("/a%3F", Control),
            ("/a%ff", NotAscii),
            ("/a%EF%BC%8Fb", NotAscii),
            ("/a/./b", DotSegment),
            ("/a/../b", DotSegment),
            ("/a/%2e%2E/b", DotSegment),
            ("/a/.%2e", DotSegment),
            ("/a/.", DotSegment),
            ("/a/...", DotSegment),
            ("/metadata/identity./oauth2/token", DotSegment),
            ("/a;x=y/b", Parameter),
            ("/a%3bx", Parameter),
        ] {
            assert_eq!(canonical(raw), Err(fault), "{raw}");
        }
        // The positive twins: dots and odd characters that mean nothing.
        for raw in ["/a/...b", "/a/.b", "/a/b..c", "/a/%7Bb%7D", "/a/b:c@d"] {
            assert!(canonical(raw).is_ok(), "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn canonical_is_a_fixpoint(raw in "/[ -~]{0,40}") {
            if let Ok(path) = canonical(&raw) {
                proptest::prop_assert_eq!(canonical(&encode(&path)), Ok(path));
            }
        }
    }
}
