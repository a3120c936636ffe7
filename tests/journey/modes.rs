//! `observe`, `audit`, `enforce`: what each does to a connection, what it records, and how one becomes another.

use super::{
    FORWARDS, LOCATION, MINTS, TOKEN, ask, config, get, minted, record_of, refused, world,
};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, UPSTREAM_TOKEN, World};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const UNTOUCHED: &str = "GET /metadata/instance?api-version=2021-02-01 HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\nX-Evil: 1\r\n\r\n";

const DENIED: &str = r#"
[[deny]]
name = "no-arm"
token = { cloud = "azure", resource = ["https://management.azure.com"] }
"#;

fn arm() -> String {
    TOKEN.replace("vault.azure.net", "management.azure.com")
}

fn reload(world: &World, agent: &AgentProcess, config: &str, epoch: u32) {
    std::fs::write(world.directory().join("etc/imds-guard.toml"), config).unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    // The proxy's word: it adopts a policy a moment after the guard.
    let told = format!("serving by a new policy epoch={epoch}\n");
    let deadline = Instant::now() + Duration::from_secs(10);
    while !agent.log().contains(&told) {
        assert!(Instant::now() < deadline, "{}", agent.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn observe_leaves_the_connection_alone_and_records_who_made_it() {
    let world = world("observe");
    let azure = world.azure().unwrap();
    let agent = world
        .agent()
        .config(&config("observe", MINTS))
        .start()
        .unwrap();
    let nobody = world.workload("neighbour").uid(1001).gid(3001);
    let mut caller = nobody.connect(AZURE_IMDS).unwrap();
    let answer = ask(&mut caller, UNTOUCHED);
    assert_eq!(answer.json().unwrap()["compute"]["name"], "upstream");
    let received = azure.received().pop().unwrap();
    assert!(received.headers.iter().any(|h| h == "X-Evil: 1"));
    let record = record_of(&agent, caller.pid(), 1);
    assert_eq!(record["event"], "observed", "{record}");
    assert_eq!(record["mode"], "observe");
    assert_eq!(record["caller"]["endpoint"], AZURE_IMDS);
    assert_eq!(record["caller"]["uid"], 1001);
    assert_eq!(record["caller"]["gid"], 3001);
    assert_eq!(record["caller"]["comm"], "probe");
    // One for one connection, and no exchange: nothing was steered.
    assert_eq!(agent.audit().records().unwrap().len(), 1);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn audit_lets_through_what_is_not_granted_and_says_what_enforce_would_do() {
    let world = world("audit");
    let azure = world.azure().unwrap();
    let agent = world
        .agent()
        .config(&config("audit", &format!("{MINTS}{DENIED}")))
        .start()
        .unwrap();
    let nobody = world.workload("neighbour").uid(1001);
    let mut caller = nobody.connect(AZURE_IMDS).unwrap();
    let answer = ask(
        &mut caller,
        &get("/metadata/instance?api-version=2021-02-01"),
    );
    assert_eq!(answer.json().unwrap()["compute"]["name"], "upstream");
    let record = record_of(&agent, caller.pid(), 1);
    assert_eq!(record["outcome"], "allowed", "{record}");
    assert_eq!(record["would_deny"]["reason"], "no_workload", "{record}");

    // Minted by a rule alone: what no rule grants is the real service's business, as it was without us.
    let answer = nobody.get(TOKEN).unwrap();
    assert_eq!(answer.json().unwrap()["access_token"], UPSTREAM_TOKEN);
    assert!(minted(&world.workload("billing").get(TOKEN).unwrap()));

    // An enforced deny is one in this mode as well, and the real service doesn't hear of it.
    let asked = azure.received().len();
    for workload in [&nobody, &world.workload("billing")] {
        refused(&workload.get(&arm()).unwrap(), 403, "access_denied");
    }
    assert_eq!(azure.received().len(), asked);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_the_guard_audit_passes_connections_untouched_and_enforce_refuses_them() {
    for (mode, passes) in [("audit", true), ("enforce", false)] {
        let world = world("unguarded");
        let azure = world.azure().unwrap();
        let agent = world
            .agent()
            .config(&config(mode, FORWARDS))
            .start()
            .unwrap();
        let billing = world.workload("billing");
        assert_eq!(billing.get(TOKEN).unwrap().status, 200);
        let proxy = agent.children();
        kill(
            Pid::from_raw(i32::try_from(agent.pid()).unwrap()),
            Signal::SIGKILL,
        )
        .unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        // A process that dies gives up its listeners after its memory: a zombie has given up both.
        let lives = |pid: &u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.is_ok_and(|stat| !stat.contains(") Z "))
        };
        while lives(&agent.pid()) || proxy.iter().any(lives) {
            assert!(Instant::now() < deadline, "the proxy outlives the guard");
            std::thread::sleep(Duration::from_millis(10));
        }
        match billing.connect(AZURE_IMDS) {
            Ok(mut caller) if passes => {
                assert_eq!(ask(&mut caller, UNTOUCHED).status, 200);
                let received = azure.received().pop().unwrap();
                assert!(received.headers.iter().any(|h| h == "X-Evil: 1"));
            }
            Err(error) if !passes => assert!(error.to_string().contains("refused"), "{error}"),
            other => panic!("{mode}: {other:?}"),
        }
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_mode_changes_by_sighup_both_ways_and_a_kept_connection_follows() {
    let world = world("change");
    let azure = world.azure().unwrap();
    let agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let nobody = world.workload("neighbour").uid(1001);
    let mut kept = nobody.connect(AZURE_IMDS).unwrap();
    refused(&ask(&mut kept, &get(LOCATION)), 403, "access_denied");
    reload(&world, &agent, &config("audit", FORWARDS), 2);
    assert_eq!(nobody.get(LOCATION).unwrap().status, 200);
    assert_eq!(ask(&mut kept, &get(LOCATION)).status, 200);
    reload(&world, &agent, &config("observe", FORWARDS), 3);
    // Steered already, so it can't be left alone any more; it is let through instead.
    assert_eq!(ask(&mut kept, &get(LOCATION)).status, 200);
    let mut untouched = nobody.connect(AZURE_IMDS).unwrap();
    assert_eq!(ask(&mut untouched, UNTOUCHED).status, 200);
    let received = azure.received().pop().unwrap();
    assert!(received.headers.iter().any(|h| h == "X-Evil: 1"));
    reload(&world, &agent, &config("enforce", FORWARDS), 4);
    let asked = azure.received().len();
    refused(&nobody.get(LOCATION).unwrap(), 403, "access_denied");
    refused(&ask(&mut kept, &get(LOCATION)), 403, "access_denied");
    assert_eq!(azure.received().len(), asked);
    assert_eq!(world.workload("billing").get(TOKEN).unwrap().status, 200);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn reloads_open_no_gap() {
    let world = world("gap");
    let azure = world.azure().unwrap();
    let agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let over = AtomicBool::new(false);
    let (refusals, served) = std::thread::scope(|scope| {
        let hammer = |uid: u32, wanted: u16| {
            let (world, over) = (&world, &over);
            scope.spawn(move || {
                let workload = world.workload(&format!("hammer-{uid}")).uid(uid);
                let mut count = 0;
                while !over.load(Ordering::Relaxed) {
                    let answer = workload.get(LOCATION).unwrap();
                    assert_eq!(answer.status, wanted, "{}", answer.text());
                    count += 1;
                }
                count
            })
        };
        let (refused, served) = (hammer(1001, 403), hammer(1000, 200));
        for epoch in 2..62 {
            // AWS's endpoint shares the address: its mode changes, and the table is written anew each time.
            let other = ["observe", "enforce"][epoch as usize % 2];
            let config = config("enforce", FORWARDS).replace(
                "[endpoints]",
                &format!("[endpoints]\naws-imds = \"{other}\""),
            );
            reload(&world, &agent, &config, epoch);
        }
        over.store(true, Ordering::Relaxed);
        (refused.join().unwrap(), served.join().unwrap())
    });
    // An emulated processor manages three.
    assert!(refusals > 1 && served > 1, "{refusals} {served}");
    // Whatever the real service saw, it was the granted one's, through us.
    assert_eq!(azure.received().len(), served);
}
