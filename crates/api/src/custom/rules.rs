//! Rules in CEL (`x-kubernetes-validations`), evaluated on objects.
//!
//! Rules were compiled when their definition was written, and refused if they may cost too much
//! ([`crate::apiextensions`]). Here they are compiled again when they are first needed, and kept with their schema: most
//! definitions of a cluster have no objects that are written.
//!
//! Difference from upstream: `+` of two lists that are sets or maps puts one after the other and does not merge them.
//!
//! Upstream: `pkg/apiserver/schema/cel/validation.go` of `k8s.io/apiextensions-apiserver`, `pkg/cel/common/values.go` of
//! `k8s.io/apiserver`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use orkd_cel::k8s::PER_CALL_LIMIT;
use orkd_cel::k8s::schema::{compile_message, compile_rule, shape};
use orkd_cel::time::{Duration, Timestamp};
use orkd_cel::value::{Key, Keyed, Str};
use orkd_cel::{Bindings, Budget, EvalError, Program, Value as Cel};
use serde_json::Value;

use super::structural::Rule;
use super::validation::{OldItems, list_key, same};
use super::{Additional, Schema, Ty};
use crate::apiextensions::field_path;
use crate::field::{ErrorList, Path, quote};

/// What all rules may cost together for one object (`RuntimeCELCostBudget`).
const COST_BUDGET: u64 = 10_000_000;
/// Bytes that a message made by an expression may have (`MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE: usize = 5 * 1024;

/// The rules of a schema that were compiled so far, by the row they stand in.
#[derive(Default)]
pub(super) struct Compiled(Mutex<HashMap<u32, Arc<[Ready]>>>);

/// A rule that can be evaluated.
struct Ready {
    program: Result<Program, String>,
    message: Option<Result<Program, String>>,
    /// Where the problem is, below the place of the rule.
    field: Vec<Step>,
}

enum Step {
    Field(String),
    Key(String),
}

impl Compiled {
    fn of(&self, schema: Schema<'_>) -> Arc<[Ready]> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&schema.id()).cloned();
        kept.unwrap_or_else(|| {
            let made: Arc<[Ready]> = compile(schema).into();
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(schema.id(), made.clone());
            made
        })
    }
}

fn compile(schema: Schema<'_>) -> Vec<Ready> {
    let json = schema.to_json();
    let Some(shape) = shape(&json, schema.is_root()) else { return Vec::new() };
    let ready = |rule: &Rule| {
        let optional = rule.optional_old == Some(true);
        let message =
            (!rule.message_expression.is_empty()).then(|| compile_message(&rule.message_expression, &shape, optional));
        let names = field_path::resolve(&rule.field_path, &json, true).map(|(names, _)| names).unwrap_or_default();
        Ready { program: compile_rule(&rule.rule, &shape, optional), message, field: steps(names, schema) }
    };
    schema.rules().iter().map(ready).collect()
}

fn steps(names: Vec<String>, mut schema: Schema<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for name in names {
        match (schema.property(&name), schema.additional()) {
            (Some(property), _) => {
                schema = property;
                steps.push(Step::Field(name));
            }
            (None, Additional::Schema(values)) => {
                schema = values;
                steps.push(Step::Key(name));
            }
            _ => break,
        }
    }
    steps
}

/// The problems that the rules of a schema find in a value; `old` is what stood there before an update.
pub(super) fn validate(
    compiled: &Compiled,
    path: &Path,
    value: &Value,
    old: Option<&Value>,
    schema: Schema<'_>,
) -> ErrorList {
    let mut run = Run { compiled, errs: ErrorList::new(), left: COST_BUDGET };
    let place = Place { value, old, anchor: old.map(|old| (value, old, schema)), ratchets: true };
    let _ = run.walk(path, place, schema);
    run.errs
}

/// The same for a value that stays as it is, and is none the better for it.
pub(super) fn validate_again(compiled: &Compiled, path: &Path, value: &Value, schema: Schema<'_>) -> ErrorList {
    let mut run = Run { compiled, errs: ErrorList::new(), left: COST_BUDGET };
    let _ = run.walk(path, Place { value, old: Some(value), anchor: None, ratchets: false }, schema);
    run.errs
}

/// A value, what stood there before an update, and what both are part of that can be compared.
#[derive(Clone, Copy)]
struct Place<'a> {
    value: &'a Value,
    old: Option<&'a Value>,
    anchor: Option<(&'a Value, &'a Value, Schema<'a>)>,
    /// What has not changed is let be.
    ratchets: bool,
}

