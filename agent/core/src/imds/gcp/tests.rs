//! What real clients send parses; what attackers send doesn't; what is rebuilt means what was parsed; answers, byte by byte
//! where clients look at bytes.

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
        name: "build".into(),
        cloud: Cloud::Gcp,
        origin: Origin::Forward,
        client_id: None,
        object_id: None,
        resource_id: None,
        tenant_id: None,
        role: None,
        session_policy: None,
        tags: std::collections::BTreeMap::new(),
        account: Some(account.into()),
        subject: None,
        lifetime_seconds: 3600,
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

fn document() -> Value {
    json!({
        "instance": {
            "id": 1_234_567_890_123_456_789_u64,
            "zone": "projects/1/zones/europe-west1-b",
            "tags": ["http-server", "ssh"],
            "attributes": {"user-data": "#cloud-config", "ssh-keys": "a"},
            "network-interfaces": [{"ip": "10.0.0.2", "access-configs": [{"external-ip": "203.0.113.1"}]}],
            "service-accounts": {"default": {"email": "sa@p.iam.gserviceaccount.com", "aliases": ["default"],
                "scopes": ["https://a", "https://b"], "token": "ya29.secret"}},
            "credentials": {"certs": "secret"},
            "gce-workload-certificates": {"workload-identities": "secret"},
        },
        "project": {"project-id": "p", "attributes": {"enable-oslogin": "TRUE"}},
    })
}

fn shown(below: &str) -> Result<(Form, String), Fault> {
    let call = get(below).unwrap();
    render(&document(), tree(&call), call.path())
}

#[test]
fn a_document_is_shown_as_the_server_shows_its_tree() {
    let text = |text: &str| Ok((Form::Text, text.to_owned()));
    let json = |json: Value| Ok((Form::Json, json.to_string()));
    assert_eq!(shown("project/project-id"), text("p"));
    assert_eq!(shown("project/project-id?alt=json"), json(json!("p")));
    assert_eq!(shown("instance/id"), text("1234567890123456789"));
    assert_eq!(shown("instance/tags"), json(json!(["http-server", "ssh"])));
    assert_eq!(
        shown("instance/"),
        text("attributes/\nid\nnetwork-interfaces/\nservice-accounts/\ntags\nzone\n")
    );
    assert_eq!(shown("instance"), Err(Fault::Moved));
    assert_eq!(shown("instance/zone/"), Err(Fault::NotFound));
    assert_eq!(shown("instance/nothing"), Err(Fault::NotFound));
    assert_eq!(shown("instance/zone/x"), Err(Fault::NotFound));
    assert_eq!(shown("instance/network-interfaces/"), text("0/\n"));
    assert_eq!(shown("instance/network-interfaces/0/ip"), text("10.0.0.2"));
    assert_eq!(
        shown("instance/network-interfaces/1/ip"),
        Err(Fault::NotFound)
    );
    let by_email = "instance/service-accounts/sa@p.iam.gserviceaccount.com";
    for account in [DEFAULT, by_email] {
        assert_eq!(
            shown(&format!("{account}/")),
            text("aliases\nemail\nidentity\nscopes\ntoken\n")
        );
        assert_eq!(
            shown(&format!("{account}/scopes")),
            text("https://a\nhttps://b\n")
        );
        assert_eq!(
            shown(&format!("{account}/?recursive=true")),
            json(
                json!({"aliases": ["default"], "email": "sa@p.iam.gserviceaccount.com", "scopes": ["https://a", "https://b"]})
            )
        );
    }
}

#[test]
fn a_recursive_read_has_other_names_and_no_credential() {
    let (form, whole) = shown("?recursive=true").unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(form, Form::Json);
    let instance = &whole["instance"];
    assert_eq!(
        instance["networkInterfaces"][0]["accessConfigs"][0]["externalIp"],
        "203.0.113.1"
    );
    assert_eq!(instance["attributes"]["user-data"], "#cloud-config");
    assert_eq!(instance["id"], 1_234_567_890_123_456_789_u64);
    assert_eq!(whole["project"]["projectId"], "p");
    assert_eq!(whole["project"]["attributes"]["enable-oslogin"], "TRUE");
    assert!(!whole.to_string().contains("secret"), "{whole}");
    let (_, lines) = shown("instance/?recursive=true&alt=text").unwrap();
    assert!(
        lines.contains("attributes/user-data #cloud-config\n"),
        "{lines}"
    );
    assert!(
        lines.contains("network-interfaces/0/access-configs/0/external-ip 203.0.113.1\n"),
        "{lines}"
    );
    assert!(!lines.contains("secret"), "{lines}");
}

