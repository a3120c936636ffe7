//! A clock that isn't the kernel's, by a time namespace: the guard's word to the kernel would be of another time than it means.

use super::together::{agents, run_by, strs};
use super::{Gets, asks, billing, config, neighbour, world};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_guard_whose_clock_is_not_the_kernels_does_not_start() {
    let world = world("clock");
    let azure = world.azure().unwrap();
    // What is in force stays; and the same guard with the kernel's clock starts.
    drop(world.agent().config(&config("enforce")).start().unwrap());
    let run_dir = world.directory().join("run").display().to_string();
    for offset in ["86400", "-1"] {
        let offset = format!("--monotonic={offset}");
        let unshare = ["unshare", "--time", &offset, "--fork", "--"];
        let (code, said) = run_by(&world, &unshare, &strs(&agents(&world, &run_dir, "8788")));
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("timens_offsets"), "{said}");
        for who in [billing(&world), neighbour(&world)] {
            assert_eq!(asks(&who), Gets::Refused);
        }
    }
    let _agent = world.agent().config(&config("enforce")).start().unwrap();
    assert_eq!(asks(&billing(&world)), Gets::Served);
    assert_eq!(asks(&neighbour(&world)), Gets::Denied);
    assert!(azure.received().is_empty());
}
