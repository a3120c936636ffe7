//! AWS: a role that the instance's role assumes.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use crate::world;
use imds_guard_tests::far::aws_sts::{AwsSts, Holder, TrustedRole};
use imds_guard_tests::{
    AWS_CANARY, AgentProcess, FakeAws, FarEnds, Python, ROLE, Workload, World, patience,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::{Duration, Instant};

const REGION: &str = "eu-central-1";
const BATCH: u32 = 61051;
pub(crate) const ARN: &str = "arn:aws:iam::123456789012:role/batch";

/// The example of the documentation, for a user of the test.
fn policy(roots: &str, mode: &str) -> String {
    let example = include_str!("../../agent/docs/policy/3-batch.toml");
    let example = example.replace("systemd:id:batch.service", &format!("unix:uid:{BATCH}"));
    format!(
        "[endpoints]\naws-imds = \"{mode}\"\naws-ecs = \"{mode}\"\nazure-imds = \"observe\"\ngcp-imds = \"observe\"\n[host]\nname = \"web-07\"\n[trust]\nroots = \"{roots}\"\n{example}"
    )
}

/// A guarded instance whose role may assume one other.
#[derive(Debug)]
pub(crate) struct Instance<'w> {
    world: &'w World,
    python: Python,
    pub(crate) aws: FakeAws,
    pub(crate) sts: AwsSts,
    pub(crate) agent: AgentProcess,
    far: FarEnds<'w>,
}

