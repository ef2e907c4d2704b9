//! The evaluator (`interpreter` of cel-go): walks a plan and counts what it costs; evaluation ends when that is too much.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cost::runtime;
use crate::plan::{Call, Loop, Node, Plan};
use crate::types::Type;
use crate::value::{Key, List, Made, Map, Value, equal};

/// Why an evaluation has no result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The budget is used up.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostLimit,
    /// The expression has no value for this input.
    #[error("{0}")]
    Failed(Cow<'static, str>),
}

impl EvalError {
    /// An error with this text.
    pub fn new(message: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError::Failed(message.into())
    }

    pub(crate) fn no_such_overload() -> EvalError {
        EvalError::new("no such overload")
    }

    fn no_such_key(key: impl std::fmt::Display) -> EvalError {
        EvalError::new(format!("no such key: {key}"))
    }
}

/// What evaluations may cost together, and what they did.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    limit: u64,
    used: u64,
}

impl Budget {
    /// At most `limit`.
    pub fn new(limit: u64) -> Budget {
        Budget { limit, used: 0 }
    }

    /// What was used so far.
    pub fn used(&self) -> u64 {
        self.used
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.used = self.used.saturating_add(cost);
        if self.used > self.limit { Err(EvalError::CostLimit) } else { Ok(()) }
    }
}

/// The values of variables.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a>(Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Bindings<'a> {
    /// None yet.
    pub fn new() -> Self {
        Bindings(Vec::new())
    }

    /// With one more.
    pub fn with(mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Value<'a>>) -> Self {
        self.0.push((name.into(), value.into()));
        self
    }

    fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value)
    }
}

pub(crate) type Evaluated<'a> = Result<Value<'a>, EvalError>;

/// Variables that are computed from others when they are first asked for.
pub(crate) trait Compute<'a> {
    /// The value of a variable that nothing is bound to; `None` if it is not one of these.
    fn compute(&mut self, name: &str, bindings: &Bindings<'a>) -> Option<Evaluated<'a>>;
}

/// Evaluates a plan.
pub(crate) fn eval<'b, 'a>(
    plan: &Plan,
    bindings: &'b Bindings<'a>,
    computed: Option<&'b mut (dyn Compute<'a> + 'b)>,
    budget: &'b mut Budget,
) -> Evaluated<'a> {
    let variables = plan.variables.iter().map(|name| bindings.get(name).cloned()).collect();
    let slots = vec![Ok(Value::Null); plan.slots];
    Evaluator { plan, bindings, variables, computed, slots, budget }.eval(&plan.root)
}

struct Evaluator<'p, 'b, 'a> {
    plan: &'p Plan,
    bindings: &'b Bindings<'a>,
    variables: Vec<Option<Value<'a>>>,
    computed: Option<&'b mut (dyn Compute<'a> + 'b)>,
    /// What comprehensions hold; a predicate that failed is held until it is known whether it matters.
    slots: Vec<Evaluated<'a>>,
    budget: &'b mut Budget,
}

