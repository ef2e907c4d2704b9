//! `StorageClass`. Upstream: `pkg/registry/storage/storageclass/strategy.go`, `ValidateStorageClass`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_value, text};
use crate::table::age;
use crate::validate::immutable_field;

/// The kind `StorageClass`.
pub struct StorageClass;

impl Kind for StorageClass {
    facts!(Facts {
        kind: "StorageClass",
        plural: "storageclasses",
        short_names: &["sc"],
        columns: &[
            NAME,
            ("Provisioner", "string", "", 0),
            ("ReclaimPolicy", "string", "", 0),
            ("VolumeBindingMode", "string", "", 0),
            ("AllowVolumeExpansion", "string", "", 0),
            AGE
        ],
        ..Facts::cluster("storage.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "reclaimPolicy", "Delete");
        default_value(obj, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let provisioner = root.get("provisioner");
        if provisioner.str().is_empty() {
            errs.required(provisioner.path(), "");
        } else {
            for problem in crate::names::qualified_name(&provisioner.str().to_lowercase()) {
                errs.invalid(provisioner.path(), provisioner.str(), problem);
            }
        }
        let parameters = root.get("parameters");
        let mut size = 0;
        for (key, value) in parameters.entries() {
            if key.is_empty() {
                errs.invalid(parameters.path(), key, "field can not be empty");
            }
            size += key.len() + value.len();
        }
        if parameters.len() > 512 {
            errs.too_long(&crate::field::Path::new("Provisioner Parameters Length"), 512);
        }
        if size > 256 * 1024 {
            errs.too_long(parameters.path(), 256 * 1024);
        }
        let policy = root.get("reclaimPolicy");
        if !matches!(policy.str(), "Delete" | "Retain") {
            errs.not_supported(policy.path(), policy.str(), &["Delete", "Retain"]);
        }
        let mode = root.get("volumeBindingMode");
        if !mode.is_set() {
            errs.required(mode.path(), "");
        } else if !matches!(mode.str(), "Immediate" | "WaitForFirstConsumer") {
            errs.not_supported(mode.path(), mode.str(), &["Immediate", "WaitForFirstConsumer"]);
        }
        for term in root.items("allowedTopologies") {
            for requirement in term.items("matchLabelExpressions") {
                if requirement.get("values").is_empty() {
                    errs.required(requirement.get("values").path(), "");
                }
                crate::validate::labels::name(&mut errs, requirement.get("key").str(), requirement.get("key").path());
            }
        }
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(new);
        for (field, detail) in [
            ("parameters", "updates to parameters are forbidden."),
            ("provisioner", "updates to provisioner are forbidden."),
            ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
        ] {
            if !crate::object::same(root.get(field).value(), at(old, &[field])) {
                errs.forbidden(root.get(field).path(), detail);
            }
        }
        immutable_field(&mut errs, new, old, &["volumeBindingMode"]);
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let annotation = |key: &str| text(obj, &["metadata", "annotations", key]) == "true";
        let default = annotation("storageclass.kubernetes.io/is-default-class")
            || annotation("storageclass.beta.kubernetes.io/is-default-class");
        let name = crate::table::name(obj);
        vec![
            json!(if default { format!("{name} (default)") } else { name.to_owned() }),
            json!(text(obj, &["provisioner"])),
            json!(text(obj, &["reclaimPolicy"])),
            json!(text(obj, &["volumeBindingMode"])),
            json!(at(obj, &["allowVolumeExpansion"]).as_bool().unwrap_or_default()),
            json!(age(obj, now)),
        ]
    }
}
