//! What an expression may cost, from its types and the bounds of its variables.

use std::collections::HashMap;

use super::range::{Cost, Size};
use super::runtime::{LIST, MAP, STRUCT, selector};
use super::{AUTHORIZATION, PATTERN, TRAVERSAL, is_nominal};
use crate::ast::{Comprehension, Expr, Id, Kind, Literal, op};
use crate::check::{Checked, Meaning};
use crate::env::Env;
use crate::library::format::MAX_NAME_PATTERN;
use crate::types::{Shape, Type};

/// How many values an attribute of a device has at most (`ResourceSliceMaxAttributeValuesPerDevice`).
pub(crate) const MAX_ATTRIBUTE_VALUES: u64 = 48;

/// Estimates a checked expression.
pub(crate) fn estimate(env: &Env, expr: &Expr, checked: &Checked) -> Cost {
    let mut coster = Coster { env, checked, facts: HashMap::new(), locals: Vec::new() };
    coster.cost(expr)
}

/// The way from a variable to a part of it: the variable, then names of fields, `@items`, `@keys`, `@values`.
type Path = Vec<String>;

/// The sizes of the keys and values of a container.
#[derive(Clone, Copy)]
struct Entries {
    is_list: bool,
    key: Size,
    value: Size,
}

impl Entries {
    fn union(self, other: Entries) -> Entries {
        Entries { is_list: self.is_list, key: self.key.union(other.key), value: self.value.union(other.value) }
    }
}

/// What is known of a node.
#[derive(Clone, Default)]
struct Facts {
    path: Option<Path>,
    size: Option<Size>,
    entries: Option<Entries>,
}

struct Coster<'e> {
    env: &'e Env,
    checked: &'e Checked,
    facts: HashMap<Id, Facts>,
    locals: Vec<(String, Facts)>,
}

/// The cost of a call without its arguments, and the size of what it gives.
type CallCost = (Cost, Option<Size>);

