//! Credentials for containers (ECS at 169.254.170.2, EKS at 169.254.170.23 and fd00:ec2::23), and what ECS tells of a task.
//! Which role they are of is nowhere in the request: policy is asked for the caller's own.
//! Must never: put the id, which is as good as the credentials, into a path that is recorded.

use std::sync::Arc;

use super::{Ask, ContainerAsk, Id, method};
use crate::http::RequestHead;
use crate::imds::{Asked, Call, Malformed, path, query};
use crate::request::{Cloud, CredentialAsk, Request};
use crate::secret::Secret;

/// The last name before the id.
const CREDENTIALS: &str = "credentials";

pub(super) fn parse(
    head: &RequestHead<'_>,
    segments: &[String],
    mut pairs: query::Pairs,
) -> Result<Call, Malformed> {
    let method = method(head.method)?;
    let authorization = authorization(head)?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (kept, id) = match names[..] {
        [version, CREDENTIALS] if is_version(version) => {
            let id = pairs.iter().find(|(name, _)| name == "id");
            let id = id.map(|(_, value)| (Id::Query, Secret::new(value.as_str().into())));
            pairs.clear();
            (2, id)
        }
        [version, CREDENTIALS, id] if is_version(version) => {
            pairs.clear();
            (2, Some((Id::Path, Secret::new(id.into()))))
        }
        _ if names
            .iter()
            .any(|name| name.eq_ignore_ascii_case(CREDENTIALS)) =>
        {
            return Err(Malformed::NotOffered);
        }
        _ => (names.len(), None),
    };
    let path: Arc<str> = path::join(&segments[..kept]).into();
    let is_credential = names.get(1) == Some(&CREDENTIALS);
    let request = if is_credential {
        Request::Credential(CredentialAsk::AwsRole {
            role: None,
            imdsv1: false,
        })
    } else {
        Request::Read {
            cloud: Cloud::Aws,
            path: Arc::clone(&path),
            subtree: false,
            imdsv1: false,
        }
    };
    Ok(Call {
        request,
        asked: Asked::Aws(Ask::Container(ContainerAsk { id, authorization })),
        method,
        path,
        query: pairs,
        headers: vec![],
    })
}

/// `v1`, `v2`, …
fn is_version(segment: &str) -> bool {
    let digits = segment.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// As the SDKs send it: the content of a file or of a variable, verbatim.
fn authorization(head: &RequestHead<'_>) -> Result<Option<Secret<Arc<str>>>, Malformed> {
    let Some(value) = head.values("authorization").next() else {
        return Ok(None);
    };
    let plain = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let text = std::str::from_utf8(value).ok();
    text.filter(|_| !value.is_empty() && value.iter().all(plain))
        .map(|text| Some(Secret::new(text.into())))
        .ok_or(Malformed::Authorization)
}

/// Path and query as they go upstream, the id where the caller wrote it.
pub(super) fn target(canonical: &str, pairs: &query::Pairs, ask: &ContainerAsk) -> String {
    let mut target = path::encode(canonical);
    match &ask.id {
        None => {}
        Some((Id::Path, id)) => {
            target.push('/');
            target.push_str(&path::encode(id.expose()));
        }
        Some((Id::Query, id)) => query::push_pair(&mut target, "id", id.expose()),
    }
    for (name, value) in pairs {
        query::push_pair(&mut target, name, value);
    }
    target
}
