//! `ValidatingAdmissionPolicy`: refuses, warns or notes by expressions (`admission/plugin/policy/validating`).

use std::time::{Duration, Instant};

use async_trait::async_trait;
use orkd_api::status::{Cause, Status};
use orkd_base::metrics::{Counter, Family, Histogram};
use orkd_cel::library::authorizer::Answers;
use orkd_cel::{Type, Value as CelValue};
use serde_json::{Value, json};

use super::super::{Parts, Plugin, Request, items};
use super::evaluate::{self, BUDGET, CONDITIONS_BUDGET, Expression, Group, Met, OUT_OF_BUDGET, OutOfBudget};
use super::hooks::Hooks;
use super::input::Input;
use super::is_beyond_policies;
use super::policy::{Action, Binding, Body, Envs, Policy};
use super::round::{Round, World};
use crate::pipeline::WeakServer;

static CHECKS: Family<Counter> = Family::counter(
    "apiserver_validating_admission_policy_check_total",
    "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement \
     action taken.",
    &["enforcement_action", "error_type", "policy", "policy_binding"],
);
static CHECK_TIME: Family<Histogram> = Family::histogram(
    "apiserver_validating_admission_policy_check_duration_seconds",
    "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further \
     including binding and enforcement action taken.",
    &["enforcement_action", "error_type", "policy", "policy_binding"],
    &[0.000_000_5, 0.001, 0.01, 0.1, 1.0],
);

/// The longest message that an expression makes (`MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE: usize = 5 * 1024;
/// The longest note for audit.
const MAX_ANNOTATION: usize = 10 * 1024;

/// What a policy checks.
#[derive(Debug)]
pub struct Validations {
    validations: Vec<Validation>,
    annotations: Vec<(Box<str>, Expression)>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: Box<str>,
    of_message: Option<Expression>,
    reason: &'static str,
}

impl Body for Validations {
    const POLICIES: &'static str = "validatingadmissionpolicies";
    const BINDINGS: &'static str = "validatingadmissionpolicybindings";

    fn compile(spec: &Value, envs: &Envs) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let validation = |v: &Value| Validation {
            expression: Expression::new(&envs.all, &text(&v["expression"]), &[Type::Bool]),
            message: text(&v["message"]).trim().into(),
            of_message: Some(text(&v["messageExpression"]))
                .filter(|e| !e.is_empty())
                .map(|e| Expression::new(&envs.without_authorizer, &e, &[Type::String])),
            reason: match v["reason"].as_str() {
                Some("Unauthorized") => "Unauthorized",
                Some("Forbidden") => "Forbidden",
                Some("RequestEntityTooLarge") => "RequestEntityTooLarge",
                _ => "Invalid",
            },
        };
        let annotation = |a: &Value| {
            let expression = Expression::new(&envs.all, &text(&a["valueExpression"]), &[Type::String, Type::Null]);
            (text(&a["key"]).into(), expression)
        };
        Validations {
            validations: items(&spec["validations"]).iter().map(validation).collect(),
            annotations: items(&spec["auditAnnotations"]).iter().map(annotation).collect(),
        }
    }
}

/// What became of one expression.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Decision {
    denies: bool,
    /// It could not be evaluated.
    failed: bool,
    message: String,
    reason: &'static str,
}

impl Decision {
    const ADMITTED: Decision = Decision { denies: false, failed: false, message: String::new(), reason: "" };

    /// An expression that could not be evaluated.
    fn failure(fails_open: bool, message: String) -> Decision {
        Decision { denies: !fails_open, failed: true, message, reason: "" }
    }

    /// `ErrorType` of upstream's metrics.
    fn error_type(&self) -> &'static str {
        match self.message.as_str() {
            _ if !self.failed => "no_error",
            message if message.starts_with("compilation") => "compile_error",
            message if message.starts_with("validation failed due to running out of cost budget") => "out_of_budget",
            _ => "invalid_error",
        }
    }
}

/// A note for audit, or why there is none.
type Note = (Box<str>, Result<String, String>);

/// What a policy with one set of parameters comes to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    decisions: Vec<Decision>,
    notes: Vec<Note>,
}

