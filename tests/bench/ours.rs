//! The agent as it is measured: its policy, its start, and the answers that prove that it does what is measured.

use anyhow::{Context, Result, ensure};
use imds_guard_tests::{AgentProcess, Response, World};
use serde_json::json;

/// Who reads the fixed document and gets minted tokens.
pub(crate) const SERVED: u32 = 1001;
/// Who is forwarded to the real service.
pub(crate) const FORWARDED: u32 = 1002;
/// Who has a role's keys, and session tokens.
pub(crate) const ROLE: u32 = 1003;
/// The role's keys, the same each time, so that all but the first come from the cache. Without a session: the load has none.
pub(crate) const KEYS: &str = "/latest/meta-data/iam/security-credentials/instance-role";
/// A session token.
pub(crate) const SESSION: &str = "/latest/api/token";
/// Read: the whole instance document.
pub(crate) const READ: &str = "/metadata/instance?api-version=2021-02-01";
/// A token, the same each time, so that all but the first come from the cache.
pub(crate) const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";

/// What the agent is configured with.
pub(crate) fn configuration() -> Result<String> {
    let instance = inline(&instance())?;
    Ok(format!(
        r#"[host]
trust_domain = "example.org"
name = "bench"

[issuer]
url = "http://127.0.0.1:8787"
listen = "127.0.0.1:8787"

[identity.app]
cloud = "azure"
source = "mint"
client_id = "7b0f6bd4-4b1e-4f0a-9c39-5d3c7e1c2a11"
tenant_id = "2f7c9a52-8a63-4a0f-b7a0-6f2d2d7a9c11"
subject = "spiffe://{{trust_domain}}/host/{{host}}/workload/{{workload}}"

[document.host]
cloud = "azure"
instance = {instance}

[[workload]]
name = "served"
selectors = ["unix:uid:{SERVED}"]
[[workload.allow]]
token = {{ cloud = "azure", resource = ["https://vault.azure.net"] }}
identity = "app"
[[workload.allow]]
read = ["azure:/metadata/instance/**"]
document = "host"

[[workload]]
name = "forwarded"
selectors = ["unix:uid:{FORWARDED}"]
[[workload.allow]]
read = ["azure:/metadata/instance/**"]

[identity.role]
cloud = "aws"
source = "forward"
role = "instance-role"
[[workload]]
name = "role"
selectors = ["unix:uid:{ROLE}"]
[[workload.allow]]
token = {{ cloud = "aws" }}
identity = "role"
imdsv1 = true
until = 2099-01-01
owner = "bench"
limit = "4000000000/h"
"#
    ))
}

/// About as much as a real virtual machine says of itself: 1.7 kB.
fn instance() -> serde_json::Value {
    let address = json!([{ "privateIpAddress": "10.144.133.132", "publicIpAddress": "" }]);
    let subnet = json!([{ "address": "10.144.133.128", "prefix": "26" }]);
    let interface = json!({ "ipv4": { "ipAddress": address, "subnet": subnet }, "ipv6": { "ipAddress": [] }, "macAddress": "0011AAFFBB22" });
    let disk = json!({ "caching": "None", "createOption": "Empty", "diskSizeGB": "1024", "lun": "0", "name": "web-07-data",
        "managedDisk": { "id": "/subscriptions/0c7b9e3e-5d3f-4a57-8a0e-1f5b8a0f7c11/resourceGroups/web/providers/Microsoft.Compute/disks/web-07-data", "storageAccountType": "Premium_LRS" } });
    json!({
        "compute": {
            "azEnvironment": "AzurePublicCloud", "location": "westeurope", "name": "web-07", "offer": "debian-12", "osType": "Linux",
            "placementGroupId": "", "platformFaultDomain": "1", "platformUpdateDomain": "3", "provider": "Microsoft.Compute",
            "publisher": "Debian", "resourceGroupName": "web", "sku": "12-gen2", "version": "0.20260901.2223", "vmSize": "Standard_D4s_v5",
            "resourceId": "/subscriptions/0c7b9e3e-5d3f-4a57-8a0e-1f5b8a0f7c11/resourceGroups/web/providers/Microsoft.Compute/virtualMachines/web-07",
            "subscriptionId": "0c7b9e3e-5d3f-4a57-8a0e-1f5b8a0f7c11", "tags": "environment:production;owner:web;service:shop", "zone": "2",
            "vmId": "5d2f5a0e-3f7c-4f6e-a7f5-5a0c7a0f6d2b", "vmScaleSetName": "", "evictionPolicy": "", "priority": "",
            "tagsList": [{ "name": "environment", "value": "production" }, { "name": "owner", "value": "web" }, { "name": "service", "value": "shop" }],
            "storageProfile": { "dataDisks": [disk], "osDisk": { "caching": "ReadWrite", "createOption": "FromImage", "diskSizeGB": "64", "name": "web-07-os", "osType": "Linux" } },
            "osProfile": { "adminUsername": "operator", "computerName": "web-07", "disablePasswordAuthentication": "true" },
        },
        "network": { "interface": [interface] },
    })
}

/// JSON as an inline table of TOML.
fn inline(value: &serde_json::Value) -> Result<String> {
    use serde_json::Value;
    let all = |parts: Result<Vec<String>>| parts.map(|parts| parts.join(", "));
    Ok(match value {
        Value::Object(fields) => {
            let pair = |(key, value)| Ok(format!("{key} = {}", inline(value)?));
            format!("{{ {} }}", all(fields.iter().map(pair).collect())?)
        }
        Value::Array(items) => format!("[{}]", all(items.iter().map(inline).collect())?),
        Value::String(_) => serde_json::to_string(value)?,
        other => anyhow::bail!("{other} has no place in a document of strings"),
    })
}

/// Start it.
pub(crate) fn start(world: &World) -> Result<AgentProcess> {
    world.agent().config(&configuration()?).start()
}

/// One answer as `uid` gets it; it must be a good one.
pub(crate) fn answer(world: &World, uid: u32, target: &str) -> Result<Response> {
    let workload = world.workload(&format!("uid-{uid}")).uid(uid).gid(uid);
    let answer = workload.get(target).with_context(|| target.to_owned())?;
    ensure!(
        answer.status == 200,
        "{target} as uid {uid}: {}{}",
        answer.head,
        answer.text()
    );
    Ok(answer)
}
