//! `explain --pid` of a living process says what the agent does for that process.

use super::{LOCATION, TOKEN, ask, config, get, record_of, world};
use imds_guard_tests::{AZURE_IMDS, World};
use serde_json::Value;
use std::process::Command;

const RULES: &str = r#"
[[workload]]
name = "billing-api"
selectors = ["unix:uid:1000", "unix:gid:2000", "unix:supplementary_gid:44"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "minted"
[[workload]]
name = "web"
selectors = ["unix:uid:1002", "unix:path:WORLD/bin/probe"]
[[workload.allow]]
read = ["azure:/metadata/instance/compute/**"]
document = "web"
[[deny]]
name = "no-names"
read = ["azure:/metadata/instance/compute/name"]
"#;

fn explain(world: &World, pid: u32, target: &str) -> Value {
    let program = imds_guard_tests::binary("imds-guard").unwrap();
    let config = world.directory().join("etc/imds-guard.toml");
    let output = world
        .enter(|| {
            let mut command = Command::new(program);
            command.args(["explain", "--json", "--config"]).arg(config);
            command.args(["--pid", &pid.to_string()]);
            Ok(command
                .args(["--request", &format!("GET {target}")])
                .output()?)
        })
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_it_says_is_what_happens() {
    let world = world("explain");
    let cgroup = format!(
        "\n[[workload]]\nname = \"by-cgroup\"\nselectors = [\"unix:uid:1003\", \"cgroup:path:{}/nested/**\"]\n[[workload.allow]]\nread = [\"azure:/metadata/instance/**\"]\ndocument = \"web\"\n",
        world.cgroup_name().unwrap()
    );
    let rules = RULES.replace("WORLD", &world.directory().display().to_string());
    let agent = world
        .agent()
        .config(&config("enforce", &format!("{rules}{cgroup}")))
        .start()
        .unwrap();
    let name = LOCATION.replace("location", "name");
    let mut seen = [0, 0];
    for workload in [
        world.workload("a").groups(&[44]),
        world.workload("b"),
        world.workload("c").uid(1002),
        world.workload("d").uid(1003).in_cgroup("nested/d.service"),
        world.workload("e").uid(1003),
    ] {
        let mut caller = workload.connect(AZURE_IMDS).unwrap();
        for (nth, target) in (1..).zip([TOKEN, LOCATION, &name]) {
            let answer = ask(&mut caller, &get(target));
            let said = explain(&world, caller.pid(), target);
            let verdict = &said["verdict"];
            let happened = format!("{} {target}: {said:#}", answer.status);
            assert_eq!(verdict["allowed"], answer.status == 200, "{happened}");
            let record = record_of(&agent, caller.pid(), nth);
            assert_eq!(verdict["reason"], record["denial"]["reason"], "{happened}");
            if answer.status == 200 {
                assert_eq!(verdict["workload"], record["workload"], "{happened}");
                assert_eq!(verdict["rule"], record["rule"], "{happened}");
            }
            seen[usize::from(answer.status == 200)] += 1;
        }
    }
    assert_eq!(seen, [12, 3], "refused and allowed");
}
