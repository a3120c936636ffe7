//! Units whose systemd filters their packets, and one whose doesn't: in each mode nobody obtains what it could not before, but by
//! an enforced grant.

use crate::asker::Asker;
use crate::installed::run;
use crate::table::{Case, walk};
use anyhow::Result;
use imds_guard_tests::{Fate, Machine, require};
use std::net::IpAddr;

const HOST: Option<IpAddr> = Some(Machine::ADDRESS);

/// A transient unit that runs `command` with these properties.
pub(crate) fn start(name: &str, properties: &[&str], command: &[&str]) -> Result<()> {
    let unit = format!("--unit={name}");
    let mut arguments = vec!["--quiet", "--collect", &unit];
    arguments.push("--setenv=PATH=/run/payload/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    for property in properties {
        arguments.extend(["-p", property]);
    }
    arguments.push("--");
    arguments.extend(command);
    run("systemd-run", &arguments).map(drop)
}

fn unit(name: &str, properties: &[&str], reach: Option<IpAddr>, fate: Fate) -> Result<Case> {
    let asker = Asker::new(name)?;
    let script = Asker::script(asker.directory());
    let properties = [properties, &["User=nobody"]].concat();
    start(name, &properties, &["sh", "-c", &script])?;
    Ok(Case {
        asker,
        selector: format!("systemd:id:{name}.service"),
        reach,
        fate,
    })
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn what_a_unit_filters_is_not_undone_and_what_it_lets_pass_still_passes() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let (deny, deny_all) = ("IPAddressDeny=169.254.169.254", "IPAddressDeny=any");
    let (metadata, localhost) = ("IPAddressAllow=169.254.169.254", "IPAddressAllow=localhost");
    let cases = [
        unit("plain", &[], HOST, Fate::Steered)?,
        unit("denied", &[deny], None, Fate::Filtered)?,
        unit("only", &[deny_all, metadata], HOST, Fate::FilteredOut)?,
        unit("local", &[deny_all, localhost], None, Fate::Filtered)?,
        unit(
            "both",
            &[deny_all, metadata, localhost],
            HOST,
            Fate::Filtered,
        )?,
        unit("counted", &["IPAccounting=yes"], HOST, Fate::Filtered)?,
    ];
    walk(&machine, &azure, &cases)
}
