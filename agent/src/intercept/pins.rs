//! What outlives the process: maps and links in a bpffs directory of mode 0700.
//!
//! ```text
//! <pin-dir>/layout-<ABI_VERSION>/maps/<MAP>
//! <pin-dir>/layout-<ABI_VERSION>/links/<program>
//! ```
//!
//! A start with the same layout reuses the maps and swaps each program behind its link by `BPF_LINK_UPDATE`; another
//! layout, or another cgroup, is attached beside the old before the old goes. Either way no moment is unguarded.
//! Must never remove a link that it did not replace, except in [`remove_all`]; whatever a failed start made is removed.

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, links::FdLink},
};
use imds_guard_ebpf::{ABI_VERSION, map};
use nix::fcntl::{Flock, FlockArg};

use super::{
    InterceptError, environment,
    load::{AHEAD, PROGRAMS},
};
use crate::sys::bpf;

/// The pin directory, opened for one start. Dropped before [`commit`](Self::commit) it removes what this start made.
#[derive(Debug)]
pub(super) struct Pins {
    directory: PathBuf,
    layout: PathBuf,
    made: Vec<PathBuf>,
    held: Option<Held>,
}

/// The pin directory is one guard's, as long as it runs.
#[derive(Debug)]
pub(super) struct Held(#[expect(dead_code, reason = "its end frees the directory")] Flock<File>);

/// Takes the pin directory for this process.
fn hold(directory: &Path) -> Result<Held, InterceptError> {
    let file =
        File::open(directory).map_err(InterceptError::system("opening the pin directory"))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(held) => Ok(Held(held)),
        Err(_) => Err(InterceptError::PinsHeld {
            path: directory.to_owned(),
        }),
    }
}

/// Whether no guard runs with this directory: else it would put back whatever is removed.
pub(super) fn is_free(directory: &Path) -> Result<(), InterceptError> {
    match directory.exists() {
        true => hold(directory).map(drop),
        false => Ok(()),
    }
}

impl Pins {
    /// Makes the directories.
    pub(super) fn open(directory: &Path) -> Result<Self, InterceptError> {
        let layout = layout(directory);
        let made = [directory, layout.as_path()]
            .into_iter()
            .filter(|path| !path.exists())
            .map(Path::to_owned)
            .collect();
        environment::pin_directory(directory)?;
        let mut pins = Self {
            directory: directory.to_owned(),
            made,
            layout,
            held: None,
        };
        pins.held = Some(hold(directory)?);
        for path in [pins.maps(), pins.links()] {
            environment::make_private(&path)
                .map_err(InterceptError::system("making the pin directory"))?;
        }
        Ok(pins)
    }

    /// Where the maps of this layout are.
    pub(super) fn maps(&self) -> PathBuf {
        maps(&self.directory)
    }

    /// Where the links of this layout are.
    pub(super) fn links(&self) -> PathBuf {
        links(&self.directory)
    }

    /// Whether this start made the layout, rather than finding it.
    pub(super) fn is_fresh(&self) -> bool {
        self.made.contains(&self.layout)
    }

    /// Puts each program in force at `root`: by swapping where a link is there already, by attaching where not.
    pub(super) fn attach(&mut self, ebpf: &mut Ebpf, root: &Path) -> Result<(), InterceptError> {
        let cgroup = File::open(root).map_err(InterceptError::system("opening the cgroup"))?;
        let id = environment::cgroup_id(root)?;
        for name in PROGRAMS {
            self.attach_one(ebpf, name, &cgroup, root, id)?;
        }
        Ok(())
    }

    /// The same for one of the optional programs, which has been loaded.
    pub(super) fn attach_optional(
        &mut self,
        ebpf: &mut Ebpf,
        name: &str,
        root: &Path,
    ) -> Result<(), InterceptError> {
        let cgroup = File::open(root).map_err(InterceptError::system("opening the cgroup"))?;
        let id = environment::cgroup_id(root)?;
        self.attach_one(ebpf, name, &cgroup, root, id)
    }

    /// Puts the program against raw sockets in force. Its link can't be updated: a new one takes the old one's place.
    pub(super) fn attach_lsm(&mut self, ebpf: &mut Ebpf, name: &str) -> Result<(), InterceptError> {
        let Some(Program::Lsm(program)) = ebpf.program_mut(name) else {
            return Err(InterceptError::WrongObject {
                detail: format!("no program {name}"),
            });
        };
        let attached = program.attach().and_then(|id| program.take_link(id));
        let link = attached.map_err(|e| refused(e, Path::new("the LSM hook")))?;
        self.replace(link.into(), &self.links().join(name))
    }

