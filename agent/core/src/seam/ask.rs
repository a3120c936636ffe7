//! proxy → guard. Little-endian, fixed:
//!
//! | bytes | what |
//! |---|---|
//! | 0 | [`VERSION`] |
//! | 1 | kind: 1 attest, 2 sign, 3 recheck, 4 dial |
//! | 2 | kind of identity selector: 0 none, 1 client id, 2 object id, 3 resource id; 4, 5: GCP, resource is the audience, or the scopes with commas, selector the account; 6, 7: AWS, resource is the role, asked for with a session token or without, no selector |
//! | 3 | 0 |
//! | 4..12 | id, copied into the answer |
//! | 12..14, 14..16 | lengths of resource and selector; both 0 unless kind is 2 |
//! | 16.. | resource, selector; nothing after |
//!
//! Must never: allocate while decoding, or accept two encodings of one message.

use std::sync::Arc;

use super::{ASK_HEADER, ASK_LIMIT, RESOURCE_LIMIT, SELECTOR_LIMIT, SeamError, VERSION};
use crate::request::{AzureIdentity, Cloud, CredentialAsk, Request};

/// A question of the proxy. Its subject is the accepted socket that comes with it, never anything in these bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask<'a> {
    /// Who is this caller?
    Attest {
        /// Copied into the answer.
        id: u64,
    },
    /// Sign a token for this caller.
    Sign {
        /// Copied into the answer.
        id: u64,
        /// Which one.
        ask: SignAsk<'a>,
    },
    /// Is this caller still what its record says, executable included?
    Recheck {
        /// Copied into the answer.
        id: u64,
    },
    /// A socket, not connected yet, that reaches what this caller's own would reach.
    Dial {
        /// Copied into the answer.
        id: u64,
    },
    /// Is this caller still there, with the ids and in the cgroup of its record, whatever it executes? Asked on each request
    /// where the kernel doesn't tell the proxy itself.
    Still {
        /// Copied into the answer.
        id: u64,
    },
}

/// Which token. The guard decides again over [`SignAsk::request`]; audience and subject come from its own policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignAsk<'a> {
    /// Azure, the system's choice of identity.
    Azure {
        /// As the caller wrote it, decoded.
        resource: &'a str,
    },
    /// Azure, by client id.
    AzureClientId {
        /// As the caller wrote it, decoded.
        resource: &'a str,
        /// The client id.
        client_id: &'a str,
    },
    /// Azure, by object id.
    AzureObjectId {
        /// As the caller wrote it, decoded.
        resource: &'a str,
        /// The object id.
        object_id: &'a str,
    },
    /// Azure, by ARM resource id.
    AzureResourceId {
        /// As the caller wrote it, decoded.
        resource: &'a str,
        /// The ARM resource id.
        resource_id: &'a str,
    },
    /// GCP, an identity token.
    Gcp {
        /// As the caller wrote it, decoded.
        audience: &'a str,
        /// `default`, or an e-mail address.
        account: &'a str,
    },
    /// GCP, an access token.
    GcpToken {
        /// With commas between them: those that the permit names, of which the caller wrote all or none.
        scopes: &'a str,
        /// `default`, or an e-mail address.
        account: &'a str,
    },
    /// AWS, a role's keys.
    Aws {
        /// The name of the role that the permit names.
        role: &'a str,
        /// Whether the caller shows no session token.
        imdsv1: bool,
    },
}

impl<'a> SignAsk<'a> {
    /// The ask for a parsed Azure token request.
    pub fn azure(resource: &'a str, selector: Option<&'a AzureIdentity>) -> Self {
        match selector {
            None => Self::Azure { resource },
            Some(AzureIdentity::ClientId(client_id)) => Self::AzureClientId {
                resource,
                client_id,
            },
            Some(AzureIdentity::ObjectId(object_id)) => Self::AzureObjectId {
                resource,
                object_id,
            },
            Some(AzureIdentity::ResourceId(resource_id)) => Self::AzureResourceId {
                resource,
                resource_id,
            },
        }
    }

