//! Starts that meet what another version, a full disk or a bad hand has left: what is in force stays, a clear word is said, and a good
//! start follows.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{Gets, asks, billing, config, neighbour, world};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_start_on_a_bad_policy_leaves_what_is_in_force() {
    let world = world("bad-policy");
    let azure = world.azure().unwrap();
    let bad = || {
        let mut agent = world.agent().config("no policy").spawn().unwrap();
        let status = agent.wait_end(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(2), "{}", agent.log());
    };
    // Nothing was in force: nothing is.
    bad();
    assert_eq!(asks(&neighbour(&world)), Gets::Untouched);
    let asked = azure.received().len();
    drop(world.agent().config(&config("enforce")).start().unwrap());
    bad();
    for who in [billing(&world), neighbour(&world)] {
        assert_eq!(asks(&who), Gets::Refused);
    }
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert_eq!(azure.received().len(), asked);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn pins_of_another_layout_are_replaced_and_no_moment_is_unguarded() {
    let world = world("layout");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    agent.signal(Signal::SIGKILL).unwrap();
    drop(agent);
    // As if another version had made it: what it has in force goes on until ours is.
    let pins = world.directory().join("bpf/imds-guard");
    let found = |name: &str| {
        let names = world.enter(|| {
            let names = fs::read_dir(&pins)?.flatten().map(|e| e.file_name());
            Ok(names
                .map(|n| n.to_string_lossy().into_owned())
                .collect::<Vec<_>>())
        });
        names.unwrap().iter().any(|n| n == name)
    };
    let now = format!("layout-{}", imds_guard_ebpf::ABI_VERSION);
    world
        .enter(|| Ok(fs::rename(pins.join(&now), pins.join("layout-1"))?))
        .unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Refused);
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert!(found(&now) && !found("layout-1"));
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_truncated_state_file_is_named_and_nothing_of_what_is_in_force_changes() {
    let world = world("truncated");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    drop(agent);
    let key = world.directory().join("state/issuer-key.json");
    let text = fs::read_to_string(&key).unwrap();
    for cut in ["", &text[..text.len() / 2]] {
        fs::write(&key, cut).unwrap();
        let mut agent = world.agent().config(&config("enforce")).spawn().unwrap();
        let status = agent.wait_end(Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(1), "{}", agent.log());
        assert!(agent.log().contains("issuer-key.json"), "{}", agent.log());
        assert_eq!(
            fs::read_to_string(&key).unwrap(),
            cut,
            "it is left as it is"
        );
        assert_eq!(asks(&billing(&world)), Gets::Refused);
    }
    fs::write(&key, &text).unwrap();
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn truncated_files_of_the_run_directory_are_made_anew_and_told() {
    let world = world("truncated-run");
    let azure = world.azure().unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    let run = agent.run_directory().to_owned();
    drop(agent);
    let names = || fs::read_dir(&run).unwrap().flatten();
    let files = names().filter(|e| e.file_type().unwrap().is_file());
    let files: Vec<_> = files.map(|e| e.path()).collect();
    assert!(
        files.iter().any(|f| f.ends_with("session-key")),
        "{files:?}"
    );
    for file in &files {
        let text = fs::read(file).unwrap();
        fs::write(file, &text[..text.len() / 2]).unwrap();
    }
    for who in [billing(&world), neighbour(&world)] {
        assert_eq!(asks(&who), Gets::Refused);
    }
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    assert!(
        agent.log().contains("is no session key of ours"),
        "{}",
        agent.log()
    );
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(azure.received().is_empty());
}
