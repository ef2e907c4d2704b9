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
use crate::validate::{non_negative, selector};

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

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        bounds_and_target(&mut errs, &spec);
        for metric in spec.items("metrics") {
            self::metric(&mut errs, &metric);
        }
        behavior(&mut errs, &spec.get("behavior"));
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        if cx.subresource == Some("status") { status(new) } else { self.validate(cx, new) }
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

/// Numbers and target, the same in both versions. Upstream: `validateHorizontalPodAutoscalerSpec`.
pub(super) fn bounds_and_target(errs: &mut ErrorList, spec: &View<'_>) {
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if let Some(n) = least.int()
        && n < 1
    {
        errs.invalid(least.path(), n, "must be greater than or equal to 1");
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
    reference(errs, &spec.get("scaleTargetRef"));
}

fn reference(errs: &mut ErrorList, v: &View<'_>) {
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
    let core_controller = version.str() == "v1" && v.get("kind").str() == "ReplicationController";
    if version.str().matches('/').count() > 1 {
        let problem = format!("unexpected GroupVersion string: {}", version.str());
        errs.invalid(version.path(), version.str(), problem);
    } else if !version.str().contains('/') && !core_controller {
        errs.invalid(version.path(), version.str(), "apiVersion must specify API group");
    }
}

fn metric(errs: &mut ErrorList, v: &View<'_>) {
    let ty = v.get("type");
    let Some((_, field)) = METRICS.iter().find(|(name, _)| *name == ty.str()) else {
        if ty.str().is_empty() {
            errs.required(ty.path(), "must specify a metric source type");
        } else {
            errs.not_supported(ty.path(), ty.str(), &METRICS.map(|(name, _)| name));
        }
        return;
    };
    for (_, other) in METRICS.iter().filter(|(_, f)| f != field) {
        if v.get(other).is_set() {
            errs.forbidden(v.get(other).path(), "must populate the given metric source only");
        }
    }
    let source = v.get(field);
    if !source.is_set() {
        errs.required(source.path(), "must populate information for the given metric source");
        return;
    }
    let target = source.get("target");
    if matches!(*field, "resource" | "containerResource") {
        for name in ["name", "container"].iter().take(if *field == "resource" { 1 } else { 2 }) {
            if source.get(name).str().is_empty() {
                errs.required(source.get(name).path(), "must specify a resource name");
            }
        }
        let (utilization, value) = (target.get("averageUtilization"), target.get("averageValue"));
        if utilization.is_set() && value.is_set() {
            errs.forbidden(value.path(), "may not set both a target raw value and a target utilization");
        } else if !utilization.is_set() && !value.is_set() {
            errs.required(utilization.path(), "must set either a target raw value or a target utilization");
        }
    } else {
        let metric = source.get("metric");
        if metric.get("name").str().is_empty() {
            errs.required(metric.get("name").path(), "must specify a metric name");
        }
        selector::label_selector(errs, &metric.get("selector"));
        if *field == "object" {
            reference(errs, &source.get("describedObject"));
        }
        if !target.get("value").is_set() && !target.get("averageValue").is_set() {
            let needed = if *field == "pods" { "averageValue" } else { "value" };
            errs.required(target.get(needed).path(), "must specify a positive target value");
        }
    }
    match target.get("type").str() {
        "AverageValue" | "Utilization" | "Value" => {}
        "" => errs.required(target.get("type").path(), "must specify a metric target type"),
        other => errs.invalid(target.get("type").path(), other, "must be either Utilization, Value, or AverageValue"),
    }
    if let Some(n) = target.get("averageUtilization").int()
        && n < 1
    {
        errs.invalid(target.get("averageUtilization").path(), n, "must be greater than 0");
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field);
        if amount.str().parse::<crate::quantity::Quantity>().is_ok_and(|q| q.sign() <= 0) {
            errs.invalid(amount.path(), amount.str(), "must be positive");
        }
    }
}

fn behavior(errs: &mut ErrorList, v: &View<'_>) {
    for direction in ["scaleUp", "scaleDown"] {
        let rules = v.get(direction);
        if !rules.is_set() {
            continue;
        }
        let window = rules.get("stabilizationWindowSeconds");
        non_negative(errs, &window);
        if let Some(n) = window.int()
            && n > 3600
        {
            errs.invalid(window.path(), n, "must be less than or equal to 3600");
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

    #[test]
    fn targets_show_now_and_wanted() {
        let mut hpa = json!({"spec": {"maxReplicas": 5}});
        HorizontalPodAutoscaler.default(&mut hpa);
        assert_eq!(shown(&hpa["spec"]["metrics"][0], None), "cpu: <unknown>/80%");
        let current = json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 7}}});
        assert_eq!(shown(&hpa["spec"]["metrics"][0], Some(&current)), "cpu: 7%/80%");
    }
}
