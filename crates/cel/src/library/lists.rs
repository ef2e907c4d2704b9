//! Order, sums and places in lists (`apiserver/pkg/cel/library/lists.go`).

use std::cmp::Ordering;

use super::{Library, Result, items};
use crate::eval::EvalError;
use crate::functions::{Functions, Native};
use crate::time::Duration;
use crate::types::Type;
use crate::value::{Value, compare, equal};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.lists", declare);

fn is_sorted<'a>(args: &[Value<'a>]) -> Result<'a> {
    for pair in items(args, 0)?.windows(2) {
        if compare(&pair[0], &pair[1])? == Some(Ordering::Greater) {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

/// The item that comes first in the order `wanted`; the first of equal ones.
fn extreme<'a>(args: &[Value<'a>], wanted: Ordering, name: &str) -> Result<'a> {
    let mut all = items(args, 0)?.into_iter();
    let mut best = all.next().ok_or_else(|| EvalError::new(format!("{name} called on empty list")))?;
    for item in all {
        if compare(&item, &best)? == Some(wanted) {
            best = item;
        }
    }
    Ok(best)
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Result<'a> {
    items(args, 0)?.into_iter().try_fold(zero, |sum, item| super::standard::add(&[sum, item]))
}

fn place<'a>(found: Option<usize>) -> Value<'a> {
    Value::Int(found.and_then(|n| i64::try_from(n).ok()).unwrap_or(-1))
}

/// Where the items that equal the second argument are.
fn places(args: &[Value<'_>]) -> std::result::Result<Vec<usize>, EvalError> {
    let wanted = args.get(1).ok_or_else(EvalError::no_such_overload)?;
    let mut found = Vec::new();
    for (n, item) in items(args, 0)?.iter().enumerate() {
        if equal(item, wanted)? {
            found.push(n);
        }
    }
    Ok(found)
}

fn declare(f: &mut Functions) {
    let summed: [(Type, &'static str, Native); 4] = [
        (Type::Int, "list_of_int_sum", |a| sum(a, Value::Int(0))),
        (Type::Uint, "list_of_uint_sum", |a| sum(a, Value::Uint(0))),
        (Type::Double, "list_of_double_sum", |a| sum(a, Value::Double(0.0))),
        (Type::Duration, "list_of_duration_sum", |a| sum(a, Value::Duration(Duration(0)))),
    ];
    for (item, id, native) in summed {
        f.member("sum", id, [Type::list(item.clone())], item, native);
    }
    let ordered = [
        (Type::Int, ["list_of_int_is_sorted", "list_of_int_min", "list_of_int_max"]),
        (Type::Uint, ["list_of_uint_is_sorted", "list_of_uint_min", "list_of_uint_max"]),
        (Type::Double, ["list_of_double_is_sorted", "list_of_double_min", "list_of_double_max"]),
        (Type::Bool, ["list_of_bool_is_sorted", "list_of_bool_min", "list_of_bool_max"]),
        (Type::Duration, ["list_of_duration_is_sorted", "list_of_duration_min", "list_of_duration_max"]),
        (Type::Timestamp, ["list_of_timestamp_is_sorted", "list_of_timestamp_min", "list_of_timestamp_max"]),
        (Type::String, ["list_of_string_is_sorted", "list_of_string_min", "list_of_string_max"]),
        (Type::Bytes, ["list_of_bytes_is_sorted", "list_of_bytes_min", "list_of_bytes_max"]),
    ];
    for (item, [sorted, min, max]) in ordered {
        let list = || [Type::list(item.clone())];
        f.member("isSorted", sorted, list(), Type::Bool, is_sorted);
        f.member("min", min, list(), item.clone(), |a| extreme(a, Ordering::Less, "min"));
        f.member("max", max, list(), item.clone(), |a| extreme(a, Ordering::Greater, "max"));
    }
    let t = Type::Param("T");
    f.member("indexOf", "list_a_index_of_int", [Type::list(t.clone()), t.clone()], Type::Int, |a| {
        Ok(place(places(a)?.first().copied()))
    });
    f.member("lastIndexOf", "list_a_last_index_of_int", [Type::list(t.clone()), t], Type::Int, |a| {
        Ok(place(places(a)?.last().copied()))
    });
}
