//! Versions of the metadata tree. A version is a date; what is under it differs in little, and policy speaks of `/latest` alone.

/// The one that policy writes.
pub const LATEST: &str = "latest";

/// Versions that an emulated tree has, oldest first, as the real service lists them. The last three are unverified.
pub const KNOWN: [&str; 28] = [
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
];

/// Whether a first segment names a version: `latest`, `1.0`, or a date. Whether the real service has that date is for it to say.
pub fn is_version(segment: &str) -> bool {
    matches!(segment, LATEST | "1.0") || is_date(segment)
}

fn is_date(segment: &str) -> bool {
    segment.len() == 10
        && segment.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Whether an emulated tree has it.
pub fn is_known(version: &str) -> bool {
    version == LATEST || KNOWN.contains(&version)
}
