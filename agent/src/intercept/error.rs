//! What can be wrong with interception, each with what to do about it.

use std::{io, path::PathBuf};

/// Why interception could not start or go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InterceptError {
    /// The binary was built without the kernel programs.
    #[error(
        "this binary was built without the kernel programs: build them with `cargo xtask ebpf`, then build again"
    )]
    NoPrograms,
    /// Missing capabilities.
    #[error(
        "{what} is not permitted: run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN"
    )]
    NotPermitted {
        /// The operation.
        what: &'static str,
    },
    /// No cgroup v2.
    #[error(
        "no cgroup v2 hierarchy is mounted: boot with systemd.unified_cgroup_hierarchy=1, or `mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    /// The configured root is no directory of cgroup v2.
    #[error(
        "{path} is not a cgroup v2 directory: name one below the cgroup2 mount with --cgroup-root"
    )]
    NotCgroup2 {
        /// As configured.
        path: PathBuf,
    },
    /// The process itself is outside the attach root, so the accepting side would never be seen.
    #[error(
        "imds-guard itself runs in {own}, outside of {root} to which it attaches, so no identity would ever reach it: start it inside (echo $$ > {root}/…/cgroup.procs), or attach higher up with --cgroup-root"
    )]
    OutsideRoot {
        /// Own cgroup directory.
        own: PathBuf,
        /// The attach root.
        root: PathBuf,
    },
    /// A time namespace with an offset.
    #[error(
        "imds-guard runs in a time namespace whose clocks are not the kernel's (/proc/self/timens_offsets): start it outside"
    )]
    OtherClock,
    /// No bpffs where the pins go.
    #[error(
        "{path} is not on a bpf file system: `mount -t bpf bpf /sys/fs/bpf`, or name one with --pin-dir"
    )]
    NoBpffs {
        /// The pin directory.
        path: PathBuf,
    },
    /// Another guard has the pin directory.
    #[error(
        "an imds-guard runs with {path}: stop it first (`systemctl stop imds-guard`), or name another with --pin-dir"
    )]
    PinsHeld {
        /// The pin directory.
        path: PathBuf,
    },
    /// The kernel lacks something.
    #[error("this kernel ({release}) lacks {feature}: Linux 6.1 or later, or RHEL 9, is needed")]
    MissingFeature {
        /// Which.
        feature: String,
        /// `uname -r`.
        release: String,
    },
    /// Type information of the kernel is missing or lacks a member.
    #[error(
        "the kernel's type information is not usable ({detail}): a kernel with CONFIG_DEBUG_INFO_BTF is needed"
    )]
    NoBtf {
        /// What was looked for.
        detail: String,
    },
    /// The listener's port is in use.
    #[error(
        "port {port} on {address} is taken: stop what listens there (`ss -ltnp sport = :{port}`), or choose another with --port"
    )]
    PortTaken {
        /// Which.
        port: u16,
        /// Loopback address.
        address: &'static str,
    },
    /// Another program sits exclusively on the cgroup.
    #[error(
        "another BPF program is attached to {root} exclusively, without BPF_F_ALLOW_MULTI: detach it (`bpftool cgroup show {root}`), or attach higher up with --cgroup-root"
    )]
    ForeignExclusive {
        /// The attach root.
        root: PathBuf,
    },
    /// An endpoint table that the kernel can't hold.
    #[error("the endpoint table can't be used: {detail}")]
    BadEndpoints {
        /// What is wrong.
        detail: String,
    },
    /// The object is not the one that this binary expects.
    #[error(
        "the kernel programs do not fit this binary ({detail}): rebuild both with `cargo xtask ebpf` and `cargo build`"
    )]
    WrongObject {
        /// What is missing.
        detail: String,
    },
    /// netfilter's rules can't be removed.
    #[error("the rules for uplinks can't be removed ({0}): nft delete table netdev imds_guard")]
    Tables(#[from] super::nft::NftError),
    /// A system call failed in a way that has no remedy of its own.
    #[error("{what}: {source}")]
    System {
        /// The operation, with its object.
        what: String,
        /// The errno.
        source: io::Error,
    },
}

impl InterceptError {
    /// This kernel lacks `feature`.
    pub(super) fn missing(feature: String) -> Self {
        let release = nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_else(|e| io::Error::from(e).to_string());
        Self::MissingFeature { feature, release }
    }

    /// For `map_err`: `EPERM` and `EACCES` become [`NotPermitted`](Self::NotPermitted).
    pub(crate) fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted { what },
            _ => Self::System {
                what: what.to_owned(),
                source,
            },
        }
    }
}
