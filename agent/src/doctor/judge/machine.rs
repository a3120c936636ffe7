//! What the guard stands on and whether it runs: kernel, process, listeners, namespaces, connections older than it.

use super::super::facts::{Facts, Holder, Socket, SocketKind, Space};
use super::super::finding::{Finding, LayerState, State};
use super::Guarded;

/// Whether this kernel takes the programs: they were loaded, and dropped again.
pub(super) fn kernel(facts: &Facts) -> Finding {
    const CHECK: &str = "kernel";
    match &facts.trial {
        Err(why) => Finding::unknown(CHECK, why),
        Ok(Ok(trial)) if trial.refused.is_empty() => Finding::ok(
            CHECK,
            format!("{} takes all {} programs", facts.release, trial.taken.len()),
        ),
        Ok(Ok(trial)) => Finding::weak(
            CHECK,
            format!(
                "{} refuses {} of the programs",
                facts.release,
                trial.refused.len()
            ),
            "these are optional: the layers that they make are absent",
            "a newer kernel has them all; lockdown and security modules can refuse some",
        )
        .about(
            trial
                .refused
                .iter()
                .map(|(name, why)| format!("{name}: {why}")),
        ),
        Ok(Err(refusal)) => Finding::open(
            CHECK,
            format!("{} does not take the programs: {refusal}", facts.release),
            "the guard can't start on this kernel; what an earlier one pinned stays",
            "boot a kernel that has it: Linux 6.1 or later, or RHEL 9",
        ),
    }
}

/// Whether the guard runs.
pub(super) fn guard(facts: &Facts) -> Finding {
    const CHECK: &str = "guard";
    match (&facts.guard, &facts.pins) {
        (Err(why), _) => Finding::unknown(CHECK, why),
        (Ok(Some(pid)), _) => Finding::ok(CHECK, format!("runs as process {pid}")),
        (Ok(None), Ok(None)) => Finding::weak(
            CHECK,
            "doesn't run, and nothing is pinned",
            "it was never started on this machine, or torn down",
            "start it: `systemctl start imds-guard`, or `imds-guard run`",
        ),
        (Ok(None), _) => Finding::weak(
            CHECK,
            "doesn't run",
            "enforced addresses refuse everybody until it does; endpoints in audit aren't guarded",
            "start it: `systemctl start imds-guard`, or `imds-guard run`",
        ),
    }
}

/// Whether what listens on our port is ours.
pub(super) fn listener(facts: &Facts) -> Finding {
    const CHECK: &str = "listener";
    let here = match facts.here() {
        Ok(here) => here,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let of = |space: &Space| -> Vec<u64> {
        let listening = |s: &&Socket| s.kind == SocketKind::Listener;
        space
            .sockets
            .iter()
            .filter(listening)
            .map(|s| s.inode)
            .collect()
    };
    let port = facts.port;
    if of(here).is_empty() {
        return Finding::weak(
            CHECK,
            format!("nothing listens on loopback port {port} in this network namespace"),
            "enforced addresses refuse everybody here; endpoints in audit aren't guarded",
            "start the guard; if it runs, name its port with --port",
        );
    }
    let marked = match &facts.marked {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(marked) => marked,
    };
    let unread = of(here)
        .into_iter()
        .find_map(|inode| match marked.get(&inode) {
            Some(Ok(_)) => None,
            Some(Err(why)) => Some(why.as_str()),
            None => Some("it came while doctor looked"),
        });
    if let Some(why) = unread {
        return Finding::unknown(CHECK, why);
    }
    let ours = |inode: &u64| marked.get(inode) == Some(&Ok(true));
    let mut strangers = of(here);
    strangers.retain(|inode| !ours(inode));
    if !strangers.is_empty() {
        return Finding::weak(
            CHECK,
            format!("what listens on loopback port {port} isn't the guard's"),
            "the kernel doesn't steer to it: enforced addresses refuse everybody here",
            format!("stop it (`ss -ltnp sport = :{port}`), then start the guard"),
        )
        .about(strangers.iter().map(|inode| holder(facts, *inode)));
    }
    let spaces = facts.spaces.iter().flatten();
    let (all, with) = spaces.fold((0, 0), |(all, with), space| {
        (all + 1, with + usize::from(of(space).iter().any(ours)))
    });
    Finding::ok(
        CHECK,
        format!(
            "port {port}, marked; {with} of {all} network namespaces have one, the others' callers are refused until they do"
        ),
    )
}

/// Whether each network namespace could be looked into.
pub(super) fn spaces(facts: &Facts) -> Finding {
    const CHECK: &str = "namespaces";
    match &facts.spaces {
        Err(why) => Finding::unknown(CHECK, why),
        Ok(_) if !facts.closed.is_empty() => {
            Finding::unknown(CHECK, format!("{} of them", facts.closed.len()))
                .about(facts.closed.clone())
        }
        Ok(all) => Finding::ok(CHECK, format!("{} looked into", all.len())),
    }
}

/// Connections that no hook saw: older than the guard, or made where it doesn't guard.
pub(super) fn connections(facts: &Facts, guarded: &Guarded, layers: &[LayerState]) -> Finding {
    const CHECK: &str = "connections";
    let spaces = match &facts.spaces {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(spaces) => spaces,
    };
    let holders = match &facts.holders {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(holders) => holders,
    };
    let mut found = Vec::new();
    for space in spaces {
        for socket in &space.sockets {
            let SocketKind::Connected(to) = socket.kind else {
                continue;
            };
            let theirs = holders
                .get(&socket.inode)
                .is_none_or(|holder| !holder.ours && is_guarded(facts, holder));
            if guarded.enforced(to) && theirs {
                found.push(format!(
                    "{to} from {} ({})",
                    holder(facts, socket.inode),
                    space.name
                ));
            }
        }
    }
    if found.is_empty() {
        return Finding::ok(CHECK, "none to an enforced address but the proxy's own");
    }
    let stopped = layers
        .iter()
        .any(|l| l.layer == PACKETS && l.state == State::Ok);
    let (state, means) = if stopped {
        (
            State::Weak,
            "opened before the guard started; no packet of theirs leaves any more, and they aren't closed",
        )
    } else {
        (
            State::Open,
            "opened before the guard started: what is asked over them is answered by the real service",
        )
    };
    Finding::new(
        CHECK,
        state,
        format!(
            "{} to enforced addresses that the proxy doesn't hold",
            found.len()
        ),
        means,
        "restart these processes, or close the connections: `ss -K dst 169.254.169.254`",
    )
    .about(found)
}

/// Whether a process is among those that should be guarded; who can't be told apart is.
fn is_guarded(facts: &Facts, holder: &Holder) -> bool {
    match (&holder.cgroup, &facts.root) {
        (Some(cgroup), Ok((root, _))) => cgroup.starts_with(root),
        _ => true,
    }
}

/// The layer that stops the packets of connections that no hook has seen.
const PACKETS: &str = "packets";

/// Who holds a socket, for people.
pub(super) fn holder(facts: &Facts, inode: u64) -> String {
    let holder = facts.holders.iter().find_map(|all| all.get(&inode));
    match holder {
        Some(holder) => format!("{} (pid {})", holder.name, holder.pid),
        None => format!("nobody that could be seen (socket {inode})"),
    }
}
