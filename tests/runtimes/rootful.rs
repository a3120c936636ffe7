//! Podman as root: containers are told apart by their cgroups, in whichever network namespace they are.

use crate::installed::{Installed, policy};
use crate::podman::{Container, Engine};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::{FakeAzure, Machine, Outcome, require};

/// What each of them is to get: the token, or this answer.
fn get(azure: &FakeAzure, agent: &Installed, wanted: &[(&Container, Option<&str>)]) -> Result<()> {
    for (number, (container, refused)) in wanted.iter().enumerate() {
        let outcome = container.asker.attempt(azure)?;
        let wanted = refused.map_or(Outcome::Obtained(Machine::ADDRESS), |told| {
            Outcome::Nothing(told.to_owned())
        });
        ensure!(
            outcome == wanted,
            "container {number}: {outcome:?}, not {wanted:?}\n{}",
            agent.log()
        );
    }
    Ok(())
}

/// Both reach the service without us, so nothing else keeps them from it.
fn reach(azure: &FakeAzure, containers: &[&Container]) -> Result<()> {
    for container in containers {
        let outcome = container.asker.attempt(azure)?;
        ensure!(outcome.from() == Some(Machine::ADDRESS), "{outcome:?}");
    }
    Ok(())
}

#[test]
#[ignore = "runtimes: cargo xtask test runtimes"]
fn two_containers_on_a_bridge_are_told_apart_by_their_cgroups() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Root.prepare()?;
    let billing = engine.start("billing", &["--cgroup-parent=billing.slice"])?;
    let web = engine.start("web", &[])?;
    ensure!(
        billing.cgroup()?.starts_with("/billing.slice/libpod-"),
        "{}",
        billing.cgroup()?
    );
    ensure!(
        web.cgroup()?.starts_with("/machine.slice/libpod-"),
        "{}",
        web.cgroup()?
    );
    reach(&azure, &[&billing, &web])?;

    // By a slice of the operator's choice …
    let by_parent: &[&str] = &["cgroup:path:/billing.slice/**"];
    let mut agent = Installed::new(&machine, &policy("enforce", &[by_parent]))?;
    get(&azure, &agent, &[(&billing, None), (&web, Some("403"))])?;
    // … by systemd's name of it …
    agent.change(&policy("enforce", &[&["systemd:slice:billing.slice"]]))?;
    get(&azure, &agent, &[(&billing, None), (&web, Some("403"))])?;
    // … and by the one container.
    let own = web.selector()?;
    agent.change(&policy("enforce", &[&[&own]]))?;
    get(&azure, &agent, &[(&billing, Some("403")), (&web, None)])
}

#[test]
#[ignore = "runtimes: cargo xtask test runtimes"]
fn on_the_hosts_network_on_none_and_in_one_pod_each_is_itself() -> Result<()> {
    require!(Root, Cgroup2, Bpf, Agent);
    let machine = Machine::take()?;
    let azure = machine.azure()?;
    let engine = Engine::Root.prepare()?;
    let host = engine.start("host", &["--network=host"])?;
    let none = engine.start("none", &["--network=none"])?;
    let (first, second) = pod(engine)?;
    reach(&azure, &[&host, &first, &second])?;
    let without = none.asker.attempt(&azure)?;
    ensure!(
        without == Outcome::Nothing(UNREACHABLE.into()),
        "{without:?}"
    );

    let granted = [host.selector()?, first.selector()?];
    let grants: [&[&str]; 2] = [&[&granted[0]], &[&granted[1]]];
    let mut agent = Installed::new(&machine, &policy("enforce", &grants))?;
    get(
        &azure,
        &agent,
        &[
            (&host, None),
            (&none, Some("403")),
            (&first, None),
            (&second, Some("403")),
        ],
    )?;
    // The others, and what has no network is served by a rule alone.
    let granted = [none.selector()?, second.selector()?];
    let grants: [&[&str]; 2] = [&[&granted[0]], &[&granted[1]]];
    agent.change(&policy("enforce", &grants))?;
    get(
        &azure,
        &agent,
        &[
            (&host, Some("403")),
            (&none, None),
            (&first, Some("403")),
            (&second, None),
        ],
    )?;
    // Nothing was opened for it: in audit the same rule lets it get no further than it gets itself.
    agent.change(&policy("audit", &grants))?;
    let audited = none.asker.attempt(&azure)?;
    ensure!(audited.from().is_none(), "{audited:?}");
    let audited = host.asker.attempt(&azure)?;
    ensure!(audited.from() == Some(Machine::ADDRESS), "{audited:?}");
    Ok(())
}

const UNREACHABLE: &str = "Network is unreachable (os error 101)";

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
