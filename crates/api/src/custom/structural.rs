//! [`Structural`]: a schema of a version of a custom resource, compiled to what is needed beside objects.
//!
//! Operators bring hundreds of definitions, whose schemas repeat the same parts (a pod template in every workload) and
//! are half descriptions. A compiled schema is a few flat lists of small rows; names are kept once, equal parts are one
//! row, and descriptions are left in the stored definition, where OpenAPI finds them.
//!
//! Upstream: `Structural` of `pkg/apiserver/schema/structural.go`.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use serde_json::Value;

use super::rules::Compiled;
use crate::object::{at, list, text};

/// The type that a schema states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Ty {
    /// None: below `anyOf` and its like, of an int-or-string, or where anything may stand.
    None,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
}

impl Ty {
    fn of(name: &str) -> Ty {
        match name {
            "object" => Ty::Object,
            "array" => Ty::Array,
            "string" => Ty::String,
            "integer" => Ty::Integer,
            "number" => Ty::Number,
            "boolean" => Ty::Boolean,
            _ => Ty::None,
        }
    }

    /// As a schema names it; empty for none.
    pub fn name(self) -> &'static str {
        match self {
            Ty::None => "",
            Ty::Object => "object",
            Ty::Array => "array",
            Ty::String => "string",
            Ty::Integer => "integer",
            Ty::Number => "number",
            Ty::Boolean => "boolean",
        }
    }
}

/// A row of a list of [`Structural`].
type Index = u32;

/// No row.
const NOTHING: Index = Index::MAX;

/// A part of a list of [`Structural`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Span(u32, u32);

impl Span {
    fn of<T>(self, list: &[T]) -> &[T] {
        let (start, len) = (self.0 as usize, self.1 as usize);
        list.get(start..start + len).unwrap_or_default()
    }
}

/// A float that can be compared: its bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bits(u64);

impl Bits {
    pub fn get(self) -> f64 {
        f64::from_bits(self.0)
    }
}

impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// One thing that a schema says beside its type and its parts, in the order in which upstream looks at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fact {
    AnyOf(Span),
    OneOf(Span),
    AllOf(Span),
    Not(Index),
    MaxLength(i64),
    MinLength(i64),
    Pattern(Index),
    Format(Index),
    MultipleOf(Bits),
    Maximum(Bits, bool),
    Minimum(Bits, bool),
    MinItems(i64),
    MaxItems(i64),
    UniqueItems,
    Enum(Span),
    MinProperties(i64),
    MaxProperties(i64),
    Required(Span),
    Default(Index),
    MapKeys(Span),
    Rules(Span),
}

const PRESERVE: u16 = 1;
const EMBEDDED: u16 = 1 << 1;
const INT_OR_STRING: u16 = 1 << 2;
const NULLABLE: u16 = 1 << 3;
const LIST_ATOMIC: u16 = 1 << 4;
const LIST_SET: u16 = 1 << 5;
const LIST_MAP: u16 = 1 << 6;
const MAP_ATOMIC: u16 = 1 << 7;
const ANY_MORE: u16 = 1 << 8;
const NO_MORE: u16 = 1 << 9;
/// There is a default here or below.
const DEFAULTS: u16 = 1 << 10;
/// There is an embedded resource here or below.
const EMBEDS: u16 = 1 << 11;
/// There is a list that is a set or a map here or below.
const KEYED: u16 = 1 << 12;
/// There is a rule here or below.
const RULED: u16 = 1 << 13;
/// This is the schema of a whole object.
const ROOT: u16 = 1 << 14;

/// Here or below, expressions see something else than JSON has.
const CONVERTS: u16 = 1 << 15;

/// What holds of a schema because it holds of a part.
const INHERITED: u16 = DEFAULTS | EMBEDS | KEYED | RULED | CONVERTS;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    ty: Ty,
    flags: u16,
    properties: Span,
    items: Index,
    additional: Index,
    facts: Span,
}

