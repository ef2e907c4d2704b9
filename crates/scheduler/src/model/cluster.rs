//! What is read of namespaces, workloads and disruption budgets.

use std::collections::BTreeMap;

use orkd_reconcile::{LabelSelector, Meta, View, null_default};
use serde::Deserialize;

/// A view of which only the metadata and a selector matter.
pub trait Labelled: View {
    /// The selector as upstream's `helper.DefaultSelector` reads it: labels to be equal and further requirements;
    /// `None` for none at all.
    fn selector(&self) -> Option<LabelSelector>;
}

macro_rules! view {
    ($name:ident, $doc:literal, $group:literal, $version:literal, $plural:literal, $namespaced:literal, $spec:ty) => {
        #[doc = $doc]
        #[derive(Debug, Default, Deserialize)]
        #[serde(default)]
        pub struct $name {
            /// Metadata.
            pub metadata: Meta,
            /// Spec.
            #[serde(deserialize_with = "null_default")]
            pub spec: $spec,
        }

        impl View for $name {
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = stringify!($name);
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &Meta {
                &self.metadata
            }
        }
    };
}

/// A spec with a map as selector.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MapSelector {
    /// Labels that must be equal.
    #[serde(deserialize_with = "null_default")]
    pub selector: BTreeMap<String, String>,
}

/// A spec with a label selector.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SetSelector {
    /// The selector.
    pub selector: Option<LabelSelector>,
}

/// A spec of which nothing is read.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Nothing {}

view!(Namespace, "A namespace, for its labels.", "", "v1", "namespaces", false, Nothing);
view!(Service, "A service, for its selector.", "", "v1", "services", true, MapSelector);
view!(
    ReplicationController,
    "A replication controller, for its selector.",
    "",
    "v1",
    "replicationcontrollers",
    true,
    MapSelector
);
view!(ReplicaSet, "A replica set, for its selector.", "apps", "v1", "replicasets", true, SetSelector);
view!(StatefulSet, "A stateful set, for its selector.", "apps", "v1", "statefulsets", true, SetSelector);

fn of_map(labels: &BTreeMap<String, String>) -> Option<LabelSelector> {
    (!labels.is_empty()).then(|| LabelSelector { match_labels: labels.clone(), ..Default::default() })
}

impl Labelled for Service {
    fn selector(&self) -> Option<LabelSelector> {
        of_map(&self.spec.selector)
    }
}

impl Labelled for ReplicationController {
    fn selector(&self) -> Option<LabelSelector> {
        of_map(&self.spec.selector)
    }
}

impl Labelled for ReplicaSet {
    fn selector(&self) -> Option<LabelSelector> {
        self.spec.selector.clone()
    }
}

impl Labelled for StatefulSet {
    fn selector(&self) -> Option<LabelSelector> {
        self.spec.selector.clone()
    }
}

/// A disruption budget, for preemption.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DisruptionBudget {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    #[serde(deserialize_with = "null_default")]
    pub spec: SetSelector,
    /// Status.
    #[serde(deserialize_with = "null_default")]
    pub status: BudgetStatus,
}

/// `status` of a disruption budget.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// How many more pods may go.
    pub disruptions_allowed: i64,
    /// Pods that are going already, by name.
    #[serde(deserialize_with = "null_default")]
    pub disrupted_pods: BTreeMap<String, serde::de::IgnoredAny>,
}

impl View for DisruptionBudget {
    const GROUP: &'static str = "policy";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "PodDisruptionBudget";
    const PLURAL: &'static str = "poddisruptionbudgets";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}