impl<'a> Evaluator<'_, '_, 'a> {
    fn eval(&mut self, node: &Node) -> Evaluated<'a> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Variable(place) => self.variable(*place),
            Node::Local(slot) => {
                self.budget.charge(1)?;
                self.slots[*slot].clone()
            }
            Node::Select { operand, field, optional } => {
                let operand = self.eval(operand)?;
                self.budget.charge(1)?;
                select(&operand, field, *optional)
            }
            Node::Has { operand, field } => has(&self.eval(operand)?, field).map(Value::Bool),
            Node::Index { operand, index, optional } => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.budget.charge(1)?;
                at(&operand, &index, *optional)
            }
            Node::And(a, b) => self.logic(a, b, false),
            Node::Or(a, b) => self.logic(a, b, true),
            Node::Conditional(condition, then, other) => match self.eval(condition)? {
                Value::Bool(true) => self.eval(then),
                Value::Bool(false) => self.eval(other),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::NotStrictlyFalse(inner) => {
                let value = self.eval(inner);
                self.budget.charge(1)?;
                match value {
                    Err(EvalError::CostLimit) => Err(EvalError::CostLimit),
                    Ok(Value::Bool(b)) => Ok(Value::Bool(b)),
                    _ => Ok(Value::Bool(true)),
                }
            }
            Node::OptionalOr { optional, other, unwrap } => match self.eval(optional)? {
                Value::Optional(None) => self.eval(other),
                Value::Optional(Some(value)) if *unwrap => Ok(Value::clone(&value)),
                value @ Value::Optional(_) => Ok(value),
                _ => Err(EvalError::no_such_overload()),
            },
            Node::Call(call) => self.call(call),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Object { ty, fields } => self.object(ty, fields),
            Node::Loop(l) => self.fold(l),
            Node::Append { slot, items } => self.append(*slot, items),
            Node::Insert { slot, entry } => self.insert(*slot, entry),
            Node::Bind { slot, value, body } => {
                let value = self.eval(value);
                if matches!(value, Err(EvalError::CostLimit)) {
                    return value;
                }
                // A value that failed matters only where it is used.
                self.slots[*slot] = value;
                self.eval(body)
            }
        }
    }

    fn variable(&mut self, place: usize) -> Evaluated<'a> {
        self.budget.charge(1)?;
        if let Some(value) = &self.variables[place] {
            return Ok(value.clone());
        }
        let name = &self.plan.variables[place];
        let computed = self.computed.as_mut().and_then(|computed| computed.compute(name, self.bindings));
        let Some(value) = computed else { return Err(EvalError::new(format!("no such attribute(s): {name}"))) };
        // It is a field of an object.
        self.budget.charge(1)?;
        value
    }

    /// `&&` and `||`: a side that decides makes the failure of the other one irrelevant.
    fn logic(&mut self, a: &Node, b: &Node, deciding: bool) -> Evaluated<'a> {
        let first = self.eval(a);
        if matches!(first, Err(EvalError::CostLimit)) || first.as_ref().is_ok_and(|v| v.as_bool() == Some(deciding)) {
            return first;
        }
        let second = self.eval(b);
        if matches!(second, Err(EvalError::CostLimit)) || second.as_ref().is_ok_and(|v| v.as_bool() == Some(deciding)) {
            return second;
        }
        for side in [first?, second?] {
            side.as_bool().ok_or_else(EvalError::no_such_overload)?;
        }
        Ok(Value::Bool(!deciding))
    }

    #[inline(never)]
    fn call(&mut self, call: &Call) -> Evaluated<'a> {
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            args.push(self.eval(arg)?);
        }
        let result = dispatch(call, &args);
        // What is looked for in a list of constants is found in a table.
        let table = call.overload == Some("in_list") && matches!(call.args.get(1), Some(Node::Const(_)));
        if !table {
            self.budget.charge(runtime::call(call.function, call.overload, &args, result.as_ref().ok()))?;
        }
        result
    }

    #[inline(never)]
    fn list(&mut self, items: &[(Node, bool)]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(items.len());
        for (item, optional) in items {
            let value = self.eval(item)?;
            if let Some(value) = unwrap(value, *optional)? {
                values.push(value);
            }
        }
        self.budget.charge(runtime::LIST)?;
        Ok(values.into())
    }

    #[inline(never)]
    fn map(&mut self, entries: &[(Node, Node, bool)]) -> Evaluated<'a> {
        let mut map = BTreeMap::new();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            let Some(value) = unwrap(value, *optional)? else { continue };
            add(&mut map, &key, value)?;
        }
        self.budget.charge(runtime::MAP)?;
        Ok(Value::Map(Map::Shared(Arc::new(map))))
    }

    #[inline(never)]
    fn object(&mut self, ty: &Arc<str>, fields: &[(Arc<str>, Node, bool)]) -> Evaluated<'a> {
        let mut map = BTreeMap::new();
        for (name, value, optional) in fields {
            let value = self.eval(value)?;
            if let Some(value) = unwrap(value, *optional)? {
                map.insert(Key::String(crate::value::Str::Shared(name.clone())), value);
            }
        }
        self.budget.charge(runtime::STRUCT)?;
        Ok(Value::Map(Map::Made(Arc::new(Made { ty: ty.clone(), fields: map }))))
    }

    #[inline(never)]
    fn fold(&mut self, l: &Loop) -> Evaluated<'a> {
        let range = self.eval(&l.range)?;
        self.slots[l.accu] = self.eval(&l.init);
        let pairs = l.var2.is_some();
        match &range {
            Value::List(list) => {
                for (n, item) in list.iter().enumerate() {
                    let (first, second) = if pairs {
                        (Value::Int(i64::try_from(n).unwrap_or(i64::MAX)), item)
                    } else {
                        (item, Value::Null)
                    };
                    if !self.step(l, first, second)? {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for key in map.keys() {
                    let value = if pairs { map.get(&key)?.unwrap_or(Value::Null) } else { Value::Null };
                    if !self.step(l, key, value)? {
                        break;
                    }
                }
            }
            other => return Err(EvalError::new(format!("got '{}', expected iterable type", go_type(other)))),
        }
        self.eval(&l.result)
    }

    /// One round; whether there may be another. A step that fails is what the accumulator then holds.
    fn step(&mut self, l: &Loop, first: Value<'a>, second: Value<'a>) -> Result<bool, EvalError> {
        self.slots[l.var] = Ok(first);
        if let Some(var2) = l.var2 {
            self.slots[var2] = Ok(second);
        }
        if self.eval(&l.condition)?.as_bool() != Some(true) {
            return Ok(false);
        }
        let next = self.eval(&l.step);
        if matches!(next, Err(EvalError::CostLimit)) {
            return Err(EvalError::CostLimit);
        }
        self.slots[l.accu] = next;
        Ok(true)
    }

    /// Takes what a slot holds; the slot gets the result of the step.
    fn take(&mut self, slot: usize) -> Evaluated<'a> {
        self.budget.charge(1)?;
        std::mem::replace(&mut self.slots[slot], Ok(Value::Null))
    }

    #[inline(never)]
    fn append(&mut self, slot: usize, items: &Node) -> Evaluated<'a> {
        let items = self.eval(items);
        let accu = self.take(slot)?;
        self.budget.charge(1)?;
        match (accu, items?) {
            (Value::List(List::Shared(mut list)), Value::List(items)) => {
                Arc::make_mut(&mut list).extend(items.iter());
                Ok(Value::List(List::Shared(list)))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    #[inline(never)]
    fn insert(&mut self, slot: usize, entry: &[Node]) -> Evaluated<'a> {
        let mut values = Vec::with_capacity(entry.len());
        for node in entry {
            values.push(self.eval(node)?);
        }
        let accu = self.take(slot)?;
        self.budget.charge(1)?;
        let Value::Map(Map::Shared(mut map)) = accu else { return Err(EvalError::no_such_overload()) };
        let entries = match values.as_slice() {
            [key, value] => vec![(key.clone(), value.clone())],
            [Value::Map(entries)] => entries.entries()?,
            _ => return Err(EvalError::no_such_overload()),
        };
        for (key, value) in entries {
            let duplicate = || EvalError::new(format!("insert failed: key {key} already exists"));
            let key = Key::new(&key).ok_or_else(EvalError::no_such_overload)?;
            if Arc::make_mut(&mut map).insert(key, value).is_some() {
                return Err(duplicate());
            }
        }
        Ok(Value::Map(Map::Shared(map)))
    }
}