/// Evaluates a policy (`validator.Validate`).
fn validate(policy: &Policy<Validations>, input: &Input<'_>, answers: &Answers) -> Outcome {
    let failure =
        |message: String| Outcome { decisions: vec![Decision::failure(policy.fails_open, message)], notes: Vec::new() };
    let group = |bindings, budget| Group::new(&policy.variables, bindings, budget);
    if !policy.conditions.is_empty() {
        // Conditions do not see the namespace, as upstream.
        let blind = Input { namespace: &Value::Null, ..*input };
        let conditions = group(blind.bindings_with(answers), CONDITIONS_BUDGET);
        match evaluate::met(&policy.conditions, conditions, policy.fails_open) {
            Met::Yes => {}
            Met::No => return Outcome::default(),
            Met::Failed(why) => return failure(why),
        }
    }
    let mut checks = group(input.bindings_with(answers), BUDGET);
    let mut values = Vec::new();
    for validation in &policy.body.validations {
        match checks.eval(&validation.expression) {
            Ok(value) => values.push(value),
            Err(OutOfBudget) => return failure(OUT_OF_BUDGET.into()),
        }
    }
    let messages = messages(policy, group(input.bindings(), checks.left()));
    let mut decisions = Vec::new();
    for (n, (validation, value)) in policy.body.validations.iter().zip(values).enumerate() {
        decisions.push(match (value, &messages) {
            (Err(why), _) => Decision::failure(policy.fails_open, why),
            (_, Err(OutOfBudget)) => {
                Decision::failure(policy.fails_open, format!("failed messageExpression: {OUT_OF_BUDGET}"))
            }
            (Ok(CelValue::Bool(true)), _) => Decision::ADMITTED,
            (Ok(_), Ok(messages)) => {
                let made = messages.get(n).cloned().flatten();
                let message = made.unwrap_or_else(|| validation.plain_message());
                Decision { denies: true, failed: false, message, reason: validation.reason }
            }
        });
    }
    let mut notes = Vec::new();
    let mut annotations = group(input.bindings(), BUDGET);
    for (key, expression) in &policy.body.annotations {
        match annotations.eval(expression) {
            Err(OutOfBudget) => return failure(OUT_OF_BUDGET.into()),
            Ok(value) => notes.extend(note(key, expression, value, policy.fails_open)),
        }
    }
    Outcome { decisions, notes }
}

impl Validation {
    /// What is said where no expression makes a message.
    fn plain_message(&self) -> String {
        match &*self.message {
            "" => format!("failed expression: {}", self.expression.text.trim()),
            message => message.to_owned(),
        }
    }
}

/// The messages that expressions make; none where one fails, or makes nothing that can be a message.
fn messages(policy: &Policy<Validations>, mut group: Group<'_, '_>) -> Result<Vec<Option<String>>, OutOfBudget> {
    let fits = |text: &String| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n');
    let one = |validation: &Validation| {
        let Some(expression) = &validation.of_message else { return Ok(None) };
        let value = group.eval(expression)?;
        if let Err(why) = &value {
            tracing::debug!(why, "the expression of a message failed");
        }
        Ok(value.ok().and_then(|v| v.as_str().map(|s| s.trim().to_owned())).filter(fits))
    };
    policy.body.validations.iter().map(one).collect()
}

/// What an expression of an audit annotation comes to.
fn note(key: &str, expression: &Expression, value: Result<CelValue<'_>, String>, fails_open: bool) -> Option<Note> {
    let text = match value {
        Err(_) if fails_open => return None,
        Err(why) => Err(why),
        Ok(CelValue::Null) => return None,
        Ok(CelValue::String(text)) if text.trim().is_empty() => return None,
        Ok(CelValue::String(text)) => Ok(cut(text.trim(), MAX_ANNOTATION).to_owned()),
        Ok(other) => Err(format!(
            "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
            expression.text,
            other.ty().name()
        )),
    };
    Some((key.into(), text))
}

fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The plugin.
pub struct ValidatingAdmissionPolicy {
    world: World,
    hooks: Hooks<Validations>,
}

