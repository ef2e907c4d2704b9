//! `MutatingAdmissionPolicy`: changes objects by expressions (`admission/plugin/policy/mutating`).

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use orkd_api::patch::{apply, json};
use orkd_api::schema::Node;
use orkd_api::status::{Cause, Status};
use orkd_base::metrics::{Counter, Family, Histogram};
use orkd_cel::k8s::admission::{Mutations as Types, check_type_names};
use orkd_cel::library::authorizer::Answers;
use orkd_cel::value::Map as Made;
use orkd_cel::{Type, Value as CelValue};
use serde_json::{Map, Value};

use super::super::{Operation, Parts, Plugin, Request, items, meta};
use super::asked::{BodyKind, Door};
use super::evaluate::{self, BUDGET, CONDITIONS_BUDGET, Expression, Group, Met, OUT_OF_BUDGET, OutOfBudget};
use super::hooks::{Hook, Hooks};
use super::input::Input;
use super::is_beyond_policies;
use super::policy::{Binding, Body, Envs, Policy};
use super::reinvocation::Invoked;
use super::round::{Round, World};
use crate::pipeline::WeakServer;

static CHECKS: Family<Counter> = Family::counter(
    "apiserver_mutating_admission_policy_check_total",
    "[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
    &["error_type", "policy", "policy_binding"],
);
static CHECK_TIME: Family<Histogram> = Family::histogram(
    "apiserver_mutating_admission_policy_check_duration_seconds",
    "[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
    &["error_type", "policy", "policy_binding"],
    &[0.000_000_5, 0.001, 0.01, 0.1, 1.0],
);

