//! What happens to the guard, to interfaces and to rules while guests are there.

use crate::guest::{IMDS, dial, get, ip, on_host, refused, sub, subject, within};
use crate::{MINTS, TOKEN, config, routed, world};
use imds_guard_tests::{UPSTREAM_TOKEN, binary};
use nix::sys::signal::Signal;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_the_guard_guests_are_refused_until_teardown() {
    let world = world("away");
    let _azure = world.azure().unwrap();
    let [known, unknown] = [(); 2].map(|()| world.container().unwrap());
    let text = config("enforce", &[MINTS, &routed("tw-s0", "build")]);
    let mut agent = world.agent().config(&text).start().unwrap();
    assert_eq!(subject(&get(&world, &known, TOKEN)), sub("build"));
    let port = crate::guest::ports(&world)[0];
    agent.signal(Signal::SIGKILL).unwrap();
    agent.wait_end(Duration::from_secs(3)).unwrap();
    assert!(within(Duration::from_secs(3), || dial(
        &world, &known, IMDS
    )
    .err()
        == Some(ErrorKind::ConnectionRefused)));
    assert_eq!(refused(&world, &unknown), ErrorKind::TimedOut);
    // Whoever takes the port meanwhile gets none of the guest's requests.
    let taken = world
        .enter(|| Ok(TcpListener::bind(("0.0.0.0", port))?))
        .unwrap();
    assert_eq!(refused(&world, &known), ErrorKind::ConnectionRefused);
    drop(taken);
    drop(agent);
    let agent = world.agent().config(&text).start().unwrap();
    assert_eq!(subject(&get(&world, &known, TOKEN)), sub("build"));
    drop(agent);
    let program = world
        .show(&binary("imds-guard").unwrap(), "imds-guard")
        .unwrap();
    let pins = world.directory().join("bpf/imds-guard");
    on_host(
        &world,
        &format!(
            "{} teardown --pin-dir {}",
            program.display(),
            pins.display()
        ),
    );
    for guest in [&known, &unknown] {
        assert!(get(&world, guest, TOKEN).text().contains(UPSTREAM_TOKEN));
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_interface_comes_goes_and_returns_as_another() {
    let world = world("links");
    let text = config("enforce", &[MINTS, &routed("tw-s0", "build")]);
    let agent = world.agent().config(&text).start().unwrap();
    assert!(
        agent.log().contains("there is no such interface"),
        "{}",
        agent.log()
    );
    let guest = world.container().unwrap();
    let begun = Instant::now();
    assert!(
        within(Duration::from_secs(2), || dial(&world, &guest, IMDS)
            .is_ok()),
        "{}",
        agent.log()
    );
    println!(
        "an interface that came is served after {:?}",
        begun.elapsed()
    );
    let mut kept = dial(&world, &guest, IMDS).unwrap();
    assert_eq!(subject(&kept.get(TOKEN).unwrap()), sub("build"));
    // Taken down and up it is the same interface.
    on_host(&world, "ip link set tw-s0 down");
    on_host(&world, "ip link set tw-s0 up");
    assert_eq!(subject(&kept.get(TOKEN).unwrap()), sub("build"));
    // Another interface of that name is another guest, for all that is known.
    on_host(&world, "ip link set tw-s0 down");
    on_host(&world, "ip link set tw-s0 name tw-other");
    on_host(&world, "ip link set tw-other up");
    assert!(within(Duration::from_secs(2), || dial(
        &world, &guest, IMDS
    )
    .is_err()));
    assert!(
        kept.get(TOKEN).map_or(true, |answer| answer.status == 403),
        "its connection is nobody's now"
    );
    on_host(&world, "ip link del tw-other");
    drop(guest);
    on_host(&world, "ip link add tw-s0 type veth peer name tw-end");
    on_host(&world, "ip link set tw-s0 up");
    on_host(&world, "ip link del tw-s0");
    let again = world.container().unwrap();
    on_host(&world, "ip link set tw-s1 down");
    on_host(&world, "ip link set tw-s1 name tw-s0");
    on_host(&world, "ip link set tw-s0 up");
    assert!(
        within(Duration::from_secs(2), || dial(&world, &again, IMDS)
            .is_ok()),
        "{}",
        agent.log()
    );
    assert_eq!(subject(&get(&world, &again, TOKEN)), sub("build"));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn flushed_rules_are_put_back_within_a_second_and_told() {
    let world = world("flush");
    let [known, unknown] = [(); 2].map(|()| world.container().unwrap());
    let text = config("enforce", &[MINTS, &routed("tw-s0", "build")]);
    let agent = world.agent().config(&text).start().unwrap();
    assert_eq!(subject(&get(&world, &known, TOKEN)), sub("build"));
    let there = || {
        world
            .enter(|| {
                crate::guest::tool("nft", &["list", "chain", "inet", "imds_guard", "unmapped"])
            })
            .is_ok()
    };
    for command in [
        "nft flush ruleset",
        "nft delete table inet imds_guard",
        "nft flush chain inet imds_guard unmapped",
    ] {
        on_host(&world, command);
        let flushed = Instant::now();
        let whole = || {
            there()
                && on_host(&world, "nft list table inet imds_guard")
                    .contains("daddr . th dport @guarded4")
        };
        assert!(
            within(Duration::from_secs(1), whole),
            "{command}: {}",
            agent.log()
        );
        println!("{command}: put back after {:?}", flushed.elapsed());
        assert!(there());
    }
    assert!(agent.log().contains("put back"), "{}", agent.log());
    assert_eq!(subject(&get(&world, &known, TOKEN)), sub("build"));
    assert_eq!(refused(&world, &unknown), ErrorKind::TimedOut);
    // Rules of others are none of our business.
    on_host(&world, "nft add table inet somebody");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(
        agent.log().matches("table imds_guard: put back").count(),
        3,
        "{}",
        agent.log()
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_reload_gives_a_guest_another_id_or_none() {
    let world = world("reload");
    let guest = world.container().unwrap();
    let text = config("enforce", &[MINTS, &routed("tw-s0", "build")]);
    let agent = world.agent().config(&text).start().unwrap();
    let mut kept = dial(&world, &guest, IMDS).unwrap();
    assert_eq!(subject(&kept.get(TOKEN).unwrap()), sub("build"));
    let file = world.directory().join("etc/imds-guard.toml");
    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        agent.signal(Signal::SIGHUP).unwrap();
    };
    reload(&text.replace("\"build\"", "\"other\""));
    assert!(within(Duration::from_secs(3), || {
        dial(&world, &guest, IMDS).is_ok_and(|mut line| {
            line.get(TOKEN)
                .is_ok_and(|a| a.status == 200 && subject(&a) == sub("other"))
        })
    }));
    assert!(kept.get(TOKEN).map_or(true, |answer| answer.status == 403));
    reload(&config("enforce", &[MINTS]));
    assert!(within(Duration::from_secs(3), || dial(
        &world, &guest, IMDS
    )
    .err()
        == Some(ErrorKind::TimedOut)));
    ip(&world, &guest, "link show");
}
