//! What is steered, what is refused, what is left alone; promises 5 and 6.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
};

use imds_guard_tests::require;

use crate::guarded::{ENFORCE, Guarded, Holder, IMDS, PORT};

const EACCES: &str = "errno 13";
const ECONNREFUSED: &str = "errno 111";
const WIRESERVER: &str = "168.63.129.16:80";

/// A server inside the world that answers each connection with `answer`; lives as long as the test process.
fn serve(guarded: &Guarded, address: &str, answer: &'static [u8]) -> anyhow::Result<()> {
    let listener = guarded.world.enter(|| Ok(TcpListener::bind(address)?))?;
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _claim = stream.read(&mut [0; 64]);
            let _gone = stream.write_all(answer);
        }
    });
    Ok(())
}

fn accepted(holder: &mut Holder) -> anyhow::Result<u64> {
    holder.number("tally", "accepted")
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn every_form_of_the_address_is_steered_and_shows_what_was_dialled() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("forms").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    for (n, form) in (1..).zip([IMDS, "[::ffff:169.254.169.254]:80", "[fd00:ec2::254]:80"]) {
        assert_eq!(
            guarded.call_as_web(&["once", form]).unwrap(),
            format!("ok {form}")
        );
        let tally = holder.settled(n).unwrap();
        assert!(
            tally.starts_with(&format!("accepted={n} missing=0 wrong=0")),
            "{form}: {tally}"
        );
        let id = if form.contains("ec2") { 9 } else { 7 };
        assert!(tally.contains(&format!("endpoint_id: {id},")), "{tally}");
    }
    // MPTCP: its subflow is what is steered. The parent's getpeername shows the listener; that is a known limit.
    guarded.call_as_web(&["mptcp", IMDS]).unwrap();
    let tally = holder.settled(4).unwrap();
    assert!(tally.starts_with("accepted=4 missing=0 wrong=0"), "{tally}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn other_ports_and_other_addresses_are_left_alone() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("others").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    for other in ["169.254.169.254:53", "127.0.0.1:80", WIRESERVER] {
        serve(&guarded, other, b"o").unwrap();
        assert_eq!(
            guarded.call_as_web(&["once", other]).unwrap(),
            format!("ok {other}")
        );
    }
    assert_eq!(accepted(&mut holder).unwrap(), 0);
    assert!(
        guarded
            .call_as_web(&["udp", "169.254.169.254:53"])
            .unwrap()
            .starts_with("ok")
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_is_not_tcp_is_refused() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("udp").unwrap();
    // The twins first: without interception both are possible here.
    assert!(
        guarded
            .call_as_web(&["udp", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    assert!(
        guarded
            .call_as_web(&["icmp", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    let mut holder = guarded.start(ENFORCE).unwrap();
    assert_eq!(guarded.call_as_web(&["udp", IMDS]).unwrap(), EACCES);
    assert_eq!(guarded.call_as_web(&["icmp", IMDS]).unwrap(), EACCES);
    assert_eq!(
        guarded.call_as_web(&["udp", "[fd00:ec2::254]:80"]).unwrap(),
        EACCES
    );
    assert_eq!(holder.number("counters", "NotTcp").unwrap(), 3);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn only_a_marked_listener_is_steered_to() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("foreign").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    holder.kill().unwrap();
    assert_eq!(guarded.call_as_web(&["once", IMDS]).unwrap(), ECONNREFUSED);
    // Somebody takes the port: refused just the same.
    serve(&guarded, &format!("127.0.0.1:{PORT}"), b"f").unwrap();
    assert!(
        guarded
            .call_as_web(&["once", &format!("127.0.0.1:{PORT}")])
            .unwrap()
            .starts_with("ok")
    );
    assert_eq!(guarded.call_as_web(&["once", IMDS]).unwrap(), ECONNREFUSED);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_upstream_mark_exempts_for_its_endpoint_and_nothing_else_does() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("upstream").unwrap();
    let endpoints = format!("{ENFORCE};168.63.129.16,80,enforce,8");
    let mut holder = guarded.start(&endpoints).unwrap();
    serve(&guarded, IMDS, b"u").unwrap();
    serve(&guarded, WIRESERVER, b"w").unwrap();
    assert_eq!(
        holder.ask(&format!("upstream 7 {IMDS}")).unwrap(),
        "answer u"
    );
    assert_eq!(
        holder.ask(&format!("upstream 8 {WIRESERVER}")).unwrap(),
        "answer w"
    );
    // Another endpoint's mark is none: steered, like anybody.
    assert_eq!(
        holder.ask(&format!("upstream 8 {IMDS}")).unwrap(),
        "answer k"
    );
    // Neither the agent's uid and cgroup, nor a packet mark, nor the value as a packet mark.
    let agent = guarded
        .world
        .workload("agent")
        .uid(0)
        .gid(0)
        .in_cgroup("agent.service");
    guarded.call(&agent, &["once", IMDS]).unwrap();
    guarded.call(&agent, &["marked", IMDS, "7"]).unwrap();
    let tally = holder.settled(3).unwrap();
    assert!(tally.starts_with("accepted=3 missing=0 wrong=0"), "{tally}");
    assert_eq!(holder.number("counters", "UpstreamExempt").unwrap(), 2);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn observe_touches_nothing_and_notes_who() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("observe").unwrap();
    serve(&guarded, IMDS, b"r").unwrap();
    let mut holder = guarded.start("169.254.169.254,80,observe,7").unwrap();
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    assert_eq!(accepted(&mut holder).unwrap(), 0);
    assert_eq!(
        holder.ask("event").unwrap(),
        "protocol=6 mode=1 uid=1001 endpoint=7 port=80"
    );
    // A reload to enforce takes effect at once, and back.
    assert_eq!(holder.ask(&format!("endpoints {ENFORCE}")).unwrap(), "ok");
    guarded.call_as_web(&["once", IMDS]).unwrap();
    let tally = holder.settled(1).unwrap();
    assert!(tally.starts_with("accepted=1 missing=0 wrong=0"), "{tally}");
    assert_eq!(
        holder
            .ask("endpoints 169.254.169.254,80,observe,7")
            .unwrap(),
        "ok"
    );
    guarded.call_as_web(&["once", IMDS]).unwrap();
    assert_eq!(accepted(&mut holder).unwrap(), 1);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn audit_steers_and_lets_through_when_the_agent_is_away() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("audit").unwrap();
    serve(&guarded, IMDS, b"r").unwrap();
    let mut holder = guarded.start("169.254.169.254,80,audit,7").unwrap();
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    assert_eq!(accepted(&mut holder).unwrap(), 1);
    assert!(
        guarded
            .call_as_web(&["udp", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    assert_eq!(holder.number("counters", "AuditPassed").unwrap(), 1);
    holder.kill().unwrap();
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
}
