//! TOML text becomes [`super::document`]: one function per table of the language.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::de::DeTable;

use super::Origin;
use super::diagnostic::{Diagnostic, Source};
use super::document::{
    AllowEntry, At, Audit, DenyEntry, DocumentEntry, EndpointEntry, Files, GuestEntry, Hardening,
    Host, IdentityEntry, Issuer, LifelineEntry, Proxy, ResourceEntry, RuleEntry, Text, TokenEntry,
    Trust, WorkloadEntry,
};
use super::fields::{Fields, Reader};
use super::settings::{Mode, OtherTraffic};
use crate::request::Cloud;

mod federation;

pub(crate) const CLOUDS: [(&str, Cloud); 3] = [
    ("azure", Cloud::Azure),
    ("aws", Cloud::Aws),
    ("gcp", Cloud::Gcp),
];
const MODES: [(&str, Mode); 3] = [
    ("observe", Mode::Observe),
    ("audit", Mode::Audit),
    ("enforce", Mode::Enforce),
];
const OTHER_TRAFFIC: [(&str, OtherTraffic); 3] = [
    ("pass", OtherTraffic::Pass),
    ("ports", OtherTraffic::Ports),
    ("refuse", OtherTraffic::Refuse),
];
const ORIGINS: [(&str, Origin); 4] = [
    ("mint", Origin::Mint),
    ("forward", Origin::Forward),
    ("federate", Origin::Federate),
    ("assume", Origin::Assume),
];

/// How the complaint about a file that is not TOML begins.
pub(crate) const NOT_TOML: &str = "this isn't TOML";

/// Reads one source into `files`. `main`: whether it may hold configuration beside policy.
pub(crate) fn read(
    files: &mut Files,
    index: usize,
    source: &Source,
    main: bool,
) -> Vec<Diagnostic> {
    let reader = Reader {
        source: index,
        diagnostics: vec![].into(),
    };
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        reader.error(
            span,
            format!("{NOT_TOML}: {}", error.message()),
            "write TOML 1.0: key = \"value\", [table], [[list of tables]]".into(),
        );
    }
    if errors.is_empty() {
        let what = if main {
            "the main file"
        } else {
            "an included file"
        };
        let fields = Fields::new(&reader, table.get_ref(), 0..0, what);
        if main {
            configuration(&fields, files);
        } else {
            refuse_configuration(&fields);
        }
        policy(&fields, files);
        fields.finish();
    }
    reader.diagnostics.into_inner()
}

fn configuration(f: &Fields<'_, '_>, files: &mut Files) {
    files.include = f.list("include").map(|l| l.value).unwrap_or_default();
    section(f, "host", "[host]", |t| {
        files.host = Host {
            trust_domain: t.text("trust_domain"),
            name: t.text("name"),
            cluster: t.text("cluster"),
        };
    });
    section(f, "issuer", "[issuer]", |t| {
        let issuer = Issuer {
            url: t.required("url", "\"http://127.0.0.1:8787\""),
            listen: t.text("listen"),
        };
        files.issuer = Some(t.at(t.span.clone(), issuer));
    });
    section(f, "audit", "[audit]", |t| {
        files.audit = Audit {
            file: t.text("file"),
        };
    });
    section(f, "proxy", "[proxy]", |t| {
        files.proxy = Proxy {
            max_connections: t.number("max_connections"),
            user: t.text("user"),
        };
    });
    section(f, "hardening", "[hardening]", |t| {
        files.hardening = Hardening {
            uplinks: t.list("uplinks"),
            raw_sockets_for: t.list("raw_sockets_for"),
        };
    });
    section(f, "trust", "[trust]", |t| {
        files.trust = Trust {
            roots: t.required("roots", "\"/etc/ssl/certs/ca-certificates.crt\""),
        };
    });
    endpoints(f, files);
    each(f, "guest", "[[guest]]", |t| {
        // Every key is asked for before a missing one ends it, as for identities.
        let interface = t.required("interface", "\"tap0\"");
        let (id, address, mac) = (t.text("id"), t.list("address"), t.text("mac"));
        files.guest.push(GuestEntry {
            interface: interface?,
            id,
            address: address.map(|l| l.value).unwrap_or_default(),
            mac,
        });
        Some(())
    });
    each(f, "lifeline", "[[lifeline]]", |t| {
        let executable = t.required("executable", "\"/usr/bin/google_guest_agent\"");
        let unit = t.required("unit", "\"google-guest-agent.service\"");
        let endpoint = t.required("endpoint", "\"gcp-imds\"");
        files.lifeline.push(LifelineEntry {
            executable: executable?,
            unit: unit?,
            endpoint: endpoint?,
        });
        Some(())
    });
}

