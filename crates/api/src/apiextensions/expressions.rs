//! Rules of custom resources in CEL: compiled against the schema they stand in, and refused if they may cost too much.
//!
//! Upstream: `ValidateCustomResourceDefinitionOpenAPISchema`, `pkg/apiserver/schema/cel/compilation.go`.

use orkd_cel::Shape;
use orkd_cel::k8s::schema::{
    RULE_COST_LIMIT, SCHEMA_COST_LIMIT, compile_message, compile_rule, cost_message, most_in_request, shape,
};
use serde_json::Value;

use super::shown::RULE;
use crate::field::{ErrorList, Path};
use crate::object::View;
use crate::validate::internal;

/// Where in the schema we are.
#[derive(Clone)]
pub(super) struct Place {
    root: bool,
    /// How many values there may be here; `None` without a bound.
    count: Option<u64>,
    /// The part of the schema whose values cannot be told from those before an update, if we are within one.
    uncorrelatable: Option<Path>,
}

impl Place {
    /// The schema itself.
    pub(super) fn root() -> Self {
        Place { root: true, count: Some(1), uncorrelatable: None }
    }

    fn within(&self, part: Option<&Path>) -> Self {
        let uncorrelatable = self.uncorrelatable.clone().or_else(|| part.cloned());
        Place { root: false, count: self.count, uncorrelatable }
    }

    /// A property of the schema here.
    pub(super) fn property(&self, s: &View<'_>) -> Self {
        let map = s.get("x-kubernetes-map-type");
        self.within((map.is_set() && map.str() != "granular").then(|| s.path()))
    }

    /// The other properties of the schema here.
    pub(super) fn additional(&self, s: &View<'_>) -> Self {
        Place { count: self.many(s, "maxProperties"), ..self.within(None) }
    }

    /// The items of the schema here.
    pub(super) fn items(&self, s: &View<'_>) -> Self {
        let keyed = s.get("x-kubernetes-list-type").str() == "map";
        Place { count: self.many(s, "maxItems"), ..self.within((!keyed).then(|| s.path())) }
    }

    fn many(&self, s: &View<'_>, most: &str) -> Option<u64> {
        Some(self.count?.saturating_mul(s.get_named(most).value().as_u64()?))
    }
}

/// What the expressions seen so far may cost together.
#[derive(Default)]
pub(super) struct Costs {
    /// Nothing is too much: what one rule of a schema that stays as it is may cost was looked at before
    /// (`suppressPerExpressionCost`).
    unchanged: bool,
    total: u64,
    /// The dearest of those that cost a hundredth of the limit or more.
    high: Vec<(Path, u64)>,
}

impl Costs {
    /// Nothing yet, of a schema that stays as it is or does not.
    pub(super) fn new(unchanged: bool) -> Self {
        Costs { unchanged, ..Costs::default() }
    }

    fn add(&mut self, path: &Path, cost: u64) {
        const MOST: usize = 4;
        self.total = self.total.saturating_add(cost);
        if cost >= SCHEMA_COST_LIMIT / 100 {
            self.high.push((path.clone(), cost));
            self.high.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.high.truncate(MOST);
        }
    }

    /// Whether all together are too much.
    pub(super) fn check(&self, errs: &mut ErrorList, schema: &Path) {
        if self.total <= SCHEMA_COST_LIMIT || self.unchanged {
            return;
        }
        for (path, _) in &self.high {
            errs.forbidden(
                path,
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
            );
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errs.forbidden(schema, cost_message(what, self.total, SCHEMA_COST_LIMIT));
    }
}

/// The problems of the rules at one place of a schema.
pub(super) fn validate(errs: &mut ErrorList, s: &View<'_>, place: &Place, costs: &mut Costs) {
    let rules = s.items("x-kubernetes-validations");
    if !rules.is_empty()
        && let Some(shape) = shape(s.value(), place.root)
    {
        for one in &rules {
            rule(errs, one, s.value(), &shape, place, costs);
        }
    }
}

fn rule(errs: &mut ErrorList, v: &View<'_>, schema: &Value, shape: &Shape, place: &Place, costs: &mut Costs) {
    let optional = v.get("optionalOldSelf");
    let (text, message) = (v.get("rule"), v.get("messageExpression"));
    let compiled = compile_rule(text.str(), shape, optional.is_true());
    match &compiled {
        Err(problem) => errs.invalid(text.path(), internal::shown(RULE, v.value()), problem.as_str()),
        Ok(program) => {
            let count = place.count.unwrap_or_else(|| most_in_request(schema));
            cost(errs, &text, "estimated rule cost", program.estimate().max.saturating_mul(count), costs);
        }
    }
    if !message.is_empty() {
        match compile_message(message.str(), shape, optional.is_true()) {
            Err(problem) => errs.invalid(message.path(), internal::shown(RULE, v.value()), problem),
            // Upstream does not count how often a message may be made.
            Ok(program) => cost(errs, &message, "estimated messageExpression cost", program.estimate().max, costs),
        }
    }
    match (&compiled, &place.uncorrelatable, optional.bool()) {
        (Ok(program), Some(part), _) if program.uses("oldSelf") => {
            let problem = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {part}");
            errs.invalid(text.path(), text.str(), problem);
        }
        (Ok(program), _, Some(value)) if !program.uses("oldSelf") => {
            errs.invalid(optional.path(), value, "may not be set if oldSelf is not used in rule");
        }
        _ => {}
    }
}

fn cost(errs: &mut ErrorList, v: &View<'_>, what: &str, cost: u64, costs: &mut Costs) {
    if cost > RULE_COST_LIMIT && !costs.unchanged {
        errs.forbidden(v.path(), cost_message(what, cost, RULE_COST_LIMIT));
    }
    costs.add(v.path(), cost);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: Value, parts: &[&str]) {
        let mut errs = ErrorList::new();
        let (view, mut costs) = (View::at(Path::new("s"), &schema), Costs::new(false));
        super::super::rules::validate(&mut errs, &view, Some(&mut costs));
        costs.check(&mut errs, view.path());
        let found: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        assert_eq!(found.len(), parts.len(), "{found:?}");
        for (problem, part) in found.iter().zip(parts) {
            let (start, rest) = part.split_once("..").unwrap_or((part, ""));
            assert!(problem.starts_with(start) && problem.contains(rest), "{problem}, not {part}");
        }
    }

