//! Against real servers on loopback; the permit is one of a real policy. The marker is the kernel's affair: here it is only
//! seen that every socket is marked before it connects.

use super::*;
use std::cell::Cell;
use std::os::fd::BorrowedFd;

use imds_guard_core::decision::Decision;
use imds_guard_core::policy::{Source, compile};
use imds_guard_core::request::{Cloud, Request as Asked};
use imds_guard_core::selector::{Key, Selectors};
use imds_guard_ebpf::CallerRecord;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[derive(Debug, Default)]
struct Marks(Cell<u32>, Cell<bool>);

impl Kernel for Marks {
    fn record(&self, _: BorrowedFd<'_>) -> io::Result<Option<CallerRecord>> {
        Ok(None)
    }
    fn mark_upstream(&self, _: BorrowedFd<'_>, id: u32) -> io::Result<()> {
        assert_eq!(id, 7);
        self.0.set(self.0.get() + 1);
        if self.1.get() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        Ok(())
    }
}

/// Of a policy that grants one read.
pub(crate) fn permit() -> Permit {
    let text = r#"
        [[workload]]
        name = "reader"
        selectors = ["unix:user:reader"]
        [[workload.allow]]
        read = ["azure:/metadata/**"]
    "#;
    let source = Source {
        name: "a.toml".into(),
        text: text.into(),
    };
    let compiled = compile(&[source], "host", 0).unwrap();
    let mut selectors = Selectors::default();
    selectors.found(Key::UnixUser, "reader");
    let request = Asked::Read {
        cloud: Cloud::Azure,
        path: "/metadata/versions".into(),
        subtree: false,
        imdsv1: false,
    };
    let workload = compiled.policy.identify(&selectors);
    match compiled.policy.decide(&workload, &request, 0) {
        Decision::Allow(permit) => permit,
        Decision::Deny(denial) => panic!("{denial:?}"),
    }
}

fn rebuilt(method: &'static str) -> Rebuilt {
    Rebuilt {
        method,
        target: "/metadata/versions".into(),
        headers: vec![("metadata".into(), "true".into())],
        secret: None,
    }
}

struct Bench {
    marks: Rc<Marks>,
    upstream: Upstream,
    endpoint: Endpoint,
    listener: TcpListener,
}

async fn on<T>(test: impl AsyncFnOnce(Bench) -> T) -> T {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let marks = Rc::<Marks>::default();
            let bench = Bench {
                upstream: Upstream::new(Rc::clone(&marks) as Rc<dyn Kernel>),
                marks,
                endpoint: Endpoint {
                    address: listener.local_addr().unwrap(),
                    id: 7,
                },
                listener,
            };
            test(bench).await
        })
        .await
}

impl Bench {
    async fn get(&self) -> Result<Answer, UpstreamError> {
        self.send("GET").await
    }

    async fn send(&self, method: &'static str) -> Result<Answer, UpstreamError> {
        let budget = Duration::from_millis(800);
        self.upstream
            .send(
                &permit(),
                Way::Host,
                self.endpoint,
                &rebuilt(method),
                Bytes::new(),
                budget,
            )
            .await
    }
}

/// Reads one request's head.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/x\r\nContent-Length: 2\r\nX-Other: 1\r\n\r\nok";

