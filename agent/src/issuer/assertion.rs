//! An assertion that somebody else has signed: a projected token of Kubernetes, or whatever an operator renews in a file. Read
//! anew for each exchange, by the guard, which alone may read it. Its signature is for the cloud to check; what is checked here is
//! what would otherwise come back as a riddle.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imds_guard_core::exchange::entra;
use imds_guard_core::exchange::web_identity::ASSERTION_BYTES;
use imds_guard_core::policy::federation::{Exchange, Federation};
use imds_guard_core::secret::Secret;

use super::Minted;

/// Why the file's assertion can't be used, with the remedy.
#[derive(Debug, thiserror::Error)]
pub enum AssertionError {
    /// Not there, or not to be read.
    #[error(
        "{0} can't be read: {1}; whoever renews it has to have begun, and the guard has to see it"
    )]
    Unreadable(Arc<str>, #[source] io::Error),
    /// Others could put their own in its place.
    #[error("{0} is no file that root alone writes: chown it to root, and chmod it to 0600")]
    Custody(Arc<str>),
    /// Too long, or none.
    #[error("{0} holds no JWT of at most {ASSERTION_BYTES} bytes: {1}")]
    NoJwt(Arc<str>, &'static str),
    /// For somebody else.
    #[error(
        "the assertion in {file} is for {found}, and the identity's `audience` is {wanted}: have one made for that"
    )]
    Audience {
        /// The file.
        file: Arc<str>,
        /// What it is for.
        found: String,
        /// What it has to be for.
        wanted: Arc<str>,
    },
    /// It has ended.
    #[error("the assertion in {0} ended {1} s ago: whoever renews it has stopped")]
    Ended(Arc<str>, i64),
    /// Entra's own.
    #[error(
        "the assertion in {0} is Entra ID's own ({1}), and Entra takes none of those: name one of another issuer, or use source = \"forward\" where this is a VM of Azure"
    )]
    OfEntra(Arc<str>, String),
}

#[derive(serde::Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    #[serde(default)]
    iat: Option<i64>,
    #[serde(default)]
    jti: Option<String>,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Some(Vec<String>),
}

impl Audience {
    fn into_vec(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Some(all) => all,
        }
    }
}

/// Reads the assertion in `file`. `now` is Unix time in seconds.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(file: &Arc<str>, federation: &Federation, now: i64) -> Result<Minted, AssertionError> {
    let text = contents(file)?;
    let jwt = text.trim();
    let none = |why| AssertionError::NoJwt(Arc::clone(file), why);
    let claims = claims(jwt).map_err(none)?;
    if matches!(federation.exchange, Exchange::Entra { .. }) && entra::is_own_issuer(&claims.iss) {
        return Err(AssertionError::OfEntra(Arc::clone(file), claims.iss));
    }
    let found = claims.aud.into_vec();
    if !found.iter().any(|aud| **aud == *federation.audience) {
        return Err(AssertionError::Audience {
            file: Arc::clone(file),
            found: found.join(", "),
            wanted: Arc::clone(&federation.audience),
        });
    }
    if claims.exp <= now {
        return Err(AssertionError::Ended(Arc::clone(file), now - claims.exp));
    }
    let jti = claims.jti.unwrap_or_else(|| fingerprint(jwt));
    Ok(Minted {
        iat: claims.iat.unwrap_or(now),
        exp: claims.exp,
        jti: jti.into(),
        audience: Arc::clone(&federation.audience),
        subject: claims.sub.into(),
        file: Some(Arc::clone(file)),
        jwt: Secret::new(jwt.into()),
    })
}

/// By the opened file, whatever its name points to by then: a projected token's is a link that changes at each renewal.
fn contents(file: &Arc<str>) -> Result<String, AssertionError> {
    let failed = |error| AssertionError::Unreadable(Arc::clone(file), error);
    let open = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(&**file)
        .map_err(failed)?;
    let is = open.metadata().map_err(failed)?;
    if !is.is_file() || is.uid() != 0 || is.mode() & 0o022 != 0 {
        return Err(AssertionError::Custody(Arc::clone(file)));
    }
    let mut text = String::new();
    let limit = ASSERTION_BYTES as u64 + 1;
    open.take(limit).read_to_string(&mut text).map_err(failed)?;
    if text.len() > ASSERTION_BYTES {
        return Err(AssertionError::NoJwt(Arc::clone(file), "it is longer"));
    }
    Ok(text)
}

