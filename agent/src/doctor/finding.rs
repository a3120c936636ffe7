//! What the doctor says: the stable form of its answers, for people and for scripts.

use serde::Serialize;

/// How a check or a layer stands. Ordered by how much it matters to the verdict: a later one outweighs an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Looked at, and as it should be.
    Ok,
    /// No way round by itself; it makes one easier, or takes a layer away that others stand behind.
    Weak,
    /// It could not be looked at: nothing is known.
    Unknown,
    /// A way round.
    Open,
}

impl State {
    /// The word of it, as in JSON.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Weak => "weak",
            Self::Unknown => "unknown",
            Self::Open => "open",
        }
    }
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The check's name: stable, and what `--accept` takes.
    pub check: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub what: String,
    /// The things that it is about: processes, interfaces, programs, rules.
    pub subjects: Vec<String>,
    /// What that means for protection. Empty where all is well.
    pub means: String,
    /// What to do. Empty where all is well.
    pub remedy: String,
    /// The operator said that this check doesn't count.
    pub accepted: bool,
}

impl Finding {
    /// As it should be.
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, State::Ok, what, "", "")
    }

    /// Weak.
    pub(super) fn weak(
        check: &'static str,
        what: impl Into<String>,
        means: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, State::Weak, what, means, remedy)
    }

    /// A way round.
    pub(super) fn open(
        check: &'static str,
        what: impl Into<String>,
        means: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self::new(check, State::Open, what, means, remedy)
    }

    /// Could not be looked at, and why.
    pub(super) fn unknown(check: &'static str, why: impl std::fmt::Display) -> Self {
        let what = format!("could not be looked at: {why}");
        let means = "nothing is known; don't take it for protection";
        Self::new(
            check,
            State::Unknown,
            what,
            means,
            "run doctor as root, on the host itself; where root can't look either, a container or a security module hides it",
        )
    }

    /// The same, about these things.
    pub(super) fn about(self, subjects: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let subjects = subjects.into_iter().map(Into::into).collect();
        Self { subjects, ..self }
    }

    /// Any state.
    pub(super) fn new(
        check: &'static str,
        state: State,
        what: impl Into<String>,
        means: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            check,
            state,
            what: what.into(),
            subjects: Vec::new(),
            means: means.into(),
            remedy: remedy.into(),
            accepted: false,
        }
    }
}

/// One layer of interception as the kernel has it now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerState {
    /// Its name.
    pub layer: &'static str,
    /// Without a required one there is a way round.
    pub required: bool,
    /// How it stands.
    pub state: State,
    /// What it stops.
    pub stops: &'static str,
    /// Where it is attached, or what is missing.
    pub what: String,
}

/// One guarded address, as the kernel's table has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    /// Address and port.
    pub address: std::net::SocketAddr,
    /// `observe`, `audit` or `enforce`.
    pub mode: &'static str,
}

/// The whole answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Version of this form: raised when a field changes its meaning or goes; new fields don't raise it.
    pub format: u32,
    /// Version of the program.
    pub version: &'static str,
    /// `uname -r`.
    pub kernel: String,
    /// The worst state of all that counts.
    pub verdict: State,
    /// The layers, the first line of defence first.
    pub layers: Vec<LayerState>,
    /// What the kernel guards, where that could be read.
    pub endpoints: Vec<Endpoint>,
    /// Every check that was made, whatever came out.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Puts the pieces together; findings whose check is in `accepted` don't count for the verdict.
    pub(super) fn new(
        kernel: String,
        layers: Vec<LayerState>,
        endpoints: Vec<Endpoint>,
        mut findings: Vec<Finding>,
        accepted: &[String],
    ) -> Self {
        for finding in &mut findings {
            let named = accepted.iter().any(|name| name == finding.check);
            finding.accepted = named && finding.state != State::Ok;
        }
        let counted = findings.iter().filter(|f| !f.accepted).map(|f| f.state);
        Self {
            format: 1,
            version: env!("CARGO_PKG_VERSION"),
            kernel,
            verdict: counted.max().unwrap_or(State::Unknown),
            layers,
            endpoints,
            findings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(findings: Vec<Finding>, accepted: &[&str]) -> Report {
        let accepted: Vec<String> = accepted.iter().map(|&a| a.to_owned()).collect();
        Report::new("6.1".into(), vec![], vec![], findings, &accepted)
    }

    #[test]
    fn the_worst_finding_is_the_verdict_and_a_hole_outweighs_what_is_not_known() {
        let (ok, weak) = (Finding::ok("a", ""), Finding::weak("b", "", "", ""));
        let (unknown, open) = (Finding::unknown("c", "x"), Finding::open("d", "", "", ""));
        assert_eq!(report(vec![ok.clone()], &[]).verdict, State::Ok);
        assert_eq!(
            report(vec![ok.clone(), weak.clone()], &[]).verdict,
            State::Weak
        );
        assert_eq!(
            report(vec![unknown.clone(), weak, ok], &[]).verdict,
            State::Unknown
        );
        assert_eq!(report(vec![open, unknown], &[]).verdict, State::Open);
    }

    #[test]
    fn nothing_looked_at_is_not_ok() {
        assert_eq!(report(vec![], &[]).verdict, State::Unknown);
    }

    #[test]
    fn what_is_accepted_is_shown_and_does_not_count() {
        let both = vec![
            Finding::weak("a", "", "", ""),
            Finding::open("b", "", "", ""),
        ];
        assert_eq!(report(both.clone(), &["b"]).verdict, State::Weak);
        let all = report(both, &["a", "b"]);
        assert_eq!(
            all.verdict,
            State::Unknown,
            "nothing is left that was judged"
        );
        assert!(all.findings.iter().all(|f| f.accepted));
    }
}
