//! Network namespaces beside a world's own: the cloud, behind a cable, and containers, behind another or behind nothing.
//!
//! Every interface in them is a veth end made here, between namespaces made here; their names begin with
//! [`crate::netns::INSIDE`], and the harness refuses to work where there is any other.

use crate::netns::{self, ip};
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

/// A network namespace of a world, beside the world's own.
#[derive(Debug)]
pub struct Space {
    net: File,
    address: Option<Ipv4Addr>,
}

impl Space {
    /// An empty one: a loopback, and it is up. What `--network none` gives.
    pub(crate) fn alone() -> Result<Self> {
        netns::on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare: namespaces need root")?;
            netns::refuse_a_way_out()?;
            ip(&["link", "set", "lo", "up"])?;
            let net = File::open("/proc/thread-self/ns/net").context("our own namespace")?;
            Ok(Self { net, address: None })
        })
    }

    /// Its own address on its cable; none where it has no cable.
    #[must_use]
    pub const fn address(&self) -> Option<Ipv4Addr> {
        self.address
    }

    /// Where it can be opened, by root, as long as this value lives.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.net.as_raw_fd())
    }

    /// Moves the calling thread in. To be called inside [`crate::World::enter`], whose threads live for one piece of work.
    pub(crate) fn join(&self) -> Result<()> {
        setns(&self.net, CloneFlags::CLONE_NEWNET).context("setns net")?;
        netns::refuse_a_way_out()
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        netns::on_new_thread(|| {
            self.join()?;
            work()
        })
    }

    /// A cable from the calling thread's namespace, where its end is `near` and has `address` with a last byte of 1, to this
    /// one, where it is `far` with a last byte of 2.
    pub(crate) fn cable(&mut self, near: &str, far: &str, address: [u8; 3]) -> Result<()> {
        let [a, b, c] = address;
        let there = self.path();
        ip(&[
            "link", "add", near, "type", "veth", "peer", "name", far, "netns", &there,
        ])?;
        up(near, &format!("{a}.{b}.{c}.1/24"))?;
        self.enter(|| up(far, &format!("{a}.{b}.{c}.2/24")))?;
        self.address = Some(Ipv4Addr::new(a, b, c, 2));
        Ok(())
    }

    /// The cloud's side: it has the metadata addresses, and the calling thread's namespace reaches it through a cable. To
    /// be called once per world, inside of it.
    pub(crate) fn cloud() -> Result<Self> {
        let mut cloud = Self::alone()?;
        cloud.cable("tw-up", "tw-down", [10, 200, 0])?;
        cloud.enter(|| {
            netns::add_metadata_addresses()?;
            // Containers keep their addresses: whoever is asked can tell who asks.
            ip(&["route", "add", "10.200.0.0/14", "via", "10.200.0.1"])
        })?;
        ip(&["route", "add", "default", "via", "10.200.0.2"])?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("ip_forward")?;
        Ok(cloud)
    }

    /// A container, the `number`th of its world, routed by the calling thread's namespace. To be called inside the world.
    pub(crate) fn container(number: u8) -> Result<Self> {
        let mut container = Self::alone()?;
        container.cable(&format!("tw-s{number}"), "tw-eth", [10, 201, number])?;
        let gateway = format!("10.201.{number}.1");
        container.enter(|| ip(&["route", "add", "default", "via", &gateway]))?;
        Ok(container)
    }

    /// A guest at a port of the bridge, the `number`th of its world: 10.202.0.N+2, station 52:54:00:00:00:0N. To be called
    /// inside the world.
    pub(crate) fn port(number: u8) -> Result<Self> {
        let mut guest = Self::alone()?;
        let port = format!("tw-p{number}");
        let there = format!("/proc/{}/fd/{}", std::process::id(), guest.net.as_raw_fd());
        let station = format!("52:54:00:00:00:{number:02x}");
        ip(&[
            "link", "add", &port, "type", "veth", "peer", "name", "tw-eth", "address", &station,
            "netns", &there,
        ])?;
        ip(&["link", "set", &port, "master", BRIDGE, "up"])?;
        let address = Ipv4Addr::new(10, 202, 0, number + 2);
        guest.enter(|| {
            up("tw-eth", &format!("{address}/24"))?;
            ip(&["route", "add", "default", "via", "10.202.0.1"])
        })?;
        guest.address = Some(address);
        forwarding(&port)?;
        Ok(guest)
    }
}

/// The bridge of a world.
const BRIDGE: &str = "tw-br";

/// Makes the bridge, and gives the calling thread's namespace 10.202.0.1 on it.
pub(crate) fn bridge() -> Result<()> {
    // An address of its own: else it takes that of a port, and changes as they come and go.
    ip(&[
        "link",
        "add",
        BRIDGE,
        "address",
        "52:54:00:00:01:00",
        "type",
        "bridge",
        "forward_delay",
        "0",
    ])?;
    up(BRIDGE, "10.202.0.1/24")
}

/// A port passes nothing until the kernel has noticed that its other end is up, nor does a bridge until it has noticed its
/// ports: that can take a second each.
fn forwarding(port: &str) -> Result<()> {
    let says = |program: &str, arguments: &[&str], word: &str| {
        let output = Command::new(program).args(arguments).output();
        let output = output.with_context(|| format!("{program} (iproute2)"))?;
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).contains(word))
    };
    for _ in 0..300 {
        if says("bridge", &["link", "show", "dev", port], "state forwarding")?
            && says("ip", &["link", "show", "dev", BRIDGE], "state UP")?
        {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("{port} does not begin to forward")
}

fn up(interface: &str, address: &str) -> Result<()> {
    ip(&["address", "add", address, "dev", interface])?;
    ip(&["link", "set", interface, "up"])
}
