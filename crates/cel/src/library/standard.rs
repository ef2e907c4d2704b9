//! Operators and functions of the language itself (`common/stdlib` and `common/types` of cel-go).

use std::cmp::Ordering;
use std::sync::Arc;

use super::{Result, text};
use crate::ast::op;
use crate::eval::{EvalError, contains};
use crate::functions::Functions;
use crate::number::{format_double, parse_double};
use crate::time::{Civil, Duration, Timestamp};
use crate::types::Type;
use crate::value::{Value, compare, equal};

const A: Type = Type::Param("A");
const B: Type = Type::Param("B");

/// The types that have names.
pub(crate) fn types() -> Vec<Type> {
    let simple = [
        Type::Dyn,
        Type::Null,
        Type::Bool,
        Type::Int,
        Type::Uint,
        Type::Double,
        Type::String,
        Type::Bytes,
        Type::Duration,
        Type::Timestamp,
        Type::list(Type::Dyn),
        Type::map(Type::Dyn, Type::Dyn),
        Type::Type(Arc::new(Type::Dyn)),
    ];
    simple.into()
}

/// Declares them all.
pub(crate) fn declare(f: &mut Functions) {
    logic(f);
    order(f);
    arithmetic(f);
    containers(f);
    strings(f);
    conversions(f);
    times(f);
}

fn logic(f: &mut Functions) {
    let special = |_: &[Value<'_>]| Err(EvalError::no_such_overload());
    f.global(op::CONDITIONAL, "conditional", [Type::Bool, A, A], A, special);
    f.global(op::AND, "logical_and", [Type::Bool, Type::Bool], Type::Bool, special);
    f.global(op::OR, "logical_or", [Type::Bool, Type::Bool], Type::Bool, special);
    f.global(op::NOT_STRICTLY_FALSE, "not_strictly_false", [Type::Bool], Type::Bool, special);
    f.global(op::NOT, "logical_not", [Type::Bool], Type::Bool, |a| match a {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => Err(EvalError::no_such_overload()),
    });
    f.global(op::EQUALS, "equals", [A, A], Type::Bool, |a| equal(&a[0], &a[1]).map(Value::Bool));
    f.global(op::NOT_EQUALS, "not_equals", [A, A], Type::Bool, |a| equal(&a[0], &a[1]).map(|e| Value::Bool(!e)));
}

/// The names of the overloads of a comparison, in the order of the pairs of types above.
macro_rules! ids {
    ($name:literal) => {
        [
            concat!($name, "_bool"),
            concat!($name, "_int64"),
            concat!($name, "_int64_double"),
            concat!($name, "_int64_uint64"),
            concat!($name, "_uint64"),
            concat!($name, "_uint64_double"),
            concat!($name, "_uint64_int64"),
            concat!($name, "_double"),
            concat!($name, "_double_int64"),
            concat!($name, "_double_uint64"),
            concat!($name, "_string"),
            concat!($name, "_bytes"),
            concat!($name, "_timestamp"),
            concat!($name, "_duration"),
        ]
    };
}
fn order(f: &mut Functions) {
    type Test = fn(Ordering) -> bool;
    fn declare(f: &mut Functions, name: &'static str, ids: [&'static str; 14], native: crate::functions::Native) {
        use Type::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
        let pairs = [
            (Bool, Bool),
            (Int, Int),
            (Int, Double),
            (Int, Uint),
            (Uint, Uint),
            (Uint, Double),
            (Uint, Int),
            (Double, Double),
            (Double, Int),
            (Double, Uint),
            (String, String),
            (Bytes, Bytes),
            (Timestamp, Timestamp),
            (Duration, Duration),
        ];
        for (id, (a, b)) in ids.into_iter().zip(pairs) {
            f.global(name, id, [a, b], Bool, native);
        }
    }
    fn test<'a>(args: &[Value<'a>], test: Test) -> Result<'a> {
        Ok(Value::Bool(compare(&args[0], &args[1])?.is_some_and(test)))
    }
    declare(f, "_<_", ids!("less"), |a| test(a, Ordering::is_lt));
    declare(f, "_<=_", ids!("less_equals"), |a| test(a, Ordering::is_le));
    declare(f, "_>_", ids!("greater"), |a| test(a, Ordering::is_gt));
    declare(f, "_>=_", ids!("greater_equals"), |a| test(a, Ordering::is_ge));
}

