//! Entra's requests and answers.

use super::*;

fn error(json: &str) -> NotObtained {
    answer(400, None, json.as_bytes(), 0).unwrap_err()
}

#[test]
fn the_request_has_the_five_fields_of_the_libraries() {
    let url = Url::parse("https://login.microsoftonline.com")
        .unwrap()
        .at(&token_target("t-1"))
        .unwrap();
    let outgoing = request(&Ask {
        url: &url,
        client_id: "c-1",
        resource: "https://management.azure.com/",
        assertion: &Secret::new("a.b.c".into()),
    });
    assert_eq!(
        outgoing.url.to_string(),
        "https://login.microsoftonline.com/t-1/oauth2/v2.0/token"
    );
    assert_eq!(
        std::str::from_utf8(outgoing.body.expose()).unwrap(),
        "client_id=c-1&grant_type=client_credentials\
         &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
         &client_assertion=a.b.c&scope=https%3A%2F%2Fmanagement.azure.com%2F%2F.default"
    );
    assert!(outgoing.secret.is_none() && !format!("{outgoing:?}").contains("a.b.c"));
}

#[test]
fn a_scope_keeps_the_resource_as_it_is() {
    assert_eq!(
        scope("https://vault.azure.net"),
        "https://vault.azure.net/.default"
    );
    assert_eq!(
        scope("https://vault.azure.net/"),
        "https://vault.azure.net//.default"
    );
    assert_eq!(
        scope("cfa8b339-82a2-471a-a3c9-0fc0be7a4093"),
        "cfa8b339-82a2-471a-a3c9-0fc0be7a4093/.default"
    );
}

#[test]
fn a_token_has_an_end() {
    let body =
        br#"{"token_type":"Bearer","expires_in":3599,"ext_expires_in":3599,"access_token":"eyJ"}"#;
    let obtained = answer(200, None, body, 1000).unwrap();
    assert_eq!(
        obtained,
        Obtained::Bearer {
            token: Secret::new("eyJ".into()),
            expires: 4599
        }
    );
}

#[test]
fn each_code_has_a_sentence_and_a_remedy() {
    for known in ERRORS {
        assert!(!known.meaning.is_empty() && !known.remedy.is_empty());
        let json = format!(
            r#"{{"error":"invalid_client","error_description":"AADSTS{0}: Said by Entra. Trace ID: 1","error_codes":[{0}]}}"#,
            known.code
        );
        let told = error(&json);
        let shown = told.to_string();
        assert!(shown.contains(&format!("AADSTS{}", known.code)), "{shown}");
        assert!(
            shown.contains(known.meaning) && shown.contains(known.remedy),
            "{shown}"
        );
        assert!(
            shown.contains("Said by Entra.") && !shown.contains("Trace"),
            "{shown}"
        );
        assert_eq!(told.is_general(), known.retry == Retry::Later, "{shown}");
    }
    let mut codes: Vec<u32> = ERRORS.iter().map(|error| error.code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), ERRORS.len());
}

#[test]
fn what_is_unknown_is_a_refusal_in_its_own_words() {
    let told = error(
        r#"{"error":"invalid_client","error_description":"AADSTS1: x\u001b[31m","error_codes":[1]}"#,
    );
    let NotObtained::Refused { code, message, .. } = &told else {
        panic!("{told}")
    };
    assert_eq!(code.as_str(), "AADSTS1");
    assert_eq!(message.as_str(), "AADSTS1: x [31m");
    assert!(matches!(
        error(r#"{"error":"invalid_client"}"#),
        NotObtained::Refused { .. }
    ));
    assert!(matches!(error("<html>"), NotObtained::NotAnAnswer(_)));
    assert_eq!(
        answer(429, Some(17), b"", 0).unwrap_err(),
        NotObtained::Throttled {
            retry_after: Some(17)
        }
    );
    assert!(matches!(
        answer(302, None, b"", 0),
        Err(NotObtained::NotAnAnswer(_))
    ));
}

#[test]
fn entras_own_tokens_are_known() {
    assert!(is_own_issuer("https://login.microsoftonline.com/t/v2.0"));
    assert!(is_own_issuer("https://sts.windows.net/t/"));
    assert!(!is_own_issuer(
        "https://idp.example/login.microsoftonline.com"
    ));
    assert_eq!(
        audience_of("login.chinacloudapi.cn"),
        Some("api://AzureADTokenExchangeChina")
    );
    assert_eq!(audience_of("login.example"), None);
}
