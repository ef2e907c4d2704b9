//! [`Node`]: a place in a schema, walked beside the object.
//!
//! Upstream splits what this answers over the OpenAPI types of `structured-merge-diff` and the lookup of patch
//! metadata in `apimachinery/pkg/util/strategicpatch`.

use serde_json::Value;

use super::{Builtin, Field, Type, table};
use crate::custom::{self, Additional, Schema, Ty};

/// What stands at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// An object with known fields: [`Node::field`].
    Struct,
    /// An object with any keys: [`Node::values`].
    Map,
    /// A list: [`Node::items`].
    List,
    /// A single value.
    Scalar(ScalarType),
    /// Any JSON; nothing is known below it.
    Any,
}

/// The type of a single value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScalarType {
    /// Text.
    String,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// Boolean.
    Bool,
    /// Float.
    Float64,
    /// Base64 text.
    Bytes,
    /// Quantity: a text or a number.
    Quantity,
    /// Integer or text.
    IntOrString,
    /// RFC 3339 time with seconds.
    Time,
    /// RFC 3339 time with microseconds.
    MicroTime,
    /// Go duration as text.
    Duration,
}

/// How the elements of a list are told apart (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType<'a> {
    /// The list is one value. Also what a list is of which the schema says nothing.
    Atomic,
    /// Elements are scalars, each at most once.
    Set,
    /// Elements are objects with these keys.
    Map(Keys<'a>),
}

/// The names of the fields by which elements of a list are told apart.
#[derive(Clone, Copy)]
pub struct Keys<'a>(KeysOf<'a>);

#[derive(Clone, Copy)]
enum KeysOf<'a> {
    Table(&'a [&'a str]),
    Custom(custom::Keys<'a>),
}

impl<'a> Keys<'a> {
    /// These names.
    pub fn of(names: &'a [&'a str]) -> Self {
        Keys(KeysOf::Table(names))
    }

    /// The names in the order of the schema.
    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let get = move |n: usize| match self.0 {
            KeysOf::Table(names) => names.get(n).copied(),
            KeysOf::Custom(names) => names.get(n),
        };
        (0..).map_while(get)
    }
}

impl PartialEq for Keys<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Keys<'_> {}

impl std::fmt::Debug for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// Whether an object is merged by key or replaced (`x-kubernetes-map-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// Replaced as one value.
    Atomic,
    /// Merged by key. Also what an object is of which the schema says nothing.
    Granular,
}

/// A cursor on a place in the schema of an object. Small and `Copy`; walking allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a>(Repr<'a>);

