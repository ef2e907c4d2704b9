//! A checked tree to a program: names become places, calls their overloads, constants are folded, patterns compiled
//! (`interpreter/planner.go` and `decorators.go` of cel-go, with `OptOptimize`, which Kubernetes turns on).

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::Regex;

use crate::ast::{Comprehension, Expr, Kind, Literal, op};
use crate::check::{Checked, Meaning};
use crate::env::Env;
use crate::functions::Overload;
use crate::types::Type;
use crate::value::{Key, Str, Value};

/// One step of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A variable, by its place in [`Plan::variables`].
    Variable(usize),
    /// A variable of a comprehension, by its slot.
    Local(usize),
    Select {
        operand: Box<Node>,
        field: Arc<str>,
        optional: bool,
    },
    Has {
        operand: Box<Node>,
        field: Arc<str>,
    },
    Index {
        operand: Box<Node>,
        index: Box<Node>,
        optional: bool,
    },
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<Node>, Box<Node>, Box<Node>),
    NotStrictlyFalse(Box<Node>),
    /// `a.or(b)`, and with `unwrap` `a.orValue(b)`: `b` is looked at only when `a` is none.
    OptionalOr {
        optional: Box<Node>,
        other: Box<Node>,
        unwrap: bool,
    },
    Call(Box<Call>),
    List(Vec<(Node, bool)>),
    Map(Vec<(Node, Node, bool)>),
    Object {
        ty: Arc<str>,
        fields: Vec<(Arc<str>, Node, bool)>,
    },
    Loop(Box<Loop>),
    /// `slot += list`, with the list of the slot changed in place.
    Append {
        slot: usize,
        items: Box<Node>,
    },
    /// The same for entries of a map: a key and a value, or a map.
    Insert {
        slot: usize,
        entry: Vec<Node>,
    },
    Bind {
        slot: usize,
        value: Box<Node>,
        body: Box<Node>,
    },
}

/// A call of a function.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) function: &'static str,
    /// Upstream's name of the overload, if only one fits; costs depend on it.
    pub(crate) overload: Option<&'static str>,
    /// The overloads that may fit; the first that does is called.
    pub(crate) candidates: Vec<Overload>,
    pub(crate) args: Vec<Node>,
    /// The compiled second argument of `matches`, if that is a constant.
    pub(crate) pattern: Option<Regex>,
}

/// A comprehension.
#[derive(Debug)]
pub(crate) struct Loop {
    pub(crate) range: Node,
    pub(crate) accu: usize,
    pub(crate) var: usize,
    pub(crate) var2: Option<usize>,
    pub(crate) init: Node,
    pub(crate) condition: Node,
    pub(crate) step: Node,
    pub(crate) result: Node,
}

/// A program.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) root: Node,
    /// The variables of the environment that the program uses.
    pub(crate) variables: Vec<String>,
    /// How many slots comprehensions need.
    pub(crate) slots: usize,
    /// How deep the tree is.
    pub(crate) height: usize,
}

impl Plan {
    /// Whether a field of a variable is looked at by its name: `variable.field`, `variable.?field`,
    /// `has(variable.field)`.
    pub(crate) fn selects(&self, variable: &str, field: &str) -> bool {
        let Some(place) = self.variables.iter().position(|v| v == variable) else { return false };
        self.root.any(&|node| match node {
            Node::Select { operand, field: name, .. } | Node::Has { operand, field: name } => {
                matches!(**operand, Node::Variable(n) if n == place) && **name == *field
            }
            _ => false,
        })
    }
}

