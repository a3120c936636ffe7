//! The configuration sections of the main file.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use super::Compiling;
use crate::policy::Origin;
use crate::policy::document::{At, Files, Text};
use crate::policy::settings::{
    Audit, Endpoint, Hardening, Host, Issuer, MTLS, Mode, Proxy, ROOTS, SHIPPED, Settings, Trust,
};
use crate::request::Cloud;

impl Compiling {
    pub(super) fn settings(&mut self, files: &Files, hostname: &str) -> Settings {
        let text = |text: &Option<Text>| text.as_ref().map(|t| t.value.clone());
        Settings {
            host: Host {
                trust_domain: self.trust_domain(files),
                name: text(&files.host.name).unwrap_or_else(|| hostname.into()),
                cluster: text(&files.host.cluster),
            },
            endpoints: self.endpoints(files),
            issuer: self.issuer(files),
            audit: Audit {
                file: text(&files.audit.file),
            },
            proxy: self.proxy(files),
            guests: self.guests(files),
            hardening: self.hardening(files),
            lifelines: self.lifelines(files),
            trust: self.trust(files),
        }
    }

    fn hardening(&mut self, files: &Files) -> Hardening {
        let uplinks = files.hardening.uplinks.iter().flat_map(|l| &l.value);
        let uplinks: Vec<_> = uplinks.collect();
        for name in &uplinks {
            // IFNAMSIZ holds 15 bytes and the end.
            if name.value.is_empty() || name.value.len() > 15 || name.value.contains(['/', ' ']) {
                let title = format!("`{}` is no name of an interface", name.value);
                self.error(
                    &name.place,
                    title,
                    "write it as `ip link` shows it: \"eth0\"",
                );
            }
        }
        let cgroups = files.hardening.raw_sockets_for.as_ref().map(|l| &l.value);
        for path in cgroups.into_iter().flatten() {
            if !path.value.starts_with('/') || path.value.contains("/../") {
                let title = format!("`{}` is no cgroup", path.value);
                let help =
                    "write it as /proc/PID/cgroup shows it: \"/system.slice/chrony.service\"";
                self.error(&path.place, title, help);
            }
        }
        let values = |texts: &Vec<Text>| texts.iter().map(|t| t.value.clone()).collect();
        Hardening {
            uplinks: uplinks.iter().map(|t| t.value.clone()).collect(),
            raw_sockets_for: cgroups.map(values),
        }
    }

    /// Where nothing is said, a policy that speaks with the clouds' own endpoints trusts whom the system trusts.
    fn trust(&mut self, files: &Files) -> Option<Trust> {
        let Some(roots) = &files.trust.roots else {
            let entries = files.identity.0.iter().map(|(_, entry)| &entry.source);
            let mut exchanged =
                entries.filter(|s| matches!(s.value, Origin::Assume | Origin::Federate));
            let because = exchanged.next()?.place.clone();
            return Some(Trust::new(ROOTS.into(), false, because));
        };
        if !roots.value.starts_with('/') {
            let title = format!("`{}` is no absolute path", roots.value);
            self.error(&roots.place, title, format!("write roots = \"{ROOTS}\""));
        }
        let place = roots.place.clone();
        Some(Trust::new(roots.value.clone(), true, place))
    }

    fn trust_domain(&mut self, files: &Files) -> Option<Arc<str>> {
        let text = files.host.trust_domain.as_ref()?;
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        if text.value.is_empty() || !text.value.bytes().all(legal) {
            let title = format!("`{}` is not a trust domain", text.value);
            let help =
                "write lower-case letters, digits, `-`, `.` and `_`, for example example.org";
            self.error(&text.place, title, help);
        }
        Some(text.value.clone())
    }

    fn issuer(&mut self, files: &Files) -> Option<Issuer> {
        let entry = files.issuer.as_ref()?;
        let (issuer, _) = entry.as_ref();
        let url = issuer.url.as_ref()?;
        let host = url
            .value
            .strip_prefix("https://")
            .or(url.value.strip_prefix("http://"));
        if host.is_none_or(|h| h.is_empty() || h.contains(['?', '#', ' '])) {
            let title = format!("`{}` is not an issuer URL", url.value);
            let help = "write the URL that verifiers know, to the letter: https://HOST[/PATH], without query";
            self.error(&url.place, title, help);
        }
        let listen = issuer.listen.as_ref().and_then(|text| self.address(text));
        Some(Issuer {
            url: url.value.clone(),
            listen,
        })
    }

    fn proxy(&mut self, files: &Files) -> Proxy {
        let mut proxy = Proxy::default();
        if let Some(user) = &files.proxy.user {
            proxy.user = user.value.clone();
        }
        if let Some(number) = &files.proxy.max_connections {
            match u32::try_from(number.value) {
                Ok(count @ 1..=65536) => proxy.max_connections = count,
                _ => self.error(
                    &number.place,
                    "`max_connections` is out of range",
                    "write a number from 1 to 65536",
                ),
            }
        }
        proxy
    }

    fn address(&mut self, text: &Text) -> Option<SocketAddr> {
        let address = text.value.parse().ok();
        if address.is_none() {
            let title = format!("`{}` is not an address with a port", text.value);
            let help = "write \"127.0.0.1:8787\" or \"[::1]:8787\"";
            self.error(&text.place, title, help);
        }
        address
    }