impl ValidatingAdmissionPolicy {
    /// Policies and bindings come by the feeds of the parts.
    pub fn new(parts: &Parts) -> Self {
        let feed = |resource: &str| (parts.feeds)("admissionregistration.k8s.io", resource);
        ValidatingAdmissionPolicy {
            world: World::new(parts.objects.clone(), parts.authorizer.clone()),
            hooks: Hooks::new(feed(Validations::POLICIES), feed(Validations::BINDINGS)),
        }
    }
}

/// The refusals of a request, and the notes for audit, as they are found.
struct Verdicts<'r> {
    request: &'r Request<'r>,
    object: &'r Value,
    /// The first one.
    refusal: Option<Status>,
}

impl Verdicts<'_> {
    fn deny(&mut self, policy: &str, binding: Option<&Binding>, reason: &'static str, why: &str) {
        if self.refusal.is_some() {
            return;
        }
        let message = match binding {
            Some(b) => format!("ValidatingAdmissionPolicy '{policy}' with binding '{}' denied request: {why}", b.name),
            None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {why}"),
        };
        let mut status = self.request.forbidden(self.object, &message);
        let reason = if reason.is_empty() { "Invalid" } else { reason };
        status.code = match reason {
            "Unauthorized" => 401,
            "Forbidden" => 403,
            "RequestEntityTooLarge" => 413,
            _ => 422,
        };
        status.reason = reason.into();
        let details = status.details.get_or_insert_default();
        details.causes.push(Cause { message, ..Cause::default() });
        self.refusal = Some(status);
    }

    /// A policy or binding that cannot be used.
    fn misconfigured(&mut self, policy: &Policy<Validations>, binding: Option<&Binding>, why: &str) {
        if !policy.fails_open {
            let what = if binding.is_some() { "binding" } else { "policy" };
            self.deny(&policy.name, binding, "", &format!("failed to configure {what}: {why}"));
        }
    }

    /// Does what a binding says about the decisions of its policy.
    fn act(
        &mut self,
        policy: &Policy<Validations>,
        binding: &Binding,
        decisions: &[Decision],
        took: Duration,
        warnings: &mut Vec<String>,
    ) {
        let count = |action: &str, decision: &Decision| {
            let labels = [action, decision.error_type(), &policy.name, &binding.name];
            CHECKS.with(&labels).inc();
            CHECK_TIME.with(&labels).observe(took.as_secs_f64());
        };
        for (n, decision) in decisions.iter().enumerate() {
            if !decision.denies {
                if decision.failed {
                    count("allow", decision);
                }
                continue;
            }
            for action in &binding.actions {
                match action {
                    Action::Deny => {
                        count("deny", decision);
                        self.deny(&policy.name, Some(binding), decision.reason, &decision.message);
                    }
                    Action::Warn => {
                        count("warn", decision);
                        warnings.push(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                            policy.name, binding.name, decision.message
                        ));
                    }
                    Action::Audit => {
                        count("audit", decision);
                        let actions: Vec<_> = binding.actions.iter().map(|a| a.as_str()).collect();
                        let failure = json!([{
                            "message": decision.message, "policy": policy.name, "binding": binding.name,
                            "expressionIndex": n, "validationActions": actions,
                        }]);
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        self.request.annotations.add(key, failure.to_string());
                    }
                }
            }
        }
    }
}

