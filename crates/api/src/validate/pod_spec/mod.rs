//! Pods and pod templates, split by subject: [`containers`], [`env`], [`handlers`] (probes and hooks), [`volumes`],
//! [`resources`], [`security`], [`os`] (what one system has and the other lacks), [`affinity`], [`scheduling`]
//! (tolerations, spread, gates, names), and [`warnings`].
//!
//! Upstream: `ValidatePodSpec` in `pkg/apis/core/validation/validation.go`; the order of problems is its order.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{dns_label_at, dns_subdomain_at, labels};
use crate::field::{ErrorList, Path};
use crate::kind::Cx;
use crate::object::View;

pub mod affinity;
pub mod containers;
pub mod env;
pub mod handlers;
pub mod os;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod virtual_paths;
pub mod volumes;
pub mod warnings;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// The volumes of a pod spec by name.
pub type Volumes<'a> = BTreeMap<&'a str, &'a Value>;

/// What the parts of a pod spec need to know of the whole.
pub struct PodContext<'a> {
    /// The volumes by name.
    pub volumes: Volumes<'a>,
    /// Names of the resource claims.
    pub claims: Vec<&'a str>,
    /// `spec.terminationGracePeriodSeconds`.
    pub grace_seconds: i64,
    /// Whether users are those of the host.
    pub host_users: bool,
    /// `spec.restartPolicy`.
    pub restart_policy: &'a str,
}

/// A new pod.
pub fn pod(_cx: &Cx<'_>, obj: &Value) -> ErrorList {
    let mut errs = ErrorList::new();
    let root = View::root(obj);
    let spec = root.get("spec");
    annotations(&mut errs, &root.dig("metadata.annotations"), &spec);
    self::spec(&mut errs, &spec, Some(root.dig("metadata.name").str()));
    if spec.get("serviceAccountName").is_empty() {
        for volume in spec.items("volumes") {
            for source in volume.get("projected").items("sources") {
                let token = source.get("serviceAccountToken");
                if token.is_set() {
                    errs.forbidden(token.path(), "must not be specified when serviceAccountName is not set");
                }
            }
        }
    }
    for field in ["containers", "initContainers"] {
        spec.items(field).iter().for_each(|container| containers::image_padding(&mut errs, container));
    }
    errs
}

/// What pods and templates say in annotations. Upstream: `ValidatePodSpecificAnnotations`.
pub fn annotations(errs: &mut ErrorList, annotations: &View<'_>, spec: &View<'_>) {
    const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(value) = annotations.get(MIRROR).opt_str()
        && spec.get("nodeName").str().is_empty()
    {
        errs.invalid(&annotations.path().key(MIRROR), value, "must set spec.nodeName if mirror pod annotation is set");
    }
    if let Some(cost) = annotations.get(COST).opt_str() {
        // No sign but a minus, no leading zeros.
        let plain = cost == "0" || !cost.strip_prefix('-').unwrap_or(cost).starts_with(['0', '+', '-']);
        if !plain || cost.parse::<i32>().is_err() {
            errs.invalid(&annotations.path().key(COST), cost, "must be a 32bit integer");
        }
    }
    security::annotations(errs, annotations, spec);
}

/// The template of a workload; `unchanged` when an update leaves it as it was.
pub fn template(errs: &mut ErrorList, _cx: &Cx<'_>, template: &View<'_>, unchanged: bool) {
    template_meta(errs, template);
    if unchanged {
        return;
    }
    let spec = template.get("spec");
    self::spec(errs, &spec, None);
    security::annotations_match(errs, &template.dig("metadata.annotations"), &spec);
    let ephemeral = spec.get("ephemeralContainers");
    if !ephemeral.is_empty() {
        errs.forbidden(ephemeral.path(), "ephemeral containers not allowed in pod template");
    }
}

/// Labels and annotations of a template; upstream's paths have no `metadata` here.
pub fn template_meta(errs: &mut ErrorList, template: &View<'_>) {
    let meta = template.get("metadata");
    let here = |field: &str| View::at(template.path().child(field), meta.get_named(field).value());
    labels::labels(errs, &here("labels"));
    super::meta::annotations(errs, &here("annotations"));
    annotations(errs, &here("annotations"), &template.get("spec"));
}

