//! Lists taken as sets (`ext/sets.go`).

use super::{Library, Result, items};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::{Value, equal};

/// The library.
pub const LIBRARY: Library = Library::new("cel.lib.ext.sets", declare);

/// Whether every item of `a` is in `b`.
fn all_in(a: &[Value<'_>], b: &[Value<'_>]) -> std::result::Result<bool, EvalError> {
    for item in a {
        if !is_in(item, b)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn is_in(item: &Value<'_>, list: &[Value<'_>]) -> std::result::Result<bool, EvalError> {
    for other in list {
        if equal(item, other)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn intersects<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (a, b) = (items(args, 0)?, items(args, 1)?);
    for item in &a {
        if is_in(item, &b)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn declare(f: &mut Functions) {
    let pair = || [Type::list(Type::Param("T")), Type::list(Type::Param("T"))];
    f.global("sets.contains", "list_sets_contains_list", pair(), Type::Bool, |a| {
        all_in(&items(a, 1)?, &items(a, 0)?).map(Value::Bool)
    });
    f.global("sets.equivalent", "list_sets_equivalent_list", pair(), Type::Bool, |args| {
        let (a, b) = (items(args, 0)?, items(args, 1)?);
        Ok(Value::Bool(all_in(&a, &b)? && all_in(&b, &a)?))
    });
    f.global("sets.intersects", "list_sets_intersects_list", pair(), Type::Bool, intersects);
}
