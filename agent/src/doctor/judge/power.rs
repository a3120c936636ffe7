//! Who and what doesn't pass the hooks: raw sockets, hardware, the hypervisor's side channels, debuggers.

use super::super::facts::{Facts, Power, Seen, SocketKind};
use super::super::finding::Finding;
use super::machine::holder;

/// Holders of CAP_NET_RAW in this network namespace.
pub(super) fn raw(facts: &Facts) -> Finding {
    holders(
        "net-raw",
        &facts.raw,
        "raw and packet sockets pass no connect hook; their holders can also read the proxy's traffic on loopback",
        "drop CAP_NET_RAW from these (CapabilityBoundingSet=, --cap-drop=NET_RAW), or accept this",
    )
}

/// Holders of CAP_NET_ADMIN in a network namespace that they share.
pub(super) fn net_admin(facts: &Facts) -> Finding {
    holders(
        "net-admin",
        &facts.net_admin,
        "who rules a network namespace can read and alter what others in it exchange with the proxy over loopback, and speak in their name",
        "drop CAP_NET_ADMIN from these (CapabilityBoundingSet=, --cap-drop=NET_ADMIN), give them a network namespace of their own, or accept this",
    )
}

/// Who has a power that the layers are about, beside the host's root.
fn holders(
    check: &'static str,
    power: &Seen<Power>,
    matters: &'static str,
    remedy: &'static str,
) -> Finding {
    let power = match power {
        Err(why) => return Finding::unknown(check, why),
        Ok(power) => power,
    };
    let named = |all: &[(u32, String)]| -> Vec<String> {
        all.iter()
            .map(|(pid, name)| format!("{name} (pid {pid})"))
            .collect()
    };
    let (others, unread) = (named(&power.others), named(&power.unread));
    let roots = format!("{} processes of host root, whom nothing stops", power.roots);
    if !unread.is_empty() {
        let why = format!(
            "the namespaces of {} holders; beside them {} others, and {roots}",
            unread.len(),
            others.len()
        );
        return Finding::unknown(check, why).about(others.into_iter().chain(unread));
    }
    if others.is_empty() {
        return Finding::ok(check, format!("none beside {roots}"));
    }
    let what = format!("{} processes, beside {roots}", others.len());
    Finding::weak(check, what, matters, remedy).about(others)
}

/// Raw and packet sockets that are open: a process may have dropped the capability and kept the socket.
pub(super) fn packet_sockets(facts: &Facts) -> Finding {
    const CHECK: &str = "packet-sockets";
    let here = match facts.here() {
        Ok(here) => here,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let mut held: Vec<String> = here
        .sockets
        .iter()
        .filter_map(|socket| match socket.kind {
            SocketKind::Packet => Some(("packet", socket.inode)),
            SocketKind::Raw => Some(("raw", socket.inode)),
            _ => None,
        })
        .map(|(kind, inode)| format!("{kind}: {}", holder(facts, inode)))
        .collect();
    if held.is_empty() {
        return Finding::ok(CHECK, "none in this network namespace");
    }
    held.sort_unstable();
    held.dedup();
    Finding::weak(
        CHECK,
        "raw or packet sockets are open in this network namespace",
        "what is sent over them passes no connect hook",
        "if you don't know them, stop their holders; DHCP clients and network daemons have them for good reason: accept this then",
    )
    .about(held)
}

/// Network devices whose frames this kernel never sees.
pub(super) fn pass_through(facts: &Facts) -> Finding {
    const CHECK: &str = "pass-through";
    let devices = match &facts.devices {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(devices) => devices,
    };
    if !devices.passed_through.is_empty() {
        let held = devices.passed_through.iter();
        return Finding::open(
            CHECK,
            "network devices are passed through to guests or to programs",
            "their frames never meet this kernel: nothing here can stop what is sent over them",
            "restrict them where they end: at the switch, by the cloud's own controls, or by not passing them through",
        )
        .about(held.map(|(device, driver)| format!("{device} ({driver})")));
    }
    if devices.virtual_functions.is_empty() {
        return Finding::ok(CHECK, "no network device is passed through");
    }
    let functions = devices.virtual_functions.iter();
    Finding::weak(
        CHECK,
        "network devices have virtual functions (SR-IOV)",
        "a function that is given to a guest sends frames that never meet this kernel",
        "set sriov_numvfs to 0 where they aren't needed",
    )
    .about(functions.map(|(name, count)| format!("{name}: {count}")))
}

/// Whether a process may debug another of the same user.
pub(super) fn ptrace(facts: &Facts) -> Finding {
    const CHECK: &str = "ptrace-scope";
    let what = match &facts.ptrace_scope {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(Some(scope)) if *scope > 0 => {
            return Finding::ok(CHECK, format!("kernel.yama.ptrace_scope is {scope}"));
        }
        Ok(Some(_)) => "kernel.yama.ptrace_scope is 0",
        Ok(None) => "this kernel has no Yama",
    };
    Finding::weak(
        CHECK,
        what,
        "a process can debug any other of the same user, and ask in its name",
        "sysctl kernel.yama.ptrace_scope=1 where the kernel has it; give each workload a user of its own",
    )
}

/// Side channels to the hypervisor.
pub(super) fn vsock(facts: &Facts) -> Finding {
    const CHECK: &str = "vsock";
    let transports = match &facts.vsock {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(transports) => transports,
    };
    if transports.is_empty() {
        return Finding::ok(CHECK, "no vsock transport leads to a hypervisor");
    }
    Finding::weak(
        CHECK,
        "a vsock leads to the hypervisor",
        "what the hypervisor relays over vsock passes no hook; any process may open one",
        "don't load the module where it isn't needed; RestrictAddressFamilies=~AF_VSOCK for units",
    )
    .about(transports.clone())
}