impl Node {
    /// Whether something holds for this step or for one that it is made of.
    fn any(&self, what: &dyn Fn(&Node) -> bool) -> bool {
        let one = |node: &Node| node.any(what);
        what(self)
            || match self {
                Node::Const(_) | Node::Variable(_) | Node::Local(_) => false,
                Node::Select { operand, .. } | Node::Has { operand, .. } => one(operand),
                Node::Index { operand, index, .. } => one(operand) || one(index),
                Node::And(a, b) | Node::Or(a, b) => one(a) || one(b),
                Node::Conditional(a, b, c) => one(a) || one(b) || one(c),
                Node::NotStrictlyFalse(a) => one(a),
                Node::OptionalOr { optional, other, .. } => one(optional) || one(other),
                Node::Call(call) => call.args.iter().any(one),
                Node::List(items) => items.iter().any(|(item, _)| one(item)),
                Node::Map(entries) => entries.iter().any(|(key, value, _)| one(key) || one(value)),
                Node::Object { fields, .. } => fields.iter().any(|(_, value, _)| one(value)),
                Node::Loop(l) => [&l.range, &l.init, &l.condition, &l.step, &l.result].into_iter().any(one),
                Node::Append { items, .. } => one(items),
                Node::Insert { entry, .. } => entry.iter().any(one),
                Node::Bind { value, body, .. } => one(value) || one(body),
            }
    }
}

/// How large a compiled pattern may be.
const PATTERN_LIMIT: usize = 1 << 20;

/// A pattern of RE2, within limits.
pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text).size_limit(PATTERN_LIMIT).build().map_err(|_| format!("invalid regex: {text}"))
}

/// Plans a checked expression.
pub(crate) fn plan(env: &Env, expr: &Expr, checked: &Checked) -> Plan {
    let mut planner = Planner { env, checked, scopes: Vec::new(), slots: 0, variables: Vec::new() };
    let root = planner.node(expr);
    Plan { root, variables: planner.variables, slots: planner.slots, height: expr.height }
}

struct Planner<'e> {
    env: &'e Env,
    checked: &'e Checked,
    scopes: Vec<(String, usize)>,
    slots: usize,
    variables: Vec<String>,
}

