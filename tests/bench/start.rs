//! How long a start takes, from exec to the word that protection is in force, and what an idle agent holds.

use crate::figure::Figure;
use crate::place::with_children;
use crate::spread::{Aim, Spread};
use crate::{ours, usage};
use anyhow::Result;
use imds_guard_tests::World;
use std::time::{Duration, Instant};

/// Starts to measure.
const STARTS: usize = 7;

/// How long an idle agent is looked at: it looks after itself a few times a second, and a clock's tick is 10 ms.
const IDLE: Duration = Duration::from_secs(3);

/// Each start in a world of its own (nothing pinned there), and one more there, which takes over what is pinned.
pub(crate) fn measure() -> Result<Vec<Figure>> {
    let (mut fresh, mut again, mut idle) = (Vec::new(), Vec::new(), Vec::new());
    let (mut guard, mut proxy, mut busy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let world = World::new("start")?;
        fresh.push(timed(&world)?.0);
        let (ms, agent) = timed(&world)?;
        again.push(ms);
        // What the start itself used goes back within moments.
        std::thread::sleep(Duration::from_millis(300));
        let pids = with_children(agent.pid());
        idle.push(usage::pss_mib(&pids)?);
        guard.push(usage::pss_mib(&pids[..1])?);
        proxy.push(usage::pss_mib(&pids[1..])?);
        let (began, used) = (Instant::now(), usage::cpu_us(&pids)?);
        std::thread::sleep(IDLE);
        let used = usage::cpu_us(&pids)? - used;
        busy.push(used / began.elapsed().as_secs_f64() / 1e4);
    }
    let figure = |what: &str, unit, values, aim| Figure {
        what: what.to_owned(),
        unit,
        value: Spread::of(values),
        aim,
    };
    let at_most = |most| Some(Aim::AtMost(most));
    Ok(vec![
        figure(
            "start to enforcing, nothing pinned",
            "ms",
            fresh,
            at_most(150.0),
        ),
        figure(
            "start to enforcing, taking over pinned programs",
            "ms",
            again,
            at_most(150.0),
        ),
        figure(
            "memory of both processes, idle (PSS)",
            "MiB",
            idle,
            at_most(12.0),
        ),
        figure("of the guard alone", "MiB", guard, None),
        figure("of the proxy alone", "MiB", proxy, None),
        figure("processor, idle: both, of one core", "%", busy, None),
    ])
}

/// From before fork and exec to READY=1, in milliseconds.
fn timed(world: &World) -> Result<(f64, imds_guard_tests::AgentProcess)> {
    let agent = world.agent().config(&ours::configuration()?);
    let started = Instant::now();
    let agent = agent.start()?;
    Ok((started.elapsed().as_secs_f64() * 1e3, agent))
}
