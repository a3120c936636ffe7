//! What the real server answers to a recursive read, looked through before the caller has it: a rule that allows to read the
//! whole tree is no rule that gives a credential. The server is not known to expand any; if it ever does, it isn't through us.

use serde_json::Value;

/// What becomes of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Looked {
    /// Nothing in it that a read doesn't give.
    Clean,
    /// With what it must not show left out.
    Without(String),
    /// No form that can be looked through.
    Unreadable,
}

/// In camelCase, as recursive reads have them: what is never read below `instance`.
const KEYS: [&str; 3] = [
    "credentials",
    "gceWorkloadCertificates",
    "workloadIdentities",
];
/// The same as paths have them.
const KEYS_BY_PATH: [&str; 3] = super::vocabulary::KEYS;
/// Below an account.
const CREDENTIALS: [&str; 2] = ["token", "identity"];

/// Looks through the body of an answer to a recursive read of the canonical `path`, in JSON.
pub fn look(path: &str, body: &[u8]) -> Looked {
    let Ok(mut answer) = serde_json::from_slice::<Value>(body) else {
        return Looked::Unreadable;
    };
    let below = path.strip_prefix("/computeMetadata/v1").unwrap_or(path);
    let mut names = below.split('/').filter(|name| !name.is_empty());
    let names = [names.next(), names.next(), names.next(), names.next()];
    let found = match names {
        [None, ..] => answer.get_mut("instance").is_some_and(instance),
        [Some("instance"), None, ..] => instance(&mut answer),
        [Some("instance"), Some("service-accounts"), None, _] => accounts(&mut answer),
        [Some("instance"), Some("service-accounts"), Some(_), None] => account(&mut answer),
        _ => false,
    };
    if found {
        Looked::Without(answer.to_string())
    } else {
        Looked::Clean
    }
}

/// The same of a text answer: each line is a path and a value, and a value may have lines of its own, so that nothing can be
/// left out for certain. A line that looks like a credential's is one.
pub fn look_text(path: &str, body: &[u8]) -> Looked {
    let suspicious = |line: &[u8]| {
        let below = line.split(|b| *b == b' ').next().unwrap_or_default();
        let below = String::from_utf8_lossy(below);
        let whole = format!("{path}/{below}");
        let names: Vec<&str> = whole.split('/').filter(|name| !name.is_empty()).collect();
        match names[..] {
            [_, _, "instance", "service-accounts", _, last, ..] => CREDENTIALS.contains(&last),
            [_, _, "instance", name, ..] => KEYS_BY_PATH.contains(&name),
            _ => false,
        }
    };
    if body.split(|b| *b == b'\n').any(suspicious) {
        Looked::Unreadable
    } else {
        Looked::Clean
    }
}

fn instance(instance: &mut Value) -> bool {
    let own = remove(instance, &KEYS);
    let of_accounts = instance.get_mut("serviceAccounts").is_some_and(accounts);
    own || of_accounts
}

fn accounts(accounts: &mut Value) -> bool {
    let mut found = false;
    for one in accounts
        .as_object_mut()
        .into_iter()
        .flat_map(|all| all.values_mut())
    {
        found |= account(one);
    }
    found
}

fn account(account: &mut Value) -> bool {
    remove(account, &CREDENTIALS)
}

fn remove(from: &mut Value, names: &[&str]) -> bool {
    let Some(members) = from.as_object_mut() else {
        return false;
    };
    let before = members.len();
    members.retain(|name, _| !names.contains(&name.as_str()));
    members.len() != before
}
