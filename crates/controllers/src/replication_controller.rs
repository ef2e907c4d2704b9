//! Replication controllers: the elder kind of replica sets, kept by the same code.
//!
//! Follows `pkg/controller/replication`, which wraps the replica set controller likewise. A replication controller's
//! selector is a plain map of labels, and its status does not count pods that are going.

use std::collections::BTreeMap;

use orkd_reconcile::{LabelSelector, Meta, View, null_default};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::ControllerSpec;
use crate::replica_set::{Replicated, follow};
use crate::views::{ReplicaSet, ReplicaSetSpec, ReplicaSetStatus};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "replication-controller",
    service_account: "replication-controller",
    run: |cx| Box::pin(follow::<ReplicationController>(cx, SPEC.name)),
};

/// A replication controller, as the replica set it is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(from = "Raw")]
pub struct ReplicationController(ReplicaSet);

#[derive(Default, Deserialize)]
#[serde(default)]
struct Raw {
    metadata: Meta,
    spec: RawSpec,
    status: ReplicaSetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    replicas: Option<i32>,
    min_ready_seconds: i32,
    #[serde(deserialize_with = "null_default")]
    selector: BTreeMap<String, String>,
    template: Option<Box<RawValue>>,
}

impl From<Raw> for ReplicationController {
    fn from(raw: Raw) -> Self {
        let spec = ReplicaSetSpec {
            replicas: raw.spec.replicas,
            min_ready_seconds: raw.spec.min_ready_seconds,
            selector: LabelSelector { match_labels: raw.spec.selector, ..LabelSelector::default() },
            template: raw.spec.template,
        };
        ReplicationController(ReplicaSet { metadata: raw.metadata, spec, status: raw.status })
    }
}

impl View for ReplicationController {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "ReplicationController";
    const PLURAL: &'static str = "replicationcontrollers";
    fn meta(&self) -> &Meta {
        &self.0.metadata
    }
}

impl Replicated for ReplicationController {
    fn set(&self) -> &ReplicaSet {
        &self.0
    }

    const COUNTS_TERMINATING: bool = false;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_as_a_replica_set() {
        let controller: ReplicationController = serde_json::from_str(
            r#"{"metadata":{"name":"rc","uid":"u"},"spec":{"replicas":2,"selector":{"a":"b"},"template":{"spec":{}}},
                "status":{"replicas":1}}"#,
        )
        .expect("a controller");
        let set = controller.set();
        assert_eq!((set.spec.replicas, set.status.replicas, &*set.metadata.name), (Some(2), 1, "rc"));
        assert!(set.spec.selector.matches(&BTreeMap::from([("a".into(), "b".into())])));
        assert!(set.spec.template.is_some());
    }
}