/// A rule of `x-kubernetes-validations`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Rule {
    pub rule: Box<str>,
    pub message: Box<str>,
    pub message_expression: Box<str>,
    pub reason: Box<str>,
    pub field_path: Box<str>,
    pub optional_old: Option<bool>,
}

/// A compiled schema. [`Structural::root`] is where to start.
pub struct Structural {
    rows: Box<[Row]>,
    root: Index,
    properties: Box<[(Index, Index)]>,
    facts: Box<[Fact]>,
    /// Lists of rows, names and values.
    lists: Box<[Index]>,
    values: Box<[Value]>,
    rules: Box<[Rule]>,
    /// All names, one after the other, and where each ends.
    names: Box<str>,
    ends: Box<[u32]>,
    compiled: Compiled,
}

impl fmt::Debug for Structural {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Structural").field("rows", &self.rows.len()).field("names", &self.ends.len()).finish()
    }
}

impl Structural {
    /// Compiles a schema (`openAPIV3Schema`). What is no schema is one that says nothing.
    pub fn compile(schema: &Value) -> Structural {
        let mut builder = Builder::default();
        let root = builder.add(schema, true);
        builder.finish(root)
    }

    /// The schema of the whole object.
    pub(crate) fn root(&self) -> Schema<'_> {
        Schema { all: self, index: self.root }
    }

    /// The place in the schema where objects begin, for patches and server-side apply.
    pub fn node(&self) -> crate::schema::Node<'_> {
        crate::schema::Node::custom(self.root())
    }

    /// The rules compiled so far.
    pub(super) fn compiled(&self) -> &Compiled {
        &self.compiled
    }

    /// The formats that are not known for their type.
    pub(crate) fn unknown_formats(&self) -> Vec<String> {
        let schemas = (0..self.rows.len() as Index).map(|index| Schema { all: self, index });
        schemas.filter_map(super::validation::unknown_format).map(str::to_owned).collect()
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        std::mem::size_of_val(&*self.rows)
            + std::mem::size_of_val(&*self.properties)
            + std::mem::size_of_val(&*self.facts)
            + std::mem::size_of_val(&*self.lists)
            + std::mem::size_of_val(&*self.values)
            + std::mem::size_of_val(&*self.rules)
            + self.rules.iter().map(|r| r.rule.len() + r.message.len()).sum::<usize>()
            + self.names.len()
            + std::mem::size_of_val(&*self.ends)
    }

    fn name(&self, index: Index) -> &str {
        let index = index as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends.get(before).copied().unwrap_or_default());
        let end = self.ends.get(index).copied().unwrap_or_default();
        self.names.get(start as usize..end as usize).unwrap_or_default()
    }
}

/// A schema inside a [`Structural`]: small and `Copy`.
#[derive(Clone, Copy)]
pub(crate) struct Schema<'a> {
    all: &'a Structural,
    index: Index,
}

impl fmt::Debug for Schema<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Schema({}, {:?})", self.index, self.ty())
    }
}

/// What stands under keys that are no properties.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Additional<'a> {
    /// Nothing is said.
    Unsaid,
    /// `additionalProperties: true` or `false`.
    Allowed(bool),
    /// Values of a schema.
    Schema(Schema<'a>),
}

