//! Whether what is in force still is: links, their pins, the pins of maps, the endpoint table, and who runs after us. Somebody with
//! root's power may take any of it away, by mistake mostly. [`Drift::look`] puts it back and says what it found.
//!
//! The links are held open here, so removing their pins detaches nothing. A program that is attached after ours could send a
//! connection on to where we have not looked: ours is attached anew then, and is the last again. One that runs before the first of
//! ours could send it to a proxy of its own: where the kernel has an order, that one is attached anew, too, and is the first again.
//! Must never detach what is somebody else's.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use imds_guard_ebpf::map;

use super::load::{AHEAD, OPTIONAL, PROGRAMS, RAW_SOCKET};
use super::pins::Pins;
use super::{InterceptError, environment};
use crate::sys::bpf;
use crate::sys::bpf::query::{self, LinkAt};

/// Programs that can change where a connection goes: the one that runs last decides.
const STEERING: [&str; 4] = ["connect4", "connect6", "sendmsg4", "sendmsg6"];
/// Why ours isn't the first.
const NO_ORDER: &str =
    "this kernel knows no order (Linux 6.17), and whoever was there first runs first";
/// Why ours can't get to its end.
const ABOVE: &str =
    "it is attached to a cgroup above the one that is guarded, where ours can't follow";
const PREORDER: &str = "it was attached to run before all others (BPF_F_PREORDER)";
/// How often ours may get to its end again: another that does the same must not make us spin.
const AGAIN: Duration = Duration::from_secs(10);

/// What was found to be other than it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is concerned: a program, a map, a table.
    pub what: String,
    /// What had become of it.
    pub change: Change,
    /// Why it could not be put back; `None`: it was.
    pub failed: Option<String>,
}

/// What somebody has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A link was detached.
    Detached,
    /// Another program was put behind our link.
    Replaced,
    /// A pin was removed, or something else was pinned in its place.
    Unpinned,
    /// The kernel's table of endpoints was changed.
    Endpoints,
    /// Rules of the packet filter were removed or changed.
    Rules,
    /// A program of somebody else's came to run after the last of ours.
    RunsAfter,
    /// A program of somebody else's runs before the first of ours, and may send connections elsewhere.
    RunsBefore,
    /// A program of somebody else's runs between the first of ours and the last.
    RunsBetween,
}

impl Change {
    /// A stable word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Replaced => "replaced",
            Self::Unpinned => "unpinned",
            Self::Endpoints => "endpoints_changed",
            Self::Rules => "rules_changed",
            Self::RunsAfter => "runs_after",
            Self::RunsBefore => "runs_before",
            Self::RunsBetween => "runs_between",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = &self.what;
        match self.change {
            Change::Detached => write!(f, "{what} had been detached")?,
            Change::Replaced => write!(f, "another program was behind the link of {what}")?,
            Change::Unpinned => write!(f, "the pin of {what} had been removed")?,
            Change::Endpoints => f.write_str("the kernel's table of endpoints had been changed")?,
            Change::Rules => write!(f, "the packet filter's rules had been changed: {what}")?,
            Change::RunsAfter => write!(f, "somebody's program ran after {what}")?,
            Change::RunsBefore => write!(
                f,
                "somebody's program runs before {what} and may send connections to a proxy of its own"
            )?,
            Change::RunsBetween => write!(f, "somebody's program runs beside {what}")?,
        }
        match (&self.failed, self.change) {
            (Some(why), Change::RunsAfter | Change::RunsBefore) => {
                write!(f, ": {why}; run `imds-guard doctor`")
            }
            (Some(why), _) => write!(f, ", and it can't be put back: {why}"),
            (None, Change::RunsBetween) => f.write_str(
                ": ours run before it and after it, and have the first and the last word",
            ),
            (None, _) => f.write_str(": put back"),
        }
    }
}

/// What is watched.
pub(super) struct Drift {
    cgroup: File,
    cgroup_id: u64,
    links: Vec<Link>,
    maps: Vec<(OwnedFd, PathBuf)>,
}

/// A program in force.
struct Link {
    name: String,
    pin: PathBuf,
    program: OwnedFd,
    program_id: u32,
    link: OwnedFd,
    /// Not before this time again.
    last_again: Option<Instant>,
    /// Programs of others that were told of.
    told: BTreeSet<u32>,
    /// The first of our programs for the same sockets, where this is the last; else it is the only one.
    ahead: Option<u32>,
    /// Programs of others beyond our end that ours can't come behind, as was told.
    out_of_reach: BTreeSet<u32>,
}

