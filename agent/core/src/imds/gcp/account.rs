//! Paths below `service-accounts`. Whom a rule gives a token may know whose it is; so these reads follow the token's rule.

/// Where the accounts stand.
const ACCOUNTS: &str = "/computeMetadata/v1/instance/service-accounts";

/// What of the accounts a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountPart {
    /// The list of accounts.
    List,
    /// One account.
    Account,
    /// `aliases`
    Aliases,
    /// `email`
    Email,
    /// `scopes`
    Scopes,
}

/// What stands below `service-accounts` in a canonical path: empty, or an account and perhaps one name more. None elsewhere.
pub fn accounts_below(path: &str) -> Option<&str> {
    let below = path.strip_prefix(ACCOUNTS)?;
    if below.is_empty() {
        return Some("");
    }
    below.strip_prefix('/')
}

/// The account that a canonical path names, if it names one, and what of it. None for what isn't a read of accounts.
pub fn part(path: &str) -> Option<(Option<&str>, AccountPart)> {
    let below = accounts_below(path)?;
    let mut names = below.split('/').filter(|name| !name.is_empty());
    let part = match (names.next(), names.next(), names.next()) {
        (None, ..) => (None, AccountPart::List),
        (Some(account), None, _) => (Some(account), AccountPart::Account),
        (Some(account), Some("aliases"), None) => (Some(account), AccountPart::Aliases),
        (Some(account), Some("email"), None) => (Some(account), AccountPart::Email),
        (Some(account), Some("scopes"), None) => (Some(account), AccountPart::Scopes),
        _ => return None,
    };
    Some(part)
}

/// The canonical path with the account in it replaced by `account`; the same path where it names none.
pub(super) fn renamed(path: &str, account: &str) -> String {
    let below = accounts_below(path).filter(|below| !below.is_empty());
    let Some(below) = below else {
        return path.to_owned();
    };
    let rest = below.split_once('/').map(|(_, rest)| rest);
    let mut renamed = format!("{ACCOUNTS}/{account}");
    if let Some(rest) = rest {
        renamed.push('/');
        renamed.push_str(rest);
    }
    renamed
}
