//! Types (`common/types/types.go` of cel-go), and shapes: types with the bounds a schema gives
//! (`apiserver/pkg/cel/types.go`, `DeclType`).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The type of an expression.
#[derive(Clone, Debug)]
pub enum Type {
    /// Known only when evaluated.
    Dyn,
    /// Of an expression that has none; goes with everything, so that an error is told once.
    Error,
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool,
    /// 64 bits with a sign.
    Int,
    /// 64 bits without.
    Uint,
    /// A float of 64 bits.
    Double,
    /// Text.
    String,
    /// Bytes.
    Bytes,
    /// A span of time.
    Duration,
    /// An instant.
    Timestamp,
    /// A list of one type.
    List(Arc<Type>),
    /// A map of keys of one type to values of one type.
    Map(Arc<Type>, Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// A parameter of the declaration of a function.
    Param(&'static str),
    /// A parameter of one call.
    Var(usize),
    /// An object with fields.
    Object(Arc<ObjectType>),
    /// A type with functions and nothing else, perhaps with parameters.
    Opaque(&'static str, Arc<[Type]>),
}

/// The declaration of an object.
#[derive(Clone, Debug)]
pub struct ObjectType {
    /// Names the type.
    pub name: String,
    /// The fields by the names expressions use.
    pub fields: BTreeMap<String, Type>,
    /// Whether it has any other field too, of any type, and types of its parts that are named `NAME.PART`.
    pub open: bool,
}

const OPTIONAL: &str = "optional_type";

/// The name of an object that is not named yet ([`Shape::named`]).
pub(crate) const UNNAMED: &str = "object";

impl Type {
    /// A list of `item`.
    pub fn list(item: Type) -> Type {
        Type::List(Arc::new(item))
    }

    /// A map.
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// A value that may be absent.
    pub fn optional(of: Type) -> Type {
        Type::Opaque(OPTIONAL, Arc::new([of]))
    }

    /// An object with any fields.
    pub fn open_object(name: &str) -> Type {
        Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: BTreeMap::new(), open: true }))
    }

    /// A type with functions only.
    pub fn opaque(name: &'static str) -> Type {
        Type::Opaque(name, Arc::new([]))
    }

    /// What an optional may hold.
    pub(crate) fn unwrap_optional(&self) -> Option<&Type> {
        match self {
            Type::Opaque(OPTIONAL, params) => params.first(),
            _ => None,
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn)
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }

    /// Of a size known beforehand (`checker/cost.go`, `isScalar`).
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
            other => other.unwrap_optional().is_some_and(Type::is_scalar),
        }
    }

    /// The parameters, if it has any.
    pub(crate) fn params(&self) -> Vec<&Type> {
        match self {
            Type::List(item) => vec![item],
            Type::Map(key, value) => vec![key, value],
            Type::Opaque(_, params) => params.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The name that `type(x)` has.
    pub fn name(&self) -> &str {
        match self {
            Type::Dyn => "dyn",
            Type::Error => "error",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Type(_) => "type",
            Type::Param(name) => name,
            Type::Var(_) => "var",
            Type::Object(o) => &o.name,
            Type::Opaque(name, _) => name,
        }
    }

    /// Every variable and parameter replaced by what `f` knows of it.
    pub(crate) fn substitute(&self, f: &dyn Fn(&Type) -> Option<Type>) -> Type {
        if let Some(other) = f(self) {
            return other;
        }
        match self {
            Type::List(item) => Type::list(item.substitute(f)),
            Type::Map(key, value) => Type::map(key.substitute(f), value.substitute(f)),
            Type::Type(of) => Type::Type(Arc::new(of.substitute(f))),
            Type::Opaque(name, params) => Type::Opaque(name, params.iter().map(|p| p.substitute(f)).collect()),
            other => other.clone(),
        }
    }
}

/// Types are equal by structure, objects by name.
impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        use Type::{Bool, Bytes, Double, Duration, Dyn, Error, Int, List, Map, Null, Object, Opaque, Param, String};
        use Type::{Timestamp, Uint, Var};
        match (self, other) {
            (List(a), List(b)) => a == b,
            (Map(a, b), Map(c, d)) => a == c && b == d,
            (Type::Type(a), Type::Type(b)) => a == b,
            (Param(a), Param(b)) => a == b,
            (Var(a), Var(b)) => a == b,
            (Object(a), Object(b)) => a.name == b.name,
            (Opaque(a, p), Opaque(b, q)) => a == b && p == q,
            (Dyn, Dyn) | (Error, Error) | (Null, Null) | (Bool, Bool) | (Int, Int) | (Uint, Uint) => true,
            (Double, Double) | (String, String) | (Bytes, Bytes) => true,
            (Duration, Duration) | (Timestamp, Timestamp) => true,
            _ => false,
        }
    }
}

