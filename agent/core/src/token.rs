//! What a minted token says, and what its issuer publishes about the key.
//!
//! Owns: the claims, their bounds, the discovery document and the key set. Must never: take the audience or the subject
//! from a request, hold a private key, or read a clock.

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::policy::Identity;
use crate::request::Cloud;

/// Shortest life of a minted token, in seconds. Below it, SDKs refresh in a loop: they stop using a token 300 s early.
pub const LIFETIME_MIN: u32 = 600;
/// Longest life of a minted token, in seconds: what real managed-identity tokens live.
pub const LIFETIME_MAX: u32 = 86_400;
/// How far before its issue a token begins, in seconds: room for clocks that are behind (Azure's own figure).
pub const BACKDATE: i64 = 300;

/// The header, and nothing else in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// `RS256`
    pub alg: String,
    /// `JWT`
    pub typ: String,
    /// The key's id, as in the key set.
    pub kid: String,
}

/// The claims of an access token in Azure's shape, or of an identity token in Google's. Times are whole Unix seconds. `azp` is left out on purpose: AWS would
/// match it in place of `aud`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer, to the letter as in its discovery document.
    pub iss: String,
    /// Who: the identity's subject template, filled in by policy.
    pub sub: String,
    /// For whom: one string, as the rule writes it.
    pub aud: String,
    /// Issued.
    pub iat: i64,
    /// Valid from.
    pub nbf: i64,
    /// Valid until.
    pub exp: i64,
    /// Random, 128 bits in hexadecimal; what audit shows of the token.
    pub jti: String,
    /// Application id, where the identity has a client id (Azure's v1 name).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub appid: Option<String>,
    /// Object id, where the identity has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub oid: Option<String>,
    /// Tenant id, where the identity has one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tid: Option<String>,
    /// ARM resource id of the managed identity, where it has one (Azure's name for it).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub xms_mirid: Option<String>,
    /// `app`: a workload, not a person (Azure's).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub idtyp: Option<String>,
    /// The service account, where the identity has one (Google's).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email: Option<String>,
    /// With `email`: the rule says so, not the caller.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub email_verified: Option<bool>,
}

/// How long an assertion lives, in seconds, and how far before its signature it begins: clouds refuse what was issued in their
/// future, so that a clock may go so much ahead of theirs, and behind by what is left.
pub const ASSERTION_LIFETIME: i64 = 540;
/// See [`ASSERTION_LIFETIME`].
pub const ASSERTION_BACKDATE: i64 = 120;

/// The claims by which a cloud knows a caller of ours: who, for whom, from when to when, and nothing else but AWS's session tags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionClaims {
    /// The issuer, to the letter.
    pub iss: String,
    /// Who.
    pub sub: String,
    /// For which cloud: one string.
    pub aud: String,
    /// Issued.
    pub iat: i64,
    /// Valid from.
    pub nbf: i64,
    /// Valid until.
    pub exp: i64,
    /// Random, 128 bits in hexadecimal.
    pub jti: String,
    /// AWS's session tags.
    #[serde(
        rename = "https://aws.amazon.com/tags",
        skip_serializing_if = "Option::is_none",
        default
    )]
    pub tags: Option<serde_json::Value>,
}

/// The claims of an assertion for this identity.
pub fn assertion(identity: &Identity, mint: &Mint<'_>) -> AssertionClaims {
    let tags: serde_json::Map<String, serde_json::Value> = identity
        .tags
        .iter()
        .map(|(key, value)| (key.to_string(), json!([value])))
        .collect();
    let iat = mint.now - ASSERTION_BACKDATE;
    AssertionClaims {
        iss: mint.issuer.to_owned(),
        sub: mint.subject.to_owned(),
        aud: mint.audience.to_owned(),
        iat,
        nbf: iat,
        exp: iat + ASSERTION_LIFETIME,
        jti: format!("{:032x}", mint.jti),
        tags: (!tags.is_empty()).then(|| json!({ "principal_tags": tags })),
    }
}

