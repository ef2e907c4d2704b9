//! `LimitRange`. Upstream: `pkg/registry/core/limitrange/strategy.go`, `SetDefaults_LimitRangeItem`, `ValidateLimitRange`.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{Facts, facts};
use crate::object::{View, at, at_mut, items_mut, set};
use crate::quantity::Quantity;
use crate::table::name_and_created;

/// The kind `LimitRange`.
pub struct LimitRange;

impl Kind for LimitRange {
    facts!(Facts {
        kind: "LimitRange",
        plural: "limitranges",
        short_names: &["limits"],
        ..Facts::namespaced("", "v1")
    });

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
    if ty == "Pod" {
        for field in ["default", "defaultRequest"] {
            let v = item.get(field);
            if !v.is_empty() {
                errs.forbidden(v.path(), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    if ty == "PersistentVolumeClaim" {
        let bounded = ["min", "max"].iter().any(|f| item.get(f).get("storage").is_set());
        if !bounded {
            errs.required(item.path(), "either minimum or maximum storage value is required, but neither was provided");
        }
    }
    let mut names = std::collections::BTreeSet::new();
    for field in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
        names.extend(item.get(field).map().into_iter().flatten().map(|(k, _)| k.as_str()));
    }
    for name in names {
        let of = |field: &str| -> Option<(String, Quantity)> {
            let v = item.get(field).get(name);
            let text = v.opt_str()?.to_owned();
            Some((text.clone(), text.parse().ok()?))
        };
        let mut order = |low: &str, high: &str, detail: &str| {
            if let (Some((a, low_amount)), Some((b, high_amount))) = (of(low), of(high))
                && low_amount > high_amount
            {
                let detail = detail.replace("{low}", &a).replace("{high}", &b);
                errs.invalid(&item.get(low).path().key(name), a.as_str(), detail);
            }
        };
        order("min", "max", "min value {low} is greater than max value {high}");
        order("min", "defaultRequest", "min value {low} is greater than default request value {high}");
        order("defaultRequest", "max", "default request value {low} is greater than max value {high}");
        order("defaultRequest", "default", "default request value {low} is greater than default limit value {high}");
        order("default", "max", "default value {low} is greater than max value {high}");
        if let Some((text, ratio)) = of("maxLimitRequestRatio")
            && ratio < Quantity::from_int(1)
        {
            errs.invalid(
                &item.get("maxLimitRequestRatio").path().key(name),
                text.as_str(),
                format!("ratio {text} is less than 1"),
            );
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
}
