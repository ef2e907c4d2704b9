//! What the configuration files of `apiserver.config.k8s.io` have in common.

use std::time::Duration;

use serde_json::Value;

/// The file must be of a kind, in a version that is known.
pub(crate) fn check_kind(config: &Value, kind: &str) -> Result<(), String> {
    let text = |field: &str| config[field].as_str().unwrap_or_default();
    let group = text("apiVersion").split_once('/');
    let known = matches!(group, Some(("apiserver.config.k8s.io", "v1" | "v1beta1" | "v1alpha1")));
    if known && text("kind") == kind {
        return Ok(());
    }
    Err(format!(
        "expected kind {kind:?} of apiVersion \"apiserver.config.k8s.io/v1\", got {:?} of {:?}",
        text("kind"),
        text("apiVersion")
    ))
}

/// The items of a list; none where there is no list.
pub(crate) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The text of a field; empty where there is none.
pub(crate) fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

/// Fields that are not known are refused: a misspelt one would silently allow too much.
pub(crate) fn only(value: &Value, path: &str, known: &[&str]) -> Result<(), String> {
    let unknown = value.as_object().and_then(|map| map.keys().find(|k| !known.contains(&k.as_str())));
    match unknown {
        Some(field) if path.is_empty() => Err(format!("unknown field {field:?}")),
        Some(field) => Err(format!("unknown field \"{path}.{field}\"")),
        None => Ok(()),
    }
}

/// A duration as Go writes it: `3s`, `1m30s`, `500ms`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = 0f64;
    let mut rest = text;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += amount
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(duration(text).map(|d| d.as_secs_f64()), expected);
        check("1m30s", Some(90.0));
        check("2m", Some(120.0));
        check("0", Some(0.0));
        check("", None);
        check("3", None);
        check("-3s", None);
    }
}