impl Drift {
    /// Everything that `pins` has in force now.
    pub(super) fn of(ebpf: &Ebpf, pins: &Pins, root: &Path) -> Result<Self, InterceptError> {
        let system = || InterceptError::system("opening what is pinned");
        let mut links = vec![];
        for name in PROGRAMS.into_iter().chain(OPTIONAL).chain([RAW_SOCKET]) {
            let pin = pins.links().join(name);
            let (Ok(link), Some(Ok(program))) =
                (bpf::open_pinned(&pin), ebpf.program(name).map(|p| p.fd()))
            else {
                // An optional one that isn't in force.
                continue;
            };
            links.push(Link {
                name: name.to_owned(),
                program: program.as_fd().try_clone_to_owned().map_err(system())?,
                program_id: query::link(link.as_fd()).map_err(system())?.0,
                link,
                pin,
                last_again: None,
                told: BTreeSet::new(),
                ahead: None,
                out_of_reach: BTreeSet::new(),
            });
        }
        pair(&mut links);
        let maps = map::ALL.map(|name| {
            let pin = pins.maps().join(map::pin(name));
            Ok((bpf::open_pinned(&pin)?, pin))
        });
        Ok(Self {
            cgroup: File::open(root).map_err(system())?,
            cgroup_id: environment::cgroup_id(root)?,
            links,
            maps: maps
                .into_iter()
                .collect::<io::Result<_>>()
                .map_err(system())?,
        })
    }

    /// Looks at all of it, and puts back what is not as it was.
    pub(super) fn look(&mut self) -> Vec<Finding> {
        let mut found = vec![];
        for link in &mut self.links {
            link.look(&self.cgroup, self.cgroup_id, &mut found);
        }
        for (map, pin) in &self.maps {
            if !is_pinned(map, pin) {
                let what = pin.file_name().unwrap_or_default().to_string_lossy();
                found.push(finding(&what, Change::Unpinned, repin(map, pin)));
            }
        }
        found
    }
}

impl Link {
    fn look(&mut self, cgroup: &File, cgroup_id: u64, found: &mut Vec<Finding>) {
        let now = query::link(self.link.as_fd());
        let (change, done) = match now {
            Ok((_, LinkAt::Cgroup { id, .. })) if id != cgroup_id => {
                (Change::Detached, self.attach(cgroup))
            }
            Ok((program, LinkAt::Cgroup { .. })) if program != self.program_id => {
                let back = bpf::update_link(self.link.as_fd(), self.program.as_fd());
                (Change::Replaced, back)
            }
            Ok(_) if !is_pinned(&self.link, &self.pin) => {
                (Change::Unpinned, repin(&self.link, &self.pin))
            }
            Ok((_, LinkAt::Cgroup { attach_type, .. })) => {
                return self.look_at_order(cgroup, attach_type, found);
            }
            Ok(_) => return,
            Err(error) => (Change::Detached, Err(error)),
        };
        found.push(finding(&self.name, change, done));
    }

    /// A new link, at its end of all, in the place of the one that we have, which goes after.
    fn attach(&mut self, cgroup: &File) -> io::Result<()> {
        let attach_type = attach_type(&self.link)?;
        let attach = if self.is_first() {
            bpf::attach_cgroup_first
        } else {
            bpf::attach_cgroup
        };
        let link = attach(self.program.as_fd(), cgroup.as_fd(), attach_type)?;
        let aside = self.pin.with_file_name("replacement");
        repin(&link, &aside)?;
        fs::rename(&aside, &self.pin)?;
        self.link = link;
        Ok(())
    }

    fn is_first(&self) -> bool {
        AHEAD.contains(&self.name.as_str())
    }

