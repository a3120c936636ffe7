//! Round trips, bounds, and garbage.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::decision::DenyReason;
use crate::evidence::Evidence;
use crate::policy::Source;
use crate::request::{AzureIdentity, CredentialAsk, Request};
use crate::secret::Secret;
use crate::selector::{Key, Selectors};

fn sign(resource: &str, client_id: &str) -> Result<Vec<u8>, SeamError> {
    let ask = SignAsk::AzureClientId {
        resource,
        client_id,
    };
    Ask::Sign { id: 1, ask }.encode()
}

#[test]
fn ask_limits() {
    let text = |n: usize| "x".repeat(n);
    let longest = sign(&text(RESOURCE_LIMIT), &text(SELECTOR_LIMIT)).unwrap();
    assert_eq!(longest.len(), ASK_LIMIT);
    assert!(Ask::decode(&longest).is_ok());
    assert_eq!(sign(&text(RESOURCE_LIMIT + 1), "x"), Err(SeamError::Length));
    assert_eq!(sign("x", &text(SELECTOR_LIMIT + 1)), Err(SeamError::Length));
    assert_eq!(sign("", "x"), Err(SeamError::Length));
    assert_eq!(sign("x", ""), Err(SeamError::Length));
    for bad in ["a b", "a\n", "ä", "a\0", "\u{7f}"] {
        assert_eq!(sign(bad, "x"), Err(SeamError::Text), "{bad:?}");
    }
    let over = vec![0; ASK_LIMIT + 1];
    assert_eq!(Ask::decode(&over), Err(SeamError::TooLong));
}

#[test]
fn anything_out_of_place_in_an_ask_is_refused() {
    let good = sign("resource", "client").unwrap();
    assert!(Ask::decode(&good).is_ok());
    let broken = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        Ask::decode(&packet).map(|_| ()).unwrap_err()
    };
    assert_eq!(broken(0, 2), SeamError::Version);
    for kind in [0, 5, 255] {
        assert_eq!(broken(1, kind), SeamError::Kind);
    }
    assert_eq!(broken(1, 1), SeamError::Kind, "an attest with a selector");
    assert_eq!(broken(1, 4), SeamError::Kind, "a dial with a selector");
    assert_eq!(broken(2, 0), SeamError::Length, "a selector without a kind");
    assert_eq!(broken(2, 6), SeamError::Length, "a role with a selector");
    assert_eq!(broken(2, 8), SeamError::Kind);
    assert_eq!(broken(3, 1), SeamError::Kind);
    assert_eq!(broken(12, 9), SeamError::TooShort, "lengths beyond the end");
    assert_eq!(broken(12, 7), SeamError::Trailing);
    assert_eq!(broken(13, 255), SeamError::Length);
    assert_eq!(broken(16, 0xff), SeamError::Text);
    let mut long = good.clone();
    long.push(0);
    assert_eq!(Ask::decode(&long), Err(SeamError::Trailing));
    for len in 0..good.len() {
        assert!(Ask::decode(&good[..len]).is_err(), "cut at {len}");
    }
}

#[test]
fn what_is_exchanged_is_asked_for_by_what_the_permit_names() {
    let scopes: Vec<Arc<str>> = vec!["https://a".into(), "https://b".into()];
    let account: Arc<str> = "default".into();
    for (ask, asked) in [
        (
            SignAsk::GcpToken {
                scopes: "https://a,https://b",
                account: "default",
            },
            CredentialAsk::GcpToken { account, scopes },
        ),
        (
            SignAsk::Aws {
                role: "batch",
                imdsv1: true,
            },
            CredentialAsk::AwsRole {
                role: Some("batch".into()),
                imdsv1: true,
            },
        ),
        (
            SignAsk::Aws {
                role: "batch",
                imdsv1: false,
            },
            CredentialAsk::AwsRole {
                role: Some("batch".into()),
                imdsv1: false,
            },
        ),
    ] {
        let packet = Ask::Sign { id: 7, ask }.encode().unwrap();
        assert_eq!(Ask::decode(&packet), Ok(Ask::Sign { id: 7, ask }));
        assert_eq!(ask.request(), Request::Credential(asked));
    }
}

#[test]
fn an_identity_token_is_asked_for_by_audience_and_account() {
    let ask = SignAsk::Gcp {
        audience: "https://registry",
        account: "default",
    };
    let packet = Ask::Sign { id: 7, ask }.encode().unwrap();
    assert_eq!(Ask::decode(&packet), Ok(Ask::Sign { id: 7, ask }));
    assert_eq!(
        ask.request(),
        Request::Credential(CredentialAsk::GcpIdentity {
            account: "default".into(),
            audience: "https://registry".into()
        })
    );
    let nobody = SignAsk::Gcp {
        audience: "https://registry",
        account: "",
    };
    assert_eq!(
        Ask::Sign { id: 7, ask: nobody }.encode(),
        Err(SeamError::Length)
    );
}

fn pushes() -> Vec<Answer> {
    vec![
        Answer::Welcome(Welcome {
            fds: vec![
                WelcomeFd::Listener { netns_cookie: 1 },
                WelcomeFd::AttributionMap,
                WelcomeFd::Audit,
            ],
        }),
        Answer::Policy(Policy {
            epoch: 3,
            hostname: "web-07".into(),
            len: 9,
        }),
        Answer::Issuer(Issuer {
            discovery: "{}".into(),
            jwks: "{}".into(),
        }),
        Answer::Audit,
        Answer::Outbound,
        Answer::Revoke {
            workload: Some("billing".into()),
        },
        Answer::Listeners(Listeners {
            netns_cookies: vec![4, u64::MAX],
        }),
        Answer::Guests(Guests {
            guests: vec![Guest {
                key: u32::MAX,
                id: "shop".into(),
                interface: "vnet0".into(),
                listeners: 2,
            }],
        }),
    ]
}

