//! Structs as upstream shows them in errors: what is checked there are its internal types, which have no JSON tags, so that
//! every field appears under its Go name, in Go's order, whether set or not. Upstream: `field.Error.ErrorBody`.
//!
//! Texts, numbers, lists of texts and types of `metav1` look alike on both sides and need nothing of this.

use serde_json::Value;

use crate::field::Shown;
use crate::object::at;

/// What a field of an internal type shows where nothing is set, and how its value is shown.
#[derive(Clone, Copy)]
pub enum Go {
    /// A text: `""`.
    Text,
    /// A number: `0`.
    Zero,
    /// A boolean: `false`.
    False,
    /// A pointer, list or map: `null`.
    Nil,
    /// A pointer to a struct: `null`, or its fields.
    Struct(Fields),
    /// A struct that is always there.
    Object(Fields),
    /// A list of structs: `null`, or each with its fields.
    List(Fields),
}

/// The fields of an internal type: name in JSON, name in Go, zero value.
pub type Fields = &'static [(&'static str, &'static str, Go)];

/// `core.Taint`.
pub const TAINT: Fields = &[
    ("key", "Key", Go::Text),
    ("value", "Value", Go::Text),
    ("effect", "Effect", Go::Text),
    ("timeAdded", "TimeAdded", Go::Nil),
];
/// `core.NodeAddress`.
pub const NODE_ADDRESS: Fields = &[("type", "Type", Go::Text), ("address", "Address", Go::Text)];
/// `core.PodIP`, `core.HostIP`.
pub const IP: Fields = &[("ip", "IP", Go::Text)];
/// `core.PodResourceClaim`.
pub const POD_RESOURCE_CLAIM: Fields = &[
    ("name", "Name", Go::Text),
    ("resourceClaimName", "ResourceClaimName", Go::Nil),
    ("resourceClaimTemplateName", "ResourceClaimTemplateName", Go::Nil),
];
/// `core.SeccompProfile`, `core.AppArmorProfile`.
pub const PROFILE: Fields = &[("type", "Type", Go::Text), ("localhostProfile", "LocalhostProfile", Go::Nil)];
/// `apps.RollingUpdateDeployment`, `apps.RollingUpdateDaemonSet`.
pub const ROLLING_UPDATE: Fields = &[("maxUnavailable", "MaxUnavailable", Go::Nil), ("maxSurge", "MaxSurge", Go::Nil)];
/// `apps.RollingUpdateStatefulSetStrategy`.
pub const ROLLING_UPDATE_STATEFUL: Fields =
    &[("partition", "Partition", Go::Zero), ("maxUnavailable", "MaxUnavailable", Go::Nil)];
/// `batch.SuccessPolicyRule`.
pub const SUCCESS_RULE: Fields =
    &[("succeededIndexes", "SucceededIndexes", Go::Nil), ("succeededCount", "SucceededCount", Go::Nil)];
/// `policy.PodDisruptionBudgetSpec`.
pub const DISRUPTION_BUDGET: Fields = &[
    ("minAvailable", "MinAvailable", Go::Nil),
    ("selector", "Selector", Go::Nil),
    ("maxUnavailable", "MaxUnavailable", Go::Nil),
    ("unhealthyPodEvictionPolicy", "UnhealthyPodEvictionPolicy", Go::Nil),
];
/// `core.Toleration`.
pub const TOLERATION: Fields = &[
    ("key", "Key", Go::Text),
    ("operator", "Operator", Go::Text),
    ("value", "Value", Go::Text),
    ("effect", "Effect", Go::Text),
    ("tolerationSeconds", "TolerationSeconds", Go::Nil),
];
/// `core.ObjectReference`.
pub const OBJECT_REFERENCE: Fields = &[
    ("kind", "Kind", Go::Text),
    ("namespace", "Namespace", Go::Text),
    ("name", "Name", Go::Text),
    ("uid", "UID", Go::Text),
    ("apiVersion", "APIVersion", Go::Text),
    ("resourceVersion", "ResourceVersion", Go::Text),
    ("fieldPath", "FieldPath", Go::Text),
];
/// `core.EventSource`.
pub const EVENT_SOURCE: Fields = &[("component", "Component", Go::Text), ("host", "Host", Go::Text)];
/// `rbac.RoleRef`.
pub const ROLE_REF: Fields =
    &[("apiGroup", "APIGroup", Go::Text), ("kind", "Kind", Go::Text), ("name", "Name", Go::Text)];
