//! The normal form of values in memory, and the defaults that the schema states.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::Value;

use super::json::schema_type;
use super::rules::{self, Context, Fault, Step, Token};
use super::{DecodeError, StrictErrors, Strictness};
use crate::Map;
use crate::schema::{Builtin, Field, Type};

/// Makes a value what decoding its JSON would make it: run it after a patch or a mutating webhook.
///
/// Unknown fields are dropped and, depending on `strictness`, reported (in the order of their names). An error
/// means that a field has a value of the wrong type; the value is then in no useful state.
pub fn normalize(value: &mut Value, ty: Type, strictness: Strictness) -> Result<StrictErrors, DecodeError> {
    let mut walker = Walker { cx: Context::new(strictness) };
    let taken = std::mem::take(value);
    if rules::deeper_than(&taken, rules::MAX_DEPTH) {
        return Err(DecodeError::content(rules::TOO_DEEP));
    }
    *value = walker.single(ty, taken).unwrap_or_else(|| rules::zero_of(ty));
    walker.cx.finish()
}

struct Walker {
    cx: Context<'static>,
}

fn token(value: &Value) -> Option<Token<'_>> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(b) => Token::Bool(*b),
        Value::Number(n) => Token::Number(Cow::Owned(n.to_string())),
        Value::String(s) => Token::String(Cow::Borrowed(s)),
        Value::Array(_) => Token::Array,
        Value::Object(_) => Token::Object,
    })
}

impl Walker {
    fn mismatch(&mut self, value: &Value, go: &str) -> Option<Value> {
        if let Some(token) = token(value) {
            self.cx.type_fault(token.name(), go);
        }
        None
    }

    fn structure(&mut self, ty: Type, mut map: Map) -> Value {
        let stored_as_json = rules::stored_as_json(ty);
        // In place: nearly every field stays.
        map.retain(|key, slot| {
            let Some(field) = ty.field(key) else {
                if self.cx.on {
                    self.cx.report("unknown", key);
                }
                return false;
            };
            match self.field(ty, field, slot.take()).and_then(|v| rules::keep(field, v, stored_as_json)) {
                Some(value) => *slot = value,
                None => return false,
            }
            true
        });
        for field in ty.fields_by_name() {
            if let Some(value) = rules::absent(field)
                && !map.contains_key(field.name())
            {
                map.insert(field.name().to_owned(), value);
            }
        }
        Value::Object(map)
    }

    fn field(&mut self, ty: Type, field: &'static Field, value: Value) -> Option<Value> {
        let outer = self.cx.outer.replace(ty);
        self.cx.names.push(field.name());
        if self.cx.on {
            self.cx.path.push(Step::Name(field.name()));
        }
        let value = match value {
            Value::Array(list) if field.is_list() => Some(self.list(field.ty(), list)),
            Value::Object(map) if field.is_map() => Some(self.map(field.ty(), map)),
            value if field.is_list() || field.is_map() => self.mismatch(&value, &field.go_type()),
            value => self.single(field.ty(), value),
        };
        if self.cx.on {
            self.cx.path.pop();
        }
        self.cx.names.pop();
        self.cx.outer = outer;
        value
    }

    fn list(&mut self, ty: Type, mut list: Vec<Value>) -> Value {
        for (i, slot) in list.iter_mut().enumerate() {
            if self.cx.on {
                self.cx.path.push(Step::Index(i));
            }
            *slot = self.single(ty, slot.take()).unwrap_or_else(|| rules::zero_of(ty));
            if self.cx.on {
                self.cx.path.pop();
            }
        }
        Value::Array(list)
    }

    fn map(&mut self, ty: Type, mut map: Map) -> Value {
        let steps = self.cx.on && ty.builtin().is_none();
        for (key, slot) in &mut map {
            if steps {
                self.cx.path.push(Step::Key(Cow::Owned(key.clone())));
            }
            *slot = self.single(ty, slot.take()).unwrap_or_else(|| rules::zero_of(ty));
            if steps {
                self.cx.path.pop();
            }
        }
        Value::Object(map)
    }

