//! Session tokens of IMDSv2, sealed: nothing is kept about them. A token says when it ends, and is good only for the caller that
//! asked for it (cgroup, user and network namespace as the kernel recorded them, or the guest), on this boot of this machine.
//!
//! A token grants nothing: it shows that its holder can send a PUT and read the answer, which what is tricked into fetching a
//! URL can't. Who a caller is and what it may have is asked at each request all the same.
//!
//! AES-256-GCM-SIV, because its nonce may repeat without harm: there is no counter to keep over a restart.

use std::cell::Cell;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use imds_guard_core::imds::aws::session::TTL_MAX;
use zeroize::Zeroizing;

use crate::caller::Caller;
use crate::sys::clock::monotonic;

/// What the guard hands over: the key, and behind it the boot's id.
pub(crate) const SECRET_LEN: usize = KEY_LEN + BOOT_LEN;
pub(crate) const KEY_LEN: usize = 32;
const BOOT_LEN: usize = 16;
/// Of AES-GCM-SIV.
const TAG_LEN: usize = 16;
/// When it ends: seconds of the monotonic clock, which no operator sets.
const END_LEN: usize = 8;
const SEALED_LEN: usize = NONCE_LEN + END_LEN + TAG_LEN;
/// In base64. Anything of another length isn't ours, and no work is done for it.
const TOKEN_LEN: usize = SEALED_LEN / 3 * 4;
/// What a token is for, so that none of another layout or purpose is ever taken for one.
const PURPOSE: &[u8; 16] = b"imdsv2 session 1";
const HOLDER_LEN: usize = 32;
const BOUND_LEN: usize = PURPOSE.len() + BOOT_LEN + HOLDER_LEN;

/// Seals tokens and opens them.
pub(crate) struct Sealer {
    key: LessSafeKey,
    boot: [u8; BOOT_LEN],
    /// Makes nonces differ within one reading of the clock.
    count: Cell<u32>,
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

/// Whom a token is good for, on this boot. Made once for each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenHolder([u8; BOUND_LEN]);

/// Why no token can be made. Never for anything that a caller does.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("session tokens can't be sealed")]
pub(crate) struct SealError;

impl Sealer {
    /// With the secret that the guard handed over; none where it is not one.
    pub(crate) fn new(secret: Zeroizing<Vec<u8>>) -> Option<Self> {
        let (key, boot) = secret.split_at_checked(KEY_LEN)?;
        let key = UnboundKey::new(&AES_256_GCM_SIV, key).ok()?;
        Some(Self {
            key: LessSafeKey::new(key),
            boot: boot.try_into().ok()?,
            count: Cell::new(0),
        })
    }

    /// Whom tokens on a connection of `caller` are for.
    pub(crate) fn holder(&self, caller: &Caller) -> TokenHolder {
        let mut bound = [0; BOUND_LEN];
        let (purpose, rest) = bound.split_at_mut(PURPOSE.len());
        let (boot, holder) = rest.split_at_mut(BOOT_LEN);
        purpose.copy_from_slice(PURPOSE);
        boot.copy_from_slice(&self.boot);
        let digest = match caller {
            Caller::Process(record) => {
                let mut of = [0; 21];
                of[0] = b'p';
                of[1..9].copy_from_slice(&record.cgroup_id.to_le_bytes());
                of[9..17].copy_from_slice(&record.netns_cookie.to_le_bytes());
                of[17..].copy_from_slice(&record.effective_uid.to_le_bytes());
                digest(&SHA256, &of)
            }
            // Not by its key, which another run of the guard gives to another.
            Caller::Guest(guest) => digest(
                &SHA256,
                format!("g{}\0{}", guest.id, guest.interface).as_bytes(),
            ),
        };
        holder.copy_from_slice(digest.as_ref());
        TokenHolder(bound)
    }

    /// A token for `holder` that lives for `ttl` seconds from now.
    pub(crate) fn seal(&self, holder: &TokenHolder, ttl: u32) -> Result<String, SealError> {
        self.seal_until(holder, monotonic().as_secs() + u64::from(ttl))
    }

    fn seal_until(&self, holder: &TokenHolder, end: u64) -> Result<String, SealError> {
        let mut sealed = [0; SEALED_LEN];
        let nonce = self.nonce();
        let (head, rest) = sealed.split_at_mut(NONCE_LEN);
        let (text, tag) = rest.split_at_mut(END_LEN);
        head.copy_from_slice(&nonce);
        text.copy_from_slice(&end.to_le_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let made = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::from(&holder.0), text)
            .map_err(|_| SealError)?;
        tag.copy_from_slice(made.as_ref());
        Ok(URL_SAFE_NO_PAD.encode(sealed))
    }

    fn nonce(&self) -> [u8; NONCE_LEN] {
        let count = self.count.get();
        self.count.set(count.wrapping_add(1));
        let now = monotonic().as_nanos();
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&now.to_le_bytes()[..8]);
        nonce[8..].copy_from_slice(&count.to_le_bytes());
        nonce
    }

