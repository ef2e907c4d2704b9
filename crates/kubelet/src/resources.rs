//! Requests and limits in the kernel's terms (pure): quantities, QoS classes, cpu shares and quotas,
//! `oom_score_adj`. Follows upstream `pkg/kubelet/cm/helpers_linux.go` and `pkg/kubelet/qos/policy.go`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use orkd_cri::v1::LinuxContainerResources;

use crate::pod;

/// The default period of a cpu quota, in microseconds.
pub const QUOTA_PERIOD: i64 = 100_000;
/// The least quota the kernel takes.
const MIN_QUOTA: i64 = 1000;
/// The least limit, in thousandths of cores, that the kernel tells from smaller ones (`MinMilliCPULimit`).
pub const MIN_MILLI_LIMIT: i64 = 10;
/// The least cpu shares; requests of as many thousandths of cores or less are one to the kernel.
pub const MIN_SHARES: i64 = 2;
/// The most cpu shares.
const MAX_SHARES: i64 = 262_144;

/// A quantity in thousandths, rounded up, as `MilliValue`. `None` if it is no quantity.
pub fn milli(text: &str) -> Option<i64> {
    scaled(text, 3)
}

/// A quantity in whole units, rounded up, as `Value`. `None` if it is no quantity.
pub fn units(text: &str) -> Option<i64> {
    scaled(text, 0)
}

/// `ceil(quantity * 10^power)`, saturating.
fn scaled(text: &str, power: u32) -> Option<i64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (negative, digits) = match number.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, number.strip_prefix('+').unwrap_or(number)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if (whole.is_empty() && fraction.is_empty()) || digits.len() > 30 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let mut numerator = mantissa.checked_mul(10i128.checked_pow(power)?)?;
    let mut denominator = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let decimal = |e: i32| (e >= 0).then(|| 10i128.checked_pow(e.unsigned_abs())).flatten();
    match suffix {
        "" => {}
        "n" => denominator = denominator.checked_mul(1_000_000_000)?,
        "u" => denominator = denominator.checked_mul(1_000_000)?,
        "m" => denominator = denominator.checked_mul(1000)?,
        "k" => numerator = numerator.checked_mul(1000)?,
        "M" => numerator = numerator.checked_mul(decimal(6)?)?,
        "G" => numerator = numerator.checked_mul(decimal(9)?)?,
        "T" => numerator = numerator.checked_mul(decimal(12)?)?,
        "P" => numerator = numerator.checked_mul(decimal(15)?)?,
        "E" => numerator = numerator.checked_mul(decimal(18)?)?,
        "Ki" => numerator = numerator.checked_mul(1 << 10)?,
        "Mi" => numerator = numerator.checked_mul(1 << 20)?,
        "Gi" => numerator = numerator.checked_mul(1 << 30)?,
        "Ti" => numerator = numerator.checked_mul(1 << 40)?,
        "Pi" => numerator = numerator.checked_mul(1 << 50)?,
        "Ei" => numerator = numerator.checked_mul(1 << 60)?,
        exponent => {
            let e: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            match e {
                0..=18 => numerator = numerator.checked_mul(decimal(e)?)?,
                -18..=-1 => denominator = denominator.checked_mul(decimal(-e)?)?,
                _ => return None,
            }
        }
    }
    let value = numerator / denominator + i128::from(numerator % denominator != 0);
    let value = if negative { -(numerator / denominator) } else { value };
    Some(i64::try_from(value).unwrap_or(if negative { i64::MIN } else { i64::MAX }))
}

fn of(map: Option<&BTreeMap<String, Quantity>>, name: &str) -> Option<Quantity> {
    map?.get(name).cloned()
}

/// A request, which is the limit where only that is given.
pub fn request(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    of(resources?.requests.as_ref(), name).or_else(|| of(resources?.limits.as_ref(), name))
}

/// A limit.
pub fn limit(resources: Option<&ResourceRequirements>, name: &str) -> Option<Quantity> {
    of(resources?.limits.as_ref(), name)
}

/// A request in thousandths of cores or whole units; 0 if there is none.
pub fn requested(resources: Option<&ResourceRequirements>, name: &str) -> i64 {
    amount(request(resources, name), name).unwrap_or_default()
}

/// A limit in thousandths of cores or whole units; 0 if there is none.
pub fn limited(resources: Option<&ResourceRequirements>, name: &str) -> i64 {
    amount(limit(resources, name), name).unwrap_or_default()
}

