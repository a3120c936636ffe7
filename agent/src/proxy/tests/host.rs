//! A proxy in this process, on real TCP sockets, the real seam's protocol and a real policy. Two things are not there: the
//! loaded programs (the record is what the test says, at [`Kernel`], the one seam for it) and the guard (a thread that
//! speaks its part of the seam). What the kernel and the guard really do is tested with them, in `tests/`.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use imds_guard_core::policy::Source;
use imds_guard_core::seam::{
    self, ASK_LIMIT, Answer, Ask, Attested, AttestedFd, PolicyFiles, Process, Refusal, Signed,
    Subject,
};
use imds_guard_core::secret::Secret;
use imds_guard_core::selector::Selectors;
use imds_guard_ebpf::{CallerRecord, mapped};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use zeroize::Zeroizing;

use super::super::Proxy;
use super::super::kernel::Kernel;
use super::super::policy::Policy;
use super::super::run::{Serving, serve};
use super::super::seam::Seam;
use super::super::session_token::{SECRET_LEN, Sealer};
use crate::sys::pidfd::PidFd;
use crate::sys::{memfd, scm};

/// A token that must never be seen where it doesn't belong.
pub(super) const TOKEN: &str = "eyJhbGciOiJub25lIn0.canary-of-a-token.c2ln";

pub(super) const POLICY: &str = r#"
[host]
trust_domain = "example.org"
name = "web-07"

[issuer]
url = "http://127.0.0.1:8787"

[identity.billing]
cloud = "azure"
source = "mint"
client_id = "11111111-2222-3333-4444-555555555555"
subject = "spiffe://{trust_domain}/host/{host}/workload/{workload}"
lifetime = "1h"

[document.web]
cloud = "azure"
instance = { compute = { location = "westeurope", name = "web-07" } }

[[workload]]
name = "billing-api"
selectors = ["unix:user:billing"]

