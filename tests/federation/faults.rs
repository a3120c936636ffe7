//! Far ends that refuse, throttle, lie and redirect, and many callers at once.

use super::host::{Host, VAULT};
use super::world;
use imds_guard_tests::Reply;
use std::time::{Duration, Instant};

const ASK: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_refusal_of_the_cloud_is_told_by_its_code_and_the_log_says_what_to_do() {
    let world = world("federate-refused");
    let host = Host::with(&world, |policy| {
        policy.replace("/workload/{workload}\"", "/Workload/{workload}\"")
    });
    let answer = host.azure(&host.billing());
    assert_eq!(answer["ok"], false, "{answer}");
    let error = answer["error"].as_str().unwrap();
    assert!(error.contains("(AADSTS7002138)"), "{error}");
    assert!(answer["seconds"].as_f64().unwrap() < 2.0, "{answer}");
    let log = host.agent.log();
    assert!(
        log.contains("upper and lower case") && log.contains("write both alike"),
        "{log}"
    );
    // Never kept: the next one asks again.
    host.azure(&host.billing());
    assert_eq!(host.entra.received().len(), 2);
    host.keeps_its_secrets();
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_throttled_cloud_is_left_alone_for_as_long_as_it_says() {
    let world = world("federate-throttled");
    let host = Host::of(&world, "azure");
    host.entra
        .answer_instead(Some(Reply::json(429, "{}").with("Retry-After", "2")));
    let billing = host.billing();
    for _ in 0..5 {
        let response = billing.get(ASK).unwrap();
        assert_eq!(response.status, 429, "{response:?}");
        assert_eq!(response.header("retry-after"), Some("2"), "{response:?}");
    }
    assert_eq!(host.entra.received().len(), 1);
    host.entra.answer_instead(None);
    std::thread::sleep(Duration::from_millis(2100));
    assert_eq!(
        billing.get(ASK).unwrap().status,
        200,
        "{}",
        host.agent.log()
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn what_is_no_answer_is_none_and_nothing_of_it_is_kept() {
    let world = world("federate-lies");
    let host = Host::of(&world, "azure");
    let billing = host.billing();
    let redirect = Reply::new(302, "").with("Location", "http://169.254.169.254/");
    let endless = r#"{"token_type":"Bearer","expires_in":99999999999,"access_token":"eyJ"}"#;
    for (reply, status) in [
        (redirect, 502),
        (Reply::json(200, "x".repeat(2 << 20)), 502),
        (Reply::json(200, "{}"), 502),
        (Reply::json(200, endless), 502),
        (Reply::json(500, "{}"), 502),
        (Reply::json(200, "{}").after(Duration::from_secs(3)), 504),
    ] {
        host.entra.answer_instead(Some(reply));
        let begun = Instant::now();
        let response = billing.get(ASK).unwrap();
        assert_eq!(
            response.status,
            status,
            "{response:?}\n{}",
            host.agent.log()
        );
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
        // Failures that everybody would meet are repeated for half a second.
        std::thread::sleep(Duration::from_millis(600));
    }
    host.entra.answer_instead(None);
    assert_eq!(
        billing.get(ASK).unwrap().status,
        200,
        "{}",
        host.agent.log()
    );
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_thousand_at_once_are_one_exchange() {
    let world = world("federate-crowd");
    let host = Host::with(&world, |policy| {
        format!("{policy}\n[proxy]\nmax_connections = 8192\n")
    });
    let answer = host.crowd(&host.billing(), "1000", ASK);
    assert_eq!(
        answer["statuses"]["200"],
        1000,
        "{answer}\n{}",
        host.agent.log()
    );
    assert_eq!(answer["tokens"], 1, "{answer}");
    let token = answer["token"].as_str().unwrap();
    assert_eq!(host.entra.resource_of(token).as_deref(), Some(VAULT));
    assert_eq!((host.entra.received().len(), host.signed().len()), (1, 1));
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn an_issuer_that_the_cloud_cannot_read_is_no_refusal() {
    let world = world("federate-unpublished");
    let host = Host::with(&world, |policy| {
        policy.replace("idp.example.org/hosts", "idp.example.org/elsewhere")
    });
    let response = host.billing().get(ASK).unwrap();
    assert_eq!(response.status, 502, "{response:?}");
    let log = host.agent.log();
    assert!(
        log.contains("AADSTS50166") && log.contains("issuer publish"),
        "{log}"
    );
}
