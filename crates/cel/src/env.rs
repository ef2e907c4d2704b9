//! Environments: which variables, types and functions an expression may use, and what it is compiled to.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check;
use crate::cost::estimate;
use crate::cost::range::Cost;
use crate::eval::{self, Bindings, Budget, Compute, EvalError};
use crate::functions::{Functions, Overload};
use crate::library;
use crate::parser::{self, Syntax};
use crate::plan::{self, Plan};
use crate::source::Issues;
use crate::types::{Shape, Type};
use crate::validate;
use crate::value::Value;

/// What expressions may use. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Env(Arc<Parts>);

#[derive(Clone, Debug, Default)]
struct Parts {
    syntax: Syntax,
    functions: Arc<Functions>,
    variables: BTreeMap<String, Shape>,
    types: BTreeMap<String, Type>,
}

/// Makes an [`Env`].
#[derive(Clone, Debug)]
pub struct EnvBuilder(Parts);

impl Env {
    /// With the functions and operators of the language and nothing else.
    pub fn builder() -> EnvBuilder {
        let mut parts = Parts::default();
        library::standard::declare(Arc::make_mut(&mut parts.functions));
        for ty in library::standard::types() {
            parts.types.insert(ty.name().to_owned(), ty);
        }
        EnvBuilder(parts)
    }

    /// With everything this one has, to be given more.
    pub fn extend(&self) -> EnvBuilder {
        EnvBuilder(Parts::clone(&self.0))
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&Shape> {
        self.0.variables.get(name)
    }

    pub(crate) fn named_type(&self, name: &str) -> Option<Type> {
        if let Some(ty) = self.0.types.get(name) {
            return Some(ty.clone());
        }
        // A part of an open object: `Object.spec.template`.
        let (root, _) = name.split_once('.')?;
        match self.0.types.get(root) {
            Some(Type::Object(object)) if object.open => Some(Type::open_object(name)),
            _ => None,
        }
    }

    pub(crate) fn function(&self, name: &str) -> Option<(&'static str, &[Overload])> {
        self.0.functions.get(name)
    }

    /// Parses, checks and plans an expression.
    pub fn compile(&self, source: &str) -> Result<Program, Issues> {
        let (expr, count) = parser::parse(source, self.0.syntax)?;
        let checked = check::check(self, source, &expr, count)?;
        validate::literals(source, &expr)?;
        let plan = plan::plan(self, &expr, &checked);
        let cost = estimate::estimate(self, &expr, &checked);
        let result = checked.types[expr.id].clone();
        Ok(Program(Arc::new(Compiled { plan, cost, result })))
    }
}

impl EnvBuilder {
    /// With the functions, types and macros of a library.
    pub fn library(mut self, library: library::Library) -> Self {
        library.declare(Arc::make_mut(&mut self.0.functions));
        for ty in library.types() {
            self.0.types.insert(ty.name().to_owned(), ty);
        }
        library.extend_syntax(&mut self.0.syntax);
        self
    }

    /// With a variable.
    pub fn variable(mut self, name: &str, shape: impl Into<Shape>) -> Self {
        self.0.variables.insert(name.to_owned(), shape.into());
        self
    }

    /// With a type that expressions may name, and make if it is an object.
    pub fn named_type(mut self, ty: Type) -> Self {
        self.0.types.insert(ty.name().to_owned(), ty);
        self
    }

    /// The environment.
    pub fn build(self) -> Env {
        Env(Arc::new(self.0))
    }
}

/// A compiled expression: shared, sent and kept freely.
#[derive(Clone, Debug)]
pub struct Program(Arc<Compiled>);

#[derive(Debug)]
struct Compiled {
    plan: Plan,
    cost: Cost,
    result: Type,
}

impl Program {
    /// The type of the result.
    pub fn result_type(&self) -> &Type {
        &self.0.result
    }

    /// What an evaluation costs at least and at most, as far as the bounds of the variables tell.
    pub fn estimate(&self) -> Cost {
        self.0.cost
    }

    /// Whether the expression names a variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.0.plan.variables.iter().any(|v| v == variable)
    }

    /// Whether the expression names a field of a variable: `variable.field`, optional or in `has`, too.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        self.0.plan.selects(variable, field)
    }

    /// The value for these variables; what it costs is taken from the budget.
    pub fn eval<'a>(&self, bindings: &Bindings<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
        eval::eval(&self.0.plan, bindings, None, budget)
    }

    /// The same, with variables that are computed when they are asked for.
    pub(crate) fn eval_computing<'a>(
        &self,
        bindings: &Bindings<'a>,
        computed: &mut (dyn Compute<'a> + '_),
        budget: &mut Budget,
    ) -> Result<Value<'a>, EvalError> {
        eval::eval(&self.0.plan, bindings, Some(computed), budget)
    }

    /// How deep an evaluation nests.
    pub(crate) fn height(&self) -> usize {
        self.0.plan.height
    }
}

#[cfg(test)]
mod tests {
    use crate::k8s::authentication;

    #[test]
    fn programs_tell_which_fields_they_name() {
        let check = |source: &str, expected: bool| {
            let program = authentication::claims().compile(source).expect(source);
            assert_eq!(program.selects("claims", "email"), expected, "{source}");
        };
        check("claims.email", true);
        check("'a:' + claims.email", true);
        check("has(claims.email) ? 'a' : 'b'", true);
        check("claims.?email.orValue('')", true);
        check("claims.roles.exists(r, r == claims.email)", true);
        check("[{'a': [claims.email]}]", true);
        check("claims.other.email", false);
        check("claims['email']", false);
        check("claims.mail + 'email'", false);
    }
}