/// The QoS class of a pod: `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let all = spec.init_containers.iter().flatten().chain(&spec.containers);
    let (mut any, mut guaranteed) = (false, true);
    let pod_level = spec.resources.as_ref();
    let requirements: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(r) => vec![Some(r)],
        None => all.map(|c| c.resources.as_ref()).collect(),
    };
    for resources in requirements {
        for name in ["cpu", "memory"] {
            let positive = |q: Option<Quantity>| q.and_then(|q| milli(&q.0)).filter(|v| *v > 0);
            let asked = positive(resources.and_then(|r| of(r.requests.as_ref(), name)));
            let most = positive(limit(resources, name));
            any |= asked.is_some() || most.is_some();
            guaranteed &= most.is_some() && asked.is_none_or(|a| Some(a) == most);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// Cpu shares of a request in thousandths of a core.
pub fn shares(milli_cpu: i64) -> i64 {
    match milli_cpu {
        0 => MIN_SHARES,
        m => (m.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES),
    }
}

/// Quota in microseconds a period; 0 means none.
pub fn quota(milli_cpu: i64) -> i64 {
    match milli_cpu {
        0 => 0,
        m => (m.saturating_mul(QUOTA_PERIOD) / 1000).max(MIN_QUOTA),
    }
}

/// cgroup v2's `cpu.weight` of cpu shares.
pub fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(2, MAX_SHARES) - 2) * 9999 / 262_142
}

/// Cpu shares of cgroup v2's `cpu.weight`, as near as can be told.
pub fn shares_of_weight(weight: i64) -> i64 {
    2 + ((weight.clamp(1, 10_000) - 1) * 262_142 + 9998) / 9999
}

/// What a runtime says is in force of a container, in thousandths of cores and bytes: cpu request, cpu limit, memory limit
/// (`toKubeContainerResources`).
pub fn in_force(linux: &LinuxContainerResources) -> [Option<i64>; 3] {
    let some = |n: i64| (n > 0).then_some(n);
    let request = some(linux.cpu_shares).map(|shares| (shares.saturating_mul(1000) + 1023) / 1024);
    let limit = some(linux.cpu_quota.max(0).saturating_mul(1000) / linux.cpu_period.max(1));
    [request, limit, some(linux.memory_limit_in_bytes)]
}

/// How eagerly the kernel kills a container when memory runs out.
pub fn oom_score_adj(pod: &Pod, container: &Container, memory_capacity: i64) -> i64 {
    let spec = pod::spec(pod);
    // system-node-critical pods are never to be killed.
    if spec.priority.is_some_and(|p| p >= 2_000_001_000) {
        return -997;
    }
    match qos_class(&spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = request(container.resources.as_ref(), "memory").and_then(|q| units(&q.0)).unwrap_or_default();
            let share = i128::from(asked) * 1000 / i128::from(memory_capacity.max(1));
            let adjusted = 1000 - i64::try_from(share).unwrap_or(1000);
            // Above the guaranteed ones, below best effort.
            if adjusted < 3 { 3 } else { adjusted.min(999) }
        }
    }
}

/// The resources of a container for the runtime.
pub fn container_resources(pod: &Pod, container: &Container, memory_capacity: i64) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let milli_of = |q: Option<Quantity>| q.and_then(|q| milli(&q.0)).unwrap_or_default();
    let units_of = |q: Option<Quantity>| q.and_then(|q| units(&q.0)).unwrap_or_default();
    let hugepages = resources.and_then(|r| r.limits.as_ref()).into_iter().flatten().filter_map(|(name, q)| {
        let size = name.strip_prefix("hugepages-")?;
        Some(orkd_cri::v1::HugepageLimit {
            page_size: format!("{}B", size.trim_end_matches('i')),
            limit: units(&q.0)?.max(0).unsigned_abs(),
        })
    });
    let memory = units_of(limit(resources, "memory"));
    LinuxContainerResources {
        cpu_period: QUOTA_PERIOD,
        cpu_quota: quota(milli_of(limit(resources, "cpu"))),
        cpu_shares: shares(milli_of(request(resources, "cpu"))),
        memory_limit_in_bytes: memory,
        // No swap for containers.
        memory_swap_limit_in_bytes: memory,
        oom_score_adj: oom_score_adj(pod, container, memory_capacity),
        hugepage_limits: hugepages.collect(),
        ..LinuxContainerResources::default()
    }
}

/// What a whole pod asks for, for its cgroup: (cpu request, cpu limit, memory limit), the limits 0 where a container has
/// none.
pub fn pod_totals(spec: &PodSpec) -> (i64, i64, i64) {
    let limit_of_all = |name: &str| {
        let every = spec.init_containers.iter().flatten().chain(&spec.containers);
        let whole = spec.resources.as_ref().and_then(|r| amount(limit(Some(r), name), name));
        let is_limited = |c: &Container| amount(limit(c.resources.as_ref(), name), name).is_some_and(|v| v > 0);
        if whole.is_none() && !every.into_iter().all(is_limited) {
            return 0;
        }
        pod_limit(spec, name).unwrap_or_default()
    };
    (pod_request(spec, "cpu"), limit_of_all("cpu"), limit_of_all("memory"))
}