fn answers() -> Vec<Answer> {
    let selectors = Selectors(
        [
            (Key::UnixUid, Evidence::Present(vec![Arc::from("1000")])),
            (Key::UnixPath, Evidence::Absent),
            (Key::UnixSha256, Evidence::Unavailable("gone".into())),
        ]
        .into(),
    );
    let process = Process {
        tgid: 42,
        start_ns: u64::MAX,
    };
    let mut all = pushes();
    all.extend([
        Answer::Attested(Attested {
            id: 7,
            subject: Subject::Process(process),
            selectors,
            fds: vec![AttestedFd::Pidfd, AttestedFd::ProcDir],
        }),
        Answer::Attested(Attested {
            id: 7,
            subject: Subject::Guest(3),
            selectors: Selectors::default(),
            fds: vec![AttestedFd::Gone],
        }),
        Answer::Signed(Signed {
            id: 8,
            jwt: Secret::new("canary".into()),
            iat: 1,
            exp: -2,
            jti: "j".into(),
            audience: "a".into(),
        }),
        Answer::Unchanged { id: 9 },
        Answer::Dialling { id: 11 },
        Answer::Refused {
            id: 10,
            reason: Refusal::Denied(DenyReason::NoRule),
        },
    ]);
    all
}

#[test]
fn answers_come_back_and_show_no_token() {
    for answer in answers() {
        let packet = answer.encode().unwrap();
        assert_eq!(Answer::decode(&packet).as_ref(), Ok(&answer));
        assert!(!format!("{answer:?}").contains("canary"));
        let mut long = packet.clone();
        long.push(0);
        assert_eq!(Answer::decode(&long), Err(SeamError::Trailing));
        for len in 0..packet.len() {
            assert!(Answer::decode(&packet[..len]).is_err());
        }
    }
    let big = Answer::Issuer(Issuer {
        discovery: "x".repeat(ANSWER_LIMIT).into(),
        jwks: "".into(),
    });
    assert_eq!(big.encode(), Err(SeamError::TooLong));
    assert_eq!(
        Answer::decode(&vec![1; ANSWER_LIMIT + 1]),
        Err(SeamError::TooLong)
    );
}

#[test]
fn policy_files_come_back() {
    let files = PolicyFiles {
        files: vec![Source {
            name: "imds-guard.toml".into(),
            text: "a = 1\n".into(),
        }],
    };
    assert_eq!(PolicyFiles::decode(&files.encode().unwrap()), Ok(files));
}

#[test]
fn the_files_of_the_way_out_come_back() {
    let files = OutboundFiles {
        roots: "-----BEGIN CERTIFICATE-----".into(),
        resolv_conf: "nameserver fe80::1%eth0".into(),
        hosts: "".into(),
        interfaces: vec![("eth0".into(), 2)],
    };
    let bytes = files.encode().unwrap();
    assert_eq!(OutboundFiles::decode(&bytes), Ok(files));
    assert!(OutboundFiles::decode(&bytes[..bytes.len() - 1]).is_err());
}

fn any_identity() -> impl Strategy<Value = Option<AzureIdentity>> {
    let text = || "[!-~]{1,40}".prop_map(Arc::from);
    prop_oneof![
        Just(None),
        text().prop_map(|id| Some(AzureIdentity::ClientId(id))),
        text().prop_map(|id| Some(AzureIdentity::ObjectId(id))),
        text().prop_map(|id| Some(AzureIdentity::ResourceId(id))),
    ]
}

proptest! {
    /// The guard is asked exactly what the proxy parsed.
    #[test]
    fn a_sign_ask_means_what_was_parsed(id: u64, resource in "[!-~]{1,80}", selector in any_identity()) {
        let ask = Ask::Sign { id, ask: SignAsk::azure(&resource, selector.as_ref()) };
        let packet = ask.encode().unwrap();
        let decoded = Ask::decode(&packet);
        prop_assert_eq!(decoded, Ok(ask));
        let Ok(Ask::Sign { ask, .. }) = decoded else { panic!() };
        let request = Request::Credential(CredentialAsk::AzureToken { resource: resource.into(), selector });
        prop_assert_eq!(ask.request(), request);
    }

    #[test]
    fn asks_without_strings_come_back(id: u64) {
        for ask in [Ask::Attest { id }, Ask::Recheck { id }, Ask::Still { id }] {
            let packet = ask.encode().unwrap();
            prop_assert_eq!(packet.len(), ASK_HEADER);
            prop_assert_eq!(Ask::decode(&packet), Ok(ask));
        }
    }

    /// Whatever decodes is what would have been encoded: one message, one encoding.
    #[test]
    fn garbage_is_refused_or_canonical(mut packet in proptest::collection::vec(any::<u8>(), 0..64)) {
        for (at, byte) in [(0, VERSION), (3, 0), (13, 0), (15, 0)] {
            if let Some(slot) = packet.get_mut(at) {
                *slot = byte;
            }
        }
        if let Ok(ask) = Ask::decode(&packet) {
            prop_assert_eq!(ask.encode(), Ok(packet.clone()));
        }
        let _unused = Answer::decode(&packet);
    }
}