    fn with_rule(rule: &str, spec: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": spec,
            "x-kubernetes-validations": [{"rule": rule}]}}})
    }

    #[test]
    fn rules_are_compiled_against_their_schema() {
        let path = "s.properties[spec].x-kubernetes-validations[0].rule";
        let spec = json!({"x": {"type": "integer"}, "l": {"type": "array", "items": {"type": "string"}}});
        check(with_rule("self.x > 1", spec.clone()), &[]);
        check(with_rule("self.x >= oldSelf.x", spec.clone()), &[]);
        let shown = "Invalid value: {\"Rule\":";
        check(
            with_rule("self.nope > 1", spec.clone()),
            &[&format!("{path}: {shown}..compilation failed: ERROR: <input>:1:5: undefined field 'nope'")],
        );
        check(with_rule("self.x = 1", spec.clone()), &[&format!("{path}: {shown}..Syntax error")]);
        check(
            with_rule("self.x", spec.clone()),
            &[&format!("{path}: {shown}..cel expression must evaluate to a bool")],
        );
        check(
            with_rule("self.l.all(x, self.l.all(y, x == y))", spec),
            &[
                &format!("{path}: Forbidden: estimated rule cost exceeds budget by factor of more than 100x"),
                &format!("{path}: Forbidden: contributed to estimated rule cost total"),
                "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget",
            ],
        );
    }

    #[test]
    fn rules_in_lists_count_for_each_item() {
        let list = |max: Option<u64>, rule: &str| {
            let mut s = json!({"type": "array", "items": {"type": "string", "maxLength": 20, "x-kubernetes-validations": [{"rule": rule}]}});
            if let Some(max) = max {
                s["maxItems"] = max.into();
            }
            json!({"type": "object", "properties": {"l": s}})
        };
        let path = "s.properties[l].items.x-kubernetes-validations[0].rule";
        check(list(Some(10), "self.contains('abcdef')"), &[]);
        check(
            list(None, "self.matches('^[a-z]+([-.][a-z]+)*$')"),
            &[&format!("{path}: Forbidden: estimated rule cost exceeds budget by factor of 2")],
        );
        // What an atomic map holds cannot be told from what it held.
        check(
            json!({"type": "object", "properties": {"m": {"type": "object", "x-kubernetes-map-type": "atomic",
                "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}}}),
            &[
                "s.properties[m].properties[a].x-kubernetes-validations[0].rule: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[m]",
            ],
        );
        check(
            list(Some(10), "self == oldSelf"),
            &[&format!(
                "{path}: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"
            )],
        );
    }

    #[test]
    fn rules_wait_for_the_schema_below_them() {
        // A rule is looked at where the schema is good, whatever is wrong beside it; those deeper down come first.
        let rules = |text: &str| json!([{ "rule": text }]);
        let schema = json!({"type": "object", "x-kubernetes-validations": rules("nope"), "properties": {
            "good": {"type": "object", "x-kubernetes-validations": rules("outer"), "properties": {
                "inner": {"type": "string", "x-kubernetes-validations": rules("inner")}}},
            "wrong": {"type": "string", "uniqueItems": true, "x-kubernetes-validations": rules("unseen")}}});
        check(
            schema,
            &[
                "s.properties[wrong].uniqueItems: Forbidden",
                "s.properties[good].properties[inner].x-kubernetes-validations[0].rule: Invalid value",
                "s.properties[good].x-kubernetes-validations[0].rule: Invalid value",
            ],
        );
    }

    #[test]
    fn the_dearest_are_named() {
        let mut costs = Costs::new(false);
        for (i, cost) in [2, 5, 0, 4, 3, 6].into_iter().enumerate() {
            costs.add(&Path::new("s").index(i), cost * SCHEMA_COST_LIMIT / 10);
        }
        let mut errs = ErrorList::new();
        costs.check(&mut errs, &Path::new("s"));
        let paths: Vec<String> = errs.0.iter().map(|e| e.path.text()).collect();
        assert_eq!(paths, ["s[5]", "s[1]", "s[3]", "s[4]", "s"]);
    }
}
