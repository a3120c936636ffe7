//! The clouds' own libraries and tools (`tests/clients/`), run as workloads of a world: which runtime, which words, and what they
//! say. Never patches a client: what they are told is their command line and documented variables.

use crate::python::beside_the_profile;
use crate::{Python, Workload, World};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout};

/// What a client runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Runtime {
    /// Debian's interpreter, with the packages pinned in `requirements.txt`.
    Python,
    /// node, with those of `package-lock.json`.
    Node,
    /// The program of `tests/clients/rust`.
    Rust,
    /// The machine's shell and curl.
    Shell,
}

/// A client, as a program that is started would be told what to do.
#[derive(Debug, Clone, Copy)]
pub struct Program<'p> {
    /// What it runs on.
    pub runtime: Runtime,
    /// Script (where there is one), and its words.
    pub words: &'p [&'p str],
    /// Documented variables.
    pub environment: &'p [(&'p str, &'p str)],
}

impl Program<'_> {
    /// Start it as `workload`, with pipes.
    ///
    /// # Errors
    /// When its runtime isn't there: with the command that makes it.
    pub fn start(&self, world: &World, workload: &Workload<'_>, more: &[&str]) -> Result<Child> {
        let words = [self.words, more].concat();
        if self.runtime == Runtime::Python {
            return Python::new(world)?.spawn(workload, &words, self.environment);
        }
        let mut line = vec!["HOME=/nonexistent".to_owned()];
        let variables = self.environment.iter();
        line.extend(variables.map(|(key, value)| format!("{key}={value}")));
        let (command, words) = self.command(world, &words)?;
        line.extend(command);
        line.extend(words.iter().map(|word| (*word).to_owned()));
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        workload.spawn(Path::new("/usr/bin/env"), &line)
    }

    fn command<'w>(
        &self,
        world: &World,
        words: &'w [&'w str],
    ) -> Result<(Vec<String>, &'w [&'w str])> {
        let shown = |path: PathBuf| path.display().to_string();
        if self.runtime == Runtime::Rust {
            let program = made("rust-clients/debug/imds-guard-rust-clients")?;
            return Ok((vec![shown(world.show(&program, "rust-client")?)], words));
        }
        let (script, words) = words.split_first().context("no client")?;
        let command = if self.runtime == Runtime::Node {
            let modules = made("node/node_modules")?;
            let place = modules.parent().context("no folder")?;
            let script = world.show(place, "node")?.join(script);
            vec!["node".to_owned(), shown(script)]
        } else {
            let clients = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients");
            let script = world.show(&clients, "clients")?.join(script);
            vec!["sh".to_owned(), shown(script)]
        };
        Ok((command, words))
    }

    /// Run it to its end; what it says in one line.
    ///
    /// # Errors
    /// When it says nothing.
    pub fn ask(&self, world: &World, workload: &Workload<'_>, more: &[&str]) -> Result<Value> {
        let mut child = self.start(world, workload, more)?;
        drop(child.stdin.take());
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        answer(said.lines().next().unwrap_or_default()).with_context(|| {
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            format!(
                "{:?} ended with {} and said:\n{errors}",
                self.words, output.status
            )
        })
    }
}

/// A client that stays, and asks once more when it is told to.
#[derive(Debug)]
pub struct Staying {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Staying {
    /// Start it; it asks for the first time.
    ///
    /// # Errors
    /// As [`Program::start`].
    pub fn start(program: &Program<'_>, world: &World, workload: &Workload<'_>) -> Result<Self> {
        let mut process = program.start(world, workload, &["--again"])?;
        let (to, from) = (process.stdin.take(), process.stdout.take());
        Ok(Self {
            process,
            to: to.context("no input")?,
            from: BufReader::new(from.context("no output")?),
        })
    }

    /// What it says next.
    ///
    /// # Errors
    /// When it ends without a word.
    pub fn said(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        answer(&line).with_context(|| format!("{line:?}: {:?}", self.process.try_wait()))
    }

    /// Have it ask once more.
    ///
    /// # Errors
    /// When it is gone.
    pub fn again(&mut self) -> Result<Value> {
        self.to.write_all(b"\n").context("the client is gone")?;
        self.said()
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        let _already_gone = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A line of JSON, or, of curl, a status code and a body behind it.
fn answer(line: &str) -> Result<Value> {
    if let Ok(answer) = serde_json::from_str::<Value>(line)
        && answer.is_object()
    {
        return Ok(answer);
    }
    let (code, body) = line.trim().split_once(' ').context("no answer")?;
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    Ok(json!({
        "ok": code == "200",
        "status": code.parse::<u16>()?,
        "token": parsed["access_token"],
        "secret": parsed["SecretAccessKey"],
        "error": body,
    }))
}

/// What `cargo xtask setup` makes below cargo's target directory.
fn made(path: &str) -> Result<PathBuf> {
    let path = beside_the_profile()?.join(path);
    ensure!(
        path.exists(),
        "{} isn't there: cargo xtask setup",
        path.display()
    );
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_both_kinds_are_read() {
        assert_eq!(answer(r#"{"ok":true}"#).unwrap()["ok"], true);
        let given = answer("200 {\"access_token\":\"t\"}").unwrap();
        assert_eq!((&given["ok"], &given["token"]), (&true.into(), &"t".into()));
        let refused = answer("403 <h1>no</h1>").unwrap();
        assert_eq!(
            (&refused["ok"], &refused["error"]),
            (&false.into(), &"<h1>no</h1>".into())
        );
        assert!(answer("").is_err() && answer("nothing").is_err());
    }
}