    /// When `token` ends, in seconds of the monotonic clock, if it is one of this holder's. On the stack alone.
    pub(crate) fn open(&self, holder: &TokenHolder, token: &str) -> Option<u64> {
        if token.len() != TOKEN_LEN {
            return None;
        }
        let mut sealed = [0; SEALED_LEN];
        let len = URL_SAFE_NO_PAD.decode_slice(token, &mut sealed).ok()?;
        let sealed = sealed.get_mut(..len).filter(|_| len == SEALED_LEN)?;
        let (nonce, sealed) = sealed.split_at_mut(NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let text = self
            .key
            .open_in_place(nonce, Aad::from(&holder.0), sealed)
            .ok()?;
        Some(u64::from_le_bytes((&*text).try_into().ok()?))
    }
}

/// Whether a token that ends then is good now.
pub(crate) fn is_live(end: u64) -> bool {
    let now = monotonic().as_secs();
    now < end && end - now <= u64::from(TTL_MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use imds_guard_ebpf::CallerRecord;

    use super::*;
    use crate::caller::Guest;

    fn sealer(key: u8, boot: u8) -> Sealer {
        let mut secret = vec![key; KEY_LEN];
        secret.resize(SECRET_LEN, boot);
        Sealer::new(Zeroizing::new(secret)).unwrap()
    }

    fn caller(change: impl FnOnce(&mut CallerRecord)) -> Caller {
        let mut record = CallerRecord {
            tgid: 7,
            cgroup_id: 1,
            netns_cookie: 2,
            effective_uid: 3,
            ..CallerRecord::ZERO
        };
        change(&mut record);
        Caller::Process(record)
    }

    fn guest(id: &str, interface: &str, key: u32) -> Caller {
        Caller::Guest(Guest {
            key,
            id: Arc::from(id),
            interface: Arc::from(interface),
            dialled: ([169, 254, 169, 254], 80).into(),
            address: ([10, 0, 0, 2], 4000).into(),
        })
    }

    #[test]
    fn a_token_is_its_callers_and_nobody_elses() {
        let sealer = sealer(1, 1);
        let holder = sealer.holder(&caller(|_| {}));
        let token = sealer.seal(&holder, 60).unwrap();
        assert_eq!(token.len(), TOKEN_LEN);
        assert!(sealer.open(&holder, &token).is_some_and(is_live));
        let others = [
            caller(|r| r.cgroup_id = 9),
            caller(|r| r.netns_cookie = 9),
            caller(|r| r.effective_uid = 9),
            guest("shop", "vnet0", 1),
        ];
        for other in &others {
            let other = sealer.holder(other);
            assert_eq!(sealer.open(&other, &token), None, "{other:?}");
        }
        // The same service, another of its processes.
        let sibling = sealer.holder(&caller(|r| r.tgid = 8));
        assert!(sealer.open(&sibling, &token).is_some());
    }

    #[test]
    fn a_guests_token_outlives_the_guard_and_is_no_other_guests() {
        let sealer = sealer(1, 1);
        let holder = sealer.holder(&guest("shop", "vnet0", 1));
        let token = sealer.seal(&holder, 60).unwrap();
        let later = sealer.holder(&guest("shop", "vnet0", 77));
        assert!(sealer.open(&later, &token).is_some());
        for other in [guest("shop", "vnet1", 1), guest("shopv", "net0", 1)] {
            assert_eq!(sealer.open(&sealer.holder(&other), &token), None);
        }
    }

    #[test]
    fn another_boot_another_key_and_every_altered_byte_are_refused() {
        let ours = sealer(1, 1);
        let caller = caller(|_| {});
        let token = ours.seal(&ours.holder(&caller), 60).unwrap();
        for other in [sealer(1, 2), sealer(2, 1)] {
            assert_eq!(other.open(&other.holder(&caller), &token), None);
        }
        // Another process of the guard with the same key, on the same boot: an agent that was restarted.
        let again = sealer(1, 1);
        assert!(again.open(&again.holder(&caller), &token).is_some());
        for at in 0..TOKEN_LEN {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            assert_eq!(ours.open(&ours.holder(&caller), &altered), None, "{at}");
        }
        for wrong in [
            "",
            &token[1..],
            &format!("{token}A"),
            &"=".repeat(TOKEN_LEN),
        ] {
            assert_eq!(ours.open(&ours.holder(&caller), wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_token_ends_when_it_was_said_to() {
        let sealer = sealer(1, 1);
        let holder = sealer.holder(&caller(|_| {}));
        let now = monotonic().as_secs();
        let end = |end| sealer.open(&holder, &sealer.seal_until(&holder, end).unwrap());
        assert_eq!(end(now + 5), Some(now + 5));
        assert!(is_live(now + 5));
        assert!(!is_live(now));
        assert!(
            !is_live(now + 10 + u64::from(TTL_MAX)),
            "longer than any lives"
        );
    }

    #[test]
    fn a_secret_of_another_size_is_none() {
        for len in [0, KEY_LEN, SECRET_LEN - 1, SECRET_LEN + 1] {
            assert!(Sealer::new(Zeroizing::new(vec![0; len])).is_none(), "{len}");
        }
    }

    #[test]
    fn no_two_tokens_are_alike() {
        let sealer = sealer(1, 1);
        let holder = sealer.holder(&caller(|_| {}));
        assert_ne!(
            sealer.seal_until(&holder, 1).unwrap(),
            sealer.seal_until(&holder, 1).unwrap()
        );
    }
}
