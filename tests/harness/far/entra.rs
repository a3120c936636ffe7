//! Entra ID's token endpoint.

use super::relying::{Rejected, Trust};
use super::{FarEnds, now, only};
use anyhow::Result;
use imds_guard_far::{FarEnd, Reply, Request};
use serde_json::json;
use std::sync::{Arc, Mutex, PoisonError};

/// An application with one federated credential.
#[derive(Debug, Clone)]
pub struct Application {
    /// Of the tenant that holds it.
    pub tenant: String,
    /// Its client id.
    pub client_id: String,
    /// Of the federated credential.
    pub issuer: String,
    /// Of the federated credential.
    pub subject: String,
    /// Of the federated credential.
    pub audience: String,
    /// Resources that the tenant knows, as their application id URIs are written.
    pub resources: Vec<String>,
}

/// The running endpoint.
#[derive(Debug, Clone)]
pub struct Entra {
    far: Option<FarEnd>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    application: Application,
    trust: Trust,
    given: Mutex<Vec<(String, String)>>,
    instead: Mutex<Option<Reply>>,
}

/// The fields of a request, and no others.
const FIELDS: [&str; 5] = [
    "client_id",
    "grant_type",
    "client_assertion_type",
    "client_assertion",
    "scope",
];

impl Entra {
    /// At `host`, with one application.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(side: &FarEnds<'_>, host: &str, application: Application) -> Result<Self> {
        let state = Arc::new(State {
            application,
            trust: Trust::new(side)?,
            given: Mutex::default(),
            instead: Mutex::default(),
        });
        let answering = Arc::clone(&state);
        let far = side.serve(host, move |request| answering.answer(request))?;
        Ok(Self {
            far: Some(far),
            state,
        })
    }

    /// All that was asked.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.far.as_ref().map(FarEnd::received).unwrap_or_default()
    }

    /// Answers like this from now on, whatever is asked; or as it should again.
    pub fn answer_instead(&self, reply: Option<Reply>) {
        *self
            .state
            .instead
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reply;
    }

    /// What a resource makes of a token: the resource that it is for, if Entra gave it.
    #[must_use]
    pub fn resource_of(&self, token: &str) -> Option<String> {
        let given = self
            .state
            .given
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let found = given.iter().find(|(known, _)| known == token);
        found.map(|(_, resource)| resource.clone())
    }
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        if let Some(reply) = &*self.instead.lock().unwrap_or_else(PoisonError::into_inner) {
            return reply.clone();
        }
        match self.token(request) {
            Ok(token) => Reply::json(
                200,
                json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": token}).to_string(),
            ),
            Err((code, error, text)) => {
                let body = json!({"error": error, "error_description": format!("AADSTS{code}: {text} Trace ID: 0b7b3a0e-0000-4000-8000-000000000000 Correlation ID: 0b7b3a0e-0000-4000-8000-000000000001 Timestamp: 2026-11-21 18:00:00Z"),
                    "error_codes": [code], "timestamp": "2026-11-21 18:00:00Z", "trace_id": "0b7b3a0e-0000-4000-8000-000000000000",
                    "correlation_id": "0b7b3a0e-0000-4000-8000-000000000001", "error_uri": format!("https://login.microsoftonline.com/error?code={code}")});
                Reply::json(if error == "invalid_client" { 401 } else { 400 }, body.to_string())
            }
        }
    }

    fn token(&self, request: &Request) -> Result<String, (u32, &'static str, String)> {
        let own = &self.application;
        let bad = |text: &str| (900_144, "invalid_request", text.to_owned());
        if request.method != "POST"
            || request.header("content-type") != Some("application/x-www-form-urlencoded")
            || request.header("authorization").is_some()
        {
            return Err(bad("No POST of a form."));
        }
        if request.target != format!("/{}/oauth2/v2.0/token", own.tenant) {
            return Err((90002, "invalid_request", "Tenant not found.".to_owned()));
        }
        let form = request.form();
        let field = |name: &str| only(&form, name).unwrap_or_default();
        if form.len() != FIELDS.len() || FIELDS.iter().any(|name| field(name).is_empty()) {
            return Err(bad("The request body has other fields."));
        }
        if field("grant_type") != "client_credentials"
            || field("client_assertion_type")
                != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        {
            return Err(bad("The grant is another."));
        }
        if field("client_id") != own.client_id {
            let text = format!(
                "Application with identifier '{}' was not found in the directory.",
                field("client_id")
            );
            return Err((700_016, "unauthorized_client", text));
        }
        self.believe(field("client_assertion"))?;
        let resource = field("scope").strip_suffix("/.default").unwrap_or_default();
        let known = own.resources.iter().any(|known| known == resource);
        if resource.contains(' ') || !known {
            let text =
                format!("The resource principal named {resource} was not found in the tenant.");
            return Err((500_011, "invalid_resource", text));
        }
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let token = format!("eyJ0eXAi.entra-canary-{}.{}", given.len() + 1, now());
        given.push((token.clone(), resource.to_owned()));
        Ok(token)
    }

    fn believe(&self, assertion: &str) -> Result<(), (u32, &'static str, String)> {
        let own = &self.application;
        let claims = self.trust.verified(assertion).map_err(|why| match why {
            Rejected::Documents(why) => (
                50166,
                "invalid_request",
                format!("Request to the issuer failed: {why}."),
            ),
            Rejected::Time => (
                700_024,
                "invalid_client",
                "Client assertion is not within its valid time range.".to_owned(),
            ),
            Rejected::Signature => (
                700_027,
                "invalid_client",
                "Client assertion failed signature validation.".to_owned(),
            ),
            Rejected::Form(why) => (
                50013,
                "invalid_grant",
                format!("Assertion is not valid: {why}."),
            ),
        })?;
        let claim = |name: &str| claims[name].as_str().unwrap_or_default().to_owned();
        let no_match = |what: &str, found: &str| {
            format!(
                "No matching federated identity record found for presented assertion {what} '{found}'."
            )
        };
        for (code, what, claim, wanted) in [
            (700_211, "issuer", claim("iss"), &own.issuer),
            (700_212, "audience", claim("aud"), &own.audience),
            (700_213, "subject", claim("sub"), &own.subject),
        ] {
            if claim == *wanted {
                continue;
            }
            let code = match what {
                "subject" if claim.eq_ignore_ascii_case(wanted) => 7_002_138,
                _ => code,
            };
            return Err((code, "invalid_client", no_match(what, &claim)));
        }
        Ok(())
    }
}
