//! What is wrong with the types in the expressions of a ValidatingAdmissionPolicy: `status.typeChecking`.
//!
//! Follows `pkg/controller/validatingadmissionpolicystatus` and `policy/validating/typechecking.go` of the API server. A
//! policy may be about objects of any kind, so its expressions are accepted with `object` of any type. Here they are
//! compiled once more for every kind that its rules name in full, and what the compiler says is told in the status; the
//! policy acts all the same. Kinds come from discovery and their schemas from OpenAPI, those of custom resources too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use orkd_base::BoxError;
use orkd_cel::k8s::{admission, schema};
use orkd_cel::{Env, Shape};
use orkd_reconcile::{Api, Informer, Key, Meta, Outcome, Patch, Queue, Resource, Target, View, null_default, work};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tracing::debug;

use crate::discovery::discover;
use crate::views::view;
use crate::{ControllerSpec, Cx};

/// Name, and field manager of what is applied.
const NAME: &str = "validatingadmissionpolicy-status-controller";

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec { name: NAME, service_account: NAME, run: |cx| Box::pin(start(cx)) };

/// Of how many kinds one rule is checked (`maxTypesToCheck`).
const MAX_KINDS: usize = 10;

/// A policy, as far as its expressions can be checked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Policy {
    metadata: Meta,
    spec: Spec,
    status: Status,
}
view!(Policy, "admissionregistration.k8s.io", "v1", "ValidatingAdmissionPolicy", "validatingadmissionpolicies", false);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    param_kind: Option<ParamKind>,
    match_constraints: Option<Constraints>,
    #[serde(deserialize_with = "null_default")]
    variables: Vec<Variable>,
    #[serde(deserialize_with = "null_default")]
    validations: Vec<Validation>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ParamKind {
    api_version: String,
    kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Constraints {
    #[serde(deserialize_with = "null_default")]
    resource_rules: Vec<Rule>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    #[serde(deserialize_with = "null_default")]
    api_groups: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    api_versions: Vec<String>,
    #[serde(deserialize_with = "null_default")]
    resources: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Variable {
    name: String,
    expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Validation {
    expression: String,
    message_expression: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    observed_generation: i64,
}

/// A kind by group, version and name; sorted as upstream sorts them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct KindName {
    group: String,
    version: String,
    kind: String,
}

impl KindName {
    fn new(group: &str, version: &str, kind: &str) -> Self {
        KindName { group: group.to_owned(), version: version.to_owned(), kind: kind.to_owned() }
    }

    /// Where the API describes it.
    fn document(&self) -> String {
        match self.group.as_str() {
            "" => format!("/openapi/v3/api/{}", self.version),
            group => format!("/openapi/v3/apis/{group}/{}", self.version),
        }
    }
}

/// As Go prints a `schema.GroupVersionKind`.
impl fmt::Display for KindName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

async fn start(cx: Cx) -> Result<(), BoxError> {
    let policies: Informer<Policy> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        policies.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    policies.synced().await;
    let (api, policies) = (&cx.api, &policies);
    work(queue, 1, cx.stop, |key| async move {
        let Some(policy) = policies.get(&key) else { return Ok(Outcome::Done) };
        if policy.metadata.generation <= policy.status.observed_generation {
            return Ok(Outcome::Done);
        }
        let (types, params) = observe(api, &policy.spec).await?;
        let body = json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": &*key.name},
            "status": {
                "observedGeneration": policy.metadata.generation,
                "typeChecking": plan(&policy.spec, &types, params.as_ref()),
            },
        });
        let target = Resource::of::<Policy>().at("", &key.name).sub("status");
        let patch = Patch::Apply { manager: NAME.into(), force: true, body };
        match api.patch::<IgnoredAny>(&target, &patch).await {
            Err(err) if err.is_not_found() => {}
            other => other.map(drop)?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The types of what a policy is about: of its kinds, and of its parameters. What has no schema is left out.
async fn observe(api: &Api, spec: &Spec) -> Result<(Vec<(KindName, Shape)>, Option<Shape>), BoxError> {
    let served = discover(api).await?;
    let kinds = kinds(spec, |group, version, resource| served.kind_of(group, version, resource).map(str::to_owned));
    let mut documents = Documents { api, known: BTreeMap::new() };
    let mut types = Vec::new();
    for kind in kinds {
        if let Some(shape) = documents.shape(&kind).await {
            types.push((kind, shape));
        }
    }
    let params = match spec.param_kind.as_ref() {
        None => None,
        Some(of) => {
            let (group, version) = of.api_version.split_once('/').unwrap_or(("", &of.api_version));
            documents.shape(&KindName::new(group, version, &of.kind)).await
        }
    };
    Ok((types, params))
}

/// Documents of OpenAPI, each asked for once.
struct Documents<'a> {
    api: &'a Api,
    known: BTreeMap<String, Document>,
}

impl Documents<'_> {
    /// A group that does not answer is none of the policy's faults: its kinds are not checked, as upstream.
    async fn shape(&mut self, kind: &KindName) -> Option<Shape> {
        let path = kind.document();
        if !self.known.contains_key(&path) {
            let answer = self.api.get::<Document>(&Target::path(&path)).await;
            let document = answer.unwrap_or_else(|err| {
                debug!(path, error = %err, "no schema to check a policy with");
                Document::default()
            });
            self.known.insert(path.clone(), document);
        }
        schema::shape(&self.known.get(&path)?.kind(kind)?, true).map(|shape| shape.named(&kind.kind))
    }
}

/// A document of OpenAPI; only the definitions that are needed are read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    components: Components,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Components {
    #[serde(deserialize_with = "null_default")]
    schemas: BTreeMap<String, Box<RawValue>>,
}

/// How many values a schema may have when all it refers to is put in; a Pod has 3,000.
const MAX_NODES: usize = 100_000;

impl Document {
    /// The schema of a kind, with what it refers to put in (`resolver.populateRefs`).
    fn kind(&self, kind: &KindName) -> Option<Value> {
        let end = format!(".{}", kind.kind);
        let wanted = json!({"group": kind.group, "version": kind.version, "kind": kind.kind});
        let named = self.components.schemas.iter().filter(|(name, _)| name.ends_with(&end));
        let mut read = named.filter_map(|(_, raw)| serde_json::from_str::<Value>(raw.get()).ok());
        let is_it = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(&wanted))
        };
        let schema = read.find(is_it)?;
        Some(self.whole(&schema, &mut Vec::new(), &mut MAX_NODES.clone()))
    }

    /// A schema that refers to nothing. What is within itself is an object without fields there, as upstream.
    fn whole(&self, schema: &Value, within: &mut Vec<String>, left: &mut usize) -> Value {
        *left = left.saturating_sub(1);
        if *left == 0 {
            return json!({"type": "object"});
        }
        let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
        if let Some(reference) = reference {
            let name = reference.rsplit('/').next().unwrap_or_default();
            if within.iter().any(|n| n == name) {
                return json!({"type": "object"});
            }
            let read = self.components.schemas.get(name).and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
            within.push(name.to_owned());
            let whole = read.map_or(Value::Null, |schema| self.whole(&schema, within, left));
            within.pop();
            return whole;
        }
        let mut out = Map::new();
        for (key, value) in schema.as_object().into_iter().flatten() {
            let value = match key.as_str() {
                "properties" => {
                    let properties = value.as_object().into_iter().flatten();
                    properties.map(|(name, schema)| (name.clone(), self.whole(schema, within, left))).collect()
                }
                "items" | "additionalProperties" if value.is_object() => self.whole(value, within, left),
                "description" | "default" => continue,
                _ => value.clone(),
            };
            out.insert(key.clone(), value);
        }
        // A quantity: text for expressions, as its definition in OpenAPI v2 says.
        if out.contains_key("oneOf") && !out.contains_key("type") {
            out.insert("type".to_owned(), "string".into());
        }
        out.into()
    }
}

