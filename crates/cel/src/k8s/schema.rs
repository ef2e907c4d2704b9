//! Types from the schema of a resource (`apiserver/pkg/cel/common/schemas.go`), and rules of custom resources
//! (`apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`).

use serde_json::Value as Json;

use super::base;
use crate::env::Program;
use crate::plan::property;
use crate::types::{Shape, Type, UNNAMED};

/// The largest request; what has no bound is as large as fits in it (`DefaultMaxRequestSizeBytes`).
const MAX_REQUEST: u64 = 3 << 20;

/// What one rule may be estimated to cost, for all the places where it is evaluated (`StaticEstimatedCostLimit`).
pub const RULE_COST_LIMIT: u64 = 10_000_000;

/// What all rules of a schema may be estimated to cost together (`StaticEstimatedCRDCostLimit`).
pub const SCHEMA_COST_LIMIT: u64 = 100_000_000;

/// A shape, and how many bytes the shortest value has in JSON.
struct Sized {
    shape: Shape,
    min: u64,
}

/// What expressions see of values of a schema; `None` if they cannot see them. At the root of a resource its kind and
/// metadata are there too.
pub fn shape(schema: &Json, root: bool) -> Option<Shape> {
    Some(sized(schema, root)?.shape)
}

fn bound(schema: &Json, name: &str) -> Option<u64> {
    schema[name].as_i64().map(|n| u64::try_from(n).unwrap_or(0))
}

fn sized(schema: &Json, root: bool) -> Option<Sized> {
    // What has no size, and the keys of maps, count for nothing, as upstream.
    let plain = |ty: Type, min| Some(Sized { shape: Shape::bounded(ty, 0), min });
    let text = MAX_REQUEST - 2;
    if schema["x-kubernetes-int-or-string"] == true || schema["format"] == "int-or-string" {
        return Some(Sized { shape: Shape::bounded(Type::Dyn, text), min: 1 });
    }
    let root = root || schema["x-kubernetes-embedded-resource"] == true;
    match schema["type"].as_str().unwrap_or("") {
        "boolean" => plain(Type::Bool, 4),
        "number" => plain(Type::Double, 1),
        "integer" => plain(Type::Int, 1),
        "string" => {
            let most = bound(schema, "maxLength");
            let (ty, max, min) = match schema["format"].as_str().unwrap_or("") {
                "byte" => (Type::Bytes, most.unwrap_or(text), 2),
                "duration" => (Type::Duration, most.unwrap_or(32), 3),
                "date" => (Type::Timestamp, 10, 12),
                "date-time" => (Type::Timestamp, 20, 22),
                _ => (Type::String, most.or_else(|| longest(&schema["enum"])).unwrap_or(text), 2),
            };
            Some(Sized { shape: Shape::bounded(ty, max), min })
        }
        "array" => {
            let item = sized(&schema["items"], false)?;
            let max = bound(schema, "maxItems").unwrap_or(text / (item.min + 1));
            Some(Sized { shape: Shape::list(item.shape, Some(max)), min: 2 })
        }
        "object" if schema["additionalProperties"].is_object() => {
            let value = sized(&schema["additionalProperties"], false)?;
            let max = bound(schema, "maxProperties").unwrap_or(text / (value.min + 6));
            Some(Sized { shape: Shape::map(Shape::bounded(Type::String, 0), value.shape, Some(max)), min: 2 })
        }
        "object" => Some(object(schema, root)),
        _ => None,
    }
}

fn longest(values: &Json) -> Option<u64> {
    let lengths = values.as_array()?.iter().map(|v| v.as_str().map_or(0, str::len));
    lengths.max().map(|n| n as u64)
}

fn object(schema: &Json, root: bool) -> Sized {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let (mut fields, mut min) = (Vec::new(), 2);
    let added = root && !has_type_and_metadata(schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if added && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let Some(field) = sized(property, false) else { continue };
        if required.contains(&name.as_str()) && property["default"].is_null() {
            min += name.len() as u64 + field.min + 4;
        }
        if let Some(name) = escape(name) {
            fields.push((name, field.shape));
        }
    }
    if added {
        let text = || Shape::bounded(Type::String, MAX_REQUEST - 2);
        let metadata = ["name", "generateName"].map(|name| (name.to_owned(), text()));
        fields.push(("metadata".to_owned(), Shape::object(UNNAMED, metadata)));
        fields.extend(["apiVersion", "kind"].map(|name| (name.to_owned(), text())));
    }
    Sized { shape: Shape::object(UNNAMED, fields), min }
}

