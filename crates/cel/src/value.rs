//! Values. JSON and the caller's own data are borrowed, not copied; what an expression makes is shared.

use std::any::Any;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::eval::EvalError;
use crate::time::{Duration, Timestamp};
use crate::types::Type;

/// A value of an expression.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// A truth value.
    Bool(bool),
    /// A number with a sign.
    Int(i64),
    /// A number without.
    Uint(u64),
    /// A float.
    Double(f64),
    /// Text.
    String(Str<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A span of time.
    Duration(Duration),
    /// An instant.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map, or an object.
    Map(Map<'a>),
    /// A type.
    Type(Type),
    /// A value that may be absent.
    Optional(Option<Arc<Value<'a>>>),
    /// A value with functions only.
    Opaque(Arc<dyn Opaque>),
}

/// Text, of the caller or made.
#[derive(Clone)]
pub enum Str<'a> {
    /// The caller's.
    Borrowed(&'a str),
    /// Made by an expression or part of it.
    Shared(Arc<str>),
}

impl Deref for Str<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Str::Borrowed(s) => s,
            Str::Shared(s) => s,
        }
    }
}

impl fmt::Debug for Str<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

/// A value of a type that only functions know (a quantity, a version, an address).
pub trait Opaque: Any + fmt::Debug + Send + Sync {
    /// Its type.
    fn ty(&self) -> Type;

    /// Whether it equals another value of any opaque type.
    fn equals(&self, other: &dyn Opaque) -> bool;

    /// Its size, if it has one, for costs.
    fn size(&self) -> Option<u64> {
        None
    }
}

/// The opaque value as what it is.
pub(crate) fn downcast<T: Opaque>(value: &dyn Opaque) -> Option<&T> {
    (value as &dyn Any).downcast_ref()
}

