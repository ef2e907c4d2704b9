//! Macros: calls that the parser rewrites (`parser/macro.go`, `ext/comprehensions.go`, `ext/bindings.go` and
//! `cel/library.go` of cel-go). All loops become one form, [`Comprehension`].

use crate::ast::{ACCUMULATOR, Comprehension, Expr, Factory, Kind, Literal, op};

/// Which macros an environment knows beyond the standard ones.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Macros {
    /// `all(i, v, p)`, `transformList(..)`, `transformMap(..)`, ...
    pub(crate) two_variables: bool,
    /// `cel.bind(name, value, expression)`.
    pub(crate) bind: bool,
    /// `optMap`, `optFlatMap`.
    pub(crate) optional: bool,
}

/// A call that may be a macro.
pub(crate) struct Call {
    pub(crate) at: usize,
    pub(crate) target: Option<Expr>,
    pub(crate) function: String,
    pub(crate) args: Vec<Expr>,
}

/// What is wrong with the use of a macro, and where.
pub(crate) type Misuse = (usize, String);

/// The expression that the call stands for; a call that is no macro stays one.
pub(crate) fn expand(f: &mut Factory, macros: Macros, mut call: Call) -> Result<Expr, Misuse> {
    let Some(rewrite) = find(macros, &call) else {
        let Call { at, target, function, args } = call;
        return Ok(f.node(at, Kind::Call { target: target.map(Box::new), function, args }));
    };
    let args = std::mem::take(&mut call.args);
    rewrite(&mut Context { f, at: call.at }, call.target, args)
}

type Rewrite = fn(&mut Context<'_>, Option<Expr>, Vec<Expr>) -> Result<Expr, Misuse>;

fn find(macros: Macros, call: &Call) -> Option<Rewrite> {
    let (name, count) = (call.function.as_str(), call.args.len());
    let Some(target) = &call.target else {
        return (name == "has" && count == 1).then_some(has);
    };
    let one: Option<Rewrite> = match (name, count) {
        ("all", 2) => Some(all),
        ("exists", 2) => Some(exists),
        ("exists_one" | "existsOne", 2) => Some(exists_one),
        ("map", 2 | 3) => Some(map),
        ("filter", 2) => Some(filter),
        _ => None,
    };
    let two: Option<Rewrite> = match (name, count) {
        ("all", 3) => Some(all),
        ("exists", 3) => Some(exists),
        ("exists_one" | "existsOne", 3) => Some(exists_one),
        ("transformList", 3 | 4) => Some(transform_list),
        ("transformMap", 3 | 4) => Some(transform_map),
        ("transformMapEntry", 3 | 4) => Some(transform_map_entry),
        _ => None,
    };
    let bind: Option<Rewrite> = match (name, count, target.ident()) {
        ("bind", 3, Some("cel")) => Some(bind),
        _ => None,
    };
    let optional: Option<Rewrite> = match (name, count) {
        ("optMap", 2) => Some(opt_map),
        ("optFlatMap", 2) => Some(opt_flat_map),
        _ => None,
    };
    one.or(two.filter(|_| macros.two_variables))
        .or(bind.filter(|_| macros.bind))
        .or(optional.filter(|_| macros.optional))
}

struct Context<'f> {
    f: &'f mut Factory,
    at: usize,
}

/// The parts of a loop that differ between macros.
struct Loop {
    init: Expr,
    condition: Expr,
    step: Expr,
    result: Expr,
}

impl Context<'_> {
    fn accu(&mut self) -> Expr {
        self.f.ident(self.at, ACCUMULATOR)
    }

    fn bool(&mut self, value: bool) -> Expr {
        self.f.literal(self.at, Literal::Bool(value))
    }

    fn int(&mut self, value: i64) -> Expr {
        self.f.literal(self.at, Literal::Int(value))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.f.call(self.at, function, args)
    }

    /// `filter ? step : accu`, or `step` without a filter.
    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Expr {
        let Some(filter) = filter else { return step };
        let accu = self.accu();
        self.call(op::CONDITIONAL, vec![filter, step, accu])
    }

    fn comprehend(&mut self, target: Option<Expr>, vars: Vec<String>, parts: Loop) -> Result<Expr, Misuse> {
        let mut vars = vars.into_iter();
        let Loop { init, condition, step, result } = parts;
        let range = target.ok_or((self.at, "a macro needs a receiver".to_owned()))?;
        let comprehension = Comprehension {
            var: vars.next().unwrap_or_default(),
            var2: vars.next(),
            range,
            accu: ACCUMULATOR.to_owned(),
            init,
            condition,
            step,
            result,
        };
        Ok(self.f.node(self.at, Kind::Comprehension(Box::new(comprehension))))
    }
}

