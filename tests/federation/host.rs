//! A guarded host in no cloud, its issuer published, and the three clouds' endpoints.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use imds_guard_tests::far::entra::{Application, Entra};
use imds_guard_tests::far::google_sts::{Google, Pool};
use imds_guard_tests::far::web_identity::{Role, WebIdentity};
use imds_guard_tests::{AgentProcess, FarEnd, FarEnds, Python, Workload, World, binary};
use serde_json::Value;
use std::process::{Command, Output};

pub(crate) const VAULT: &str = "https://vault.azure.net";
pub(crate) const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
pub(crate) const ACCOUNT: &str = "billing@example-project.iam.gserviceaccount.com";
pub(crate) const PROVIDER: &str =
    "projects/123456789/locations/global/workloadIdentityPools/hosts/providers/example-org";
pub(crate) const SUBJECT: &str = "spiffe://example.org/host/web-07/workload/billing";
pub(crate) const ISSUER: &str = "https://idp.example.org/hosts";
const TENANT: &str = "11111111-2222-3333-4444-555555555555";
const CLIENT: &str = "22222222-3333-4444-5555-666666666666";
const ROLE: &str = "arn:aws:iam::123456789012:role/billing";
const BILLING: u32 = 61041;

/// The example of the documentation, for a user of the test; and what google-auth reads before it asks for a token.
pub(crate) fn policy(roots: &str) -> String {
    let example = include_str!("../../agent/docs/policy/10-federation.toml");
    let example = example
        .replace("systemd:id:billing.service", &format!("unix:uid:{BILLING}"))
        .replace(
            "region = \"eu-central-1\"\n",
            "region = \"eu-central-1\"\ntags = { team = \"data\" }\n",
        );
    format!(
        r#"{example}
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/instance", "gcp:/computeMetadata/v1/project/**", "gcp:/computeMetadata/v1/universe/**"]
document = "host"

[document.host]
cloud = "gcp"
instance = {{ instance = {{ zone = "z" }}, project = {{ "project-id" = "p" }}, universe = {{ "universe-domain" = "googleapis.com" }} }}

[trust]
roots = "{roots}"

[endpoints]
azure-imds = "enforce"
aws-imds = "enforce"
aws-ecs = "enforce"
gcp-imds = "enforce"
gcp-mtls = "enforce"
"#
    )
}

/// Which dialect is spoken at the one address: that of the cloud whose endpoint comes first among the strictest.
fn only(policy: &str, cloud: &str) -> String {
    ["azure-imds", "aws-imds", "aws-ecs", "gcp-imds", "gcp-mtls"]
        .iter()
        .filter(|name| !name.starts_with(cloud))
        .fold(policy.to_owned(), |text, name| {
            text.replace(
                &format!("{name} = \"enforce\""),
                &format!("{name} = \"observe\""),
            )
        })
}

/// A guarded host, and what stands at the other ends.
#[derive(Debug)]
pub(crate) struct Host<'w> {
    world: &'w World,
    python: Python,
    pub(crate) entra: Entra,
    pub(crate) sts: WebIdentity,
    pub(crate) google: Google,
    pub(crate) agent: AgentProcess,
    /// Far ends end with the process, names with these.
    _far: FarEnds<'w>,
    pub(crate) issuer: FarEnd,
}

impl<'w> Host<'w> {
    /// That speaks this cloud's dialect at 169.254.169.254.
    pub(crate) fn of(world: &'w World, cloud: &str) -> Self {
        Self::with(world, |policy| only(&policy, cloud))
    }

    /// With the policy as `change` leaves it.
    pub(crate) fn with(world: &'w World, change: impl FnOnce(String) -> String) -> Self {
        let far = world.far_ends().unwrap();
        let policy = change(policy(far.roots().to_str().unwrap()));
        let issuer = publish(world, &far, &policy);
        Self {
            entra: Entra::start(&far, "login.microsoftonline.com", application()).unwrap(),
            sts: WebIdentity::start(&far, "sts.eu-central-1.amazonaws.com", role()).unwrap(),
            google: Google::start(&far, pool()).unwrap(),
            python: Python::new(world).unwrap(),
            agent: world.agent().config(&policy).start().unwrap(),
            world,
            _far: far,
            issuer,
        }
    }

    fn workload(&self, name: &str, uid: u32) -> Workload<'w> {
        let cgroup = format!("system.slice/{name}.service");
        let workload = self.world.workload(name).uid(uid).gid(uid);
        workload.in_cgroup(&cgroup)
    }

    /// May have what three rules give.
    pub(crate) fn billing(&self) -> Workload<'w> {
        self.workload("billing", BILLING)
    }

    /// Isn't named in the policy.
    pub(crate) fn neighbour(&self) -> Workload<'w> {
        self.workload("neighbour", BILLING + 1)
    }

    pub(crate) fn azure(&self, who: &Workload<'_>) -> Value {
        self.python.token(who, "managed", VAULT, None, &[]).unwrap()
    }

    /// By the instance's endpoint, or by the containers'.
    pub(crate) fn boto(&self, who: &Workload<'_>, environment: &[(&str, &str)]) -> Value {
        let words = ["aws_credentials.py", "credentials"];
        self.python.run(who, &words, environment, "").unwrap()
    }

    /// At this address.
    pub(crate) fn google(&self, who: &Workload<'_>, address: &str) -> Value {
        let place = [("GCE_METADATA_HOST", address), ("GCE_METADATA_IP", address)];
        let words = ["gcp_token.py", "token", SCOPE];
        self.python.run(who, &words, &place, "").unwrap()
    }

    /// `issuer publish --check`, inside the world.
    pub(crate) fn check(&self) -> Output {
        let program = binary("imds-guard").unwrap();
        let (config, state) = (
            self.world.directory().join("etc/publish.toml"),
            self.world.directory().join("state"),
        );
        self.world
            .enter(|| {
                let mut command = Command::new(program);
                command.args(["issuer", "publish", "--check", "--config"]);
                command.arg(config).arg("--state-dir").arg(state);
                Ok(command.output()?)
            })
            .unwrap()
    }

    /// So many connections with one request each, sent together.
    pub(crate) fn crowd(&self, who: &Workload<'_>, count: &str, target: &str) -> Value {
        let words = ["crowd.py", count, target];
        self.python.run(who, &words, &[], "").unwrap()
    }

    /// Neither a log line nor a record shows an assertion, a token or a key.
    pub(crate) fn keeps_its_secrets(&self) {
        let records = self.agent.audit().records().unwrap();
        let records: Vec<String> = records.iter().map(Value::to_string).collect();
        let all = self.agent.log() + &records.concat();
        for secret in ["eyJ", "canary", "ya29", "far-session"] {
            assert!(!all.contains(secret), "{secret} in {all}");
        }
    }

    /// How many assertions were signed.
    pub(crate) fn signed(&self) -> Vec<Value> {
        let records = self.agent.audit().records().unwrap();
        let signed = records.into_iter().filter(|line| line["event"] == "signed");
        signed.collect()
    }
}

/// As an operator does it: what `issuer publish` writes is served to the world.
fn publish(world: &World, far: &FarEnds<'_>, policy: &str) -> FarEnd {
    let (config, to) = (
        world.directory().join("etc/publish.toml"),
        world.directory().join("published"),
    );
    std::fs::write(&config, policy).unwrap();
    let output = Command::new(binary("imds-guard").unwrap())
        .args(["issuer", "publish", "--config"])
        .arg(&config)
        .arg("--state-dir")
        .arg(world.directory().join("state"))
        .arg("--dir")
        .arg(&to)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    far.publish(ISSUER, &to).unwrap()
}

fn application() -> Application {
    Application {
        tenant: TENANT.to_owned(),
        client_id: CLIENT.to_owned(),
        issuer: ISSUER.to_owned(),
        subject: SUBJECT.to_owned(),
        audience: "api://AzureADTokenExchange".to_owned(),
        resources: vec![VAULT.to_owned()],
    }
}

fn role() -> Role {
    Role {
        arn: ROLE.to_owned(),
        issuer: ISSUER.to_owned(),
        audience: "sts.amazonaws.com".to_owned(),
        subject: SUBJECT.to_owned(),
    }
}

fn pool() -> Pool {
    Pool {
        provider: PROVIDER.to_owned(),
        issuer: ISSUER.to_owned(),
        account: ACCOUNT.to_owned(),
        subject: SUBJECT.to_owned(),
    }
}
