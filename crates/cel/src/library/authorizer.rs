//! What the requester may do (`apiserver/pkg/cel/library/authz.go`).
//!
//! Authorizers may have to ask others, and this engine waits for nobody. So an expression looks its questions up in
//! [`Answers`]: one without an answer fails and is noted as open; whoever evaluates asks the authorizer, puts the answer
//! in and evaluates anew. What is asked more than once is answered once, as upstream.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Library, Result, opaque, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::names;
use crate::types::Type;
use crate::value::{Opaque, Value};

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.authz", declare);

/// The type of `authorizer`.
pub fn ty() -> Type {
    Type::opaque("kubernetes.authorization.Authorizer")
}

/// The type of `authorizer.requestResource`.
pub fn resource_check() -> Type {
    Type::opaque("kubernetes.authorization.ResourceCheck")
}

fn path_check() -> Type {
    Type::opaque("kubernetes.authorization.PathCheck")
}

fn group_check() -> Type {
    Type::opaque("kubernetes.authorization.GroupCheck")
}

fn decision() -> Type {
    Type::opaque("kubernetes.authorization.Decision")
}

/// What an expression asks the authorizer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Namespace and name of the service account meant; without one it is the requester.
    pub account: Option<(String, String)>,
    /// What is to be done; an HTTP verb where `path` is set.
    pub verb: String,
    /// A path outside the resources; empty for a resource.
    pub path: String,
    /// API group.
    pub group: String,
    /// Plural resource.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Field selector as written.
    pub field_selector: String,
    /// Label selector as written.
    pub label_selector: String,
}

/// What the authorizer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Whether it is allowed.
    pub allowed: bool,
    /// Why or why not.
    pub reason: String,
    /// What went wrong; empty for nothing.
    pub error: String,
}

/// The questions that expressions asked, and the answers known. Cheap to clone; clones share both.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<Mutex<Asked>>);

#[derive(Debug, Default)]
struct Asked {
    known: Vec<(Question, Answer)>,
    open: Vec<Question>,
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Asked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The questions without an answer since this was last called.
    pub fn open(&self) -> Vec<Question> {
        std::mem::take(&mut self.lock().open)
    }

    /// Answers a question.
    pub fn put(&self, question: Question, answer: Answer) {
        self.lock().known.push((question, answer));
    }

    /// What `authorizer` is bound to.
    pub fn authorizer(&self) -> Value<'static> {
        Value::opaque(Authorizer { answers: self.clone(), account: None })
    }

    /// What `authorizer.requestResource` is bound to: a question whose verb is still to be said.
    pub fn about(&self, question: Question) -> Value<'static> {
        Value::opaque(ResourceCheck { answers: self.clone(), question })
    }

    fn ask(&self, question: Question) -> Result<'static> {
        let mut asked = self.lock();
        if let Some((_, answer)) = asked.known.iter().find(|(q, _)| *q == question) {
            return Ok(Value::opaque(Decision(answer.clone())));
        }
        if !asked.open.contains(&question) {
            asked.open.push(question);
        }
        Err(EvalError::new("the authorizer has not answered yet"))
    }
}

#[derive(Clone, Debug)]
struct Authorizer {
    answers: Answers,
    account: Option<(String, String)>,
}

#[derive(Clone, Debug)]
struct PathCheck(ResourceCheck);

#[derive(Clone, Debug)]
struct GroupCheck(ResourceCheck);

#[derive(Clone, Debug)]
struct ResourceCheck {
    answers: Answers,
    question: Question,
}

#[derive(Clone, Debug)]
struct Decision(Answer);

/// These values have functions and nothing else; two of them are never equal.
macro_rules! receivers {
    ($($of:ty: $ty:path),*) => {$(
        impl Opaque for $of {
            fn ty(&self) -> Type {
                $ty()
            }

            fn equals(&self, _: &dyn Opaque) -> bool {
                false
            }
        }
    )*};
}

receivers!(Authorizer: ty, PathCheck: path_check, GroupCheck: group_check, ResourceCheck: resource_check, Decision: decision);

impl Authorizer {
    fn begin(&self, change: impl FnOnce(&mut Question)) -> ResourceCheck {
        let mut question = Question { account: self.account.clone(), ..Question::default() };
        change(&mut question);
        ResourceCheck { answers: self.answers.clone(), question }
    }
}

