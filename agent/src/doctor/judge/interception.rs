//! The layers, the programs behind them, strangers beside them, and what they guard.

use super::super::facts::{CONNECT, Facts, Link, Pins, Place};
use super::super::finding::{Finding, LayerState, State};
use super::{word, worst};
use crate::intercept::Mode;
use crate::intercept::bypasses::Live;
use crate::intercept::layer::{LAYERS, Layer, Need, belongs};

/// Each layer of the table, as the kernel has it.
pub(super) fn layers(facts: &Facts) -> Vec<LayerState> {
    LAYERS
        .iter()
        .map(|layer| {
            let (state, what) = stands(facts, layer);
            LayerState {
                layer: layer.name,
                required: layer.need == Need::Required,
                state,
                stops: layer.stops,
                what,
            }
        })
        .collect()
}

fn stands(facts: &Facts, layer: &Layer) -> (State, String) {
    let pins = match &facts.pins {
        Err(why) => return (State::Unknown, why.clone()),
        Ok(None) => return (lacking(layer), "nothing is pinned".into()),
        Ok(Some(pins)) => pins,
    };
    if layer.links.is_empty() {
        return as_noted(facts, layer);
    }
    let links = |name: &str| -> Vec<&Link> {
        let all = pins.links.iter();
        all.filter(|link| belongs(&link.pin, name)).collect()
    };
    let missing: Vec<&str> = layer
        .links
        .iter()
        .copied()
        .filter(|l| links(l).is_empty())
        .collect();
    if !missing.is_empty() {
        return match known_reason(facts, layer) {
            // Who makes it needed is found by `foreign`.
            Some(why) if layer.need == Need::Spare => (State::Ok, why),
            Some(why) => (lacking(layer), why),
            None => (
                lacking(layer),
                format!("{}: not pinned", missing.join(", ")),
            ),
        };
    }
    let mut where_to = String::new();
    for link in layer.links.iter().flat_map(|name| links(name)) {
        match in_force(facts, link) {
            Ok(place) => where_to = place,
            Err((State::Open, why)) => return (lacking(layer), why),
            Err(other) => return other,
        }
    }
    (State::Ok, where_to)
}

/// A layer without pins is in netfilter: the guard's word for it.
fn as_noted(facts: &Facts, layer: &Layer) -> (State, String) {
    match facts.noted.iter().find(|n| n.layer == layer.name) {
        None => (State::Unknown, "the guard noted nothing of it".into()),
        Some(noted) => match &noted.absent {
            None => (State::Ok, "in netfilter, says the guard".into()),
            Some(why) => (lacking(layer), why.clone()),
        },
    }
}

/// Why a layer isn't there, as far as the guard or the kernel said it.
fn known_reason(facts: &Facts, layer: &Layer) -> Option<String> {
    let noted = facts.noted.iter().find(|n| n.layer == layer.name);
    let refused = facts
        .trial
        .iter()
        .flatten()
        .flat_map(|trial| &trial.refused);
    let refused = refused
        .filter(|(name, _)| layer.owns(name))
        .map(|(_, why)| why.clone())
        .next();
    noted.and_then(|n| n.absent.clone()).or(refused)
}

fn lacking(layer: &Layer) -> State {
    match layer.need {
        Need::Required => State::Open,
        Need::Optional | Need::Spare => State::Weak,
    }
}

/// Where a link is in force, or why it isn't.
fn in_force(facts: &Facts, link: &Link) -> Result<String, (State, String)> {
    let pin = &link.pin;
    let (id, attach_type) = match link.place {
        Place::Other { .. } => return Ok("in force".into()),
        Place::Interface { index: 0 } => {
            return Err((State::Open, format!("{pin}: its interface is gone")));
        }
        Place::Interface { index } => return Ok(format!("at interface {index}")),
        Place::Cgroup { id: 0, .. } => {
            return Err((State::Open, format!("{pin}: its cgroup is gone")));
        }
        Place::Cgroup { id, attach_type } => (id, attach_type),
    };
    let (path, root) = facts
        .root
        .as_ref()
        .map_err(|why| (State::Unknown, why.clone()))?;
    if id != *root {
        let what = format!(
            "{pin} is attached to another cgroup (id {id}), not to {}",
            path.display()
        );
        return Err((State::Open, what));
    }
    let effective = facts
        .effective
        .as_ref()
        .map_err(|why| (State::Unknown, why.clone()))?;
    let mut same = effective.iter().filter(|e| e.attach_type == attach_type);
    if same.any(|e| e.programs.contains(&link.program)) {
        Ok(format!("at {}", path.display()))
    } else {
        Err((
            State::Open,
            format!("{pin} is pinned, but doesn't run at {}", path.display()),
        ))
    }
}

