//! What real SDKs send parses; what attackers send doesn't; what is rebuilt means what was parsed.

mod azure;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::azure::{Ask, Format};
use super::path::PathFault;
use super::query::QueryFault;
use super::*;
use crate::http::{Scanner, Verdict, split};
use crate::policy::{Identity, Origin};
use crate::request::{AzureIdentity, CredentialAsk};

const IMDS: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const WIRESERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

fn at(address: impl Into<IpAddr>, service: Service) -> Arrival {
    Arrival {
        service,
        address: address.into(),
        port: 80,
    }
}

fn imds() -> Arrival {
    at(IMDS, Service::AzureImds)
}

/// Through the scanner first, as everything on the wire.
fn send(request: &str, arrival: &Arrival) -> Result<Call, Malformed> {
    let bytes = format!("{request}\r\n\r\n")
        .replace('\n', "\r\n")
        .replace("\r\r", "\r");
    let verdict = Scanner::new().feed(bytes.as_bytes());
    let Verdict::Head(head) = verdict else {
        panic!("{verdict:?}: {bytes}")
    };
    parse(
        &split(&bytes.as_bytes()[..head.len]).unwrap().as_head(),
        arrival,
    )
}

fn get(target: &str) -> Result<Call, Malformed> {
    send(
        &format!("GET {target} HTTP/1.1\nHost: 169.254.169.254\nMetadata: true"),
        &imds(),
    )
}

fn with(headers: &str) -> Result<Call, Malformed> {
    send(&format!("GET {TOKEN} HTTP/1.1\n{headers}"), &imds())
}

fn token(call: &Call) -> (&str, Option<&AzureIdentity>) {
    match &call.request {
        Request::Credential(CredentialAsk::AzureToken { resource, selector }) => {
            (resource, selector.as_ref())
        }
        other => panic!("{other:?}"),
    }
}

fn read(call: &Call) -> (&str, bool) {
    match &call.request {
        Request::Read {
            cloud: Cloud::Azure,
            path,
            subtree,
            ..
        } => (path, *subtree),
        other => panic!("{other:?}"),
    }
}

/// What each SDK and agent sends, row by row.
#[test]
fn what_real_clients_send() {
    let python = send(
        &format!(
            "GET {TOKEN}&client_id=11111111-2222-3333-4444-555555555555 HTTP/1.1
Host: 169.254.169.254
User-Agent: azsdk-python-identity/1.27.0 Python/3.11.2 (Linux-6.1.0-x86_64-with-glibc2.36)
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
Metadata: true
x-client-SKU: MSAL.Python
x-client-Ver: 1.39.0
x-ms-client-request-id: 5f5b0c2e-0000-0000-0000-000000000000"
        ),
        &imds(),
    )
    .unwrap();
    assert_eq!(
        token(&python),
        (
            "https://vault.azure.net",
            Some(&AzureIdentity::ClientId(
                "11111111-2222-3333-4444-555555555555".into()
            ))
        )
    );

    let probe = format!("GET {TOKEN} HTTP/1.1\nHost: 169.254.169.254");
    assert_eq!(
        send(&probe, &imds()),
        Err(Malformed::MetadataHeaderMissing),
        "Python's probe"
    );
    let probe = "GET /metadata/identity/oauth2/token HTTP/1.1\nHost: 169.254.169.254\nAccept: application/json";
    assert_eq!(
        send(probe, &imds()),
        Err(Malformed::MetadataHeaderMissing),
        "JavaScript's probe"
    );

    let js = send(
        "GET /metadata/identity/oauth2/token/?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net&msi_res_id=%2Fsubscriptions%2F0%2FresourceGroups%2Frg%2Fproviders%2FMicrosoft.ManagedIdentity%2FuserAssignedIdentities%2Fid HTTP/1.1
Host: 169.254.169.254
Metadata: true
x-client-SKU: msal.js.node
x-client-VER: 7.2.1
Content-Type: application/x-www-form-urlencoded;charset=utf-8
Connection: close",
        &imds(),
    )
    .unwrap();
    assert_eq!(token(&js).0, "https://vault.azure.net");
    assert_eq!(
        token(&js).1,
        Some(&AzureIdentity::ResourceId(
            "/subscriptions/0/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/id".into()
        ))
    );

    let rust = send(
        "GET /metadata/identity/oauth2/token?api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net HTTP/1.1
host: 169.254.169.254
metadata: true
x-identity-header: 853b9a84",
        &imds(),
    );
    assert_eq!(token(&rust.unwrap()).0, "https://vault.azure.net");

    let waagent = "GET /metadata/instance/compute?api-version=2018-02-01 HTTP/1.1\nHost: 169.254.169.254\nMetadata: True";
    assert_eq!(
        read(&send(waagent, &imds()).unwrap()),
        ("/metadata/instance/compute", true)
    );
    let mirror = waagent.replace("169.254.169.254", "168.63.129.16");
    let mirror = send(&mirror, &at(WIRESERVER, Service::AzureWireserver)).unwrap();
    assert_eq!(read(&mirror), ("/metadata/instance/compute", true));

    for version in ["2021-08-01", "2019-06-01"] {
        let cloud_init = get(&format!(
            "/metadata/instance?api-version={version}&extended=true"
        ))
        .unwrap();
        assert_eq!(read(&cloud_init), ("/metadata/instance", true));
    }
    let nonce = get("/metadata/attested/document?api-version=2020-09-01&nonce=1234567890").unwrap();
    assert_eq!(nonce.asked, Asked::Azure(Ask::ForwardOnly));
    assert!(nonce.rebuild(None).target.ends_with("nonce=1234567890"));
    assert_eq!(
        get("/metadata/versions").unwrap().asked,
        Asked::Azure(Ask::Versions)
    );
    let info = get("/metadata/identity/info?api-version=2018-02-01").unwrap();
    assert_eq!(
        (read(&info), info.asked.clone()),
        (
            ("/metadata/identity/info", false),
            Asked::Azure(Ask::IdentityInfo)
        )
    );
}