impl<'a> Place<'a> {
    fn below(self, value: &'a Value, old: Option<&'a Value>, schema: Schema<'a>) -> Place<'a> {
        let anchor = old.filter(|_| self.ratchets).map(|old| (value, old, schema)).or(self.anchor);
        Place { value, old, anchor, ..self }
    }

    /// Whether nothing has changed since the update before: what was bad then may stay.
    fn is_unchanged(self) -> bool {
        self.anchor.is_some_and(|(new, old, schema)| same(new, old, schema))
    }
}

struct Run<'c> {
    compiled: &'c Compiled,
    errs: ErrorList,
    left: u64,
}

/// The budget is used up: nothing more is evaluated.
struct Spent;

impl Run<'_> {
    fn walk(&mut self, path: &Path, place: Place<'_>, schema: Schema<'_>) -> Result<(), Spent> {
        if !schema.has_rules() || place.value.is_null() {
            return Ok(());
        }
        self.rules(path, place, schema)?;
        match place.value {
            Value::Object(map) => {
                for (key, value) in map {
                    let (path, below) = match (schema.property(key), schema.additional()) {
                        (Some(property), _) => (path.child(key), property),
                        (None, Additional::Schema(values)) => (path.key(key), values),
                        _ => continue,
                    };
                    let old = place.old.and_then(|old| old.get(key));
                    self.walk(&path, place.below(value, old, below), below)?;
                }
            }
            Value::Array(list) => {
                if let Some(items) = schema.items() {
                    let before = OldItems::new(schema, place.old);
                    for (i, item) in list.iter().enumerate() {
                        self.walk(&path.index(i), place.below(item, before.get(item), items), items)?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(&mut self, path: &Path, place: Place<'_>, schema: Schema<'_>) -> Result<(), Spent> {
        let rules = schema.rules();
        if rules.is_empty() {
            return Ok(());
        }
        let ready = self.compiled.of(schema);
        let ty = schema.ty().name();
        let current = to_cel(place.value, schema);
        let old = place.old.filter(|old| !old.is_null()).map(|old| to_cel(old, schema));
        for (rule, ready) in rules.iter().zip(ready.iter()) {
            let program = match &ready.program {
                Ok(program) => program,
                Err(problem) => {
                    self.errs.invalid(path, ty, format!("rule compile error: {problem}"));
                    continue;
                }
            };
            let optional = rule.optional_old == Some(true);
            if program.uses("oldSelf") && old.is_none() && !optional {
                continue;
            }
            let mut bindings = Bindings::new().with("self", current.clone());
            if optional {
                bindings = bindings.with("oldSelf", Cel::Optional(old.clone().map(Arc::new)));
            } else if let Some(old) = &old {
                bindings = bindings.with("oldSelf", old.clone());
            }
            let mut budget = Budget::new(PER_CALL_LIMIT);
            let result = program.eval(&bindings, &mut budget);
            if budget.used() > self.left {
                let what =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                self.errs.invalid(path, ty, what);
                return Err(Spent);
            }
            self.left -= budget.used();
            match result {
                Ok(Cel::Bool(true)) => {}
                Ok(_) => self.broken(path, place, ty, rule, ready, &bindings)?,
                Err(error) => self.failed(path, ty, rule, &error)?,
            }
        }
        Ok(())
    }

    /// A rule that has no value.
    fn failed(&mut self, path: &Path, ty: &str, rule: &Rule, error: &EvalError) -> Result<(), Spent> {
        let shown = shown(rule);
        if *error == EvalError::CostLimit {
            let why = "no further validation rules will be run due to call cost exceeds limit for rule";
            self.errs.invalid(path, ty, format!("'{error}': {why}: {shown}"));
            return Err(Spent);
        }
        let text = error.to_string();
        let detail = if text.starts_with("no such overload") {
            let why = "call arguments did not match a supported operator, function or macro signature for rule";
            format!("'{text}': {why}: {shown}")
        } else {
            format!("{text} evaluating rule: {shown}")
        };
        self.errs.invalid(path, ty, detail);
        Ok(())
    }

    /// A rule that does not hold.
    fn broken(
        &mut self,
        path: &Path,
        place: Place<'_>,
        ty: &str,
        rule: &Rule,
        ready: &Ready,
        bindings: &Bindings<'_>,
    ) -> Result<(), Spent> {
        let path = ready.field.iter().fold(path.clone(), |path, step| match step {
            Step::Field(name) => path.child(name),
            Step::Key(key) => path.key(key),
        });
        let of_transition = ready.program.as_ref().is_ok_and(|program| program.uses("oldSelf"));
        let is_let_be = !of_transition && place.is_unchanged();
        let mut detail = None;
        if let Some(Ok(message)) = &ready.message {
            match self.message(message, rule, bindings) {
                Ok(made) => detail = made,
                Err(problem) => {
                    if !is_let_be {
                        self.errs.invalid(&path, ty, problem);
                    }
                    return Err(Spent);
                }
            }
        }
        if is_let_be {
            return Ok(());
        }
        let detail = detail.unwrap_or_else(|| match rule.message.trim() {
            "" => format!("failed rule: {}", shown(rule)),
            message => message.to_owned(),
        });
        match &*rule.reason {
            "FieldValueForbidden" => self.errs.forbidden(&path, detail),
            "FieldValueRequired" => self.errs.required(&path, detail),
            "FieldValueDuplicate" => self.errs.duplicate(&path, ty),
            _ => self.errs.invalid(&path, ty, detail),
        }
        Ok(())
    }

    /// The message that an expression makes; none if it makes no good one. An error ends everything.
    fn message(&mut self, program: &Program, rule: &Rule, bindings: &Bindings<'_>) -> Result<Option<String>, String> {
        let mut budget = Budget::new(PER_CALL_LIMIT);
        let result = program.eval(bindings, &mut budget);
        if budget.used() > self.left {
            return Err(
                "messageExpression evaluation failed due to running out of cost budget, no further validation \
                        rules will be run"
                    .to_owned(),
            );
        }
        self.left -= budget.used();
        match result {
            Err(EvalError::CostLimit) => {
                let why =
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression";
                Err(format!("{why}: {}", quote(&rule.message_expression)))
            }
            Err(_) => Ok(None),
            Ok(made) => {
                let text = made.as_str().unwrap_or_default().trim();
                let good = !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
                Ok(good.then(|| text.to_owned()))
            }
        }
    }
}

/// How messages name a rule.
fn shown(rule: &Rule) -> &str {
    if rule.message.is_empty() { rule.rule.trim() } else { rule.message.trim() }
}

/// A value as rules see it: what JSON writes as text or as a whole number has the type that its schema gives it.
fn to_cel<'a>(value: &'a Value, schema: Schema<'_>) -> Cel<'a> {
    if !schema.converts() {
        return Cel::from(value);
    }
    match (value, schema.ty()) {
        (Value::Number(n), Ty::Number) => n.as_f64().map_or_else(|| Cel::from(value), Cel::Double),
        (Value::String(text), Ty::String) => {
            let made = match schema.format().unwrap_or_default() {
                "byte" => base64::engine::general_purpose::STANDARD.decode(text).ok().map(|b| Cel::Bytes(b.into())),
                "duration" => Duration::parse(text).map(Cel::Duration),
                "date" => Timestamp::parse(&format!("{text}T00:00:00Z")).map(Cel::Timestamp),
                "date-time" => Timestamp::parse(text).map(Cel::Timestamp),
                _ => None,
            };
            made.unwrap_or_else(|| Cel::from(value))
        }
        (Value::Array(list), _) if matches!(schema.list_type(), "set" | "map") => {
            let key =
                |item: &Value| if schema.list_type() == "map" { list_key(item, schema) } else { item.to_string() };
            let made = |item: &'a Value| schema.items().map_or_else(|| Cel::from(item), |items| to_cel(item, items));
            Keyed::new(list.iter().map(|item| (key(item), made(item)))).into()
        }
        (Value::Array(list), _) => match schema.items() {
            Some(items) => list.iter().map(|item| to_cel(item, items)).collect::<Vec<_>>().into(),
            None => Cel::from(value),
        },
        (Value::Object(map), _) => map
            .iter()
            .map(|(key, value)| {
                let made = match (schema.property(key), schema.additional()) {
                    (Some(property), _) => to_cel(value, property),
                    (None, Additional::Schema(values)) => to_cel(value, values),
                    _ => Cel::from(value),
                };
                (Key::String(Str::Borrowed(key)), made)
            })
            .collect(),
        _ => Cel::from(value),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::custom::Structural;
    use crate::patch::testing::any_json;

    fn problems(schema: &Value, object: &Value, old: Option<&Value>) -> Vec<String> {
        let schema = Structural::compile(schema);
        let found = validate(schema.compiled(), &Path::root(), object, old, schema.root());
        found.0.iter().map(ToString::to_string).collect()
    }

    fn spec(properties: Value, rule: Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties,
            "x-kubernetes-validations": [rule]}}})
    }

    #[track_caller]
    fn check(properties: Value, rule: Value, spec_value: Value, expected: &[&str]) {
        assert_eq!(problems(&spec(properties, rule), &json!({"spec": spec_value}), None), expected);
    }

    #[test]
    fn rules_hold_or_not() {
        let ints = || json!({"a": {"type": "integer"}, "b": {"type": "integer"}});
        let rule = json!({"rule": "self.a < self.b"});
        check(ints(), rule.clone(), json!({"a": 1, "b": 2}), &[]);
        check(
            ints(),
            rule.clone(),
            json!({"a": 2, "b": 2}),
            &["spec: Invalid value: \"object\": failed rule: self.a < self.b"],
        );
        check(
            ints(),
            rule,
            json!({"a": 2}),
            &["spec: Invalid value: \"object\": no such key: b evaluating rule: self.a < self.b"],
        );
        check(
            ints(),
            json!({"rule": "self.a < self.b", "message": "a must be less", "reason": "FieldValueForbidden", "fieldPath": ".a"}),
            json!({"a": 2, "b": 2}),
            &["spec.a: Forbidden: a must be less"],
        );
        check(
            ints(),
            json!({"rule": "self.a < self.b", "messageExpression": "'a is ' + string(self.a)"}),
            json!({"a": 2, "b": 2}),
            &["spec: Invalid value: \"object\": a is 2"],
        );
        check(
            ints(),
            json!({"rule": "self.a < self.b", "message": "plain", "messageExpression": "'a\\nb'"}),
            json!({"a": 2, "b": 2}),
            &["spec: Invalid value: \"object\": plain"],
        );
        check(
            json!({"m": {"type": "object", "additionalProperties": {"type": "string"}}}),
            json!({"rule": "self.m['k'] == 'x'", "fieldPath": ".m['k']", "reason": "FieldValueRequired"}),
            json!({"m": {"k": "y"}}),
            &["spec.m[k]: Required value: failed rule: self.m['k'] == 'x'"],
        );
    }

    #[test]
    fn values_have_the_types_of_their_schema() {
        let types = || {
            json!({"when": {"type": "string", "format": "date-time"}, "day": {"type": "string", "format": "date"},
                "wait": {"type": "string", "format": "duration"}, "data": {"type": "string", "format": "byte"},
                "number": {"type": "number"}, "size": {"x-kubernetes-int-or-string": true}, "x-y": {"type": "boolean"},
                "e": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}})
        };
        for rule in [
            "self.when > timestamp('2020-01-01T00:00:00Z') && self.day < self.when",
            "self.wait == duration('90s')",
            "self.data == b'hi'",
            "self.number / 2.0 == 0.5",
            "self.size == 5 || self.size == '5%'",
            "self.x__dash__y",
            "self.e.kind == 'Pod' && self.e.metadata.name == 'p'",
        ] {
            let value = json!({"when": "2021-01-01T00:00:00Z", "day": "2020-05-05", "wait": "1m30s", "data": "aGk=",
                "number": 1, "size": "5%", "x-y": true, "e": {"kind": "Pod", "metadata": {"name": "p"}, "more": 1}});
            check(types(), json!({"rule": rule}), value, &[]);
        }
        let root =
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name.startsWith('a')"}]});
        assert_eq!(
            problems(&root, &json!({"metadata": {"name": "b"}}), None),
            ["<nil>: Invalid value: \"object\": failed rule: self.metadata.name.startsWith('a')"]
        );
        check(
            json!({"size": {"x-kubernetes-int-or-string": true}}),
            json!({"rule": "self.size > 3"}),
            json!({"size": "x"}),
            &[
                "spec: Invalid value: \"object\": 'no such overload: _>_(string, int)': call arguments did not match a supported \
                 operator, function or macro signature for rule: self.size > 3",
            ],
        );
    }

    #[test]
    fn transitions() {
        let schema = spec(json!({"a": {"type": "integer"}}), json!({"rule": "self.a >= oldSelf.a"}));
        let (one, two) = (json!({"spec": {"a": 1}}), json!({"spec": {"a": 2}}));
        assert_eq!(problems(&schema, &one, None), [""; 0]);
        assert_eq!(problems(&schema, &two, Some(&one)), [""; 0]);
        assert_eq!(
            problems(&schema, &one, Some(&two)),
            ["spec: Invalid value: \"object\": failed rule: self.a >= oldSelf.a"]
        );
        let optional = json!({"rule": "oldSelf.hasValue() || self.a == 1", "optionalOldSelf": true});
        let schema = spec(json!({"a": {"type": "integer"}}), optional);
        assert_eq!(problems(&schema, &one, None), [""; 0]);
        assert_eq!(problems(&schema, &two, None).len(), 1);
        assert_eq!(problems(&schema, &two, Some(&one)), [""; 0]);
        let list = json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object", "properties": {"k": {"type": "string"},
            "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "immutable"}]}}}}}});
        let old = json!({"l": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]});
        let new = json!({"l": [{"k": "b", "v": 3}, {"k": "c", "v": 9}, {"k": "a", "v": 1}]});
        assert_eq!(problems(&list, &new, Some(&old)), ["l[0].v: Invalid value: \"integer\": immutable"]);
    }

    #[test]
    fn the_order_of_sets_and_maps_says_nothing() {
        let list = |more: Value| {
            let mut list = json!({"type": "array", "x-kubernetes-validations": [{"rule": "self == oldSelf"}]});
            list.as_object_mut().into_iter().for_each(|l| l.extend(more.as_object().cloned().unwrap_or_default()));
            json!({"type": "object", "properties": {"l": list}})
        };
        let set = list(json!({"x-kubernetes-list-type": "set", "items": {"type": "string"}}));
        let plain = list(json!({"items": {"type": "string"}}));
        let (old, new) = (json!({"l": ["a", "b"]}), json!({"l": ["b", "a"]}));
        assert_eq!(problems(&set, &new, Some(&old)), [""; 0]);
        assert_eq!(problems(&set, &json!({"l": ["a", "c"]}), Some(&old)).len(), 1);
        assert_eq!(problems(&plain, &new, Some(&old)).len(), 1);
        let map = list(
            json!({"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {"type": "object",
            "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}}),
        );
        let old = json!({"l": [{"k": "a", "v": 1}, {"k": "b", "v": 2}]});
        assert_eq!(problems(&map, &json!({"l": [{"k": "b", "v": 2}, {"k": "a", "v": 1}]}), Some(&old)), [""; 0]);
        assert_eq!(problems(&map, &json!({"l": [{"k": "b", "v": 1}, {"k": "a", "v": 2}]}), Some(&old)).len(), 1);
    }

    #[test]
    fn what_has_not_changed_is_let_be() {
        let schema =
            spec(json!({"a": {"type": "integer"}, "b": {"type": "integer"}}), json!({"rule": "self.a < self.b"}));
        let bad = json!({"spec": {"a": 2, "b": 1}});
        let moved = json!({"spec": {"a": 3, "b": 1}});
        assert_eq!(problems(&schema, &bad, Some(&bad)), [""; 0]);
        assert_eq!(problems(&schema, &moved, Some(&bad)).len(), 1);
    }

    #[test]
    fn budgets() {
        let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "string",
            "x-kubernetes-validations": [{"rule": "self.contains(self)"}]}}, "z": {"type": "string",
            "x-kubernetes-validations": [{"rule": "false"}]}}});
        let object = json!({"l": vec!["a".repeat(9000); 20], "z": ""});
        let found = problems(&schema, &object, None);
        let end = "validation failed due to running out of cost budget, no further validation rules will be run";
        assert_eq!(found.len(), 1);
        assert!(found[0].ends_with(&format!("Invalid value: \"string\": {end}")), "{found:?}");

        let schema = json!({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "integer"},
            "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}}});
        let found = problems(&schema, &json!({"l": vec![1; 2000]}), None);
        assert_eq!(
            found,
            [
                "l: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be \
                 run due to call cost exceeds limit for rule: self.all(x, self.all(y, x == y))",
            ]
        );
    }

    proptest! {
        #[test]
        fn nothing_panics(schema in any_json(), value in any_json(), rule in "[a-z.() =0-9]{0,20}") {
            let rules = json!([{"rule": rule, "fieldPath": rule, "messageExpression": "self"}, {"rule": "self == oldSelf"}]);
            let schema = json!({"type": "object", "x-kubernetes-validations": rules, "properties": {"a": {"type": "object",
                "properties": schema, "x-kubernetes-validations": rules}}});
            problems(&schema, &json!({"a": value}), Some(&json!({"a": value})));
        }
    }
}
