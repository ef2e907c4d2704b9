//! What the job controller reads and writes of a `Job`.

use jiff::Timestamp;
use orkd_reconcile::{LabelSelector, Meta, View, null_default};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::views::{Condition, Pod, condition, view};

/// Keeps an ended pod until it has been counted.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label of a pod of an indexed job.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How many pods of the index failed before this one.
pub(crate) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How many pods of the index failed before this one and were ignored.
pub(crate) const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// A job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Job {
    /// Metadata.
    pub metadata: Meta,
    /// Specification.
    pub spec: JobSpec,
    /// Status.
    pub status: JobStatus,
}
view!(Job, "batch", "v1", "Job", "jobs");

/// What is asked of a job.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// How many pods at a time.
    pub parallelism: Option<i32>,
    /// How many must succeed; `None` for one, and then the others end by themselves.
    pub completions: Option<i32>,
    /// `NonIndexed` or `Indexed`.
    pub completion_mode: Option<String>,
    /// How many may fail.
    pub backoff_limit: Option<i32>,
    /// How many of one index may fail.
    pub backoff_limit_per_index: Option<i32>,
    /// How many indexes may fail.
    pub max_failed_indexes: Option<i32>,
    /// What failures of pods mean.
    pub pod_failure_policy: Option<FailurePolicy>,
    /// When an indexed job has succeeded before all indexes have.
    pub success_policy: Option<SuccessPolicy>,
    /// For how long it may run, in seconds.
    pub active_deadline_seconds: Option<i64>,
    /// For how long it is kept after its end.
    pub ttl_seconds_after_finished: Option<i64>,
    /// Whether it stands still.
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// Which pods.
    pub selector: LabelSelector,
    /// `Failed` when pods that end are waited for.
    pub pod_replacement_policy: Option<String>,
    /// Who manages it, if not we.
    pub managed_by: Option<String>,
    /// What pods are made of.
    pub template: Value,
}

/// What failures of pods mean: the first rule that fits.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct FailurePolicy {
    /// The rules, in order.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<FailureRule>,
}

/// One rule: codes or conditions, and what then.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureRule {
    /// `FailJob`, `FailIndex`, `Ignore` or `Count`.
    pub action: String,
    /// Exit codes of containers.
    pub on_exit_codes: Option<OnExitCodes>,
    /// Conditions of the pod.
    pub on_pod_conditions: Option<Vec<ConditionPattern>>,
}

/// Exit codes of a container, or of any.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OnExitCodes {
    /// The container; `None` for any.
    pub container_name: Option<String>,
    /// `In` or `NotIn`.
    pub operator: String,
    /// The codes.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<i32>,
}

/// A condition of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConditionPattern {
    /// Type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Status.
    pub status: String,
}

/// When an indexed job has succeeded: one rule is enough.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SuccessPolicy {
    /// The rules.
    #[serde(deserialize_with = "null_default")]
    pub rules: Vec<SuccessRule>,
}

/// Which indexes, or how many of them, must have succeeded.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRule {
    /// Which.
    pub succeeded_indexes: Option<String>,
    /// How many.
    pub succeeded_count: Option<i32>,
}

/// The status of a job.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Conditions.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// Pods that run.
    #[serde(deserialize_with = "null_default")]
    pub active: i32,
    /// Pods that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<i32>,
    /// Pods that are being deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<i32>,
    /// Pods that succeeded.
    #[serde(deserialize_with = "null_default")]
    pub succeeded: i32,
    /// Pods that failed.
    #[serde(deserialize_with = "null_default")]
    pub failed: i32,
    /// Indexes that are done, such as `0-3,5`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Indexes that have failed for good.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Pods that ended and are not in the counts yet.
    #[serde(deserialize_with = "null_default")]
    pub uncounted_terminated_pods: Uncounted,
}

/// Uids of pods that ended and are not in the counts yet.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Uncounted {
    /// Those that succeeded.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    /// Those that failed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl Uncounted {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.succeeded.len() + self.failed.len()
    }
}

impl Job {
    /// The condition that says it has ended.
    pub fn finished(&self) -> Option<&Condition> {
        ["Complete", "Failed"].iter().find_map(|kind| self.is(kind))
    }

    /// The condition of a type, if it is true.
    pub fn is(&self, kind: &str) -> Option<&Condition> {
        condition(&self.status.conditions, kind).filter(|c| c.status == "True")
    }

    /// Whether another controller manages it.
    pub fn is_managed_elsewhere(&self) -> bool {
        self.spec.managed_by.as_ref().is_some_and(|m| m != "kubernetes.io/job-controller")
    }

    /// Whether each success has its own number.
    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    /// Whether pods that are being deleted have not failed yet and are not replaced yet.
    pub fn waits_for_terminating(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
    }

    /// Whether a pod counts as failed.
    pub fn counts_as_failed(&self, pod: &Pod) -> bool {
        pod.status.phase == "Failed"
            || !self.waits_for_terminating() && pod.metadata.is_deleting() && pod.status.phase != "Succeeded"
    }

    /// The index of a pod, if it is one of this job's.
    pub fn index_of(&self, pod: &Pod) -> Option<i32> {
        index_of(pod).filter(|i| *i < self.spec.completions.unwrap_or(0))
    }
}

/// The index a pod says it has.
pub fn index_of(pod: &Pod) -> Option<i32> {
    pod.metadata.annotation(INDEX).and_then(|i| i.parse().ok()).filter(|i| *i >= 0)
}

/// Whether a pod waits to be counted.
pub fn is_held(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|f| f == FINALIZER)
}