/// Calls `read` for a table of the main file, where it stands there.
fn section(f: &Fields<'_, '_>, key: &'static str, what: &str, read: impl FnOnce(&Fields<'_, '_>)) {
    if let Some(t) = f.get(key).and_then(|v| Fields::of(f.reader, v, what)) {
        read(&t);
        t.finish();
    }
}

fn endpoints(f: &Fields<'_, '_>, files: &mut Files) {
    words(f, "endpoints", "mode", &MODES, &mut files.endpoints);
    let others = &mut files.other_traffic;
    words(f, "other_traffic", "word", &OTHER_TRAFFIC, others);
    each(f, "endpoint", "[[endpoint]]", |t| {
        let entry = EndpointEntry {
            name: t.required("name", "\"my-imds\"")?,
            cloud: cloud(t)?,
            address: t.list("address").map(|l| l.value).unwrap_or_default(),
            mode: t.word("mode", &MODES),
            other_traffic: t.word("other_traffic", &OTHER_TRAFFIC),
        };
        files.endpoint.push(entry);
        Some(())
    });
}

/// A table of endpoint names, each with one of `choices`.
fn words<T: Copy>(
    f: &Fields<'_, '_>,
    table: &'static str,
    what: &'static str,
    choices: &[(&str, T)],
    into: &mut BTreeMap<Arc<str>, At<T>>,
) {
    for (name, value) in f.entries(table) {
        let text = f.texts(table, &[value]).pop();
        if let Some(chosen) = text.and_then(|text| f.choose(&text, what, choices)) {
            let place = name.place;
            let value = chosen.value;
            into.insert(name.value, At { value, place });
        }
    }
}

fn refuse_configuration(f: &Fields<'_, '_>) {
    const MAIN_ONLY: [&str; 12] = [
        "include",
        "host",
        "endpoints",
        "other_traffic",
        "endpoint",
        "guest",
        "lifeline",
        "issuer",
        "audit",
        "proxy",
        "hardening",
        "trust",
    ];
    for key in MAIN_ONLY {
        if let Some(value) = f.get(key) {
            f.reader.error(
                value.span(),
                format!("`{key}` stands in an included file"),
                format!("move `{key}` to the main file: included files hold policy alone"),
            );
        }
    }
}

fn policy(f: &Fields<'_, '_>, files: &mut Files) {
    for (name, value) in f.entries("identity") {
        let what = format!("[identity.{}]", name.value);
        if let Some(t) = Fields::of(f.reader, value, &what) {
            files
                .identity
                .0
                .extend(identity(&t).map(|entry| (name, entry)));
            t.finish();
        }
    }
    for (name, value) in f.entries("document") {
        let what = format!("[document.{}]", name.value);
        if let Some(t) = Fields::of(f.reader, value, &what) {
            t.demand("instance", "{ compute = { … } }");
            let entry = cloud(&t).zip(t.json("instance"));
            let entry = entry.map(|(cloud, instance)| DocumentEntry { cloud, instance });
            files.document.0.extend(entry.map(|entry| (name, entry)));
            t.finish();
        }
    }
    for (name, value) in f.entries("resource") {
        let what = format!("[resource.{}]", name.value);
        if let Some(t) = Fields::of(f.reader, value, &what) {
            t.demand("names", "[\"https://…\", \"APPLICATION-ID\"]");
            let names = t.list("names").map(|l| l.value).unwrap_or_default();
            let entry = cloud(&t).map(|cloud| ResourceEntry { cloud, names });
            files.resource.0.extend(entry.map(|entry| (name, entry)));
            t.finish();
        }
    }
    each(f, "workload", "[[workload]]", |t| {
        let name = t.required("name", "\"billing-api\"");
        let mut entry = WorkloadEntry {
            name: name.unwrap_or_else(|| t.at(t.span.clone(), "?".into())),
            selects: t.get("selectors").or(t.get("any_of")).is_some(),
            owner: t.text("owner"),
            selectors: t.list("selectors"),
            any_of: any_of(t),
            allow: vec![],
        };
        each(t, "allow", "[[workload.allow]]", |a| {
            entry.allow.push(allow(a));
            Some(())
        });
        files.workload.push(entry);
        Some(())
    });
    each(f, "deny", "[[deny]]", |t| {
        let entry = DenyEntry {
            rule: rule(t),
            selectors: t.list("selectors"),
            any_of: any_of(t),
            except: t.list("except").map(|l| l.value).unwrap_or_default(),
            mode: t.word("mode", &MODES[1..]),
        };
        files.deny.push(entry);
        Some(())
    });
}

