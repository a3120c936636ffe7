//! Names of the tree that decide something. Only their documented spelling is taken: whether the server also knows another
//! is nowhere said, and then `/Instance/Service-Accounts/…/Token` would be a plain read for policy and a token for the caller.

use crate::imds::Malformed;
use crate::imds::path::PathFault;

/// Below the version.
const TOP: [&str; 4] = ["instance", "oslogin", "project", "universe"];
/// Below `instance`, each with a meaning of its own here.
const SPECIAL: [&str; 7] = [
    "service-accounts",
    "attributes",
    "guest-attributes",
    "partner-attributes",
    "credentials",
    "gce-workload-certificates",
    "workload-identities",
];
/// Below `instance`: private keys of the machine's own certificates, and what they are made from. As strong as a token, and no
/// rule can name them, so they are never forwarded.
/// Source: google-guest-agent, workloadcertrefresh (`workloadCredentials.*.privateKeyPem`) and its mTLS bootstrapping.
pub(super) const KEYS: [&str; 3] = [
    "credentials",
    "gce-workload-certificates",
    "workload-identities",
];
/// Below an account.
const ACCOUNT: [&str; 5] = ["aliases", "email", "identity", "scopes", "token"];

/// Whether these are names that can be served at all.
pub(super) fn check(names: &[&str]) -> Result<(), Malformed> {
    let below = match names {
        [] | ["computeMetadata"] | ["computeMetadata", "v1"] => return Ok(()),
        ["computeMetadata", "v1", below @ ..] => below,
        // `/0.1/` and `/computeMetadata/v1beta1/` want no header: as good as open.
        _ => return Err(Malformed::NotOffered),
    };
    match below {
        [top, ..] if !TOP.contains(top) => Err(Malformed::NotOffered),
        ["instance", name, ..] if KEYS.contains(name) || is_respelled(name, &SPECIAL) => {
            Err(Malformed::NotOffered)
        }
        ["instance", "service-accounts", _, part] if !ACCOUNT.contains(part) => {
            Err(Malformed::NotOffered)
        }
        ["instance", "service-accounts", _, _, _, ..] => Err(Malformed::NotOffered),
        ["project", name, ..] if is_respelled(name, &["attributes"]) => Err(Malformed::NotOffered),
        ["instance", name, numbers @ ..]
            if !name.ends_with("attributes") && numbers.iter().any(|n| is_odd_number(n)) =>
        {
            Err(PathFault::Number.into())
        }
        _ => Ok(()),
    }
}

/// Whether it is one of `known` in another spelling: other case, without or with other hyphens (`serviceAccounts`).
fn is_respelled(name: &str, known: &[&str]) -> bool {
    let plain = |name: &str| -> String {
        let letters = name.chars().filter(char::is_ascii_alphanumeric);
        letters.map(|c| c.to_ascii_lowercase()).collect()
    };
    !known.contains(&name) && known.iter().any(|known| plain(known) == plain(name))
}

/// A number that the server might read and doesn't write so.
fn is_odd_number(name: &str) -> bool {
    let digits = name.strip_prefix(['+', '-']).unwrap_or(name);
    let number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    number && (digits.len() != name.len() || (digits.len() > 1 && digits.starts_with('0')))
}
