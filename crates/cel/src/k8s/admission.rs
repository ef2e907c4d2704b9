//! Expressions of admission: policies and the match conditions of webhooks
//! (`apiserver/pkg/admission/plugin/cel/compile.go`).

use std::sync::LazyLock;

use super::{PER_CALL_LIMIT, base};
use crate::env::{Env, EnvBuilder, Program};
use crate::eval::{Bindings, Budget, Compute, EvalError, Evaluated};
use crate::library::authorizer;
use crate::types::{Shape, Type};
use crate::unify;
use crate::value::{Key, Map, Str, Value};

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

/// The environment in which the expressions of a policy are checked against the kind of the object and, where the policy
/// has parameters of a known kind, of those (`buildEnvSet` of `policy/validating/typechecking.go`; of the authorizer it
/// declares only the root).
pub fn type_checking(object: &Shape, params: Option<&Shape>) -> EnvBuilder {
    let env = ENV.extend().variable("object", object.clone()).variable("oldObject", object.clone());
    let env = env.variable("authorizer", authorizer::ty());
    match params {
        Some(params) => env.variable("params", params.clone()),
        None => env,
    }
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

/// Whether every object within an object that an expression made is of the type its place asks for: what is in `Object` at
/// `spec` is an `Object.spec` (`ObjectVal.CheckTypeNamesMatchFieldPathNames`).
pub fn check_type_names(value: &Value<'_>) -> Result<(), String> {
    let Value::Map(Map::Made(made)) = value else { return Ok(()) };
    let mut problems = Vec::new();
    walk_types(value, &mut made.ty.to_string(), &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(problems.join("\n")) }
}

fn walk_types(value: &Value<'_>, path: &mut String, problems: &mut Vec<String>) {
    match value {
        Value::Map(Map::Made(made)) => {
            if *made.ty != **path {
                let ty = &made.ty;
                problems.push(format!(
                    "unexpected type name {ty:?}, expected {path:?}, which matches field name path from root Object type"
                ));
            }
            for (key, value) in &made.fields {
                let Key::String(name) = key else { continue };
                let len = path.len();
                path.push('.');
                path.push_str(name);
                walk_types(value, path, problems);
                path.truncate(len);
            }
        }
        // What has no type of its own has no place in the path.
        Value::Map(Map::Shared(map)) => map.values().for_each(|value| walk_types(value, path, problems)),
        Value::List(list) => list.iter().for_each(|value| walk_types(&value, path, problems)),
        _ => {}
    }
}

/// The variables of a policy, each of which sees those before it as `variables`.
#[derive(Clone, Debug)]
pub struct Variables {
    env: EnvBuilder,
    fields: Vec<(String, Shape)>,
    programs: Vec<Variable>,
}

/// A variable of a policy: its name, and its program or why it has none.
pub type Variable = (String, Result<Program, String>);

/// How expressions name the variables of a policy: as fields of this one.
const VARIABLES: &str = "variables";

impl Variables {
    /// None yet.
    pub fn new(has: Has) -> Variables {
        Variables::within(admission(has))
    }

    /// None yet, in an environment of one's own.
    pub fn within(env: EnvBuilder) -> Variables {
        Variables { env, fields: Vec::new(), programs: Vec::new() }
    }

    /// Adds one. If it does not compile it is of any type, so that its users are not blamed.
    pub fn add(&mut self, name: &str, expression: &str) -> Result<Program, String> {
        let program = compile(&self.env(), expression, &[]);
        let ty = program.as_ref().map_or(Type::Dyn, |p| declared(p.result_type()));
        // `variables.name` is found as the name of a variable before it is looked at as a field.
        self.env = self.env.clone().variable(&format!("{VARIABLES}.{name}"), ty.clone());
        self.fields.push((name.to_owned(), ty.into()));
        self.programs.push((name.to_owned(), program.clone()));
        program
    }

    /// The environment of what sees all of them.
    pub fn env(&self) -> Env {
        self.env.clone().variable(VARIABLES, Shape::object("kubernetes.variables", self.fields.clone())).build()
    }

    /// What is needed to evaluate those who see them.
    pub fn into_programs(self) -> Vec<Variable> {
        self.programs
    }
}

/// The type that a variable is known by: objects are known when evaluated only (`convertCelTypeToDeclType`).
fn declared(ty: &Type) -> Type {
    match ty {
        Type::List(item) => Type::list(declared(item)),
        Type::Map(key, value) => Type::map(declared(key), declared(value)),
        Type::Null | Type::Bool | Type::Int | Type::Uint | Type::Double | Type::String | Type::Bytes => ty.clone(),
        Type::Duration | Type::Timestamp => ty.clone(),
        _ => Type::Dyn,
    }
}

/// How deep an expression and the variables it comes to use may nest together.
const MAX_LEVELS: usize = 2 * crate::parser::MAX_DEPTH;

/// Evaluates expressions that see the same values and variables. A variable is computed when it is first asked for, and
/// not again (`admission/plugin/cel/composition.go`).
#[derive(Debug)]
pub struct Scope<'v, 'a> {
    bindings: Bindings<'a>,
    lazy: Lazy<'v, 'a>,
}

#[derive(Debug)]
struct Lazy<'v, 'a> {
    variables: &'v [Variable],
    known: Vec<Option<Evaluated<'a>>>,
    cost: u64,
    levels: usize,
}

impl<'v, 'a> Scope<'v, 'a> {
    /// Nothing is computed yet.
    pub fn new(variables: &'v [Variable], bindings: Bindings<'a>) -> Self {
        let known = variables.iter().map(|_| None).collect();
        Scope { bindings, lazy: Lazy { variables, known, cost: 0, levels: 0 } }
    }

    /// The value of an expression, and what it cost with the variables that had to be computed for it. Each of them may
    /// cost [`PER_CALL_LIMIT`].
    pub fn eval(&mut self, program: &Program) -> (Result<Value<'a>, EvalError>, u64) {
        let mut budget = Budget::new(PER_CALL_LIMIT);
        self.lazy.cost = 0;
        self.lazy.levels = program.height();
        let value = program.eval_computing(&self.bindings, &mut self.lazy, &mut budget);
        (value, budget.used().saturating_add(self.lazy.cost))
    }
}

impl<'a> Lazy<'_, 'a> {
    fn variable(&mut self, place: usize, bindings: &Bindings<'a>) -> Evaluated<'a> {
        if let Some(known) = &self.known[place] {
            return known.clone();
        }
        let variables = self.variables;
        let (name, program) = &variables[place];
        let value = match program {
            Err(why) => Err(EvalError::new(format!("composited variable {name:?} fails to compile: {why}"))),
            Ok(program) if self.levels + program.height() > MAX_LEVELS => {
                return Err(EvalError::new(format!("composited variable {name:?} depends on too many others")));
            }
            Ok(program) => {
                let mut budget = Budget::new(PER_CALL_LIMIT);
                self.levels += program.height();
                let value = program.eval_computing(bindings, self, &mut budget);
                self.levels -= program.height();
                self.cost = self.cost.saturating_add(budget.used());
                value.map_err(|e| EvalError::new(format!("composited variable {name:?} fails to evaluate: {e}")))
            }
        };
        self.known[place] = Some(value.clone());
        value
    }
}

impl<'a> Compute<'a> for Lazy<'_, 'a> {
    fn compute(&mut self, name: &str, bindings: &Bindings<'a>) -> Option<Evaluated<'a>> {
        let rest = name.strip_prefix(VARIABLES)?;
        if rest.is_empty() {
            // All of them, as one value.
            let all = (0..self.variables.len()).map(|place| {
                let name = Str::Shared(self.variables[place].0.as_str().into());
                Ok((Key::String(name), self.variable(place, bindings)?))
            });
            return Some(all.collect());
        }
        let name = rest.strip_prefix('.')?;
        // The last of those with one name counts.
        let place = self.variables.iter().rposition(|(n, _)| n == name)?;
        Some(self.variable(place, bindings))
    }
}

/// Compiles an expression that gives one of the `wanted` types, or any if there are none. The message is upstream's.
pub fn compile(env: &Env, expression: &str, wanted: &[Type]) -> Result<Program, String> {
    let program = env.compile(expression).map_err(|issues| format!("compilation failed: {issues}"))?;
    let given = program.result_type();
    let fits = |wanted: &Type| match wanted {
        Type::List(_) => unify::Bindings::default().assign(given, wanted),
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
    fn variables_are_of_the_types_upstream_gives_them() {
        let check = |variable: &str, expression: &str, want: Result<(), &str>| {
            let mut variables = Variables::new(Has::default());
            variables.add("v", variable).expect(variable);
            let got = compile(&variables.env(), expression, &[]).map(|_| ());
            match (&got, want) {
                (Ok(()), Ok(())) => {}
                (Err(e), Err(part)) if e.contains(part) => {}
                _ => panic!("{variable}, {expression}: {got:?}, not {want:?}"),
            }
        };
        check("request.userInfo", "variables.v.nope == 1", Ok(()));
        check("[request.userInfo]", "variables.v[0].nope == 1", Ok(()));
        check("request.userInfo.groups", "variables.v[0] == 1", Err("applied to '(string, int)'"));
        check("{'a': 1}", "variables.v['a'] == 'b'", Err("applied to '(int, string)'"));
        check("object.spec", "variables.v == 1", Ok(()));
    }

    #[test]
    fn made_objects_are_of_the_types_of_their_places() {
        let env = Mutations::new().extend(&admission(Has::default()).build());
        let check = |expression: &str, want: &[(&str, &str)]| {
            let program = env.compile(expression).expect(expression);
            let value = program.eval(&Bindings::new(), &mut Budget::new(PER_CALL_LIMIT)).expect(expression);
            let problem = |(ty, place): &(&str, &str)| {
                format!(
                    "unexpected type name {ty:?}, expected {place:?}, which matches field name path from root Object type"
                )
            };
            let want: Vec<String> = want.iter().map(problem).collect();
            assert_eq!(check_type_names(&value).err().unwrap_or_default(), want.join("\n"), "{expression}");
        };
        check("Object{spec: Object.spec{template: Object.spec.template{}, replicas: 1}}", &[]);
        check("Object{spec: Object.spec{list: [Object.spec.list{name: 'a'}], map: {'k': Object.spec.map{}}}}", &[]);
        check("Object{spec: Object.status{}}", &[("Object.status", "Object.spec")]);
        check("Object{l: [Object.m{}], m: {'a': Object.l{}}}", &[("Object.m", "Object.l"), ("Object.l", "Object.m")]);
        check("Object.spec{a: Object.spec.a{}}", &[]);
        check("{'a': 1}", &[]);
        let same =
            env.compile("Object{a: 1} == Object{a: 1} && dyn(Object.a{}) != dyn(Object.b{})").expect("it compiles");
        assert_eq!(same.eval(&Bindings::new(), &mut Budget::new(1000)).map(|v| v.as_bool()), Ok(Some(true)));
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

    /// Evaluates expressions of a policy one after the other; what each gives and costs.
    fn evaluated(variables: &[(&str, &str)], expressions: &[&str]) -> Vec<(Result<String, String>, u64)> {
        let mut all = Variables::new(Has::default());
        for (name, expression) in variables {
            // What does not compile is an error of those who use it.
            let _ = all.add(name, expression);
        }
        let env = all.env();
        let programs: Vec<_> = expressions.iter().map(|e| compile(&env, e, &[]).expect(e)).collect();
        let object = serde_json::json!({"spec": {"replicas": 3, "names": ["a", "b"]}});
        let variables = all.into_programs();
        let mut scope = Scope::new(&variables, Bindings::new().with("object", &object).with("oldObject", Value::Null));
        let one = |program: &Program| {
            let (value, cost) = scope.eval(program);
            (value.map(|v| v.to_string()).map_err(|e| e.to_string()), cost)
        };
        programs.iter().map(one).collect()
    }

    #[test]
    fn variables_are_computed_once_and_only_when_asked_for() {
        let variables = [
            ("replicas", "object.spec.replicas"),
            ("double", "variables.replicas * 2"),
            ("missing", "object.spec.nothing"),
            ("bad", "nope"),
        ];
        let all = evaluated(
            &variables,
            &[
                "variables.double == 6",
                "variables.double == 6",
                "true || variables.missing == 1",
                "variables.missing == 1",
                "variables.bad == 1",
                "[1, 2].all(variables, variables > 0)",
                "has(variables.double)",
            ],
        );
        let ok = |text: &str| Ok(text.to_owned());
        let failed = |text: &str| Err(text.to_owned());
        // Twice one for each select and name, and the calls.
        assert_eq!(all[0], (ok("true"), 3 + (2 + 1) + 3));
        assert_eq!(all[1], (ok("true"), 3));
        assert_eq!(all[2], (ok("true"), 0));
        let missing = "composited variable \"missing\" fails to evaluate: no such key: nothing";
        assert_eq!(all[3].0, failed(missing));
        assert!(all[4].0.as_ref().is_err_and(|e| e.starts_with("composited variable \"bad\" fails to compile: ")));
        assert_eq!(all[5].0, ok("true"));
        assert_eq!(all[6].0, failed(missing), "all of them are computed for the object they are fields of");
    }

    #[test]
    fn chains_of_variables_are_bounded() {
        let chain = |length: usize| -> Vec<(String, String)> {
            let step = |n: usize| match n {
                0 => "object.spec.replicas".to_owned(),
                n => format!("variables.v{} + 1", n - 1),
            };
            (0..length).map(|n| (format!("v{n}"), step(n))).collect()
        };
        let last = move |length: usize| {
            let chain = chain(length);
            let variables: Vec<_> = chain.iter().map(|(n, e)| (n.as_str(), e.as_str())).collect();
            let name = format!("variables.v{}", length - 1);
            evaluated(&variables, &[&name]).remove(0).0
        };
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        let run = move || {
            assert_eq!(last(100), Ok("102".to_owned()));
            assert!(last(1000).is_err_and(|e| e.ends_with("depends on too many others")));
        };
        thread.spawn(run).expect("a thread").join().expect("no overflow");
        let own = evaluated(&[("x", "1"), ("x", "variables.x + 1")], &["variables.x"]).remove(0).0;
        assert!(own.is_err_and(|e| e.ends_with("depends on too many others")));
    }
}
