//! A server where Google's metadata server stands, at 169.254.169.254:80 of a world: the fake at the internet's place. It refuses
//! what the real one refuses: a request without `Metadata-Flavor: Google`, one through a proxy, an identity token for nobody, an
//! account that isn't there, a directory without its slash (301), more than its limit. A caller may wait for a value to change.
//!
//! It keeps what it was asked. Each access token that it gives is a canary of its own, with a number.

use crate::World;
use crate::service::{Answer, Received, Service, Trouble, accept, locked};
use anyhow::{Context, Result};
use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Google's metadata server, as every library dials it.
pub const GCP_METADATA: &str = "169.254.169.254:80";
/// The same over IPv6.
pub const GCP_METADATA_V6: &str = "[fd20:ce::254]:80";
/// The machine's own account.
pub const GCP_ACCOUNT: &str = "node@p.iam.gserviceaccount.com";
/// Another account that it may act as.
pub const GCP_OTHER: &str = "build@p.iam.gserviceaccount.com";
/// How each access token that the server gives begins.
pub const GCP_CANARY: &str = "ya29.canary-of-the-real-google";

/// All that the machine's account may do.
const SCOPES: &str = "https://www.googleapis.com/auth/cloud-platform";
const HEADERS: &str = "Metadata-Flavor: Google\r\nServer: Metadata Server for VM\r\nX-XSS-Protection: 0\r\nX-Frame-Options: SAMEORIGIN\r\n";

/// The running server; it ends with the process.
#[derive(Debug, Clone, Default)]
pub struct FakeGcp {
    service: Service,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Debug)]
struct State {
    given: u32,
    event: &'static str,
    lifetime: u32,
    late: Duration,
    refuses: Option<&'static str>,
    expands: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            given: 0,
            event: "NONE",
            lifetime: 3599,
            late: Duration::ZERO,
            refuses: None,
            expands: false,
        }
    }
}

impl FakeGcp {
    pub(crate) fn start(world: &World) -> Result<Self> {
        let server = Self::default();
        for address in [GCP_METADATA, GCP_METADATA_V6] {
            let listener = world.enter_cloud(|| {
                TcpListener::bind(address).context("bind a metadata address inside the world")
            })?;
            let accepting = server.clone();
            accept(Arc::new(listener), move |stream| {
                accepting.service.serve(stream, |received| {
                    std::thread::sleep(accepting.state().late);
                    Some((accepting.answer(received).bytes(HEADERS), true))
                });
            });
        }
        Ok(server)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state.0)
    }

    /// All that was asked so far.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.service.received()
    }

    /// The request lines so far, without the version.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.service.lines()
    }

    /// The next so many tokens meet this.
    pub fn fails(&self, trouble: Trouble, times: u32) {
        self.service.fails(trouble, times);
    }

    /// `instance/maintenance-event` from now on; who waits for it is answered.
    pub fn event(&self, event: &'static str) {
        self.state().event = event;
        self.state.1.notify_all();
    }

    /// Access tokens given from now on live so many seconds.
    pub fn lifetime(&self, seconds: u32) {
        self.state().lifetime = seconds;
    }

    /// Answer after so long.
    pub fn late(&self, after: Duration) {
        self.state().late = after;
    }

    /// Refuse everything with this status line; with none, serve again.
    pub fn refuse(&self, status: Option<&'static str>) {
        self.state().refuses = status;
    }

    /// Show credentials in recursive reads, which the real server is not known to do.
    pub fn expand(&self) {
        self.state().expands = true;
    }

    fn answer(&self, received: &Received) -> Answer {
        let (method, path, query) = received.parts();
        if received.header("x-forwarded-for").is_some() {
            return page("403 Forbidden");
        }
        if path == "/" {
            return text("computeMetadata/\n");
        }
        if received.header("metadata-flavor") != Some("Google") {
            return page("403 Forbidden");
        }
        if let Some(status) = self.state().refuses {
            return page(status);
        }
        let Some(below) = path.strip_prefix("/computeMetadata/v1") else {
            return page("404 Not Found");
        };
        let asks = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name));
        match (method, below) {
            ("PUT" | "DELETE", below) if below.starts_with("/instance/guest-attributes/") => {
                return text("");
            }
            ("GET", _) => {}
            ("POST", below) if below.ends_with("/token") || below.ends_with("/identity") => {}
            _ => return page("405 Method Not Allowed"),
        }
        if let Some(account) = below.strip_prefix("/instance/service-accounts/")
            && let Some(answer) = self.credential(account, &asks)
        {
            return answer;
        }
        if asks("wait_for_change=") == Some("true") {
            let seconds = asks("timeout_sec=").and_then(|n| n.parse().ok());
            self.wait(
                Duration::from_secs(seconds.unwrap_or(3600)),
                asks("last_etag="),
            );
        }
        let state = self.state();
        tree(&state, below, asks("recursive=") == Some("true"))
            .unwrap_or_else(|| page("404 Not Found"))
    }

    /// Only the event changes here.
    fn wait(&self, longest: Duration, known: Option<&str>) {
        let until = Instant::now() + longest;
        let mut state = self.state();
        let before = state.event;
        if known.is_some_and(|known| known != etag(before)) {
            return;
        }
        while state.event == before {
            let Some(left) = until.checked_duration_since(Instant::now()) else {
                return;
            };
            let woken = self.state.1.wait_timeout(state, left);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A token or an identity token; nothing where something else is asked for.
    fn credential<'q>(
        &self,
        below: &str,
        asks: &impl Fn(&str) -> Option<&'q str>,
    ) -> Option<Answer> {
        let (account, what) = below.split_once('/')?;
        if !matches!(what, "token" | "identity") {
            return None;
        }
        if !["default", GCP_ACCOUNT, GCP_OTHER].contains(&account) {
            return Some(page("404 Not Found"));
        }
        if let Some(status) = self.service.refusal() {
            return Some(page(status));
        }
        if what == "identity" {
            return Some(match asks("audience=") {
                None | Some("") => page("400 Bad Request"),
                Some(audience) => Answer {
                    media: "text/html",
                    ..text(&identity(account, &decoded(audience)))
                },
            });
        }
        let mut state = self.state();
        state.given += 1;
        let (number, lifetime) = (state.given, state.lifetime);
        Some(json(format!(
            r#"{{"access_token":"{GCP_CANARY}-{number}","expires_in":{lifetime},"token_type":"Bearer"}}"#
        )))
    }
}