/// The kinds of the resources that the rules of a policy name without a wildcard, sorted.
fn kinds(spec: &Spec, kind_of: impl Fn(&str, &str, &str) -> Option<String>) -> BTreeSet<KindName> {
    let mut found = BTreeSet::new();
    for rule in spec.match_constraints.iter().flat_map(|c| &c.resource_rules) {
        let is_open = |text: &&String| text.contains('*');
        if rule.api_groups.iter().chain(&rule.api_versions).any(|text| is_open(&text)) {
            continue;
        }
        let plain = |text: &&String| !text.contains(['*', '/']);
        let sorted = |texts: &[String]| texts.iter().filter(plain).cloned().collect::<BTreeSet<_>>();
        let mut count = 0;
        for group in sorted(&rule.api_groups) {
            for version in sorted(&rule.api_versions) {
                for resource in sorted(&rule.resources) {
                    let Some(kind) = kind_of(&group, &version, &resource) else { continue };
                    found.insert(KindName::new(&group, &version, &kind));
                    count += 1;
                    if count == MAX_KINDS {
                        return found;
                    }
                }
            }
        }
    }
    found
}

/// What `status.typeChecking` should say.
fn plan(spec: &Spec, types: &[(KindName, Shape)], params: Option<&Shape>) -> Value {
    let environments: Vec<(&KindName, Env)> =
        types.iter().map(|(kind, shape)| (kind, environment(spec, shape, params))).collect();
    let mut warnings = Vec::new();
    for (n, validation) in spec.validations.iter().enumerate() {
        let expressions =
            [("expression", &validation.expression), ("messageExpression", &validation.message_expression)];
        for (field, expression) in expressions {
            if field == "messageExpression" && expression.is_empty() {
                continue;
            }
            let problems = environments.iter().filter_map(|(kind, env)| {
                let issues = env.compile(expression).err()?;
                Some(format!("{kind}: {issues}\n"))
            });
            let problems: Vec<String> = problems.collect();
            if !problems.is_empty() {
                warnings.push(json!({
                    "fieldRef": format!("spec.validations[{n}].{field}"), "warning": problems.join("\n"),
                }));
            }
        }
    }
    if warnings.is_empty() { json!({}) } else { json!({ "expressionWarnings": warnings }) }
}

