//! `ConfigMap`. Upstream: `pkg/registry/core/configmap/strategy.go`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, same};
use crate::table::{age, name};
use crate::validate::config_map_key;

/// The kind `ConfigMap`.
pub struct ConfigMap;

/// Bytes a ConfigMap or Secret may hold.
pub(crate) const MAX_DATA: usize = 1024 * 1024;

impl Kind for ConfigMap {
    facts!(Facts {
        kind: "ConfigMap",
        plural: "configmaps",
        short_names: &["cm"],
        columns: &[NAME, ("Data", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let mut total = 0;
        let binary = root.get("binaryData");
        for (key, value) in root.get("data").entries() {
            errs.extend(config_map_key(key, value.path()));
            if binary.map().is_some_and(|m| m.contains_key(key)) {
                errs.invalid(value.path(), key, "duplicate of key present in binaryData");
            }
            total += value.len();
        }
        for (key, value) in binary.entries() {
            errs.extend(config_map_key(key, value.path()));
            total += base64_len(value.str());
        }
        if total > MAX_DATA {
            errs.too_long(&crate::field::Path::unnamed(), MAX_DATA);
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable(&mut errs, new, old, &["data", "binaryData"]);
        errs.extend(self.validate(cx, new));
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let root = View::root(obj);
        vec![json!(name(obj)), json!(root.get("data").len() + root.get("binaryData").len()), json!(age(obj, now))]
    }
}

/// Bytes behind a base64 text.
pub(crate) fn base64_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

/// What `immutable: true` of the old object forbids: unsetting it and changing the data.
pub(crate) fn immutable(errs: &mut ErrorList, new: &Value, old: &Value, fields: &[&str]) {
    if at(old, &["immutable"]) != &Value::Bool(true) {
        return;
    }
    const DETAIL: &str = "field is immutable when `immutable` is set";
    let root = View::root(new);
    if !root.get("immutable").is_true() {
        errs.forbidden(root.get("immutable").path(), DETAIL);
    }
    for field in fields {
        if !same(at(new, &[field]), at(old, &[field])) {
            errs.forbidden(root.get_named(field).path(), DETAIL);
        }
    }
}
