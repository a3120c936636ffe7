//! A server where Amazon's metadata service stands, at 169.254.169.254:80 of a world, and one where the container credentials'
//! stands, at 169.254.170.2:80 and where EKS has them: the fakes at the internet's place. They refuse what the real ones refuse: a token PUT through a
//! proxy, a GET without a token where those are required, a token that they did not make or that has ended, an
//! `Authorization` that isn't theirs.
//!
//! They keep what they were asked. Each credential that they give is a canary of its own, with a number.

use crate::World;
use crate::service::{Answer, Received, Service, Trouble, accept, locked};
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

/// Amazon's metadata service, as every SDK dials it.
pub const AWS_IMDS: &str = "169.254.169.254:80";
/// Where tasks of ECS find their credentials.
pub const AWS_CONTAINER: &str = "169.254.170.2:80";
/// Each address, and whether containers find their credentials there.
const PLACES: [(&str, bool); 5] = [
    (AWS_IMDS, false),
    (crate::AWS_IMDS_V6, false),
    (AWS_CONTAINER, true),
    ("169.254.170.23:80", true),
    ("[fd00:ec2::23]:80", true),
];
/// The role that the instance profile names.
pub const ROLE: &str = "instance-role";
/// How each secret key that the service gives begins.
pub const AWS_CANARY: &str = "canary-of-the-real-ec2";
/// Where [`FakeAws::sts`] stands.
pub const AWS_STS: &str = "127.0.0.1:8099";
/// What a container of the fake has to show.
pub const AUTHORIZATION: &str = "canary-authorization";

/// The running servers; they end with the process.
#[derive(Debug, Clone, Default)]
pub struct FakeAws {
    service: Service,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    /// Tokens and when they end.
    tokens: HashMap<String, Instant>,
    made: u32,
    given: u32,
    required: bool,
    hops: u32,
    lifetime: Duration,
    late: Duration,
    refuses: Option<&'static str>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            tokens: HashMap::new(),
            made: 0,
            given: 0,
            required: true,
            hops: 64,
            lifetime: Duration::from_hours(6),
            late: Duration::ZERO,
            refuses: None,
        }
    }
}

impl FakeAws {
    pub(crate) fn start(world: &World) -> Result<Self> {
        Self::start_at(world, &PLACES)
    }

