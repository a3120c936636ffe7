//! Amazon's STS, as far as it gives a role to whoever signs as another: signatures are verified from the bytes that came, with
//! the secrets that were given, and by no code of the agent's.

use super::{FarEnds, now, only};
use anyhow::{Context, Result, ensure};
use aws_lc_rs::{digest, hmac};
use imds_guard_far::{FarEnd, Reply, Request};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Who may assume it, and what it says.
#[derive(Debug, Clone)]
pub struct TrustedRole {
    /// Its ARN.
    pub arn: String,
    /// The ARN of the role that its trust policy names.
    pub by: String,
    /// `MaxSessionDuration`, in seconds.
    pub longest: u32,
}

/// Keys that somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Signs.
    pub secret: String,
    /// Goes with it.
    pub token: String,
    /// Whose: a role's ARN, or that of a session.
    pub arn: String,
}

/// One session that was given.
#[derive(Debug, Clone)]
pub struct Session {
    /// The access key id.
    pub key: String,
    /// The secret key.
    pub secret: String,
    /// The session's name.
    pub name: String,
    /// Seconds.
    pub duration: u32,
    /// The session policy, as it came.
    pub policy: Option<String>,
    /// Its tags, by key.
    pub tags: Vec<(String, String)>,
}

/// The running endpoint.
#[derive(Debug, Clone)]
pub struct AwsSts {
    far: Option<FarEnd>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    region: String,
    role: TrustedRole,
    holders: Mutex<HashMap<String, Holder>>,
    sessions: Mutex<Vec<Session>>,
    fault: Mutex<Option<Fault>>,
}

/// What goes wrong from now on.
#[derive(Debug, Clone)]
pub struct Fault {
    /// The status.
    pub status: u16,
    /// The code in the XML; none: a page that is no XML.
    pub code: Option<&'static str>,
    /// `Retry-After`
    pub retry_after: Option<u32>,
    /// After so many milliseconds; with status 200, served then.
    pub late_ms: u64,
}

const XMLNS: &str = "https://sts.amazonaws.com/doc/2011-06-15/";

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AwsSts {
    /// At `sts.REGION.amazonaws.com`, with one role.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn start(side: &FarEnds<'_>, region: &str, role: TrustedRole) -> Result<Self> {
        let state = Arc::new(State {
            region: region.to_owned(),
            role,
            holders: Mutex::default(),
            sessions: Mutex::default(),
            fault: Mutex::default(),
        });
        let own = Arc::clone(&state);
        let far = side.serve(&format!("sts.{region}.amazonaws.com"), move |request| {
            own.answer(request)
        })?;
        Ok(Self {
            far: Some(far),
            state,
        })
    }

    /// Knows these keys from now on.
    pub fn knows(&self, key: &str, holder: Holder) {
        locked(&self.state.holders).insert(key.to_owned(), holder);
    }

    /// Takes no keys any more that it knew.
    pub fn forgets(&self) {
        locked(&self.state.holders).clear();
    }

    /// Does so from now on; with none, serves again.
    pub fn fails(&self, fault: Option<Fault>) {
        *locked(&self.state.fault) = fault;
    }

    /// What was given so far.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        locked(&self.state.sessions).clone()
    }

    /// What was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Request> {
        self.far.as_ref().map(FarEnd::received).unwrap_or_default()
    }
}

impl State {
    fn answer(&self, request: &Request) -> Reply {
        let fault = locked(&self.fault).clone();
        let late = fault.as_ref().map_or(0, |fault| fault.late_ms);
        std::thread::sleep(std::time::Duration::from_millis(late));
        if let Some(fault) = fault.filter(|fault| fault.status != 200) {
            let reply = match fault.code {
                Some(code) => refusal(fault.status, code, "as the test wants it"),
                None => Reply::new(fault.status, "<html>not here</html>"),
            };
            return match fault.retry_after {
                Some(seconds) => reply.with("Retry-After", &seconds.to_string()),
                None => reply,
            };
        }
        let holder = match self.signer(request) {
            Ok(holder) => holder,
            Err((code, why)) => return refusal(403, code, &why),
        };
        let form = request.form();
        match only(&form, "Action") {
            Some("AssumeRole") => self.assume(&holder, &form),
            Some("GetCallerIdentity") => Reply::xml(
                200,
                format!(
                    "<GetCallerIdentityResponse xmlns=\"{XMLNS}\"><GetCallerIdentityResult><Arn>{}</Arn><UserId>AROAFAKE</UserId><Account>111122223333</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>",
                    holder.arn
                ),
            ),
            _ => refusal(400, "InvalidAction", "no such action"),
        }
    }

