//! What STS is asked, and its answers: those that are documented, those that refuse, and those that are none.

use super::*;
use crate::exchange::sigv4::tests::DIGESTS;

const NOW: i64 = 1_795_284_000;

fn given(credentials: &str) -> String {
    format!(
        r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleResult>
    <AssumedRoleUser><Arn>arn:aws:sts::111122223333:assumed-role/batch/batch@web-07</Arn><AssumedRoleId>AROAEXAMPLE:batch@web-07</AssumedRoleId></AssumedRoleUser>
    <Credentials>{credentials}</Credentials>
    <PackedPolicySize>6</PackedPolicySize>
  </AssumeRoleResult>
  <ResponseMetadata><RequestId>00000000-0000-0000-0000-000000000000</RequestId></ResponseMetadata>
</AssumeRoleResponse>"#
    )
}

const KEYS: &str = "<SessionToken>IQoJ//==</SessionToken><SecretAccessKey>a/b+c</SecretAccessKey><Expiration>2026-11-22T00:30:00Z</Expiration><AccessKeyId>ASIAEXAMPLE</AccessKeyId>";

fn refused(code: &str, message: &str) -> String {
    format!(
        r#"<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error><RequestId>x</RequestId></ErrorResponse>"#
    )
}

fn answer(status: u16, body: &str) -> Result<Obtained, NotObtained> {
    read("AssumeRole", status, None, body.as_bytes(), NOW)
}

