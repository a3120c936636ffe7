//! Google's dialect; `agent/docs/imds-compat.md` says what is served, altered and refused, and from which source.
//!
//! Owns: which endpoints exist, which of them give credentials, and the one form of each query.
//! Must never: turn anything that gives a credential or a private key into a plain read, in any spelling.

mod account;
pub mod answer;
pub mod document;
pub mod recursive;
#[cfg(test)]
mod tests;
mod token;
mod tree;
mod vocabulary;

use std::sync::Arc;

pub use account::{AccountPart, accounts_below, part as account_part};
pub use token::{Format, IdentityAsk, TokenAsk};
pub use tree::{Form, TreeAsk, WAIT_LIMIT, Wait};

use super::{Arrival, Asked, Call, Malformed, path, query};
use crate::http::RequestHead;
use crate::policy::Identity;
use crate::request::{Cloud, Request};

/// What a caller asks of Google's metadata server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// `/`, `/computeMetadata/` and `/computeMetadata/v1/`: names that are the same on every machine.
    Top {
        /// What is listed.
        listing: &'static str,
        /// Whether the caller wrote the slash at the end.
        slash: bool,
    },
    /// A part of the tree.
    Tree(TreeAsk),
    /// `…/service-accounts/ACCOUNT/token`
    Token(TokenAsk),
    /// `…/service-accounts/ACCOUNT/identity`
    Identity(IdentityAsk),
    /// PUT or DELETE of a guest attribute.
    Write,
}

/// The header that a page in a browser or a forwarded URL can't send, and its value.
pub const FLAVOR: (&str, &str) = ("metadata-flavor", "Google");
/// Its older name, which scripts of long-lived nodes still send.
const OLDER_FLAVOR: (&str, &str) = ("x-google-metadata-request", "True");

pub(super) fn parse(head: &RequestHead<'_>, _arrival: &Arrival) -> Result<Call, Malformed> {
    let (raw_path, raw_query) = head.target.split_once('?').unwrap_or((head.target, ""));
    let segments = path::segments(raw_path)?;
    let names: Vec<&str> = segments.iter().map(String::as_str).collect();
    if !names.is_empty() && !has_flavor(head) {
        return Err(Malformed::FlavorMissing);
    }
    vocabulary::check(&names)?;
    let method = method(head.method, &names)?;
    let pairs = tree::pairs(raw_query)?;
    let ask = ask(&names, method, raw_path.ends_with('/'), &pairs)?;
    let path: Arc<str> = path::join(&segments).into();
    Ok(Call {
        request: request(&ask, &path),
        query: kept(&names, pairs),
        asked: Asked::Gcp(ask),
        method,
        path,
        headers: headers(method),
    })
}

fn ask(
    names: &[&str],
    method: &'static str,
    slash: bool,
    pairs: &query::Pairs,
) -> Result<Ask, Malformed> {
    let top = |listing| Ask::Top { listing, slash };
    let whole = tree::is_recursive(pairs)?;
    match names {
        // Nobody documents what a recursive read above the version shows: perhaps more than one version of everything.
        [] | ["computeMetadata"] if whole => Err(Malformed::Parameter { name: "recursive" }),
        [] => Ok(top("computeMetadata/\n")),
        ["computeMetadata"] => Ok(top("v1/\n")),
        ["computeMetadata", "v1"] if !whole => {
            Ok(top("instance/\noslogin/\nproject/\nuniverse/\n"))
        }
        [
            "computeMetadata",
            "v1",
            "instance",
            "service-accounts",
            account,
            "token",
        ] => TokenAsk::parse(account, method == "POST", pairs).map(Ask::Token),
        [
            "computeMetadata",
            "v1",
            "instance",
            "service-accounts",
            account,
            "identity",
        ] => IdentityAsk::parse(account, method == "POST", pairs).map(Ask::Identity),
        _ if matches!(method, "PUT" | "DELETE") => Ok(Ask::Write),
        _ => TreeAsk::parse(slash, pairs).map(Ask::Tree),
    }
}

/// Parameters that go upstream beside those that the ask has understood. Only OS Login's reads have any.
fn kept(names: &[&str], mut pairs: query::Pairs) -> query::Pairs {
    match names {
        ["computeMetadata", "v1", "oslogin", ..] => {
            pairs.retain(|(name, _)| !tree::KNOWN.contains(&name.as_str()));
        }
        _ => pairs.clear(),
    }
    pairs
}

fn request(ask: &Ask, path: &Arc<str>) -> Request {
    let (cloud, path) = (Cloud::Gcp, Arc::clone(path));
    match ask {
        Ask::Token(ask) => Request::Credential(ask.credential()),
        Ask::Identity(ask) => Request::Credential(ask.credential()),
        Ask::Write => Request::Write { cloud, path },
        Ask::Top { .. } | Ask::Tree(_) => Request::Read {
            cloud,
            path,
            subtree: matches!(ask, Ask::Tree(ask) if ask.recursive),
            imdsv1: false,
        },
    }
}

/// Path and query as they go upstream. `scopes` are those that the grant names where the request names none.
pub(super) fn target(
    call: &Call,
    ask: &Ask,
    pinned: Option<&Identity>,
    scopes: &[Arc<str>],
) -> String {
    let account = pinned.and_then(|identity| identity.account.as_deref());
    let mut target = match account {
        Some(account) => path::encode(&account::renamed(&call.path, account)),
        None => path::encode(&call.path),
    };
    match ask {
        Ask::Token(ask) => ask.push_query(&mut target, scopes),
        Ask::Identity(ask) => ask.push_query(&mut target),
        Ask::Tree(ask) => ask.push_query(&mut target),
        Ask::Top { slash, .. } => tree::push_slash(&mut target, *slash),
        Ask::Write => {}
    }
    for (name, value) in &call.query {
        query::push_pair(&mut target, name, value);
    }
    target
}

/// Where whoever leaves out the slash behind a directory is sent: the same path with it. Without a host: whichever name or
/// address the caller used for this one is right.
pub fn moved(call: &Call) -> String {
    let target = call.rebuild(None).target;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let mut location = format!("{}/", path.trim_end_matches('/'));
    if !query.is_empty() {
        location.push('?');
        location.push_str(query);
    }
    location
}

/// Exactly the value: the real service takes no other. Both headers may be there; a wrong one is wrong.
fn has_flavor(head: &RequestHead<'_>) -> bool {
    let mut given = [FLAVOR, OLDER_FLAVOR]
        .iter()
        .flat_map(|(name, value)| head.values(name).map(move |is| is == value.as_bytes()))
        .peekable();
    given.peek().is_some() && given.all(|right| right)
}

/// POST is a GET that brings a certificate for the token to be bound to.
fn method(method: &str, names: &[&str]) -> Result<&'static str, Malformed> {
    let allow = match names {
        [
            _,
            _,
            "instance",
            "service-accounts",
            _,
            "token" | "identity",
        ] => "GET, HEAD, POST",
        [_, _, "instance", "guest-attributes", _, _] => "GET, HEAD, PUT, DELETE",
        _ => "GET, HEAD",
    };
    allow
        .split(", ")
        .find(|allowed| *allowed == method)
        .ok_or(Malformed::Method { allow })
}

fn headers(method: &str) -> Vec<(String, String)> {
    let mut headers = vec![(FLAVOR.0.to_owned(), FLAVOR.1.to_owned())];
    if method == "POST" {
        headers.push(("content-type".to_owned(), "application/json".to_owned()));
    }
    headers
}