#[derive(Clone, Copy, Debug)]
enum Repr<'a> {
    /// A whole field of a built-in type, its list or map included.
    Field(&'a Field),
    /// An element of the list or map of a field.
    Element(&'a Field),
    /// A type with no field around it: the root of an object, an element of a named list.
    Type(Type),
    /// A place in the schema of a custom resource; with `open`, what the schema does not name may be there all the
    /// same (`x-kubernetes-preserve-unknown-fields` here or above).
    Custom { schema: Schema<'a>, open: bool },
    /// What a custom resource has where its schema leaves everything open.
    Open,
}

impl Node<'static> {
    /// The root of a built-in type by its Go path.
    pub fn named(name: &str) -> Option<Self> {
        Type::named(name).map(Node::of)
    }

    /// The root of a built-in kind; the group of core is empty.
    pub fn of_kind(group: &str, version: &str, kind: &str) -> Option<Self> {
        Type::of_kind(group, version, kind).map(Node::of)
    }

    /// The root of a built-in type.
    pub fn of(ty: Type) -> Self {
        Node(Repr::Type(ty))
    }
}

impl<'a> Node<'a> {
    /// A place in the schema of a custom resource.
    pub(crate) fn custom(schema: Schema<'a>) -> Self {
        Node(Repr::Custom { schema, open: schema.is_preserving() })
    }

    /// A part of such a place.
    fn part(schema: Schema<'a>, open: bool) -> Self {
        Node(Repr::Custom { schema, open: open || schema.is_preserving() })
    }

    fn text() -> Option<Self> {
        Type::named("string").map(|ty| Node(Repr::Type(ty)))
    }

    /// The declaration, where this is a whole field.
    fn decl(&self) -> Option<&'a Field> {
        match self.0 {
            Repr::Field(f) => Some(f),
            _ => None,
        }
    }

    /// What stands here.
    pub fn kind(&self) -> NodeKind {
        if let Repr::Field(f) = self.0 {
            if f.is_list() {
                return NodeKind::List;
            }
            if f.is_map() {
                return NodeKind::Map;
            }
        }
        let ty = match self.0 {
            Repr::Field(f) | Repr::Element(f) => f.ty(),
            Repr::Type(ty) => ty,
            Repr::Custom { schema, .. } => return kind_of_custom(schema),
            Repr::Open => return NodeKind::Any,
        };
        let Some(builtin) = ty.builtin() else { return NodeKind::Struct };
        NodeKind::Scalar(match builtin {
            Builtin::String => ScalarType::String,
            Builtin::Int32 => ScalarType::Int32,
            Builtin::Int64 => ScalarType::Int64,
            Builtin::Bool => ScalarType::Bool,
            Builtin::Float64 => ScalarType::Float64,
            Builtin::Bytes => ScalarType::Bytes,
            Builtin::Quantity => ScalarType::Quantity,
            Builtin::IntOrString => ScalarType::IntOrString,
            Builtin::Time => ScalarType::Time,
            Builtin::MicroTime => ScalarType::MicroTime,
            Builtin::Duration => ScalarType::Duration,
            Builtin::ExtraValue => return NodeKind::List,
            Builtin::Interface
            | Builtin::RawExtension
            | Builtin::FieldsV1
            | Builtin::Json
            | Builtin::SchemaOrBool
            | Builtin::SchemaOrArray
            | Builtin::SchemaOrStrings => return NodeKind::Any,
        })
    }

    /// The built-in type here (of the elements, for a list or map); `None` in a custom resource.
    pub fn builtin_type(&self) -> Option<Type> {
        match self.0 {
            Repr::Field(f) | Repr::Element(f) => Some(f.ty()),
            Repr::Type(ty) => Some(ty),
            Repr::Custom { .. } | Repr::Open => None,
        }
    }

    /// The field of a struct. `None` for a field that the schema does not know, and below anything that is no
    /// struct.
    pub fn field(&self, name: &str) -> Option<Node<'a>> {
        if self.kind() != NodeKind::Struct {
            return None;
        }
        let Repr::Custom { schema, open } = self.0 else {
            return self.builtin_type()?.field(name).map(|f| Node(Repr::Field(f)));
        };
        match name {
            "metadata" if schema.is_resource() => Node::named("k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta"),
            "apiVersion" | "kind" if schema.is_resource() => Node::text(),
            _ => schema.property(name).map(|property| Node::part(property, open)),
        }
    }

    /// The fields of a struct in the order of the schema; empty for anything else.
    pub fn fields(&self) -> impl Iterator<Item = (&'a str, Node<'a>)> {
        let ty = (self.kind() == NodeKind::Struct).then(|| self.builtin_type()).flatten();
        let custom = match self.0 {
            Repr::Custom { schema, open } => Some((schema, open)),
            _ => None,
        };
        let of_custom =
            custom.into_iter().flat_map(|(s, open)| s.properties().map(move |(n, s)| (n, Node::part(s, open))));
        ty.into_iter().flat_map(Type::fields).map(|f| (f.name(), Node(Repr::Field(f)))).chain(of_custom)
    }

    /// The elements of a list.
    pub fn items(&self) -> Option<Node<'a>> {
        match self.0 {
            Repr::Field(f) if f.is_list() => Some(Node(Repr::Element(f))),
            Repr::Custom { schema, open } => schema.items().map(|items| Node::part(items, open)),
            _ if self.kind() == NodeKind::List => Node::text(),
            _ => None,
        }
    }

    /// The values of a map.
    pub fn values(&self) -> Option<Node<'a>> {
        match self.0 {
            Repr::Field(f) if f.is_map() => Some(Node(Repr::Element(f))),
            Repr::Custom { schema, open } => match schema.additional() {
                Additional::Schema(values) => Some(Node::part(values, open)),
                Additional::Allowed(true) => Some(Node(Repr::Open)),
                Additional::Allowed(false) => None,
                // An object of which nothing is said may hold anything.
                Additional::Unsaid => (open || schema.properties().len() == 0).then_some(Node(Repr::Open)),
            },
            _ => None,
        }
    }

    /// What is under a key of an object: the field of a struct or the value of a map.
    pub fn child(&self, key: &str) -> Option<Node<'a>> {
        match self.kind() {
            NodeKind::Struct if self.builtin_type().is_none() => self.field(key).or_else(|| self.values()),
            NodeKind::Struct => self.field(key),
            NodeKind::Map => self.values(),
            _ => None,
        }
    }

    /// How the elements of a list are told apart.
    pub fn list_type(&self) -> ListType<'a> {
        if let Repr::Custom { schema, .. } = self.0 {
            return match schema.list_type() {
                "set" => ListType::Set,
                "map" => ListType::Map(Keys(KeysOf::Custom(schema.map_keys()))),
                _ => ListType::Atomic,
            };
        }
        let Some(extra) = self.decl().map(Field::extra) else { return ListType::Atomic };
        match extra.list_type {
            2 => ListType::Set,
            3 => ListType::Map(Keys::of(extra.keys)),
            _ => ListType::Atomic,
        }
    }

    /// Whether an object is merged by key or replaced.
    pub fn map_type(&self) -> MapType {
        if let Repr::Custom { schema, .. } = self.0 {
            return if schema.is_atomic_map() { MapType::Atomic } else { MapType::Granular };
        }
        let of_field = self.decl().map_or(0, |f| f.extra().map_type);
        let of_type = match (self.kind(), self.builtin_type()) {
            (NodeKind::Struct, Some(ty)) => ty.map_type_code(),
            _ => 0,
        };
        match (of_field, of_type) {
            (1, _) | (0, 1) => MapType::Atomic,
            _ => MapType::Granular,
        }
    }

    /// The strategies of a strategic merge patch, such as `merge` or `merge,retainKeys`; empty for none.
    pub fn patch_strategy(&self) -> &'a str {
        self.decl().map_or("", |f| f.extra().strategy)
    }

    /// Whether [`Node::patch_strategy`] names a strategy.
    pub fn has_patch_strategy(&self, strategy: &str) -> bool {
        self.patch_strategy().split(',').any(|s| s == strategy)
    }

    /// The key by which a strategic merge patch tells the elements of a list apart.
    pub fn patch_merge_key(&self) -> Option<&'a str> {
        self.decl().map(|f| f.extra().merge_key).filter(|key| !key.is_empty())
    }

    /// The default that the schema gives, zero values (`""`, `0`, `{}`) included. Such as `"TCP"` for
    /// `ports[].protocol`, which is also the value of that list-map key where an element leaves it out.
    pub fn default(&self) -> Option<Value> {
        let text = match self.0 {
            Repr::Field(f) => f.extra().default,
            Repr::Element(f) => f.extra().element_default,
            Repr::Custom { schema, .. } => return schema.default().cloned(),
            Repr::Type(_) | Repr::Open => "",
        };
        if text.is_empty() { None } else { serde_json::from_str(text).ok() }
    }

    /// Whether Go tells an absent value from a zero one here.
    pub fn is_pointer(&self) -> bool {
        self.decl().is_some_and(Field::is_pointer)
    }

    /// Whether an empty value is left out of JSON.
    pub fn omitempty(&self) -> bool {
        self.decl().is_some_and(|f| f.has(table::OMITEMPTY))
    }

    /// Whether a zero value is left out of JSON, structs too.
    pub fn omitzero(&self) -> bool {
        self.decl().is_some_and(Field::omitzero)
    }

    /// Whether OpenAPI requires the field.
    pub fn required(&self) -> bool {
        self.decl().is_some_and(Field::required)
    }

    /// The Go type as error texts name it, such as `[]v1.Container`.
    pub fn go_type(&self) -> String {
        match self.0 {
            Repr::Field(f) => f.go_type(),
            Repr::Element(f) => f.ty().go_name().to_owned(),
            Repr::Type(ty) => ty.go_name().to_owned(),
            Repr::Custom { .. } | Repr::Open => "interface {}".to_owned(),
        }
    }
}

