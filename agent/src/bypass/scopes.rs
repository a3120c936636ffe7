//! From a name to what the kernel can tell by itself: cgroup ids and user ids. A workload passes by its own selectors, so one whose
//! selectors say more than these is refused: without its executable or its groups it would be more callers than it is.

use std::fs;
use std::path::{Path, PathBuf};

use imds_guard_core::policy::PolicySet;
use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::{ANY_USER, Scope};

use crate::attest::cgroup::Cgroups;
use crate::attest::systemd;

/// Cgroups of one bypass: a unit with more of them below is better named by its user.
const MOST: usize = 64;

/// Whose connections pass, and how that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// For the kernel.
    pub scope: Scope,
    /// As selectors.
    pub told: String,
}

/// Why a name is nothing that the kernel can tell.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// The policy has no such workload.
    #[error("the policy has no workload `{0}`: name one of it, or say --cgroup PATH or --uid N")]
    NoWorkload(String),
    /// A selector that the kernel can't judge alone.
    #[error(
        "`{workload}` is known by `{selector}`, which nobody but a guard that lives can tell: say whom you mean by --cgroup PATH, --uid N, or both"
    )]
    Beyond {
        /// Which.
        workload: String,
        /// Its selector.
        selector: String,
    },
    /// It has no processes now.
    #[error(
        "nothing of `{0}` runs now, and a unit that starts has a new cgroup each time: start it first, or say --uid N"
    )]
    NotThere(String),
    /// Too many.
    #[error("`{0}` has {1} cgroups, {MOST} is the limit: say --uid N, or --cgroup PATH for some")]
    TooMany(String, usize),
    /// The cgroup that was named isn't there.
    #[error(
        "there is no cgroup {0}: write its directory, or its path below the mount, such as /system.slice/billing.service"
    )]
    NoCgroup(String),
    /// The hierarchy.
    #[error(transparent)]
    Hierarchy(#[from] crate::attest::cgroup::NoCgroup2),
}

/// The cgroup at that path and all below it, the user, or both.
///
/// # Errors
/// [`ScopeError::NoCgroup`], [`ScopeError::TooMany`].
pub fn named(cgroup: Option<&Path>, uid: Option<u32>) -> Result<Vec<Found>, ScopeError> {
    let Some(path) = cgroup else {
        return Ok(uid.map(|uid| found(None, Some(uid))).into_iter().collect());
    };
    let mount = Cgroups::find()?.mount_point().to_owned();
    let name = path.display().to_string();
    let below = path.strip_prefix(&mount).unwrap_or(path);
    let below = below.strip_prefix("/").unwrap_or(below);
    let mut all = vec![];
    let goes_up = |part| part == std::path::Component::ParentDir;
    if !below.components().any(goes_up) {
        walk(&mount, &mount.join(below), &mut all);
    }
    match all.len() {
        0 => Err(ScopeError::NoCgroup(name)),
        1..=MOST => Ok(all.iter().map(|at| found(Some(at), uid)).collect()),
        many => Err(ScopeError::TooMany(name, many)),
    }
}

/// The workload of that name, by its selectors in this policy.
///
/// # Errors
/// [`ScopeError`].
pub fn of_workload(policy: &PolicySet, workload: &str) -> Result<Vec<Found>, ScopeError> {
    let alternatives = policy
        .selectors_of(workload)
        .ok_or_else(|| ScopeError::NoWorkload(workload.to_owned()))?;
    let mount = Cgroups::find()?.mount_point().to_owned();
    let mut cgroups = vec![];
    walk(&mount, &mount, &mut cgroups);
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let mut all: Vec<Found> = vec![];
    for selectors in alternatives {
        let more = of_alternative(policy, workload, selectors, &cgroups, &passwd)?;
        all.extend(more);
    }
    all.sort_unstable_by_key(|found| found.scope);
    all.dedup();
    match all.len() {
        0 => Err(ScopeError::NotThere(workload.to_owned())),
        1..=MOST => Ok(all),
        many => Err(ScopeError::TooMany(workload.to_owned(), many)),
    }
}