/// A thing that a schema says of values, as far as it is checked on its own.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Check<'a> {
    AnyOf(Schemas<'a>),
    OneOf(Schemas<'a>),
    AllOf(Schemas<'a>),
    Not(Schema<'a>),
    MaxLength(i64),
    MinLength(i64),
    Pattern(&'a str),
    Format(&'a str),
    MultipleOf(f64),
    Maximum(f64, bool),
    Minimum(f64, bool),
    MinItems(i64),
    MaxItems(i64),
    UniqueItems,
    Enum(Values<'a>),
    MinProperties(i64),
    MaxProperties(i64),
    Required(Keys<'a>),
}

/// Several schemas.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schemas<'a>(&'a Structural, Span);

impl<'a> Schemas<'a> {
    pub fn iter(self) -> impl ExactSizeIterator<Item = Schema<'a>> {
        let all = self.0;
        self.1.of(&all.lists).iter().map(move |&index| Schema { all, index })
    }
}

/// Several values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Values<'a>(&'a Structural, Span);

impl<'a> Values<'a> {
    pub fn iter(self) -> impl Iterator<Item = &'a Value> {
        let all = self.0;
        self.1.of(&all.lists).iter().filter_map(move |&index| all.values.get(index as usize))
    }
}

/// Several names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a>(&'a Structural, Span);

impl<'a> Keys<'a> {
    pub fn get(self, n: usize) -> Option<&'a str> {
        self.1.of(&self.0.lists).get(n).map(|&index| self.0.name(index))
    }

    pub fn iter(self) -> impl Iterator<Item = &'a str> {
        let all = self.0;
        self.1.of(&all.lists).iter().map(move |&index| all.name(index))
    }
}

impl<'a> Schema<'a> {
    fn row(self) -> &'a Row {
        const NO_ROW: Row = Row {
            ty: Ty::None,
            flags: 0,
            properties: Span(0, 0),
            items: NOTHING,
            additional: NOTHING,
            facts: Span(0, 0),
        };
        self.all.rows.get(self.index as usize).unwrap_or(&NO_ROW)
    }

    fn has(self, flag: u16) -> bool {
        self.row().flags & flag != 0
    }

    /// What tells it from the other schemas of its [`Structural`]; equal parts are one.
    pub fn id(self) -> u32 {
        self.index
    }

    pub fn ty(self) -> Ty {
        self.row().ty
    }

    pub fn is_nullable(self) -> bool {
        self.has(NULLABLE)
    }

    /// `x-kubernetes-preserve-unknown-fields`.
    pub fn is_preserving(self) -> bool {
        self.has(PRESERVE)
    }

    /// `x-kubernetes-embedded-resource`.
    pub fn is_embedded(self) -> bool {
        self.has(EMBEDDED)
    }

    /// Whether this is the schema of the whole object.
    pub fn is_root(self) -> bool {
        self.has(ROOT)
    }

    /// Whether values are objects with a kind and metadata.
    pub fn is_resource(self) -> bool {
        self.has(EMBEDDED | ROOT)
    }

    /// `x-kubernetes-int-or-string`.
    pub fn is_int_or_string(self) -> bool {
        self.has(INT_OR_STRING)
    }

    /// `x-kubernetes-list-type`; empty for none.
    pub fn list_type(self) -> &'static str {
        match self.row().flags & (LIST_ATOMIC | LIST_SET | LIST_MAP) {
            LIST_ATOMIC => "atomic",
            LIST_SET => "set",
            LIST_MAP => "map",
            _ => "",
        }
    }

    /// `x-kubernetes-map-type: atomic`.
    pub fn is_atomic_map(self) -> bool {
        self.has(MAP_ATOMIC)
    }

    /// Whether there is a default here or below.
    pub fn has_defaults(self) -> bool {
        self.has(DEFAULTS)
    }

    /// Whether there is an embedded resource here or below.
    pub fn has_embedded(self) -> bool {
        self.has(EMBEDS)
    }

    /// Whether there is a list that is a set or a map here or below.
    pub fn has_keyed_lists(self) -> bool {
        self.has(KEYED)
    }

    /// Whether there is a rule here or below.
    pub fn has_rules(self) -> bool {
        self.has(RULED)
    }

    /// Whether expressions see something else than JSON has, here or below.
    pub fn converts(self) -> bool {
        self.has(CONVERTS)
    }

    /// The properties in the order of their names.
    pub fn properties(self) -> impl ExactSizeIterator<Item = (&'a str, Schema<'a>)> {
        let all = self.all;
        self.row()
            .properties
            .of(&all.properties)
            .iter()
            .map(move |&(name, index)| (all.name(name), Schema { all, index }))
    }

    pub fn property(self, name: &str) -> Option<Schema<'a>> {
        let list = self.row().properties.of(&self.all.properties);
        let at = list.binary_search_by(|&(n, _)| self.all.name(n).cmp(name)).ok()?;
        list.get(at).map(|&(_, index)| Schema { all: self.all, index })
    }

    fn at(self, index: Index) -> Option<Schema<'a>> {
        (index != NOTHING).then_some(Schema { all: self.all, index })
    }

    pub fn items(self) -> Option<Schema<'a>> {
        self.at(self.row().items)
    }

    pub fn additional(self) -> Additional<'a> {
        match self.at(self.row().additional) {
            Some(schema) => Additional::Schema(schema),
            None if self.has(ANY_MORE | NO_MORE) => Additional::Allowed(self.has(ANY_MORE)),
            None => Additional::Unsaid,
        }
    }

    fn facts(self) -> &'a [Fact] {
        self.row().facts.of(&self.all.facts)
    }

    pub fn default(self) -> Option<&'a Value> {
        self.facts().iter().find_map(|fact| match fact {
            Fact::Default(value) => self.all.values.get(*value as usize),
            _ => None,
        })
    }

    pub fn format(self) -> Option<&'a str> {
        self.facts().iter().find_map(|fact| match fact {
            Fact::Format(name) => Some(self.all.name(*name)),
            _ => None,
        })
    }

    /// `x-kubernetes-list-map-keys`.
    pub fn map_keys(self) -> Keys<'a> {
        let found = self.facts().iter().find_map(|fact| match fact {
            Fact::MapKeys(names) => Some(*names),
            _ => None,
        });
        Keys(self.all, found.unwrap_or_default())
    }

    /// `required`.
    pub fn required(self) -> Keys<'a> {
        let found = self.facts().iter().find_map(|fact| match fact {
            Fact::Required(names) => Some(*names),
            _ => None,
        });
        Keys(self.all, found.unwrap_or_default())
    }

    /// `x-kubernetes-validations`.
    pub fn rules(self) -> &'a [Rule] {
        let found = self.facts().iter().find_map(|fact| match fact {
            Fact::Rules(rules) => Some(*rules),
            _ => None,
        });
        found.unwrap_or_default().of(&self.all.rules)
    }

    /// What is checked of values, in upstream's order.
    pub fn checks(self) -> impl Iterator<Item = Check<'a>> {
        let all = self.all;
        self.facts().iter().filter_map(move |&fact| {
            Some(match fact {
                Fact::AnyOf(s) => Check::AnyOf(Schemas(all, s)),
                Fact::OneOf(s) => Check::OneOf(Schemas(all, s)),
                Fact::AllOf(s) => Check::AllOf(Schemas(all, s)),
                Fact::Not(index) => Check::Not(Schema { all, index }),
                Fact::MaxLength(n) => Check::MaxLength(n),
                Fact::MinLength(n) => Check::MinLength(n),
                Fact::Pattern(n) => Check::Pattern(all.name(n)),
                Fact::Format(n) => Check::Format(all.name(n)),
                Fact::MultipleOf(n) => Check::MultipleOf(n.get()),
                Fact::Maximum(n, exclusive) => Check::Maximum(n.get(), exclusive),
                Fact::Minimum(n, exclusive) => Check::Minimum(n.get(), exclusive),
                Fact::MinItems(n) => Check::MinItems(n),
                Fact::MaxItems(n) => Check::MaxItems(n),
                Fact::UniqueItems => Check::UniqueItems,
                Fact::Enum(values) => Check::Enum(Values(all, values)),
                Fact::MinProperties(n) => Check::MinProperties(n),
                Fact::MaxProperties(n) => Check::MaxProperties(n),
                Fact::Required(names) => Check::Required(Keys(all, names)),
                Fact::Default(_) | Fact::MapKeys(_) | Fact::Rules(_) => return None,
            })
        })
    }

    /// The part of the schema that expressions see of values here, as JSON ([`orkd_cel::k8s::schema::shape`]).
    pub fn to_json(self) -> Value {
        let mut map = crate::Map::new();
        let mut put = |name: &str, value: Value| {
            map.insert(name.to_owned(), value);
        };
        if self.ty() != Ty::None {
            put("type", self.ty().name().into());
        }
        if self.is_int_or_string() {
            put("x-kubernetes-int-or-string", true.into());
        }
        if self.is_embedded() {
            put("x-kubernetes-embedded-resource", true.into());
        }
        if self.is_preserving() {
            put("x-kubernetes-preserve-unknown-fields", true.into());
        }
        if let Some(default) = self.default() {
            put("default", default.clone());
        }
        for check in self.checks() {
            match check {
                Check::MaxLength(n) => put("maxLength", n.into()),
                Check::MaxItems(n) => put("maxItems", n.into()),
                Check::MaxProperties(n) => put("maxProperties", n.into()),
                Check::Format(name) => put("format", name.into()),
                Check::Enum(values) => put("enum", values.iter().cloned().collect()),
                Check::Required(names) => put("required", names.iter().collect()),
                _ => {}
            }
        }
        if self.properties().len() > 0 {
            put("properties", Value::Object(self.properties().map(|(n, s)| (n.to_owned(), s.to_json())).collect()));
        }
        if let Some(items) = self.items() {
            put("items", items.to_json());
        }
        match self.additional() {
            Additional::Schema(schema) => put("additionalProperties", schema.to_json()),
            Additional::Allowed(allowed) => put("additionalProperties", allowed.into()),
            Additional::Unsaid => {}
        }
        Value::Object(map)
    }
}

