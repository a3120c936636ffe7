//! Google's token exchange, and the credentials of the service account that a pool's principal may impersonate.

use super::relying::{Rejected, Trust};
use super::{FarEnds, now, only};
use anyhow::Result;
use imds_guard_far::{FarEnd, Reply, Request};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// A provider of a pool, and the account that one of its principals may impersonate.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The provider's resource name, without a host.
    pub provider: String,
    /// The provider's issuer.
    pub issuer: String,
    /// The service account.
    pub account: String,
    /// Whose `sub` may impersonate it.
    pub subject: String,
}

/// The running endpoints.
#[derive(Debug, Clone)]
pub struct Google {
    exchange: Option<FarEnd>,
    credentials: Option<FarEnd>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    pool: Pool,
    trust: Trust,
    /// Tokens of the pool's principals, with the principal and the scopes; then those of the account.
    given: Mutex<Vec<(String, String, Vec<String>)>>,
}

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS: &str = "urn:ietf:params:oauth:token-type:access_token";

impl Google {
    /// At `sts.googleapis.com` and `iamcredentials.googleapis.com`.
    ///
    /// # Errors
    /// When they can't listen.
    pub fn start(side: &FarEnds<'_>, pool: Pool) -> Result<Self> {
        let state = Arc::new(State {
            pool,
            trust: Trust::new(side)?,
            given: Mutex::default(),
        });
        let (one, other) = (Arc::clone(&state), Arc::clone(&state));
        let exchange = side.serve("sts.googleapis.com", move |request| one.exchange(request))?;
        let credentials = side.serve("iamcredentials.googleapis.com", move |request| {
            other.credentials(request)
        })?;
        Ok(Self {
            exchange: Some(exchange),
            credentials: Some(credentials),
            state,
        })
    }

    /// What was asked of the token exchange.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Request> {
        self.exchange
            .as_ref()
            .map(FarEnd::received)
            .unwrap_or_default()
    }

    /// What was asked of the service account's credentials.
    #[must_use]
    pub fn impersonations(&self) -> Vec<Request> {
        self.credentials
            .as_ref()
            .map(FarEnd::received)
            .unwrap_or_default()
    }

    /// What an API makes of a token: whose it is, and its scopes.
    #[must_use]
    pub fn holder_of(&self, token: &str) -> Option<(String, Vec<String>)> {
        let given = self
            .state
            .given
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = given.iter().find(|(known, ..)| known == token);
        found.map(|(_, who, scopes)| (who.clone(), scopes.clone()))
    }
}

impl State {
    fn exchange(&self, request: &Request) -> Reply {
        match self.pools_token(request) {
            Ok(token) => Reply::json(
                200,
                json!({"access_token": token, "issued_token_type": ACCESS, "token_type": "Bearer", "expires_in": 3599}).to_string(),
            ),
            Err((error, text)) => Reply::json(400, json!({"error": error, "error_description": text}).to_string()),
        }
    }

    fn pools_token(&self, request: &Request) -> Result<String, (&'static str, String)> {
        let own = &self.pool;
        let bad = |text: &str| ("invalid_request", text.to_owned());
        let form = request.form();
        let field = |name: &str| only(&form, name).unwrap_or_default();
        if request.method != "POST"
            || request.target != "/v1/token"
            || request.header("authorization").is_some()
        {
            return Err(bad("Not a token exchange without authorization."));
        }
        if (field("grant_type"), field("requested_token_type")) != (EXCHANGE, ACCESS)
            || field("subject_token_type") != "urn:ietf:params:oauth:token-type:jwt"
        {
            return Err(bad("Invalid grant or token type."));
        }
        if field("audience") != format!("//iam.googleapis.com/{}", own.provider) {
            return Err((
                "invalid_target",
                "The target service indicated by the \"audience\" parameters is invalid."
                    .to_owned(),
            ));
        }
        let scopes: Vec<String> = field("scope").split(' ').map(str::to_owned).collect();
        if scopes.iter().any(|scope| !scope.starts_with("https://")) {
            return Err((
                "invalid_scope",
                "Some requested scopes were invalid.".to_owned(),
            ));
        }
        let grant = |text: String| ("invalid_grant", text);
        let claims = self
            .trust
            .verified(field("subject_token"))
            .map_err(|why| match why {
                Rejected::Time => {
                    grant("ID Token is stale to sign-in or issued in the future.".to_owned())
                }
                Rejected::Documents(why) => grant(format!(
                    "Error connecting to the given credential's issuer: {why}."
                )),
                other => grant(format!(
                    "The signature of the token can't be verified: {other:?}"
                )),
            })?;
        let audience = format!("https://iam.googleapis.com/{}", own.provider);
        if claims["iss"] != *own.issuer || claims["aud"] != *audience {
            return Err(grant(
                "The issuer or audience in ID Token does not match the expected one.".to_owned(),
            ));
        }
        let subject = claims["sub"].as_str().unwrap_or_default();
        if subject.len() > 127 {
            return Err(grant(
                "The size of mapped attribute google.subject exceeds the 127 bytes limit."
                    .to_owned(),
            ));
        }
        Ok(self.give("ya29.d.far", subject, scopes))
    }

    fn give(&self, prefix: &str, who: &str, scopes: Vec<String>) -> String {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("{prefix}-{}", given.len() + 1);
        given.push((token.clone(), who.to_owned(), scopes));
        token
    }

    fn credentials(&self, request: &Request) -> Reply {
        let own = &self.pool;
        let refused = |status: u16, word: &str, text: &str| {
            let body = json!({"error": {"code": status, "message": text, "status": word}});
            Reply::json(status, body.to_string())
        };
        let bearer = request
            .header("authorization")
            .and_then(|value| value.strip_prefix("Bearer "));
        let given = self
            .given
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let holder = given
            .iter()
            .find(|(token, ..)| Some(token.as_str()) == bearer);
        let Some((_, who, scopes)) = holder else {
            return refused(
                401,
                "UNAUTHENTICATED",
                "Request had invalid authentication credentials.",
            );
        };
        let may = scopes
            .iter()
            .any(|s| s.ends_with("/auth/iam") || s.ends_with("/auth/cloud-platform"));
        let target = format!(
            "/v1/projects/-/serviceAccounts/{}:generateAccessToken",
            own.account
        );
        if request.method != "POST" || request.target != target || *who != own.subject || !may {
            return refused(
                403,
                "PERMISSION_DENIED",
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or it may not exist).",
            );
        }
        let Ok(body) = serde_json::from_slice::<Value>(&request.body) else {
            return refused(400, "INVALID_ARGUMENT", "Invalid JSON payload received.");
        };
        let texts = body["scope"].as_array().cloned().unwrap_or_default();
        let scopes: Vec<String> = texts
            .iter()
            .filter_map(|s| s.as_str().map(str::to_owned))
            .collect();
        let lifetime = body["lifetime"]
            .as_str()
            .and_then(|l| l.strip_suffix('s')?.parse::<i64>().ok());
        let (false, Some(lifetime)) = (scopes.is_empty(), lifetime) else {
            return refused(400, "INVALID_ARGUMENT", "Scope or lifetime is missing.");
        };
        let token = self.give("ya29.c.far", &own.account, scopes);
        let ends = crate::aws::printed(u64::try_from(now() + lifetime).unwrap_or(0));
        Reply::json(
            200,
            json!({"accessToken": token, "expireTime": ends}).to_string(),
        )
    }
}
