//! Loads the programs against the pinned maps, and names the missing feature when the kernel refuses one.
//!
//! Loading is the probe: what a kernel says it has and what it lets us load differ (lockdown, LSM, vendor backports).

use std::{collections::BTreeMap, os::unix::fs::MetadataExt, path::Path};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::MapError,
    programs::{
        CgroupSkb, CgroupSock, CgroupSockAddr, Program, ProgramError, SchedClassifier, SockOps,
    },
};
use imds_guard_ebpf::{Issuer, Offsets, Passage, global, map};

use super::{InterceptError, offsets};

/// The programs by name: connect first, for without it nothing is guarded.
pub(super) const PROGRAMS: [&str; 6] = [
    "sock_create",
    "established",
    "getpeername4",
    "getpeername6",
    "connect4",
    "connect6",
];

/// The programs beside those: a kernel that takes one of them has it, and one that doesn't goes without.
pub(super) const OPTIONAL: [&str; 7] = [
    "ahead4", "ahead6", "sendmsg4", "sendmsg6", "bind4", "bind6", FILTER,
];

/// Those of them that run before everybody else's at their cgroup; all others of ours run after.
pub(super) const AHEAD: [&str; 2] = ["ahead4", "ahead6"];

/// The one of them that filters packets.
pub(super) const FILTER: &str = "egress";

/// The program for uplinks, and the one against raw sockets: attached each in its own way.
pub(super) const UPLINK: &str = "uplink";
pub(super) const RAW_SOCKET: &str = "raw_socket";

/// What programs are told as they are loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parameters {
    /// The listeners' port.
    pub(super) port: u16,
    /// Where the issuer listens.
    pub(super) issuer: Issuer,
    /// What the proxy's packets carry.
    pub(super) passage: Passage,
}

/// The object that this binary carries; empty in a build without kernel programs.
#[must_use]
pub fn embedded() -> &'static [u8] {
    #[cfg(ebpf_stub)]
    {
        &[]
    }
    #[cfg(not(ebpf_stub))]
    {
        aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/imds-guard-ebpf.o"))
    }
}

/// What a kernel makes of the programs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trial {
    /// What it takes, by name and the kernel's digest of the instructions.
    pub taken: Vec<(String, u64)>,
    /// What it refuses of those that it may go without, and why.
    pub refused: Vec<(String, String)>,
}

/// Has the kernel verify the programs against maps of their own, and forgets both.
pub(super) fn trial(object: &[u8], parameters: &Parameters) -> Result<Trial, InterceptError> {
    let mut ebpf = load(object, parameters, None)?;
    let mut trial = Trial::default();
    for name in OPTIONAL {
        if let Err(why) = load_optional(&mut ebpf, name) {
            trial.refused.push((name.to_owned(), why.to_string()));
        }
    }
    for (name, program) in ebpf.programs() {
        if let Ok(info) = program.info() {
            trial.taken.push((name.to_owned(), info.tag()));
        }
    }
    Ok(trial)
}

/// Maps created or reused below `maps` (of its own where there is none), programs verified; nothing attached.
pub(super) fn load(
    object: &[u8],
    parameters: &Parameters,
    maps: Option<&Path>,
) -> Result<Ebpf, InterceptError> {
    if object.is_empty() {
        return Err(InterceptError::NoPrograms);
    }
    // aya parses the kernel's type information whether it is needed or not, which takes most of a start: the offsets
    // are read beside it.
    let (offsets, mut loader): (Result<Offsets, _>, _) = std::thread::scope(|scope| {
        let offsets = scope.spawn(offsets::of_running_kernel);
        let loader = EbpfLoader::new();
        (offsets.join().unwrap_or_else(|_| Err(unreadable())), loader)
    });
    let offsets = offsets?;
    let namespace = pid_namespace()?;
    let netns = netns_inode()?;
    loader
        .override_global(global::PROXY_PORT, &parameters.port, true)
        .override_global(global::ISSUER, &parameters.issuer, true)
        .override_global(global::PASSAGE, &parameters.passage, true)
        .override_global(global::HOST_NETNS, &netns, true)
        .override_global(global::OFFSETS, &offsets, true)
        .override_global(global::PID_NAMESPACE, &namespace, true);
    for (name, maps) in maps
        .into_iter()
        .flat_map(|maps| map::ALL.map(|name| (name, maps)))
    {
        loader.map_pin_path(name, maps.join(map::pin(name)));
    }
    let mut ebpf = loader.load(object).map_err(from_aya)?;
    verify(&mut ebpf)?;
    Ok(ebpf)
}

/// Has the kernel verify the programs that every start wants, side by side: reading them takes the kernel most of a start.
///
/// # Errors
/// What this kernel lacks for one that we can't go without; the first of them in the order of [`PROGRAMS`].
fn verify(ebpf: &mut Ebpf) -> Result<(), InterceptError> {
    let mut outcomes = std::thread::scope(|scope| {
        let wanted = ebpf
            .programs_mut()
            .filter(|(name, _)| PROGRAMS.contains(name) || OPTIONAL.contains(name));
        let running: Vec<_> = wanted
            .map(|(name, program)| (name.to_owned(), scope.spawn(|| timed(program))))
            .collect();
        let ended = running.into_iter().map(|(name, thread)| {
            let outcome = thread.join().unwrap_or(Err(ProgramError::NotLoaded));
            (name, outcome)
        });
        ended.collect::<BTreeMap<_, _>>()
    });
    for name in PROGRAMS {
        let outcome = outcomes.remove(name);
        outcome
            .ok_or_else(|| no_such(name))?
            .map_err(|e| refused(name, e))?;
    }
    Ok(())
}

