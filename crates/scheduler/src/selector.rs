//! Selectors as cycles use them: comparable, hashable, ready to match.

use std::collections::BTreeMap;

use orkd_reconcile::LabelSelector;

use crate::model::{NodeSelector, NodeSelectorTerm};

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values, or absent.
    NotIn,
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
    /// An integer larger than the value.
    Gt,
    /// An integer smaller than the value.
    Lt,
    /// Unknown: never holds.
    Never,
}

impl Operator {
    fn new(text: &str) -> Operator {
        match text {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            "Gt" => Operator::Gt,
            "Lt" => Operator::Lt,
            _ => Operator::Never,
        }
    }
}

/// A requirement on a label or a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// Key.
    pub key: String,
    /// Operator.
    pub operator: Operator,
    /// Values, sorted.
    pub values: Vec<String>,
}

impl Requirement {
    /// A requirement from its parts.
    pub fn new(key: &str, operator: &str, values: &[String]) -> Requirement {
        let mut values = values.to_vec();
        values.sort_unstable();
        values.dedup();
        Requirement { key: key.to_owned(), operator: Operator::new(operator), values }
    }

    /// Whether a value (absent: `None`) satisfies the requirement.
    pub fn is_satisfied_by(&self, value: Option<&str>) -> bool {
        let among = |v: &str| self.values.iter().any(|w| w == v);
        let compare = |holds: fn(i64, i64) -> bool| {
            let limit = self.values.first().and_then(|v| v.parse::<i64>().ok());
            let have = value.and_then(|v| v.parse::<i64>().ok());
            self.values.len() == 1 && have.zip(limit).is_some_and(|(have, limit)| holds(have, limit))
        };
        match self.operator {
            Operator::In => value.is_some_and(among),
            Operator::NotIn => value.is_none_or(|v| !among(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compare(|have, limit| have > limit),
            Operator::Lt => compare(|have, limit| have < limit),
            Operator::Never => false,
        }
    }
}

/// A label selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Selector(Vec<Requirement>);

impl Selector {
    /// Matches everything.
    pub fn everything() -> Selector {
        Selector::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Selector {
        Selector(vec![Requirement { key: String::new(), operator: Operator::Never, values: Vec::new() }])
    }

    /// The selector of a field: an absent one matches nothing, an empty one everything
    /// (`metav1.LabelSelectorAsSelector`).
    pub fn of(selector: Option<&LabelSelector>) -> Selector {
        let Some(selector) = selector else { return Selector::nothing() };
        let mut all = Selector::of_labels(&selector.match_labels);
        for r in &selector.match_expressions {
            all.0.push(Requirement::new(&r.key, &r.operator, &r.values));
        }
        all.normal()
    }

    /// Labels that must be equal.
    pub fn of_labels(labels: &BTreeMap<String, String>) -> Selector {
        let one = |(k, v): (&String, &String)| Requirement::new(k, "In", std::slice::from_ref(v));
        Selector(labels.iter().map(one).collect()).normal()
    }

    /// Both selectors.
    pub fn and(mut self, other: &Selector) -> Selector {
        self.0.extend(other.0.iter().cloned());
        self.normal()
    }

    /// With one more requirement.
    pub fn with(mut self, key: &str, operator: &str, value: &str) -> Selector {
        self.0.push(Requirement::new(key, operator, &[value.to_owned()]));
        self.normal()
    }

    fn normal(mut self) -> Selector {
        self.0.sort_unstable();
        self.0.dedup();
        self
    }

    /// Whether labels satisfy the selector.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|r| r.is_satisfied_by(labels.get(&r.key).map(String::as_str)))
    }

    /// Whether it has no requirement, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// One term of a node selector: all of its requirements must hold; an empty one holds nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerm {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// A term.
    pub fn new(term: &NodeSelectorTerm) -> NodeTerm {
        let all = |from: &[crate::model::Requirement]| {
            from.iter().map(|r| Requirement::new(&r.key, &r.operator, &r.values)).collect()
        };
        NodeTerm { expressions: all(&term.match_expressions), fields: all(&term.match_fields) }
    }

    /// Whether a node satisfies the term.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        if self.expressions.is_empty() && self.fields.is_empty() {
            return false;
        }
        self.expressions.iter().all(|r| r.is_satisfied_by(labels.get(&r.key).map(String::as_str)))
            && self.fields.iter().all(|r| r.key == "metadata.name" && r.is_satisfied_by(Some(name)))
    }

    /// The node names that `metadata.name In` requirements leave; `None` if the term has none of them.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut names: Option<Vec<&str>> = None;
        for r in self.fields.iter().filter(|r| r.key == "metadata.name" && r.operator == Operator::In) {
            let these = r.values.iter().map(String::as_str);
            names = Some(match names {
                None => these.collect(),
                Some(before) => these.filter(|n| before.contains(n)).collect(),
            });
        }
        names
    }
}

/// A node selector: one of its terms must hold.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeTerms(pub Vec<NodeTerm>);

impl NodeTerms {
    /// A node selector.
    pub fn new(selector: &NodeSelector) -> NodeTerms {
        NodeTerms(selector.node_selector_terms.iter().map(NodeTerm::new).collect())
    }

    /// Whether a node satisfies one of the terms.
    pub fn matches(&self, name: &str, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().any(|t| t.matches(name, labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<&str>, operator: &str, values: &[&str], expected: bool) {
        let values: Vec<String> = values.iter().map(|v| (*v).to_owned()).collect();
        let requirement = Requirement::new("k", operator, &values);
        assert_eq!(requirement.is_satisfied_by(value), expected, "{value:?} {operator} {values:?}");
    }

    #[test]
    fn operators() {
        check(Some("a"), "In", &["a", "b"], true);
        check(None, "In", &["a"], false);
        check(None, "NotIn", &["a"], true);
        check(Some("a"), "NotIn", &["a"], false);
        check(Some(""), "Exists", &[], true);
        check(None, "DoesNotExist", &[], true);
        check(Some("5"), "Gt", &["4"], true);
        check(Some("x"), "Gt", &["4"], false);
        check(Some("3"), "Lt", &["4"], true);
        check(Some("3"), "Near", &["4"], false);
    }

    #[test]
    fn an_absent_selector_matches_nothing_and_an_empty_one_everything() {
        assert!(!Selector::of(None).matches(&BTreeMap::new()));
        assert!(Selector::of(Some(&LabelSelector::default())).matches(&BTreeMap::new()));
    }

    #[test]
    fn names_are_intersected() {
        let name = |values: &[&str]| crate::model::Requirement {
            key: "metadata.name".into(),
            operator: "In".into(),
            values: values.iter().map(|v| (*v).to_owned()).collect(),
        };
        let term = NodeSelectorTerm { match_expressions: vec![], match_fields: vec![name(&["a", "b"]), name(&["b"])] };
        assert_eq!(NodeTerm::new(&term).names(), Some(vec!["b"]));
        assert_eq!(NodeTerm::new(&NodeSelectorTerm::default()).names(), None);
    }
}
