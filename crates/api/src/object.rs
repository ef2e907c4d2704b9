//! Reading and writing objects comfortably: a cursor that knows its path ([`View`]), and small edits.
//!
//! Objects come from outside, so nothing here panics: what is missing or has another type reads as nothing, and an
//! edit below something that is not a map does nothing. `null` is the same as missing, as in Go's decoding.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value;

use crate::Map;
use crate::field::{Path, Step};

static NULL: Value = Value::Null;

/// A part of an object together with its path, for validation that reads like the field names.
#[derive(Clone, Debug)]
pub struct View<'a> {
    /// The path of what this is a part of, and the step from there; none where the path was given.
    before: Path,
    step: Option<Step>,
    /// The whole path, from when it was first asked for.
    path: OnceCell<Path>,
    value: &'a Value,
}

impl<'a> View<'a> {
    /// The object itself.
    pub fn root(value: &'a Value) -> Self {
        View::at(Path::root(), value)
    }

    /// A part whose path is known.
    pub fn at(path: Path, value: &'a Value) -> Self {
        View { before: path, step: None, path: OnceCell::new(), value }
    }

    fn below(&self, step: Step, value: &'a Value) -> Self {
        View { before: self.path().clone(), step: Some(step), path: OnceCell::new(), value }
    }

    /// Where this is.
    pub fn path(&self) -> &Path {
        match &self.step {
            None => &self.before,
            Some(step) => self.path.get_or_init(|| self.before.then(step.clone())),
        }
    }

    /// What this is.
    pub fn value(&self) -> &'a Value {
        self.value
    }

    /// A field; reads as `null` where there is none.
    pub fn get(&self, name: &'static str) -> View<'a> {
        self.below(Step::Field(Cow::Borrowed(name)), self.value.get(name).unwrap_or(&NULL))
    }

    /// [`View::get`] of a field whose name is not known beforehand.
    pub fn get_named(&self, name: &str) -> View<'a> {
        self.below(Step::Field(Cow::Owned(name.to_owned())), self.value.get(name).unwrap_or(&NULL))
    }

    /// A field of a field, by a dotted path of names.
    pub fn dig(&self, names: &'static str) -> View<'a> {
        names.split('.').fold(self.clone(), |v, name| v.get(name))
    }

    /// The elements of the list in the field `name`.
    pub fn items(&self, name: &'static str) -> Vec<View<'a>> {
        self.get(name).list()
    }

    /// The elements of this list.
    pub fn list(&self) -> Vec<View<'a>> {
        match self.value.as_array() {
            Some(list) => list.iter().enumerate().map(|(i, value)| self.below(Step::Index(i), value)).collect(),
            None => Vec::new(),
        }
    }

    /// The entries of this map, in the order of the keys; their paths are `path[key]`.
    pub fn entries(&self) -> Vec<(&'a str, View<'a>)> {
        match self.value.as_object() {
            Some(map) => map
                .iter()
                .map(|(key, value)| (key.as_str(), self.below(Step::Key(key.as_str().into()), value)))
                .collect(),
            None => Vec::new(),
        }
    }

    /// The map, if this is one.
    pub fn map(&self) -> Option<&'a Map> {
        self.value.as_object()
    }

    /// Whether there is something (an empty text, list or map is something).
    pub fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether there is nothing, or an empty text, list or map: Go's `len(x) == 0`.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && !matches!(self.value, Value::Bool(_) | Value::Number(_))
    }

    /// Length of a text, list or map; 0 for anything else.
    pub fn len(&self) -> usize {
        match self.value {
            Value::String(s) => s.len(),
            Value::Array(list) => list.len(),
            Value::Object(map) => map.len(),
            _ => 0,
        }
    }

    /// The text; empty where there is none.
    pub fn str(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The text, if there is one.
    pub fn opt_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// The integer, if there is one.
    pub fn int(&self) -> Option<i64> {
        self.value.as_i64()
    }

    /// The boolean, if there is one.
    pub fn bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// Whether this is `true`.
    pub fn is_true(&self) -> bool {
        self.value == &Value::Bool(true)
    }

    /// The texts of a list of texts.
    pub fn strs(&self) -> Vec<&'a str> {
        match self.value.as_array() {
            Some(list) => list.iter().map(|v| v.as_str().unwrap_or_default()).collect(),
            None => Vec::new(),
        }
    }
}

/// The part of an object at a path of field names; `null` where there is none.
pub fn at<'a>(obj: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().try_fold(obj, |v, name| v.get(name)).unwrap_or(&NULL)
}

