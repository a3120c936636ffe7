//! Promise 1: losing the agent loses access, never protection; and a failed start leaves nothing behind.

use std::{
    io::Read as _,
    net::TcpListener,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use imds_guard::intercept::teardown;
use imds_guard_tests::{require, scaled};

use crate::guarded::{ENFORCE, Guarded, IMDS, PORT};

const ECONNREFUSED: &str = "errno 111";

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn killed_it_refuses_and_restarted_it_serves_and_torn_down_it_is_gone() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("kill").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    assert!(holder.greeting.ends_with(" true"), "{}", holder.greeting);
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    holder.kill().unwrap();
    assert_eq!(guarded.call_as_web(&["once", IMDS]).unwrap(), ECONNREFUSED);
    let mut holder = guarded.start(ENFORCE).unwrap();
    assert!(holder.greeting.ends_with(" false"), "{}", holder.greeting);
    assert!(
        guarded
            .call_as_web(&["once", IMDS])
            .unwrap()
            .starts_with("ok")
    );
    let tally = holder.settled(1).unwrap();
    assert!(tally.starts_with("accepted=1 missing=0 wrong=0"), "{tally}");
    drop(holder);
    let pins = guarded.pins();
    assert!(guarded.world.enter(|| Ok(teardown(&pins)?)).unwrap());
    assert!(!guarded.world.enter(|| Ok(teardown(&pins)?)).unwrap());
    // Nothing is guarded any more: the real service, were there one, is reached.
    let server = guarded
        .world
        .enter(|| Ok(TcpListener::bind(IMDS)?))
        .unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, _) = server.accept().unwrap();
            stream.read_exact(&mut [0; 32]).unwrap();
            std::io::Write::write_all(&mut stream, b"r").unwrap();
        });
        assert!(
            guarded
                .call_as_web(&["once", IMDS])
                .unwrap()
                .starts_with("ok")
        );
    });
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn restarts_under_load_let_nothing_slip_through() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("restart").unwrap();
    let mut holder = guarded.start(ENFORCE).unwrap();
    // The real service: whatever arrives here slipped through.
    let service = guarded
        .world
        .enter(|| Ok(TcpListener::bind(IMDS)?))
        .unwrap();
    let (slipped, dialled, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    service.set_nonblocking(true).unwrap();
    let holder = &mut holder;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                match service.accept() {
                    Ok(_) => {
                        slipped.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(_) => std::thread::sleep(std::time::Duration::from_millis(1)),
                }
            }
        });
        for n in 0..3 {
            let (guarded, dialled, stop) = (&guarded, &dialled, &stop);
            scope.spawn(move || {
                let who = guarded.world.workload(&format!("load{n}"));
                while !stop.load(Ordering::Relaxed) {
                    // Refused in the moments without a listener: the flood's own failures are expected here.
                    let each = scaled(200);
                    let _some_refused =
                        guarded.call(&who, &["flood", IMDS, &each.to_string(), "4"]);
                    dialled.fetch_add(each, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..scaled(12) {
            std::thread::sleep(std::time::Duration::from_millis(100));
            holder.kill().unwrap();
            *holder = guarded.start(ENFORCE).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(slipped.load(Ordering::Relaxed), 0);
    assert!(dialled.load(Ordering::Relaxed) >= scaled(1000), "no load");
    assert_eq!(holder.number("tally", "wrong").unwrap(), 0);
    // The twin: without interception the service is reachable.
    holder.kill().unwrap();
    let pins = guarded.pins();
    guarded.world.enter(|| Ok(teardown(&pins)?)).unwrap();
    drop(
        guarded
            .world
            .enter(|| Ok(std::net::TcpStream::connect(IMDS)?))
            .unwrap(),
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_taken_port_is_named_and_leaves_nothing_behind() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("taken").unwrap();
    let squatter = guarded
        .world
        .enter(|| Ok(TcpListener::bind(("127.0.0.1", PORT))?))
        .unwrap();
    let said = guarded.spawn(ENFORCE).unwrap().line().unwrap();
    assert!(
        said.starts_with(&format!("error port {PORT} on 127.0.0.1 is taken")),
        "{said}"
    );
    let pins = guarded.pins();
    assert!(!guarded.world.enter(|| Ok(pins.exists())).unwrap());
    drop(squatter);
    assert!(guarded.start(ENFORCE).is_ok());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn outside_of_the_attach_root_it_refuses_to_start() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("outside").unwrap();
    let inner = guarded.world.cgroup_below("inner").unwrap();
    let program = guarded
        .world
        .show(
            &imds_guard_tests::binary("interceptor").unwrap(),
            "interceptor",
        )
        .unwrap();
    let output = guarded
        .world
        .workload("agent")
        .uid(0)
        .gid(0)
        .run(
            &program,
            &[
                &inner.display().to_string(),
                &guarded.pins().display().to_string(),
                "8779",
                ENFORCE,
            ],
        )
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        said.starts_with("error imds-guard itself runs in "),
        "{said}"
    );
    assert!(!output.status.success());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_privileges_it_says_so() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("noroot").unwrap();
    let program = guarded
        .world
        .show(
            &imds_guard_tests::binary("interceptor").unwrap(),
            "interceptor",
        )
        .unwrap();
    let output = guarded
        .world
        .workload("agent")
        .uid(1001)
        .gid(2002)
        .run(
            &program,
            &[
                &guarded.world.cgroup().display().to_string(),
                &guarded.pins().display().to_string(),
                "8779",
                ENFORCE,
            ],
        )
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("is not permitted: run as root"), "{said}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_that_fails_half_way_leaves_nothing_behind() {
    require!(Root, Cgroup2, Bpf);
    let guarded = Guarded::new("halfway").unwrap();
    let pins = guarded.pins();
    // The table is written after programs and maps are loaded and pinned: the listener's own port can't be guarded.
    let said = guarded
        .spawn("169.254.169.254,8779,enforce,7")
        .unwrap()
        .line()
        .unwrap();
    assert!(
        said.starts_with("error the endpoint table can't be used: "),
        "{said}"
    );
    assert!(!guarded.world.enter(|| Ok(pins.exists())).unwrap());
    // The twin; and what is in force then survives a later start that fails.
    let mut holder = guarded.start(ENFORCE).unwrap();
    holder.kill().unwrap();
    let said = guarded
        .spawn("169.254.169.254,8779,enforce,7")
        .unwrap()
        .line()
        .unwrap();
    assert!(said.starts_with("error "), "{said}");
    assert_eq!(guarded.call_as_web(&["once", IMDS]).unwrap(), ECONNREFUSED);
}
