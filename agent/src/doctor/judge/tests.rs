//! Each judgement beside its twin: a machine on which all is well, and the same with one thing changed.

use std::collections::BTreeMap;

use super::*;
use crate::doctor::facts::{
    CONNECT, Devices, Effective, Holder, Interface, Link, Pins, Place, Power, Program, Route, Rule,
    Socket, SocketKind, Space,
};
use crate::intercept::bypasses::Live;
use crate::intercept::layer::{LAYERS, Need};
use crate::intercept::{NotedGuests, Trial};

const ROOT: u64 = 77;
const LISTENER: u64 = 5;

/// Attach types of no meaning here but to be different.
fn linked() -> impl Iterator<Item = (u32, &'static str)> {
    (1..).zip(LAYERS.iter().flat_map(|layer| layer.links).copied())
}

fn endpoint() -> SocketAddr {
    "169.254.169.254:80".parse().unwrap()
}

fn pinned() -> Pins {
    let link = |(id, name): (u32, &str)| Link {
        pin: name.into(),
        program: id,
        place: Place::Cgroup {
            id: ROOT,
            attach_type: id,
        },
    };
    Pins {
        layouts: vec!["layout-1".into()],
        links: linked().map(link).collect(),
    }
}

fn host() -> Space {
    Space {
        name: "this one".into(),
        interfaces: vec![Interface {
            name: "eth0".into(),
            index: 2,
            device: Some("pci 0000:00:05.0".into()),
            ..Interface::default()
        }],
        defaults: vec!["eth0".into()],
        sockets: vec![Socket {
            kind: SocketKind::Listener,
            inode: LISTENER,
        }],
        ..Space::default()
    }
}

/// A machine on which everything is as it should be.
fn well() -> Facts {
    let program = |name: &str, tag| Program {
        name: name.into(),
        tag,
    };
    Facts {
        release: "6.12".into(),
        port: 8788,
        root: Ok(("/sys/fs/cgroup".into(), ROOT)),
        trial: Ok(Ok(Trial {
            taken: linked()
                .map(|(id, name)| (name.into(), id.into()))
                .collect(),
            refused: vec![],
        })),
        pins: Ok(Some(pinned())),
        noted: LAYERS
            .iter()
            .filter(|layer| layer.links.is_empty())
            .map(|layer| layer.stands())
            .collect(),
        guests: Some(NotedGuests::default()),
        tables: Ok(vec!["inet".into(), "bridge".into()]),
        programs: Ok(linked()
            .map(|(id, name)| (id, program(name, id.into())))
            .collect()),
        effective: Ok(linked()
            .map(|(id, _)| Effective {
                attach_type: id,
                programs: vec![id],
            })
            .collect()),
        below: Ok(vec![]),
        endpoints: Ok(vec![(endpoint(), Mode::Enforce)]),
        bypasses: Ok(vec![]),
        guard: Ok(Some(4)),
        spaces: Ok(vec![host()]),
        closed: vec![],
        raw: Ok(Power {
            roots: 9,
            ..Power::default()
        }),
        net_admin: Ok(Power::default()),
        holders: Ok(BTreeMap::new()),
        marked: Ok(BTreeMap::from([(LISTENER, Ok(true))])),
        devices: Ok(Devices::default()),
        route_localnet: Ok(vec![]),
        port_range: Ok((32768, 60999, false)),
        ptrace_scope: Ok(Some(1)),
        vsock: Ok(vec![]),
        foreign_rules: Ok(vec![]),
    }
}

/// Findings that are not ok, with their states.
fn wrong(facts: &Facts) -> Vec<(&'static str, State)> {
    let report = judge(facts, &[]);
    let wrong = report.findings.iter().filter(|f| f.state != State::Ok);
    wrong.map(|f| (f.check, f.state)).collect()
}

