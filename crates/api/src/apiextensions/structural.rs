//! Whether a schema is structural: every field has a type, and what is said below `anyOf` and its like only narrows.
//!
//! Upstream: `pkg/apiserver/schema/{validation,complete}.go` of `k8s.io/apiextensions-apiserver`.

use serde_json::{Value, json};

use crate::field::{ErrorList, FieldError};
use crate::object::{View, at, list, same};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// The problems of a schema, sorted by their text.
pub(super) fn validate(errs: &mut ErrorList, schema: &View<'_>) {
    let mut found = ErrorList::new();
    invariants(&mut found, schema, Level::Root);
    completeness(&mut found, schema);
    let mut found: Vec<(String, FieldError)> = found.0.into_iter().map(|e| (e.to_string(), e)).collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    errs.extend(ErrorList(found.into_iter().map(|(_, e)| e).collect()));
}

/// Why a schema has no structural form at all: what it uses is not supported. Upstream: `NewStructural`.
pub(super) fn unsupported(schema: &Value) -> Option<String> {
    for field in ["id", "$schema", "$ref", "patternProperties", "dependencies", "additionalItems", "definitions"] {
        let part = at(schema, &[field]);
        if part.is_boolean() || !same(part, &Value::Null) {
            let name = if field == "$schema" { "schema" } else { field };
            return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
        }
    }
    if at(schema, &["x-kubernetes-preserve-unknown-fields"]) == &Value::Bool(false) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".into());
    }
    if at(schema, &["items"]).is_array() {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".into());
    }
    let named = at(schema, &["properties"]).as_object().into_iter().flatten().map(|(_, s)| s);
    let listed = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|junctor| list(schema, &[junctor]));
    let alone = ["items", "additionalProperties", "not"].into_iter().map(|field| at(schema, &[field]));
    named.chain(listed).chain(alone).filter(|part| part.is_object()).find_map(unsupported)
}

/// The schemas of the properties.
fn properties<'a>(schema: &View<'a>) -> Vec<(&'a str, View<'a>)> {
    schema.get("properties").entries()
}

/// A part that is a schema; a list of schemas (of items) is not, nor a boolean.
fn subschema<'a>(schema: &View<'a>, field: &str) -> Option<View<'a>> {
    Some(schema.get_named(field)).filter(|v| v.value().is_object())
}

fn flag(schema: &View<'_>, extension: &str) -> bool {
    schema.get_named(&format!("x-kubernetes-{extension}")).is_true()
}

fn int_or_string() -> Value {
    json!([{"type": "integer"}, {"type": "string"}])
}

