//! Of the layouts' arithmetic: keys, masks, counters.

use super::*;

fn key(address: [u8; 16], port: u32) -> EndpointKey {
    EndpointKey { address, port }
}

#[test]
fn mapped_is_the_mapped_form_of_std() {
    let v4 = std::net::Ipv4Addr::new(169, 254, 169, 254);
    assert_eq!(mapped(v4.octets()), v4.to_ipv6_mapped().octets());
}

#[test]
fn a_key_is_always_in_its_own_mask() {
    for port in [0, 1, 80, 443, 32526, 65535] {
        for last in 0..=255 {
            let k = key(mapped([169, 254, 169, last]), port);
            assert!(prefilter_bit(k.words(), port) < 64);
            assert_eq!(k.prefilter_mask().count_ones(), 1);
        }
    }
}

#[test]
fn the_prefilter_spreads_neighbours_over_most_bits() {
    let mut mask = 0;
    for last in 0..=255 {
        mask |= key(mapped([10, 0, 0, last]), 443).prefilter_mask();
    }
    assert!(mask.count_ones() > 48, "{mask:#b}");
}

#[test]
fn counters_are_numbered_by_their_place() {
    for (i, c) in Counter::ALL.iter().enumerate() {
        assert_eq!(*c as usize, i);
    }
}

#[test]
fn a_missing_fact_is_not_had() {
    let record = CallerRecord {
        missing: missing::EXE,
        ..CallerRecord::ZERO
    };
    assert!(!record.has(missing::EXE));
    assert!(record.has(missing::START));
    assert!(!record.has(missing::START | missing::EXE));
}