/// With one thing changed, exactly this finding changes, and it says what it means and what to do.
#[track_caller]
fn changes(check: &'static str, state: State, change: impl FnOnce(&mut Facts)) {
    let mut facts = well();
    change(&mut facts);
    assert_eq!(wrong(&facts), [(check, state)]);
    let report = judge(&facts, &[]);
    assert_eq!(report.verdict, state);
    let finding = report.findings.iter().find(|f| f.check == check).unwrap();
    assert!(
        !finding.means.is_empty() && !finding.remedy.is_empty(),
        "{finding:?}"
    );
}

fn here(facts: &mut Facts) -> &mut Space {
    facts.spaces.as_mut().unwrap().first_mut().unwrap()
}

fn pins(facts: &mut Facts) -> &mut Vec<Link> {
    &mut facts.pins.as_mut().unwrap().as_mut().unwrap().links
}

#[test]
fn all_well_is_covered_and_every_check_has_one_finding() {
    let report = judge(&well(), &[]);
    assert_eq!(wrong(&well()), []);
    assert_eq!(report.verdict, State::Ok);
    let names: Vec<&str> = report.findings.iter().map(|f| f.check).collect();
    assert_eq!(names, CHECKS);
}

#[test]
fn a_missing_link_is_a_hole_or_a_weakness_by_its_layer() {
    for layer in LAYERS {
        let state = match layer.need {
            Need::Required => State::Open,
            Need::Optional | Need::Spare => State::Weak,
        };
        for name in layer.links {
            changes("layers", state, |f| {
                pins(f).retain(|link| link.pin != *name)
            });
        }
    }
}

#[test]
fn a_link_elsewhere_or_nowhere_or_idle_is_a_hole() {
    let connect4 = |f: &mut Facts, id| {
        let links = pins(f).iter_mut();
        for link in links.filter(|link| link.pin == "connect4") {
            let Place::Cgroup { attach_type, .. } = link.place else {
                continue;
            };
            link.place = Place::Cgroup { id, attach_type };
        }
    };
    changes("layers", State::Open, |f| connect4(f, ROOT + 1));
    changes("layers", State::Open, |f| connect4(f, 0));
    changes("layers", State::Open, |f| {
        f.effective.as_mut().unwrap()[0].programs.clear()
    });
}

#[test]
fn never_installed_is_open_and_what_cannot_be_read_is_unknown() {
    let mut facts = well();
    facts.pins = Ok(None);
    facts.endpoints = Ok(vec![]);
    facts.guard = Ok(None);
    here(&mut facts).sockets.clear();
    let report = judge(&facts, &[]);
    assert_eq!(report.verdict, State::Open);
    let hidden = |f: &mut Facts| {
        let no = || "no".to_owned();
        f.pins = Err(no());
        f.root = Err(no());
        f.trial = Err(no());
        f.programs = Err(no());
        f.effective = Err(no());
        f.endpoints = Err(no());
        f.guard = Err(no());
        f.spaces = Err(no());
        f.raw = Err(no());
        f.net_admin = Err(no());
        f.holders = Err(no());
        f.marked = Err(no());
        f.devices = Err(no());
        f.route_localnet = Err(no());
        f.port_range = Err(no());
        f.ptrace_scope = Err(no());
        f.vsock = Err(no());
        f.foreign_rules = Err(no());
        f.bypasses = Err(no());
        f.tables = Err(no());
    };
    let mut facts = well();
    hidden(&mut facts);
    let report = judge(&facts, &[]);
    assert!(
        report.findings.iter().all(|f| f.state == State::Unknown),
        "{:?}",
        wrong(&facts)
    );
    assert!(report.layers.iter().all(|l| l.state == State::Unknown));
    assert_eq!(report.verdict, State::Unknown);
}

#[test]
fn a_stopped_guard_is_weak_and_the_layers_stand() {
    let mut facts = well();
    facts.guard = Ok(None);
    here(&mut facts).sockets.clear();
    assert_eq!(
        wrong(&facts),
        [("guard", State::Weak), ("listener", State::Weak)]
    );
}

