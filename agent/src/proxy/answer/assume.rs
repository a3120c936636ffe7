//! Something narrower than the node's own identity, asked for with the node's own: a role that the instance's role assumes, a
//! service account that the machine's acts as. What is asked goes on when the caller gives up, and the next attempt finds it.
//! Every function here takes the permit; none decides anything.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::{digest, hmac};
use imds_guard_core::decision::{Grant, Permit};
use imds_guard_core::exchange::sigv4::Digests;
use imds_guard_core::exchange::sts::{AssumeRole, Partition, assume_role};
use imds_guard_core::exchange::{NotObtained, Obtained, Outgoing, Url, google, sts};
use imds_guard_core::imds::aws::{Ask, answer as aws};
use imds_guard_core::imds::gcp::answer::AccessToken;
use imds_guard_core::policy::Identity;
use imds_guard_core::request::Cloud;

use super::federate::{credential, seconds};
use super::given::{Given, NotGiven};
use super::node::{self, Node, Own};
use super::{Permitted, forward};
use crate::credentials::{Key, Missed, Via};
use crate::outbound::OutboundError;
use crate::proxy::Proxy;
use crate::proxy::clock::unix_now;
use crate::proxy::failure::Failure;
use crate::proxy::record::Record;
use crate::proxy::reply::{Form, Reply};
use crate::upstream::Endpoint;

/// How long a caller waits: SDKs give up after a second, and have other things to do in it.
const PATIENCE: Duration = Duration::from_millis(650);
/// How long an endpoint may take: nobody waits for it that long, and the next caller is glad of what came.
const BUDGET: Duration = Duration::from_secs(5);

/// The program's provider of cryptography, for signatures to AWS.
const DIGESTS: Digests = Digests {
    sha256: |message| {
        let digest = digest::digest(&digest::SHA256, message);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest.as_ref());
        bytes
    },
    hmac_sha256: |key, message| {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    },
};

/// The parts of a grant to assume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Assume<'a> {
    identity: &'a Arc<Identity>,
    target: &'a Arc<str>,
    session: &'a Arc<str>,
}

/// What is asked for.
#[derive(Debug, Clone)]
enum What {
    /// Keys of a role, for a session of this name.
    Role { session: Arc<str> },
    /// An access token for these scopes.
    Access { scopes: Arc<[Arc<str>]> },
    /// An identity token for this audience.
    Statement { audience: Arc<str> },
}

impl<'a> Assume<'a> {
    /// Of a grant, if it is one.
    pub(super) const fn of(grant: &'a Grant) -> Option<Self> {
        match grant {
            Grant::Assume {
                identity,
                target,
                session,
            } => Some(Self {
                identity,
                target,
                session,
            }),
            _ => None,
        }
    }

    pub(super) const fn identity(&self) -> &'a Arc<Identity> {
        self.identity
    }

    /// A role's keys in the shape that the caller's endpoint has.
    pub(super) async fn aws(
        &self,
        of: &Permitted<'_>,
        ask: &Ask,
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        let session = Arc::clone(self.session);
        let (given, via) = self.credential(of, What::Role { session }, record).await?;
        let Obtained::Aws(keys) = &given.obtained else {
            return Err(Failure::NotServed);
        };
        let (form, body) = match ask {
            // Every document is plain text to the metadata service, also a JSON one.
            Ask::Tree(_) => (Form::Text, aws::of_instance(keys, given.received)),
            Ask::Container(_) => (Form::Json, aws::of_container(keys, self.target)),
            Ask::Session { .. } => return Err(Failure::NotServed),
        };
        Ok(credential(form, body.expose(), via))
    }

    /// An access token of an account for `scopes`, or for those of the caller's rule where it names none.
    pub(super) async fn access_token(
        &self,
        of: &Permitted<'_>,
        scopes: &[Arc<str>],
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        let scopes = match of.permit.scopes() {
            Some(own) if scopes.is_empty() => Arc::clone(own),
            _ => scopes.into(),
        };
        let (given, via) = self.credential(of, What::Access { scopes }, record).await?;
        let Obtained::Bearer { token, expires } = &given.obtained else {
            return Err(Failure::NotServed);
        };
        let body = AccessToken::given(token, *expires).body(unix_now());
        Ok(credential(Form::Json, body.expose(), via))
    }

    /// An identity token of an account for the audience of the rule.
    pub(super) async fn identity_token(
        &self,
        of: &Permitted<'_>,
        record: &mut Record,
    ) -> Result<Reply, Failure> {
        let audience = Arc::clone(self.target);
        let what = What::Statement { audience };
        let (given, via) = self.credential(of, what, record).await?;
        let Obtained::Bearer { token, .. } = &given.obtained else {
            return Err(Failure::NotServed);
        };
        Ok(credential(Form::Text, token.expose(), via))
    }

    /// The credential: the one that is kept, or a new one.
    async fn credential(
        &self,
        of: &Permitted<'_>,
        what: What,
        record: &mut Record,
    ) -> Result<(Rc<Given>, Via), Failure> {
        let asking = Asking {
            proxy: Rc::clone(&of.on.proxy),
            permit: of.permit.clone(),
            node: of
                .policy
                .node(self.identity.cloud, forward::endpoint(of))
                .ok_or(Failure::NotServed)?,
            identity: Arc::clone(self.identity),
            what,
        };
        let key = Key {
            workload: Arc::clone(of.permit.workload()),
            identity: Arc::clone(&self.identity.name),
            subject: Arc::clone(self.session),
            audience: asking.audience(),
            epoch: of.policy.epoch,
        };
        let given = &of.on.proxy.given;
        let got = given.obtain(key, unix_now(), PATIENCE, || asking.obtain());
        let (given, via) = got.await.map_err(|missed| match missed {
            Missed::Late => NotGiven::Late,
            Missed::Failed(why) => why,
        })?;
        record.credential = Some(given.fingerprint(self.identity, via));
        Ok((given, via))
    }
}