/// Whether a schema says itself what every resource has; then that is what expressions see (`WithTypeAndObjectMeta`).
fn has_type_and_metadata(schema: &Json) -> bool {
    let properties = &schema["properties"];
    let metadata = &properties["metadata"];
    let text = |of: &Json, name: &str| of[name]["type"] == "string";
    text(properties, "kind")
        && text(properties, "apiVersion")
        && metadata["type"] == "object"
        && text(&metadata["properties"], "name")
        && text(&metadata["properties"], "generateName")
}

/// The name of a field in expressions; `None` if it cannot have one (`apiserver/pkg/cel/escaping.go`).
fn escape(name: &str) -> Option<String> {
    let mut bytes = name.bytes();
    let first = bytes.next()?;
    if first.is_ascii_digit() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-/".contains(&b)) {
        return None;
    }
    if crate::parser::is_reserved(name) {
        return Some(format!("__{name}__"));
    }
    let escaped = name
        .replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__");
    debug_assert_eq!(&*property(&escaped), name);
    Some(escaped)
}

/// How many values of a schema there can be in a request, if nothing else bounds them (`MaxCardinality`).
pub fn most_in_request(schema: &Json) -> u64 {
    MAX_REQUEST / (sized(schema, false).map_or(1, |s| s.min) + 1)
}

/// Compiles a rule on values of a shape. With `optional_old`, the old value may be absent.
pub fn compile_rule(rule: &str, shape: &Shape, optional_old: bool) -> Result<Program, String> {
    let program = compile(rule, shape, optional_old)?;
    match program.result_type() {
        Type::Bool => Ok(program),
        _ => Err("cel expression must evaluate to a bool".to_owned()),
    }
}

/// Compiles the expression that gives the message of a rule.
pub fn compile_message(expression: &str, shape: &Shape, optional_old: bool) -> Result<Program, String> {
    let program = compile(expression, shape, optional_old).map_err(|e| format!("messageExpression {e}"))?;
    match program.result_type() {
        Type::String => Ok(program),
        _ => Err("messageExpression must evaluate to a string".to_owned()),
    }
}

fn compile(expression: &str, shape: &Shape, optional_old: bool) -> Result<Program, String> {
    let shape = shape.clone().named("selfType");
    let old = if optional_old { Type::optional(shape.ty().clone()).into() } else { shape.clone() };
    let env = base().extend().variable("self", shape).variable("oldSelf", old).build();
    env.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))
}