fn of_alternative(
    policy: &PolicySet,
    workload: &str,
    selectors: &[std::sync::Arc<str>],
    cgroups: &[Cgroup],
    passwd: &str,
) -> Result<Vec<Found>, ScopeError> {
    let beyond = |selector: &str| ScopeError::Beyond {
        workload: workload.to_owned(),
        selector: selector.to_owned(),
    };
    let (mut facts, mut uid, mut by_cgroup) = (Selectors::default(), None, false);
    for selector in selectors {
        let (key, value) = Key::split(selector).ok_or_else(|| beyond(selector))?;
        match key {
            Key::UnixUid | Key::UnixUser => {
                let number = user(key, value, passwd).ok_or_else(|| beyond(selector))?;
                if uid.is_some_and(|before| before != number) {
                    return Ok(vec![]);
                }
                uid = Some(number);
                facts.found(key, value);
            }
            Key::CgroupPath | Key::SystemdId | Key::SystemdSlice | Key::SystemdUserUnit => {
                by_cgroup = true;
            }
            _ => return Err(beyond(selector)),
        }
    }
    if !by_cgroup {
        return Ok(uid.map(|uid| found(None, Some(uid))).into_iter().collect());
    }
    let matching = cgroups.iter().filter(|cgroup| {
        let mut facts = facts.clone();
        let path = Ok(cgroup.path.as_str().into());
        crate::attest::cgroup::attest(&path, &path, &mut facts);
        systemd::attest(systemd::runs(), &path, &path, &mut facts);
        let names = policy.identify(&facts).names();
        names.iter().any(|name| **name == *workload)
    });
    Ok(matching.map(|cgroup| found(Some(cgroup), uid)).collect())
}

/// The user that a selector names; a pattern names none.
fn user(key: Key, value: &str, passwd: &str) -> Option<u32> {
    if key == Key::UnixUid {
        return value.parse().ok();
    }
    let fields = |line: &str| {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next()?, fields.nth(1)?);
        (name == value).then(|| uid.parse().ok()).flatten()
    };
    passwd.lines().find_map(fields)
}

/// A cgroup that is there.
#[derive(Debug, Clone)]
struct Cgroup {
    /// Below the hierarchy's root, with a slash before it.
    path: String,
    id: u64,
}

/// This one and all below it. Those whose names are no text have no selectors either.
fn walk(mount: &Path, at: &Path, all: &mut Vec<Cgroup>) {
    let (Ok(is), Ok(below)) = (fs::metadata(at), at.strip_prefix(mount)) else {
        return;
    };
    if let Some(below) = below.to_str() {
        let path = format!("/{below}");
        let id = std::os::unix::fs::MetadataExt::ino(&is);
        all.push(Cgroup { path, id });
    }
    let entries = fs::read_dir(at).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let directories: Vec<PathBuf> = directories.map(|entry| entry.path()).collect();
    for directory in directories {
        walk(mount, &directory, all);
    }
}

fn found(cgroup: Option<&Cgroup>, uid: Option<u32>) -> Found {
    let of_cgroup = cgroup.map(|cgroup| Key::CgroupPath.with(&cgroup.path));
    let of_user = uid.map(|uid| Key::UnixUid.with(&uid.to_string()));
    let told: Vec<String> = of_cgroup.into_iter().chain(of_user).collect();
    Found {
        scope: Scope {
            cgroup: cgroup.map_or(0, |cgroup| cgroup.id),
            uid: uid.unwrap_or(ANY_USER),
            reserved: 0,
        },
        told: told.join(" "),
    }
}

/// Scopes that are in force, as selectors; a cgroup that is gone by its number.
#[must_use]
pub fn told(scopes: &[Scope]) -> Vec<String> {
    let mut cgroups = Cgroups::find().ok();
    let mut path = |id| {
        let found = cgroups.as_mut().and_then(|cgroups| cgroups.path(id).ok());
        found.map_or_else(|| id.to_string(), |path| path.to_string())
    };
    let mut one = |scope: &Scope| {
        let cgroup = (scope.cgroup != 0).then(|| Cgroup {
            path: path(scope.cgroup),
            id: scope.cgroup,
        });
        let uid = (scope.uid != ANY_USER).then_some(scope.uid);
        found(cgroup.as_ref(), uid).told
    };
    scopes.iter().map(&mut one).collect()
}

