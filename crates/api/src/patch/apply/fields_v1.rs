//! `fieldsV1`: a set of field paths as JSON.
//!
//! Follows `structured-merge-diff/fieldpath/serialize.go`. [`Set::to_fields_v1`] is byte for byte what upstream
//! writes. [`Set::to_value`] is the same as a value; its keys are then in the order of every [`Value`] map, which
//! differs from upstream's where keys are numbers. Readers do not depend on the order.
//!
//! [`subtract`] and [`unite`] change such a value where it differs, without making a set of all the rest.

use serde_json::Value;

use super::path::PathElement;
use super::set::Set;
use crate::Map;
use crate::patch::go;

impl Set {
    /// The JSON text.
    pub fn to_fields_v1(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, false);
        out
    }

    fn write(&self, out: &mut String, member: bool) {
        out.push('{');
        if member && !self.is_empty() {
            out.push_str("\".\":{}");
        }
        for (i, entry) in self.entries().iter().enumerate() {
            if i > 0 || member {
                out.push(',');
            }
            go::write_json_string(out, &entry.element.encode());
            out.push(':');
            entry.below.write(out, entry.member);
        }
        out.push('}');
    }

    /// The JSON value.
    pub fn to_value(&self) -> Value {
        self.value(false)
    }

    fn value(&self, member: bool) -> Value {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(MEMBER.into(), Value::Object(Map::new()));
        }
        for entry in self.entries() {
            map.insert(entry.element.encode(), entry.below.value(entry.member));
        }
        Value::Object(map)
    }

    /// [`Set::to_value`] where the set is not needed any more.
    pub fn into_value(self) -> Value {
        Value::Object(self.into_map(false))
    }

    fn into_map(self, member: bool) -> Map {
        let mut map = Map::new();
        if member && !self.is_empty() {
            map.insert(MEMBER.into(), Value::Object(Map::new()));
        }
        for entry in self.into_entries() {
            let below = entry.below.into_map(entry.member);
            map.insert(entry.element.into_key(), Value::Object(below));
        }
        map
    }

    /// Reads the JSON value. Steps that only later versions know are left out.
    pub fn from_value(value: &Value) -> Result<Set, String> {
        read(value).map(|(set, _)| set)
    }
}

/// The key of what is a member and has members below.
const MEMBER: &str = ".";

/// Whether a path has longer ones.
pub(super) fn has_below(fields: &Map) -> bool {
    fields.len() > usize::from(fields.contains_key(MEMBER))
}

/// Whether the path to a value of `fieldsV1` is a member.
fn is_member(fields: &Map) -> bool {
    fields.is_empty() || fields.contains_key(MEMBER)
}

/// Makes the path to a value a member, or none. False: nothing is left of it.
fn mark(fields: &mut Map, member: bool) -> bool {
    match (member, has_below(fields)) {
        (true, true) => drop(fields.entry(MEMBER).or_insert_with(|| Value::Object(Map::new()))),
        (true, false) => fields.clear(),
        (false, true) => drop(fields.remove(MEMBER)),
        (false, false) => return false,
    }
    true
}

/// Takes the paths of a set away ([`Set::difference`]).
pub(super) fn subtract(fields: &mut Map, set: &Set) {
    for entry in set.entries() {
        let key = entry.element.encode();
        let Some(Value::Object(below)) = fields.get_mut(&key) else { continue };
        let member = is_member(below) && !entry.member;
        subtract(below, &entry.below);
        if !mark(below, member) {
            fields.remove(&key);
        }
    }
}

/// Adds the paths of a set ([`Set::union`]).
pub(super) fn unite(fields: &mut Map, set: Set) {
    for entry in set.into_entries() {
        match fields.entry(entry.element.into_key()) {
            serde_json::map::Entry::Vacant(place) => {
                place.insert(Value::Object(entry.below.into_map(entry.member)));
            }
            serde_json::map::Entry::Occupied(mut place) => {
                let Value::Object(below) = place.get_mut() else { continue };
                let member = is_member(below) || entry.member;
                unite(below, entry.below);
                mark(below, member);
            }
        }
    }
}

/// The set below, and whether the path to here is a member.
fn read(value: &Value) -> Result<(Set, bool), String> {
    let Value::Object(map) = value else {
        return Err(format!("expected an object of field paths, got {}", go::v(value)));
    };
    let mut set = Set::new();
    let mut member = false;
    let mut has_children = false;
    for (key, value) in map {
        if key == MEMBER {
            member = true;
            continue;
        }
        let Some(element) = PathElement::decode(key)? else { continue };
        let (below, is_member) = read(value)?;
        has_children = true;
        set.push(|| element, is_member, below);
    }
    Ok((set, member || !has_children))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::patch::apply::set::tests::any_set;
    use crate::patch::testing::any_json;

    #[test]
    fn text_is_upstreams() {
        let text = concat!(
            r#"{"f:metadata":{"f:finalizers":{".":{},"v:\"a\"":{}},"f:labels":{"f:app":{}}},"#,
            r#""f:spec":{"f:containers":{"k:{\"name\":\"x\"}":{".":{},"f:image":{},"#,
            r#""f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{},"#,
            r#""k:{\"containerPort\":443,\"protocol\":\"TCP\"}":{}}}}}}"#,
        );
        let value: Value = serde_json::from_str(text).expect("JSON");
        let set = Set::from_value(&value).expect("field paths");
        assert_eq!(set.to_fields_v1(), text);
        assert_eq!(set.to_value(), value);
        assert_eq!(Set::new().to_fields_v1(), "{}");
    }

    #[test]
    fn later_steps_are_left_out_and_nonsense_is_refused() {
        let set = Set::from_value(&json!({"f:a": {}, "z:b": {"q": 1}})).expect("field paths");
        assert_eq!(set.to_fields_v1(), r#"{"f:a":{}}"#);
        for bad in [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"fa": {}}), json!(null)] {
            assert!(Set::from_value(&bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn round_trip(set in any_set()) {
            prop_assert_eq!(&Set::from_value(&set.to_value()).expect("own output"), &set);
            let text: Value = serde_json::from_str(&set.to_fields_v1()).expect("JSON");
            prop_assert_eq!(&text, &set.to_value());
        }

        #[test]
        fn values_are_changed_as_sets_are(a in any_set(), b in any_set()) {
            prop_assert_eq!(&a.clone().into_value(), &a.to_value());
            let Value::Object(mut less) = a.to_value() else { unreachable!() };
            let mut more = less.clone();
            subtract(&mut less, &b);
            prop_assert_eq!(&Value::Object(less), &a.difference(&b).to_value());
            unite(&mut more, b.clone());
            prop_assert_eq!(&Value::Object(more), &a.union(b).to_value());
        }

        #[test]
        fn reading_never_panics(value in any_json()) {
            let _ = Set::from_value(&value);
        }
    }
}
