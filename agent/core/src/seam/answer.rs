//! guard → proxy. postcard behind one version byte.
//! Must never: carry a signing key, or anything about another caller than the one whose socket came with the ask.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{ANSWER_LIMIT, OUTBOUND_LIMIT, POLICY_LIMIT, SeamError, VERSION};
use crate::decision::DenyReason;
use crate::policy::Source;
use crate::secret::Secret;
use crate::selector::Selectors;

/// An answer, or something that the guard pushes unasked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Answer {
    /// First message of every seam.
    Welcome(Welcome),
    /// The policy to serve by, from now on. The second message, and again at each reload.
    Policy(Policy),
    /// What the embedded issuer publishes. Again when its keys change.
    Issuer(Issuer),
    /// Listeners in further network namespaces. A listener whose namespace is given up fails: the guard shuts it down in
    /// both processes, so nothing is said about that.
    Listeners(Listeners),
    /// Listeners of guests that are there. One whose guest goes fails: the guard shuts it down in both processes.
    Guests(Guests),
    /// Answer to `Attest`.
    Attested(Attested),
    /// Answer to `Sign`.
    Signed(Signed),
    /// Answer to `Recheck` and `Still`: all that was asked about is as recorded.
    Unchanged {
        /// The ask's.
        id: u64,
    },
    /// Answer to `Dial`: the socket is beside it.
    Dialling {
        /// The ask's.
        id: u64,
    },
    /// No, to any ask.
    Refused {
        /// The ask's.
        id: u64,
        /// Why.
        reason: Refusal,
    },
    /// The audit file was opened anew: its descriptor is beside this message, and lines go there from now on.
    Audit,
    /// What was fetched for this workload, or for all, is not given any more, and its connections end.
    Revoke {
        /// Its name.
        workload: Option<Arc<str>>,
    },
    /// Whom to trust and to ask for names, from now on. Before the policy that needs it, and again when the files change.
    Outbound,
}

/// What the proxy gets at the start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// What the descriptors beside this message are, in their order.
    pub fds: Vec<WelcomeFd>,
}

/// What one descriptor of a [`Welcome`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WelcomeFd {
    /// A marked listener; accept on it.
    Listener {
        /// Cookie of the network namespace that it listens in.
        netns_cookie: u64,
    },
    /// The attribution map, opened read-only.
    AttributionMap,
    /// The map of upstream markers, writable.
    UpstreamMap,
    /// Where audit lines go.
    Audit,
    /// The listener that serves discovery and JWKS.
    IssuerListener,
    /// A sealed memfd holding [`OutboundFiles`], where the policy needs them.
    Outbound,
    /// A sealed memfd: the key of session tokens (AWS), and the boot's id behind it. It comes back to whoever held it by
    /// the next start of the agent, and gives nobody anything but a spared PUT.
    SessionKey,
}

/// A new policy. Its sources are in the memfd beside this message; the proxy compiles them as the guard did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Grows with each reload. Cached credentials of an older epoch are not served.
    pub epoch: u64,
    /// What [`crate::policy::compile`] takes for the host's name: the proxy can't see it.
    pub hostname: Arc<str>,
    /// Length of the encoded [`PolicyFiles`], in bytes.
    pub len: u64,
}

/// All policy sources, as they stand in the memfd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyFiles {
    /// The main file first, then the included ones.
    pub files: Vec<Source>,
}

/// What is needed for the way to the clouds' own endpoints, as files of the host say it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutboundFiles {
    /// Certificates of the authorities that are trusted, in PEM.
    pub roots: Arc<str>,
    /// `/etc/resolv.conf`.
    pub resolv_conf: Arc<str>,
    /// `/etc/hosts`.
    pub hosts: Arc<str>,
    /// Name and number of the interfaces that `resolv.conf` names.
    pub interfaces: Vec<(Arc<str>, u32)>,
}

/// What the embedded issuer publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// The discovery document, JSON.
    pub discovery: Arc<str>,
    /// The key set, JSON.
    pub jwks: Arc<str>,
}

/// More listeners to accept on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// For each descriptor beside this message the cookie of the network namespace that it listens in.
    pub netns_cookies: Vec<u64>,
}

/// Who a caller is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attested {
    /// The ask's.
    pub id: u64,
    /// Who connected.
    pub subject: Subject,
    /// What is known about it.
    pub selectors: Selectors,
    /// What the descriptors beside this message are, in their order.
    pub fds: Vec<AttestedFd>,
}

/// What one descriptor of an [`Attested`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttestedFd {
    /// A pidfd of the process.
    Pidfd,
    /// Its directory in `/proc`.
    ProcDir,
    /// Becomes readable when the guest is no longer where it was.
    Gone,
}