    /// At these addresses, the container credentials' service where it says so.
    pub(crate) fn start_at(world: &World, addresses: &[(&str, bool)]) -> Result<Self> {
        let server = Self::default();
        for (address, container) in addresses.iter().copied() {
            let listener = world.enter_cloud(|| {
                TcpListener::bind(address).context("bind a metadata address inside the world")
            })?;
            let accepting = server.clone();
            accept(Arc::new(listener), move |stream| {
                accepting.serve(stream, container);
            });
        }
        Ok(server)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
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

    /// The next so many role credentials meet this.
    pub fn fails(&self, trouble: Trouble, times: u32) {
        self.service.fails(trouble, times);
    }

    /// `HttpTokens=optional`: who shows no token is served as well.
    pub fn tokens_are_optional(&self) {
        self.state().required = false;
    }

    /// `HttpPutResponseHopLimit`: the answer to a token PUT lives for so many hops.
    pub fn hop_limit(&self, hops: u32) {
        self.state().hops = hops;
    }

    /// Credentials given from now on live so long.
    pub fn lifetime(&self, lifetime: Duration) {
        self.state().lifetime = lifetime;
    }

    /// Forget all tokens, as after the machine was restored from an image of it.
    pub fn forget_tokens(&self) {
        self.state().tokens.clear();
    }

    /// Answer after so long.
    pub fn late(&self, after: Duration) {
        self.state().late = after;
    }

    /// Refuse every GET with this status line; with none, serve again.
    pub fn refuse(&self, status: Option<&'static str>) {
        self.state().refuses = status;
    }

    /// Stand where a service of Amazon's stands that is called with what the instance gave: STS, which says who calls it. That the
    /// signature is right is for others to check; here the key has to go with its session.
    ///
    /// # Errors
    /// When it can't listen.
    pub fn sts(&self, world: &World) -> Result<()> {
        let listener = world.enter(|| TcpListener::bind(AWS_STS).context("bind STS's place"))?;
        let service = Service::default();
        accept(Arc::new(listener), move |stream| {
            service.serve(stream, |received| Some((caller(received).bytes(""), true)));
        });
        Ok(())
    }

    fn serve(&self, stream: &TcpStream, container: bool) {
        self.service.serve(stream, |received| {
            std::thread::sleep(self.state().late);
            let answer = if container {
                self.container(received)
            } else {
                self.imds(received)
            };
            let hops = if received.line.starts_with("PUT ") {
                self.state().hops
            } else {
                64
            };
            stream.set_ttl(hops).ok()?;
            Some((answer.bytes(SERVER), true))
        });
    }

    fn imds(&self, received: &Received) -> Answer {
        let (method, path, _) = received.parts();
        match (method, path) {
            ("PUT", "/latest/api/token") => return self.token(received),
            ("PUT", path) if path.ends_with("/api/token") => return page("403 Forbidden"),
            (_, "/latest/api/token") => return page("405 Method Not Allowed"),
            ("GET" | "HEAD", _) => {}
            _ => return page("405 Method Not Allowed"),
        }
        let state = self.state();
        let live = |token: &str| {
            state
                .tokens
                .get(token)
                .is_some_and(|end| *end > Instant::now())
        };
        let served = match received.header("x-aws-ec2-metadata-token") {
            Some(token) => live(token),
            None => !state.required,
        };
        if !served {
            return page("401 Unauthorized");
        }
        if let Some(status) = state.refuses {
            return page(status);
        }
        drop(state);
        if path.ends_with(&format!("security-credentials/{ROLE}"))
            && let Some(status) = self.service.refusal()
        {
            return page(status);
        }
        tree(&mut self.state(), path).unwrap_or_else(|| page("404 Not Found"))
    }

    fn token(&self, received: &Received) -> Answer {
        if received.header("x-forwarded-for").is_some() {
            return page("403 Forbidden");
        }
        let ttl = received.header("x-aws-ec2-metadata-token-ttl-seconds");
        let Some(ttl) = ttl
            .and_then(|ttl| ttl.parse().ok())
            .filter(|ttl| (1..=21_600).contains(ttl))
        else {
            return page("400 Bad Request");
        };
        let mut state = self.state();
        state.made += 1;
        let token = format!(
            "AQAEAFakeFakeFakeFakeFakeFakeFakeFakeFakeFakeFake{:05}==",
            state.made
        );
        state
            .tokens
            .insert(token.clone(), Instant::now() + Duration::from_secs(ttl));
        Answer {
            extra: format!("X-Aws-Ec2-Metadata-Token-Ttl-Seconds: {ttl}\r\n"),
            ..text(&token)
        }
    }

    fn container(&self, received: &Received) -> Answer {
        let (_, path, _) = received.parts();
        let json = |status: &'static str, body: String| Answer {
            status,
            ..Answer::of("application/json", body)
        };
        if path.starts_with("/v2/credentials/") || path == "/v1/credentials" {
            if let Some(status) = self.service.refusal() {
                let body = r#"{"Code":"InternalServerError","Message":"in trouble, says the real service"}"#;
                return json(status, body.to_owned());
            }
            if received.header("authorization") != Some(AUTHORIZATION) {
                let body = r#"{"Code":"AccessDenied","Message":"no such authorization"}"#;
                return json("401 Unauthorized", body.to_owned());
            }
            return json(
                "200 OK",
                credentials(&mut self.state(), "arn:aws:iam::111122223333:role/task"),
            );
        }
        json(
            "404 Not Found",
            r#"{"Code":"ResourceNotFound","Message":"nothing here"}"#.to_owned(),
        )
    }
}

fn caller(received: &Received) -> Answer {
    let signed = received.header("authorization").unwrap_or_default();
    let key = signed.strip_prefix("AWS4-HMAC-SHA256 Credential=ASIAFAKE");
    let number = key.and_then(|key| key.split('/').next()?.parse::<u32>().ok());
    let session = received.header("x-amz-security-token").unwrap_or_default();
    match number {
        Some(number) if session == format!("fake-session-{number}") => Answer::of(
            "text/xml",
            format!(
                "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult><Arn>arn:aws:sts::111122223333:assumed-role/{ROLE}/i-0123456789abcdef0</Arn><UserId>{AWS_CANARY}-{number}</UserId><Account>111122223333</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"
            ),
        ),
        _ => page("403 Forbidden"),
    }
}