#[test]
fn guests_that_pass_or_are_not_served() {
    let fault = |f: &mut Facts| {
        f.guests = Some(NotedGuests {
            faults: vec!["the guest at tap0 is not served: there is no such interface".into()],
            ..NotedGuests::default()
        });
    };
    let only = |f: &mut Facts, family: &str| f.tables = Ok(vec![family.into()]);
    changes("guests", State::Weak, fault);
    changes("guests", State::Weak, |f| only(f, "inet"));
    changes("guests", State::Weak, |f| only(f, "bridge"));
    changes("guests", State::Open, |f| {
        fault(f);
        only(f, "bridge");
    });
    changes("guests", State::Unknown, |f| f.tables = Err("no".into()));
    let mut lax = well();
    only(&mut lax, "netdev");
    lax.endpoints = Ok(vec![(endpoint(), Mode::Audit)]);
    assert_eq!(wrong(&lax), [("endpoints", State::Weak)]);
}

#[test]
fn programs_of_others_are_judged_by_their_place() {
    let foreign =
        |f: &mut Facts, at: usize| f.effective.as_mut().unwrap()[0].programs.insert(at, 4711);
    changes("foreign-programs", State::Weak, |f| foreign(f, 1));
    let mut before = well();
    foreign(&mut before, 0);
    assert_eq!(wrong(&before), [], "a filter of packets");
    let connect = |programs: &[u32]| Effective {
        attach_type: CONNECT[0],
        programs: programs.to_vec(),
    };
    let at =
        |f: &mut Facts, programs: &[u32]| f.effective.as_mut().unwrap().push(connect(programs));
    let (first, last) = (linked().next().unwrap().0, linked().last().unwrap().0);
    let mut between = well();
    at(&mut between, &[first, 4711, last]);
    assert_eq!(wrong(&between), []);
    // Without a first word of ours, and with one that isn't the first.
    changes("foreign-programs", State::Weak, |f| at(f, &[4711, last]));
    changes("foreign-programs", State::Weak, |f| {
        at(f, &[4711, first, last])
    });
    changes("foreign-programs", State::Weak, |f| {
        f.below = Ok(vec![("/kubepods".into(), connect(&[4711]))]);
    });
    changes("foreign-programs", State::Unknown, |f| {
        f.below = Err("no".into())
    });
    changes("programs", State::Unknown, |f| {
        f.programs.as_mut().unwrap().get_mut(&1).unwrap().tag = 4711;
    });
}

#[test]
fn modes_of_endpoints() {
    let with = |f: &mut Facts, mode| {
        f.endpoints
            .as_mut()
            .unwrap()
            .push(("[fd00::1]:80".parse().unwrap(), mode))
    };
    changes("endpoints", State::Weak, |f| with(f, Mode::Audit));
    changes("endpoints", State::Weak, |f| with(f, Mode::Observe));
    changes("endpoints", State::Open, |f| {
        f.endpoints = Ok(vec![(endpoint(), Mode::Observe)])
    });
    changes("endpoints", State::Open, |f| f.endpoints = Ok(vec![]));
    let mut more = well();
    with(&mut more, Mode::Enforce);
    assert_eq!(wrong(&more), []);
}

#[test]
fn the_kernel_the_listener_and_the_namespaces() {
    changes("listener", State::Weak, |f| {
        f.marked = Ok(BTreeMap::from([(LISTENER, Ok(false))]))
    });
    changes("listener", State::Weak, |f| here(f).sockets.clear());
    changes("listener", State::Unknown, |f| {
        f.marked = Ok(BTreeMap::new())
    });
    changes("namespaces", State::Unknown, |f| {
        f.closed.push("netns x: no".into())
    });
    changes("kernel", State::Weak, |f| {
        let trial = f.trial.as_mut().unwrap().as_mut().unwrap();
        trial.refused.push(("new".into(), "lacks Y".into()));
    });
    let mut refused = well();
    refused.trial = Ok(Err("lacks X".into()));
    // With nothing to compare, what is attached can't be vouched for either.
    assert_eq!(
        wrong(&refused),
        [("programs", State::Unknown), ("kernel", State::Open)]
    );
}