#[test]
fn one_path_for_policy_whatever_the_spelling() {
    for target in [
        "/metadata/identity/oauth2/token",
        "/Metadata/identity/oauth2/token",
        "/METADATA/Identity/OAuth2/TOKEN/",
        "//metadata//%69dentity/oauth2/token",
    ] {
        let call = get(&format!("{target}?api-version=2018-02-01&resource=r")).unwrap();
        assert_eq!(token(&call).0, "r", "{target}");
        assert!(
            call.rebuild(None)
                .target
                .starts_with("/metadata/identity/oauth2/token?")
        );
    }
    let secret =
        get("/metadata/INSTANCE/compute/USERdata?api-version=2021-01-01&format=text").unwrap();
    assert_eq!(
        read(&secret),
        ("/metadata/instance/compute/userData", false)
    );
}

#[test]
fn headers_that_speak_for_somebody_else() {
    use Malformed::*;
    let ok = "Host: 169.254.169.254\nMetadata: true";
    assert!(with(ok).is_ok());
    for (more, why) in [
        ("X-Forwarded-For: 10.0.0.1", ForwardedFor),
        ("x-FORWARDED-for:", ForwardedFor),
        ("Forwarded: for=10.0.0.1", Forwarded),
        ("Via: 1.1 squid", Forwarded),
        ("X-Real-IP: 10.0.0.1", Forwarded),
        ("X-Forwarded-Host: a", Forwarded),
        ("X-Original-URL: /", Forwarded),
        ("X-Rewrite-URL: /", Forwarded),
        ("Origin: http://evil.example", Browser),
        ("Sec-Fetch-Mode: cors", Browser),
        ("sec-fetch-Site: none", Browser),
        ("Metadata: true", DuplicateHeader),
        ("metadata: false", DuplicateHeader),
        ("Host: 169.254.169.254", DuplicateHeader),
        ("Authorization: a\nAuthorization: a", DuplicateHeader),
    ] {
        assert_eq!(with(&format!("{ok}\n{more}")), Err(why), "{more}");
    }
    for more in [
        "X-Forwarded: a",
        "Originator: b",
        "Sec-Fetc: c",
        "Authorization: a",
        "Viaduct: d",
    ] {
        assert!(with(&format!("{ok}\n{more}")).is_ok(), "{more}");
    }
    for value in ["", "false", "true, true", "1", "\"true\"", "truee"] {
        let headers = format!("Host: 169.254.169.254\nMetadata: {value}");
        assert_eq!(with(&headers), Err(MetadataHeaderMissing), "{value:?}");
    }
    for value in ["true", "True", "TRUE", " true "] {
        assert!(with(&format!("Host: 169.254.169.254\nMetadata: {value}")).is_ok());
    }
    assert_eq!(with("Metadata: true"), Err(HostMissing));
}