impl Planner<'_> {
    fn boxed(&mut self, e: &Expr) -> Box<Node> {
        Box::new(self.node(e))
    }

    fn nodes<'e>(&mut self, all: impl IntoIterator<Item = &'e Expr>) -> Vec<Node> {
        all.into_iter().map(|e| self.node(e)).collect()
    }

    fn node(&mut self, e: &Expr) -> Node {
        match self.checked.meanings[e.id].clone() {
            Some(Meaning::Variable(name)) => return self.variable(name),
            Some(Meaning::Type(ty)) => return Node::Const(Value::Type(ty)),
            Some(Meaning::Function { name, overloads, namespaced }) => {
                return self.call(e, name, &overloads, namespaced);
            }
            None => {}
        }
        match &e.kind {
            Kind::Literal(literal) => Node::Const(constant(literal)),
            Kind::Ident(name) => {
                let slot = self.scopes.iter().rev().find(|(n, _)| n == name).map(|(_, slot)| *slot);
                // The checker let no other names pass.
                slot.map_or(Node::Const(Value::Null), Node::Local)
            }
            Kind::Select { operand, field, test } => self.select(operand, field, *test),
            // A call without a meaning did not pass the checker.
            Kind::Call { .. } => Node::Const(Value::Null),
            Kind::List { items, optional } => {
                let nodes = items.iter().enumerate().map(|(n, e)| (self.node(e), optional.contains(&n))).collect();
                fold_list(nodes)
            }
            Kind::Map(entries) => {
                let nodes = entries.iter().map(|e| (self.node(&e.key), self.node(&e.value), e.optional)).collect();
                fold_map(nodes)
            }
            Kind::Struct { fields, .. } => {
                let fields = fields.iter().map(|f| (property(&f.name), self.node(&f.value), f.optional)).collect();
                Node::Object { ty: self.checked.types[e.id].name().into(), fields }
            }
            Kind::Comprehension(c) => self.comprehension(c),
        }
    }

    fn variable(&mut self, name: String) -> Node {
        let place = self.variables.iter().position(|v| *v == name).unwrap_or_else(|| {
            self.variables.push(name);
            self.variables.len() - 1
        });
        Node::Variable(place)
    }

    /// Fields of declared objects have escaped names.
    fn field(&self, operand: &Expr, field: &str) -> Arc<str> {
        match &self.checked.types[operand.id] {
            Type::Object(_) => property(field),
            _ => field.into(),
        }
    }

    fn select(&mut self, operand: &Expr, field: &str, test: bool) -> Node {
        let field = self.field(operand, field);
        let operand = self.boxed(operand);
        if test { Node::Has { operand, field } } else { Node::Select { operand, field, optional: false } }
    }

    fn call(&mut self, e: &Expr, function: &'static str, overloads: &[usize], namespaced: bool) -> Node {
        let Kind::Call { target, args, .. } = &e.kind else { return Node::Const(Value::Null) };
        let target = target.as_deref().filter(|_| !namespaced);
        match (function, args.as_slice()) {
            (op::AND, [a, b]) => return Node::And(self.boxed(a), self.boxed(b)),
            (op::OR, [a, b]) => return Node::Or(self.boxed(a), self.boxed(b)),
            (op::CONDITIONAL, [c, a, b]) => return Node::Conditional(self.boxed(c), self.boxed(a), self.boxed(b)),
            (op::NOT_STRICTLY_FALSE, [a]) => return Node::NotStrictlyFalse(self.boxed(a)),
            (op::INDEX | op::OPT_INDEX, [operand, index]) => {
                let optional = function == op::OPT_INDEX;
                return Node::Index { operand: self.boxed(operand), index: self.boxed(index), optional };
            }
            (op::OPT_SELECT, [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }]) => {
                let field = self.field(operand, field);
                return Node::Select { operand: self.boxed(operand), field, optional: true };
            }
            ("or" | "orValue", [other]) if target.is_some() => {
                let optional = target.map(|t| self.boxed(t)).unwrap_or_else(|| Box::new(Node::Const(Value::Null)));
                return Node::OptionalOr { optional, other: self.boxed(other), unwrap: function == "orValue" };
            }
            _ => {}
        }
        let args = self.nodes(target.into_iter().chain(args));
        let (_, declared) = self.env.function(function).unwrap_or((function, &[]));
        let candidates: Vec<Overload> = overloads.iter().filter_map(|n| declared.get(*n).cloned()).collect();
        let overload = match candidates.as_slice() {
            [one] => Some(one.id),
            _ => None,
        };
        let compiled = match (function, args.as_slice()) {
            ("matches", [_, Node::Const(Value::String(text))]) => pattern(text).ok(),
            _ => None,
        };
        let call = Call { function, overload, candidates, args, pattern: compiled };
        fold_conversion(&call).unwrap_or_else(|| Node::Call(Box::new(call)))
    }

    fn slot(&mut self, name: &str) -> usize {
        let slot = self.scopes.len();
        self.scopes.push((name.to_owned(), slot));
        self.slots = self.slots.max(slot + 1);
        slot
    }

    fn comprehension(&mut self, c: &Comprehension) -> Node {
        let outside = self.scopes.len();
        if c.is_bind() {
            let value = self.boxed(&c.init);
            let slot = self.slot(&c.accu);
            let body = self.boxed(&c.result);
            self.scopes.truncate(outside);
            return Node::Bind { slot, value, body };
        }
        let (range, init) = (self.node(&c.range), self.node(&c.init));
        let accu = self.slot(&c.accu);
        let var = self.slot(&c.var);
        let var2 = c.var2.as_ref().map(|name| self.slot(name));
        let condition = self.node(&c.condition);
        let step = self.step(&c.step, &c.accu, accu);
        self.scopes.truncate(outside + 1);
        let result = self.node(&c.result);
        self.scopes.truncate(outside);
        Node::Loop(Box::new(Loop { range, accu, var, var2, init, condition, step, result }))
    }

    /// `accu + [item]` and `cel.@mapInsert(accu, ..)`, perhaps behind a filter, change the accumulator in place: copies
    /// would make the work grow with the square of the result.
    fn step(&mut self, e: &Expr, accu: &str, slot: usize) -> Node {
        let Kind::Call { target: None, function, args } = &e.kind else { return self.node(e) };
        match (function.as_str(), args.as_slice()) {
            (op::CONDITIONAL, [filter, then, other]) if other.ident() == Some(accu) => {
                let (filter, then) = (self.boxed(filter), Box::new(self.step(then, accu, slot)));
                Node::Conditional(filter, then, self.boxed(other))
            }
            (op::ADD, [first, list @ Expr { kind: Kind::List { .. }, .. }]) if first.ident() == Some(accu) => {
                Node::Append { slot, items: self.boxed(list) }
            }
            (op::MAP_INSERT, [first, entry @ ..]) if first.ident() == Some(accu) => {
                Node::Insert { slot, entry: self.nodes(entry) }
            }
            _ => self.node(e),
        }
    }
}