/// Who a caller is, by what can't be anybody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    /// A process of this host.
    Process(Process),
    /// A guest, by [`Guest::key`].
    Guest(u32),
}

/// Guests to be served from now on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests {
    /// Their listeners stand beside this message, in this order.
    pub guests: Vec<Guest>,
}

/// One guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guest {
    /// Names it at the interface where it is now: never another's, in one run of the guard.
    pub key: u32,
    /// `vm:id`.
    pub id: Arc<str>,
    /// `net:ifname`.
    pub interface: Arc<str>,
    /// How many of the descriptors are its.
    pub listeners: u8,
}

/// A process that stays itself when its number is used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Process id in the initial namespace.
    pub tgid: u32,
    /// Start time as the kernel recorded it, in nanoseconds since boot.
    pub start_ns: u64,
}

/// A signed token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed {
    /// The ask's.
    pub id: u64,
    /// The token.
    #[serde(with = "secret_text")]
    pub jwt: Secret<Arc<str>>,
    /// Issued, Unix seconds.
    pub iat: i64,
    /// Expires, Unix seconds.
    pub exp: i64,
    /// The token's id: what audit shows of it.
    pub jti: Arc<str>,
    /// The `aud` claim.
    pub audience: Arc<str>,
}

/// Why the guard says no. What differs is what the proxy answers and records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Refusal {
    /// The kernel recorded nothing about this socket, or no socket came with the ask.
    Unattributed,
    /// The process is gone.
    CallerGone,
    /// The process is no longer what it was: cgroup, uid or executable.
    CallerChanged,
    /// The guard's own decision was no.
    Denied(DenyReason),
    /// Policy allows it, but by another way than by what is signed.
    NotMinted,
    /// There is no usable signing key.
    NoKey,
    /// The file that holds the assertion has none that can be used.
    NoAssertion,
    /// What this caller would reach without us can't be told, or is refused to it: nobody dials in its place.
    OutOfReach,
    /// Too many asks at once; later may work.
    Busy,
    /// Something failed that is no fault of the caller.
    Internal,
}

impl Answer {
    /// The packet for this answer.
    ///
    /// # Errors
    /// [`SeamError::TooLong`] if it would pass [`ANSWER_LIMIT`].
    pub fn encode(&self) -> Result<Vec<u8>, SeamError> {
        encode(self, ANSWER_LIMIT)
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// Another version, a body that doesn't decode, or trailing bytes.
    pub fn decode(packet: &[u8]) -> Result<Self, SeamError> {
        decode(packet, ANSWER_LIMIT)
    }
}

impl PolicyFiles {
    /// The memfd's contents.
    ///
    /// # Errors
    /// [`SeamError::TooLong`] if they would pass [`POLICY_LIMIT`].
    pub fn encode(&self) -> Result<Vec<u8>, SeamError> {
        encode(self, POLICY_LIMIT)
    }

    /// Reads a memfd's contents.
    ///
    /// # Errors
    /// Another version, contents that don't decode, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SeamError> {
        decode(bytes, POLICY_LIMIT)
    }
}

impl OutboundFiles {
    /// The memfd's contents.
    ///
    /// # Errors
    /// [`SeamError::TooLong`] if they would pass [`OUTBOUND_LIMIT`].
    pub fn encode(&self) -> Result<Vec<u8>, SeamError> {
        encode(self, OUTBOUND_LIMIT)
    }

    /// Reads a memfd's contents.
    ///
    /// # Errors
    /// Another version, contents that don't decode, or trailing bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, SeamError> {
        decode(bytes, OUTBOUND_LIMIT)
    }
}

fn encode<T: Serialize>(value: &T, limit: usize) -> Result<Vec<u8>, SeamError> {
    let bytes = postcard::to_extend(value, vec![VERSION]).map_err(|_| SeamError::Body)?;
    if bytes.len() > limit {
        return Err(SeamError::TooLong);
    }
    Ok(bytes)
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8], limit: usize) -> Result<T, SeamError> {
    if bytes.len() > limit {
        return Err(SeamError::TooLong);
    }
    let (version, body) = bytes.split_first().ok_or(SeamError::TooShort)?;
    if *version != VERSION {
        return Err(SeamError::Version);
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(SeamError::Trailing),
        Err(_) => Err(SeamError::Body),
    }
}

/// The one place where a token is written down for the proxy, which hands it to its caller.
mod secret_text {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::secret::Secret;

    pub(super) fn serialize<S: Serializer>(
        secret: &Secret<Arc<str>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        secret.expose().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secret<Arc<str>>, D::Error> {
        Arc::<str>::deserialize(deserializer).map(Secret::new)
    }
}