const FOREIGN: [&str; 26] = [
    "",
    "localhost",
    "metadata.google.internal",
    "rebound.evil.example",
    "169.254.169.254.evil.example",
    "2852039166",
    "0xA9FEA9FE",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "169.254.169.254.",
    "169.254.169.254:",
    "169.254.169.254:81",
    "169.254.169.254:+80",
    "169.254.169.254:080000080",
    "169.254.169.254:80:80",
    "user@169.254.169.254",
    "169.254.169.254 evil",
    "168.63.129.16",
    "127.0.0.1",
    "::ffff:169.254.169.254",
    "[::ffff:169.254.169.254",
    "[::ffff:169.254.169.254]x",
    "[::ffff:169.254.169.254%eth0]",
    "[169.254.169.254]",
    "[::a9fe:a9fe]",
];

#[test]
fn host_is_the_literal_that_was_dialled() {
    let mapped: Ipv6Addr = IMDS.to_ipv6_mapped();
    let try_host = |host: &str, address: IpAddr, port: u16| {
        let arrival = Arrival {
            port,
            ..at(address, Service::AzureImds)
        };
        send(
            &format!("GET {TOKEN} HTTP/1.1\nHost: {host}\nMetadata: true"),
            &arrival,
        )
        .map(|_| ())
    };
    for host in [
        "169.254.169.254",
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]:80",
        "[::FFFF:169.254.169.254]",
    ] {
        assert_eq!(try_host(host, IMDS.into(), 80), Ok(()), "{host}");
        assert_eq!(
            try_host(host, mapped.into(), 80),
            Ok(()),
            "{host}, dialled as mapped"
        );
    }
    assert_eq!(try_host("169.254.169.254:8080", IMDS.into(), 8080), Ok(()));
    assert_eq!(try_host("169.254.169.254:80", IMDS.into(), 8080), Ok(()));
    let native: Ipv6Addr = "fd00:ec2::254".parse().unwrap();
    assert_eq!(try_host("[fd00:ec2::254]", native.into(), 80), Ok(()));
    for host in FOREIGN {
        assert_eq!(
            try_host(host, IMDS.into(), 80),
            Err(Malformed::ForeignHost),
            "{host:?}"
        );
    }
}

fn ask_token(query: &str) -> Result<Call, Malformed> {
    get(&format!("/metadata/identity/oauth2/token?{query}"))
}

fn ok(query: &str) {
    assert!(ask_token(query).is_ok(), "{query}: {:?}", ask_token(query));
}

fn no(query: &str, why: Malformed) {
    assert_eq!(ask_token(query), Err(why), "{query}");
}

#[test]
fn token_versions() {
    use Malformed::*;
    for version in [
        "2018-02-01",
        "2019-08-01",
        "2030-12-31",
        "2020-06-01-preview",
    ] {
        ok(&format!("api-version={version}&resource=r"));
    }
    for version in [
        "",
        "2018-01-31",
        "2017-12-01",
        "2018-2-1",
        "2018-13-01",
        "2018-00-10",
        "2018-01-32",
        "latest",
        "2018-02-01x",
        "2018-02-01-previe",
        "20180201",
        "-2018-02-01",
        "2018-02-01-preview",
        "%2B018-02-01",
    ] {
        no(&format!("api-version={version}&resource=r"), ApiVersion);
    }
}

#[test]
fn token_resources() {
    use Malformed::*;
    let v = "api-version=2018-02-01";
    no("resource=r", ApiVersion);
    no(v, ResourceMissing);
    no(&format!("{v}&resource="), ResourceMissing);
    no(
        &format!("{v}&resource=a%20b"),
        Parameter { name: "resource" },
    );
    no(
        &format!("{v}&resource=%C3%A4"),
        Parameter { name: "resource" },
    );
    let long = |n: usize| format!("{v}&resource={}", "r".repeat(n));
    ok(&long(crate::seam::RESOURCE_LIMIT));
    no(
        &long(crate::seam::RESOURCE_LIMIT + 1),
        Parameter { name: "resource" },
    );
}

