//! Expressions of admission: policies and the match conditions of webhooks
//! (`apiserver/pkg/admission/plugin/cel/compile.go`).

use std::sync::LazyLock;

use super::base;
use crate::env::{Env, EnvBuilder, Program};
use crate::library::authorizer;
use crate::types::{Shape, Type};
use crate::unify::Bindings;

/// Which variables an expression has beside `object`, `oldObject`, `request` and `namespaceObject`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Has {
    /// `params`.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
}

/// What may be asked about a request.
fn request() -> Shape {
    let texts = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), Shape::from(Type::String))).collect::<Vec<_>>();
    let kind = || Shape::object("kubernetes.GroupVersionKind", texts(&["group", "version", "kind"]));
    let resource = || Shape::object("kubernetes.GroupVersionResource", texts(&["group", "version", "resource"]));
    let extra = Type::map(Type::String, Type::list(Type::String));
    let mut user = texts(&["username", "uid"]);
    user.extend([("groups".to_owned(), Type::list(Type::String).into()), ("extra".to_owned(), extra.into())]);
    let mut fields = texts(&["uid", "subResource", "requestSubResource", "name", "namespace", "operation"]);
    fields.extend([
        ("kind".to_owned(), kind()),
        ("resource".to_owned(), resource()),
        ("requestKind".to_owned(), kind()),
        ("requestResource".to_owned(), resource()),
        ("userInfo".to_owned(), Shape::object("kubernetes.UserInfo", user)),
        ("dryRun".to_owned(), Type::Bool.into()),
        ("options".to_owned(), Type::Dyn.into()),
    ]);
    Shape::object("kubernetes.AdmissionRequest", fields)
}

/// What may be asked about the namespace of a request.
fn namespace() -> Shape {
    let map = || Shape::from(Type::map(Type::String, Type::String));
    let field = |name: &str, shape| (name.to_owned(), shape);
    let metadata = Shape::object(
        "kubernetes.NamespaceMetadata",
        [
            field("name", Type::String.into()),
            field("generateName", Type::String.into()),
            field("namespace", Type::String.into()),
            field("labels", map()),
            field("annotations", map()),
            field("UID", Type::String.into()),
            field("creationTimestamp", Type::Timestamp.into()),
            field("deletionGracePeriodSeconds", Type::Int.into()),
            field("deletionTimestamp", Type::Timestamp.into()),
            field("generation", Type::Int.into()),
            field("resourceVersion", Type::String.into()),
            field("finalizers", Type::list(Type::String).into()),
        ],
    );
    let spec = Shape::object("kubernetes.NamespaceSpec", [field("finalizers", Type::list(Type::String).into())]);
    let status = Shape::object("kubernetes.NamespaceStatus", [field("phase", Type::String.into())]);
    Shape::object("kubernetes.Namespace", [field("metadata", metadata), field("spec", spec), field("status", status)])
}

static ENV: LazyLock<Env> = LazyLock::new(|| {
    base()
        .extend()
        .library(authorizer::LIBRARY)
        .variable("object", Type::Dyn)
        .variable("oldObject", Type::Dyn)
        .variable("request", request())
        .variable("namespaceObject", namespace())
        .build()
});

/// The environment of an expression.
pub fn admission(has: Has) -> EnvBuilder {
    let mut env = ENV.extend();
    if has.params {
        env = env.variable("params", Type::Dyn);
    }
    if has.authorizer {
        env = env.variable("authorizer", authorizer::ty());
        env = env.variable("authorizer.requestResource", authorizer::resource_check());
    }
    env
}

/// The types that mutations are made of (`admission/plugin/policy/mutating/patch`): `Object{spec: Object.spec{..}}`, whose
/// fields are checked when the kind is known, and `JSONPatch{op: .., path: .., value: ..}`.
#[derive(Clone, Debug)]
pub struct Mutations {
    /// What a configuration to be applied is.
    pub object: Type,
    /// One operation of a patch.
    pub json_patch: Type,
}

impl Mutations {
    /// The types.
    pub fn new() -> Mutations {
        let texts = ["op", "path", "from"].map(|name| (name.to_owned(), Shape::from(Type::String)));
        let fields = texts.into_iter().chain([("value".to_owned(), Type::Dyn.into())]);
        Mutations { object: Type::open_object("Object"), json_patch: Shape::object("JSONPatch", fields).ty().clone() }
    }

    /// An environment with the types added to it.
    pub fn extend(&self, env: &Env) -> Env {
        env.extend().named_type(self.object.clone()).named_type(self.json_patch.clone()).build()
    }
}

impl Default for Mutations {
    fn default() -> Self {
        Mutations::new()
    }
}

/// The variables of a policy, each of which sees those before it as `variables`.
#[derive(Clone, Debug)]
pub struct Variables {
    env: EnvBuilder,
    fields: Vec<(String, Shape)>,
}

impl Variables {
    /// None yet.
    pub fn new(has: Has) -> Variables {
        Variables { env: admission(has), fields: Vec::new() }
    }

