//! Which kernels, what runs on each, and what doesn't, with the reason.

use super::kernel::Arch;

/// One machine of the matrix.
pub(super) struct Entry {
    pub(super) name: &'static str,
    /// Debian's suite that has this kernel.
    pub(super) suite: &'static str,
    pub(super) arch: Arch,
    /// Suites whose names begin so.
    pub(super) suites: &'static [&'static str],
    /// Programs beside the suites; all that any suite starts, where none is named.
    pub(super) programs: &'static [&'static str],
    /// Whether the agent's own tests run, too.
    pub(super) own: bool,
    /// What this kernel has no ground for.
    pub(super) lacks: &'static [LeftOut],
}

const fn kernel(name: &'static str, suite: &'static str, arch: Arch) -> Entry {
    Entry {
        name,
        suite,
        arch,
        suites: crate::test::KERNEL,
        programs: &[],
        own: true,
        lacks: &[],
    }
}

impl Entry {
    /// Whether a suite of it may start that program.
    pub(super) fn starts(&self, program: &str) -> bool {
        if self.programs.is_empty() {
            !NOT_NEEDED.contains(&program)
        } else {
            self.programs.contains(&program)
        }
    }

    /// What doesn't run here, and why.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &'static LeftOut> {
        LEFT_OUT.iter().chain(self.lacks)
    }

    /// What has to run here: everything that begins so, where nothing is said.
    pub(super) fn chosen(&self, full: bool) -> Vec<&'static str> {
        if !self.own || full {
            return Vec::new();
        }
        let only_here = ONLY.iter().filter(|only| only.on.contains(&self.name));
        let begins = EVERYWHERE.iter().chain(only_here.map(|only| &only.begins));
        begins.copied().collect()
    }
}

/// Programs of the tests' package that no suite in a machine starts.
const NOT_NEEDED: [&str; 4] = ["bench", "bare_hyper", "demo", "clean"];

/// In the order of starting: the dearest first.
pub(super) const MATRIX: [Entry; 5] = [
    kernel("arm64-6.12", "trixie-security", Arch::Arm64),
    kernel("newest", "trixie-backports", Arch::Amd64),
    kernel("6.12", "trixie-security", Arch::Amd64),
    Entry {
        lacks: &[
            left_out(
                "security pid_reuse::who_takes_the_pid_within",
                "this kernel doesn't number processes (pidfs, 6.9): see the threat model",
            ),
            left_out(
                "security frames::without_nft",
                "this kernel has no programs on interfaces (tcx, 6.6): without nft, frames made by hand pass there",
            ),
        ],
        ..kernel("6.1", "bookworm-security", Arch::Amd64)
    },
    Entry {
        name: "5.10",
        suite: "bullseye-security",
        arch: Arch::Amd64,
        suites: &["refused"],
        programs: &[],
        own: false,
        lacks: &[],
    },
];

/// What tests use beside what kernels have built in; each with what it depends on.
pub(super) const MODULES: [&str; 30] = [
    "veth",
    "tun",
    "dummy",
    "bridge",
    "macvlan",
    "8021q",
    "cls_bpf",
    "act_bpf",
    "sch_ingress",
    "sch_tbf",
    "nf_tables",
    "nft_ct",
    "nft_chain_nat",
    "nft_nat",
    "nft_redir",
    "nft_socket",
    "nft_tproxy",
    "nft_reject_inet",
    "nft_log",
    "nft_limit",
    "nft_counter",
    "nft_fib_inet",
    "nft_dup_netdev",
    "nft_fwd_netdev",
    "nft_meta_bridge",
    "nft_reject_bridge",
    "nf_conntrack_bridge",
    "sctp",
    "tcp_diag",
    "udp_diag",
];

/// How `SUITE TEST` begins of what each machine runs at every `cargo xtask test vm`: that programs load, that callers are steered
/// and told apart, the packets' own layer, namespaces, guests, attestation. One that no test's name begins with is a failure.
/// With `--full` the whole kernel tier runs on each.
const EVERYWHERE: [&str; 11] = [
    "kernel_world nothing_leads_out",
    "kernel_interception attribution::exec_right_after",
    "kernel_interception attribution::the_record_says",
    "kernel_interception lifetime::killed_it_refuses",
    "kernel_interception steering::every_form",
    "kernel_interception steering::only_a_marked",
    "kernel_interception steering::what_is_not_tcp",
    "kernel_spaces served::a_caller_in_its_own",
    "kernel_guard pid_namespace::",
    "security egress::what_leaves",
    "imds_guard ",
];