/// Adds an entry of a map literal.
fn add<'a>(map: &mut BTreeMap<Key<'a>, Value<'a>>, key: &Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
    let bad = || EvalError::new("unsupported key type");
    let entry = Key::new(key).filter(|_| !matches!(key, Value::Double(_))).ok_or_else(bad)?;
    match map.insert(entry, value) {
        Some(_) => Err(EvalError::new(format!("Failed with repeated key: {key}"))),
        None => Ok(()),
    }
}

/// The value of an element; `None` for an optional one that is none.
fn unwrap(value: Value<'_>, optional: bool) -> Result<Option<Value<'_>>, EvalError> {
    match value {
        value if !optional => Ok(Some(value)),
        Value::Optional(inner) => Ok(inner.map(|v| Value::clone(&v))),
        other => {
            let message = format!("cannot initialize optional entry from non-optional value {other}");
            Err(EvalError::new(message))
        }
    }
}

fn dispatch<'a>(call: &Call, args: &[Value<'a>]) -> Evaluated<'a> {
    if let (Some(pattern), Some(Value::String(text))) = (&call.pattern, args.first()) {
        return Ok(Value::Bool(pattern.is_match(text)));
    }
    let fits = |params: &[Type]| params.len() == args.len() && args.iter().zip(params).all(|(a, t)| a.fits(t));
    match call.candidates.iter().find(|c| fits(&c.params)) {
        Some(candidate) => (candidate.native)(args),
        None => {
            let types: Vec<String> = args.iter().map(|a| a.ty().name().to_owned()).collect();
            Err(EvalError::new(format!("no such overload: {}({})", call.function, types.join(", "))))
        }
    }
}

