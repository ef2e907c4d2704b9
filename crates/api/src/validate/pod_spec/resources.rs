//! Requests and limits. Upstream: `ValidateResourceRequirements`, `ValidateContainerResourceRequirements`.

use std::collections::BTreeSet;

use crate::core::pod::defaults;
use crate::field::{ErrorList, Path};
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
pub fn may_be_overcommitted(name: &str) -> bool {
    is_native(name) && !name.starts_with(HUGE_PAGES)
}

/// The amount at a place, if there is one.
pub fn parsed(v: &View<'_>) -> Option<Quantity> {
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

/// An amount that is one at all; whether it is. Upstream: `validateBasicResource`, which shows the number.
pub fn basic_amount(errs: &mut ErrorList, v: &View<'_>) -> bool {
    let negative = parsed(v).filter(|q| q.sign() < 0);
    if let Some(amount) = negative {
        errs.invalid(v.path(), amount.value(), "must be a valid resource quantity");
    }
    negative.is_none()
}

/// An amount of a resource with this name: not negative, whole where the resource is not divisible.
/// Upstream: `ValidateResourceQuantityValue`.
pub fn amount_of(errs: &mut ErrorList, name: &str, v: &View<'_>) {
    amount(errs, v);
    if (is_counted(name) || is_extended(name)) && parsed(v).is_some_and(|q| q.milli_value() % 1000 != 0) {
        errs.invalid(v.path(), shown(v).as_str(), "must be an integer");
    }
}

/// Resources that are counted in whole numbers. Upstream: `integerResources`.
fn is_counted(name: &str) -> bool {
    matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    )
}

/// Resources without a domain that there are. Upstream: `IsStandardResourceName`.
fn is_standard(name: &str) -> bool {
    let kind = name.strip_prefix("requests.").or_else(|| name.strip_prefix("limits.")).unwrap_or(name);
    is_counted(name)
        || matches!(kind, "cpu" | "memory" | "ephemeral-storage")
        || matches!(name, "storage" | "requests.storage")
        || name.starts_with(HUGE_PAGES)
        || name.starts_with("requests.hugepages-")
}

/// The name of any resource. Upstream: `validateResourceName`.
pub fn resource_name(errs: &mut ErrorList, name: &str, path: &Path) -> bool {
    let problems = crate::names::qualified_name(name);
    if problems.is_empty() && !name.contains('/') && !is_standard(name) {
        errs.invalid(path, name, "must be a standard resource type or fully qualified");
        return false;
    }
    let good = problems.is_empty();
    for problem in problems {
        errs.invalid(path, name, problem);
    }
    good
}

/// Resources that quotas know. Upstream: `IsStandardQuotaResourceName`.
pub fn is_standard_quota(name: &str) -> bool {
    is_standard(name) && name != "storage"
}

/// The name of a resource in a quota. Upstream: `ValidateResourceQuotaResourceName`.
pub fn quota_resource_name(errs: &mut ErrorList, name: &str, path: &Path) {
    resource_name(errs, name, path);
    if !name.contains('/') && !is_standard_quota(name) {
        errs.invalid(path, name, "must be a standard resource for quota");
    }
}