/// What stands in the tree, or nothing.
fn tree(state: &State, below: &str, recursive: bool) -> Option<Answer> {
    let account = |email: &str| {
        let token = if state.expands {
            format!(r#","token":{{"access_token":"{GCP_CANARY}-expanded"}}"#)
        } else {
            String::new()
        };
        format!(r#"{{"aliases":["default"],"email":"{email}","scopes":["{SCOPES}"]{token}}}"#)
    };
    let accounts = || {
        format!(
            r#"{{"default":{},"{GCP_ACCOUNT}":{}}}"#,
            account(GCP_ACCOUNT),
            account(GCP_ACCOUNT)
        )
    };
    let attributes = r##"{"user-data":"#cloud-config canary-user-data","ssh-keys":"a","startup-script":"echo canary-startup-script ran"}"##;
    let instance = || {
        let event = state.event;
        format!(
            r#"{{"attributes":{attributes},"id":1234567890123456789,"maintenanceEvent":"{event}","serviceAccounts":{},"zone":"projects/1/zones/europe-west1-b"}}"#,
            accounts()
        )
    };
    let (path, slash) = (below.trim_end_matches('/'), below.ends_with('/'));
    let directory = |listing: &str, whole: String| {
        Some(match (slash, recursive) {
            (false, _) => moved(path),
            (true, true) => json(whole),
            (true, false) => text(listing),
        })
    };
    match path {
        "" => {
            let whole = format!(
                r#"{{"instance":{},"project":{{"projectId":"p"}}}}"#,
                instance()
            );
            return directory("instance/\noslogin/\nproject/\nuniverse/\n", whole);
        }
        "/instance" => {
            let listing = "attributes/\nid\nmaintenance-event\nservice-accounts/\nzone\n";
            return directory(listing, instance());
        }
        "/instance/attributes" => return directory("ssh-keys\nuser-data\n", attributes.to_owned()),
        "/project/attributes" => return directory("", "{}".to_owned()),
        "/instance/service-accounts" => {
            return directory(&format!("default/\n{GCP_ACCOUNT}/\n"), accounts());
        }
        _ => {}
    }
    if let Some(name) = path.strip_prefix("/instance/service-accounts/")
        && !name.contains('/')
    {
        let listing = "aliases\nemail\nidentity\nscopes\ntoken\n";
        return directory(
            listing,
            account(if name == GCP_OTHER { name } else { GCP_ACCOUNT }),
        );
    }
    if slash { None } else { leaf(state, path) }
}

/// A directory is asked for with a slash.
fn moved(path: &str) -> Answer {
    const STATUS: &str = "301 Moved Permanently";
    Answer {
        status: STATUS,
        extra: format!("Location: http://metadata.google.internal/computeMetadata/v1{path}/\r\n"),
        ..page(STATUS)
    }
}

/// A value at the end of a path.
fn leaf(state: &State, path: &str) -> Option<Answer> {
    Some(text(match path {
        "/project/project-id" => "p",
        "/project/numeric-project-id" => "1",
        "/universe/universe-domain" => "googleapis.com",
        "/instance/id" => "1234567890123456789",
        "/instance/hostname" => "vm.europe-west1-b.c.p.internal",
        "/instance/zone" => "projects/1/zones/europe-west1-b",
        "/instance/maintenance-event" => state.event,
        "/instance/attributes/user-data" => "#cloud-config canary-user-data",
        "/instance/service-accounts/default/email" => GCP_ACCOUNT,
        "/instance/service-accounts/default/scopes" => SCOPES,
        _ => return None,
    }))
}

/// An identity token in the real one's shape; nobody here verifies it.
fn identity(account: &str, audience: &str) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs();
    let email = if account == "default" {
        GCP_ACCOUNT
    } else {
        account
    };
    let claims = serde_json::json!({
        "iss": "https://accounts.google.com", "aud": audience, "azp": "1", "sub": "1", "email": email,
        "email_verified": true, "iat": now, "exp": now + 3600,
    });
    let part = |json: &str| base64(json.as_bytes());
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"RS256","kid":"k","typ":"JWT"}"#),
        part(&claims.to_string()),
        part("canary-signature")
    )
}

