//! What is shown of a tree: documents, recursive answers, accounts, tokens.

use super::*;

fn document() -> Value {
    json!({
        "instance": {
            "id": 1_234_567_890_123_456_789_u64,
            "zone": "projects/1/zones/europe-west1-b",
            "tags": ["http-server", "ssh"],
            "attributes": {"user-data": "#cloud-config", "ssh-keys": "a"},
            "network-interfaces": [{"ip": "10.0.0.2", "access-configs": [{"external-ip": "203.0.113.1"}]}],
            "service-accounts": {"default": {"email": "sa@p.iam.gserviceaccount.com", "aliases": ["default"],
                "scopes": ["https://a", "https://b"], "token": "ya29.secret"}},
            "credentials": {"certs": "secret"},
            "gce-workload-certificates": {"workload-identities": "secret"},
        },
        "project": {"project-id": "p", "attributes": {"enable-oslogin": "TRUE"}},
    })
}

fn shown(below: &str) -> Result<(Form, String), Fault> {
    let call = get(below).unwrap();
    render(&document(), tree(&call), call.path())
}

#[test]
fn a_document_is_shown_as_the_server_shows_its_tree() {
    let text = |text: &str| Ok((Form::Text, text.to_owned()));
    let json = |json: Value| Ok((Form::Json, json.to_string()));
    assert_eq!(shown("project/project-id"), text("p"));
    assert_eq!(shown("project/project-id?alt=json"), json(json!("p")));
    assert_eq!(shown("instance/id"), text("1234567890123456789"));
    assert_eq!(shown("instance/tags"), json(json!(["http-server", "ssh"])));
    assert_eq!(
        shown("instance/"),
        text("attributes/\nid\nnetwork-interfaces/\nservice-accounts/\ntags\nzone\n")
    );
    assert_eq!(shown("instance"), Err(Fault::Moved));
    assert_eq!(shown("instance/zone/"), Err(Fault::NotFound));
    assert_eq!(shown("instance/nothing"), Err(Fault::NotFound));
    assert_eq!(shown("instance/zone/x"), Err(Fault::NotFound));
    assert_eq!(shown("instance/network-interfaces/"), text("0/\n"));
    assert_eq!(shown("instance/network-interfaces/0/ip"), text("10.0.0.2"));
    assert_eq!(
        shown("instance/network-interfaces/1/ip"),
        Err(Fault::NotFound)
    );
    let by_email = "instance/service-accounts/sa@p.iam.gserviceaccount.com";
    for account in [DEFAULT, by_email] {
        assert_eq!(
            shown(&format!("{account}/")),
            text("aliases\nemail\nidentity\nscopes\ntoken\n")
        );
        assert_eq!(
            shown(&format!("{account}/scopes")),
            text("https://a\nhttps://b\n")
        );
        assert_eq!(
            shown(&format!("{account}/?recursive=true")),
            json(
                json!({"aliases": ["default"], "email": "sa@p.iam.gserviceaccount.com", "scopes": ["https://a", "https://b"]})
            )
        );
    }
}

#[test]
fn a_recursive_read_has_other_names_and_no_credential() {
    let (form, whole) = shown("?recursive=true").unwrap();
    let whole: Value = serde_json::from_str(&whole).unwrap();
    assert_eq!(form, Form::Json);
    let instance = &whole["instance"];
    assert_eq!(
        instance["networkInterfaces"][0]["accessConfigs"][0]["externalIp"],
        "203.0.113.1"
    );
    assert_eq!(instance["attributes"]["user-data"], "#cloud-config");
    assert_eq!(instance["id"], 1_234_567_890_123_456_789_u64);
    assert_eq!(whole["project"]["projectId"], "p");
    assert_eq!(whole["project"]["attributes"]["enable-oslogin"], "TRUE");
    assert!(!whole.to_string().contains("secret"), "{whole}");
    let (_, lines) = shown("instance/?recursive=true&alt=text").unwrap();
    assert!(
        lines.contains("attributes/user-data #cloud-config\n"),
        "{lines}"
    );
    assert!(
        lines.contains("network-interfaces/0/access-configs/0/external-ip 203.0.113.1\n"),
        "{lines}"
    );
    assert!(!lines.contains("secret"), "{lines}");
}

