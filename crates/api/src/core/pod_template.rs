//! `PodTemplate`. Upstream: `pkg/registry/core/podtemplate/strategy.go`.

use serde_json::{Value, json};

use super::pod::defaults;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{Facts, NAME, facts};
use crate::object::{View, at, at_mut};
use crate::strategy::{first_generation, next_generation};
use crate::table::{containers_and_images, labels, name};
use crate::validate::pod_spec::{self, warnings};

/// The kind `PodTemplate`.
pub struct PodTemplate;

impl Kind for PodTemplate {
    facts!(Facts {
        kind: "PodTemplate",
        plural: "podtemplates",
        columns: &[NAME, ("Containers", "string", "", 0), ("Images", "string", "", 0), ("Pod Labels", "string", "", 0)],
        ..Facts::namespaced("", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["template", "spec"]) {
            defaults::pod_spec(spec);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["template"]);
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        pod_spec::template(&mut errs, cx, &View::root(obj).get("template"), false);
        errs
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        warnings::template_at("template", new, old)
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        let (containers, images) = containers_and_images(at(obj, &["template", "spec"]));
        vec![
            json!(name(obj)),
            json!(containers),
            json!(images),
            json!(labels(at(obj, &["template", "metadata", "labels"]))),
        ]
    }
}
