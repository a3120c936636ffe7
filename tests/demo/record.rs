//! An audit record, on one line, for a person. Only rearranges what the agent wrote.

use serde_json::Value;

/// The record in one line. What it doesn't say is left out.
pub(crate) fn line(record: &Value) -> String {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let caller = &record["caller"];
    let uid = caller["uid"].as_u64().map(|uid| format!("uid {uid}"));
    let parts = [
        Some(event(record)),
        text(&record["workload"]).or(denied(record)).or(uid),
        asked(record),
        text(&record["rule"]["name"]).map(|rule| format!("rule {rule}")),
        text(&record["denial"]["reason"])
            .or(text(&record["reason"]))
            .map(|why| format!("because {why}")),
        token_id(record),
        process(caller),
        record["latency_us"].as_u64().map(|us| format!("{us} µs")),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("audit: {}", parts.join(" · "))
}

fn event(record: &Value) -> String {
    match record["event"].as_str() {
        Some("exchange") => format!("{} {}", ending(record).0, record["status"]),
        Some(other) => other.to_owned(),
        None => "?".to_owned(),
    }
}

/// The workload that the caller is, where it is one and was refused.
fn denied(record: &Value) -> Option<String> {
    let names: Vec<&str> = record["denial"]["workloads"]
        .as_array()?
        .iter()
        .filter_map(Value::as_str)
        .collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

fn asked(record: &Value) -> Option<String> {
    let (method, path) = (record["method"].as_str()?, record["path"].as_str()?);
    let target = record["resource"].as_str();
    let target = target.map_or_else(String::new, |resource| format!(" for {resource}"));
    Some(format!("{method} {path}{target}"))
}

/// What a token is known by without being one, shortened.
fn token_id(record: &Value) -> Option<String> {
    let id = record["credential"]["jti"]
        .as_str()
        .or(record["jti"].as_str())?;
    let cached = record["credential"]["cached"] == true;
    let cached = if cached { ", from the cache" } else { "" };
    Some(format!("token {}…{cached}", id.get(..8).unwrap_or(id)))
}

fn process(caller: &Value) -> Option<String> {
    let name = caller["comm"].as_str().unwrap_or("?");
    Some(format!(
        "pid {} ({name}), uid {}",
        caller["pid"].as_u64()?,
        caller["uid"]
    ))
}

/// How the exchange ended: outcome and status.
pub(crate) fn ending(record: &Value) -> (String, u64) {
    let outcome = record["outcome"].as_str().unwrap_or_default();
    (
        outcome.to_owned(),
        record["status"].as_u64().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_grant_and_a_denial_each_in_one_line() {
        let grant = json!({
            "event": "exchange", "outcome": "allowed", "status": 200, "workload": "billing-api", "method": "GET",
            "path": "/metadata/identity/oauth2/token", "resource": "https://vault.azure.net",
            "rule": {"name": "vault"}, "credential": {"jti": "0123456789abcdef"},
            "caller": {"pid": 7, "uid": 61011, "comm": "python"}, "latency_us": 900,
        });
        assert_eq!(
            line(&grant),
            "audit: allowed 200 · billing-api · GET /metadata/identity/oauth2/token for https://vault.azure.net · rule vault \
             · token 01234567… · pid 7 (python), uid 61011 · 900 µs"
        );
        let denial = json!({
            "event": "exchange", "outcome": "denied", "status": 403, "denial": {"reason": "no_workload"}, "caller": {"uid": 61014},
        });
        assert_eq!(
            line(&denial),
            "audit: denied 403 · uid 61014 · because no_workload"
        );
        assert_eq!(ending(&denial), ("denied".to_owned(), 403));
    }
}
