//! AWS's partitions: which role can be assumed where, and what its endpoint is called.

use super::super::Url;

/// A separate AWS: roles, keys and endpoints of one mean nothing in another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// As an ARN names it.
    pub name: &'static str,
    /// How the names of its regions begin.
    region: &'static str,
    /// How the names of its endpoints end.
    suffix: &'static str,
}

const fn partition(name: &'static str, region: &'static str, suffix: &'static str) -> Partition {
    Partition {
        name,
        region,
        suffix,
    }
}

/// Those whose regions begin in their own way first: the commercial one has all others. Source: botocore's `partitions.json`.
const PARTITIONS: [Partition; 8] = [
    partition("aws-cn", "cn-", "amazonaws.com.cn"),
    partition("aws-us-gov", "us-gov-", "amazonaws.com"),
    partition("aws-iso-b", "us-isob-", "sc2s.sgov.gov"),
    partition("aws-iso-e", "eu-isoe-", "cloud.adc-e.uk"),
    partition("aws-iso-f", "us-isof-", "csp.hci.ic.gov"),
    partition("aws-iso", "us-iso-", "c2s.ic.gov"),
    partition("aws-eusc", "eusc-", "amazonaws.eu"),
    partition("aws", "", "amazonaws.com"),
];

impl Partition {
    /// By the name in an ARN.
    pub fn named(name: &str) -> Option<Self> {
        PARTITIONS.into_iter().find(|p| p.name == name)
    }

    /// The one that a region is in.
    pub fn of_region(region: &str) -> Option<Self> {
        let own = |p: &Partition| region.starts_with(p.region);
        is_region(region)
            .then(|| PARTITIONS.into_iter().find(own))
            .flatten()
    }

    /// Where STS is in one of its regions.
    pub fn sts(&self, region: &str) -> Option<Url> {
        Url::parse(&format!("https://sts.{region}.{}/", self.suffix)).ok()
    }
}

/// Whether it is written as a region is: `us-west-2`.
pub fn is_region(text: &str) -> bool {
    let (name, number) = text.rsplit_once('-').unwrap_or_default();
    let part = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase());
    let parts = name.split('-').filter(|p| part(p)).count();
    text.len() <= 32
        && parts >= 2
        && parts == name.split('-').count()
        && (1..=2).contains(&number.len())
        && number.bytes().all(|b| b.is_ascii_digit())
}

/// The parts of a role's ARN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoleArn<'a> {
    /// Where it is.
    pub partition: Partition,
    /// Whose it is: twelve digits.
    pub account: &'a str,
    /// Its path and name, without a slash in front.
    pub name: &'a str,
}

impl<'a> RoleArn<'a> {
    /// Reads `arn:PARTITION:iam::ACCOUNT:role/NAME`. None for anything else, an assumed role's ARN for example.
    pub fn parse(arn: &'a str) -> Option<Self> {
        let mut parts = arn.split(':');
        let mut next = || parts.next();
        let (scheme, partition, service) = (next()?, next()?, next()?);
        let (region, account, resource) = (next()?, next()?, next()?);
        let name = resource.strip_prefix("role/")?;
        let plain = |b: u8| {
            b.is_ascii_alphanumeric() || matches!(b, b'_' | b'+' | b'=' | b',' | b'.' | b'@' | b'-')
        };
        let segments = name
            .split('/')
            .all(|s| !s.is_empty() && s.bytes().all(plain));
        let right = scheme == "arn"
            && service == "iam"
            && region.is_empty()
            && next().is_none()
            && (account.len(), account.bytes().all(|b| b.is_ascii_digit())) == (12, true)
            && segments
            && (20..=2048).contains(&arn.len());
        Some(Self {
            partition: Partition::named(partition).filter(|_| right)?,
            account,
            name,
        })
    }
}
