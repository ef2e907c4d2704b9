//! What a definition's status says: which names it has been given, whether its objects are served, how far its removal is.
//!
//! Pure: a status is worked out from the definition, the names in use and the time. Upstream: `NamingConditionController`,
//! `EstablishingController`, `KubernetesAPIApprovalPolicyConformantConditionController` and `CRDFinalizer` of
//! `k8s.io/apiextensions-apiserver/pkg/controller`.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::validate::{APPROVAL, Approval, approval_of};
use crate::object::{at, list, set, text};

/// The finalizer by which a definition waits for the removal of its objects.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// A condition as it is wanted: type, status, reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Such as `Established`.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// Such as `NoConflicts`.
    pub reason: &'static str,
    /// What people read.
    pub message: String,
}

impl Condition {
    /// A condition.
    pub fn new(kind: &'static str, status: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Condition { kind, status, reason, message: message.into() }
    }

    /// The first word of a removal.
    pub fn removal_pending() -> Self {
        let message = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
        Condition::new("Terminating", "True", "InstanceDeletionPending", message)
    }

    /// Objects are being removed.
    pub fn removal_in_progress() -> Self {
        Condition::new("Terminating", "True", "InstanceDeletionInProgress", "CustomResource deletion is in progress")
    }

    /// There is no object any more.
    pub fn removal_completed() -> Self {
        Condition::new("Terminating", "False", "InstanceDeletionCompleted", "removed all instances")
    }

    /// There never was any.
    pub fn never_established() -> Self {
        Condition::new("Terminating", "False", "NeverEstablished", "resource was never established")
    }
}

/// Whether a condition of a definition is true.
pub fn is_true(definition: &Value, kind: &str) -> bool {
    find(definition, kind).is_some_and(|c| c["status"] == "True")
}

fn find<'v>(definition: &'v Value, kind: &str) -> Option<&'v Value> {
    list(definition, &["status", "conditions"]).iter().find(|c| c["type"] == kind)
}

/// Puts a condition into a definition; the time of its last transition is kept where its status is. Upstream:
/// `SetCRDCondition`.
pub fn put(definition: &mut Value, wanted: &Condition, now: Timestamp) {
    let mut conditions = list(definition, &["status", "conditions"]).to_vec();
    let mut condition = json!({"type": wanted.kind, "status": wanted.status, "reason": wanted.reason,
        "message": wanted.message, "lastTransitionTime": now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()});
    match conditions.iter_mut().find(|c| c["type"] == wanted.kind) {
        Some(standing) => {
            if standing["status"] == wanted.status && standing["lastTransitionTime"].is_string() {
                condition["lastTransitionTime"] = standing["lastTransitionTime"].take();
            }
            *standing = condition;
        }
        None => conditions.push(condition),
    }
    set(definition, &["status", "conditions"], conditions);
}

/// Names in use in a group: those of resources (plurals, singulars, short names) and those of kinds.
#[derive(Clone, Debug, Default)]
pub struct Used {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Used {
    /// Counts names in.
    pub fn add<'n>(&mut self, resources: impl IntoIterator<Item = &'n str>, kinds: impl IntoIterator<Item = &'n str>) {
        let named = |names: &mut BTreeSet<String>, name: &str| {
            if !name.is_empty() {
                names.insert(name.to_owned());
            }
        };
        resources.into_iter().for_each(|name| named(&mut self.resources, name));
        kinds.into_iter().for_each(|name| named(&mut self.kinds, name));
    }

    /// Counts the names in that a definition has been given.
    pub fn add_accepted(&mut self, definition: &Value) {
        let names = at(definition, &["status", "acceptedNames"]);
        self.add(
            [text(names, &["plural"]), text(names, &["singular"])].into_iter().chain(texts(names, "shortNames")),
            [text(names, &["kind"]), text(names, &["listKind"])],
        );
    }
}

fn texts<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v str> {
    list(value, &[field]).iter().filter_map(Value::as_str)
}