#[test]
fn connections_that_nobody_steered_are_open_unless_they_are_ours_or_allowed() {
    let connected = |f: &mut Facts| {
        here(f).sockets.push(Socket {
            kind: SocketKind::Connected(endpoint()),
            inode: 6,
        });
    };
    // The guard of packets stops them; without it, they are a way round.
    changes("connections", State::Weak, connected);
    let mut unstopped = well();
    connected(&mut unstopped);
    pins(&mut unstopped).retain(|link| link.pin != "egress");
    assert_eq!(
        wrong(&unstopped),
        [("layers", State::Weak), ("connections", State::Open)]
    );
    let held = |ours, cgroup: &str| {
        let mut facts = well();
        connected(&mut facts);
        let holder = Holder {
            pid: 4,
            name: "curl".into(),
            ours,
            cgroup: Some(cgroup.into()),
        };
        facts.holders = Ok(BTreeMap::from([(6, holder)]));
        wrong(&facts)
    };
    let found = [("connections", State::Weak)];
    assert_eq!(held(false, "/sys/fs/cgroup/web"), found);
    assert_eq!(held(true, "/sys/fs/cgroup/web"), [], "the proxy's own");
    assert_eq!(
        held(false, "/elsewhere"),
        [],
        "nobody said that it is guarded"
    );
    changes("endpoints", State::Weak, |f| {
        connected(f);
        f.endpoints = Ok(vec![(endpoint(), Mode::Audit)]);
    });
}

#[test]
fn power_over_the_network_and_raw_sockets() {
    changes("net-raw", State::Weak, |f| {
        f.raw.as_mut().unwrap().others.push((9, "ping".into()))
    });
    changes("net-raw", State::Unknown, |f| {
        f.raw.as_mut().unwrap().unread.push((1, "init".into()));
    });
    changes("net-admin", State::Weak, |f| {
        f.net_admin
            .as_mut()
            .unwrap()
            .others
            .push((9, "netd".into()))
    });
    changes("net-admin", State::Unknown, |f| {
        f.net_admin
            .as_mut()
            .unwrap()
            .unread
            .push((1, "init".into()));
    });
    for kind in [SocketKind::Packet, SocketKind::Raw] {
        changes("packet-sockets", State::Weak, |f| {
            here(f).sockets.push(Socket { kind, inode: 6 })
        });
    }
}

#[test]
fn hardware_and_the_hypervisor() {
    let device = ("0000:00:06.0".to_owned(), "vfio-pci".to_owned());
    changes("pass-through", State::Open, |f| {
        f.devices.as_mut().unwrap().passed_through.push(device)
    });
    changes("pass-through", State::Weak, |f| {
        f.devices
            .as_mut()
            .unwrap()
            .virtual_functions
            .push(("eth0".into(), 4));
    });
    changes("vsock", State::Weak, |f| {
        f.vsock = Ok(vec!["hv_sock".into()])
    });
    changes("ptrace-scope", State::Weak, |f| {
        f.ptrace_scope = Ok(Some(0))
    });
    changes("ptrace-scope", State::Weak, |f| f.ptrace_scope = Ok(None));
}

#[test]
fn interfaces_of_other_namespaces() {
    let another = |device: Option<&str>, kind: Option<&str>| Space {
        name: "netns blue".into(),
        interfaces: vec![Interface {
            name: "eth1".into(),
            index: 7,
            device: device.map(str::to_owned),
            kind: kind.map(str::to_owned),
            below: Some((2, true)),
        }],
        ..Space::default()
    };
    let push = |f: &mut Facts, space| f.spaces.as_mut().unwrap().push(space);
    changes("uplinks-moved", State::Weak, |f| {
        push(f, another(Some("pci 1"), None))
    });
    changes("macvlan", State::Weak, |f| {
        push(f, another(None, Some("macvlan")))
    });
    changes("macvlan", State::Weak, |f| {
        push(f, another(None, Some("ipvlan")))
    });
    changes("macvlan", State::Open, |f| {
        push(f, another(None, Some("macvtap")))
    });
    let mut veth = well();
    push(&mut veth, another(None, Some("veth")));
    assert_eq!(wrong(&veth), []);
    let mut facts = well();
    push(&mut facts, another(None, Some("macvlan")));
    let report = judge(&facts, &[]);
    let finding = report
        .findings
        .iter()
        .find(|f| f.check == "macvlan")
        .unwrap();
    assert_eq!(finding.subjects, ["eth1 (macvlan on eth0) in netns blue"]);
}

