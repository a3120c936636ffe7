//! Google Cloud: a service account that the machine's account acts as.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use crate::world;
use imds_guard_tests::far::iamcredentials::IamCredentials;
use imds_guard_tests::{
    AgentProcess, FakeGcp, FarEnds, GCP_CANARY, Python, Workload, World, claims,
};
use serde_json::Value;

const ACCOUNT: &str = "deploy@p.iam.gserviceaccount.com";
const STORAGE: &str = "https://www.googleapis.com/auth/devstorage.read_only";
const AUDIENCE: &str = "https://registry.example.org";
const BUILD: u32 = 61061;
const PLACE: [(&str, &str); 2] = [
    ("GCE_METADATA_HOST", "169.254.169.254"),
    ("GCE_METADATA_IP", "169.254.169.254"),
];

fn policy(roots: &str) -> String {
    format!(
        r#"
[endpoints]
gcp-imds = "enforce"
[trust]
roots = "{roots}"
[identity.deploy]
cloud = "gcp"
source = "assume"
account = "{ACCOUNT}"
lifetime = "30m"
[[workload]]
name = "build"
selectors = ["unix:uid:{BUILD}"]
[[workload.allow]]
token = {{ cloud = "gcp", scopes = ["{STORAGE}"] }}
identity = "deploy"
[[workload.allow]]
token = {{ cloud = "gcp", audience = ["{AUDIENCE}"] }}
identity = "deploy"
[[workload.allow]]
read = ["gcp:/computeMetadata/v1/instance", "gcp:/computeMetadata/v1/project/project-id", "gcp:/computeMetadata/v1/universe/universe-domain"]
"#
    )
}

/// A guarded machine whose account may act as one other.
struct Machine<'w> {
    world: &'w World,
    python: Python,
    gcp: FakeGcp,
    credentials: IamCredentials,
    agent: AgentProcess,
    _far: FarEnds<'w>,
}

impl<'w> Machine<'w> {
    fn new(world: &'w World) -> Self {
        let far = world.far_ends().unwrap();
        Self {
            gcp: world.gcp().unwrap(),
            credentials: IamCredentials::start(&far, ACCOUNT, GCP_CANARY).unwrap(),
            python: Python::new(world).unwrap(),
            agent: world
                .agent()
                .config(&policy(far.roots().to_str().unwrap()))
                .start()
                .unwrap(),
            world,
            _far: far,
        }
    }

    fn workload(&self, name: &str, uid: u32) -> Workload<'w> {
        let cgroup = format!("system.slice/{name}.service");
        let workload = self.world.workload(name).uid(uid).gid(uid);
        workload.in_cgroup(&cgroup)
    }

    fn auth(&self, who: &Workload<'_>, words: &[&str]) -> Value {
        let mut arguments = vec!["gcp_token.py"];
        arguments.extend(words);
        self.python.run(who, &arguments, &PLACE, "").unwrap()
    }

    fn keeps_its_own(&self, answers: &[&Value]) {
        let lines = self.agent.audit().exchanges().unwrap();
        let texts = answers.iter().map(ToString::to_string);
        let texts = texts.chain(lines.iter().map(ToString::to_string));
        for text in texts.chain([self.agent.log()]) {
            assert!(!text.contains(GCP_CANARY), "{text}");
        }
    }
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn google_auth_gets_tokens_of_the_account_that_its_workload_acts_as() {
    let world = world("assume-gcp");
    let machine = Machine::new(&world);
    let build = machine.workload("build", BUILD);
    for words in [&["token"][..], &["token", STORAGE][..]] {
        let answer = machine.auth(&build, words);
        assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
        let token = answer["token"].as_str().unwrap();
        assert_eq!(machine.credentials.good_for(token).unwrap(), [STORAGE]);
        assert_eq!(answer["account"], ACCOUNT);
        machine.keeps_its_own(&[&answer]);
    }
    assert_eq!(machine.credentials.received().len(), 1, "it is kept");
    let answer = machine.auth(&build, &["identity", AUDIENCE]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
    let token = answer["token"].as_str().unwrap();
    assert_eq!(machine.credentials.good_for(token).unwrap(), [AUDIENCE]);
    assert_eq!(claims(token).unwrap()["email"], ACCOUNT);
    machine.keeps_its_own(&[&answer]);
    let tokens = machine.gcp.lines();
    let own = tokens.iter().filter(|line| line.contains("/token"));
    assert_eq!(own.count(), 1, "the machine's own is kept: {tokens:?}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_and_other_scopes_get_nothing() {
    let world = world("assume-gcp-refused");
    let machine = Machine::new(&world);
    let cloud = "https://www.googleapis.com/auth/cloud-platform";
    let neighbour = machine.workload("neighbour", BUILD + 1);
    let build = machine.workload("build", BUILD);
    for (who, words) in [
        (&neighbour, ["token", STORAGE]),
        (&build, ["token", cloud]),
        (&build, ["identity", "https://other.example.org"]),
    ] {
        let answer = machine.auth(who, &words);
        assert_eq!(answer["ok"], false, "{answer}");
        machine.keeps_its_own(&[&answer]);
    }
    assert!(machine.credentials.received().is_empty());
    let lines = machine.gcp.lines();
    assert!(
        !lines.iter().any(|line| line.contains("/token")),
        "{lines:?}"
    );
    // The positive twin, on the same machine.
    let answer = machine.auth(&build, &["token", STORAGE]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", machine.agent.log());
}
