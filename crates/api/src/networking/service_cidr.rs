//! `ServiceCIDR`: a range service addresses come from.
//!
//! Upstream: `pkg/registry/networking/servicecidr/strategy.go`, `ValidateServiceCIDR`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{AGE, Facts, NAME, STATUS, facts};
use crate::object::{View, list, restore, set};
use crate::strategy::{reset_meta_for_status, reset_spec_or_status};
use crate::table::{age, joined, name};

/// The kind `ServiceCIDR`.
pub struct ServiceCIDR;

impl Kind for ServiceCIDR {
    facts!(Facts {
        kind: "ServiceCIDR",
        plural: "servicecidrs",
        subresources: &[STATUS],
        columns: &[NAME, ("CIDRs", "string", "", 0), AGE],
        ..Facts::cluster("networking.k8s.io", "v1")
    });

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        set(obj, &["status"], json!({}));
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            reset_meta_for_status(new, old);
        } else {
            restore(new, old, &["status"]);
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let cidrs = View::root(obj).dig("spec.cidrs");
        if cidrs.is_empty() {
            errs.required(cidrs.path(), "at least one CIDR required");
            return errs;
        }
        if cidrs.len() > 2 {
            // The value is the whole spec, as it is called inside.
            let spec = json!({"CIDRs": cidrs.value()});
            errs.invalid(cidrs.path(), &spec, "may only hold up to 2 values");
            return errs;
        }
        let mut families = Vec::new();
        for cidr in cidrs.list() {
            crate::validate::strict_cidr(&mut errs, cidr.str(), cidr.path());
            families.extend(crate::validate::ip::sloppy_cidr(cidr.str()).map(|(ip, _)| ip.is_ipv6()));
        }
        if matches!(families[..], [first, second] if first == second) {
            errs.invalid(
                cidrs.path(),
                cidrs.value(),
                "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
            );
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        if cx.subresource == Some("status") {
            return ErrorList::new();
        }
        let mut errs = ErrorList::new();
        let cidrs = View::root(new).dig("spec.cidrs");
        let before = list(old, &["spec", "cidrs"]);
        if !(before.len() == cidrs.len() || (before.len(), cidrs.len()) == (1, 2)) {
            errs.invalid(cidrs.path(), cidrs.value(), "field is immutable");
            return errs;
        }
        for (cidr, before) in cidrs.list().iter().zip(before) {
            if cidr.value() != before {
                errs.invalid(cidr.path(), cidr.value(), "field is immutable");
            }
        }
        // One family may become two, with the one there was still first.
        if cidrs.len() > before.len() {
            errs.extend(self.validate(cx, new));
        }
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let cidrs = joined(list(obj, &["spec", "cidrs"]).iter().filter_map(Value::as_str));
        vec![json!(name(obj)), json!(cidrs), json!(age(obj, now))]
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_spec_or_status(subresource)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn a_range_is_of_one_or_two_families_and_stays() {
        let of = |cidrs: &[&str]| json!({"spec": {"cidrs": cidrs}});
        let dual = ["10.0.0.0/24", "fd00::/112"];
        for (cidrs, expected) in [
            (&dual[..], vec![]),
            (&[], vec!["spec.cidrs: Required value: at least one CIDR required"]),
            (
                &["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24"],
                vec![
                    r#"spec.cidrs: Invalid value: {"CIDRs":["10.0.0.0/24","10.0.1.0/24","10.0.2.0/24"]}: may only hold up to 2 values"#,
                ],
            ),
            (
                &["10.0.0.1/24", "10.0.1.0/24"],
                vec![
                    r#"spec.cidrs[0]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length"#,
                    r#"spec.cidrs: Invalid value: ["10.0.0.1/24","10.0.1.0/24"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"#,
                ],
            ),
        ] {
            assert_eq!(problems(&ServiceCIDR, &of(cidrs)), expected, "{cidrs:?}");
        }
        for (new, old, expected) in [
            (&dual[..], &dual[..1], vec![]),
            (&dual[..1], &dual[..], vec![r#"spec.cidrs: Invalid value: ["10.0.0.0/24"]: field is immutable"#]),
            (&dual[1..], &dual[..1], vec![r#"spec.cidrs[0]: Invalid value: "fd00::/112": field is immutable"#]),
        ] {
            assert_eq!(problems_of_update(&ServiceCIDR, None, &of(new), &of(old)), expected, "{new:?} {old:?}");
        }
    }
}
