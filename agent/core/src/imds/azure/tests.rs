//! Answers, byte by byte where clients look at bytes.

use std::sync::Arc;

use serde_json::{Value, json};

use super::answer::{self, Token};
use super::instance::{InstanceFault, Rendered, render};
use super::{ApiVersion, Format, InstanceAsk};
use crate::request::AzureIdentity;
use crate::secret::Secret;

fn document() -> Value {
    json!({
        "compute": {
            "name": "web-07", "location": "westeurope", "vmSize": null, "isHostCompatibilityLayerVm": false,
            "platformFaultDomain": 3, "tags": "k1:v1;k2:v2", "userData": "c2VjcmV0", "physicalZone": "z\"1\"",
            "plan": {"name": "", "product": "p"},
            "storageProfile": {"dataDisks": [{"lun": 0, "isUltraDisk": true}], "resourceDisk": {"size": 32}},
        },
        "network": {"interface": [{"macAddress": "000D3A", "ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4"}]}}]},
    })
}

fn ask(path: &str, version: &str, format: Format) -> Result<Rendered, InstanceFault> {
    let path = path
        .split('/')
        .filter(|s| !s.is_empty())
        .map(str::to_owned)
        .collect();
    let api_version: ApiVersion = version.parse().unwrap();
    render(
        &document(),
        &InstanceAsk {
            api_version,
            path,
            format,
        },
    )
}

fn json_of(path: &str, version: &str) -> Value {
    match ask(path, version, Format::Json).unwrap() {
        Rendered::Json(text) => serde_json::from_str(&text).unwrap(),
        Rendered::Text(text) => panic!("{text}"),
    }
}

fn text_of(path: &str) -> Result<String, InstanceFault> {
    ask(path, "2025-04-07", Format::Text).map(|rendered| match rendered {
        Rendered::Text(text) | Rendered::Json(text) => text,
    })
}

#[test]
fn every_primitive_is_a_string() {
    fn check(value: &Value) {
        match value {
            Value::Object(members) => members.values().for_each(check),
            Value::Array(items) => items.iter().for_each(check),
            other => assert!(other.is_string(), "{other}"),
        }
    }
    let all = json_of("", "2025-04-07");
    check(&all);
    assert_eq!(all["compute"]["isHostCompatibilityLayerVm"], "false");
    assert_eq!(all["compute"]["platformFaultDomain"], "3");
    assert_eq!(all["compute"]["vmSize"], "");
    assert_eq!(all["compute"]["physicalZone"], "z\"1\"");
    assert_eq!(
        all["compute"]["vmId"], "",
        "documented, and not in the document"
    );
    assert_eq!(
        all["compute"]["storageProfile"]["dataDisks"][0]["isUltraDisk"],
        "true"
    );
}

#[test]
fn members_appear_with_their_version() {
    let seen = |path: &str, version: &str, name: &str| json_of(path, version).get(name).is_some();
    for (name, before, since) in [
        ("userData", "2020-12-01", "2021-01-01"),
        ("tags", "2017-04-02", "2017-08-01"),
        ("plan", "2018-02-01", "2018-04-02"),
        ("vmId", "2017-03-01", "2017-03-01"),
        ("physicalZone", "2023-07-01", "2023-11-15"),
    ] {
        assert_eq!(
            seen("compute", before, name),
            before == since,
            "{name} {before}"
        );
        assert!(seen("compute", since, name), "{name} {since}");
    }
    assert!(!seen(
        "compute/storageProfile",
        "2021-01-01",
        "resourceDisk"
    ));
    assert!(seen("compute/storageProfile", "2021-02-01", "resourceDisk"));
    let disk = "compute/storageProfile/dataDisks/0";
    assert!(!seen(disk, "2021-03-01", "isUltraDisk"));
    assert!(seen(disk, "2021-05-01", "isUltraDisk"));
    assert_eq!(
        ask("compute/userData", "2020-12-01", Format::Text),
        Err(InstanceFault::NotFound)
    );
    assert_eq!(text_of("compute/userData"), Ok("c2VjcmV0".into()));
}

#[test]
fn paths_leaves_and_listings() {
    let leaf = "network/interface/0/ipv4/ipAddress/0/privateIpAddress";
    assert_eq!(text_of(leaf), Ok("10.0.0.4".into()));
    assert_eq!(
        ask(leaf, "2021-02-01", Format::Json),
        Err(InstanceFault::LeafNeedsText)
    );
    assert_eq!(text_of("compute/tags"), Ok("k1:v1;k2:v2".into()));
    assert_eq!(text_of("compute/vmId"), Ok(String::new()));
    assert_eq!(text_of(""), Ok("compute/\nnetwork/".into()));
    assert_eq!(text_of("network/interface"), Ok("0/".into()));
    assert_eq!(text_of("compute/plan"), Ok("name\nproduct".into()));
    for nothing in [
        "nope",
        "compute/nope",
        "network/interface/1",
        "network/interface/00",
        "network/interface/+0",
        "compute/name/x",
        "network/vmId",
    ] {
        assert_eq!(text_of(nothing), Err(InstanceFault::NotFound), "{nothing}");
    }
}

#[test]
fn a_token_answer_has_its_times_as_strings() {
    let body = |selector: Option<&AzureIdentity>| -> Value {
        let access_token = Secret::new(Arc::from("eyJ0"));
        let body = answer::token(&Token {
            access_token: &access_token,
            resource: "https://vault.azure.net/",
            client_id: Some("11111111-2222-3333-4444-555555555555"),
            selector,
            not_before: 1_795_287_409,
            expires_on: 1_795_374_108,
            now: 1_795_287_709,
        });
        assert_eq!(format!("{body:?}"), "Secret(..)");
        serde_json::from_str(body.expose()).unwrap()
    };
    assert_eq!(
        body(None),
        json!({"access_token":"eyJ0","client_id":"11111111-2222-3333-4444-555555555555","expires_in":"86399",
            "expires_on":"1795374108","ext_expires_in":"86399","not_before":"1795287409",
            "resource":"https://vault.azure.net/","token_type":"Bearer"})
    );
    assert_eq!(
        body(Some(&AzureIdentity::ResourceId("/s".into())))["msi_res_id"],
        "/s"
    );
    assert_eq!(
        body(Some(&AzureIdentity::ObjectId("o".into())))["object_id"],
        "o"
    );
}

#[test]
fn versions_and_identity_info() {
    let versions: Value = serde_json::from_str(&answer::versions()).unwrap();
    let list = versions["apiVersions"].as_array().unwrap();
    assert_eq!(
        (list.len(), &list[0], &list[34]),
        (35, &json!("2017-03-01"), &json!("2025-04-07"))
    );
    assert!(super::version::INSTANCE.is_sorted());
    assert_eq!(answer::identity_info("t\"1"), r#"{"tenantId":"t\"1"}"#);
}
