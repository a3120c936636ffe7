//! Promise 2: attribution is a fact recorded by the kernel at `connect()`.

use imds_guard_tests::{require, scaled};

use crate::guarded::{ENFORCE, Guarded, IMDS, PORT};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_record_says_who_called_and_uid_is_not_gid() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("who").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let who = guarded.world.workload("web").uid(1001).gid(2002);
    assert_eq!(
        guarded.call(&who, &["once", IMDS]).unwrap(),
        format!("ok {IMDS}")
    );
    let tally = holder.settled(1).unwrap();
    assert!(
        tally.starts_with("accepted=1 missing=0 wrong=0 silent=0"),
        "{tally}"
    );
    for fact in [
        " uid: 1001,",
        " gid: 2002,",
        " effective_uid: 1001,",
        " effective_gid: 2002,",
        " endpoint_id: 7,",
        " port: 80,",
        " family: 2 ",
        " missing: 0,",
        // "caller"
        "comm: [99, 97, 108, 108, 101, 114, 0",
        "169, 254, 169, 254]",
    ] {
        assert!(tally.contains(fact), "{fact} in {tally}");
    }
    let cookie = holder.greeting.split(' ').nth(2).unwrap().to_owned();
    assert!(
        tally.contains(&format!("netns_cookie: {cookie},")),
        "{tally}"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn many_connections_at_once_none_missed_none_wrong() {
    require!(Root, Cgroup2, Bpf);
    let total: u64 = if std::env::var_os("IMDS_GUARD_FULL").is_some() {
        200_000
    } else {
        scaled(40_000)
    };
    let guarded = Guarded::new("flood").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let each = (total / 4).to_string();
    std::thread::scope(|scope| {
        for n in 0..4u32 {
            let (guarded, each) = (&guarded, each.as_str());
            scope.spawn(move || {
                let who = guarded
                    .world
                    .workload(&format!("flood{}", n % 3))
                    .uid(1000 + n)
                    .gid(2000 + n);
                guarded.call(&who, &["flood", IMDS, each, "8"]).unwrap();
            });
        }
    });
    let tally = holder.settled(total).unwrap();
    assert!(
        tally.starts_with(&format!("accepted={total} missing=0 wrong=0 ")),
        "{tally}"
    );
    assert!(tally.contains(" strangers=0 callers=4 "), "{tally}");
    // A quarter said nothing: reset at once. They have records all the same.
    let silent = holder.number("tally", "silent").unwrap();
    assert!(silent >= total / 8, "{tally}");
    assert_eq!(holder.number("counters", "HandedOver").unwrap(), total);
    assert_eq!(holder.number("counters", "HandshakeTableFull").unwrap(), 0);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn exec_right_after_connect_keeps_the_connecting_executable() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("exec").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let total = scaled(200);
    assert_eq!(
        guarded
            .call_as_web(&["execs", IMDS, &total.to_string()])
            .unwrap(),
        format!("ok {total}")
    );
    let tally = holder.settled(total).unwrap();
    let expected =
        format!("accepted={total} missing=0 wrong=0 silent=0 strangers=0 callers={total} ");
    assert!(tally.starts_with(&expected), "{tally}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_socket_handed_on_is_whose_process_connected_it() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("handed").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    for kind in ["hand", "hand-after"] {
        assert_eq!(
            guarded.call_as_web(&[kind, IMDS]).unwrap(),
            format!("ok ok {IMDS}"),
            "{kind}"
        );
    }
    let tally = holder.settled(2).unwrap();
    assert!(
        tally.starts_with("accepted=2 missing=0 wrong=0 silent=0 strangers=0 callers=2 "),
        "{tally}"
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn who_dials_the_listener_itself_is_refused_and_gets_nobodys_record() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("direct").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    let listener = format!("127.0.0.1:{PORT}");
    let said = guarded.call_as_web(&["once", &listener]).unwrap();
    assert_eq!(said, "errno 111");
    // Nor does a socket get there that was steered before.
    let said = guarded.call_as_web(&["reconnect", IMDS, &listener]);
    assert_eq!(said.unwrap(), "errno 111");
    let tally = holder.settled(1).unwrap();
    assert!(tally.starts_with("accepted=1 missing=0 wrong=0"), "{tally}");
    // The twin: steered, it has one.
    guarded.call_as_web(&["once", IMDS]).unwrap();
    let tally = holder.settled(2).unwrap();
    assert!(tally.starts_with("accepted=2 missing=0 wrong=0"), "{tally}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_proxys_descriptor_reads_records_and_forges_none() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("forge").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    assert_eq!(
        holder.ask("forge").unwrap(),
        format!("{} none", libc::EPERM)
    );
    // The twin is every other test: the takers read records through this very descriptor.
    guarded.call_as_web(&["once", IMDS]).unwrap();
    let tally = holder.settled(1).unwrap();
    assert!(tally.starts_with("accepted=1 missing=0 wrong=0"), "{tally}");
}
