//! The embedded issuer: signs what the policy core permits, and says what is published about the key. A private key never
//! leaves this module, and nothing is signed without a [`Permit`] that says mint.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imds_guard_core::decision::{Grant, Permit};
use imds_guard_core::policy::{Identity, settings};
use imds_guard_core::secret::Secret;
use imds_guard_core::token::{self, Mint};

mod assertion;
mod key;
mod machine;
mod store;

pub use assertion::{AssertionError, read as read_assertion};
pub use key::LocalKey;
pub use machine::{MachineError, machine_binding};
pub use store::StoreError;

/// Signs bytes with a key that stays where it is. The embedded key is one; a fleet signs elsewhere.
pub trait Signer {
    /// The public half, as the key set shows it.
    fn public(&self) -> &token::PublicKey;
    /// RS256 over these bytes.
    ///
    /// # Errors
    /// Where the key can't be used.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError>;
}

/// The key could not be used.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the signing key can't be used")]
pub struct SignError;

/// Why nothing was signed.
#[derive(Debug, thiserror::Error)]
pub enum MintError {
    /// The permit says another way than one for which something is signed.
    #[error("the permit is not one for which anything is signed")]
    NotMint,
    /// The key is not usable.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Key or random numbers failed.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// Claims that are no JSON: a defect.
    #[error("claims: {0}")]
    Claims(#[from] serde_json::Error),
}

/// A token, and what may be said of it.
#[derive(Debug)]
pub struct Minted {
    /// The token.
    pub jwt: Secret<Arc<str>>,
    /// Issued, Unix seconds.
    pub iat: i64,
    /// Expires, Unix seconds.
    pub exp: i64,
    /// Its id.
    pub jti: Arc<str>,
    /// The `aud` claim.
    pub audience: Arc<str>,
    /// The `sub` claim.
    pub subject: Arc<str>,
    /// The file that it stands in, where somebody else signed it.
    pub file: Option<Arc<str>>,
}

/// Issuer of one host.
#[derive(Debug)]
pub struct Issuer {
    url: Arc<str>,
    store: store::Store,
    key: Option<LocalKey>,
    prepared: Option<key::Prepared>,
}

impl Issuer {
    /// The issuer that `settings` describe, with the key that is there already, if any. The state directory is made where it
    /// is missing (0700). `now` is Unix time in seconds.
    ///
    /// # Errors
    /// A state directory or key that can't be used, with the remedy.
    pub fn open(settings: &settings::Issuer, state: &Path, now: i64) -> Result<Self, StoreError> {
        let store = store::Store::open(state, machine_binding(Path::new(machine::MACHINE_ID))?)?;
        let key = store.load(now)?;
        Ok(Self {
            url: Arc::clone(&settings.url),
            store,
            // Becomes a key, with a time and a file, at the first mint only.
            prepared: key.is_none().then(key::prepare),
            key,
        })
    }

    /// Takes over a reloaded configuration. The key stays.
    pub fn configure(&mut self, settings: &settings::Issuer) {
        self.url = Arc::clone(&settings.url);
    }

    /// Whether there is a key yet.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// The discovery document.
    pub fn discovery(&self) -> String {
        token::discovery(&self.url)
    }

    /// The key set; empty before the first mint.
    pub fn jwks(&self) -> String {
        let keys: Vec<token::PublicKey> = self.key.iter().map(|key| key.public().clone()).collect();
        token::jwks(&keys)
    }

    /// Signs what the permit says: a token to mint, or an assertion for a cloud. Makes the key where this is the first time.
    ///
    /// # Errors
    /// Where the permit is for something else, or the key can't be used.
    pub fn mint(&mut self, permit: &Permit, now: i64) -> Result<Minted, MintError> {
        match permit.grant() {
            Grant::Mint {
                identity,
                audience,
                subject,
            } => self.token(identity, audience, subject, now),
            Grant::Federate {
                identity,
                subject: Some(subject),
                ..
            } => self.assertion(identity, subject, now),
            _ => Err(MintError::NotMint),
        }
    }

    fn assertion(
        &mut self,
        identity: &Identity,
        subject: &Arc<str>,
        now: i64,
    ) -> Result<Minted, MintError> {
        let federation = identity.federation.as_ref().ok_or(MintError::NotMint)?;
        let url = Arc::clone(&self.url);
        let key = self.key(now)?;
        let claims = token::assertion(
            identity,
            &Mint {
                issuer: &url,
                subject,
                audience: &federation.audience,
                now,
                jti: random()?,
            },
        );
        let header = token::header(&key.public().kid);
        Ok(Minted {
            jwt: Secret::new(compact(&header, &claims, key)?.into()),
            iat: claims.iat,
            exp: claims.exp,
            jti: claims.jti.into(),
            audience: Arc::clone(&federation.audience),
            subject: Arc::clone(subject),
            file: None,
        })
    }

    fn token(
        &mut self,
        identity: &Identity,
        audience: &Arc<str>,
        subject: &Arc<str>,
        now: i64,
    ) -> Result<Minted, MintError> {
        let url = Arc::clone(&self.url);
        let key = self.key(now)?;
        let claims = token::claims(
            identity,
            &Mint {
                issuer: &url,
                subject,
                audience,
                now,
                jti: random()?,
            },
        );
        let header = token::header(&key.public().kid);
        Ok(Minted {
            jwt: Secret::new(compact(&header, &claims, key)?.into()),
            iat: claims.iat,
            exp: claims.exp,
            jti: claims.jti.into(),
            audience: Arc::clone(audience),
            subject: Arc::clone(subject),
            file: None,
        })
    }

    /// Makes the key where there is none yet, for who publishes before anything is signed.
    ///
    /// # Errors
    /// Where it can't be used.
    pub fn ensure_key(&mut self, now: i64) -> Result<(), StoreError> {
        self.key(now).map(|_| ())
    }

    fn key(&mut self, now: i64) -> Result<&LocalKey, StoreError> {
        if let Some(key) = &self.key {
            // A clock that was set back: tokens would begin before their key.
            self.store.check_clock(key.created(), now)?;
        }
        let key = match self.key.take() {
            Some(key) => key,
            None => match self.store.load(now)? {
                // Somebody has published it meanwhile.
                Some(key) => key,
                None => {
                    let prepared = self.prepared.take().unwrap_or_else(key::prepare);
                    self.store.create(prepared, now)?
                }
            },
        };
        Ok(self.key.insert(key))
    }
}

fn random() -> Result<u128, SignError> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).map_err(|_| SignError)?;
    Ok(u128::from_be_bytes(bytes))
}

/// JWS compact serialisation, RFC 7515 section 7.1.
fn compact(
    header: &token::Header,
    claims: &impl serde::Serialize,
    key: &impl Signer,
) -> Result<String, MintError> {
    let mut jwt = URL_SAFE_NO_PAD.encode(serde_json::to_vec(header)?);
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(serde_json::to_vec(claims)?, &mut jwt);
    let signature = key.sign(jwt.as_bytes())?;
    jwt.push('.');
    URL_SAFE_NO_PAD.encode_string(signature, &mut jwt);
    Ok(jwt)
}

#[cfg(test)]
mod tests;
