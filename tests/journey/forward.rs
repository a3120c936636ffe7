//! Forward: what the real service receives is what policy read, as the pinned identity; and what becomes of a caller where
//! that service fails.

use super::{FORWARDS, LOCATION, PINNED, TOKEN, ask, config, get, refused, world};
use imds_guard_tests::{AZURE_IMDS, Manner, UPSTREAM_TOKEN};
use std::time::{Duration, Instant};

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_pinned_identity_is_filled_in_and_another_one_never_gets_out() {
    let world = world("pinned");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let billing = world.workload("billing");
    let line = format!("GET {TOKEN}&client_id={PINNED} HTTP/1.1");
    for own in ["", "&client_id=11111111-2222-3333-4444-555555555555"] {
        let answer = billing.get(&format!("{TOKEN}{own}")).unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.json().unwrap()["access_token"], UPSTREAM_TOKEN);
        assert_eq!(azure.received().pop().unwrap().line, line);
    }
    let by_object = format!("{TOKEN}&object_id=aaaaaaaa-2222-3333-4444-555555555555");
    assert_eq!(billing.get(&by_object).unwrap().status, 200);
    let asked = azure.received().len();
    for foreign in [
        "&client_id=22222222-2222-3333-4444-555555555555",
        "&object_id=11111111-2222-3333-4444-555555555555",
        "&msi_res_id=/subscriptions/s/resourcegroups/g/providers/x/y/z",
    ] {
        let answer = billing.get(&format!("{TOKEN}{foreign}")).unwrap();
        refused(&answer, 403, "access_denied");
    }
    let nobody = world.workload("neighbour").uid(1001);
    for target in [TOKEN, LOCATION] {
        refused(&nobody.get(target).unwrap(), 403, "access_denied");
    }
    assert_eq!(azure.received().len(), asked, "{:?}", azure.received());
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn the_real_service_receives_the_rebuilt_request_and_nothing_of_the_callers_bytes() {
    let world = world("rebuilt");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    let answer = ask(
        &mut caller,
        "GET /Metadata/INSTANCE/%63ompute?junk=1&format=json&api-version=2021-02-01 HTTP/1.1\r\nhOst: 169.254.169.254:80\r\nX-Evil: 1\r\nmetadata: TRUE\r\nCookie: a=b\r\nAuthorization: Bearer x\r\nx-ms-client-request-id: 7\r\nUser-Agent: evil\r\nAccept: */*\r\n\r\n",
    );
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json().unwrap()["name"], "upstream");
    let received = azure.received().pop().unwrap();
    assert_eq!(
        received.line,
        "GET /metadata/instance/compute?format=json&api-version=2021-02-01 HTTP/1.1"
    );
    let mut headers: Vec<String> = received
        .headers
        .iter()
        .map(|h| h.to_ascii_lowercase())
        .collect();
    headers.sort();
    assert_eq!(headers, ["host: 169.254.169.254", "metadata: true"]);
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_kept_upstream_connection_is_used_again_and_dialled_again_when_it_was_closed() {
    let world = world("redial");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let billing = world.workload("billing");
    for _ in 0..5 {
        assert_eq!(billing.get(TOKEN).unwrap().status, 200);
    }
    assert_eq!(azure.connections(), 1, "five requests, one connection");
    azure.behave(Manner::Closes);
    for _ in 0..5 {
        assert_eq!(billing.get(TOKEN).unwrap().status, 200);
    }
    assert!(azure.connections() >= 5, "{}", azure.connections());
    azure.behave(Manner::Keeps);
    assert_eq!(billing.get(TOKEN).unwrap().status, 200);
    assert_eq!(azure.received().len(), 11, "none was sent twice");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn a_service_that_is_down_or_silent_is_told_within_a_second() {
    let world = world("down");
    let agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let mut caller = world.workload("billing").connect(AZURE_IMDS).unwrap();
    let begun = Instant::now();
    let answer = ask(&mut caller, &get(TOKEN));
    let took = begun.elapsed();
    refused(&answer, 502, "unknown");
    assert_eq!(
        answer.json().unwrap()["error_description"],
        "The metadata service could not be contacted"
    );
    assert!(took < Duration::from_secs(1), "{took:?}");

    // There again: the same connection of the same caller is served.
    let azure = world.azure().unwrap();
    assert_eq!(ask(&mut caller, &get(TOKEN)).status, 200);

    azure.behave(Manner::Silent);
    let begun = Instant::now();
    let answer = ask(&mut caller, &get(TOKEN));
    let took = begun.elapsed();
    refused(&answer, 504, "unknown");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let record = super::record_of(&agent, caller.pid(), 3);
    assert_eq!(record["outcome"], "failed", "{record}");
    assert_eq!(record["reason"], "upstream", "{record}");
}

#[test]
#[ignore = "kernel: cargo xtask test kernel"]
fn an_oversized_answer_and_a_redirect_are_failures_and_are_not_followed() {
    let world = world("oversized");
    let azure = world.azure().unwrap();
    let _agent = world
        .agent()
        .config(&config("enforce", FORWARDS))
        .start()
        .unwrap();
    let billing = world.workload("billing");
    azure.behave(Manner::Sized(1024 * 1024));
    let answer = billing.get(LOCATION).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 1024 * 1024));
    azure.behave(Manner::Sized(1024 * 1024 + 1));
    let answer = billing.get(LOCATION).unwrap();
    refused(&answer, 502, "unknown");
    assert!(answer.body.len() < 300, "{}", answer.body.len());
    azure.behave(Manner::Redirects);
    let asked = azure.received().len();
    let answer = billing.get(TOKEN).unwrap();
    refused(&answer, 502, "unknown");
    assert_eq!(answer.header("location"), None);
    assert_eq!(azure.received().len(), asked + 1, "it was not followed");
    azure.behave(Manner::Keeps);
    assert_eq!(billing.get(TOKEN).unwrap().status, 200);
}