fn invariants(errs: &mut ErrorList, s: &View<'_>, level: Level) {
    let ty = s.get("type");
    let items = subschema(s, "items");
    if ty.str() == "array" && items.is_none() {
        errs.required(s.get("items").path(), "must be specified");
    }
    if let Some(items) = &items {
        invariants(errs, items, Level::Item);
    }
    for (_, property) in properties(s) {
        invariants(errs, &property, Level::Field);
    }
    let additional = s.get("additionalProperties");
    if additional.is_set() {
        if level == Level::Root {
            errs.forbidden(additional.path(), "must not be used at the root");
        }
        if additional.value().is_object() {
            invariants(errs, &additional, Level::Field);
        }
    }
    let (ios, preserve, embedded) =
        (flag(s, "int-or-string"), flag(s, "preserve-unknown-fields"), flag(s, "embedded-resource"));
    if ios && preserve {
        errs.invalid(
            s.get("x-kubernetes-preserve-unknown-fields").path(),
            true,
            "must be false if x-kubernetes-int-or-string is true",
        );
    }
    if ios && embedded {
        errs.invalid(
            s.get("x-kubernetes-embedded-resource").path(),
            true,
            "must be false if x-kubernetes-int-or-string is true",
        );
    }
    let all_of = s.items("allOf");
    let skip_any = s.get("anyOf").value() == &int_or_string();
    let skip_first = all_of.first().is_some_and(|first| first.get("anyOf").value() == &int_or_string());
    narrowing(errs, s, skip_any, skip_first);
    if embedded && ty.str() != "object" {
        const RULE: &str = "must be object if x-kubernetes-embedded-resource is true";
        if ty.is_empty() { errs.required(ty.path(), RULE) } else { errs.invalid(ty.path(), ty.str(), RULE) }
    } else if ty.is_empty() && !ios && !preserve {
        let what = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errs.required(ty.path(), what);
    }
    if embedded && additional.is_set() {
        errs.forbidden(additional.path(), "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root && !ty.is_empty() && ty.str() != "object" {
        errs.invalid(ty.path(), ty.str(), "must be object at the root");
    }
    let of_object = level == Level::Root || embedded;
    for (name, property) in properties(s) {
        let ty = property.get("type");
        match name {
            "kind" | "apiVersion" if of_object && ty.str() != "string" => {
                errs.invalid(ty.path(), ty.str(), "must be string");
            }
            "metadata" => metadata(errs, &property, of_object, level),
            _ => {}
        }
    }
    if embedded && !preserve && properties(s).is_empty() {
        errs.required(
            s.get("properties").path(),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

/// Of the metadata, a schema may restrict the name alone.
fn metadata(errs: &mut ErrorList, v: &View<'_>, of_object: bool, level: Level) {
    let ty = v.get("type");
    if of_object && ty.str() != "object" {
        errs.invalid(ty.path(), ty.str(), "must be object");
    }
    if level != Level::Root {
        return;
    }
    let names_only = properties(v).iter().all(|(name, _)| matches!(*name, "name" | "generateName"));
    let others = v.map().into_iter().flatten().any(|(k, value)| {
        !matches!(k.as_str(), "type" | "default")
            && (k != "properties" || !names_only)
            && !crate::object::same(value, &Value::Null)
    });
    if others {
        errs.forbidden(
            v.path(),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

/// What is below the junctors of a schema.
fn narrowing(errs: &mut ErrorList, s: &View<'_>, skip_any: bool, skip_any_of_first: bool) {
    if !skip_any {
        s.items("anyOf").iter().for_each(|v| nested(errs, v, false));
    }
    for (i, v) in s.items("allOf").iter().enumerate() {
        nested(errs, v, skip_any_of_first && i == 0);
    }
    s.items("oneOf").iter().for_each(|v| nested(errs, v, false));
    if let Some(not) = subschema(s, "not") {
        nested(errs, &not, false);
    }
    let pattern = s.get("pattern");
    if let Some(why) = refused(pattern.str()) {
        errs.invalid(pattern.path(), pattern.str(), format!("must be a valid regular expression, but isn't: {why}"));
    }
}

/// Why Go's parser refuses a pattern. What our own parser alone does not take is let through: the two differ in what
/// may stand unescaped.
fn refused(pattern: &str) -> Option<String> {
    if pattern.is_empty() || regex::Regex::new(pattern).is_ok() {
        return None;
    }
    if let Some(syntax) = ["(?=", "(?!", "(?<=", "(?<!"].iter().find(|syntax| pattern.contains(*syntax)) {
        let shown: String = syntax.chars().take(3).collect();
        return Some(format!("error parsing regexp: invalid or unsupported Perl syntax: `{shown}`"));
    }
    let (mut depth, mut in_class, mut escaped) = (0i64, false, false);
    for c in pattern.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' if !in_class => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return Some(format!("error parsing regexp: unexpected ): `{pattern}`"));
        }
    }
    if depth > 0 && !in_class {
        return Some(format!("error parsing regexp: missing closing ): `{pattern}`"));
    }
    None
}

/// A schema below a junctor.
fn nested(errs: &mut ErrorList, v: &View<'_>, skip_any: bool) {
    narrowing(errs, v, skip_any, false);
    if let Some(items) = subschema(v, "items") {
        nested(errs, &items, false);
    }
    for (_, property) in properties(v) {
        nested(errs, &property, false);
    }
    const EMPTY: &str = "must be empty to be structural";
    const UNDEFINED: &str = "must be undefined to be structural";
    const FALSE: &str = "must be false to be structural";
    for (field, rule) in [
        ("type", EMPTY),
        ("additionalProperties", UNDEFINED),
        ("default", UNDEFINED),
        ("title", EMPTY),
        ("description", EMPTY),
        ("nullable", FALSE),
        ("x-kubernetes-preserve-unknown-fields", FALSE),
        ("x-kubernetes-embedded-resource", FALSE),
        ("x-kubernetes-int-or-string", FALSE),
        ("x-kubernetes-list-map-keys", EMPTY),
        ("x-kubernetes-list-type", UNDEFINED),
        ("x-kubernetes-map-type", UNDEFINED),
        ("x-kubernetes-validations", EMPTY),
    ] {
        let part = v.get(field);
        let there = match rule {
            FALSE => part.is_true(),
            EMPTY => !part.is_empty(),
            _ => part.is_set(),
        };
        if there {
            errs.forbidden(part.path(), rule);
        }
    }
    let metadata = v.get("properties").entries().into_iter().find(|(name, _)| *name == "metadata");
    if let Some((_, metadata)) = metadata {
        errs.forbidden(metadata.path(), "must not be specified in a nested context");
    }
}

/// What is said of a field below a junctor is said of a field that exists.
fn completeness(errs: &mut ErrorList, s: &View<'_>) {
    junctors(errs, s, s);
    if let Some(items) = subschema(s, "items") {
        completeness(errs, &items);
    }
    for (_, property) in properties(s) {
        completeness(errs, &property);
    }
    if let Some(additional) = subschema(s, "additionalProperties") {
        completeness(errs, &additional);
    }
}

fn junctors(errs: &mut ErrorList, v: &View<'_>, s: &View<'_>) {
    if let Some(not) = subschema(v, "not") {
        known(errs, &not, s);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for v in v.items(junctor) {
            known(errs, &v, s);
        }
    }
}

fn known(errs: &mut ErrorList, v: &View<'_>, s: &View<'_>) {
    junctors(errs, v, s);
    if let Some(items) = subschema(v, "items") {
        match subschema(s, "items") {
            Some(there) => known(errs, &items, &there),
            None => errs.required(s.get("items").path(), format!("because it is defined in {}", items.path())),
        }
    }
    for (name, property) in properties(v) {
        match properties(s).into_iter().find(|(n, _)| *n == name) {
            Some((_, there)) => known(errs, &property, &there),
            None => errs.required(
                &s.get("properties").path().key(name),
                format!("because it is defined in {}", property.path()),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::refused;

    #[test]
    fn patterns_are_those_of_go() {
        for good in ["", "^[a-z]+$", "^[^[/]*$", "{x}", "^(a|b)$"] {
            assert_eq!(refused(good), None, "{good}");
        }
        for (bad, why) in [
            ("a(?=b)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
        ] {
            assert_eq!(refused(bad), Some(format!("error parsing regexp: {why}")));
        }
    }
}