/// The real server isn't known to show any, and through us it never does.
#[test]
fn a_credential_in_a_recursive_answer_is_left_out() {
    let secret = json!({"access_token": "ya29.secret"});
    let account = json!({"email": "e", "token": secret, "identity": "eyJ", "scopes": []});
    let instance = json!({"id": 1, "serviceAccounts": {"default": account}, "gceWorkloadCertificates": {"k": "PRIVATE"},
        "attributes": {"token": "my own"}});
    for (path, body) in [
        (
            "/computeMetadata/v1",
            json!({"instance": instance, "project": {}}),
        ),
        ("/computeMetadata/v1/instance", instance.clone()),
        (
            "/computeMetadata/v1/instance/service-accounts",
            json!({"default": account}),
        ),
        (
            "/computeMetadata/v1/instance/service-accounts/default",
            account.clone(),
        ),
    ] {
        let Looked::Without(clean) = look(path, body.to_string().as_bytes()) else {
            panic!("{path}")
        };
        assert!(clean.contains(r#""email":"e""#), "{clean}");
        for secret in ["ya29", "eyJ", "PRIVATE"] {
            assert!(!clean.contains(secret), "{path}: {clean}");
        }
        assert_eq!(look(path, clean.as_bytes()), Looked::Clean);
    }
    let own = json!({"token": "my own", "credentials": "mine"}).to_string();
    let attributes = "/computeMetadata/v1/instance/attributes";
    assert_eq!(look(attributes, own.as_bytes()), Looked::Clean);
    assert_eq!(look(attributes, b"token my own"), Looked::Unreadable);

    let lines = b"id 1\nservice-accounts/default/email e\nattributes/token my own\n";
    let instance = "/computeMetadata/v1/instance";
    assert_eq!(look_text(instance, lines), Looked::Clean);
    for line in ["service-accounts/default/token {}", "credentials/certs x"] {
        assert_eq!(
            look_text(instance, line.as_bytes()),
            Looked::Unreadable,
            "{line}"
        );
    }
    let below = "/computeMetadata/v1/instance/service-accounts/default";
    assert_eq!(look_text(below, b"token {}"), Looked::Unreadable);
}

#[test]
fn the_callers_own_account_is_the_one_of_its_rule() {
    let own = |below: &str| {
        let call = get(below).unwrap();
        let (_, part) = account_part(call.path()).unwrap();
        let scopes: Vec<Arc<str>> = vec!["https://a".into()];
        answer::account(part, "sa@p", &scopes, tree(&call))
    };
    let object = json!({"aliases": ["default"], "email": "sa@p", "scopes": ["https://a"]});
    assert_eq!(
        own(&format!("{DEFAULT}/?recursive=true")),
        (Form::Json, object.to_string())
    );
    assert_eq!(
        own(&format!("{DEFAULT}/email")),
        (Form::Text, "sa@p".into())
    );
    assert_eq!(
        own(&format!("{DEFAULT}/scopes")),
        (Form::Text, "https://a\n".into())
    );
    assert_eq!(
        own("instance/service-accounts/"),
        (Form::Text, "sa@p/\ndefault/\n".into())
    );
    assert_eq!(
        own("instance/service-accounts/?recursive=true").1,
        json!({"default": object, "sa@p": object}).to_string()
    );
    assert_eq!(
        account_part("/computeMetadata/v1/instance/service-accounts-x"),
        None
    );
    assert_eq!(account_part("/computeMetadata/v1/instance/zone"), None);
}

#[test]
fn a_token_has_fewer_seconds_left_each_time_and_they_are_a_number() {
    let given = br#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#;
    let token = answer::AccessToken::read(given, 1000).unwrap();
    assert_eq!(token.expires, 4599);
    let body: Value = serde_json::from_str(token.body(1100).expose()).unwrap();
    assert_eq!(
        body,
        json!({"access_token": "ya29.x", "expires_in": 3499, "token_type": "Bearer"})
    );
    assert!(token.body(9999).expose().contains(r#""expires_in":0"#));
    assert!(!format!("{token:?}").contains("ya29"));
    for other in [
        "",
        "{}",
        r#"{"access_token":"x","expires_in":"3599","token_type":"Bearer"}"#,
        "<html>",
    ] {
        assert!(
            answer::AccessToken::read(other.as_bytes(), 0).is_none(),
            "{other}"
        );
    }
    assert_eq!(answer::etag(b"a").len(), 16);
    assert_ne!(answer::etag(b"a"), answer::etag(b"b"));
}
