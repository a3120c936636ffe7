//! Signatures against AWS's published vectors. botocore is asked as well: `tests/assume/signature.rs`.

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
