//! Guests: what stands behind an interface of the host is served as itself, by where its packets come in, and by nothing that
//! it says. Network namespaces play the guests here; [`machines`] has real ones. Every refusal has its twin that passes, and
//! every attack is shown to work where the guard isn't.

#![expect(clippy::unwrap_used, reason = "a test may end with a panic")]

mod bridged;
mod changes;
mod guest;
mod routed;
mod six;
mod tagged;

use imds_guard_tests::World;

/// A Key Vault token, with the resource as SDKs encode it.
const TOKEN: &str =
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net";
/// A leaf of the instance document.
const LOCATION: &str = "/metadata/instance/compute/location?api-version=2021-02-01&format=text";

/// Each guest may have a token minted for it, by its id.
const MINTS: &str = r#"
[host]
trust_domain = "example.org"
name = "hypervisor-3"
[issuer]
url = "http://127.0.0.1:8787"
[identity.guest]
cloud = "azure"
source = "mint"
subject = "spiffe://{trust_domain}/host/{host}/vm/{vm}"
[[workload]]
name = "guests"
selectors = ["vm:id:{vm}"]
[[workload.allow]]
token = { cloud = "azure", resource = ["https://vault.azure.net"] }
identity = "guest"
"#;

/// Azure's endpoint in `mode`, and these tables.
fn config(mode: &str, tables: &[&str]) -> String {
    format!("[endpoints]\nazure-imds = \"{mode}\"\n{}", tables.concat())
}

/// A guest behind an interface of its own.
fn routed(interface: &str, id: &str) -> String {
    format!("[[guest]]\ninterface = \"{interface}\"\nid = \"{id}\"\n")
}

/// A guest at the `number`th port of the bridge.
fn bridged(number: u8, id: &str) -> String {
    let address = number + 2;
    format!(
        "[[guest]]\ninterface = \"tw-p{number}\"\nid = \"{id}\"\nmac = \"52:54:00:00:00:{number:02x}\"\naddress = [\"10.202.0.{address}\"]\n"
    )
}

/// A world whose metadata service is a cable away: what reaches it left this host.
fn world(name: &str) -> World {
    imds_guard_tests::require!(Root, Cgroup2, Bpf, Agent, Nft);
    World::with_cloud(name).unwrap()
}
