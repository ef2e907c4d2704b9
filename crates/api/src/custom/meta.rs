//! Metadata, of objects and of those embedded in them: as built-in kinds have it, whatever the schema says.
//!
//! Upstream: `pkg/apiserver/schema/objectmeta` of `k8s.io/apiextensions-apiserver`.

use serde_json::Value;

use super::{Additional, Schema};
use crate::Map;
use crate::codec::{self, DecodeError, Strictness};
use crate::field::{ErrorList, ErrorType, FieldError, Path, Shown};
use crate::object::View;
use crate::schema::Type;

/// What is done with metadata that does not fit its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    /// The object is refused.
    Refuse,
    /// The fields are dropped: of what was stored before anybody looked at it.
    Drop,
}

/// Brings the metadata of an object into normal form. Answers the paths of fields that it does not have.
pub(super) fn of_object(object: &mut Map, malformed: Malformed, paths: bool) -> Result<Vec<String>, DecodeError> {
    let (Some(metadata), Some(ty)) = (object.get_mut("metadata"), object_meta()) else { return Ok(Vec::new()) };
    let strictness = if paths { Strictness::Strict } else { Strictness::Ignore };
    let mut whole = metadata.clone();
    let unknown = match (codec::normalize(&mut whole, ty, strictness), malformed) {
        (Ok(unknown), _) => unknown,
        (Err(error), Malformed::Refuse) => return Err(error),
        (Err(_), Malformed::Drop) => {
            let fields = metadata.as_object_mut().map(std::mem::take).unwrap_or_default();
            let fits = |(name, value): &(String, Value)| {
                let mut one = Value::Object(Map::from_iter([(name.clone(), value.clone())]));
                codec::normalize(&mut one, ty, Strictness::Ignore).is_ok()
            };
            whole = Value::Object(fields.into_iter().filter(fits).collect());
            codec::normalize(&mut whole, ty, strictness)?
        }
    };
    if let Some(map) = whole.as_object_mut()
        && map.get("creationTimestamp").is_some_and(Value::is_null)
    {
        map.remove("creationTimestamp");
    }
    *metadata = whole;
    let name = |text: &String| Some(text.strip_prefix("unknown field \"")?.strip_suffix('"')?.to_owned());
    Ok(unknown.0.iter().filter_map(name).map(|name| format!("metadata.{name}")).collect())
}

fn object_meta() -> Option<Type> {
    Type::named("k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta")
}

/// The same for all objects embedded in one.
pub(super) fn of_embedded(
    path: &Path,
    value: &mut Value,
    schema: Schema<'_>,
    malformed: Malformed,
    paths: bool,
) -> Result<Vec<String>, FieldError> {
    let mut unknown = Vec::new();
    if schema.has_embedded() {
        walk(path, value, schema, malformed, paths, &mut unknown)?;
        unknown.sort();
    }
    Ok(unknown)
}

fn walk(
    path: &Path,
    value: &mut Value,
    schema: Schema<'_>,
    malformed: Malformed,
    paths: bool,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    if !schema.has_embedded() {
        return Ok(());
    }
    let refused = |path: Path, value: &Value, detail: &str| FieldError {
        kind: ErrorType::Invalid,
        path,
        value: Some(Shown::from(value).text().to_owned()),
        detail: detail.to_owned(),
    };
    match value {
        Value::Object(map) => {
            if schema.is_embedded() {
                for name in ["apiVersion", "kind"] {
                    match (map.get(name), malformed) {
                        (None | Some(Value::String(_)), _) => {}
                        (Some(_), Malformed::Drop) => {
                            map.remove(name);
                        }
                        (Some(value), Malformed::Refuse) => {
                            return Err(refused(path.child(name), value, "must be a string"));
                        }
                    }
                }
                let below = of_object(map, malformed, paths).map_err(|error| {
                    let metadata = map.get("metadata").unwrap_or(&Value::Null);
                    refused(path.child("metadata"), metadata, &error.message)
                })?;
                unknown.extend(below.iter().map(|name| path.child(name).text()));
            }
            for (key, value) in map {
                let (path, below) = match (schema.property(key), schema.additional()) {
                    (Some(property), _) => (path.child(key), property),
                    (None, Additional::Schema(values)) => (path.key(key), values),
                    _ => continue,
                };
                walk(&path, value, below, malformed, paths, unknown)?;
            }
        }
        Value::Array(list) => {
            let Some(items) = schema.items() else { return Ok(()) };
            for (i, item) in list.iter_mut().enumerate() {
                walk(&path.index(i), item, items, malformed, paths, unknown)?;
            }
        }
        _ => {}
    }
    Ok(())
}

