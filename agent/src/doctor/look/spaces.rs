//! Each network namespace: its interfaces, and the sockets in it that matter.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};

use super::super::facts::{Route, Seen, Socket, SocketKind, Space};
use super::because;
use super::netlink::Netlink;
use super::processes::{Processes, inode};
use crate::sys::netns;

/// Where `ip netns` keeps namespaces that need no process.
const NAMED: &str = "/run/netns";

/// All of them, ours first; and those that couldn't be entered.
pub(super) fn all(
    processes: &Processes,
    port: u16,
    interest: &[SocketAddr],
) -> (Seen<Vec<Space>>, Vec<String>) {
    let Some(here) = inode("/proc/thread-self/ns/net") else {
        return (
            Err("our own network namespace can't be read".into()),
            Vec::new(),
        );
    };
    let mut closed = Vec::new();
    let mut spaces = match inside(here, "this one".into(), port, interest) {
        Ok(space) => vec![space],
        Err(why) => return (Err(why), closed),
    };
    let (others, unread) = others(processes, here);
    closed.extend(unread);
    for (number, (path, name)) in others {
        let entered = File::open(&path)
            .and_then(|file| netns::within(&file, || inside(number, name.clone(), port, interest)));
        match entered.map_err(|e| e.to_string()).and_then(|seen| seen) {
            Ok(space) => spaces.push(space),
            // It ended meanwhile: then there is nothing to look at.
            Err(_) if inode(&path) != Some(number) => {}
            Err(why) => closed.push(format!("{name}: {why}")),
        }
    }
    (Ok(spaces), closed)
}

/// The others by inode, each with a path to it and a name; and those that can't be told apart.
fn others(processes: &Processes, here: u64) -> (BTreeMap<u64, (String, String)>, Vec<String>) {
    let (mut found, mut unread) = (BTreeMap::new(), Vec::new());
    for entry in fs::read_dir(NAMED).into_iter().flatten().flatten() {
        let path = entry.path().display().to_string();
        if let Some(number) = inode(&path) {
            found.insert(
                number,
                (
                    path,
                    format!("netns {}", entry.file_name().to_string_lossy()),
                ),
            );
        }
    }
    for process in processes.all.iter().flatten() {
        let name = format!("the namespace of {} (pid {})", process.name, process.pid);
        match process.netns {
            None => unread.push(format!("{name}: it can't be read")),
            Some(number) => {
                let path = format!("/proc/{}/ns/net", process.pid);
                found.entry(number).or_insert((path, name));
            }
        }
    }
    found.remove(&here);
    (found, unread)
}

/// Looks at the calling thread's namespace.
fn inside(inode: u64, name: String, port: u16, interest: &[SocketAddr]) -> Seen<Space> {
    let netlink = Netlink::open()?;
    let interfaces = netlink.interfaces()?;
    let called = |index: u32| {
        let found = interfaces.iter().find(|i| i.index == index);
        found.map_or_else(|| format!("interface {index}"), |i| i.name.clone())
    };
    let addresses = netlink
        .addresses()?
        .into_iter()
        .map(|(own, on)| (own, called(on)));
    let (mut defaults, mut routes) = (Vec::new(), Vec::new());
    for (route, interface) in netlink.routes()? {
        let interface = interface.map(called);
        if route.prefix == 0 {
            defaults.extend(interface);
        } else {
            routes.push(Route { interface, ..route });
        }
    }
    Ok(Space {
        inode,
        name,
        addresses: addresses.collect(),
        routes,
        defaults,
        rules: netlink.rules()?,
        sockets: sockets(port, interest)?,
        interfaces,
    })
}

fn sockets(port: u16, interest: &[SocketAddr]) -> Seen<Vec<Socket>> {
    let mut found = Vec::new();
    for (file, kind) in [
        ("tcp", None),
        ("tcp6", None),
        ("packet", Some(SocketKind::Packet)),
        ("raw", Some(SocketKind::Raw)),
        ("raw6", Some(SocketKind::Raw)),
    ] {
        let path = format!("/proc/thread-self/net/{file}");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            // Without IPv6, or without packet sockets, in this kernel.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(because(path)(e)),
        };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            found.extend(match kind {
                None => tcp(&fields, port, interest),
                Some(SocketKind::Packet) => {
                    fields
                        .last()
                        .and_then(|i| i.parse().ok())
                        .map(|inode| Socket {
                            kind: SocketKind::Packet,
                            inode,
                        })
                }
                Some(kind) => fields
                    .get(9)
                    .and_then(|i| i.parse().ok())
                    .map(|inode| Socket { kind, inode }),
            });
        }
    }
    Ok(found)
}

/// States of `/proc/net/tcp`, include/net/tcp_states.h.
const LISTEN: &str = "0A";
/// Open in at least one direction that a request could still take: ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT.
const OPEN: [&str; 4] = ["01", "04", "05", "08"];

/// A socket of interest in a line of `/proc/net/tcp` or `tcp6`.
fn tcp(fields: &[&str], port: u16, interest: &[SocketAddr]) -> Option<Socket> {
    let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields else {
        return None;
    };
    let inode = inode.parse().ok().filter(|inode| *inode != 0)?;
    let (local, remote) = (address(local)?, address(remote)?);
    if *state == LISTEN {
        let ours =
            local.port() == port && (local.ip().is_loopback() || local.ip().is_unspecified());
        return ours.then_some(Socket {
            kind: SocketKind::Listener,
            inode,
        });
    }
    let open = OPEN.contains(state) && interest.contains(&remote);
    open.then_some(Socket {
        kind: SocketKind::Connected(remote),
        inode,
    })
}

/// `0100007F:2254`: words of the address as the machine has them in memory, and the port. Mapped addresses become IPv4.
fn address(field: &str) -> Option<SocketAddr> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words = address.as_bytes().chunks(8).map(|word| {
        let word = u32::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok()?;
        Some(word.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    let ip = match bytes.len() {
        4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        16 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn addresses_are_read_as_the_kernel_writes_them() {
        let told = |field: &str| address(field).unwrap().to_string();
        assert_eq!(told("0100007F:2254"), "127.0.0.1:8788");
        assert_eq!(
            told("0000000000000000FFFF0000FEA9FEA9:0050"),
            "169.254.169.254:80"
        );
        assert_eq!(told("00000000000000000000000001000000:0050"), "[::1]:80");
        assert_eq!(address("nonsense"), None);
    }

    #[test]
    fn our_own_listener_and_connection_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let _caller = TcpStream::connect(at).unwrap();
        let found = sockets(at.port(), &[at]).unwrap();
        assert!(found.iter().any(|s| s.kind == SocketKind::Listener));
        assert!(found.iter().any(|s| s.kind == SocketKind::Connected(at)));
        assert!(
            sockets(1, &[])
                .unwrap()
                .iter()
                .all(|s| matches!(s.kind, SocketKind::Packet | SocketKind::Raw))
        );
    }
}
