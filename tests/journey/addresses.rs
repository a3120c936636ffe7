//! The further addresses of Amazon's and Google's services: EKS at both of its own, and IPv6. Whoever guards one address alone guards none.

use super::{ask, record_of, world};
use imds_guard_tests::{
    AUTHORIZATION, AWS_CANARY, AWS_IMDS_V6, GCP_CANARY, GCP_METADATA_V6, World, claims,
};

const EKS: [&str; 2] = ["169.254.170.23:80", "[fd00:ec2::23]:80"];

const AWS: &str = r#"
[identity.own]
cloud = "aws"
source = "forward"
role = "instance-role"
[[workload]]
name = "pod"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "aws" }
identity = "own"
[[workload.allow]]
read = ["aws:/latest/dynamic/**"]
"#;

const GCP: &str = r#"
[identity.build]
cloud = "gcp"
source = "forward"
account = "build@p.iam.gserviceaccount.com"
[[workload]]
name = "build"
selectors = ["unix:uid:1000"]
[[workload.allow]]
token = { cloud = "gcp", scopes = ["https://www.googleapis.com/auth/devstorage.read_only"] }
identity = "build"
[[workload.allow]]
token = { cloud = "gcp", audience = ["https://registry.example.org"] }
identity = "build"
"#;

/// What a literal address is called in `Host`.
fn host(address: &str) -> &str {
    address.trim_end_matches(":80")
}

/// One request of that uid's over a connection of its own; the answer, and its process.
fn once(world: &World, uid: u32, address: &str, head: &str) -> (imds_guard_tests::Response, u32) {
    let workload = world.workload(&format!("w{uid}")).uid(uid);
    let mut caller = workload.connect(address).unwrap();
    (ask(&mut caller, head), caller.pid())
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn eks_is_served_by_rule_at_both_its_addresses_and_by_no_other_name() {
    let world = world("aws-eks");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(AWS).start().unwrap();
    for address in EKS {
        let head = |host: &str| {
            format!(
                "GET /v1/credentials HTTP/1.1\r\nHost: {host}\r\nAuthorization: {AUTHORIZATION}\r\nAccept: application/json\r\n\r\n"
            )
        };
        let (given, pid) = once(&world, 1000, address, &head(host(address)));
        assert_eq!(
            given.status,
            200,
            "{address}: {}\n{}",
            given.text(),
            agent.log()
        );
        assert!(given.text().contains(AWS_CANARY), "{address}");
        assert_eq!(record_of(&agent, pid, 1)["path"], "/v1/credentials");
        let asked = aws.received().len();
        let (denied, _) = once(&world, 1001, address, &head(host(address)));
        assert_eq!(denied.status, 403, "{address}");
        assert_eq!(denied.json().unwrap()["Code"], "AccessDenied");
        // What EKS's own agent stops DNS rebinding by.
        for other in ["eks-auth.example", "169.254.170.2", "localhost"] {
            let (rebound, _) = once(&world, 1000, address, &head(other));
            assert_eq!(rebound.status, 403, "{address} as {other}");
        }
        assert_eq!(aws.received().len(), asked, "{:?}", aws.lines());
    }
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn amazons_service_over_ipv6_takes_the_same_sessions_and_no_others() {
    let world = world("aws-six");
    let aws = world.aws().unwrap();
    let agent = world.agent().config(AWS).start().unwrap();
    let role = "/latest/meta-data/iam/security-credentials/instance-role";
    let own = host(AWS_IMDS_V6);
    for (uid, status) in [(1000, 200), (1001, 403)] {
        let workload = world.workload(&format!("w{uid}")).uid(uid);
        let mut caller = workload.connect(AWS_IMDS_V6).unwrap();
        let put = format!(
            "PUT /latest/api/token HTTP/1.1\r\nHost: {own}\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
        );
        let session = ask(&mut caller, &put);
        assert_eq!(session.status, 200, "{}\n{}", session.text(), agent.log());
        let get = format!(
            "GET {role} HTTP/1.1\r\nHost: {own}\r\nX-aws-ec2-metadata-token: {}\r\n\r\n",
            session.text()
        );
        let answer = ask(&mut caller, &get);
        assert_eq!(answer.status, status, "{uid}: {}", answer.text());
        assert_eq!(answer.text().contains(AWS_CANARY), status == 200);
        let without = format!("GET {role} HTTP/1.1\r\nHost: {own}\r\n\r\n");
        let without_session = if status == 200 { 401 } else { 403 };
        assert_eq!(ask(&mut caller, &without).status, without_session, "{uid}");
    }
    assert_eq!(
        aws.lines()
            .iter()
            .filter(|line| line.ends_with(role))
            .count(),
        1
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_identity_document_and_its_signature_come_to_the_last_byte() {
    let world = world("aws-document");
    let _aws = world.aws().unwrap();
    let _agent = world.agent().config(AWS).start().unwrap();
    let mut caller = world
        .workload("w1000")
        .connect(imds_guard_tests::AWS_IMDS)
        .unwrap();
    let put = "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n";
    let session = ask(&mut caller, put).text();
    let mut read = |name: &str| {
        let head = format!(
            "GET /latest/dynamic/instance-identity/{name} HTTP/1.1\r\nHost: 169.254.169.254\r\nX-aws-ec2-metadata-token: {session}\r\n\r\n"
        );
        let answer = ask(&mut caller, &head);
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        answer.text()
    };
    assert_eq!(
        read("document"),
        "{\n  \"accountId\" : \"111122223333\",\n  \"region\" : \"eu-central-1\"\n}"
    );
    assert_eq!(
        read("rsa2048"),
        "MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCA\nBgkqhkiG9w0BBwGggA=="
    );
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn googles_server_over_ipv6_gives_what_rules_give() {
    let world = world("gcp-six");
    let gcp = world.gcp().unwrap();
    let agent = world.agent().config(GCP).start().unwrap();
    let account = "/computeMetadata/v1/instance/service-accounts/default";
    let head = |below: &str, host: &str| {
        format!("GET {account}/{below} HTTP/1.1\r\nHost: {host}\r\nMetadata-Flavor: Google\r\n\r\n")
    };
    for name in ["metadata.google.internal", host(GCP_METADATA_V6)] {
        let (given, _) = once(&world, 1000, GCP_METADATA_V6, &head("token", name));
        assert_eq!(
            given.status,
            200,
            "{name}: {}\n{}",
            given.text(),
            agent.log()
        );
        assert!(given.text().contains(GCP_CANARY), "{}", given.text());
        let (denied, _) = once(&world, 1001, GCP_METADATA_V6, &head("token", name));
        assert_eq!(denied.status, 403, "{name}");
        assert!(!denied.text().contains(GCP_CANARY), "{name}");
    }
    // With everything that a request for an identity token can say.
    let identity = "identity?audience=https://registry.example.org&format=full&licenses=TRUE";
    let (given, _) = once(
        &world,
        1000,
        GCP_METADATA_V6,
        &head(identity, host(GCP_METADATA_V6)),
    );
    assert_eq!(given.status, 200, "{}", given.text());
    assert_eq!(
        claims(&given.text()).unwrap()["aud"],
        "https://registry.example.org"
    );
    let asked = gcp.lines().pop().unwrap();
    assert!(
        asked.contains("format=full") && asked.contains("licenses=TRUE"),
        "{asked}"
    );
    let (rebound, _) = once(
        &world,
        1000,
        GCP_METADATA_V6,
        &head("token", "metadata.google.internal.evil.example"),
    );
    assert_eq!(rebound.status, 403);
}
