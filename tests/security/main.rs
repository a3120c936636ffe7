//! What the proxy can't do any more, and what a caller doesn't get by becoming somebody else after `connect()`: the real
//! agent, the loaded programs, real processes.

mod canary;
mod crowded;
mod dial;
mod egress;
mod flood;
mod frames;
mod http;
mod identity;
mod neighbour;
mod pid_reuse;
mod ports;
mod reach;
mod rejudged;
mod rogue;
mod sandbox;
mod windows;

use anyhow::{Result, ensure};
use imds_guard_tests::{AgentProcess, Workload, World};
use std::path::Path;

const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";
const INSTANCE: &str = "/metadata/instance/compute/location?api-version=2021-02-01&format=text";

fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n").into_bytes()
}

/// Grants uid 1000 a token and its location, whatever cgroup it is in.
const POLICY: &str = r#"
            [host]
            trust_domain = "example.org"
            name = "web-07"
            [issuer]
            url = "http://127.0.0.1:8787"
            [identity.billing]
            cloud = "azure"
            source = "mint"
            subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
            [document.web]
            cloud = "azure"
            instance = { compute = { location = "westeurope" } }
            [[workload]]
            name = "billing-api"
            selectors = ["unix:uid:1000"]
            [[workload.allow]]
            token = { cloud = "azure", resource = ["https://vault.azure.net"] }
            identity = "billing"
            [[workload.allow]]
            read = ["azure:/metadata/instance/**"]
            document = "web"
            "#;

/// An agent whose policy grants uid 1000 (gid 2000) a token and its location, whatever cgroup it is in.
fn agent(world: &World) -> Result<AgentProcess> {
    world.agent().config(POLICY).start()
}

/// A script of this suite with the words in front that each of them uses.
fn script(text: &str) -> String {
    format!("{}\n{text}", include_str!("ask.py"))
}

/// What `script` says as `who`.
fn python(who: &Workload<'_>, text: &str, arguments: &[&str]) -> Result<String> {
    let script = script(text);
    let arguments = [&["-c", &script][..], arguments].concat();
    said(who, Path::new("/usr/bin/python3"), &arguments)
}

/// What a program says as `who`, where it ends well.
fn said(who: &Workload<'_>, program: &Path, arguments: &[&str]) -> Result<String> {
    let output = who.run(program, arguments)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {errors}", program.display());
    Ok(String::from_utf8(output.stdout)?)
}
