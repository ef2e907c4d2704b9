//! An encoded object that is changed in a few places: what nobody looks at stays the text it is.
//!
//! Reading one costs a pass over its bytes, writing it a copy of them; a tree of values is made of nothing but what is asked
//! for. For changes that touch a few fields of a stored object and nothing else, such as the binding of a pod.

use std::borrow::Cow;

use serde_json::Value;

use super::lexer::{Lexer, Result};
use super::write;
use crate::schema::{Field, Type};

/// An object of a built-in type as text, of which some parts are opened or replaced.
pub struct Outline<'t> {
    shape: Shape,
    parts: Vec<Part<'t>>,
}

/// What is known of the fields.
#[derive(Clone, Copy)]
enum Shape {
    /// They stand in the order of the type.
    Struct(Type),
    /// They are keys, sorted; the type is that of the values.
    Map(Type),
    /// Nothing: sorted as well.
    Any,
}

struct Part<'t> {
    name: Cow<'t, str>,
    body: Body<'t>,
}

enum Body<'t> {
    Text(&'t str),
    Value(Value),
    Open(Outline<'t>),
}

impl<'t> Outline<'t> {
    /// Reads an object of a type that was encoded here. An error is Go's about bytes that are no JSON object; what is
    /// wrong inside of a part is found by whoever looks into it.
    pub fn read(bytes: &'t [u8], ty: Type) -> Result<Outline<'t>> {
        let text = std::str::from_utf8(bytes).map_err(|e| super::super::DecodeError::syntax(e.to_string()))?;
        // Metadata, spec and status are what changes are about: opened on the way, they are passed over once.
        Outline::whole(text, Shape::Struct(ty), 1)
    }

    fn whole(text: &'t str, shape: Shape, levels: usize) -> Result<Outline<'t>> {
        let mut lexer = Lexer::new(text, text.as_bytes());
        if lexer.peek() != Some(b'{') {
            return lexer.unexpected("looking for beginning of object");
        }
        let outline = Outline::parse(&mut lexer, shape, levels)?;
        lexer.end()?;
        Ok(outline)
    }

    /// An object, from its brace; the structs of so many levels are opened.
    fn parse(lexer: &mut Lexer<'t>, shape: Shape, levels: usize) -> Result<Outline<'t>> {
        let mut parts = Vec::with_capacity(16);
        let mut more = lexer.begin_object()?;
        while more {
            let name = lexer.key()?;
            let is_object = levels > 0 && lexer.peek() == Some(b'{');
            let body = match shape.below(&name) {
                below @ Shape::Struct(_) if is_object => Body::Open(Outline::parse(lexer, below, levels - 1)?),
                _ => Body::Text(lexer.pass()?),
            };
            parts.push(Part { name, body });
            more = lexer.more_object()?;
        }
        Ok(Outline { shape, parts })
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.parts.iter().position(|part| part.name == name)
    }

    /// A field, decoded; null where there is none.
    pub fn get(&self, name: &str) -> Value {
        match self.find(name).map(|at| &self.parts[at].body) {
            Some(Body::Text(text)) => serde_json::from_str(text).unwrap_or_default(),
            Some(Body::Value(value)) => value.clone(),
            Some(Body::Open(outline)) => {
                let mut text = Vec::new();
                outline.write(&mut text);
                serde_json::from_slice(&text).unwrap_or_default()
            }
            None => Value::Null,
        }
    }

    /// A field that is a text; empty where there is none.
    pub fn text(&self, name: &str) -> Cow<'t, str> {
        // Most texts stand as they are.
        if let Some(Body::Text(text)) = self.find(name).map(|at| &self.parts[at].body)
            && let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"'))
            && !inner.contains('\\')
        {
            return Cow::Borrowed(inner);
        }
        match self.get(name) {
            Value::String(text) => Cow::Owned(text),
            _ => Cow::Borrowed(""),
        }
    }

    /// The fields of a field, to be changed; made where it is missing or null. `None` for what is no object.
    pub fn open(&mut self, name: &str) -> Option<&mut Outline<'t>> {
        let at = self.place(name);
        let shape = self.shape.below(name);
        let part = &mut self.parts[at];
        let opened = match &part.body {
            Body::Open(_) => None,
            Body::Text("null") | Body::Value(Value::Null) => Some(Outline { shape, parts: Vec::new() }),
            Body::Text(text) => Some(Outline::whole(text, shape, 0).ok()?),
            // What was set is not looked into.
            Body::Value(_) => return None,
        };
        if let Some(opened) = opened {
            part.body = Body::Open(opened);
        }
        match &mut part.body {
            Body::Open(outline) => Some(outline),
            _ => None,
        }
    }

    /// Sets a field.
    pub fn set(&mut self, name: &str, value: Value) {
        let at = self.place(name);
        self.parts[at].body = Body::Value(value);
    }

    /// Removes a field.
    pub fn remove(&mut self, name: &str) {
        self.parts.retain(|part| part.name != name);
    }

    /// Where a field stands; it is made, null, where it belongs.
    fn place(&mut self, name: &str) -> usize {
        if let Some(at) = self.find(name) {
            return at;
        }
        let at = match self.shape {
            Shape::Struct(ty) if ty.field(name).is_some() => {
                let before = ty.fields().take_while(|field| field.name() != name);
                before.fold(0, |at, field| at + usize::from(self.parts.get(at).is_some_and(|p| p.name == field.name())))
            }
            // What the type does not know follows, sorted, as keys are.
            shape => {
                let is_after = |p: &Part<'_>| *p.name > *name && shape.field_of(&p.name).is_none();
                self.parts.iter().position(is_after).unwrap_or(self.parts.len())
            }
        };
        self.parts.insert(at, Part { name: Cow::Owned(name.to_owned()), body: Body::Value(Value::Null) });
        at
    }

    /// Appends the object.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        for (i, part) in self.parts.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write::string(&part.name, out);
            out.push(b':');
            match (&part.body, self.shape) {
                (Body::Text(text), _) => out.extend_from_slice(text.as_bytes()),
                (Body::Open(outline), _) => outline.write(out),
                (Body::Value(value), Shape::Map(ty)) => write::encode(value, ty, out),
                (Body::Value(value), shape) => match shape.field_of(&part.name) {
                    Some(field) => write::encode_field(value, field, out),
                    None => write::encode_untyped(value, out),
                },
            }
        }
        out.push(b'}');
    }
}

