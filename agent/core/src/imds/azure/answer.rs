//! Bodies of successful answers, field by field as real clients read them.
//! Must never: write a time as a JSON number; the Rust SDK refuses such a token.

use serde::Serialize;

use super::version;
use crate::request::AzureIdentity;
use crate::secret::Secret;

/// What a token answer is made of.
#[derive(Debug, Clone, Copy)]
pub struct Token<'a> {
    /// The token.
    pub access_token: &'a Secret<std::sync::Arc<str>>,
    /// As the caller wrote it, decoded.
    pub resource: &'a str,
    /// Client id of the identity; real answers carry it always.
    pub client_id: Option<&'a str>,
    /// What the caller named; echoed, for Arc's clients insist on it.
    pub selector: Option<&'a AzureIdentity>,
    /// The token's `nbf`, Unix seconds.
    pub not_before: i64,
    /// The token's `exp`, Unix seconds.
    pub expires_on: i64,
    /// Now, Unix seconds.
    pub now: i64,
}

#[derive(Serialize)]
struct TokenBody<'a> {
    access_token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    expires_in: &'a str,
    expires_on: String,
    ext_expires_in: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    msi_res_id: Option<&'a str>,
    not_before: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_id: Option<&'a str>,
    resource: &'a str,
    token_type: &'static str,
}

/// Body of a token answer.
pub fn token(token: &Token<'_>) -> Secret<String> {
    let left = token
        .expires_on
        .saturating_sub(token.now)
        .max(0)
        .to_string();
    let (mut client_id, mut object_id, mut msi_res_id) = (token.client_id, None, None);
    match token.selector {
        Some(AzureIdentity::ClientId(id)) => client_id = client_id.or(Some(id)),
        Some(AzureIdentity::ObjectId(id)) => object_id = Some(&**id),
        Some(AzureIdentity::ResourceId(id)) => msi_res_id = Some(&**id),
        None => {}
    }
    let body = serde_json::to_string(&TokenBody {
        access_token: token.access_token.expose(),
        client_id,
        expires_in: &left,
        expires_on: token.expires_on.to_string(),
        ext_expires_in: &left,
        msi_res_id,
        not_before: token.not_before.to_string(),
        object_id,
        resource: token.resource,
        token_type: "Bearer",
    });
    // A struct of strings always has a JSON form.
    Secret::new(body.unwrap_or_default())
}

/// Body of `/metadata/versions`.
pub fn versions() -> String {
    let versions: Vec<String> = version::INSTANCE.iter().map(ToString::to_string).collect();
    serde_json::json!({ "apiVersions": versions }).to_string()
}

/// Body of `/metadata/identity/info`.
pub fn identity_info(tenant_id: &str) -> String {
    serde_json::json!({ "tenantId": tenant_id }).to_string()
}
