//! One step of a field path, and its forms: as text for people, as key of `fieldsV1`.
//!
//! Follows `structured-merge-diff/fieldpath` (`element.go`, `serialize-pe.go`) and `value` (`Compare`, `ToString`).

use std::cmp::Ordering;

use serde_json::{Number, Value};

use crate::Map;
use crate::field::quote;
use crate::patch::go;

/// One step from a value to a part of it.
#[derive(Clone, Debug)]
pub enum PathElement {
    /// The field of an object. `f:name`
    Field(String),
    /// The element of a list with these key fields, sorted by name. `k:{"name":"a"}`
    Key(Vec<(String, Value)>),
    /// The element of a set. `v:"a"`
    Value(Value),
    /// The element at a place of a list. `i:0`
    Index(i64),
}

impl PathElement {
    /// A step to a field.
    pub fn field(name: &str) -> Self {
        // With room for what goes before it in a key.
        let mut field = String::with_capacity(name.len() + 2);
        field.push_str(name);
        PathElement::Field(field)
    }

    /// The key in `fieldsV1`.
    pub fn encode(&self) -> String {
        match self {
            PathElement::Field(name) => format!("f:{name}"),
            PathElement::Key(keys) => {
                let mut out = String::from("k:{");
                for (i, (name, value)) in keys.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    go::write_json_string(&mut out, name);
                    out.push(':');
                    out.push_str(&go::json(value));
                }
                out.push('}');
                out
            }
            PathElement::Value(value) => format!("v:{}", go::json(value)),
            PathElement::Index(i) => format!("i:{i}"),
        }
    }

    /// [`PathElement::encode`] where the step is not needed any more.
    pub(super) fn into_key(self) -> String {
        match self {
            PathElement::Field(mut name) => {
                name.insert_str(0, "f:");
                name
            }
            other => other.encode(),
        }
    }

    /// Reads a key of `fieldsV1`. `Ok(None)` for a kind of step that only later versions know.
    pub fn decode(text: &str) -> Result<Option<Self>, String> {
        let Some((kind, rest)) = text.split_at_checked(2) else {
            return Err("key must be 2 characters long:".into());
        };
        if !kind.ends_with(':') {
            return Err(format!("missing colon: {text}"));
        }
        let json = |text: &str| serde_json::from_str(text).map_err(|e| e.to_string());
        Ok(Some(match kind {
            "f:" => PathElement::Field(rest.to_owned()),
            "v:" => PathElement::Value(json(rest)?),
            "k:" => {
                let Value::Object(keys) = json(rest)? else { return Err(format!("not an object: {text}")) };
                PathElement::Key(keys.into_iter().collect())
            }
            "i:" => PathElement::Index(rest.parse().map_err(|_| format!("not an index: {text}"))?),
            _ => return Ok(None),
        }))
    }
}

/// As in conflict messages: `.spec`, `[name="a"]`, `[="x"]`, `[3]`.
impl std::fmt::Display for PathElement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            PathElement::Field(name) => write!(f, ".{name}"),
            PathElement::Key(keys) => {
                f.write_str("[")?;
                for (i, (name, value)) in keys.iter().enumerate() {
                    write!(f, "{}{name}={}", if i > 0 { "," } else { "" }, to_text(value))?;
                }
                f.write_str("]")
            }
            PathElement::Value(value) => write!(f, "[={}]", to_text(value)),
            PathElement::Index(i) => write!(f, "[{i}]"),
        }
    }
}

fn to_text(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => go::number(n),
        Value::String(s) => quote(s),
        Value::Array(list) => {
            let items: Vec<String> = list.iter().map(to_text).collect();
            format!("[{}]", items.join(","))
        }
        Value::Object(map) => {
            let items: Vec<String> = map.iter().map(|(k, v)| format!("{k}={}", to_text(v))).collect();
            format!("{{{}}}", items.join(";"))
        }
    }
}

