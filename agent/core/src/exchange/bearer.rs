//! A token answer of OAuth 2.0 (RFC 6749, section 5.1), as Entra and Google's token exchange write it.

use serde::Deserialize;

use super::{NotObtained, Obtained};
use crate::secret::Secret;

/// No token of a cloud lives longer than two days. One that is said to would be kept for as long.
const LONGEST: i64 = 2 * 86_400;
/// Nor is one longer than this.
const TOKEN_BYTES: usize = 64 * 1024;

#[derive(Deserialize)]
struct Body {
    access_token: String,
    token_type: String,
    expires_in: i64,
}

/// Reads it; `now` is when it came.
pub(super) fn read(body: &[u8], now: i64) -> Result<Obtained, NotObtained> {
    let Ok(body) = serde_json::from_slice::<Body>(body) else {
        return Err(NotObtained::NotAnAnswer(
            "no access_token, token_type and expires_in",
        ));
    };
    if !body.token_type.eq_ignore_ascii_case("bearer") {
        return Err(NotObtained::NotAnAnswer(
            "a token that isn't of the type Bearer",
        ));
    }
    let token = body.access_token;
    if token.is_empty() || token.len() > TOKEN_BYTES || !token.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(NotObtained::NotAnAnswer(
            "a token that can't stand in a header",
        ));
    }
    if !(1..=LONGEST).contains(&body.expires_in) {
        return Err(NotObtained::NotAnAnswer(
            "a token that lives for no such time",
        ));
    }
    Ok(Obtained::Bearer {
        token: Secret::new(token.into()),
        expires: now.saturating_add(body.expires_in),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_token_is_refused() {
        let read = |body: &str| read(body.as_bytes(), 100);
        assert!(read(r#"{"access_token":"a","token_type":"bearer","expires_in":1}"#).is_ok());
        for bad in [
            "",
            "[]",
            r#"{"access_token":"a","token_type":"Bearer"}"#,
            r#"{"access_token":"a","token_type":"mac","expires_in":1}"#,
            r#"{"access_token":"","token_type":"Bearer","expires_in":1}"#,
            r#"{"access_token":"a\r\nb","token_type":"Bearer","expires_in":1}"#,
            r#"{"access_token":"a","token_type":"Bearer","expires_in":0}"#,
            r#"{"access_token":"a","token_type":"Bearer","expires_in":-5}"#,
            r#"{"access_token":"a","token_type":"Bearer","expires_in":9223372036854775807}"#,
        ] {
            assert!(
                matches!(read(bad), Err(NotObtained::NotAnAnswer(_))),
                "{bad}"
            );
        }
    }
}
