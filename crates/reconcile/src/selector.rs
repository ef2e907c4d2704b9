//! Label selectors of views (`metav1.LabelSelector`, `LabelSelectorAsSelector`).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::null_default;

/// A label selector. All parts must hold; the empty selector matches everything.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels that must be equal.
    #[serde(deserialize_with = "null_default")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
}

/// As Go prints it in events and conditions (`LabelSelector.String` of `metav1`'s `generated.pb.go`).
impl std::fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "&LabelSelector{{MatchLabels:map[string]string{{")?;
        self.match_labels.iter().try_for_each(|(key, value)| write!(f, "{key}: {value},"))?;
        write!(f, "}},MatchExpressions:[]LabelSelectorRequirement{{")?;
        for Requirement { key, operator, values } in &self.match_expressions {
            write!(f, "LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))?;
        }
        write!(f, "}},}}")
    }
}

/// One requirement of a label selector.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether labels satisfy the selector. An unknown operator matches nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.match_expressions.iter().all(|r| r.matches(labels))
    }

    /// Whether the selector has no requirement and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Requirement {
    /// Whether labels satisfy the requirement.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(selector: &str, labels: &[(&str, &str)], expected: bool) {
        let selector: LabelSelector = serde_json::from_str(selector).expect("a selector");
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        assert_eq!(selector.matches(&labels), expected, "{selector:?} {labels:?}");
    }

    #[test]
    fn selectors_match_as_upstream() {
        check("{}", &[], true);
        check(r#"{"matchLabels":{"a":"b"}}"#, &[("a", "b"), ("c", "d")], true);
        check(r#"{"matchLabels":{"a":"b"}}"#, &[("a", "c")], false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"In","values":["b"]}]}"#, &[("a", "b")], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"NotIn","values":["b"]}]}"#, &[], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"Exists"}]}"#, &[], false);
        check(r#"{"matchExpressions":[{"key":"a","operator":"DoesNotExist"}]}"#, &[], true);
        check(r#"{"matchExpressions":[{"key":"a","operator":"Near"}]}"#, &[("a", "b")], false);
    }
}
