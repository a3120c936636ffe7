//! The manual's example lines are these records, and its tables name every field: else the test says which is missing.

use std::collections::BTreeSet;

use super::*;
use crate::decision::DenyReason;

const MANUAL: &str = include_str!("../../../docs/audit.md");

fn time() -> jiff::Timestamp {
    "2026-11-21T10:00:00.123456789Z".parse().unwrap()
}

fn caller() -> Caller {
    Caller {
        pid: 4242,
        uid: 999,
        gid: 990,
        comm: Comm(*b"billing-api\0\0\0\0\0"),
        cgroup_id: 8123,
        netns: 4_026_531_840,
        connection: 81_925,
        endpoint: ([169, 254, 169, 254], 80).into(),
    }
}

fn guest() -> Guest<'static> {
    Guest {
        id: "shop",
        interface: "vnet0",
        address: ([10, 0, 0, 2], 40_112).into(),
        endpoint: ([169, 254, 169, 254], 80).into(),
    }
}

fn rule() -> RuleRef {
    RuleRef {
        name: "vault".into(),
        file: "/etc/imds-guard/imds-guard.toml".into(),
        line: 31,
    }
}

/// Calls `with` on a record of each kind that has every field.
fn complete(with: &mut dyn FnMut(&Line<'_>)) {
    let (rule, selectors) = (rule(), ["systemd:id:billing.service".into()]);
    let denial = |reason| Denial {
        reason,
        rule: Some(Arc::new(self::rule())),
        workloads: vec!["billing-api".into()],
    };
    let (denied, would) = (denial(DenyReason::DenyRule), denial(DenyReason::NoRule));
    let credential = Fingerprint {
        jti: "0b9f2a6c".into(),
        identity: "billing".into(),
        expires: 1_795_222_800,
        cached: false,
    };
    with(&Line::Exchange(Exchange {
        time: time(),
        outcome: Outcome::Allowed,
        status: 200,
        reason: Some("answered"),
        mode: Some(Mode::Enforce),
        workload: Some("billing-api"),
        selectors: Some(&selectors),
        rule: Some(&rule),
        denial: Some(&denied),
        would_deny: Some(&would),
        method: Some("GET"),
        path: Some("/metadata/identity/oauth2/token"),
        resource: Some("https://vault.azure.net"),
        credential: Some(&credential),
        imdsv1: Some(3),
        caller: Some(caller()),
        guest: Some(guest()),
        epoch: 3,
        latency_us: 412,
    }));
    with(&Line::Signed(Signed {
        time: time(),
        jti: "0b9f2a6c",
        sub: "spiffe://example.org/host/web-07/workload/billing-api",
        file: Some("/run/secrets/token"),
        aud: "https://vault.azure.net",
        exp: 1_795_222_800,
        workload: "billing-api",
        rule: &rule,
        caller: Some(caller()),
        guest: Some(guest()),
        epoch: 3,
    }));
    with(&Line::Observed(Observed {
        time: time(),
        mode: Mode::Observe,
        reason: Some("filtered"),
        protocol: 6,
        caller: caller(),
    }));
    of_the_guard(with);
}

/// Of what is in force, rather than of a caller.
fn of_the_guard(with: &mut dyn FnMut(&Line<'_>)) {
    with(&Line::Drift(Drift {
        time: time(),
        what: "connect4",
        change: "detached",
        failed: Some("no such cgroup"),
    }));
    with(&Line::Trial(Trial {
        time: time(),
        change: "went_back",
        digest: Some("0123456789ab"),
        earlier: Some("ba9876543210"),
        until: Some("2026-11-21T10:10:00Z"),
        why: Some("the files have errors"),
        epoch: 4,
    }));
    with(&Line::Bypass(Bypass {
        time: time(),
        change: "begun",
        id: "0b9f2a6c",
        name: "billing-api",
        scopes: &["cgroup:path:/system.slice/billing.service unix:uid:999".into()],
        reason: "incident 4711",
        until: "2026-11-21T10:30:00Z",
        by: Some(1000),
    }));
    with(&Line::Revoked(Revoked {
        time: time(),
        workload: Some("billing-api"),
        epoch: 4,
    }));
}

/// `caller.pid` and so on, for each value that is not itself an object.
fn names(value: &serde_json::Value, before: &str, all: &mut BTreeSet<String>) {
    let fields = match value {
        serde_json::Value::Object(fields) => fields,
        serde_json::Value::Null => return,
        _ => {
            all.insert(before.to_owned());
            return;
        }
    };
    for (name, value) in fields {
        let dot = if before.is_empty() { "" } else { "." };
        names(value, &format!("{before}{dot}{name}"), all);
    }
}

/// The names in the first column of the tables of the manual's section.
fn documented(section: &str) -> BTreeSet<String> {
    let title = format!("## `{section}`");
    let (_, rest) = MANUAL.split_once(&title).unwrap();
    let text = rest.split("\n## ").next().unwrap();
    let first = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    text.lines().filter_map(first).collect()
}

#[test]
fn every_field_is_in_the_manual_and_no_other() {
    complete(&mut |line| {
        let json = serde_json::to_value(line).unwrap();
        let event = json["event"].as_str().unwrap();
        let mut own = BTreeSet::new();
        names(&json, "", &mut own);
        let (guest, own): (BTreeSet<_>, BTreeSet<_>) =
            own.into_iter().partition(|name| name.starts_with("guest."));
        let (shared, own): (BTreeSet<_>, BTreeSet<_>) = own
            .into_iter()
            .partition(|name| name.starts_with("caller."));
        assert_eq!(own, documented(event), "fields of `{event}`");
        if ["drift", "trial", "bypass", "revoked"].contains(&event) {
            return assert!(guest.is_empty() && shared.is_empty());
        }
        assert!(
            event == "observed" || guest == documented("guest"),
            "fields of the guest"
        );
        assert_eq!(shared, documented("caller"), "fields of the caller");
    });
}

#[test]
fn example_lines_of_the_manual_are_records_of_this_form() {
    let examples = MANUAL.split("```json\n").skip(1);
    let examples = examples.flat_map(|block| block.split("```").next().unwrap_or("").lines());
    let examples: Vec<serde_json::Value> = examples
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut events = BTreeSet::new();
    complete(&mut |line| {
        let json = serde_json::to_value(line).unwrap();
        let mut all = BTreeSet::new();
        names(&json, "", &mut all);
        for example in examples.iter().filter(|e| e["event"] == json["event"]) {
            events.insert(json["event"].to_string());
            let mut own = BTreeSet::new();
            names(example, "", &mut own);
            assert!(own.is_subset(&all), "{example}: {:?}", own.difference(&all));
        }
    });
    assert_eq!(events.len(), 7, "one example line of each event at least");
}

#[test]
fn every_word_is_in_the_manual() {
    let word = |value: serde_json::Value| format!("| `{}` |", value.as_str().unwrap());
    for outcome in Outcome::ALL {
        let word = word(serde_json::to_value(outcome).unwrap());
        assert!(MANUAL.contains(&word), "{word}");
    }
    for reason in DenyReason::ALL {
        let word = word(serde_json::to_value(reason).unwrap());
        assert!(MANUAL.contains(&word), "{word}");
    }
}

#[test]
fn absent_fields_are_left_out_and_names_are_any_bytes() {
    let mut caller = caller();
    caller.comm = Comm(*b"a\n\"}\xff\x1b\0after-it!");
    let line = Line::Observed(Observed {
        time: time(),
        mode: Mode::Audit,
        reason: Some("filtered"),
        protocol: 17,
        caller,
    });
    let text = serde_json::to_string(&line).unwrap();
    assert!(!text.contains('\n') && !text.contains("after-it"), "{text}");
    let back: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(back["caller"]["comm"], "a\n\"}\u{fffd}\u{1b}");
    assert_eq!(back["mode"], "audit");
}

fn text(exchange: &Exchange<'_>) -> String {
    serde_json::to_string(&Line::Exchange(exchange.clone())).unwrap()
}

/// Calls `with` on every exchange that [`complete`] has, and on the barest one.
fn exchanges(with: &mut dyn FnMut(&Exchange<'_>)) {
    complete(&mut |line| {
        if let Line::Exchange(exchange) = line {
            with(exchange);
            with(&Exchange {
                workload: None,
                path: Some("/\"},\"time\":\"\u{e9}\",\"latency_us\":7}"),
                caller: None,
                ..exchange.clone()
            });
        }
    });
}

#[test]
fn a_repeated_line_says_what_the_fields_say() {
    let times = [
        "2026-11-21T10:00:00.123456789Z",
        "2026-11-21T10:00:00.000000001Z",
        "2026-11-21T10:00:01.999999999Z",
        "1969-12-31T23:59:59.5Z",
        "1970-01-01T00:00:00Z",
    ];
    let mut seen = 0;
    exchanges(&mut |exchange| {
        let mut repeated = Repeated::of(text(exchange).as_bytes(), exchange).unwrap();
        for (time, latency_us) in times.into_iter().zip([0, 412, u64::MAX, 7, 10]) {
            let time: jiff::Timestamp = time.parse().unwrap();
            let again = Exchange {
                time,
                latency_us,
                ..exchange.clone()
            };
            let mut line = b"before".to_vec();
            repeated.write(time, latency_us, &mut line);
            let line = String::from_utf8(line[b"before".len()..].to_vec()).unwrap();
            let (ours, theirs): (serde_json::Value, serde_json::Value) = (
                serde_json::from_str(&line).unwrap(),
                serde_json::from_str(&text(&again)).unwrap(),
            );
            let said: jiff::Timestamp = ours["time"].as_str().unwrap().parse().unwrap();
            assert_eq!(said, time, "{line}");
            let but_time = |mut value: serde_json::Value| {
                value["time"] = "".into();
                value
            };
            assert_eq!(but_time(ours), but_time(theirs));
            seen += 1;
        }
    });
    assert_eq!(seen, 2 * times.len());
}

#[test]
fn a_line_of_another_exchange_is_not_repeated() {
    exchanges(&mut |exchange| {
        let line = text(exchange);
        let other = |change: Exchange<'_>| Repeated::of(line.as_bytes(), &change);
        assert!(
            other(Exchange {
                latency_us: 5,
                ..exchange.clone()
            })
            .is_none()
        );
        assert!(
            other(Exchange {
                time: jiff::Timestamp::UNIX_EPOCH,
                ..exchange.clone()
            })
            .is_none()
        );
        assert!(Repeated::of(b"{}", exchange).is_none());
    });
}
