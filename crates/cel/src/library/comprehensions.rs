//! Comprehensions with two variables: `all`, `exists`, `existsOne`, `transformList`, `transformMap`,
//! `transformMapEntry` over indexes and items of lists, keys and values of maps (`ext/comprehensions.go`).

use super::Library;
use crate::ast::op;
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;

/// The library.
pub const LIBRARY: Library =
    Library::new("cel.lib.ext.comprev2", declare).with_syntax(|s| s.macros.two_variables = true);

/// Entries are inserted by the evaluator, in place.
fn declare(f: &mut Functions) {
    let (key, value) = (Type::Param("K"), Type::Param("V"));
    let map = Type::map(key.clone(), value.clone());
    let special = |_: &[crate::value::Value<'_>]| Err(EvalError::no_such_overload());
    f.global(op::MAP_INSERT, "@mapInsert_map_key_value", [map.clone(), key, value], map.clone(), special);
    f.global(op::MAP_INSERT, "@mapInsert_map_map", [map.clone(), map.clone()], map, special);
}