fn claims(jwt: &str) -> Result<Claims, &'static str> {
    let mut parts = jwt.split('.');
    let (Some(header), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err("it isn't three parts with dots between");
    };
    let decoded = |part: &str| URL_SAFE_NO_PAD.decode(part);
    if decoded(header).is_err() || signature.is_empty() || decoded(signature).is_err() {
        return Err("a part of it isn't base64url");
    }
    let claims = decoded(claims).map_err(|_| "a part of it isn't base64url")?;
    serde_json::from_slice(&claims).map_err(|_| "it doesn't say iss, sub, aud and exp")
}

/// What stands in the record of a token that has no id of its own.
fn fingerprint(jwt: &str) -> String {
    let hash = digest(&SHA256, jwt.as_bytes());
    let bytes = hash.as_ref().iter().take(16);
    bytes.map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use imds_guard_core::exchange::Url;
    use imds_guard_core::policy::federation::Assertion;

    use super::*;

    const AUDIENCE: &str = "api://AzureADTokenExchange";

    fn jwt(claims: &serde_json::Value) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let header = part(r#"{"alg":"RS256","typ":"JWT","kid":"k"}"#);
        format!(
            "{header}.{}.{}",
            part(&claims.to_string()),
            part("signature")
        )
    }

    fn claims(change: &[(&str, serde_json::Value)]) -> serde_json::Value {
        let mut claims = serde_json::json!({"iss": "https://kubernetes.example", "sub": "system:serviceaccount:shop:web",
            "aud": [AUDIENCE], "exp": 2000, "iat": 1000});
        for (name, value) in change {
            claims[*name] = value.clone();
        }
        claims
    }

    fn attempt(text: &str, mode: u32) -> Result<Minted, AssertionError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let path: Arc<str> = file.path().to_str().unwrap().into();
        let federation = Federation {
            assertion: Assertion::File(Arc::clone(&path)),
            audience: AUDIENCE.into(),
            exchange: Exchange::Entra {
                url: Url::parse("https://login.microsoftonline.com/t/oauth2/v2.0/token").unwrap(),
            },
        };
        read(&path, &federation, 1500)
    }

    #[test]
    #[ignore = "kernel: needs root: the file has to be root's"]
    fn a_projected_token_is_read_and_what_is_wrong_with_one_is_said() {
        let text = jwt(&claims(&[]));
        let minted = attempt(&format!("{text}\n"), 0o600).unwrap();
        assert_eq!(*minted.jwt.expose().as_ref(), *text);
        assert_eq!(&*minted.subject, "system:serviceaccount:shop:web");
        assert_eq!(minted.jti.len(), 32);
        let one = claims(&[("aud", AUDIENCE.into()), ("jti", "j".into())]);
        assert_eq!(&*attempt(&jwt(&one), 0o644).unwrap().jti, "j");
        let refused = |text: &str, mode| attempt(text, mode).unwrap_err().to_string();
        for (text, mode, why) in [
            (text.clone(), 0o620, "root alone writes"),
            (String::new(), 0o600, "three parts"),
            ("a.b".into(), 0o600, "three parts"),
            ("a.!.c".into(), 0o600, "base64url"),
            (jwt(&serde_json::json!({})), 0o600, "doesn't say iss"),
            ("x".repeat(ASSERTION_BYTES + 1), 0o600, "longer"),
            (
                jwt(&claims(&[("exp", 1500.into())])),
                0o600,
                "ended 0 s ago",
            ),
            (
                jwt(&claims(&[("aud", "api://azureadtokenexchange".into())])),
                0o600,
                "is for api://azureadtokenexchange",
            ),
            (
                jwt(&claims(&[(
                    "iss",
                    "https://login.microsoftonline.com/t/v2.0".into(),
                )])),
                0o600,
                "Entra takes none",
            ),
            (
                jwt(&claims(&[("iss", "https://sts.windows.net/t/".into())])),
                0o600,
                "Entra takes none",
            ),
        ] {
            let told = refused(&text, mode);
            assert!(told.contains(why), "{told}");
        }
    }
}
