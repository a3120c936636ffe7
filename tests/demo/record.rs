//! An audit record, on one line, for a person. Only rearranges what the agent wrote.

use serde_json::Value;

/// The record in one line. What it doesn't say is left out.
pub(crate) fn line(record: &Value) -> String {
    let text = |key: &str| record[key].as_str().map(str::to_owned);
    let caller = &record["caller"];
    let who = text("workload").or_else(|| caller["uid"].as_u64().map(|uid| format!("uid {uid}")));
    let asked = [
        text("method"),
        text("path"),
        text("resource").map(|r| format!("for {r}")),
    ];
    let asked: Vec<String> = asked.into_iter().flatten().collect();
    let parts = [
        Some(format!(
            "{} {}",
            text("outcome").unwrap_or_default(),
            record["status"]
        )),
        who,
        (!asked.is_empty()).then(|| asked.join(" ")),
        record["rule"]["name"]
            .as_str()
            .map(|name| format!("rule {name}")),
        record["denial"]["reason"]
            .as_str()
            .map(|why| format!("because {why}")),
        text("reason").map(|why| format!("because {why}")),
        record["credential"]["jti"]
            .as_str()
            .map(|jti| format!("token id {}…", prefix(jti))),
        caller["pid"].as_u64().map(|pid| {
            format!(
                "pid {pid} ({}), uid {}",
                caller["comm"].as_str().unwrap_or("?"),
                caller["uid"]
            )
        }),
        record["latency_us"].as_u64().map(|us| format!("{us} µs")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn prefix(jti: &str) -> &str {
    jti.get(..8).unwrap_or(jti)
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
            "outcome": "allowed", "status": 200, "workload": "billing-api", "method": "GET",
            "path": "/metadata/identity/oauth2/token", "resource": "https://vault.azure.net",
            "rule": {"name": "vault"}, "credential": {"jti": "0123456789abcdef"},
            "caller": {"pid": 7, "uid": 61011, "comm": "python"}, "latency_us": 900,
        });
        assert_eq!(
            line(&grant),
            "allowed 200 · billing-api · GET /metadata/identity/oauth2/token for https://vault.azure.net · rule vault \
             · token id 01234567… · pid 7 (python), uid 61011 · 900 µs"
        );
        let denial = json!({
            "outcome": "denied", "status": 403, "denial": {"reason": "no_workload"}, "caller": {"uid": 61014},
        });
        assert_eq!(
            line(&denial),
            "denied 403 · uid 61014 · because no_workload"
        );
        assert_eq!(ending(&denial), ("denied".to_owned(), 403));
    }
}
