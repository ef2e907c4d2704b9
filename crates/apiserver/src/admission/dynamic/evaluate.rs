//! Expressions and what they may cost together (`admission/plugin/cel/activation.go`, `webhook/matchconditions`).

use orkd_cel::k8s::admission::{self, Scope, Variable};
use orkd_cel::{Bindings, Env, Program, Type, Value as CelValue};
use serde_json::Value;

use super::super::items;

/// What the expressions of one group (validations, messages, ...) may cost together (`RuntimeCELCostBudget`).
pub const BUDGET: u64 = 10_000_000;
/// What match conditions may cost together (`RuntimeCELCostBudgetMatchConditions`).
pub const CONDITIONS_BUDGET: u64 = 2_500_000;

/// What ends the evaluation of a group.
pub const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

/// An expression, compiled.
#[derive(Debug)]
pub struct Expression {
    /// As written.
    pub text: Box<str>,
    program: Result<Program, String>,
}

impl Expression {
    /// Compiles an expression that gives one of the `wanted` types. What does not compile fails when it is evaluated.
    pub fn new(env: &Env, text: &str, wanted: &[Type]) -> Expression {
        Expression { text: text.into(), program: admission::compile(env, text, wanted) }
    }
}

/// Evaluates the expressions of one group: they share their variables and a budget.
pub struct Group<'v, 'a> {
    scope: Scope<'v, 'a>,
    left: u64,
}

/// The group has used up its budget.
#[derive(Debug, PartialEq, Eq)]
pub struct OutOfBudget;

impl<'v, 'a> Group<'v, 'a> {
    /// A group.
    pub fn new(variables: &'v [Variable], bindings: Bindings<'a>, budget: u64) -> Self {
        Group { scope: Scope::new(variables, bindings), left: budget }
    }

    /// What is left of the budget.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// The value of an expression, or why it has none.
    pub fn eval(&mut self, expression: &Expression) -> Result<Result<CelValue<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Ok(Err(format!("compilation error: {why}"))),
        };
        let (value, cost) = self.scope.eval(program);
        self.left = self.left.checked_sub(cost).ok_or(OutOfBudget)?;
        Ok(value.map_err(|e| format!("expression '{}' resulted in error: {e}", expression.text)))
    }
}

/// A match condition.
#[derive(Debug)]
pub struct Condition {
    expression: Expression,
}

impl Condition {
    /// The conditions of a policy or webhook.
    pub fn all(env: &Env, list: &Value) -> Vec<Condition> {
        let text = |c: &Value| c["expression"].as_str().unwrap_or_default().to_owned();
        let one = |c: &Value| Condition { expression: Expression::new(env, &text(c), &[Type::Bool]) };
        items(list).iter().map(one).collect()
    }
}

/// What match conditions come to.
#[derive(Debug, PartialEq, Eq)]
pub enum Met {
    /// All hold.
    Yes,
    /// One does not, or they failed where that is to be ignored.
    No,
    /// They failed; in which words.
    Failed(String),
}

/// Evaluates match conditions. One that is false decides, whatever became of the others.
pub fn met(conditions: &[Condition], mut group: Group<'_, '_>, fails_open: bool) -> Met {
    let mut problems = Vec::new();
    for condition in conditions {
        match group.eval(&condition.expression) {
            Err(OutOfBudget) => {
                problems = vec![OUT_OF_BUDGET.to_owned()];
                break;
            }
            Ok(Err(problem)) => problems.push(problem),
            Ok(Ok(CelValue::Bool(false))) => return Met::No,
            Ok(Ok(_)) => {}
        }
    }
    match problems.as_slice() {
        [] => Met::Yes,
        _ if fails_open => Met::No,
        [one] => Met::Failed(one.clone()),
        all => Met::Failed(format!("[{}]", all.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use orkd_cel::k8s::admission::Has;
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_are_anded() {
        let env = admission::admission(Has::default()).build();
        let check = |expressions: &[&str], fails_open: bool, want: Met| {
            let list: Vec<Value> = expressions.iter().map(|e| json!({"name": "n", "expression": e})).collect();
            let conditions = Condition::all(&env, &json!(list));
            let object = json!({"n": 1});
            let group = Group::new(&[], Bindings::new().with("object", &object), CONDITIONS_BUDGET);
            assert_eq!(met(&conditions, group, fails_open), want, "{expressions:?}");
        };
        let failed = |text: &str| Met::Failed(text.to_owned());
        check(&[], false, Met::Yes);
        check(&["object.n == 1", "true"], false, Met::Yes);
        check(&["object.n == 1", "false"], false, Met::No);
        let missing = "expression 'object.x' resulted in error: no such key: x";
        check(&["object.x", "false"], false, Met::No);
        check(&["object.x", "true"], false, failed(missing));
        check(&["object.x", "object.x"], false, failed(&format!("[{missing}, {missing}]")));
        check(&["object.x", "true"], true, Met::No);
        // Each may cost what one call may, and all together somewhat more.
        let list = "[0,1,2,3,4,5,6,7,8,9]";
        let costly = (0..7).fold("true".to_owned(), |body, n| format!("{list}.all(x{n}, {body})"));
        let one = format!("expression '{costly}' resulted in error: operation cancelled: actual cost limit exceeded");
        check(&[&costly], false, failed(&one));
        check(&[&costly, &costly, &costly], false, failed(OUT_OF_BUDGET));
        check(&[&costly, &costly, &costly], true, Met::No);
    }

    #[test]
    fn what_does_not_compile_fails_when_it_is_evaluated() {
        let env = admission::admission(Has::default()).build();
        let mut group = Group::new(&[], Bindings::new(), BUDGET);
        let bad = Expression::new(&env, "1", &[Type::Bool]);
        let value = group.eval(&bad).expect("within budget");
        assert_eq!(value.map(|_| ()), Err("compilation error: must evaluate to bool".to_owned()));
        assert_eq!(group.left(), BUDGET);
    }
}
