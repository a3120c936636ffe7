//! `imds-guard issuer`: what the embedded issuer has to publish, and whether it is published. The key stays where it is.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use imds_guard_core::policy::Compiled;
use imds_guard_core::policy::settings::{self, ROOTS};
use imds_guard_core::token::{DISCOVERY_PATH, JWKS_PATH};
use serde_json::Value;

use super::check;
use super::{Exit, Failure};
use crate::issuer::Issuer;

mod fetch;

/// Arguments of `issuer`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs of `issuer`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Write the discovery document and the key set as files, or look whether the world has them.
    ///
    /// Clouds fetch both from the issuer's URL, over HTTPS and without logging in. Upload the two files as they are, with
    /// Content-Type: application/json. Both are public; the private key never leaves the state directory. Makes the key where
    /// there is none yet.
    Publish(Publish),
}

/// Arguments of `issuer publish`.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["dir", "check"]).multiple(true)))]
pub struct Publish {
    /// Main configuration file.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/imds-guard/imds-guard.toml"
    )]
    pub config: PathBuf,
    /// Where the signing key lives.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/imds-guard")]
    pub state_dir: PathBuf,
    /// Write the files below this directory, which stands for the issuer's URL.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Fetch both from the issuer's URL, as a cloud does, and compare.
    #[arg(long)]
    pub check: bool,
}

/// # Errors
/// Exit code 2 where the configuration has no issuer, 1 where something can't be written or isn't published.
pub fn run(args: Args) -> Result<ExitCode, Failure> {
    let Verb::Publish(args) = args.verb;
    let compiled = compiled(&args.config)?;
    let Some(configured) = &compiled.settings.issuer else {
        let told =
            "there is no [issuer] in the configuration: add one with the url that the clouds know";
        return Err(Failure::new(Exit::Usage, told));
    };
    let now = jiff::Timestamp::now().as_second();
    let mut issuer = Issuer::open(configured, &args.state_dir, now)?;
    issuer.ensure_key(now)?;
    let documents = [
        (DISCOVERY_PATH, issuer.discovery()),
        (JWKS_PATH, issuer.jwks()),
    ];
    let mut out = std::io::stdout();
    if let Some(dir) = &args.dir {
        for (path, text) in &documents {
            let file = dir.join(path.trim_start_matches('/'));
            put(&file, text).map_err(|error| {
                let told = format!(
                    "can't write {}: {error}; name a directory that you can write with --dir",
                    file.display()
                );
                Failure::new(Exit::Failed, told)
            })?;
            writeln!(
                out,
                "{} is to be found at {}{path}",
                file.display(),
                configured.url
            )?;
        }
        writeln!(
            out,
            "serve both as application/json, over HTTPS, to everybody"
        )?;
    }
    if args.check {
        let roots = compiled
            .settings
            .trust
            .as_ref()
            .map_or(ROOTS, |trust| &trust.roots);
        compare(configured, Path::new(roots), &documents)?;
        writeln!(out, "ok: {} has this host's keys", configured.url)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads and compiles the configuration.
pub(super) fn compiled(config: &Path) -> Result<Compiled, Failure> {
    check::compile(check::read(&[config.to_owned()]))
        .map_err(|diagnostics| Failure::new(Exit::Usage, diagnostics.to_string().trim_end()))
}

/// Whole or not at all: who serves the directory never finds half of it.
fn put(file: &Path, text: &str) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".imds-guard-new.{}", std::process::id()));
    // Made here and nowhere else: root may write into a directory of somebody who serves it.
    let mut new = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(&temporary)?;
    new.write_all(text.as_bytes())?;
    fs::rename(&temporary, file)
}

/// What is published has to say the same, and nothing that a cloud would trip over.
fn compare(
    configured: &settings::Issuer,
    roots: &Path,
    documents: &[(&str, String)],
) -> Result<(), Failure> {
    let failed = |told: String| Failure::new(Exit::Failed, told);
    for (path, own) in documents {
        let url = format!("{}{path}", configured.url);
        let found = fetch::json(&url, roots).map_err(|why| failed(format!("{url}: {why}")))?;
        let own: Value = serde_json::from_str(own)?;
        if *path == JWKS_PATH {
            let keys = found["keys"].as_array().cloned().unwrap_or_default();
            let mut expected = own["keys"].as_array().into_iter().flatten();
            if let Some(key) = expected.find(|key| !keys.contains(key)) {
                return Err(failed(format!(
                    "{url} lacks this host's key {}: upload what `imds-guard issuer publish --dir DIR` writes",
                    key["kid"]
                )));
            }
            if keys.len() > 100 {
                return Err(failed(format!(
                    "{url} has {} keys, and Entra ID looks at the first 100: take old ones out",
                    keys.len()
                )));
            }
        } else if found["issuer"] != own["issuer"] || found["jwks_uri"] != own["jwks_uri"] {
            return Err(failed(format!(
                "{url} says issuer {} and jwks_uri {}, and the configuration means {} and {}: they are compared to the letter",
                found["issuer"], found["jwks_uri"], own["issuer"], own["jwks_uri"]
            )));
        }
    }
    Ok(())
}
