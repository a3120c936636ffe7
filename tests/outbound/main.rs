//! The way out of the real, sandboxed proxy: to which far ends it speaks, by which names and to whose word, and what it finds when
//! the host's files change. A federated identity drives it.

mod resolver;

use imds_guard_tests::{
    Authority, FarEnd, FarEnds, Reply, Request, Response, World, patience, require,
};
use resolver::{Manner, Resolver};
use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

/// Where a machine in Azure has its resolver: at a guarded address, and another port.
const AZURES: &str = "168.63.129.16";
const ENTRA: &str = "login.microsoftonline.com";
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

fn policy(trust: &str) -> String {
    format!(
        r#"
[host]
trust_domain = "example.org"
name = "web-07"
[issuer]
url = "https://idp.example.org/hosts"
[identity.billing]
cloud = "azure"
source = "federate"
tenant_id = "11111111-2222-3333-4444-555555555555"
client_id = "22222222-3333-4444-5555-666666666666"
subject = "spiffe://{{trust_domain}}/host/{{host}}/workload/{{workload}}"
[[workload]]
name = "billing"
selectors = ["unix:uid:1001"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "billing"
{trust}
"#
    )
}

/// The policy that trusts the world's authority.
fn trusting(far: &FarEnds<'_>) -> String {
    let roots = far.roots();
    policy(&format!("[trust]\nroots = \"{}\"", roots.display()))
}

/// What matters of Entra here: a token that ends at once, so that each request is an exchange of its own.
fn entra(_: &Request) -> Reply {
    let body = r#"{"token_type":"Bearer","expires_in":1,"access_token":"canary-token"}"#;
    Reply::json(200, body)
}

fn ask(world: &World) -> Response {
    let billing = world.workload("billing").uid(1001).gid(2002);
    billing.get(TOKEN).unwrap_or_else(|error| {
        let log = fs::read_to_string(world.directory().join("agent.log"));
        panic!("{error:#}; the agent said:\n{}", log.unwrap())
    })
}

/// Asks until the answer is one of those that are wanted: the guard looks at the host's files every so often.
#[track_caller]
fn soon(world: &World, wanted: impl Fn(u16) -> bool) -> Response {
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    let mut got = ask(world);
    while !wanted(got.status) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        got = ask(world);
    }
    assert!(wanted(got.status), "{}: {}", got.status, got.text());
    got
}

fn served(status: u16) -> bool {
    status == 200
}

fn failed(status: u16) -> bool {
    status >= 500
}

/// Entra, by no name that `hosts` has.
fn nameless(far: &FarEnds<'_>) -> FarEnd {
    let end = far.serve(ENTRA, entra).unwrap();
    fs::write(far.hosts(), "127.0.0.1 localhost\n").unwrap();
    end
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_name_is_found_by_hosts_and_its_change_is_seen() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("out-hosts").unwrap();
    let far = world.far_ends().unwrap();
    let end = nameless(&far);
    let agent = world.agent().config(&trusting(&far)).start().unwrap();
    let told = ask(&world);
    assert!(failed(told.status), "{}", told.text());
    assert!(agent.log().contains("nameserver"), "{}", agent.log());
    far.name(ENTRA, &end.address().ip().to_string()).unwrap();
    soon(&world, served);
    let [proxy] = agent.children()[..] else {
        panic!("{}", agent.log());
    };
    let status = fs::read_to_string(format!("/proc/{proxy}/status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "{status}");
    assert!(
        !agent.log().contains("the proxy has ended"),
        "{}",
        agent.log()
    );
    assert!(!agent.log().contains("canary"), "{}", agent.log());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_name_is_found_by_a_resolver_over_udp_and_tcp() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("out-dns").unwrap();
    let far = world.far_ends().unwrap();
    let end = nameless(&far);
    let dns = Resolver::start(&world, AZURES, end.address().ip()).unwrap();
    let agent = world.agent().config(&trusting(&far)).start().unwrap();
    assert!(failed(ask(&world).status));
    // As a DHCP client does it: another file in its place would not be seen behind the bind mount, so it is written over.
    fs::write(
        far.resolv_conf(),
        format!("search example.org\nnameserver {AZURES}\n"),
    )
    .unwrap();
    soon(&world, served);
    assert!(dns.over_udp() >= 2 && dns.over_tcp() == 0);
    dns.manner(Manner::Truncated);
    fs::write(
        far.resolv_conf(),
        format!("nameserver {AZURES}\noptions edns0\n"),
    )
    .unwrap();
    soon(&world, served);
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while dns.over_tcp() == 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
        assert!(served(ask(&world).status), "{}", agent.log());
    }
    assert!(dns.over_tcp() > 0);
    assert!(
        !agent.log().contains("the proxy has ended"),
        "{}",
        agent.log()
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_resolver_leads_nobody_to_the_metadata_service() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("out-astray").unwrap();
    let far = world.far_ends().unwrap();
    let end = nameless(&far);
    // It would even be vouched for: the address alone is what refuses it.
    let credentials = far.authority().vouch(&[ENTRA]).unwrap();
    let metadata = world.enter(|| {
        let listener = TcpListener::bind("169.254.169.254:443")?;
        FarEnd::start(listener, credentials, entra)
    });
    let metadata = metadata.unwrap();
    let dns = Resolver::start(&world, "127.0.0.53", metadata.address().ip()).unwrap();
    fs::write(far.resolv_conf(), "nameserver 127.0.0.53\n").unwrap();
    let agent = world.agent().config(&trusting(&far)).start().unwrap();
    for _ in 0..3 {
        assert!(failed(ask(&world).status));
    }
    assert!(dns.over_udp() > 0 && metadata.connections() == 0);
    assert!(
        agent.log().contains("leads to 169.254.169.254"),
        "{}",
        agent.log()
    );
    // Its twin: the same resolver, telling the truth.
    dns.leads_to(end.address().ip());
    soon(&world, served);
    assert_eq!(metadata.connections(), 0);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn roots_that_change_hold_at_once_and_bad_ones_change_nothing() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("out-roots").unwrap();
    let far = world.far_ends().unwrap();
    let _end = far.serve(ENTRA, entra).unwrap();
    let good = fs::read_to_string(far.roots()).unwrap();
    let other = Authority::new().unwrap();
    let agent = world.agent().config(&trusting(&far)).start().unwrap();
    soon(&world, served);
    fs::write(far.roots(), other.pem()).unwrap();
    soon(&world, failed);
    assert!(
        agent.log().contains("doesn't prove who it is"),
        "{}",
        agent.log()
    );
    fs::write(far.roots(), &good).unwrap();
    soon(&world, served);
    fs::write(far.roots(), "no certificate\n").unwrap();
    let deadline = Instant::now() + patience(Duration::from_secs(10));
    while !agent.log().contains("those of before stay") && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        agent.log().contains("those of before stay"),
        "{}",
        agent.log()
    );
    assert!(served(ask(&world).status));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_without_roots_is_refused_with_the_place_and_what_to_write() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("out-rootless").unwrap();
    let missing = policy("[trust]\nroots = \"/nowhere/roots.pem\"");
    let mut agent = world.agent().config(&missing).spawn().unwrap();
    let ended = agent.wait_end(patience(Duration::from_secs(10))).unwrap();
    assert_eq!(ended.code(), Some(2), "{}", agent.log());
    for expected in [
        "imds-guard.toml:20:9",
        "/nowhere/roots.pem",
        "write the path",
    ] {
        assert!(
            agent.log().contains(expected),
            "{expected} in {}",
            agent.log()
        );
    }
}