/// RFC 4648, URL-safe, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let whole = (0..3).fold(0_usize, |whole, at| {
            whole << 8 | usize::from(group.get(at).copied().unwrap_or(0))
        });
        for at in 0..=group.len() {
            text.push(char::from(DIGITS[whole >> (18 - 6 * at) & 63]));
        }
    }
    text
}

fn decoded(text: &str) -> String {
    let mut bytes = vec![];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let hex = |byte: Option<u8>| char::from(byte.unwrap_or(b'0')).to_digit(16).unwrap_or(0);
        bytes.push(if byte == b'%' {
            let (high, low) = (hex(rest.next()), hex(rest.next()));
            u8::try_from(high * 16 + low).unwrap_or(b'?')
        } else {
            byte
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a value is known by.
fn etag(value: &str) -> String {
    let sum = value
        .bytes()
        .fold(0_u64, |sum, b| sum.wrapping_mul(131).wrapping_add(b.into()));
    format!("{sum:016x}")
}

fn text(body: &str) -> Answer {
    Answer {
        extra: format!("ETag: {}\r\n", etag(body)),
        ..Answer::of("application/text", body)
    }
}

fn json(body: String) -> Answer {
    Answer {
        media: "application/json",
        ..text(&body)
    }
}

/// The page that comes with every refusal.
fn page(status: &'static str) -> Answer {
    let body = format!("<!DOCTYPE html>\n<html lang=en>\n<title>Error {status}!!1</title>\n");
    Answer {
        status,
        media: "text/html; charset=UTF-8",
        extra: String::new(),
        body,
    }
}

#[cfg(test)]
mod tests {
    use super::{base64, decoded};

    #[test]
    fn texts_are_coded_as_everybody_codes_them() {
        assert_eq!(base64(b""), "");
        assert_eq!(base64(b"f"), "Zg");
        assert_eq!(base64(b"fo"), "Zm8");
        assert_eq!(base64(b"foobar>?"), "Zm9vYmFyPj8");
        assert_eq!(decoded("https%3A%2F%2Fa"), "https://a");
    }
}