#[test]
fn token_selectors() {
    use Malformed::*;
    let v = "api-version=2018-02-01";
    let long = |n: usize| format!("{v}&resource=r&client_id={}", "c".repeat(n));
    ok(&long(crate::seam::SELECTOR_LIMIT));
    no(
        &long(crate::seam::SELECTOR_LIMIT + 1),
        Parameter { name: "client_id" },
    );
    for one in [
        "client_id=a",
        "object_id=a",
        "msi_res_id=/a",
        "mi_res_id=/a",
    ] {
        ok(&format!("{v}&resource=r&{one}"));
        for other in [
            "client_id=a",
            "object_id=a",
            "msi_res_id=/a",
            "mi_res_id=/a",
        ] {
            if one != other {
                no(&format!("{v}&resource=r&{one}&{other}"), SeveralIdentities);
            }
        }
    }
    no(
        &format!("{v}&resource=r&client_id="),
        Parameter { name: "client_id" },
    );
    no(
        &format!("{v}&resource=r&Client_Id=x"),
        Parameter { name: "client_id" },
    );
    no(
        &format!("{v}&resource=r&resource=r"),
        Query(QueryFault::Duplicate),
    );
    no(
        &format!("{v}&resource=r&RESOURCE=x"),
        Query(QueryFault::Duplicate),
    );
}

#[test]
fn other_token_parameters() {
    use Malformed::*;
    let v = "api-version=2018-02-01";
    ok(&format!("{v}&resource=r&bypass_cache=true"));
    no(
        &format!("{v}&resource=r&bypass_cache=1"),
        Parameter {
            name: "bypass_cache",
        },
    );
    let hash = "0123456789abcdef".repeat(4);
    ok(&format!(
        "{v}&resource=r&token_sha256_to_refresh={hash}&xms_cc=cp1,cp2"
    ));
    no(
        &format!("{v}&resource=r&token_sha256_to_refresh={}", &hash[1..]),
        Parameter {
            name: "token_sha256_to_refresh",
        },
    );
    ok(&format!("{v}&resource=r&something=else"));
}

#[test]
fn a_pinned_identity_is_filled_in() {
    let client = pinned("client_id");
    let target = |query: &str, pinned: Option<&Identity>| {
        get(&format!("/metadata/identity/oauth2/token?{query}"))
            .unwrap()
            .rebuild(pinned)
            .target
    };
    let start = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
    let asked = "resource=https://vault.azure.net&api-version=2018-02-01&extra=1";
    assert_eq!(target(asked, None), start);
    assert_eq!(
        target(asked, Some(&client)),
        format!("{start}&client_id=pinned")
    );
    let named = format!("{asked}&mi_res_id=/s");
    assert_eq!(
        target(&named, Some(&client)),
        format!("{start}&msi_res_id=%2Fs"),
        "as asked: policy compares it"
    );
    let by = |key| target("api-version=2018-02-01&resource=r", Some(&pinned(key)));
    assert!(by("object_id").ends_with("&object_id=pinned"));
    assert!(by("resource_id").ends_with("&msi_res_id=pinned"));
}

/// An identity of which the policy says this one thing.
fn pinned(key: &str) -> Identity {
    let value = |name: &str| (name == key).then(|| "pinned".into());
    Identity {
        client_id: value("client_id"),
        object_id: value("object_id"),
        resource_id: value("resource_id"),
        ..Identity::bare("x", Cloud::Azure, Origin::Forward)
    }
}

#[test]
fn paths_and_queries_that_mean_two_things() {
    for (target, why) in [
        (
            "/metadata/instance%2fcompute?api-version=2021-02-01",
            Malformed::Path(PathFault::EncodedSeparator),
        ),
        (
            "/metadata/instance/../identity/oauth2/token",
            Malformed::Path(PathFault::DotSegment),
        ),
        (
            "/metadata/%252e%252e/x",
            Malformed::Path(PathFault::DoubleEncoding),
        ),
        (
            "/metadata/instance?api-version=2021-02-01;format=text",
            Malformed::Query(QueryFault::Semicolon),
        ),
        (
            "/metadata/instance?api-version=2021-02-01&format=xml",
            Malformed::Parameter { name: "format" },
        ),
        ("/metadata/instance", Malformed::ApiVersion),
        (
            "/metadata/instance?api-version=2021-02-02",
            Malformed::ApiVersion,
        ),
    ] {
        assert_eq!(get(target), Err(why), "{target}");
    }
}

