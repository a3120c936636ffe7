//! Assertions that somebody else signs, and renews in a file.

use super::host::{Host, VAULT};
use super::world;
use imds_guard_tests::{Python, World};
use std::path::Path;
use std::process::{Command, Stdio};

const ASK: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

/// Signs what it is given with the key of the world's issuer, which stands for a cluster's.
const SIGN: &str = r#"
import base64, json, sys, jwt
from cryptography.hazmat.primitives.serialization import load_der_private_key
file = json.load(open(sys.argv[1]))
der = base64.b64decode(file["pkcs8"])
kid = json.load(open(sys.argv[2]))["keys"][0]["kid"]
print(jwt.encode(json.loads(sys.argv[3]), load_der_private_key(der, None), algorithm="RS256", headers={"kid": kid}), end="")
"#;

fn signed(world: &World, claims: &serde_json::Value) -> String {
    let python = Python::environment().unwrap().join("bin/python");
    let output = Command::new(python)
        .args(["-c", SIGN])
        .arg(world.directory().join("state/issuer-key.json"))
        .arg(world.directory().join("published/keys"))
        .arg(claims.to_string())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn claims(issuer: &str, audience: &str, from_now: i64) -> serde_json::Value {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let now = i64::try_from(now.as_secs()).unwrap();
    serde_json::json!({"iss": issuer, "sub": super::host::SUBJECT, "aud": audience, "jti": "from-a-file",
        "iat": now + from_now - 600, "nbf": now + from_now - 600, "exp": now + from_now})
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn an_assertion_in_a_file_is_read_at_each_exchange_and_its_faults_are_told() {
    let world = world("federate-file");
    let file = world.directory().join("etc/token");
    let host = Host::with(&world, |policy| {
        let own = "subject = \"spiffe://{trust_domain}/host/{host}/workload/{workload}\"\n\n[identity.billing-aws]";
        let other = format!(
            "assertion = {{ file = \"{}\" }}\n\n[identity.billing-aws]",
            file.display()
        );
        assert!(policy.contains(own));
        policy.replace(own, &other)
    });
    let billing = host.billing();
    let audience = "api://AzureADTokenExchange";
    let put = |path: &Path, claims: &serde_json::Value| {
        std::fs::write(path, signed(&world, claims)).unwrap()
    };
    for (claims, told) in [
        (None, "can't be read"),
        (Some(claims(super::host::ISSUER, audience, -5)), "ended"),
        (
            Some(claims(super::host::ISSUER, "sts.amazonaws.com", 400)),
            "is for sts.amazonaws.com",
        ),
        (
            Some(claims(
                "https://login.microsoftonline.com/t/v2.0",
                audience,
                400,
            )),
            "Entra takes none",
        ),
    ] {
        if let Some(claims) = claims {
            put(&file, &claims);
        }
        let response = billing.get(ASK).unwrap();
        assert_eq!(response.status, 500, "{response:?}");
        let log = host.agent.log();
        assert!(log.contains(told), "{told} in {log}");
        std::thread::sleep(std::time::Duration::from_millis(600));
    }
    assert!(host.entra.received().is_empty());
    put(&file, &claims(super::host::ISSUER, audience, 400));
    let response = billing.get(ASK).unwrap();
    assert_eq!(response.status, 200, "{response:?}\n{}", host.agent.log());
    let token = response.json().unwrap()["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(host.entra.resource_of(&token).as_deref(), Some(VAULT));
    let line = host.signed().pop().unwrap();
    assert_eq!(line["file"], file.to_str().unwrap());
    assert_eq!(line["jti"], "from-a-file");
    host.keeps_its_secrets();
}