/// What is told of an expression that costs `cost` where `limit` is allowed (`getCostErrorMessage`).
pub fn cost_message(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema() -> Json {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"}, "name": {"type": "string", "maxLength": 10}, "namespace": {"type": "string"},
            "x-y": {"type": "boolean"}, "size": {"x-kubernetes-int-or-string": true}, "when": {"type": "string", "format": "date-time"},
            "free": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 3}},
            "open": {"type": "array", "items": {"type": "string"}},
            "map": {"type": "object", "additionalProperties": {"type": "integer"}, "maxProperties": 4}}}}})
    }

    #[test]
    fn rules_are_checked_against_the_schema() {
        let shape = shape(&schema(), true).expect("a shape");
        let check = |rule: &str, want: Result<(), &str>| {
            let got = compile_rule(rule, &shape, false).map(|_| ());
            match (&got, want) {
                (Ok(()), Ok(())) => {}
                (Err(e), Err(part)) if e.contains(part) => {}
                _ => panic!("{rule}: {got:?}, not {want:?}"),
            }
        };
        check("self.spec.replicas > 1 && self.metadata.name.startsWith('x') && self.kind == 'K'", Ok(()));
        check("self.spec.__namespace__ == 'a' && self.spec.x__dash__y", Ok(()));
        check("self.spec.size == 5 || self.spec.size == '5%'", Ok(()));
        check("self.spec.when > timestamp('2020-01-01T00:00:00Z')", Ok(()));
        check("self.spec.list.all(x, x.size() > 1) && self.spec.map.all(k, self.spec.map[k] > 1)", Ok(()));
        check("self.spec.replicas >= oldSelf.spec.replicas", Ok(()));
        check("self.spec.nope == 1", Err("undefined field 'nope'"));
        check("self.spec.free == 1", Err("undefined field 'free'"));
        check("self.metadata.labels.size() > 1", Err("undefined field 'labels'"));
        check("self.spec.replicas == 'a'", Err("found no matching overload for '_==_' applied to '(int, string)'"));
        check("self.spec == self.metadata", Err("applied to '(selfType.spec, selfType.metadata)'"));
        check("self.spec.replicas", Err("cel expression must evaluate to a bool"));
        check(
            "self.spec.replicas >",
            Err("compilation failed: ERROR: <input>:1:21: Syntax error: mismatched input '<EOF>'"),
        );
        assert!(compile_rule("oldSelf.hasValue() || self.spec.replicas > 1", &shape, true).is_ok());
        assert!(compile_message("'is ' + string(self.spec.replicas)", &shape, false).is_ok());
        assert!(
            compile_message("self.spec.replicas", &shape, false).is_err_and(|e| e.ends_with("evaluate to a string"))
        );
    }

    #[test]
    fn metadata_is_what_the_schema_says_where_it_says_all() {
        let with = |metadata: Json| {
            json!({"type": "object", "properties": {"apiVersion": {"type": "string"},
            "kind": {"type": "string"}, "metadata": {"type": "object", "properties": metadata}}})
        };
        let labels = json!({"type": "object", "additionalProperties": {"type": "string"}});
        let text = json!({"type": "string"});
        let whole = shape(&with(json!({"name": text, "generateName": text, "labels": labels})), true).expect("a shape");
        assert!(compile_rule("self.metadata.labels['a'] == self.metadata.name", &whole, false).is_ok());
        let part = shape(&with(json!({"name": text, "labels": labels})), true).expect("a shape");
        assert!(compile_rule("self.metadata.generateName == ''", &part, false).is_ok());
        assert!(compile_rule("'a' in self.metadata.labels", &part, false).is_err_and(|e| e.contains("'labels'")));
    }

    #[test]
    fn costs_follow_the_bounds_of_the_schema() {
        let shape = shape(&schema(), true).expect("a shape");
        let cost = |rule: &str| compile_rule(rule, &shape, false).expect(rule).estimate().max;
        assert_eq!(cost("self.spec.list.all(x, x == 'abc')"), 3 + 5 * (2 + 1 + 1 + 1) + 1);
        assert!(cost("self.spec.open.all(x, self.spec.open.all(y, x == y))") > RULE_COST_LIMIT);
        assert_eq!(most_in_request(&schema()["properties"]["spec"]["properties"]["replicas"]), MAX_REQUEST / 2);
        assert_eq!(most_in_request(&schema()), MAX_REQUEST / 13);
    }

    /// Rules as Gateway API and many operators have them.
    #[test]
    fn common_rules_fit() {
        let addresses = json!({"type": "array", "maxItems": 16, "items": {"type": "object", "properties": {
            "type": {"type": "string", "maxLength": 253}, "value": {"type": "string", "maxLength": 253}}}});
        let map = json!({"type": "object", "maxProperties": 16, "additionalProperties": {"type": "string", "maxLength": 4096}});
        for (schema, rule) in [
            (schema(), "self == oldSelf"),
            (schema(), "!has(oldSelf.spec) || self.spec == oldSelf.spec"),
            (
                addresses.clone(),
                "self.all(a1, a1.type == 'IPAddress' && has(a1.value) ? self.exists_one(a2, a2.type == a1.type && \
                 has(a2.value) && a2.value == a1.value) : true )",
            ),
            (
                addresses["items"].clone(),
                "self.type == 'Hostname' ? (!has(self.value) || self.value.matches(r\"\"\"^(\\*\\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?\
                 (\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$\"\"\")): true",
            ),
            (map.clone(), "self.all(key, key.split(\"/\")[0].size() < 253)"),
            (
                map,
                "self.all(key, key.matches(r\"\"\"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?$\"\"\"))",
            ),
        ] {
            let program = compile_rule(rule, &shape(&schema, false).expect("a shape"), false).expect(rule);
            assert!(program.estimate().max < RULE_COST_LIMIT / 16, "{rule}: {:?}", program.estimate());
        }
    }

    #[test]
    fn the_message_tells_how_far_off() {
        let end = " (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and \
                   strings are declared)";
        for (cost, factor) in [(11, "1.100000x"), (25, "2.5x"), (1001, "more than 100x")] {
            let want = format!("estimated rule cost exceeds budget by factor of {factor}{end}");
            assert_eq!(cost_message("estimated rule cost", cost, 10), want);
        }
    }
}
