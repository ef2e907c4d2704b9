//! What a call cost, by what it was given and what it gave.

use super::range::{Cost, scale};
use super::{AUTHORIZATION, PATTERN, TRAVERSAL, is_nominal};
use crate::library::format::Format;
use crate::value::Value;

/// Of making a list.
pub(crate) const LIST: u64 = 10;
/// Of making a map.
pub(crate) const MAP: u64 = 30;
/// Of making an object.
pub(crate) const STRUCT: u64 = 40;

/// The cost of a call.
pub(crate) fn call(function: &str, overload: Option<&str>, args: &[Value<'_>], result: Option<&Value<'_>>) -> u64 {
    library(function, overload, args, result).unwrap_or_else(|| standard(overload, args))
}

fn size(args: &[Value<'_>], n: usize) -> u64 {
    args.get(n).map_or(1, Value::size)
}

/// Of looking at every character of an argument.
fn read(args: &[Value<'_>], n: usize) -> u64 {
    scale(size(args, n), TRAVERSAL)
}

fn search(text: u64, pattern: u64) -> u64 {
    scale(text.saturating_add(1), TRAVERSAL).saturating_mul(scale(pattern, PATTERN))
}

/// Kubernetes' libraries (`CostEstimator.CallCost`).
fn library(function: &str, overload: Option<&str>, args: &[Value<'_>], result: Option<&Value<'_>>) -> Option<u64> {
    Some(match function {
        "check" => AUTHORIZATION,
        "fieldSelector" | "labelSelector" if args.len() >= 2 => selector(Cost::fixed(size(args, 1))).max,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => read(args, 0),
        "replace" | "split" => scale(size(args, 0), 2.0 * TRAVERSAL),
        "join" => scale(result.map_or(1, Value::size), 2.0 * TRAVERSAL),
        "find" | "findAll" if args.len() >= 2 => search(size(args, 0), size(args, 1)),
        "ip" if overload == Some("cidr_ip") => 1,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => read(args, 0),
        "ip.isCanonical" => scale(size(args, 0), 2.0 * TRAVERSAL),
        "containsIP" => {
            let parse = if overload == Some("cidr_contains_ip_string") { read(args, 1) } else { 0 };
            scale(2 * size(args, 0), TRAVERSAL) + parse
        }
        "containsCIDR" => {
            let parse = if overload == Some("cidr_contains_cidr_string") { read(args, 1) } else { 0 };
            scale(2 * size(args, 0), TRAVERSAL) + read(args, 0) + 1 + parse
        }
        "validate" => search(size(args, 1), args.first()?.as_opaque::<Format>()?.max_pattern),
        "sets.contains" | "sets.intersects" => size(args, 0).saturating_mul(size(args, 1)).saturating_add(1),
        "sets.equivalent" => size(args, 0).saturating_mul(size(args, 1)).saturating_mul(2).saturating_add(1),
        "includes" => super::estimate::MAX_ATTRIBUTE_VALUES,
        "_==_" if matches!(args.first(), Some(Value::Opaque(_))) => 1,
        function if is_nominal(function) => 1,
        _ => return None,
    })
}

/// Of reading a selector of labels or fields: two characters may be a requirement, which is an object with a list.
pub(crate) fn selector(length: Cost) -> Cost {
    let requirements = length.scaled(0.5).scaled((LIST + STRUCT) as f64);
    Cost::fixed(LIST).plus(length.scaled(TRAVERSAL)).plus(requirements)
}

/// Of looking at a value and all its parts.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(s) => (s.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(b) => (b.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.iter().map(|v| traversal(&v)).fold(0, u64::saturating_add),
        Value::Map(map) => map.entries().map_or(1, |entries| {
            entries.iter().map(|(k, v)| traversal(k).saturating_add(traversal(v))).fold(0, u64::saturating_add)
        }),
        _ => 1,
    }
}

/// The functions of the language (`CostTracker.costCall`).
fn standard(overload: Option<&str>, args: &[Value<'_>]) -> u64 {
    match overload.unwrap_or("") {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" => read(args, 0),
        "in_list" => size(args, 1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes"
        | "equals"
        | "not_equals" => scale(size(args, 0).min(size(args, 1)), TRAVERSAL),
        "add_string" | "add_bytes" => scale(size(args, 0).saturating_add(size(args, 1)), TRAVERSAL),
        "matches_string" => search(size(args, 0), size(args, 1)),
        "contains_string" => read(args, 0).saturating_mul(read(args, 1)),
        _ => 1,
    }
}
