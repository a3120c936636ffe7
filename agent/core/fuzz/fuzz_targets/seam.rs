//! A packet into both decoders.
//!
//! Holds: no panic; an ask that decodes is within its bounds and has exactly one encoding; an answer that decodes
//! comes back.
#![no_main]

use imds_guard_core::request::{CredentialAsk, Request};
use imds_guard_core::seam::{ASK_LIMIT, Answer, Ask, PolicyFiles, RESOURCE_LIMIT};
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
            let (Request::Credential(CredentialAsk::AzureToken { resource, .. })
            | Request::Credential(CredentialAsk::GcpIdentity {
                audience: resource, ..
            })) = ask.request()
            else {
                panic!("a sign ask is for a credential")
            };
            assert!(!resource.is_empty() && resource.len() <= RESOURCE_LIMIT);
        }
    }
    if let Ok(answer) = Answer::decode(packet) {
        let again = answer.encode().map(|packet| Answer::decode(&packet));
        assert_eq!(again, Ok(Ok(answer)));
    }
    if let Ok(files) = PolicyFiles::decode(packet) {
        assert_eq!(
            files.encode().map(|bytes| PolicyFiles::decode(&bytes)),
            Ok(Ok(files))
        );
    }
});
