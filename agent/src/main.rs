//! The `imds-guard` binary: parse, dispatch, exit code. Everything else is in the library.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use imds_guard::cli::{self, Cli};

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            // A closed stderr must not turn a clear exit code into another one.
            drop(writeln!(std::io::stderr(), "imds-guard: {failure}"));
            failure.exit().into()
        }
    }
}
