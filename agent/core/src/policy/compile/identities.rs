//! `[identity.NAME]`: what each cloud and source needs, and which keys belong to another one.

use std::collections::HashMap;

use super::{Compiling, seconds};
use crate::policy::document::{Files, IdentityEntry, Text};
use crate::policy::{Identity, Origin};
use crate::request::Cloud;
use crate::token::{LIFETIME_MAX, LIFETIME_MIN};

/// What is minted or assumed without a `lifetime` lives this long.
pub(super) const DEFAULT_LIFETIME: u32 = 3600;

impl Compiling {
    pub(super) fn identities(&mut self, files: &Files) {
        let mut seen = HashMap::new();
        for (name, entry) in &files.identity.0 {
            self.unique("identity", name, &mut seen);
            self.check_identity(name, entry, files.issuer.is_some());
            let federation = self.federation(name, entry, files);
            let text = |text: &Option<Text>| text.as_ref().map(|t| t.value.clone());
            let tags = entry.tags.iter();
            let identity = Identity {
                name: name.value.clone(),
                cloud: entry.cloud.value,
                origin: entry.source.value,
                client_id: text(&entry.client_id),
                object_id: text(&entry.object_id),
                resource_id: text(&entry.resource_id),
                tenant_id: text(&entry.tenant_id),
                role: text(&entry.role),
                region: text(&entry.region),
                sts: self.sts(entry),
                session_name: text(&entry.session_name),
                session_policy: self.session_policy(entry),
                tags: tags.map(|(k, v)| (k.clone(), v.value.clone())).collect(),
                account: text(&entry.account),
                subject: text(&entry.subject),
                lifetime_seconds: if entry.source.value == Origin::Federate {
                    self.federated_lifetime(entry)
                } else {
                    self.lifetime(entry)
                },
                federation,
            };
            self.check_assumed(name, entry, &identity);
            self.identities.insert(name.value.clone(), identity.into());
        }
    }

    fn lifetime(&mut self, entry: &IdentityEntry) -> u32 {
        let Some(text) = &entry.lifetime else {
            return DEFAULT_LIFETIME;
        };
        if entry.source.value == Origin::Assume {
            return self.assumed_lifetime(text);
        }
        match seconds(&text.value) {
            Some(lifetime @ LIFETIME_MIN..=LIFETIME_MAX) => lifetime,
            Some(lifetime) => {
                let (lives, help) = if lifetime < LIFETIME_MIN {
                    (
                        "10m",
                        "write at least \"10m\": clients renew a token some minutes before it ends",
                    )
                } else {
                    ("24h", "write at most \"24h\": a token can't be called back")
                };
                let title = format!(
                    "a lifetime of `{}` is out of bounds: its tokens live {lives}",
                    text.value
                );
                self.warning(&text.place, title, help);
                lifetime
            }
            None => {
                let title = format!("`{}` is not a lifetime", text.value);
                let help = "write a number and a unit, from \"10m\" to \"24h\"";
                self.error(&text.place, title, help);
                DEFAULT_LIFETIME
            }
        }
    }

    fn check_identity(&mut self, name: &Text, entry: &IdentityEntry, issuer: bool) {
        let (cloud, source) = (entry.cloud.value, entry.source.value);
        if source == Origin::Mint && !issuer {
            let title = format!(
                "identity `{}` is minted, and there is no issuer",
                name.value
            );
            let help = "add [issuer] with url = \"http://127.0.0.1:8787\" and listen = \"127.0.0.1:8787\" to the main file";
            self.error(&entry.source.place, title, help);
        }
        if source == Origin::Mint && entry.subject.is_none() {
            let title = format!("identity `{}` is minted without a `subject`", name.value);
            let help = "add subject = \"spiffe://{trust_domain}/host/{host}/workload/{workload}\"";
            self.error(&entry.source.place, title, help);
        }
        for (key, text, owner) in [
            ("client_id", &entry.client_id, Cloud::Azure),
            ("object_id", &entry.object_id, Cloud::Azure),
            ("resource_id", &entry.resource_id, Cloud::Azure),
            ("tenant_id", &entry.tenant_id, Cloud::Azure),
            ("role", &entry.role, Cloud::Aws),
            ("region", &entry.region, Cloud::Aws),
            ("sts", &entry.sts, Cloud::Aws),
            ("session_name", &entry.session_name, Cloud::Aws),
            ("account", &entry.account, Cloud::Gcp),
        ] {
            if let Some(text) = text.as_ref().filter(|_| owner != cloud) {
                let title = format!("`{key}` means nothing for this cloud");
                let help = format!("leave it out, or write cloud = \"{}\"", cloud_name(owner));
                self.error(&text.place, title, help);
            }
        }
        if cloud == Cloud::Aws && entry.role.is_none() {
            let title = format!("identity `{}` has no `role`", name.value);
            let help = "add role = \"arn:aws:iam::123456789012:role/batch\" (or the role's name, for source = \"forward\")";
            self.error(&name.place, title, help);
        }
        if cloud == Cloud::Gcp && source == Origin::Mint && entry.account.is_none() {
            let title = format!("identity `{}` is minted without an `account`", name.value);
            let help = "add account = \"NAME@PROJECT.iam.gserviceaccount.com\": clients ask whose token it is before they ask for it";
            self.error(&entry.source.place, title, help);
        }
        let served = match source {
            Origin::Forward | Origin::Federate => true,
            Origin::Mint => matches!(cloud, Cloud::Azure | Cloud::Gcp),
            // Of Azure it is an error of its own.
            Origin::Assume => true,
        };
        if !served {
            let title = format!("identity `{}` can't be served by this version", name.value);
            let help = "its rules are checked and explained, and requests for it are refused as not served";
            self.warning(&entry.source.place, title, help);
        }
    }
}

pub(super) fn cloud_name(cloud: Cloud) -> &'static str {
    let names = crate::policy::read::CLOUDS;
    names
        .iter()
        .find(|(_, c)| *c == cloud)
        .map_or("", |(name, _)| name)
}
