//! Rules of custom resources in CEL: compiled against the schema they stand in, and refused if they may cost too much.
//!
//! Upstream: `ValidateCustomResourceDefinitionOpenAPISchema`, `pkg/apiserver/schema/cel/compilation.go`.

use orkd_cel::k8s::schema::{
    RULE_COST_LIMIT, SCHEMA_COST_LIMIT, compile_message, compile_rule, cost_message, most_in_request, shape,
};
use orkd_cel::{Program, Shape};
use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::object::View;
use crate::validate::internal::{self, Fields, Go};

/// Where in the schema we are.
#[derive(Clone)]
struct Place {
    root: bool,
    /// How many values there may be here; `None` without a bound.
    count: Option<u64>,
    /// The list whose items cannot be told from those before an update, if we are within one.
    uncorrelatable: Option<Path>,
}

/// What the expressions seen so far may cost together.
#[derive(Default)]
struct Costs {
    /// Nothing is too much.
    unchanged: bool,
    total: u64,
    /// Those that cost a hundredth of the limit or more.
    high: Vec<(Path, u64)>,
}

/// The problems of the rules of a schema and all below it. What one of a schema that stays as it is may cost was looked
/// at before (`suppressPerExpressionCost`).
pub(super) fn validate(errs: &mut ErrorList, schema: &View<'_>, unchanged: bool) {
    let mut costs = Costs { unchanged, ..Costs::default() };
    walk(errs, schema, &Place { root: true, count: Some(1), uncorrelatable: None }, &mut costs);
    if costs.total <= SCHEMA_COST_LIMIT || unchanged {
        return;
    }
    for (path, _) in &costs.high {
        errs.forbidden(
            path,
            "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema",
        );
    }
    let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
    errs.forbidden(schema.path(), cost_message(what, costs.total, SCHEMA_COST_LIMIT));
}

fn walk(errs: &mut ErrorList, s: &View<'_>, place: &Place, costs: &mut Costs) {
    let rules = s.items("x-kubernetes-validations");
    if !rules.is_empty()
        && let Some(shape) = shape(s.value(), place.root)
    {
        for one in &rules {
            rule(errs, one, s.value(), &shape, place, costs);
        }
    }
    let below = Place { root: false, ..place.clone() };
    for (_, property) in s.get("properties").entries() {
        walk(errs, &property, &below, costs);
    }
    let many = |most: &str| Some(place.count?.saturating_mul(s.get_named(most).value().as_u64()?));
    let additional = s.get("additionalProperties");
    if additional.value().is_object() {
        walk(errs, &additional, &Place { count: many("maxProperties"), ..below.clone() }, costs);
    }
    let items = s.get("items");
    if items.value().is_object() {
        let keyed = s.get("x-kubernetes-list-type").str() == "map";
        let here = (!keyed).then(|| s.path().clone());
        let uncorrelatable = place.uncorrelatable.clone().or(here);
        walk(errs, &items, &Place { count: many("maxItems"), uncorrelatable, ..below }, costs);
    }
}

fn rule(errs: &mut ErrorList, v: &View<'_>, schema: &Value, shape: &Shape, place: &Place, costs: &mut Costs) {
    let optional_old = v.get("optionalOldSelf").is_true();
    let (text, message) = (v.get("rule"), v.get("messageExpression"));
    match compile_rule(text.str(), shape, optional_old) {
        Err(problem) => errs.invalid(text.path(), internal::shown(RULE, v.value()), problem),
        Ok(program) => {
            let optional = v.get("optionalOldSelf");
            if let (false, Some(value)) = (program.uses("oldSelf"), optional.bool()) {
                errs.invalid(optional.path(), value, "may not be set if oldSelf is not used in rule");
            }
            if let (true, Some(list)) = (program.uses("oldSelf"), &place.uncorrelatable) {
                let problem =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                errs.invalid(text.path(), text.str(), problem);
            }
            cost(errs, &text, "estimated rule cost", &program, schema, place, costs);
        }
    }
    if !message.is_empty() {
        match compile_message(message.str(), shape, optional_old) {
            Err(problem) => errs.invalid(message.path(), internal::shown(RULE, v.value()), problem),
            Ok(program) => cost(errs, &message, "estimated messageExpression cost", &program, schema, place, costs),
        }
    }
}

fn cost(
    errs: &mut ErrorList,
    v: &View<'_>,
    what: &str,
    program: &Program,
    schema: &Value,
    place: &Place,
    costs: &mut Costs,
) {
    let count = place.count.unwrap_or_else(|| most_in_request(schema));
    let cost = program.estimate().max.saturating_mul(count);
    if cost > RULE_COST_LIMIT && !costs.unchanged {
        errs.forbidden(v.path(), cost_message(what, cost, RULE_COST_LIMIT));
    }
    costs.total = costs.total.saturating_add(cost);
    if cost >= SCHEMA_COST_LIMIT / 100 {
        costs.high.push((v.path().clone(), cost));
    }
}

/// `apiextensions.ValidationRule`.
const RULE: Fields = &[
    ("rule", "Rule", Go::Text),
    ("message", "Message", Go::Text),
    ("messageExpression", "MessageExpression", Go::Text),
    ("reason", "Reason", Go::Nil),
    ("fieldPath", "FieldPath", Go::Text),
    ("optionalOldSelf", "OptionalOldSelf", Go::Nil),
];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(schema: Value, parts: &[&str]) {
        let mut errs = ErrorList::new();
        validate(&mut errs, &View::at(Path::new("s"), &schema), false);
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
        check(
            list(Some(10), "self == oldSelf"),
            &[&format!(
                "{path}: Invalid value: \"self == oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[l]"
            )],
        );
    }
}
