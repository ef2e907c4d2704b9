//! The type checker (`checker/checker.go` and `checker/errors.go` of cel-go): gives every node a type and every name
//! and call its meaning, or says what is wrong, in upstream's words.

use std::sync::Arc;

use crate::ast::{Comprehension, Entry, Expr, FieldInit, Id, Kind, Literal, op};
use crate::env::Env;
use crate::functions::Overload;
use crate::source::{Issue, Issues};
use crate::types::{ObjectType, Type};
use crate::unify::{Bindings, most_general};

/// What a name or a call means.
#[derive(Clone, Debug)]
pub(crate) enum Meaning {
    /// A variable of the environment.
    Variable(String),
    /// The name of a type.
    Type(Type),
    /// A function: the declared name, which of its overloads fit, and whether what looked like the receiver is part of
    /// the name.
    Function { name: &'static str, overloads: Vec<usize>, namespaced: bool },
}

/// What the checker found, by the numbers of the nodes.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    pub(crate) meanings: Vec<Option<Meaning>>,
}

/// Checks a tree with `count` nodes.
pub(crate) fn check(env: &Env, text: &str, expr: &Expr, count: usize) -> Result<Checked, Issues> {
    let mut checker = Checker {
        env,
        text,
        bindings: Bindings::default(),
        scopes: Vec::new(),
        formats: 0,
        types: vec![Type::Error; count],
        meanings: vec![None; count],
        issues: Vec::new(),
    };
    checker.check(expr);
    let Checker { bindings, mut types, meanings, issues, .. } = checker;
    if !issues.is_empty() {
        return Err(Issues::new(issues));
    }
    for t in &mut types {
        *t = bindings.resolve(t, true);
    }
    Ok(Checked { types, meanings })
}

struct Checker<'e> {
    env: &'e Env,
    text: &'e str,
    bindings: Bindings,
    /// Variables of comprehensions, innermost last.
    scopes: Vec<(String, Type)>,
    /// How many calls of `format`, whose arguments may be of several types, are around.
    formats: usize,
    types: Vec<Type>,
    meanings: Vec<Option<Meaning>>,
    issues: Vec<Issue>,
}

/// More are not told.
const MAX_ISSUES: usize = 100;

