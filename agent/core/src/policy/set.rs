//! The compiled form: rules with everything resolved, and the indexes by which [`super::identify`] and [`super::decide`]
//! find them. Data only, immutable once [`super::compile()`] has handed it out.

use std::collections::HashMap;
use std::sync::Arc;

use super::document::Files;
use super::index::Index;
use super::pattern::{Access, AccessPattern, SelectorPattern, Trie};
use super::resource::Targets;
use super::settings::Mode;
use super::subject::Template;
use super::{Document, Identity};
use crate::decision::{Limit, RuleRef};
use crate::request::Cloud;

/// Everything that the files say, compiled and indexed. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) workloads: Vec<WorkloadRules>,
    pub(crate) alternatives: Vec<Alternative>,
    pub(crate) by_selector: Index,
    pub(crate) allows: Vec<AllowRule>,
    /// (workload, target) → grants of credentials.
    pub(crate) tokens: HashMap<(u32, u32), Vec<TokenGrant>>,
    /// workload → allows of GCP access tokens, whose scopes are compared one by one.
    pub(crate) scopes: HashMap<u32, Vec<u32>>,
    /// workload → allows of AWS roles, in their order: of the first is what a caller gets that names none.
    pub(crate) roles: HashMap<u32, Vec<u32>>,
    /// workload → allows of any GCP credential: who has one may read whose it is.
    pub(crate) accounts: HashMap<u32, Vec<u32>>,
    pub(crate) paths: HashMap<(u32, Access, Cloud), Trie>,
    pub(crate) denies: Vec<DenyRule>,
    pub(crate) deny_alternatives: Vec<Alternative>,
    pub(crate) deny_by_selector: Index,
    /// target → denies that hold for everyone.
    pub(crate) deny_targets: HashMap<u32, Vec<u32>>,
    /// cloud → denies that hold for everyone, of every credential.
    pub(crate) deny_tokens: HashMap<Cloud, Vec<u32>>,
    /// scope → denies of it that hold for everyone.
    pub(crate) deny_scopes: HashMap<Arc<str>, Vec<u32>>,
    pub(crate) deny_paths: HashMap<(Access, Cloud), Trie>,
    pub(crate) targets: Targets,
    pub(crate) mode: Mode,
    pub(crate) files: Files,
    /// The rule that permits name where an endpoint in audit mode lets an ungranted request pass.
    pub(crate) audit_mode: Arc<RuleRef>,
    /// The workload that they name where none matches.
    pub(crate) nobody: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct WorkloadRules {
    pub(crate) name: Arc<str>,
    /// Its `sub` templates by identity, host and trust domain filled in, where selectors bind further variables.
    pub(crate) templates: Vec<(Arc<Identity>, Template)>,
    pub(crate) allows: Vec<u32>,
}

/// Selectors that all must match. `owner` is a workload or a deny.
#[derive(Debug)]
pub(crate) struct Alternative {
    pub(crate) owner: u32,
    pub(crate) patterns: Vec<SelectorPattern>,
    pub(crate) texts: Arc<[Arc<str>]>,
    pub(crate) needs_recheck: bool,
}

#[derive(Debug)]
pub(crate) struct AllowRule {
    pub(crate) rule: Arc<RuleRef>,
    pub(crate) workload: u32,
    pub(crate) until: Option<i64>,
    pub(crate) limit: Option<Limit>,
    /// Whether it covers what is asked without a session token.
    pub(crate) imdsv1: bool,
    pub(crate) about: About,
    pub(crate) identity: Option<Arc<Identity>>,
    pub(crate) document: Option<Arc<Document>>,
    /// The `sub` of what it mints, where it is the same for every caller.
    pub(crate) subject: Option<Arc<str>>,
}

/// A credential that a rule gives for one target.
#[derive(Debug)]
pub(crate) struct TokenGrant {
    pub(crate) allow: u32,
    /// The target as the rule writes it.
    pub(crate) audience: Arc<str>,
}

#[derive(Debug)]
pub(crate) struct DenyRule {
    pub(crate) rule: Arc<RuleRef>,
    pub(crate) until: Option<i64>,
    pub(crate) audit: bool,
    pub(crate) about: About,
    /// Numbers of workloads that it spares, sorted.
    pub(crate) except: Vec<u32>,
    /// Whether it has selectors; without, it holds for everyone.
    pub(crate) selective: bool,
}

/// What a rule speaks of.
#[derive(Debug, Default)]
pub(crate) struct About {
    pub(crate) paths: Vec<AccessPattern>,
    pub(crate) token: Option<AboutToken>,
}

#[derive(Debug)]
pub(crate) struct AboutToken {
    pub(crate) cloud: Cloud,
    pub(crate) targets: Vec<u32>,
    pub(crate) scopes: Vec<Arc<str>>,
}

impl Default for PolicySet {
    fn default() -> Self {
        Self {
            workloads: vec![],
            alternatives: vec![],
            by_selector: Index::default(),
            allows: vec![],
            tokens: HashMap::new(),
            scopes: HashMap::new(),
            accounts: HashMap::new(),
            roles: HashMap::new(),
            paths: HashMap::new(),
            denies: vec![],
            deny_alternatives: vec![],
            deny_by_selector: Index::default(),
            deny_targets: HashMap::new(),
            deny_tokens: HashMap::new(),
            deny_scopes: HashMap::new(),
            deny_paths: HashMap::new(),
            targets: Targets::default(),
            mode: Mode::Enforce,
            files: Files::default(),
            audit_mode: Arc::new(RuleRef {
                name: "endpoint-in-audit-mode".into(),
                file: "".into(),
                line: 0,
            }),
            nobody: "-".into(),
        }
    }
}

impl PolicySet {
    /// The policy as TOML that compiles to the same policy, presets and included files in it.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(&self.files)
    }

    /// The alternatives of one workload. They stand together, since compile takes one workload after the other.
    pub(crate) fn alternatives_of(&self, workload: u32) -> &[Alternative] {
        let begin = self.alternatives.partition_point(|a| a.owner < workload);
        let end = self.alternatives.partition_point(|a| a.owner <= workload);
        &self.alternatives[begin..end]
    }

    /// The selectors of the workload of this name, as the policy writes them: all of one of the lists have to match.
    pub fn selectors_of(&self, workload: &str) -> Option<Vec<&[Arc<str>]>> {
        let is_it = |rules: &WorkloadRules| *rules.name == *workload;
        let number = u32::try_from(self.workloads.iter().position(is_it)?).ok()?;
        let all = self.alternatives_of(number).iter();
        Some(all.map(|alternative| &*alternative.texts).collect())
    }

    /// How many workloads there are.
    pub fn workload_count(&self) -> usize {
        self.workloads.len()
    }

    /// Whether there is a workload of this name.
    pub fn has_workload(&self, name: &str) -> bool {
        self.workloads
            .iter()
            .any(|workload| &*workload.name == name)
    }

    /// Whether a deny rule holds that is not in audit mode itself.
    pub fn enforces_denies(&self) -> bool {
        self.denies.iter().any(|deny| !deny.audit)
    }

    /// How many allow and deny rules there are.
    pub fn rules(&self) -> usize {
        self.allows.len() + self.denies.len()
    }
}
