//! A packet into both decoders.
//!
//! Holds: no panic; an ask that decodes is within its bounds and has exactly one encoding; an answer that decodes
//! comes back.
#![no_main]

use imds_guard_core::request::{CredentialAsk, Request};
use imds_guard_core::seam::{ASK_LIMIT, Answer, Ask, OutboundFiles, PolicyFiles, RESOURCE_LIMIT};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Ok(ask) = Ask::decode(packet) {
        assert!(packet.len() <= ASK_LIMIT);
        assert_eq!(
            ask.encode().as_deref(),
            Ok(packet),
            "two encodings of one ask"
        );
        if let Ask::Sign { ask, .. } = ask {
            let Request::Credential(asked) = ask.request() else {
                panic!("a sign ask is for a credential")
            };
            let of = match &asked {
                CredentialAsk::AzureToken { resource, .. } => resource.len(),
                CredentialAsk::GcpIdentity { audience, .. } => audience.len(),
                CredentialAsk::AwsRole { role, .. } => role.as_ref().map_or(0, |role| role.len()),
                CredentialAsk::GcpToken { scopes, .. } => {
                    scopes.iter().map(|scope| scope.len() + 1).sum::<usize>() - 1
                }
            };
            assert!((1..=RESOURCE_LIMIT).contains(&of), "{asked:?}");
        }
    }
    if let Ok(answer) = Answer::decode(packet) {
        let again = answer.encode().map(|packet| Answer::decode(&packet));
        assert_eq!(again, Ok(Ok(answer)));
    }
    if let Ok(files) = OutboundFiles::decode(packet) {
        assert_eq!(
            files.encode().map(|bytes| OutboundFiles::decode(&bytes)),
            Ok(Ok(files))
        );
    }
    if let Ok(files) = PolicyFiles::decode(packet) {
        assert_eq!(
            files.encode().map(|bytes| PolicyFiles::decode(&bytes)),
            Ok(Ok(files))
        );
    }
});
