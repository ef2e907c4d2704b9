//! Amounts of resources (`apiserver/pkg/cel/library/quantity.go`).

use std::cmp::Ordering;

use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::{Functions, Native};
use crate::quantity::Quantity;
use crate::types::Type;
use crate::value::{Opaque, Value, downcast};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.quantity", declare).with_types(|| vec![ty()]);

/// The type.
pub fn ty() -> Type {
    Type::opaque("kubernetes.Quantity")
}

impl Opaque for Quantity {
    fn ty(&self) -> Type {
        ty()
    }

    fn equals(&self, other: &dyn Opaque) -> bool {
        downcast::<Quantity>(other) == Some(self)
    }
}

/// The other side of a sum or difference: a quantity or a whole number.
fn operand(args: &[Value<'_>]) -> std::result::Result<Quantity, EvalError> {
    match args.get(1) {
        Some(Value::Int(n)) => Ok(Quantity::from_int(*n)),
        _ => opaque::<Quantity>(args, 1).copied(),
    }
}

fn compared<'a>(a: &[Value<'a>], f: impl Fn(Ordering) -> Value<'a>) -> Result<'a> {
    Ok(f(opaque::<Quantity>(a, 0)?.cmp(opaque(a, 1)?)))
}

fn declare(f: &mut Functions) {
    f.global("quantity", "string_to_quantity", [Type::String], ty(), |a| {
        let quantity: Quantity = text(a, 0)?.parse().map_err(|e| EvalError::new(format!("{e}")))?;
        Ok(Value::opaque(quantity))
    });
    f.global("isQuantity", "is_quantity_string", [Type::String], Type::Bool, |a| {
        Ok(Value::Bool(text(a, 0)?.parse::<Quantity>().is_ok()))
    });
    // Upstream documents the method and declares the function.
    let sign: Native = |a| Ok(Value::Int(opaque::<Quantity>(a, 0)?.sign().into()));
    f.global("sign", "quantity_sign", [ty()], Type::Int, sign);
    f.member("sign", "quantity_sign", [ty()], Type::Int, sign);
    f.member("isGreaterThan", "quantity_is_greater_than", [ty(), ty()], Type::Bool, |a| {
        compared(a, |o| Value::Bool(o.is_gt()))
    });
    f.member("isLessThan", "quantity_is_less_than", [ty(), ty()], Type::Bool, |a| {
        compared(a, |o| Value::Bool(o.is_lt()))
    });
    f.member("compareTo", "quantity_compare_to", [ty(), ty()], Type::Int, |a| compared(a, |o| Value::Int(o as i64)));
    f.member("asApproximateFloat", "quantity_get_float", [ty()], Type::Double, |a| {
        Ok(Value::Double(opaque::<Quantity>(a, 0)?.as_f64()))
    });
    f.member("asInteger", "quantity_get_int", [ty()], Type::Int, |a| {
        let whole = opaque::<Quantity>(a, 0)?.as_int();
        whole.map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
    });
    f.member("isInteger", "quantity_is_integer", [ty()], Type::Bool, |a| {
        Ok(Value::Bool(opaque::<Quantity>(a, 0)?.as_int().is_some()))
    });
    let add: Native = |a| Ok(Value::opaque(*opaque::<Quantity>(a, 0)? + operand(a)?));
    f.member("add", "quantity_add", [ty(), ty()], ty(), add);
    f.member("add", "quantity_add_int", [ty(), Type::Int], ty(), add);
    let sub: Native = |a| Ok(Value::opaque(*opaque::<Quantity>(a, 0)? - operand(a)?));
    f.member("sub", "quantity_sub", [ty(), ty()], ty(), sub);
    f.member("sub", "quantity_sub_int", [ty(), Type::Int], ty(), sub);
}