#[test]
fn instance_details() {
    let call =
        get("/metadata/instance/network/interface/0/ipv4?api-version=2017-04-02&format=text")
            .unwrap();
    let Asked::Azure(Ask::Instance(ask)) = &call.asked else {
        panic!()
    };
    assert_eq!(ask.path, ["network", "interface", "0", "ipv4"]);
    assert_eq!(ask.format, Format::Text);
    assert_eq!(
        read(&call),
        ("/metadata/instance/network/interface/0/ipv4", true)
    );
}

/// Other spellings of a place that a deny names: the service might understand them, policy would take them for another place.
#[test]
fn there_is_one_path_to_each_member_of_the_document() {
    let version = "?api-version=2021-02-01&format=text";
    for index in ["00", "+0", "-0", "-1", "%2B0", "007", "4294967296"] {
        let path = format!("/metadata/instance/network/interface/{index}/macAddress{version}");
        assert_eq!(get(&path), Err(PathFault::Number.into()), "{index}");
    }
    for below in [
        "userData/x",
        "userData/0",
        "UserData/userData",
        "name/location",
    ] {
        let path = format!("/metadata/instance/compute/{below}{version}");
        assert_eq!(get(&path), Err(Malformed::NotOffered), "{below}");
    }
    for path in [
        "network/interface/0/macAddress",
        "network/interface/10/ipv4/ipAddress/0/publicIpAddress",
        "compute/userData/",
        "compute/publicKeys/0/path",
        "compute/tagsList/1/name",
        "compute/storageProfile/osDisk/managedDisk/id",
        "compute/host/id",
    ] {
        assert!(
            get(&format!("/metadata/instance/{path}{version}")).is_ok(),
            "{path}"
        );
    }
}

#[test]
fn a_service_that_is_not_spoken_is_refused() {
    let call = send(
        "GET / HTTP/1.1\nHost: 169.254.169.254",
        &at(IMDS, Service::GcpMtls),
    );
    assert_eq!(call, Err(Malformed::UnknownService));
    assert_eq!(
        Service::of_endpoint("azure-hostga", Cloud::Azure),
        Service::AzureWireserver
    );
    assert_eq!(
        Service::of_endpoint("my-relay", Cloud::Azure),
        Service::AzureImds
    );
}

proptest::proptest! {
    /// What is rebuilt parses to the same call, and is rebuilt as itself.
    #[test]
    fn parse_and_rebuild_is_a_fixpoint(
        path in "(/metadata|/Metadata|//metadata)(/identity/oauth2/token|/instance(/[a-zA-Z0-9{}^%|]{0,6}){0,3}|/attested/document|/loadbalancer|/[ -~]{0,6})/?",
        query in "(&?(api-version=(2018-02-01|2021-02-01)|resource=[!-~]{1,9}|client_id=[a-z%0-9]{1,9}|msi_res_id=/[a-z]{1,5}|bypass_cache=true|format=text|[a-z]{1,4}=[!-~]{0,6})){0,5}",
    ) {
        let target = format!("{path}?{query}");
        let host: &[u8] = b"169.254.169.254";
        let headers = [("Host", host), ("Metadata", b"true".as_slice())];
        let head = RequestHead { method: "GET", target: &target, headers: &headers };
        if let Ok(call) = parse(&head, &imds()) {
            let rebuilt = call.rebuild(None);
            let head = RequestHead { method: rebuilt.method, target: &rebuilt.target, headers: &headers };
            let again = parse(&head, &imds());
            proptest::prop_assert_eq!(again.as_ref().map(|c| &c.request), Ok(&call.request), "{}", rebuilt.target);
            proptest::prop_assert_eq!(again.as_ref().map(|c| &c.asked), Ok(&call.asked));
            proptest::prop_assert_eq!(again.unwrap().rebuild(None), rebuilt);
        }
    }
}
