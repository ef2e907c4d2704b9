//! `LimitRange`. Upstream: `pkg/registry/core/limitrange/strategy.go`, `SetDefaults_LimitRangeItem`, `ValidateLimitRange`.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx, MetaPass};
use crate::kinds::{Facts, facts};
use crate::object::{View, at, at_mut, items_mut, set};
use crate::quantity::Quantity;
use crate::table::name_and_created;
use crate::validate::pod_spec::resources::{container_resource_name, may_be_overcommitted, resource_name};

/// The kind `LimitRange`.
pub struct LimitRange;

impl Kind for LimitRange {
    facts!(Facts {
        kind: "LimitRange",
        plural: "limitranges",
        short_names: &["limits"],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New]
    }

    fn default(&self, obj: &mut Value) {
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        for item in items_mut(spec, "limits").filter(|i| i["type"] == "Container") {
            // A default limit is the maximum, a default request the default limit, else the minimum.
            for (to, from) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                let amounts = at(item, &[from]).as_object().cloned().unwrap_or_default();
                for (name, amount) in amounts {
                    if at(item, &[to, &name]).is_null() {
                        set(item, &[to, &name], amount);
                    }
                }
            }
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let mut seen = std::collections::BTreeSet::new();
        for item in View::root(obj).get("spec").items("limits") {
            let ty = item.get("type");
            type_name(&mut errs, &ty);
            if !seen.insert(ty.str()) {
                errs.duplicate(ty.path(), ty.str());
            }
            limit(&mut errs, &item);
        }
        errs
    }

    fn create_on_update(&self) -> bool {
        true
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        name_and_created(obj)
    }
}

/// What is limited: one of the standard types, or one with a domain. Upstream: `validateLimitRangeTypeName`.
fn type_name(errs: &mut ErrorList, ty: &View<'_>) {
    let problems = crate::names::qualified_name(ty.str());
    let standard = matches!(ty.str(), "Pod" | "Container" | "PersistentVolumeClaim") || ty.str().contains('/');
    if problems.is_empty() && !standard {
        errs.invalid(ty.path(), ty.str(), "must be a standard limit type or fully qualified");
    }
    for problem in problems {
        errs.invalid(ty.path(), ty.str(), problem);
    }
}