/// How many processes of these are in another network namespace than ours. What leaves theirs is only forwarded here.
#[must_use]
pub fn elsewhere(scopes: &[Scope]) -> usize {
    let (Ok(cgroups), Ok(ours)) = (Cgroups::find(), fs::read_link("/proc/self/ns/net")) else {
        return 0;
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let is_there = |process: &fs::DirEntry| {
        let of = process.path();
        let space = fs::read_link(of.join("ns/net")).ok()?;
        let cgroup = fs::read_to_string(of.join("cgroup")).ok()?;
        let cgroup = cgroup.lines().find_map(|line| line.strip_prefix("0::"))?;
        let (cgroup, uid) = (cgroups.id_of(cgroup)?, real_user(&of)?);
        let is_meant = |scope: &Scope| {
            (scope.cgroup == 0 || scope.cgroup == cgroup)
                && (scope.uid == ANY_USER || scope.uid == uid)
        };
        (space != ours && scopes.iter().any(is_meant)).then_some(())
    };
    processes.filter_map(|process| is_there(&process)).count()
}

fn real_user(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use imds_guard_core::policy::{self, Source};

    use super::*;

    fn policy(selectors: &str) -> PolicySet {
        let text = format!(
            "[identity.x]\ncloud = \"azure\"\nsource = \"forward\"\nclient_id = \"5f3a9f5e-1111-4222-8333-944455556666\"\n\
             [[workload]]\nname = \"w\"\nselectors = {selectors}\n[[workload.allow]]\n\
             token = {{ cloud = \"azure\", resource = [\"https://vault.azure.net\"] }}\nidentity = \"x\"\n"
        );
        let source = Source {
            name: "x.toml".into(),
            text: text.into(),
        };
        policy::compile(&[source], "host", 0).unwrap().policy
    }

    #[test]
    fn a_user_is_told_by_number_and_by_name() {
        let passwd = "root:x:0:0::/:/bin/sh\nweb:x:33:33::/:/bin/false\n";
        assert_eq!(user(Key::UnixUid, "33", passwd), Some(33));
        assert_eq!(user(Key::UnixUser, "web", passwd), Some(33));
        assert_eq!(user(Key::UnixUser, "we", passwd), None);
        assert_eq!(user(Key::UnixUser, "{name}", passwd), None);
        let found = of_workload(&policy(r#"["unix:uid:33"]"#), "w").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].scope.cgroup, found[0].scope.uid), (0, 33));
        assert_eq!(found[0].told, "unix:uid:33");
    }

    #[test]
    fn what_the_kernel_cannot_tell_alone_is_refused_by_name() {
        for beyond in [
            "unix:gid:7",
            "userns:init",
            "unix:path:/usr/bin/x",
            "net:host",
        ] {
            let selectors = format!(r#"["unix:uid:33", "{beyond}"]"#);
            let error = of_workload(&policy(&selectors), "w").unwrap_err();
            let error = error.to_string();
            assert!(error.contains(beyond) && error.contains("--uid"), "{error}");
        }
        let error = of_workload(&policy(r#"["unix:uid:33"]"#), "v").unwrap_err();
        assert!(matches!(error, ScopeError::NoWorkload(_)), "{error}");
    }

    #[test]
    fn a_cgroup_is_found_with_all_below_it_and_only_if_it_is_there() {
        let mount = Cgroups::find().unwrap().mount_point().to_owned();
        let name = format!("bypass-{}", std::process::id());
        let error = named(Some(Path::new(&name)), None).unwrap_err();
        assert!(matches!(error, ScopeError::NoCgroup(_)), "{error}");
        let dir = mount.join(&name);
        fs::create_dir_all(dir.join("below")).unwrap();
        let by_path = named(Some(Path::new(&format!("/{name}"))), Some(5)).unwrap();
        let by_directory = named(Some(&dir), Some(5)).unwrap();
        let glob = format!(r#"["cgroup:path:/{name}/**", "unix:uid:5"]"#);
        let by_selector = of_workload(&policy(&glob), "w");
        fs::remove_dir(dir.join("below")).unwrap();
        fs::remove_dir(&dir).unwrap();
        assert_eq!(by_path, by_directory);
        let mut told: Vec<&str> = by_path.iter().map(|found| found.told.as_str()).collect();
        told.sort_unstable();
        let wanted = [
            format!("cgroup:path:/{name} unix:uid:5"),
            format!("cgroup:path:/{name}/below unix:uid:5"),
        ];
        assert_eq!(told, wanted);
        let by_selector = by_selector.unwrap();
        assert!(by_selector.iter().any(|found| found.told == wanted[1]));
        let error = of_workload(&policy(&glob), "w").unwrap_err();
        assert!(matches!(error, ScopeError::NotThere(_)), "{error}");
    }
}
