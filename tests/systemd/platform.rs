//! The presets for the clouds' own agents, with Debian's packages of these: what each asks by its own code, in the unit that its
//! package ships, it gets; the same program in another unit, or as another user, does not.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use imds_guard_tests::{GCP_CANARY, World, patience, require};

use crate::machine::{Machine, text};
use crate::{GUARD, PROXY};

const WIRESERVER: &str = include_str!("platform/wireserver.py");
const CLOUD_INIT_AZURE: &str = include_str!("platform/cloud_init_azure.py");
const WAAGENT: &str = include_str!("platform/waagent.py");
const CLOUD_INIT_GCE: &str = include_str!("platform/cloud_init_gce.py");
const CLOUD_INIT_EC2: &str = include_str!("platform/cloud_init_ec2.py");

/// Which units a cloud-init of any release asks from, of those that this release ships.
const CLOUD_INIT: [&str; 7] = [
    "cloud-init-local.service",
    "cloud-init.service",
    "cloud-init-network.service",
    "cloud-init-main.service",
    "cloud-config.service",
    "cloud-final.service",
    "cloud-init-hotplugd.service",
];

/// A machine on which everything of a cloud is enforced, and its preset alone grants anything.
struct Platform {
    machine: Machine,
}

impl Platform {
    fn boot(world: &World, cloud: &str, enforced: &[&str]) -> Result<Self> {
        let endpoints: String = enforced
            .iter()
            .map(|name| format!("{name} = \"enforce\"\n"))
            .collect();
        let policy = format!("include = [\"preset:{cloud}-platform\"]\n[endpoints]\n{endpoints}");
        let files = [
            ("opt/cloud_init_azure.py", CLOUD_INIT_AZURE),
            ("opt/waagent.py", WAAGENT),
            ("opt/cloud_init_gce.py", CLOUD_INIT_GCE),
            ("opt/cloud_init_ec2.py", CLOUD_INIT_EC2),
            (
                "etc/hosts",
                "127.0.0.1 localhost\n169.254.169.254 metadata.google.internal\n",
            ),
        ];
        let machine = Machine::boot_in_the_clouds(world, &policy, &files)?;
        if let Err(error) = machine.must(&["systemctl", "start", GUARD, PROXY]) {
            return Err(error.context(machine.journal("imds-guard*")));
        }
        Ok(Self { machine })
    }

    /// What was refused so far, for messages.
    fn audit(&self) -> String {
        let path = self.machine.root().join("var/log/imds-guard/audit.jsonl");
        let text = fs::read_to_string(path).unwrap_or_default();
        let refused = text.lines().filter(|line| !line.contains("\"status\":200"));
        refused.collect::<Vec<_>>().join("\n")
    }

    /// Whether the package ships this unit.
    fn ships(&self, unit: &str) -> bool {
        let cat = self.machine.run(&["systemctl", "cat", unit]);
        cat.is_ok_and(|output| output.status.success())
    }

    /// What `command` says in the package's own unit, with these lines beside; no more of the unit is changed than what it runs
    /// and when.
    fn in_unit(&self, unit: &str, lines: &str, command: &str) -> Result<String> {
        let dropin = format!(
            "[Unit]\nConditionPathExists=\n[Service]\nType=oneshot\nRemainAfterExit=no\nRestart=no\n\
             ExecStartPre=\nExecStart=\nExecStart={command}\nExecStartPost=\nExecStop=\nExecStopPost=\n\
             StandardInput=null\nStandardOutput=truncate:/run/said\nStandardError=truncate:/run/complained\n{lines}\n"
        );
        let folder = self
            .machine
            .root()
            .join(format!("run/systemd/system/{unit}.d"));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("test.conf"), dropin)?;
        self.machine.must(&["systemctl", "daemon-reload"])?;
        let started = self.machine.run(&["systemctl", "restart", unit])?;
        let read = |name: &str| {
            let path = self.machine.root().join("run").join(name);
            fs::read_to_string(path).unwrap_or_default()
        };
        let said = read("said");
        if !started.status.success() {
            let why = String::from_utf8_lossy(&started.stderr).into_owned();
            return Ok(format!("{said}{}\n{why}", read("complained")));
        }
        Ok(said)
    }

    /// What `command` says as root in a unit that no preset names.
    fn elsewhere(&self, command: &str) -> Result<String> {
        let mut arguments = vec!["systemd-run", "--quiet", "--wait", "--collect", "--pipe"];
        arguments.extend(["--unit=stranger", "sh", "-c"]);
        let both = format!("{command} 2>&1");
        arguments.push(&both);
        Ok(text(&self.machine.run(&arguments)?))
    }

    /// In its unit `command` says `right`; elsewhere, and in its unit as somebody else, it doesn't.
    #[track_caller]
    #[expect(clippy::unwrap_used, reason = "a test may end with a panic")]
    fn judges(&self, unit: &str, command: &str, right: &[&str]) {
        let said = self.in_unit(unit, "", command).unwrap();
        for right in right {
            assert!(said.contains(right), "{unit}: {said}\n{}", self.audit());
        }
        let stranger = self.elsewhere(command).unwrap();
        let nobody = self.in_unit(unit, "User=nobody", command).unwrap();
        for (who, said) in [("stranger", stranger), ("nobody", nobody)] {
            for right in right {
                assert!(!said.contains(right), "{who} of {unit}: {said}");
            }
        }
    }
}

