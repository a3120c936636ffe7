//! The last request on a connection, and how its dialect read it. A caller that polls sends the same head again and again,
//! and what a head means is a pure function of the head and of where it came to: an identical one is not read twice.
//!
//! Must never hold anything that rests on time, policy or the caller: whether the process is still there and what it may
//! have is asked for each request. Must never print what it holds: headers can be secrets.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Uri};
use imds_guard_core::http::{HEADERS_LIMIT, RequestHead};
use imds_guard_core::imds::{self, Arrival, Call, Malformed};

/// One connection's memo.
#[derive(Default)]
pub(crate) struct Memo(RefCell<Option<Seen>>);

struct Seen {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    arrival: Arrival,
    call: Rc<Call>,
}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").finish_non_exhaustive()
    }
}

impl Memo {
    /// What is asked by `head`, which came to `arrival`.
    pub(crate) fn call(&self, head: Parts, arrival: &Arrival) -> Result<Rc<Call>, Malformed> {
        if let Some(seen) = &*self.0.borrow()
            && seen.is(&head, arrival)
        {
            return Ok(Rc::clone(&seen.call));
        }
        let call = Rc::new(parse(&head, arrival)?);
        *self.0.borrow_mut() = Some(Seen {
            method: head.method,
            uri: head.uri,
            headers: head.headers,
            arrival: *arrival,
            call: Rc::clone(&call),
        });
        Ok(call)
    }
}

impl Seen {
    /// Byte for byte, headers in the order in which the dialect would see them.
    fn is(&self, head: &Parts, arrival: &Arrival) -> bool {
        self.arrival == *arrival
            && self.method == head.method
            && self.uri == head.uri
            && self.headers.len() == head.headers.len()
            && self.headers.iter().eq(head.headers.iter())
    }
}

/// The head as the dialect reads it: what hyper has parsed of the very bytes that the scanner passed.
fn parse(head: &Parts, arrival: &Arrival) -> Result<Call, Malformed> {
    let mut headers = [("", &b""[..]); HEADERS_LIMIT];
    let mut count = 0;
    for ((name, value), slot) in head.headers.iter().zip(&mut headers) {
        *slot = (name.as_str(), value.as_bytes());
        count += 1;
    }
    let head = RequestHead {
        method: head.method.as_str(),
        target: head
            .uri
            .path_and_query()
            .map_or("", |target| target.as_str()),
        headers: &headers[..count],
    };
    imds::parse(&head, arrival)
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

    fn head(target: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = hyper::Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    const GOOD: [(&str, &str); 2] = [("host", "169.254.169.254"), ("metadata", "true")];

    #[test]
    fn an_identical_head_is_read_once() {
        let memo = Memo::default();
        let first = memo.call(head(READ, &GOOD), &arrival()).unwrap();
        let second = memo.call(head(READ, &GOOD), &arrival()).unwrap();
        assert!(Rc::ptr_eq(&first, &second));
    }

    #[test]
    fn anything_else_is_read_anew() {
        let memo = Memo::default();
        let first = memo.call(head(READ, &GOOD), &arrival()).unwrap();
        let other = "/metadata/instance/compute?api-version=2021-02-01";
        let second = memo.call(head(other, &GOOD), &arrival()).unwrap();
        assert_ne!(first, second);
        // The guard header gone, another host, a forwarded request: each is refused as if nothing had gone before.
        for headers in [
            &GOOD[..1],
            &[("host", "example.org"), GOOD[1]],
            &[GOOD[0], GOOD[1], ("x-forwarded-for", "10.0.0.1")],
        ] {
            memo.call(head(READ, &GOOD), &arrival()).unwrap();
            memo.call(head(READ, headers), &arrival()).unwrap_err();
        }
        let elsewhere = Arrival {
            port: 8080,
            ..arrival()
        };
        let here = memo.call(head(READ, &GOOD), &arrival()).unwrap();
        if let Ok(there) = memo.call(head(READ, &GOOD), &elsewhere) {
            assert!(!Rc::ptr_eq(&here, &there));
        }
    }

    #[test]
    fn it_prints_nothing_of_what_it_holds() {
        let memo = Memo::default();
        memo.call(head(READ, &GOOD), &arrival()).unwrap();
        assert_eq!(format!("{memo:?}"), "Memo { .. }");
    }
}
