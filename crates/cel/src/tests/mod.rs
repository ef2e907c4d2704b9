//! Tables of expressions: what they give, what is wrong with them, what they cost.

mod checker;
mod costs;
mod language;
mod libraries;
mod robustness;

use crate::env::{Env, EnvBuilder};
use crate::eval::{Bindings, Budget};
use crate::library;
use crate::types::Type;
use crate::value::{List, Value};

/// Everything there is.
fn env() -> EnvBuilder {
    library::ALL.into_iter().fold(Env::builder(), EnvBuilder::library)
}

/// A value as expressions write it.
fn show(value: &Value<'_>) -> String {
    match value {
        Value::String(s) => format!("{:?}", &**s),
        Value::Uint(n) => format!("{n}u"),
        Value::Double(d) => format!("{d:?}"),
        Value::Bytes(b) => format!("b\"{}\"", b.escape_ascii()),
        Value::List(list) => format!("[{}]", list_items(list).join(", ")),
        Value::Map(map) => {
            let one = |key: &Value<'_>| {
                let value = map.get(key).expect("a value").expect("a value");
                format!("{}: {}", show(key), show(&value))
            };
            format!("{{{}}}", map.keys().map(|k| one(&k)).collect::<Vec<_>>().join(", "))
        }
        Value::Optional(None) => "none".to_owned(),
        Value::Optional(Some(value)) => format!("some({})", show(value)),
        Value::Duration(d) => format!("duration({d})"),
        Value::Timestamp(t) => format!("timestamp({t})"),
        other => other.to_string(),
    }
}

fn list_items(list: &List<'_>) -> Vec<String> {
    list.iter().map(|v| show(&v)).collect()
}

/// The value of an expression, or `error: ..`, or what is wrong with it.
fn eval(env: &Env, expression: &str, bindings: &Bindings<'_>) -> String {
    let program = match env.compile(expression) {
        Ok(program) => program,
        Err(issues) => return issues.iter().map(|i| i.message.clone()).collect::<Vec<_>>().join("; "),
    };
    match program.eval(bindings, &mut Budget::new(1_000_000)) {
        Ok(value) => show(&value),
        Err(e) => format!("error: {e}"),
    }
}

/// Checks expressions without variables.
fn check(cases: &[(&str, &str)]) {
    let env = env().variable("unset", Type::Dyn).build();
    for (expression, want) in cases {
        assert_eq!(&eval(&env, expression, &Bindings::new()), want, "{expression}");
    }
}
