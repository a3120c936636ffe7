//! Somebody else's program on the cgroup that we guard, attached so that no other may be beside it. Where it takes the place of a
//! layer that we can't do without, the start is refused with what to do; where it takes another's, the rest stands.

use super::{policy, soon, status};
use anyhow::{Context as _, Result};
use aya::programs::CgroupSockAddr;
use aya::{Ebpf, EbpfLoader};
use imds_guard_tests::{AZURE_IMDS, World, patience, require};
use std::fs::File;
use std::net::TcpListener;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::time::Duration;

/// `BPF_PROG_ATTACH` and `BPF_PROG_DETACH`: the old way to attach, which alone can be exclusive.
const ATTACH: i64 = 8;
const DETACH: i64 = 9;
/// `enum bpf_attach_type`
const CONNECT4: u32 = 10;
const SENDMSG4: u32 = 14;

/// A program that is somebody's: one of ours, loaded against maps of its own that are empty, so that it does nothing.
struct Stranger<'w> {
    world: &'w World,
    ebpf: Ebpf,
    name: &'static str,
    attach_type: u32,
}

impl<'w> Stranger<'w> {
    fn attach(world: &'w World, name: &'static str, attach_type: u32) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(imds_guard::intercept::embedded())?;
        let program: &mut CgroupSockAddr = ebpf
            .program_mut(name)
            .context("no such program")?
            .try_into()?;
        program.load()?;
        let stranger = Self {
            world,
            ebpf,
            name,
            attach_type,
        };
        stranger.call(ATTACH).context("attach exclusively")?;
        Ok(stranger)
    }

    fn call(&self, command: i64) -> Result<()> {
        let program: &CgroupSockAddr = self
            .ebpf
            .program(self.name)
            .context("no such program")?
            .try_into()?;
        let cgroup = File::open(self.world.cgroup())?;
        // target_fd, attach_bpf_fd, attach_type, attach_flags: none, which is exclusive.
        let mut attr = [
            u32::try_from(cgroup.as_raw_fd())?,
            u32::try_from(program.fd()?.as_fd().as_raw_fd())?,
            self.attach_type,
            0,
        ];
        // SAFETY: a live part of `union bpf_attr` of that size.
        let done = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                attr.as_mut_ptr(),
                size_of_val(&attr),
            )
        };
        nix::errno::Errno::result(done)?;
        Ok(())
    }

    fn detach(self) -> Result<()> {
        self.call(DETACH)
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_the_place_of_steering_it_stops_the_start_and_nothing_is_left() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("exclusive").unwrap();
    let stranger = Stranger::attach(&world, "connect4", CONNECT4).unwrap();
    let mut agent = world.agent().config(&policy(1001)).spawn().unwrap();
    let ended = agent.wait_end(patience(Duration::from_secs(10))).unwrap();
    assert_eq!(ended.code(), Some(1));
    let log = agent.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("exclusively") && last.contains("bpftool cgroup show"),
        "{log}"
    );
    let pins = world.directory().join("bpf/imds-guard");
    assert!(!world.enter(|| Ok(pins.exists())).unwrap());
    // Unguarded, as without us.
    let real = world.enter(|| Ok(TcpListener::bind(AZURE_IMDS)?)).unwrap();
    let _connected = world.workload("billing").connect(AZURE_IMDS).unwrap();
    assert!(real.accept().is_ok());
    drop(real);
    stranger.detach().unwrap();
    let _agent = world.agent().config(&policy(1001)).start().unwrap();
    soon(&world, Some(200));
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn in_the_place_of_another_layer_it_is_told_and_the_rest_stands() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("exclusive-other").unwrap();
    let azure = world.azure().unwrap();
    let stranger = Stranger::attach(&world, "sendmsg4", SENDMSG4).unwrap();
    let agent = world.agent().config(&policy(1001)).start().unwrap();
    let log = agent.log();
    let told = |line: &&str| line.contains("datagrams") && line.contains("does not stand");
    let line = log.lines().find(told).unwrap_or_default();
    assert!(line.contains("exclusively"), "{log}");
    assert!(
        log.contains("layer=\"packets\"") || log.contains("\"packets\""),
        "{log}"
    );
    soon(&world, Some(200));
    let nobody = world.workload("nobody").uid(1003);
    assert_eq!(nobody.get(super::TOKEN).unwrap().status, 403);
    assert_eq!(azure.connections(), 0);
    drop(agent);
    stranger.detach().unwrap();
    let agent = world.agent().config(&policy(1001)).start().unwrap();
    let log = agent.log();
    let again = &log[log.rfind("\"datagrams\"").unwrap_or_default()..];
    assert!(again.contains("stands"), "{log}");
    assert_eq!(status(&world), Some(200));
}