    /// Who has signed this request.
    fn signer(&self, request: &Request) -> Result<Holder, (&'static str, String)> {
        let bad = |why: String| ("SignatureDoesNotMatch", why);
        let claim =
            Claim::read(request).map_err(|error| ("IncompleteSignature", error.to_string()))?;
        let holders = locked(&self.holders);
        let holder = holders.get(&claim.key).ok_or((
            "InvalidClientTokenId",
            "The security token included in the request is invalid.".to_owned(),
        ))?;
        if request.header("x-amz-security-token") != Some(&holder.token) {
            return Err(("InvalidClientTokenId", "another session's token".to_owned()));
        }
        let today = format!("{}/{}/sts/aws4_request", &claim.time[..8], self.region);
        if claim.scope != today {
            return Err(bad(format!("scope {} for {today}", claim.scope)));
        }
        if (seconds(&claim.time).unwrap_or_default() - now()).abs() > 300 {
            return Err(bad("Signature expired".to_owned()));
        }
        for needed in ["host", "x-amz-date", "x-amz-security-token"] {
            if !claim.signed.iter().any(|name| name == needed) {
                return Err(bad(format!("{needed} is not signed")));
            }
        }
        match claim.signature_by(&holder.secret, request) {
            Some(right) if right == claim.signature => Ok(holder.clone()),
            other => Err(bad(format!("{other:?} is right, not {}", claim.signature))),
        }
    }

    fn assume(&self, holder: &Holder, form: &[(String, String)]) -> Reply {
        let field = |name: &str| only(form, name).unwrap_or_default();
        let invalid = |why: &str| refusal(400, "ValidationError", why);
        if field("Version") != "2011-06-15" {
            return invalid("Version");
        }
        if field("RoleArn") != self.role.arn || holder.arn != self.role.by {
            let text = format!(
                "User: {} is not authorized to perform: sts:AssumeRole on resource: {}",
                holder.arn,
                field("RoleArn")
            );
            return refusal(403, "AccessDenied", &text);
        }
        let name = field("RoleSessionName");
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
        if !(2..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return invalid("RoleSessionName");
        }
        // A role that a role assumes: an hour, whatever the role itself allows.
        let longest = self.role.longest.min(3600);
        let duration = field("DurationSeconds").parse().unwrap_or(3600);
        if !(900..=longest).contains(&duration) {
            return invalid(
                "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining",
            );
        }
        let policy = only(form, "Policy").map(str::to_owned);
        if let Some(policy) = &policy
            && (policy.len() > 2048 || serde_json::from_str::<serde_json::Value>(policy).is_err())
        {
            return refusal(400, "MalformedPolicyDocument", "not a policy");
        }
        let tags = (1..=50)
            .map_while(|n| {
                let key = only(form, &format!("Tags.member.{n}.Key"))?;
                let value = only(form, &format!("Tags.member.{n}.Value"))?;
                Some((key.to_owned(), value.to_owned()))
            })
            .collect();
        self.begin(name, duration, policy, tags)
    }

