//! A caller in a VRF: its sockets are bound to the VRF's device as they are made, by a program that `ip vrf exec` puts on its
//! cgroup, and its packets go by the VRF's own routes.

use crate::asker::Asker;
use crate::installed::run;
use crate::table::{Case, walk};
use crate::units::start;
use anyhow::Result;
use imds_guard_tests::{Fate, Machine, require};
use std::net::{IpAddr, Ipv4Addr};

/// The machine's address on the VRF's cable, as the real service sees it.
const IN_VRF: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 203, 0, 1));

fn caller(name: &str, command: &[&str], reach: IpAddr, fate: Fate) -> Result<Case> {
    let asker = Asker::new(name)?;
    let script = Asker::script(asker.directory());
    start(name, &[], &[command, &["sh", "-c", &script]].concat())?;
    Ok(Case {
        asker,
        selector: format!("systemd:id:{name}.service"),
        reach: Some(reach),
        fate,
    })
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn who_relies_on_a_vrf_is_not_set_free_of_it() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let mut machine = Machine::take()?;
    let azure = machine.azure()?;
    run(
        "ip",
        &["link", "add", "tw-vrf", "type", "vrf", "table", "100"],
    )?;
    run("ip", &["link", "set", "tw-vrf", "up"])?;
    machine.second_cable("tw-v", "tw-vdown", [10, 203, 0])?;
    run("ip", &["link", "set", "tw-v", "master", "tw-vrf"])?;
    let by_way = [
        "route",
        "add",
        "default",
        "via",
        "10.203.0.2",
        "table",
        "100",
    ];
    run("ip", &by_way)?;
    let exec = ["ip", "vrf", "exec", "tw-vrf"];
    let user = ["setpriv", "--reuid=1001", "--regid=1001", "--clear-groups"];
    let cases = [
        caller("host", &user, Machine::ADDRESS, Fate::Steered)?,
        // The kernel lets it bind its socket once, and that was done.
        caller(
            "confined",
            &[&exec[..], &user].concat(),
            IN_VRF,
            Fate::Bound,
        )?,
        caller("root", &exec, IN_VRF, Fate::Steered)?,
    ];
    walk(&machine, &azure, &cases)
}