#[async_trait]
impl Plugin for ValidatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn bind(&self, server: &WeakServer) {
        self.world.bind(server);
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        if hooks.is_empty() || is_beyond_policies(request) {
            return Ok(());
        }
        let round = Round::new(&self.world, request);
        let mut verdicts = Verdicts { request, object, refusal: None };
        for hook in hooks.iter() {
            let policy = &*hook.policy;
            let door = match round.door(&policy.constraints, object).await {
                Ok(None) => continue,
                Ok(Some(door)) => door,
                Err(status) => {
                    verdicts.misconfigured(policy, None, &status.message);
                    continue;
                }
            };
            if let Some(Err(why)) = policy.params.as_ref().map(|kind| round.param_resource(kind)) {
                verdicts.misconfigured(policy, None, &why);
                continue;
            }
            let request_value = round.request_value(door, "");
            // Converted for the first binding that is meant.
            let mut forms = None;
            let mut notes: Vec<(Box<str>, Vec<String>)> = Vec::new();
            for binding in &hook.bindings {
                if let Some(constraints) = &binding.constraints {
                    match round.door(constraints, object).await {
                        Ok(None) => continue,
                        Ok(Some(_)) => {}
                        Err(status) => {
                            verdicts.misconfigured(policy, Some(binding), &status.message);
                            continue;
                        }
                    }
                }
                let params = match round.params(policy.params.as_ref(), binding.params.as_ref()).await {
                    Ok(params) => params,
                    Err(why) => {
                        verdicts.misconfigured(policy, Some(binding), &why);
                        continue;
                    }
                };
                if forms.is_none() && !params.is_empty() {
                    match (round.shown(door, object).await, round.shown(door, round.old()).await) {
                        (Ok(shown), Ok(old)) => forms = Some((shown, old)),
                        (Err(status), _) | (_, Err(status)) => {
                            let why = format!("failed to convert object version: {}", status.message);
                            verdicts.misconfigured(policy, Some(binding), &why);
                            continue;
                        }
                    }
                }
                let Some((shown, old)) = &forms else { continue };
                let namespace = round.shown_namespace().await?;
                for params in &params {
                    let input = Input { object: shown, old, request: &request_value, namespace, params };
                    let begun = Instant::now();
                    let mut outcome = validate(policy, &input, &round.answers);
                    while round.answer().await {
                        outcome = validate(policy, &input, &round.answers);
                    }
                    verdicts.act(policy, binding, &outcome.decisions, begun.elapsed(), warnings);
                    for (key, value) in outcome.notes {
                        match value {
                            Ok(value) => collect(&mut notes, key, value),
                            Err(why) => verdicts.deny(&policy.name, Some(binding), "", &why),
                        }
                    }
                }
            }
            for (key, values) in notes {
                request.annotations.add(format!("{}/{key}", policy.name), values.join(", "));
            }
        }
        verdicts.refusal.map_or(Ok(()), Err)
    }
}

