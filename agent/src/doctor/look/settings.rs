//! Settings of the kernel, and netfilter's rules.

use std::net::SocketAddr;

use super::super::facts::Seen;
use super::read;
use crate::intercept::nft;

pub(super) fn release() -> String {
    match nix::sys::utsname::uname() {
        Ok(name) => name.release().to_string_lossy().into_owned(),
        Err(error) => error.to_string(),
    }
}

/// Interfaces on which `route_localnet` is on. `/proc/sys/net` is the calling thread's namespace's.
pub(super) fn route_localnet() -> Seen<Vec<String>> {
    const CONF: &str = "/proc/sys/net/ipv4/conf";
    let entries = std::fs::read_dir(CONF).map_err(super::because(CONF))?;
    let mut on = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let value = read(&format!("{CONF}/{name}/route_localnet"))?;
        if value.is_some_and(|value| value.trim() != "0") {
            on.push(name);
        }
    }
    on.sort_unstable();
    Ok(on)
}

/// First and last port given out freely, and whether `port` is reserved.
pub(super) fn port_range(port: u16) -> Seen<(u16, u16, bool)> {
    let range = read("/proc/sys/net/ipv4/ip_local_port_range")?.unwrap_or_default();
    let mut ends = range.split_whitespace().map(str::parse);
    let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
        return Err(format!("net.ipv4.ip_local_port_range says {range:?}"));
    };
    let reserved = read("/proc/sys/net/ipv4/ip_local_reserved_ports")?.unwrap_or_default();
    Ok((first, last, contains(reserved.trim(), port)))
}

/// Whether a list such as `8080,9000-9010` contains the port.
fn contains(list: &str, port: u16) -> bool {
    list.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.parse::<u16>(), last.parse::<u16>()) {
            (Ok(first), Ok(last)) => (first..=last).contains(&port),
            _ => false,
        }
    })
}

pub(super) fn ptrace_scope() -> Seen<Option<u8>> {
    match read("/proc/sys/kernel/yama/ptrace_scope")? {
        None => Ok(None),
        Some(value) => value
            .trim()
            .parse()
            .map(Some)
            .map_err(super::because("ptrace_scope")),
    }
}

/// Families in which a table of ours stands; none where there is no nft that could have made any.
pub(super) fn tables() -> Seen<Vec<String>> {
    match nft::families() {
        Err(nft::NftError::Missing) => Ok(vec![]),
        families => families.map_err(|e| e.to_string()),
    }
}

/// Rules that aren't ours and name one of the addresses, or the whole link-local range.
pub(super) fn foreign_rules(addresses: &[SocketAddr]) -> Seen<Vec<String>> {
    let rules = nft::ruleset().map_err(|e| e.to_string())?;
    let mut names: Vec<String> = addresses.iter().map(|a| a.ip().to_string()).collect();
    names.push("169.254.0.0/16".into());
    Ok(naming(&rules, &names))
}

/// Lines of a ruleset, outside our tables, in which one of `names` stands as a word.
fn naming(rules: &str, names: &[String]) -> Vec<String> {
    let (mut table, mut chain, mut found) = ("", "", Vec::new());
    for line in rules.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            (table, chain) = (name.trim_end_matches(" {"), "");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else {
            let mut words = line.split([' ', ',', '{', '}', ';', '"', ':']);
            let ours = table.split(' ').nth(1) == Some(nft::TABLE);
            if !ours && words.any(|word| names.iter().any(|name| name == word)) {
                found.push(format!("{table} {chain}: {line}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_a_list() {
        for (list, within) in [
            ("8788", true),
            ("1,8780-8790", true),
            ("878,87880", false),
            ("", false),
        ] {
            assert_eq!(contains(list, 8788), within, "{list}");
        }
    }

    #[test]
    fn rules_are_told_with_their_place_and_ours_are_not() {
        let rules = "table ip nat {\n\tchain PREROUTING {\n\t\tip daddr 169.254.169.254 tcp dport 80 dnat to 10.0.0.1:8181\n\
                     \t\tip daddr 169.254.169.25 drop\n\t}\n}\ntable netdev imds_guard {\n\tchain out {\n\
                     \t\tip daddr 169.254.169.254 drop\n\t}\n}\n";
        let found = naming(rules, &["169.254.169.254".into()]);
        assert_eq!(
            found,
            ["ip nat PREROUTING: ip daddr 169.254.169.254 tcp dport 80 dnat to 10.0.0.1:8181"]
        );
        let set =
            "table inet f {\n\tset s {\n\t\telements = { 10.0.0.1, 169.254.169.254 }\n\t}\n}\n";
        assert_eq!(naming(set, &["169.254.169.254".into()]).len(), 1);
    }
}