/// Gives a definition the names it asks for, as far as nobody else of its group has them (`used`), and says so. What it
/// had before it keeps. Upstream: `calculateNamesAndConditions`.
pub fn accept_names(definition: &mut Value, used: &Used, now: Timestamp) {
    let wanted = at(definition, &["spec", "names"]).clone();
    let mut accepted = at(definition, &["status", "acceptedNames"]).clone();
    if !accepted.is_object() {
        accepted = json!({"plural": "", "kind": ""});
    }
    let mut conflict = None;
    let mut refuse = |reason, message: String| conflict = Some((reason, message));
    let in_use = |name: &str| format!("{name:?} is already in use");
    let names = [
        ("plural", "PluralConflict", &used.resources),
        ("singular", "SingularConflict", &used.resources),
        ("shortNames", "ShortNamesConflict", &used.resources),
        ("kind", "KindConflict", &used.kinds),
        ("listKind", "ListKindConflict", &used.kinds),
    ];
    for (field, reason, used) in names {
        if at(&wanted, &[field]) == at(&accepted, &[field]) {
            continue;
        }
        let problem = if field == "shortNames" {
            let own: Vec<&str> = texts(&accepted, field).collect();
            let taken = texts(&wanted, field).filter(|name| !own.contains(name) && used.contains(*name));
            let mut problems: Vec<String> = taken.map(in_use).collect();
            problems.dedup();
            match problems.len() {
                0 => None,
                1 => problems.pop(),
                _ => Some(format!("[{}]", problems.join(", "))),
            }
        } else {
            Some(text(&wanted, &[field])).filter(|name| used.contains(*name)).map(in_use)
        };
        match problem {
            Some(problem) => refuse(reason, problem),
            None => copy(&wanted, &mut accepted, field),
        }
    }
    copy(&wanted, &mut accepted, "categories");
    set(definition, &["status", "acceptedNames"], accepted);
    let names = match conflict {
        Some((reason, message)) => Condition::new("NamesAccepted", "False", reason, message),
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found"),
    };
    let are_accepted = names.status == "True";
    put(definition, &names, now);
    if is_true(definition, "Established") {
        return;
    }
    if are_accepted {
        let message = "the initial names have been accepted";
        put(definition, &Condition::new("Established", "False", "Installing", message), now);
    } else if find(definition, "Established").is_none() {
        let message = "not all names are accepted";
        put(definition, &Condition::new("Established", "False", "NotAccepted", message), now);
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let Some(to) = to.as_object_mut() else { return };
    match from.get(field) {
        Some(value) => to.insert(field.into(), value.clone()),
        None => to.remove(field),
    };
}

/// Says of a definition in one of the project's own groups whether its review has approved it. Upstream:
/// `calculateCondition` of `pkg/controller/apiapproval`.
pub fn tell_approval(definition: &mut Value, now: Timestamp) {
    let Some(approval) = approval_of(definition) else { return };
    let (status, reason, message) = match approval {
        Approval::Missing => ("False", "MissingAnnotation", super::validate::missing_approval()),
        Approval::Bypassed => {
            let said = text(definition, &["metadata", "annotations", APPROVAL]);
            ("False", "UnapprovedAnnotation", format!("not approved: {said:?}"))
        }
        Approval::Given => {
            let said = text(definition, &["metadata", "annotations", APPROVAL]);
            ("True", "ApprovedAnnotation", format!("approved in {said}"))
        }
        Approval::Invalid => ("False", "InvalidAnnotation", super::validate::invalid_approval()),
    };
    put(definition, &Condition::new("KubernetesAPIApprovalPolicyConformant", status, reason, message), now);
}

/// Says that the objects of a definition are served, once they are. Upstream: `EstablishingController`.
pub fn establish(definition: &mut Value, now: Timestamp) {
    if is_true(definition, "NamesAccepted") && !is_true(definition, "Established") {
        let message = "the initial names have been accepted";
        put(definition, &Condition::new("Established", "True", "InitialNamesAccepted", message), now);
    }
}

/// Whether the objects of a definition are to be served.
pub fn is_to_be_served(definition: &Value) -> bool {
    is_true(definition, "NamesAccepted") || is_true(definition, "Established")
}

/// Whether a definition is being removed and waits for the removal of its objects.
pub fn is_to_be_emptied(definition: &Value) -> bool {
    !at(definition, &["metadata", "deletionTimestamp"]).is_null()
        && list(definition, &["metadata", "finalizers"]).iter().any(|f| f == FINALIZER)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn definition(plural: &str, kind: &str) -> Value {
        json!({"spec": {"group": "example.com", "names": {"plural": plural, "singular": kind.to_lowercase(),
            "kind": kind, "listKind": format!("{kind}List"), "shortNames": ["wd"], "categories": ["all"]}}})
    }

    /// `TYPE=STATUS REASON: message` of every condition.
    fn said(definition: &Value) -> Vec<String> {
        let text = |c: &Value, f: &str| c[f].as_str().unwrap_or_default().to_owned();
        let one = |c: &Value| {
            format!("{}={} {}: {}", text(c, "type"), text(c, "status"), text(c, "reason"), text(c, "message"))
        };
        list(definition, &["status", "conditions"]).iter().map(one).collect()
    }

    #[test]
    fn names_are_accepted_and_then_established() {
        let mut widget = definition("widgets", "Widget");
        accept_names(&mut widget, &Used::default(), NOW);
        assert_eq!(widget["status"]["acceptedNames"], widget["spec"]["names"]);
        assert_eq!(
            said(&widget),
            [
                "NamesAccepted=True NoConflicts: no conflicts found",
                "Established=False Installing: the initial names have been accepted"
            ]
        );
        let later = NOW + jiff::SignedDuration::from_secs(60);
        let before = widget.clone();
        accept_names(&mut widget, &Used::default(), later);
        assert_eq!(widget, before, "nothing changes, not even times");
        establish(&mut widget, later);
        assert_eq!(said(&widget)[1], "Established=True InitialNamesAccepted: the initial names have been accepted");
        assert_eq!(widget["status"]["conditions"][1]["lastTransitionTime"], "1970-01-01T00:01:00Z");
        assert!(is_to_be_served(&widget));
    }

    #[test]
    fn what_others_have_is_not_given_twice() {
        let check = |other: Value, expected: &str| {
            let mut first = other;
            accept_names(&mut first, &Used::default(), NOW);
            let mut used = Used::default();
            used.add_accepted(&first);
            let mut widget = definition("widgets", "Widget");
            accept_names(&mut widget, &used, NOW);
            assert_eq!(
                said(&widget),
                [expected, "Established=False NotAccepted: not all names are accepted"],
                "{}",
                first["spec"]
            );
            assert!(!is_to_be_served(&widget));
        };
        let with = |change: &dyn Fn(&mut Value)| {
            let mut other = definition("others", "Other");
            other["spec"]["names"]["shortNames"] = json!([]);
            change(&mut other["spec"]["names"]);
            other
        };
        check(
            with(&|n| n["plural"] = json!("widgets")),
            "NamesAccepted=False PluralConflict: \"widgets\" is already in use",
        );
        check(
            with(&|n| n["singular"] = json!("widget")),
            "NamesAccepted=False SingularConflict: \"widget\" is already in use",
        );
        check(
            with(&|n| n["shortNames"] = json!(["wd"])),
            "NamesAccepted=False ShortNamesConflict: \"wd\" is already in use",
        );
        check(with(&|n| n["kind"] = json!("Widget")), "NamesAccepted=False KindConflict: \"Widget\" is already in use");
        check(
            with(&|n| n["listKind"] = json!("WidgetList")),
            "NamesAccepted=False ListKindConflict: \"WidgetList\" is already in use",
        );
    }

    #[test]
    fn who_was_established_keeps_its_names() {
        let mut widget = definition("widgets", "Widget");
        accept_names(&mut widget, &Used::default(), NOW);
        establish(&mut widget, NOW);
        widget["spec"]["names"]["shortNames"] = json!(["wd", "gadget", "po"]);
        let mut used = Used::default();
        used.add(["gadget", "po"], []);
        accept_names(&mut widget, &used, NOW);
        assert_eq!(widget["status"]["acceptedNames"]["shortNames"], json!(["wd"]));
        assert_eq!(
            said(&widget),
            [
                "NamesAccepted=False ShortNamesConflict: [\"gadget\" is already in use, \"po\" is already in use]",
                "Established=True InitialNamesAccepted: the initial names have been accepted"
            ]
        );
        assert!(is_to_be_served(&widget));
    }

    #[test]
    fn groups_of_the_project_say_whether_they_are_approved() {
        let check = |group: &str, word: Option<&str>, expected: &[&str]| {
            let mut widget = definition("widgets", "Widget");
            widget["spec"]["group"] = json!(group);
            if let Some(word) = word {
                widget["metadata"] = json!({"annotations": {"api-approved.kubernetes.io": word}});
            }
            tell_approval(&mut widget, NOW);
            let expected: Vec<String> =
                expected.iter().map(|e| format!("KubernetesAPIApprovalPolicyConformant={e}")).collect();
            assert_eq!(said(&widget), expected);
        };
        check("example.com", None, &[]);
        check(
            "x.k8s.io",
            Some("https://github.com/x/1"),
            &["True ApprovedAnnotation: approved in https://github.com/x/1"],
        );
        check(
            "x.k8s.io",
            Some("unapproved, a test"),
            &["False UnapprovedAnnotation: not approved: \"unapproved, a test\""],
        );
        check(
            "x.k8s.io",
            None,
            &["False MissingAnnotation: protected groups must have approval annotation \
               \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111"],
        );
        check(
            "x.k8s.io",
            Some("yes"),
            &[
                "False InvalidAnnotation: protected groups must have approval annotation \"api-approved.kubernetes.io\" \
               with either a URL or a reason starting with \"unapproved\", see \
               https://github.com/kubernetes/enhancements/pull/1111",
            ],
        );
    }
}
