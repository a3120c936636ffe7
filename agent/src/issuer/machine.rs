//! Which machine this is. A key is bound to it, so that a cloned image is noticed: two hosts with one key could each mint
//! for the other.

use std::path::Path;

/// systemd's machine id (machine-id(5)).
pub(super) const MACHINE_ID: &str = "/etc/machine-id";

/// The machine has no identity.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} {what}: run `systemd-machine-id-setup`, a signing key has to be bound to the machine"
)]
pub struct MachineError {
    path: String,
    what: String,
}

/// A digest of the machine id: machine-id(5) wants the id itself kept out of files that may travel.
///
/// # Errors
/// Where the machine has none.
pub fn machine_binding(file: &Path) -> Result<String, MachineError> {
    let error = |what: String| MachineError {
        path: file.display().to_string(),
        what,
    };
    let id = std::fs::read_to_string(file).map_err(|e| error(format!("can't be read ({e})")))?;
    let id = id.trim();
    // "uninitialized" stands there in a golden image before its first boot.
    if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(error("holds no machine id".to_owned()));
    }
    let bound = format!("imds-guard signing key\0{id}");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bound.as_bytes());
    Ok(digest
        .as_ref()
        .iter()
        .fold(String::new(), |hex, b| hex + &format!("{b:02x}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_golden_image_has_no_identity_and_machines_differ() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("machine-id");
        for bad in ["", "uninitialized\n", "0123"] {
            std::fs::write(&file, bad).unwrap();
            assert!(machine_binding(&file).is_err(), "{bad}");
        }
        std::fs::write(&file, "0123456789abcdef0123456789abcdef\n").unwrap();
        let one = machine_binding(&file).unwrap();
        std::fs::write(&file, "0123456789abcdef0123456789abcde0\n").unwrap();
        assert_ne!(one, machine_binding(&file).unwrap());
        assert!(!one.contains("0123456789abcdef0123456789abcdef"));
    }
}
