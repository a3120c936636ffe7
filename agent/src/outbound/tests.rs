//! Against real HTTPS servers and resolvers on loopback; the permit is one of a real policy.

mod names;

use super::*;
use std::net::{Ipv4Addr, TcpListener};

use imds_guard_far::{Authority, End, FarEnd, Reply};

use crate::upstream::tests::permit;

const NAME: &str = "sts.eu-west-1.amazonaws.com";
const BUDGET: Duration = Duration::from_secs(5);

fn post(name: &str, port: u16) -> Outgoing {
    Outgoing {
        method: "POST",
        url: Url::parse(&format!("https://{name}:{port}/?a=b")).unwrap(),
        headers: vec![("content-type", "text/plain".to_owned())],
        secret: Some(("authorization", Secret::new("canary-secret".into()))),
        body: Secret::new(b"Action=AssumeRole".to_vec()),
    }
}

/// Trusting `authority`, with `NAME` at these addresses by `hosts`.
fn trusting(authority: &Authority, addresses: &[&str]) -> Outbound {
    let lines = addresses.iter().map(|at| format!("{at} {NAME}\n"));
    let outbound = Outbound::new();
    let files = OutboundFiles {
        roots: authority.pem().into(),
        resolv_conf: "".into(),
        hosts: lines.collect::<String>().into(),
        interfaces: vec![],
    };
    outbound.configure(&files).unwrap();
    outbound
}

/// A far end with its authority, and the way to it.
struct Bench {
    authority: Authority,
    far: FarEnd,
    outbound: Outbound,
}

impl Bench {
    fn new(answer: impl Fn(&imds_guard_far::Request) -> Reply + Send + Sync + 'static) -> Self {
        let authority = Authority::new().unwrap();
        let far = FarEnd::on_loopback(&authority, &[NAME], answer).unwrap();
        let outbound = trusting(&authority, &["127.0.0.1"]);
        Self {
            authority,
            far,
            outbound,
        }
    }

    async fn send(&self) -> Result<Answer, OutboundError> {
        self.within(BUDGET).await
    }

    async fn within(&self, budget: Duration) -> Result<Answer, OutboundError> {
        let outgoing = post(NAME, self.far.address().port());
        self.outbound.send(&permit(), &outgoing, budget).await
    }
}

async fn local<T>(test: impl AsyncFnOnce() -> T) -> T {
    let local = tokio::task::LocalSet::new();
    local.run_until(test()).await
}

fn fine(_: &imds_guard_far::Request) -> Reply {
    Reply::json(200, "{}")
}

#[tokio::test]
async fn a_request_arrives_as_core_wrote_it_and_the_answer_comes_back() {
    local(async || {
        let bench = Bench::new(|_| Reply::xml(403, "<no/>").with("Retry-After", "7"));
        let answer = bench.send().await.unwrap();
        assert_eq!(answer.status, 403);
        assert_eq!(answer.retry_after.unwrap(), "7");
        assert_eq!(&answer.body.expose()[..], b"<no/>");
        let [request] = &bench.far.received()[..] else {
            panic!("one request");
        };
        assert_eq!((&*request.method, &*request.target), ("POST", "/?a=b"));
        assert_eq!(request.text(), "Action=AssumeRole");
        let host = format!("{NAME}:{}", bench.far.address().port());
        assert_eq!(request.header("host"), Some(&*host));
        assert_eq!(request.header("authorization"), Some("canary-secret"));
        assert_eq!(request.header("content-length"), Some("17"));
        assert_eq!(request.headers.len(), 4, "{:?}", request.headers);
    })
    .await;
}

#[tokio::test]
async fn connections_are_kept_and_sessions_resumed() {
    local(async || {
        let bench = Bench::new(|request| match request.connection {
            1 => fine(request),
            _ => fine(request).end(End::Closed),
        });
        for _ in 0..3 {
            bench.send().await.unwrap();
        }
        assert_eq!((bench.far.connections(), bench.far.resumed()), (1, 0));
        bench.outbound.idle.borrow_mut().clear();
        bench.send().await.unwrap();
        bench.send().await.unwrap();
        assert_eq!((bench.far.connections(), bench.far.resumed()), (3, 2));
    })
    .await;
}

#[tokio::test]
async fn what_was_opened_for_another_endpoint_or_to_other_roots_is_not_used() {
    local(async || {
        let bench = Bench::new(fine);
        bench.send().await.unwrap();
        let other = Authority::new().unwrap();
        let files = |authority: &Authority| OutboundFiles {
            roots: authority.pem().into(),
            resolv_conf: "".into(),
            hosts: format!("127.0.0.1 {NAME} sts.amazonaws.com").into(),
            interfaces: vec![],
        };
        bench.outbound.configure(&files(&other)).unwrap();
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Unproven(..)), "{refused}");
        bench.outbound.configure(&files(&bench.authority)).unwrap();
        bench.send().await.unwrap();
        let port = bench.far.address().port();
        let elsewhere = post("sts.amazonaws.com", port);
        let refused = bench.outbound.send(&permit(), &elsewhere, BUDGET).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, OutboundError::Unproven(..)), "{refused}");
    })
    .await;
}

/// At a far end that shows `credentials`, to who trusts `authority`.
async fn shown(
    authority: &Authority,
    credentials: imds_guard_far::Credentials,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Answer, OutboundError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let far = FarEnd::start_with(listener, credentials, versions, fine).unwrap();
    let outbound = trusting(authority, &["127.0.0.1"]);
    let outgoing = post(NAME, far.address().port());
    let outcome = outbound.send(&permit(), &outgoing, BUDGET).await;
    assert_eq!(far.received().len(), usize::from(outcome.is_ok()));
    outcome
}