/// The text at a path of field names; empty where there is none.
pub fn text<'a>(obj: &'a Value, path: &[&str]) -> &'a str {
    at(obj, path).as_str().unwrap_or_default()
}

/// The elements of the list at a path of field names.
pub fn list<'a>(obj: &'a Value, path: &[&str]) -> &'a [Value] {
    at(obj, path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The part of an object at a path of field names, to be changed; `None` where there is nothing or `null`.
pub fn at_mut<'a>(obj: &'a mut Value, path: &[&str]) -> Option<&'a mut Value> {
    path.iter().try_fold(obj, |v, name| v.get_mut(name)).filter(|v| !v.is_null())
}

/// The elements of the list in field `name`, to be changed.
pub fn items_mut<'a>(obj: &'a mut Value, name: &str) -> impl Iterator<Item = &'a mut Value> {
    obj.get_mut(name).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Writes a value at a path of field names, making the maps on the way. Does nothing below a text, number or list.
pub fn set(obj: &mut Value, path: &[&str], value: impl Into<Value>) {
    let Some((last, parents)) = path.split_last() else {
        *obj = value.into();
        return;
    };
    let mut here = obj;
    for name in parents {
        let Some(map) = object_mut(here) else { return };
        here = map.entry(*name).or_insert(Value::Null);
    }
    if let Some(map) = object_mut(here) {
        map.insert((*last).to_owned(), value.into());
    }
}

/// The map this is; `null` becomes an empty one.
fn object_mut(v: &mut Value) -> Option<&mut Map> {
    if v.is_null() {
        *v = Value::Object(Map::new());
    }
    v.as_object_mut()
}

/// Removes the value at a path of field names and returns it.
pub fn remove(obj: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    at_mut(obj, parents)?.as_object_mut()?.remove(*last)
}

/// Makes the part at `path` in `new` what it is in `old`, removing it where `old` has none.
pub fn restore(new: &mut Value, old: &Value, path: &[&str]) {
    match at(old, path) {
        Value::Null => {
            remove(new, path);
        }
        value => set(new, path, value.clone()),
    }
}

/// Writes `field` where it is missing: the default of a pointer, a struct or a list.
pub fn default_value(obj: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object_mut(obj)
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// Writes a text where `field` is missing or empty: the default of a Go string.
pub fn default_text(obj: &mut Value, field: &str, value: &str) {
    if at(obj, &[field]).as_str().unwrap_or_default().is_empty() {
        set(obj, &[field], value);
    }
}

/// Writes a number where `field` is missing or 0: the default of a Go integer that is no pointer.
pub fn default_number(obj: &mut Value, field: &str, value: i64) {
    if at(obj, &[field]).as_i64().unwrap_or_default() == 0 {
        set(obj, &[field], value);
    }
}

/// Whether two values are the same to the API: missing, `null` and empty texts, lists and maps are all alike
/// (`apiequality.Semantic.DeepEqual`), as are `false` and 0 of fields that are left out when zero.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            a.iter().all(|(k, v)| same(v, b.get(k).unwrap_or(&NULL)))
                && b.iter().all(|(k, v)| a.contains_key(k) || same(&NULL, v))
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (a, b) if is_nothing(a) => is_nothing(b),
        (a, b) => a == b,
    }
}

fn is_nothing(v: &Value) -> bool {
    match v {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_nothing),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_knows_its_path_and_never_panics() {
        let obj = json!({"spec": {"containers": [{"name": "a"}, null], "x": 3}});
        let spec = View::root(&obj).get("spec");
        let names: Vec<String> =
            spec.items("containers").iter().map(|c| format!("{}={:?}", c.path(), c.get("name").str())).collect();
        assert_eq!(names, ["spec.containers[0]=\"a\"", "spec.containers[1]=\"\""]);
        assert!(!spec.dig("x.y.z").is_set());
        assert_eq!(spec.get("x").int(), Some(3));
    }

    #[test]
    fn edits_make_their_way_but_break_nothing() {
        let mut obj = json!({"a": "text"});
        set(&mut obj, &["a", "b"], 1);
        set(&mut obj, &["c", "d"], 1);
        default_text(&mut obj, "a", "other");
        default_text(&mut obj, "e", "new");
        assert_eq!(obj, json!({"a": "text", "c": {"d": 1}, "e": "new"}));
        restore(&mut obj, &json!({}), &["c", "d"]);
        assert_eq!(obj["c"], json!({}));
    }

    #[test]
    fn empty_and_missing_are_the_same() {
        assert!(same(&json!({"a": {}, "b": []}), &json!({})));
        assert!(!same(&json!({"a": 0}), &json!({"a": 1})));
        assert!(!same(&json!([1]), &json!([1, 2])));
    }
}
