//! Callers through all of it, as in `opens_nothing`: before the agent is there, and then in each mode with and without a grant.

use crate::asker::Asker;
use crate::installed::{Installed, policy};
use anyhow::{Context, Result, ensure};
use imds_guard_tests::{FakeAzure, Fate, Machine};
use std::net::IpAddr;

/// One caller.
pub(crate) struct Case {
    pub(crate) asker: Asker,
    /// What a rule for it names.
    pub(crate) selector: String,
    /// From which address it obtains the token without us, if it does.
    pub(crate) reach: Option<IpAddr>,
    pub(crate) fate: Fate,
}

/// Takes all of them through everything.
pub(crate) fn walk(machine: &Machine, azure: &FakeAzure, cases: &[Case]) -> Result<()> {
    for (number, case) in cases.iter().enumerate() {
        obtains(case, azure, case.reach)
            .with_context(|| format!("before installation, case {number}"))?;
    }
    let selectors: Vec<[&str; 1]> = cases.iter().map(|c| [c.selector.as_str()]).collect();
    let grants: Vec<&[&str]> = selectors.iter().map(<[&str; 1]>::as_slice).collect();
    let mut installed = Installed::new(machine, &policy("observe", &[]))?;
    for mode in ["observe", "audit", "enforce"] {
        for granted in [false, true] {
            installed.change(&policy(mode, if granted { &grants } else { &[] }))?;
            for (number, case) in cases.iter().enumerate() {
                tried(&installed, azure, case, mode, granted).with_context(|| {
                    let said = installed.said();
                    format!("{mode}, granted: {granted}, case {number}; {said}")
                })?;
            }
        }
    }
    Ok(())
}

/// One attempt in one state, and what is recorded of it.
fn tried(
    installed: &Installed,
    azure: &FakeAzure,
    case: &Case,
    mode: &str,
    granted: bool,
) -> Result<()> {
    let before = installed.audit.records()?.len();
    let wanted = match (mode, granted) {
        ("enforce", true) => case.fate.granted().then_some(Machine::ADDRESS),
        ("enforce", false) => None,
        _ => case.reach,
    };
    obtains(case, azure, wanted)?;
    if mode == "audit" {
        let records = installed.audit.wait(before + 1)?;
        let record = records.get(before).context("no record")?;
        let (event, reason) = case.fate.recorded();
        ensure!(record["event"].as_str() == Some(event), "{record}");
        ensure!(
            event == "exchange" || record["reason"].as_str() == reason,
            "{record}"
        );
    }
    Ok(())
}

fn obtains(case: &Case, azure: &FakeAzure, wanted: Option<IpAddr>) -> Result<()> {
    let outcome = case.asker.attempt(azure)?;
    ensure!(outcome.from() == wanted, "{outcome:?}, not {wanted:?}");
    Ok(())
}
