//! `DaemonSet`. Upstream: `pkg/registry/apps/daemonset/strategy.go`, `ValidateDaemonSetSpec`.

use serde_json::{Value, json};

use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, same, set, text};
use crate::strategy::{first_generation, reset_spec_or_status, separate_status};
use crate::table::{age, containers_and_images, label_selector, labels, name};
use crate::validate::pod_spec::warnings;
use crate::validate::{immutable_field, internal, non_negative, selector, workload};

/// The kind `DaemonSet`.
pub struct DaemonSet;

impl Kind for DaemonSet {
    facts!(Facts {
        kind: "DaemonSet",
        plural: "daemonsets",
        short_names: &["ds"],
        categories: &["all"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Desired", "integer", "", 0),
            ("Current", "integer", "", 0),
            ("Ready", "integer", "", 0),
            ("Up-to-date", "integer", "", 0),
            ("Available", "integer", "", 0),
            ("Node Selector", "string", "", 0),
            AGE,
            ("Containers", "string", "", 1),
            ("Images", "string", "", 1),
            ("Selector", "string", "", 1)
        ],
        ..Facts::namespaced("apps", "v1")
    });

    fn meta_passes(&self, subresource: Option<&str>) -> &'static [MetaPass] {
        MetaPass::of_door(subresource, &[MetaPass::New, MetaPass::Changed])
    }

    fn default(&self, obj: &mut Value) {
        // A field of the internal form, which every versioned one shows (`Convert_apps_DaemonSet_To_v1_DaemonSet`).
        if obj.is_object() && at(obj, &["metadata", "annotations", TEMPLATE_GENERATION]).is_null() {
            template_generation(obj, 0);
        }
        defaults::template(obj);
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_value(spec, "updateStrategy", json!({}));
        if let Some(strategy) = at_mut(spec, &["updateStrategy"]) {
            default_text(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate" {
                default_value(strategy, "rollingUpdate", json!({}));
                if let Some(rolling) = at_mut(strategy, &["rollingUpdate"]) {
                    default_value(rolling, "maxUnavailable", 1);
                    default_value(rolling, "maxSurge", 0);
                }
            }
        }
        default_value(spec, "revisionHistoryLimit", 10);
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(
            obj,
            &["status"],
            json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0}),
        );
        first_generation(obj);
        template_generation(obj, generation_of_template(obj).max(1));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        let changed = !separate_status(new, old, cx.subresource)
            && !same(at(new, &["spec", "template"]), at(old, &["spec", "template"]));
        template_generation(new, generation_of_template(old).saturating_add(i64::from(changed)));
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        spec(cx, obj, None)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return status(new, old);
        }
        // Upstream checks the spec twice, as that of a new one and as that of a changed one.
        let mut errs = spec(cx, new, Some(old));
        errs.extend(errs.clone());
        immutable_field(&mut errs, new, old, &["spec", "selector"]);
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let number = |field: &str| at(obj, &["status", field]).as_i64().unwrap_or_default();
        let (containers, images) = containers_and_images(at(obj, &["spec", "template", "spec"]));
        vec![
            json!(name(obj)),
            json!(number("desiredNumberScheduled")),
            json!(number("currentNumberScheduled")),
            json!(number("numberReady")),
            json!(number("updatedNumberScheduled")),
            json!(number("numberAvailable")),
            json!(labels(at(obj, &["spec", "template", "spec", "nodeSelector"]))),
            json!(age(obj, now)),
            json!(containers),
            json!(images),
            json!(label_selector(at(obj, &["spec", "selector"]))),
        ]
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource == Some("status") { Vec::new() } else { warnings::template(new, old) }
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// Where the number of the template, a field of older versions, is kept.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

fn generation_of_template(obj: &Value) -> i64 {
    text(obj, &["metadata", "annotations", TEMPLATE_GENERATION]).parse().unwrap_or_default()
}

fn template_generation(obj: &mut Value, n: i64) {
    set(obj, &["metadata", "annotations", TEMPLATE_GENERATION], n.to_string());
}

fn spec(cx: &Cx<'_>, obj: &Value, old: Option<&Value>) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let chosen = spec.get("selector");
    selector::label_selector(&mut errs, &chosen);
    workload::selects_template(&mut errs, &spec);
    if chosen.is_set() && selector::is_empty(chosen.value()) {
        errs.invalid(chosen.path(), chosen.value(), "empty selector is invalid for daemonset");
    }
    workload::pods(&mut errs, cx, &spec, old, "DaemonSet");
    non_negative(&mut errs, &spec.get("minReadySeconds"));
    let strategy = spec.get("updateStrategy");
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").str() {
        "OnDelete" => {}
        "RollingUpdate" => {
            if !rolling.is_set() {
                errs.required(rolling.path(), "");
            } else {
                let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
                workload::int_or_percent(&mut errs, &unavailable);
                workload::int_or_percent(&mut errs, &surge);
                workload::at_most_100_percent(&mut errs, &unavailable);
                workload::at_most_100_percent(&mut errs, &surge);
                let (u, s) = (workload::scaled(unavailable.value()), workload::scaled(surge.value()));
                if u > 0 && s > 0 {
                    errs.invalid(surge.path(), surge.value(), "may not be set when maxUnavailable is non-zero");
                } else if u == 0 && s == 0 {
                    errs.required(unavailable.path(), "cannot be 0 when maxSurge is 0");
                }
            }
        }
        _ => {
            let shown = workload::shown_strategy(&strategy, internal::ROLLING_UPDATE);
            errs.not_supported(strategy.path(), shown, &["RollingUpdate", "OnDelete"]);
        }
    }
    non_negative(&mut errs, &spec.get("revisionHistoryLimit"));
    errs
}

fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let status = View::root(new).get("status");
    for field in [
        "currentNumberScheduled",
        "numberMisscheduled",
        "desiredNumberScheduled",
        "numberReady",
        "observedGeneration",
        "updatedNumberScheduled",
        "numberAvailable",
        "numberUnavailable",
        "collisionCount",
    ] {
        non_negative(&mut errs, &status.get(field));
    }
    workload::collisions(&mut errs, &status, old);
    errs
}
