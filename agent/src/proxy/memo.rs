//! The last request on a connection, and how its dialect read it. A caller that polls sends the same head again and again,
//! and what a head means is a pure function of its bytes and of where it came to: identical bytes are not read twice.
//!
//! Must never hold anything that rests on time, policy or the caller: whether the process is still there and what it may
//! have is asked for each request. Must never print what it holds: headers can be secrets.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use imds_guard_core::http;
use imds_guard_core::imds::{self, Arrival, Call};

use super::failure::Failure;

/// A head up to this long is remembered: SDKs send less.
const REMEMBERED: usize = 2048;

/// One connection's memo.
#[derive(Default)]
pub(crate) struct Memo(RefCell<Option<Seen>>);

struct Seen {
    head: Vec<u8>,
    arrival: Arrival,
    call: Rc<Call>,
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl Memo {
    /// What is asked by `head`, the bytes of one that the scanner has passed, which came to `arrival`.
    ///
    /// # Errors
    /// It is none of its dialect.
    pub(crate) fn call(&self, head: &[u8], arrival: &Arrival) -> Result<Rc<Call>, Failure> {
        if let Some(seen) = &*self.0.borrow()
            && seen.arrival == *arrival
            && seen.head == head
        {
            return Ok(Rc::clone(&seen.call));
        }
        let call = Rc::new(parse(head, arrival)?);
        *self.0.borrow_mut() = (head.len() <= REMEMBERED).then(|| Seen {
            head: head.to_vec(),
            arrival: *arrival,
            call: Rc::clone(&call),
        });
        Ok(call)
    }
}

fn parse(head: &[u8], arrival: &Arrival) -> Result<Call, Failure> {
    // Every head that the scanner passes splits: the fuzzer holds them to it.
    let head = http::split(head).ok_or(Failure::Unreadable)?;
    Ok(imds::parse(&head.as_head(), arrival)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use imds_guard_core::imds::Service;
    use imds_guard_core::request::Cloud;

    const READ: &str = "/metadata/instance?api-version=2021-02-01";

    fn arrival() -> Arrival {
        Arrival {
            service: Service::of_endpoint("azure-imds", Cloud::Azure),
            address: [169, 254, 169, 254].into(),
            port: 80,
        }
    }

    fn head(target: &str, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut head = format!("GET {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    const GOOD: [(&str, &str); 2] = [("host", "169.254.169.254"), ("metadata", "true")];

    #[test]
    fn an_identical_head_is_read_once() {
        let memo = Memo::default();
        let first = memo.call(&head(READ, &GOOD), &arrival()).unwrap();
        let second = memo.call(&head(READ, &GOOD), &arrival()).unwrap();
        assert!(Rc::ptr_eq(&first, &second));
    }

    #[test]
    fn anything_else_is_read_anew() {
        let memo = Memo::default();
        let first = memo.call(&head(READ, &GOOD), &arrival()).unwrap();
        let other = "/metadata/instance/compute?api-version=2021-02-01";
        let second = memo.call(&head(other, &GOOD), &arrival()).unwrap();
        assert_ne!(first, second);
        // The guard header gone, another host, a forwarded request: each is refused as if nothing had gone before.
        for headers in [
            &GOOD[..1],
            &[("host", "example.org"), GOOD[1]],
            &[GOOD[0], GOOD[1], ("x-forwarded-for", "10.0.0.1")],
        ] {
            memo.call(&head(READ, &GOOD), &arrival()).unwrap();
            memo.call(&head(READ, headers), &arrival()).unwrap_err();
        }
        let elsewhere = Arrival {
            port: 8080,
            ..arrival()
        };
        let here = memo.call(&head(READ, &GOOD), &arrival()).unwrap();
        if let Ok(there) = memo.call(&head(READ, &GOOD), &elsewhere) {
            assert!(!Rc::ptr_eq(&here, &there));
        }
    }

    #[test]
    fn a_long_head_is_read_each_time() {
        let memo = Memo::default();
        let long = "q".repeat(REMEMBERED);
        let long = head(READ, &[GOOD[0], GOOD[1], ("user-agent", &long)]);
        let first = memo.call(&long, &arrival()).unwrap();
        let second = memo.call(&long, &arrival()).unwrap();
        assert!(!Rc::ptr_eq(&first, &second));
        assert_eq!(first, second);
    }

    #[test]
    fn it_prints_nothing_of_what_it_holds() {
        let memo = Memo::default();
        memo.call(&head(READ, &GOOD), &arrival()).unwrap();
        assert_eq!(format!("{memo:?}"), "Memo { .. }");
    }
}
