//! Azure's endpoints beside the token: what is no read, what is no other's, and the wireserver's own paths.

use super::*;

#[test]
fn nothing_else_below_identity_is_a_read() {
    for path in [
        "getplatformmetadata",
        "getPlatformMetadata",
        "issuecredential",
        "oauth2",
        "oauth2/token/x",
        "bypass",
        "",
    ] {
        let call = get(&format!(
            "/metadata/identity/{path}?api-version=2018-02-01&resource=r"
        ));
        assert_eq!(call, Err(Malformed::NotOffered), "{path}");
        let posted = format!(
            "POST /metadata/identity/{path}?cred-api-version=2.0 HTTP/1.1\nHost: 169.254.169.254"
        );
        let call = send(&format!("{posted}\nMetadata: true"), &imds());
        assert_eq!(call, Err(Malformed::NotOffered), "{path}");
        let call = send(&posted, &imds());
        assert_eq!(call, Err(Malformed::MetadataHeaderMissing), "{path}");
    }
}

#[test]
fn approving_is_not_reading() {
    let events = |method: &str| {
        send(
            &format!(
                "{method} /metadata/scheduledevents?api-version=2020-07-01 HTTP/1.1\nHost: 169.254.169.254\nMetadata: true"
            ),
            &imds(),
        )
    };
    // Nothing is below it: the rule that names it covers it.
    assert_eq!(
        read(&events("GET").unwrap()),
        ("/metadata/scheduledevents", false)
    );
    assert!(matches!(
        events("POST").unwrap().request,
        Request::Write { .. }
    ));
    assert_eq!(events("PUT"), Err(Malformed::Method { allow: "GET, POST" }));
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "HEAD", "get"] {
        let call = send(
            &format!("{method} {TOKEN} HTTP/1.1\nHost: 169.254.169.254\nMetadata: true"),
            &imds(),
        );
        assert_eq!(call, Err(Malformed::Method { allow: "GET" }), "{method}");
    }
}

#[test]
fn the_wireservers_own_paths_are_forward_only() {
    let there = at(WIRESERVER, Service::AzureWireserver);
    let call = send(
        "GET /machine/?comp=goalstate HTTP/1.1\nHost: 168.63.129.16\nx-ms-version: 2012-11-30\nx-ms-azure-host-claims: {}\nCookie: a",
        &there,
    )
    .unwrap();
    assert_eq!(read(&call).0, "/machine");
    assert_eq!(call.asked, Asked::Azure(Ask::ForwardOnly));
    let kept = ("x-ms-version".to_owned(), "2012-11-30".to_owned());
    assert_eq!(call.rebuild(None).headers, [kept]);
    for path in ["/?comp=versions", "/vmSettings", "/machine?comp=goalstate"] {
        let call = send(&format!("GET {path} HTTP/1.1\nHost: 168.63.129.16"), &there).unwrap();
        assert!(!read(&call).1, "{path}");
    }
    let post = send(
        "POST /machine?comp=health HTTP/1.1\nHost: 168.63.129.16\nContent-Length: 3",
        &there,
    )
    .unwrap();
    assert!(matches!(post.request, Request::Write { .. }));
    let mirror = send(
        &format!("GET {TOKEN} HTTP/1.1\nHost: 168.63.129.16\nMetadata: true"),
        &there,
    )
    .unwrap();
    assert_eq!(token(&mirror).0, "https://vault.azure.net");
    assert_eq!(
        send(
            &format!("GET {TOKEN} HTTP/1.1\nHost: 168.63.129.16"),
            &there
        ),
        Err(Malformed::MetadataHeaderMissing)
    );
}