/// Calls `read` for each table of a list of tables, then complains about keys that it did not ask for.
fn each(
    f: &Fields<'_, '_>,
    key: &'static str,
    what: &str,
    mut read: impl FnMut(&Fields<'_, '_>) -> Option<()>,
) {
    for value in f.array(key).map(|(_, values)| values).unwrap_or_default() {
        if let Some(t) = Fields::of(f.reader, value, what) {
            let _whole = read(&t);
            t.finish();
        }
    }
}

fn cloud(t: &Fields<'_, '_>) -> Option<At<Cloud>> {
    t.demand("cloud", "\"azure\"");
    t.word("cloud", &CLOUDS)
}

fn identity(t: &Fields<'_, '_>) -> Option<IdentityEntry> {
    t.demand("source", "\"forward\", \"mint\" or \"federate\"");
    // Every key is asked for before a missing one ends it: else finish() would call the others unknown.
    let (cloud, source) = (cloud(t), t.word("source", &ORIGINS));
    let texts: [Option<Text>; 11] = [
        "client_id",
        "object_id",
        "resource_id",
        "tenant_id",
        "role",
        "region",
        "sts",
        "session_name",
        "account",
        "subject",
        "lifetime",
    ]
    .map(|key| t.text(key));
    let (session_policy, tags) = (t.json("session_policy"), t.string_map("tags"));
    let federation = federation::federation(t);
    let [
        client_id,
        object_id,
        resource_id,
        tenant_id,
        role,
        region,
        sts,
        session_name,
        account,
        subject,
        lifetime,
    ] = texts;
    Some(IdentityEntry {
        cloud: cloud?,
        source: source?,
        client_id,
        object_id,
        resource_id,
        tenant_id,
        role,
        region,
        sts,
        session_name,
        account,
        subject,
        lifetime,
        session_policy,
        tags,
        federation,
    })
}

fn any_of(t: &Fields<'_, '_>) -> Option<At<Vec<At<Vec<Text>>>>> {
    let (span, branches) = t.array("any_of")?;
    let branch = |value: &toml::Spanned<toml::de::DeValue<'_>>| {
        if let toml::de::DeValue::Array(array) = value.get_ref() {
            let texts = array.iter().filter_map(|v| match v.get_ref() {
                toml::de::DeValue::String(s) => Some(t.at(v.span(), Arc::from(&**s))),
                _ => None,
            });
            let texts: Vec<Text> = texts.collect();
            if texts.len() == array.len() {
                return Some(t.at(value.span(), texts));
            }
        }
        t.reader.error(
            value.span(),
            "each alternative of `any_of` is a list of selectors".into(),
            "write any_of = [[\"systemd:id:a.service\"], [\"systemd:id:b.service\"]]".into(),
        );
        None
    };
    let branches = branches.into_iter().filter_map(branch).collect();
    Some(t.at(span, branches))
}

fn rule(t: &Fields<'_, '_>) -> RuleEntry {
    RuleEntry {
        place: t.reader.place(t.span.clone()),
        name: t.text("name"),
        until: t.date("until"),
        owner: t.text("owner"),
        reason: t.text("reason"),
        read: t.list("read").map(|l| l.value).unwrap_or_default(),
        write: t.list("write").map(|l| l.value).unwrap_or_default(),
        token: token(t),
    }
}

fn token(t: &Fields<'_, '_>) -> Option<At<TokenEntry>> {
    let value = t.get("token")?;
    let f = Fields::of(t.reader, value, "token =")?;
    let list = |key| f.list(key).map(|l| l.value).unwrap_or_default();
    let (resource, role) = (list("resource"), list("role"));
    let (scopes, audience) = (list("scopes"), list("audience"));
    let cloud = cloud(&f);
    f.finish();
    let entry = TokenEntry {
        cloud: cloud?,
        resource,
        role,
        scopes,
        audience,
    };
    Some(t.at(value.span(), entry))
}

fn allow(t: &Fields<'_, '_>) -> AllowEntry {
    if let Some(mode) = t.get("mode") {
        t.reader.error(
            mode.span(),
            "an allow has no `mode`".into(),
            "leave it out: `mode` belongs to [[deny]] and to [endpoints]".into(),
        );
    }
    AllowEntry {
        rule: rule(t),
        identity: t.text("identity"),
        document: t.text("document"),
        limit: t.text("limit"),
        imdsv1: t.flag("imdsv1"),
    }
}
