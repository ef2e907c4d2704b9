//! Numbers: bounds and multiples, as Go's integers and floats have them.

use serde_json::{Number, Value};

use crate::custom::Schema;
use crate::custom::structural::Check;
use crate::field::{FieldError, Shown};
use crate::patch::go;

/// Whether a float is an integer that floats can tell from its neighbours (`swag.IsFloat64AJSONInteger`).
pub(super) fn is_whole(f: f64) -> bool {
    const MOST: f64 = 9_007_199_254_740_991.0;
    if !f.is_finite() || f.abs() > MOST {
        return false;
    }
    let whole = f.trunc();
    f == whole || (f - whole).abs() / (f.abs() + whole.abs()) < 1e-9
}

fn shown(f: f64) -> String {
    Number::from_f64(f).map_or_else(|| f.to_string(), |n| go::number(&n))
}

/// The problems of a number; `problem` words one from the value shown and what is wrong with it.
pub(super) fn check(
    number: &Number,
    schema: Schema<'_>,
    path: &str,
    problem: impl Fn(Shown, String) -> FieldError,
) -> Vec<FieldError> {
    let mut found = Vec::new();
    let value = number.as_f64().unwrap_or(f64::NAN);
    // An integer is compared with the whole part of a bound.
    let (integer, bound_of) = match number.as_i64() {
        Some(n) => (Some(n), (|bound: f64| (bound as i64).to_string()) as fn(f64) -> String),
        None => (None, shown as fn(f64) -> String),
    };
    let as_shown = || Shown::raw(go::number(number));
    let beyond = |bound: f64, exclusive: bool, above: bool| match integer {
        Some(n) => {
            let bound = bound as i64;
            if above { n > bound || exclusive && n == bound } else { n < bound || exclusive && n == bound }
        }
        None => {
            let past = if above { value > bound } else { value < bound };
            past || exclusive && value == bound
        }
    };
    for check in schema.checks() {
        match check {
            Check::MultipleOf(factor) if factor < 0.0 => {
                let mut error = problem(Shown::raw(shown(factor)), String::new());
                error.detail = format!("factor MultipleOf declared for {path} must be positive: {}", shown(factor));
                found.push(error);
            }
            Check::MultipleOf(factor) => {
                let is_multiple = match integer {
                    // As upstream, an integer is divided by the whole part; where there is none, by the factor.
                    Some(n) if factor as i64 != 0 => n % (factor as i64) == 0,
                    _ if factor < 1.0 => is_whole(1.0 / factor * value),
                    _ => is_whole(value / factor),
                };
                if !is_multiple {
                    let factor = if integer.is_some() && factor >= 1.0 { bound_of(factor) } else { shown(factor) };
                    found.push(problem(as_shown(), format!("should be a multiple of {factor}")));
                }
            }
            Check::Maximum(bound, exclusive) if beyond(bound, exclusive, true) => {
                let than = if exclusive { "than" } else { "than or equal to" };
                found.push(problem(as_shown(), format!("should be less {than} {}", bound_of(bound))));
            }
            Check::Minimum(bound, exclusive) if beyond(bound, exclusive, false) => {
                let than = if exclusive { "than" } else { "than or equal to" };
                found.push(problem(as_shown(), format!("should be greater {than} {}", bound_of(bound))));
            }
            _ => {}
        }
    }
    found
}

/// Whether a value is one of an `enum`: numbers are compared as the type that the schema gives them.
pub(super) fn equal(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => value == wanted && !value.is_null(),
    }
}