/// Stands where the wireserver and the host plugin stand.
struct Wireserver {
    process: Child,
    log: std::path::PathBuf,
}

impl Wireserver {
    fn start(world: &World) -> Result<Self> {
        let log = world.directory().join("wireserver.log");
        let mut command = Command::new("python3");
        command
            .args(["-c", WIRESERVER])
            .arg(&log)
            .stdin(Stdio::null());
        let process = world.enter(move || command.spawn().context("python3"))?;
        let server = Self { process, log };
        let until = Instant::now() + patience(Duration::from_secs(10));
        while !server.said().contains("ready") {
            ensure!(Instant::now() < until, "no wireserver");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Wireserver {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn azures_preset_lets_debians_cloud_init_and_waagent_do_their_work_and_nobody_else() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("platform-azure").unwrap();
    let (azure, wireserver) = (world.azure().unwrap(), Wireserver::start(&world).unwrap());
    let enforced = ["azure-imds", "azure-wireserver", "azure-hostga"];
    let platform = Platform::boot(&world, "azure", &enforced).unwrap();
    let cloud_init = "/usr/bin/timeout 20 /usr/bin/python3 /opt/cloud_init_azure.py";
    platform.judges(
        "cloud-init-local.service",
        cloud_init,
        &[r#""name": "upstream""#, r#""reported": "1""#],
    );
    let shipped: Vec<&str> = CLOUD_INIT
        .into_iter()
        .filter(|u| platform.ships(u))
        .collect();
    assert!(shipped.len() >= 5, "{shipped:?}");
    for unit in shipped {
        let said = platform.in_unit(unit, "", cloud_init).unwrap();
        assert!(said.contains(r#""name": "upstream""#), "{unit}: {said}");
    }
    let waagent = "/usr/bin/timeout 60 /usr/bin/python3 /opt/waagent.py";
    platform.judges(
        "walinuxagent.service",
        waagent,
        &[r#""name": "upstream""#, "2015-09-01"],
    );
    let said = wireserver.said();
    for asked in [
        "80 GET /machine",
        "80 POST /machine",
        "80 GET /?comp=versions",
        "32526 GET /versions",
    ] {
        assert!(said.contains(asked), "{asked}: {said}");
    }
    let asked = azure.received();
    assert!(
        !asked.iter().any(|r| r.line.contains("oauth2")),
        "{asked:?}"
    );
    // No credential by a preset.
    let token = "/usr/bin/curl -s -H Metadata:true http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%%3A%%2F%%2Fvault.azure.net";
    for unit in ["cloud-init-local.service", "walinuxagent.service"] {
        let said = platform.in_unit(unit, "", token).unwrap();
        assert!(said.contains("Refused by imds-guard"), "{said}");
    }
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn amazons_preset_lets_debians_cloud_init_do_its_work_and_nobody_else() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("platform-aws").unwrap();
    let aws = world.aws().unwrap();
    let platform = Platform::boot(&world, "aws", &["aws-imds"]).unwrap();
    let read = [
        r#""id": "i-0123456789abcdef0""#,
        r#""zone": "eu-central-1a""#,
        r#""region": "eu-central-1", "user-data": true"#,
    ];
    // Refused, it asks for half a minute: it can't know that nobody will change their mind.
    let cloud_init = "/usr/bin/timeout 12 /usr/bin/python3 /opt/cloud_init_ec2.py";
    platform.judges("cloud-init-local.service", cloud_init, &read);
    // It walks the tree from its listings, and leaves the credentials out by itself; so does the preset.
    let lines = aws.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.ends_with("/meta-data/tags/instance/Name")),
        "{lines:?}"
    );
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("security-credentials")),
        "{lines:?}"
    );
    let role = "/bin/sh -c 'S=$(curl -s -X PUT -H \"X-aws-ec2-metadata-token-ttl-seconds: 60\" http://169.254.169.254/latest/api/token); curl -s -H \"X-aws-ec2-metadata-token: $S\" http://169.254.169.254/latest/meta-data/iam/security-credentials/'";
    let said = platform
        .in_unit("cloud-init-local.service", "", &role.replace('$', "$$"))
        .unwrap();
    assert!(said.contains("Refused by imds-guard"), "{said}");
}

#[test]
#[ignore = "systemd: cargo xtask test systemd"]
fn googles_preset_lets_debians_cloud_init_and_guest_agent_do_their_work_and_nobody_else() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("platform-gcp").unwrap();
    let gcp = world.gcp().unwrap();
    let platform = Platform::boot(&world, "gcp", &["gcp-imds", "gcp-mtls"]).unwrap();
    platform.judges(
        "cloud-init-local.service",
        "/usr/bin/timeout 30 /usr/bin/python3 /opt/cloud_init_gce.py",
        &[r#""id": "1234567890123456789", "user-data": true"#],
    );
    // The package's own program, in its own unit: it runs the script that the attributes have.
    platform.judges(
        "google-startup-scripts.service",
        "/usr/bin/timeout 30 /usr/bin/google_metadata_script_runner startup",
        &["canary-startup-script ran"],
    );
    let token = "/usr/bin/curl -s -H Metadata-Flavor:Google http://169.254.169.254/computeMetadata/v1/instance/service-accounts/default/token";
    let said = platform
        .in_unit("google-guest-agent.service", "", token)
        .unwrap();
    assert!(!said.contains(GCP_CANARY) && !said.is_empty(), "{said}");
    assert!(!gcp.received().iter().any(|r| r.line.contains("/token")));
}
