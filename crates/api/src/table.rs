//! Helpers for the cells of the table form (`k8s.io/kubernetes/pkg/printers/internalversion`).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::Cells;

/// The cells of a kind that shows its name and age only.
pub fn name_and_age(obj: &Value, now: Timestamp) -> Cells {
    vec![json!(name(obj)), json!(age(obj, now))]
}

/// The object's name; empty where there is none.
pub fn name(obj: &Value) -> &str {
    obj["metadata"]["name"].as_str().unwrap_or_default()
}

/// How long ago the object was created, as kubectl shows ages.
pub fn age(obj: &Value, now: Timestamp) -> String {
    since(obj["metadata"]["creationTimestamp"].as_str(), now)
}

/// How long ago an RFC 3339 time was, or `<unknown>`.
pub fn since(time: Option<&str>, now: Timestamp) -> String {
    match time.and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(t) => human_duration(now.as_second() - t.as_second()),
        None => "<unknown>".into(),
    }
}

/// A duration in seconds as `duration.HumanDuration` prints it: two units at most, the finer the shorter.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let two = |a: i64, au: &str, b: i64, bu: &str| if b == 0 { format!("{a}{au}") } else { format!("{a}{au}{b}{bu}") };
    if seconds < -1 {
        "<invalid>".into()
    } else if seconds < 0 {
        "0s".into()
    } else if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, "m", seconds % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 24 * 8 {
        two(hours / 24, "d", hours % 24, "h")
    } else if hours < 24 * 365 * 2 {
        format!("{}d", hours / 24)
    } else if hours < 24 * 365 * 8 {
        two(hours / 24 / 365, "y", (hours / 24) % 365, "d")
    } else {
        format!("{}y", hours / 24 / 365)
    }
}
