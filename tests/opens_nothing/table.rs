//! One caller through all of it: before the agent is there, and then in each mode with and without a grant.

use anyhow::{Context, Result, bail, ensure};
use imds_guard_tests::{
    AZURE_IMDS, AgentProcess, FakeAzure, Fate, Outcome, UPSTREAM_TOKEN, Workload, World,
};
use nix::sys::signal::Signal;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

/// The host's address, as the real service sees it.
pub(crate) const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 0, 1));

const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// A request for it, as SDKs send it.
pub(crate) fn request() -> String {
    format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n")
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
        self.change_to(&policy(mode, granted))
    }

    /// Another policy.
    pub(crate) fn change_to(&mut self, policy: &str) -> Result<()> {
        let file = self.world.directory().join("etc/imds-guard.toml");
        std::fs::write(file, policy)?;
        self.agent.signal(Signal::SIGHUP)?;
        self.epoch += 1;
        // The proxy says it, later than the guard.
        let told = format!("serving by a new policy epoch={}\n", self.epoch);
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.agent.log().contains(&told) {
            ensure!(Instant::now() < deadline, "{}", self.agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// A deny that holds in audit, too.
pub(crate) const DENIES: &str = r#"
[[deny]]
name = "no-vault"
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
"#;

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

/// One caller: who tries, from which address it obtains the token without us, if it does, and what can be done for it.
pub(crate) type Case<'w> = (Subject<'w>, Option<IpAddr>, Fate);

/// Takes all of them through everything.
pub(crate) fn walk(world: &World, azure: &FakeAzure, cases: &[Case<'_>]) -> Result<()> {
    for (subject, reach, _) in cases {
        obtains(subject, azure, *reach).context("before installation")?;
    }
    // A container has a process. In one without, the listener is closed, and the first connection finds none.
    let residents: Vec<Resident> = cases
        .iter()
        .map(|(subject, ..)| {
            subject
                .workload
                .spawn(Path::new("/usr/bin/sleep"), &["600"])
        })
        .map(|spawned| spawned.map(Resident))
        .collect::<Result<_>>()?;
    let mut installed = Installed::new(world, "observe", false)?;
    for mode in ["observe", "audit", "enforce"] {
        for granted in [false, true] {
            installed.change(mode, granted)?;
            for (number, case) in cases.iter().enumerate() {
                tried(&installed, azure, case, mode, granted).with_context(|| {
                    let said = installed.agent.log();
                    format!("{mode}, granted: {granted}, case {number}; the agent said:\n{said}")
                })?;
            }
        }
    }
    drop(residents);
    Ok(())
}

/// A process that is just there. Dropped, it is killed.
#[derive(Debug)]
pub(crate) struct Resident(pub(crate) Child);

impl Drop for Resident {
    fn drop(&mut self) {
        let _already_gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// One attempt in one state, and what is recorded of it.
fn tried(
    installed: &Installed<'_>,
    azure: &FakeAzure,
    (subject, reach, fate): &Case<'_>,
    mode: &str,
    granted: bool,
) -> Result<()> {
    let before = installed.agent.audit().records()?.len();
    let wanted = match (mode, granted) {
        ("enforce", true) => fate.granted().then_some(HOST),
        ("enforce", false) => None,
        _ => *reach,
    };
    obtains(subject, azure, wanted)?;
    if mode == "audit" {
        let records = installed.agent.audit().wait(before + 1)?;
        let record = &records[before];
        let told = (record["event"].as_str(), record["reason"].as_str());
        let (event, reason) = fate.recorded();
        ensure!(told.0 == Some(event), "{record}");
        ensure!(event == "exchange" || told.1 == reason, "{record}");
    }
    Ok(())
}

fn obtains(subject: &Subject<'_>, azure: &FakeAzure, wanted: Option<IpAddr>) -> Result<()> {
    let outcome = subject.attempt(azure)?;
    ensure!(outcome.from() == wanted, "{outcome:?}, not {wanted:?}");
    Ok(())
}