fn limit(errs: &mut ErrorList, item: &View<'_>) {
    let ty = item.get("type").str();
    let named = |errs: &mut ErrorList, field: &str| {
        for (name, amount) in item.get_named(field).entries() {
            match ty {
                "Pod" | "Container" => container_resource_name(errs, name, amount.path()),
                _ => {
                    resource_name(errs, name, amount.path());
                }
            }
        }
    };
    ["max", "min"].iter().for_each(|field| named(errs, field));
    if ty == "Pod" {
        for field in ["default", "defaultRequest"] {
            let v = item.get(field);
            if !v.is_empty() {
                errs.forbidden(v.path(), "may not be specified when `type` is 'Pod'");
            }
        }
    } else {
        ["default", "defaultRequest"].iter().for_each(|field| named(errs, field));
    }
    if ty == "PersistentVolumeClaim" {
        let bounded = ["min", "max"].iter().any(|f| item.get(f).get("storage").is_set());
        if !bounded {
            errs.required(
                &item.path().child("limits"),
                "either minimum or maximum storage value is required, but neither was provided",
            );
        }
    }
    named(errs, "maxLimitRequestRatio");
    let mut names = std::collections::BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        names.extend(item.get_named(field).map().into_iter().flatten().map(|(k, _)| k.as_str()));
    }
    for name in names {
        let of = |field: &str| -> Option<(String, Quantity)> {
            if ty == "Pod" && field.starts_with("default") {
                return None;
            }
            let v = item.get_named(field).get_named(name);
            let text = v.opt_str()?.to_owned();
            Some((text.clone(), text.parse().ok()?))
        };
        // Which must not be above which, where that is said, and whose value is shown.
        let mut order = |low: &str, high: &str, at: &str, shown: &str, detail: &str| {
            if let (Some((a, low_amount)), Some((b, high_amount))) = (of(low), of(high))
                && low_amount > high_amount
            {
                let value = if shown == low { &a } else { &b };
                let detail = detail.replace("{low}", &a).replace("{high}", &b);
                errs.invalid(&item.get_named(at).path().key(name), value, detail);
            }
        };
        const REQUEST: &str = "defaultRequest";
        order("min", "max", "min", "min", "min value {low} is greater than max value {high}");
        order("min", REQUEST, REQUEST, REQUEST, "min value {low} is greater than default request value {high}");
        order(REQUEST, "max", REQUEST, REQUEST, "default request value {low} is greater than max value {high}");
        order(
            REQUEST,
            "default",
            REQUEST,
            REQUEST,
            "default request value {low} is greater than default limit value {high}",
        );
        order("min", "default", "default", "min", "min value {low} is greater than default value {high}");
        order("default", "max", "default", "max", "default value {low} is greater than max value {high}");
        if let Some((text, ratio)) = of("maxLimitRequestRatio")
            && ratio < Quantity::from_int(1)
        {
            errs.invalid(
                &item.get("maxLimitRequestRatio").path().key(name),
                text.as_str(),
                format!("ratio {text} is less than 1"),
            );
        }
        if let (Some((text, ratio)), Some((_, min)), Some((_, max))) =
            (of("maxLimitRequestRatio"), of("min"), of("max"))
        {
            let limit = max.milli_value() as f64 / min.milli_value() as f64;
            if ratio.milli_value() as f64 / 1000.0 > limit {
                errs.invalid(
                    &item.get("maxLimitRequestRatio").path().key(name),
                    text.as_str(),
                    format!("ratio {text} is greater than max/min = {limit:.6}"),
                );
            }
        }
        if let (Some((limit, a)), Some((request, b))) = (of("default"), of("defaultRequest"))
            && !may_be_overcommitted(name)
            && a != b
        {
            let problem = format!("default value {limit} must equal to defaultRequest value {request} in {name}");
            errs.invalid(&item.get("defaultRequest").path().key(name), request.as_str(), problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_are_standard_or_have_a_domain() {
        let problems = |ty: &str| {
            let v = json!(ty);
            let mut errs = ErrorList::new();
            type_name(&mut errs, &View::at(crate::field::Path::new("t"), &v));
            crate::validate::testing::texts(&errs)
        };
        assert_eq!(problems("Pod"), [""; 0]);
        assert_eq!(problems("a.io/x"), [""; 0]);
        assert_eq!(problems("x"), ["t: Invalid value: \"x\": must be a standard limit type or fully qualified"]);
    }

    #[test]
    fn the_minimum_is_below_the_maximum() {
        let v = json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}});
        let mut errs = ErrorList::new();
        limit(&mut errs, &View::root(&v).get("spec").items("limits")[0]);
        assert_eq!(
            errs.0[0].to_string(),
            "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1"
        );
    }

    #[test]
    fn bounds_and_defaults_fit_together() {
        let problems = |item: Value| {
            let v = json!({"spec": {"limits": [item]}});
            let mut errs = ErrorList::new();
            limit(&mut errs, &View::root(&v).get("spec").items("limits")[0]);
            crate::validate::testing::texts(&errs)
        };
        assert_eq!(
            problems(json!({"type": "Container", "min": {"cpu": "200m", "gpus": "1"}, "max": {"cpu": "1"},
                "default": {"cpu": "2"}, "defaultRequest": {"cpu": "100m"}, "maxLimitRequestRatio": {"cpu": "10"}})),
            [
                "spec.limits[0].min[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
                "spec.limits[0].min[gpus]: Invalid value: \"gpus\": must be a standard resource for containers",
                "spec.limits[0].defaultRequest[cpu]: Invalid value: \"100m\": min value 200m is greater than default request \
                 value 100m",
                "spec.limits[0].default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
                "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"10\": ratio 10 is greater than max/min = 5.000000",
            ]
        );
        assert_eq!(
            problems(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
    }
}
