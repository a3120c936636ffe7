//! Google's token exchange: an assertion becomes an access token of a workload identity pool's principal. With that, either the
//! clouds are asked directly, or a service account's token is asked for (`google`).

use std::sync::Arc;

use serde::Deserialize;

use super::form::Form;
use super::{NotObtained, Obtained, Outgoing, Said, Url, bearer};
use crate::secret::Secret;

/// Where it is.
pub const URL: &str = "https://sts.googleapis.com/v1/token";
/// What `google.subject` may be long, in bytes.
pub const SUBJECT_BYTES: usize = 127;
/// The scope by which a service account's token is asked for, and nothing else.
pub const IMPERSONATE: &str = "https://www.googleapis.com/auth/iam";

const TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// A provider of a workload identity pool: `projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider {
    project: Arc<str>,
    pool: Arc<str>,
    provider: Arc<str>,
}

impl Provider {
    /// Reads a provider's resource name, with or without `//iam.googleapis.com/` or `https://iam.googleapis.com/` before it.
    pub fn parse(text: &str) -> Option<Self> {
        let name = ["https://iam.googleapis.com/", "//iam.googleapis.com/"]
            .iter()
            .find_map(|host| text.strip_prefix(host))
            .unwrap_or(text);
        let mut parts = name.split('/');
        let mut next = || parts.next();
        let (a, project, b, c) = (next()?, next()?, next()?, next()?);
        let (d, pool, e, provider) = (next()?, next()?, next()?, next()?);
        let fixed = (a, b, c, d, e)
            == (
                "projects",
                "locations",
                "global",
                "workloadIdentityPools",
                "providers",
            );
        let id = |id: &str| {
            let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            (4..=32).contains(&id.len()) && id.bytes().all(plain)
        };
        let number = !project.is_empty() && project.bytes().all(|b| b.is_ascii_digit());
        (fixed && number && id(pool) && id(provider) && next().is_none()).then(|| Self {
            project: project.into(),
            pool: pool.into(),
            provider: provider.into(),
        })
    }

    /// The resource's name.
    pub fn name(&self) -> String {
        let Self {
            project,
            pool,
            provider,
        } = self;
        format!(
            "projects/{project}/locations/global/workloadIdentityPools/{pool}/providers/{provider}"
        )
    }

    /// The number of its project.
    pub const fn project(&self) -> &Arc<str> {
        &self.project
    }

    /// The pool's id.
    pub const fn pool(&self) -> &Arc<str> {
        &self.pool
    }

    /// Its own id.
    pub const fn id(&self) -> &Arc<str> {
        &self.provider
    }

    /// What it takes assertions for where nobody has configured another audience.
    pub fn default_audience(&self) -> String {
        format!("https://iam.googleapis.com/{}", self.name())
    }

    /// What a caller is told for the e-mail of the account that it has, where that is none but the pool's principal: the name by
    /// which Google calls such a pool.
    pub fn address(&self) -> String {
        format!("{}.global.{}.workload.id.goog", self.pool, self.project)
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The endpoint.
    pub url: &'a Url,
    /// Whose federation it is.
    pub provider: &'a Provider,
    /// What for; [`IMPERSONATE`] where a service account's token is asked for with it.
    pub scopes: &'a [Arc<str>],
    /// Who asks.
    pub assertion: &'a Secret<Arc<str>>,
}

/// The request. Without `Authorization`, which can make it fail.
pub fn request(ask: &Ask<'_>) -> Outgoing {
    let audience = format!("//iam.googleapis.com/{}", ask.provider.name());
    let form = Form::new()
        .with(
            "grant_type",
            "urn:ietf:params:oauth:grant-type:token-exchange",
        )
        .with("audience", &audience)
        .with("scope", &ask.scopes.join(" "))
        .with("requested_token_type", TOKEN_TYPE)
        .with("subject_token_type", "urn:ietf:params:oauth:token-type:jwt")
        .with("subject_token", ask.assertion.expose());
    Outgoing::oauth(ask.url, form)
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    #[serde(default)]
    error_description: String,
}

/// What came of it. `now` is Unix time in seconds.
///
/// # Errors
/// A refusal with what to do about it; throttled, not available, or no answer.
pub fn answer(
    status: u16,
    retry_after: Option<u32>,
    body: &[u8],
    now: i64,
) -> Result<Obtained, NotObtained> {
    if status == 200 {
        return bearer::read(body, now);
    }
    if let Some(general) = NotObtained::of_status(status, retry_after) {
        return Err(general);
    }
    let Ok(said) = serde_json::from_slice::<ErrorBody>(body) else {
        return Err(NotObtained::NotAnAnswer(
            "neither a token nor an error of Google's token exchange",
        ));
    };
    Err(NotObtained::Refused {
        code: Said::new(&said.error),
        message: Said::new(&said.error_description),
        remedy: remedy(&said.error).into(),
    })
}

fn remedy(code: &str) -> &'static str {
    match code {
        "invalid_grant" => {
            "the provider did not accept the assertion: compare issuer, audience and attribute condition with `imds-guard federate gcp --workload NAME`, see that the issuer's documents are served to the world, and that this host's clock is right"
        }
        "invalid_target" => {
            "there is no such pool or provider, or it is disabled: compare `provider` of the identity with its full resource name"
        }
        "unauthorized_client" => {
            "the provider's attribute condition doesn't let this subject in: compare it with `imds-guard federate gcp --workload NAME`"
        }
        "invalid_scope" => "compare the scopes of the rule with Google's list",
        "invalid_request" => "compare `provider` of the identity with its full resource name",
        _ => "look at the provider in the console: the message says what it refuses",
    }
}

#[cfg(test)]
mod tests;
