//! Podman as root: containers are told apart by their cgroups, in whichever network namespace they are.

use crate::asker::enforced;
use crate::installed::{Installed, policy};
use crate::podman::{Container, Engine};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::{FakeAzure, Machine, Outcome, require};

const UNREACHABLE: &str = "Network is unreachable (os error 101)";

/// Who of them is served in enforce; the others are refused.
fn served(azure: &FakeAzure, agent: &Installed, wanted: &[(&Container, bool)]) -> Result<()> {
    for (number, (container, served)) in wanted.iter().enumerate() {
        let (outcome, wanted) = (container.asker.attempt(azure)?, enforced(*served));
        ensure!(
            outcome == wanted,
            "container {number}: {outcome:?}, not {wanted:?}\n{}",
            agent.said()
        );
    }
    Ok(())
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn two_containers_on_a_bridge_are_told_apart_by_their_cgroups() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Root.prepare()?;
    let billing = engine.start("billing", &["--cgroup-parent=billing.slice"])?;
    let web = engine.start("web", &[])?;
    for (container, place) in [(&billing, "/billing.slice/"), (&web, "/machine.slice/")] {
        let cgroup = container.cgroup()?;
        ensure!(cgroup.starts_with(&format!("{place}libpod-")), "{cgroup}");
        container.asker.reaches(&azure)?;
    }
    // By a slice of the operator's choice …
    let by_parent: &[&str] = &["cgroup:path:/billing.slice/**"];
    let mut agent = Installed::new(&machine, &policy("enforce", &[by_parent]))?;
    served(&azure, &agent, &[(&billing, true), (&web, false)])?;
    // … by systemd's name of it …
    agent.change(&policy("enforce", &[&["systemd:slice:billing.slice"]]))?;
    served(&azure, &agent, &[(&billing, true), (&web, false)])?;
    // … and by the one container.
    let own = web.selector()?;
    agent.change(&policy("enforce", &[&[&own]]))?;
    served(&azure, &agent, &[(&billing, false), (&web, true)])
}

#[test]
#[ignore = "systems: cargo xtask test systems"]
fn on_the_hosts_network_on_none_and_in_one_pod_each_is_itself() -> Result<()> {
    require!(Root, Cgroup2, Bpf);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Root.prepare()?;
    let host = engine.start("host", &["--network=host"])?;
    let none = engine.start("none", &["--network=none"])?;
    let (first, second) = pod(engine)?;
    for container in [&host, &first, &second] {
        container.asker.reaches(&azure)?;
    }
    let without = none.asker.attempt(&azure)?;
    ensure!(
        without == Outcome::Nothing(UNREACHABLE.into()),
        "{without:?}"
    );
    let all = [&host, &first, &none, &second];
    // One of each pair, then the other one: what has no network is served by a rule alone.
    let half = [host.selector()?, first.selector()?];
    let mut agent = Installed::new(&machine, &policy("enforce", &[]))?;
    served(&azure, &agent, &all.map(|container| (container, false)))?;
    for (half, wanted) in [
        (half, [true, true, false, false]),
        (
            [none.selector()?, second.selector()?],
            [false, false, true, true],
        ),
    ] {
        agent.change(&granting("enforce", &half))?;
        let wanted: Vec<_> = all.into_iter().zip(wanted).collect();
        served(&azure, &agent, &wanted)?;
    }
    // Nothing was opened for it: in audit the same rule lets it get no further than it gets itself.
    agent.change(&granting("audit", &[none.selector()?, second.selector()?]))?;
    let audited = none.asker.attempt(&azure)?;
    ensure!(audited.from().is_none(), "{audited:?}");
    host.asker.reaches(&azure)
}

fn granting(mode: &str, [one, other]: &[String; 2]) -> String {
    policy(mode, &[&[one], &[other]])
}

/// Two containers of one pod, and so in one network namespace.
fn pod(engine: Engine) -> Result<(Container, Container)> {
    let infra = ["--infra-image=localhost/app", "--infra-command=/bin/pause"];
    let create = ["pod", "create", "--replace", "--name=shop"];
    engine.podman(&[&create[..], &infra].concat())?;
    let first = engine.start("first", &["--pod=shop"])?;
    let second = engine.start("second", &["--pod=shop"])?;
    let namespace = |container: &Container| {
        std::fs::read_link(format!("/proc/{}/ns/net", container.pid)).context("a namespace")
    };
    ensure!(
        namespace(&first)? == namespace(&second)?,
        "not one namespace"
    );
    Ok((first, second))
}