    /// Who runs beside it, of all that run for sockets of the guarded cgroup itself: those attached there, and above.
    fn look_at_order(&mut self, cgroup: &File, attach_type: u32, found: &mut Vec<Finding>) {
        let first = self.is_first();
        if !first && !STEERING.contains(&self.name.as_str()) {
            return;
        }
        let Ok(order) = query::effective(cgroup.as_fd(), attach_type) else {
            return;
        };
        let Some(ours) = order.iter().position(|id| *id == self.program_id) else {
            return;
        };
        let (before, after) = (&order[..ours], &order[ours + 1..]);
        if first {
            self.come_to_its_end(cgroup, attach_type, before, Change::RunsBefore, found);
            return;
        }
        self.come_to_its_end(cgroup, attach_type, after, Change::RunsAfter, found);
        let ahead = self
            .ahead
            .and_then(|id| before.iter().position(|b| *b == id));
        let (beside, change) = match ahead {
            // Those before the first are told of by that one.
            Some(ahead) => (&before[ahead + 1..], Change::RunsBetween),
            None => (before, Change::RunsBefore),
        };
        let new = beside.iter().filter(|id| self.told.insert(**id)).count();
        if new > 0 {
            let why = (change == Change::RunsBefore).then(|| NO_ORDER.to_owned());
            found.push(Finding {
                what: self.name.clone(),
                change,
                failed: why,
            });
        }
    }

    /// `beyond` are others that run beyond our end: attached anew, ours is there again, unless they are attached elsewhere.
    fn come_to_its_end(
        &mut self,
        cgroup: &File,
        attach_type: u32,
        beyond: &[u32],
        change: Change,
        found: &mut Vec<Finding>,
    ) {
        let beyond = beyond.iter().filter(|id| !self.out_of_reach.contains(id));
        let here = query::attached(cgroup.as_fd(), attach_type).unwrap_or_default();
        let (here, above): (Vec<u32>, Vec<u32>) = beyond.partition(|id| here.contains(id));
        if !above.is_empty() {
            self.out_of_reach.extend(&above);
            found.push(finding(&self.name, change, Err(io::Error::other(ABOVE))));
        }
        let may = self.last_again.is_none_or(|at| at.elapsed() >= AGAIN);
        if here.is_empty() || !may {
            return;
        }
        self.last_again = Some(Instant::now());
        let done = self.attach(cgroup).and_then(|()| {
            let order = query::effective(cgroup.as_fd(), attach_type)?;
            let ours = order.iter().position(|id| *id == self.program_id);
            let ours = ours.unwrap_or_default();
            let beyond = if self.is_first() {
                &order[..ours]
            } else {
                &order[ours..]
            };
            let still: Vec<u32> = here
                .iter()
                .copied()
                .filter(|id| beyond.contains(id))
                .collect();
            self.out_of_reach.extend(&still);
            if still.is_empty() {
                Ok(())
            } else {
                Err(io::Error::other(PREORDER))
            }
        });
        found.push(finding(&self.name, change, done));
        // Between ours now, as this has told.
        self.told.extend(&here);
    }
}

/// Tells the last of our programs which is the first.
fn pair(links: &mut [Link]) {
    for (first, last) in [(AHEAD[0], "connect4"), (AHEAD[1], "connect6")] {
        let ahead = links.iter().find(|l| l.name == first).map(|l| l.program_id);
        for link in links.iter_mut().filter(|link| link.name == last) {
            link.ahead = ahead;
        }
    }
}

fn attach_type(link: &OwnedFd) -> io::Result<u32> {
    match query::link(link.as_fd())?.1 {
        LinkAt::Cgroup { attach_type, .. } => Ok(attach_type),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn finding(what: &str, change: Change, done: io::Result<()>) -> Finding {
    Finding {
        what: what.to_owned(),
        change,
        failed: done.err().map(|error| error.to_string()),
    }
}

/// Whether it is this very object that is pinned there.
fn is_pinned(object: &OwnedFd, pin: &Path) -> bool {
    let there = bpf::open_pinned(pin).and_then(|there| query::id(there.as_fd()));
    match (there, query::id(object.as_fd())) {
        (Ok(there), Ok(ours)) => there == ours,
        _ => false,
    }
}

/// Pins it, in the place of whatever is there.
fn repin(object: &OwnedFd, pin: &Path) -> io::Result<()> {
    if let Some(directory) = pin.parent() {
        environment::make_private(directory)?;
    }
    remove(pin)?;
    bpf::pin(object.as_fd(), pin)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_says_what_became_of_it() {
        let back = finding("connect4", Change::Detached, Ok(()));
        assert_eq!(back.to_string(), "connect4 had been detached: put back");
        let not = finding("x", Change::Unpinned, Err(io::Error::other("no")));
        assert_eq!(
            not.to_string(),
            "the pin of x had been removed, and it can't be put back: no"
        );
    }
}
