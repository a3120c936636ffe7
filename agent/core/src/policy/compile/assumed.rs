//! Identities with `source = "assume"`: what the clouds will refuse is told here, before anybody asks for it.

use std::sync::Arc;

use super::identities::DEFAULT_LIFETIME;
use super::{Compiling, seconds};
use crate::exchange::sts::{CHAINED_MAX, DURATION_MIN, Partition, RoleArn};
use crate::exchange::{Url, google};
use crate::policy::document::{IdentityEntry, Text};
use crate::policy::{Identity, Origin};
use crate::request::Cloud;

/// Limits of AWS STS.
const POLICY_CHARS: usize = 2048;
const TAGS: usize = 50;
const TAG_KEY_CHARS: usize = 128;
const TAG_VALUE_CHARS: usize = 256;
/// With less, boto3 believes that the service is out of order, and stretches the time by itself.
const STRETCHED: u32 = 25 * 60;

impl Compiling {
    pub(super) fn check_assumed(&mut self, name: &Text, entry: &IdentityEntry, own: &Identity) {
        self.check_keys(entry);
        if own.origin != Origin::Assume {
            return;
        }
        match own.cloud {
            Cloud::Aws => self.check_role(entry),
            Cloud::Gcp => self.check_account(name, entry),
            Cloud::Azure => {
                let title = format!(
                    "identity `{}` can't be assumed: Azure has no such exchange",
                    name.value
                );
                let help = "assign a managed identity to the VM, and write source = \"forward\" with its client_id: that pins it";
                self.error(&entry.source.place, title, help);
            }
        }
    }

    /// Keys that mean something for what STS gives alone.
    fn check_keys(&mut self, entry: &IdentityEntry) {
        let exchanged = matches!(entry.source.value, Origin::Assume | Origin::Federate);
        let policy = entry
            .session_policy
            .as_ref()
            .map(|p| ("session_policy", p.place.clone()));
        let texts = [
            ("region", &entry.region),
            ("sts", &entry.sts),
            ("session_name", &entry.session_name),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(key, text)| Some((key, text.as_ref()?.place.clone())));
        let tags = entry
            .tags
            .values()
            .next()
            .map(|tag| ("tags", tag.place.clone()));
        let aws = entry.cloud.value == Cloud::Aws;
        let mut said = vec![];
        if aws && !exchanged {
            said.extend(texts);
            said.extend(policy.clone());
        } else if !aws {
            said.extend(policy);
        }
        if !aws || !exchanged {
            said.extend(tags);
        }
        for (key, place) in said {
            let title = format!("`{key}` means nothing for this identity");
            let help = "leave it out, or write cloud = \"aws\" and source = \"assume\" or \"federate\": it is said to AWS STS when a role is assumed";
            self.error(&place, title, help);
        }
    }

    pub(super) fn assumed_lifetime(&mut self, text: &Text) -> u32 {
        match seconds(&text.value) {
            Some(lifetime @ DURATION_MIN..=CHAINED_MAX) => {
                if lifetime < STRETCHED {
                    let title = format!(
                        "with a lifetime of `{}` SDKs take each answer for a late one",
                        text.value
                    );
                    let help = "write at least \"25m\": boto3 believes that what ends sooner has been given by a service out of order, and stretches it by itself";
                    self.warning(&text.place, title, help);
                }
                lifetime
            }
            Some(_) => {
                let title = format!(
                    "a lifetime of `{}` is out of bounds for what is assumed",
                    text.value
                );
                let help = "write \"15m\" to \"1h\": AWS gives a role that a role assumes no more, whatever the role allows, and Google none without a policy of the organisation";
                self.error(&text.place, title, help);
                DEFAULT_LIFETIME
            }
            None => {
                let title = format!("`{}` is not a lifetime", text.value);
                self.error(
                    &text.place,
                    title,
                    "write a number and a unit, from \"15m\" to \"1h\"",
                );
                DEFAULT_LIFETIME
            }
        }
    }

