//! Microsoft Entra ID: client credentials with a JWT assertion (`wire-contracts` names them 4.1 and 4.2). The token is for one
//! resource; the assertion says who asks, and is a secret while it lives.

use std::sync::Arc;

use serde::Deserialize;

use super::form::Form;
use super::{NotObtained, Obtained, Outgoing, Said, Url, bearer};
use crate::secret::Secret;

mod errors;

pub use errors::{ERRORS, Error, Retry};

/// Each of issuer, subject and audience of a federated credential, in characters.
pub const TEXT_CHARS: usize = 600;

/// Entra's authorities and what the assertions for each are for. The first is the public cloud's.
pub const AUTHORITIES: [(&str, &str); 4] = [
    ("login.microsoftonline.com", "api://AzureADTokenExchange"),
    (
        "login.microsoftonline.us",
        "api://AzureADTokenExchangeUSGov",
    ),
    (
        "login.partner.microsoftonline.cn",
        "api://AzureADTokenExchangeChina",
    ),
    ("login.chinacloudapi.cn", "api://AzureADTokenExchangeChina"),
];

/// Where Entra's own tokens come from, beside [`AUTHORITIES`].
const OLD_ISSUERS: [&str; 3] = [
    "sts.windows.net",
    "sts.chinacloudapi.cn",
    "sts.microsoftonline.us",
];

/// What the assertions for this authority are for, where it is one that is known.
pub fn audience_of(host: &str) -> Option<&'static str> {
    let known = AUTHORITIES.iter().find(|(known, _)| *known == host);
    known.map(|(_, audience)| *audience)
}

/// Whether an `iss` is Entra's own. Entra takes no such token as an assertion.
pub fn is_own_issuer(iss: &str) -> bool {
    let Ok(url) = Url::parse(iss) else {
        return false;
    };
    let host = &**url.host();
    audience_of(host).is_some() || OLD_ISSUERS.contains(&host)
}

/// Path of the token endpoint of a tenant.
pub fn token_target(tenant: &str) -> String {
    format!("/{tenant}/oauth2/v2.0/token")
}

/// The scope of a resource: the resource as it is, a slash at its end included, and one suffix. `https://management.azure.com/`
/// becomes `https://management.azure.com//.default`, by which the token's `aud` keeps its slash.
pub fn scope(resource: &str) -> String {
    format!("{resource}/.default")
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The tenant's token endpoint.
    pub url: &'a Url,
    /// Of the application, or of the user-assigned managed identity.
    pub client_id: &'a str,
    /// What the token is for.
    pub resource: &'a str,
    /// Who asks.
    pub assertion: &'a Secret<Arc<str>>,
}

/// The request: the five fields that Entra's own libraries send, and nothing else.
pub fn request(ask: &Ask<'_>) -> Outgoing {
    let form = Form::new()
        .with("client_id", ask.client_id)
        .with("grant_type", "client_credentials")
        .with(
            "client_assertion_type",
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        )
        .with("client_assertion", ask.assertion.expose())
        .with("scope", &scope(ask.resource));
    Outgoing::oauth(ask.url, form)
}

#[derive(Deserialize)]
struct ErrorBody {
    error: String,
    #[serde(default)]
    error_description: String,
    #[serde(default)]
    error_codes: Vec<u32>,
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
            "neither a token nor an error of Entra",
        ));
    };
    Err(refusal(&said))
}

fn refusal(said: &ErrorBody) -> NotObtained {
    let number = said.error_codes.first().copied();
    let known = number.and_then(errors::find);
    let code = match number {
        Some(number) => Said::new(&format!("AADSTS{number}")),
        None => Said::new(&said.error),
    };
    // What follows is for Microsoft's support, and longer than the sentence.
    let sentence = said.error_description.split("Trace ID:").next();
    let message = Said::new(sentence.unwrap_or_default());
    let Some(known) = known else {
        return NotObtained::Refused {
            code,
            message,
            remedy: "look the code up at https://login.microsoftonline.com/error".into(),
        };
    };
    let remedy = format!("{}; {}", known.meaning, known.remedy);
    if known.retry == Retry::Later {
        return NotObtained::Unable {
            code,
            message,
            remedy: remedy.into(),
        };
    }
    NotObtained::Refused {
        code,
        message,
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests;
