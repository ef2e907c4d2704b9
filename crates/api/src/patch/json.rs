//! JSON patch (RFC 6902, `application/json-patch+json`).
//!
//! Follows `evanphx/json-patch` v4 as the API server uses it, which is laxer than the RFC: indices from the end
//! (`-1`), a `replace` of a key that is missing, a `test` for null that a missing key passes, an empty path that
//! replaces the whole document. The `json-patch` crate keeps to the RFC and copies without a limit, so this is
//! written by hand.
//!
//! Whatever goes wrong while a decoded patch is applied is one and the same 422 upstream, without a hint; so it
//! is here.
//!
//! Limits: [`MAX_OPERATIONS`] operations, [`MAX_COPIED`] bytes copied, [`MAX_DEPTH`] levels of nesting.

use serde_json::Value;

use super::go;
use crate::status::{Details, Status};

/// Operations in one patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// Bytes that the `copy` operations of one patch may add up to.
pub const MAX_COPIED: usize = 3 * 1024 * 1024;
/// Levels of nesting that a patch may build. A stored object must be readable again.
pub const MAX_DEPTH: usize = 100;
/// Values looked at to measure the depth of what is moved, in one patch.
const MAX_MEASURED: usize = 4_000_000;

/// A decoded patch.
#[derive(Clone, Debug)]
pub struct Patch(Vec<Operation>);

#[derive(Clone, Debug)]
struct Operation {
    op: String,
    path: Option<String>,
    from: Option<String>,
    value: Option<Value>,
}

/// Why a patch does not apply. Never shown: see [`Patch::apply`].
struct Inapplicable;

/// The 422 of a patch that cannot be applied; upstream's `NewGenericServerResponse` without a resource.
pub(super) fn inapplicable() -> Status {
    Status {
        details: Some(Details::default()),
        ..Status::new(422, "Invalid", "the server rejected our request due to an error in our request")
    }
}

/// Go's text for a value that a Go type does not take.
fn mismatch(value: &Value, target: &str) -> String {
    let json_type = match value {
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        _ => "number",
    };
    format!("json: cannot unmarshal {json_type} into Go {target}")
}

/// Looks at a patch as requests with field validation do before it is decoded: an error is a 400, and with it come the
/// fields that no operation has (`handlers.jsonPatchOp`).
pub fn unknown_fields(patch: &Value) -> Result<Vec<String>, Status> {
    let refused =
        |value: &Value, target: &str| Status::bad_request(format!("error decoding patch: {}", mismatch(value, target)));
    let list = match patch {
        Value::Array(list) => list.as_slice(),
        Value::Null => &[],
        other => return Err(refused(other, "value of type []handlers.jsonPatchOp")),
    };
    let mut unknown = Vec::new();
    for (n, item) in list.iter().enumerate() {
        let fields = match item {
            Value::Object(fields) => fields,
            Value::Null => continue,
            other => return Err(refused(other, "value of type handlers.jsonPatchOp")),
        };
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("value", _) | ("op" | "path" | "from", Value::String(_) | Value::Null) => {}
                ("op" | "path" | "from", other) => {
                    return Err(refused(other, &format!("struct field jsonPatchOp.{name} of type string")));
                }
                _ => unknown.push(format!("json patch unknown field \"[{n}].{name}\"")),
            }
        }
    }
    Ok(unknown)
}

impl Patch {
    /// Decodes a patch. An error is a 400, or a 413 for too many operations.
    pub fn decode(patch: Value) -> Result<Patch, Status> {
        let mismatch =
            |value: &Value, go_type: &str| Status::bad_request(mismatch(value, &format!("value of type {go_type}")));
        let list = match patch {
            Value::Array(list) => list,
            Value::Null => Vec::new(),
            other => return Err(mismatch(&other, "jsonpatch.Patch")),
        };
        if list.len() > MAX_OPERATIONS {
            return Err(Status::too_large(format!(
                "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                list.len()
            )));
        }
        let mut operations = Vec::with_capacity(list.len());
        for item in list {
            let mut fields = match item {
                Value::Object(fields) => fields,
                Value::Null => Default::default(),
                other => return Err(mismatch(&other, "jsonpatch.Operation")),
            };
            let mut text = |name: &str| match fields.remove(name) {
                Some(Value::String(s)) => Some(s),
                _ => None,
            };
            let (op, path, from) = (text("op").unwrap_or_default(), text("path"), text("from"));
            operations.push(Operation { op, path, from, value: fields.remove("value") });
        }
        Ok(Patch(operations))
    }