/// A pod spec: of the pod of that name, or of a template.
pub fn spec(errs: &mut ErrorList, spec: &View<'_>, pod_name: Option<&str>) {
    let claims = spec.items("resourceClaims");
    let pod = PodContext {
        volumes: volumes::volumes(errs, &spec.get("volumes"), pod_name),
        claims: claims.iter().map(|c| c.get("name").str()).filter(|name| !name.is_empty()).collect(),
        grace_seconds: spec.get("terminationGracePeriodSeconds").int().unwrap_or(30),
        host_users: spec.get("hostUsers").bool() != Some(false),
        restart_policy: spec.get("restartPolicy").str(),
    };
    scheduling::resource_claims(errs, &spec.get("resourceClaims"));
    containers::regular(errs, &spec.get("containers"), &pod);
    containers::init(errs, &spec.get("initContainers"), &spec.get("containers"), &pod);
    containers::ephemeral(errs, spec, &pod);
    if spec.get("resources").is_set() {
        resources::of_pod(errs, spec);
    }
    containers::host_network(errs, spec, pod_name.is_some());
    let policy = spec.get("restartPolicy");
    super::one_of(errs, &policy, &["Always", "OnFailure", "Never"]);
    let dns = spec.get("dnsPolicy");
    super::one_of(errs, &dns, &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"]);
    labels::labels(errs, &spec.get("nodeSelector"));
    security::pod(errs, spec);
    affinity::affinity(errs, &spec.get("affinity"));
    scheduling::dns_config(errs, spec);
    scheduling::gates(errs, spec);
    scheduling::spread(errs, &spec.get("topologySpreadConstraints"));
    os::host_process(errs, spec);
    security::host_users(errs, spec);
    names(errs, spec);
    scheduling::tolerations(errs, &spec.get("tolerations"));
    scheduling::host_aliases(errs, &spec.get("hostAliases"));
    for field in ["priorityClassName", "runtimeClassName"] {
        let v = spec.get(field);
        if !v.str().is_empty() || (field == "runtimeClassName" && v.is_set()) {
            dns_subdomain_at(errs, &v);
        }
    }
    let preemption = spec.get("preemptionPolicy");
    if preemption.is_set() {
        super::one_of(errs, &preemption, &["PreemptLowerPriority", "Never"]);
    }
    let overhead = spec.get("overhead");
    if overhead.is_set() {
        resources::limits_only(errs, &overhead, overhead.path());
    }
    os::os(errs, spec);
}

fn names(errs: &mut ErrorList, spec: &View<'_>) {
    for field in ["serviceAccountName", "nodeName"] {
        let v = spec.get(field);
        if !v.str().is_empty() {
            dns_subdomain_at(errs, &v);
        }
    }
    let deadline = spec.get("activeDeadlineSeconds");
    if let Some(seconds) = deadline.int()
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        errs.invalid(deadline.path(), seconds, "must be between 1 and 2147483647, inclusive");
    }
    for field in ["hostname", "subdomain"] {
        let v = spec.get(field);
        if !v.str().is_empty() {
            dns_label_at(errs, &v);
        }
    }
}

/// The text of upstream's check that a path stays below the place it is mounted at.
/// Upstream: `validateLocalDescendingPath`.
pub fn descending_path(errs: &mut ErrorList, path: &Path, text: &str) {
    if text.starts_with('/') {
        errs.invalid(path, text, "must be a relative path");
    }
    no_back_steps(errs, path, text);
}

/// A path without `..`. Upstream: `validatePathNoBacksteps`.
pub fn no_back_steps(errs: &mut ErrorList, path: &Path, text: &str) {
    if text.split('/').any(|part| part == "..") {
        errs.invalid(path, text, "must not contain '..'");
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;
    use crate::kind::Features;

    /// The problems of a pod with this spec, defaults applied, as text.
    pub(crate) fn problems(spec: Value) -> Vec<String> {
        let mut pod = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": spec});
        crate::core::pod::defaults::pod(&mut pod);
        let features = Features::default();
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "t", features: &features };
        self::pod(&cx, &pod).0.iter().map(ToString::to_string).collect()
    }

    /// The problems of a pod with one container that has these fields beside name and image.
    pub(crate) fn container_problems(fields: Value) -> Vec<String> {
        let mut container = json!({"name": "c", "image": "i"});
        for (key, value) in fields.as_object().into_iter().flatten() {
            container[key.as_str()] = value.clone();
        }
        problems(json!({"containers": [container]}))
    }

    #[test]
    fn a_plain_pod_is_fine() {
        assert_eq!(container_problems(json!({})), Vec::<String>::new());
    }

    #[test]
    fn a_pod_needs_containers_with_names_and_images() {
        assert_eq!(problems(json!({"containers": []})), ["spec.containers: Required value"]);
        assert_eq!(
            problems(json!({"containers": [{}]})),
            ["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"]
        );
    }

    #[test]
    fn annotations_that_mean_something_are_read() {
        let problems = |annotations: Value| {
            let pod = json!({"metadata": {"annotations": annotations}});
            let mut errs = ErrorList::new();
            let root = View::root(&pod);
            super::annotations(&mut errs, &root.dig("metadata.annotations"), &root.get("spec"));
            crate::validate::testing::texts(&errs)
        };
        const COST: &str = "controller.kubernetes.io/pod-deletion-cost";
        for good in ["0", "-5", "100"] {
            assert_eq!(problems(json!({ (COST): good })), [""; 0]);
        }
        for bad in ["+1", "01", "x", "", "3000000000"] {
            let expected = format!("metadata.annotations[{COST}]: Invalid value: \"{bad}\": must be a 32bit integer");
            assert_eq!(problems(json!({ (COST): bad })), [expected]);
        }
    }

    #[test]
    fn null_where_an_object_belongs_is_no_panic() {
        let _ = problems(Value::Null);
        let _ = problems(json!({"containers": [null, 3, "x"], "volumes": [null, 1], "affinity": 7, "tolerations": {}}));
    }
}
