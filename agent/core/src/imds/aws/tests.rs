//! What real SDKs send parses; what would lead round a rule doesn't; what is rebuilt means what was parsed.

use super::*;
use crate::http::{Scanner, Verdict, split};
use crate::imds::Asked;
use crate::imds::parse;
use crate::request::{Cloud, CredentialAsk, Request};

const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

fn send_to(service: Service, address: [u8; 4], request: &str) -> Result<Call, Malformed> {
    let host = std::net::Ipv4Addr::from(address);
    let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
    let headers = headers.lines().map(|line| format!("{line}\r\n"));
    let headers: String = headers.collect();
    let bytes = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n");
    let verdict = Scanner::new().feed(bytes.as_bytes());
    let Verdict::Head(head) = verdict else {
        panic!("{verdict:?}: {bytes}")
    };
    let arrival = Arrival {
        service,
        address: address.into(),
        port: 80,
    };
    let head = split(&bytes.as_bytes()[..head.len]).unwrap();
    parse(&head.as_head(), &arrival)
}

fn send(request: &str) -> Result<Call, Malformed> {
    send_to(Service::AwsImds, [169, 254, 169, 254], request)
}

fn container(request: &str) -> Result<Call, Malformed> {
    send_to(Service::AwsContainer, [169, 254, 170, 2], request)
}

/// With a token, as IMDSv2 has it.
fn get(target: &str) -> Result<Call, Malformed> {
    send(&format!("GET {target}\nX-aws-ec2-metadata-token: dG9rZW4="))
}

fn read(call: &Call) -> (&str, bool) {
    match &call.request {
        Request::Read {
            cloud: Cloud::Aws,
            path,
            subtree: false,
            imdsv1,
        } => (path, *imdsv1),
        other => panic!("{other:?}"),
    }
}