/// `operand.field`; of an optional operand, or asked for as optional, an optional result.
fn select<'a>(operand: &Value<'a>, field: &str, optional: bool) -> Evaluated<'a> {
    match operand {
        Value::Map(map) => match map.field(field)? {
            Some(value) if optional => Ok(Value::some(value)),
            Some(value) => Ok(value),
            None if optional => Ok(Value::Optional(None)),
            None => Err(EvalError::no_such_key(field)),
        },
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => match &**inner {
            Value::Optional(_) => select(inner, field, optional),
            inner => select(inner, field, true),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn has(operand: &Value<'_>, field: &str) -> Result<bool, EvalError> {
    match operand {
        Value::Map(map) => map.has(&Value::from(field)),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `operand[index]`.
fn at<'a>(operand: &Value<'a>, index: &Value<'a>, optional: bool) -> Evaluated<'a> {
    let found = match operand {
        Value::Map(map) => map.get(index)?.ok_or_else(|| EvalError::no_such_key(index)),
        Value::List(list) => {
            let place = match Key::new(index) {
                Some(Key::Int(n)) => usize::try_from(n).ok(),
                Some(Key::Uint(n)) => usize::try_from(n).ok(),
                _ => {
                    let name = index.ty();
                    return Err(EvalError::new(format!("unsupported index type '{}' in list", name.name())));
                }
            };
            place.and_then(|n| list.get(n)).ok_or_else(|| EvalError::new(format!("index out of bounds: {index}")))
        }
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => return at(inner, index, true),
        _ => return Err(EvalError::no_such_overload()),
    };
    match (optional, found) {
        (false, found) => found,
        (true, Ok(value)) => Ok(Value::some(value)),
        (true, Err(_)) => Ok(Value::Optional(None)),
    }
}

/// The name of the Go type, which an error of upstream tells.
fn go_type(value: &Value<'_>) -> &'static str {
    match value {
        Value::Null => "types.Null",
        Value::Bool(_) => "types.Bool",
        Value::Int(_) => "types.Int",
        Value::Uint(_) => "types.Uint",
        Value::Double(_) => "types.Double",
        Value::String(_) => "types.String",
        Value::Bytes(_) => "types.Bytes",
        Value::Duration(_) => "types.Duration",
        Value::Timestamp(_) => "types.Timestamp",
        Value::Optional(_) => "*types.Optional",
        _ => "ref.Val",
    }
}

/// Whether a list holds a value, or a map has it as key.
pub(crate) fn contains(container: &Value<'_>, value: &Value<'_>) -> Result<bool, EvalError> {
    match container {
        Value::List(list) => {
            for item in list.iter() {
                if equal(&item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => map.has(value),
        _ => Err(EvalError::no_such_overload()),
    }
}
