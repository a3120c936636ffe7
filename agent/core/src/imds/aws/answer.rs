//! A role's keys, in the two shapes that Amazon's SDKs read.

use crate::exchange::AwsKeys;
use crate::secret::Secret;

/// As the metadata service writes them, got at `received` (Unix seconds).
pub fn of_instance(keys: &AwsKeys, received: i64) -> Secret<String> {
    let body = serde_json::json!({
        "Code": "Success",
        "LastUpdated": time(received),
        "Type": "AWS-HMAC",
        "AccessKeyId": keys.access_key_id,
        "SecretAccessKey": keys.secret_access_key.expose(),
        "Token": keys.session_token.expose(),
        "Expiration": time(keys.expires),
    });
    Secret::new(body.to_string())
}

/// As the containers' endpoints write them.
pub fn of_container(keys: &AwsKeys, role: &str) -> Secret<String> {
    let mut body = serde_json::json!({
        "RoleArn": role,
        "AccessKeyId": keys.access_key_id,
        "SecretAccessKey": keys.secret_access_key.expose(),
        "Token": keys.session_token.expose(),
        "Expiration": time(keys.expires),
    });
    if let Some(account) = &keys.account {
        body["AccountId"] = account.to_string().into();
    }
    Secret::new(body.to_string())
}

/// In whole seconds: some SDKs read no others.
fn time(seconds: i64) -> String {
    let time = jiff::Timestamp::from_second(seconds).unwrap_or_default();
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_shapes() {
        let keys = AwsKeys {
            access_key_id: "ASIA".into(),
            secret_access_key: Secret::new("s".into()),
            session_token: Secret::new("t".into()),
            expires: 1_795_291_200,
            account: Some("111122223333".into()),
        };
        let read = |body: Secret<String>| {
            serde_json::from_str::<serde_json::Value>(body.expose()).unwrap()
        };
        let instance = read(of_instance(&keys, 1_795_287_600));
        assert_eq!(
            instance,
            serde_json::json!({"Code": "Success", "LastUpdated": "2026-11-21T19:00:00Z", "Type": "AWS-HMAC", "AccessKeyId": "ASIA",
                "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-11-21T20:00:00Z"})
        );
        let container = read(of_container(&keys, "arn:aws:iam::111122223333:role/batch"));
        assert_eq!(
            container,
            serde_json::json!({"RoleArn": "arn:aws:iam::111122223333:role/batch", "AccountId": "111122223333", "AccessKeyId": "ASIA",
                "SecretAccessKey": "s", "Token": "t", "Expiration": "2026-11-21T20:00:00Z"})
        );
    }
}