#[tokio::test]
async fn who_cannot_prove_the_name_gets_no_request() {
    local(async || {
        let (ours, other) = (Authority::new().unwrap(), Authority::new().unwrap());
        let all = rustls::ALL_VERSIONS;
        assert!(
            shown(&ours, ours.vouch(&[NAME]).unwrap(), all)
                .await
                .is_ok()
        );
        let tls12 = &[&rustls::version::TLS12];
        assert!(
            shown(&ours, ours.vouch(&[NAME]).unwrap(), tls12)
                .await
                .is_ok()
        );
        for (credentials, why) in [
            (other.vouch(&[NAME]), "UnknownIssuer"),
            (ours.vouch(&["sts.amazonaws.com"]), "not valid for name"),
            (ours.vouch(&["*.amazonaws.com"]), "not valid for name"),
            (ours.vouch_long_ago(&[NAME]), "expired"),
        ] {
            let refused = shown(&ours, credentials.unwrap(), all).await.unwrap_err();
            assert!(matches!(refused, OutboundError::Unproven(..)), "{refused}");
            assert!(refused.to_string().contains(why), "{refused}");
        }
    })
    .await;
}

#[tokio::test]
async fn plain_http_is_no_answer() {
    local(async || {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            let (mut stream, _) = listener.accept().unwrap();
            let mut hello = [0; 64];
            let _hello = stream.read(&mut hello).unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(answer).unwrap();
        });
        let outbound = trusting(&Authority::new().unwrap(), &["127.0.0.1"]);
        let refused = outbound.send(&permit(), &post(NAME, port), BUDGET).await;
        assert!(matches!(refused, Err(OutboundError::Unproven(..))));
    })
    .await;
}

#[tokio::test]
async fn nobody_is_sent_elsewhere() {
    local(async || {
        let bench =
            Bench::new(|_| Reply::new(307, "").with("Location", "https://sts.amazonaws.com/"));
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Redirect(_)), "{refused}");
        let bench = Bench::new(|_| Reply::new(101, "").with("Upgrade", "h2c"));
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Interim(_)), "{refused}");
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_too_long_or_broken_off_is_none() {
    local(async || {
        let bench = Bench::new(|_| Reply::new(200, vec![b'x'; BODY_BYTES]));
        let longest = bench.send().await.unwrap();
        assert_eq!(longest.body.expose().len(), BODY_BYTES);
        let bench = Bench::new(|_| Reply::new(200, vec![b'x'; BODY_BYTES + 1]));
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Body(..)), "{refused}");
        let bench = Bench::new(|_| Reply::new(200, "credential").end(End::Cut));
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Body(..)), "{refused}");
        let bench = Bench::new(|_| Reply::new(200, "").end(End::Dropped));
        let refused = bench.send().await.unwrap_err();
        assert!(matches!(refused, OutboundError::Broken(..)), "{refused}");
        assert_eq!(bench.far.received().len(), 1, "not on a fresh connection");
    })
    .await;
}

#[tokio::test]
async fn a_slow_endpoint_is_late_and_costs_no_more_than_the_budget() {
    local(async || {
        let bench = Bench::new(|request| fine(request).after(Duration::from_secs(3)));
        let began = Instant::now();
        let refused = bench.within(Duration::from_millis(200)).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Late(_)), "{refused}");
        assert!(began.elapsed() < Duration::from_secs(2));
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_replaced_once() {
    local(async || {
        // The second request of a connection finds it closed; of the first connection alone.
        let seen = std::sync::Mutex::new(vec![]);
        let bench = Bench::new(move |request| {
            let mut seen = seen.lock().unwrap();
            let again = seen.contains(&request.connection);
            seen.push(request.connection);
            let end = if again { End::Dropped } else { End::Kept };
            fine(request).end(end)
        });
        bench.send().await.unwrap();
        bench.send().await.unwrap();
        let over: Vec<usize> = bench.far.received().iter().map(|r| r.connection).collect();
        assert_eq!(over, [1, 1, 2]);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_says_goodbye_is_not_used_again() {
    local(async || {
        let bench = Bench::new(|request| fine(request).end(End::HungUp));
        for _ in 0..3 {
            bench.send().await.unwrap();
        }
        assert_eq!(
            (bench.far.received().len(), bench.far.connections()),
            (3, 3)
        );
    })
    .await;
}

#[tokio::test]
async fn nothing_is_said_before_there_are_roots_and_bad_ones_change_nothing() {
    local(async || {
        let bench = Bench::new(fine);
        let outgoing = post(NAME, bench.far.address().port());
        let shut = Outbound::new();
        let refused = shut.send(&permit(), &outgoing, BUDGET).await.unwrap_err();
        assert!(matches!(refused, OutboundError::Untrusting), "{refused}");
        let none = OutboundFiles {
            roots: "".into(),
            resolv_conf: "".into(),
            hosts: "".into(),
            interfaces: vec![],
        };
        assert!(bench.outbound.configure(&none).is_err());
        bench.send().await.unwrap();
        assert_eq!(bench.far.received().len(), 1);
    })
    .await;
}

#[tokio::test]
async fn many_at_once_wait_for_room_and_are_all_served() {
    local(async || {
        let bench = Rc::new(Bench::new(|request| {
            fine(request).after(Duration::from_millis(30))
        }));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE + 40 {
            let bench = Rc::clone(&bench);
            tasks.spawn_local(async move { bench.within(Duration::from_secs(30)).await });
        }
        let all = tasks.join_all().await;
        assert!(all.iter().all(Result::is_ok));
        assert!(bench.far.connections() <= AT_ONCE + 40);
        let idle = bench.outbound.idle.borrow();
        assert!(idle.values().all(|lines| lines.len() <= KEPT));
    })
    .await;
}
