//! AWS: AssumeRoleWithWebIdentity, an assertion for a role's keys. The answer is STS's, as for every role (`sts`).

use std::sync::Arc;

use super::form::{Form, MEDIA_TYPE};
use super::{NotObtained, Obtained, Outgoing, Url, sts};
use crate::secret::Secret;

/// What assertions for AWS are for where nobody has configured another audience.
pub const AUDIENCE: &str = "sts.amazonaws.com";
/// What AWS takes as a subject, in characters.
pub const SUBJECT_CHARS: usize = 255;
/// The longest assertion, in bytes.
pub const ASSERTION_BYTES: usize = 20_000;
/// The longest inline session policy, in characters.
pub const POLICY_CHARS: usize = 2048;
/// The claim of an assertion in which session tags stand.
pub const TAGS_CLAIM: &str = "https://aws.amazon.com/tags";

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The endpoint of STS.
    pub url: &'a Url,
    /// The role's ARN.
    pub role: &'a str,
    /// The session's name, by which CloudTrail knows it.
    pub session: &'a str,
    /// Narrower than the role's own policies.
    pub policy: Option<&'a str>,
    /// How long the keys live.
    pub seconds: u32,
    /// Who asks.
    pub assertion: &'a Secret<Arc<str>>,
}

/// The request. It isn't signed: the assertion is all that it shows.
pub fn request(ask: &Ask<'_>) -> Outgoing {
    let mut body = Form::new()
        .with("Action", "AssumeRoleWithWebIdentity")
        .with("Version", "2011-06-15")
        .with("RoleArn", ask.role)
        .with("RoleSessionName", ask.session)
        .with("DurationSeconds", &ask.seconds.to_string());
    if let Some(policy) = ask.policy {
        body = body.with("Policy", policy);
    }
    let body = body.with("WebIdentityToken", ask.assertion.expose());
    Outgoing {
        method: "POST",
        url: ask.url.clone(),
        headers: vec![("content-type", format!("{MEDIA_TYPE}; charset=utf-8"))],
        secret: None,
        body: Secret::new(body.into_bytes()),
    }
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
    let answer = sts::read("AssumeRoleWithWebIdentity", status, retry_after, body, now);
    answer.map_err(|why| match why {
        NotObtained::Refused {
            code,
            message,
            remedy: of_roles,
        } => {
            let own = remedy(code.as_str()).map(Into::into);
            NotObtained::Refused {
                code,
                message,
                remedy: own.unwrap_or(of_roles),
            }
        }
        other => other,
    })
}

/// A session's name made of `text`: what STS doesn't take becomes a dash, what is over 64 characters is left out, and what is
/// shorter than two gets company.
pub fn session_name(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
    let name = text.chars().map(|c| if plain(c) { c } else { '-' });
    let mut name: String = name.take(64).collect();
    while name.len() < 2 {
        name.push('-');
    }
    name
}

/// What an operator can do about a code of STS that comes for web identities alone.
fn remedy(code: &str) -> Option<&'static str> {
    Some(match code {
        "InvalidIdentityToken" => {
            "AWS did not accept the assertion: see that the account has an OIDC provider with this issuer and audience (`imds-guard federate aws --workload NAME` prints both) and that the issuer's documents are served to the world (`imds-guard issuer publish --check`)"
        }
        "ExpiredTokenException" | "ExpiredToken" => {
            "set this host's clock (`timedatectl`); of an assertion in a file, see that it is renewed"
        }
        "IDPRejectedClaim" => {
            "the OIDC provider did not accept a claim: compare issuer and audience with `imds-guard federate aws --workload NAME`"
        }
        "AccessDenied" => {
            "the role's trust policy doesn't let this subject in: compare it with `imds-guard federate aws --workload NAME`, to the letter; with `tags` it needs sts:TagSession, too"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_with_what_to_do() {
        let xml = |code: &str| {
            format!(
                r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code><Message>m</Message></Error><RequestId>r</RequestId></ErrorResponse>"#
            )
        };
        let told = |code| answer(400, None, xml(code).as_bytes(), 0).unwrap_err();
        let shown = told("InvalidIdentityToken").to_string();
        assert!(shown.contains("OIDC provider with this issuer"), "{shown}");
        assert!(told("AccessDenied").to_string().contains("trust policy"));
        assert!(
            told("MalformedPolicyDocument")
                .to_string()
                .contains("session_policy")
        );
        assert!(told("IDPCommunicationError").is_general());
        assert!(!told("AccessDenied").is_general());
    }

    #[test]
    fn a_sessions_name_is_made_of_any() {
        assert_eq!(session_name("billing-api"), "billing-api");
        assert_eq!(session_name("a b/c"), "a-b-c");
        assert_eq!(session_name("x"), "x-");
        assert_eq!(session_name(&"x".repeat(100)).len(), 64);
    }

    #[test]
    fn the_request_shows_the_assertion_and_nothing_else_secret() {
        let ask = Ask {
            url: &Url::parse("https://sts.eu-central-1.amazonaws.com/").unwrap(),
            role: "arn:aws:iam::111122223333:role/batch",
            session: "batch",
            policy: None,
            seconds: 3600,
            assertion: &Secret::new("x.y.z".into()),
        };
        let outgoing = request(&ask);
        assert_eq!(
            std::str::from_utf8(outgoing.body.expose()).unwrap(),
            "Action=AssumeRoleWithWebIdentity&Version=2011-06-15&RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fbatch\
             &RoleSessionName=batch&DurationSeconds=3600&WebIdentityToken=x.y.z"
        );
        let narrower = Ask {
            policy: Some(r#"{"Version":"2012-10-17"}"#),
            ..ask
        };
        let body = request(&narrower).body;
        let body = std::str::from_utf8(body.expose()).unwrap();
        assert!(
            body.contains("&Policy=%7B%22Version%22%3A%222012-10-17%22%7D&"),
            "{body}"
        );
        assert!(!format!("{outgoing:?}").contains("x.y.z"));
    }
}
