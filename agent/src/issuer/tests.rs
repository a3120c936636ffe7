//! Keys and what is signed with them.

use super::*;
use store::Store;

use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

const NOW: i64 = 1_800_000_000;

fn state() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    mode(dir.path(), 0o700);
    dir
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn store(dir: &Path) -> Store {
    Store::open(dir, "machine a".to_owned()).unwrap()
}

#[test]
fn a_key_is_made_once_and_found_again() {
    let dir = state();
    assert!(store(dir.path()).load(NOW).unwrap().is_none());
    let made = store(dir.path()).create(key::prepare(), NOW).unwrap();
    let found = store(dir.path()).load(NOW).unwrap().unwrap();
    assert_eq!(made.public(), found.public());
    let file = dir.path().join("issuer-key.json");
    let is = std::fs::metadata(&file).unwrap();
    assert_eq!(is.permissions().mode() & 0o7777, 0o600);
    assert!(
        store(dir.path()).create(key::prepare(), NOW).is_err(),
        "a key is never overwritten"
    );
    assert!(!format!("{found:?}").contains("pkcs8"));
}

#[test]
fn a_key_that_others_could_read_is_refused() {
    let dir = state();
    store(dir.path()).create(key::prepare(), NOW).unwrap();
    let file = dir.path().join("issuer-key.json");
    mode(&file, 0o640);
    let error = store(dir.path()).load(NOW).unwrap_err();
    assert!(
        matches!(error, StoreError::Mode { mode: 0o640, .. }),
        "{error}"
    );
    assert!(error.to_string().contains("chmod 0600"));
    mode(&file, 0o600);
    mode(dir.path(), 0o755);
    let error = Store::open(dir.path(), "machine a".to_owned()).unwrap_err();
    assert!(error.to_string().contains("chmod 0700"), "{error}");
    mode(dir.path(), 0o700);
    assert!(store(dir.path()).load(NOW).unwrap().is_some());
}

#[test]
fn a_clone_and_an_early_clock_are_refused() {
    let dir = state();
    store(dir.path()).create(key::prepare(), NOW).unwrap();
    let clone = Store::open(dir.path(), "machine b".to_owned()).unwrap();
    assert!(matches!(clone.load(NOW), Err(StoreError::OtherMachine(_))));
    let early = store(dir.path()).load(NOW - 1).unwrap_err();
    assert!(matches!(early, StoreError::Clock { .. }), "{early}");
    assert!(early.to_string().lines().count() == 1);
}

#[test]
fn a_file_that_is_no_key_is_neither_used_nor_replaced() {
    let dir = state();
    let file = dir.path().join("issuer-key.json");
    std::fs::write(&file, "{}").unwrap();
    mode(&file, 0o600);
    assert!(matches!(
        store(dir.path()).load(NOW),
        Err(StoreError::NotAKey(..))
    ));
    assert!(store(dir.path()).create(key::prepare(), NOW).is_err());
    assert_eq!(std::fs::read(&file).unwrap(), b"{}");
}

#[test]
fn a_directory_that_cannot_be_used_says_what_to_do() {
    let dir = state();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = Store::open(&file, String::new()).unwrap_err();
    assert!(error.to_string().contains("--state-dir"), "{error}");
}

#[test]
fn a_signature_verifies_with_what_is_published() {
    let dir = state();
    let key = store(dir.path()).create(key::prepare(), NOW).unwrap();
    let claims: token::Claims = serde_json::from_value(serde_json::json!({
        "iss": "i", "sub": "s", "aud": "a", "iat": 1, "nbf": 1, "exp": 2, "jti": "j", "idtyp": "app"
    }))
    .unwrap();
    let jwt = compact(&token::header(&key.public().kid), &claims, &key).unwrap();
    let (message, signature) = jwt.rsplit_once('.').unwrap();
    let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let public = RsaPublicKeyComponents {
        n: bytes(&key.public().n),
        e: bytes(&key.public().e),
    };
    let verify = |message: &str| {
        public.verify(
            &RSA_PKCS1_2048_8192_SHA256,
            message.as_bytes(),
            &bytes(signature),
        )
    };
    assert!(verify(message).is_ok());
    assert!(verify(&format!("{message}x")).is_err());
    assert_eq!(key.public().kid.len(), 43);
}
