//! Google's token exchange.

use super::*;

const NAME: &str =
    "projects/123456/locations/global/workloadIdentityPools/hosts/providers/example-org";

#[test]
fn a_provider_has_one_name_in_three_spellings() {
    let provider = Provider::parse(NAME).unwrap();
    for host in ["//iam.googleapis.com/", "https://iam.googleapis.com/"] {
        assert_eq!(
            Provider::parse(&format!("{host}{NAME}")).as_ref(),
            Some(&provider)
        );
    }
    assert_eq!(provider.name(), NAME);
    assert_eq!(
        provider.default_audience(),
        format!("https://iam.googleapis.com/{NAME}")
    );
    assert_eq!(provider.address(), "hosts.global.123456.workload.id.goog");
    for bad in [
        "",
        "projects/my-project/locations/global/workloadIdentityPools/hosts/providers/example-org",
        "projects/1/locations/eu/workloadIdentityPools/hosts/providers/example-org",
        "projects/1/locations/global/workloadIdentityPools/hosts",
        "projects/1/locations/global/workloadIdentityPools/hosts/providers/a/b",
        "projects/1/locations/global/workloadIdentityPools/Hosts/providers/example-org",
        "http://iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/hosts/providers/example-org",
    ] {
        assert!(Provider::parse(bad).is_none(), "{bad}");
    }
}

#[test]
fn the_request_is_a_form_without_authorization() {
    let outgoing = request(&Ask {
        url: &Url::parse(URL).unwrap(),
        provider: &Provider::parse(NAME).unwrap(),
        scopes: &["https://a".into(), "https://b".into()],
        assertion: &Secret::new("x.y.z".into()),
    });
    let body = std::str::from_utf8(outgoing.body.expose()).unwrap();
    for part in [
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&",
        "audience=%2F%2Fiam.googleapis.com%2Fprojects%2F123456%2F",
        "&scope=https%3A%2F%2Fa%20https%3A%2F%2Fb&",
        "&subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&",
        "&subject_token=x.y.z",
    ] {
        assert!(body.contains(part), "{body}");
    }
    assert!(outgoing.secret.is_none());
    assert_eq!(outgoing.url.to_string(), URL);
}

#[test]
fn answers() {
    let body = br#"{"access_token":"ya29.d.EX","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3599}"#;
    assert_eq!(answer(200, None, body, 1).unwrap().expires(), 3600);
    let refused =
        br#"{"error":"invalid_grant","error_description":"The audience does not match."}"#;
    let told = answer(400, None, refused, 1).unwrap_err().to_string();
    assert!(
        told.contains("invalid_grant: The audience does not match.") && told.contains("clock"),
        "{told}"
    );
    assert!(matches!(
        answer(400, None, b"{}", 1),
        Err(NotObtained::NotAnAnswer(_))
    ));
    assert!(matches!(
        answer(503, None, b"", 1),
        Err(NotObtained::Unavailable { status: 503 })
    ));
}
