//! What a schema of a custom resource may use of OpenAPI, and how Kubernetes' extensions fit together.
//!
//! Upstream: `ValidateCustomResourceDefinitionOpenAPISchema`.

use serde_json::Value;

use super::expressions::{self, Costs};
use super::field_path;
use crate::field::ErrorList;
use crate::object::{View, at, same, text};

/// Where in the schema we are.
#[derive(Clone)]
struct Place {
    root: bool,
    /// Within the schema of metadata, of the object or of an embedded one.
    in_meta: bool,
    /// Why a default is not allowed here, if it is not.
    no_defaults: Option<String>,
    /// The same for rules in CEL; `None` where there are none, or none can be looked at.
    rules: Option<expressions::Place>,
}

/// What is wrong with a schema and all below it, and with the rules in it, which are told last.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

/// The problems of a schema and all below it; with `costs`, those of its rules, too.
pub(super) fn validate(errs: &mut ErrorList, schema: &View<'_>, costs: Option<&mut Costs>) {
    let rules = costs.is_some().then(expressions::Place::root);
    let mut found = Found::default();
    let place = Place { root: true, in_meta: false, no_defaults: None, rules };
    walk(&mut found, schema, &place, costs.unwrap_or(&mut Costs::default()));
    errs.extend(found.schema);
    errs.extend(found.rules);
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

fn unsupported(errs: &mut ErrorList, s: &View<'_>, place: &Place) {
    let ty = s.get("type");
    if !ty.is_empty() && !TYPES.contains(&ty.str()) {
        errs.not_supported(ty.path(), ty.str(), &TYPES);
    }
    if let (true, Some(why)) = (s.get("default").is_set(), &place.no_defaults) {
        errs.forbidden(s.get("default").path(), format!("must not be set {why}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let v = s.get(field);
        if !same(v.value(), &Value::Null) || v.bool().is_some() {
            errs.forbidden(v.path(), format!("{field} is not supported"));
        }
    }
    if ty.str() == "null" {
        errs.forbidden(ty.path(), "type cannot be set to null, use nullable as an alternative");
    }
    if s.get("items").value().is_array() {
        errs.forbidden(s.get("items").path(), "items must be a schema object and not an array");
    }
    if place.in_meta && s.get("x-kubernetes-embedded-resource").is_true() {
        errs.forbidden(s.get("x-kubernetes-embedded-resource").path(), "must not be used inside of resource meta");
    }
}

fn walk(above: &mut Found, s: &View<'_>, place: &Place, costs: &mut Costs) {
    let mut found = Found::default();
    unsupported(&mut found.schema, s, place);
    if s.get("uniqueItems").is_true() {
        found.schema.forbidden(
            s.get("uniqueItems").path(),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        );
    }
    let below = Place { root: false, ..place.clone() };
    let rules = place.rules.as_ref();
    let additional = s.get("additionalProperties");
    if additional.is_set() {
        if !s.get("properties").is_empty() && !additional.is_true() {
            found.schema.forbidden(additional.path(), "additionalProperties and properties are mutual exclusive");
        }
        if additional.value().is_object() {
            let mut inside = Place { rules: rules.map(|r| r.additional(s)), ..below.clone() };
            if place.in_meta {
                inside.no_defaults = Some("inside additionalProperties applying to object metadata".into());
            }
            walk(&mut found, &additional, &inside, costs);
        }
    }
    let embedded = s.get("x-kubernetes-embedded-resource").is_true();
    for (name, property) in s.get("properties").entries() {
        let mut inside = Place { rules: rules.map(|r| r.property(s)), ..below.clone() };
        if (place.root || embedded) && matches!(name, "metadata" | "kind" | "apiVersion") {
            inside.in_meta = true;
            if place.root {
                inside.no_defaults = Some(format!("in top-level {name}"));
            }
        }
        walk(&mut found, &property, &inside, costs);
    }
    // What only narrows has no rules.
    let narrowing = Place { rules: None, ..below.clone() };
    if s.get("not").value().is_object() {
        walk(&mut found, &s.get("not"), &narrowing, costs);
    }
    for junctor in ["allOf", "oneOf", "anyOf"] {
        s.items(junctor).iter().for_each(|v| walk(&mut found, v, &narrowing, costs));
    }
    let items = s.get("items");
    let inside = Place { rules: rules.map(|r| r.items(s)), ..below };
    match items.value() {
        Value::Object(_) => walk(&mut found, &items, &inside, costs),
        Value::Array(_) => items.list().iter().for_each(|v| walk(&mut found, v, &inside, costs)),
        _ => {}
    }
    let preserve = s.get("x-kubernetes-preserve-unknown-fields");
    if preserve.bool() == Some(false) {
        found.schema.invalid(preserve.path(), false, "must be true or undefined");
    }
    map_type(&mut found.schema, s);
    list_type(&mut found.schema, s);
    rule_texts(&mut found.schema, s);
    // Types are those of a schema that holds together.
    if let (true, Some(place)) = (found.schema.is_empty(), rules) {
        expressions::validate(&mut found.rules, s, place, costs);
    }
    above.schema.extend(found.schema);
    above.rules.extend(found.rules);
}

fn typed(errs: &mut ErrorList, s: &View<'_>, wanted: &str, extension: &str) {
    let ty = s.get("type");
    let rule = format!("must be {wanted} if {extension} is specified");
    if ty.is_empty() {
        errs.required(ty.path(), rule);
    } else {
        errs.invalid(ty.path(), ty.str(), rule);
    }
}

fn map_type(errs: &mut ErrorList, s: &View<'_>) {
    let map = s.get("x-kubernetes-map-type");
    if !map.is_set() {
        return;
    }
    if s.get("type").str() != "object" {
        typed(errs, s, "object", "x-kubernetes-map-type");
    }
    if !matches!(map.str(), "atomic" | "granular") {
        errs.not_supported(map.path(), map.str(), &["atomic", "granular"]);
    }
}

fn list_type(errs: &mut ErrorList, s: &View<'_>) {
    let (list, keys, items) = (s.get("x-kubernetes-list-type"), s.get("x-kubernetes-list-map-keys"), s.get("items"));
    if list.is_set() && s.get("type").str() != "array" {
        typed(errs, s, "array", "x-kubernetes-list-type");
    } else if list.str() == "set" {
        const RULE: &str = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (inner_list, inner_map) = (items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type"));
        match items.get("type").str() {
            "array" if inner_list.is_set() && inner_list.str() != "atomic" => {
                errs.invalid(inner_list.path(), inner_list.str(), RULE);
            }
            "object" if inner_map.str() != "atomic" => errs.invalid(inner_map.path(), inner_list.value(), RULE),
            _ => {}
        }
    }
    if list.is_set() && !matches!(list.str(), "atomic" | "set" | "map") {
        errs.not_supported(list.path(), list.str(), &["atomic", "set", "map"]);
    }
    if !keys.is_empty() && list.str() != "map" {
        const RULE: &str = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.is_set() { errs.invalid(list.path(), list.str(), RULE) } else { errs.required(list.path(), RULE) }
    }
    if list.str() == "map" {
        map_list(errs, s, &keys, &items);
    }
    if matches!(list.str(), "set" | "map") && items.value().is_object() {
        if items.get("nullable").is_true() {
            errs.forbidden(
                items.get("nullable").path(),
                format!("cannot be nullable when x-kubernetes-list-type is {}", list.str()),
            );
        }
        if list.str() == "map" {
            map_keys(errs, &keys, &items);
        }
    }
}

fn map_list(errs: &mut ErrorList, _s: &View<'_>, keys: &View<'_>, items: &View<'_>) {
    if keys.is_empty() {
        errs.required(keys.path(), "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        errs.required(items.path(), "must have a schema if x-kubernetes-list-type is map");
        return;
    }
    if !items.value().is_object() {
        errs.invalid(items.path(), items.value(), "must only have a single schema if x-kubernetes-list-type is map");
        return;
    }
    let ty = items.get("type");
    if ty.str() != "object" {
        errs.invalid(ty.path(), ty.str(), "must be object if parent array's x-kubernetes-list-type is map");
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for key in keys.strs() {
        match at(items.value(), &["properties", key]) {
            Value::Null => {
                errs.invalid(keys.path(), keys.value(), "entries must all be names of item properties");
            }
            property if matches!(text(property, &["type"]), "array" | "object") => errs.invalid(
                &items.path().child("properties").key(key).child("type"),
                "object",
                "must be a scalar type if parent array's x-kubernetes-list-type is map",
            ),
            _ => {}
        }
        if !seen.insert(key) {
            errs.invalid(keys.path(), keys.value(), "must not contain duplicate entries");
        }
    }
}

/// The keys of a list that is a map are always there.
fn map_keys(errs: &mut ErrorList, keys: &View<'_>, items: &View<'_>) {
    let required = items.get("required").strs();
    for key in keys.strs() {
        let property = at(items.value(), &["properties", key]);
        if property.is_null() {
            continue;
        }
        let path = items.path().child("properties").key(key);
        if !required.contains(&key) && at(property, &["default"]).is_null() {
            errs.required(
                &path.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if property["nullable"] == true {
            errs.forbidden(
                &path.child("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
    }
}

const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

fn has_newline(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

fn rule_texts(errs: &mut ErrorList, s: &View<'_>) {
    for rule in s.items("x-kubernetes-validations") {
        let (expression, message, of_message, reason, field) = (
            rule.get("rule"),
            rule.get("message"),
            rule.get("messageExpression"),
            rule.get("reason"),
            rule.get("fieldPath"),
        );
        let (trimmed, said) = (expression.str().trim(), message.str().trim());
        if trimmed.is_empty() {
            errs.required(expression.path(), "rule is not specified");
        } else if !message.is_empty() && said.is_empty() {
            errs.invalid(message.path(), message.str(), "must be non-empty if specified");
        } else if has_newline(said) {
            errs.invalid(message.path(), message.str(), "must not contain line breaks");
        } else if has_newline(trimmed) && said.is_empty() {
            errs.required(message.path(), "message must be specified if rule contains line breaks");
        }
        if !of_message.is_empty() && of_message.str().trim().is_empty() {
            errs.required(of_message.path(), "messageExpression must be non-empty if specified");
        }
        if reason.is_set() && !REASONS.contains(&reason.str()) {
            errs.not_supported(reason.path(), reason.str(), &REASONS);
        }
        if !field.is_empty() && field.str().trim().is_empty() {
            errs.invalid(field.path(), field.str(), "must be non-empty if specified");
        }
        if has_newline(field.str()) {
            errs.invalid(field.path(), field.str(), "must not contain line breaks");
        }
        if !field.is_empty() && field_path::resolve(field.str(), s.value(), true).is_err() {
            errs.invalid(field.path(), field.str(), "must be a valid path");
        }
    }
}