    /// Takes an optional program out of force, if it is in force.
    pub(super) fn detach(&self, name: &str) -> Result<(), InterceptError> {
        remove_file(&self.links().join(name)).map_err(InterceptError::system("removing a link"))
    }

    fn attach_one(
        &mut self,
        ebpf: &mut Ebpf,
        name: &str,
        cgroup: &File,
        root: &Path,
        id: u64,
    ) -> Result<(), InterceptError> {
        let program = ebpf
            .program_mut(name)
            .ok_or_else(|| InterceptError::WrongObject {
                detail: format!("no program {name}"),
            })?;
        let pin = self.links().join(name);
        if swap(program, &pin, id)? {
            return Ok(());
        }
        if AHEAD.contains(&name) {
            let link = attach_first(program, cgroup, name, root)?;
            let system = InterceptError::system("pinning a link");
            return self.put(&pin, |at| bpf::pin(link.as_fd(), at).map_err(system));
        }
        let attached = attach(program, cgroup).map_err(|e| refused(e, root))?;
        self.replace(attached, &pin)
    }

    fn replace(&mut self, link: FdLink, pin: &Path) -> Result<(), InterceptError> {
        self.put(pin, |at| link.pin(at).map(drop).map_err(pin_error))
    }

    /// Has a link pinned as `pin`; what was pinned there goes after, not before.
    fn put(
        &mut self,
        pin: &Path,
        pin_at: impl FnOnce(&Path) -> Result<(), InterceptError>,
    ) -> Result<(), InterceptError> {
        let system = InterceptError::system("pinning a link");
        if !pin.exists() {
            self.made.push(pin.to_owned());
            return pin_at(pin);
        }
        // bpffs takes no dots in names.
        let aside = pin.with_file_name("replacement");
        remove_file(&aside).map_err(InterceptError::system("removing a left-over link"))?;
        pin_at(&aside)?;
        // rename(2) over an existing pin drops the old link, which was attached until now, in one step.
        fs::rename(&aside, pin).map_err(system)
    }

    /// Keeps everything, and removes the layouts of other versions, whose work is taken over now.
    pub(super) fn commit(mut self) -> Result<Held, InterceptError> {
        self.made.clear();
        let held = self.held.take();
        let entries =
            fs::read_dir(&self.directory).map_err(InterceptError::system("reading the pins"))?;
        for entry in entries.flatten().filter(|e| e.path() != self.layout) {
            remove_tree(&entry.path()).map_err(InterceptError::system("removing old pins"))?;
        }
        held.map_or_else(|| hold(&self.directory), Ok)
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            if let Err(error) = remove_tree(path) {
                tracing::error!(path = %path.display(), %error, "a pin of a failed start is left behind");
            }
        }
    }
}

fn layout(directory: &Path) -> PathBuf {
    directory.join(format!("layout-{ABI_VERSION}"))
}

/// The listener-marker maps that former runs have pinned, of whatever layout: to bind the port while their programs are in
/// force, a socket needs its mark in the map that they look at.
pub(super) fn listener_marks(directory: &Path) -> Result<Vec<OwnedFd>, InterceptError> {
    let Ok(layouts) = fs::read_dir(directory) else {
        return Ok(vec![]);
    };
    let maps = layouts
        .flatten()
        .map(|layout| layout.path().join("maps").join(map::LISTENERS))
        .filter(|pin| pin.exists());
    maps.map(|pin| bpf::open_pinned(&pin))
        .collect::<io::Result<_>>()
        .map_err(InterceptError::system("opening the listener-marker map"))
}

/// Where the maps of this layout are.
pub(super) fn maps(directory: &Path) -> PathBuf {
    layout(directory).join("maps")
}

/// Where the links of this layout are.
pub(super) fn links(directory: &Path) -> PathBuf {
    layout(directory).join("links")
}