#[derive(Default)]
struct Builder {
    rows: Vec<Row>,
    same_row: HashMap<Row, Index>,
    properties: Vec<(Index, Index)>,
    same_properties: HashMap<Vec<(Index, Index)>, Span>,
    facts: Vec<Fact>,
    same_facts: HashMap<Vec<Fact>, Span>,
    lists: Vec<Index>,
    same_list: HashMap<Vec<Index>, Span>,
    values: Vec<Value>,
    same_value: HashMap<String, Index>,
    rules: Vec<Rule>,
    same_rules: HashMap<Vec<Rule>, Span>,
    names: String,
    ends: Vec<u32>,
    same_name: HashMap<String, Index>,
}

/// The part of `list` that equals `part`, put at its end if there is none.
fn intern<T: Clone + Eq + Hash>(list: &mut Vec<T>, same: &mut HashMap<Vec<T>, Span>, part: Vec<T>) -> Span {
    if part.is_empty() {
        return Span::default();
    }
    if let Some(span) = same.get(&part) {
        return *span;
    }
    let span = Span(list.len() as u32, part.len() as u32);
    list.extend(part.iter().cloned());
    same.insert(part, span);
    span
}

impl Builder {
    fn finish(self, root: Index) -> Structural {
        Structural {
            rows: self.rows.into(),
            root,
            properties: self.properties.into(),
            facts: self.facts.into(),
            lists: self.lists.into(),
            values: self.values.into(),
            rules: self.rules.into(),
            names: self.names.into(),
            ends: self.ends.into(),
            compiled: Compiled::default(),
        }
    }