    fn endpoints(&mut self, files: &Files) -> Vec<Endpoint> {
        let mut endpoints: Vec<Endpoint> = SHIPPED
            .iter()
            .map(|(name, cloud, addresses)| Endpoint {
                name: (*name).into(),
                cloud: *cloud,
                addresses: addresses.iter().map(|a| SocketAddr::from(*a)).collect(),
                mode: default_mode(files, *cloud),
                other_traffic: None,
            })
            .collect();
        let mut seen = HashMap::new();
        for entry in &files.endpoint {
            self.unique("endpoint", &entry.name, &mut seen);
            if SHIPPED.iter().any(|(name, ..)| *name == &*entry.name.value) {
                let title = format!("`{}` is a shipped endpoint", entry.name.value);
                self.error(
                    &entry.name.place,
                    title,
                    "give yours another name, or set the shipped one's mode in [endpoints]",
                );
            }
            if entry.address.is_empty() {
                let title = format!("endpoint `{}` has no address", entry.name.value);
                self.error(
                    &entry.name.place,
                    title,
                    "add address = [\"169.254.169.254:80\"]",
                );
            }
            let addresses = entry
                .address
                .iter()
                .filter_map(|text| self.address(text))
                .collect();
            endpoints.push(Endpoint {
                name: entry.name.value.clone(),
                cloud: entry.cloud.value,
                addresses,
                mode: entry.mode.as_ref().map_or(Mode::Enforce, |m| m.value),
                other_traffic: entry.other_traffic.as_ref().map(|o| o.value),
            });
        }
        self.set(&files.endpoints, &mut endpoints, |e, mode| e.mode = mode);
        self.mtls(files, &mut endpoints);
        self.overruled(files, &endpoints);
        self.set(&files.other_traffic, &mut endpoints, |e, word| {
            e.other_traffic = Some(word);
        });
        endpoints
    }

    /// Where nothing is said of the channel that nobody can look into, it is shut where what it carries is guarded, and as it is
    /// without us where that is only watched: whoever tries an audit must not lose what worked.
    fn mtls(&mut self, files: &Files, endpoints: &mut [Endpoint]) {
        match files.endpoints.get(MTLS) {
            Some(mode) if mode.value == Mode::Audit => {
                let title = format!("`{MTLS}` can't be audited");
                let help = "write \"enforce\", which shuts it, or \"observe\", which leaves it open: nobody can look into TLS";
                self.error(&mode.place, title, help);
            }
            Some(_) => {}
            None => {
                let plain = endpoints.iter().find(|e| &*e.name == "gcp-imds");
                let shut = plain.is_some_and(|plain| plain.mode == Mode::Enforce);
                let mtls = endpoints.iter_mut().find(|e| &*e.name == MTLS);
                if let Some(mtls) = mtls {
                    mtls.mode = if shut { Mode::Enforce } else { Mode::Observe };
                }
            }
        }
    }

    /// A mode that somebody wrote and that doesn't hold, for a stricter endpoint lives at the same address.
    fn overruled(&mut self, files: &Files, endpoints: &[Endpoint]) {
        for (name, mode) in &files.endpoints {
            let Some(meant) = endpoints.iter().find(|e| e.name == *name) else {
                continue;
            };
            let shares = |e: &&Endpoint| e.addresses.iter().any(|a| meant.addresses.contains(a));
            let stricter = endpoints
                .iter()
                .filter(shares)
                .filter(|e| e.mode > meant.mode)
                .max_by_key(|e| e.mode);
            if let Some(other) = stricter {
                let (holds, other) = (other.mode.word(), &other.name);
                let title = format!(
                    "`{name}` is in `{holds}` all the same: `{other}` lives at the same address"
                );
                let help = format!(
                    "of endpoints at one address the strictest mode holds: write `{holds}` here, or another mode for `{other}`"
                );
                self.warning(&mode.place, title, help);
            }
        }
    }

    /// What a table says of endpoints by name.
    fn set<T: Copy>(
        &mut self,
        table: &BTreeMap<Arc<str>, At<T>>,
        endpoints: &mut [Endpoint],
        set: impl Fn(&mut Endpoint, T),
    ) {
        for (name, mode) in table {
            if let Some(endpoint) = endpoints.iter_mut().find(|e| e.name == *name) {
                set(endpoint, mode.value);
                continue;
            }
            let known: Vec<&str> = endpoints.iter().map(|e| &*e.name).collect();
            let meant = crate::policy::fields::meant(name, &known);
            let help = format!("{meant}the endpoints are: {}", known.join(", "));
            self.error(&mode.place, format!("there is no endpoint `{name}`"), help);
        }
    }
}

/// Enforce where the policy serves the cloud at all: else its endpoints stay as they are without us.
fn default_mode(files: &Files, cloud: Cloud) -> Mode {
    let prefix = crate::policy::read::CLOUDS
        .iter()
        .find(|(_, c)| *c == cloud);
    let prefix = prefix.map_or("", |(name, _)| *name);
    let rules = files
        .workload
        .iter()
        .flat_map(|w| w.allow.iter().map(|a| &a.rule));
    let mut rules = rules.chain(files.deny.iter().map(|d| &d.rule));
    let speaks = rules.any(|rule| {
        rule.token
            .as_ref()
            .is_some_and(|t| t.value.cloud.value == cloud)
            || rule
                .read
                .iter()
                .chain(&rule.write)
                .any(|r| r.value.split(':').next() == Some(prefix))
    });
    if speaks { Mode::Enforce } else { Mode::Observe }
}