/// What rests on what kernels do differently, and runs at each time only where that is most likely to be seen: 12 minutes on two cores
/// are five on each machine.
struct Only {
    begins: &'static str,
    on: &'static [&'static str],
}

const fn only(on: &'static [&'static str], begins: &'static str) -> Only {
    Only { begins, on }
}

const OLDEST: &[&str] = &["6.1"];
const STABLE: &[&str] = &["6.12"];
const NEWEST: &[&str] = &["newest"];
const ENDS: &[&str] = &["6.1", "newest"];
const ARM64: &[&str] = &["arm64-6.12"];

const ONLY: [Only; 28] = [
    // Hooks, their order, socket storage, handshakes: the ends of the range, and the other processor.
    only(ENDS, "kernel_interception attribution::many_connections"),
    only(ARM64, "kernel_interception attribution::"),
    only(NEWEST, "kernel_interception steering::"),
    only(STABLE, "kernel_interception lifetime::a_start_that_fails"),
    only(ENDS, "security dial::however"),
    only(ARM64, "security dial::however"),
    only(STABLE, "security dial::an_address_of_the_link"),
    // The uplink's layers: before and after tcx.
    only(ENDS, "security frames::frames_made_by_hand"),
    only(NEWEST, "security frames::raw_sockets"),
    only(STABLE, "security frames::without_nft"),
    // Processes: with and without pidfs and PIDFD_GET_INFO.
    only(NEWEST, "security pid_reuse::who_takes_the_pid_within"),
    only(ENDS, "journey_agent attested::a_grant"),
    only(OLDEST, "journey_agent policy::a_grant_that_rests"),
    only(STABLE, "security rejudged::a_process_that_has_left"),
    only(OLDEST, "security rejudged::a_process_that_changes"),
    only(ARM64, "security rogue::a_signature_needs"),
    // Lists of one processor's system calls.
    only(STABLE, "security sandbox::a_forbidden"),
    only(NEWEST, "security sandbox::a_listed"),
    // Namespaces, bridges, netfilter.
    only(STABLE, "kernel_spaces life::guard_and_proxy_come_back"),
    only(ARM64, "kernel_spaces served::fake_root"),
    only(ENDS, "kernel_guests routed::each_interface"),
    only(STABLE, "kernel_guests bridged::each_port"),
    only(
        OLDEST,
        "kernel_guests bridged::a_neighbours_address_or_station",
    ),
    only(STABLE, "kernel_guests changes::flushed_rules"),
    only(STABLE, "kernel_guard a_killed_proxy"),
    only(OLDEST, "kernel_doctor layers::a_stranger"),
    only(
        &["6.12", "newest"],
        "security_opens_nothing callers::stopped_by_ip_address_deny",
    ),
    only(
        OLDEST,
        "security_opens_nothing callers::stopped_by_a_hop_limit",
    ),
];

/// Tests that no machine runs, and why.
pub(super) struct LeftOut {
    /// How `SUITE TEST` begins.
    pub(super) begins: &'static str,
    pub(super) why: &'static str,
}

const fn left_out(begins: &'static str, why: &'static str) -> LeftOut {
    LeftOut { begins, why }
}

const NO_TIME: &str = "it measures time, and an emulated processor's says nothing";
const MASS: &str = "it proves by a mass that an emulated processor takes minutes for";
const NO_KERNEL: &str = "nothing in it rests on the kernel's version";

/// All of them.
pub(super) const LEFT_OUT: &[LeftOut] = &[
    left_out("kernel_interception cost::", NO_TIME),
    left_out("kernel_interception race::", MASS),
    left_out("kernel_spaces many::", MASS),
    left_out("kernel_states killed::", MASS),
    left_out("kernel_states serving::", MASS),
    left_out("security flood::", MASS),
    left_out("security canary::", NO_KERNEL),
    left_out("security http::", NO_KERNEL),
    left_out("journey_agent dialect::", NO_KERNEL),
    left_out("journey_agent explain::", NO_KERNEL),
    left_out("journey_agent forward::", NO_KERNEL),
    left_out("journey_agent keys::", NO_KERNEL),
    left_out("journey_agent policy::a_deny", NO_KERNEL),
    left_out("journey_agent policy::a_grant_ends_when", NO_KERNEL),
    left_out("journey_agent policy::a_limit", NO_KERNEL),
    left_out("journey_agent policy::any_of", NO_KERNEL),
    left_out("journey_agent policy::two_workloads", NO_KERNEL),
    left_out("kernel_guard lacking::a_", NO_KERNEL),
    left_out("kernel_guard lacking::the_issuers_port", NO_KERNEL),
];