fn variable(arg: &Expr) -> Result<String, Misuse> {
    arg.ident().map(str::to_owned).ok_or((arg.at, "argument must be a simple name".to_owned()))
}

/// Takes `count` variables off the front of the arguments.
fn variables(args: &mut Vec<Expr>, count: usize) -> Result<Vec<String>, Misuse> {
    args.drain(..count).map(|a| variable(&a)).collect()
}

fn has(cx: &mut Context<'_>, _: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    match args.pop() {
        Some(Expr { kind: Kind::Select { operand, field, test: false }, .. }) => {
            Ok(cx.f.node(cx.at, Kind::Select { operand, field, test: true }))
        }
        other => Err((other.map_or(cx.at, |e| e.at), "invalid argument to has() macro".to_owned())),
    }
}

/// `accu && p`, as long as `accu` is not false.
fn all(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let count = args.len() - 1;
    let vars = variables(&mut args, count)?;
    let (init, accu) = (cx.bool(true), cx.accu());
    let condition = cx.call(op::NOT_STRICTLY_FALSE, vec![accu]);
    args.insert(0, cx.accu());
    let (step, result) = (cx.call(op::AND, args), cx.accu());
    cx.comprehend(target, vars, Loop { init, condition, step, result })
}

/// `accu || p`, as long as `accu` is not true.
fn exists(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let count = args.len() - 1;
    let vars = variables(&mut args, count)?;
    let (init, accu) = (cx.bool(false), cx.accu());
    let not = cx.call(op::NOT, vec![accu]);
    let condition = cx.call(op::NOT_STRICTLY_FALSE, vec![not]);
    args.insert(0, cx.accu());
    let (step, result) = (cx.call(op::OR, args), cx.accu());
    cx.comprehend(target, vars, Loop { init, condition, step, result })
}

/// Counts, and compares the count with one.
fn exists_one(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let count = args.len() - 1;
    let vars = variables(&mut args, count)?;
    let (init, condition) = (cx.int(0), cx.bool(true));
    let (accu, one) = (cx.accu(), cx.int(1));
    let more = cx.call(op::ADD, vec![accu, one]);
    let step = cx.filtered(args.pop(), more);
    let (accu, one) = (cx.accu(), cx.int(1));
    let result = cx.call(op::EQUALS, vec![accu, one]);
    cx.comprehend(target, vars, Loop { init, condition, step, result })
}

/// Gathers `item` for what passes the filter.
fn gather(
    cx: &mut Context<'_>,
    target: Option<Expr>,
    vars: Vec<String>,
    filter: Option<Expr>,
    item: Expr,
) -> Result<Expr, Misuse> {
    let (init, condition) = (cx.f.list(cx.at, Vec::new()), cx.bool(true));
    let (accu, item) = (cx.accu(), cx.f.list(cx.at, vec![item]));
    let more = cx.call(op::ADD, vec![accu, item]);
    let (step, result) = (cx.filtered(filter, more), cx.accu());
    cx.comprehend(target, vars, Loop { init, condition, step, result })
}

/// `map(x, t)`, `map(x, p, t)`.
fn map(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let (vars, filter, transform) = transform(cx, &mut args, 1)?;
    gather(cx, target, vars, filter, transform)
}

fn filter(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let predicate = args.pop();
    let vars = variables(&mut args, 1)?;
    let item = cx.f.ident(cx.at, &vars[0]);
    gather(cx, target, vars, predicate, item)
}

type Transform = (Vec<String>, Option<Expr>, Expr);

/// `count` variables, perhaps a filter, and the transformation.
fn transform(cx: &mut Context<'_>, args: &mut Vec<Expr>, count: usize) -> Result<Transform, Misuse> {
    let transform = args.pop().ok_or((cx.at, "argument expected".to_owned()))?;
    let vars = variables(args, count)?;
    Ok((vars, args.pop(), transform))
}