impl<'e> Coster<'e> {
    fn ty(&self, e: &Expr) -> &'e Type {
        &self.checked.types[e.id]
    }

    fn fact(&mut self, e: &Expr) -> &mut Facts {
        self.facts.entry(e.id).or_default()
    }

    fn local(&self, e: &Expr) -> Option<&Facts> {
        let name = e.ident()?;
        self.locals.iter().rev().find(|(n, _)| n == name).map(|(_, facts)| facts)
    }

    fn path(&self, e: &Expr) -> Option<Path> {
        match self.local(e) {
            Some(local) => local.path.clone(),
            None => self.facts.get(&e.id)?.path.clone(),
        }
    }

    fn sub_path(&self, e: &Expr, step: &str) -> Option<Path> {
        let mut path = self.path(e)?;
        path.push(step.to_owned());
        Some(path)
    }

    /// The shape that declarations give to what a path leads to.
    fn shape(&self, path: &[String]) -> Option<&'e Shape> {
        let (root, rest) = path.split_first()?;
        rest.iter().try_fold(self.env.variable(root)?, |shape, step| shape.part(step))
    }

    fn declared_size(&self, path: Option<&Path>) -> Option<Size> {
        let max = self.shape(path?)?.max_size()?;
        Some(Size { min: 0, max })
    }

    fn size(&self, e: &Expr) -> Option<Size> {
        if let Some(size) = self.facts.get(&e.id).and_then(|f| f.size) {
            return Some(size);
        }
        let fixed = match &e.kind {
            Kind::Literal(Literal::String(s)) => Some(s.chars().count()),
            Kind::Literal(Literal::Bytes(b)) => Some(b.len()),
            Kind::Literal(_) => Some(1),
            Kind::List { items, .. } => Some(items.len()),
            Kind::Map(entries) => Some(entries.len()),
            _ => None,
        };
        if let Some(n) = fixed {
            return Some(Size::fixed(n as u64));
        }
        self.declared_size(self.path(e).as_ref())
            .or_else(|| self.ty(e).is_scalar().then(|| Size::fixed(1)))
            .or_else(|| self.local(e).and_then(|l| l.size))
    }

    fn size_or_unknown(&self, e: &Expr) -> Size {
        self.size(e).unwrap_or(Size::UNKNOWN)
    }

    fn entries(&self, e: &Expr) -> Option<Entries> {
        let known = self.facts.get(&e.id).and_then(|f| f.entries);
        known.or_else(|| self.local(e).and_then(|l| l.entries))
    }

    fn cost(&mut self, e: &Expr) -> Cost {
        match &e.kind {
            Kind::Literal(_) => Cost::default(),
            Kind::Ident(name) => {
                let local = self.local(e).map(|l| l.path.clone());
                self.fact(e).path = local.unwrap_or_else(|| Some(vec![name.clone()]));
                Cost::fixed(1)
            }
            Kind::Select { operand, field, test } => {
                let sum = self.cost(operand);
                if *test {
                    // Presence is free (`PresenceTestHasCost(false)`).
                    return sum;
                }
                let step = match self.ty(operand) {
                    Type::Map(..) | Type::Object(_) | Type::Dyn => 1,
                    _ => 0,
                };
                self.fact(e).path = self.sub_path(operand, field);
                sum.plus(Cost::fixed(step))
            }
            Kind::Call { target, function, args } => self.call(e, target.as_deref(), function, args),
            Kind::List { items, .. } => {
                let mut sum = Cost::fixed(LIST);
                let mut value: Option<Size> = None;
                for item in items {
                    sum = sum.plus(self.cost(item));
                    let size = self.size_or_unknown(item);
                    value = Some(value.map_or(size, |v| v.union(size)));
                }
                let value = value.unwrap_or_default();
                self.fact(e).entries = Some(Entries { is_list: true, key: Size::fixed(1), value });
                sum
            }
            Kind::Map(entries) => {
                let mut sum = Cost::fixed(MAP);
                let mut sizes: Option<Entries> = None;
                for entry in entries {
                    sum = sum.plus(self.cost(&entry.key)).plus(self.cost(&entry.value));
                    let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    let one = Entries { is_list: false, key, value };
                    sizes = Some(sizes.map_or(one, |s| s.union(one)));
                }
                let empty = Entries { is_list: false, key: Size::default(), value: Size::default() };
                self.fact(e).entries = Some(sizes.unwrap_or(empty));
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Cost::fixed(STRUCT), |sum, f| sum.plus(self.cost(&f.value)))
            }
            Kind::Comprehension(c) if c.is_bind() => self.bind(e, c),
            Kind::Comprehension(c) => self.comprehension(e, c),
        }
    }

    fn bind(&mut self, e: &Expr, c: &Comprehension) -> Cost {
        let sum = self.cost(&c.range).plus(self.cost(&c.init));
        let facts = Facts { path: self.path(&c.init), size: self.size(&c.init), entries: self.entries(&c.init) };
        self.locals.push((c.accu.clone(), facts));
        let sum = sum.plus(self.cost(&c.result));
        self.copy_sizes(e, &c.result);
        self.locals.pop();
        sum
    }

    fn copy_sizes(&mut self, to: &Expr, from: &Expr) {
        let (size, entries) = (self.size(from), self.entries(from));
        let fact = self.fact(to);
        (fact.size, fact.entries) = (size, entries);
    }

    fn comprehension(&mut self, e: &Expr, c: &Comprehension) -> Cost {
        let sum = self.cost(&c.range).plus(self.cost(&c.init));
        let accu = Facts { path: None, size: self.size(&c.init), entries: self.entries(&c.init) };
        let outside = self.locals.len();
        self.locals.push((c.accu.clone(), accu));
        let entries = self.entries(&c.range);
        let is_list = entries.map_or(matches!(self.ty(&c.range), Type::List(_)), |e| e.is_list);
        let key = |step| Facts { path: self.sub_path(&c.range, step), size: entries.map(|e| e.key), entries: None };
        let value = |step| Facts { path: self.sub_path(&c.range, step), size: entries.map(|e| e.value), entries: None };
        let vars = match (&c.var2, is_list) {
            (None, true) => vec![(c.var.clone(), value("@items"))],
            (None, false) => vec![(c.var.clone(), key("@keys"))],
            (Some(var2), true) => vec![(c.var.clone(), key("@indices")), (var2.clone(), value("@items"))],
            (Some(var2), false) => vec![(c.var.clone(), key("@keys")), (var2.clone(), value("@values"))],
        };
        self.locals.extend(vars);
        let round = self.cost(&c.condition).plus(self.cost(&c.step));
        let stepped = self.entries(&c.step);
        self.locals.truncate(outside + 1);
        let sum = sum.plus(self.cost(&c.result));
        self.locals.truncate(outside);
        let count = self.size_or_unknown(&c.range);
        match &c.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&c.init);
                self.fact(e).size = size;
            }
            Kind::List { .. } | Kind::Map(_) => {
                let fact = self.fact(e);
                fact.size = Some(count);
                fact.entries = stepped.or(fact.entries);
            }
            _ => {}
        }
        sum.plus(count.times(round))
    }

    fn call(&mut self, e: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Cost {
        let mut target = target;
        let (mut name, mut overloads): (&str, Vec<&'static str>) = (function, Vec::new());
        if let Some(Meaning::Function { name: declared, overloads: fitting, namespaced }) = &self.checked.meanings[e.id]
        {
            name = declared;
            target = target.filter(|_| !namespaced);
            let (_, all) = self.env.function(declared).unwrap_or((declared, &[]));
            overloads = fitting.iter().filter_map(|n| Some(all.get(*n)?.id)).collect();
        }
        let costs: Vec<Cost> = args.iter().map(|a| self.cost(a)).collect();
        if name == "dyn" && args.len() == 1 {
            self.copy_sizes(e, &args[0]);
            return costs[0].plus(Cost::fixed(1));
        }
        let sum = target.map_or(Cost::default(), |t| self.cost(t));
        let given = costs.iter().fold(Cost::default(), |sum, c| sum.plus(*c));
        let mut total: Option<Cost> = None;
        let mut size: Option<Size> = None;
        for overload in overloads {
            let (cost, gives) = match library(self, name, overload, target, args) {
                Some((cost, gives)) => (cost.plus(given), gives),
                None => self.standard(e, overload, target, args, &costs, given),
            };
            total = Some(total.map_or(cost, |t| t.union(cost)));
            size = match (size, gives) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let (Some(step), Some(operand)) = (index_step(overload), args.first()) {
                size = self.entries(operand).map(|e| e.value);
                self.fact(e).path = self.sub_path(operand, step);
            }
            size = size.or_else(|| self.size(e));
        }
        if size.is_some() {
            self.fact(e).size = size;
        }
        sum.plus(total.unwrap_or_default())
    }

    /// The functions of the language (`functionCost`).
    fn standard(
        &mut self,
        e: &Expr,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[Cost],
        given: Cost,
    ) -> CallCost {
        let size = |n: usize| args.get(n).map_or(Size::UNKNOWN, |a| self.size_or_unknown(a));
        let read = |size: Size| size.scaled(TRAVERSAL).plus(given);
        let receiver = target.map_or(Size::UNKNOWN, |t| self.size_or_unknown(t));
        match overload {
            "string_to_bytes" => {
                let sz = size(0);
                (read(sz), Some(Size { min: sz.min, max: sz.max.saturating_mul(4) }))
            }
            "bytes_to_string" => (read(size(0)), Some(Size { min: size(0).min / 4, max: size(0).max })),
            "strings_quote" => {
                let sz = size(0);
                let quoted = Size { min: sz.min.saturating_add(2), max: sz.max.saturating_mul(2).saturating_add(2) };
                (read(sz), Some(quoted))
            }
            "string_format" => (read(receiver), None),
            "starts_with_string" | "ends_with_string" => (read(size(0)), None),
            "in_list" => (size(1).plus(given), None),
            "matches_string" => {
                let text = receiver.plus(Size::fixed(1)).scaled(TRAVERSAL);
                (text.times(size(0).scaled(PATTERN)).plus(given), None)
            }
            "contains_string" => (receiver.scaled(TRAVERSAL).times(size(0).scaled(TRAVERSAL)).plus(given), None),
            "logical_or" | "logical_and" => {
                let [a, b] = costs else { return (given, None) };
                (Cost { min: a.min, max: a.plus(*b).max }, None)
            }
            "conditional" => {
                let ([condition, a, b], [_, x, y]) = (costs, args) else { return (given, None) };
                let sizes = self.size_or_unknown(x).union(self.size_or_unknown(y));
                if let (Some(a), Some(b)) = (self.entries(x), self.entries(y)) {
                    self.fact(e).entries = Some(a.union(b));
                }
                (condition.plus(a.union(*b)), Some(sizes))
            }
            "add_string" | "add_bytes" | "add_list" => {
                let joined = size(0).plus(size(1));
                let cost = if overload == "add_list" { given.plus(Cost::fixed(1)) } else { read(joined) };
                if let [x, y] = args
                    && let (Some(a), Some(b)) = (self.entries(x), self.entries(y))
                {
                    self.fact(e).entries = Some(a.union(b));
                }
                (cost, Some(joined))
            }
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals" => {
                let most = size(0).max.min(size(1).max);
                (read(Size { min: most.min(1), max: most }), None)
            }
            _ => (given.plus(Cost::fixed(1)), None),
        }
    }

    /// The type and the size of the items of a list.
    fn items(&self, list: &Expr) -> Option<(&'e Type, Size)> {
        let item = match self.ty(list) {
            Type::List(item) => &**item,
            Type::Map(key, _) => &**key,
            _ => return None,
        };
        Some((item, self.declared_size(self.sub_path(list, "@items").as_ref()).unwrap_or(Size::UNKNOWN)))
    }
}