    /// Applies the operations in order. After an error (a 422) the document is half patched and of no use.
    pub fn apply(self, doc: &mut Value) -> Result<(), Status> {
        self.run(doc, &mut Limits::default()).map_err(|_| inapplicable())
    }

    /// The same, but it is no error if a `test` fails: then the answer is false.
    pub fn apply_if_tests_pass(self, doc: &mut Value) -> Result<bool, Status> {
        let mut limits = Limits::default();
        match self.run(doc, &mut limits) {
            Ok(()) => Ok(true),
            Err(Inapplicable) if limits.test_failed => Ok(false),
            Err(Inapplicable) => Err(inapplicable()),
        }
    }

    fn run(self, doc: &mut Value, limits: &mut Limits) -> Result<(), Inapplicable> {
        self.0.into_iter().try_for_each(|operation| run(doc, operation, limits))
    }
}

#[derive(Default)]
struct Limits {
    copied: usize,
    measured: usize,
    /// What made the patch inapplicable is a `test`.
    test_failed: bool,
}

impl Limits {
    /// Refuses a value that would stand too deep.
    fn fits(&mut self, above: usize, value: &Value) -> Result<(), Inapplicable> {
        let room = MAX_DEPTH.checked_sub(above).ok_or(Inapplicable)?;
        if is_deeper(value, room, &mut self.measured) || self.measured > MAX_MEASURED {
            Err(Inapplicable)
        } else {
            Ok(())
        }
    }
}

fn is_deeper(value: &Value, room: usize, measured: &mut usize) -> bool {
    *measured += 1;
    match value {
        Value::Array(list) => room == 0 || list.iter().any(|v| is_deeper(v, room - 1, measured)),
        Value::Object(map) => room == 0 || map.values().any(|v| is_deeper(v, room - 1, measured)),
        _ => false,
    }
}

fn run(doc: &mut Value, operation: Operation, limits: &mut Limits) -> Result<(), Inapplicable> {
    let path = operation.path.ok_or(Inapplicable)?;
    let value = operation.value;
    match operation.op.as_str() {
        "add" => add(doc, &path, value.unwrap_or(Value::Null), limits),
        "remove" => remove(doc, &path).map(drop),
        "replace" => {
            let value = value.unwrap_or(Value::Null);
            let segments = segments(&path);
            limits.fits(segments.len(), &value)?;
            match segments.split_last() {
                None if value.is_object() || value.is_array() => *doc = value,
                None => return Err(Inapplicable),
                Some((key, parents)) => match container_mut(doc, parents).ok_or(Inapplicable)? {
                    // Upstream does not ask whether an object has the key.
                    Value::Object(map) => {
                        map.insert(key.clone(), value);
                    }
                    list => *existing_mut(list, key).ok_or(Inapplicable)? = value,
                },
            }
            Ok(())
        }
        "move" => {
            let value = remove(doc, &operation.from.ok_or(Inapplicable)?)?;
            add(doc, &path, value, limits)
        }
        "copy" => {
            let from = operation.from.ok_or(Inapplicable)?;
            let value = get(doc, &from)?.cloned().unwrap_or(Value::Null);
            limits.copied += super::json_size(&value);
            if limits.copied > MAX_COPIED {
                return Err(Inapplicable);
            }
            add(doc, &path, value, limits)
        }
        "test" => {
            let found = get(doc, &path)?.unwrap_or(&Value::Null);
            let wanted = value.unwrap_or(Value::Null);
            limits.test_failed = !equal(found, &wanted);
            if limits.test_failed { Err(Inapplicable) } else { Ok(()) }
        }
        _ => Err(Inapplicable),
    }
}

/// The parts of a pointer, unescaped. Whatever stands before the first slash is dropped, as upstream does.
fn segments(path: &str) -> Vec<String> {
    path.split('/').skip(1).map(|part| part.replace("~1", "/").replace("~0", "~")).collect()
}