fn role(call: &Call) -> (Option<&str>, bool) {
    match &call.request {
        Request::Credential(CredentialAsk::AwsRole { role, imdsv1 }) => (role.as_deref(), *imdsv1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_session_token_is_asked_for_as_the_sdks_do() {
    for request in [
        "PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 21600\nContent-Length: 0",
        // The Rust SDK sends no length at all.
        "PUT /latest/api/token\nx-aws-ec2-metadata-token-ttl-seconds: 21600",
        "PUT //latest/api/token/\nx-aws-ec2-metadata-token-ttl-seconds: 21600",
    ] {
        let call = send(request).unwrap();
        assert_eq!(call.asked, Asked::Aws(Ask::Session { ttl: 21_600 }));
        assert!(!call.asked.is_imdsv1());
    }
    let ttl = |value: &str| {
        send(&format!(
            "PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: {value}"
        ))
    };
    for good in ["1", "60", "21600", "021600"] {
        assert!(ttl(good).is_ok(), "{good}");
    }
    for bad in [
        "0",
        "21601",
        "-1",
        "+60",
        "1.5",
        "x",
        "",
        "99999999999999999999",
        "60, 60",
    ] {
        assert_eq!(ttl(bad), Err(Malformed::SessionTtl), "{bad}");
    }
    assert_eq!(send("PUT /latest/api/token"), Err(Malformed::SessionTtl));
    assert_eq!(
        send("PUT /2021-03-23/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 60"),
        Err(Malformed::SessionPath)
    );
    assert_eq!(
        get("/latest/api/token"),
        Err(Malformed::Method { allow: "PUT" })
    );
    assert_eq!(
        send(
            "PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 60\nX-Forwarded-For: 10.0.0.1"
        ),
        Err(Malformed::ForwardedFor)
    );
}

#[test]
fn versions_are_one_thing_to_policy_and_stay_what_they_are_upstream() {
    for version in ["latest", "1.0", "2009-04-04", "2021-07-15", "2031-01-01"] {
        let call = get(&format!("/{version}/meta-data/placement/region")).unwrap();
        assert_eq!(read(&call), ("/latest/meta-data/placement/region", false));
        let rebuilt = call.rebuild(None);
        assert_eq!(
            rebuilt.target,
            format!("/{version}/meta-data/placement/region")
        );
        assert_eq!(
            rebuilt.secret, None,
            "the session upstream is the agent's own"
        );
    }
    for other in [
        "Latest",
        "LATEST",
        "2021-7-15",
        "2021-07-150",
        "1.1",
        "openstack",
        "latest-2",
    ] {
        let call = get(&format!("/{other}/meta-data/instance-id"));
        assert_eq!(call, Err(Malformed::NotOffered), "{other}");
    }
    assert_eq!(read(&get("/").unwrap()), ("/", false));
    assert_eq!(get("/").unwrap().rebuild(None).target, "/");
    assert_eq!(read(&get("/latest/").unwrap()), ("/latest", false));
    assert_eq!(get("/1.0/").unwrap().rebuild(None).target, "/1.0/");
}

#[test]
fn a_slash_at_the_end_is_the_real_services_business() {
    // boto3 reads the leaf with one, the JavaScript SDK joins paths with two at the start.
    for (target, upstream) in [
        (
            "/latest/meta-data/placement/availability-zone/",
            "/latest/meta-data/placement/availability-zone/",
        ),
        (
            "//latest/meta-data//placement/availability-zone",
            "/latest/meta-data/placement/availability-zone",
        ),
        (
            "/latest/meta-data/placement/availability-zone?x=1",
            "/latest/meta-data/placement/availability-zone",
        ),
    ] {
        let call = get(target).unwrap();
        assert_eq!(
            read(&call).0,
            "/latest/meta-data/placement/availability-zone"
        );
        assert_eq!(call.rebuild(None).target, upstream);
    }
}

#[test]
fn what_gives_credentials_is_never_a_read() {
    for list in [
        ROLES,
        &ROLES[..ROLES.len() - 1],
        "/1.0/meta-data/iam/security-credentials",
    ] {
        let call = get(list).unwrap();
        assert_eq!(role(&call), (None, false), "{list}");
        assert!(
            call.rebuild(None)
                .target
                .ends_with("/iam/security-credentials/")
        );
    }
    for named in ["batch", "batch/", "b%61tch"] {
        let call = get(&format!("{ROLES}{named}")).unwrap();
        assert_eq!(role(&call), (Some("batch"), false), "{named}");
        assert_eq!(call.rebuild(None).target, format!("{ROLES}batch"));
    }
    let own = "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance";
    let call = get(own).unwrap();
    assert_eq!(
        role(&call).0,
        Some("identity-credentials/ec2/security-credentials/ec2-instance")
    );
    assert_eq!(call.rebuild(None).target, own);
    for plain in ["", "/ec2", "/ec2/info", "/ec2/security-credentials"] {
        read(&get(&format!("/latest/meta-data/identity-credentials{plain}")).unwrap());
    }
}

#[test]
fn a_name_of_something_secret_that_is_spelled_or_placed_otherwise_is_refused() {
    for target in [
        "/latest/meta-data/iam/Security-Credentials/batch",
        "/latest/meta-data/IAM/security-credentials/batch",
        "/latest/meta-data/iam/security-credentials/batch/more",
        "/latest/meta-data/security-credentials/x",
        "/latest/meta-data/Identity-Credentials/ec2/security-credentials/ec2-instance",
        "/latest/meta-data/identity-credentials/ec2/Security-credentials/ec2-instance",
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance/x",
        "/latest/meta-data/identity-credentials/other/security-credentials/x",
        "/latest/dynamic/iam/security-credentials/batch",
        "/latest/user-data/security-credentials",
        "/latest/Meta-Data/iam/security-credentials/batch",
        "/latest/meta-data%2fiam/security-credentials/batch",
        "/latest/other/iam/security-credentials/batch",
        "/meta-data/iam/security-credentials/batch",
    ] {
        assert!(get(target).is_err(), "{target}");
    }
}

#[test]
fn a_session_is_shown_or_not_and_an_empty_one_is_not_none() {
    let bare = send("GET /latest/meta-data/instance-id").unwrap();
    assert!(read(&bare).1);
    assert!(bare.asked.is_imdsv1());
    let bare = send(&format!("GET {ROLES}batch")).unwrap();
    assert_eq!(role(&bare), (Some("batch"), true));
    assert!(!get(ROLES).unwrap().asked.is_imdsv1());
    for bad in ["", "a b", &"x".repeat(1025)] {
        let call = send(&format!(
            "GET {ROLES}batch\nX-aws-ec2-metadata-token: {bad}"
        ));
        assert_eq!(call, Err(Malformed::SessionToken), "{bad}");
    }
    assert_eq!(
        send(&format!(
            "GET {ROLES}\nX-aws-ec2-metadata-token: a\nX-Aws-Ec2-Metadata-Token: a"
        )),
        Err(Malformed::DuplicateHeader)
    );
    let shown = format!("{:?}", get(ROLES).unwrap());
    assert!(!shown.contains("dG9rZW4"), "{shown}");
}

#[test]
fn only_get_and_head() {
    let call = send("HEAD /latest/meta-data/instance-id\nX-aws-ec2-metadata-token: t").unwrap();
    assert_eq!(call.method(), "HEAD");
    assert_eq!(call.rebuild(None).method, "GET", "its length is told");
    for method in ["POST", "DELETE", "OPTIONS", "PUT"] {
        let call = send(&format!("{method} /latest/meta-data/instance-id"));
        assert_eq!(
            call,
            Err(Malformed::Method { allow: "GET, HEAD" }),
            "{method}"
        );
    }
}

#[test]
fn containers_ask_for_their_own_role_and_the_id_is_nowhere_to_be_seen() {
    let id = "0b9f2a6c-canary";
    for (target, path) in [
        (format!("/v2/credentials/{id}"), "/v2/credentials"),
        (format!("/v1/credentials?id={id}"), "/v1/credentials"),
        ("/v1/credentials".to_owned(), "/v1/credentials"),
    ] {
        let call = container(&format!("GET {target}\nAuthorization: eyJ.canary")).unwrap();
        assert_eq!(role(&call), (None, false));
        assert_eq!(call.path(), path);
        let rebuilt = call.rebuild(None);
        assert_eq!(rebuilt.target, target);
        let (name, value) = rebuilt.secret.clone().unwrap();
        assert_eq!((name, &**value.expose()), ("authorization", "eyJ.canary"));
        assert!(!format!("{call:?}").contains("canary"));
    }
    for target in ["/v4/0b9f/task", "/v2/metadata", "/v3/0b9f/stats"] {
        assert_eq!(
            read(&container(&format!("GET {target}")).unwrap()),
            (target, false)
        );
    }
    for target in [
        "/v2/Credentials/x",
        "/v2/credentials/x/y",
        "/credentials/x",
        "/v2/x/credentials",
        "/x2/credentials/y",
    ] {
        let call = container(&format!("GET {target}"));
        assert_eq!(call, Err(Malformed::NotOffered), "{target}");
    }
    assert_eq!(
        container("GET /v1/credentials\nAuthorization:"),
        Err(Malformed::Authorization)
    );
    // IMDSv2 is not spoken there, so nothing there is IMDSv1.
    assert!(!container("GET /v1/credentials").unwrap().asked.is_imdsv1());
}

#[test]
fn an_emulated_tree_is_shown_as_the_real_one() {
    let document = serde_json::json!({
        "meta-data": {
            "instance-id": "i-0123456789abcdef0",
            "ami-launch-index": 0,
            "placement": {"availability-zone": "eu-central-1a", "region": "eu-central-1"},
            "public-keys": {"0=my-key": {"openssh-key": "ssh-ed25519 AAAA"}},
            "iam": {"info": {"Code": "Success"}},
            "empty": {},
            "nothing": null,
        },
        "dynamic": {"instance-identity": {"document": {"region": "eu-central-1", "kernelId": null}, "signature": "c2ln"}},
        "user-data": "#!/bin/sh\n",
    });
    let show = |target: &str| {
        let call = get(target).unwrap();
        let Asked::Aws(Ask::Tree(ask)) = &call.asked else {
            panic!("{call:?}")
        };
        match document::render(&document, ask, call.path()) {
            Some(document::Rendered::Text(text)) => Some(text),
            Some(document::Rendered::Octets(text)) => Some(format!("octets:{text}")),
            None => None,
        }
    };
    let is = |target: &str, want: &str| assert_eq!(show(target).as_deref(), Some(want), "{target}");
    is("/latest/", "dynamic/\nmeta-data/\nuser-data");
    is("/latest/meta-data/placement/", "availability-zone\nregion");
    is(
        "/latest/meta-data/placement/availability-zone/",
        "eu-central-1a",
    );
    is("/2021-07-15/meta-data/placement/region", "eu-central-1");
    is("/latest/meta-data/ami-launch-index", "0");
    is("/latest/meta-data/public-keys/", "0=my-key");
    is("/latest/meta-data/public-keys/0/", "openssh-key");
    is(
        "/latest/meta-data/public-keys/0/openssh-key",
        "ssh-ed25519 AAAA",
    );
    is("/latest/dynamic/instance-identity/", "document\nsignature");
    is(
        "/latest/dynamic/instance-identity/document",
        "{\n  \"kernelId\": null,\n  \"region\": \"eu-central-1\"\n}",
    );
    is(
        "/latest/meta-data/iam/info",
        "{\n  \"Code\": \"Success\"\n}",
    );
    is("/latest/user-data", "octets:#!/bin/sh\n");
    assert!(show("/").unwrap().ends_with("\nlatest"));
    for none in [
        "/latest/meta-data/hostname",
        "/latest/meta-data/empty/",
        "/latest/meta-data/nothing",
        "/latest/meta-data/instance-id/x",
        "/2031-01-01/meta-data/instance-id",
    ] {
        assert_eq!(show(none), None, "{none}");
    }
}

proptest::proptest! {
    #[test]
    fn what_is_rebuilt_means_the_same(target in "/(latest|1\\.0|2021-07-15)(/[a-zA-Z0-9%:=._-]{0,12}){0,5}/?(\\?[a-z=&]{0,8})?") {
        if let Ok(call) = get(&target) {
            let rebuilt = call.rebuild(None);
            let again = get(&rebuilt.target).unwrap();
            proptest::prop_assert_eq!(&again.request, &call.request);
            proptest::prop_assert_eq!(&again.asked, &call.asked);
            proptest::prop_assert_eq!(again.rebuild(None), rebuilt);
        }
    }

    #[test]
    fn a_read_never_goes_where_credentials_are(target in "/latest/(meta-data|dynamic|user-data|META-DATA)(/(iam|ec2|IAM|security-credentials|Security-Credentials|identity-credentials|x|info)){0,5}/?") {
        if let Ok(call) = get(&target)
            && let Request::Read { path, .. } = &call.request
        {
            let last = path.rsplit('/').nth(1).unwrap_or_default();
            proptest::prop_assert!(!last.eq_ignore_ascii_case("security-credentials"), "{}", path);
        }
    }
}