/// Bindings with parameters of their own may note several values under one key.
fn collect(notes: &mut Vec<(Box<str>, Vec<String>)>, key: Box<str>, value: String) {
    match notes.iter_mut().find(|(k, _)| *k == key) {
        Some((_, values)) if values.contains(&value) => {}
        Some((_, values)) => values.push(value),
        None => notes.push((key, vec![value])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Evaluates a policy with this `spec` on an object, with `params`.
    fn outcome(spec: Value, object: Value, params: Value) -> Outcome {
        let policy: Policy<Validations> = Policy::new(&json!({"metadata": {"name": "p"}, "spec": spec}));
        let request = json!({"operation": "CREATE", "name": "x"});
        let namespace = json!({"metadata": {"labels": {"env": "prod"}}});
        let input =
            Input { object: &object, old: &Value::Null, request: &request, namespace: &namespace, params: &params };
        validate(&policy, &input, &Answers::default())
    }

    /// What the decisions come to: `ok`, or what is said, with `!` before a failure and the reason behind.
    fn decisions(spec: Value, object: Value) -> Vec<String> {
        let shown = |d: &Decision| match (d.denies, d.failed) {
            (false, false) => "ok".to_owned(),
            (denies, failed) => {
                let marks = [if denies { "" } else { "~" }, if failed { "!" } else { "" }].concat();
                let reason = if d.reason.is_empty() { String::new() } else { format!(" ({})", d.reason) };
                format!("{marks}{}{reason}", d.message)
            }
        };
        outcome(spec, object, Value::Null).decisions.iter().map(shown).collect()
    }

    #[test]
    fn decisions_and_their_words() {
        let check = |spec: Value, expected: &[&str]| {
            let object = json!({"spec": {"replicas": 7}});
            assert_eq!(decisions(spec.clone(), object), expected, "{spec}");
        };
        let one = |validation: Value| json!({"validations": [validation]});
        check(one(json!({"expression": "object.spec.replicas == 7"})), &["ok"]);
        check(
            one(json!({"expression": " object.spec.replicas < 5 "})),
            &["failed expression: object.spec.replicas < 5 (Invalid)"],
        );
        check(one(json!({"expression": "false", "message": " no \n", "reason": "Forbidden"})), &["no (Forbidden)"]);
        check(
            one(json!({"expression": "false", "message": "no",
                "messageExpression": "' at most ' + string(object.spec.replicas) + ' '"})),
            &["at most 7 (Invalid)"],
        );
        for unfit in ["'  '", "'a\\nb'", "object.nope", "dyn(1)", "'x'.replace('x', 'y') + dyn(null)"] {
            check(
                one(json!({"expression": "false", "message": "plain", "messageExpression": unfit})),
                &["plain (Invalid)"],
            );
        }
        check(
            json!({"validations": [{"expression": "object.nope > 1"}, {"expression": "false"}, {"expression": "true"}]}),
            &[
                "!expression 'object.nope > 1' resulted in error: no such key: nope",
                "failed expression: false (Invalid)",
                "ok",
            ],
        );
        check(
            json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.nope > 1"}, {"expression": "false"}]}),
            &[
                "~!expression 'object.nope > 1' resulted in error: no such key: nope",
                "failed expression: false (Invalid)",
            ],
        );
        check(
            json!({"variables": [{"name": "r", "expression": "object.spec.replicas"}],
                "matchConditions": [{"name": "a", "expression": "variables.r > 5"}],
                "validations": [{"expression": "variables.r < 5 && namespaceObject.metadata.labels.env == 'prod'",
                    "messageExpression": "'is ' + string(variables.r)"}]}),
            &["is 7 (Invalid)"],
        );
        check(
            json!({"matchConditions": [{"name": "a", "expression": "object.spec.replicas > 9"}],
                "validations": [{"expression": "false"}]}),
            &[],
        );
        check(
            json!({"matchConditions": [{"name": "a", "expression": "object.x"}], "validations": [{"expression": "false"}]}),
            &["!expression 'object.x' resulted in error: no such key: x"],
        );
    }

    #[test]
    fn budgets_end_an_evaluation() {
        let list = "[0,1,2,3,4,5,6,7,8,9]";
        let loops = |depth: usize| (0..depth).fold("true".to_owned(), |body, n| format!("{list}.all(x{n}, {body})"));
        // A loop within a loop and so on: over a hundred thousand rounds.
        let costly = json!({"expression": loops(5)});
        let many: Vec<Value> = (0..40).map(|_| costly.clone()).collect();
        let found = decisions(json!({"validations": many}), json!({}));
        assert_eq!(found, [format!("!{OUT_OF_BUDGET}")]);
        let few: Vec<Value> = (0..2).map(|_| costly.clone()).collect();
        assert_eq!(decisions(json!({"validations": few}), json!({})), ["ok", "ok"]);
    }

    #[test]
    fn notes_for_audit() {
        let notes = |fails_open: bool, expression: &str| {
            let spec = json!({"failurePolicy": if fails_open { "Ignore" } else { "Fail" },
                "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
                "auditAnnotations": [{"key": "k", "valueExpression": expression}]});
            let found = outcome(spec, json!({"n": 1}), json!({"data": {"a": "b"}})).notes;
            found.into_iter().map(|(key, value)| (key.to_string(), value)).collect::<Vec<_>>()
        };
        let k = || "k".to_owned();
        assert_eq!(notes(false, "' ' + params.data.a"), [(k(), Ok("b".to_owned()))]);
        assert_eq!(notes(false, "null"), []);
        assert_eq!(notes(false, "' '"), []);
        assert_eq!(
            notes(false, "'x'.lowerAscii() + string('y').substring(0) + 'é'.replace('é', 'z')")[0].1,
            Ok("xyz".into())
        );
        let why = "expression 'object.x' resulted in error: no such key: x";
        assert_eq!(notes(false, "object.x"), [(k(), Err(why.to_owned()))]);
        assert_eq!(notes(true, "object.x"), []);
        let why = "valueExpression 'object.n' resulted in unsupported return type: int. Return type must be either string or \
                   null.";
        assert_eq!(notes(false, "object.n"), [(k(), Err(why.to_owned()))]);
        assert_eq!(cut("aé", 2), "a");
        let mut all = Vec::new();
        for (key, value) in [("a", "1"), ("b", "1"), ("a", "2"), ("a", "1")] {
            collect(&mut all, key.into(), value.into());
        }
        assert_eq!(all, [("a".into(), vec!["1".to_owned(), "2".to_owned()]), ("b".into(), vec!["1".to_owned()])]);
    }
}