fn index_step(overload: &str) -> Option<&'static str> {
    match overload {
        "index_list" => Some("@items"),
        "index_map" => Some("@values"),
        _ => None,
    }
}

/// Kubernetes' libraries (`CostEstimator.EstimateCallCost`).
fn library(cx: &Coster<'_>, function: &str, overload: &str, target: Option<&Expr>, args: &[Expr]) -> Option<CallCost> {
    let size = |n: usize| args.get(n).map_or(Size::UNKNOWN, |a| cx.size_or_unknown(a));
    let receiver = || target.map(|t| cx.size_or_unknown(t));
    let one = Cost::fixed(1);
    Some(match function {
        "check" => (Cost::fixed(AUTHORIZATION), None),
        "fieldSelector" | "labelSelector" if args.len() == 1 => (selector(size(0)), None),
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => {
            let target = target?;
            let cost = match cx.items(target) {
                Some((Type::String | Type::Bytes, item)) => {
                    // A list of literals is not looked into: its items may be of any size only if they are unknown.
                    let item = cx.entries(target).map_or(item, |e| Size { min: 0, max: e.value.max });
                    cx.size_or_unknown(target).times(one.plus(item.scaled(TRAVERSAL)))
                }
                Some(_) => cx.size_or_unknown(target),
                None => cx.size_or_unknown(target).scaled(TRAVERSAL),
            };
            (cost, None)
        }
        "url" | "jsonpatch.escapeKey" => (size(0).scaled(TRAVERSAL), Some(size(0))),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => (receiver()?.scaled(TRAVERSAL), receiver()),
        "replace" if args.len() >= 2 => {
            (receiver()?.scaled(2.0 * TRAVERSAL), Some(replaced(receiver()?, size(0), size(1))))
        }
        "split" => {
            let most = match args.get(1).map(|a| &a.kind) {
                Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).unwrap_or(u64::MAX),
                _ => receiver()?.max,
            };
            (receiver()?.scaled(2.0 * TRAVERSAL), Some(Size { min: 0, max: most }))
        }
        "join" => {
            let list = receiver()?;
            let item = target.and_then(|t| cx.items(t)).map_or(Size::default(), |(_, item)| item);
            let mut joined = list.times(item);
            if !args.is_empty() {
                let between = Size { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                joined = joined.plus(size(0).times(between));
            }
            (joined.scaled(TRAVERSAL), Some(joined))
        }
        "find" | "findAll" if !args.is_empty() => {
            let text = receiver()?;
            let cost = text.plus(one).scaled(TRAVERSAL).times(size(0).scaled(PATTERN));
            (cost, Some(Size { min: 0, max: text.max }))
        }
        "ip" if overload == "cidr_ip" => (one, None),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            (size(0).scaled(TRAVERSAL), None)
        }
        "ip.isCanonical" => (size(0).scaled(2.0 * TRAVERSAL), None),
        "containsIP" | "containsCIDR" => {
            let bytes = Size { min: 4, max: 16 };
            let mut cost = bytes.plus(bytes).scaled(TRAVERSAL);
            if function == "containsCIDR" {
                cost = cost.plus(bytes.scaled(TRAVERSAL)).plus(one);
            }
            if overload.ends_with("_string") {
                cost = cost.plus(size(0).scaled(TRAVERSAL));
            }
            (cost, None)
        }
        "validate" => (size(0).scaled(TRAVERSAL).scaled(MAX_NAME_PATTERN as f64 * PATTERN), None),
        "sets.contains" | "sets.intersects" => (size(0).times(size(1)).plus(one), None),
        "sets.equivalent" => (size(0).times(size(1)).scaled(2.0).plus(one), None),
        "includes" => (Cost::fixed(MAX_ATTRIBUTE_VALUES), None),
        op::EQUALS => (opaque_equality(cx, args)?, None),
        function if is_nominal(function) => (one, None),
        _ => return None,
    })
}

