//! The shared parts: URLs and what clouds say.

use super::*;

#[test]
fn a_url_is_https_and_a_name() {
    let url = Url::parse("https://STS.us-west-2.amazonaws.com").unwrap();
    assert_eq!(
        (&**url.host(), url.port(), url.target()),
        ("sts.us-west-2.amazonaws.com", 443, "/")
    );
    assert_eq!(url.to_string(), "https://sts.us-west-2.amazonaws.com/");
    let url = Url::parse("https://login.example:8443/t/token?x=1").unwrap();
    assert_eq!(url.authority(), "login.example:8443");
    assert_eq!(url.target(), "/t/token?x=1");
    assert_eq!(
        url.at("/other").unwrap().to_string(),
        "https://login.example:8443/other"
    );
    assert_eq!(Url::parse("https://a.example?q").unwrap().target(), "/?q");
}

#[test]
fn what_is_none_is_refused_with_what_to_write() {
    for (text, why) in [
        ("http://sts.amazonaws.com/", NoUrl::Scheme),
        ("sts.amazonaws.com", NoUrl::Scheme),
        ("https://user@sts.amazonaws.com/", NoUrl::Characters),
        ("https://sts.amazonaws.com/#a", NoUrl::Characters),
        ("https://sts.amazonaws.com/\r\nX: y", NoUrl::Characters),
        (
            "https://sts.amazonaws.com\\@evil.example/",
            NoUrl::Characters,
        ),
        ("https:///path", NoUrl::Host),
        ("https://a..example/", NoUrl::Host),
        ("https://-a.example/", NoUrl::Host),
        ("https://a_b.example/", NoUrl::Host),
        ("https://169.254.169.254/", NoUrl::Address),
        ("https://2852039166/", NoUrl::Address),
        ("https://0xa9fea9fe/", NoUrl::Address),
        ("https://[fd00:ec2::254]/", NoUrl::Address),
        ("https://[::1]:443/", NoUrl::Address),
        ("https://a.example:0/", NoUrl::Port),
        ("https://a.example:65536/", NoUrl::Port),
        ("https://a.example:+1/", NoUrl::Port),
        ("https://a.example:/", NoUrl::Port),
    ] {
        assert_eq!(Url::parse(text), Err(why), "{text}");
    }
    let long = format!("https://a.example/{}", "a".repeat(2048));
    assert_eq!(Url::parse(&long), Err(NoUrl::Length));
    let url = Url::parse("https://a.example").unwrap();
    assert_eq!(url.at("relative"), Err(NoUrl::Characters));
    assert_eq!(url.at("/a b"), Err(NoUrl::Characters));
}

#[test]
fn a_clouds_words_are_one_clean_bounded_line() {
    let said = |text: &str| Said::new(text).as_str().to_owned();
    assert_eq!(said("not authorized"), "not authorized");
    assert_eq!(said("\x1b[31ma\r\nb\0\u{202e}c\u{2028}"), "[31ma b c");
    assert_eq!(said("  a  \t b "), "a b");
    assert_eq!(said("é→"), "é→");
    let long = said(&"x".repeat(10_000));
    assert_eq!(long.chars().count(), SAID_CHARS + 1);
    assert!(long.ends_with('…'));
    assert_eq!(format!("{:?}", Said::new("a\"\n")), "\"a\\\"\"");
}

#[test]
fn statuses_that_mean_the_same_everywhere() {
    let of = |status, after| NotObtained::of_status(status, after);
    assert_eq!(
        of(429, None),
        Some(NotObtained::Throttled { retry_after: None })
    );
    assert_eq!(
        of(503, Some(7)),
        Some(NotObtained::Throttled {
            retry_after: Some(7)
        })
    );
    assert_eq!(
        of(503, None),
        Some(NotObtained::Unavailable { status: 503 })
    );
    assert_eq!(of(403, Some(7)), None);
    assert!(of(500, None).unwrap().is_general());
    assert!(NotObtained::NotAnAnswer("x").is_general());
}

#[test]
fn nothing_secret_is_shown() {
    let keys = Obtained::Aws(AwsKeys {
        access_key_id: "ASIAEXAMPLE".into(),
        secret_access_key: Secret::new("hush".into()),
        session_token: Secret::new("hush".into()),
        expires: 1,
        account: None,
    });
    let outgoing = Outgoing {
        method: "POST",
        url: Url::parse("https://a.example/").unwrap(),
        headers: vec![],
        secret: Some(("authorization", Secret::new("hush".into()))),
        body: Secret::new(b"hush".to_vec()),
    };
    let shown = format!("{keys:?} {outgoing:?}");
    assert!(
        !shown.contains("hush") && shown.contains("ASIAEXAMPLE"),
        "{shown}"
    );
}