    fn name(&mut self, name: &str) -> Index {
        if let Some(index) = self.same_name.get(name) {
            return *index;
        }
        self.names.push_str(name);
        let index = self.ends.len() as Index;
        self.ends.push(self.names.len() as u32);
        self.same_name.insert(name.to_owned(), index);
        index
    }

    fn value(&mut self, value: &Value) -> Index {
        let key = value.to_string();
        if let Some(index) = self.same_value.get(&key) {
            return *index;
        }
        let index = self.values.len() as Index;
        self.values.push(value.clone());
        self.same_value.insert(key, index);
        index
    }

    fn list(&mut self, list: Vec<Index>) -> Span {
        intern(&mut self.lists, &mut self.same_list, list)
    }

    /// The rows of the schemas in a field.
    fn each(&mut self, schema: &Value, field: &str) -> Option<Span> {
        let of: Vec<Index> = list(schema, &[field]).iter().map(|s| self.add(s, false)).collect();
        (!of.is_empty()).then(|| self.list(of))
    }

    /// The row of a schema that stands in a field, if there is one.
    fn one(&mut self, schema: &Value, field: &str) -> Index {
        match at(schema, &[field]) {
            part @ Value::Object(_) => self.add(part, false),
            _ => NOTHING,
        }
    }

    fn add(&mut self, schema: &Value, root: bool) -> Index {
        let is = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        let mut flags = 0;
        for (name, flag) in [
            ("x-kubernetes-preserve-unknown-fields", PRESERVE),
            ("x-kubernetes-embedded-resource", EMBEDDED | EMBEDS),
            ("x-kubernetes-int-or-string", INT_OR_STRING),
            ("nullable", NULLABLE),
        ] {
            if is(name) {
                flags |= flag;
            }
        }
        flags |= match text(schema, &["x-kubernetes-list-type"]) {
            "atomic" => LIST_ATOMIC,
            "set" => LIST_SET | KEYED | CONVERTS,
            "map" => LIST_MAP | KEYED | CONVERTS,
            _ => 0,
        };
        if text(schema, &["x-kubernetes-map-type"]) == "atomic" {
            flags |= MAP_ATOMIC;
        }
        flags |= match at(schema, &["additionalProperties"]) {
            Value::Bool(true) => ANY_MORE,
            Value::Bool(false) => NO_MORE,
            _ => 0,
        };
        if root {
            flags |= ROOT;
        }
        if text(schema, &["type"]) == "number" {
            flags |= CONVERTS;
        }
        let mut properties = Vec::new();
        for (name, property) in at(schema, &["properties"]).as_object().into_iter().flatten() {
            let row = self.add(property, false);
            properties.push((self.name(name), row));
        }
        let (items, additional) = (self.one(schema, "items"), self.one(schema, "additionalProperties"));
        let facts = self.facts(schema);
        let parts = properties.iter().map(|(_, row)| *row).chain([items, additional]);
        for row in parts.filter_map(|row| self.rows.get(row as usize)) {
            flags |= row.flags & INHERITED;
        }
        for fact in &facts {
            flags |= match fact {
                Fact::Default(_) => DEFAULTS,
                Fact::Rules(_) => RULED,
                Fact::Format(_) => CONVERTS,
                _ => 0,
            };
        }
        let row = Row {
            ty: Ty::of(text(schema, &["type"])),
            flags,
            properties: intern(&mut self.properties, &mut self.same_properties, properties),
            items,
            additional,
            facts: intern(&mut self.facts, &mut self.same_facts, facts),
        };
        if let Some(index) = self.same_row.get(&row) {
            return *index;
        }
        let index = self.rows.len() as Index;
        self.rows.push(row);
        self.same_row.insert(row, index);
        index
    }