/// The name of a resource of containers. Upstream: `validateContainerResourceName`.
pub fn container_resource_name(errs: &mut ErrorList, name: &str, path: &Path) {
    resource_name(errs, name, path);
    if !name.contains('/') {
        let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
        if !standard {
            errs.invalid(path, name, "must be a standard resource for containers");
        }
    } else if !is_native(name) && !is_extended(name) {
        errs.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

/// The name of a resource of pods as a whole. Upstream: `validatePodResourceName`.
fn pod_resource_name(errs: &mut ErrorList, name: &str, path: &Path) {
    if resource_name(errs, name, path) && !defaults::is_of_pods(name) {
        errs.not_supported(path, name, &["cpu", "hugepages-", "memory"]);
    }
}

/// Whether an amount of huge pages is a number of whole pages. Upstream: `IsHugePageResourceValueDivisible`.
fn whole_pages(errs: &mut ErrorList, name: &str, v: &View<'_>) {
    let Some(amount) = parsed(v) else { return };
    let page = name.strip_prefix(HUGE_PAGES).and_then(|size| size.parse::<Quantity>().ok());
    let whole = page.is_some_and(|page| {
        page.sign() > 0 && page.milli_value() % 1000 == 0 && amount.milli_value() % page.milli_value() == 0
    });
    if !whole {
        errs.invalid(v.path(), shown(v).as_str(), format!("{} is not positive integer multiple of {name}", shown(v)));
    }
}

/// The resources of a container; `claims` are the names of the pod's resource claims.
pub fn requirements(errs: &mut ErrorList, v: &View<'_>, claims: &[&str]) {
    named_requirements(errs, v, claims, container_resource_name);
}

/// Amounts that are limits without requests, such as the overhead of a pod, at the path upstream gives them.
/// Upstream: `validateOverhead`.
pub fn limits_only(errs: &mut ErrorList, amounts: &View<'_>, path: &Path) {
    let limits = serde_json::json!({"limits": amounts.value()});
    requirements(errs, &View::at(path.clone(), &limits), &[]);
}

fn named_requirements(errs: &mut ErrorList, v: &View<'_>, claims: &[&str], name: fn(&mut ErrorList, &str, &Path)) {
    let (limits, requests) = (v.get("limits"), v.get("requests"));
    let (mut computes, mut huge) = (false, false);
    for (resource, limit) in limits.entries() {
        name(errs, resource, limit.path());
        amount_of(errs, resource, &limit);
        computes |= matches!(resource, "cpu" | "memory");
        if resource.starts_with(HUGE_PAGES) {
            huge = true;
            whole_pages(errs, resource, &limit);
        }
    }
    for (resource, request) in requests.entries() {
        name(errs, resource, request.path());
        amount_of(errs, resource, &request);
        computes |= matches!(resource, "cpu" | "memory");
        let limit =
            limits.map().and_then(|m| m.get(resource)).map(|value| View::at(limits.path().key(resource), value));
        within_limit(errs, resource, &requests, &request, limits.path(), limit.as_ref());
        if resource.starts_with(HUGE_PAGES) {
            huge = true;
            whole_pages(errs, resource, &request);
        }
    }
    if huge && !computes {
        errs.forbidden(v.path(), "HugePages require cpu or memory");
    }
    claim_names(errs, v, claims);
}

fn within_limit(
    errs: &mut ErrorList,
    resource: &str,
    requests: &View<'_>,
    request: &View<'_>,
    limits: &Path,
    limit: Option<&View<'_>>,
) {
    let Some(limit) = limit else {
        if !may_be_overcommitted(resource) {
            errs.required(limits, "Limit must be set for non overcommitable resources");
        }
        return;
    };
    let (Some(wanted), Some(most)) = (parsed(request), parsed(limit)) else { return };
    let (wanted_text, most_text) = (shown(request), shown(limit));
    if wanted != most && !may_be_overcommitted(resource) {
        let problem = format!("must be equal to {resource} limit of {most_text}");
        errs.invalid(requests.path(), wanted_text.as_str(), problem);
    } else if wanted > most {
        let problem = format!("must be less than or equal to {resource} limit of {most_text}");
        errs.invalid(requests.path(), wanted_text.as_str(), problem);
    }
}

/// The claims a container uses, whole or request by request, each once. Upstream: `validateResourceClaimNames`.
fn claim_names(errs: &mut ErrorList, v: &View<'_>, claims: &[&str]) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for claim in v.items("claims") {
        let (name, request) = (claim.get("name").str(), claim.get("request"));
        if name.is_empty() {
            errs.required(claim.path(), "");
            continue;
        }
        if seen.contains(name) {
            errs.duplicate(claim.path(), name);
        } else {
            let mut key = name.to_owned();
            if !request.str().is_empty() {
                super::dns_label_at(errs, &request);
                key = format!("{name}/{}", request.str());
            }
            if seen.contains(&key) {
                errs.duplicate(claim.path(), &key);
            } else if request.str().is_empty() {
                let parts = seen.iter().filter(|k| k.split_once('/').is_some_and(|(of, _)| of == name)).count();
                (0..parts).for_each(|_| errs.duplicate(claim.path(), name));
            }
            seen.insert(key);
        }
        if !claims.contains(&name) {
            let mut known = claims.to_vec();
            known.sort_unstable();
            let known = if known.is_empty() { " which is empty".into() } else { format!(": {}", known.join(", ")) };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{known}");
            errs.not_found_because(claim.path(), name, detail);
        }
    }
}

/// The resources of a pod as a whole: no less than its containers ask for together.
/// Upstream: `validatePodResources`.
pub fn of_pod(errs: &mut ErrorList, spec: &View<'_>) {
    let v = spec.get("resources");
    if v.get("claims").is_set() {
        errs.forbidden(v.get("claims").path(), "claims cannot be set for Resources at pod-level");
    }
    named_requirements(errs, &v, &[], pod_resource_name);
    let requests = v.get("requests");
    for (name, together) in defaults::container_requests(spec.value()) {
        let asked = requests.get_named(&name);
        if parsed(&asked).is_some_and(|asked| asked < together) {
            errs.invalid(
                &requests.path().key(&name),
                shown(&asked).as_str(),
                format!("must be greater than or equal to aggregate container requests of {together}"),
            );
        }
    }
    for (i, container) in spec.items("containers").iter().enumerate() {
        for (name, limit) in container.dig("resources.limits").entries() {
            let of_pod = v.get("limits").get_named(name);
            if parsed(&of_pod).zip(parsed(&limit)).is_some_and(|(pod, container)| container > pod) {
                errs.invalid(
                    &v.path().child("containers").index(i).key(name).child("limits"),
                    shown(&limit).as_str(),
                    format!("must be less than or equal to pod limits of {}", shown(&of_pod)),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::{container_problems, problems};

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
                "spec.containers[0].resources.requests[gpus]: Invalid value: \"gpus\": must be a standard resource type or fully qualified",
                "spec.containers[0].resources.requests[gpus]: Invalid value: \"gpus\": must be a standard resource for containers",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ]
        );
    }

    #[test]
    fn huge_pages_are_whole() {
        assert_eq!(
            container_problems(json!({"resources": {"limits": {"hugepages-2Mi": "3Mi"}}})),
            [
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
                "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer \
                 multiple of hugepages-2Mi",
                "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
            ]
        );
    }

    #[test]
    fn claims_are_those_of_the_pod_and_used_once() {
        let claims = |used: serde_json::Value| {
            problems(json!({"resourceClaims": [{"name": "a", "resourceClaimName": "x"}],
                "containers": [{"name": "c", "image": "i", "resources": {"claims": used}}]}))
        };
        assert_eq!(claims(json!([{"name": "a", "request": "r"}, {"name": "a", "request": "s"}])), [""; 0]);
        assert_eq!(
            claims(json!([{"name": "a", "request": "r"}, {"name": "a"}, {"name": "b"}, {}])),
            [
                "spec.containers[0].resources.claims[1]: Duplicate value: \"a\"",
                "spec.containers[0].resources.claims[2]: Not found: \"b\": must be one of the names in \
                 pod.spec.resourceClaims: a",
                "spec.containers[0].resources.claims[3]: Required value",
            ]
        );
    }
}
