//! Google's IAM Credentials, as far as the machine's account acts as another one.

use super::{FarEnds, now};
use anyhow::Result;
use imds_guard_far::{FarEnd, Reply, Request};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// The running endpoint.
#[derive(Debug, Clone)]
pub struct IamCredentials {
    far: Option<FarEnd>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    account: String,
    bearer: String,
    /// Tokens, with their scopes or their audience.
    given: Mutex<Vec<(String, Vec<String>)>>,
}

impl IamCredentials {
    /// With one account, that whoever holds a token which begins with `bearer` may act as.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(side: &FarEnds<'_>, account: &str, bearer: &str) -> Result<Self> {
        let state = Arc::new(State {
            account: account.to_owned(),
            bearer: format!("Bearer {bearer}"),
            given: Mutex::default(),
        });
        let own = Arc::clone(&state);
        let far = side.serve("iamcredentials.googleapis.com", move |request| {
            own.answer(request)
        })?;
        Ok(Self {
            far: Some(far),
            state,
        })
    }

    /// What was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.far.as_ref().map(FarEnd::received).unwrap_or_default()
    }

    /// What an API makes of a token: its scopes, or its audience.
    #[must_use]
    pub fn good_for(&self, token: &str) -> Option<Vec<String>> {
        let given = self.state.given.lock();
        let given = given.unwrap_or_else(PoisonError::into_inner);
        let found = given.iter().find(|(known, _)| known == token);
        found.map(|(_, what)| what.clone())
    }
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        let bearer = request.header("authorization").unwrap_or_default();
        if !bearer.starts_with(&self.bearer) {
            return refusal(401, "UNAUTHENTICATED");
        }
        if request.method != "POST" || request.header("content-type") != Some("application/json") {
            return refusal(400, "INVALID_ARGUMENT");
        }
        let prefix = "/v1/projects/-/serviceAccounts/";
        let asked = request
            .target
            .strip_prefix(prefix)
            .and_then(|t| t.split_once(':'));
        let Some((account, method)) = asked else {
            return refusal(404, "NOT_FOUND");
        };
        if account != self.account {
            return refusal(403, "PERMISSION_DENIED");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        match method {
            "generateAccessToken" => self.access_token(&body),
            "generateIdToken" => self.identity_token(&body),
            _ => refusal(404, "NOT_FOUND"),
        }
    }

    fn access_token(&self, body: &Value) -> Reply {
        let scopes = body["scope"].as_array().cloned().unwrap_or_default();
        let scopes: Vec<String> = scopes
            .iter()
            .filter_map(|scope| Some(scope.as_str()?.to_owned()))
            .collect();
        let lifetime = body["lifetime"].as_str().and_then(|l| l.strip_suffix('s'));
        let lifetime = lifetime.and_then(|seconds| seconds.parse::<u32>().ok());
        let Some(lifetime) = lifetime.filter(|s| (1..=3600).contains(s) && !scopes.is_empty())
        else {
            return refusal(400, "INVALID_ARGUMENT");
        };
        let token = self.keep("ya29.canary-of-an-impersonated", scopes);
        let ends = u64::try_from(now()).unwrap_or(0) + u64::from(lifetime);
        Reply::json(
            200,
            json!({ "accessToken": token, "expireTime": crate::aws::printed(ends) }).to_string(),
        )
    }

    fn identity_token(&self, body: &Value) -> Reply {
        let Some(audience) = body["audience"].as_str().filter(|a| !a.is_empty()) else {
            return refusal(400, "INVALID_ARGUMENT");
        };
        let claims = json!({
            "aud": audience, "exp": now() + 3600, "iat": now(), "sub": "1",
            "email": body["includeEmail"].as_bool().unwrap_or(false).then_some(&self.account),
        });
        let key = jsonwebtoken::EncodingKey::from_secret(b"of a test");
        let token = jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key);
        let token = token.unwrap_or_default();
        let given = self.given.lock();
        given
            .unwrap_or_else(PoisonError::into_inner)
            .push((token.clone(), vec![audience.to_owned()]));
        Reply::json(200, json!({ "token": token }).to_string())
    }

    fn keep(&self, begins: &str, what: Vec<String>) -> String {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("{begins}-{}", given.len() + 1);
        given.push((token.clone(), what));
        token
    }
}

fn refusal(code: u16, status: &str) -> Reply {
    let error =
        json!({ "error": { "code": code, "message": "as the test wants it", "status": status } });
    Reply::json(code, error.to_string())
}