    /// Adds one. If it does not compile it is of any type, so that its users are not blamed.
    pub fn add(&mut self, name: &str, expression: &str) -> Result<Program, String> {
        let program = compile(&self.env(), expression, &[]);
        let ty = program.as_ref().map_or(Type::Dyn, |p| p.result_type().clone());
        self.fields.push((name.to_owned(), ty.into()));
        program
    }

    /// The environment of what sees all of them.
    pub fn env(&self) -> Env {
        self.env.clone().variable("variables", Shape::object("kubernetes.variables", self.fields.clone())).build()
    }
}

/// Compiles an expression that gives one of the `wanted` types, or any if there are none. The message is upstream's.
pub fn compile(env: &Env, expression: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = env.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))?;
    let given = program.result_type();
    let fits = |wanted: &Type| match wanted {
        Type::List(_) => Bindings::default().assign(given, wanted),
        _ => given == wanted,
    };
    if wanted.is_empty() || matches!(given, Type::Dyn) || wanted.iter().any(fits) {
        return Ok(program);
    }
    let name = |ty: &Type| if matches!(ty, Type::List(_)) { ty.to_string() } else { ty.name().to_owned() };
    let names: Vec<String> = wanted.iter().map(name).collect();
    Err(match names.as_slice() {
        [one] => format!("must evaluate to {one}"),
        all => format!("must evaluate to one of [{}]", all.join(" ")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutations_make_objects_and_patches() {
        let types = Mutations::new();
        let env = types.extend(&admission(Has::default()).build());
        let apply = "Object{metadata: Object.metadata{labels: {'a': 'b'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}";
        let patch = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b'), value: 'c'}]";
        let check = |expression: &str, wanted: Type| compile(&env, expression, &[wanted]).map(|_| ());
        let patches = || Type::list(types.json_patch.clone());
        assert_eq!(check(apply, types.object.clone()), Ok(()));
        assert_eq!(check(patch, patches()), Ok(()));
        assert_eq!(check("[]", patches()), Ok(()));
        assert_eq!(check("1", types.object.clone()), Err("must evaluate to Object".to_owned()));
        assert_eq!(check("[1]", patches()), Err("must evaluate to list(JSONPatch)".to_owned()));
        assert!(check("Object.spec{}", types.object.clone()).is_err());
        assert!(check("[JSONPatch{what: 1}]", patches()).is_err_and(|e| e.contains("undefined field 'what'")));
        assert!(
            check("[JSONPatch{op: 1}]", patches())
                .is_err_and(|e| e.contains("expected type of field 'op' is 'string'"))
        );
    }

    #[test]
    fn expressions_of_policies_are_checked() {
        let all = Has { params: true, authorizer: true };
        let variables = [("replicas", "object.spec.replicas"), ("small", "request.name.size() < 9"), ("bad", "nope")];
        let check = |has: Has, expression: &str, want: Result<(), &str>| {
            let mut all = Variables::new(has);
            for (name, expression) in variables {
                let compiled = all.add(name, expression);
                assert_eq!(compiled.is_ok(), name != "bad", "{compiled:?}");
            }
            let got = compile(&all.env(), expression, &[Type::Bool]).map(|_| ());
            match (&got, want) {
                (Ok(()), Ok(())) => {}
                (Err(e), Err(part)) if e.contains(part) => {}
                _ => panic!("{expression}: {got:?}, not {want:?}"),
            }
        };
        check(all, "object.spec.replicas <= params.maxReplicas", Ok(()));
        check(all, "request.userInfo.groups.exists(g, g == 'system:masters') && request.operation == 'CREATE'", Ok(()));
        check(all, "namespaceObject.metadata.labels['a'] == 'b'", Ok(()));
        check(all, "variables.small && variables.replicas > 3", Ok(()));
        check(all, "authorizer.requestResource.check('custom').allowed()", Ok(()));
        check(all, "authorizer.group('').resource('pods').namespace('a').check('get').reason() == ''", Ok(()));
        check(all, "authorizer.serviceAccount('a', 'b').path('/healthz').check('get').errored()", Ok(()));
        check(Has::default(), "params.x", Err("undeclared reference to 'params'"));
        check(
            Has::default(),
            "authorizer.path('/').check('get').allowed()",
            Err("undeclared reference to 'authorizer'"),
        );
        check(all, "request.nope", Err("undefined field 'nope'"));
        check(all, "variables.nope", Err("undefined field 'nope'"));
        check(all, "variables.small == 1", Err("found no matching overload for '_==_' applied to '(bool, int)'"));
        check(all, "object.", Err("compilation failed: ERROR: <input>:1:8: Syntax error: mismatched input '<EOF>'"));
        check(all, "request.name", Err("must evaluate to bool"));
        let env = admission(all).build();
        let want = [Type::String, Type::Null];
        assert_eq!(compile(&env, "1", &want).map(|_| ()), Err("must evaluate to one of [string null_type]".to_owned()));
        assert!(compile(&env, "true ? 'x' : 'y'", &want).is_ok() && compile(&env, "null", &want).is_ok());
    }
}
