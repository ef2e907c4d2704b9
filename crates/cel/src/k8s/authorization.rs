//! Expressions of the structured authorization configuration (`apiserver/pkg/authorization/cel/compile.go`): about a
//! request that a webhook may be asked about.

use std::sync::LazyLock;

use super::base;
use crate::env::Env;
use crate::types::{Shape, Type};

fn object(name: &str, texts: &[&str], others: impl IntoIterator<Item = (&'static str, Shape)>) -> Shape {
    let texts = texts.iter().map(|name| ((*name).to_owned(), Shape::from(Type::String)));
    let others = others.into_iter().map(|(name, shape)| (name.to_owned(), shape));
    Shape::object(name, texts.chain(others))
}

static REQUEST: LazyLock<Env> = LazyLock::new(|| {
    let texts = || Shape::from(Type::list(Type::String));
    let selector = |name: &str| {
        let requirement = object("kubernetes.SelectorRequirement", &["key", "operator"], [("values", texts())]);
        object(name, &["rawSelector"], [("requirements", Shape::list(requirement, None))])
    };
    let resource = object(
        "kubernetes.ResourceAttributes",
        &["namespace", "verb", "group", "version", "resource", "subresource", "name"],
        [
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let request = object(
        "kubernetes.SubjectAccessReviewSpec",
        &["user", "uid"],
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", object("kubernetes.NonResourceAttributes", &["path", "verb"], [])),
            ("groups", texts()),
            ("extra", Type::map(Type::String, Type::list(Type::String)).into()),
        ],
    );
    base().extend().variable("request", request).build()
});

/// The environment of a match condition: the variable `request`, the specification of a SubjectAccessReview.
pub fn request() -> Env {
    REQUEST.clone()
}