impl<'w> Instance<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        Self::in_mode(world, "enforce")
    }

    fn in_mode(world: &'w World, mode: &str) -> Self {
        let far = world.far_ends().unwrap();
        let node = format!("arn:aws:iam::111122223333:role/{ROLE}");
        let role = TrustedRole {
            arn: ARN.to_owned(),
            by: node,
            longest: 43_200,
        };
        let sts = AwsSts::start(&far, REGION, role).unwrap();
        let instance = Self {
            aws: world.aws().unwrap(),
            python: Python::new(world).unwrap(),
            agent: world
                .agent()
                .config(&policy(far.roots().to_str().unwrap(), mode))
                .start()
                .unwrap(),
            world,
            sts,
            far,
        };
        for number in 1..=8 {
            instance.knows_own(number);
        }
        instance
    }

    /// STS takes the keys that the metadata service gives, this time for the `nth`.
    pub(crate) fn knows_own(&self, nth: u32) {
        self.sts.knows(
            &format!("ASIAFAKE{nth:012}"),
            Holder {
                secret: format!("{AWS_CANARY}-{nth}"),
                token: format!("fake-session-{nth}"),
                arn: format!("arn:aws:iam::111122223333:role/{ROLE}"),
            },
        );
    }

    fn workload(&self, name: &str, uid: u32) -> Workload<'w> {
        let cgroup = format!("system.slice/{name}.service");
        let workload = self.world.workload(name).uid(uid).gid(uid);
        workload.in_cgroup(&cgroup)
    }

    pub(crate) fn batch(&self) -> Workload<'w> {
        self.workload("batch", BATCH)
    }

    pub(crate) fn neighbour(&self) -> Workload<'w> {
        self.workload("neighbour", BATCH + 1)
    }

    pub(crate) fn boto(&self, who: &Workload<'_>, kind: &str, more: &[(&str, &str)]) -> Value {
        let roots = self.far.roots();
        let mut environment = vec![
            ("AWS_CA_BUNDLE", roots.to_str().unwrap()),
            ("AWS_DEFAULT_REGION", REGION),
        ];
        environment.extend(more);
        let words = ["aws_credentials.py", kind];
        self.python.run(who, &words, &environment, "").unwrap()
    }

    /// Serves by its policy as `change` leaves it, from now on; `epoch` counts policies.
    fn reload(&self, epoch: u32, change: impl FnOnce(String) -> String) {
        let policy = change(policy(self.far.roots().to_str().unwrap(), "enforce"));
        std::fs::write(self.world.directory().join("etc/imds-guard.toml"), policy).unwrap();
        self.agent.signal(Signal::SIGHUP).unwrap();
        let serving = format!("serving by a new policy epoch={epoch}\n");
        let end = Instant::now() + patience(Duration::from_secs(10));
        while !self.agent.log().contains(&serving) {
            assert!(Instant::now() < end, "{serving}: {}", self.agent.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What somebody with curl gets, with a session of its own: status and body.
    pub(crate) fn curl(&self, who: &Workload<'_>, path: &str) -> (String, String) {
        let script = format!(
            "T=$(curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token); \
             curl -sS -w ' %{{http_code}}' -H \"X-aws-ec2-metadata-token: $T\" http://169.254.169.254{path}"
        );
        let output = who.run("/bin/sh".as_ref(), &["-c", &script]).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once(' ').unwrap_or(("", &text));
        (status.to_owned(), body.to_owned())
    }

    /// Nothing of the machine's own is in what was answered, recorded or logged, nor a secret of what was given.
    pub(crate) fn keeps_its_own(&self, answers: &[String]) {
        for text in answers {
            assert!(!text.contains(AWS_CANARY), "{text}");
        }
        let lines = self.agent.audit().exchanges().unwrap();
        for text in lines.iter().map(Value::to_string).chain([self.agent.log()]) {
            for secret in [
                AWS_CANARY,
                "fake-session-",
                "canary-of-a-session",
                "session-token-",
            ] {
                assert!(!text.contains(secret), "{secret}: {text}");
            }
        }
    }
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn boto3_gets_the_role_of_its_workload_and_aws_takes_it() {
    let world = world("assume-aws");
    let instance = Instance::new(&world);
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", instance.agent.log());
    let sessions = instance.sts.sessions();
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    let session = &sessions[0];
    assert_eq!(answer["secret"], session.secret, "{answer}");
    assert_eq!((&*session.name, session.duration), ("batch@web-07", 3600));
    let tags = [("host", "web-07"), ("team", "data")];
    assert_eq!(
        session.tags,
        tags.map(|(k, v)| (k.to_owned(), v.to_owned()))
    );
    let policy: Value = serde_json::from_str(session.policy.as_ref().unwrap()).unwrap();
    assert_eq!(
        policy["Statement"][0]["Resource"][0],
        "arn:aws:s3:::batch-input/*"
    );
    // AWS itself says whose they are: boto3 signs with them, and its signature is verified as ours was.
    let identity = instance.boto(&instance.batch(), "identity", &[]);
    let arn = "arn:aws:sts::111122223333:assumed-role/batch/batch@web-07";
    assert_eq!(identity["arn"], arn, "{identity}");
    assert_eq!(instance.sts.sessions().len(), 1, "it is kept");
    // In CloudTrail and in our record they have one name.
    let lines = instance.agent.audit().exchanges().unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line["credential"]["jti"] == *session.key),
        "{lines:?}"
    );
    instance.keeps_its_own(&[answer.to_string(), identity.to_string()]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_answer_is_the_metadata_services_and_the_list_shows_the_one_role() {
    let world = world("assume-aws-shape");
    let instance = Instance::new(&world);
    let (status, roles) = instance.curl(
        &instance.batch(),
        "/latest/meta-data/iam/security-credentials/",
    );
    assert_eq!((&*status, &*roles), ("200", "batch"));
    assert!(instance.sts.received().is_empty(), "a name costs nothing");
    let path = "/latest/meta-data/iam/security-credentials/batch";
    let (status, body) = instance.curl(&instance.batch(), path);
    assert_eq!(status, "200", "{body}\n{}", instance.agent.log());
    let keys: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (&keys["Code"], &keys["Type"]),
        (&"Success".into(), &"AWS-HMAC".into())
    );
    for (name, value) in keys.as_object().unwrap() {
        assert!(value.is_string(), "{name}: {value}");
    }
    let ends = keys["Expiration"].as_str().unwrap();
    assert!(ends.len() == 20 && ends.ends_with('Z'), "{ends}");
    let own = format!("/latest/meta-data/iam/security-credentials/{ROLE}");
    let (status, refused) = instance.curl(&instance.batch(), &own);
    assert_eq!(status, "403", "{refused}");
    instance.keeps_its_own(&[refused]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_container_gets_it_in_the_containers_shape() {
    let world = world("assume-aws-container");
    let instance = Instance::new(&world);
    let uri = (
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "/v2/credentials/0b9f",
    );
    let answer = instance.boto(&instance.batch(), "credentials", &[uri]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", instance.agent.log());
    assert_eq!(answer["method"], "container-role");
    assert_eq!(answer["secret"], instance.sts.sessions()[0].secret);
    let refused = instance.boto(&instance.neighbour(), "credentials", &[uri]);
    assert_eq!(refused["ok"], false, "{refused}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn the_neighbour_gets_nothing_and_nobody_is_asked_for_it() {
    let world = world("assume-aws-neighbour");
    let instance = Instance::new(&world);
    let answer = instance.boto(&instance.neighbour(), "credentials", &[]);
    assert_eq!(answer["ok"], false, "{answer}");
    for path in ["batch", ROLE, ""] {
        let path = format!("/latest/meta-data/iam/security-credentials/{path}");
        let (status, body) = instance.curl(&instance.neighbour(), &path);
        assert_eq!(status, "403", "{body}");
    }
    assert!(instance.sts.received().is_empty() && instance.aws.received().is_empty());
    // The positive twin, on the same machine.
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn keys_that_sts_no_longer_takes_are_fetched_anew() {
    let world = world("assume-aws-stale");
    let instance = Instance::new(&world);
    instance.sts.forgets();
    instance.knows_own(2);
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", instance.agent.log());
    assert_eq!(instance.sts.received().len(), 2);
}

/// What is asked for in the machine's name is given where its rule is enforced, alone; and there is no falling back to the machine's.
#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn in_audit_there_is_neither_the_role_nor_the_machines_own() {
    let world = world("assume-aws-audit");
    let instance = Instance::in_mode(&world, "audit");
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], false, "{answer}");
    assert!(instance.sts.received().is_empty());
    // Whom no rule speaks of gets what it would without us: that is what audit is.
    let answer = instance.boto(&instance.neighbour(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", instance.agent.log());
    assert!(
        answer["secret"].as_str().unwrap().starts_with(AWS_CANARY),
        "{answer}"
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_changed_policy_holds_at_the_next_request_whatever_is_kept() {
    let world = world("assume-aws-reload");
    let instance = Instance::new(&world);
    let keys = || instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(keys()["secret"], instance.sts.sessions()[0].secret);
    instance.reload(2, |policy| policy.replace("batch-input", "batch-output"));
    let answer = keys();
    let sessions = instance.sts.sessions();
    assert_eq!(sessions.len(), 2, "{answer}\n{}", instance.agent.log());
    assert_eq!(answer["secret"], sessions[1].secret);
    assert!(
        sessions[1]
            .policy
            .as_ref()
            .unwrap()
            .contains("batch-output")
    );
    // Without the rule there is nothing, kept or not.
    instance.reload(3, |policy| {
        policy.replace(&format!("unix:uid:{BATCH}"), "unix:uid:61099")
    });
    assert_eq!(keys()["ok"], false);
    assert_eq!(instance.sts.sessions().len(), 2);
}
