//! `IPAddress`: a service address in use; its name is the address.
//!
//! Upstream: `pkg/registry/networking/ipaddress/strategy.go`, `ValidateIPAddress`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Shown};
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{Facts, NAME, facts};
use crate::object::{View, at, same, text};
use crate::table::name;
use crate::validate::internal::{self, Fields, Go};

/// The kind `IPAddress`.
pub struct IPAddress;

impl Kind for IPAddress {
    facts!(Facts {
        kind: "IPAddress",
        plural: "ipaddresses",
        short_names: &["ip"],
        columns: &[NAME, ("ParentRef", "string", "", 0)],
        ..Facts::cluster("networking.k8s.io", "v1")
    });

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let parent = View::root(obj).dig("spec.parentRef");
        if !parent.is_set() {
            errs.required(parent.path(), "");
            return errs;
        }
        let group = parent.get("group");
        if !group.is_empty() {
            crate::validate::dns_subdomain_at(&mut errs, &group);
        }
        for (field, required) in [("resource", true), ("name", true), ("namespace", false)] {
            super::path_segment(&mut errs, &parent.get(field), required);
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let parent = View::root(new).dig("spec.parentRef");
        if !same(parent.value(), at(old, &["spec", "parentRef"])) {
            let shown = match parent.is_set() {
                true => internal::shown(PARENT, parent.value()),
                false => Shown::from(parent.value()),
            };
            errs.invalid(parent.path(), shown, "field is immutable");
        }
        errs
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        match name.parse::<std::net::IpAddr>() {
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
            Ok(ip) if ip.to_string() != name => vec!["not a valid address in canonical format".into()],
            Ok(_) => Vec::new(),
        }
    }

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::New, MetaPass::Changed]
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        let parent = at(obj, &["spec", "parentRef"]);
        let shown = if parent.is_null() {
            "<none>".to_owned()
        } else {
            let parts = [
                crate::status::group_resource(text(parent, &["group"]), text(parent, &["resource"])).to_lowercase(),
                text(parent, &["namespace"]).to_owned(),
                text(parent, &["name"]).to_owned(),
            ];
            parts.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join("/")
        };
        vec![json!(name(obj)), json!(shown)]
    }
}

/// `networking.ParentReference`.
const PARENT: Fields = &[
    ("group", "Group", Go::Text),
    ("resource", "Resource", Go::Text),
    ("namespace", "Namespace", Go::Text),
    ("name", "Name", Go::Text),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    #[test]
    fn an_address_belongs_to_one_object() {
        let of = |name: &str| json!({"spec": {"parentRef": {"resource": "services", "namespace": "d", "name": name}}});
        assert_eq!(problems(&IPAddress, &json!({})), ["spec.parentRef: Required value"]);
        assert_eq!(
            problems(&IPAddress, &json!({"spec": {"parentRef": {"name": "a/b"}}})),
            [
                "spec.parentRef.resource: Required value",
                "spec.parentRef.name: Invalid value: \"a/b\": may not contain '/'",
            ]
        );
        assert_eq!(
            problems_of_update(&IPAddress, None, &of("b"), &of("a")),
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"d\",\"Name\":\"b\"}: \
              field is immutable"
            ]
        );
        assert_eq!(
            problems_of_update(&IPAddress, None, &json!({"spec": {}}), &of("a")),
            ["spec.parentRef: Required value", "spec.parentRef: Invalid value: null: field is immutable"]
        );
    }
}
