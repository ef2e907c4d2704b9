//! Which pod goes first, and what it is told (pure).
//!
//! Follows `rankMemoryPressure`, `rankDiskPressureFunc`, `rankPIDPressure` and `evictionMessage` of upstream's
//! `pkg/kubelet/eviction/helpers.go`: pods that use more than they asked for go first, then those of low priority, then
//! those that are furthest above their requests. Pods of which nothing is known go before all of these.

use std::cmp::Reverse;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod};
use orkd_api::quantity::{Quantity, canonical};

use super::pressure::Observations;
use super::thresholds::{Signal, Threshold};
use super::usage::Usages;
use crate::{pod, resources};

/// Sorts pods, the first to go first.
pub fn rank(pods: &mut [Arc<Pod>], usages: &Usages, signal: Signal, images_apart: bool) {
    pods.sort_by_cached_key(|object| {
        let spec = pod::spec(object);
        let priority = spec.priority.unwrap_or(0);
        let Some(usage) = usages.get(pod::uid(object)) else { return (false, false, priority, Reverse(0)) };
        let above = |used: u64, resource: &str| {
            let asked = resources::pod_request(&spec, resource);
            i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(asked)
        };
        let above = match signal.resource() {
            "memory" => above(usage.memory, "memory"),
            "ephemeral-storage" => above(usage.disk(signal, images_apart).bytes, "ephemeral-storage"),
            "inodes" => above(usage.disk(signal, images_apart).inodes, "inodes"),
            // Nobody asks for processes: only priority tells pods apart before their number.
            _ => return (true, true, priority, Reverse(i64::try_from(usage.processes).unwrap_or(i64::MAX))),
        };
        (true, above <= 0, priority, Reverse(above))
    });
}

/// What a pod that goes is told: what was short, how short, and which of its containers used more than they asked for.
pub fn message(
    object: &Pod,
    resource: &str,
    thresholds: &[&Threshold],
    seen: &Observations,
    usages: &Usages,
) -> String {
    let mut text = format!("The node was low on resource: {resource}. ");
    let mut short = thresholds.iter().filter(|t| t.signal.resource() == resource);
    if let Some((threshold, seen)) = short.find_map(|t| Some((t, seen.get(&t.signal)?))) {
        let (least, available) = (threshold.value.of(seen.capacity), threshold.signal.amount(seen.available));
        text += &format!("Threshold quantity: {least}, available: {available}. ");
    }
    let Some(usage) = usages.get(pod::uid(object)) else { return text };
    let spec = pod::spec(object);
    let of_pod = spec.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
    if resource == "memory"
        && let Some(asked) = of_pod
    {
        let name = pod::name(object);
        text += &larger(&format!("Pod {name}"), bytes(usage.memory), &asked.0, resource);
    }
    for container in &usage.containers {
        let used = match resource {
            "memory" => container.memory,
            "ephemeral-storage" => container.rootfs.zip(container.logs).map(|(a, b)| a.bytes + b.bytes),
            _ => None,
        };
        let mut all = spec.containers.iter().chain(spec.init_containers.iter().flatten());
        let (Some(of_spec), Some(used)) = (all.find(|c| c.name == container.name), used) else { continue };
        let asked = request(of_spec, resource);
        if resources::units(&asked).is_none_or(|asked| i64::try_from(used).unwrap_or(i64::MAX) > asked) {
            text += &larger(&format!("Container {}", container.name), bytes(used), &asked, resource);
        }
    }
    text
}

fn larger(who: &str, used: Quantity, asked: &str, resource: &str) -> String {
    let asked = canonical(asked).unwrap_or_else(|_| asked.to_owned());
    format!("{who} was using {used}, request is {asked}, has larger consumption of {resource}. ")
}

/// What a container asks for, as it says it; "0" if it does not.
fn request(container: &Container, resource: &str) -> String {
    let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
    requests.and_then(|r| r.get(resource)).map_or_else(|| "0".to_owned(), |q| q.0.clone())
}