/// What a mint needs beside the identity.
#[derive(Debug, Clone, Copy)]
pub struct Mint<'a> {
    /// The issuer's URL, from configuration.
    pub issuer: &'a str,
    /// From the permit.
    pub subject: &'a str,
    /// From the permit.
    pub audience: &'a str,
    /// Now, Unix seconds.
    pub now: i64,
    /// 128 random bits.
    pub jti: u128,
}

/// The header of a token signed with this key.
pub fn header(kid: &str) -> Header {
    Header {
        alg: "RS256".to_owned(),
        typ: "JWT".to_owned(),
        kid: kid.to_owned(),
    }
}

/// The claims of a token for this identity. Its lifetime is brought within [`LIFETIME_MIN`] and [`LIFETIME_MAX`].
pub fn claims(identity: &Identity, mint: &Mint<'_>) -> Claims {
    let lifetime = identity.lifetime_seconds.clamp(LIFETIME_MIN, LIFETIME_MAX);
    let own = |id: &Option<std::sync::Arc<str>>| id.as_deref().map(str::to_owned);
    Claims {
        iss: mint.issuer.to_owned(),
        sub: mint.subject.to_owned(),
        aud: mint.audience.to_owned(),
        iat: mint.now,
        nbf: mint.now - BACKDATE,
        exp: mint.now + i64::from(lifetime),
        jti: format!("{:032x}", mint.jti),
        appid: own(&identity.client_id),
        oid: own(&identity.object_id),
        tid: own(&identity.tenant_id),
        xms_mirid: own(&identity.resource_id),
        idtyp: (identity.cloud == Cloud::Azure).then(|| "app".to_owned()),
        email: own(&identity.account),
        email_verified: identity.account.is_some().then_some(true),
    }
}

/// Path of the discovery document below the issuer's URL.
pub const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";
/// Path of the key set below the issuer's URL.
pub const JWKS_PATH: &str = "/keys";

/// The discovery document (OpenID Connect Discovery 1.0, section 3). The authorization endpoint is required by the standard and leads nowhere.
pub fn discovery(issuer: &str) -> String {
    let base = issuer.trim_end_matches('/');
    json!({
        "issuer": issuer,
        "jwks_uri": format!("{base}{JWKS_PATH}"),
        "authorization_endpoint": format!("{base}/authorize"),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "claims_supported": ["iss", "sub", "aud", "exp", "iat", "nbf", "jti"],
        "scopes_supported": ["openid"],
    })
    .to_string()
}

/// The public half of a signing key, members in base64url without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Its id: stable, unique, never used again (an RFC 7638 thumbprint).
    pub kid: String,
    /// Modulus, big-endian, without a leading zero byte.
    pub n: String,
    /// Exponent.
    pub e: String,
}

/// The key set (RFC 7517). Newest key first: Entra keeps the first hundred.
pub fn jwks(newest_first: &[PublicKey]) -> String {
    let keys: Vec<serde_json::Value> = newest_first
        .iter()
        .map(|PublicKey { kid, n, e }| {
            json!({ "kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": e })
        })
        .collect();
    json!({ "keys": keys }).to_string()
}

