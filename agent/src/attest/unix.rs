//! `unix:uid`, `unix:user`, `unix:gid`, `unix:group` and the supplementary groups. Ids come from the kernel's record;
//! only supplementary groups come from `/proc`.

use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::{CallerRecord, missing};
use nix::errno::Errno;

use super::accounts::Accounts;

/// What this attestor speaks of.
pub const KEYS: &[Key] = &[
    Key::UnixUid,
    Key::UnixUser,
    Key::UnixGid,
    Key::UnixGroup,
    Key::UnixSupplementaryGid,
    Key::UnixSupplementaryGroup,
];

/// Adds what the record and `status` say.
pub fn attest(
    record: &CallerRecord,
    status: &Result<Vec<u8>, Errno>,
    accounts: &mut Accounts,
    out: &mut Selectors,
) {
    if let Some(why) = two_people(record) {
        for key in KEYS {
            out.unavailable(*key, why);
        }
        return;
    }
    out.found(Key::UnixUid, record.uid.to_string());
    out.found(Key::UnixGid, record.gid.to_string());
    named(out, Key::UnixUser, accounts.user(record.uid));
    named(out, Key::UnixGroup, accounts.group(record.gid));
    supplementary(status, accounts, out);
}

/// A program that acts with other ids than its starter's is two people: neither may be granted anything.
fn two_people(record: &CallerRecord) -> Option<&'static str> {
    if !record.has(missing::EFFECTIVE_IDS) {
        return Some("the kernel could not read the effective ids");
    }
    let differ = record.uid != record.effective_uid || record.gid != record.effective_gid;
    differ.then_some("real and effective ids differ (a set-user-ID or set-group-ID program)")
}

fn named(out: &mut Selectors, key: Key, name: Result<std::sync::Arc<str>, String>) {
    match name {
        Ok(name) => out.found(key, name),
        Err(why) => out.unavailable(key, why),
    }
}

fn supplementary(status: &Result<Vec<u8>, Errno>, accounts: &mut Accounts, out: &mut Selectors) {
    let Some(groups) = groups_of(status) else {
        for key in [Key::UnixSupplementaryGid, Key::UnixSupplementaryGroup] {
            out.unavailable(key, "/proc/PID/status could not be read");
        }
        return;
    };
    for gid in groups {
        out.found(Key::UnixSupplementaryGid, gid.to_string());
        named(out, Key::UnixSupplementaryGroup, accounts.group(gid));
    }
}

/// The supplementary groups in `status`.
pub(super) fn groups_of(status: &Result<Vec<u8>, Errno>) -> Option<Vec<u32>> {
    groups(&String::from_utf8_lossy(status.as_ref().ok()?))
}

fn groups(status: &str) -> Option<Vec<u32>> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Groups:"))?;
    line.split_ascii_whitespace()
        .map(|g| g.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attested(record: CallerRecord, status: Result<Vec<u8>, Errno>) -> Selectors {
        let etc = tempfile::tempdir().unwrap();
        std::fs::write(etc.path().join("passwd"), "billing:x:1001:2002\n").unwrap();
        std::fs::write(etc.path().join("group"), "money:x:2002:\nadm:x:4:\n").unwrap();
        let mut out = Selectors::default();
        attest(&record, &status, &mut Accounts::new(etc.path()), &mut out);
        out
    }

    fn billing() -> CallerRecord {
        CallerRecord {
            uid: 1001,
            effective_uid: 1001,
            gid: 2002,
            effective_gid: 2002,
            ..CallerRecord::ZERO
        }
    }

    #[test]
    fn ids_and_names_are_not_confused() {
        let out = attested(billing(), Ok(b"Groups:\t4 2002 \n".to_vec()));
        assert_eq!(
            out.strings().collect::<Vec<_>>(),
            [
                "unix:uid:1001",
                "unix:user:billing",
                "unix:gid:2002",
                "unix:group:money",
                "unix:supplementary_gid:4",
                "unix:supplementary_gid:2002",
                "unix:supplementary_group:adm",
                "unix:supplementary_group:money",
            ]
        );
    }

    #[test]
    fn a_set_user_id_program_has_no_user() {
        let record = CallerRecord {
            effective_uid: 0,
            ..billing()
        };
        let out = attested(record, Ok(b"Groups:\t\n".to_vec()));
        assert_eq!(out.strings().count(), 0);
        assert!(KEYS.iter().all(|key| out.is_unavailable(*key)));
    }

    #[test]
    fn a_group_without_a_name_makes_group_names_unavailable_but_not_ids() {
        let out = attested(billing(), Ok(b"Groups:\t4 777\n".to_vec()));
        assert!(out.is_unavailable(Key::UnixSupplementaryGroup));
        assert_eq!(out.present(Key::UnixSupplementaryGid).len(), 2);
        let out = attested(billing(), Err(Errno::ESRCH));
        assert!(out.is_unavailable(Key::UnixSupplementaryGid));
    }
}