/// `flowcontrol.FlowDistinguisherMethod`.
pub const DISTINGUISHER: Fields = &[("type", "Type", Go::Text)];
/// `storage.VolumeAttachmentSpec`.
pub const VOLUME_ATTACHMENT: Fields = &[
    ("attacher", "Attacher", Go::Text),
    (
        "source",
        "Source",
        Go::Struct(&[
            ("persistentVolumeName", "PersistentVolumeName", Go::Nil),
            ("inlineVolumeSpec", "InlineVolumeSpec", Go::Nil),
        ]),
    ),
    ("nodeName", "NodeName", Go::Text),
];
/// `storage.CSINodeDriver`.
pub const CSI_NODE_DRIVER: Fields = &[
    ("name", "Name", Go::Text),
    ("nodeID", "NodeID", Go::Text),
    ("topologyKeys", "TopologyKeys", Go::Nil),
    ("allocatable", "Allocatable", Go::Nil),
];
/// `core.SecurityContext`.
pub const SECURITY_CONTEXT: Fields = &[
    ("capabilities", "Capabilities", Go::Struct(&[("add", "Add", Go::Nil), ("drop", "Drop", Go::Nil)])),
    ("privileged", "Privileged", Go::Nil),
    (
        "seLinuxOptions",
        "SELinuxOptions",
        Go::Struct(&[
            ("user", "User", Go::Text),
            ("role", "Role", Go::Text),
            ("type", "Type", Go::Text),
            ("level", "Level", Go::Text),
        ]),
    ),
    (
        "windowsOptions",
        "WindowsOptions",
        Go::Struct(&[
            ("gmsaCredentialSpecName", "GMSACredentialSpecName", Go::Nil),
            ("gmsaCredentialSpec", "GMSACredentialSpec", Go::Nil),
            ("runAsUserName", "RunAsUserName", Go::Nil),
            ("hostProcess", "HostProcess", Go::Nil),
        ]),
    ),
    ("runAsUser", "RunAsUser", Go::Nil),
    ("runAsGroup", "RunAsGroup", Go::Nil),
    ("runAsNonRoot", "RunAsNonRoot", Go::Nil),
    ("readOnlyRootFilesystem", "ReadOnlyRootFilesystem", Go::Nil),
    ("allowPrivilegeEscalation", "AllowPrivilegeEscalation", Go::Nil),
    ("procMount", "ProcMount", Go::Nil),
    ("seccompProfile", "SeccompProfile", Go::Struct(PROFILE)),
    ("appArmorProfile", "AppArmorProfile", Go::Struct(PROFILE)),
];

/// A struct of an internal type, as an error shows it.
pub fn shown(fields: Fields, v: &Value) -> Shown {
    Shown::raw(text(fields, v))
}

/// A list of structs of an internal type.
pub fn shown_list(fields: Fields, list: &Value) -> Shown {
    let texts: Vec<String> = list.as_array().into_iter().flatten().map(|v| text(fields, v)).collect();
    Shown::raw(if list.is_array() { format!("[{}]", texts.join(",")) } else { "null".into() })
}

/// A struct of a type of `metav1`, or a list of such, as an error shows it: under its names in JSON, in Go's order.
pub fn shown_as(ty: &str, v: &Value) -> Shown {
    let one = |v: &Value| match crate::schema::Type::named(ty) {
        Some(ty) if v.is_object() => String::from_utf8(crate::codec::json::to_vec(v, ty)).unwrap_or_default(),
        _ => crate::codec::json::to_string(v),
    };
    Shown::raw(match v.as_array() {
        Some(list) => format!("[{}]", list.iter().map(one).collect::<Vec<_>>().join(",")),
        None => one(v),
    })
}

/// The type of label selectors.
pub const LABEL_SELECTOR: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.LabelSelector";
/// The type of references to owners.
pub const OWNER_REFERENCE: &str = "k8s.io/apimachinery/pkg/apis/meta/v1.OwnerReference";

fn text(fields: Fields, v: &Value) -> String {
    let field = |(json, go, zero): &(&str, &str, Go)| {
        let value = at(v, &[json]);
        let shown = match zero {
            Go::Text if value.is_null() => "\"\"".to_owned(),
            Go::Zero if value.is_null() => "0".to_owned(),
            Go::False if value.is_null() => "false".to_owned(),
            Go::Object(fields) => text(fields, value),
            Go::Struct(fields) if !value.is_null() => text(fields, value),
            Go::List(fields) => shown_list(fields, value).text().to_owned(),
            _ => crate::codec::json::to_string(value),
        };
        format!("{}:{shown}", crate::field::quote(go))
    };
    format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_of_metav1_are_in_their_own_order() {
        let selector = json!({"matchExpressions": [{"operator": "Exists", "key": "k"}], "matchLabels": {"a": "<b>"}});
        assert_eq!(
            shown_as(LABEL_SELECTOR, &selector).text(),
            r#"{"matchLabels":{"a":"\u003cb\u003e"},"matchExpressions":[{"key":"k","operator":"Exists"}]}"#
        );
    }

    #[test]
    fn every_field_is_shown_under_its_go_name() {
        assert_eq!(
            text(TAINT, &json!({"key": "a", "effect": "NoExecute"})),
            r#"{"Key":"a","Value":"","Effect":"NoExecute","TimeAdded":null}"#
        );
        let context = text(SECURITY_CONTEXT, &json!({"privileged": true, "capabilities": {"add": ["X"]}}));
        assert!(
            context.starts_with(
                r#"{"Capabilities":{"Add":["X"],"Drop":null},"Privileged":true,"SELinuxOptions":null,"WindowsOptions":null,"#
            ),
            "{context}"
        );
    }
}
