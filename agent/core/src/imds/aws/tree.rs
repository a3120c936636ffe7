//! The metadata tree: which paths there are, and which of them give credentials.
//! Must never: let a path through that has the name of something secret in it and isn't spelled as we know it. How the real
//! service compares names is not documented.

use std::sync::Arc;

use super::version::{LATEST, is_version};
use super::{Ask, Session, TOKEN_PATH, TreeAsk, What, method, session};
use crate::http::RequestHead;
use crate::imds::{Asked, Call, Malformed, path};
use crate::request::{Cloud, CredentialAsk, Request};

/// Where the credentials of the instance's own identity are; they are a role to policy, by this name in front of theirs.
const INSTANCE_IDENTITY: &str = "identity-credentials/ec2/security-credentials";
/// Names below which there are secrets.
const SECRET: [&str; 2] = ["security-credentials", "identity-credentials"];

pub(super) fn parse(
    head: &RequestHead<'_>,
    segments: &[String],
    slash: bool,
) -> Result<Call, Malformed> {
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    if let [version, "api", "token"] = names[..] {
        return token(head, version);
    }
    let session = Session::of(head)?;
    let (what, request) = asked(&names, session == Session::None)?;
    let below = path::join(segments.get(1..).unwrap_or_default());
    let canonical = match names.len() {
        0 => "/".into(),
        1 => format!("/{LATEST}"),
        _ => format!("/{LATEST}{below}"),
    };
    let path: Arc<str> = canonical.into();
    let request = request.unwrap_or_else(|| Request::Read {
        cloud: Cloud::Aws,
        path: Arc::clone(&path),
        // A container shows the names below it, not what they hold.
        subtree: false,
        imdsv1: session == Session::None,
    });
    Ok(Call {
        request,
        asked: Asked::Aws(Ask::Tree(TreeAsk {
            version: names.first().copied().unwrap_or_default().into(),
            slash: match what {
                What::Read => slash,
                What::Roles => true,
                What::Role => false,
            },
            what,
            session,
        })),
        method: method(head.method)?,
        path,
        query: vec![],
        headers: vec![],
    })
}

fn token(head: &RequestHead<'_>, version: &str) -> Result<Call, Malformed> {
    if head.method != "PUT" {
        return Err(Malformed::Method { allow: "PUT" });
    }
    if version != LATEST {
        return Err(Malformed::SessionPath);
    }
    let path: Arc<str> = TOKEN_PATH.into();
    Ok(Call {
        request: Request::Write {
            cloud: Cloud::Aws,
            path: Arc::clone(&path),
        },
        asked: Asked::Aws(Ask::Session {
            ttl: session::ttl(head)?,
        }),
        method: "PUT",
        path,
        query: vec![],
        headers: vec![],
    })
}

/// What these names are for, and the request where it isn't a plain read.
fn asked(names: &[&str], imdsv1: bool) -> Result<(What, Option<Request>), Malformed> {
    let role = |role: Option<&str>| {
        Some(Request::Credential(CredentialAsk::AwsRole {
            role: role.map(Into::into),
            imdsv1,
        }))
    };
    let below = match names {
        [] => return Ok((What::Read, None)),
        [version, below @ ..] if is_version(version) => below,
        _ => return Err(Malformed::NotOffered),
    };
    match below {
        [] | ["dynamic" | "user-data", ..] if !has_secret(below) => Ok((What::Read, None)),
        ["meta-data", "iam", "security-credentials"] => Ok((What::Roles, role(None))),
        ["meta-data", "iam", "security-credentials", name] => Ok((What::Role, role(Some(name)))),
        ["meta-data", "identity-credentials", rest @ ..] => match rest {
            [] | ["ec2"] | ["ec2", "info" | "security-credentials"] => Ok((What::Read, None)),
            ["ec2", "security-credentials", name] => {
                let name = format!("{INSTANCE_IDENTITY}/{name}");
                Ok((What::Role, role(Some(name.as_str()))))
            }
            _ => Err(Malformed::NotOffered),
        },
        ["meta-data", ..] if !has_secret(below) => Ok((What::Read, None)),
        _ => Err(Malformed::NotOffered),
    }
}

/// Whether a name of something secret is among these, in whatever case.
fn has_secret(names: &[&str]) -> bool {
    let secret = |name: &&str| {
        SECRET
            .iter()
            .any(|secret| name.eq_ignore_ascii_case(secret))
    };
    names.iter().any(secret)
}

/// The path as it goes upstream: with the version that the caller wrote.
pub(super) fn target(canonical: &str, ask: &TreeAsk) -> String {
    let Some(below) = canonical.strip_prefix("/latest") else {
        return "/".to_owned();
    };
    let mut target = format!("/{}", ask.version);
    target.push_str(&path::encode(below));
    if ask.slash {
        target.push('/');
    }
    target
}
