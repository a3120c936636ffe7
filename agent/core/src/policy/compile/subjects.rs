//! Proof that no two callers that policy tells apart get one `sub`: every variable is known, none can be chosen by the
//! caller, those that vary are all there and apart, trust domain and host (or cluster) are in it, and no two workloads'
//! templates can come out the same.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Compiling;
use super::sessions::{is_session, session};
use crate::policy::diagnostic::Place;
use crate::policy::document::{Files, IdentityEntry};
use crate::policy::federation::SubjectLimit;
use crate::policy::pattern::{SelectorPattern, ValuePattern};
use crate::policy::set::PolicySet;
use crate::policy::settings::Host;
use crate::policy::subject::Template;
use crate::policy::{Identity, Origin};

/// Variables that don't come from selectors.
pub(super) const FIXED: [&str; 4] = ["trust_domain", "host", "cluster", "workload"];

impl Compiling {
    pub(super) fn prove_subjects(&mut self, files: &Files, set: &PolicySet, host: &Host) {
        let mut proven: Vec<(u32, Template, Place)> = vec![];
        let entries = files.identity.0.iter();
        let entries: HashMap<&Arc<str>, &IdentityEntry> = entries
            .rev()
            .map(|(name, entry)| (&name.value, entry))
            .collect();
        for (workload, identity, place) in Self::given_as(files, set, Identity::is_vouched_for) {
            let entry = entries.get(&identity.name);
            let Some(subject) = entry.and_then(|e| e.subject.as_ref()) else {
                continue;
            };
            let template = match Template::parse(&subject.value) {
                Ok(template) => template,
                Err(help) => {
                    self.error(&subject.place, "this subject is not a template", help);
                    continue;
                }
            };
            self.prove(&template, &subject.place, host, &variables(set, workload));
            let name = &set.workloads[workload as usize].name;
            let filled = template.fill(&|variable| fixed(variable, host, name));
            self.short_enough(&filled, &identity, &subject.place);
            proven.push((workload, filled, place));
        }
        self.distinct(&proven, set);
    }

    /// What is open in it has one byte at least. A longer value is refused when somebody asks, and nothing is signed.
    fn short_enough(&mut self, filled: &Template, identity: &Identity, place: &Place) {
        if identity.origin != Origin::Federate {
            return;
        }
        let limit = SubjectLimit::of(identity.cloud);
        let least = filled.least_bytes();
        if least > limit.bytes {
            let title = format!(
                "this subject comes out with {least} bytes, and {} takes {}",
                limit.cloud, limit.bytes
            );
            let help = "shorten it: a shorter trust domain, or {trust_domain}/{host}/{workload} without words between";
            self.error(place, title, help);
        }
    }

    fn prove(
        &mut self,
        template: &Template,
        place: &Place,
        host: &Host,
        bound: &HashMap<Arc<str>, Binding>,
    ) {
        let used: HashSet<&Arc<str>> = template.variables().collect();
        let has = |name: &str| used.iter().any(|v| &***v == name);
        if !has("trust_domain") || !(has("host") || has("cluster")) {
            let help = "begin it with spiffe://{trust_domain}/host/{host}/ (or cluster/{cluster}): else two hosts mint one `sub`";
            self.error(
                place,
                "this subject leaves out the trust domain, or both host and cluster",
                help,
            );
        }
        for (name, value) in [
            ("trust_domain", host.trust_domain.is_some()),
            ("host", !host.name.is_empty()),
            ("cluster", host.cluster.is_some()),
        ] {
            if has(name) && !value {
                let key = if name == "host" { "name" } else { name };
                let help = format!("add {key} = \"…\" to [host] in the main file");
                self.error(place, format!("nothing says what {{{name}}} is"), help);
            }
        }
        for variable in &used {
            if !FIXED.contains(&&***variable) && !bound.contains_key(*variable) {
                let help = format!(
                    "bind it by a selector of each alternative, for example k8s:ns:{{{variable}}}, or use one of {{{}}}",
                    FIXED.join("}, {")
                );
                self.error(place, format!("nothing binds {{{variable}}}"), help);
            }
        }
        let mut missing: Vec<_> = bound.iter().filter(|(v, _)| !used.contains(v)).collect();
        missing.sort_by(|a, b| a.0.cmp(b.0));
        for (variable, _) in missing {
            let help =
                format!("add {{{variable}}} to it: else callers that differ in it share one `sub`");
            self.error(
                place,
                format!("the subject leaves out {{{variable}}}, which varies"),
                help,
            );
        }
        if bound.values().any(|b| b.chosen_by_caller) {
            let help = "bind the variable by what the caller can't choose";
            self.error(
                place,
                "a variable of this subject is chosen by the caller",
                help,
            );
        }
        if let Some((a, b)) = template.ambiguous() {
            let help = format!("put a `/` or `:` between them: {{{a}}}/{{{b}}}");
            self.error(
                place,
                format!("{{{a}}} and {{{b}}} run into each other"),
                help,
            );
        }
    }

