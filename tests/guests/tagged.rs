//! Frames of guests that carry VLAN tags: what is in them is looked at as in any other. (A tag with a number goes to no
//! interface of the host's but a VLAN's, which is a guest's like any interface; across a bridge it goes as it is.)

use crate::guest::{get, on_host, sub, subject, tool};
use crate::{MINTS, TOKEN, bridged, config, routed, world};
use imds_guard_tests::{Sniffer, Space, World};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const FRAME: &str = include_str!("tagged.py");
const IMDS: &str = "169.254.169.254";
/// A neighbour of the metadata service, like any other.
const BESIDE: &str = "169.254.169.77";

/// Frames so far: each says its number.
static SENT: AtomicU32 = AtomicU32::new(0);

/// Somebody who sends frames, and who sees what comes of them.
struct Wire<'w> {
    world: &'w World,
    from: &'w Space,
    source: &'w str,
    station: &'w str,
    sniffer: Sniffer,
}

impl Wire<'_> {
    /// Whether a datagram for `target` arrives that is sent behind these tags.
    fn passes(&self, target: &str, tags: &[&str]) -> bool {
        let mark = format!("<<{}>>", SENT.fetch_add(1, Ordering::Relaxed));
        let words = ["-c", FRAME, self.source, target, &mark, self.station];
        let words = [&words[..], tags].concat();
        let send = || tool("/usr/bin/python3", &words);
        self.world.enter_space(self.from, send).unwrap();
        let patience = Duration::from_millis(300);
        self.sniffer.sees(mark.as_bytes(), patience).unwrap()
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn tagged_frames_for_the_service_do_not_cross_a_bridge() {
    let world = world("tagged");
    world.bridge().unwrap();
    let (shop, mail, stranger) = (
        world.port(1).unwrap(),
        world.port(2).unwrap(),
        world.port(3).unwrap(),
    );
    // To the neighbour, which may stand for the service.
    let wire = |from, source| Wire {
        world: &world,
        from,
        source,
        station: "52:54:00:00:00:01",
        sniffer: world.enter_space(&shop, Sniffer::open).unwrap(),
    };
    let wires = [wire(&mail, "10.202.0.4"), wire(&stranger, "10.202.0.5")];
    let tags: [&[&str]; 3] = [&[], &["0"], &["5"]];
    for wire in &wires {
        for tags in tags {
            assert!(wire.passes(IMDS, tags), "without the guard: {tags:?}");
        }
    }
    let tables = [MINTS, &bridged(1, "shop"), &bridged(2, "mail")];
    let _agent = world
        .agent()
        .config(&config("enforce", &tables))
        .start()
        .unwrap();
    for wire in &wires {
        for tags in tags {
            assert!(!wire.passes(IMDS, tags), "{} {tags:?}", wire.source);
            assert!(wire.passes(BESIDE, tags), "{} {tags:?}", wire.source);
        }
        // The limit that the threat model tells.
        assert!(
            wire.passes(IMDS, &["5", "6"]),
            "it is stopped now: mend the threat model"
        );
    }
    assert_eq!(subject(&get(&world, &mail, TOKEN)), sub("mail"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_routed_guests_frames_with_a_priority_are_frames_like_others() {
    let world = world("priority");
    let guest = world.container().unwrap();
    let station = on_host(&world, "ip -o link show tw-s0");
    let station = station.split("link/ether ").nth(1).unwrap();
    let wire = Wire {
        world: &world,
        from: &guest,
        source: "10.201.0.2",
        station: station.split(' ').next().unwrap(),
        sniffer: world.enter_cloud(Sniffer::open).unwrap(),
    };
    assert!(wire.passes(IMDS, &[]) && wire.passes(IMDS, &["0"]));
    assert!(
        !wire.passes(IMDS, &["5"]),
        "no interface of the host's takes it"
    );
    let text = config("enforce", &[MINTS, &routed("tw-s0", "build")]);
    let _agent = world.agent().config(&text).start().unwrap();
    assert!(!wire.passes(IMDS, &[]) && !wire.passes(IMDS, &["0"]));
    assert!(wire.passes(BESIDE, &["0"]));
    assert_eq!(subject(&get(&world, &guest, TOKEN)), sub("build"));
}
