//! Why: the selectors found, each workload and rule looked at, and the verdict, as data. It walks every rule with the same
//! predicates that [`super::decide`] finds by index, and takes the verdict from `decide` itself.

use serde::Serialize;

use super::identify::{Match, Workload};
use super::set::{Alternative, PolicySet};
use super::settings::Mode;
use crate::decision::{Decision, Denial, DenyReason, Grant, RuleRef};
use crate::evidence::Evidence;
use crate::request::{Cloud, Request};
use crate::selector::Selectors;

/// The whole answer of `explain`.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What is known about the caller.
    pub selectors: Vec<Found>,
    /// Workloads of which the caller has at least one selector.
    pub workloads: Vec<Considered>,
    /// How many workloads it has nothing of.
    pub other_workloads: usize,
    /// Denies that hold for the caller or speak of the request, and the allows of its workloads.
    pub rules: Vec<Rule>,
    /// What comes of it; in `observe`, what would come of it in `enforce`, for nothing is touched.
    pub verdict: Verdict,
    /// The mode in which requests to 169.254.169.254 are decided.
    pub mode: Mode,
}

/// One piece of evidence.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// `unix:uid:1000`, or the key alone where there is no value.
    pub selector: String,
    /// `present`, or why it is unavailable.
    pub evidence: String,
    /// Whether the caller can choose it.
    pub caller_influenced: bool,
}

/// One workload.
#[derive(Debug, Clone, Serialize)]
pub struct Considered {
    /// Its name.
    pub workload: String,
    /// Whether the caller is it.
    pub matches: bool,
    /// Each selector of the alternative that comes nearest, and whether the caller has it.
    pub selectors: Vec<(String, &'static str)>,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// Its name and place.
    #[serde(flatten)]
    pub rule: RuleRef,
    /// `allow` or `deny`.
    pub effect: &'static str,
    /// Whether it holds for this request of this caller.
    pub holds: bool,
    /// Why, or why not.
    pub why: String,
}

/// What comes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// Whether the request is let through at all.
    pub allowed: bool,
    /// What the caller gets, or the reason of refusal in words.
    pub what: String,
    /// The stable reason of a refusal.
    pub reason: Option<DenyReason>,
    /// The rule that decided.
    pub rule: Option<RuleRef>,
    /// The workload it was decided for.
    pub workload: Option<String>,
    /// What enforce mode would say.
    pub would_deny: Option<Denial>,
}

impl PolicySet {
    /// Explains [`PolicySet::decide`].
    pub fn explain(&self, caller: &Selectors, request: &Request, now: i64) -> Explanation {
        let workload = self.identify(caller);
        let workloads = self.considered(caller, &workload);
        Explanation {
            selectors: found(caller),
            other_workloads: self.workloads.len() - workloads.len(),
            workloads,
            rules: self.rules_considered(&workload, request, now),
            verdict: verdict(self.decide(&workload, request, now)),
            mode: self.mode,
        }
    }

    fn considered(&self, caller: &Selectors, workload: &Workload) -> Vec<Considered> {
        let mut all: Vec<Considered> = vec![];
        for (id, rules) in (0..).zip(&self.workloads) {
            let nearest = self.alternatives_of(id).iter().max_by_key(|a| {
                (
                    a.matches(caller) != Match::No,
                    states(a, caller).filter(|s| s.1 == "found").count(),
                )
            });
            let Some(nearest) = nearest else { continue };
            let selectors: Vec<_> = states(nearest, caller).collect();
            if selectors.iter().any(|(_, state)| *state != "not found") {
                all.push(Considered {
                    workload: rules.name.to_string(),
                    matches: workload.matched.iter().any(|m| m.workload == id),
                    selectors,
                });
            }
        }
        all
    }

    fn rules_considered(&self, caller: &Workload, request: &Request, now: i64) -> Vec<Rule> {
        let asked = self.asked(self.mode, caller, request, now);
        let mut all = vec![];
        for (id, deny) in (0..).zip(&self.denies) {
            let speaks = asked.denied_by(&deny.about);
            let selected = !deny.selective || caller.denies.contains(&id);
            if !(speaks || deny.selective && selected) {
                continue;
            }
            let ended = deny.until.is_some_and(|until| until <= now);
            let spared = deny.spares(caller);
            let why = match (speaks, selected, ended, spared) {
                (false, ..) => "speaks of something else".to_owned(),
                (_, false, ..) => "its selectors are not the caller's".to_owned(),
                (_, _, true, _) => "has ended".to_owned(),
                (_, _, _, Some(matched)) => format!("makes an exception for `{}`", matched.name),
                _ if deny.audit => "would deny: it is in audit mode".to_owned(),
                _ => "denies it".to_owned(),
            };
            all.push(Rule {
                rule: (*deny.rule).clone(),
                effect: "deny",
                holds: speaks && selected && !ended && spared.is_none(),
                why,
            });
        }
        for matched in &caller.matched {
            for id in &self.workloads[matched.workload as usize].allows {
                let allow = &self.allows[*id as usize];
                let covers = self.covers(*id, &asked, now);
                let ended = allow.until.is_some_and(|until| until <= now);
                let why = match (covers, ended) {
                    (_, true) => "has ended".to_owned(),
                    (true, _) => format!("grants it to `{}`", matched.name),
                    (false, _) if asked.denied_by(&allow.about) => {
                        "covers only part of it".to_owned()
                    }
                    (false, _) => "speaks of something else".to_owned(),
                };
                all.push(Rule {
                    rule: (*allow.rule).clone(),
                    effect: "allow",
                    holds: covers && !ended,
                    why,
                });
            }
        }
        all
    }
}

