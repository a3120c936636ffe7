//! What real clients send parses; what attackers send doesn't; what is rebuilt means what was parsed; answers, byte by byte
//! where clients look at bytes.

mod shown;

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use super::document::{Fault, render};
use super::recursive::{Looked, look, look_text};
use super::*;
use crate::http::RequestHead;
use crate::imds::path::PathFault;
use crate::imds::query::QueryFault;
use crate::imds::{Service, parse};
use crate::policy::Origin;
use crate::request::CredentialAsk;

const SERVER: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);
const GOOGLE: [(&str, &str); 2] = [
    ("Host", "metadata.google.internal"),
    ("Metadata-Flavor", "Google"),
];

fn send_to(
    service: Service,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Call, Malformed> {
    let headers: Vec<(&str, &[u8])> = headers.iter().map(|(n, v)| (*n, v.as_bytes())).collect();
    let head = RequestHead {
        method,
        target,
        headers: &headers,
    };
    let arrival = Arrival {
        service,
        address: SERVER.into(),
        port: 80,
    };
    parse(&head, &arrival)
}

fn send(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Call, Malformed> {
    send_to(Service::GcpMetadata, method, target, headers)
}

fn get(below: &str) -> Result<Call, Malformed> {
    send("GET", &format!("/computeMetadata/v1/{below}"), &GOOGLE)
}

fn tree(call: &Call) -> &TreeAsk {
    match &call.asked {
        Asked::Gcp(Ask::Tree(ask)) => ask,
        other => panic!("{other:?}"),
    }
}

fn read(call: &Call) -> (&str, bool) {
    match &call.request {
        Request::Read {
            cloud: Cloud::Gcp,
            path,
            subtree,
            imdsv1: false,
        } => (path, *subtree),
        other => panic!("{other:?}"),
    }
}

fn token(call: &Call) -> (&str, Vec<&str>) {
    match &call.request {
        Request::Credential(CredentialAsk::GcpToken { account, scopes }) => {
            (account, scopes.iter().map(|s| &**s).collect())
        }
        other => panic!("{other:?}"),
    }
}

const DEFAULT: &str = "instance/service-accounts/default";

/// What each library and agent sends, row by row.
#[test]
#[expect(clippy::too_many_lines, reason = "a table, row by row")]
fn what_real_clients_send() {
    // Python's and Go's probe; Go's has no header.
    for headers in [&GOOGLE[..], &[("Host", "169.254.169.254")]] {
        let probe = send("GET", "/", headers).unwrap();
        assert_eq!(
            probe.asked,
            Asked::Gcp(Ask::Top {
                listing: "computeMetadata/\n",
                slash: true
            })
        );
    }
    let python = [
        ("host", "metadata.google.internal"),
        ("metadata-flavor", "Google"),
        (
            "x-goog-api-client",
            "gl-python/3.11 auth/2.62 auth-request-type/at cred-type/mds",
        ),
    ];
    let target = format!(
        "/computeMetadata/v1/{DEFAULT}/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fa%2Cb"
    );
    let call = send("GET", &target, &python).unwrap();
    assert_eq!(
        token(&call),
        ("default", vec!["https://www.googleapis.com/auth/a", "b"])
    );
    let account = get(&format!("{DEFAULT}/?recursive=true")).unwrap();
    let path = format!("/computeMetadata/v1/{DEFAULT}");
    assert_eq!(read(&account), (path.as_str(), true));
    assert!(tree(&account).slash);

    // JavaScript: no slash, and an audience that isn't encoded.
    let js = get("instance").unwrap();
    assert_eq!(read(&js), ("/computeMetadata/v1/instance", false));
    assert_eq!(moved(&js), "/computeMetadata/v1/instance/");
    let js = get(&format!(
        "{DEFAULT}/identity?format=full&audience=https://aud.example/x?y=1"
    ));
    let Asked::Gcp(Ask::Identity(ask)) = js.unwrap().asked else {
        panic!("no identity")
    };
    assert_eq!(
        (&*ask.audience, ask.format),
        ("https://aud.example/x?y=1", Format::Full)
    );

    // cloud-init, and the guest agent that waits.
    let attributes = get("instance/attributes/?recursive=True").unwrap();
    assert_eq!(
        read(&attributes),
        ("/computeMetadata/v1/instance/attributes", true)
    );
    let agent = get(
        "?timeout_sec=60&last_etag=411261ca6c9e4a1e&alt=json&recursive=true&wait_for_change=true",
    )
    .unwrap();
    assert_eq!(read(&agent), ("/computeMetadata/v1", true));
    assert_eq!(
        tree(&agent).wait,
        Some(Wait {
            timeout: 60,
            last_etag: Some("411261ca6c9e4a1e".into())
        })
    );
    let keys = "/computeMetadata/v1/instance/guest-attributes/hostkeys/ssh-rsa";
    let put = send("PUT", keys, &GOOGLE).unwrap();
    assert!(matches!(put.request, Request::Write { .. }));
    let login = get("oslogin/users?username=a_b&cachebuster=1").unwrap();
    assert!(
        login
            .rebuild(None)
            .target
            .ends_with("oslogin/users?username=a_b&cachebuster=1")
    );
}

#[test]
fn the_header_that_no_page_can_send() {
    let path = "/computeMetadata/v1/instance/zone";
    let host = ("Host", "metadata.google.internal");
    for header in [
        ("Metadata-Flavor", "Google"),
        ("metadata-flavor", "Google"),
        ("X-Google-Metadata-Request", "True"),
    ] {
        let call = send("GET", path, &[host, header]).unwrap();
        // Whichever the caller sent, the real server has the one that it documents, and no other of the caller's.
        assert_eq!(
            call.rebuild(None).headers,
            [("metadata-flavor".to_owned(), "Google".to_owned())]
        );
    }
    for headers in [
        vec![],
        vec![("Metadata-Flavor", "google")],
        vec![("Metadata-Flavor", "")],
        vec![("Metadata-Flavor", "Google, Google")],
        vec![("Metadata", "true")],
        vec![("X-Google-Metadata-Request", "true")],
        vec![
            ("Metadata-Flavor", "Azure"),
            ("X-Google-Metadata-Request", "True"),
        ],
    ] {
        for path in [path, "/computeMetadata", "/computeMetadata/v1beta1/x"] {
            let all: Vec<_> = [host].into_iter().chain(headers.clone()).collect();
            let call = send("GET", path, &all);
            assert_eq!(call, Err(Malformed::FlavorMissing), "{path} {headers:?}");
        }
    }
    for (more, why) in [
        (("X-Forwarded-For", "10.0.0.1"), Malformed::ForwardedFor),
        (("Via", "1.1 squid"), Malformed::Forwarded),
        (("Origin", "http://evil.example"), Malformed::Browser),
        (("Metadata-Flavor", "Google"), Malformed::DuplicateHeader),
    ] {
        let all = [GOOGLE[0], GOOGLE[1], more];
        assert_eq!(send("GET", path, &all), Err(why), "{more:?}");
        assert!(send("GET", "/", &[host, more]).is_err() || more.0 == "Metadata-Flavor");
    }
}

#[test]
fn the_names_of_the_server() {
    let path = "/computeMetadata/v1/instance/zone";
    for host in [
        "metadata.google.internal",
        "metadata.google.internal.",
        "metadata.google.internal:80",
        "Metadata.Google.Internal",
        "metadata",
        "169.254.169.254",
        "169.254.169.254:80",
        "[::ffff:169.254.169.254]",
    ] {
        assert!(
            send("GET", path, &[("Host", host), GOOGLE[1]]).is_ok(),
            "{host}"
        );
    }
    for host in [
        "",
        "metadata.google.internal.evil.example",
        "metadata.google.internal:81",
        "metadata.google.internal:80:80",
        "metadata.google.internal..",
        "metadata.google.internal:",
        "metadata.",
        "user@metadata.google.internal",
        "rebound.evil.example",
        "2852039166",
        "[fd20:ce::254]",
    ] {
        let call = send("GET", path, &[("Host", host), GOOGLE[1]]);
        assert_eq!(call, Err(Malformed::ForeignHost), "{host}");
    }
    // They are Google's alone.
    let azure = send_to(
        Service::AzureImds,
        "GET",
        "/metadata/instance",
        &[GOOGLE[0], ("Metadata", "true")],
    );
    assert_eq!(azure, Err(Malformed::ForeignHost));
}

#[test]
fn nothing_is_spoken_where_nobody_can_look() {
    let call = send_to(Service::GcpMtls, "GET", "/", &GOOGLE);
    assert_eq!(call, Err(Malformed::UnknownService));
}

/// In no spelling is a credential, or what one is made from, a read.
#[test]
#[expect(clippy::too_many_lines, reason = "a table, row by row")]
fn what_gives_a_credential_is_no_read() {
    for below in [
        "instance/service-accounts/default/token",
        "instance/service-accounts/default/token/",
        "instance//service-accounts/default/%74oken",
        "instance/service-accounts/default/token?recursive=true",
        "instance/service-accounts/a@p.iam.gserviceaccount.com/token?alt=json&wait_for_change=true",
        "instance/service-accounts/default/identity?audience=a",
        "instance/service-accounts/default/identity/?audience=a&alt=text&recursive=true",
    ] {
        let call = get(below).unwrap();
        assert!(matches!(call.request, Request::Credential(_)), "{below}");
    }
    for below in [
        "Instance/service-accounts/default/token",
        "instance/Service-Accounts/default/token",
        "instance/serviceAccounts/default/token",
        "instance/service_accounts/default/token",
        "instance/service-accounts/default/Token",
        "instance/service-accounts/default/TOKEN",
        "instance/service-accounts/default/token/x",
        "instance/service-accounts/default/email/x",
        "instance/service-accounts/default/other",
        "instance/credentials/certs",
        "instance/Credentials/certs",
        "instance/gce-workload-certificates/workload-identities",
        "instance/gceWorkloadCertificates/workload-identities",
        "instance/gce-workload-certificates/?recursive=true",
        "instance/workload-identities",
        "instance/Attributes/user-data",
        "project/Attributes/x",
        "Project/attributes/x",
        "anything",
    ] {
        assert_eq!(get(below), Err(Malformed::NotOffered), "{below}");
    }
    for target in [
        "/0.1/meta-data/service-accounts/default/acquire",
        "/computeMetadata/v1beta1/instance/service-accounts/default/token",
        "/computeMetadata/v1alpha1/instance/id",
        "/computemetadata/v1/instance/service-accounts/default/token",
        "/computeMetadata/V1/instance/service-accounts/default/token",
        "/latest/meta-data/",
        "/metadata/instance",
    ] {
        assert_eq!(
            send("GET", target, &GOOGLE),
            Err(Malformed::NotOffered),
            "{target}"
        );
    }
    for (below, why) in [
        (
            "instance/service-accounts/default/%2574oken",
            PathFault::DoubleEncoding,
        ),
        (
            "instance/attributes/../service-accounts/default/token",
            PathFault::DotSegment,
        ),
        (
            "instance/service-accounts%2fdefault/token",
            PathFault::EncodedSeparator,
        ),
        (
            "instance/service-accounts/default/token;x",
            PathFault::Parameter,
        ),
        ("instance/disks/00/type", PathFault::Number),
        ("instance/network-interfaces/+0/ip", PathFault::Number),
    ] {
        assert_eq!(get(below), Err(why.into()), "{below}");
    }
    for below in [
        "instance/disks/0/type",
        "instance/attributes/007",
        "instance/attributes/Token",
    ] {
        assert!(
            matches!(get(below).unwrap().request, Request::Read { .. }),
            "{below}"
        );
    }
}

#[test]
fn recursion_is_a_yes_or_a_no() {
    for (value, recursive) in [
        ("true", true),
        ("True", true),
        ("TRUE", true),
        ("1", true),
        ("false", false),
        ("0", false),
    ] {
        let call = get(&format!("instance/?recursive={value}")).unwrap();
        assert_eq!(read(&call).1, recursive, "{value}");
        assert_eq!(
            call.rebuild(None).target.ends_with("?recursive=true"),
            recursive
        );
    }
    let odd = Err(Malformed::Parameter { name: "recursive" });
    for query in [
        "recursive=",
        "recursive",
        "recursive=yes",
        "recursive=t",
        "recursive=2",
        "Recursive=true",
    ] {
        assert_eq!(get(&format!("instance/?{query}")), odd, "{query}");
    }
    assert_eq!(send("GET", "/?recursive=true", &GOOGLE), odd);
    assert_eq!(
        send("GET", "/computeMetadata/?recursive=true", &GOOGLE),
        odd
    );
    assert_eq!(
        get("instance/?recursive=false&recursive=true"),
        Err(QueryFault::Duplicate.into())
    );
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table, row by row")]
fn parameters_have_the_values_that_they_can_have() {
    for (below, name) in [
        ("instance/zone?alt=xml", "alt"),
        ("instance/zone?alt=JSON", "alt"),
        ("instance/zone?ALT=json", "alt"),
        ("instance/zone?wait_for_change=maybe", "wait_for_change"),
        (
            "instance/zone?wait_for_change=true&timeout_sec=-1",
            "timeout_sec",
        ),
        (
            "instance/zone?wait_for_change=true&timeout_sec=",
            "timeout_sec",
        ),
        (
            "instance/zone?wait_for_change=true&timeout_sec=1e3",
            "timeout_sec",
        ),
        ("instance/zone?wait_for_change=true&last_etag=", "last_etag"),
        (
            "instance/zone?wait_for_change=true&last_etag=a%20b",
            "last_etag",
        ),
        (
            "instance/service-accounts/default/token?scopes=a,,b",
            "scopes",
        ),
        (
            "instance/service-accounts/default/token?scopes=a%20b",
            "scopes",
        ),
        ("instance/service-accounts/default/token?Scopes=a", "scopes"),
        (
            "instance/service-accounts/default/identity?audience=a%20b",
            "audience",
        ),
        (
            "instance/service-accounts/default/identity?audience=a&format=FULL",
            "format",
        ),
        (
            "instance/service-accounts/default/identity?audience=a&licenses=maybe",
            "licenses",
        ),
    ] {
        assert_eq!(get(below), Err(Malformed::Parameter { name }), "{below}");
    }
    for below in ["identity", "identity?audience=", "identity?format=full"] {
        let call = get(&format!("{DEFAULT}/{below}"));
        assert_eq!(call, Err(Malformed::AudienceMissing), "{below}");
    }
    let long = "a".repeat(1025);
    let call = get(&format!("{DEFAULT}/identity?audience={long}"));
    assert_eq!(call, Err(Malformed::Parameter { name: "audience" }));
    let many: Vec<String> = (0..65).map(|n| format!("s{n}")).collect();
    let call = get(&format!("{DEFAULT}/token?scopes={}", many.join(",")));
    assert_eq!(call, Err(Malformed::Parameter { name: "scopes" }));
    // A wait is bounded, whatever the caller says.
    for seconds in ["101", "99999", "99999999999999999999999"] {
        let call = get(&format!(
            "?recursive=1&wait_for_change=1&timeout_sec={seconds}"
        ))
        .unwrap();
        assert_eq!(tree(&call).wait.as_ref().unwrap().timeout, WAIT_LIMIT);
    }
}

#[test]
fn methods() {
    let token = "/computeMetadata/v1/instance/service-accounts/default/token";
    let key = "/computeMetadata/v1/instance/guest-attributes/a/b";
    let zone = "/computeMetadata/v1/instance/zone";
    for (method, target) in [
        ("HEAD", zone),
        ("HEAD", token),
        ("POST", token),
        ("PUT", key),
        ("DELETE", key),
    ] {
        assert!(send(method, target, &GOOGLE).is_ok(), "{method} {target}");
    }
    for (method, target, allow) in [
        ("POST", zone, "GET, HEAD"),
        ("PUT", token, "GET, HEAD, POST"),
        (
            "PUT",
            "/computeMetadata/v1/instance/guest-attributes/a",
            "GET, HEAD",
        ),
        (
            "PUT",
            "/computeMetadata/v1/instance/attributes/a/b",
            "GET, HEAD",
        ),
        ("POST", key, "GET, HEAD, PUT, DELETE"),
        ("OPTIONS", "/", "GET, HEAD"),
        ("get", zone, "GET, HEAD"),
    ] {
        let call = send(method, target, &GOOGLE);
        assert_eq!(call, Err(Malformed::Method { allow }), "{method} {target}");
    }
    let bound = send("POST", token, &GOOGLE).unwrap();
    assert!(matches!(bound.request, Request::Credential(_)));
    let rebuilt = bound.rebuild(None);
    assert_eq!(rebuilt.method, "POST");
    assert!(
        rebuilt
            .headers
            .iter()
            .any(|(name, value)| name == "content-type" && value == "application/json")
    );
}

fn identity(account: &str) -> Identity {
    Identity {
        account: Some(account.into()),
        ..Identity::bare("build", Cloud::Gcp, Origin::Forward)
    }
}

#[test]
fn what_a_grant_names_is_filled_in() {
    let build = identity("build@p.iam.gserviceaccount.com");
    let granted: Vec<Arc<str>> = vec!["https://a".into(), "b".into()];
    let below = "/computeMetadata/v1/instance/service-accounts/build@p.iam.gserviceaccount.com";
    let call = get(&format!("{DEFAULT}/token")).unwrap();
    assert_eq!(
        call.rebuild_for(Some(&build), &granted).target,
        format!("{below}/token?scopes=https%3A%2F%2Fa%2Cb")
    );
    let call = get(&format!("{DEFAULT}/token?scopes=c")).unwrap();
    assert_eq!(
        call.rebuild_for(Some(&build), &granted).target,
        format!("{below}/token?scopes=c")
    );
    let call = get(&format!(
        "{DEFAULT}/identity?licenses=true&audience=a/b&x=y"
    ))
    .unwrap();
    assert_eq!(
        call.rebuild_for(Some(&build), &granted).target,
        format!("{below}/identity?audience=a%2Fb&licenses=TRUE")
    );
    let call = get(&format!("{DEFAULT}/?recursive=true")).unwrap();
    assert_eq!(
        call.rebuild_for(Some(&build), &granted).target,
        format!("{below}/?recursive=true")
    );
    let call = get("instance/zone?x=y").unwrap();
    assert_eq!(
        call.rebuild_for(Some(&build), &granted).target,
        "/computeMetadata/v1/instance/zone"
    );
}

proptest::proptest! {
    #[test]
    fn what_is_rebuilt_means_the_same(below in "(instance|project)/[a-z0-9/@.-]{0,30}(\\?[a-z_]{1,8}=[ -~]{0,20})?") {
        if let Ok(call) = get(&below) {
            let rebuilt = call.rebuild(None).target;
            let again = send("GET", &rebuilt, &GOOGLE).unwrap();
            proptest::prop_assert_eq!(&again.request, &call.request);
            proptest::prop_assert_eq!(again.rebuild(None).target, rebuilt);
        }
    }
}
