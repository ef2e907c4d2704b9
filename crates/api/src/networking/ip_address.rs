//! `IPAddress`: a service address in use; its name is the address.
//!
//! Upstream: `pkg/registry/networking/ipaddress/strategy.go`, `ValidateIPAddress`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{Facts, NAME, facts};
use crate::object::{View, at, text};
use crate::table::name;
use crate::validate::immutable_field;

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

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable_field(&mut errs, new, old, &["spec", "parentRef"]);
        errs
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        match name.parse::<std::net::IpAddr>() {
            Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
            Ok(ip) if ip.to_string() != name => vec!["not a valid address in canonical format".into()],
            Ok(_) => Vec::new(),
        }
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