    fn facts(&mut self, schema: &Value) -> Vec<Fact> {
        let mut facts = Vec::new();
        let int = |name: &str| schema.get(name).and_then(Value::as_i64);
        let float = |name: &str| schema.get(name).and_then(Value::as_f64).map(|f| Bits(f.to_bits()));
        let is = |name: &str| schema.get(name) == Some(&Value::Bool(true));
        facts.extend(self.each(schema, "anyOf").map(Fact::AnyOf));
        facts.extend(self.each(schema, "oneOf").map(Fact::OneOf));
        facts.extend(self.each(schema, "allOf").map(Fact::AllOf));
        facts.extend(Some(self.one(schema, "not")).filter(|row| *row != NOTHING).map(Fact::Not));
        facts.extend(int("maxLength").map(Fact::MaxLength));
        facts.extend(int("minLength").map(Fact::MinLength));
        let pattern = text(schema, &["pattern"]);
        if !pattern.is_empty() {
            facts.push(Fact::Pattern(self.name(pattern)));
        }
        let format = text(schema, &["format"]);
        if !format.is_empty() {
            facts.push(Fact::Format(self.name(format)));
        }
        facts.extend(float("multipleOf").map(Fact::MultipleOf));
        facts.extend(float("maximum").map(|n| Fact::Maximum(n, is("exclusiveMaximum"))));
        facts.extend(float("minimum").map(|n| Fact::Minimum(n, is("exclusiveMinimum"))));
        facts.extend(int("minItems").map(Fact::MinItems));
        facts.extend(int("maxItems").map(Fact::MaxItems));
        if is("uniqueItems") {
            facts.push(Fact::UniqueItems);
        }
        let values: Vec<Index> = list(schema, &["enum"]).iter().map(|v| self.value(v)).collect();
        if !values.is_empty() {
            facts.push(Fact::Enum(self.list(values)));
        }
        facts.extend(int("minProperties").map(Fact::MinProperties));
        facts.extend(int("maxProperties").map(Fact::MaxProperties));
        for (field, fact) in
            [("required", Fact::Required as fn(Span) -> Fact), ("x-kubernetes-list-map-keys", Fact::MapKeys)]
        {
            let names: Vec<Index> =
                list(schema, &[field]).iter().filter_map(Value::as_str).map(|n| self.name(n)).collect();
            if !names.is_empty() {
                facts.push(fact(self.list(names)));
            }
        }
        if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
            facts.push(Fact::Default(self.value(default)));
        }
        let rules: Vec<Rule> = list(schema, &["x-kubernetes-validations"]).iter().map(rule).collect();
        if !rules.is_empty() {
            facts.push(Fact::Rules(intern(&mut self.rules, &mut self.same_rules, rules)));
        }
        facts
    }
}

