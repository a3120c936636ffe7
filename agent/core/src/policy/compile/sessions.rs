//! Names of AWS sessions: what CloudTrail shows beside the role. Two workloads never have one name, as far as its sixty-four
//! characters go; what can't have one is told here.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::Compiling;
use super::subjects::{Binding, FIXED, fixed, variables};
use crate::policy::diagnostic::Place;
use crate::policy::document::{Files, IdentityEntry};
use crate::policy::set::PolicySet;
use crate::policy::settings::Host;
use crate::policy::subject::{Alphabet, SESSION_CHARS, Template};
use crate::policy::{Identity, Origin};
use crate::request::Cloud;

/// The variables that selectors bind.
type Bound = HashMap<Arc<str>, Binding>;

/// Whether its credentials have a session's name.
pub(super) fn is_session(identity: &Identity) -> bool {
    (identity.origin, identity.cloud) == (Origin::Assume, Cloud::Aws)
}

/// The template of an identity for one workload, with what is the same for every caller filled in.
pub(super) fn session(
    identity: &Identity,
    workload: &str,
    host: &Host,
    bound: &Bound,
) -> Option<Template> {
    let Some(text) = &identity.session_name else {
        return made_up(workload, host, bound);
    };
    let template = Template::parse_in(Alphabet::Session, text).ok()?;
    Some(template.fill(&|variable| fixed(variable, host, workload)))
}

/// `{workload}@{host}`, and what selectors bind between them. Of a host's long name, what there is room for: it is the workload
/// that must not be another's.
fn made_up(workload: &str, host: &Host, bound: &Bound) -> Option<Template> {
    let mut names: Vec<&Arc<str>> = bound.keys().collect();
    names.sort_unstable();
    let between: String = names.iter().map(|name| format!(",{{{name}}}")).collect();
    let template = format!("{{workload}}{between}@{{host}}");
    let template = Template::parse_in(Alphabet::Session, &template).ok()?;
    let with = |host: &str| {
        template.fill(&|variable| match variable {
            "workload" => Some(workload.to_owned()),
            "host" => Some(host.to_owned()),
            _ => None,
        })
    };
    let shorter = (0..=host.name.len()).rev();
    let mut shorter = shorter.filter_map(|end| host.name.get(..end)).map(with);
    let whole = with(&host.name);
    let fits = |t: &Template| t.literal().is_none() || t.text().is_some();
    Some(shorter.find(fits).unwrap_or(whole))
}

impl Compiling {
    pub(super) fn prove_sessions(&mut self, files: &Files, set: &PolicySet, host: &Host) {
        let entries = files.identity.0.iter().rev();
        let entries: HashMap<&Arc<str>, &IdentityEntry> =
            entries.map(|(name, entry)| (&name.value, entry)).collect();
        for (workload, identity, place) in Self::given_as(files, set, is_session) {
            let bound = variables(set, workload);
            let written = entries
                .get(&identity.name)
                .and_then(|e| e.session_name.as_ref());
            let place = written.map_or(&place, |text| &text.place);
            if let Some(text) = written
                && !self.is_session_template(&text.value, place, host, &bound)
            {
                continue;
            }
            let workload = &set.workloads[workload as usize].name;
            let made = session(&identity, workload, host, &bound);
            let literal = made.as_ref().and_then(Template::literal);
            if let Some(literal) =
                literal.filter(|_| made.as_ref().and_then(Template::text).is_none())
            {
                let title = format!(
                    "the session of workload `{workload}` would be called `{literal}`, which AWS takes for no name"
                );
                let help = format!(
                    "write session_name in the identity so that 2 to {SESSION_CHARS} characters come out, letters, digits and _+=,.@- alone; or give the workload a shorter name"
                );
                self.error(place, title, help);
            }
        }
    }

    fn is_session_template(
        &mut self,
        text: &str,
        place: &Place,
        host: &Host,
        bound: &Bound,
    ) -> bool {
        let template = match Template::parse_in(Alphabet::Session, text) {
            Ok(template) => template,
            Err(help) => {
                self.error(place, "this session name is not a template", help);
                return false;
            }
        };
        let used: HashSet<&str> = template.variables().map(|v| &**v).collect();
        let before = self.all.len();
        if !used.contains("workload") {
            let help = "put {workload} into it: else CloudTrail can't tell who it was";
            self.error(place, "this session name leaves out the workload", help);
        }
        for (name, value) in [
            ("trust_domain", host.trust_domain.is_some()),
            ("cluster", host.cluster.is_some()),
        ] {
            if used.contains(name) && !value {
                let help = format!("add {name} = \"…\" to [host] in the main file");
                self.error(place, format!("nothing says what {{{name}}} is"), help);
            }
        }
        let mut unbound: Vec<&&str> = used
            .iter()
            .filter(|v| !FIXED.contains(v) && !bound.contains_key(**v))
            .collect();
        unbound.sort_unstable();
        for variable in unbound {
            let help = format!("use one of {{{}}}", FIXED.join("}, {"));
            self.error(place, format!("nothing binds {{{variable}}}"), help);
        }
        let mut missing: Vec<&Arc<str>> = bound.keys().filter(|v| !used.contains(&***v)).collect();
        missing.sort_unstable();
        for variable in missing {
            let help =
                format!("add {{{variable}}} to it: else callers that differ in it have one name");
            self.error(
                place,
                format!("this session name leaves out {{{variable}}}, which varies"),
                help,
            );
        }
        if let Some((a, b)) = template.ambiguous() {
            let help = format!("put a `,`, `+` or `@` between them: {{{a}}}@{{{b}}}");
            self.error(
                place,
                format!("{{{a}}} and {{{b}}} run into each other"),
                help,
            );
        }
        self.all.len() == before
    }
}
