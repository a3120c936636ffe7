//! What IAM Credentials is asked, and its answers.

use super::*;

const NOW: i64 = 1_795_284_000;

fn token() -> Secret<Arc<str>> {
    Secret::new("ya29.node".into())
}

fn endpoint() -> Url {
    Url::parse(ENDPOINT).unwrap()
}

const ACCOUNT: &str = "build@example-project.iam.gserviceaccount.com";

#[test]
fn the_requests_say_what_is_wanted_and_who_asks() {
    let scopes = ["https://www.googleapis.com/auth/devstorage.read_only".into()];
    let access = access_token(&endpoint(), ACCOUNT, &token(), &scopes, 1800).unwrap();
    assert_eq!(
        access.url.to_string(),
        "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/build@example-project.iam.gserviceaccount.com:generateAccessToken"
    );
    let body: serde_json::Value = serde_json::from_slice(access.body.expose()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "scope": scopes, "lifetime": "1800s" })
    );
    let (name, secret) = access.secret.unwrap();
    assert_eq!(
        (name, &**secret.expose()),
        ("authorization", "Bearer ya29.node")
    );
    let identity = identity_token(&endpoint(), ACCOUNT, &token(), "https://a.example/\"x").unwrap();
    assert!(identity.url.target().ends_with(":generateIdToken"));
    let body: serde_json::Value = serde_json::from_slice(identity.body.expose()).unwrap();
    assert_eq!(
        body,
        serde_json::json!({ "audience": "https://a.example/\"x", "includeEmail": true })
    );
    for bad in [
        "default",
        "a@b",
        "a/../b@c.d",
        "a@c.d:generateIdToken",
        "a?@b.c",
        "@b.c",
    ] {
        assert!(
            identity_token(&endpoint(), bad, &token(), "x").is_none(),
            "{bad}"
        );
    }
}

#[test]
fn tokens_are_read() {
    let read = |body: &str| read_access_token(200, None, body.as_bytes(), NOW);
    assert_eq!(
        read(r#"{"accessToken":"ya29.c.EX","expireTime":"2026-11-21T20:00:00Z"}"#),
        Ok(Obtained::Bearer {
            token: Secret::new("ya29.c.EX".into()),
            expires: NOW + 7200
        })
    );
    for bad in [
        "",
        "[]",
        r#"{"accessToken":"ya29.c.EX"}"#,
        r#"{"accessToken":"","expireTime":"2026-11-21T20:00:00Z"}"#,
        r#"{"accessToken":"a b","expireTime":"2026-11-21T20:00:00Z"}"#,
        r#"{"accessToken":"a","expireTime":"2026-11-21T18:00:00Z"}"#,
        r#"{"accessToken":"a","expireTime":"3600s"}"#,
    ] {
        assert!(
            matches!(read(bad), Err(NotObtained::NotAnAnswer(_))),
            "{bad}"
        );
    }
}

#[test]
fn an_identity_token_is_for_the_audience_that_was_asked_for() {
    let jwt = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
    let read = |token: &str| {
        let body = serde_json::json!({ "token": token }).to_string();
        read_identity_token(200, None, body.as_bytes(), "https://a.example", NOW)
    };
    let good = jwt(&format!(
        r#"{{"aud":"https://a.example","exp":{},"sub":"1"}}"#,
        NOW + 3600
    ));
    assert_eq!(
        read(&good),
        Ok(Obtained::Bearer {
            token: Secret::new(good.as_str().into()),
            expires: NOW + 3600
        })
    );
    for bad in [
        jwt(&format!(
            r#"{{"aud":"https://b.example","exp":{}}}"#,
            NOW + 3600
        )),
        jwt(&format!(r#"{{"aud":"https://a.example","exp":{NOW}}}"#)),
        jwt("{}"),
        format!("{good}.x"),
        "e30.e30".to_owned(),
        String::new(),
    ] {
        assert!(
            matches!(read(&bad), Err(NotObtained::NotAnAnswer(_))),
            "{bad}"
        );
    }
}

#[test]
fn refusals_are_told_apart() {
    let said = |code: u16, status: &str| {
        let body = serde_json::json!({ "error": { "code": code, "message": "no\nway", "status": status } });
        read_access_token(code, None, body.to_string().as_bytes(), NOW).unwrap_err()
    };
    let NotObtained::Refused {
        code,
        message,
        remedy,
    } = said(403, "PERMISSION_DENIED")
    else {
        panic!("{:?}", said(403, "PERMISSION_DENIED"));
    };
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("PERMISSION_DENIED", "no way")
    );
    assert!(remedy.contains("serviceAccountTokenCreator"), "{remedy}");
    assert!(
        blames_token(&said(401, "UNAUTHENTICATED"))
            && !blames_token(&said(403, "PERMISSION_DENIED"))
    );
    assert!(matches!(
        said(429, "RESOURCE_EXHAUSTED"),
        NotObtained::Throttled { .. }
    ));
    assert!(matches!(
        said(503, "UNAVAILABLE"),
        NotObtained::Unavailable { .. }
    ));
    assert!(matches!(
        read_access_token(403, None, b"<html>", NOW),
        Err(NotObtained::NotAnAnswer(_))
    ));
}