    /// Templates of different workloads must not meet. Literal ones by hash; the few with variables against all.
    fn distinct(&mut self, proven: &[(u32, Template, Place)], set: &PolicySet) {
        let mut texts: HashMap<Arc<str>, u32> = HashMap::new();
        let mut open: Vec<(u32, &Template)> = vec![];
        for (workload, template, _) in proven {
            if template.text().is_none()
                && !open.iter().any(|(w, t)| w == workload && *t == template)
            {
                open.push((*workload, template));
            }
        }
        for (workload, template, place) in proven {
            let same = template
                .text()
                .and_then(|text| texts.insert(text, *workload));
            let same = same.filter(|other| other != workload);
            let meets = open.iter().find(|(w, t)| w < workload && t.meets(template));
            let meets = meets.or_else(|| {
                let literal = template.text().is_some();
                open.iter()
                    .find(|(w, t)| literal && w != workload && t.meets(template))
            });
            if let Some(other) = same.or(meets.map(|(w, _)| *w)) {
                let other = &set.workloads[other as usize].name;
                let own = &set.workloads[*workload as usize].name;
                let title = format!("workloads `{own}` and `{other}` would share one `sub`");
                let help =
                    "put {workload} into the subject, or give each workload an identity of its own";
                self.error(place, title, help);
            }
        }
    }

    /// Fills in what is the same for every caller, once the proof is done.
    pub(super) fn subjects(&self, set: &mut PolicySet, host: &Host) {
        for at in 0..set.allows.len() {
            let allow = &set.allows[at];
            let workload = allow.workload as usize;
            let Some(identity) = allow.identity.clone() else {
                continue;
            };
            let name = set.workloads[workload].name.clone();
            let filled = if is_session(&identity) {
                session(&identity, &name, host, &variables(set, allow.workload))
            } else {
                let fill = |variable: &str| fixed(variable, host, &name);
                parsed(&identity).map(|template| template.fill(&fill))
            };
            let Some(filled) = filled else { continue };
            if let Some(text) = filled.text() {
                set.allows[at].subject = Some(text);
            } else {
                set.workloads[workload].templates.push((identity, filled));
            }
        }
    }
}

fn parsed(identity: &Identity) -> Option<Template> {
    Template::parse(identity.subject.as_ref()?).ok()
}

pub(super) fn fixed(variable: &str, host: &Host, workload: &str) -> Option<String> {
    match variable {
        "trust_domain" => host.trust_domain.as_ref().map(ToString::to_string),
        "host" => Some(host.name.to_string()),
        "cluster" => host.cluster.as_ref().map(ToString::to_string),
        "workload" => Some(workload.to_owned()),
        _ => None,
    }
}

pub(super) struct Binding {
    pub(super) chosen_by_caller: bool,
}

/// The variables that every alternative of a workload binds.
pub(super) fn variables(set: &PolicySet, workload: u32) -> HashMap<Arc<str>, Binding> {
    let own = set.alternatives_of(workload);
    let bound = |p: &SelectorPattern| match &p.value {
        ValuePattern::Variable { name, .. } => Some((name.clone(), p.key)),
        _ => None,
    };
    let mut variables: HashMap<Arc<str>, Binding> = HashMap::new();
    let mut count: HashMap<Arc<str>, usize> = HashMap::new();
    for alternative in own {
        let mut firm: HashMap<Arc<str>, bool> = HashMap::new();
        for (name, key) in alternative.patterns.iter().filter_map(bound) {
            *firm.entry(name).or_default() |= !key.caller_influenced();
        }
        for (name, firm) in firm {
            *count.entry(name.clone()).or_default() += 1;
            let chosen_by_caller = false;
            variables
                .entry(name)
                .or_insert(Binding { chosen_by_caller })
                .chosen_by_caller |= !firm;
        }
    }
    let all = own.len();
    variables.retain(|name, _| count.get(name) == Some(&all));
    variables
}