    /// Whose token it is.
    pub const fn cloud(&self) -> Cloud {
        match self {
            Self::Gcp { .. } | Self::GcpToken { .. } => Cloud::Gcp,
            Self::Aws { .. } => Cloud::Aws,
            _ => Cloud::Azure,
        }
    }

    /// What policy is asked.
    pub fn request(&self) -> Request {
        let (_, resource, selector) = self.parts();
        let selector = match self {
            Self::Gcp { audience, account } => {
                return Request::Credential(CredentialAsk::GcpIdentity {
                    account: Arc::from(*account),
                    audience: Arc::from(*audience),
                });
            }
            Self::GcpToken { scopes, account } => {
                return Request::Credential(CredentialAsk::GcpToken {
                    account: Arc::from(*account),
                    scopes: scopes.split(',').map(Arc::from).collect(),
                });
            }
            Self::Aws { role, imdsv1 } => {
                return Request::Credential(CredentialAsk::AwsRole {
                    role: Some(Arc::from(*role)),
                    imdsv1: *imdsv1,
                });
            }
            Self::Azure { .. } => None,
            Self::AzureClientId { .. } => Some(AzureIdentity::ClientId(Arc::from(selector))),
            Self::AzureObjectId { .. } => Some(AzureIdentity::ObjectId(Arc::from(selector))),
            Self::AzureResourceId { .. } => Some(AzureIdentity::ResourceId(Arc::from(selector))),
        };
        Request::Credential(CredentialAsk::AzureToken {
            resource: Arc::from(resource),
            selector,
        })
    }

    const fn parts(&self) -> (u8, &'a str, &'a str) {
        match *self {
            Self::Azure { resource } => (0, resource, ""),
            Self::AzureClientId {
                resource,
                client_id,
            } => (1, resource, client_id),
            Self::AzureObjectId {
                resource,
                object_id,
            } => (2, resource, object_id),
            Self::AzureResourceId {
                resource,
                resource_id,
            } => (3, resource, resource_id),
            Self::Gcp { audience, account } => (4, audience, account),
            Self::GcpToken { scopes, account } => (5, scopes, account),
            Self::Aws {
                role,
                imdsv1: false,
            } => (6, role, ""),
            Self::Aws { role, imdsv1: true } => (7, role, ""),
        }
    }
}

impl<'a> Ask<'a> {
    /// The id that the answer will carry.
    pub const fn id(&self) -> u64 {
        match self {
            Self::Attest { id }
            | Self::Sign { id, .. }
            | Self::Recheck { id }
            | Self::Dial { id }
            | Self::Still { id } => *id,
        }
    }

    /// The packet for this ask.
    ///
    /// # Errors
    /// A string that is empty, too long or not visible text: the proxy refuses such a request before it gets here.
    pub fn encode(&self) -> Result<Vec<u8>, SeamError> {
        let (kind, (which, resource, selector)) = match self {
            Self::Attest { .. } => (1, (0, "", "")),
            Self::Sign { ask, .. } => (2, ask.parts()),
            Self::Recheck { .. } => (3, (0, "", "")),
            Self::Dial { .. } => (4, (0, "", "")),
            Self::Still { .. } => (5, (0, "", "")),
        };
        if kind == 2 {
            check_text(resource, RESOURCE_LIMIT)?;
        }
        if !matches!(which, 0 | 6 | 7) {
            check_text(selector, SELECTOR_LIMIT)?;
        }
        let length = |text: &str| u16::try_from(text.len()).map_err(|_| SeamError::Length);
        let mut packet = Vec::with_capacity(ASK_HEADER + resource.len() + selector.len());
        packet.extend_from_slice(&[VERSION, kind, which, 0]);
        packet.extend_from_slice(&self.id().to_le_bytes());
        packet.extend_from_slice(&length(resource)?.to_le_bytes());
        packet.extend_from_slice(&length(selector)?.to_le_bytes());
        packet.extend_from_slice(resource.as_bytes());
        packet.extend_from_slice(selector.as_bytes());
        Ok(packet)
    }