impl Checker<'_> {
    fn issue(&mut self, at: usize, message: String) {
        if self.issues.len() < MAX_ISSUES {
            self.issues.push(Issue::at(self.text, at, message));
        }
    }

    fn undeclared(&mut self, at: usize, name: &str) -> Type {
        self.issue(at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn ty(&self, expr: &Expr) -> Type {
        self.types[expr.id].clone()
    }

    fn resolved(&self, expr: &Expr) -> Type {
        self.bindings.resolve(&self.types[expr.id], false)
    }

    fn mean(&mut self, id: Id, meaning: Meaning) {
        self.meanings[id] = Some(meaning);
    }

    fn check(&mut self, e: &Expr) -> Type {
        let ty = match &e.kind {
            Kind::Literal(literal) => literal_type(literal),
            Kind::Ident(name) => match self.lookup(e.id, name) {
                Some(ty) => ty,
                None => self.undeclared(e.at, name),
            },
            Kind::Select { operand, field, test } => self.select(e, operand, field, *test),
            Kind::Call { target, function, args } => self.call(e, target.as_deref(), function, args),
            Kind::List { items, optional } => self.list(items, optional),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.object(e, name, fields),
            Kind::Comprehension(c) => self.comprehension(c),
        };
        self.types[e.id] = ty.clone();
        ty
    }

    /// The type of a variable, or of the type, with this name.
    fn lookup(&mut self, id: Id, name: &str) -> Option<Type> {
        let global = name.strip_prefix('.');
        if global.is_none()
            && let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name)
        {
            return Some(ty.clone());
        }
        let name = global.unwrap_or(name);
        if let Some(shape) = self.env.variable(name) {
            self.mean(id, Meaning::Variable(name.to_owned()));
            return Some(shape.ty().clone());
        }
        let ty = self.env.named_type(name)?;
        self.mean(id, Meaning::Type(ty.clone()));
        Some(Type::Type(Arc::new(ty)))
    }

    fn select(&mut self, e: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        // `a.b.c` may be the name of a variable or type, unless `a` is a variable of a comprehension.
        if let Some(name) = e.qualified_name() {
            let root = name.split('.').next().unwrap_or("");
            if !self.scopes.iter().any(|(n, _)| n == root)
                && let Some(ty) = self.lookup(e.id, &name)
            {
                return ty;
            }
        }
        let found = self.field(e, operand, field, false);
        if test { Type::Bool } else { found }
    }

    /// The type of `operand.field`; of an optional operand, or with `optional`, an optional one.
    fn field(&mut self, e: &Expr, operand: &Expr, field: &str, optional: bool) -> Type {
        self.check(operand);
        let whole = self.resolved(operand);
        let (target, was_optional) = match whole.unwrap_optional() {
            Some(inner) => (inner.clone(), true),
            None => (whole, false),
        };
        let found = match &target {
            Type::Map(_, value) => Type::clone(value),
            Type::Object(object) => match object.fields.get(field) {
                Some(ty) => ty.clone(),
                None if object.open => Type::Dyn,
                None => {
                    self.issue(e.at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Var(_) => {
                self.bindings.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    self.issue(e.at, format!("type '{other}' does not support field selection"));
                }
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(found) } else { found }
    }

    fn call(&mut self, e: &Expr, target: Option<&Expr>, function: &str, args: &[Expr]) -> Type {
        if function == op::OPT_SELECT {
            return self.optional_select(e, args);
        }
        self.formats += usize::from(function == "format");
        for arg in args {
            self.check(arg);
        }
        self.formats -= usize::from(function == "format");
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return self.resolve(e, name, None, args, false);
        };
        if let Some(prefix) = target.qualified_name() {
            let name = format!("{prefix}.{function}");
            if self.env.function(&name).is_some() {
                return self.resolve(e, &name, None, args, true);
            }
        }
        self.check(target);
        self.resolve(e, function, Some(target), args, false)
    }

    fn optional_select(&mut self, e: &Expr, args: &[Expr]) -> Type {
        let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] = args else {
            self.issue(e.at, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        self.types[args[1].id] = Type::String;
        let meaning = Meaning::Function { name: op::OPT_SELECT, overloads: vec![0], namespaced: false };
        self.mean(e.id, meaning);
        self.field(e, operand, field, true)
    }

    /// Finds the overloads that fit the arguments.
    fn resolve(&mut self, e: &Expr, name: &str, target: Option<&Expr>, args: &[Expr], namespaced: bool) -> Type {
        let env = self.env;
        let Some((name, overloads)) = env.function(name) else {
            return self.undeclared(e.at, name);
        };
        let given: Vec<Type> = target.into_iter().chain(args).map(|a| self.ty(a)).collect();
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        for (n, overload) in overloads.iter().enumerate() {
            if overload.member != target.is_some() {
                continue;
            }
            let (wanted, gives) = self.instantiate(overload);
            if !self.bindings.assign_all(&given, &wanted) {
                continue;
            }
            fitting.push(n);
            let gives = self.bindings.resolve(&gives, false);
            result = Some(match result {
                None => gives,
                Some(other) if other.is_dyn() || other == gives => other,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = given.iter().map(|t| self.bindings.resolve(t, true).to_string()).collect();
            let signature = match (target, shown.split_first()) {
                (Some(_), Some((first, rest))) => format!("{first}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.issue(e.at, format!("found no matching overload for '{name}' applied to '{signature}'"));
            return Type::Error;
        };
        self.mean(e.id, Meaning::Function { name, overloads: fitting, namespaced });
        result
    }

    /// The types of an overload, each of its parameters being a new variable.
    fn instantiate(&mut self, overload: &Overload) -> (Vec<Type>, Type) {
        let mut known: Vec<(&'static str, Type)> = Vec::new();
        for t in overload.params.iter().chain([&overload.result]) {
            collect_params(t, &mut |name| {
                if known.iter().all(|(n, _)| *n != name) {
                    known.push((name, self.bindings.fresh()));
                }
            });
        }
        let put_in = |t: &Type| {
            t.substitute(&|t| match t {
                Type::Param(name) => known.iter().find(|(n, _)| n == name).map(|(_, var)| var.clone()),
                _ => None,
            })
        };
        (overload.params.iter().map(put_in).collect(), put_in(&overload.result))
    }

    /// The common type of what came before and one more element: literals of lists and maps are of one type
    /// (`ValidateHomogeneousAggregateLiterals`), but for what is to be formatted.
    fn join(&mut self, at: usize, before: Option<Type>, now: Type) -> Type {
        let Some(before) = before else { return now };
        if self.bindings.assign(&before, &now) {
            return most_general(&before, &now);
        }
        if self.formats > 0 {
            return Type::Dyn;
        }
        let (before, now) = (self.bindings.resolve(&before, true), self.bindings.resolve(&now, true));
        self.issue(at, format!("expected type '{before}' but found '{now}'"));
        Type::Error
    }

    /// The value of an optional element.
    fn unwrap(&mut self, value: &Expr, ty: Type) -> Type {
        let ty = self.bindings.resolve(&ty, false);
        match ty.unwrap_optional() {
            Some(inner) => inner.clone(),
            None if ty.is_dyn_or_error() => Type::Dyn,
            None => {
                let wanted = Type::optional(ty.clone());
                self.issue(value.at, format!("expected type '{wanted}' but found '{ty}'"));
                Type::Error
            }
        }
    }

    fn list(&mut self, items: &[Expr], optional: &[usize]) -> Type {
        let mut item: Option<Type> = None;
        for (n, e) in items.iter().enumerate() {
            let mut ty = self.check(e);
            if optional.contains(&n) {
                ty = self.unwrap(e, ty);
            }
            item = Some(self.join(e.at, item, ty));
        }
        Type::list(item.unwrap_or_else(|| self.bindings.fresh()))
    }

    fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
        for entry in entries {
            let ty = self.check(&entry.key);
            key = Some(self.join(entry.key.at, key, ty));
            let mut ty = self.check(&entry.value);
            if entry.optional {
                ty = self.unwrap(&entry.value, ty);
            }
            value = Some(self.join(entry.value.at, value, ty));
        }
        let key = key.unwrap_or_else(|| self.bindings.fresh());
        Type::map(key, value.unwrap_or_else(|| self.bindings.fresh()))
    }

    fn object(&mut self, e: &Expr, name: &str, fields: &[FieldInit]) -> Type {
        let declared: Option<Arc<ObjectType>> = match self.env.named_type(name) {
            Some(Type::Object(object)) => Some(object),
            Some(_) => {
                self.issue(e.at, format!("'{name}' is not a message type"));
                None
            }
            None => {
                self.undeclared(e.at, name);
                None
            }
        };
        for field in fields {
            let mut given = self.check(&field.value);
            if field.optional {
                given = self.unwrap(&field.value, given);
            }
            let Some(object) = &declared else { continue };
            let Some(wanted) = object.fields.get(&field.name) else {
                if object.open {
                    continue;
                }
                self.issue(field.at, format!("undefined field '{}'", field.name));
                continue;
            };
            if !self.bindings.assign(wanted, &given) {
                let given = self.bindings.resolve(&given, true);
                let name = &field.name;
                self.issue(
                    field.at,
                    format!("expected type of field '{name}' is '{wanted}' but provided type is '{given}'"),
                );
            }
        }
        declared.map_or(Type::Error, Type::Object)
    }

    fn comprehension(&mut self, c: &Comprehension) -> Type {
        self.check(&c.range);
        let accu = self.check(&c.init);
        let range = self.resolved(&c.range);
        let (var, var2) = match &range {
            Type::List(item) if c.var2.is_some() => (Type::Int, Type::clone(item)),
            Type::List(item) => (Type::clone(item), Type::Error),
            Type::Map(key, value) => (Type::clone(key), Type::clone(value)),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.bindings.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.issue(c.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        let outside = self.scopes.len();
        self.scopes.push((c.accu.clone(), accu.clone()));
        self.scopes.push((c.var.clone(), var));
        if let Some(name) = &c.var2 {
            self.scopes.push((name.clone(), var2));
        }
        self.check(&c.condition);
        self.expect(&c.condition, &Type::Bool);
        self.check(&c.step);
        self.expect(&c.step, &accu);
        self.scopes.truncate(outside + 1);
        self.check(&c.result);
        self.scopes.truncate(outside);
        self.resolved(&c.result)
    }

    fn expect(&mut self, e: &Expr, wanted: &Type) {
        let given = self.ty(e);
        if !self.bindings.assign(wanted, &given) {
            let (wanted, given) = (self.bindings.resolve(wanted, true), self.bindings.resolve(&given, true));
            self.issue(e.at, format!("expected type '{wanted}' but found '{given}'"));
        }
    }
}

fn collect_params(t: &Type, found: &mut dyn FnMut(&'static str)) {
    if let Type::Param(name) = t {
        found(name);
    }
    if let Type::Type(of) = t {
        collect_params(of, found);
    }
    for p in t.params() {
        collect_params(p, found);
    }
}

fn literal_type(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