fn container_mut<'v>(doc: &'v mut Value, parents: &[String]) -> Option<&'v mut Value> {
    parents.iter().try_fold(doc, |value, key| existing_mut(value, key)).filter(|v| v.is_object() || v.is_array())
}

fn existing_mut<'v>(container: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    match container {
        Value::Object(map) => map.get_mut(key),
        Value::Array(list) => {
            let at = index(key, list.len())?;
            list.get_mut(at)
        }
        _ => None,
    }
}

/// The place that a key means in a list of this length; negative keys count from the end.
fn index(key: &str, len: usize) -> Option<usize> {
    let i: i64 = key.parse().ok()?;
    if i >= 0 { usize::try_from(i).ok() } else { len.checked_sub(usize::try_from(i.unsigned_abs()).ok()?) }
}

/// The value at a pointer. A missing last key of an object reads as nothing, anything else missing is an error.
fn get<'v>(doc: &'v Value, path: &str) -> Result<Option<&'v Value>, Inapplicable> {
    let segments = segments(path);
    let Some((key, parents)) = segments.split_last() else { return Ok(Some(doc)) };
    let step = |value: &'v Value, key: &String| match value {
        Value::Object(map) => map.get(key),
        Value::Array(list) => list.get(index(key, list.len())?),
        _ => None,
    };
    match parents.iter().try_fold(doc, step) {
        Some(Value::Object(map)) => Ok(map.get(key)),
        Some(list @ Value::Array(_)) => step(list, key).map(Some).ok_or(Inapplicable),
        _ => Err(Inapplicable),
    }
}

fn add(doc: &mut Value, path: &str, value: Value, limits: &mut Limits) -> Result<(), Inapplicable> {
    let segments = segments(path);
    limits.fits(segments.len(), &value)?;
    let Some((key, parents)) = segments.split_last() else { return Err(Inapplicable) };
    match container_mut(doc, parents) {
        Some(Value::Object(map)) => {
            map.insert(key.clone(), value);
            Ok(())
        }
        Some(Value::Array(list)) => {
            let at = if key == "-" { Some(list.len()) } else { index(key, list.len() + 1) };
            match at {
                Some(at) if at <= list.len() => {
                    list.insert(at, value);
                    Ok(())
                }
                _ => Err(Inapplicable),
            }
        }
        _ => Err(Inapplicable),
    }
}

fn remove(doc: &mut Value, path: &str) -> Result<Value, Inapplicable> {
    let segments = segments(path);
    let (key, parents) = segments.split_last().ok_or(Inapplicable)?;
    match container_mut(doc, parents) {
        Some(Value::Object(map)) => map.remove(key).ok_or(Inapplicable),
        Some(Value::Array(list)) => match index(key, list.len()) {
            Some(at) if at < list.len() => Ok(list.remove(at)),
            _ => Err(Inapplicable),
        },
        _ => Err(Inapplicable),
    }
}

