//! A world: where one test lives. Owns its namespaces, its cgroup and its directory, and undoes all three when dropped.

use crate::cgroup::{Cgroup, PREFIX};
use crate::netns::Namespaces;
use crate::{Agent, FakeAws, FakeAzure, FakeGcp, FarEnds, Space, Workload};
use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use tempfile::TempDir;

/// One test's own network, cgroup, bpffs and directory.
#[derive(Debug)]
pub struct World {
    // Dropped in this order: first all processes end (cgroup), then the namespaces go, then the files.
    cgroup: Cgroup,
    namespaces: Namespaces,
    cloud: Option<Space>,
    containers: AtomicU8,
    directory: TempDir,
}

impl World {
    /// A new world for the test `name` (letters, digits, `-`, `_`).
    ///
    /// # Errors
    /// When the machine lacks root, cgroup v2 or bpffs: call [`require!`](crate::require!) first for a plainer word.
    pub fn new(name: &str) -> Result<Self> {
        Self::create(name, true)
    }

    /// A new world in which the real services are not on its own loopback but a cable away, as they are from a cloud machine:
    /// what reaches them left this host, by a route, from an address. Containers are routed ([`World::container`]).
    ///
    /// # Errors
    /// As [`World::new`].
    pub fn with_cloud(name: &str) -> Result<Self> {
        let mut world = Self::create(name, false)?;
        world.cloud = Some(world.enter(Space::cloud)?);
        Ok(world)
    }

    fn create(name: &str, metadata: bool) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}.{name}.", std::process::id()))
            .tempdir()?;
        // Workloads of other uids have their programs and files in here.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755))?;
        for below in ["bpf", "bin", "state", "run", "etc"] {
            fs::create_dir(directory.path().join(below))?;
        }
        // Signing keys: the agent refuses a directory that others may read.
        let state = directory.path().join("state");
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700))?;
        crate::scale::lend_key(&state)?;
        let namespaces = Namespaces::create(&directory.path().join("bpf"), metadata)?;
        Ok(Self {
            cgroup: Cgroup::child(name)?,
            namespaces,
            cloud: None,
            containers: AtomicU8::new(0),
            directory,
        })
    }

    /// A network namespace that has a loopback alone: what `--network none` gives.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn unconnected(&self) -> Result<Space> {
        self.enter(Space::alone)
    }

    /// A network namespace behind a veth pair, routed by the world's own: 10.201.N.2.
    ///
    /// # Errors
    /// When it can't be made, or after 250 of them.
    pub fn container(&self) -> Result<Space> {
        let number = self.containers.fetch_add(1, Ordering::Relaxed);
        self.enter(|| Space::container(number))
    }

    /// A bridge of the world's own network namespace, `tw-br`; once per world. Guests are its ports ([`World::port`]).
    ///
    /// # Errors
    /// When it can't be made.
    pub fn bridge(&self) -> Result<()> {
        self.enter(crate::space::bridge)
    }

    /// A network namespace at the port `tw-pN` of the bridge: 10.202.0.N+2, station 52:54:00:00:00:0N, routed by the world.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn port(&self, number: u8) -> Result<Space> {
        self.enter(|| Space::port(number))
    }

    /// Run `work` on a thread inside `space`, with the world's mount namespace.
    ///
    /// # Errors
    /// Those of `work`, and of entering.
    pub fn enter_space<T: Send>(
        &self,
        space: &Space,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.enter(|| {
            space.join()?;
            work()
        })
    }

    /// Run `work` where the real services stand.
    ///
    /// # Errors
    /// Those of `work`, and of entering.
    pub fn enter_cloud<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        match &self.cloud {
            Some(cloud) => self.enter_space(cloud, work),
            None => self.enter(work),
        }
    }

    /// The cgroup that holds everything of this world; interception is attached here.
    #[must_use]
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// The same as policies name it in `cgroup:path`: below the cgroup v2 mount, beginning with a slash.
    ///
    /// # Errors
    /// When the hierarchy is no longer mounted.
    pub fn cgroup_name(&self) -> Result<String> {
        let mount = crate::cgroup::mount_point()?;
        let below = self.cgroup.path().strip_prefix(&mount)?;
        Ok(format!("/{}", below.display()))
    }

    /// A cgroup below the world's, made when it isn't there.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn cgroup_below(&self, name: &str) -> Result<PathBuf> {
        self.cgroup.below(name)
    }

    /// The world's directory, readable by all: `bpf` (a bpffs, only seen from inside), `bin`, `state`, `run`, `etc`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Run `work` on a thread inside the world's namespaces; what it starts is inside, too. The working directory is `/`.
    ///
    /// # Errors
    /// Those of `work`, and of entering.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.namespaces.enter(work)
    }

    /// Show `source` (a file or a directory) inside the world under `bin/NAME`, and say where. Build directories often lie
    /// where other uids can't reach them.
    ///
    /// # Errors
    /// When it can't be mounted.
    pub fn show(&self, source: &Path, name: &str) -> Result<PathBuf> {
        let target = self.directory().join("bin").join(name);
        let source = source
            .canonicalize()
            .with_context(|| source.display().to_string())?;
        if target.exists() {
            return Ok(target);
        }
        if source.is_dir() {
            fs::create_dir(&target)?
        } else {
            fs::write(&target, "")?
        }
        self.enter(|| {
            mount(
                Some(&source),
                &target,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .with_context(|| format!("bind {}", source.display()))
        })?;
        Ok(target)
    }

    /// A workload called `name`, in a cgroup `NAME.service` of its own, as uid 1000 and gid 2000 until told otherwise.
    #[must_use]
    pub fn workload(&self, name: &str) -> Workload<'_> {
        Workload::new(self, name)
    }

    /// The agent, to be configured and started.
    #[must_use]
    pub fn agent(&self) -> Agent<'_> {
        Agent::new(self)
    }

    /// A server at 169.254.169.254:80 of this world, or of its cloud, standing for Azure's real one.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn azure(&self) -> Result<FakeAzure> {
        FakeAzure::start(self)
    }

    /// Servers at 169.254.169.254:80 and 169.254.170.2:80 of this world, or of its cloud, standing for Amazon's real ones.
    ///
    /// # Errors
    /// When they can't listen.
    pub fn aws(&self) -> Result<FakeAws> {
        FakeAws::start(self)
    }

    /// The same over IPv6 alone: Azure's may stand at the other address.
    ///
    /// # Errors
    /// When its address can't be bound.
    pub fn aws_over_ipv6(&self) -> Result<FakeAws> {
        FakeAws::start_at(self, &[(crate::AWS_IMDS_V6, false)])
    }

    /// HTTPS servers under the clouds' own names; once per world.
    ///
    /// # Errors
    /// When its files can't be put in place.
    pub fn far_ends(&self) -> Result<FarEnds<'_>> {
        FarEnds::begin(self)
    }

    /// A server where Google's metadata server stands.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn gcp(&self) -> Result<FakeGcp> {
        FakeGcp::start(self)
    }
}