fn rule(v: &Value) -> Rule {
    let get = |name: &str| text(v, &[name]).into();
    Rule {
        rule: get("rule"),
        message: get("message"),
        message_expression: get("messageExpression"),
        reason: get("reason"),
        field_path: get("fieldPath"),
        optional_old: v.get("optionalOldSelf").and_then(Value::as_bool),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_found_again_in_its_compiled_form() {
        let schema = json!({"type": "object", "description": "long", "required": ["spec"], "properties": {
        "spec": {"type": "object", "properties": {
            "a": {"type": "array", "maxItems": 3, "items": {"type": "string", "maxLength": 2, "enum": ["x", "y"]}},
            "b": {"type": "object", "additionalProperties": {"type": "integer", "format": "int32", "default": 1}},
            "c": {"x-kubernetes-int-or-string": true},
            "d": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true},
        }}}});
        let compiled = Structural::compile(&schema);
        let mut expected = schema;
        expected.as_object_mut().expect("an object").remove("description");
        assert_eq!(compiled.root().to_json(), expected);
        let spec = compiled.root().property("spec").expect("spec");
        assert!(spec.has_defaults() && spec.has_embedded() && !spec.has_rules());
        assert!(!spec.property("a").expect("a").has_defaults());
        assert!(spec.property("nope").is_none());
    }

    #[test]
    fn equal_parts_are_one() {
        let part = json!({"type": "object", "properties": {"x": {"type": "string"}, "y": {"type": "string"}}});
        let mut properties = crate::Map::new();
        for i in 0..1000 {
            properties.insert(format!("p{i}"), part.clone());
        }
        let compiled = Structural::compile(&json!({"type": "object", "properties": properties}));
        assert_eq!(compiled.rows.len(), 3);
        assert!(compiled.size() < 25_000, "{}", compiled.size());
    }

    #[test]
    fn what_is_no_schema_says_nothing() {
        for schema in
            [json!(null), json!(1), json!({"type": 1, "properties": 2, "items": [], "enum": {}, "required": [1]})]
        {
            let compiled = Structural::compile(&schema);
            assert_eq!(compiled.root().properties().len(), 0);
            assert_eq!(compiled.root().checks().count(), 0);
        }
    }
}