    /// Keys of a new session.
    fn begin(
        &self,
        name: &str,
        duration: u32,
        policy: Option<String>,
        tags: Vec<(String, String)>,
    ) -> Reply {
        let mut sessions = locked(&self.sessions);
        let number = sessions.len() + 1;
        let session = Session {
            key: format!("ASIASESSION{number:09}"),
            secret: format!("canary-of-a-session-{number}"),
            name: name.to_owned(),
            duration,
            policy,
            tags,
        };
        sessions.push(session.clone());
        drop(sessions);
        let role = self.role.arn.rsplit('/').next().unwrap_or_default();
        let arn = format!("arn:aws:sts::111122223333:assumed-role/{role}/{name}");
        let token = format!("session-token-{number}");
        locked(&self.holders).insert(
            session.key.clone(),
            Holder {
                secret: session.secret.clone(),
                token: token.clone(),
                arn: arn.clone(),
            },
        );
        let ends = crate::aws::printed(u64::try_from(now()).unwrap_or(0) + u64::from(duration));
        let Session { key, secret, .. } = session;
        Reply::xml(
            200,
            format!(
                "<AssumeRoleResponse xmlns=\"{XMLNS}\"><AssumeRoleResult><AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>AROAFAKE:{name}</AssumedRoleId></AssumedRoleUser><Credentials><SessionToken>{token}</SessionToken><SecretAccessKey>{secret}</SecretAccessKey><Expiration>{ends}</Expiration><AccessKeyId>{key}</AccessKeyId></Credentials></AssumeRoleResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleResponse>"
            ),
        )
    }
}

fn refusal(status: u16, code: &str, message: &str) -> Reply {
    let message = message.replace('&', "&amp;").replace('<', "&lt;");
    Reply::xml(
        status,
        format!(
            "<ErrorResponse xmlns=\"{XMLNS}\"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>r</RequestId></ErrorResponse>"
        ),
    )
}

/// What `Authorization` says.
struct Claim {
    key: String,
    scope: String,
    signed: Vec<String>,
    signature: String,
    time: String,
}

impl Claim {
    fn read(request: &Request) -> Result<Self> {
        let authorization = request
            .header("authorization")
            .context("no Authorization")?;
        let parts = authorization
            .strip_prefix("AWS4-HMAC-SHA256 ")
            .context("another algorithm")?;
        let part = |name: &str| {
            let mut parts = parts.split(',').map(str::trim);
            parts
                .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("no {name}"))
        };
        let (key, scope) = part("Credential")?.split_once('/').context("no scope")?;
        let signed: Vec<String> = part("SignedHeaders")?
            .split(';')
            .map(str::to_owned)
            .collect();
        ensure!(signed.is_sorted(), "headers are not in order");
        let time = request.header("x-amz-date").context("no X-Amz-Date")?;
        ensure!(time.len() == 16, "no time: {time}");
        Ok(Self {
            key: key.to_owned(),
            scope: scope.to_owned(),
            signed,
            signature: part("Signature")?.to_owned(),
            time: time.to_owned(),
        })
    }

    /// The signature that whoever holds `secret` would have made of this request.
    fn signature_by(&self, secret: &str, request: &Request) -> Option<String> {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let mut canonical = vec![request.method.clone(), path.to_owned(), query.to_owned()];
        for name in &self.signed {
            let value = request.header(name)?;
            let value: Vec<&str> = value.split_whitespace().collect();
            canonical.push(format!("{name}:{}", value.join(" ")));
        }
        canonical.push(String::new());
        canonical.push(self.signed.join(";"));
        canonical.push(sha256(&request.body));
        let to_sign = [
            "AWS4-HMAC-SHA256",
            &self.time,
            &self.scope,
            &sha256(canonical.join("\n").as_bytes()),
        ]
        .join("\n");
        let first = format!("AWS4{secret}").into_bytes();
        let key = self
            .scope
            .split('/')
            .fold(first, |key, step| mac(&key, step));
        Some(hex(&mac(&key, &to_sign)))
    }
}

fn mac(key: &[u8], message: &str) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
}

fn sha256(bytes: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, bytes).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `20261121T180000Z` as Unix seconds: of two days of one year or the next, good enough to compare with now.
fn seconds(time: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| time.get(range)?.parse::<i64>().ok();
    let (year, month, day) = (number(0..4)?, number(4..6)?, number(6..8)?);
    let (hour, minute, second) = (number(9..11)?, number(11..13)?, number(13..15)?);
    // The civil calendar, after Howard Hinnant's `days_from_civil`.
    let shifted = year - i64::from(month <= 2);
    let (era, of_era) = (shifted.div_euclid(400), shifted.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read() {
        assert_eq!(seconds("19700101T000000Z"), Some(0));
        assert_eq!(seconds("20150830T123600Z"), Some(1_440_938_160));
        assert_eq!(seconds("20000229T000000Z"), Some(951_782_400));
    }
}