#[test]
fn addresses_routes_and_rules() {
    let route = |to: &str, prefix, interface: &str, table| Route {
        to: to.parse().unwrap(),
        prefix,
        interface: Some(interface.into()),
        table,
        local: false,
    };
    changes("addresses", State::Weak, |f| {
        here(f).addresses.push((endpoint().ip(), "lo".into()))
    });
    changes("routes", State::Weak, |f| {
        here(f)
            .routes
            .push(route("169.254.169.254", 32, "tun0", 254))
    });
    changes("routes", State::Weak, |f| {
        here(f).routes.push(route("169.254.0.0", 16, "tun0", 9))
    });
    // What the kernel adds of itself for an address is told as that address.
    changes("addresses", State::Weak, |f| {
        here(f).addresses.push((endpoint().ip(), "lo".into()));
        here(f).routes.push(route("169.254.169.254", 32, "lo", 254));
    });
    let fine = [
        route("169.254.169.254", 32, "eth0", 254),
        route("169.254.170.0", 24, "tun0", 254),
        route("169.254.169.254", 32, "lo", 255),
    ];
    for route in fine {
        let mut facts = well();
        here(&mut facts).routes.push(route);
        assert_eq!(wrong(&facts), []);
    }
    let rule = |to: &str| Rule {
        to: to.parse().unwrap(),
        prefix: 32,
        table: 9,
    };
    changes("rules", State::Weak, |f| {
        here(f).rules.push(rule("169.254.169.254"))
    });
    let mut other = well();
    here(&mut other).rules.push(rule("10.0.0.1"));
    assert_eq!(wrong(&other), []);
}

#[test]
fn who_is_let_pass_is_told() {
    changes("bypasses", State::Weak, |f| {
        f.bypasses = Ok(vec![Live {
            id: "0b9f2a6c".into(),
            name: "billing-api".into(),
            reason: "incident 4711".into(),
            by: None,
            began: String::new(),
            until: "2026-11-21T10:30:00Z".into(),
            left_s: 60,
            scopes: vec![],
        }])
    });
}

#[test]
fn settings_and_rules_of_others() {
    changes("netfilter", State::Weak, |f| {
        f.foreign_rules = Ok(vec!["ip nat x: dnat".into()])
    });
    changes("route-localnet", State::Weak, |f| {
        f.route_localnet = Ok(vec!["eth0".into()])
    });
    changes("port-range", State::Weak, |f| {
        f.port_range = Ok((1024, 60999, false))
    });
    let mut reserved = well();
    reserved.port_range = Ok((1024, 60999, true));
    assert_eq!(wrong(&reserved), []);
}

#[test]
fn prefixes_cover_what_they_cover() {
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let metadata = ip("169.254.169.254");
    assert!(covers(ip("169.254.0.0"), 16, metadata));
    assert!(covers(ip("0.0.0.0"), 0, metadata));
    assert!(covers(metadata, 32, metadata));
    assert!(!covers(ip("169.254.169.255"), 32, metadata));
    assert!(covers(ip("fd00:ec2::"), 64, ip("fd00:ec2::254")));
    assert!(!covers(ip("fd00:ec3::"), 32, ip("fd00:ec2::254")));
    assert!(covers(ip("::"), 0, ip("fd00:ec2::254")));
    assert!(!covers(ip("::"), 0, metadata));
}
