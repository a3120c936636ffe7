//! What a guest does, and how its answers are read.

use imds_guard_tests::{AgentProcess, Response, Space, World, patience};
use serde_json::Value;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// The metadata service.
pub(crate) const IMDS: ([u8; 4], u16) = ([169, 254, 169, 254], 80);
/// How long a guest waits for a connection. What is dropped costs this much.
const PATIENCE: Duration = Duration::from_millis(700);

/// A connection of a guest.
pub(crate) struct Line {
    stream: TcpStream,
    held: Vec<u8>,
}

/// How a dial ended.
pub(crate) type Dialled = Result<Line, io::ErrorKind>;

/// Connects from inside the guest.
pub(crate) fn dial(world: &World, guest: &Space, to: impl Into<SocketAddr>) -> Dialled {
    let to = to.into();
    world.enter_space(guest, || Ok(connect(to))).unwrap()
}

/// Connects from the host itself.
pub(crate) fn dial_from_host(world: &World, to: impl Into<SocketAddr>) -> Dialled {
    let to = to.into();
    world.enter(|| Ok(connect(to))).unwrap()
}

fn connect(to: SocketAddr) -> Dialled {
    let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.kind())?;
    stream
        .set_read_timeout(Some(patience(Duration::from_secs(5))))
        .unwrap();
    Ok(Line {
        stream,
        held: vec![],
    })
}

impl Line {
    /// One request as an SDK sends it.
    pub(crate) fn get(&mut self, target: &str) -> anyhow::Result<Response> {
        self.get_of("169.254.169.254", target)
    }

    /// The same, to a service of that name.
    pub(crate) fn get_of(&mut self, host: &str, target: &str) -> anyhow::Result<Response> {
        let head = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nMetadata: true\r\n\r\n");
        self.stream.write_all(head.as_bytes())?;
        Response::read(&mut self.stream, &mut self.held)
    }
}

/// One request on a connection of its own.
#[track_caller]
pub(crate) fn get(world: &World, guest: &Space, target: &str) -> Response {
    let dialled = dial(world, guest, IMDS);
    dialled
        .map_err(|kind| format!("{kind}"))
        .unwrap()
        .get(target)
        .unwrap()
}

/// Why the guest gets no connection to the metadata service.
#[track_caller]
pub(crate) fn refused(world: &World, guest: &Space) -> io::ErrorKind {
    dial(world, guest, IMDS).err().expect("it was let in")
}

/// The `sub` of a minted token in an answer.
#[track_caller]
pub(crate) fn subject(answer: &Response) -> String {
    assert_eq!(answer.status, 200, "{}{}", answer.head, answer.text());
    let token = answer.json().unwrap()["access_token"].clone();
    let claims = imds_guard_tests::claims(token.as_str().unwrap()).unwrap();
    claims["sub"].as_str().unwrap().to_owned()
}

/// The `sub` that [`super::MINTS`] gives.
pub(crate) fn sub(id: &str) -> String {
    format!("spiffe://example.org/host/hypervisor-3/vm/{id}")
}

/// A tool of the host, as whoever runs it.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new(program).args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// `ip` inside the guest: it is root there.
#[track_caller]
pub(crate) fn ip(world: &World, guest: &Space, arguments: &str) {
    let arguments: Vec<&str> = arguments.split(' ').collect();
    world.enter_space(guest, || tool("ip", &arguments)).unwrap();
}

/// A tool in the host's own network namespace.
#[track_caller]
pub(crate) fn on_host(world: &World, command: &str) -> String {
    let words: Vec<&str> = command.split(' ').collect();
    world.enter(|| tool(words[0], &words[1..])).unwrap()
}

/// The ports of the guests' listeners, as the rules redirect to them.
pub(crate) fn ports(world: &World) -> Vec<u16> {
    let rules = on_host(world, "nft list chain inet imds_guard redirected");
    let ports = rules
        .lines()
        .filter_map(|line| line.rsplit_once("redirect to :")?.1.trim().parse().ok());
    let mut ports: Vec<u16> = ports.collect();
    ports.dedup();
    ports
}

/// Whether `check` holds within `limit`.
pub(crate) fn within(limit: Duration, mut check: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience(limit);
    while !check() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Audit lines of exchanges with the guest `id`, once there are `count`.
#[track_caller]
pub(crate) fn exchanges(agent: &AgentProcess, id: &str, count: usize) -> Vec<Value> {
    let mut found = vec![];
    let came = within(Duration::from_secs(5), || {
        found = agent.audit().exchanges().unwrap();
        found.retain(|line| line["guest"]["id"] == id);
        found.len() >= count
    });
    assert!(came, "{id}: {found:?}\n{}", agent.log());
    found
}