/// What a policy changes.
#[derive(Debug)]
pub struct Mutations {
    mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`.
    reinvoked: bool,
}

#[derive(Debug)]
enum Mutation {
    /// Gives an `Object` that is merged into the one there is.
    Apply(Expression),
    /// Gives a list of `JSONPatch`.
    Patch(Expression),
}

impl Body for Mutations {
    const POLICIES: &'static str = "mutatingadmissionpolicies";
    const BINDINGS: &'static str = "mutatingadmissionpolicybindings";

    fn compile(spec: &Value, envs: &Envs) -> Self {
        let types = Types::new();
        let env = types.extend(&envs.all);
        let text = |value: &Value| value["expression"].as_str().unwrap_or_default().to_owned();
        let one = |m: &Value| {
            if m["patchType"] == "JSONPatch" {
                let wanted = [Type::list(types.json_patch.clone())];
                Mutation::Patch(Expression::new(&env, &text(&m["jsonPatch"]), &wanted))
            } else {
                let wanted = [types.object.clone()];
                Mutation::Apply(Expression::new(&env, &text(&m["applyConfiguration"]), &wanted))
            }
        };
        Mutations {
            mutations: items(&spec["mutations"]).iter().map(one).collect(),
            reinvoked: spec["reinvocationPolicy"] == "IfNeeded",
        }
    }
}

/// One mutation of an object: what becomes of it, or why nothing does.
fn mutate(
    policy: &Policy<Mutations>,
    mutation: &Mutation,
    body: &BodyKind,
    node: Option<Node<'_>>,
    input: &Input<'_>,
    answers: &Answers,
) -> Result<Value, String> {
    let (Mutation::Apply(expression) | Mutation::Patch(expression)) = mutation;
    let mut group = Group::new(&policy.variables, input.bindings_with(answers), BUDGET);
    let value = group.eval(expression).map_err(|OutOfBudget| OUT_OF_BUDGET.to_owned())??;
    match mutation {
        Mutation::Apply(_) => merged(body, node, input.object, &value),
        Mutation::Patch(_) => patched(input.object, &value),
    }
}

/// An object with a configuration merged into it (`patch/smd.go`).
fn merged(body: &BodyKind, node: Option<Node<'_>>, object: &Value, value: &CelValue<'_>) -> Result<Value, String> {
    let CelValue::Map(Made::Made(_)) = value else {
        let ty = value.ty();
        return Err(format!("unsupported return type from ApplyConfiguration expression: {}", ty.name()));
    };
    check_type_names(value).map_err(|e| format!("type mismatch: {e}"))?;
    let mut wanted = value.to_json().ok_or_else(|| format!("invalid return type: {}", value.ty().name()))?;
    for field in ["apiVersion", "kind"] {
        wanted[field] = object[field].clone();
    }
    let node = node.ok_or_else(|| format!("error applying patch: no schema of {body}"))?;
    apply::mutate(node, object, &wanted).map_err(|e| format!("error applying patch: {e}"))
}

/// An object with a list of operations applied to it (`patch/json_patch.go`). Where a `test` fails it stays as it is.
fn patched(object: &Value, value: &CelValue<'_>) -> Result<Value, String> {
    let CelValue::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".into());
    };
    let operations = list.iter().map(|v| operation(&v)).collect::<Result<Vec<Value>, String>>()?;
    let patch = json::Patch::decode(Value::Array(operations)).map_err(|e| format!("JSONPath: {e}"))?;
    let mut patched = object.clone();
    match patch.apply_if_tests_pass(&mut patched) {
        Ok(true) => Ok(patched),
        Ok(false) => Ok(object.clone()),
        Err(e) => Err(format!("JSONPath: {e}")),
    }
}

fn operation(value: &CelValue<'_>) -> Result<Value, String> {
    let CelValue::Map(fields) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch".into());
    };
    let field = |name: &str| fields.field(name).map_err(|e| e.to_string());
    let mut operation = Map::new();
    for name in ["op", "path", "from"] {
        if let Some(text) = field(name)?.as_ref().and_then(CelValue::as_str) {
            operation.insert(name.to_owned(), text.into());
        }
    }
    if let Some(value) = field("value")? {
        check_type_names(&value).map_err(|e| format!("type mismatch: {e}"))?;
        let json =
            value.to_json().ok_or("JSONPath valueExpression evaluated to a type that could not marshal to JSON")?;
        operation.insert("value".to_owned(), json);
    }
    Ok(Value::Object(operation))
}

/// The plugin.
pub struct MutatingAdmissionPolicy {
    world: World,
    hooks: Hooks<Mutations>,
}

impl MutatingAdmissionPolicy {
    /// Policies and bindings come by the feeds of the parts.
    pub fn new(parts: &Parts) -> Self {
        let feed = |resource: &str| (parts.feeds)("admissionregistration.k8s.io", resource);
        MutatingAdmissionPolicy {
            world: World::new(parts.objects.clone(), parts.authorizer.clone()),
            hooks: Hooks::new(feed(Mutations::POLICIES), feed(Mutations::BINDINGS)),
        }
    }
}

/// A policy to be applied, with one set of parameters.
struct Invocation<'h> {
    policy: &'h Policy<Mutations>,
    binding: &'h Binding,
    door: &'h Door,
    params: Arc<Value>,
}

impl Invocation<'_> {
    fn id(&self) -> String {
        let (namespace, name) = (meta(&self.params, "namespace"), meta(&self.params, "name"));
        format!("{}/{}/{namespace}/{name}", self.policy.name, self.binding.name)
    }
}

/// What cannot be done, as it is found (`generic.PolicyError`).
#[derive(Default)]
struct Problems(Vec<(String, &'static str)>);

impl Problems {
    fn add(&mut self, policy: &Policy<Mutations>, binding: Option<&Binding>, reason: &'static str, why: &str) {
        if policy.fails_open {
            return;
        }
        self.0.push((
            match binding {
                Some(b) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, b.name),
                None => format!("policy {:?} denied request: {why}", policy.name),
            },
            reason,
        ));
    }

    /// The refusal, if there is a reason for one.
    fn status(self, request: &Request<'_>, object: &Value) -> Result<(), Status> {
        let Some((message, reason)) = self.0.first() else { return Ok(()) };
        let mut status = request.forbidden(object, "admission request denied by policy");
        status.message = message.clone();
        status.reason = (*reason).into();
        let cause = |(message, _): (String, &str)| Cause { message, ..Cause::default() };
        status.details.get_or_insert_default().causes.extend(self.0.into_iter().map(cause));
        Err(status)
    }
}

/// The policies that are meant, as the object comes in.
async fn invocations<'h>(
    round: &'h Round<'_>,
    hooks: &'h [Hook<Mutations>],
    object: &Value,
    problems: &mut Problems,
) -> Vec<Invocation<'h>> {
    let mut all = Vec::new();
    for hook in hooks {
        let policy = &*hook.policy;
        let door = match round.door(&policy.constraints, object).await {
            Ok(None) => continue,
            Ok(Some(door)) => door,
            Err(status) => {
                problems.add(policy, None, "Forbidden", &format!("failed to configure policy: {status}"));
                continue;
            }
        };
        if let Some(Err(why)) = policy.params.as_ref().map(|kind| round.param_resource(kind)) {
            problems.add(policy, None, "Forbidden", &format!("failed to configure policy: {why}"));
            continue;
        }
        for binding in &hook.bindings {
            let meant = match &binding.constraints {
                None => Ok(true),
                Some(constraints) => round.door(constraints, object).await.map(|d| d.is_some()),
            };
            let params = match meant {
                Ok(false) => continue,
                Ok(true) => round.params(policy.params.as_ref(), binding.params.as_ref()).await,
                Err(status) => Err(status.message),
            };
            match params {
                Ok(params) => {
                    all.extend(params.into_iter().map(|params| Invocation { policy, binding, door, params }));
                }
                Err(why) => {
                    problems.add(policy, Some(binding), "Forbidden", &format!("failed to configure binding: {why}"));
                }
            }
        }
    }
    all
}

/// Applies one policy. Whether the object is another one then.
async fn invoke(
    round: &Round<'_>,
    invocation: &Invocation<'_>,
    object: &mut Value,
    problems: &mut Problems,
) -> Result<bool, Status> {
    let Invocation { policy, binding, door, params } = invocation;
    let unconverted = |status: Status| Status::internal(status.message);
    let old = round.shown(door, round.old()).await.map_err(unconverted)?;
    let (request, namespace) = (round.request_value(door, ""), round.shown_namespace().await?);
    let mut changed = false;
    for mutation in &policy.body.mutations {
        let begun = Instant::now();
        let shown = round.shown(door, object).await.map_err(unconverted)?.into_owned();
        if !shown.is_object() {
            break;
        }
        let input = Input { object: &shown, old: &old, request: &request, namespace, params };
        let node = round.node(&door.body);
        let mut made = mutate(policy, mutation, &door.body, node, &input, &round.answers);
        while round.answer().await {
            made = mutate(policy, mutation, &door.body, node, &input, &round.answers);
        }
        let made = match made {
            Ok(made) => round.replace(door, &shown, made, object).await,
            Err(why) => Err(why),
        };
        let labels = [error_type(&made), &*policy.name, &*binding.name];
        CHECKS.with(&labels).inc();
        CHECK_TIME.with(&labels).observe(begun.elapsed().as_secs_f64());
        match made {
            Ok(another) => changed |= another,
            Err(why) => problems.add(policy, Some(binding), "Invalid", &why),
        }
    }
    Ok(changed)
}

/// What a mutation came to, for metrics (`ErrorType` of `policy/mutating/errors.go`).
fn error_type(made: &Result<bool, String>) -> &'static str {
    match made {
        Ok(_) => "no_error",
        Err(why) if why.starts_with("compilation") => "compile_error",
        Err(why) if why == OUT_OF_BUDGET => "out_of_budget",
        Err(_) => "invalid_error",
    }
}

/// Whether the conditions of a policy hold.
async fn conditions(round: &Round<'_>, invocation: &Invocation<'_>, object: &Value) -> Result<Met, Status> {
    let Invocation { policy, door, params, .. } = invocation;
    if policy.conditions.is_empty() {
        return Ok(Met::Yes);
    }
    let unconverted = |status: Status| Status::internal(status.message);
    let shown = round.shown(door, object).await.map_err(unconverted)?;
    let old = round.shown(door, round.old()).await.map_err(unconverted)?;
    let request = round.request_value(door, "");
    let input = Input { object: &shown, old: &old, request: &request, namespace: &Value::Null, params };
    let met = || {
        let group = Group::new(&policy.variables, input.bindings_with(&round.answers), CONDITIONS_BUDGET);
        evaluate::met(&policy.conditions, group, policy.fails_open)
    };
    let mut result = met();
    while round.answer().await {
        result = met();
    }
    Ok(result)
}

#[async_trait]
impl Plugin for MutatingAdmissionPolicy {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn bind(&self, server: &WeakServer) {
        self.world.bind(server);
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, warnings: &mut Vec<String>) -> Result<(), Status> {
        let hooks = self.hooks.now();
        // There is nothing to change in what is deleted.
        if hooks.is_empty() || is_beyond_policies(request) || request.operation == Operation::Delete {
            return Ok(());
        }
        let round = Round::new(&self.world, request);
        let mut problems = Problems::default();
        let all = invocations(&round, &hooks, object, &mut problems).await;
        if all.is_empty() {
            return problems.status(request, object);
        }
        let again = request.reinvocation.is_again();
        let mut invoked: Invoked = std::mem::take(&mut *request.reinvocation.policies.lock());
        invoked.begin(again, object);
        let managed = object["metadata"].get("managedFields").cloned();
        let mut any = false;
        for invocation in &all {
            match conditions(&round, invocation, object).await? {
                Met::Yes => {}
                Met::No => continue,
                Met::Failed(why) => {
                    problems.add(invocation.policy, Some(invocation.binding), "Invalid", &why);
                    continue;
                }
            }
            let id = invocation.id();
            if !invoked.is_due(again, &id) {
                continue;
            }
            if invoke(&round, invocation, object, &mut problems).await? {
                any = true;
                invoked.changed();
                request.reinvocation.want();
            }
            if invocation.policy.body.reinvoked {
                invoked.willing(&id);
            }
        }
        if any {
            warnings.extend(apply::after_admission(managed.as_ref(), object));
        }
        invoked.end(object);
        *request.reinvocation.policies.lock() = invoked;
        problems.status(request, object)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a mutation makes of a Deployment with three replicas and one container.
    fn made(patch_type: &str, expression: &str) -> Result<Value, String> {
        let field = if patch_type == "JSONPatch" { "jsonPatch" } else { "applyConfiguration" };
        let spec = json!({"variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "mutations": [{"patchType": patch_type, field: {"expression": expression}}]});
        let policy: Policy<Mutations> = Policy::new(&json!({"metadata": {"name": "p"}, "spec": spec}));
        let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "b"}},
            "spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        let (request, null) = (json!({}), Value::Null);
        let input = Input { object: &object, old: &null, request: &request, namespace: &null, params: &null };
        let body = BodyKind { group: "apps".into(), version: "v1".into(), kind: "Deployment".into() };
        let node = Node::of_kind(&body.group, &body.version, &body.kind);
        mutate(&policy, &policy.body.mutations[0], &body, node, &input, &Answers::default())
    }

    #[test]
    fn configurations_are_merged_by_the_schema() {
        let check = |expression: &str, at: &str, want: Value| {
            let made = made("ApplyConfiguration", expression).expect(expression);
            assert_eq!(made.pointer(at), Some(&want), "{expression}: {made}");
        };
        check("Object{spec: Object.spec{replicas: variables.n + 1}}", "/spec/replicas", json!(4));
        let labels = "Object{metadata: Object.metadata{labels: {'c': 'd', ?'e': optional.none()}}}";
        check(labels, "/metadata/labels", json!({"a": "b", "c": "d"}));
        let containers = "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{
            containers: [Object.spec.template.spec.containers{name: 'side', image: 'x'}]}}}}";
        let both = json!([{"name": "c", "image": "i"}, {"name": "side", "image": "x"}]);
        check(containers, "/spec/template/spec/containers", both);
        check("Object{}", "/spec/replicas", json!(3));
    }

    #[test]
    fn operations_are_applied() {
        let check = |expression: &str, at: &str, want: Value| {
            let made = made("JSONPatch", expression).expect(expression);
            assert_eq!(made.pointer(at), Some(&want), "{expression}: {made}");
        };
        check("[JSONPatch{op: 'replace', path: '/spec/replicas', value: variables.n * 2}]", "/spec/replicas", json!(6));
        let key = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('x/y'), value: 'z'}]";
        check(key, "/metadata/labels/x~1y", json!("z"));
        let object = "[JSONPatch{op: 'add', path: '/spec/strategy', value: Object.spec.strategy{type: 'Recreate'}}]";
        check(object, "/spec/strategy", json!({"type": "Recreate"}));
        let copied = "[JSONPatch{op: 'copy', from: '/metadata/name', path: '/metadata/labels/n'}]";
        check(copied, "/metadata/labels/n", json!("d"));
        let tested = "[JSONPatch{op: 'remove', path: '/metadata/labels'}, JSONPatch{op: 'test', path: '/spec/replicas', value: 1}]";
        check(tested, "/metadata/labels", json!({"a": "b"}));
        check("[]", "/spec/replicas", json!(3));
    }

    #[test]
    fn what_cannot_be_done_is_told() {
        let check = |patch_type: &str, expression: &str, want: &str| {
            assert_eq!(made(patch_type, expression), Err(want.to_owned()), "{expression}");
        };
        let apply = "ApplyConfiguration";
        check(
            apply,
            "Object{spec: Object.status{}}",
            "type mismatch: unexpected type name \"Object.status\", expected \"Object.spec\", which matches field name path \
             from root Object type",
        );
        check(
            apply,
            "Object{spec: Object.spec{nope: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nope: field not declared in schema",
        );
        check(
            apply,
            "Object{spec: Object.spec{selector: Object.spec.selector{matchLabels: {'a': 'b'}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
        );
        check(
            apply,
            "Object{spec: Object.spec{replicas: object.nope}}",
            "expression 'Object{spec: Object.spec{replicas: object.nope}}' resulted in error: no such key: nope",
        );
        check(apply, "dyn({'a': 1})", "unsupported return type from ApplyConfiguration expression: map");
        let text = "JSONPath: the server rejected our request due to an error in our request";
        check("JSONPatch", "[JSONPatch{op: 'remove', path: '/nope/nope'}]", text);
    }
}