fn overflow(what: &'static str) -> EvalError {
    EvalError::new(what)
}

const INT_OVERFLOW: &str = "integer overflow";
const UINT_OVERFLOW: &str = "unsigned integer overflow";
const DURATION_OVERFLOW: &str = "duration overflow";
const TIMESTAMP_OVERFLOW: &str = "timestamp overflow";

fn whole<'a>(n: Option<i64>) -> Result<'a> {
    n.map(Value::Int).ok_or(overflow(INT_OVERFLOW))
}

fn unsigned<'a>(n: Option<u64>) -> Result<'a> {
    n.map(Value::Uint).ok_or(overflow(UINT_OVERFLOW))
}

fn span<'a>(n: Option<i64>) -> Result<'a> {
    n.map(|n| Value::Duration(Duration(n))).ok_or(overflow(DURATION_OVERFLOW))
}

fn instant<'a>(t: Option<Timestamp>) -> Result<'a> {
    t.map(Value::Timestamp).ok_or(overflow(TIMESTAMP_OVERFLOW))
}

/// The longest list that `+` makes: more than a request can hold. Upstream has no limit, and doubling is cheap.
const MAX_LIST: usize = 1 << 21;

/// `_+_`.
pub(super) fn add<'a>(args: &[Value<'a>]) -> Result<'a> {
    use Value::{Bytes, Double, Duration as Span, Int, String, Timestamp as Instant, Uint};
    match args {
        [Int(a), Int(b)] => whole(a.checked_add(*b)),
        [Uint(a), Uint(b)] => unsigned(a.checked_add(*b)),
        [Double(a), Double(b)] => Ok(Double(a + b)),
        [String(a), String(b)] => Ok([&**a, &**b].concat().into()),
        [Bytes(a), Bytes(b)] => Ok(Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] if a.len() + b.len() > MAX_LIST => {
            Err(EvalError::new("the resulting list is too long"))
        }
        [Value::List(a), Value::List(b)] => Ok(Value::List(a.clone().join(b.clone()))),
        [Span(a), Span(b)] => span(a.0.checked_add(b.0)),
        [Instant(t), Span(d)] | [Span(d), Instant(t)] => instant(t.add(*d)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Result<'a> {
    use Value::{Double, Duration as Span, Int, Timestamp as Instant, Uint};
    match args {
        [Int(a), Int(b)] => whole(a.checked_sub(*b)),
        [Uint(a), Uint(b)] => unsigned(a.checked_sub(*b)),
        [Double(a), Double(b)] => Ok(Double(a - b)),
        [Span(a), Span(b)] => span(a.0.checked_sub(b.0)),
        [Instant(a), Instant(b)] => a.since(*b).map(Span).ok_or(overflow(DURATION_OVERFLOW)),
        [Instant(t), Span(d)] => instant(d.0.checked_neg().and_then(|n| t.add(Duration(n)))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => whole(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("division by zero")),
        [Value::Int(a), Value::Int(b)] => whole(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Result<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => whole(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => unsigned(a.checked_rem(*b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn arithmetic(f: &mut Functions) {
    use Type::{Bytes, Double, Duration as Span, Int, String, Timestamp as Instant, Uint};
    f.global("_+_", "add_bytes", [Bytes, Bytes], Bytes, add);
    f.global("_+_", "add_double", [Double, Double], Double, add);
    f.global("_+_", "add_duration_duration", [Span, Span], Span, add);
    f.global("_+_", "add_duration_timestamp", [Span, Instant], Instant, add);
    f.global("_+_", "add_timestamp_duration", [Instant, Span], Instant, add);
    f.global("_+_", "add_int64", [Int, Int], Int, add);
    f.global("_+_", "add_list", [Type::list(A), Type::list(A)], Type::list(A), add);
    f.global("_+_", "add_string", [String, String], String, add);
    f.global("_+_", "add_uint64", [Uint, Uint], Uint, add);
    f.global("_-_", "subtract_double", [Double, Double], Double, subtract);
    f.global("_-_", "subtract_duration_duration", [Span, Span], Span, subtract);
    f.global("_-_", "subtract_int64", [Int, Int], Int, subtract);
    f.global("_-_", "subtract_timestamp_duration", [Instant, Span], Instant, subtract);
    f.global("_-_", "subtract_timestamp_timestamp", [Instant, Instant], Span, subtract);
    f.global("_-_", "subtract_uint64", [Uint, Uint], Uint, subtract);
    f.global("_*_", "multiply_double", [Double, Double], Double, multiply);
    f.global("_*_", "multiply_int64", [Int, Int], Int, multiply);
    f.global("_*_", "multiply_uint64", [Uint, Uint], Uint, multiply);
    f.global("_/_", "divide_double", [Double, Double], Double, divide);
    f.global("_/_", "divide_int64", [Int, Int], Int, divide);
    f.global("_/_", "divide_uint64", [Uint, Uint], Uint, divide);
    f.global("_%_", "modulo_int64", [Int, Int], Int, modulo);
    f.global("_%_", "modulo_uint64", [Uint, Uint], Uint, modulo);
    f.global(op::NEGATE, "negate_double", [Double], Double, |a| match a {
        [Value::Double(d)] => Ok(Value::Double(-d)),
        _ => Err(EvalError::no_such_overload()),
    });
    f.global(op::NEGATE, "negate_int64", [Int], Int, |a| match a {
        [Value::Int(n)] => whole(n.checked_neg()),
        _ => Err(EvalError::no_such_overload()),
    });
}

fn size<'a>(args: &[Value<'a>]) -> Result<'a> {
    match &args[0] {
        v @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_)) => {
            Ok(Value::Int(i64::try_from(v.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

fn containers(f: &mut Functions) {
    let special = |_: &[Value<'_>]| Err(EvalError::no_such_overload());
    let map = || Type::map(A, B);
    f.global(op::INDEX, "index_list", [Type::list(A), Type::Int], A, special);
    f.global(op::INDEX, "index_map", [map(), A], B, special);
    f.global(op::IN, "in_list", [A, Type::list(A)], Type::Bool, |a| contains(&a[1], &a[0]).map(Value::Bool));
    f.global(op::IN, "in_map", [A, map()], Type::Bool, |a| contains(&a[1], &a[0]).map(Value::Bool));
    let sized = [
        (Type::Bytes, "size_bytes", "bytes_size"),
        (Type::list(A), "size_list", "list_size"),
        (map(), "size_map", "map_size"),
        (Type::String, "size_string", "string_size"),
    ];
    for (ty, global, member) in sized {
        f.global("size", global, [ty.clone()], Type::Int, size);
        f.member("size", member, [ty], Type::Int, size);
    }
}

fn strings(f: &mut Functions) {
    use Type::{Bool, String};
    f.member("contains", "contains_string", [String, String], Bool, |a| {
        Ok(Value::Bool(text(a, 0)?.contains(text(a, 1)?)))
    });
    f.member("endsWith", "ends_with_string", [String, String], Bool, |a| {
        Ok(Value::Bool(text(a, 0)?.ends_with(text(a, 1)?)))
    });
    f.member("startsWith", "starts_with_string", [String, String], Bool, |a| {
        Ok(Value::Bool(text(a, 0)?.starts_with(text(a, 1)?)))
    });
    f.member("matches", "matches_string", [String, String], Bool, matches);
    f.global("matches", "matches", [String, String], Bool, matches);
}

fn matches<'a>(a: &[Value<'a>]) -> Result<'a> {
    let pattern = crate::plan::pattern(text(a, 1)?).map_err(EvalError::new)?;
    Ok(Value::Bool(pattern.is_match(text(a, 0)?)))
}

fn conversions(f: &mut Functions) {
    use Type::{Bool, Bytes, Double, Duration as Span, Int, String, Timestamp as Instant, Uint};
    let mut declare = |name, native: crate::functions::Native, result: &Type, from: &[(Type, &'static str)]| {
        for (ty, id) in from {
            f.global(name, id, [ty.clone()], result.clone(), native);
        }
    };
    declare("bool", to_bool, &Bool, &[(Bool, "bool_to_bool"), (String, "string_to_bool")]);
    declare("bytes", to_bytes, &Bytes, &[(Bytes, "bytes_to_bytes"), (String, "string_to_bytes")]);
    declare(
        "double",
        to_double,
        &Double,
        &[
            (Double, "double_to_double"),
            (Int, "int64_to_double"),
            (String, "string_to_double"),
            (Uint, "uint64_to_double"),
        ],
    );
    declare(
        "duration",
        to_duration,
        &Span,
        &[(Span, "duration_to_duration"), (Int, "int64_to_duration"), (String, "string_to_duration")],
    );
    declare("dyn", |a| Ok(a[0].clone()), &Type::Dyn, &[(A, "to_dyn")]);
    declare(
        "int",
        to_int,
        &Int,
        &[
            (Int, "int64_to_int64"),
            (Double, "double_to_int64"),
            (Span, "duration_to_int64"),
            (String, "string_to_int64"),
            (Instant, "timestamp_to_int64"),
            (Uint, "uint64_to_int64"),
        ],
    );
    declare(
        "string",
        to_string,
        &String,
        &[
            (String, "string_to_string"),
            (Bool, "bool_to_string"),
            (Bytes, "bytes_to_string"),
            (Double, "double_to_string"),
            (Span, "duration_to_string"),
            (Int, "int64_to_string"),
            (Instant, "timestamp_to_string"),
            (Uint, "uint64_to_string"),
        ],
    );
    declare(
        "timestamp",
        to_timestamp,
        &Instant,
        &[(Instant, "timestamp_to_timestamp"), (Int, "int64_to_timestamp"), (String, "string_to_timestamp")],
    );
    declare(
        "uint",
        to_uint,
        &Uint,
        &[
            (Uint, "uint64_to_uint64"),
            (Double, "double_to_uint64"),
            (Int, "int64_to_uint64"),
            (String, "string_to_uint64"),
        ],
    );
    f.global("type", "type", [A], Type::Type(Arc::new(A)), |a| Ok(Value::Type(a[0].ty())));
}

fn to_bool<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        v @ Value::Bool(_) => Ok(v.clone()),
        Value::String(s) => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            other => Err(EvalError::new(format!("strconv.ParseBool: parsing \"{other}\": invalid syntax"))),
        },
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_bytes<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        v @ Value::Bytes(_) => Ok(v.clone()),
        Value::String(s) => Ok(Value::Bytes(s.as_bytes().into())),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_double<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        Value::Double(d) => Ok(Value::Double(*d)),
        Value::Int(n) => Ok(Value::Double(*n as f64)),
        Value::Uint(n) => Ok(Value::Double(*n as f64)),
        Value::String(s) => parse_double(s)
            .map(Value::Double)
            .ok_or_else(|| EvalError::new(format!("strconv.ParseFloat: parsing \"{}\": invalid syntax", &**s))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_duration<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        v @ Value::Duration(_) => Ok(v.clone()),
        Value::Int(n) => span(Some(*n)),
        Value::String(s) => Duration::parse(s)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("time: invalid duration \"{}\"", &**s))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_timestamp<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        v @ Value::Timestamp(_) => Ok(v.clone()),
        Value::Int(n) => instant(Timestamp::new(*n, 0)),
        Value::String(s) => Timestamp::parse(s).map(Value::Timestamp).ok_or_else(|| {
            EvalError::new(format!("parsing time \"{}\" as \"2006-01-02T15:04:05Z07:00\": cannot parse", &**s))
        }),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn number_error(function: &str, text: &str, error: &std::num::ParseIntError) -> EvalError {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    let reason = match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    EvalError::new(format!("strconv.{function}: parsing \"{text}\": {reason}"))
}

fn to_int<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        Value::Int(n) => whole(Some(*n)),
        Value::Uint(n) => whole(i64::try_from(*n).ok()),
        // The ends of the range are left out, as floats cannot tell them from what is beyond.
        Value::Double(d) if *d > i64::MIN as f64 && *d < i64::MAX as f64 => whole(Some(*d as i64)),
        Value::Double(_) => whole(None),
        Value::Duration(d) => whole(Some(d.0)),
        Value::Timestamp(t) => whole(Some(t.seconds())),
        Value::String(s) => s.parse().map(Value::Int).map_err(|e| number_error("ParseInt", s, &e)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_uint<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        Value::Uint(n) => unsigned(Some(*n)),
        Value::Int(n) => unsigned(u64::try_from(*n).ok()),
        Value::Double(d) if *d >= 0.0 && *d < u64::MAX as f64 => unsigned(Some(*d as u64)),
        Value::Double(_) => unsigned(None),
        Value::String(s) if s.starts_with('+') => {
            Err(EvalError::new(format!("strconv.ParseUint: parsing \"{}\": invalid syntax", &**s)))
        }
        Value::String(s) => s.parse().map(Value::Uint).map_err(|e| number_error("ParseUint", s, &e)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn to_string<'a>(a: &[Value<'a>]) -> Result<'a> {
    match &a[0] {
        v @ Value::String(_) => Ok(v.clone()),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => Ok(s.to_owned().into()),
            Err(_) => Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Double(d) => Ok(format_double(*d).into()),
        v @ (Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Duration(_) | Value::Timestamp(_)) => {
            Ok(v.to_string().into())
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A part of an instant, perhaps in a zone.
fn part<'a>(a: &[Value<'a>], part: fn(&Civil) -> i64) -> Result<'a> {
    let zone = if a.len() > 1 { text(a, 1)? } else { "" };
    match &a[0] {
        Value::Timestamp(t) => Ok(Value::Int(part(&t.civil(zone).map_err(EvalError::new)?))),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A part of an instant, or all of a span in a unit.
fn part_or_total<'a>(a: &[Value<'a>], of_instant: fn(&Civil) -> i64, unit: i64) -> Result<'a> {
    match a {
        [Value::Duration(d)] => Ok(Value::Int(d.0 / unit)),
        _ => part(a, of_instant),
    }
}

fn times(f: &mut Functions) {
    use Type::{Duration as Span, Int, String, Timestamp as Instant};
    let mut declare = |name, id, with_zone, native: crate::functions::Native| {
        f.member(name, id, [Instant], Int, native);
        f.member(name, with_zone, [Instant, String], Int, native);
    };
    declare("getFullYear", "timestamp_to_year", "timestamp_to_year_with_tz", |a| part(a, |c| c.year));
    declare("getMonth", "timestamp_to_month", "timestamp_to_month_with_tz", |a| part(a, |c| c.month - 1));
    declare("getDayOfYear", "timestamp_to_day_of_year", "timestamp_to_day_of_year_with_tz", |a| {
        part(a, |c| c.day_of_year)
    });
    declare("getDayOfMonth", "timestamp_to_day_of_month", "timestamp_to_day_of_month_with_tz", |a| {
        part(a, |c| c.day - 1)
    });
    declare("getDate", "timestamp_to_day_of_month_1_based", "timestamp_to_day_of_month_1_based_with_tz", |a| {
        part(a, |c| c.day)
    });
    declare("getDayOfWeek", "timestamp_to_day_of_week", "timestamp_to_day_of_week_with_tz", |a| part(a, |c| c.weekday));
    let timed: [(&str, [&str; 3], crate::functions::Native); 4] = [
        ("getHours", ["timestamp_to_hours", "timestamp_to_hours_with_tz", "duration_to_hours"], |a| {
            part_or_total(a, |c| c.hour, 3_600_000_000_000)
        }),
        ("getMinutes", ["timestamp_to_minutes", "timestamp_to_minutes_with_tz", "duration_to_minutes"], |a| {
            part_or_total(a, |c| c.minute, 60_000_000_000)
        }),
        ("getSeconds", ["timestamp_to_seconds", "timestamp_to_seconds_tz", "duration_to_seconds"], |a| {
            part_or_total(a, |c| c.second, 1_000_000_000)
        }),
        (
            "getMilliseconds",
            ["timestamp_to_milliseconds", "timestamp_to_milliseconds_with_tz", "duration_to_milliseconds"],
            |a| part_or_total(a, |c| c.milli, 1_000_000),
        ),
    ];
    for (name, [instant, in_zone, span], native) in timed {
        f.member(name, instant, [Instant], Int, native);
        f.member(name, in_zone, [Instant, String], Int, native);
        f.member(name, span, [Span], Int, native);
    }
}
