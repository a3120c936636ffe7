//! The story, in order. Each step says what happens, looks, and is judged.

use crate::interrupt::Interrupt;
use crate::stage::Stage;
use anyhow::{Context, Result, bail, ensure};
use imds_guard_tests::cast::{ARM, BILLING_CLIENT_ID, ISSUER, POLICY, STORAGE, VAULT, token_of};
use imds_guard_tests::{AZURE_IMDS, AZURE_IMDS_MAPPED, UPSTREAM_TOKEN, World};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// One request as SDKs write it reaches the mapped address like any other.
const MAPPED_AUTHORITY: (&str, &str) = (
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "http://[::ffff:169.254.169.254]",
);

/// Tell it.
pub(crate) fn tell() -> Result<ExitCode> {
    let begun = Instant::now();
    let world = World::new("demo")?;
    let mut stage = Stage::new(&world, Interrupt::on(&world)?)?;
    prologue(&stage)?;
    without(&mut stage);
    if start(&mut stage).is_none() {
        return Ok(close(&stage, begun));
    }
    let before = stage.azure.received().len();
    let token = granted(&mut stage);
    verified(&mut stage, token.as_deref());
    refused(&mut stage);
    mapped(&mut stage);
    killed(&mut stage, before);
    Ok(close(&stage, begun))
}

fn prologue(stage: &Stage<'_>) -> Result<()> {
    println!(
        "\
On a cloud machine every process can ask 169.254.169.254 for the machine's credentials, and gets them. imds-guard makes the
answer depend on who asks. You will see it do that with real programs, on this kernel, and without leaving this machine:
all of it plays in a network namespace that has no way out, and in a cgroup of its own ({}).

The programs:",
        stage.world.cgroup_name()?
    );
    for (name, _, what) in stage.cast.all() {
        println!("  {name:<10} {what}");
    }
    println!("\nThe policy (tests/demo/policy.toml; /WORLD stands for that cgroup):\n");
    for line in POLICY.lines() {
        println!("  | {line}");
    }
    Ok(())
}

fn without(stage: &mut Stage<'_>) {
    let title = "Without imds-guard: the neighbour asks the machine's metadata service (a stand-in for Azure's) for a token";
    stage.step(title, &[], |stage| {
        let answer = stage.cast.neighbour.get(&token_of(VAULT))?;
        ensure!(
            answer.json()?["access_token"] == UPSTREAM_TOKEN,
            "the stand-in gave no token"
        );
        Ok((
            (),
            "it gets one, as would every process of the machine".to_owned(),
        ))
    });
}

fn start(stage: &mut Stage<'_>) -> Option<()> {
    stage.step("imds-guard starts", &[], |stage| {
        let took = stage.start_agent()?;
        let proxies = stage.agent()?.children().len();
        ensure!(proxies == 1, "{proxies} proxies run below the guard, and it should be one");
        let seen = format!(
            "it guards after {} ms: the guard (holds the keys, reads no request), and a proxy without any privilege",
            took.as_millis()
        );
        Ok(((), seen))
    })
}

fn granted(stage: &mut Stage<'_>) -> Option<String> {
    let title = "billing asks for Key Vault's token with the unmodified azure-identity (ManagedIdentityCredential)";
    let token = stage.step(title, &[("allowed", 200)], |stage| {
        sdk_token(stage, "managed", &[])
    });
    let title = "The same with DefaultAzureCredential, which first probes without the Metadata header: 400 says `I am here`";
    stage.step(title, &[("refused", 400), ("allowed", 200)], |stage| {
        sdk_token(stage, "default", &[])
    });
    token
}

fn sdk_token(
    stage: &Stage<'_>,
    kind: &str,
    environment: &[(&str, &str)],
) -> Result<(String, String)> {
    let answer = stage
        .python
        .token(&stage.cast.billing, kind, VAULT, None, environment)?;
    let Some(token) = answer["token"].as_str() else {
        bail!("no token: {}", answer["error"]);
    };
    ensure!(token != UPSTREAM_TOKEN, "that is the machine's own token");
    let seen = format!(
        "a token of {} bytes, in {} s of SDK time",
        token.len(),
        answer["seconds"]
    );
    Ok((token.to_owned(), seen))
}

fn verified(stage: &mut Stage<'_>, token: Option<&str>) {
    let title = "A verifier at Key Vault's place gets the issuer's public key and checks signature, iss, aud, exp";
    stage.step(title, &[], |stage| {
        let token = token.context("there is no token")?;
        let claims = accepted(stage, token)?;
        ensure!(
            claims["appid"] == BILLING_CLIENT_ID,
            "another identity: {claims}"
        );
        let seen = format!(
            "accepted: {} for {}, issued by {}",
            claims["sub"], claims["aud"], claims["iss"]
        );
        Ok(((), seen))
    });
    let title = "backup gets its own token, for Storage. It is genuine, and Key Vault's verifier refuses it all the same";
    stage.step(title, &[("allowed", 200)], |stage| {
        let answer = stage.cast.backup.get(&token_of(STORAGE))?.json()?;
        let token = answer["access_token"]
            .as_str()
            .context("no token for backup")?;
        let verdict = stage
            .python
            .verify(&stage.cast.vault, ISSUER, VAULT, token)?;
        ensure!(
            verdict["accepted"] == false,
            "a token for Storage was accepted by Key Vault"
        );
        let reason = verdict["reason"].as_str().unwrap_or_default();
        ensure!(
            reason.contains("Audience"),
            "refused for another reason: {reason}"
        );
        Ok(((), format!("refused: {reason}")))
    });
}

