//! What a minted token says. Its signature is checked elsewhere.

use anyhow::{Context, Result};
use serde_json::Value;

/// The claims of a JWT.
///
/// # Errors
/// When it is none.
pub fn claims(token: &str) -> Result<Value> {
    json(token.split('.').nth(1).context("not a JWT")?)
}

/// What one part of a JWT says.
pub(crate) fn json(part: &str) -> Result<Value> {
    let bytes = base64url(part).context("not base64url")?;
    serde_json::from_slice(&bytes).context("a part that isn't JSON")
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (mut out, mut bits, mut held) = (vec![], 0u32, 0);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|b| *b == byte)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push(u8::try_from(bits >> held & 0xff).ok()?);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_the_middle_part() {
        assert_eq!(claims("x.eyJzdWIiOiJ6In0.y").unwrap()["sub"], "z");
        assert!(claims("x").is_err() && claims("x.!.y").is_err());
    }
}
