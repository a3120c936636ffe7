//! Far ends inside a world: HTTPS servers under the clouds' own names, found by the world's `/etc/hosts`, each at an address of
//! its own on the world's loopback, port 443. Nothing leads out of a world, so a name that no far end stands for leads nowhere.

pub mod aws_sts;
pub mod entra;
pub mod google_sts;
pub mod iamcredentials;
pub mod relying;
pub mod web_identity;

use crate::World;
use anyhow::{Context, Result};
use imds_guard_far::{Authority, FarEnd, Reply, Request};
use nix::mount::{MsFlags, mount};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};

/// The far ends of one world, and the authority that vouches for them.
#[derive(Debug)]
pub struct FarEnds<'w> {
    world: &'w World,
    authority: Authority,
    next: AtomicU8,
}

impl<'w> FarEnds<'w> {
    /// None yet. From now on the world has `/etc/hosts` and `/etc/resolv.conf` of its own.
    pub(crate) fn begin(world: &'w World) -> Result<Self> {
        let ends = Self {
            world,
            authority: Authority::new()?,
            next: AtomicU8::new(1),
        };
        fs::write(ends.roots(), ends.authority.pem())?;
        fs::write(ends.hosts(), "127.0.0.1 localhost\n")?;
        fs::write(ends.resolv_conf(), "# nobody is asked\n")?;
        let files = [
            (ends.hosts(), "/etc/hosts"),
            (ends.resolv_conf(), "/etc/resolv.conf"),
        ];
        world.enter(|| {
            for (own, over) in &files {
                let none = None::<&str>;
                mount(Some(own), Path::new(over), none, MsFlags::MS_BIND, none)
                    .with_context(|| format!("bind over {over}"))?;
            }
            Ok(())
        })?;
        Ok(ends)
    }

    /// The file for `[trust] roots`.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.world.directory().join("etc/roots.pem")
    }

    /// The world's `/etc/hosts`.
    #[must_use]
    pub fn hosts(&self) -> PathBuf {
        self.world.directory().join("etc/hosts")
    }

    /// The world's `/etc/resolv.conf`.
    #[must_use]
    pub fn resolv_conf(&self) -> PathBuf {
        self.world.directory().join("etc/resolv.conf")
    }

    /// The authority: for far ends of another kind.
    #[must_use]
    pub const fn authority(&self) -> &Authority {
        &self.authority
    }

    /// A far end that answers for `name` from now on. Start those that the agent is to find before it starts, or within a second
    /// it looks again.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn serve(
        &self,
        name: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<FarEnd> {
        let address = Ipv4Addr::new(127, 77, 0, self.next.fetch_add(1, Ordering::Relaxed));
        let credentials = self.authority.vouch(&[name])?;
        // Its threads begin inside: it may have to ask another far end.
        let far = self.world.enter(|| {
            let listener =
                TcpListener::bind((address, 443)).context("bind port 443 inside the world")?;
            FarEnd::start(listener, credentials, answer)
        })?;
        self.name(name, &address.to_string())?;
        Ok(far)
    }

    /// `name` leads to `address` from now on, by the world's `/etc/hosts`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn name(&self, name: &str, address: &str) -> Result<()> {
        let mut hosts = fs::read_to_string(self.hosts())?;
        hosts.push_str(&format!("{address} {name}\n"));
        fs::write(self.hosts(), hosts)?;
        Ok(())
    }

    /// Serves what is in `directory` as the issuer `url`: the files that `imds-guard issuer publish` has written there.
    ///
    /// # Errors
    /// When it can't listen, or the URL has no host.
    pub fn publish(&self, url: &str, directory: &Path) -> Result<FarEnd> {
        let rest = url.strip_prefix("https://").context("no https URL")?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let below = match path {
            "" => String::new(),
            path => format!("/{path}"),
        };
        let directory = directory.to_owned();
        self.serve(name, move |request| {
            let file = request.target.strip_prefix(&below);
            let file = file.map(|file| directory.join(file.trim_start_matches('/')));
            match file.and_then(|file| fs::read(file).ok()) {
                Some(body) if request.method == "GET" => Reply::json(200, body),
                _ => Reply::new(404, "nothing here"),
            }
        })
    }
}

/// Now, Unix seconds.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    })
}

/// The value of one field; none where it is there twice, or not.
pub(crate) fn only<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut found = form.iter().filter(|(n, _)| n == name);
    let value = found.next().map(|(_, value)| value.as_str());
    value.filter(|_| found.next().is_none())
}
