//! `api-version`: which exist, and what a request must name.
//! Must never: take a version that isn't of the form `YYYY-MM-DD` or `YYYY-MM-DD-preview`.

use std::fmt;
use std::str::FromStr;

use super::{Malformed, query, value};

/// A well-formed version. Ordered by date; a preview comes before its release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    year: u16,
    month: u8,
    day: u8,
    release: bool,
}

impl ApiVersion {
    /// The release of this day.
    pub(super) const fn new(year: u16, month: u8, day: u8) -> Self {
        Self {
            year,
            month,
            day,
            release: true,
        }
    }
}

/// First version of the token endpoint.
pub(super) const IDENTITY: ApiVersion = ApiVersion::new(2018, 2, 1);
/// First version of anything.
pub(super) const OLDEST: ApiVersion = ApiVersion::new(2017, 3, 1);

/// Every version of the instance category, oldest first: what `/metadata/versions` lists.
pub const INSTANCE: [ApiVersion; 35] = [
    ApiVersion::new(2017, 3, 1),
    ApiVersion::new(2017, 4, 2),
    ApiVersion::new(2017, 8, 1),
    ApiVersion::new(2017, 10, 1),
    ApiVersion::new(2017, 12, 1),
    ApiVersion::new(2018, 2, 1),
    ApiVersion::new(2018, 4, 2),
    ApiVersion::new(2018, 10, 1),
    ApiVersion::new(2019, 2, 1),
    ApiVersion::new(2019, 3, 11),
    ApiVersion::new(2019, 4, 30),
    ApiVersion::new(2019, 6, 1),
    ApiVersion::new(2019, 6, 4),
    ApiVersion::new(2019, 8, 1),
    ApiVersion::new(2019, 8, 15),
    ApiVersion::new(2019, 11, 1),
    ApiVersion::new(2020, 6, 1),
    ApiVersion::new(2020, 7, 15),
    ApiVersion::new(2020, 9, 1),
    ApiVersion::new(2020, 10, 1),
    ApiVersion::new(2020, 12, 1),
    ApiVersion::new(2021, 1, 1),
    ApiVersion::new(2021, 2, 1),
    ApiVersion::new(2021, 3, 1),
    ApiVersion::new(2021, 5, 1),
    ApiVersion::new(2021, 8, 1),
    ApiVersion::new(2021, 10, 1),
    ApiVersion::new(2021, 11, 1),
    ApiVersion::new(2021, 11, 15),
    ApiVersion::new(2021, 12, 13),
    ApiVersion::new(2023, 7, 1),
    ApiVersion::new(2023, 11, 15),
    ApiVersion::new(2024, 3, 15),
    ApiVersion::new(2024, 7, 17),
    ApiVersion::new(2025, 4, 7),
];

impl FromStr for ApiVersion {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let (date, release) = match text.strip_suffix("-preview") {
            Some(date) => (date, false),
            None => (text, true),
        };
        let parts: Vec<&str> = date.split('-').collect();
        let [year, month, day] = parts.as_slice() else {
            return Err(Malformed::ApiVersion);
        };
        let (month, day) = (number(month, 2)?, number(day, 2)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
            return Err(Malformed::ApiVersion);
        }
        let small = |n: u16| u8::try_from(n).map_err(|_| Malformed::ApiVersion);
        Ok(Self {
            year: number(year, 4)?,
            month: small(month)?,
            day: small(day)?,
            release,
        })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let preview = if self.release { "" } else { "-preview" };
        let Self {
            year, month, day, ..
        } = self;
        write!(f, "{year:04}-{month:02}-{day:02}{preview}")
    }
}

fn number(digits: &str, width: usize) -> Result<u16, Malformed> {
    if digits.len() != width || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Malformed::ApiVersion);
    }
    digits.parse().map_err(|_| Malformed::ApiVersion)
}

/// Any well-formed version from `first` on: new ones appear without notice, and the answer doesn't depend on them.
pub(super) fn at_least(pairs: &query::Pairs, first: ApiVersion) -> Result<ApiVersion, Malformed> {
    let version: ApiVersion = value(pairs, "api-version")
        .ok_or(Malformed::ApiVersion)?
        .parse()?;
    if version < first {
        return Err(Malformed::ApiVersion);
    }
    Ok(version)
}

/// One of the versions that we know the schema of. cloud-init tries a new one first and counts on the 400.
pub(super) fn of_instance(pairs: &query::Pairs) -> Result<ApiVersion, Malformed> {
    let version = at_least(pairs, OLDEST)?;
    if INSTANCE.contains(&version) {
        Ok(version)
    } else {
        Err(Malformed::ApiVersion)
    }
}