/// What a whole pod asks for.
pub fn pod_request(spec: &PodSpec, name: &str) -> i64 {
    total(spec, name, &|r| request(r, name)).unwrap_or_else(|| overhead(spec, name))
}

/// What a whole pod may use at most; `None` if none of its containers says anything, while the others' count.
pub fn pod_limit(spec: &PodSpec, name: &str) -> Option<i64> {
    total(spec, name, &|r| limit(r, name))
}

/// A quantity in the unit of a resource: thousandths of cores, whole units of the rest.
fn amount(quantity: Option<Quantity>, name: &str) -> Option<i64> {
    quantity.and_then(|q| if name == "cpu" { milli(&q.0) } else { units(&q.0) })
}

/// What is said for the whole pod; or the sum over containers and sidecars, or what an init container wants with the
/// sidecars before it, where that is more (`PodRequests`, `PodLimits` of `component-helpers/resource`).
fn total(spec: &PodSpec, name: &str, said: &dyn Fn(Option<&ResourceRequirements>) -> Option<Quantity>) -> Option<i64> {
    if let Some(whole) = spec.resources.as_ref().and_then(|r| amount(said(Some(r)), name)) {
        return Some(whole);
    }
    let mut any = false;
    let mut of = |c: &Container| {
        let value = amount(said(c.resources.as_ref()), name);
        any |= value.is_some();
        value.unwrap_or_default()
    };
    let containers: i64 = spec.containers.iter().map(&mut of).sum();
    let (mut sidecars, mut init_most) = (0i64, 0i64);
    for c in spec.init_containers.iter().flatten() {
        let value = of(c);
        match pod::is_sidecar(c) {
            true => {
                sidecars += value;
                init_most = init_most.max(sidecars);
            }
            false => init_most = init_most.max(sidecars + value),
        }
    }
    any.then(|| (containers + sidecars).max(init_most) + overhead(spec, name))
}

/// What the runtime needs for the pod besides.
fn overhead(spec: &PodSpec, name: &str) -> i64 {
    spec.overhead.as_ref().and_then(|o| amount(o.get(name).cloned(), name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quantities() {
        let check = |text: &str, m: Option<i64>, u: Option<i64>| {
            assert_eq!(milli(text), m, "{text}");
            assert_eq!(units(text), u, "{text}");
        };
        check("1", Some(1000), Some(1));
        check("100m", Some(100), Some(1));
        check("0.5", Some(500), Some(1));
        check("1.5Gi", Some(1_610_612_736_000), Some(1_610_612_736));
        check("1e3", Some(1_000_000), Some(1000));
        check("1n", Some(1), Some(1));
        check("64Mi", Some(67_108_864_000), Some(67_108_864));
        check("100Ei", Some(i64::MAX), Some(i64::MAX));
        check("x", None, None);
        check("", None, None);
        check("1e99", None, None);
    }

    #[test]
    fn qos_classes() {
        let check = |resources: serde_json::Value, expected: &str| {
            let spec = serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]}));
            assert_eq!(qos_class(&spec.unwrap_or_default()), expected);
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m"}}), "Guaranteed");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable");
        check(json!({"limits": {"cpu": "1"}}), "Burstable");
    }

    #[test]
    fn kernel_numbers() {
        assert_eq!(shares(0), 2);
        assert_eq!(shares(100), 102);
        assert_eq!(quota(250), 25_000);
        assert_eq!(quota(1), 1000);
        assert_eq!(weight(1024), 39);
        assert_eq!(weight(2), 1);
        for shares in [2, 102, 1024, 262_144] {
            assert_eq!(weight(shares_of_weight(weight(shares))), weight(shares));
        }
    }

    #[test]
    fn what_a_runtime_says_is_read_back() {
        let check = |cpu: (&str, &str), memory: &str, expected: [Option<i64>; 3]| {
            let asks = json!({"requests": {"cpu": cpu.0}, "limits": {"cpu": cpu.1, "memory": memory}});
            let container = json!({"name": "c", "resources": asks});
            let container: Container = serde_json::from_value(container).unwrap_or_default();
            assert_eq!(in_force(&container_resources(&Pod::default(), &container, 1 << 30)), expected, "{cpu:?}");
        };
        check(("20m", "30m"), "35Mi", [Some(20), Some(30), Some(35 << 20)]);
        check(("1", "2500m"), "1Gi", [Some(1000), Some(2500), Some(1 << 30)]);
        check(("1m", "5m"), "0", [Some(2), Some(10), None]);
        check(("0", "0"), "1", [Some(2), None, Some(1)]);
    }
}
