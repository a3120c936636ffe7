//! The world in which traffic is measured: the agent, its peers beside it, the real service's stand-in behind, and the load.
//!
//! Peers, the load on them and nginx live in a cgroup outside of the guarded one: what is compared is a machine without us.

use crate::contest::{self, Aims, place};
use crate::options::{Options, Section};
use crate::place::{Cpus, Place, Server, pin, with_children};
use crate::programs::{self, Dialled};
use crate::report::Report;
use crate::spread::Aim;
use crate::wrk::{self, Connection, Target};
use crate::{nginx, ours};
use anyhow::{Context, Result};
use imds_guard_tests::{
    AWS_IMDS_V6, AZURE_IMDS, AZURE_IMDS_MAPPED, AgentProcess, Cgroup, FakeAws, Response, World,
    binary,
};
use std::fs;
use std::path::PathBuf;

/// Where the bare hyper server listens, and where nothing of ours looks.
const PEER: &str = "127.0.0.1:8081";
const PEER_V6: &str = "[::1]:8083";
/// Connections at once.
const CONNECTIONS: [usize; 3] = [1, 16, 64];

struct Scene<'w> {
    world: &'w World,
    cpus: Cpus,
    unguarded: PathBuf,
    script: PathBuf,
    answer: Response,
    agent: AgentProcess,
    _aws: FakeAws,
    /// The real service's stand-in, for as long as the scene lasts.
    _upstream: Server,
}

/// Measure what the options ask for.
pub(crate) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let world = World::new("bench")?;
    let outside = Cgroup::child("bench-unguarded")?;
    let scene = Scene::set(&world, &outside)?;
    if options.wants(Section::Http) {
        eprintln!("bench: metadata and tokens, against a bare hyper server");
        report.cases.extend(scene.http(options)?);
    }
    if options.wants(Section::Forward) {
        eprintln!("bench: forwarding, against nginx");
        report.cases.extend(scene.forward(options)?);
    }
    if options.wants(Section::Programs) {
        eprintln!("bench: kernel programs");
        report.figures.extend(scene.programs(options)?);
    }
    report.notes.extend(scene.notes(options));
    Ok(())
}

impl<'w> Scene<'w> {
    fn set(world: &'w World, outside: &Cgroup) -> Result<Self> {
        let cpus = Cpus::allowed()?;
        // Room for the many connections that are closed: their ports come back after a second.
        world.enter(|| {
            let range = "/proc/sys/net/ipv4/ip_local_port_range";
            fs::write(range, "20000 65000").context("the world's port range")
        })?;
        let agent = ours::start(world)?;
        for pid in with_children(agent.pid()) {
            pin(pid, cpus.server)?;
        }
        let answer = ours::answer(world, ours::SERVED, ours::READ)?;
        let file = world.directory().join("etc/answer");
        fs::write(&file, [answer.head.as_bytes(), &answer.body].concat())?;
        let unguarded = outside.path().to_path_buf();
        let upstream = bare_hyper(&place(world, &unguarded, 0, cpus.load), AZURE_IMDS)?;
        let aws = world.aws_over_ipv6()?;
        // All paths work, or there is nothing to measure.
        ours::answer(world, ours::SERVED, ours::TOKEN)?;
        ours::answer(world, ours::FORWARDED, ours::READ)?;
        Ok(Self {
            world,
            cpus,
            unguarded,
            script: wrk::script(world.directory())?,
            answer,
            agent,
            _aws: aws,
            _upstream: upstream,
        })
    }

