//! `HorizontalPodAutoscaler` of `autoscaling/v2`, the form that is stored. Upstream:
//! `pkg/registry/autoscaling/horizontalpodautoscaler/strategy.go`, `pkg/apis/autoscaling/{v2,validation}`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, at, at_mut, default_text, default_value, items_mut, list, remove, restore, set, text};
use crate::strategy::reset_spec_or_status;
use crate::table::{age, name};
use crate::validate::pod_spec::resources::container_resource_name;
use crate::validate::{dns_label_at, non_negative};

/// The kind `HorizontalPodAutoscaler`.
pub struct HorizontalPodAutoscaler;

impl Kind for HorizontalPodAutoscaler {
    facts!(Facts {
        kind: "HorizontalPodAutoscaler",
        plural: "horizontalpodautoscalers",
        short_names: &["hpa"],
        categories: &["all"],
        subresources: &[STATUS],
        columns: &[
            NAME,
            ("Reference", "string", "", 0),
            ("Targets", "string", "", 0),
            ("MinPods", "string", "", 0),
            ("MaxPods", "string", "", 0),
            ("Replicas", "string", "", 0),
            AGE
        ],
        ..Facts::namespaced("autoscaling", "v2")
    });

    fn default(&self, obj: &mut Value) {
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        default_value(spec, "minReplicas", 1);
        if list(spec, &["metrics"]).is_empty() {
            set(
                spec,
                &["metrics"],
                json!([{"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80}}}]),
            );
        }
        if let Some(behavior) = at_mut(spec, &["behavior"]) {
            default_rules(
                behavior,
                "scaleUp",
                json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
            );
            default_rules(behavior, "scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({"currentMetrics": null, "desiredReplicas": 0}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        restore(new, old, if cx.subresource == Some("status") { &["spec"] } else { &["status"] });
    }

    fn validate(&self, cx: &Cx<'_>, obj: &Value) -> ErrorList {
        validate(cx, obj, &Value::Null)
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") { status(new) } else { validate(cx, new, old) }
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        cells(obj, now)
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

/// The kinds of metric and the field each is described in.
const METRICS: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// Rules of a direction a client said something about; scaling up does not wait, scaling down as the controller is set.
fn default_rules(behavior: &mut Value, direction: &str, policies: Value) {
    let up = direction == "scaleUp";
    if up {
        default_value(behavior, direction, json!({}));
    }
    default_value(behavior, direction, json!({}));
    let Some(rules) = at_mut(behavior, &[direction]) else { return };
    default_text(rules, "selectPolicy", "Max");
    if up {
        default_value(rules, "stabilizationWindowSeconds", 0);
    }
    if at(rules, &["policies"]).is_null() {
        set(rules, &["policies"], policies);
    }
}

/// How strictly the version of a reference is looked at. Upstream: `CrossVersionObjectReferenceValidationOptions`.
#[derive(Clone, Copy)]
struct Versions {
    any: bool,
    without_group: bool,
}

/// Checks an autoscaler in this form; `old` is `null` for a new one.
/// Upstream: `validateHorizontalPodAutoscalerSpec`, `validationOptionsForHorizontalPodAutoscaler`.
pub(super) fn validate(cx: &Cx<'_>, obj: &Value, old: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let spec = View::root(obj).get("spec");
    let (least, most, target) = (spec.get("minReplicas"), spec.get("maxReplicas"), spec.get("scaleTargetRef"));
    let to_zero = cx.features.enabled("HPAScaleToZero", false) || at(old, &["spec", "minReplicas"]).as_i64() == Some(0);
    let bound = i64::from(!to_zero);
    if let Some(n) = least.int().filter(|n| *n < bound) {
        errs.invalid(least.path(), n, format!("must be greater than or equal to {bound}"));
    }
    let max = most.int().unwrap_or_default();
    if max < 1 {
        if max == 0 {
            errs.required(most.path(), "must be set and greater than 0");
        } else {
            errs.invalid(most.path(), max, "must be greater than 0");
        }
    }
    if least.int().is_some_and(|n| max < n) {
        errs.invalid(most.path(), max, "must be greater than or equal to `minReplicas`");
    }
    // What stays is not looked at again; of what scales in the core group there is one kind.
    let before = at(old, &["spec", "scaleTargetRef"]);
    let stays = !old.is_null() && ["apiVersion", "kind"].iter().all(|f| text(before, &[f]) == target.get(f).str());
    let without_group = !stays && target.get("kind").str() == "ReplicationController";
    reference(&mut errs, &target, Versions { any: stays, without_group });
    let described = |metric: &Value| metric["type"] == "Object" && !at(metric, &["object"]).is_null();
    let any = list(old, &["spec", "metrics"])
        .iter()
        .filter(|metric| described(metric))
        .any(|metric| group(text(metric, &["object", "describedObject", "apiVersion"])).is_err());
    for one in spec.items("metrics") {
        metric(&mut errs, &one, Versions { any, without_group: true });
    }
    let by_others = |metric: &Value| matches!(text(metric, &["type"]), "Object" | "External");
    if least.int() == Some(0) && !list(obj, &["spec", "metrics"]).iter().any(by_others) {
        errs.forbidden(
            spec.get("metrics").path(),
            "must specify at least one Object or External metric to support scaling to zero replicas",
        );
    }
    behavior(&mut errs, &spec.get("behavior"));
    errs
}

/// The group of a version. Upstream: `schema.ParseGroupVersion`.
fn group(version: &str) -> Result<&str, String> {
    match version.matches('/').count() {
        0 => Ok(""),
        1 => Ok(version.split_once('/').map_or("", |(group, _)| group)),
        _ => Err(format!("unexpected GroupVersion string: {version}")),
    }
}

/// Upstream: `ValidateCrossVersionObjectReference`.
fn reference(errs: &mut ErrorList, v: &View<'_>, versions: Versions) {
    for field in ["kind", "name"] {
        let part = v.get(field);
        if part.str().is_empty() {
            errs.required(part.path(), "");
        } else {
            for problem in crate::names::path_segment(part.str(), false) {
                errs.invalid(part.path(), part.str(), problem);
            }
        }
    }
    let version = v.get("apiVersion");
    match group(version.str()) {
        _ if versions.any => {}
        Err(problem) => errs.invalid(version.path(), version.str(), problem),
        Ok("") if !versions.without_group => {
            errs.invalid(version.path(), version.str(), "apiVersion must specify API group");
        }
        Ok(_) => {}
    }
}

/// Upstream: `validateMetricSpec`; of several sources the first is looked at.
fn metric(errs: &mut ErrorList, v: &View<'_>, versions: Versions) {
    const SOURCES: [&str; 5] = ["object", "external", "pods", "resource", "containerResource"];
    let (ty, names) = (v.get("type"), METRICS.map(|(name, _)| name));
    let expected = METRICS.iter().find(|(name, _)| *name == ty.str()).map(|(_, field)| *field);
    if ty.is_empty() {
        errs.required(ty.path(), "must specify a metric source type");
    }
    if expected.is_none() {
        errs.not_supported(ty.path(), ty.str(), &names);
    }
    let present: Vec<&str> = SOURCES.into_iter().filter(|field| v.get(field).is_set()).collect();
    if let Some(first) = present.first() {
        source(errs, first, &v.get(first), versions);
    }
    match expected {
        Some(field) if !v.get(field).is_set() => {
            errs.required(v.get(field).path(), "must populate information for the given metric source");
        }
        Some(_) => {}
        // Upstream says it twice.
        None => errs.not_supported(ty.path(), ty.str(), &names),
    }
    if present.len() > 1 {
        for other in present.into_iter().filter(|field| Some(*field) != expected) {
            errs.forbidden(v.get(other).path(), "must populate the given metric source only");
        }
    }
}

fn source(errs: &mut ErrorList, field: &str, v: &View<'_>, versions: Versions) {
    let (name, wanted) = (v.get("name"), v.get("target"));
    let (value, average, utilization) =
        (wanted.get("value"), wanted.get("averageValue"), wanted.get("averageUtilization"));
    match field {
        "resource" | "containerResource" => {
            let in_container = field == "containerResource";
            if name.is_empty() {
                errs.required(name.path(), "must specify a resource name");
            } else if in_container {
                container_resource_name(errs, name.str(), name.path());
            }
            let container = v.get("container");
            if in_container && container.is_empty() {
                errs.required(container.path(), "must specify a container");
            } else if in_container {
                dns_label_at(errs, &container);
            }
            target(errs, &wanted);
            if !utilization.is_set() && !average.is_set() {
                errs.required(utilization.path(), "must set either a target raw value or a target utilization");
            }
            if utilization.is_set() && average.is_set() {
                errs.forbidden(average.path(), "may not set both a target raw value and a target utilization");
            }
        }
        _ => {
            if field == "object" {
                reference(errs, &v.get("describedObject"), versions);
            }
            let metric = v.dig("metric.name");
            if metric.is_empty() {
                errs.required(metric.path(), "must specify a metric name");
            }
            for problem in crate::names::path_segment(metric.str(), false) {
                errs.invalid(metric.path(), metric.str(), problem);
            }
            target(errs, &wanted);
            let needed = match field {
                "object" => "must set either a target value or averageValue",
                "external" => "must set either a target value for metric or a per-pod target",
                _ => "must specify a positive target averageValue",
            };
            if !average.is_set() && (field == "pods" || !value.is_set()) {
                errs.required(average.path(), needed);
            }
            if field == "external" && value.is_set() && average.is_set() {
                errs.forbidden(value.path(), "may not set both a target value for metric and a per-pod target");
            }
        }
    }
}

fn target(errs: &mut ErrorList, v: &View<'_>) {
    let (ty, utilization) = (v.get("type"), v.get("averageUtilization"));
    if ty.is_empty() {
        errs.required(ty.path(), "must specify a metric target type");
    }
    if !matches!(ty.str(), "AverageValue" | "Utilization" | "Value") {
        errs.invalid(ty.path(), ty.str(), "must be either Utilization, Value, or AverageValue");
    }
    for amount in ["value", "averageValue"].map(|field| v.get(field)) {
        if amount.str().parse::<crate::quantity::Quantity>().is_ok_and(|q| q.sign() <= 0) {
            errs.invalid(amount.path(), amount.str(), "must be positive");
        }
    }
    if let Some(n) = utilization.int().filter(|n| *n < 1) {
        errs.invalid(utilization.path(), n, "must be greater than 0");
    }
}

fn behavior(errs: &mut ErrorList, v: &View<'_>) {
    for direction in ["scaleUp", "scaleDown"] {
        let rules = v.get(direction);
        if !rules.is_set() {
            continue;
        }
        let window = rules.get("stabilizationWindowSeconds");
        match window.int() {
            Some(n) if n < 0 => errs.invalid(window.path(), n, "must be greater than or equal to zero"),
            Some(n) if n > 3600 => errs.invalid(window.path(), n, "must be less than or equal to 3600"),
            _ => {}
        }
        let select = rules.get("selectPolicy");
        if select.is_set() && !matches!(select.str(), "Disabled" | "Max" | "Min") {
            errs.not_supported(select.path(), select.str(), &["Disabled", "Max", "Min"]);
        }
        if rules.get("policies").is_empty() {
            errs.required(rules.get("policies").path(), "must specify at least one Policy");
        }
        for policy in rules.items("policies") {
            let (ty, value, period) = (policy.get("type"), policy.get("value"), policy.get("periodSeconds"));
            if !matches!(ty.str(), "Percent" | "Pods") {
                errs.not_supported(ty.path(), ty.str(), &["Percent", "Pods"]);
            }
            for v in [&value, &period] {
                let n = v.int().unwrap_or_default();
                if n <= 0 {
                    errs.invalid(v.path(), n, "must be greater than zero");
                }
            }
            if let Some(n) = period.int()
                && n > 1800
            {
                errs.invalid(period.path(), n, "must be less than or equal to 1800");
            }
        }
        crate::validate::pod_spec::resources::amount(errs, &rules.get("tolerance"));
    }
}

pub(super) fn status(new: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    for field in ["currentReplicas", "desiredReplicas"] {
        non_negative(&mut errs, &View::root(new).get("status").get(field));
    }
    errs
}

/// One metric: what it is now and what is wanted. Upstream: `formatHPAMetrics`.
fn shown(spec: &Value, current: Option<&Value>) -> String {
    let ty = text(spec, &["type"]);
    let Some((_, field)) = METRICS.iter().find(|(name, _)| *name == ty) else { return "<unknown type>".into() };
    let target = at(spec, &[field, "target"]);
    let now = |key: &str| current.map_or(&Value::Null, |c| at(c, &[field, "current", key]));
    let amount = |v: &Value| v.as_str().map_or_else(|| "<unknown>".to_owned(), str::to_owned);
    let name = match *field {
        "resource" | "containerResource" => format!("{}: ", text(spec, &[field, "name"])),
        _ => String::new(),
    };
    if let Some(wanted) = at(target, &["averageUtilization"]).as_i64() {
        let current = now("averageUtilization").as_i64().map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"));
        return format!("{name}{current}/{wanted}%");
    }
    match at(target, &["averageValue"]) {
        Value::Null => format!("{name}{}/{}", amount(now("value")), amount(at(target, &["value"]))),
        wanted => {
            let suffix = if matches!(*field, "object" | "external") { " (avg)" } else { "" };
            format!("{name}{}/{}{suffix}", amount(now("averageValue")), amount(wanted))
        }
    }
}

pub(super) fn cells(obj: &Value, now: jiff::Timestamp) -> Cells {
    const MAX: usize = 2;
    let metrics = list(obj, &["spec", "metrics"]);
    let current = list(obj, &["status", "currentMetrics"]);
    let mut targets =
        metrics.iter().take(MAX).enumerate().map(|(i, m)| shown(m, current.get(i))).collect::<Vec<_>>().join(", ");
    if targets.is_empty() {
        targets = "<none>".into();
    } else if metrics.len() > MAX {
        targets.push_str(&format!(" + {} more...", metrics.len() - MAX));
    }
    let least = at(obj, &["spec", "minReplicas"]).as_i64().map_or_else(|| "<unset>".to_owned(), |n| n.to_string());
    vec![
        json!(name(obj)),
        json!(format!(
            "{}/{}",
            text(obj, &["spec", "scaleTargetRef", "kind"]),
            text(obj, &["spec", "scaleTargetRef", "name"])
        )),
        json!(targets),
        json!(least),
        json!(at(obj, &["spec", "maxReplicas"]).as_i64().unwrap_or_default()),
        json!(at(obj, &["status", "currentReplicas"]).as_i64().unwrap_or_default()),
        json!(age(obj, now)),
    ]
}

/// Keeps the items of `field` for which `keep` holds.
pub(super) fn split(obj: &mut Value, field: &str, keep: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut rest = Vec::new();
    for item in items_mut(obj, field) {
        if !keep(item) {
            rest.push(item.take());
        }
    }
    if let Some(items) = obj.get_mut(field).and_then(Value::as_array_mut) {
        items.retain(|v| !v.is_null());
        if items.is_empty() {
            remove(obj, &[field]);
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn a_metric_has_one_source_and_a_target() {
        let problems = |metric: Value| {
            let mut errs = ErrorList::new();
            super::metric(
                &mut errs,
                &View::at(crate::field::Path::new("m"), &metric),
                Versions { any: false, without_group: true },
            );
            errs.0.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}});
        let pods = json!({"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}});
        const TYPES: &str = "\"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"";
        for (metric, expected) in [
            (json!({"type": "Resource", "resource": cpu}), vec![]),
            (json!({"type": "Pods", "pods": pods}), vec![]),
            (
                json!({"type": "Resource", "resource": cpu, "pods": pods}),
                vec!["m.pods: Forbidden: must populate the given metric source only".to_owned()],
            ),
            (
                json!({"type": "Pods", "resource": cpu}),
                vec!["m.pods: Required value: must populate information for the given metric source".to_owned()],
            ),
            (
                json!({"type": "X"}),
                vec![format!("m.type: Unsupported value: \"X\": supported values: {TYPES}"); 2],
            ),
            (
                json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "target": {"type": "Value"}}}),
                vec![
                    "m.containerResource.container: Required value: must specify a container".to_owned(),
                    "m.containerResource.target.averageUtilization: Required value: must set either a target raw value or a \
                     target utilization"
                        .to_owned(),
                ],
            ),
            (
                json!({"type": "External", "external": {"metric": {"name": "a/b"}, "target": {"value": "0", "averageValue": "1"}}}),
                vec![
                    "m.external.metric.name: Invalid value: \"a/b\": may not contain '/'".to_owned(),
                    "m.external.target.type: Required value: must specify a metric target type".to_owned(),
                    "m.external.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue".to_owned(),
                    "m.external.target.value: Invalid value: \"0\": must be positive".to_owned(),
                    "m.external.target.value: Forbidden: may not set both a target value for metric and a per-pod target"
                        .to_owned(),
                ],
            ),
        ] {
            assert_eq!(problems(metric.clone()), expected, "{metric}");
        }
    }

    fn hpa(spec: Value) -> Value {
        let mut obj = json!({"spec": {"maxReplicas": 5,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            obj["spec"][field] = value.clone();
        }
        HorizontalPodAutoscaler.default(&mut obj);
        obj
    }

    #[test]
    fn specs() {
        let check = |spec: Value, expected: &[&str]| {
            assert_eq!(problems(&HorizontalPodAutoscaler, &hpa(spec.clone())), expected, "{spec}");
        };
        check(json!({}), &[]);
        check(json!({"scaleTargetRef": {"apiVersion": "v1", "kind": "ReplicationController", "name": "r"}}), &[]);
        // What a metric describes may be of the core group.
        check(
            json!({"metrics": [{"type": "Object", "object": {"describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
                "metric": {"name": "hits"}, "target": {"type": "Value", "value": "10"}}}]}),
            &[],
        );
        check(
            json!({"minReplicas": 0, "maxReplicas": -1, "scaleTargetRef": {"apiVersion": "a/b/c", "kind": "a/b"}}),
            &[
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                "spec.maxReplicas: Invalid value: -1: must be greater than 0",
                "spec.maxReplicas: Invalid value: -1: must be greater than or equal to `minReplicas`",
                "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                "spec.scaleTargetRef.name: Required value",
                "spec.scaleTargetRef.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                "spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero \
                 replicas",
            ],
        );
        check(
            json!({"behavior": {"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "x", "tolerance": "-0.1",
                "policies": [{"type": "x", "value": 0, "periodSeconds": 1801}]}, "scaleDown": {"stabilizationWindowSeconds": -1,
                "policies": []}}}),
            &[
                "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"x\": supported values: \"Disabled\", \"Max\", \"Min\"",
                "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"x\": supported values: \"Percent\", \"Pods\"",
                "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                "spec.behavior.scaleUp.tolerance: Invalid value: \"-0.1\": must be greater than or equal to 0",
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: -1: must be greater than or equal to zero",
                "spec.behavior.scaleDown.policies: Required value: must specify at least one Policy",
            ],
        );
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let update = |new: &Value, old: &Value| problems_of_update(&HorizontalPodAutoscaler, None, new, old);
        let old = hpa(json!({"minReplicas": 0, "scaleTargetRef": {"apiVersion": "v1", "kind": "X", "name": "x"},
            "metrics": [{"type": "Object", "object": {"describedObject": {"apiVersion": "a/b/c", "kind": "K", "name": "k"},
                "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]}));
        let mut new = old.clone();
        new["spec"]["maxReplicas"] = json!(6);
        assert_eq!(update(&new, &old), [""; 0]);
        new["spec"]["scaleTargetRef"]["kind"] = json!("Y");
        assert_eq!(
            update(&new, &old),
            ["spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group"]
        );
        let mut new = old.clone();
        new["status"] = json!({"currentReplicas": -1, "desiredReplicas": -1});
        assert_eq!(
            problems_of_update(&HorizontalPodAutoscaler, Some("status"), &new, &old),
            [
                "status.currentReplicas: Invalid value: -1: must be greater than or equal to 0",
                "status.desiredReplicas: Invalid value: -1: must be greater than or equal to 0"
            ]
        );
    }

    #[test]
    fn targets_show_now_and_wanted() {
        let mut hpa = json!({"spec": {"maxReplicas": 5}});
        HorizontalPodAutoscaler.default(&mut hpa);
        assert_eq!(shown(&hpa["spec"]["metrics"][0], None), "cpu: <unknown>/80%");
        let current = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}});
        assert_eq!(shown(&hpa["spec"]["metrics"][0], Some(&current)), "cpu: 7%/80%");
    }
}