/// What the expressions see where the object is of one kind.
fn environment(spec: &Spec, object: &Shape, params: Option<&Shape>) -> Env {
    let mut variables = admission::Variables::within(admission::type_checking(object, params));
    for variable in &spec.variables {
        // What is wrong with it is told where it is used.
        let _ = variables.add(&variable.name, &variable.expression);
    }
    variables.env()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(json: Value) -> Spec {
        serde_json::from_value(json).expect("a spec")
    }

    fn document() -> Document {
        let gvk = |kind: &str| json!([{"group": "apps", "version": "v1", "kind": kind}]);
        let text = json!({"type": "string"});
        let to = |name: &str| json!({"allOf": [{"$ref": format!("#/components/schemas/{name}")}], "default": {}});
        let document = json!({"components": {"schemas": {
            "io.k8s.api.apps.v1.Deployment": {"type": "object", "x-kubernetes-group-version-kind": gvk("Deployment"),
                "properties": {"kind": text, "apiVersion": text, "metadata": to("Meta"), "spec": to("Spec")}},
            "other.Deployment": {"type": "object", "x-kubernetes-group-version-kind": gvk("Other")},
            "Meta": {"type": "object", "properties": {"name": text, "generateName": text,
                "labels": {"type": "object", "additionalProperties": text}}},
            "Spec": {"type": "object", "properties": {"replicas": {"type": "integer"}, "again": to("Spec"),
                "surge": to("IntOrString"), "limits": {"type": "object", "additionalProperties": to("Quantity")},
                "lost": to("Nobody")}},
            "Quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
            "IntOrString": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
        }}});
        serde_json::from_str(&document.to_string()).expect("a document")
    }

    fn deployment() -> (KindName, Shape) {
        let kind = KindName::new("apps", "v1", "Deployment");
        let schema = document().kind(&kind).expect("a schema");
        (kind, schema::shape(&schema, true).expect("a shape").named("Deployment"))
    }

    #[test]
    fn schemas_are_made_whole() {
        assert!(document().kind(&KindName::new("apps", "v2", "Deployment")).is_none());
        let whole = document().kind(&KindName::new("apps", "v1", "Deployment")).expect("a schema");
        let spec = &whole["properties"]["spec"]["properties"];
        assert_eq!(spec["again"], json!({"type": "object"}), "what is within itself ends");
        assert_eq!(spec["limits"]["additionalProperties"]["type"], "string");
        assert_eq!(spec["lost"], Value::Null);
    }

    #[test]
    fn expressions_are_checked_against_the_kind() {
        let check = |expression: &str, want: &str| {
            let spec = spec(json!({"validations": [{"expression": expression}],
                "variables": [{"name": "n", "expression": "object.spec.replicas"}]}));
            let got = plan(&spec, &[deployment()], None);
            let got = got["expressionWarnings"][0]["warning"].as_str().unwrap_or_default();
            let line = got.lines().next().unwrap_or_default();
            assert_eq!(line.trim_start_matches("apps/v1, Kind=Deployment: ERROR: <input>:"), want, "{expression}");
        };
        check("object.spec.replicas > 1", "");
        check("variables.n > 1 && object.metadata.labels['a'] == 'b'", "");
        check("object.spec.surge == '25%' || object.spec.surge == 1", "");
        check("object.spec.limits['cpu'] == '1'", "");
        check("oldObject == null || oldObject.spec == object.spec", "");
        check("authorizer.group('').resource('pods').check('get').allowed()", "");
        check("object.spec.nope", "1:12: undefined field 'nope'");
        check("object.spec.replicas > '1'", "1:22: found no matching overload for '_>_' applied to '(int, string)'");
        check("variables.n == 'x'", "1:13: found no matching overload for '_==_' applied to '(int, string)'");
        check(
            "object.spec == object.metadata",
            "1:13: found no matching overload for '_==_' applied to '(Deployment.spec, Deployment.metadata)'",
        );
        check("params.x == 1", "1:1: undeclared reference to 'params' (in container '')");
    }

    /// What `test/e2e/apimachinery/validatingadmissionpolicy.go` looks for.
    #[test]
    fn warnings_say_where_and_of_which_kind() {
        let spec = spec(json!({"validations": [
            {"expression": "object.spec.replicas > '1'", "messageExpression": "'wants ' + object.spec.replicas"},
            {"expression": "object.spec.replicas > 1", "messageExpression": "'wants ' + string(object.spec.replicas)"},
        ]}));
        let (kind, shape) = deployment();
        let types = [(kind, shape.clone()), (KindName::new("", "v1", "Scale"), shape)];
        let warning = |at: &str, caret: usize, message: &str, source: &str| {
            let issue = format!("ERROR: <input>:1:{caret}: {message}\n | {source}\n | {}^\n", ".".repeat(caret - 1));
            json!({"fieldRef": format!("spec.validations[0].{at}"),
                "warning": format!("apps/v1, Kind=Deployment: {issue}\n/v1, Kind=Scale: {issue}")})
        };
        let want = json!({"expressionWarnings": [
            warning("expression", 22, "found no matching overload for '_>_' applied to '(int, string)'",
                "object.spec.replicas > '1'"),
            warning("messageExpression", 10, "found no matching overload for '_+_' applied to '(string, int)'",
                "'wants ' + object.spec.replicas"),
        ]});
        assert_eq!(plan(&spec, &types, None), want);
        assert_eq!(plan(&spec, &[], None), json!({}), "what has no schema is not checked");
    }

    #[test]
    fn rules_with_wildcards_name_no_kinds() {
        let check = |rules: Value, want: &[&str]| {
            let spec = spec(json!({"matchConstraints": {"resourceRules": rules}}));
            let found = kinds(&spec, |group, _, resource| match (group, resource) {
                (_, "nothings") => None,
                _ => Some(resource.trim_end_matches('s').to_owned()),
            });
            let found: Vec<String> = found.iter().map(KindName::to_string).collect();
            assert_eq!(found, want, "{rules}");
        };
        let rule = |groups: &[&str], versions: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": versions, "resources": resources});
        check(
            json!([rule(&["b", "a"], &["v1"], &["ys", "xs", "xs/status", "*", "nothings"])]),
            &["a/v1, Kind=x", "a/v1, Kind=y", "b/v1, Kind=x", "b/v1, Kind=y"],
        );
        check(json!([rule(&["*"], &["v1"], &["xs"]), rule(&[""], &["*"], &["xs"])]), &[]);
        let many: Vec<String> = (10..30).map(|n| format!("r{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let spec = spec(json!({"matchConstraints": {"resourceRules": [rule(&["a"], &["v1"], &many)]}}));
        assert_eq!(kinds(&spec, |_, _, r| Some(r.to_owned())).len(), MAX_KINDS);
    }
}