/// The layers in one finding.
pub(super) fn standing(layers: &[LayerState]) -> Finding {
    const CHECK: &str = "layers";
    let state = worst(layers.iter().map(|l| l.state));
    let lacking: Vec<String> = layers
        .iter()
        .filter(|l| l.state != State::Ok)
        .map(|l| format!("{}: {}", l.layer, l.what))
        .collect();
    let what = format!(
        "{} of {} layers are in force",
        layers.len() - lacking.len(),
        layers.len()
    );
    match state {
        State::Ok => Finding::ok(CHECK, what),
        State::Weak => Finding::weak(
            CHECK,
            what,
            "optional layers are absent: what they stop is left to the others",
            "see the reason beside each; a newer kernel has them all",
        ),
        State::Unknown => Finding::unknown(CHECK, lacking.join("; ")),
        State::Open => Finding::open(
            CHECK,
            what,
            "callers reach the metadata service without being asked who they are",
            "start the guard: `systemctl start imds-guard`, or `imds-guard run`; with --cgroup-root, the same as it has",
        ),
    }
    .about(lacking)
}

/// Whether what is attached is what this binary carries.
pub(super) fn programs(facts: &Facts) -> Finding {
    const CHECK: &str = "programs";
    let pins = match &facts.pins {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(None) => return Finding::ok(CHECK, "none are attached"),
        Ok(Some(pins)) => pins,
    };
    let compared = facts.programs.as_ref().and_then(|loaded| {
        let trial = facts.trial.as_ref()?;
        let trial = trial.as_ref()?;
        Ok((loaded, trial))
    });
    let (loaded, trial) = match compared {
        Ok(both) => both,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let known = |link: &&Link| {
        let tag = loaded.get(&link.program).map(|p| p.tag);
        let mut of_this_name = trial
            .taken
            .iter()
            .filter(|(name, _)| belongs(&link.pin, name));
        !of_this_name.any(|(_, taken)| Some(*taken) == tag)
    };
    let strange: Vec<&Link> = pins.links.iter().filter(known).collect();
    if strange.is_empty() {
        return Finding::ok(
            CHECK,
            format!("{} programs, as this version has them", pins.links.len()),
        );
    }
    Finding::new(
        CHECK,
        State::Unknown,
        format!("{} attached programs are not those of this version", strange.len()),
        "another version of imds-guard put them there, or somebody else did: what they do isn't known",
        "restart the guard, which puts its own in their place; if they come back, find who holds CAP_BPF",
    )
    .about(strange.iter().map(|link| format!("{} (program {})", link.pin, link.program)))
}

/// Programs of others for the same sockets, and whether they run where ours don't have the first and the last word.
pub(super) fn foreign(facts: &Facts) -> Finding {
    const CHECK: &str = "foreign-programs";
    let (effective, pins) = match (&facts.effective, &facts.pins) {
        (Err(why), _) | (_, Err(why)) => return Finding::unknown(CHECK, why),
        (Ok(effective), Ok(pins)) => (effective, pins),
    };
    let below = match &facts.below {
        Ok(below) => below,
        Err(why) => return Finding::unknown(CHECK, why),
    };
    let ours = |id: u32| {
        pins.iter()
            .flat_map(|p: &Pins| &p.links)
            .any(|link| link.program == id)
    };
    let name = |id: u32, attach_type: u32| {
        let program = facts.programs.iter().find_map(|all| all.get(&id));
        let name = program.map_or("?", |p| p.name.as_str());
        format!("{name} (program {id}) at {}", attach_name(attach_type))
    };
    let mut beside = Beside::default();
    for at in effective {
        let first = at.programs.iter().position(|id| ours(*id));
        let last = at.programs.iter().rposition(|id| ours(*id));
        for (place, &id) in at.programs.iter().enumerate().filter(|(_, id)| !ours(**id)) {
            let side = if last.is_some_and(|last| place > last) {
                &mut beside.after
            } else if steers(at.attach_type) && first.is_some_and(|first| place < first) {
                &mut beside.before
            } else {
                &mut beside.harmless
            };
            side.push(name(id, at.attach_type));
        }
    }
    for (cgroup, at) in below {
        for &id in at.programs.iter().filter(|id| !ours(**id)) {
            beside
                .below
                .push(format!("{}, {cgroup}", name(id, at.attach_type)));
        }
    }
    beside.judge(CHECK)
}

/// Others' programs, by what they can do.
#[derive(Default)]
struct Beside {
    before: Vec<String>,
    after: Vec<String>,
    below: Vec<String>,
    harmless: Vec<String>,
}

impl Beside {
    fn judge(self, check: &'static str) -> Finding {
        let (before, after, below) = (self.before.len(), self.after.len(), self.below.len());
        if before + after + below == 0 {
            let what = match self.harmless.len() {
                0 => "none".to_owned(),
                n => {
                    format!("{n}, and ours have the first word and the last, or it decides nothing")
                }
            };
            return Finding::ok(check, what).about(self.harmless);
        }
        let (means, remedy) = if after > 0 {
            (
                "a program that runs after ours can send a connection elsewhere again; it takes host root to attach one",
                "if you know them, accept this; else detach them (`bpftool cgroup tree`) and find who attached them",
            )
        } else {
            (
                "a program that runs before ours may send a metadata address to a proxy of its own: its callers then get what that proxy gets, by the rules for that proxy, and nothing in the audit log names them",
                "from Linux 6.17 ours runs before those at the same cgroup; else stop whoever attached them (the Azure guest proxy agent: `systemctl disable --now azure-proxy-agent`), or grant that proxy nothing; if they leave the metadata addresses alone, accept this",
            )
        };
        let what = format!("{before} run before ours, {after} after, {below} at cgroups below");
        let all = self.before.into_iter().chain(self.after).chain(self.below);
        Finding::weak(check, what, means, remedy).about(all)
    }
}

/// Whether programs of this attach type can change where a stream goes.
fn steers(attach_type: u32) -> bool {
    CONNECT.contains(&attach_type)
}

/// What is guarded, and how strictly.
pub(super) fn endpoints(facts: &Facts) -> Finding {
    const CHECK: &str = "endpoints";
    let table = match &facts.endpoints {
        Err(why) => return Finding::unknown(CHECK, why),
        Ok(table) => table,
    };
    let enforced = table
        .iter()
        .filter(|(_, mode)| *mode == Mode::Enforce)
        .count();
    let lax = table.iter().filter(|(_, mode)| *mode != Mode::Enforce);
    let lax: Vec<String> = lax
        .map(|(at, mode)| format!("{at}: {}", word(*mode)))
        .collect();
    let what = format!("{enforced} of {} are enforced", table.len());
    if table.iter().all(|(_, mode)| *mode == Mode::Observe) {
        return Finding::open(
            CHECK,
            what,
            "no address is guarded: connections aren't touched",
            "write policy for your cloud, or its endpoints' mode under [endpoints]",
        )
        .about(lax);
    }
    if lax.is_empty() {
        return Finding::ok(CHECK, what);
    }
    Finding::weak(
        CHECK,
        what,
        "`observe` touches no connection; `audit` passes on what no rule grants",
        "if this machine can reach them, write `enforce` for them under [endpoints]",
    )
    .about(lax)
}

/// `enum bpf_attach_type` of include/uapi/linux/bpf.h, those of cgroups that matter here.
const ATTACH_TYPES: [(u32, &str); 13] = [
    (0, "ingress"),
    (1, "egress"),
    (2, "sock_create"),
    (3, "sock_ops"),
    (8, "bind4"),
    (9, "bind6"),
    (10, "connect4"),
    (11, "connect6"),
    (14, "sendmsg4"),
    (15, "sendmsg6"),
    (29, "getpeername4"),
    (30, "getpeername6"),
    (34, "sock_release"),
];

fn attach_name(attach_type: u32) -> String {
    let known = ATTACH_TYPES
        .iter()
        .find(|(number, _)| *number == attach_type);
    known.map_or_else(
        || format!("attach type {attach_type}"),
        |(_, name)| (*name).to_owned(),
    )
}

/// Whether somebody is let pass for a while.
pub(super) fn bypasses(facts: &Facts) -> Finding {
    const CHECK: &str = "bypasses";
    match &facts.bypasses {
        Err(why) => Finding::unknown(CHECK, why),
        Ok(live) if live.is_empty() => Finding::ok(CHECK, "nobody is bypassed"),
        Ok(live) => Finding::weak(
            CHECK,
            format!("{} in force", live.len()),
            "whom they name reaches the real service as if nothing were guarded, until their time is over",
            "when it isn't needed any more: `imds-guard bypass --end ID`",
        )
        .about(live.iter().map(|live| {
            let Live { id, name, until, reason, .. } = live;
            format!("{id}: {name} until {until}: {reason}")
        })),
    }
}
