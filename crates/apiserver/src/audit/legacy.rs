//! The old form of the log (`--audit-log-format=legacy`): a line of text for each event
//! (`apiserver/pkg/audit/format.go`, `EventString`).

use orkd_api::field::quote;
use serde_json::Value;

/// The line of an event that is given as JSON, without its end.
pub fn line(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let or = |text: String, otherwise: &str| if text.is_empty() { otherwise.to_owned() } else { text };
    let (user, other) = (&event["user"], &event["impersonatedUser"]);
    let (acts, name) = (other.is_object(), text(&user["username"]));
    let groups = if name.is_empty() { None } else { groups(user) };
    let (as_user, as_groups) = match acts {
        true => (text(&other["username"]), self::groups(other)),
        false => ("<self>".to_owned(), None),
    };
    let code = event["responseStatus"]["code"].as_u64();
    let response = match event["responseStatus"].is_object() {
        true => code.unwrap_or(0).to_string(),
        false => "<deferred>".to_owned(),
    };
    let fields = [
        ("id", text(&event["auditID"])),
        ("stage", text(&event["stage"])),
        ("ip", or(text(&event["sourceIPs"][0]), "<unknown>")),
        ("method", text(&event["verb"])),
        ("user", or(name, "<none>")),
        ("groups", groups.unwrap_or_else(|| "<none>".to_owned())),
        ("as", as_user),
        ("asgroups", as_groups.unwrap_or_else(|| "<lookup>".to_owned())),
        ("user-agent", text(&event["userAgent"])),
        ("namespace", or(text(&event["objectRef"]["namespace"]), "<none>")),
        ("uri", text(&event["requestURI"])),
        ("response", response),
    ];
    let mut line = format!("{} AUDIT:", nanos(&text(&event["requestReceivedTimestamp"])));
    for (name, value) in fields {
        line.push_str(&format!(" {name}={}", quote(&value)));
    }
    line
}

/// The groups of a user, each in quotes; `None` without any.
fn groups(user: &Value) -> Option<String> {
    let groups = user["groups"].as_array()?.iter().filter_map(Value::as_str).map(quote);
    Some(groups.collect::<Vec<_>>().join(","))
}

/// A time as `time.RFC3339Nano` has it: without zeros at the end of its fraction.
fn nanos(time: &str) -> String {
    let Some((seconds, fraction)) = time.trim_end_matches('Z').split_once('.') else { return time.to_owned() };
    match fraction.trim_end_matches('0') {
        "" => format!("{seconds}Z"),
        fraction => format!("{seconds}.{fraction}Z"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_lines() {
        let check = |event: Value, want: &str| assert_eq!(line(&event.to_string()), want);
        check(
            json!({"auditID": "a-1", "stage": "ResponseComplete", "verb": "list", "requestURI": "/api/v1/pods?a=\"b\"",
                "user": {"username": "u", "groups": ["g", "system:authenticated"]}, "sourceIPs": ["10.0.0.1", "::1"],
                "impersonatedUser": {"username": "v", "groups": []}, "userAgent": "kubectl/v1.36",
                "objectRef": {"namespace": "n"}, "responseStatus": {"code": 200},
                "requestReceivedTimestamp": "2026-01-02T03:04:05.120000Z"}),
            r#"2026-01-02T03:04:05.12Z AUDIT: id="a-1" stage="ResponseComplete" ip="10.0.0.1" method="list" user="u" groups="\"g\",\"system:authenticated\"" as="v" asgroups="" user-agent="kubectl/v1.36" namespace="n" uri="/api/v1/pods?a=\"b\"" response="200""#,
        );
        check(
            json!({"stage": "RequestReceived", "verb": "get", "requestURI": "/", "user": {},
                "requestReceivedTimestamp": "2026-01-02T03:04:05.000000Z"}),
            r#"2026-01-02T03:04:05Z AUDIT: id="" stage="RequestReceived" ip="<unknown>" method="get" user="<none>" groups="<none>" as="<self>" asgroups="<lookup>" user-agent="" namespace="<none>" uri="/" response="<deferred>""#,
        );
    }
}