/// The real server isn't known to show any, and through us it never does.
#[test]
fn a_credential_in_a_recursive_answer_is_left_out() {
    let secret = json!({"access_token": "ya29.secret"});
    let account = json!({"email": "e", "token": secret, "identity": "eyJ", "scopes": []});
    let instance = json!({"id": 1, "serviceAccounts": {"default": account}, "gceWorkloadCertificates": {"k": "PRIVATE"},
        "attributes": {"token": "my own"}});
    for (path, body) in [
        (
            "/computeMetadata/v1",
            json!({"instance": instance, "project": {}}),
        ),
        ("/computeMetadata/v1/instance", instance.clone()),
        (
            "/computeMetadata/v1/instance/service-accounts",
            json!({"default": account}),
        ),
        (
            "/computeMetadata/v1/instance/service-accounts/default",
            account.clone(),
        ),
    ] {
        let Looked::Without(clean) = look(path, body.to_string().as_bytes()) else {
            panic!("{path}")
        };
        assert!(clean.contains(r#""email":"e""#), "{clean}");
        for secret in ["ya29", "eyJ", "PRIVATE"] {
            assert!(!clean.contains(secret), "{path}: {clean}");
        }
        assert_eq!(look(path, clean.as_bytes()), Looked::Clean);
    }
    let own = json!({"token": "my own", "credentials": "mine"}).to_string();
    let attributes = "/computeMetadata/v1/instance/attributes";
    assert_eq!(look(attributes, own.as_bytes()), Looked::Clean);
    assert_eq!(look(attributes, b"token my own"), Looked::Unreadable);

    let lines = b"id 1\nservice-accounts/default/email e\nattributes/token my own\n";
    let instance = "/computeMetadata/v1/instance";
    assert_eq!(look_text(instance, lines), Looked::Clean);
    for line in ["service-accounts/default/token {}", "credentials/certs x"] {
        assert_eq!(
            look_text(instance, line.as_bytes()),
            Looked::Unreadable,
            "{line}"
        );
    }
    let below = "/computeMetadata/v1/instance/service-accounts/default";
    assert_eq!(look_text(below, b"token {}"), Looked::Unreadable);
}

#[test]
fn the_callers_own_account_is_the_one_of_its_rule() {
    let own = |below: &str| {
        let call = get(below).unwrap();
        let (_, part) = account_part(call.path()).unwrap();
        let scopes: Vec<Arc<str>> = vec!["https://a".into()];
        answer::account(part, "sa@p", &scopes, tree(&call))
    };
    let object = json!({"aliases": ["default"], "email": "sa@p", "scopes": ["https://a"]});
    assert_eq!(
        own(&format!("{DEFAULT}/?recursive=true")),
        (Form::Json, object.to_string())
    );
    assert_eq!(
        own(&format!("{DEFAULT}/email")),
        (Form::Text, "sa@p".into())
    );
    assert_eq!(
        own(&format!("{DEFAULT}/scopes")),
        (Form::Text, "https://a\n".into())
    );
    assert_eq!(
        own("instance/service-accounts/"),
        (Form::Text, "sa@p/\ndefault/\n".into())
    );
    assert_eq!(
        own("instance/service-accounts/?recursive=true").1,
        json!({"default": object, "sa@p": object}).to_string()
    );
    assert_eq!(
        account_part("/computeMetadata/v1/instance/service-accounts-x"),
        None
    );
    assert_eq!(account_part("/computeMetadata/v1/instance/zone"), None);
}

#[test]
fn a_token_has_fewer_seconds_left_each_time_and_they_are_a_number() {
    let given = br#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#;
    let token = answer::AccessToken::read(given, 1000).unwrap();
    assert_eq!(token.expires, 4599);
    let body: Value = serde_json::from_str(token.body(1100).expose()).unwrap();
    assert_eq!(
        body,
        json!({"access_token": "ya29.x", "expires_in": 3499, "token_type": "Bearer"})
    );
    assert!(token.body(9999).expose().contains(r#""expires_in":0"#));
    assert!(!format!("{token:?}").contains("ya29"));
    for other in [
        "",
        "{}",
        r#"{"access_token":"x","expires_in":"3599","token_type":"Bearer"}"#,
        "<html>",
    ] {
        assert!(
            answer::AccessToken::read(other.as_bytes(), 0).is_none(),
            "{other}"
        );
    }
    assert_eq!(answer::etag(b"a").len(), 16);
    assert_ne!(answer::etag(b"a"), answer::etag(b"b"));
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