/// The size after `replace`: the fewest and the most replacements there can be.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let times = |n: u64, by: u64| (n as f64 / by as f64).ceil() as u64;
    let (max_count, max_kept) = if from.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if to.max <= from.min {
        (0, text.max)
    } else {
        (times(text.max, from.min), 0)
    };
    let (min_count, min_kept) = if from.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if from.max <= to.min {
        (0, text.min)
    } else {
        (times(text.min, from.max), 0)
    };
    Size { min: min_count, max: max_count }.times(to).plus(Size { min: min_kept, max: max_kept })
}

/// Two values of one opaque type are compared at once; formats by their names, addresses of the web by their length.
fn opaque_equality(cx: &Coster<'_>, args: &[Expr]) -> Option<Cost> {
    let [a, b] = args else { return None };
    if cx.ty(a) != cx.ty(b) {
        return None;
    }
    match cx.ty(a) {
        Type::Opaque("kubernetes.NamedFormat", _) => Some(Cost { min: 1, max: 64 }.scaled(TRAVERSAL)),
        Type::Opaque("kubernetes.URL", _) => {
            Some(Cost { min: 1, max: cx.size(b).map_or(1, |s| s.max) }.scaled(TRAVERSAL))
        }
        Type::Opaque(name, _) if *name != "optional_type" => Some(Cost::fixed(1)),
        _ => None,
    }
}
