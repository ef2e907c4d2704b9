//! Requests and limits. Upstream: `ValidateResourceRequirements`, `ValidateContainerResourceRequirements`.

use std::collections::BTreeSet;

use crate::core::pod::defaults;
use crate::field::ErrorList;
use crate::object::View;
use crate::quantity::Quantity;

const HUGE_PAGES: &str = "hugepages-";

/// Whether a name is one of Kubernetes' own resources: without a domain, or in its domain.
fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Whether a name is that of a resource of somebody else's. Upstream: `IsExtendedResourceName`.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && crate::names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Resources a node may promise more of than it has.
fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

fn parsed(v: &View<'_>) -> Option<Quantity> {
    v.value().as_str().map(str::to_owned).or_else(|| v.int().map(|n| n.to_string()))?.parse().ok()
}

/// The text of an amount, as written.
fn shown(v: &View<'_>) -> String {
    v.value().as_str().map_or_else(|| v.value().to_string(), str::to_owned)
}

/// An amount that is not negative.
pub fn amount(errs: &mut ErrorList, v: &View<'_>) {
    if parsed(v).is_some_and(|q| q.sign() < 0) {
        errs.invalid(v.path(), shown(v).as_str(), "must be greater than or equal to 0");
    }
}

/// An amount of a resource with this name: not negative, whole where the resource is not divisible.
/// Upstream: `ValidateResourceQuantityValue`.
pub fn amount_of(errs: &mut ErrorList, name: &str, v: &View<'_>) {
    amount(errs, v);
    let whole = !is_native(name);
    if whole && parsed(v).is_some_and(|q| q.milli_value() % 1000 != 0) {
        errs.invalid(v.path(), shown(v).as_str(), "must be an integer");
    }
}

/// The name of a resource of containers. Upstream: `validateContainerResourceName`.
fn name(errs: &mut ErrorList, name: &str, v: &View<'_>) {
    for problem in crate::names::qualified_name(name) {
        errs.invalid(v.path(), name, problem);
    }
    if !name.contains('/') {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if !standard {
            errs.invalid(v.path(), name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && name.starts_with("requests.") {
        errs.invalid(v.path(), name, "doesn't follow extended resource name standard");
    }
}

/// The resources of a container or pod; `claims` are the names of the pod's resource claims.
pub fn requirements(errs: &mut ErrorList, v: &View<'_>, claims: &[&str]) {
    let (limits, requests) = (v.get("limits"), v.get("requests"));
    let (mut computes, mut huge) = (false, false);
    for (resource, limit) in limits.entries() {
        name(errs, resource, &limit);
        amount_of(errs, resource, &limit);
        computes |= matches!(resource, "cpu" | "memory");
        huge |= resource.starts_with(HUGE_PAGES);
    }
    for (resource, request) in requests.entries() {
        name(errs, resource, &request);
        amount_of(errs, resource, &request);
        computes |= matches!(resource, "cpu" | "memory");
        huge |= resource.starts_with(HUGE_PAGES);
        let limit =
            limits.map().and_then(|m| m.get(resource)).map(|value| View::at(limits.path().key(resource), value));
        let Some(limit) = limit else {
            if !may_be_overcommitted(resource) {
                errs.required(limits.path(), "Limit must be set for non overcommitable resources");
            }
            continue;
        };
        let (Some(wanted), Some(most)) = (parsed(&request), parsed(&limit)) else { continue };
        if wanted != most && !may_be_overcommitted(resource) {
            errs.invalid(
                requests.path(),
                shown(&request).as_str(),
                format!("must be equal to {resource} limit of {}", shown(&limit)),
            );
        } else if wanted > most {
            errs.invalid(
                requests.path(),
                shown(&request).as_str(),
                format!("must be less than or equal to {resource} limit of {}", shown(&limit)),
            );
        }
    }
    if huge && !computes {
        errs.forbidden(v.path(), "HugePages require cpu or memory");
    }
    let mut seen = BTreeSet::new();
    for claim in v.items("claims") {
        let (name, request) = (claim.get("name"), claim.get("request"));
        if name.str().is_empty() {
            errs.required(name.path(), "");
        } else if !seen.insert((name.str(), request.str())) {
            errs.duplicate(name.path(), name.str());
        } else if !claims.contains(&name.str()) {
            errs.not_found(name.path(), name.str());
        }
    }
}

/// The resources of a pod as a whole: no less than its containers ask for together.
/// Upstream: `validatePodResources`.
pub fn of_pod(errs: &mut ErrorList, spec: &View<'_>) {
    let v = spec.get("resources");
    requirements(errs, &v, &[]);
    for list in ["limits", "requests"] {
        for (name, amount) in v.get(list).entries() {
            if !defaults::is_of_pods(name) {
                errs.not_supported(amount.path(), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
    let requests = v.get("requests");
    for (name, together) in defaults::container_requests(spec.value()) {
        let asked = requests.get(&name);
        if parsed(&asked).is_some_and(|asked| asked < together) {
            errs.invalid(
                &requests.path().key(&name),
                shown(&asked).as_str(),
                format!("must be greater than or equal to aggregate container requests of {together}"),
            );
        }
    }
}

/// A pod has huge pages of one size. Upstream: in `ValidatePodCreate`.
pub fn one_huge_page_size(errs: &mut ErrorList, spec: &View<'_>) {
    let mut sizes = BTreeSet::new();
    for container in spec.items("containers") {
        for list in ["limits", "requests"] {
            let amounts = container.get("resources").get(list);
            sizes.extend(
                amounts.map().into_iter().flatten().map(|(k, _)| k.clone()).filter(|k| k.starts_with(HUGE_PAGES)),
            );
        }
    }
    if sizes.len() > 1 {
        let shown = serde_json::Value::from(sizes.into_iter().collect::<Vec<_>>());
        errs.invalid(spec.path(), &shown, "must use a single hugepage size in a pod spec");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::container_problems;

    #[test]
    fn requests_stay_within_limits() {
        assert_eq!(
            container_problems(
                json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1001m", "memory": "1024Mi"}}})
            ),
            [
                "spec.containers[0].resources.requests: Invalid value: \"1001m\": must be less than or equal to cpu limit of 1"
            ]
        );
        assert_eq!(
            container_problems(
                json!({"resources": {"requests": {"gpus": "1", "example.com/gpu": "1500m", "memory": "-1"}}})
            ),
            [
                "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: \"1500m\": must be an integer",
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
                "spec.containers[0].resources.requests[gpus]: Invalid value: \"gpus\": must be a standard resource for containers",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }
}
