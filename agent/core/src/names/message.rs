//! What a resolver is asked, and what its answer means.

use std::net::IpAddr;

use domain::base::iana::Rcode;
use domain::base::{Message, MessageBuilder, Name, Rtype};
use domain::rdata::{A, Aaaa};

/// What we take in one datagram: whatever is longer comes over TCP. It fits into every path's packets.
pub const UDP_BYTES: u16 = 1232;
/// As many addresses as anybody would dial.
const ADDRESSES: usize = 16;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4: `A`.
    V4,
    /// IPv6: `AAAA`.
    V6,
}

impl Family {
    const fn record(self) -> Rtype {
        match self {
            Self::V4 => Rtype::A,
            Self::V6 => Rtype::AAAA,
        }
    }
}

/// A question, ready to be sent.
#[derive(Debug, Clone)]
pub struct Question {
    message: Message<Vec<u8>>,
    family: Family,
}

impl Question {
    /// Asks for the addresses of `name`. `id` is random: who doesn't see the question can't tell it.
    ///
    /// None where `name` is none that DNS has.
    pub fn new(name: &str, family: Family, id: u16) -> Option<Self> {
        let name: Name<Vec<u8>> = name.parse().ok()?;
        let mut message = MessageBuilder::new_vec();
        let header = message.header_mut();
        header.set_id(id);
        header.set_rd(true);
        let mut message = message.question();
        message.push((name, family.record())).ok()?;
        let mut message = message.additional();
        let size = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
            opt.set_udp_payload_size(UDP_BYTES);
            Ok(())
        };
        message.opt(size).ok()?;
        Some(Self {
            message: message.into_message(),
            family,
        })
    }

    /// The bytes that are sent.
    pub fn bytes(&self) -> &[u8] {
        self.message.as_slice()
    }
}

/// What was heard from a resolver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// Not the answer to this question: to be ignored, as if it had not come.
    Something,
    /// The answer, cut short: it is to be had over TCP.
    Truncated,
    /// The resolver can't, or doesn't want to: another one may.
    Fails(&'static str),
    /// The answer. Without addresses: the name, or such an address of it, doesn't exist.
    Answer(Found),
}

/// What a name leads to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// Of the family that was asked for.
    pub addresses: Vec<IpAddr>,
    /// For how many seconds it may be remembered.
    pub ttl: u32,
}

/// Reads what came after `question` had been sent.
pub fn hear(question: &Question, bytes: &[u8]) -> Heard {
    let Ok(message) = Message::from_octets(bytes) else {
        return Heard::Something;
    };
    if !message.is_answer(&question.message) {
        return Heard::Something;
    }
    let header = message.header();
    if header.tc() {
        return Heard::Truncated;
    }
    match header.rcode() {
        Rcode::NOERROR => match addresses(&message, question.family) {
            Some(found) => Heard::Answer(found),
            None => Heard::Fails("an answer that can't be read"),
        },
        Rcode::NXDOMAIN => Heard::Answer(Found::default()),
        Rcode::SERVFAIL => Heard::Fails("SERVFAIL"),
        Rcode::REFUSED => Heard::Fails("REFUSED"),
        Rcode::FORMERR => Heard::Fails("FORMERR"),
        Rcode::NOTIMP => Heard::Fails("NOTIMP"),
        _ => Heard::Fails("an unknown code"),
    }
}

/// The addresses at the end of the chain of aliases. None where the answer is broken, or its aliases lead in a circle.
fn addresses(message: &Message<&[u8]>, family: Family) -> Option<Found> {
    let name = message.canonical_name()?;
    let mut found = Found {
        addresses: vec![],
        ttl: u32::MAX,
    };
    let answer = message.answer().ok()?;
    // What an alias' record says of its own life counts as well.
    for record in answer {
        let record = record.ok()?;
        found.ttl = found.ttl.min(record.ttl().as_secs());
        if record.owner() != name || found.addresses.len() == ADDRESSES {
            continue;
        }
        let address = match family {
            Family::V4 => {
                let a = record.to_record::<A>().ok()?;
                a.map(|a| IpAddr::from(a.data().addr()))
            }
            Family::V6 => {
                let aaaa = record.to_record::<Aaaa>().ok()?;
                aaaa.map(|aaaa| IpAddr::from(aaaa.data().addr()))
            }
        };
        found.addresses.extend(address);
    }
    if found.addresses.is_empty() {
        found.ttl = 0;
    }
    Some(found)
}
