//! `systemd:id`, `systemd:slice`, `systemd:user-unit`, from the cgroup path. Only the system manager's part of the tree
//! names a unit: the first directory that is not a slice is where the manager hands over, and whoever lives below may
//! name directories as they like.

use imds_guard_core::selector::{Key, Selectors};

use super::cgroup::CgroupPath;

/// What this attestor speaks of.
pub const KEYS: &[Key] = &[Key::SystemdId, Key::SystemdSlice, Key::SystemdUserUnit];

/// The kinds of unit that have processes.
const WITH_PROCESSES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];

/// Whether systemd manages this machine: else the names of cgroups are no units'. `sd_booted(3)`.
pub fn runs() -> bool {
    std::path::Path::new("/run/systemd/system").is_dir()
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Units<'a> {
    id: Option<&'a str>,
    slice: Option<&'a str>,
    user_unit: Option<&'a str>,
}

/// Adds what the path says. `running`: whether systemd manages this machine; else the names mean nothing.
pub fn attest(running: bool, own: &CgroupPath, sockets: &CgroupPath, out: &mut Selectors) {
    if !running {
        return;
    }
    let (own, sockets) = match (own, sockets) {
        (Ok(own), Ok(sockets)) => (units(own), units(sockets)),
        (Err(why), _) | (_, Err(why)) => {
            for key in KEYS {
                out.unavailable(*key, why.clone());
            }
            return;
        }
    };
    add(out, Key::SystemdId, own.id, sockets.id);
    add(out, Key::SystemdSlice, own.slice, sockets.slice);
    add(out, Key::SystemdUserUnit, own.user_unit, sockets.user_unit);
}

fn add(out: &mut Selectors, key: Key, own: Option<&str>, sockets: Option<&str>) {
    if own != sockets {
        out.unavailable(key, "the caller's socket was made in another unit");
    } else if let Some(unit) = own {
        out.found(key, unit);
    }
}

fn units(path: &str) -> Units<'_> {
    let mut segments = path.split('/').filter(|s| !s.is_empty());
    let mut found = Units {
        slice: Some("-.slice"),
        ..Units::default()
    };
    let unit = loop {
        match segments.next().map(unescape) {
            Some(segment) if segment.ends_with(".slice") => found.slice = Some(segment),
            other => break other,
        }
    };
    let Some(unit) = unit.filter(|unit| is_unit(unit)) else {
        // Not the manager's: a container engine's or an administrator's own directory.
        return Units::default();
    };
    found.id = Some(unit);
    if unit.starts_with("user@") && unit.ends_with(".service") {
        found.user_unit = segments
            .map(unescape)
            .find(|s| !s.ends_with(".slice"))
            .filter(|s| is_unit(s));
    }
    found
}

fn is_unit(segment: &str) -> bool {
    WITH_PROCESSES
        .iter()
        .any(|kind| segment.len() > kind.len() && segment.ends_with(kind))
}

/// systemd puts `_` before names that would collide with the kernel's file names.
fn unescape(segment: &str) -> &str {
    segment.strip_prefix('_').unwrap_or(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> (Option<&str>, Option<&str>, Option<&str>) {
        let u = units(path);
        (u.id, u.slice, u.user_unit)
    }

    #[test]
    fn the_manager_names_the_first_thing_that_is_no_slice() {
        assert_eq!(
            of("/system.slice/billing.service"),
            (Some("billing.service"), Some("system.slice"), None)
        );
        assert_eq!(
            of("/system.slice/system-getty.slice/getty@tty1.service"),
            (Some("getty@tty1.service"), Some("system-getty.slice"), None)
        );
        assert_eq!(
            of("/init.scope"),
            (Some("init.scope"), Some("-.slice"), None)
        );
    }

    #[test]
    fn nothing_below_a_delegated_boundary_counts() {
        for (path, id) in [
            (
                "/system.slice/evil.service/system.slice/billing.service",
                "evil.service",
            ),
            (
                "/machine.slice/systemd-nspawn@x.service/payload/system.slice/billing.service",
                "systemd-nspawn@x.service",
            ),
            (
                "/machine.slice/libpod-abc.scope/container/billing.service",
                "libpod-abc.scope",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/billing.service",
                "user@1000.service",
            ),
        ] {
            assert_eq!(of(path).0, Some(id), "{path}");
        }
        assert_eq!(
            of("/docker/abc/system.slice/billing.service"),
            (None, None, None)
        );
        assert_eq!(of("/"), (None, None, None));
        assert_eq!(of("/.service"), (None, None, None));
    }

    #[test]
    fn user_units_are_told_as_such() {
        let path =
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.scope/billing.service";
        assert_eq!(of(path).2, Some("app-x.scope"));
        assert_eq!(of("/user.slice/user-1000.slice/session-3.scope").2, None);
    }

    #[test]
    fn a_socket_of_another_unit_leaves_none() {
        let mut out = Selectors::default();
        let (a, b) = (
            Ok("/system.slice/a.service".into()),
            Ok("/system.slice/b.service".into()),
        );
        attest(true, &a, &b, &mut out);
        assert!(out.is_unavailable(Key::SystemdId));
        assert_eq!(out.present(Key::SystemdSlice)[0].as_ref(), "system.slice");
        let mut out = Selectors::default();
        attest(false, &a, &a, &mut out);
        assert_eq!(out.strings().count(), 0);
    }
}