/// What RFC 7638 hashes (SHA-256, then base64url) for a key's thumbprint.
pub fn thumbprint_input(n: &str, e: &str) -> String {
    json!({ "e": e, "kty": "RSA", "n": n }).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::policy::Origin;

    fn identity(lifetime_seconds: u32) -> Identity {
        Identity {
            client_id: Some("c".into()),
            tenant_id: Some("t".into()),
            lifetime_seconds,
            ..Identity::bare("billing", Cloud::Azure, Origin::Mint)
        }
    }

    const MINT: Mint<'_> = Mint {
        issuer: "http://127.0.0.1:8787",
        subject: "spiffe://example.org/host/web-07/workload/billing",
        audience: "https://vault.azure.net",
        now: 1_000_000,
        jti: 0xabc,
    };

    #[test]
    fn claims_of_an_access_token() {
        let claims = claims(&identity(3600), &MINT);
        let json = serde_json::to_value(&claims).unwrap();
        assert_eq!(
            json,
            json!({"iss": MINT.issuer, "sub": MINT.subject, "aud": MINT.audience, "iat": 1_000_000, "nbf": 999_700,
                "exp": 1_003_600, "jti": "00000000000000000000000000000abc", "appid": "c", "tid": "t", "idtyp": "app"})
        );
        assert_eq!(
            serde_json::to_string(&header("k")).unwrap(),
            r#"{"alg":"RS256","typ":"JWT","kid":"k"}"#
        );
    }

    #[test]
    fn claims_of_an_identity_token() {
        let gcp = Identity {
            cloud: Cloud::Gcp,
            client_id: None,
            tenant_id: None,
            account: Some("sa@p.iam.gserviceaccount.com".into()),
            ..identity(3600)
        };
        assert_eq!(
            serde_json::to_value(claims(&gcp, &MINT)).unwrap(),
            json!({"iss": MINT.issuer, "sub": MINT.subject, "aud": MINT.audience, "iat": 1_000_000, "nbf": 999_700,
                "exp": 1_003_600, "jti": "00000000000000000000000000000abc",
                "email": "sa@p.iam.gserviceaccount.com", "email_verified": true})
        );
    }

    #[test]
    fn claims_of_an_assertion() {
        let plain = identity(3600);
        assert_eq!(
            serde_json::to_value(assertion(&plain, &MINT)).unwrap(),
            json!({"iss": MINT.issuer, "sub": MINT.subject, "aud": MINT.audience, "iat": 999_880, "nbf": 999_880,
                "exp": 1_000_420, "jti": "00000000000000000000000000000abc"})
        );
        let tagged = Identity {
            tags: BTreeMap::from([("team".into(), "data".into())]),
            ..plain
        };
        let claims = serde_json::to_value(assertion(&tagged, &MINT)).unwrap();
        assert_eq!(
            claims["https://aws.amazon.com/tags"],
            json!({"principal_tags": {"team": ["data"]}})
        );
    }

    #[test]
    fn lifetimes_stay_within_their_bounds() {
        let life = |seconds| {
            let claims = claims(&identity(seconds), &MINT);
            claims.exp - claims.iat
        };
        assert_eq!(life(LIFETIME_MIN), i64::from(LIFETIME_MIN));
        assert_eq!(life(LIFETIME_MIN - 1), i64::from(LIFETIME_MIN));
        assert_eq!(life(LIFETIME_MAX), i64::from(LIFETIME_MAX));
        assert_eq!(life(LIFETIME_MAX + 1), i64::from(LIFETIME_MAX));
    }

    #[test]
    fn what_the_issuer_publishes() {
        for (issuer, keys) in [
            ("http://127.0.0.1:8787", "http://127.0.0.1:8787/keys"),
            ("https://idp.example/td1/", "https://idp.example/td1/keys"),
        ] {
            let discovery: serde_json::Value = serde_json::from_str(&discovery(issuer)).unwrap();
            assert_eq!(
                (&discovery["issuer"], &discovery["jwks_uri"]),
                (&json!(issuer), &json!(keys))
            );
        }
        let key = |kid: &str| PublicKey {
            kid: kid.into(),
            n: "n".into(),
            e: "AQAB".into(),
        };
        let jwks: serde_json::Value =
            serde_json::from_str(&jwks(&[key("new"), key("old")])).unwrap();
        assert_eq!(
            jwks["keys"][0],
            json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "new", "n": "n", "e": "AQAB"})
        );
        assert_eq!(
            thumbprint_input("N", "E"),
            r#"{"e":"E","kty":"RSA","n":"N"}"#
        );
    }
}