/// Equality as upstream's: texts of numbers are compared as Go prints them, so 1 equals 1.0.
fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || go::number(x) == go::number(y),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|((k, x), (l, y))| k == l && equal(x, y))
        }
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::testing::any_json;

    fn patched(doc: &Value, patch: Value) -> Result<Value, Status> {
        let mut doc = doc.clone();
        Patch::decode(patch)?.apply(&mut doc)?;
        Ok(doc)
    }

    #[track_caller]
    fn check(doc: Value, patch: Value, want: Value) {
        assert_eq!(patched(&doc, patch).expect("it applies"), want);
    }

    #[track_caller]
    fn refused(doc: Value, patch: Value) {
        let error = patched(&doc, patch).expect_err("it does not apply");
        assert_eq!(
            error.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422,
                "reason": "Invalid", "details": {},
                "message": "the server rejected our request due to an error in our request",
            })
        );
    }

    #[test]
    fn operations() {
        let doc = || json!({"a": {"b": [1, 2]}, "m~n/o": 1});
        check(doc(), json!([{"op": "add", "path": "/c", "value": 3}]), json!({"a": {"b": [1, 2]}, "m~n/o": 1, "c": 3}));
        check(
            doc(),
            json!([{"op": "add", "path": "/a/b/0", "value": 0}, {"op": "add", "path": "/a/b/-", "value": 9}]),
            json!({"a": {"b": [0, 1, 2, 9]}, "m~n/o": 1}),
        );
        check(doc(), json!([{"op": "remove", "path": "/a/b/-1"}]), json!({"a": {"b": [1]}, "m~n/o": 1}));
        check(doc(), json!([{"op": "remove", "path": "/m~0n~1o"}]), json!({"a": {"b": [1, 2]}}));
        check(
            doc(),
            json!([{"op": "move", "from": "/a/b/0", "path": "/x"}]),
            json!({"a": {"b": [2]}, "m~n/o": 1, "x": 1}),
        );
        check(
            doc(),
            json!([{"op": "copy", "from": "/a/b", "path": "/x"}]),
            json!({"a": {"b": [1, 2]}, "m~n/o": 1, "x": [1, 2]}),
        );
        check(doc(), json!([{"op": "replace", "path": "", "value": {"n": 1}}]), json!({"n": 1}));
        check(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1.0}]), json!({"a": 1}));
        check(json!({}), json!([{"op": "test", "path": "/x", "value": null}]), json!({}));
        check(json!({}), json!([{"op": "replace", "path": "/x", "value": 1}]), json!({"x": 1}));
        check(json!({}), json!([]), json!({}));
    }

    #[test]
    fn what_does_not_apply_is_a_422_without_a_hint() {
        for operation in [
            json!({"op": "test", "path": "/data/x", "value": "1"}),
            json!({"op": "test", "path": "/a", "value": 2}),
            json!({"op": "remove", "path": "/x"}),
            json!({"op": "replace", "path": "/l/1", "value": 1}),
            json!({"op": "add", "path": "/x/y", "value": 1}),
            json!({"op": "add", "path": "/l/5", "value": 1}),
            json!({"op": "add", "path": "/l/-9", "value": 1}),
            json!({"op": "copy", "from": "/x/y", "path": "/z"}),
            json!({"op": "move", "path": "/z"}),
            json!({"op": "remove", "path": ""}),
            json!({"op": "frobnicate", "path": "/a"}),
            json!({"path": "/a"}),
            json!({}),
        ] {
            refused(json!({"a": 1, "l": [1]}), json!([operation]));
        }
    }

    #[test]
    fn a_test_that_fails_may_be_no_error() {
        let run = |patch: Value| {
            let patch = Patch::decode(patch).expect("a patch");
            patch.apply_if_tests_pass(&mut json!({"a": 1})).map_err(|e| e.code)
        };
        let test = |value: u32| json!({"op": "test", "path": "/a", "value": value});
        assert_eq!(run(json!([test(1)])), Ok(true));
        assert_eq!(run(json!([test(2)])), Ok(false));
        assert_eq!(run(json!([test(1), {"op": "remove", "path": "/b"}])), Err(422));
    }

    #[test]
    fn undecodable_patches_are_400_and_long_ones_413() {
        let error = Patch::decode(json!({"op": "add"})).expect_err("an object");
        assert_eq!(
            (error.code, error.message.as_str()),
            (400, "json: cannot unmarshal object into Go value of type jsonpatch.Patch")
        );
        let long: Vec<Value> = (0..10_001).map(|_| json!({})).collect();
        let error = Patch::decode(Value::Array(long)).expect_err("too long");
        assert_eq!(error.code, 413);
        assert_eq!(error.message, "The allowed maximum operations in a JSON patch is 10000, got 10001");
    }

    #[test]
    fn copies_and_depth_are_bounded() {
        let doubling: Vec<Value> =
            (0..64).map(|i| json!({"op": "copy", "from": "/a", "path": format!("/a/k{i}")})).collect();
        refused(json!({"a": {"x": "some text"}}), Value::Array(doubling));
        let digging: Vec<Value> = (1..200).map(|i| json!({"op": "add", "path": "/a".repeat(i), "value": {}})).collect();
        refused(json!({}), Value::Array(digging));
    }

    proptest! {
        #[test]
        fn nothing_panics(doc in any_json(), patch in any_json(), path in "(/[a-c0-9~-]{0,2}){0,3}", value in any_json()) {
            let _ = patched(&doc, patch);
            for op in ["add", "remove", "replace", "test", "move", "copy"] {
                let _ = patched(&doc, json!([{"op": op, "path": path, "from": path, "value": value}]));
            }
        }
    }
}
