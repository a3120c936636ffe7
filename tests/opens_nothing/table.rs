//! One caller through all of it: before the agent is there, and then in each mode with and without a grant.

use anyhow::{Result, bail, ensure};
use imds_guard_tests::{AZURE_IMDS, AgentProcess, FakeAzure, UPSTREAM_TOKEN, Workload, World};
use nix::sys::signal::Signal;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// The host's address, as the real service sees it.
pub(crate) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));

const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// A request for it, as SDKs send it.
pub(crate) fn request() -> String {
    format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n")
}

/// What became of one attempt to get the real service's token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It came, and the service saw this address.
    Obtained(IpAddr),
    /// It didn't, and nothing reached the service. What the caller saw: an errno's text, or a status.
    Nothing(String),
}

/// Who tries, and how its socket is made.
#[derive(Debug)]
pub(crate) struct Subject<'w> {
    pub(crate) workload: Workload<'w>,
    pub(crate) options: Vec<&'static str>,
}

impl<'w> Subject<'w> {
    pub(crate) fn new(workload: Workload<'w>) -> Self {
        Self {
            workload,
            options: vec![],
        }
    }

    pub(crate) fn with(workload: Workload<'w>, option: &'static str) -> Self {
        Self {
            workload,
            options: vec![option],
        }
    }

    /// One attempt. Whatever is dropped on its way is given up on after 600 ms.
    pub(crate) fn attempt(&self, azure: &FakeAzure) -> Result<Outcome> {
        let asked = azure.received().len();
        let mut options = self.options.clone();
        options.push("--within=600");
        let mut caller = match self.workload.connect_with(AZURE_IMDS, &options) {
            Ok(caller) => caller,
            Err(error) => {
                ensure!(
                    azure.received().len() == asked,
                    "refused, and the service was asked"
                );
                return Ok(Outcome::Nothing(error.to_string()));
            }
        };
        caller.send(request().as_bytes())?;
        let answer = caller.response()?;
        let received = azure.received().split_off(asked);
        match (answer.text().contains(UPSTREAM_TOKEN), &received[..]) {
            (true, [one]) => Ok(Outcome::Obtained(one.from)),
            (false, []) => Ok(Outcome::Nothing(answer.status.to_string())),
            _ => bail!("{} and {received:?}", answer.text()),
        }
    }
}

/// The agent, and which policy it is at.
pub(crate) struct Installed<'w> {
    world: &'w World,
    pub(crate) agent: AgentProcess,
    epoch: u32,
}

impl<'w> Installed<'w> {
    pub(crate) fn new(world: &'w World, mode: &str, granted: bool) -> Result<Self> {
        let agent = world.agent().config(&policy(mode, granted)).start()?;
        Ok(Self {
            world,
            agent,
            epoch: 1,
        })
    }

    /// Another mode, by a reload.
    pub(crate) fn change(&mut self, mode: &str, granted: bool) -> Result<()> {
        let file = self.world.directory().join("etc/imds-guard.toml");
        std::fs::write(file, policy(mode, granted))?;
        self.agent.signal(Signal::SIGHUP)?;
        self.epoch += 1;
        let told = format!("policy reloaded epoch={} ", self.epoch);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.agent.log().contains(&told) {
            ensure!(Instant::now() < deadline, "{}", self.agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// Azure's endpoint in `mode`; uids 0, 1000 and 1001 may have Key Vault's token of the real service, or nobody anything.
pub(crate) fn policy(mode: &str, granted: bool) -> String {
    let grant = |uid: u32| {
        format!(
            r#"
[[workload]]
name = "billing-{uid}"
selectors = ["unix:uid:{uid}"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "real"
"#
        )
    };
    let grants: String = if granted {
        [0, 1000, 1001].map(grant).concat()
    } else {
        String::new()
    };
    format!(
        r#"
[endpoints]
azure-imds = "{mode}"
[host]
trust_domain = "example.org"
name = "web-07"
[identity.real]
cloud = "azure"
source = "forward"
client_id = "11111111-2222-3333-4444-555555555555"
{grants}"#
    )
}

/// What an enforced grant gives to a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granted {
    /// The token, from the host's own address.
    Served,
    /// Nothing: its connection can't be steered, and is refused.
    Refused,
}

/// Takes `subjects` through everything. `reach`: from which address each obtains the token without us, if it does.
pub(crate) fn walk(
    world: &World,
    azure: &FakeAzure,
    subjects: &[(Subject<'_>, Option<IpAddr>, Granted)],
) -> Result<()> {
    let each = |state: &str, wanted: &dyn Fn(Option<IpAddr>, Granted) -> Option<IpAddr>| {
        for (number, (subject, reach, granted)) in subjects.iter().enumerate() {
            let outcome = subject.attempt(azure)?;
            let obtained = match &outcome {
                Outcome::Obtained(from) => Some(*from),
                Outcome::Nothing(_) => None,
            };
            ensure!(
                obtained == wanted(*reach, *granted),
                "{state}, subject {number}: {outcome:?}"
            );
        }
        Ok(())
    };
    each("before installation", &|reach, _| reach)?;
    let mut installed = Installed::new(world, "observe", false)?;
    let told = |error: anyhow::Error, installed: &Installed<'_>| {
        error.context(format!("the agent said:\n{}", installed.agent.log()))
    };
    for (mode, granted) in [
        ("observe", false),
        ("observe", true),
        ("audit", false),
        ("audit", true),
        ("enforce", false),
        ("enforce", true),
    ] {
        installed.change(mode, granted)?;
        let state = format!(
            "{mode}, {}",
            if granted { "granted" } else { "not granted" }
        );
        let outcome = each(&state, &|reach, by_grant| match (mode, granted, by_grant) {
            ("enforce", true, Granted::Served) => Some(HOST),
            ("enforce", ..) => None,
            _ => reach,
        });
        outcome.map_err(|error| told(error, &installed))?;
    }
    Ok(())
}
