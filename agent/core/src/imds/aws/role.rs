//! A role's keys, as the metadata service and the containers' one write them. Every value is a string, `Expiration` without a
//! fraction: JavaScript's SDK takes nothing else, and boto3 turns a safeguard off where there is one.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::exchange::AwsKeys;
use crate::secret::Secret;

/// What the real service gives for a role, for as much as we look at.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Read {
    code: String,
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

/// Keys of a role in the real service's answer. None for what isn't one, a failure that it words as an answer among it.
pub fn read(body: &[u8]) -> Option<AwsKeys> {
    let read: Read = serde_json::from_slice(body).ok()?;
    let plain = |text: &String| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    let values = [&read.access_key_id, &read.secret_access_key, &read.token];
    let right = read.code == "Success" && values.into_iter().all(plain);
    let expires = read.expiration.parse::<jiff::Timestamp>().ok()?;
    right.then(|| AwsKeys {
        access_key_id: read.access_key_id.into(),
        secret_access_key: Secret::new(read.secret_access_key.into()),
        session_token: Secret::new(read.token.into()),
        expires: expires.as_second(),
        account: None,
    })
}

/// The name of a role in the list of them, which has one line. None for what can't be one: it becomes part of a path.
pub fn listed(body: &[u8]) -> Option<Arc<str>> {
    let name = std::str::from_utf8(body).ok()?.trim_end();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    let named = (1..=64).contains(&name.len()) && name.bytes().all(plain);
    // A name of dots would be a step in the path.
    (named && !name.bytes().all(|b| b == b'.')).then(|| name.into())
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Written<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_updated: Option<String>,
    #[serde(rename = "Type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'a str>,
    access_key_id: &'a str,
    secret_access_key: &'a str,
    token: &'a str,
    expiration: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    account_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role_arn: Option<&'a str>,
}

/// As `iam/security-credentials/ROLE` shows keys that were fetched at `updated` (Unix seconds).
pub fn imds(keys: &AwsKeys, updated: i64) -> Secret<String> {
    written(&Written {
        code: Some("Success"),
        last_updated: Some(time(updated)),
        kind: Some("AWS-HMAC"),
        ..parts(keys)
    })
}

/// As the containers' service shows keys of the role `arn`.
pub fn container(keys: &AwsKeys, arn: &str) -> Secret<String> {
    written(&Written {
        role_arn: Some(arn),
        ..parts(keys)
    })
}

fn parts(keys: &AwsKeys) -> Written<'_> {
    Written {
        code: None,
        last_updated: None,
        kind: None,
        access_key_id: &keys.access_key_id,
        secret_access_key: keys.secret_access_key.expose(),
        token: keys.session_token.expose(),
        expiration: time(keys.expires),
        account_id: keys.account.as_deref(),
        role_arn: None,
    }
}

fn written(body: &Written<'_>) -> Secret<String> {
    // A struct of strings always has a JSON form.
    Secret::new(serde_json::to_string_pretty(body).unwrap_or_default())
}

/// `2026-11-22T00:30:00Z`
pub(crate) fn time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = r#"{
  "Code" : "Success",
  "LastUpdated" : "2026-11-21T18:00:00Z",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "ASIAEXAMPLE",
  "SecretAccessKey" : "secret",
  "Token" : "token",
  "Expiration" : "2026-11-22T00:30:00Z"
}"#;

    #[test]
    fn the_real_services_keys_are_read_and_written_alike() {
        let keys = read(REAL.as_bytes()).unwrap();
        assert_eq!(keys.expires, 1_795_307_400);
        let ours: serde_json::Value =
            serde_json::from_str(imds(&keys, 1_795_284_000).expose()).unwrap();
        let theirs: serde_json::Value = serde_json::from_str(REAL).unwrap();
        assert_eq!(ours, theirs);
        let keys = AwsKeys {
            account: Some("111122223333".into()),
            ..keys
        };
        let container: serde_json::Value =
            serde_json::from_str(container(&keys, "arn").expose()).unwrap();
        assert_eq!(
            container,
            serde_json::json!({
                "AccessKeyId": "ASIAEXAMPLE", "SecretAccessKey": "secret", "Token": "token",
                "Expiration": "2026-11-22T00:30:00Z", "AccountId": "111122223333", "RoleArn": "arn",
            })
        );
    }

    #[test]
    fn what_is_none_is_not_kept() {
        for bad in [
            "",
            "[]",
            r#"{"Code":"AssumeRoleUnauthorizedAccess","Message":"no"}"#,
            &REAL.replace("Success", "Failed"),
            &REAL.replace("\"token\"", "\"\""),
            &REAL.replace("2026-11-22T00:30:00Z", "tomorrow"),
        ] {
            assert!(read(bad.as_bytes()).is_none(), "{bad}");
        }
        assert_eq!(listed(b"node-role\n").as_deref(), Some("node-role"));
        for bad in [
            &b""[..],
            b"a\nb",
            b"../x",
            b"..",
            b"a/b",
            b"a b",
            &[b'a'; 65],
        ] {
            assert!(listed(bad).is_none(), "{bad:?}");
        }
    }
}