fn kind_of_custom(schema: Schema<'_>) -> NodeKind {
    if schema.is_int_or_string() {
        return NodeKind::Scalar(ScalarType::IntOrString);
    }
    match schema.ty() {
        Ty::Object if schema.is_resource() || schema.properties().len() > 0 => NodeKind::Struct,
        Ty::Object => NodeKind::Map,
        Ty::Array => NodeKind::List,
        Ty::String => NodeKind::Scalar(ScalarType::String),
        Ty::Integer => NodeKind::Scalar(ScalarType::Int64),
        Ty::Number => NodeKind::Scalar(ScalarType::Float64),
        Ty::Boolean => NodeKind::Scalar(ScalarType::Bool),
        // With properties and no type: whatever else it is, an object has these.
        Ty::None if schema.properties().len() > 0 => NodeKind::Struct,
        Ty::None => NodeKind::Any,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(path: &str) -> Node<'a> {
        let mut node = Node::of_kind("", "v1", "Pod").expect("Pod");
        for part in path.split('.') {
            node = if part == "*" { node.items().or_else(|| node.values()) } else { node.field(part) }.expect(part);
        }
        node
    }

    #[test]
    fn a_walk_through_a_pod() {
        let containers = at("spec.containers");
        assert_eq!(containers.kind(), NodeKind::List);
        assert_eq!(containers.list_type(), ListType::Map(Keys::of(&["name"])));
        assert!(containers.has_patch_strategy("merge"));
        assert_eq!(containers.patch_merge_key(), Some("name"));
        let ports = at("spec.containers.*.ports");
        assert_eq!(ports.list_type(), ListType::Map(Keys::of(&["containerPort", "protocol"])));
        assert_eq!(ports.patch_merge_key(), Some("containerPort"));
        assert_eq!(at("spec.containers.*.ports.*.protocol").default(), Some("TCP".into()));
        assert_eq!(at("spec.volumes").patch_strategy(), "merge,retainKeys");
        assert_eq!(at("spec.nodeSelector").map_type(), MapType::Atomic);
        assert_eq!(at("metadata.labels").map_type(), MapType::Granular);
        assert_eq!(at("metadata.labels.*").kind(), NodeKind::Scalar(ScalarType::String));
        assert_eq!(at("metadata.finalizers").list_type(), ListType::Set);
        let limits = at("spec.containers.*.resources.limits.*");
        assert_eq!(limits.kind(), NodeKind::Scalar(ScalarType::Quantity));
        assert_eq!(at("spec.affinity.podAffinity").kind(), NodeKind::Struct);
        assert_eq!(at("spec.volumes.*.emptyDir.medium").kind(), NodeKind::Scalar(ScalarType::String));
        assert_eq!(at("spec.containers.*.env.*.valueFrom.configMapKeyRef").map_type(), MapType::Atomic);
        assert!(at("spec.containers").field("name").is_none());
    }
}