/// Whether the program took the place of the one behind the link at `pin`. Not if there is none or it is elsewhere.
fn swap(program: &Program, pin: &Path, cgroup_id: u64) -> Result<bool, InterceptError> {
    let link = match bpf::open_pinned(pin) {
        Ok(link) => link,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(InterceptError::system("opening a pinned link")(e)),
    };
    let at = bpf::link_info(link.as_fd()).map_err(InterceptError::system("reading a link"))?;
    if at.cgroup_id != cgroup_id {
        return Ok(false);
    }
    let fd = program.fd().map_err(|e| InterceptError::WrongObject {
        detail: e.to_string(),
    })?;
    bpf::update_link(link.as_fd(), fd.as_fd())
        .map_err(InterceptError::system("swapping a program"))?;
    Ok(true)
}

/// One link, not pinned yet. `Single` (no flags) is what links want: the kernel makes every cgroup link a multi one.
fn attach(program: &mut Program, cgroup: &File) -> Result<FdLink, ProgramError> {
    let wrong = |_| ProgramError::UnexpectedProgramType;
    match program {
        Program::CgroupSockAddr(p) => {
            let id = p.attach(cgroup, CgroupAttachMode::Single)?;
            p.take_link(id)?.try_into().map_err(wrong)
        }
        Program::CgroupSock(p) => {
            let id = p.attach(cgroup, CgroupAttachMode::Single)?;
            p.take_link(id)?.try_into().map_err(wrong)
        }
        Program::SockOps(p) => {
            let id = p.attach(cgroup, CgroupAttachMode::Single)?;
            p.take_link(id)?.try_into().map_err(wrong)
        }
        Program::CgroupSkb(p) => {
            let id = p.attach(
                cgroup,
                CgroupSkbAttachType::Egress,
                CgroupAttachMode::Single,
            )?;
            p.take_link(id)?.try_into().map_err(wrong)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// One link before all others at the cgroup, not pinned yet.
fn attach_first(
    program: &Program,
    cgroup: &File,
    name: &str,
    root: &Path,
) -> Result<OwnedFd, InterceptError> {
    let fd = program.fd().map_err(|e| refused(e, root))?;
    let attach_type = if name.ends_with('4') {
        CONNECT4
    } else {
        CONNECT6
    };
    let link = bpf::attach_cgroup_first(fd.as_fd(), cgroup.as_fd(), attach_type);
    link.map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => {
            InterceptError::missing("a place before other programs at a cgroup (Linux 6.17)".into())
        }
        _ => InterceptError::System {
            what: format!("attaching to {}", root.display()),
            source: error,
        },
    })
}

/// `BPF_CGROUP_INET4_CONNECT` and `BPF_CGROUP_INET6_CONNECT` of `enum bpf_attach_type`.
const CONNECT4: u32 = 10;
const CONNECT6: u32 = 11;

fn refused(error: ProgramError, root: &Path) -> InterceptError {
    match error {
        // EPERM at attach, when loading was permitted, is a foreign program attached without BPF_F_ALLOW_MULTI.
        ProgramError::SyscallError(e) if e.io_error.raw_os_error() == Some(libc::EPERM) => {
            InterceptError::ForeignExclusive {
                root: root.to_owned(),
            }
        }
        ProgramError::SyscallError(e) => InterceptError::System {
            what: format!("attaching to {}", root.display()),
            source: e.io_error,
        },
        other => InterceptError::WrongObject {
            detail: other.to_string(),
        },
    }
}

fn pin_error(error: aya::pin::PinError) -> InterceptError {
    match error {
        aya::pin::PinError::SyscallError(e) => InterceptError::system("pinning a link")(e.io_error),
        other => InterceptError::System {
            what: "pinning a link".into(),
            source: io::Error::other(other.to_string()),
        },
    }
}

/// Removes everything below `directory` that this program pins: detaches, and frees the maps.
pub(super) fn remove_all(directory: &Path) -> Result<bool, InterceptError> {
    if !directory.exists() {
        return Ok(false);
    }
    environment::pin_directory(directory)?;
    remove_tree(directory).map_err(InterceptError::system("removing the pins"))?;
    Ok(true)
}

/// Links before maps, connect programs first, so that nothing steers into a half that is gone.
fn remove_tree(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        return remove_file(path);
    }
    let mut entries: Vec<_> = fs::read_dir(path)?
        .map(|e| e.map(|e| e.path()))
        .collect::<io::Result<_>>()?;
    // "connect4" < "established"; "links" < "maps".
    entries.sort_unstable();
    for entry in entries {
        remove_tree(&entry)?;
    }
    fs::remove_dir(path)
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