    fn check_role(&mut self, entry: &IdentityEntry) {
        let partition = entry.role.as_ref().and_then(|text| {
            let role = RoleArn::parse(&text.value);
            if role.is_none() {
                let title = format!("`{}` is not the ARN of a role", text.value);
                let help = "write the whole ARN, role = \"arn:aws:iam::123456789012:role/batch\": a role that is assumed may be in another account";
                self.error(&text.place, title, help);
            }
            Some(role?.partition)
        });
        if let Some(text) = &entry.region {
            match (Partition::of_region(&text.value), partition) {
                (None, _) => {
                    let title = format!("`{}` is not a region", text.value);
                    self.error(&text.place, title, "write region = \"us-west-2\", or leave it out: then it is the instance's own");
                }
                (Some(region), Some(role)) if region != role => {
                    let title = format!(
                        "region `{}` is in partition {}, and the role in {}",
                        text.value, region.name, role.name
                    );
                    let help = "write a region of the role's partition: keys of one mean nothing in another";
                    self.error(&text.place, title, help);
                }
                _ => {}
            }
        }
        self.check_tags(entry);
    }

    pub(super) fn check_tags(&mut self, entry: &IdentityEntry) {
        let plain = |text: &str| {
            text.chars()
                .all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
        };
        let mut keys: Vec<String> = vec![];
        for (number, (key, value)) in (1..).zip(&entry.tags) {
            let folded = key.to_lowercase();
            let wrong = match () {
                () if number == TAGS + 1 => Some("a session has at most 50 tags"),
                () if key.is_empty() || key.chars().count() > TAG_KEY_CHARS => {
                    Some("a tag's key has 1 to 128 characters")
                }
                () if value.value.chars().count() > TAG_VALUE_CHARS => {
                    Some("a tag's value has at most 256 characters")
                }
                () if folded.starts_with("aws:") => {
                    Some("tags that begin with `aws:` are AWS's own")
                }
                () if !plain(key) || !plain(&value.value) => {
                    Some("a tag holds letters, digits, spaces and _ . : / = + - @")
                }
                () if keys.contains(&folded) => Some("AWS doesn't tell tags apart by case"),
                () => None,
            };
            if let Some(help) = wrong {
                let title = format!("AWS STS takes no tag `{key}` like this");
                self.error(&value.place, title, help);
            }
            keys.push(folded);
        }
    }

    fn check_account(&mut self, name: &Text, entry: &IdentityEntry) {
        let help = "add account = \"NAME@PROJECT.iam.gserviceaccount.com\": the one that the machine's account may act as";
        match &entry.account {
            None => {
                let title = format!("identity `{}` is assumed without an `account`", name.value);
                self.error(&entry.source.place, title, help);
            }
            Some(text) if !google::is_account(&text.value) => {
                let title = format!("`{}` is not the address of a service account", text.value);
                self.error(&text.place, title, help);
            }
            Some(_) => {}
        }
    }

    pub(super) fn sts(&mut self, entry: &IdentityEntry) -> Option<Url> {
        let text = entry.sts.as_ref()?;
        match Url::parse(&text.value) {
            Ok(url) if url.target() == "/" => Some(url),
            Ok(_) => {
                let title = format!("`{}` is not an endpoint of AWS STS", text.value);
                self.error(
                    &text.place,
                    title,
                    "leave out what comes after the host: STS is asked at /",
                );
                None
            }
            Err(why) => {
                let title = format!("`{}` is not an endpoint of AWS STS", text.value);
                self.error(&text.place, title, why.to_string());
                None
            }
        }
    }

    /// The policy as STS gets it.
    pub(super) fn session_policy(&mut self, entry: &IdentityEntry) -> Option<Arc<str>> {
        let at = entry.session_policy.as_ref()?;
        let text = at.value.to_string();
        let statement = at.value.get("Statement");
        let help = if statement.is_none() {
            "write it as a table: Version = \"2012-10-17\" and Statement = [{ Effect = \"Allow\", Action = [\"…\"], Resource = [\"…\"] }]"
        } else if text.chars().count() > POLICY_CHARS {
            "shorten it: AWS STS takes 2048 characters, without spaces between its parts"
        } else if text.chars().any(|c| c > '\u{ff}') {
            "write it with Latin letters: AWS STS takes no others"
        } else {
            return Some(text.into());
        };
        self.error(&at.place, "AWS STS takes no session policy like this", help);
        None
    }
}