impl Shape {
    /// The shape of a field that is an object.
    fn below(self, name: &str) -> Shape {
        match self {
            Shape::Struct(ty) => match ty.field(name) {
                Some(field) if field.is_map() => Shape::Map(field.ty()),
                Some(field) if !field.is_list() && field.ty().builtin().is_none() => Shape::Struct(field.ty()),
                _ => Shape::Any,
            },
            Shape::Map(ty) if ty.builtin().is_none() => Shape::Struct(ty),
            Shape::Map(_) | Shape::Any => Shape::Any,
        }
    }

    /// The field of a type that a name stands for.
    fn field_of(self, name: &str) -> Option<&'static Field> {
        match self {
            Shape::Struct(ty) => ty.field(name),
            Shape::Map(_) | Shape::Any => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::to_vec;
    use super::*;

    fn pod() -> Type {
        Type::of_kind("", "v1", "Pod").expect("a type")
    }

    /// Changed as text and as values, an object is the same bytes.
    #[track_caller]
    fn check(object: Value, change: impl Fn(&mut Outline<'_>), expected: Value) {
        let bytes = to_vec(&object, pod());
        let mut outline = Outline::read(&bytes, pod()).expect("an object");
        change(&mut outline);
        let mut out = Vec::new();
        outline.write(&mut out);
        let expected = to_vec(&expected, pod());
        assert_eq!(String::from_utf8_lossy(&out), String::from_utf8_lossy(&expected));
    }

    #[test]
    fn what_is_not_touched_stays() {
        let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a<b", "labels": {"q\"": "\\"}},
            "spec": {"containers": [{"name": "c", "resources": {}}]}, "status": {}, "zzz": 1});
        check(object.clone(), |_| {}, object.clone());
        let opened =
            |o: &mut Outline<'_>| assert!(o.open("metadata").is_some_and(|meta| meta.open("labels").is_some()));
        check(object.clone(), opened, object);
    }

    #[test]
    fn fields_go_where_the_schema_has_them() {
        check(
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "uid": "u"},
                "spec": {"containers": [], "restartPolicy": "Always", "securityContext": {}}}),
            |pod| {
                let meta = pod.open("metadata").expect("an object");
                meta.remove("uid");
                meta.open("labels").expect("an object").set("b", "2".into());
                meta.open("labels").expect("an object").set("a", "1".into());
                meta.set("unknown", json!([1]));
                pod.open("spec").expect("an object").set("nodeName", "n".into());
                pod.open("status").expect("an object").set("conditions", json!([{"type": "T", "status": "True"}]));
            },
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"a": "1", "b": "2"}, "unknown": [1]},
                "spec": {"containers": [], "restartPolicy": "Always", "securityContext": {}, "nodeName": "n"},
                "status": {"conditions": [{"type": "T", "status": "True"}]}}),
        );
    }

    #[test]
    fn fields_are_decoded_one_by_one() {
        let bytes = br#" {"metadata": {"name": "a\u0041", "uid": "u", "labels": null, "generation": 3} , "spec": []} "#;
        let mut pod = Outline::read(bytes, pod()).expect("an object");
        assert!(pod.open("spec").is_none());
        assert_eq!((pod.get("spec"), pod.get("status")), (json!([]), Value::Null));
        let meta = pod.open("metadata").expect("an object");
        assert_eq!((&*meta.text("name"), &*meta.text("uid"), &*meta.text("generation")), ("aA", "u", ""));
        assert_eq!(meta.get("generation"), 3);
        meta.open("labels").expect("null is empty").set("a", "b".into());
        assert_eq!(meta.get("labels"), json!({"a": "b"}));
        let odd = br#"{"metadata": {"name": tru}, "spec": {"a": "\"}", "b": [{"c": "]"}]}, "status": 1 }"#;
        let mut pod = Outline::read(odd, self::pod()).expect("an object");
        assert_eq!(pod.open("metadata").map(|meta| meta.get("name")), Some(Value::Null));
        assert_eq!((pod.get("spec"), pod.get("status")), (json!({"a": "\"}", "b": [{"c": "]"}]}), json!(1)));
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for bad in [
            &b"[]"[..],
            b"",
            b"{",
            b"{\"a\"}",
            b"{\"a\":1,}",
            b"{\"a\":}",
            b"{\"a\":[}",
            b"{\"a\":\"\\",
            b"{} {}",
            b"{\"a\":\"\xff\"}",
        ] {
            assert!(Outline::read(bad, pod()).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