    fn outside(&self, cpu: usize) -> Place<'w> {
        place(self.world, &self.unguarded, 0, cpu)
    }

    fn workload(&self, uid: u32) -> Result<Place<'w>> {
        let cgroup = self.world.cgroup_below(&format!("uid-{uid}.service"))?;
        Ok(place(self.world, &cgroup, uid, self.cpus.load))
    }

    fn ours(&self, name: &'static str, uid: u32, target: &str) -> Result<Target<'w>> {
        Ok(Target {
            name,
            place: self.workload(uid)?,
            url: format!("http://{AZURE_IMDS}{target}"),
            pids: with_children(self.agent.pid()),
            script: None,
        })
    }

    /// Amazon's dialect, where no other cloud is.
    fn aws(&self, name: &'static str, target: &str) -> Result<Target<'w>> {
        Ok(Target {
            url: format!("http://{AWS_IMDS_V6}{target}"),
            ..self.ours(name, ours::ROLE, target)?
        })
    }

    fn theirs(&self, name: &'static str, server: &Server, address: &str) -> Target<'w> {
        Target {
            name,
            place: self.outside(self.cpus.load),
            url: format!("http://{address}{}", ours::READ),
            pids: server.pids(),
            script: None,
        }
    }

    fn http(&self, options: &Options) -> Result<Vec<contest::Case>> {
        let server = bare_hyper(&self.outside(self.cpus.server), PEER)?;
        let peer = self.theirs("bare hyper", &server, PEER);
        let ours = [
            (
                self.ours("fixed document", ours::SERVED, ours::READ)?,
                read_aims as fn(_) -> _,
            ),
            (
                self.ours("cached token", ours::SERVED, ours::TOKEN)?,
                token_aims,
            ),
            (self.aws("role keys", ours::KEYS)?, token_aims),
            (
                Target {
                    script: Some(wrk::put_script(self.world.directory())?),
                    ..self.aws("session PUT", ours::SESSION)?
                },
                no_aims,
            ),
        ];
        let loads: Vec<_> = [Connection::Kept, Connection::New]
            .into_iter()
            .flat_map(|c| CONNECTIONS.map(|n| (c, n)))
            .collect();
        let mut cases = contest::hold(
            &peer,
            &ours,
            &loads,
            options.extent(Section::Http),
            &self.script,
        )?;
        cases.sort_by_key(contest::Case::title);
        Ok(cases)
    }

    fn forward(&self, options: &Options) -> Result<Vec<contest::Case>> {
        let server = nginx::start(&self.outside(self.cpus.server))?;
        let peer = self.theirs("nginx", &server, nginx::ADDRESS);
        let ours = [(
            self.ours("forward", ours::FORWARDED, ours::READ)?,
            forward_aims as fn(_) -> _,
        )];
        let loads = CONNECTIONS.map(|n| (Connection::Kept, n));
        contest::hold(
            &peer,
            &ours,
            &loads,
            options.extent(Section::Forward),
            &self.script,
        )
    }

    fn programs(&self, options: &Options) -> Result<Vec<crate::figure::Figure>> {
        let server = self.outside(self.cpus.server);
        let (_v4, _v6) = (bare_hyper(&server, PEER)?, bare_hyper(&server, PEER_V6)?);
        let place = self.workload(ours::SERVED)?;
        let other = Some(Aim::AtMost(60.0));
        let loads = [
            ("other destination", PEER, other),
            ("other destination", PEER_V6, other),
            ("metadata", AZURE_IMDS, None),
            ("metadata, mapped address", AZURE_IMDS_MAPPED, None),
        ];
        let loads = loads.map(|(what, address, aim)| Dialled {
            what,
            address: address.to_owned(),
            place: place.clone(),
            aim,
        });
        programs::measure(
            self.world,
            &loads,
            options.extent(Section::Programs).rounds,
            options.dials(),
        )
    }

    fn notes(&self, options: &Options) -> Vec<String> {
        let extent = options.extent(Section::Http);
        let Cpus { server, load } = self.cpus;
        vec![
            format!(
                "Answer of {} bytes, head included; {} rounds of {} s each, peer and ours in turn; servers on CPU {server}, load on CPU {load}.",
                self.answer.head.len() + self.answer.body.len(), extent.rounds, extent.seconds
            ),
            "CPU: user and kernel time of the serving processes (ours: guard and proxy). Ratios are ours by peer, round by round.".into(),
            "Latencies of new connections begin when the connection stands.".into(),
            "Kernel programs: two readings of the clock are in each figure, as the kernel counts.".into(),
            "The real service's stand-in, behind nginx and behind us, is the bare hyper server, too.".into(),
        ]
    }
}

fn bare_hyper(place: &Place<'_>, address: &str) -> Result<Server> {
    let answer = place.world.directory().join("etc/answer");
    place.serve(
        &binary("bare_hyper")?,
        &[address, &answer.to_string_lossy()],
        address,
    )
}

fn read_aims(connection: Connection) -> Aims {
    let aim = |rate, cpu| Aims {
        rate: Some(Aim::AtLeast(rate)),
        cpu: Some(Aim::AtMost(cpu)),
    };
    match connection {
        Connection::Kept => aim(0.85, 1.2),
        Connection::New => aim(0.6, 1.8),
    }
}

fn token_aims(connection: Connection) -> Aims {
    match connection {
        Connection::Kept => Aims {
            rate: Some(Aim::AtLeast(0.75)),
            cpu: None,
        },
        Connection::New => read_aims(connection),
    }
}

/// Sealing a token is work that the peer hasn't.
fn no_aims(_: Connection) -> Aims {
    Aims::default()
}

fn forward_aims(_: Connection) -> Aims {
    Aims {
        rate: Some(Aim::AtLeast(1.0)),
        cpu: None,
    }
}
