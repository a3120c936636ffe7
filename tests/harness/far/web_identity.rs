//! Amazon's STS, as far as it gives a role for somebody's assertion.

use super::relying::{Rejected, Trust};
use super::{FarEnds, now, only};
use anyhow::Result;
use imds_guard_far::{FarEnd, Reply, Request};
use serde_json::Value;
use std::sync::{Arc, Mutex, PoisonError};

/// A role, with the OIDC provider of its account that its trust policy names.
#[derive(Debug, Clone)]
pub struct Role {
    /// Its ARN.
    pub arn: String,
    /// The provider's URL.
    pub issuer: String,
    /// The provider's audience.
    pub audience: String,
    /// The trust policy's condition on `sub`.
    pub subject: String,
}

/// The running endpoint.
#[derive(Debug, Clone)]
pub struct WebIdentity {
    far: Option<FarEnd>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    role: Role,
    trust: Trust,
    given: Mutex<Vec<Given>>,
}

/// What was given: keys, and the session that they are of.
#[derive(Debug, Clone)]
pub struct Given {
    /// The access key id.
    pub key: String,
    /// The secret key.
    pub secret: String,
    /// The session's name.
    pub session: String,
    /// Session tags of the assertion.
    pub tags: Value,
}

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

impl WebIdentity {
    /// At `host`, with one role.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(side: &FarEnds<'_>, host: &str, role: Role) -> Result<Self> {
        let state = Arc::new(State {
            role,
            trust: Trust::new(side)?,
            given: Mutex::default(),
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

    /// All that was given.
    #[must_use]
    pub fn given(&self) -> Vec<Given> {
        let given = &self.state.given;
        given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        match self.keys(request) {
            Ok(body) => Reply::xml(200, body),
            Err((status, code, text)) => Reply::xml(
                status,
                format!(
                    "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{text}</Message></Error><RequestId>0b7b3a0e-0000-4000-8000-000000000000</RequestId></ErrorResponse>"
                ),
            ),
        }
    }

    fn keys(&self, request: &Request) -> Result<String, (u16, &'static str, String)> {
        let own = &self.role;
        let invalid = |text: String| (400, "ValidationError", text);
        let form = request.form();
        let field = |name: &str| only(&form, name).unwrap_or_default();
        let kind = request.header("content-type").unwrap_or_default();
        if request.method != "POST"
            || request.target != "/"
            || !kind.starts_with("application/x-www-form-urlencoded")
        {
            return Err(invalid("no POST of a form".to_owned()));
        }
        if request.header("authorization").is_some() {
            return Err((403, "SignatureDoesNotMatch", "this isn't signed".to_owned()));
        }
        if (field("Action"), field("Version")) != ("AssumeRoleWithWebIdentity", "2011-06-15") {
            return Err((400, "InvalidAction", "no such action".to_owned()));
        }
        let session = field("RoleSessionName");
        let plain = |c: char| c.is_ascii_alphanumeric() || "_+=,.@-".contains(c);
        if !(2..=64).contains(&session.len()) || !session.chars().all(plain) {
            return Err(invalid(format!("RoleSessionName: {session}")));
        }
        let seconds: i64 = field("DurationSeconds").parse().unwrap_or(0);
        if !(900..=43_200).contains(&seconds) {
            return Err(invalid("DurationSeconds".to_owned()));
        }
        let policy = only(&form, "Policy");
        if policy.is_some_and(|policy| serde_json::from_str::<Value>(policy).is_err()) {
            return Err((400, "MalformedPolicyDocument", "no JSON".to_owned()));
        }
        let claims = self.believe(field("WebIdentityToken"))?;
        if field("RoleArn") != own.arn || claims["sub"] != *own.subject {
            let text = "Not authorized to perform sts:AssumeRoleWithWebIdentity".to_owned();
            return Err((403, "AccessDenied", text));
        }
        Ok(self.give(session, seconds, &claims))
    }

    fn believe(&self, assertion: &str) -> Result<Value, (u16, &'static str, String)> {
        let own = &self.role;
        let token = |text: &str| (400, "InvalidIdentityToken", text.to_owned());
        if assertion.len() > 20_000 {
            return Err((400, "ValidationError", "WebIdentityToken".to_owned()));
        }
        let claims = self.trust.verified(assertion).map_err(|why| match why {
            Rejected::Time => (400, "ExpiredTokenException", "Token expired".to_owned()),
            Rejected::Documents(_) => {
                token("Couldn't retrieve verification key from your identity provider")
            }
            _ => token("The web identity token that was passed could not be validated"),
        })?;
        if claims["iss"] != *own.issuer {
            return Err(token("No OpenIDConnect provider found in your account"));
        }
        if claims["aud"] != *own.audience {
            return Err(token("Incorrect token audience"));
        }
        let length = claims["sub"].as_str().map_or(0, str::len);
        if !(6..=255).contains(&length) {
            return Err(token("subject"));
        }
        Ok(claims)
    }

    fn give(&self, session: &str, seconds: i64, claims: &Value) -> String {
        let own = &self.role;
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let number = given.len() + 1;
        let (key, secret) = (
            format!("ASIAFAR{number:013}"),
            format!("web-identity-canary-{number}"),
        );
        given.push(Given {
            key: key.clone(),
            secret: secret.clone(),
            session: session.to_owned(),
            tags: claims["https://aws.amazon.com/tags"].clone(),
        });
        let account = own.arn.split(':').nth(4).unwrap_or_default();
        let role = own.arn.rsplit('/').next().unwrap_or_default();
        let expiration = crate::aws::printed(u64::try_from(now() + seconds).unwrap_or(0));
        let (subject, audience) = (&claims["sub"].as_str().unwrap_or_default(), &own.audience);
        format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"{XMLNS}\"><AssumeRoleWithWebIdentityResult>\
             <SubjectFromWebIdentityToken>{subject}</SubjectFromWebIdentityToken><Audience>{audience}</Audience>\
             <AssumedRoleUser><Arn>arn:aws:sts::{account}:assumed-role/{role}/{session}</Arn><AssumedRoleId>AROAFAR:{session}</AssumedRoleId></AssumedRoleUser>\
             <Credentials><SessionToken>far-session-{number}</SessionToken><SecretAccessKey>{secret}</SecretAccessKey><Expiration>{expiration}</Expiration><AccessKeyId>{key}</AccessKeyId></Credentials>\
             <Provider>{}</Provider></AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>0b7b3a0e-0000-4000-8000-000000000000</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>",
            own.issuer
        )
    }
}