fn accepted(stage: &Stage<'_>, token: &str) -> Result<Value> {
    let verdict = stage
        .python
        .verify(&stage.cast.vault, ISSUER, VAULT, token)?;
    ensure!(
        verdict["accepted"] == true,
        "not accepted: {}",
        verdict["reason"]
    );
    Ok(verdict["claims"].clone())
}

fn refused(stage: &mut Stage<'_>) {
    let title = "The neighbour asks for the same token: 403 in Azure's own JSON, and the SDK shows the reason";
    stage.step(title, &[("denied", 403), ("denied", 403)], |stage| {
        let answer = stage.cast.neighbour.get(&token_of(VAULT))?;
        let body = answer.json()?;
        ensure!(
            answer.status == 403 && body["error"] == "access_denied",
            "{}",
            answer.text()
        );
        let told = stage
            .python
            .token(&stage.cast.neighbour, "managed", VAULT, None, &[])?;
        let error = told["error"].as_str().context("the SDK got a token")?;
        let reason = body["error_description"].as_str().unwrap_or_default();
        ensure!(
            error.contains(reason),
            "the SDK shows {error:?}, not the reason"
        );
        Ok((
            (),
            format!(
                "{} {} · SDK: {}",
                answer.status,
                answer.text(),
                first_line(error)
            ),
        ))
    });
    let title = "billing asks for the token of Azure Resource Manager, which its rule doesn't name";
    stage.step(title, &[("denied", 403)], |stage| {
        let answer = stage.cast.billing.get(&token_of(ARM))?;
        ensure!(answer.status == 403, "{}", answer.text());
        Ok(((), format!("{} {}", answer.status, answer.text())))
    });
    let title = "web reads where it runs, and asks for a token, which it doesn't get";
    stage.step(title, &[("allowed", 200), ("denied", 403)], |stage| {
        let read = stage
            .cast
            .web
            .get("/metadata/instance/compute/location?api-version=2021-02-01&format=text")?;
        ensure!(
            read.text() == "westeurope",
            "{} {}",
            read.status,
            read.text()
        );
        let answer = stage.cast.web.get(&token_of(VAULT))?;
        ensure!(answer.status == 403, "{}", answer.text());
        Ok((
            (),
            format!(
                "it is in {} · the token: {} {}",
                read.text(),
                answer.status,
                answer.text()
            ),
        ))
    });
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn mapped(stage: &mut Stage<'_>) {
    let title = "No way round by another spelling: through ::ffff:169.254.169.254, billing gets its token, the neighbour none";
    stage.step(title, &[("allowed", 200), ("denied", 403)], |stage| {
        let (_, seen) = sdk_token(stage, "managed", &[MAPPED_AUTHORITY])?;
        let mut caller = stage.cast.neighbour.connect(AZURE_IMDS_MAPPED)?;
        let head = "HTTP/1.1\r\nHost: [::ffff:169.254.169.254]\r\nMetadata: true\r\n\r\n";
        caller.send(format!("GET {} {head}", token_of(VAULT)).as_bytes())?;
        let answer = caller.response()?;
        ensure!(answer.status == 403, "{}", answer.text());
        Ok((
            (),
            format!("billing: {seen} · neighbour: {}", answer.status),
        ))
    });
}

fn killed(stage: &mut Stage<'_>, before: usize) {
    let title = "imds-guard is killed (SIGKILL). Losing it loses access, never protection: what guards is in the kernel";
    stage.step(title, &[], |stage| {
        stage.agent()?.signal(Signal::SIGKILL)?;
        stage.agent()?.wait_end(Duration::from_secs(5))?;
        let refused = match stage.cast.billing.connect(AZURE_IMDS) {
            Ok(_) => bail!("billing was connected, and nobody is there to decide"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(refused.contains("refused"), "{refused}");
        let reached = stage.azure.received().len() - before;
        ensure!(reached == 0, "{reached} requests reached the real service");
        Ok((
            (),
            format!("billing is {refused}; requests that reached the real service: 0"),
        ))
    });
    let title = "imds-guard is started again, with the same key: billing's token comes, and Key Vault accepts it";
    stage.step(title, &[("allowed", 200)], |stage| {
        let took = stage.start_agent()?;
        let (token, _) = sdk_token(stage, "managed", &[])?;
        accepted(stage, &token)?;
        let reached = stage.azure.received().len() - before;
        ensure!(reached == 0, "{reached} requests reached the real service");
        Ok((
            (),
            format!("it guards again after {} ms; accepted", took.as_millis()),
        ))
    });
}

fn close(stage: &Stage<'_>, begun: Instant) -> ExitCode {
    if stage.interrupted() {
        println!("\nInterrupted; nothing is left behind.");
        return ExitCode::FAILURE;
    }
    let (told, failed) = stage.tally();
    if failed > 0 {
        println!("\nThe agent said:\n{}", stage.agent_log());
        println!(
            "{} of {told} steps went as they should; {failed} did not.",
            told - failed
        );
        return ExitCode::FAILURE;
    }
    println!(
        "
All {told} steps went as they should ({:.1} s). One address, one machine, and each program got what it may have, because of
who it is: nothing in it was changed, and nothing that it wrote into its request counted.

How to go on:
  cargo xtask run                 the same world, to try things yourself
  cargo xtask run --config FILE   with a policy of your own; agent/docs/policy.md has the language
  cargo xtask test                every proof that this machine can run",
        begun.elapsed().as_secs_f32()
    );
    ExitCode::SUCCESS
}
