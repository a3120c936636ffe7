//! What was handed out and lives on, as the audit file has it, and by which words the cloud ends it. Nothing here ends anything.

use std::collections::BTreeMap;

use serde_json::Value;

/// A credential whose end has not come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handed {
    /// By what it is known: a token's `jti`, an access key's id.
    pub(crate) id: String,
    pub(crate) workload: String,
    pub(crate) identity: String,
    /// For what it is good: resource, role, audience.
    pub(crate) resource: String,
    /// Unix seconds.
    pub(crate) expires: i64,
    pub(crate) from: From,
}

/// Whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    /// Signed by this host's issuer.
    Issuer,
    Azure,
    Aws,
    Gcp,
}

/// All that lives at `now`, of `workload` or of all, each once.
pub(crate) fn living(text: &str, workload: Option<&str>, now: i64) -> Vec<Handed> {
    let mut signed = BTreeMap::new();
    let mut handed = BTreeMap::new();
    for line in text.lines() {
        let Ok(line) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        if line["event"] == "signed" {
            signed.insert(word(&line["jti"]), word(&line["aud"]));
        }
        let credential = &line["credential"];
        let expires = credential["expires"].as_i64().unwrap_or(0);
        let whose = word(&line["workload"]);
        if line["event"] != "exchange"
            || line["outcome"] != "allowed"
            || expires <= now
            || workload.is_some_and(|name| name != whose)
        {
            continue;
        }
        let (id, resource) = (word(&credential["jti"]), word(&line["resource"]));
        let from = match line["path"].as_str().unwrap_or_default() {
            // What was signed for an exchange has another audience than what came of it.
            _ if signed.get(&id) == Some(&resource) => From::Issuer,
            path if path.starts_with("/metadata/") => From::Azure,
            path if path.starts_with("/computeMetadata/") => From::Gcp,
            _ => From::Aws,
        };
        let one = Handed {
            id: id.clone(),
            workload: whose,
            identity: word(&credential["identity"]),
            resource,
            expires,
            from,
        };
        handed.insert((id, one.identity.clone()), one);
    }
    handed.into_values().collect()
}

impl Handed {
    /// What ends it before its end, said to an operator. `now` as RFC 3339.
    pub(crate) fn remedy(&self, now: &str) -> String {
        let identity = &self.identity;
        match self.from {
            From::Issuer => {
                "nobody can take it back: who trusts this host's issuer takes it until it ends"
                    .into()
            }
            From::Azure => format!(
                "Entra takes no token back: take its rights, `az role assignment delete --assignee` with the client id of [identity.{identity}]"
            ),
            From::Gcp => format!(
                "`gcloud iam service-accounts disable` with the account of [identity.{identity}]; its tokens end within minutes"
            ),
            From::Aws => {
                let role = self.resource.rsplit('/').next().unwrap_or_default();
                let document = serde_json::json!({ "Version": "2012-10-17", "Statement": [{
                    "Effect": "Deny", "Action": "*", "Resource": "*",
                    "Condition": { "DateLessThan": { "aws:TokenIssueTime": now } },
                }] });
                format!(
                    "`aws iam put-role-policy --role-name {role} --policy-name ended-by-imds-guard --policy-document '{document}'`: ends every session of that role from before {now}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"event":"signed","jti":"a","aud":"https://vault.azure.net"}
{"event":"signed","jti":"b","aud":"api://AzureADTokenExchange"}
{"event":"exchange","outcome":"allowed","workload":"billing","resource":"https://vault.azure.net","path":"/metadata/identity/oauth2/token","credential":{"jti":"a","identity":"minted","expires":200}}
{"event":"exchange","outcome":"allowed","workload":"billing","resource":"https://vault.azure.net","path":"/metadata/identity/oauth2/token","credential":{"jti":"a","identity":"minted","expires":200}}
{"event":"exchange","outcome":"allowed","workload":"billing","resource":"https://vault.azure.net","path":"/metadata/identity/oauth2/token","credential":{"jti":"b","identity":"entra","expires":200}}
{"event":"exchange","outcome":"allowed","workload":"batch","resource":"arn:aws:iam::123456789012:role/batch","path":"/latest/meta-data/iam/security-credentials/batch","credential":{"jti":"ASIA1","identity":"batch","expires":200}}
{"event":"exchange","outcome":"allowed","workload":"build","resource":"default","path":"/computeMetadata/v1/instance/service-accounts/default/token","credential":{"jti":"g","identity":"build","expires":101}}
{"event":"exchange","outcome":"allowed","workload":"build","path":"/metadata/versions"}
{"event":"exchange","outcome":"failed","workload":"build","credential":{"jti":"x","identity":"build","expires":900}}
half a li"#;

    #[test]
    fn what_has_not_ended_is_found_once_with_what_it_is() {
        let of = |workload, now| {
            let all = living(LINES, workload, now);
            let short = |one: Handed| (one.id, one.from);
            all.into_iter().map(short).collect::<Vec<_>>()
        };
        let (a, b) = (("a".into(), From::Issuer), ("b".into(), From::Azure));
        let (keys, google) = (("ASIA1".into(), From::Aws), ("g".into(), From::Gcp));
        assert_eq!(of(None, 100), [keys, a.clone(), b.clone(), google]);
        assert_eq!(of(Some("billing"), 150), [a, b]);
        assert_eq!(of(Some("build"), 101), []);
        assert_eq!(of(None, 200), []);
    }

    #[test]
    fn a_roles_sessions_are_ended_by_a_policy_of_that_role() {
        let all = living(LINES, Some("batch"), 100);
        let told = all[0].remedy("2026-11-21T10:00:00Z");
        assert!(told.contains("--role-name batch "), "{told}");
        let document = told.split('\'').nth(1).unwrap();
        let document: Value = serde_json::from_str(document).unwrap();
        let statement = &document["Statement"][0];
        assert_eq!(statement["Effect"], "Deny");
        let before = &statement["Condition"]["DateLessThan"]["aws:TokenIssueTime"];
        assert_eq!(before, "2026-11-21T10:00:00Z");
    }
}