fn bytes(number: u64) -> Quantity {
    Quantity::from_bytes(i64::try_from(number).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::pressure::Observation;
    use super::super::thresholds::Value as Least;
    use super::super::usage::{ContainerUsage, PodUsage, VolumeUsage};
    use super::*;
    use crate::stats::disk::Held;

    fn object(name: &str, priority: i32, requests: Value) -> Arc<Pod> {
        let pod = json!({"metadata": {"name": name, "uid": name}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": requests}}]}});
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn usage(memory: u64, layer: u64, volume: u64, processes: u64) -> PodUsage {
        let held = |bytes: u64| Held { bytes, inodes: bytes / 10 };
        let container =
            ContainerUsage { name: "c".into(), memory: Some(memory), rootfs: Some(held(layer)), logs: Some(held(0)) };
        let volume = VolumeUsage { name: "v".into(), held: held(volume), on_disk: true };
        PodUsage { memory, processes, containers: vec![container], volumes: vec![volume] }
    }

    fn check(signal: Signal, images_apart: bool, pods: &[(Arc<Pod>, Option<PodUsage>)], expected: &str) {
        let known = pods.iter().filter_map(|(p, u)| Some((pod::uid(p).to_owned(), u.clone()?)));
        let usages: Usages = known.collect();
        let mut ranked: Vec<Arc<Pod>> = pods.iter().map(|(p, _)| p.clone()).collect();
        rank(&mut ranked, &usages, signal, images_apart);
        let names: Vec<&str> = ranked.iter().map(|p| pod::name(p)).collect();
        assert_eq!(names.join(" "), expected, "{signal:?}");
    }

    #[test]
    fn the_greedy_go_first_then_the_unimportant_then_the_large() {
        let asks = |memory: &str| json!({"memory": memory});
        let pods = [
            (object("modest", 0, asks("100")), Some(usage(100, 0, 0, 1))),
            (object("large", 0, asks("100")), Some(usage(300, 0, 0, 1))),
            (object("larger", 0, json!({})), Some(usage(250, 0, 0, 1))),
            (object("important", 10, json!({})), Some(usage(900, 0, 0, 1))),
            (object("unknown", 5, json!({})), None),
            (object("modest-unimportant", -1, asks("1Gi")), Some(usage(900, 0, 0, 1))),
        ];
        check(Signal::Memory, false, &pods, "unknown larger large important modest-unimportant modest");
        check(Signal::PodsMemory, false, &pods, "unknown larger large important modest-unimportant modest");
    }

    #[test]
    fn each_disk_counts_what_is_on_it() {
        let pods = [
            (object("layer", 0, json!({})), Some(usage(0, 500, 10, 1))),
            (object("volume", 0, json!({})), Some(usage(0, 20, 400, 1))),
            (object("asked", 0, json!({"ephemeral-storage": "1Ki"})), Some(usage(0, 450, 450, 1))),
        ];
        check(Signal::NodeFs, false, &pods, "layer volume asked");
        check(Signal::NodeFs, true, &pods, "volume layer asked");
        check(Signal::ImageFs, true, &pods, "layer volume asked");
        // Nobody asks for files.
        check(Signal::NodeFsInodes, false, &pods, "asked layer volume");
    }

    #[test]
    fn processes_count_after_priority() {
        let pods = [
            (object("few", 0, json!({})), Some(usage(0, 0, 0, 1))),
            (object("many", 0, json!({})), Some(usage(0, 0, 0, 9))),
            (object("important", 1, json!({})), Some(usage(0, 0, 0, 99))),
        ];
        check(Signal::Pids, false, &pods, "many few important");
    }

    #[test]
    fn messages_say_what_was_short_and_who_used_more() {
        let threshold = |signal: Signal, least: &str| Threshold {
            signal,
            value: Least::Amount(least.parse().expect("a quantity")),
            grace: std::time::Duration::ZERO,
            reclaim: None,
        };
        let memory = threshold(Signal::Memory, "100Mi");
        let inodes = threshold(Signal::NodeFsInodes, "5k");
        let seen = Observations::from([
            (Signal::Memory, Observation { available: 50 << 20, capacity: 1 << 30 }),
            (Signal::NodeFsInodes, Observation { available: 2000, capacity: 100_000 }),
        ]);
        let usages = Usages::from([("p".to_owned(), usage(30 << 20, 0, 0, 1))]);
        let told = |resource: &str, asked: &str| {
            let object = object("p", 0, json!({"memory": asked}));
            message(&object, resource, &[&memory, &inodes], &seen, &usages)
        };
        let low = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. ";
        let more = "Container c was using 30Mi, request is 20Mi, has larger consumption of memory. ";
        assert_eq!(told("memory", "20Mi"), format!("{low}{more}"));
        assert_eq!(told("memory", "30Mi"), low);
        assert_eq!(
            told("inodes", "1"),
            "The node was low on resource: inodes. Threshold quantity: 5k, available: 2k. "
        );
        assert_eq!(told("pids", "1"), "The node was low on resource: pids. ");
    }
}