/// The problems of embedded objects: they say what they are, and their metadata is that of an object.
pub(super) fn validate(errs: &mut ErrorList, path: &Path, value: &Value, schema: Schema<'_>) {
    if !schema.has_embedded() {
        return;
    }
    match value {
        Value::Object(map) => {
            if schema.is_embedded() {
                embedded(errs, path, map);
            }
            for (key, value) in map {
                match (schema.property(key), schema.additional()) {
                    (Some(property), _) => validate(errs, &path.child(key), value, property),
                    (None, Additional::Schema(values)) => validate(errs, &path.key(key), value, values),
                    _ => {}
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = schema.items() {
                list.iter().enumerate().for_each(|(i, item)| validate(errs, &path.index(i), item, items));
            }
        }
        _ => {}
    }
}

fn embedded(errs: &mut ErrorList, path: &Path, map: &Map) {
    let api_version_problem =
        |text: &str| (text.matches('/').count() > 1).then(|| format!("unexpected GroupVersion string: {text}"));
    let kind_problem = |text: &str| {
        let problems = crate::names::dns1035_label(&text.to_lowercase(), false);
        let intro = "may have mixed case, but should otherwise match: ";
        (!problems.is_empty()).then(|| format!("{intro}{}", problems.join(",")))
    };
    for (name, is_kind) in [("apiVersion", false), ("kind", true)] {
        let path = path.child(name);
        match map.get(name) {
            None => errs.required(&path, ""),
            Some(Value::String(text)) if text.is_empty() => errs.required(&path, ""),
            Some(Value::String(text)) => {
                let problem = if is_kind { kind_problem(text) } else { api_version_problem(text) };
                if let Some(problem) = problem {
                    errs.invalid(&path, text, problem);
                }
            }
            Some(other) => errs.invalid(&path, other, "must be a string"),
        }
    }
    if let Some(metadata) = map.get("metadata") {
        crate::validate::meta::embedded_meta(errs, &View::at(path.child("metadata"), metadata));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::custom::Structural;

    #[test]
    fn metadata_is_that_of_built_in_kinds() {
        let mut object = json!({"metadata": {"name": "n", "labels": {"a": "b"}, "nope": 1, "finalizers": []}});
        let map = object.as_object_mut().expect("a map");
        assert_eq!(of_object(map, Malformed::Refuse, true), Ok(vec!["metadata.nope".to_owned()]));
        assert_eq!(object, json!({"metadata": {"name": "n", "labels": {"a": "b"}}}));

        let mut object = json!({"metadata": {"name": "n", "labels": "x"}});
        let map = object.as_object_mut().expect("a map");
        let error = of_object(map, Malformed::Refuse, true).expect_err("labels are no text");
        assert_eq!(
            error.message,
            "json: cannot unmarshal string into Go struct field ObjectMeta.labels of type map[string]string"
        );
        assert_eq!(of_object(map, Malformed::Drop, true), Ok(vec![]));
        assert_eq!(object, json!({"metadata": {"name": "n"}}));
    }

    #[test]
    fn so_is_that_of_embedded_objects() {
        let schema = Structural::compile(&json!({"type": "object", "properties": {"l": {"type": "array", "items": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}}));
        let good = json!({"l": [{"kind": "Pod", "metadata": {"name": "n", "nope": 1, "labels": {}}, "spec": 1}]});
        let mut value = good.clone();
        let unknown = of_embedded(&Path::root(), &mut value, schema.root(), Malformed::Refuse, true);
        assert_eq!(unknown, Ok(vec!["l[0].metadata.nope".to_owned()]));
        assert_eq!(value, json!({"l": [{"kind": "Pod", "metadata": {"name": "n"}, "spec": 1}]}));

        let mut value = json!({"l": [{"kind": 5}]});
        let error =
            of_embedded(&Path::root(), &mut value, schema.root(), Malformed::Refuse, true).expect_err("no text");
        assert_eq!(error.to_string(), "l[0].kind: Invalid value: 5: must be a string");
        assert_eq!(of_embedded(&Path::root(), &mut value, schema.root(), Malformed::Drop, true), Ok(vec![]));
        assert_eq!(value, json!({"l": [{}]}));

        let value = json!({"l": [{"apiVersion": "v1", "kind": "Pod", "metadata": {}},
            {"apiVersion": "a/b/c", "kind": "P_d", "metadata": {"name": "a/b", "labels": {"-": "x"}}}, {}]});
        let mut errs = ErrorList::new();
        validate(&mut errs, &Path::root(), &value, schema.root());
        let found: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
        let starts = [
            "l[1].apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
            "l[1].kind: Invalid value: \"P_d\": may have mixed case, but should otherwise match: a DNS-1035 label",
            "l[1].metadata.name: Invalid value: \"a/b\": may not contain '/'",
            "l[1].metadata.labels: Invalid value: \"-\": name part must consist of",
            "l[2].apiVersion: Required value",
            "l[2].kind: Required value",
        ];
        assert_eq!(found.len(), starts.len(), "{found:?}");
        assert!(found.iter().zip(starts).all(|(f, start)| f.starts_with(start)), "{found:?}");
    }
}
