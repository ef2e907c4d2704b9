//! Helpers for the cells of the table form (`k8s.io/kubernetes/pkg/printers/internalversion`).

use bytes::BytesMut;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::kind::{Cells, Kind};
use crate::object::{at, list, text};

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
        Some(t) => elapsed(t, now),
        None => "<unknown>".into(),
    }
}

/// The time between two moments as kubectl shows it.
pub fn elapsed(from: Timestamp, to: Timestamp) -> String {
    if to == LATER {
        return format!("{OPEN}{}{CLOSE}", from.as_second());
    }
    human_duration(to.as_second() - from.as_second())
}

/// Stands for a moment that is told later: cells made with it have places for ages ([`Template`]).
const LATER: Timestamp = Timestamp::MAX;
/// What stands around such a place; private characters of Unicode, which are nobody's.
const OPEN: char = '\u{f8fe}';
const CLOSE: char = '\u{f8ff}';

/// The cells of an object as JSON, but for the ages in them: made once and filled in for each reader.
#[derive(Debug)]
pub struct Template {
    json: Box<str>,
    /// Where an age belongs, and since when, in seconds.
    ages: Box<[(u32, i64)]>,
}

impl Template {
    /// Makes it. `None` where the object's own text could be taken for a place.
    pub fn new(kind: &dyn Kind, object: &Value) -> Option<Template> {
        let made = serde_json::to_string(&kind.cells(object, LATER)).ok()?;
        let plain = serde_json::to_string(&kind.cells(object, Timestamp::UNIX_EPOCH)).ok()?;
        if plain.contains([OPEN, CLOSE]) {
            return None;
        }
        let (mut json, mut ages) = (String::with_capacity(made.len()), Vec::new());
        let mut rest = made.as_str();
        while let Some((before, after)) = rest.split_once(OPEN) {
            let (seconds, after) = after.split_once(CLOSE)?;
            json.push_str(before);
            ages.push((u32::try_from(json.len()).ok()?, seconds.parse().ok()?));
            rest = after;
        }
        json.push_str(rest);
        Some(Template { json: json.into(), ages: ages.into() })
    }

    /// Writes the cells as of a moment.
    pub fn write(&self, now: Timestamp, out: &mut BytesMut) {
        let mut rest = self.json.as_bytes();
        let mut done = 0;
        for (at, since) in &self.ages {
            let (before, after) = rest.split_at(*at as usize - done);
            out.extend_from_slice(before);
            out.extend_from_slice(human_duration(now.as_second() - since).as_bytes());
            done = *at as usize;
            rest = after;
        }
        out.extend_from_slice(rest);
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

/// The text, or `<none>` for the empty one.
pub fn or_none(text: &str) -> &str {
    if text.is_empty() { "<none>" } else { text }
}

/// The text, or `<unknown>` for the empty one.
pub fn or_unknown(text: &str) -> &str {
    if text.is_empty() { "<unknown>" } else { text }
}

/// The texts joined by commas, or `<none>`.
pub fn joined<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    or_none(&texts.into_iter().collect::<Vec<_>>().join(",")).to_owned()
}

/// A set of labels as `k=v,k2=v2`, or `<none>` (`labels.FormatLabels`).
pub fn labels(map: &Value) -> String {
    let pairs: Vec<String> =
        map.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(",")).to_owned()
}

/// A label selector as text: `a=b,c in (d,e),!f` (`metav1.FormatLabelSelector`).
pub fn label_selector(selector: &Value) -> String {
    if selector.is_null() {
        return "<none>".into();
    }
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in at(selector, &["matchLabels"]).as_object().into_iter().flatten() {
        parts.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())));
    }
    for e in list(selector, &["matchExpressions"]) {
        let key = text(e, &["key"]);
        let mut values: Vec<&str> = list(e, &["values"]).iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let part = match text(e, &["operator"]) {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".into(),
        };
        parts.push((key.to_owned(), part));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(&parts.into_iter().map(|(_, part)| part).collect::<Vec<_>>().join(",")).to_owned()
}

/// Names and images of the containers of a pod spec, each joined by commas.
pub fn containers_and_images(pod_spec: &Value) -> (String, String) {
    let column =
        |field: &str| list(pod_spec, &["containers"]).iter().map(|c| text(c, &[field])).collect::<Vec<_>>().join(",");
    (column("name"), column("image"))
}

/// The creation time as the `Created At` column shows it.
pub fn created(obj: &Value) -> Value {
    at(obj, &["metadata", "creationTimestamp"]).clone()
}

/// The name and the creation time.
pub fn name_and_created(obj: &Value) -> Cells {
    vec![json!(name(obj)), created(obj)]
}
