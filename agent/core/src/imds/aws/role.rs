//! What the real service says of the instance's role, for whoever acts with its keys or keeps them.

use std::sync::Arc;

use serde::Deserialize;

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
    fn the_real_services_keys_are_read() {
        let keys = read(REAL.as_bytes()).unwrap();
        assert_eq!(keys.expires, 1_795_307_400);
        assert_eq!(&*keys.access_key_id, "ASIAEXAMPLE");
        assert_eq!(&**keys.secret_access_key.expose(), "secret");
        assert_eq!(&**keys.session_token.expose(), "token");
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
