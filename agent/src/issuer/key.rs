//! One RSA key in this process' memory. Never printed, never handed out.

use std::fmt;
use std::thread::JoinHandle;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imds_guard_core::token;
use zeroize::Zeroizing;

use super::{SignError, Signer};
use crate::sys::memory;

/// Numbers for a key, looked for in a thread of their own: it can take longer than the second that SDKs wait for a token.
#[derive(Debug)]
pub(super) struct Prepared(JoinHandle<Result<KeyPair, SignError>>);

/// Starts looking. 2048 bits: what every relying party takes.
pub(super) fn prepare() -> Prepared {
    Prepared(std::thread::spawn(|| {
        let pair = KeyPair::generate(KeySize::Rsa2048).map_err(|_| SignError);
        memory::give_back();
        pair
    }))
}

/// An RSA key pair and when it was made.
pub struct LocalKey {
    pair: KeyPair,
    public: token::PublicKey,
    created: i64,
}

impl LocalKey {
    /// A new key from prepared numbers; waits for them.
    pub(super) fn generate(prepared: Prepared, created: i64) -> Result<Self, SignError> {
        let pair = prepared.0.join().map_err(|_| SignError)??;
        Ok(Self::of(pair, created))
    }

    /// A key from its PKCS#8 form.
    pub(super) fn from_pkcs8(pkcs8: &[u8], created: i64) -> Result<Self, SignError> {
        let pair = KeyPair::from_pkcs8(pkcs8).map_err(|_| SignError)?;
        Ok(Self::of(pair, created))
    }

    fn of(pair: KeyPair, created: i64) -> Self {
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let n = text(
            pair.public_key()
                .modulus()
                .big_endian_without_leading_zero(),
        );
        let e = text(
            pair.public_key()
                .exponent()
                .big_endian_without_leading_zero(),
        );
        let digest = aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            token::thumbprint_input(&n, &e).as_bytes(),
        );
        let kid = text(digest.as_ref());
        Self {
            pair,
            public: token::PublicKey { kid, n, e },
            created,
        }
    }

    /// For the key file alone.
    pub(super) fn pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, SignError> {
        let der = self.pair.as_der().map_err(|_| SignError)?;
        Ok(Zeroizing::new(der.as_ref().to_vec()))
    }

    /// When it was made, Unix seconds.
    pub fn created(&self) -> i64 {
        self.created
    }
}

impl Signer for LocalKey {
    fn public(&self) -> &token::PublicKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, SignError> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        self.pair
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                message,
                &mut signature,
            )
            .map_err(|_| SignError)?;
        Ok(signature)
    }
}

impl fmt::Debug for LocalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalKey")
            .field("kid", &self.public.kid)
            .finish_non_exhaustive()
    }
}