/// What stands in the tree, or nothing.
fn tree(state: &mut State, path: &str) -> Option<Answer> {
    if path == "/" {
        return Some(text("1.0\n2009-04-04\n2021-03-23\n2021-07-15\nlatest"));
    }
    let (version, below) = path
        .trim_start_matches('/')
        .split_once('/')
        .unwrap_or((path, ""));
    let known = [
        "latest",
        "1.0",
        "2009-04-04",
        "2016-09-02",
        "2018-09-24",
        "2021-03-23",
        "2021-07-15",
    ];
    if !known.contains(&version) {
        return None;
    }
    let below = below.trim_end_matches('/');
    if below == "meta-data/iam/security-credentials" {
        return Some(text(ROLE));
    }
    if below.strip_prefix("meta-data/iam/security-credentials/") == Some(ROLE) {
        return Some(text(&credentials(state, "")));
    }
    let said = match below {
        "" => "dynamic\nmeta-data\nuser-data",
        "meta-data" => "hostname\niam/\ninstance-id\nmac\nplacement/\ntags/",
        "meta-data/mac" => "0e:49:61:0f:c3:11",
        "meta-data/instance-id" => "i-0123456789abcdef0",
        "meta-data/hostname" => "ip-10-0-0-4.eu-central-1.compute.internal",
        "meta-data/iam" => "info\nsecurity-credentials/",
        "meta-data/iam/info" => "{\n  \"Code\" : \"Success\"\n}",
        "meta-data/tags" => "instance/",
        "meta-data/tags/instance" => "Name",
        "meta-data/tags/instance/Name" => "web-07",
        "dynamic" => "instance-identity/",
        "dynamic/instance-identity" => "document\nrsa2048",
        "dynamic/instance-identity/rsa2048" => {
            "MIAGCSqGSIb3DQEHAqCAMIACAQExDzANBglghkgBZQMEAgEFADCA\nBgkqhkiG9w0BBwGggA=="
        }
        "meta-data/placement" => "availability-zone\nregion",
        "meta-data/placement/availability-zone" => "eu-central-1a",
        "meta-data/placement/region" => "eu-central-1",
        "dynamic/instance-identity/document" => {
            "{\n  \"accountId\" : \"111122223333\",\n  \"region\" : \"eu-central-1\"\n}"
        }
        "user-data" => {
            return Some(Answer::of(
                "application/octet-stream",
                "#cloud-config\nsecret: canary-user-data\n",
            ));
        }
        _ => return None,
    };
    Some(text(said))
}

/// As the service words them; `RoleArn` is what ECS adds.
fn credentials(state: &mut State, arn: &str) -> String {
    state.given += 1;
    let number = state.given;
    let time = |at: SystemTime| {
        let since = at
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        printed(since.as_secs())
    };
    let (now, end) = (
        time(SystemTime::now()),
        time(SystemTime::now() + state.lifetime),
    );
    let arn = if arn.is_empty() {
        String::new()
    } else {
        format!("\n  \"RoleArn\" : \"{arn}\",")
    };
    format!(
        "{{\n  \"Code\" : \"Success\",\n  \"LastUpdated\" : \"{now}\",\n  \"Type\" : \"AWS-HMAC\",{arn}\n  \"AccessKeyId\" : \"ASIAFAKE{number:012}\",\n  \"SecretAccessKey\" : \"{AWS_CANARY}-{number}\",\n  \"Token\" : \"fake-session-{number}\",\n  \"Expiration\" : \"{end}\"\n}}"
    )
}

/// Unix seconds as `YYYY-MM-DDThh:mm:ssZ` (the civil calendar, after Howard Hinnant's `civil_from_days`).
pub(crate) fn printed(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

const SERVER: &str = "Server: EC2ws\r\n";

fn text(body: &str) -> Answer {
    Answer::of("text/plain", body)
}

/// The page that comes with every refusal.
fn page(status: &'static str) -> Answer {
    let (code, reason) = status.split_once(' ').unwrap_or((status, ""));
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"iso-8859-1\"?>\n<html xmlns=\"http://www.w3.org/1999/xhtml\"><head><title>{code} - {reason}</title></head><body><h1>{code} - {reason}</h1></body></html>\n"
    );
    Answer {
        status,
        ..Answer::of("text/html", body)
    }
}

#[cfg(test)]
mod tests {
    use super::printed;

    #[test]
    fn times_are_printed_as_the_service_prints_them() {
        assert_eq!(printed(0), "1970-01-01T00:00:00Z");
        assert_eq!(printed(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(printed(1_795_291_199), "2026-11-21T19:59:59Z");
    }
}