#[tokio::test]
async fn connections_are_marked_kept_and_nothing_of_ours_is_added() {
    on(async |bench| {
        let serve = async {
            let (mut stream, _) = bench.listener.accept().await.unwrap();
            let first = head(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
            head(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
            (first, stream)
        };
        let ask = async {
            let first = bench.get().await.unwrap();
            assert_eq!(*first.body.expose(), "ok");
            assert_eq!(first.content_type.unwrap(), "text/x");
            bench.get().await.unwrap();
        };
        let ((sent, _), ()) = tokio::join!(serve, ask);
        assert_eq!(bench.marks.0.get(), 1);
        let names: Vec<_> = sent
            .lines()
            .skip(1)
            .filter_map(|line| line.split_once(':').map(|(name, _)| name.to_owned()))
            .collect();
        assert_eq!(names, ["host", "metadata"]);
    })
    .await;
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_is_dialled_again_for_a_get() {
    on(async |bench| {
        let serve = async {
            for _ in 0..2 {
                let (mut stream, _) = bench.listener.accept().await.unwrap();
                head(&mut stream).await;
                stream.write_all(ANSWER).await.unwrap();
                // Closed under whoever keeps it; the second request may already be on it.
            }
        };
        let ask = async {
            bench.get().await.unwrap();
            bench.get().await.unwrap();
        };
        tokio::join!(serve, ask);
        assert_eq!(bench.marks.0.get(), 2);
    })
    .await;
}

#[tokio::test]
async fn a_connection_that_breaks_on_the_request_is_tried_again_for_a_get_and_not_for_a_post() {
    for (method, tries) in [("GET", 3), ("POST", 2)] {
        on(async |bench| {
            let serve = async {
                let (mut stream, _) = bench.listener.accept().await.unwrap();
                head(&mut stream).await;
                stream.write_all(ANSWER).await.unwrap();
                // The next request arrives, and dies with the connection.
                head(&mut stream).await;
                drop(stream);
                if tries == 3 {
                    let (mut stream, _) = bench.listener.accept().await.unwrap();
                    head(&mut stream).await;
                    stream.write_all(ANSWER).await.unwrap();
                }
            };
            let ask = async {
                bench.get().await.unwrap();
                bench.send(method).await
            };
            let ((), second) = tokio::join!(serve, ask);
            assert_eq!(second.is_ok(), tries == 3, "{method}");
        })
        .await;
    }
}

#[tokio::test]
async fn who_does_not_answer_in_time_is_given_up() {
    on(async |bench| {
        let serve = async {
            let (mut stream, _) = bench.listener.accept().await.unwrap();
            head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        };
        let (_, answer) = tokio::join!(serve, bench.get());
        assert!(matches!(answer, Err(UpstreamError::Late)), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_redirect_is_no_answer_and_is_not_followed() {
    on(async |bench| {
        let serve = async {
            let (mut stream, _) = bench.listener.accept().await.unwrap();
            head(&mut stream).await;
            let to =
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(to).await.unwrap();
        };
        let ((), answer) = tokio::join!(serve, bench.get());
        assert!(matches!(answer, Err(UpstreamError::Redirect)), "{answer:?}");
    })
    .await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_no_answer() {
    for (length, fits) in [(BODY_BYTES, true), (BODY_BYTES + 1, false)] {
        on(async |bench| {
            let serve = async {
                let (mut stream, _) = bench.listener.accept().await.unwrap();
                head(&mut stream).await;
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
                // The reader may have left in the middle.
                drop(stream.write_all(&vec![b'x'; length]).await);
            };
            let ((), answer) = tokio::join!(serve, bench.get());
            assert_eq!(answer.is_ok(), fits, "{length}");
        })
        .await;
    }
}

#[tokio::test]
async fn nothing_is_dialled_that_can_not_be_marked_and_nobody_there_is_told() {
    on(async |bench| {
        bench.marks.1.set(true);
        let unmarked = bench.get().await;
        assert!(
            matches!(unmarked, Err(UpstreamError::Mark(_))),
            "{unmarked:?}"
        );
        bench.marks.1.set(false);
        let Bench {
            upstream,
            endpoint,
            listener,
            ..
        } = bench;
        drop(listener);
        let away = upstream
            .send(
                &permit(),
                Way::Host,
                endpoint,
                &rebuilt("GET"),
                Bytes::new(),
                CREDENTIAL_BUDGET,
            )
            .await;
        assert!(matches!(away, Err(UpstreamError::Connect(..))), "{away:?}");
    })
    .await;
}

#[tokio::test]
async fn a_change_of_protocol_is_no_answer_and_a_token_that_came_is_not_shown() {
    for (answer, fits) in [
        (
            &b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"[..],
            false,
        ),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\ncanary",
            true,
        ),
    ] {
        on(async |bench| {
            let serve = async {
                let (mut stream, _) = bench.listener.accept().await.unwrap();
                head(&mut stream).await;
                stream.write_all(answer).await.unwrap();
                stream
            };
            let (_stream, answer) = tokio::join!(serve, bench.get());
            assert_eq!(answer.is_ok(), fits, "{answer:?}");
            assert!(!format!("{answer:?}").contains("canary"));
        })
        .await;
    }
}
