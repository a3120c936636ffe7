//! `clean`: removes what killed tests and demos left behind (`cargo xtask clean` starts it). Touches nothing whose maker lives.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to a person"
)]

use std::process::ExitCode;

fn main() -> ExitCode {
    match imds_guard_tests::leftovers() {
        Ok(removed) => {
            for path in &removed {
                println!("removed {}", path.display());
            }
            println!("clean: {} leftovers", removed.len());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("clean: {error:#}");
            ExitCode::FAILURE
        }
    }
}