/// Fields that the caller looks up when they are asked for.
pub trait Fields: Send + Sync {
    /// The value of a field; `None` if there is no such field.
    fn get<'a>(&'a self, name: &str) -> Result<Option<Value<'a>>, EvalError>;

    /// Whether there is such a field.
    fn has(&self, name: &str) -> Result<bool, EvalError> {
        Ok(self.get(name)?.is_some())
    }

    /// The names of all fields.
    fn names(&self) -> Vec<Cow<'_, str>>;
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of JSON.
    Json(&'a [Json]),
    /// Made by an expression, or handed in.
    Shared(Arc<Vec<Value<'a>>>),
    /// Two lists, one after the other: joining them costs one whatever their lengths are.
    Joined(Arc<(List<'a>, List<'a>)>),
    /// Handed in, with items whose order says nothing.
    Keyed(Arc<Keyed<'a>>),
}

/// Items that are told apart by what they are or by a key of theirs (`x-kubernetes-list-type`): two such lists are equal
/// if they have equal items, in whatever order.
#[derive(Clone, Debug)]
pub struct Keyed<'a> {
    items: Vec<Value<'a>>,
    /// The places of the items in the order of their keys.
    by_key: Vec<usize>,
}

impl<'a> Keyed<'a> {
    /// Items with a text of their key.
    pub fn new(items: impl IntoIterator<Item = (String, Value<'a>)>) -> Keyed<'a> {
        let (keys, items): (Vec<String>, Vec<Value<'a>>) = items.into_iter().unzip();
        let mut by_key: Vec<usize> = (0..items.len()).collect();
        by_key.sort_by(|a, b| keys[*a].cmp(&keys[*b]));
        Keyed { items, by_key }
    }

    /// The items in the order of their keys.
    fn sorted(&self) -> impl Iterator<Item = &Value<'a>> {
        self.by_key.iter().map(|place| &self.items[*place])
    }
}

impl<'a> List<'a> {
    /// One after the other.
    pub(crate) fn join(self, other: List<'a>) -> List<'a> {
        if self.is_empty() {
            other
        } else if other.is_empty() {
            self
        } else {
            List::Joined(Arc::new((self, other)))
        }
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items) => items.len(),
            List::Shared(items) => items.len(),
            List::Joined(parts) => parts.0.len() + parts.1.len(),
            List::Keyed(keyed) => keyed.items.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An item.
    pub fn get(&self, n: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items) => items.get(n).map(Value::from),
            List::Shared(items) => items.get(n).cloned(),
            List::Joined(parts) => match n.checked_sub(parts.0.len()) {
                None => parts.0.get(n),
                Some(n) => parts.1.get(n),
            },
            List::Keyed(keyed) => keyed.items.get(n).cloned(),
        }
    }

    /// The items.
    pub fn iter(&self) -> Box<dyn Iterator<Item = Value<'a>> + '_> {
        match self {
            List::Json(items) => Box::new(items.iter().map(Value::from)),
            List::Shared(items) => Box::new(items.iter().cloned()),
            List::Joined(parts) => Box::new(parts.0.iter().chain(parts.1.iter())),
            List::Keyed(keyed) => Box::new(keyed.items.iter().cloned()),
        }
    }
}

/// A key of a map. Whole numbers are equal across their types.
#[derive(Clone, Debug)]
pub enum Key<'a> {
    /// A truth value.
    Bool(bool),
    /// A number with a sign.
    Int(i64),
    /// A number without.
    Uint(u64),
    /// Text.
    String(Str<'a>),
}

impl<'a> Key<'a> {
    /// The key that a value is; doubles that are whole numbers count as such.
    pub(crate) fn new(value: &Value<'a>) -> Option<Key<'a>> {
        Some(match value {
            Value::Bool(b) => Key::Bool(*b),
            Value::Int(n) => Key::Int(*n),
            Value::Uint(n) => Key::Uint(*n),
            Value::Double(d) if d.trunc() == *d && *d >= -TWO_63 && *d < TWO_63 => Key::Int(*d as i64),
            Value::String(s) => Key::String(s.clone()),
            _ => return None,
        })
    }

    fn rank(&self) -> (u8, i128) {
        match self {
            Key::Bool(b) => (0, i128::from(*b)),
            Key::Int(n) => (1, i128::from(*n)),
            Key::Uint(n) => (1, i128::from(*n)),
            Key::String(_) => (2, 0),
        }
    }
}

impl<'a> From<Key<'a>> for Value<'a> {
    fn from(key: Key<'a>) -> Value<'a> {
        match key {
            Key::Bool(b) => Value::Bool(b),
            Key::Int(n) => Value::Int(n),
            Key::Uint(n) => Value::Uint(n),
            Key::String(s) => Value::String(s),
        }
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::String(a), Key::String(b)) => str::cmp(a, b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

/// A map. Its order is that of its keys.
#[derive(Clone)]
pub enum Map<'a> {
    /// An object of JSON.
    Json(&'a serde_json::Map<String, Json>),
    /// The caller's own.
    Fields(&'a dyn Fields),
    /// Made by an expression, or handed in.
    Shared(Arc<BTreeMap<Key<'a>, Value<'a>>>),
    /// An object of a declared type that an expression made.
    Made(Arc<Made<'a>>),
}

/// An object that an expression made: `Object.spec{replicas: 1}`.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// The name of its type.
    pub ty: Arc<str>,
    /// The fields that were set.
    pub fields: BTreeMap<Key<'a>, Value<'a>>,
}

impl fmt::Debug for Map<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Map::Json(map) => map.fmt(f),
            Map::Fields(fields) => fields.names().fmt(f),
            Map::Shared(map) => map.fmt(f),
            Map::Made(made) => made.fields.fmt(f),
        }
    }
}

impl<'a> Map<'a> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map) => map.len(),
            Map::Fields(fields) => fields.names().len(),
            Map::Shared(map) => map.len(),
            Map::Made(made) => made.fields.len(),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key that is text.
    pub fn field(&self, name: &str) -> Result<Option<Value<'a>>, EvalError> {
        match self {
            Map::Json(map) => Ok(map.get(name).map(Value::from)),
            Map::Fields(fields) => fields.get(name),
            Map::Shared(map) => Ok(lookup(map, &Key::String(Str::Borrowed(name)))),
            Map::Made(made) => Ok(lookup(&made.fields, &Key::String(Str::Borrowed(name)))),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &Value<'_>) -> Result<Option<Value<'a>>, EvalError> {
        match (self, key) {
            (_, Value::String(name)) => self.field(name),
            (Map::Shared(map), key) => Ok(Key::new(key).and_then(|key| lookup(map, &key))),
            _ => Ok(None),
        }
    }

    /// Whether there is such a key.
    pub(crate) fn has(&self, key: &Value<'_>) -> Result<bool, EvalError> {
        match (self, key) {
            (Map::Fields(fields), Value::String(name)) => fields.has(name),
            _ => Ok(self.get(key)?.is_some()),
        }
    }

    /// The keys in their order.
    pub fn keys(&self) -> Box<dyn Iterator<Item = Value<'a>> + '_> {
        match self {
            Map::Json(map) => Box::new(map.keys().map(|k| Value::from(k.as_str()))),
            Map::Fields(fields) => Box::new(fields.names().into_iter().map(Value::from)),
            Map::Shared(map) => Box::new(map.keys().cloned().map(Value::from)),
            Map::Made(made) => Box::new(made.fields.keys().cloned().map(Value::from)),
        }
    }

    /// The entries in their order.
    pub(crate) fn entries(&self) -> Result<Vec<(Value<'a>, Value<'a>)>, EvalError> {
        let mut all = Vec::new();
        for key in self.keys() {
            if let Some(value) = self.get(&key)? {
                all.push((key, value));
            }
        }
        Ok(all)
    }
}

fn lookup<'a>(map: &BTreeMap<Key<'a>, Value<'a>>, key: &Key<'_>) -> Option<Value<'a>> {
    map.get(key).cloned()
}

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::from(s.as_str()),
            Json::Array(items) => Value::List(List::Json(items)),
            Json::Object(map) => Value::Map(Map::Json(map)),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(s: &'a str) -> Value<'a> {
        Value::String(Str::Borrowed(s))
    }
}