#[test]
fn the_request_says_what_is_wanted_and_who_asks() {
    let keys = AwsKeys {
        access_key_id: "ASIANODE".into(),
        secret_access_key: Secret::new("secret".into()),
        session_token: Secret::new("token".into()),
        expires: i64::MAX,
        account: None,
    };
    let tags = [
        ("team".into(), "data & more".into()),
        ("host".into(), "web-07".into()),
    ];
    let ask = AssumeRole {
        role: "arn:aws:iam::111122223333:role/batch",
        session_name: "batch@web-07",
        duration: 3600,
        policy: Some(r#"{"Version":"2012-10-17"}"#),
        tags: &tags,
    };
    let url = Partition::of_region("us-west-2")
        .unwrap()
        .sts("us-west-2")
        .unwrap();
    let outgoing = assume_role(ask, &url, "us-west-2", &keys, NOW, DIGESTS).unwrap();
    assert_eq!(
        outgoing.url.to_string(),
        "https://sts.us-west-2.amazonaws.com/"
    );
    assert_eq!(
        std::str::from_utf8(outgoing.body.expose()).unwrap(),
        "Action=AssumeRole&Version=2011-06-15\
         &RoleArn=arn%3Aaws%3Aiam%3A%3A111122223333%3Arole%2Fbatch&RoleSessionName=batch%40web-07\
         &DurationSeconds=3600&Policy=%7B%22Version%22%3A%222012-10-17%22%7D\
         &Tags.member.1.Key=team&Tags.member.1.Value=data%20%26%20more\
         &Tags.member.2.Key=host&Tags.member.2.Value=web-07"
    );
    let (name, token) = outgoing.secret.unwrap();
    assert_eq!((name, &**token.expose()), ("x-amz-security-token", "token"));
    let authorization = &outgoing.headers[2];
    assert_eq!(authorization.0, "authorization");
    assert!(
        authorization.1.contains("/us-west-2/sts/aws4_request, SignedHeaders=content-type;host;x-amz-date;x-amz-security-token,"),
        "{authorization:?}"
    );
}

#[test]
fn keys_are_read() {
    let Ok(Obtained::Aws(keys)) = answer(200, &given(KEYS)) else {
        panic!("{:?}", answer(200, &given(KEYS)));
    };
    assert_eq!(&*keys.access_key_id, "ASIAEXAMPLE");
    assert_eq!(&**keys.secret_access_key.expose(), "a/b+c");
    assert_eq!(&**keys.session_token.expose(), "IQoJ//==");
    assert_eq!(keys.expires, NOW + 23_400);
    assert_eq!(keys.account.as_deref(), Some("111122223333"));
    let spaced = given(&KEYS.replace("ASIAEXAMPLE", "\n ASIAEXAMPLE\n"));
    assert!(answer(200, &spaced).is_ok());
}

#[test]
fn what_is_no_answer_is_none() {
    let twice = format!("{KEYS}<AccessKeyId>ASIAOTHER</AccessKeyId>");
    let cdata = KEYS.replace("ASIAEXAMPLE", "ASIA<x/>EXAMPLE");
    let doctype = format!("<!DOCTYPE a [<!ENTITY b \"c\">]>{}", given(KEYS));
    for body in [
        "",
        "not xml",
        "<html></html>",
        &given(KEYS)[1..],
        &given(KEYS).replace("https://sts", "https://other"),
        &given(KEYS).replace("AssumeRoleRes", "AssumeRoleWithWebIdentityRes"),
        &given(KEYS).replace("<Credentials>", "<Credential>"),
        &given(&twice),
        &given(&cdata),
        &given(&KEYS.replace("ASIAEXAMPLE", "")),
        &given(&KEYS.replace("ASIAEXAMPLE", "ASIA EXAMPLE")),
        &given(&KEYS.replace("ASIAEXAMPLE", &"A".repeat(TOO_LONG))),
        &given(&KEYS.replace("ASIAEXAMPLE", "&b;")),
        &given(&KEYS.replace("2026-11-22T00:30:00Z", "soon")),
        &given(&KEYS.replace("2026-11-22T00:30:00Z", "2026-11-21T00:30:00Z")),
        &doctype,
        &"<a>".repeat(100_000),
    ] {
        let read = answer(200, body);
        assert!(
            matches!(read, Err(NotObtained::NotAnAnswer(_))),
            "{body:.60}: {read:?}"
        );
    }
    assert!(matches!(
        read("AssumeRole", 200, None, &[0xff, 0xfe], NOW),
        Err(NotObtained::NotAnAnswer(_))
    ));
    // A refusal with the status of an answer is none, and an answer with that of a refusal.
    assert!(answer(200, &refused("AccessDenied", "no")).is_err());
    assert!(answer(403, &given(KEYS)).is_err());
}

const TOO_LONG: usize = 20_000;

#[test]
fn refusals_are_told_apart() {
    let said = |status, code| {
        answer(
            status,
            &refused(code, "no\u{202e}\n<b>".replace('<', "&lt;").as_str()),
        )
        .unwrap_err()
    };
    let NotObtained::Refused {
        code,
        message,
        remedy,
    } = said(403, "AccessDenied")
    else {
        panic!("{:?}", said(403, "AccessDenied"));
    };
    assert_eq!(
        (code.as_str(), message.as_str()),
        ("AccessDenied", "no <b>")
    );
    assert!(remedy.contains("trust policy"), "{remedy}");
    assert_eq!(
        said(400, "Throttling"),
        NotObtained::Throttled { retry_after: None }
    );
    assert_eq!(
        said(400, "IDPCommunicationError"),
        NotObtained::Unavailable { status: 400 }
    );
    assert!(matches!(
        said(503, "ServiceUnavailable"),
        NotObtained::Unavailable { .. }
    ));
    assert!(
        blames_keys(&said(403, "ExpiredToken")) && blames_keys(&said(403, "InvalidClientTokenId"))
    );
    assert!(!blames_keys(&said(403, "AccessDenied")));
    assert!(!said(403, "AccessDenied").is_general());
    let unreadable = read("AssumeRole", 502, None, b"<html>bad gateway", NOW);
    assert_eq!(unreadable, Err(NotObtained::Unavailable { status: 502 }));
    let throttled = read("AssumeRole", 429, Some(9), b"", NOW);
    assert_eq!(
        throttled,
        Err(NotObtained::Throttled {
            retry_after: Some(9)
        })
    );
    assert!(matches!(
        answer(400, "<html/>"),
        Err(NotObtained::NotAnAnswer(_))
    ));
}

#[test]
fn roles_regions_and_partitions() {
    let role = RoleArn::parse("arn:aws-cn:iam::111122223333:role/path/to/batch").unwrap();
    assert_eq!(
        (role.partition.name, role.account, role.name),
        ("aws-cn", "111122223333", "path/to/batch")
    );
    for bad in [
        "batch",
        "arn:aws:iam::111122223333:role/",
        "arn:aws:iam::111122223333:role//batch",
        "arn:aws:iam::111122223333:user/batch",
        "arn:aws:iam::11112222333:role/batch",
        "arn:aws:iam:us-west-2:111122223333:role/batch",
        "arn:aws:iam::111122223333:role/batch:x",
        "arn:aws:sts::111122223333:assumed-role/batch/x",
        "arn:amazon:iam::111122223333:role/batch",
        "arn:aws:iam::111122223333:role/ba tch",
    ] {
        assert_eq!(RoleArn::parse(bad), None, "{bad}");
    }
    for (region, url) in [
        ("us-west-2", "https://sts.us-west-2.amazonaws.com/"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
        ("us-gov-west-1", "https://sts.us-gov-west-1.amazonaws.com/"),
        (
            "us-isob-east-1",
            "https://sts.us-isob-east-1.sc2s.sgov.gov/",
        ),
        ("eusc-de-east-1", "https://sts.eusc-de-east-1.amazonaws.eu/"),
    ] {
        let at = Partition::of_region(region).unwrap().sts(region).unwrap();
        assert_eq!(at.to_string(), url);
    }
    for bad in [
        "",
        "us-west",
        "us-west-2a",
        "US-west-2",
        "us-west-2.evil.example",
        "-1",
        "us--1",
    ] {
        assert!(!is_region(bad), "{bad}");
    }
}