/// Upstream's order: fields, keys, values, indices.
impl Ord for PathElement {
    fn cmp(&self, other: &Self) -> Ordering {
        use PathElement::{Field, Index, Key, Value};
        match (self, other) {
            (Field(a), Field(b)) => a.cmp(b),
            (Key(a), Key(b)) => {
                for ((an, av), (bn, bv)) in a.iter().zip(b) {
                    let order = an.cmp(bn).then_with(|| compare(av, bv));
                    if order.is_ne() {
                        return order;
                    }
                }
                a.len().cmp(&b.len())
            }
            (Value(a), Value(b)) => compare(a, b),
            (Index(a), Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PathElement {
    fn rank(&self) -> u8 {
        match self {
            PathElement::Field(_) => 0,
            PathElement::Key(_) => 1,
            PathElement::Value(_) => 2,
            PathElement::Index(_) => 3,
        }
    }
}

impl PartialOrd for PathElement {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for PathElement {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for PathElement {}

/// A total order on values: numbers (1 equals 1.0), texts, booleans, lists, maps, null.
pub(crate) fn compare(a: &Value, b: &Value) -> Ordering {
    fn rank(value: &Value) -> u8 {
        match value {
            Value::Number(_) => 0,
            Value::String(_) => 1,
            Value::Bool(_) => 2,
            Value::Array(_) => 3,
            Value::Object(_) => 4,
            Value::Null => 5,
        }
    }
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let first = a.iter().zip(b).map(|(a, b)| compare(a, b)).find(|order| order.is_ne());
            first.unwrap_or_else(|| a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => compare_maps(a, b),
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_maps(a: &Map, b: &Map) -> Ordering {
    let first = a.iter().zip(b).map(|((ak, av), (bk, bv))| ak.cmp(bk).then_with(|| compare(av, bv)));
    first.into_iter().find(|order| order.is_ne()).unwrap_or_else(|| a.len().cmp(&b.len()))
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
        return a.cmp(&b);
    }
    let (a, b) = (a.as_f64().unwrap_or(f64::MAX), b.as_f64().unwrap_or(f64::MAX));
    // -0.0 equals 0.0, as in Go.
    (a + 0.0).total_cmp(&(b + 0.0))
}

/// Equality of values where 1 equals 1.0.
pub(crate) fn equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || compare_numbers(a, b).is_eq(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ak, av), (bk, bv))| ak == bk && equal(av, bv))
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

    #[track_caller]
    fn check(encoded: &str, shown: &str) {
        let element = PathElement::decode(encoded).expect("well-formed").expect("known");
        assert_eq!(element.encode(), encoded);
        assert_eq!(element.to_string(), shown);
    }

    #[test]
    fn forms() {
        check("f:spec", ".spec");
        check("f:app.kubernetes.io/name", ".app.kubernetes.io/name");
        check(r#"k:{"containerPort":80,"protocol":"TCP"}"#, r#"[containerPort=80,protocol="TCP"]"#);
        check(r#"v:"foregroundDeletion""#, r#"[="foregroundDeletion"]"#);
        check("v:1.5", "[=1.5]");
        check(r#"v:"\u003ca\u0026b\u003e""#, r#"[="<a&b>"]"#);
        check("i:3", "[3]");
        assert_eq!(PathElement::decode("z:later"), Ok(None));
        assert!(PathElement::decode("f").is_err());
        assert!(PathElement::decode("fo").is_err());
        assert!(PathElement::decode("éé").is_err());
        assert!(PathElement::decode("k:[1]").is_err());
        assert!(PathElement::decode("i:x").is_err());
    }

    #[test]
    fn order_is_upstreams() {
        let of = |text: &str| PathElement::decode(text).expect("well-formed").expect("known");
        let sorted =
            ["f:a", "f:b", r#"k:{"p":80}"#, r#"k:{"p":443}"#, r#"k:{"p":443,"q":1}"#, r#"v:1"#, r#"v:"a""#, "i:0"];
        assert!(sorted.windows(2).all(|w| of(w[0]) < of(w[1])));
        assert_eq!(compare(&json!(1), &json!(1.0)), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn order_is_total(a in any_json(), b in any_json(), c in any_json()) {
            prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
            prop_assert_eq!(compare(&a, &b).is_eq(), equal(&a, &b));
            if compare(&a, &b).is_le() && compare(&b, &c).is_le() {
                prop_assert!(compare(&a, &c).is_le());
            }
        }

        #[test]
        fn decoding_never_panics(text in ".{0,8}", value in any_json()) {
            let _ = PathElement::decode(&text);
            let element = PathElement::Value(value);
            prop_assert_eq!(PathElement::decode(&element.encode()), Ok(Some(element)));
        }
    }
}
