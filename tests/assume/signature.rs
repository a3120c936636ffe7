//! Signatures of requests to AWS: botocore, asked to sign the same, writes the same.

#![expect(
    clippy::unwrap_used,
    reason = "what fails here fails the test that stands on it"
)]

use aws_lc_rs::{digest, hmac};
use imds_guard_core::exchange::sigv4::{Digests, Scope, sign};
use imds_guard_core::exchange::{AwsKeys, Url};
use imds_guard_core::secret::Secret;
use imds_guard_tests::Python;
use std::io::Write as _;
use std::process::{Command, Stdio};

const DIGESTS: Digests = Digests {
    sha256: |message| {
        let digest = digest::digest(&digest::SHA256, message);
        digest.as_ref().try_into().unwrap()
    },
    hmac_sha256: |key, message| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
        tag.as_ref().try_into().unwrap()
    },
};
const TOKEN: &str = "IQoJb3JpZ2luX2VjEXAMPLE//+==";

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
#[ignore = "sdk: cargo xtask test sdk"]
fn botocore_signs_a_form_the_same() {
    let python = Python::environment().unwrap().join("bin/python");
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
        let keys = AwsKeys {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".into()),
            session_token: Secret::new(TOKEN.into()),
            expires: i64::MAX,
            account: None,
        };
        let url = Url::parse(url).unwrap();
        let ask = serde_json::json!({
            "url": url.to_string(), "body": body, "type": media.1, "now": scope.now,
            "key": &*keys.access_key_id, "secret": &**keys.secret_access_key.expose(),
            "token": TOKEN, "service": scope.service, "region": scope.region,
        });
        let signed = sign(&keys, scope, &url, &[media], body.as_bytes(), DIGESTS).unwrap();
        let mut asked = Command::new(&python)
            .args(["-c", BOTOCORE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = asked.stdin.take().unwrap();
        stdin.write_all(ask.to_string().as_bytes()).unwrap();
        drop(stdin);
        let said = asked.wait_with_output().unwrap();
        assert!(said.status.success());
        let theirs: [String; 2] = serde_json::from_slice(&said.stdout).unwrap();
        assert_eq!(
            theirs,
            [signed.headers[0].1.clone(), signed.headers[1].1.clone()]
        );
    }
}
