//! Headers that say "this request was made for somebody else": forwarded, from a browser, for another host, or twice.
//! These checks are what an SSRF or a rebound DNS name fails (attacks 44 to 47, 53).
//! Must never: take anything from a header as the caller's identity.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Arrival, Malformed};
use crate::http::RequestHead;
use crate::request::Cloud;

/// Where a front server says that it stands between. `X-Forwarded-For` is refused by the real services, too.
const FORWARDED: [&str; 6] = [
    "forwarded",
    "via",
    "x-real-ip",
    "x-forwarded-host",
    "x-original-url",
    "x-rewrite-url",
];

/// Headers that decide something, on any cloud: given twice, two readers may take two values.
const ONCE: [&str; 9] = [
    "metadata",
    "metadata-flavor",
    "x-google-metadata-request",
    "x-aws-ec2-metadata-token",
    "x-aws-ec2-metadata-token-ttl-seconds",
    "authorization",
    "x-identity-header",
    "content-length",
    "content-type",
];

/// All checks that don't depend on the path.
///
/// # Errors
/// The first check that fails.
pub(super) fn check(head: &RequestHead<'_>, arrival: &Arrival) -> Result<(), Malformed> {
    if has(head, "x-forwarded-for") {
        return Err(Malformed::ForwardedFor);
    }
    if FORWARDED.iter().any(|name| has(head, name)) {
        return Err(Malformed::Forwarded);
    }
    if head.headers.iter().any(|(name, _)| from_browser(name)) {
        return Err(Malformed::Browser);
    }
    if ONCE.iter().any(|name| head.values(name).nth(1).is_some()) {
        return Err(Malformed::DuplicateHeader);
    }
    host(head, arrival)
}

fn has(head: &RequestHead<'_>, name: &str) -> bool {
    head.values(name).next().is_some()
}

fn from_browser(name: &str) -> bool {
    const PREFIX: &str = "sec-fetch-";
    name.eq_ignore_ascii_case("origin")
        || name
            .get(..PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

/// Names of Google's metadata server. Nobody else's name is among them, so none can be rebound.
const GOOGLE: [&str; 3] = [
    "metadata.google.internal",
    "metadata.google.internal.",
    "metadata",
];

/// Exactly one `Host`, and it is the literal address that the kernel saw dialled: a literal can't be rebound. Or one of the
/// service's own names, where it has any.
fn host(head: &RequestHead<'_>, arrival: &Arrival) -> Result<(), Malformed> {
    let mut hosts = head.values("host");
    let (host, more) = (hosts.next(), hosts.next());
    if more.is_some() {
        return Err(Malformed::DuplicateHeader);
    }
    let host = host.ok_or(Malformed::HostMissing)?;
    let host = std::str::from_utf8(host).map_err(|_| Malformed::ForeignHost)?;
    if arrival.service.cloud() == Cloud::Gcp && is_named(host, &GOOGLE, arrival.port) {
        return Ok(());
    }
    match literal(host) {
        Some((address, port))
            if address.to_canonical() == arrival.address.to_canonical()
                && port.is_none_or(|port| port == 80 || port == arrival.port) =>
        {
            Ok(())
        }
        _ => Err(Malformed::ForeignHost),
    }
}

/// Whether it is one of `names`, in any case, with no port, the usual one, or the one that was dialled.
fn is_named(host: &str, names: &[&str], dialled: u16) -> bool {
    let (name, port) = host.split_once(':').unwrap_or((host, "80"));
    names.iter().any(|own| name.eq_ignore_ascii_case(own))
        && (port == "80" || port == dialled.to_string())
}

/// An address literal with an optional port, in the one spelling that everyone reads alike: no decimal, hexadecimal or
/// octal IPv4, no zone, no user information.
fn literal(host: &str) -> Option<(IpAddr, Option<u16>)> {
    let (address, port): (IpAddr, &str) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.into(), port)
        }
        None => {
            let at = host.find(':').unwrap_or(host.len());
            let (address, port) = host.split_at(at);
            (address.parse::<Ipv4Addr>().ok()?.into(), port)
        }
    };
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((address, None)),
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some((address, Some(digits.parse().ok()?)))
        }
        _ => None,
    }
}