impl From<String> for Value<'_> {
    fn from(s: String) -> Self {
        Value::String(Str::Shared(s.into()))
    }
}

impl<'a> From<Cow<'a, str>> for Value<'a> {
    fn from(s: Cow<'a, str>) -> Value<'a> {
        match s {
            Cow::Borrowed(s) => s.into(),
            Cow::Owned(s) => s.into(),
        }
    }
}

impl From<bool> for Value<'_> {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<i64> for Value<'_> {
    fn from(n: i64) -> Self {
        Value::Int(n)
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Shared(Arc::new(items)))
    }
}

impl<'a> From<Keyed<'a>> for Value<'a> {
    fn from(keyed: Keyed<'a>) -> Value<'a> {
        Value::List(List::Keyed(Arc::new(keyed)))
    }
}

impl<'a> FromIterator<(Key<'a>, Value<'a>)> for Value<'a> {
    fn from_iter<I: IntoIterator<Item = (Key<'a>, Value<'a>)>>(entries: I) -> Value<'a> {
        Value::Map(Map::Shared(Arc::new(entries.into_iter().collect())))
    }
}

const TWO_63: f64 = 9_223_372_036_854_775_808.0;
const TWO_64: f64 = 18_446_744_073_709_551_616.0;

impl<'a> Value<'a> {
    /// An opaque value.
    pub fn opaque(value: impl Opaque) -> Value<'a> {
        Value::Opaque(Arc::new(value))
    }

    pub(crate) fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Arc::new(value)))
    }

    /// Its type, as `type(x)` gives it.
    pub fn ty(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Duration(_) => Type::Duration,
            Value::Timestamp(_) => Type::Timestamp,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Made(made)) => Type::open_object(&made.ty),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Type(_) => Type::Type(Arc::new(Type::Dyn)),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Opaque(o) => o.ty(),
        }
    }

    /// Whether it can be an argument where a function takes `wanted`; what lists and maps hold is not looked at.
    pub(crate) fn fits(&self, wanted: &Type) -> bool {
        match (self, wanted) {
            (_, Type::Dyn | Type::Param(_) | Type::Var(_)) => true,
            (Value::List(_), Type::List(_)) | (Value::Map(_), Type::Map(..) | Type::Object(_)) => true,
            (Value::Type(_), Type::Type(_)) => true,
            (Value::Opaque(o), Type::Opaque(name, _)) => o.ty().name() == *name,
            (Value::Optional(_), wanted) => wanted.unwrap_optional().is_some(),
            (value, wanted) => value.ty() == *wanted,
        }
    }

    /// Its size (`traits.Sizer`); one, for what has none.
    pub(crate) fn size(&self) -> u64 {
        let size = match self {
            Value::String(s) => s.chars().count(),
            Value::Bytes(b) => b.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Opaque(o) => return o.size().unwrap_or(1),
            _ => 1,
        };
        size as u64
    }

    /// The text it is.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(s) => Some(s),
            _ => None,
        }
    }

    /// The truth value it is.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The opaque value it is.
    pub fn as_opaque<T: Opaque>(&self) -> Option<&T> {
        match self {
            Value::Opaque(o) => downcast(&**o),
            _ => None,
        }
    }

    /// As JSON, for what leaves the engine; `None` for what JSON cannot say.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null | Value::Optional(None) => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(n) => Json::from(*n),
            Value::Uint(n) => Json::from(*n),
            Value::Double(d) => Json::Number(serde_json::Number::from_f64(*d)?),
            Value::String(s) => Json::from(&**s),
            Value::Duration(d) => Json::from(d.to_string()),
            Value::Timestamp(t) => Json::from(t.to_string()),
            Value::List(List::Json(items)) => Json::Array(items.to_vec()),
            Value::List(list) => Json::Array(list.iter().map(|v| v.to_json()).collect::<Option<_>>()?),
            Value::Map(Map::Json(map)) => Json::Object((*map).clone()),
            Value::Map(map) => {
                let one = |(key, value): (Value<'_>, Value<'_>)| Some((key.as_str()?.to_owned(), value.to_json()?));
                Json::Object(map.entries().ok()?.into_iter().map(one).collect::<Option<_>>()?)
            }
            Value::Optional(Some(value)) => value.to_json()?,
            Value::Bytes(_) | Value::Type(_) | Value::Opaque(_) => return None,
        })
    }
}

