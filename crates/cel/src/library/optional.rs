//! Values that may be absent: `a.?b`, `a[?b]`, `optional.of`, `orValue`, ... (`cel/library.go`, `OptionalTypes`).

use super::Library;
use crate::ast::op;
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::types::Type;
use crate::value::Value;

/// The library.
pub const LIBRARY: Library =
    Library::new("cel.lib.optional", declare).with_types(|| vec![Type::optional(Type::Dyn)]).with_syntax(|s| {
        s.optional = true;
        s.macros.optional = true;
    });

fn declare(f: &mut Functions) {
    let (t, k) = (Type::Param("T"), Type::Param("K"));
    let optional = Type::optional(t.clone());
    let special = |_: &[Value<'_>]| Err(EvalError::no_such_overload());
    f.global(op::OPT_SELECT, "select_optional_field", [Type::Dyn, Type::String], Type::optional(Type::Dyn), special);
    let list = Type::list(t.clone());
    let map = Type::map(k.clone(), t.clone());
    f.global(op::OPT_INDEX, "list_optindex_optional_int", [list.clone(), Type::Int], optional.clone(), special);
    f.global(
        op::OPT_INDEX,
        "optional_list_optindex_optional_int",
        [Type::optional(list.clone()), Type::Int],
        optional.clone(),
        special,
    );
    f.global(op::OPT_INDEX, "map_optindex_optional_value", [map.clone(), k.clone()], optional.clone(), special);
    f.global(
        op::OPT_INDEX,
        "optional_map_optindex_optional_value",
        [Type::optional(map.clone()), k.clone()],
        optional.clone(),
        special,
    );
    f.global(op::INDEX, "optional_list_index_int", [Type::optional(list), Type::Int], optional.clone(), special);
    f.global(op::INDEX, "optional_map_index_value", [Type::optional(map), k], optional.clone(), special);
    f.global("optional.of", "optional_of", [t.clone()], optional.clone(), |a| Ok(Value::some(a[0].clone())));
    f.global("optional.ofNonZeroValue", "optional_ofNonZeroValue", [t.clone()], optional.clone(), |a| {
        Ok(if is_zero(&a[0]) { Value::Optional(None) } else { Value::some(a[0].clone()) })
    });
    f.global("optional.none", "optional_none", [], optional.clone(), |_| Ok(Value::Optional(None)));
    f.member("hasValue", "optional_hasValue", [optional.clone()], Type::Bool, |a| match a {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => Err(EvalError::no_such_overload()),
    });
    f.member("value", "optional_value", [optional.clone()], t.clone(), |a| match a {
        [Value::Optional(Some(value))] => Ok(Value::clone(value)),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_such_overload()),
    });
    f.member("or", "optional_or_optional", [optional.clone(), optional.clone()], optional.clone(), special);
    f.member("orValue", "optional_orValue_value", [optional, t.clone()], t, special);
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
        Value::Double(d) => *d == 0.0,
        Value::String(s) => s.is_empty(),
        Value::Bytes(b) => b.is_empty(),
        Value::Duration(d) => d.0 == 0,
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        _ => false,
    }
}
