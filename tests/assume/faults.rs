//! STS that refuses, throttles, lies or takes its time: what a caller is told, and what is asked again.

use crate::aws::Instance;
use crate::world;
use imds_guard_tests::far::aws_sts::Fault;
use serde_json::Value;
use std::time::{Duration, Instant};

const PATH: &str = "/latest/meta-data/iam/security-credentials/batch";

fn fault(status: u16, code: Option<&'static str>) -> Fault {
    Fault {
        status,
        code,
        retry_after: None,
        late_ms: 0,
    }
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_refusal_is_worded_as_the_real_service_words_it_and_not_kept() {
    let world = world("assume-refused");
    let instance = Instance::new(&world);
    instance.sts.fails(Some(fault(403, Some("AccessDenied"))));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "200", "{body}");
    let said: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(said["Code"], "AssumeRoleUnauthorizedAccess", "{body}");
    assert!(
        said["AccessKeyId"].is_null() && !body.contains("as the test wants it"),
        "{body}"
    );
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], false, "{answer}");
    // The operator hears the cloud's reason, and what to do.
    let log = instance.agent.log();
    assert!(
        log.contains("as the test wants it") && log.contains("trust policy"),
        "{log}"
    );
    instance.sts.fails(None);
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}");
    instance.keeps_its_own(&[body]);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn throttled_it_is_left_alone_for_as_long_as_it_says() {
    let world = world("assume-throttled");
    let instance = Instance::new(&world);
    let throttled = Fault {
        retry_after: Some(3),
        ..fault(429, None)
    };
    instance.sts.fails(Some(throttled));
    for _ in 0..3 {
        let (status, body) = instance.curl(&instance.batch(), PATH);
        assert_eq!(status, "503", "{body}");
    }
    assert_eq!(instance.sts.received().len(), 1);
    instance.sts.fails(None);
    std::thread::sleep(Duration::from_secs(3));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("Success"), "{body}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn what_comes_late_is_there_for_the_next_attempt() {
    let world = world("assume-late");
    let instance = Instance::new(&world);
    let slow = Fault {
        late_ms: 1500,
        ..fault(200, None)
    };
    instance.sts.fails(Some(slow));
    let begun = Instant::now();
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "504", "{body}");
    assert!(
        begun.elapsed() < Duration::from_millis(1400),
        "{:?}",
        begun.elapsed()
    );
    std::thread::sleep(Duration::from_secs(2));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("Success"), "{body}");
    assert_eq!(instance.sts.sessions().len(), 1);
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn what_is_no_answer_is_none_and_a_page_of_a_proxy_neither() {
    let world = world("assume-broken");
    let instance = Instance::new(&world);
    instance.sts.fails(Some(fault(403, None)));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "502", "{body}");
    instance.sts.fails(Some(fault(500, None)));
    std::thread::sleep(Duration::from_millis(600));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "502", "{body}");
}

#[test]
#[ignore = "sdk: cargo xtask test sdk"]
fn a_machine_without_a_role_has_nothing_to_ask_with_and_the_log_says_so() {
    let world = world("assume-no-role");
    let instance = Instance::new(&world);
    instance.aws.refuse(Some("404 Not Found"));
    let (status, body) = instance.curl(&instance.batch(), PATH);
    assert_eq!(status, "200", "{body}");
    assert!(body.contains("AssumeRoleUnauthorizedAccess"), "{body}");
    let log = instance.agent.log();
    assert!(log.contains("has the machine a role"), "{log}");
    assert!(instance.sts.received().is_empty());
    instance.aws.refuse(None);
    let answer = instance.boto(&instance.batch(), "credentials", &[]);
    assert_eq!(answer["ok"], true, "{answer}\n{}", instance.agent.log());
}