/// `==`: numbers are equal across their types, values of other types are not (`types.Equal`).
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) | (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a.name() == b.name(),
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => return equal(a, b),
        (Value::Opaque(a), Value::Opaque(b)) => a.equals(&**b),
        (Value::List(a), Value::List(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            if let (List::Keyed(a), List::Keyed(b)) = (a, b) {
                for (a, b) in a.sorted().zip(b.sorted()) {
                    if !equal(a, b)? {
                        return Ok(false);
                    }
                }
                return Ok(true);
            }
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(&a, &b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Value::Map(a), Value::Map(b)) => {
            let other_type = matches!((a, b), (Map::Made(a), Map::Made(b)) if a.ty != b.ty);
            if other_type || a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in a.entries()? {
                match b.get(&key)? {
                    Some(other) if equal(&value, &other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        _ => compare(a, b).ok().flatten() == Some(Ordering::Equal),
    })
}

/// The order of two values; none with a float that is no number.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
    use Value::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    Ok(match (a, b) {
        (Int(a), Int(b)) => Some(a.cmp(b)),
        (Uint(a), Uint(b)) => Some(a.cmp(b)),
        (Double(a), Double(b)) => a.partial_cmp(b),
        (Int(a), Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Uint(a), Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Int(a), Double(b)) => with_double(i128::from(*a), *b),
        (Uint(a), Double(b)) => with_double(i128::from(*a), *b),
        (Double(a), Int(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        (Double(a), Uint(b)) => with_double(i128::from(*b), *a).map(Ordering::reverse),
        (String(a), String(b)) => Some(str::cmp(a, b)),
        (Bytes(a), Bytes(b)) => Some(a.cmp(b)),
        (Bool(a), Bool(b)) => Some(a.cmp(b)),
        (Duration(a), Duration(b)) => Some(a.cmp(b)),
        (Timestamp(a), Timestamp(b)) => Some(a.cmp(b)),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// A whole number against a float, exactly.
fn with_double(n: i128, d: f64) -> Option<Ordering> {
    if d.is_nan() {
        None
    } else if d >= TWO_64 {
        Some(Ordering::Less)
    } else if d < -TWO_63 {
        Some(Ordering::Greater)
    } else {
        let whole = d.floor();
        Some(n.cmp(&(whole as i128)).then(if d > whole { Ordering::Less } else { Ordering::Equal }))
    }
}

/// As error messages and `%v` of Go write values.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => b.fmt(f),
            Value::Int(n) => n.fmt(f),
            Value::Uint(n) => n.fmt(f),
            Value::Double(d) => f.write_str(&crate::number::format_double(*d)),
            Value::String(s) => f.write_str(s),
            Value::Duration(d) => d.fmt(f),
            Value::Timestamp(t) => t.fmt(f),
            Value::Type(t) => f.write_str(t.name()),
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_compare_across_their_types_exactly() {
        let check = |a: Value<'_>, b: Value<'_>, want: Option<Ordering>| {
            assert_eq!(compare(&a, &b), Ok(want), "{a} {b}");
            assert_eq!(compare(&b, &a), Ok(want.map(Ordering::reverse)), "{b} {a}");
        };
        check(Value::Int(-1), Value::Uint(u64::MAX), Some(Ordering::Less));
        check(Value::Int(1), Value::Double(1.5), Some(Ordering::Less));
        check(Value::Int(-1), Value::Double(-1.5), Some(Ordering::Greater));
        check(Value::Int(i64::MAX), Value::Double(TWO_63), Some(Ordering::Less));
        check(Value::Uint(u64::MAX), Value::Double(TWO_64), Some(Ordering::Less));
        check(Value::Uint(3), Value::Double(3.0), Some(Ordering::Equal));
        check(Value::Int(0), Value::Double(f64::NAN), None);
        check(Value::Int(0), Value::Double(f64::NEG_INFINITY), Some(Ordering::Greater));
    }

    #[test]
    fn keys_are_found_across_number_types() {
        let map: Value<'_> =
            [(Key::Int(1), Value::from("one")), (Key::Uint(2), Value::from("two"))].into_iter().collect();
        let Value::Map(map) = map else { panic!("a map") };
        let get = |key: Value<'_>| map.get(&key).expect("found").map(|v| v.to_string());
        assert_eq!(get(Value::Uint(1)).as_deref(), Some("one"));
        assert_eq!(get(Value::Double(2.0)).as_deref(), Some("two"));
        assert_eq!(get(Value::Double(2.5)), None);
        assert_eq!(get(Value::from("1")), None);
        assert_eq!(get(Value::Null), None);
    }

    #[test]
    fn the_order_of_keyed_items_says_nothing() {
        let list = |items: &[i64]| Value::from(Keyed::new(items.iter().map(|n| (n.to_string(), Value::Int(*n)))));
        let check = |a: Value<'_>, b: Value<'_>, want: bool| assert_eq!(equal(&a, &b), Ok(want), "{a} {b}");
        check(list(&[1, 2, 3]), list(&[3, 1, 2]), true);
        check(list(&[1, 2]), list(&[1, 3]), false);
        check(list(&[1, 2]), list(&[1]), false);
        check(list(&[1, 2]), vec![Value::Int(1), Value::Int(2)].into(), true);
        check(list(&[1, 2]), vec![Value::Int(2), Value::Int(1)].into(), false);
        assert_eq!(list(&[2, 1]).to_json(), Some(json!([2, 1])));
    }

    #[test]
    fn json_and_made_values_are_equal() {
        let json = json!({"a": [1, 2.0, "x", null, true]});
        let items = vec![Value::Uint(1), Value::Int(2), Value::from("x"), Value::Null, Value::Bool(true)];
        let made: Value<'_> = [(Key::String(Str::Borrowed("a")), Value::from(items))].into_iter().collect();
        assert_eq!(equal(&Value::from(&json), &made), Ok(true));
        assert_eq!(made.to_json(), Some(json!({"a": [1, 2, "x", null, true]})));
    }
}
