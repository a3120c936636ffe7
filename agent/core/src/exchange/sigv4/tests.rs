//! Signatures against AWS's published vectors, and against botocore where the tests' Python packages are.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use aws_lc_rs::{digest, hmac};

use super::*;

/// The program's provider, as the program uses it.
pub(in crate::exchange) const DIGESTS: Digests = Digests {
    sha256: |message| {
        let digest = digest::digest(&digest::SHA256, message);
        digest.as_ref().try_into().unwrap()
    },
    hmac_sha256: |key, message| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
        tag.as_ref().try_into().unwrap()
    },
};

fn keys(token: &str) -> AwsKeys {
    AwsKeys {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
        session_token: Secret::new(token.into()),
        expires: i64::MAX,
        account: None,
    }
}

/// 2015-08-30T12:36:00Z
const THEN: i64 = 1_440_938_160;
/// Of the suite's `post-sts-header-before`.
const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

fn authorization(signed: &Signed) -> &str {
    assert_eq!(signed.headers[1].0, "authorization");
    &signed.headers[1].1
}

/// AWS's own suite, `post-sts-header-before`: a session token among the headers that are signed.
#[test]
fn a_request_with_a_session_token_is_signed_as_aws_publishes_it() {
    let url = Url::parse("https://example.amazonaws.com/").unwrap();
    let scope = Scope {
        region: "us-east-1",
        service: "service",
        now: THEN,
    };
    let signed = sign(&keys(TOKEN), scope, &url, &[], b"", DIGESTS).unwrap();
    assert_eq!(
        authorization(&signed),
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
         SignedHeaders=host;x-amz-date;x-amz-security-token, \
         Signature=85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
    );
    assert_eq!(signed.headers[0], ("x-amz-date", "20150830T123600Z".into()));
    assert_eq!(signed.secret.0, "x-amz-security-token");
    assert_eq!(&**signed.secret.1.expose(), TOKEN);
}

const BOTOCORE: &str = r#"
import sys, json, datetime
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
import botocore.auth
ask = json.load(sys.stdin)
now = datetime.datetime.fromtimestamp(ask["now"], datetime.timezone.utc)
class Then(datetime.datetime):
    @classmethod
    def now(cls, tz=None): return now
    @classmethod
    def utcnow(cls): return now.replace(tzinfo=None)
botocore.auth.datetime = type("m", (), {"datetime": Then, "timezone": datetime.timezone})
if hasattr(botocore.auth, "get_current_datetime"):
    botocore.auth.get_current_datetime = lambda remove_tzinfo=True: now.replace(tzinfo=None)
request = AWSRequest("POST", ask["url"], data=ask["body"].encode(), headers={"Content-Type": ask["type"]})
auth = SigV4Auth(Credentials(ask["key"], ask["secret"], ask["token"]), ask["service"], ask["region"])
auth.add_auth(request)
print(json.dumps([request.headers["X-Amz-Date"], request.headers["Authorization"]]))
"#;

/// The form that STS gets, signed by botocore as well.
#[test]
#[ignore = "needs target/venv, which `cargo xtask setup` makes"]
fn botocore_signs_a_form_the_same() {
    let venv = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    for (url, body) in [
        (
            "https://sts.us-west-2.amazonaws.com/",
            "Action=AssumeRole&RoleSessionName=batch%40web-07&Policy=%7B%22a%22%3A%201%7D",
        ),
        (
            "https://vpce-1.sts.eu-central-1.vpce.amazonaws.com:8443/",
            "Action=AssumeRole",
        ),
    ] {
        let scope = Scope {
            region: "us-west-2",
            service: "sts",
            now: 1_795_219_207,
        };
        let media = (
            "content-type",
            "application/x-www-form-urlencoded".to_owned(),
        );
        let keys = keys(TOKEN);
        let url = Url::parse(url).unwrap();
        let ask = serde_json::json!({
            "url": url.to_string(), "body": body, "type": media.1, "now": scope.now,
            "key": &*keys.access_key_id, "secret": &**keys.secret_access_key.expose(),
            "token": TOKEN, "service": scope.service, "region": scope.region,
        });
        let signed = sign(&keys, scope, &url, &[media], body.as_bytes(), DIGESTS).unwrap();
        let mut python = Command::new(&venv)
            .args(["-c", BOTOCORE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = python.stdin.take().unwrap();
        stdin.write_all(ask.to_string().as_bytes()).unwrap();
        drop(stdin);
        let said = python.wait_with_output().unwrap();
        assert!(said.status.success());
        let theirs: [String; 2] = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(
            theirs,
            [
                signed.headers[0].1.clone(),
                authorization(&signed).to_owned()
            ]
        );
    }
}
