//! Bodies that are made here, field by field as real clients read them.
//! Must never: write `expires_in` as a string; Python's and Rust's libraries refuse such a token.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{AccountPart, Form, TreeAsk};
use crate::secret::Secret;

/// An access token, as the real server writes it.
#[derive(Serialize, Deserialize)]
struct TokenBody {
    access_token: String,
    expires_in: i64,
    token_type: String,
}

/// An access token that the real server gave.
#[derive(Debug, Clone)]
pub struct AccessToken {
    token: Secret<Arc<str>>,
    kind: String,
    /// When it ends, Unix seconds.
    pub expires: i64,
}

impl AccessToken {
    /// One that another of Google's endpoints gave.
    pub fn given(token: &Secret<Arc<str>>, expires: i64) -> Self {
        Self {
            token: token.clone(),
            kind: "Bearer".to_owned(),
            expires,
        }
    }

    /// Reads the real server's answer, received at `now` (Unix seconds). None for what is no token: it is not kept.
    pub fn read(body: &[u8], now: i64) -> Option<Self> {
        let body: TokenBody = serde_json::from_slice(body).ok()?;
        Some(Self {
            token: Secret::new(body.access_token.into()),
            kind: body.token_type,
            expires: now.checked_add(body.expires_in)?,
        })
    }

    /// The token itself, to act with. A value that leaves here.
    pub const fn token(&self) -> &Secret<Arc<str>> {
        &self.token
    }

    /// The answer at `now`: the same token with fewer seconds left, as the real server gives it from its own cache.
    pub fn body(&self, now: i64) -> Secret<String> {
        let body = serde_json::to_string(&TokenBody {
            access_token: self.token.expose().to_string(),
            expires_in: self.expires.saturating_sub(now).max(0),
            token_type: self.kind.clone(),
        });
        // A struct of strings and a number always has a JSON form.
        Secret::new(body.unwrap_or_default())
    }
}

/// What a body is known by: the same bytes have the same, others have another. Sixteen hexadecimal digits, as the real ones.
pub fn etag(body: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    format!("{:016x}", hasher.finish())
}

/// The account that a caller's rule names, for what it reads below `service-accounts`: in place of the machine's own, with the
/// scopes that it may have in place of all that the machine has. Python asks for exactly the scopes that it finds here.
/// Gives the form and the body.
pub fn account(
    part: AccountPart,
    email: &str,
    scopes: &[Arc<str>],
    ask: &TreeAsk,
) -> (Form, String) {
    let object = serde_json::json!({ "aliases": ["default"], "email": email, "scopes": scopes });
    let by_name = |account| serde_json::json!({ "default": account, email: account });
    let (whole, lines) = match part {
        AccountPart::List => (by_name(&object), format!("{email}/\ndefault/\n")),
        AccountPart::Account => (
            object,
            "aliases\nemail\nidentity\nscopes\ntoken\n".to_owned(),
        ),
        AccountPart::Aliases => (object["aliases"].clone(), "default\n".to_owned()),
        AccountPart::Email => (object["email"].clone(), email.to_owned()),
        AccountPart::Scopes => {
            let lines = scopes.iter().map(|scope| format!("{scope}\n")).collect();
            (object["scopes"].clone(), lines)
        }
    };
    let directory = matches!(part, AccountPart::List | AccountPart::Account);
    match (ask.form, directory, ask.recursive) {
        (Some(Form::Text), true, true) => (Form::Text, super::document::flat(&whole)),
        (Some(Form::Json), true, false) => {
            let names: Vec<&str> = lines.lines().collect();
            (Form::Json, serde_json::json!(names).to_string())
        }
        (None, true, true) | (Some(Form::Json), ..) => (Form::Json, whole.to_string()),
        _ => (Form::Text, lines),
    }
}
