//! The clouds' token endpoints, as far as federation needs them: real HTTPS servers of a world that validate what they get as the
//! real ones do. They fetch the issuer's documents over TLS, compare to the letter, and answer in the clouds' own words.

mod entra;
mod google_sts;
mod relying;
mod web_identity;

use crate::World;
use anyhow::{Context, Result};
use imds_guard_far::{Authority, FarEnd, Reply, Request};
use nix::mount::{MsFlags, mount};
use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

pub use entra::{Application, Entra};
pub use google_sts::{Google, Pool};
pub use relying::{Rejected, Trust};
pub use web_identity::{Role, WebIdentity};

/// The far side of a world: an authority that vouches for all that stands there, and the names by which it is found.
#[derive(Debug)]
pub struct FarSide<'w> {
    world: &'w World,
    authority: Authority,
    names: Arc<Names>,
}

/// Where names lead.
pub(crate) type Names = Mutex<HashMap<String, SocketAddr>>;

impl<'w> FarSide<'w> {
    /// A far side where nobody stands yet.
    ///
    /// # Errors
    /// When its files can't be written.
    pub fn new(world: &'w World) -> Result<Self> {
        let side = Self {
            world,
            authority: Authority::new()?,
            names: Arc::default(),
        };
        std::fs::write(side.roots(), side.authority.pem())?;
        let hosts = world.directory().join("etc/hosts");
        std::fs::write(&hosts, "127.0.0.1 localhost\n")?;
        world.enter(|| {
            let bind = MsFlags::MS_BIND;
            mount(Some(&hosts), "/etc/hosts", None::<&str>, bind, None::<&str>)
                .context("show the hosts file in the world")
        })?;
        Ok(side)
    }

    /// The file of roots that vouches for all of it.
    #[must_use]
    pub fn roots(&self) -> PathBuf {
        self.world.directory().join("etc/roots.pem")
    }

    /// Serves `name` at port 443 of an address of its own.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn serve(
        &self,
        name: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Result<FarEnd> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let last = u8::try_from(names.len() + 10)?;
        let at = SocketAddr::from(([127, 0, 0, last], 443));
        names.insert(name.to_owned(), at);
        drop(names);
        let path = self.world.directory().join("etc/hosts");
        let before = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{before}{} {name}\n", at.ip()))?;
        let credentials = self.authority.vouch(&[name])?;
        self.world.enter(move || {
            let listener = TcpListener::bind(at).with_context(|| format!("listen at {at}"))?;
            FarEnd::start(listener, credentials, answer)
        })
    }

    /// Serves what is in `directory` as the issuer `url`: the files that `imds-guard issuer publish` has written there.
    ///
    /// # Errors
    /// When it can't listen, or the URL has no host.
    pub fn publish(&self, url: &str, directory: &Path) -> Result<FarEnd> {
        let rest = url.strip_prefix("https://").context("no https URL")?;
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        let below = if path.is_empty() {
            String::new()
        } else {
            format!("/{path}")
        };
        let directory = directory.to_owned();
        self.serve(name, move |request| {
            let file = request
                .target
                .strip_prefix(&below)
                .map(|file| directory.join(file.trim_start_matches('/')));
            match file.and_then(|file| std::fs::read(file).ok()) {
                Some(body) if request.method == "GET" => Reply::json(200, body),
                _ => Reply::new(404, "nothing here"),
            }
        })
    }

    pub(crate) fn trust(&self) -> Result<Trust> {
        Trust::new(self.authority.pem(), Arc::clone(&self.names))
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
