//! `PriorityClass`. Upstream: `pkg/registry/scheduling/priorityclass/strategy.go`, `ValidatePriorityClass`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::{Cells, Cx, Kind};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_value, text};
use crate::strategy::first_generation;
use crate::table::{age, name};
use crate::validate::immutable_field;

/// The kind `PriorityClass`.
pub struct PriorityClass;

/// The highest value of a class that is not the system's.
pub const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

/// The classes of the system, which exist in every cluster.
pub const SYSTEM_CLASSES: [(&str, i64); 2] =
    [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];

impl Kind for PriorityClass {
    facts!(Facts {
        kind: "PriorityClass",
        plural: "priorityclasses",
        short_names: &["pc"],
        columns: &[
            NAME,
            ("Value", "integer", "", 0),
            ("Global-Default", "boolean", "", 0),
            AGE,
            ("PreemptionPolicy", "string", "", 0)
        ],
        ..Facts::cluster("scheduling.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        default_value(obj, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let class = text(obj, &["metadata", "name"]);
        let value = root.get("value").int().unwrap_or_default();
        if class.starts_with("system-") {
            let problem = match SYSTEM_CLASSES.iter().find(|(name, _)| *name == class) {
                None => Some(format!("{class} is not a known system priority class")),
                Some((_, expected)) if *expected != value => {
                    Some(format!("value of {class} PriorityClass must be {expected}"))
                }
                Some(_) if root.get("globalDefault").is_true() => {
                    Some(format!("globalDefault of {class} PriorityClass must be false"))
                }
                Some(_) => None,
            };
            if let Some(problem) = problem {
                errs.forbidden(
                    &Path::new("metadata").child("name"),
                    format!(
                        "priority class names with 'system-' prefix are reserved for system use only. error: {problem}"
                    ),
                );
            }
        } else if value > HIGHEST_USER_PRIORITY {
            errs.forbidden(
                root.get("value").path(),
                format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}"),
            );
        }
        let policy = root.get("preemptionPolicy");
        crate::validate::one_of(&mut errs, &policy, &["PreemptLowerPriority", "Never"]);
        errs
    }

    fn validate_update(&self, _cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let number = |obj| at(obj, &["value"]).as_i64().unwrap_or_default();
        if number(new) != number(old) {
            errs.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        immutable_field(&mut errs, new, old, &["preemptionPolicy"]);
        errs
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![
            json!(name(obj)),
            json!(at(obj, &["value"]).as_i64().unwrap_or_default()),
            json!(at(obj, &["globalDefault"]).as_bool().unwrap_or_default()),
            json!(age(obj, now)),
            json!(text(obj, &["preemptionPolicy"])),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update};

    fn class(name: &str, value: i64) -> Value {
        let mut obj = json!({"metadata": {"name": name}, "value": value});
        PriorityClass.default(&mut obj);
        obj
    }

    #[test]
    fn users_and_the_system_have_their_own_values() {
        const RESERVED: &str = "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: ";
        let check = |obj: &Value, expected: &[&str]| assert_eq!(problems(&PriorityClass, obj), expected);
        check(&class("x", 1_000_000_000), &[]);
        check(
            &class("x", 1_000_000_001),
            &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
        );
        check(&class("system-x", 1), &[&format!("{RESERVED}system-x is not a known system priority class")]);
        check(
            &class("system-node-critical", 1),
            &[&format!("{RESERVED}value of system-node-critical PriorityClass must be 2000001000")],
        );
        let mut odd = class("x", 1);
        odd["preemptionPolicy"] = json!("x");
        check(
            &odd,
            &["preemptionPolicy: Unsupported value: \"x\": supported values: \"PreemptLowerPriority\", \"Never\""],
        );
        let mut new = class("x", 2);
        new["preemptionPolicy"] = json!("Never");
        assert_eq!(
            problems_of_update(&PriorityClass, None, &new, &class("x", 1)),
            [
                "value: Forbidden: may not be changed in an update.",
                "preemptionPolicy: Invalid value: \"Never\": field is immutable"
            ]
        );
    }
}