/// What one flight needs, which outlives whoever began it.
struct Asking {
    proxy: Rc<Proxy>,
    permit: Permit,
    node: Endpoint,
    identity: Arc<Identity>,
    what: What,
}

impl Asking {
    /// What the credential is good for, for its key.
    fn audience(&self) -> Arc<str> {
        match &self.what {
            What::Role { .. } => self.identity.role.clone().unwrap_or_default(),
            // No scope and no audience has a space in it, nor a word in front.
            What::Access { scopes } => format!("scopes {}", scopes.join(" ")).into(),
            What::Statement { audience } => Arc::clone(audience),
        }
    }

    async fn obtain(self) -> Result<Given, NotGiven> {
        let got = match self.attempt().await {
            // The node's own credential is good for nothing, though it hasn't ended: once more with a newer one.
            Err(NotGiven::Cloud(why)) if sts::blames_keys(&why) || google::blames_token(&why) => {
                self.proxy.node.forget(&node::key(self.node));
                self.attempt().await
            }
            other => other,
        };
        let obtained = got.inspect_err(|why| self.tell(why))?;
        let id = match &obtained {
            // What CloudTrail knows the keys by.
            Obtained::Aws(keys) => Arc::clone(&keys.access_key_id),
            Obtained::Bearer { token, .. } => fingerprint(token.expose()),
        };
        Ok(Given {
            obtained,
            received: unix_now(),
            id,
        })
    }

    async fn attempt(&self) -> Result<Obtained, NotGiven> {
        let node = match self.identity.cloud {
            Cloud::Aws => node::aws(&self.proxy, &self.permit, self.node).await,
            Cloud::Gcp => node::gcp(&self.proxy, &self.permit, self.node).await,
            Cloud::Azure => return Err(NotGiven::Unfit),
        };
        let node = node.map_err(NotGiven::Node)?;
        let outgoing = self.outgoing(&node)?;
        let answer = self.proxy.outbound.send(&self.permit, &outgoing, BUDGET);
        let answer = answer
            .await
            .map_err(|error: OutboundError| NotGiven::Outbound(Rc::new(error)))?;
        let retry_after = answer.retry_after.as_ref().and_then(seconds);
        self.read(answer.status.as_u16(), retry_after, answer.body.expose())
            .map_err(|why| NotGiven::Cloud(Rc::new(why)))
    }

    fn outgoing(&self, node: &Node) -> Result<Outgoing, NotGiven> {
        let outgoing = match (&node.own, &self.what) {
            (Own::Aws { keys, region }, What::Role { session }) => {
                let region = self.identity.region.as_deref().or(region.as_deref());
                let region = region.ok_or(NotGiven::NoRegion)?;
                let tags = self.identity.tags.iter();
                let tags: Vec<_> = tags.map(|(k, v)| (Arc::clone(k), Arc::clone(v))).collect();
                let ask = AssumeRole {
                    role: self.identity.role.as_deref().unwrap_or_default(),
                    session_name: session,
                    duration: self.identity.lifetime_seconds,
                    policy: self.identity.session_policy.as_deref(),
                    tags: &tags,
                };
                let url = self.identity.sts.clone();
                let url = url.or_else(|| Partition::of_region(region)?.sts(region));
                url.and_then(|url| assume_role(ask, &url, region, keys, unix_now(), DIGESTS))
            }
            (Own::Gcp(token), what) => {
                let endpoint = Url::parse(google::ENDPOINT).map_err(|_| NotGiven::Unfit)?;
                let account = self.identity.account.as_deref().unwrap_or_default();
                let token = token.token();
                match what {
                    What::Access { scopes } => {
                        let lifetime = self.identity.lifetime_seconds;
                        google::access_token(&endpoint, account, token, scopes, lifetime)
                    }
                    What::Statement { audience } => {
                        google::identity_token(&endpoint, account, token, audience)
                    }
                    What::Role { .. } => None,
                }
            }
            (Own::Aws { .. }, _) => None,
        };
        outgoing.ok_or(NotGiven::Unfit)
    }

    fn read(
        &self,
        status: u16,
        retry_after: Option<u32>,
        body: &[u8],
    ) -> Result<Obtained, NotObtained> {
        let now = unix_now();
        match &self.what {
            What::Role { .. } => sts::read("AssumeRole", status, retry_after, body, now),
            What::Access { .. } => google::read_access_token(status, retry_after, body, now),
            What::Statement { audience } => {
                google::read_identity_token(status, retry_after, body, audience, now)
            }
        }
    }

    fn tell(&self, why: &NotGiven) {
        let (identity, workload) = (&self.identity.name, self.permit.workload());
        tracing::warn!(%identity, %workload, "not assumed: {why}");
    }
}

/// What a record shows of a token that has no id: the beginning of its digest.
fn fingerprint(token: &str) -> Arc<str> {
    let digest = (DIGESTS.sha256)(token.as_bytes());
    let hex: String = digest[..8].iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256:{hex}").into()
}
