//! The specs and results of claims as errors show them. Upstream: `pkg/apis/resource/types.go`.

use serde_json::Value;

use crate::field::Shown;
use crate::object::at;
use crate::validate::internal::{self, Fields, Go};

const SELECTOR: Fields = &[("cel", "CEL", Go::Struct(&[("expression", "Expression", Go::Text)]))];
const TOLERATION: Fields = &[
    ("key", "Key", Go::Text),
    ("operator", "Operator", Go::Text),
    ("value", "Value", Go::Text),
    ("effect", "Effect", Go::Text),
    ("tolerationSeconds", "TolerationSeconds", Go::Nil),
];
const CAPACITY: Fields = &[("requests", "Requests", Go::Nil)];
const EXACTLY: Fields = &[
    ("deviceClassName", "DeviceClassName", Go::Text),
    ("selectors", "Selectors", Go::List(SELECTOR)),
    ("allocationMode", "AllocationMode", Go::Text),
    ("count", "Count", Go::Zero),
    ("adminAccess", "AdminAccess", Go::Nil),
    ("tolerations", "Tolerations", Go::List(TOLERATION)),
    ("capacity", "Capacity", Go::Struct(CAPACITY)),
];
const ALTERNATIVE: Fields = &[
    ("name", "Name", Go::Text),
    ("deviceClassName", "DeviceClassName", Go::Text),
    ("selectors", "Selectors", Go::List(SELECTOR)),
    ("allocationMode", "AllocationMode", Go::Text),
    ("count", "Count", Go::Zero),
    ("tolerations", "Tolerations", Go::List(TOLERATION)),
    ("capacity", "Capacity", Go::Struct(CAPACITY)),
];
const REQUEST: Fields = &[
    ("name", "Name", Go::Text),
    ("exactly", "Exactly", Go::Struct(EXACTLY)),
    ("firstAvailable", "FirstAvailable", Go::List(ALTERNATIVE)),
];
const CONSTRAINT: Fields = &[
    ("requests", "Requests", Go::Nil),
    ("matchAttribute", "MatchAttribute", Go::Nil),
    ("distinctAttribute", "DistinctAttribute", Go::Nil),
];
const OPAQUE: Fields = &[("driver", "Driver", Go::Text), ("parameters", "Parameters", Go::Nil)];
const CONFIG: Fields = &[("requests", "Requests", Go::Nil), ("opaque", "Opaque", Go::Struct(OPAQUE))];
const SPEC: Fields = &[(
    "devices",
    "Devices",
    Go::Object(&[
        ("requests", "Requests", Go::List(REQUEST)),
        ("constraints", "Constraints", Go::List(CONSTRAINT)),
        ("config", "Config", Go::List(CONFIG)),
    ]),
)];
const RESULT: Fields = &[
    ("request", "Request", Go::Text),
    ("driver", "Driver", Go::Text),
    ("pool", "Pool", Go::Text),
    ("device", "Device", Go::Text),
    ("adminAccess", "AdminAccess", Go::Nil),
    ("tolerations", "Tolerations", Go::List(TOLERATION)),
    ("bindingConditions", "BindingConditions", Go::Nil),
    ("bindingFailureConditions", "BindingFailureConditions", Go::Nil),
    ("shareID", "ShareID", Go::Nil),
    ("consumedCapacity", "ConsumedCapacity", Go::Nil),
];
const CHOSEN: Fields =
    &[("source", "Source", Go::Text), ("requests", "Requests", Go::Nil), ("opaque", "Opaque", Go::Struct(OPAQUE))];
const REQUIREMENT: Fields =
    &[("key", "Key", Go::Text), ("operator", "Operator", Go::Text), ("values", "Values", Go::Nil)];
const TERM: Fields = &[
    ("matchExpressions", "MatchExpressions", Go::List(REQUIREMENT)),
    ("matchFields", "MatchFields", Go::List(REQUIREMENT)),
];
const ALLOCATION: Fields = &[
    (
        "devices",
        "Devices",
        Go::Object(&[("results", "Results", Go::List(RESULT)), ("config", "Config", Go::List(CHOSEN))]),
    ),
    ("nodeSelector", "NodeSelector", Go::Struct(&[("nodeSelectorTerms", "NodeSelectorTerms", Go::List(TERM))])),
    ("allocationTimestamp", "AllocationTimestamp", Go::Nil),
];

/// The spec of a claim.
pub(super) fn spec(v: &Value) -> Shown {
    internal::shown(SPEC, v)
}

/// The spec of a template, with the metadata of its claims in it.
pub(super) fn template(v: &Value) -> Shown {
    let meta = internal::shown_as("k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta", at(v, &["metadata"]));
    let fields = meta.text().strip_prefix('{').and_then(|m| m.strip_suffix('}')).unwrap_or_default();
    let comma = if fields.is_empty() { "" } else { "," };
    Shown::raw(format!("{{{fields}{comma}\"Spec\":{}}}", spec(at(v, &["spec"])).text()))
}

/// What was found for a claim.
pub(super) fn allocation(v: &Value) -> Shown {
    internal::shown(ALLOCATION, v)
}

/// The terms of a node selector.
pub(super) fn terms(v: &Value) -> Shown {
    internal::shown_list(TERM, v)
}