    fn single(&mut self, ty: Type, value: Value) -> Option<Value> {
        let Some(builtin) = ty.builtin() else {
            return match value {
                Value::Object(map) => Some(self.structure(ty, map)),
                other => self.mismatch(&other, ty.go_name()),
            };
        };
        let schema_or = matches!(builtin, Builtin::SchemaOrBool | Builtin::SchemaOrArray | Builtin::SchemaOrStrings);
        match (builtin, value) {
            (_, Value::Null) => None,
            // The common scalars that are canonical already.
            (Builtin::String, value @ Value::String(_)) | (Builtin::Bool, value @ Value::Bool(_)) => Some(value),
            (Builtin::Interface | Builtin::RawExtension | Builtin::FieldsV1 | Builtin::Json, value) => Some(value),
            (Builtin::ExtraValue, Value::Array(list)) => match Type::named("string") {
                Some(string) => Some(self.list(string, list)),
                None => Some(Value::Array(list)),
            },
            (Builtin::ExtraValue, value) => self.mismatch(&value, "v1.ExtraValue"),
            (_, value) if schema_or => {
                let Some(schema) = schema_type() else { return Some(value) };
                let on = std::mem::replace(&mut self.cx.on, false);
                let value = match (builtin, value) {
                    (_, Value::Object(map)) => Some(self.structure(schema, map)),
                    (Builtin::SchemaOrBool, value @ Value::Bool(_)) => Some(value),
                    (Builtin::SchemaOrBool, _) => {
                        self.cx.fault(Fault::Own("boolean or JSON schema expected".into()));
                        None
                    }
                    (Builtin::SchemaOrArray, Value::Array(list)) => Some(self.list(schema, list)),
                    (_, value @ Value::Array(_)) => Some(value),
                    _ => None,
                };
                self.cx.on = on;
                value
            }
            (_, value) => {
                let token = match value {
                    Value::String(s) => Token::String(Cow::Owned(s)),
                    ref other => token(other)?,
                };
                rules::scalar(builtin, token).map_err(|fault| self.cx.fault(fault)).ok()
            }
        }
    }
}

/// Whether a field of a type is a `ResourceList`: amounts by name, of the core group or in its types.
fn is_resource_list(of: Type, field: &Field) -> bool {
    field.is_map()
        && field.ty().builtin() == Some(Builtin::Quantity)
        && ["k8s.io/api/core/", "k8s.io/api/node/"].iter().any(|package| of.name().starts_with(package))
}

/// For each type, the fields that have a default or below which there is one, and the lists of amounts.
static DEFAULTED: LazyLock<Vec<Vec<&'static Field>>> = LazyLock::new(|| {
    let own = |t: Type, f: &Field| f.default_value().is_some() || is_resource_list(t, f);
    let mut reaches: Vec<bool> = Type::all().map(|t| t.builtin().is_none() && t.fields().any(|f| own(t, f))).collect();
    loop {
        let mut changed = false;
        for ty in Type::all() {
            if !reaches[ty.index()] && ty.builtin().is_none() && ty.fields().any(|f| reaches[f.ty().index()]) {
                reaches[ty.index()] = true;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    Type::all()
        .map(|ty| {
            if !reaches[ty.index()] || ty.builtin().is_some() {
                return Vec::new();
            }
            ty.fields().filter(|f| own(ty, f) || reaches[f.ty().index()]).collect()
        })
        .collect()
});

/// Fills in the defaults that the schema states (`ports[].protocol: TCP` and their like; upstream's `+default`
/// markers), and rounds amounts of resources up to thousandths (`SetDefaults_ResourceList`). The value must be normalised. Defaults that depend on other fields belong to the kinds.
pub fn apply_schema_defaults(value: &mut Value, ty: Type) {
    let fields = &DEFAULTED[ty.index()];
    let Value::Object(map) = value else { return };
    for field in fields {
        let ty = field.ty();
        match map.get_mut(field.name()) {
            None | Some(Value::Null) => {
                if let Some(default) = field.default_value().and_then(|text| serde_json::from_str(text).ok()) {
                    map.insert(field.name().to_owned(), default);
                }
            }
            Some(Value::Array(list)) if field.is_list() => {
                list.iter_mut().for_each(|element| apply_schema_defaults(element, ty));
            }
            Some(Value::Object(amounts)) if field.is_map() && ty.builtin() == Some(Builtin::Quantity) => {
                amounts.values_mut().for_each(round_up);
            }
            Some(Value::Object(values)) if field.is_map() => {
                values.values_mut().for_each(|element| apply_schema_defaults(element, ty));
            }
            Some(Value::String(s)) => {
                if s.is_empty()
                    && !field.is_pointer()
                    && let Some(default) = field.default_value().and_then(|text| serde_json::from_str(text).ok())
                {
                    map.insert(field.name().to_owned(), default);
                }
            }
            Some(other) => apply_schema_defaults(other, ty),
        }
    }
}

/// Amounts of resources are whole thousandths.
fn round_up(amount: &mut Value) {
    let Value::String(text) = amount else { return };
    // Only these suffixes of canonical amounts are smaller.
    if (text.ends_with(['n', 'u']) || text.contains("e-"))
        && let Ok(quantity) = text.parse::<crate::quantity::Quantity>()
    {
        *text = quantity.in_whole_millis().to_string();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_of_resources_are_whole_thousandths() {
        let ty = Type::of_kind("", "v1", "Pod").expect("a type");
        let mut pod = json!({"spec": {"overhead": {"cpu": "1n"}, "containers": [{"resources": {"limits": {"cpu": "1500u", "memory": "1Gi"}}}]}});
        apply_schema_defaults(&mut pod, ty);
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"], json!({"cpu": "2m", "memory": "1Gi"}));
        assert_eq!(pod["spec"]["overhead"], json!({"cpu": "1m"}));
    }
}