fn transform_list(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let (vars, filter, transform) = transform(cx, &mut args, 2)?;
    gather(cx, target, vars, filter, transform)
}

fn transform_map(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let (vars, filter, transform) = transform(cx, &mut args, 2)?;
    let key = cx.f.ident(cx.at, &vars[0]);
    insert(cx, target, vars, filter, vec![key, transform])
}

fn transform_map_entry(cx: &mut Context<'_>, target: Option<Expr>, mut args: Vec<Expr>) -> Result<Expr, Misuse> {
    let (vars, filter, transform) = transform(cx, &mut args, 2)?;
    insert(cx, target, vars, filter, vec![transform])
}

/// Gathers entries in a map.
fn insert(
    cx: &mut Context<'_>,
    target: Option<Expr>,
    vars: Vec<String>,
    filter: Option<Expr>,
    mut entry: Vec<Expr>,
) -> Result<Expr, Misuse> {
    let (init, condition) = (cx.f.node(cx.at, Kind::Map(Vec::new())), cx.bool(true));
    entry.insert(0, cx.accu());
    let more = cx.call(op::MAP_INSERT, entry);
    let (step, result) = (cx.filtered(filter, more), cx.accu());
    cx.comprehend(target, vars, Loop { init, condition, step, result })
}

/// A loop over nothing whose accumulator is the variable.
fn bind_to(cx: &mut Context<'_>, name: String, value: Expr, body: Expr) -> Expr {
    let (range, condition, step) = (cx.f.list(cx.at, Vec::new()), cx.bool(false), cx.f.ident(cx.at, &name));
    let bind = Comprehension {
        var: "#unused".to_owned(),
        var2: None,
        range,
        accu: name,
        init: value,
        condition,
        step,
        result: body,
    };
    cx.f.node(cx.at, Kind::Comprehension(Box::new(bind)))
}

fn three(args: Vec<Expr>, at: usize) -> Result<[Expr; 3], Misuse> {
    args.try_into().map_err(|_| (at, "three arguments expected".to_owned()))
}

fn bind(cx: &mut Context<'_>, _: Option<Expr>, args: Vec<Expr>) -> Result<Expr, Misuse> {
    let [name, value, body] = three(args, cx.at)?;
    let name = name
        .ident()
        .map(str::to_owned)
        .ok_or((name.at, "cel.bind() variable names must be simple identifiers".to_owned()))?;
    Ok(bind_to(cx, name, value, body))
}

/// `target.hasValue() ? wrap(bind(name, target.value(), body)) : optional.none()`.
fn optional(
    cx: &mut Context<'_>,
    target: Option<Expr>,
    mut args: Vec<Expr>,
    wrap: bool,
    name: &str,
) -> Result<Expr, Misuse> {
    let bad = (cx.at, format!("{name}() needs a receiver, a variable and an expression"));
    let (Some(target), Some(body), Some(var)) = (target, args.pop(), args.pop()) else { return Err(bad) };
    let var = var
        .ident()
        .map(str::to_owned)
        .ok_or((var.at, format!("{name}() variable name must be a simple identifier")))?;
    let copy = cx.f.copy(&target);
    let value = cx.f.member(cx.at, "value", copy);
    let body = bind_to(cx, var, value, body);
    let namespaced = |cx: &mut Context<'_>, function: &str, args: Vec<Expr>| {
        let namespace = cx.f.ident(cx.at, "optional");
        let target = Some(Box::new(namespace));
        cx.f.node(cx.at, Kind::Call { target, function: function.to_owned(), args })
    };
    let then = if wrap { namespaced(cx, "of", vec![body]) } else { body };
    let test = cx.f.member(cx.at, "hasValue", target);
    let none = namespaced(cx, "none", Vec::new());
    Ok(cx.call(op::CONDITIONAL, vec![test, then, none]))
}

fn opt_map(cx: &mut Context<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, Misuse> {
    optional(cx, target, args, true, "optMap")
}

fn opt_flat_map(cx: &mut Context<'_>, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, Misuse> {
    optional(cx, target, args, false, "optFlatMap")
}
