//! Identities that are federated: what each cloud demands of an issuer, an audience, a role, a provider, is found out here and
//! not by a refusal of the cloud in the middle of a request.

use std::sync::Arc;

use super::identities::{DEFAULT_LIFETIME, cloud_name};
use super::{Compiling, seconds};
use crate::exchange::google_sts::{self, Provider};
use crate::exchange::sts::{Partition, RoleArn};
use crate::exchange::{Url, entra, google, web_identity};
use crate::policy::Origin;
use crate::policy::document::{Files, IdentityEntry, Text};
use crate::policy::federation::{Assertion, Exchange, Federation};
use crate::request::Cloud;

/// What AWS and Google take, in seconds. Roles and organisations have a limit of their own below it.
const LIFETIMES: std::ops::RangeInclusive<u32> = 900..=43_200;
/// Names of tenants that are none: which tenant's application it is has to be said.
const NO_TENANTS: [&str; 3] = ["common", "organizations", "consumers"];

impl Compiling {
    /// What the identity says about its federation, or nothing with all complaints.
    pub(super) fn federation(
        &mut self,
        name: &Text,
        entry: &IdentityEntry,
        files: &Files,
    ) -> Option<Arc<Federation>> {
        if entry.source.value != Origin::Federate {
            self.not_federated(entry);
            return None;
        }
        self.foreign_federation(entry);
        let assertion = self.assertion(name, entry, files);
        let exchange = match entry.cloud.value {
            Cloud::Azure => self.entra(name, entry),
            Cloud::Aws => self.web_identity(entry),
            Cloud::Gcp => self.google(name, entry),
        };
        let audience = self.audience(entry, exchange.as_ref());
        Some(Arc::new(Federation {
            assertion: assertion?,
            audience: audience?,
            exchange: exchange?,
        }))
    }

    /// How long what is given lives, in seconds. Entra says itself.
    pub(super) fn federated_lifetime(&mut self, entry: &IdentityEntry) -> u32 {
        let Some(text) = &entry.lifetime else {
            return DEFAULT_LIFETIME;
        };
        let given = match entry.cloud.value {
            Cloud::Azure => None,
            Cloud::Gcp if entry.account.is_none() => None,
            Cloud::Aws | Cloud::Gcp => Some(seconds(&text.value)),
        };
        match given {
            Some(Some(lifetime)) if LIFETIMES.contains(&lifetime) => return lifetime,
            Some(_) => {
                let title = format!("`{}` is no lifetime that this cloud gives", text.value);
                let help = "write \"15m\" to \"12h\"; above \"1h\" the role, or the organisation, has to allow it";
                self.error(&text.place, title, help);
            }
            None => {
                let help = "leave it out: the cloud says how long such a token lives";
                self.error(&text.place, "`lifetime` means nothing here", help);
            }
        }
        DEFAULT_LIFETIME
    }

    /// Keys that only a federated identity has.
    fn not_federated(&mut self, entry: &IdentityEntry) {
        let own = &entry.federation;
        let assertion = own.assertion.as_ref().map(|at| &at.place);
        let text = |text: &Option<Text>| text.as_ref().map(|t| t.place.clone());
        for (key, place) in [
            ("authority", text(&own.authority)),
            ("audience", text(&own.audience)),
            ("provider", text(&own.provider)),
            ("assertion", assertion.cloned()),
        ] {
            if let Some(place) = place {
                let title = format!("`{key}` means nothing for this source");
                self.error(
                    &place,
                    title,
                    "leave it out, or write source = \"federate\"",
                );
            }
        }
    }

    fn foreign_federation(&mut self, entry: &IdentityEntry) {
        let own = &entry.federation;
        for (key, text, owner) in [
            ("authority", &own.authority, Cloud::Azure),
            ("provider", &own.provider, Cloud::Gcp),
        ] {
            if let Some(text) = text.as_ref().filter(|_| owner != entry.cloud.value) {
                let title = format!("`{key}` means nothing for this cloud");
                let help = format!("leave it out, or write cloud = \"{}\"", cloud_name(owner));
                self.error(&text.place, title, help);
            }
        }
    }

