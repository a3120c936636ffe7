//! A head as names and values: borrowed from whoever holds the bytes.
//! Must never: validate; that was the scanner's work, and a head that the scanner hasn't passed doesn't get here.

/// Header fields in the order of the wire: name in any case, value without surrounding white space.
pub type Headers<'a> = &'a [(&'a str, &'a [u8])];

/// A request head that the scanner has passed.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// The method, as written.
    pub method: &'a str,
    /// The target in origin form: path and query, as written.
    pub target: &'a str,
    /// All header fields.
    pub headers: Headers<'a>,
}

impl<'a> RequestHead<'a> {
    /// Every value of one header, whatever the case of its name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let headers = self.headers;
        headers
            .iter()
            .filter(move |(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| *v)
    }
}

/// A head split from its bytes, for those who have no HTTP library at hand (`explain`, tests, fuzzing).
#[derive(Debug, Clone)]
pub struct ScannedHead<'a> {
    method: &'a str,
    target: &'a str,
    headers: Vec<(&'a str, &'a [u8])>,
}

impl ScannedHead<'_> {
    /// The borrowed view.
    pub fn as_head(&self) -> RequestHead<'_> {
        RequestHead {
            method: self.method,
            target: self.target,
            headers: &self.headers,
        }
    }
}

/// Splits the bytes of a whole head (as long as [`super::Head::len`] says) that the scanner has passed; none for others.
pub fn split(head: &[u8]) -> Option<ScannedHead<'_>> {
    let mut lines = std::str::from_utf8(head)
        .ok()?
        .strip_suffix("\r\n\r\n")?
        .split("\r\n");
    let mut words = lines.next()?.split(' ');
    let (method, target) = (words.next()?, words.next()?);
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name, value.trim_matches([' ', '\t']).as_bytes()))
        })
        .collect::<Option<Vec<_>>>()?;
    Some(ScannedHead {
        method,
        target,
        headers,
    })
}