/// As error messages write types (`checker/format.go`).
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Error => f.write_str("!error!"),
            Type::Null => f.write_str("null"),
            Type::Duration => f.write_str("duration"),
            Type::Timestamp => f.write_str("timestamp"),
            Type::List(item) => write!(f, "list({item})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Type(of) if of.is_dyn() => f.write_str("type"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::Var(n) => write!(f, "_var{n}"),
            Type::Opaque(name, params) if !params.is_empty() => {
                let params: Vec<String> = params.iter().map(Type::to_string).collect();
                write!(f, "{name}({})", params.join(", "))
            }
            other => f.write_str(other.name()),
        }
    }
}

/// A type and how large values of it may be, for the estimate of costs.
#[derive(Clone, Debug)]
pub struct Shape {
    ty: Type,
    max: Option<u64>,
    parts: Parts,
}

#[derive(Clone, Debug)]
enum Parts {
    None,
    List(Arc<Shape>),
    Map(Arc<Shape>, Arc<Shape>),
    Object(Arc<BTreeMap<String, Shape>>),
}

impl From<Type> for Shape {
    fn from(ty: Type) -> Shape {
        Shape { ty, max: None, parts: Parts::None }
    }
}

impl Shape {
    /// Of a type, with at most `max` characters, bytes or elements.
    pub fn bounded(ty: Type, max: u64) -> Shape {
        Shape { ty, max: Some(max), parts: Parts::None }
    }

    /// A list of at most `max` items.
    pub fn list(item: Shape, max: Option<u64>) -> Shape {
        Shape { ty: Type::list(item.ty.clone()), max, parts: Parts::List(Arc::new(item)) }
    }

    /// A map of at most `max` entries.
    pub fn map(key: Shape, value: Shape, max: Option<u64>) -> Shape {
        let ty = Type::map(key.ty.clone(), value.ty.clone());
        Shape { ty, max, parts: Parts::Map(Arc::new(key), Arc::new(value)) }
    }

    /// An object. It has no size of its own, as upstream: comparing two of them is taken to cost nothing.
    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Shape)>) -> Shape {
        let shapes: BTreeMap<String, Shape> = fields.into_iter().collect();
        let fields = shapes.iter().map(|(name, shape)| (name.clone(), shape.ty.clone())).collect();
        let ty = Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields, open: false }));
        Shape { ty, max: Some(0), parts: Parts::Object(Arc::new(shapes)) }
    }

    /// The same with names for the objects in it that have none of their own: `name` for itself, `name.field`,
    /// `name.@idx` and `name.@elem` for what is in it (`DeclType.MaybeAssignTypeName`).
    pub fn named(self, name: &str) -> Shape {
        match &self.parts {
            Parts::Object(fields) => {
                let name = if self.ty.name() == UNNAMED { name } else { self.ty.name() };
                let named = |(field, shape): (&String, &Shape)| {
                    (field.clone(), shape.clone().named(&format!("{name}.{field}")))
                };
                Shape::object(name, fields.iter().map(named).collect::<Vec<_>>())
            }
            Parts::List(item) => Shape::list(Shape::clone(item).named(&format!("{name}.@idx")), self.max),
            Parts::Map(key, value) => {
                Shape::map(Shape::clone(key), Shape::clone(value).named(&format!("{name}.@elem")), self.max)
            }
            Parts::None => self,
        }
    }

    /// The type alone.
    pub fn ty(&self) -> &Type {
        &self.ty
    }

    /// The greatest size of a value.
    pub fn max_size(&self) -> Option<u64> {
        self.max
    }

    /// The shape of a part: `@items`, `@keys`, `@values`, or the name of a field or a key.
    pub(crate) fn part(&self, step: &str) -> Option<&Shape> {
        match (&self.parts, step) {
            (Parts::List(item), "@items") => Some(item),
            (Parts::Map(key, _), "@keys") => Some(key),
            (Parts::Object(fields), name) => fields.get(name),
            (Parts::Map(_, value), name) if name != "@items" => Some(value),
            _ => None,
        }
    }
}