    fn assertion(
        &mut self,
        name: &Text,
        entry: &IdentityEntry,
        files: &Files,
    ) -> Option<Assertion> {
        let Some(written) = &entry.federation.assertion else {
            return self.own_assertion(name, entry, files);
        };
        if let Some(subject) = &entry.subject {
            let help = "leave it out: who the assertion is for stands in the file";
            self.error(
                &subject.place,
                "`subject` means nothing for an assertion in a file",
                help,
            );
        }
        if let Some((key, tag)) = entry.tags.iter().next() {
            let title = format!("tag `{key}` can't be given");
            let help = "leave the tags out: they stand in the assertion, which is whoever's that writes the file";
            self.error(&tag.place, title, help);
        }
        let file = written.value.file.as_ref()?;
        let path = &file.value;
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            let title = format!("`{path}` is no absolute path");
            let help = "write the file's path from the root, without `..`: \"/run/secrets/token\"";
            self.error(&file.place, title, help);
            return None;
        }
        Some(Assertion::File(path.clone()))
    }

    /// The embedded issuer's. The cloud has to fetch its keys, so it has to have a URL that the world can reach.
    fn own_assertion(
        &mut self,
        name: &Text,
        entry: &IdentityEntry,
        files: &Files,
    ) -> Option<Assertion> {
        let place = &entry.source.place;
        if entry.subject.is_none() {
            let title = format!("identity `{}` is federated without a `subject`", name.value);
            let help = "add subject = \"spiffe://{trust_domain}/host/{host}/workload/{workload}\", or assertion = { file = \"…\" } where somebody else vouches for this host";
            self.error(place, title, help);
        }
        let Some(url) = files.issuer.as_ref().map(|issuer| &issuer.value.url) else {
            let title = format!(
                "identity `{}` is federated, and there is no issuer",
                name.value
            );
            let help = "add [issuer] with url = \"https://HOST/PATH\" to the main file, where the world finds what `imds-guard issuer publish` writes; or assertion = { file = \"…\" }";
            self.error(place, title, help);
            return None;
        };
        let url = url.as_ref()?;
        if let Some((title, help)) = bad_issuer(&url.value, entry.cloud.value) {
            self.error(&url.place, title, help);
            return None;
        }
        Some(Assertion::Issuer)
    }

    fn entra(&mut self, name: &Text, entry: &IdentityEntry) -> Option<Exchange> {
        let place = &entry.source.place;
        for (key, text) in [
            ("tenant_id", &entry.tenant_id),
            ("client_id", &entry.client_id),
        ] {
            if text.is_none() {
                let title = format!("identity `{}` is federated without a `{key}`", name.value);
                let help = format!(
                    "add {key} = \"00000000-0000-0000-0000-000000000000\", of the application or user-assigned managed identity"
                );
                self.error(place, title, help);
            }
        }
        let tenant = entry.tenant_id.as_ref()?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        let known = NO_TENANTS.contains(&&*tenant.value);
        if known || tenant.value.is_empty() || !tenant.value.bytes().all(plain) {
            let title = format!("`{}` is no tenant", tenant.value);
            let help = "write the id of the tenant that holds the application, or a domain that it has proved";
            self.error(&tenant.place, title, help);
            return None;
        }
        let (default, _) = entra::AUTHORITIES[0];
        let written = entry.federation.authority.as_ref();
        let host = written.map_or(default, |text| &*text.value);
        let base = host.trim_end_matches('/');
        let base = if base.contains("://") {
            base.to_owned()
        } else {
            format!("https://{base}")
        };
        let url = Url::parse(&base).and_then(|url| url.at(&entra::token_target(&tenant.value)));
        match (url, written) {
            (Ok(url), _) => Some(Exchange::Entra { url }),
            (Err(why), Some(text)) => {
                let title = format!("`{}` is no authority", text.value);
                self.error(
                    &text.place,
                    title,
                    format!("{why}; for example \"{default}\""),
                );
                None
            }
            (Err(_), None) => None,
        }
    }

    fn web_identity(&mut self, entry: &IdentityEntry) -> Option<Exchange> {
        // That there is one is demanded of every identity of AWS.
        let role = entry.role.as_ref()?;
        let Some(arn) = RoleArn::parse(&role.value) else {
            let title = format!("`{}` is no ARN of a role", role.value);
            let help = "write it whole: \"arn:aws:iam::123456789012:role/batch\"";
            self.error(&role.place, title, help);
            return None;
        };
        let session = entry.session_name.as_ref();
        if let Some(text) =
            session.filter(|text| web_identity::session_name(&text.value) != *text.value)
        {
            let title = format!("`{}` is no name of a session", text.value);
            let help = "write 2 to 64 letters, digits, and of `_+=,.@-`; without it, the workload's name is taken";
            self.error(&text.place, title, help);
        }
        self.check_tags(entry);
        Some(Exchange::Aws {
            url: self.asked_at(entry, role, arn.partition)?,
            session: session.map(|text| text.value.clone()),
        })
    }

    fn asked_at(
        &mut self,
        entry: &IdentityEntry,
        role: &Text,
        partition: Partition,
    ) -> Option<Url> {
        let (region, sts) = (&entry.region, &entry.sts);
        match (region, sts) {
            (Some(region), None) => {
                if Partition::of_region(&region.value) != Some(partition) {
                    let title = format!(
                        "`{}` is no region of the role's partition, {}",
                        region.value, partition.name
                    );
                    self.error(
                        &region.place,
                        title,
                        "write the region's code: \"eu-central-1\"",
                    );
                    return None;
                }
                partition.sts(&region.value)
            }
            // What is wrong with it is told where it is read.
            (None, Some(sts)) => Url::parse(&sts.value).ok(),
            (Some(_), Some(sts)) => {
                let help = "keep one: `sts` for an endpoint of your own, `region` for Amazon's";
                self.error(&sts.place, "`region` and `sts` both say where STS is", help);
                None
            }
            (None, None) => {
                let help =
                    "add region = \"eu-central-1\" to the identity: its STS is asked, and no other";
                self.error(&role.place, "nothing says which STS gives this role", help);
                None
            }
        }
    }

    fn google(&mut self, name: &Text, entry: &IdentityEntry) -> Option<Exchange> {
        if let Some(account) = entry
            .account
            .as_ref()
            .filter(|text| !google::is_account(&text.value))
        {
            let title = format!("`{}` is no address of a service account", account.value);
            self.error(
                &account.place,
                title,
                "write \"NAME@PROJECT.iam.gserviceaccount.com\"",
            );
        }
        let example =
            "\"projects/123456789/locations/global/workloadIdentityPools/POOL/providers/PROVIDER\"";
        let Some(text) = &entry.federation.provider else {
            let title = format!(
                "identity `{}` is federated without a `provider`",
                name.value
            );
            self.error(
                &entry.source.place,
                title,
                format!("add provider = {example}"),
            );
            return None;
        };
        let Some(provider) = Provider::parse(&text.value) else {
            let title = format!(
                "`{}` is no provider of a workload identity pool",
                text.value
            );
            let help =
                format!("write its full resource name, with the project's number: {example}");
            self.error(&text.place, title, help);
            return None;
        };
        Some(Exchange::Google {
            url: Url::parse(google_sts::URL).ok()?,
            credentials: Url::parse(google::ENDPOINT).ok()?,
            provider,
        })
    }

    fn audience(&mut self, entry: &IdentityEntry, exchange: Option<&Exchange>) -> Option<Arc<str>> {
        let written = entry.federation.audience.as_ref();
        let limit = entra::TEXT_CHARS;
        if let Some(text) = written {
            let plain = text.value.bytes().all(|b| b.is_ascii_graphic());
            if text.value.is_empty() || text.value.len() > limit || !plain {
                let title = format!("`{}` is no audience", text.value);
                let help = format!(
                    "write what the cloud expects, to the letter: visible characters, at most {limit}"
                );
                self.error(&text.place, title, help);
            }
            return Some(text.value.clone());
        }
        match exchange? {
            Exchange::Entra { url } => match entra::audience_of(url.host()) {
                Some(audience) => Some(audience.into()),
                None => {
                    let place = entry.federation.authority.as_ref()?.place.clone();
                    let title =
                        format!("nothing says what assertions for `{}` are for", url.host());
                    let help = "add audience = \"api://…\", as the federated credential has it: of an authority that isn't known here it can't be told";
                    self.error(&place, title, help);
                    None
                }
            },
            Exchange::Aws { .. } => Some(web_identity::AUDIENCE.into()),
            Exchange::Google { provider, .. } => Some(provider.default_audience().into()),
        }
    }
}