/// Loads a program, and notes what the kernel had to do for it.
fn timed(program: &mut Program) -> Result<(), ProgramError> {
    let started = std::time::Instant::now();
    load_program(program)?;
    if let Ok(info) = program.info() {
        tracing::debug!(
            program = info.name_as_str(),
            instructions = info.verified_instruction_count(),
            micros = started.elapsed().as_micros(),
            "verified"
        );
    }
    Ok(())
}

fn no_such(program: &str) -> InterceptError {
    InterceptError::WrongObject {
        detail: format!("no program {program}"),
    }
}

/// Has the kernel verify one of the optional programs, where that isn't done.
///
/// # Errors
/// What this kernel lacks for it, or that the right is lacking.
pub(super) fn load_optional(ebpf: &mut Ebpf, name: &str) -> Result<(), InterceptError> {
    let program = ebpf.program_mut(name).ok_or_else(|| no_such(name))?;
    match load_program(program) {
        Ok(()) | Err(ProgramError::AlreadyLoaded) => Ok(()),
        Err(error) => Err(refused(name, error)),
    }
}

/// Inode of our own network namespace.
fn netns_inode() -> Result<u32, InterceptError> {
    let inode = std::fs::metadata("/proc/thread-self/ns/net").map(|namespace| namespace.ino());
    let inode = inode.map_err(InterceptError::system("looking at our network namespace"))?;
    // The kernel numbers namespaces with 32 bits.
    Ok(u32::try_from(inode).unwrap_or(0))
}

/// `PROC_PID_INIT_INO` of the kernel's `include/linux/proc_ns.h`: the first pid namespace.
const FIRST_PID_NAMESPACE: u32 = 0xEFFF_FFFC;

/// Our own pid namespace, as the programs want it: processes are looked up by number in `/proc` and by pidfd_open(2), which
/// both take numbers of our own namespace.
fn pid_namespace() -> Result<u32, InterceptError> {
    let inode = std::fs::metadata("/proc/self/ns/pid").map(|namespace| namespace.ino());
    // The kernel numbers namespaces with 32 bits.
    let number = inode.map(|inode| u32::try_from(inode).unwrap_or(0));
    match number {
        Ok(FIRST_PID_NAMESPACE) => Ok(0),
        Ok(number) if number != 0 => Ok(number),
        _ => Err(InterceptError::missing(
            "/proc/self/ns/pid, which tells our pid namespace".into(),
        )),
    }
}

fn unreadable() -> InterceptError {
    InterceptError::NoBtf {
        detail: "reading it failed unexpectedly".into(),
    }
}

fn load_program(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(p) => CgroupSockAddr::load(p),
        Program::CgroupSock(p) => CgroupSock::load(p),
        Program::SockOps(p) => SockOps::load(p),
        Program::CgroupSkb(p) => CgroupSkb::load(p),
        Program::SchedClassifier(p) => SchedClassifier::load(p),
        Program::Lsm(p) => {
            let btf = Btf::from_sys_fs().map_err(ProgramError::Btf)?;
            p.load("socket_create", &btf)
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn from_aya(error: EbpfError) -> InterceptError {
    match error {
        EbpfError::MapError(MapError::CreateError { name, io_error }) => {
            match io_error.raw_os_error() {
                Some(libc::EPERM) => InterceptError::NotPermitted {
                    what: "creating BPF maps",
                },
                _ => InterceptError::missing(format!("the map type of {name} ({io_error})")),
            }
        }
        other => InterceptError::WrongObject {
            detail: other.to_string(),
        },
    }
}

/// The kernel refused a program: by what it could not do.
fn refused(name: &str, error: ProgramError) -> InterceptError {
    let ProgramError::LoadError {
        io_error,
        verifier_log,
    } = error
    else {
        return InterceptError::WrongObject {
            detail: format!("{name}: {error}"),
        };
    };
    let log = verifier_log.to_string();
    match missing_helper(&log) {
        Some(helper) => InterceptError::missing(format!("the BPF helper {helper} in {name}")),
        None if io_error.raw_os_error() == Some(libc::EPERM) => InterceptError::NotPermitted {
            what: "loading BPF programs",
        },
        None => InterceptError::missing(format!(
            "what the program {name} needs ({io_error}: {})",
            log.lines()
                .rfind(|l| !l.is_empty())
                .unwrap_or("no verifier output")
        )),
    }
}

/// The helper in the verifier's "unknown func bpf_x#1", "cannot use helper bpf_x#1" or "invalid func unknown#1".
fn missing_helper(log: &str) -> Option<&str> {
    log.lines()
        .filter(|l| l.contains("func") || l.contains("helper"))
        .find_map(|l| l.split(' ').find(|w| w.contains('#')))
        .and_then(|w| w.split('#').next())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_missing_helper_is_named() {
        for log in [
            "12: (85) call bpf_set_retval#187\nunknown func bpf_set_retval#187",
            "program of this type cannot use helper bpf_set_retval#187",
        ] {
            assert_eq!(missing_helper(log), Some("bpf_set_retval"), "{log}");
        }
        assert_eq!(missing_helper("R1 type=inv expected=ctx"), None);
    }

    #[test]
    fn an_empty_object_is_refused() {
        let parameters = Parameters {
            port: 1,
            issuer: super::super::endpoints::issuer(None, 0),
            passage: Passage {
                mark: 0,
                priority: 0,
            },
        };
        assert!(matches!(
            load(&[], &parameters, None),
            Err(InterceptError::NoPrograms)
        ));
    }
}
