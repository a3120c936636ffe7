//! Workloads, their allows, and the denies; the indexes over them.

use std::collections::HashMap;
use std::sync::Arc;

use super::Compiling;
use super::identities::cloud_name;
use crate::decision::Limit;
use crate::policy::diagnostic::Place;
use crate::policy::document::{
    AllowEntry, At, DenyEntry, Files, RuleEntry, Text, TokenEntry, WorkloadEntry,
};
use crate::policy::federation::Exchange;
use crate::policy::index::Index;
use crate::policy::pattern::{Access, AccessPattern};
use crate::policy::resource::{self, Kind};
use crate::policy::set::{
    About, AboutToken, AllowRule, DenyRule, PolicySet, TokenGrant, WorkloadRules,
};
use crate::policy::settings::{Mode, Settings};
use crate::policy::{Identity, Origin};
use crate::request::Cloud;
use crate::seam::RESOURCE_LIMIT;

/// Numbers of rules and workloads are 32 bit; files that large are refused long before by their readers.
pub(super) fn number(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

impl Compiling {
    pub(super) fn rules(&mut self, files: &Files, settings: &Settings) -> PolicySet {
        let mut set = PolicySet {
            mode: settings.mode(),
            ..PolicySet::default()
        };
        let mut seen = HashMap::new();
        for entry in &files.workload {
            self.unique("workload", &entry.name, &mut seen);
            self.workload(&mut set, entry);
        }
        let numbers: HashMap<Arc<str>, u32> = (0..)
            .zip(&set.workloads)
            .map(|(number, workload)| (workload.name.clone(), number))
            .collect();
        let mut seen = HashMap::new();
        for entry in &files.deny {
            if let Some(name) = &entry.rule.name {
                self.unique("deny", name, &mut seen);
            }
            self.deny(&mut set, entry, &numbers);
        }
        set.by_selector = Index::new(&set.alternatives);
        set.deny_by_selector = Index::new(&set.deny_alternatives);
        set
    }

    fn workload(&mut self, set: &mut PolicySet, entry: &WorkloadEntry) {
        let workload = number(set.workloads.len());
        let name = &entry.name;
        let subject = format!("workload `{}`", name.value);
        if !entry.selects {
            let help = "add selectors = [\"systemd:id:NAME.service\"]: a workload is who a caller is, and nobody is everybody";
            self.error(&name.place, format!("{subject} has no selectors"), help);
        }
        let alternatives =
            self.alternatives(&subject, &name.place, &entry.selectors, &entry.any_of);
        self.lint_allowing(name, &alternatives);
        for mut alternative in alternatives {
            alternative.owner = workload;
            set.alternatives.push(alternative);
        }
        set.workloads.push(WorkloadRules {
            name: name.value.clone(),
            templates: vec![],
            allows: vec![],
        });
        if entry.allow.is_empty() {
            let help = "add [[workload.allow]] below it, or name it in an `except`";
            self.warning(&name.place, format!("{subject} is allowed nothing"), help);
        }
        let mut seen = HashMap::new();
        for (position, allow) in (1..).zip(&entry.allow) {
            if let Some(name) = &allow.rule.name {
                self.unique("rule", name, &mut seen);
            }
            let made_up = || format!("{}/allow-{position}", name.value).into();
            let rule = allow
                .rule
                .name
                .as_ref()
                .map_or_else(made_up, |n| n.value.clone());
            self.allow(set, workload, rule, allow);
        }
    }

    fn allow(&mut self, set: &mut PolicySet, workload: u32, name: Arc<str>, entry: &AllowEntry) {
        let id = number(set.allows.len());
        let about = self.about(&entry.rule, true);
        let identity = self.allowed_identity(entry);
        let document = entry.document.as_ref().and_then(|name| {
            let document = self.resolve("document", name, |c| &c.documents)?;
            if about.paths.iter().any(|path| path.cloud != document.cloud) {
                let title = format!("document `{}` is another cloud's", document.name);
                self.error(&name.place, title, "write a rule of its own for each cloud");
            }
            if let Some(write) = entry.rule.write.first() {
                let help = "split the rule in two: `write` is always forwarded";
                self.error(&write.place, "a document can't be written", help);
            }
            Some(document)
        });
        if entry.rule.token.is_some() && entry.document.is_some() {
            let place = entry
                .document
                .as_ref()
                .map_or(&entry.rule.place, |d| &d.place)
                .clone();
            self.error(
                &place,
                "a document answers reads, not token requests",
                "split the rule in two",
            );
        }
        self.imdsv1(entry);
        for path in &about.paths {
            let key = (workload, path.access, path.cloud);
            set.paths.entry(key).or_default().insert(&path.path, id);
        }
        if let (Some(token), Some(identity)) = (&entry.rule.token, &identity) {
            self.index_token(set, (workload, id), token, identity, about.token.as_ref());
        }
        set.workloads[workload as usize].allows.push(id);
        set.allows.push(AllowRule {
            rule: self.rule_ref(name, &entry.rule.place),
            workload,
            until: self.until(entry.rule.until.as_ref()),
            limit: entry.limit.as_ref().and_then(|text| self.limit(text)),
            imdsv1: entry.imdsv1.as_ref().is_some_and(|flag| flag.value),
            about,
            identity,
            document,
            subject: None,
        });
    }

    /// Files the grant under its targets; two grants of one target by different identities can't both be meant.
    fn index_token(
        &mut self,
        set: &mut PolicySet,
        (workload, allow): (u32, u32),
        token: &At<TokenEntry>,
        identity: &Arc<Identity>,
        about: Option<&AboutToken>,
    ) {
        let Some(about) = about else { return };
        if about.cloud == Cloud::Gcp {
            set.accounts.entry(workload).or_default().push(allow);
        }
        if !about.scopes.is_empty() {
            set.scopes.entry(workload).or_default().push(allow);
        }
        let texts = token.value.resource.iter().chain(&token.value.audience);
        let mut grants: Vec<(u32, Arc<str>)> = about
            .targets
            .iter()
            .copied()
            .zip(texts.map(|t| t.value.clone()))
            .collect();
        if let (Cloud::Aws, Some(role)) = (about.cloud, &identity.role) {
            let number = self.targets.number(Kind::AwsRole, role);
            grants.push((number, resource::role_name(role).into()));
            set.roles.entry(workload).or_default().push(allow);
        }
        for (target, audience) in grants {
            let list = set.tokens.entry((workload, target)).or_default();
            if list.iter().any(|grant| grant.allow == allow) {
                continue;
            }
            let other = list
                .iter()
                .filter_map(|g| set.allows[g.allow as usize].identity.clone());
            if let Some(other) = other.into_iter().find(|other| other != identity) {
                let title = format!(
                    "two rules of one workload give `{audience}` as different identities: `{}` and `{}`",
                    other.name, identity.name
                );
                self.error(
                    &token.place,
                    title,
                    "keep one, or make two workloads that no caller matches both of",
                );
            }
            list.push(TokenGrant { allow, audience });
        }
    }

    fn allowed_identity(&mut self, entry: &AllowEntry) -> Option<Arc<Identity>> {
        let Some(token) = &entry.rule.token else {
            if let Some(identity) = &entry.identity {
                let help = "leave it out, or add token = { … }: reads have no identity";
                self.error(
                    &identity.place,
                    "this rule names an identity, and gives no token",
                    help,
                );
            }
            return None;
        };
        let Some(name) = &entry.identity else {
            let help =
                "add identity = \"NAME\", and [identity.NAME] that says where the token comes from";
            self.error(
                &token.place,
                "this rule gives a token, and names no identity",
                help,
            );
            return None;
        };
        let identity = self.resolve("identity", name, |c| &c.identities)?;
        let cloud = token.value.cloud.value;
        if identity.cloud != cloud {
            let title = format!(
                "identity `{}` is of cloud `{}`",
                identity.name,
                cloud_name(identity.cloud)
            );
            let help = format!("name an identity of cloud `{}`", cloud_name(cloud));
            self.error(&name.place, title, help);
            return None;
        }
        let scope = token.value.scopes.first();
        if let Some(scope) = scope.filter(|_| identity.origin == Origin::Mint) {
            let title = format!(
                "identity `{}` is minted, and scopes can't be",
                identity.name
            );
            let help = "leave `scopes` out and write `audience`: an access token is Google's alone to give, so name an identity with source = \"forward\" for it";
            self.error(&scope.place, title, help);
        }
        self.federated_token(&token.value, &identity);
        Some(identity)
    }

    /// What Google gives for an assertion alone: access tokens, of so many scopes as the seam carries. The rest is a service
    /// account's to give.
    fn federated_token(&mut self, token: &TokenEntry, identity: &Identity) {
        let federation = identity.federation.as_ref().map(|f| &f.exchange);
        let Some(Exchange::Google { .. }) = federation else {
            return;
        };
        if let Some(audience) = token
            .audience
            .first()
            .filter(|_| identity.account.is_none())
        {
            let title = format!(
                "identity `{}` has no `account` that could give an identity token",
                identity.name
            );
            let help = "add account = \"NAME@PROJECT.iam.gserviceaccount.com\" to it, which the pool's principal may impersonate: a pool gives access tokens alone";
            self.error(&audience.place, title, help);
        }
        let length: usize = token.scopes.iter().map(|scope| scope.value.len() + 1).sum();
        if let Some(scope) = token.scopes.first().filter(|_| length > RESOURCE_LIMIT) {
            let help = format!(
                "write at most {RESOURCE_LIMIT} bytes of them: cloud-platform is all of them, and the rights are granted to the account"
            );
            self.error(&scope.place, "these scopes are too long together", help);
        }
    }

    fn imdsv1(&mut self, entry: &AllowEntry) {
        let Some(flag) = entry.imdsv1.as_ref().filter(|f| f.value) else {
            return;
        };
        let aws = entry
            .rule
            .token
            .as_ref()
            .is_some_and(|t| t.value.cloud.value == Cloud::Aws)
            || entry.rule.read.iter().any(|r| r.value.starts_with("aws:"));
        if !aws {
            self.error(&flag.place, "only AWS has IMDSv1", "leave `imdsv1` out");
        }
        for (missing, key, example) in [
            (entry.rule.until.is_none(), "until", "\"2027-01-01\""),
            (entry.rule.owner.is_none(), "owner", "\"team-legacy\""),
            (entry.limit.is_none(), "limit", "\"5/s\""),
        ] {
            if missing {
                let title = format!("IMDSv1 is allowed without `{key}`");
                let help =
                    format!("add {key} = {example}: an exception has an end, an owner and a limit");
                self.error(&flag.place, title, help);
            }
        }
    }

    fn deny(&mut self, set: &mut PolicySet, entry: &DenyEntry, numbers: &HashMap<Arc<str>, u32>) {
        let id = number(set.denies.len());
        let about = self.about(&entry.rule, false);
        let place = &entry.rule.place;
        let selective = entry.selectors.is_some() || entry.any_of.is_some();
        for mut alternative in self.alternatives("a deny", place, &entry.selectors, &entry.any_of) {
            for pattern in alternative.patterns.iter().filter(|p| !p.key.attested()) {
                let title = format!(
                    "nothing attests `{}` in this version: this deny holds for everyone else it may mean",
                    pattern.key
                );
                let help = "evidence that can't be had counts against the caller; use unix, cgroup or systemd selectors";
                self.warning(place, title, help);
            }
            alternative.owner = id;
            set.deny_alternatives.push(alternative);
        }
        if !selective {
            index_deny(set, id, &about);
        }
        let except = entry.except.iter();
        let mut except: Vec<u32> = except
            .filter_map(|name| self.excepted(numbers, name))
            .collect();
        except.sort_unstable();
        let line = self.line(place);
        let made_up = || format!("deny-{line}").into();
        let name = entry
            .rule
            .name
            .as_ref()
            .map_or_else(made_up, |n| n.value.clone());
        set.denies.push(DenyRule {
            rule: self.rule_ref(name, place),
            until: self.until(entry.rule.until.as_ref()),
            audit: entry.mode.as_ref().is_some_and(|m| m.value == Mode::Audit),
            about,
            except,
            selective,
        });
    }

    fn excepted(&mut self, numbers: &HashMap<Arc<str>, u32>, name: &Text) -> Option<u32> {
        let found = numbers.get(&name.value).copied();
        if found.is_none() {
            let mut known: Vec<&str> = numbers.keys().map(|name| &**name).collect();
            known.sort_unstable();
            let meant = crate::policy::fields::meant(&name.value, &known);
            let help = format!("{meant}`except` takes the names of workloads that are defined");
            let title = format!("there is no workload `{}`", name.value);
            self.error(&name.place, title, help);
        }
        found
    }

    fn about(&mut self, entry: &RuleEntry, allow: bool) -> About {
        if entry.token.is_none() && entry.read.is_empty() && entry.write.is_empty() {
            let help = "add token = { cloud = \"azure\", resource = [\"https://…\"] } or read = [\"azure:/metadata/instance/**\"]";
            self.error(&entry.place, "this rule speaks of nothing", help);
        }
        let mut paths = vec![];
        let reads = entry.read.iter().map(|text| (Access::Read, text));
        let writes = entry.write.iter().map(|text| (Access::Write, text));
        for (access, text) in reads.chain(writes) {
            match AccessPattern::parse(access, &text.value) {
                Ok(pattern) => paths.push(pattern),
                Err((title, help)) => self.error(&text.place, title, help),
            }
        }
        let token = entry
            .token
            .as_ref()
            .map(|token| self.about_token(token, allow));
        About { paths, token }
    }

    fn about_token(&mut self, token: &At<TokenEntry>, allow: bool) -> AboutToken {
        let entry = &token.value;
        let cloud = entry.cloud.value;
        self.foreign_keys(entry);
        let (missing, example) = match cloud {
            Cloud::Azure => (
                entry.resource.is_empty(),
                "resource = [\"https://vault.azure.net\"]",
            ),
            Cloud::Gcp => (
                entry.scopes.is_empty() && entry.audience.is_empty(),
                "scopes = [\"https://www.googleapis.com/auth/devstorage.read_only\"] or audience = [\"https://…\"]",
            ),
            Cloud::Aws => (false, ""),
        };
        if allow && missing {
            let help = format!(
                "add {example}: what a token is good for is a list in the rule, never whatever a request says"
            );
            self.error(&token.place, "this rule gives a token for anything", help);
        }
        if let Some(role) = entry.role.first().filter(|_| allow) {
            self.error(
                &role.place,
                "the role of an allow stands in its identity",
                "move it to [identity.NAME] role = \"…\"",
            );
        }
        let targets = self.token_targets(entry);
        let scopes = entry.scopes.iter().map(|s| s.value.clone()).collect();
        AboutToken {
            cloud,
            targets,
            scopes,
        }
    }

    fn foreign_keys(&mut self, entry: &TokenEntry) {
        let cloud = entry.cloud.value;
        for (key, list, owner) in [
            ("resource", &entry.resource, Cloud::Azure),
            ("role", &entry.role, Cloud::Aws),
            ("scopes", &entry.scopes, Cloud::Gcp),
            ("audience", &entry.audience, Cloud::Gcp),
        ] {
            if let Some(first) = list.first().filter(|_| owner != cloud) {
                let help = format!("leave it out, or write cloud = \"{}\"", cloud_name(owner));
                self.error(
                    &first.place,
                    format!("`{key}` means nothing for this cloud"),
                    help,
                );
            }
        }
    }

    fn token_targets(&mut self, entry: &TokenEntry) -> Vec<u32> {
        let lists = [
            (Kind::AzureResource, &entry.resource),
            (Kind::AwsRole, &entry.role),
            (Kind::GcpAudience, &entry.audience),
        ];
        let mut targets = vec![];
        for (kind, list) in lists {
            for text in list {
                if text.value.contains('*') || text.value.is_empty() {
                    let title = format!("`{}` is not a target that a token can be for", text.value);
                    self.error(
                        &text.place,
                        title,
                        "write each target in full; a deny of all leaves the list out",
                    );
                }
                targets.push(self.targets.number(kind, &text.value));
            }
        }
        targets
    }

    /// Unix seconds of a date (its first moment, UTC) or of an RFC 3339 time.
    fn until(&mut self, text: Option<&Text>) -> Option<i64> {
        let text = text?;
        let date = text
            .value
            .parse::<jiff::civil::Date>()
            .ok()
            .filter(|_| text.value.len() == 10);
        let date = date.and_then(|date| date.to_zoned(jiff::tz::TimeZone::UTC).ok());
        let time = date
            .map(|zoned| zoned.timestamp())
            .or_else(|| text.value.parse().ok());
        let Some(time) = time.map(jiff::Timestamp::as_second) else {
            let help = "write a date (its first moment in UTC ends the rule), \"2027-01-01\", or a time, \"2027-01-01T08:00:00Z\"";
            self.error(&text.place, format!("`{}` is not a date", text.value), help);
            // Never a rule without end.
            return Some(i64::MIN);
        };
        if time <= self.now {
            let title = format!("this rule ended at {}", text.value);
            self.warning(
                &text.place,
                title,
                "remove the rule, or give it a later date",
            );
        }
        Some(time)
    }

    fn limit(&mut self, text: &Text) -> Option<Limit> {
        let limit = text.value.split_once('/').and_then(|(count, unit)| {
            let per_seconds = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let count = count.parse().ok().filter(|c| *c > 0)?;
            Some(Limit { count, per_seconds })
        });
        if limit.is_none() {
            let help = "write COUNT/s, COUNT/m or COUNT/h, for example \"5/s\"";
            self.error(
                &text.place,
                format!("`{}` is not a limit", text.value),
                help,
            );
        }
        limit
    }

    /// What is given as an identity of this kind: the workload, the identity, and the place of its rule, for messages.
    pub(super) fn given_as(
        files: &Files,
        set: &PolicySet,
        kind: fn(&Identity) -> bool,
    ) -> Vec<(u32, Arc<Identity>, Place)> {
        let entries = files.workload.iter().flat_map(|w| &w.allow);
        let given = set.allows.iter().zip(entries).filter_map(|(allow, entry)| {
            let identity = allow.identity.clone()?;
            let place = entry.identity.as_ref()?.place.clone();
            kind(&identity).then_some((allow.workload, identity, place))
        });
        given.collect()
    }
}

fn index_deny(set: &mut PolicySet, id: u32, about: &About) {
    for path in &about.paths {
        let trie = set.deny_paths.entry((path.access, path.cloud));
        trie.or_default().insert(&path.path, id);
    }
    if let Some(token) = &about.token {
        for target in &token.targets {
            set.deny_targets.entry(*target).or_default().push(id);
        }
        for scope in &token.scopes {
            let of_scope = set.deny_scopes.entry(scope.clone());
            of_scope.or_default().push(id);
        }
        if token.targets.is_empty() && token.scopes.is_empty() {
            set.deny_tokens.entry(token.cloud).or_default().push(id);
        }
    }
}