/// Why no cloud takes tokens of this issuer, and what to write.
fn bad_issuer(url: &str, cloud: Cloud) -> Option<(String, String)> {
    let title = |what: &str| format!("the issuer `{url}` {what}");
    if !url.starts_with("https://") {
        let help = "write an https URL that the world can reach, and publish there what `imds-guard issuer publish` writes: clouds fetch an issuer's keys, and from nowhere else";
        return Some((title("can't be federated with"), help.into()));
    }
    let parsed = match Url::parse(url) {
        Ok(parsed) => parsed,
        Err(why) => {
            return Some((
                title("is none that a cloud can fetch keys of"),
                why.to_string(),
            ));
        }
    };
    if url.ends_with('/') {
        let help = "leave the slash at its end out: issuers are compared to the letter, and some clouds look for the keys below `//`";
        return Some((title("ends in a slash"), help.into()));
    }
    if url.contains('?') {
        return Some((
            title("has a query"),
            "leave it out: no cloud takes one".into(),
        ));
    }
    if cloud == Cloud::Aws && parsed.port() != 443 {
        let help = "serve it on port 443: an OIDC provider of AWS has no port";
        return Some((title("has a port"), help.into()));
    }
    if url.len() > entra::TEXT_CHARS {
        let help = format!("shorten it to {} characters", entra::TEXT_CHARS);
        return Some((title("is too long"), help));
    }
    None
}
