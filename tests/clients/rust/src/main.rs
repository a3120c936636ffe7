//! Applications that want credentials: the clouds' own crates for Rust, unmodified, told nothing about imds-guard.
//!
//! usage: imds-guard-rust-clients azure RESOURCE [CLIENT_ID] | aws | gcp [SCOPE...]   [--again]
//!
//! With `--again` it asks once more for each line that comes on its input, with the same client: what a long-running service does.
//! Prints one JSON line for each answer: `{"ok": true, "token": ..., "seconds": ...}` (`"secret"` for Amazon's), or
//! `{"ok": false, "error": ...}`. Exit code 0 or 1.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "its answer is a line")]

mod aws;
mod azure;
mod gcp;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::process::ExitCode;
use std::time::Instant;

/// One client, ready to ask as often as it is wanted.
enum Client {
    Azure(azure::Client),
    Aws(aws::Client),
    Gcp(gcp::Client),
}

impl Client {
    async fn new(words: &[String]) -> Result<Self> {
        let (cloud, rest) = words.split_first().context("which cloud?")?;
        Ok(match cloud.as_str() {
            "azure" => Self::Azure(azure::Client::new(rest)?),
            "aws" => Self::Aws(aws::Client::new().await?),
            "gcp" => Self::Gcp(gcp::Client::new(rest)?),
            other => bail!("{other}: azure, aws or gcp"),
        })
    }

    /// What it was given, by its name in the answer.
    async fn ask(&self) -> Result<(&'static str, String)> {
        Ok(match self {
            Self::Azure(client) => ("token", client.ask().await?),
            Self::Aws(client) => ("secret", client.ask().await?),
            Self::Gcp(client) => ("token", client.ask().await?),
        })
    }
}

/// Their HTTP client wants to know who does TLS before it is told that there is none.
fn provider() {
    let _installed_before = rustls::crypto::ring::default_provider().install_default();
}

async fn answer(client: &Client) -> Value {
    let begun = Instant::now();
    let mut answer = match client.ask().await {
        Ok((name, given)) => json!({ "ok": true, name: given }),
        // With all that lies behind it: what a program logs that prints its errors' sources.
        Err(error) => json!({ "ok": false, "error": format!("{error:#}") }),
    };
    answer["seconds"] = begun.elapsed().as_secs_f64().into();
    answer
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let (again, words): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|word| word == "--again");
    let client = Client::new(&words).await?;
    loop {
        let answer = answer(&client).await;
        println!("{answer}");
        if again.is_empty() || std::io::stdin().read_line(&mut String::new())? == 0 {
            return Ok(if answer["ok"] == true {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            });
        }
    }
}
