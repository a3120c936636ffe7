//! Where the story plays: the world, the programs, the agent, and the audit file, read after each step.
//!
//! Owns how a step is told and judged: a step passes when its own look says so *and* the audit records that came with it are
//! exactly those that it names.

use crate::interrupt::Interrupt;
use crate::record;
use anyhow::{Context, Result, ensure};
use imds_guard_tests::cast::{self, Cast};
use imds_guard_tests::{AgentProcess, AuditTail, FakeAzure, Python, World};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What a step's audit records have to say: outcome and status, in order.
pub(crate) type Endings<'a> = &'a [(&'a str, u64)];

/// The world with everything in it.
#[derive(Debug)]
pub(crate) struct Stage<'w> {
    pub(crate) world: &'w World,
    pub(crate) cast: Cast<'w>,
    pub(crate) python: Python,
    pub(crate) azure: FakeAzure,
    interrupt: Interrupt,
    agent: Option<AgentProcess>,
    audit: Option<AuditTail>,
    records: usize,
    exchanges: usize,
    told: u32,
    failed: u32,
}

impl<'w> Stage<'w> {
    /// Everything but the agent, which isn't started yet.
    pub(crate) fn new(world: &'w World, interrupt: Interrupt) -> Result<Self> {
        Ok(Self {
            world,
            cast: Cast::of(world),
            python: Python::new(world)?,
            azure: world.azure()?,
            interrupt,
            agent: None,
            audit: None,
            records: 0,
            exchanges: 0,
            told: 0,
            failed: 0,
        })
    }

    /// Start the agent with the demo's policy. Says how long it took until it guarded.
    pub(crate) fn start_agent(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        let agent = self
            .world
            .agent()
            .config(&cast::policy(self.world)?)
            .start()?;
        self.audit = Some(agent.audit());
        self.agent = Some(agent);
        Ok(begun.elapsed())
    }

    /// The agent.
    pub(crate) fn agent(&mut self) -> Result<&mut AgentProcess> {
        self.agent.as_mut().context("the agent doesn't run")
    }

    /// Tell and judge one step.
    pub(crate) fn step<T>(
        &mut self,
        title: &str,
        endings: Endings<'_>,
        look: impl FnOnce(&mut Self) -> Result<(T, String)>,
    ) -> Option<T> {
        if self.interrupted() {
            return None;
        }
        self.told += 1;
        println!("\n{:>2}. {title}", self.told);
        let begun = Instant::now();
        let outcome = look(self);
        let took = begun.elapsed();
        let records = self.new_records(endings);
        for record in records.as_deref().unwrap_or_default() {
            println!("      {}", record::line(record));
        }
        let judged = outcome.and_then(|(value, seen)| {
            println!("      seen:  {seen}");
            agree(&records?, endings).map(|()| value)
        });
        match judged {
            Ok(value) => {
                println!("      PASS   ({:.2} s)", took.as_secs_f32());
                Some(value)
            }
            Err(error) => {
                self.failed += 1;
                println!("      FAIL   {error:#}");
                None
            }
        }
    }

    /// The records that came since the last step, once there are as many exchanges as are expected.
    fn new_records(&mut self, endings: Endings<'_>) -> Result<Vec<Value>> {
        let Some(audit) = &self.audit else {
            return Ok(Vec::new());
        };
        // Records that don't come are told by the comparison, beside those that did.
        let _awaited = audit.wait_exchanges(self.exchanges + endings.len());
        let all = audit.records()?;
        let new = all.get(self.records..).unwrap_or_default().to_vec();
        self.records = all.len();
        self.exchanges += new.iter().filter(|record| is_exchange(record)).count();
        Ok(new)
    }

    /// Whether somebody pressed Ctrl-C: the steps from there on aren't told.
    pub(crate) fn interrupted(&self) -> bool {
        self.interrupt.came()
    }

    /// How many steps were told, and how many failed.
    pub(crate) fn tally(&self) -> (u32, u32) {
        (self.told, self.failed)
    }

    /// What the agent said, for when a step failed.
    pub(crate) fn agent_log(&self) -> String {
        self.agent
            .as_ref()
            .map(AgentProcess::log)
            .unwrap_or_default()
    }
}

fn is_exchange(record: &Value) -> bool {
    record["event"] == "exchange"
}

fn agree(records: &[Value], endings: Endings<'_>) -> Result<()> {
    let exchanges = records.iter().filter(|record| is_exchange(record));
    let have: Vec<(String, u64)> = exchanges.map(record::ending).collect();
    let same = have.len() == endings.len()
        && have
            .iter()
            .zip(endings)
            .all(|((o, s), (outcome, status))| o == outcome && s == status);
    ensure!(
        same,
        "the audit records should be {endings:?}, and are {have:?}"
    );
    Ok(())
}
