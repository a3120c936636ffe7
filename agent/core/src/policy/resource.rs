//! Targets of credentials by all the names they go by. Azure knows a resource by URI (with or without a slash at the end)
//! and by application id; a rule for one of them is a rule for all. Compares; never fetches or guesses.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

/// Well-known Azure resources: the names of one line are one resource. Source: application ids of Microsoft's first-party
/// applications, learn.microsoft.com "Verify first-party Microsoft applications in sign-in reports".
pub(crate) const AZURE: [&[&str]; 4] = [
    &[
        "https://vault.azure.net",
        "cfa8b339-82a2-471a-a3c9-0fc0be7a4093",
    ],
    &[
        "https://management.azure.com",
        // The classic name is honoured by ARM as well: a deny of ARM that forgot it would be none.
        "https://management.core.windows.net",
        "797f4846-ba00-4fd7-ba43-dac1f8f63013",
    ],
    &[
        "https://graph.microsoft.com",
        "00000003-0000-0000-c000-000000000000",
    ],
    &[
        "https://storage.azure.com",
        "e406a681-f3d4-42a8-90b6-c2b029497af1",
    ],
];

/// What kind of thing a target is; names of one kind never meet those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    AzureResource,
    AwsRole,
    GcpAudience,
}

/// Numbers for targets, so that rules are found by comparing numbers.
#[derive(Debug, Default)]
pub(crate) struct Targets {
    azure: HashMap<Arc<str>, u32>,
    aws: HashMap<Arc<str>, u32>,
    gcp: HashMap<Arc<str>, u32>,
    next: u32,
}

impl Targets {
    /// The well-known ones.
    pub(crate) fn shipped() -> Self {
        let mut targets = Self::default();
        for names in AZURE {
            let number = targets.fresh();
            for name in names {
                targets.azure.insert((*name).into(), number);
            }
        }
        targets
    }

    fn fresh(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn table(&self, kind: Kind) -> &HashMap<Arc<str>, u32> {
        match kind {
            Kind::AzureResource => &self.azure,
            Kind::AwsRole => &self.aws,
            Kind::GcpAudience => &self.gcp,
        }
    }

    /// The number of a name, none where no rule speaks of it.
    pub(crate) fn find(&self, kind: Kind, name: &str) -> Option<u32> {
        self.table(kind).get(&*canonical(kind, name)).copied()
    }

    /// The number of the target that a name may mean which is none to the letter, read as loosely as anyone might: for
    /// denies alone.
    pub(crate) fn near(&self, kind: Kind, name: &str) -> Option<u32> {
        if kind != Kind::AzureResource {
            return None;
        }
        let name = canonical(kind, name);
        let known = |name: &str| self.azure.get(name).copied();
        let id = |c: char| c.is_ascii_hexdigit() || c == '-';
        let ids = name.split(|c| !id(c)).filter(|part| part.len() == 36);
        let origin = || known(&format!("https://{}", host(&name)?));
        ids.filter_map(known).next().or_else(origin)
    }

    /// The number of a name, given now if it has none.
    pub(crate) fn number(&mut self, kind: Kind, name: &str) -> u32 {
        if let Some(number) = self.find(kind, name) {
            return number;
        }
        let number = self.fresh();
        self.name(kind, name, number);
        number
    }

    /// Makes all names one target. Gives back a name that already belongs to another one.
    pub(crate) fn unite<'a>(&mut self, kind: Kind, names: &[&'a str]) -> Result<(), &'a str> {
        let known = names.iter().find_map(|name| self.find(kind, name));
        let number = known.unwrap_or_else(|| self.fresh());
        for name in names {
            match self.find(kind, name) {
                Some(other) if other != number => return Err(name),
                _ => self.name(kind, name, number),
            }
        }
        Ok(())
    }

    fn name(&mut self, kind: Kind, name: &str, number: u32) {
        let name: Arc<str> = canonical(kind, name).into();
        let table = match kind {
            Kind::AzureResource => &mut self.azure,
            Kind::AwsRole => &mut self.aws,
            Kind::GcpAudience => &mut self.gcp,
        };
        table.insert(name, number);
    }
}

/// One spelling for the many that the cloud takes for the same: for Azure, case and slashes at the end don't count.
/// (A double slash at the end is how one asks Entra ID for an audience that ends in one.)
pub(crate) fn canonical(kind: Kind, name: &str) -> Cow<'_, str> {
    match kind {
        Kind::AzureResource => {}
        Kind::AwsRole => return Cow::Borrowed(role_name(name)),
        Kind::GcpAudience => return Cow::Borrowed(name),
    }
    let name = name.trim_end_matches('/');
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

/// The name by which the metadata service knows a role: of an ARN the last part. The instance's own identity has its path for a
/// name, which no role can have.
pub(crate) fn role_name(role: &str) -> &str {
    if role.starts_with("identity-credentials/") {
        return role;
    }
    role.rsplit('/').next().unwrap_or(role)
}

/// The host of a URL without user, port, and what comes after; none of what isn't one.
fn host(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '\\', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    Some(host.split(':').next()?.trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_one_resource() {
        let targets = Targets::shipped();
        let vault = targets.find(Kind::AzureResource, "https://vault.azure.net");
        assert!(vault.is_some());
        for other in [
            "https://vault.azure.net/",
            "https://VAULT.azure.net//",
            "CFA8B339-82a2-471a-a3c9-0fc0be7a4093",
        ] {
            assert_eq!(targets.find(Kind::AzureResource, other), vault, "{other}");
        }
        assert_eq!(targets.find(Kind::AwsRole, "https://vault.azure.net"), None);
    }

    #[test]
    fn a_name_belongs_to_one_resource() {
        let mut targets = Targets::shipped();
        let both = ["https://vault.azure.net", "https://graph.microsoft.com"];
        assert_eq!(targets.unite(Kind::AzureResource, &both), Err(both[1]));
        let own = ["https://vault.azure.net", "api://mine"];
        assert_eq!(targets.unite(Kind::AzureResource, &own), Ok(()));
        assert_eq!(
            targets.find(Kind::AzureResource, "api://mine"),
            targets.find(Kind::AzureResource, own[0])
        );
    }
}
