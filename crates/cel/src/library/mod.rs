//! Libraries: one file each, one line in [`ALL`]. A library declares functions, names types, and may add to the syntax.

use crate::eval::EvalError;
use crate::functions::Functions;
use crate::parser::Syntax;
use crate::types::Type;
use crate::value::{Opaque, Value};

pub mod authorizer;
pub mod bindings;
pub mod cidr;
pub mod comprehensions;
pub mod format;
pub mod ip;
pub mod jsonpatch;
pub mod lists;
pub mod optional;
pub mod quantity;
pub mod regex;
pub mod semver;
pub mod sets;
pub(crate) mod standard;
pub mod strings;
pub mod url;

/// Functions, types and syntax that an environment may have.
#[derive(Clone, Copy, Debug)]
pub struct Library {
    name: &'static str,
    declare: fn(&mut Functions),
    types: fn() -> Vec<Type>,
    syntax: fn(&mut Syntax),
}

impl Library {
    pub(crate) const fn new(name: &'static str, declare: fn(&mut Functions)) -> Library {
        Library { name, declare, types: Vec::new, syntax: |_| () }
    }

    pub(crate) const fn with_types(self, types: fn() -> Vec<Type>) -> Library {
        Library { types, ..self }
    }

    pub(crate) const fn with_syntax(self, syntax: fn(&mut Syntax)) -> Library {
        Library { syntax, ..self }
    }

    /// Upstream's name of it.
    pub fn name(&self) -> &'static str {
        self.name
    }

    pub(crate) fn declare(&self, functions: &mut Functions) {
        (self.declare)(functions);
    }

    pub(crate) fn types(&self) -> Vec<Type> {
        (self.types)()
    }

    pub(crate) fn extend_syntax(&self, syntax: &mut Syntax) {
        (self.syntax)(syntax);
    }
}

/// Every library.
pub const ALL: [Library; 16] = [
    authorizer::LIBRARY,
    bindings::LIBRARY,
    cidr::LIBRARY,
    comprehensions::LIBRARY,
    format::LIBRARY,
    ip::LIBRARY,
    jsonpatch::LIBRARY,
    lists::LIBRARY,
    optional::LIBRARY,
    quantity::LIBRARY,
    regex::LIBRARY,
    semver::LIBRARY,
    semver::NORMALIZING,
    sets::LIBRARY,
    strings::LIBRARY,
    url::LIBRARY,
];

pub(crate) type Result<'a> = std::result::Result<Value<'a>, EvalError>;

/// The text an argument is.
pub(crate) fn text<'v>(args: &'v [Value<'_>], n: usize) -> std::result::Result<&'v str, EvalError> {
    args.get(n).and_then(Value::as_str).ok_or_else(EvalError::no_such_overload)
}

/// The whole number an argument is.
pub(crate) fn int(args: &[Value<'_>], n: usize) -> std::result::Result<i64, EvalError> {
    match args.get(n) {
        Some(Value::Int(n)) => Ok(*n),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The opaque value an argument is.
pub(crate) fn opaque<'v, T: Opaque>(args: &'v [Value<'_>], n: usize) -> std::result::Result<&'v T, EvalError> {
    args.get(n).and_then(Value::as_opaque).ok_or_else(EvalError::no_such_overload)
}

/// The items of the list an argument is.
pub(crate) fn items<'a>(args: &[Value<'a>], n: usize) -> std::result::Result<Vec<Value<'a>>, EvalError> {
    match args.get(n) {
        Some(Value::List(list)) => Ok(list.iter().collect()),
        _ => Err(EvalError::no_such_overload()),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    #[test]
    fn names_are_unique() {
        let names: HashSet<_> = super::ALL.iter().map(|l| l.name()).collect();
        assert_eq!(names.len(), super::ALL.len());
    }
}
