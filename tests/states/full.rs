//! Full disks, each a small tmpfs: of the audit file, of the keys, of the run directory. Nothing is given that can't be recorded, what
//! can't be written is named, nothing half written is left, and with room again all of it goes on.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use imds_guard_tests::World;
use nix::mount::{MsFlags, mount};

use super::{Gets, asks, billing, config, neighbour, soon, world};

/// A file system of that size there; seen by the world alone.
fn small(world: &World, at: &Path, mode: &str) {
    let options = format!("size=64k,mode={mode}");
    let made = world.enter(|| {
        fs::create_dir_all(at)?;
        Ok(mount(
            Some("tmpfs"),
            at,
            Some("tmpfs"),
            MsFlags::empty(),
            Some(options.as_str()),
        )?)
    });
    made.unwrap();
}

/// Leaves no room; what takes it.
fn fill(world: &World, at: &Path) -> PathBuf {
    let file = at.join("filler");
    let filled = world.enter(|| {
        let mut to = File::create(&file)?;
        while to.write_all(&[0; 512]).is_ok() {}
        Ok(())
    });
    filled.unwrap();
    file
}

fn make_room(world: &World, filler: &Path) {
    world.enter(|| Ok(fs::remove_file(filler)?)).unwrap();
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_room_for_records_nothing_is_given_and_with_room_it_is() {
    let world = world("full-audit");
    let azure = world.azure().unwrap();
    let disk = world.directory().join("disk");
    small(&world, &disk, "0755");
    // The file that the agent writes is on that disk.
    let (there, here) = (
        disk.join("audit.jsonl"),
        world.directory().join("audit.jsonl"),
    );
    let bound = world.enter(|| {
        File::create(&there)?;
        File::create(&here)?;
        Ok(mount(
            Some(&there),
            &here,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?)
    });
    bound.unwrap();
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    let filler = fill(&world, &disk);
    // What is left of the file's last block takes some records.
    soon(
        Duration::from_secs(10),
        || format!("it is told: {}", agent.log()),
        || {
            assert_eq!(asks(&neighbour(&world)), Gets::Denied);
            agent.log().contains("audit records can't be written")
        },
    );
    for _ in 0..3 {
        assert_eq!(asks(&billing(&world)), Gets::Other);
        assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    }
    make_room(&world, &filler);
    soon(
        Duration::from_secs(5),
        || format!("given again: {}", agent.log()),
        || asks(&billing(&world)) == Gets::Served,
    );
    let records = world.enter(|| Ok(fs::read_to_string(&there)?)).unwrap();
    let whole = |line: &str| serde_json::from_str::<serde_json::Value>(line).is_ok();
    assert!(records.lines().all(whole), "{records}");
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_room_for_the_key_nothing_is_signed_and_nothing_half_written_is_left() {
    let world = world("full-state");
    let azure = world.azure().unwrap();
    let state = world.directory().join("state");
    small(&world, &state, "0700");
    let filler = fill(&world, &state);
    let agent = world.agent().config(&config("enforce")).start().unwrap();
    for _ in 0..2 {
        assert_eq!(asks(&billing(&world)), Gets::Other);
    }
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(agent.log().contains("issuer-key"), "{}", agent.log());
    make_room(&world, &filler);
    soon(
        Duration::from_secs(5),
        || format!("signed: {}", agent.log()),
        || asks(&billing(&world)) == Gets::Served,
    );
    drop(agent);
    let _again = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert!(azure.received().is_empty());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn without_room_in_the_run_directory_no_start_and_what_is_in_force_stays() {
    let world = world("full-run");
    let azure = world.azure().unwrap();
    drop(world.agent().config(&config("enforce")).start().unwrap());
    let run = world.directory().join("run");
    small(&world, &run, "0755");
    let filler = fill(&world, &run);
    let mut failing = world.agent().config(&config("enforce")).spawn().unwrap();
    let status = failing.wait_end(Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(1), "{}", failing.log());
    assert!(failing.log().contains("session-key"), "{}", failing.log());
    for who in [billing(&world), neighbour(&world)] {
        assert_eq!(asks(&who), Gets::Refused);
    }
    make_room(&world, &filler);
    // Nobody hears that it is ready: the manager's socket is below what we have mounted.
    let agent = world.agent().config(&config("enforce")).spawn().unwrap();
    soon(
        Duration::from_secs(10),
        || format!("it starts: {}", agent.log()),
        || asks(&billing(&world)) == Gets::Served,
    );
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(azure.received().is_empty());
}