/// The question of a resource check with one part of it set to the second argument.
fn with(args: &[Value<'_>], part: fn(&mut Question) -> &mut String) -> Result<'static> {
    let mut check: ResourceCheck = opaque::<ResourceCheck>(args, 0)?.clone();
    *part(&mut check.question) = text(args, 1)?.to_owned();
    Ok(Value::opaque(check))
}

fn check(check: &ResourceCheck, args: &[Value<'_>]) -> Result<'static> {
    check.answers.ask(Question { verb: text(args, 1)?.to_owned(), ..check.question.clone() })
}

fn declare(f: &mut Functions) {
    use Type::{Bool, String};
    f.member("path", "authorizer_path", [ty(), String], path_check(), |a| {
        let path = text(a, 1)?;
        if path.trim().is_empty() {
            return Err(EvalError::new("path must not be empty"));
        }
        Ok(Value::opaque(PathCheck(opaque::<Authorizer>(a, 0)?.begin(|q| q.path = path.to_owned()))))
    });
    f.member("check", "pathcheck_check", [path_check(), String], decision(), |a| {
        check(&opaque::<PathCheck>(a, 0)?.0, a)
    });
    f.member("group", "authorizer_group", [ty(), String], group_check(), |a| {
        let group = text(a, 1)?.to_owned();
        Ok(Value::opaque(GroupCheck(opaque::<Authorizer>(a, 0)?.begin(|q| q.group = group))))
    });
    f.member("serviceAccount", "authorizer_serviceaccount", [ty(), String, String], ty(), |a| {
        let (namespace, name) = (text(a, 1)?, text(a, 2)?);
        if !names::dns_subdomain(name, false).is_empty() {
            return Err(EvalError::new("Invalid service account name"));
        }
        if !names::dns_label(namespace, false).is_empty() {
            return Err(EvalError::new("Invalid service account namespace"));
        }
        let answers = opaque::<Authorizer>(a, 0)?.answers.clone();
        Ok(Value::opaque(Authorizer { answers, account: Some((namespace.to_owned(), name.to_owned())) }))
    });
    f.member("resource", "groupcheck_resource", [group_check(), String], resource_check(), |a| {
        let resource = text(a, 1)?;
        if resource.trim().is_empty() {
            return Err(EvalError::new("resource must not be empty"));
        }
        let mut check = opaque::<GroupCheck>(a, 0)?.0.clone();
        check.question.resource = resource.to_owned();
        Ok(Value::opaque(check))
    });
    let part = |f: &mut Functions, name, id, native| {
        f.member(name, id, [resource_check(), String], resource_check(), native);
    };
    part(f, "subresource", "resourcecheck_subresource", |a| with(a, |q| &mut q.subresource));
    part(f, "namespace", "resourcecheck_namespace", |a| with(a, |q| &mut q.namespace));
    part(f, "name", "resourcecheck_name", |a| with(a, |q| &mut q.name));
    part(f, "fieldSelector", "authorizer_fieldselector", |a| with(a, |q| &mut q.field_selector));
    part(f, "labelSelector", "authorizer_labelselector", |a| with(a, |q| &mut q.label_selector));
    f.member("check", "resourcecheck_check", [resource_check(), String], decision(), |a| {
        check(opaque::<ResourceCheck>(a, 0)?, a)
    });
    f.member("errored", "decision_errored", [decision()], Bool, |a| {
        Ok((!opaque::<Decision>(a, 0)?.0.error.is_empty()).into())
    });
    f.member("error", "decision_error", [decision()], String, |a| Ok(opaque::<Decision>(a, 0)?.0.error.clone().into()));
    f.member("allowed", "decision_allowed", [decision()], Bool, |a| Ok(opaque::<Decision>(a, 0)?.0.allowed.into()));
    f.member("reason", "decision_reason", [decision()], String, |a| {
        Ok(opaque::<Decision>(a, 0)?.0.reason.clone().into())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::Env;
    use crate::eval::{Bindings, Budget};

    #[test]
    fn questions_are_noted_and_answered_once() {
        let env = Env::builder().library(LIBRARY).variable("authorizer", ty()).build();
        let eval = |expression: &str, answers: &Answers| {
            let program = env.compile(expression).expect(expression);
            let bindings = Bindings::new().with("authorizer", answers.authorizer());
            program.eval(&bindings, &mut Budget::new(1_000_000)).map(|v| v.to_string()).map_err(|e| e.to_string())
        };
        let answers = Answers::default();
        let pods = "authorizer.group('apps').resource('deployments').subresource('scale').namespace('n').name('x')\
                    .check('update')";
        assert!(eval(&format!("{pods}.allowed()"), &answers).is_err());
        let text = str::to_owned;
        let question = Question {
            verb: text("update"),
            group: text("apps"),
            resource: text("deployments"),
            subresource: text("scale"),
            namespace: text("n"),
            name: text("x"),
            ..Question::default()
        };
        assert_eq!(answers.open(), std::slice::from_ref(&question));
        assert_eq!(answers.open(), []);
        answers.put(question, Answer { allowed: true, reason: text("because"), error: text("") });
        assert_eq!(eval(&format!("{pods}.allowed()"), &answers), Ok(text("true")));
        assert_eq!(eval(&format!("{pods}.reason()"), &answers), Ok(text("because")));
        assert_eq!(eval(&format!("{pods}.errored() || {pods}.error() != ''"), &answers), Ok(text("false")));
        assert_eq!(answers.open(), []);

        // What decides without the answer needs none.
        assert_eq!(eval("authorizer.path('/x').check('get').allowed() || true", &answers), Ok(text("true")));
        assert!(eval("authorizer.serviceAccount('a', 'b').path('/x').check('get').allowed()", &answers).is_err());
        let open = answers.open();
        assert_eq!((open[0].path.as_str(), &open[0].account), ("/x", &None));
        assert_eq!(open[1].account, Some((text("a"), text("b"))));
        for (expression, want) in [
            ("authorizer.path(' ').check('get').allowed()", "path must not be empty"),
            ("authorizer.group('').resource('').check('get').allowed()", "resource must not be empty"),
            ("authorizer.serviceAccount('A', 'b').path('/').check('').allowed()", "Invalid service account namespace"),
            ("authorizer.serviceAccount('a', '_').path('/').check('').allowed()", "Invalid service account name"),
        ] {
            assert_eq!(eval(expression, &answers), Err(text(want)), "{expression}");
        }
    }
}
