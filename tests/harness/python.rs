//! The real Python clients (`tests/clients/`), run as workloads of a world with the packages pinned in
//! `tests/clients/requirements.txt`. Never patches a client: what they are told is their command line and documented variables.

use crate::{Workload, World};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Child;

/// The interpreter with the pinned packages, and the clients, as a world shows them.
#[derive(Debug, Clone)]
pub struct Python {
    interpreter: PathBuf,
    clients: PathBuf,
}

impl Python {
    /// Where `cargo xtask setup` makes the environment: `venv` in cargo's target directory, or where
    /// `IMDS_GUARD_VENV` says.
    ///
    /// # Errors
    /// When it isn't there: with the command that makes it.
    pub fn environment() -> Result<PathBuf> {
        let venv = match std::env::var_os("IMDS_GUARD_VENV") {
            Some(venv) => PathBuf::from(venv),
            None => beside_the_profile()?.join("venv"),
        };
        ensure!(
            venv.join("bin/python").is_file(),
            "{} isn't there: cargo xtask setup",
            venv.display()
        );
        Ok(venv)
    }

    /// Show environment and clients in this world.
    ///
    /// # Errors
    /// When one of them isn't there or can't be shown.
    pub fn new(world: &World) -> Result<Self> {
        let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
        let venv = world.show(&Self::environment()?, "venv")?;
        Ok(Self {
            interpreter: venv.join("bin/python"),
            clients: world.show(&clients, "clients")?,
        })
    }

    /// Have `workload` ask for a token with azure-identity: `kind` is `managed` or `default`.
    ///
    /// # Errors
    /// When the client couldn't be run or died of something that it doesn't know.
    pub fn token(
        &self,
        workload: &Workload<'_>,
        kind: &str,
        resource: &str,
        client_id: Option<&str>,
        environment: &[(&str, &str)],
    ) -> Result<Value> {
        let mut arguments = vec!["azure_token.py", kind, resource];
        arguments.extend(client_id);
        self.run(workload, &arguments, environment, "")
    }

    /// Have `workload` check a token as a relying party of `issuer` that is `audience`.
    ///
    /// # Errors
    /// When the client couldn't be run or died of something that it doesn't know.
    pub fn verify(
        &self,
        workload: &Workload<'_>,
        issuer: &str,
        audience: &str,
        token: &str,
    ) -> Result<Value> {
        self.run(workload, &["key_vault.py", issuer, audience], &[], token)
    }

    /// Start the interpreter as `workload`, with pipes, for whoever talks with it while it runs. A first argument that ends in
    /// `.py` is one of the clients.
    ///
    /// # Errors
    /// When it couldn't be started.
    pub fn spawn(
        &self,
        workload: &Workload<'_>,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Result<Child> {
        let (script, arguments) = arguments.split_first().context("no client")?;
        let mut words = vec![
            "HOME=/nonexistent".to_owned(),
            "PYTHONDONTWRITEBYTECODE=1".to_owned(),
        ];
        words.extend(
            environment
                .iter()
                .map(|(key, value)| format!("{key}={value}")),
        );
        words.push(self.interpreter.display().to_string());
        words.push(if script.ends_with(".py") {
            self.clients.join(script).display().to_string()
        } else {
            (*script).to_owned()
        });
        words.extend(arguments.iter().map(|word| (*word).to_owned()));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        workload.spawn(Path::new("/usr/bin/env"), &words)
    }

    /// Run a client of `tests/clients` to its end; it prints one line of JSON.
    ///
    /// # Errors
    /// When the client couldn't be run or died of something that it doesn't know.
    pub fn run(
        &self,
        workload: &Workload<'_>,
        arguments: &[&str],
        environment: &[(&str, &str)],
        input: &str,
    ) -> Result<Value> {
        let script = arguments.first().copied().unwrap_or_default();
        let mut client = self.spawn(workload, arguments, environment)?;
        if let Some(mut stdin) = client.stdin.take() {
            stdin
                .write_all(input.as_bytes())
                .context("the client is gone")?;
        }
        let output = client.wait_with_output()?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            format!("{script} ended with {} and said:\n{errors}", output.status)
        })
    }
}

/// Cargo's target directory, from where this program lies in it (`target/debug/deps/x`, `target/release/x`).
pub(crate) fn beside_the_profile() -> Result<PathBuf> {
    let mut directory = std::env::current_exe().context("no path for this program")?;
    directory.pop();
    if directory.ends_with("deps") {
        directory.pop();
    }
    directory.pop();
    Ok(directory)
}
