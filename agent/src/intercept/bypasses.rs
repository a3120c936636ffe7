//! The kernel's table of who passes for a while. It is the one record of that: what is told of a bypass stands in the table beside
//! its time, so nothing can disagree, and it works with nobody but the kernel there.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use aya::maps::{HashMap, Map, MapData, MapError};
use imds_guard_ebpf::{ANY_USER, Bypass, Scope, map};
use serde::Serialize;

use super::{InterceptError, pins};

/// Longest name and reason, in bytes.
pub const NAME_LIMIT: usize = 64;
/// Longest reason, in bytes.
pub const REASON_LIMIT: usize = 192;

/// The table.
pub struct Bypasses(HashMap<MapData, Scope, Bypass>);

/// One bypass, with all that it lets pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Live {
    /// Names it; eight hexadecimal digits.
    pub id: String,
    /// The workload, or what else was named.
    pub name: String,
    /// Why, in the words of whoever said so.
    pub reason: String,
    /// The user who had logged in; `None`: nobody had.
    pub by: Option<u32>,
    /// When it began, RFC 3339.
    pub began: String,
    /// When it ends, RFC 3339, by the clock of the moment when it began.
    pub until: String,
    /// Seconds that are left; 0: it has ended, and nobody has removed it yet.
    pub left_s: u64,
    /// Whose connections pass.
    #[serde(skip)]
    pub scopes: Vec<Scope>,
}

impl std::fmt::Debug for Bypasses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Bypasses")
    }
}

impl Bypasses {
    /// The table pinned in `pin_dir`; `None`: nothing is pinned there, so nothing is guarded.
    ///
    /// # Errors
    /// [`InterceptError::NotPermitted`]; [`InterceptError::WrongObject`] where another version's programs are in force.
    pub fn open(pin_dir: &Path) -> Result<Option<Self>, InterceptError> {
        let system = InterceptError::system("looking at the pins");
        let pin = pins::maps(pin_dir).join(map::BYPASSES);
        if !pin.try_exists().map_err(system)? {
            let others = std::fs::read_dir(pin_dir).is_ok_and(|mut any| any.next().is_some());
            return match others {
                true => Err(InterceptError::WrongObject {
                    detail:
                        "another version's, which knows no bypass: start this version's guard once"
                            .into(),
                }),
                false => Ok(None),
            };
        }
        let pinned = MapData::from_pin(pin).map_err(failed)?;
        let table = HashMap::try_from(Map::HashMap(pinned)).map_err(failed)?;
        Ok(Some(Self(table)))
    }

    pub(super) fn new(table: HashMap<MapData, Scope, Bypass>) -> Self {
        Self(table)
    }

    /// All of them, those that have ended included, at this time since boot (`CLOCK_BOOTTIME`).
    ///
    /// # Errors
    /// The errno of bpf(2).
    pub fn all(&self, now: Duration) -> Result<Vec<Live>, InterceptError> {
        let mut all: BTreeMap<u32, Live> = BTreeMap::new();
        for entry in self.0.iter() {
            let (scope, bypass) = entry.map_err(failed)?;
            let new = || Live::of(&bypass, now);
            let live = all.entry(bypass.id).or_insert_with(new);
            live.scopes.push(scope);
        }
        Ok(all.into_values().collect())
    }

    /// Lets pass. All or nothing; `false`: one of the scopes has a bypass already.
    ///
    /// # Errors
    /// The errno of bpf(2): the table holds 256 scopes.
    pub fn begin(&mut self, scopes: &[Scope], bypass: &Bypass) -> Result<bool, InterceptError> {
        const NOEXIST: u64 = 1;
        for (at, scope) in scopes.iter().enumerate() {
            let Err(error) = self.0.insert(scope, bypass, NOEXIST) else {
                continue;
            };
            for made in &scopes[..at] {
                self.0.remove(made).map_err(failed)?;
            }
            return match &error {
                MapError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::EEXIST) => {
                    Ok(false)
                }
                _ => Err(failed(error)),
            };
        }
        Ok(true)
    }

    /// Ends one.
    ///
    /// # Errors
    /// The errno of bpf(2).
    pub fn end(&mut self, live: &Live) -> Result<(), InterceptError> {
        for scope in &live.scopes {
            match self.0.remove(scope) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(e)) if e.io_error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}

impl Live {
    /// What is told of an entry at that time since boot; its scopes are for whoever looks at all entries.
    pub(crate) fn of(bypass: &Bypass, now: Duration) -> Self {
        let when = |seconds| {
            let time = jiff::Timestamp::from_second(seconds);
            time.map_or_else(|_| String::new(), |time| time.to_string())
        };
        let left = Duration::from_nanos(bypass.until_ns).saturating_sub(now);
        Self {
            id: format!("{:08x}", bypass.id),
            name: text(&bypass.name),
            reason: text(&bypass.reason),
            by: (bypass.by != ANY_USER).then_some(bypass.by),
            began: when(bypass.began),
            until: when(bypass.ends),
            // The last part of a second counts.
            left_s: left.as_secs() + u64::from(left.subsec_nanos() > 0),
            scopes: vec![],
        }
    }
}

/// Text of a fixed length for the table; what is too long is cut.
#[must_use]
pub fn fixed<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [0; N];
    let end = text.floor_char_boundary(N);
    out[..end].copy_from_slice(&text.as_bytes()[..end]);
    out
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn failed(error: MapError) -> InterceptError {
    match error {
        MapError::SyscallError(e) => InterceptError::system("the table of bypasses")(e.io_error),
        other => InterceptError::WrongObject {
            detail: format!("map {}: {other}", map::BYPASSES),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_and_is_cut_at_a_character() {
        assert_eq!(text(&fixed::<8>("billing")), "billing");
        assert_eq!(text(&fixed::<8>("billing-api")), "billing-");
        assert_eq!(text(&fixed::<3>("aäb")), "aä");
        assert_eq!(text(&fixed::<2>("aä")), "a");
    }

    #[test]
    fn what_is_left_is_told_to_the_last_moment() {
        let bypass = Bypass {
            until_ns: 2_000_000_001,
            began: 0,
            ends: 2,
            id: 0xab,
            by: ANY_USER,
            name: fixed("x"),
            reason: fixed("y"),
        };
        let at = |seconds| Live::of(&bypass, Duration::from_secs(seconds));
        assert_eq!((at(0).left_s, at(2).left_s, at(3).left_s), (3, 1, 0));
        assert_eq!((at(0).id.as_str(), at(0).by), ("000000ab", None));
    }
}
