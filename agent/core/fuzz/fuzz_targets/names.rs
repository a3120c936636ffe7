//! What resolvers send, and what DHCP writes into resolv.conf: whatever it is, no panic, and no address of another family.
#![no_main]

use imds_guard_core::names::{Family, Heard, Question, Resolvers, hear, in_hosts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    assert!(Resolvers::read(&text, |_| Some(1)).servers.len() <= 3);
    in_hosts(&text, "sts.amazonaws.com");
    for family in [Family::V4, Family::V6] {
        let Some(question) = Question::new("sts.amazonaws.com", family, 0x1234) else {
            return;
        };
        // As an answer to the very question, with whatever comes behind it.
        let mut answer = question.bytes().to_vec();
        answer[2] |= 0x80;
        let counts = bytes.iter().take(6);
        answer.iter_mut().skip(6).zip(counts).for_each(|(to, from)| *to = *from);
        answer.extend(bytes.iter().skip(6));
        for heard in [hear(&question, &answer), hear(&question, bytes)] {
            if let Heard::Answer(found) = heard {
                let is_v4 = family == Family::V4;
                assert!(found.addresses.iter().all(|at| at.is_ipv4() == is_v4));
            }
        }
    }
});