/// Each selector of an alternative, and what the caller has of it.
fn states<'a>(
    alternative: &'a Alternative,
    caller: &'a Selectors,
) -> impl Iterator<Item = (String, &'static str)> + 'a {
    let mut bound = super::pattern::Bindings::default();
    alternative.patterns.iter().map(move |pattern| {
        let state = if pattern.matches(caller.present(pattern.key), &mut bound) {
            "found"
        } else if caller.is_unavailable(pattern.key) && caller.0.contains_key(&pattern.key) {
            "unavailable"
        } else {
            "not found"
        };
        (pattern.text.to_string(), state)
    })
}

fn found(caller: &Selectors) -> Vec<Found> {
    let mut all = vec![];
    for (key, evidence) in &caller.0 {
        let mut push = |selector: String, evidence: String| {
            all.push(Found {
                selector,
                evidence,
                caller_influenced: key.caller_influenced(),
            });
        };
        match evidence {
            Evidence::Present(values) => {
                values
                    .iter()
                    .for_each(|v| push(key.with(v), "present".into()));
            }
            Evidence::Absent => {}
            Evidence::Unavailable(why) => push(key.name().into(), format!("unavailable: {why}")),
        }
    }
    all
}

fn verdict(decision: Decision) -> Verdict {
    match decision {
        Decision::Allow(permit) => Verdict {
            allowed: true,
            what: granted(permit.grant()),
            reason: None,
            rule: Some((**permit.rule()).clone()),
            workload: Some(permit.workload().to_string()),
            would_deny: permit.would_deny().cloned(),
        },
        Decision::Deny(denial) => Verdict {
            allowed: false,
            what: in_words(&denial),
            reason: Some(denial.reason),
            rule: denial.rule.as_deref().cloned(),
            workload: None,
            would_deny: None,
        },
    }
}

fn granted(grant: &Grant) -> String {
    match grant {
        Grant::Forward { identity: None } => "forwarded as it is".into(),
        Grant::Forward {
            identity: Some(identity),
        } => format!("forwarded, pinned to identity `{}`", identity.name),
        Grant::Fixed(document) => format!("answered from document `{}`", document.name),
        Grant::Mint {
            identity,
            audience,
            subject,
        } => format!(
            "a token minted as identity `{}`: aud {audience}, sub {subject}",
            identity.name
        ),
        Grant::Federate {
            identity,
            target,
            subject,
        } => {
            let audience = identity.federation.as_ref().map_or("", |f| &f.audience);
            let who = match subject {
                Some(subject) => format!("aud {audience}, sub {subject}"),
                None => format!("aud {audience}, from a file"),
            };
            format!(
                "what the cloud gives identity `{}` for {} and an assertion: {who}",
                identity.name,
                target.text()
            )
        }
        Grant::Assume {
            identity,
            target,
            session,
        } => {
            let name = &identity.name;
            match identity.cloud {
                Cloud::Aws => format!(
                    "keys of role {target}, assumed as identity `{name}`: session {session}"
                ),
                _ if target.is_empty() => format!("an access token, assumed as identity `{name}`"),
                _ => format!("an identity token for {target}, assumed as identity `{name}`"),
            }
        }
    }
}

/// A denial for the operator.
pub fn in_words(denial: &Denial) -> String {
    let names: Vec<&str> = denial.workloads.iter().map(|name| &**name).collect();
    let names = names.join("`, `");
    match denial.reason {
        DenyReason::Unattributed => "the kernel recorded nothing about this connection".into(),
        DenyReason::CallerChanged => "the caller is no longer what it was when it connected".into(),
        DenyReason::NoWorkload => "no workload matches the caller".into(),
        DenyReason::AmbiguousWorkload => {
            format!("several workloads match and would give different identities: `{names}`")
        }
        DenyReason::NoRule => format!("no rule of `{names}` covers it"),
        DenyReason::DenyRule => "a deny rule holds".into(),
        DenyReason::OtherIdentity => {
            "the request names another identity than the one that its rule pins".into()
        }
        DenyReason::Expired => "the rule that covered it has ended".into(),
        DenyReason::NotServed => "this version can't answer it".into(),
        DenyReason::Imdsv1 => {
            "it is asked without a session token, and no rule that covers it says `imdsv1 = true`"
                .into()
        }
    }
}