impl Comprehension {
    /// What `cel.bind` became: no loop at all.
    pub(crate) fn is_bind(&self) -> bool {
        matches!(&self.range.kind, Kind::List { items, .. } if items.is_empty())
            && matches!(self.condition.kind, Kind::Literal(Literal::Bool(false)))
    }
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::String(Str::Shared(s.as_str().into())),
        Literal::Bytes(b) => Value::Bytes(b.as_slice().into()),
    }
}

fn fold_list(items: Vec<(Node, bool)>) -> Node {
    let constants = items.iter().map(|(node, optional)| match node {
        Node::Const(value) if !optional => Some(value.clone()),
        _ => None,
    });
    match constants.collect::<Option<Vec<_>>>() {
        Some(values) => Node::Const(values.into()),
        None => Node::List(items),
    }
}

/// A map of constants, unless it has bad or equal keys, which are errors of the evaluation.
fn fold_map(entries: Vec<(Node, Node, bool)>) -> Node {
    let constants = entries.iter().map(|entry| match entry {
        (Node::Const(key), Node::Const(value), false) => Some((Key::new(key)?, value.clone())),
        _ => None,
    });
    match constants.collect::<Option<BTreeMap<_, _>>>() {
        Some(map) if map.len() == entries.len() => Node::Const(map.into_iter().collect()),
        _ => Node::Map(entries),
    }
}

/// A conversion of a constant (`int('1')`, `duration('1s')`) that succeeds.
fn fold_conversion(call: &Call) -> Option<Node> {
    const CONVERSIONS: [&str; 9] = ["bool", "bytes", "double", "duration", "dyn", "int", "string", "timestamp", "uint"];
    let ([one], [Node::Const(value)]) = (call.candidates.as_slice(), call.args.as_slice()) else { return None };
    if !CONVERSIONS.contains(&call.function) || matches!(value, Value::Opaque(_)) {
        return None;
    }
    (one.native)(std::slice::from_ref(value)).ok().map(Node::Const)
}

/// The property that an escaped field name stands for (`apiserver/pkg/cel/escaping.go`).
pub(crate) fn property(field: &str) -> Arc<str> {
    if !field.contains("__") {
        return field.into();
    }
    if let Some(word) = field.strip_prefix("__").and_then(|f| f.strip_suffix("__"))
        && crate::parser::is_reserved(word)
    {
        return word.into();
    }
    let mut out = String::new();
    let mut rest = field;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        let known = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];
        let (skip, with) =
            known.iter().find(|(e, _)| rest[at..].starts_with(e)).map_or((2, "__"), |(e, with)| (e.len(), *with));
        out.push_str(with);
        rest = &rest[at + skip..];
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_names_are_read() {
        for (field, want) in [
            ("replicas", "replicas"),
            ("__namespace__", "namespace"),
            ("__if__", "if"),
            ("a__dot__b__dash__c__slash__d", "a.b-c/d"),
            ("a__underscores__b", "a__b"),
            ("__other__", "__other__"),
        ] {
            assert_eq!(&*property(field), want);
        }
    }
}
