//! `imds-guard revoke`: connections end, what was kept is gone, what lives on is said, and the policy is as it was.

use super::{TOKEN, policy};
use imds_guard_tests::{AZURE_IMDS, Caller, Workload, World, binary, claims, require};

/// What the command says, and whether it was done.
fn revoke(world: &World, arguments: &[&str]) -> (bool, String) {
    let program = binary("imds-guard").unwrap();
    let output = world.enter(|| {
        let mut command = std::process::Command::new(&program);
        command.arg("revoke").args(arguments);
        let directory = world.directory();
        command.arg("--run-dir").arg(directory.join("run"));
        command
            .arg("--pin-dir")
            .arg(directory.join("bpf/imds-guard"));
        Ok(command.output()?)
    });
    let output = output.unwrap();
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

/// A connection on which a token was given, and that token's id.
fn served(who: &Workload<'_>) -> (Caller, String) {
    let mut caller = who.connect(AZURE_IMDS).unwrap();
    let jti = again(&mut caller);
    (caller, jti)
}

fn again(caller: &mut Caller) -> String {
    let request =
        format!("GET {TOKEN} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n");
    caller.send(request.as_bytes()).unwrap();
    let answer = caller.response().unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    let token = answer.json().unwrap()["access_token"].clone();
    let claims = claims(token.as_str().unwrap()).unwrap();
    claims["jti"].as_str().unwrap().to_owned()
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn what_was_given_to_one_workload_is_given_no_more_and_others_go_on() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("revoke").unwrap();
    let other = policy(1001)
        + &policy(1005)[policy(1005).find("[[workload]]").unwrap()..].replace("billing-api", "web");
    let agent = world.agent().config(&other).start().unwrap();
    let billing = world.workload("billing").uid(1001).gid(2002);
    let web = world.workload("web").uid(1005).gid(2006);
    let (mut of_billing, first) = served(&billing);
    let (mut of_web, webs) = served(&web);
    assert_eq!(again(&mut of_billing), first, "it is kept");
    let (done, said) = revoke(&world, &["--workload", "billing-api"]);
    assert!(done, "{said}");
    assert!(
        said.contains(&first) && said.contains("nobody can take it back"),
        "{said}"
    );
    assert!(!said.contains(&webs), "{said}");
    assert!(
        of_billing.rest().unwrap().is_empty(),
        "its connection has ended"
    );
    assert_eq!(
        again(&mut of_web),
        webs,
        "the neighbour's goes on, with what is kept"
    );
    let (_kept, second) = served(&billing);
    assert_ne!(second, first, "the policy is as it was: a new one");
    let (done, said) = revoke(&world, &[]);
    assert!(
        done && said.contains(&webs) && said.contains(&second),
        "{said}"
    );
    assert!(of_web.rest().unwrap().is_empty());
    let records = agent.audit().records().unwrap();
    let told = records.iter().filter(|line| line["event"] == "revoked");
    let whose: Vec<_> = told.map(|line| line["workload"].as_str()).collect();
    assert_eq!(whose, [Some("billing-api"), None]);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_workload_that_is_not_there_and_a_guard_that_is_not_there_are_told() {
    require!(Root, Cgroup2, Bpf, Agent);
    let world = World::new("revoke-nobody").unwrap();
    let (done, said) = revoke(&world, &[]);
    assert!(!done && said.contains("no guard answers"), "{said}");
    let agent = world.agent().config(&policy(1001)).start().unwrap();
    let billing = world.workload("billing").uid(1001).gid(2002);
    let (mut kept, first) = served(&billing);
    let (done, said) = revoke(&world, &["--workload", "biling"]);
    assert!(!done && said.contains("no workload `biling`"), "{said}");
    assert_eq!(again(&mut kept), first);
    let records = agent.audit().records().unwrap();
    assert!(records.iter().all(|line| line["event"] != "revoked"));
}