[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "billing"

[[workload.allow]]
token = { cloud = "azure", resource = ["https://limited.example"] }
identity = "billing"
limit = "2/m"

[[workload.allow]]
read = ["azure:/metadata/instance/**"]
document = "web"
"#;

/// What the test says that the kernel recorded.
#[derive(Debug)]
pub(super) struct Recorded {
    record: RefCell<Option<CallerRecord>>,
    may_dial: Cell<bool>,
    /// There is a defect behind it.
    panics: Cell<bool>,
}

impl Kernel for Recorded {
    fn record(&self, _: BorrowedFd<'_>) -> io::Result<Option<CallerRecord>> {
        assert!(!self.panics.get(), "defect");
        Ok(*self.record.borrow())
    }
    fn mark_upstream(&self, _: BorrowedFd<'_>, _: u32) -> io::Result<()> {
        assert!(!self.panics.get(), "defect");
        if self.may_dial.get() {
            return Ok(());
        }
        Err(io::Error::other("this test of the proxy dials nothing"))
    }
}

/// The guard's part of the seam.
#[derive(Debug)]
pub(super) struct Guard {
    socket: OwnedFd,
    pub(super) attests: AtomicU32,
    pub(super) signs: AtomicU32,
    pub(super) rechecks: AtomicU32,
    pub(super) refuse: Mutex<Option<Refusal>>,
    pub(super) slow: Mutex<Duration>,
    /// Whether the caller runs something else by the time that a token is signed for it.
    pub(super) execs_after_sign: AtomicBool,
    /// Whether it signs for another audience than the rule's.
    pub(super) signs_for_another: AtomicBool,
    /// The process that it finds on every socket.
    pub(super) pid: AtomicU32,
    /// The selectors that it attests for whoever connects next, as the command line writes them.
    pub(super) attested: Mutex<&'static str>,
    start: u64,
    exp: Mutex<i64>,
}

impl Guard {
    fn work(&self) {
        let mut buffer = [0; ASK_LIMIT];
        loop {
            let received = scm::recv(self.socket.as_fd(), &mut buffer).unwrap();
            if received.len == 0 {
                return;
            }
            assert_eq!(received.fds.len(), 1, "every ask comes with its socket");
            let ask = Ask::decode(&buffer[..received.len]).unwrap();
            std::thread::sleep(*self.slow.lock().unwrap());
            let (answer, fds) = self.answer(ask);
            let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
            if scm::send(self.socket.as_fd(), &answer.encode().unwrap(), &fds).is_err() {
                return; // The proxy has ended.
            }
        }
    }

    fn answer(&self, ask: Ask<'_>) -> (Answer, Vec<PidFd>) {
        let id = ask.id();
        let refused = *self.refuse.lock().unwrap();
        match (ask, refused) {
            (Ask::Attest { .. }, _) => {
                self.attests.fetch_add(1, SeqCst);
                let selectors = Selectors::parse(*self.attested.lock().unwrap()).unwrap();
                let attested = Attested {
                    id,
                    subject: Subject::Process(Process {
                        tgid: self.pid.load(SeqCst),
                        start_ns: self.start,
                    }),
                    selectors,
                    fds: vec![AttestedFd::Pidfd],
                };
                let pidfd = PidFd::open(self.pid.load(SeqCst)).unwrap();
                (Answer::Attested(attested), vec![pidfd])
            }
            (Ask::Recheck { .. }, _)
                if self.execs_after_sign.load(SeqCst) && self.signs.load(SeqCst) > 0 =>
            {
                self.rechecks.fetch_add(1, SeqCst);
                let reason = Refusal::CallerChanged;
                (Answer::Refused { id, reason }, vec![])
            }
            (_, Some(reason)) => (Answer::Refused { id, reason }, vec![]),
            (Ask::Sign { ask, .. }, None) => {
                let number = self.signs.fetch_add(1, SeqCst);
                let now = super::super::clock::unix_now();
                let resource = format!("{:?}", ask.request());
                let audience = ["https://vault.azure.net", "https://limited.example"]
                    .into_iter()
                    .find(|audience| {
                        resource.contains(audience) != self.signs_for_another.load(SeqCst)
                    })
                    .unwrap();
                let signed = Signed {
                    id,
                    jwt: Secret::new(TOKEN.into()),
                    iat: now,
                    exp: now + *self.exp.lock().unwrap(),
                    jti: format!("jti-{number}").into(),
                    audience: audience.into(),
                };
                (Answer::Signed(signed), vec![])
            }
            // Nothing here is in audit mode.
            (Ask::Dial { .. }, None) => {
                let reason = Refusal::OutOfReach;
                (Answer::Refused { id, reason }, vec![])
            }
            (Ask::Recheck { .. }, None) => {
                self.rechecks.fetch_add(1, SeqCst);
                (Answer::Unchanged { id }, vec![])
            }
            (Ask::Still { .. }, _) => (Answer::Unchanged { id }, vec![]),
        }
    }

    /// Pushes another policy.
    pub(super) fn push(&self, epoch: u64, text: &str) {
        let (pushed, memfd) = policy(epoch, text);
        let packet = Answer::Policy(pushed).encode().unwrap();
        scm::send(self.socket.as_fd(), &packet, &[memfd.as_fd()]).unwrap();
    }
}

fn policy(epoch: u64, text: &str) -> (seam::Policy, OwnedFd) {
    let file = Source {
        name: "imds-guard.toml".into(),
        text: text.into(),
    };
    let bytes = PolicyFiles { files: vec![file] }.encode().unwrap();
    let pushed = seam::Policy {
        epoch,
        hostname: "web-07".into(),
        len: bytes.len() as u64,
    };
    (pushed, memfd::sealed("policy", &bytes).unwrap())
}

/// A key of no meaning, on a boot of no meaning.
pub(super) fn tokens() -> Sealer {
    Sealer::new(Zeroizing::new(vec![7; SECRET_LEN])).unwrap()
}

/// This process, as the kernel would record it.
pub(super) fn ourselves() -> CallerRecord {
    let (uid, gid) = (
        nix::unistd::getuid().as_raw(),
        nix::unistd::getgid().as_raw(),
    );
    let info = PidFd::open(std::process::id()).unwrap().info();
    CallerRecord {
        tgid: std::process::id(),
        start_boottime: 42,
        cgroup_id: info.map_or(0, |info| info.cgroup_id),
        uid,
        gid,
        effective_uid: uid,
        effective_gid: gid,
        address: mapped([169, 254, 169, 254]),
        port: 80,
        endpoint_id: 1,
        ..CallerRecord::ZERO
    }
}

/// The proxy under test.
pub(super) struct Host {
    pub(super) address: SocketAddr,
    pub(super) guard: Arc<Guard>,
    pub(super) proxy: Rc<Proxy>,
    kernel: Rc<Recorded>,
    audit: std::fs::File,
    read: RefCell<String>,
}

impl Host {
    /// Starts one, with these many connections at once. Needs a `LocalSet`.
    pub(super) async fn start(text: &str, most: usize) -> Self {
        Self::start_audited(text, most, tempfile::tempfile().unwrap()).await
    }

    /// The same, with this audit file.
    pub(super) async fn start_audited(text: &str, most: usize, audit: std::fs::File) -> Self {
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )
        .unwrap();
        let guard = Arc::new(Guard {
            socket: theirs,
            attests: AtomicU32::new(0),
            signs: AtomicU32::new(0),
            rechecks: AtomicU32::new(0),
            refuse: Mutex::new(None),
            slow: Mutex::new(Duration::ZERO),
            execs_after_sign: AtomicBool::new(false),
            signs_for_another: AtomicBool::new(false),
            pid: AtomicU32::new(std::process::id()),
            attested: Mutex::new("unix:user:billing"),
            start: ourselves().start_boottime,
            exp: Mutex::new(3600),
        });
        let working = Arc::clone(&guard);
        std::thread::spawn(move || working.work());
        let (pushed, memfd) = policy(1, text);
        let policy = Policy::receive(&pushed, vec![memfd], 0).unwrap();
        let kernel = Rc::new(Recorded {
            record: RefCell::new(Some(ourselves())),
            may_dial: Cell::new(false),
            panics: Cell::new(false),
        });
        let seam = Seam::new(ours).unwrap();
        let proxy = Proxy::new(
            Rc::clone(&kernel) as Rc<dyn Kernel>,
            Rc::clone(&seam),
            policy,
            tokens(),
            audit.try_clone().unwrap().into(),
            most,
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = Serving {
            proxy: Rc::clone(&proxy),
            listeners: vec![listener],
            issuer: None,
        };
        tokio::task::spawn_local(serve(serving, seam));
        Self {
            address,
            guard,
            proxy,
            kernel,
            audit,
            read: RefCell::default(),
        }
    }

    /// What the kernel says from now on.
    pub(super) fn record(&self, record: Option<CallerRecord>) {
        *self.kernel.record.borrow_mut() = record;
    }

    /// Lets the proxy dial the upstream that the record names.
    pub(super) fn may_dial(&self) {
        self.kernel.may_dial.set(true);
    }

    /// Whether whatever looks at the kernel panics from now on.
    pub(super) fn panics(&self, does: bool) {
        self.kernel.panics.set(does);
    }

    pub(super) async fn connect(&self) -> Caller {
        Caller(TcpStream::connect(self.address).await.unwrap())
    }

    /// All audit lines so far.
    pub(super) fn audit(&self) -> Vec<serde_json::Value> {
        use std::io::{Read, Seek, SeekFrom};
        self.proxy.sink.flush();
        let mut text = String::new();
        let mut file = &self.audit;
        file.seek(SeekFrom::Start(0)).unwrap();
        file.read_to_string(&mut text).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        self.read.borrow_mut().clone_from(&text);
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The audit file as it is.
    pub(super) fn audit_text(&self) -> String {
        self.audit();
        self.read.borrow().clone()
    }
}

/// A caller that writes bytes.
pub(super) struct Caller(pub(super) TcpStream);

/// What came back.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

pub(super) const TOKEN_TARGET: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://vault.azure.net";

/// A request as SDKs send it.
pub(super) fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: 169.254.169.254\r\nMetadata: true\r\n\r\n").into_bytes()
}

impl Caller {
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Reads the head of one answer.
    pub(super) async fn head(&mut self) -> String {
        let mut head = vec![];
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }

    /// Reads one answer.
    pub(super) async fn answer(&mut self) -> Answered {
        let head = self.head().await;
        let length = head
            .lines()
            .find_map(|line| {
                line.to_lowercase()
                    .strip_prefix("content-length: ")?
                    .parse()
                    .ok()
            })
            .unwrap_or(0);
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        Answered {
            status: head[9..12].parse().unwrap(),
            head,
            body: String::from_utf8(body).unwrap(),
        }
    }

    pub(super) async fn ask(&mut self, target: &str) -> Answered {
        self.send(&get(target)).await;
        self.answer().await
    }

    /// Whether the other side has closed, without another byte.
    pub(super) async fn is_closed(&mut self) -> bool {
        let mut byte = [0; 1];
        let read = tokio::time::timeout(Duration::from_secs(5), self.0.read(&mut byte));
        matches!(read.await, Ok(Ok(0) | Err(_)))
    }
}