    /// Reads one packet.
    ///
    /// # Errors
    /// Anything that [`Ask::encode`] would not have written.
    pub fn decode(packet: &'a [u8]) -> Result<Self, SeamError> {
        if packet.len() > ASK_LIMIT {
            return Err(SeamError::TooLong);
        }
        let (header, strings) = packet
            .split_first_chunk::<ASK_HEADER>()
            .ok_or(SeamError::TooShort)?;
        let [
            version,
            kind,
            which,
            zero,
            i0,
            i1,
            i2,
            i3,
            i4,
            i5,
            i6,
            i7,
            r0,
            r1,
            s0,
            s1,
        ] = *header;
        if version != VERSION {
            return Err(SeamError::Version);
        }
        let id = u64::from_le_bytes([i0, i1, i2, i3, i4, i5, i6, i7]);
        let resource_len = usize::from(u16::from_le_bytes([r0, r1]));
        let selector_len = usize::from(u16::from_le_bytes([s0, s1]));
        if resource_len > RESOURCE_LIMIT || selector_len > SELECTOR_LIMIT {
            return Err(SeamError::Length);
        }
        let (resource, rest) = strings
            .split_at_checked(resource_len)
            .ok_or(SeamError::TooShort)?;
        let (selector, rest) = rest
            .split_at_checked(selector_len)
            .ok_or(SeamError::TooShort)?;
        if !rest.is_empty() {
            return Err(SeamError::Trailing);
        }
        match (kind, which, zero) {
            (1 | 3..=5, 0, 0) if resource_len + selector_len > 0 => Err(SeamError::Length),
            (1, 0, 0) => Ok(Self::Attest { id }),
            (3, 0, 0) => Ok(Self::Recheck { id }),
            (4, 0, 0) => Ok(Self::Dial { id }),
            (5, 0, 0) => Ok(Self::Still { id }),
            (2, 0 | 6 | 7, 0) if selector_len > 0 => Err(SeamError::Length),
            (2, _, 0) => decode_sign(which, resource, selector).map(|ask| Self::Sign { id, ask }),
            _ => Err(SeamError::Kind),
        }
    }
}

fn decode_sign<'a>(
    which: u8,
    resource: &'a [u8],
    selector: &'a [u8],
) -> Result<SignAsk<'a>, SeamError> {
    let resource = text(resource, RESOURCE_LIMIT)?;
    let selector = || text(selector, SELECTOR_LIMIT);
    match which {
        0 => Ok(SignAsk::Azure { resource }),
        1 => Ok(SignAsk::AzureClientId {
            resource,
            client_id: selector()?,
        }),
        2 => Ok(SignAsk::AzureObjectId {
            resource,
            object_id: selector()?,
        }),
        3 => Ok(SignAsk::AzureResourceId {
            resource,
            resource_id: selector()?,
        }),
        4 => Ok(SignAsk::Gcp {
            audience: resource,
            account: selector()?,
        }),
        5 => Ok(SignAsk::GcpToken {
            scopes: resource,
            account: selector()?,
        }),
        6 | 7 => Ok(SignAsk::Aws {
            role: resource,
            imdsv1: which == 7,
        }),
        _ => Err(SeamError::Kind),
    }
}

fn text(bytes: &[u8], limit: usize) -> Result<&str, SeamError> {
    let text = std::str::from_utf8(bytes).map_err(|_| SeamError::Text)?;
    check_text(text, limit)?;
    Ok(text)
}

/// Visible ASCII: the same as the dialect lets into a resource or selector. The guard's logs can't be forged with these.
fn check_text(text: &str, limit: usize) -> Result<(), SeamError> {
    if text.is_empty() || text.len() > limit {
        return Err(SeamError::Length);
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(SeamError::Text);
    }
    Ok(())
}
