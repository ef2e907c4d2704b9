//! Decodes what selectors look at and passes over the rest.
//!
//! Of most objects that is nearly everything: containers, volumes and conditions stand in lists, and no selector looks into a
//! list but by its name ([`Kind::selectable_lists`](orkd_api::kind::Kind::selectable_lists)). Of the metadata it is the
//! labels: name and namespace are the key's.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Decodes JSON; lists are empty that are not of one of these fields. `None` for what is no JSON.
pub(super) fn decode(json: &[u8], lists: &[&str]) -> Option<Value> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let value = Sparse { lists, is_wanted: false, place: Place::Object }.deserialize(&mut deserializer).ok()?;
    deserializer.end().ok()?;
    Some(value)
}

#[derive(Clone, Copy)]
struct Sparse<'l> {
    lists: &'l [&'l str],
    /// Whether a list that stands here is wanted.
    is_wanted: bool,
    place: Place,
}

/// What stands here.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// The object itself.
    Object,
    /// Its metadata.
    Metadata,
    /// Anything below.
    Below,
}

impl<'de> DeserializeSeed<'de> for Sparse<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Sparse<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        if self.is_wanted {
            while let Some(value) = seq.next_element_seed(Sparse { place: Place::Below, ..self })? {
                list.push(value);
            }
        } else {
            while seq.next_element::<IgnoredAny>()?.is_some() {}
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            if self.place == Place::Metadata && name != "labels" {
                fields.next_value::<IgnoredAny>()?;
                continue;
            }
            let place = if self.place == Place::Object && name == "metadata" { Place::Metadata } else { Place::Below };
            let is_wanted = self.is_wanted || self.lists.contains(&name.as_str());
            let value = fields.next_value_seed(Sparse { is_wanted, place, ..self })?;
            map.insert(name, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_are_passed_over_unless_they_are_wanted() {
        let text = r#"{"a": [1, {"b": [2]}], "c": {"ips": [{"ip": "x", "d": [true]}], "e": [[]]}, "f": [], "g": -1.5,
            "h": null, "i": false, "j": "\u0041", "k": -7, "l": 18446744073709551615}"#;
        let expected = json!({"a": [], "c": {"ips": [{"ip": "x", "d": [true]}], "e": []}, "f": [], "g": -1.5, "h": null,
            "i": false, "j": "A", "k": -7, "l": u64::MAX});
        assert_eq!(decode(text.as_bytes(), &["ips"]), Some(expected));
        let metadata =
            br#"{"metadata": {"name": "n", "labels": {"a": "b"}, "uid": 1}, "spec": {"metadata": {"name": "n"}}}"#;
        let expected = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"metadata": {"name": "n"}}});
        assert_eq!(decode(metadata, &[]), Some(expected));
        assert_eq!(decode(br#"{"a": [1,]}"#, &[]), None);
        assert_eq!(decode(br#"{} {}"#, &[]), None);
    }

    /// Decoded in whole or in part, an object has the same selectable fields.
    #[test]
    fn fields_that_can_be_selected_stand_outside_of_lists() {
        let cases = [
            (
                "pods",
                json!({"spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"name": "c"}]},
                "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "podIP": "other"}}),
            ),
            (
                "events",
                json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reason": "R", "type": "Normal",
                "source": {"component": "k"}}),
            ),
            ("nodes", json!({"spec": {"unschedulable": true, "taints": [{}]}})),
            ("services", json!({"spec": {"clusterIP": "10.0.0.2", "type": "NodePort", "ports": [{}]}})),
        ];
        for (plural, object) in cases {
            let kind = orkd_api::kinds::all().into_iter().find(|k| k.info().plural == plural).expect("a kind");
            let sparse = decode(object.to_string().as_bytes(), kind.selectable_lists()).expect("decoded");
            let (fields, all) = (kind.selectable_fields(&sparse), kind.selectable_fields(&object));
            assert_eq!(fields, all, "{plural}");
            assert!(all.iter().any(|(_, value)| value.len() > 1), "{plural}: the case has something to select by");
        }
    }
}
