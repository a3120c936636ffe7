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
        own: true,
        lacks: &[],
    }
}

impl Entry {
    /// What doesn't run here, and why.
    pub(super) fn left_out(&self) -> impl Iterator<Item = &'static LeftOut> {
        LEFT_OUT.iter().chain(self.lacks)
    }

    /// What has to run here: everything that begins so, where nothing is said.
    pub(super) fn chosen(&self, full: bool) -> Vec<&'static str> {
        let all = if self.own && !full { &CHOSEN[..] } else { &[] };
        let lacking = |begins: &&str| {
            self.lacks
                .iter()
                .any(|left| begins.starts_with(left.begins))
        };
        all.iter()
            .copied()
            .filter(|begins| !lacking(begins))
            .collect()
    }
}

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

/// How `SUITE TEST` begins of what each machine runs at every `cargo xtask test vm`: all that rests on what kernels do
/// differently, once each (verifier, hooks and their order, socket storage, handshakes, pidfs, seccomp, netfilter, tcx, namespaces,
/// bridges). With `--full` the rest of the kernel tier runs, too. One that no test's name begins with is a failure.
pub(super) const CHOSEN: [&str; 38] = [
    "kernel_interception attribution::",
    "kernel_interception lifetime::a_start_that_fails",
    "kernel_interception lifetime::killed_it_refuses",
    "kernel_interception lifetime::restarts_under_load",
    "kernel_interception steering::",
    "kernel_spaces life::guard_and_proxy_come_back",
    "kernel_spaces served::a_caller_in_its_own",
    "kernel_spaces served::a_namespace_without_ipv6",
    "kernel_spaces served::fake_root",
    "kernel_guests bridged::each_port",
    "kernel_guests bridged::a_neighbours_address_or_station",
    "kernel_guests changes::flushed_rules",
    "kernel_guests routed::each_interface",
    "kernel_guard a_killed_proxy",
    "kernel_doctor layers::a_stranger",
    "security dial::",
    "security egress::what_leaves",
    "security frames::frames_made_by_hand",
    "security frames::raw_sockets",
    "security frames::without_nft",
    "security pid_reuse::who_takes_the_pid_within",
    "security ports::",
    "security rejudged::a_process_that_has_left",
    "security rejudged::a_process_that_changes",
    "security rogue::a_signature_needs",
    "security sandbox::a_forbidden",
    "security sandbox::a_listed",
    "security_opens_nothing callers::bound_to_a_device_or_an_address_in",
    "security_opens_nothing callers::let_through_by_its_mark",
    "security_opens_nothing callers::stopped_by_a_hop_limit",
    "security_opens_nothing callers::stopped_by_ip_address_deny",
    "security_opens_nothing callers::stopped_by_network_none",
    "security_opens_nothing sockets::without_a_live",
    "journey_agent attested::a_grant",
    "journey_agent modes::audit_lets_through",
    "journey_agent policy::a_grant_that_rests",
    "kernel_world nothing_leads_out",
    "imds_guard ",
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
