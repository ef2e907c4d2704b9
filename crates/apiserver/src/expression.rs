//! Expressions of the configuration files of `apiserver.config.k8s.io`, compiled once and evaluated for each request.

use std::fmt;

use orkd_cel::{Bindings, Budget, Env, Program, Type, Value, k8s};

/// An expression of a file.
#[derive(Clone)]
pub struct Expression {
    text: String,
    program: Program,
}

impl Expression {
    /// Compiles an expression; with `wanted` it must be of exactly this type. The message is upstream's.
    pub fn compile(env: &Env, text: &str, wanted: Option<&Type>) -> Result<Self, String> {
        let program = env.compile(text).map_err(|issues| format!("compilation failed: {issues}"))?;
        let given = program.result_type();
        match wanted {
            Some(wanted) if given != wanted => Err(format!("must evaluate to {wanted} but got {given}")),
            _ => Ok(Expression { text: text.to_owned(), program }),
        }
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it names a field of a variable.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.program.selects(variable, field)
    }

    /// Its value. The error says why there is none.
    pub fn eval<'a>(&self, bindings: &Bindings<'a>) -> Result<Value<'a>, String> {
        self.program.eval(bindings, &mut Budget::new(k8s::PER_CALL_LIMIT)).map_err(|e| e.to_string())
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Expression) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.text.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_is_what_was_wanted() {
        let check = |text: &str, wanted: Option<&Type>, expected: Result<(), &str>| {
            let got = Expression::compile(&k8s::authentication::claims(), text, wanted).map(|_| ());
            assert_eq!(got.as_ref().map_err(String::as_str).copied(), expected, "{text}");
        };
        check("claims.sub == 'a'", Some(&Type::Bool), Ok(()));
        check("claims.sub", Some(&Type::Bool), Err("must evaluate to bool but got dyn"));
        check("claims.sub", None, Ok(()));
        let why = Expression::compile(&k8s::authentication::claims(), "claims.", None).expect_err("refused");
        assert!(why.starts_with("compilation failed: ERROR: <input>:1:"), "{why}");
    }
}
