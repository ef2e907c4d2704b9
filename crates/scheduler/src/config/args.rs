//! Arguments of plugins. Upstream: `pkg/scheduler/apis/config/validation/validation_pluginargs.go`.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::types::PluginConfig;
use crate::plugins::node_resources_fit::{ShapePoint, StrategyType, Weighted};
use crate::plugins::{Args, pod_topology_spread::Defaulting};

/// Reads what is said of each plugin.
pub fn read(said: &[PluginConfig]) -> Result<Args, String> {
    let mut all = Args::default();
    let mut seen: Vec<&str> = Vec::new();
    for (i, one) in said.iter().enumerate() {
        let path = format!("pluginConfig[{i}]");
        if seen.contains(&one.name.as_str()) {
            return Err(format!("{path}: Duplicate value: {:?}", one.name));
        }
        seen.push(&one.name);
        match one.name.as_str() {
            "NodeAffinity" => all.node_affinity = decode(&path, one)?,
            "NodeResourcesFit" => all.node_resources_fit = decode(&path, one)?,
            "NodeResourcesBalancedAllocation" => all.balanced_allocation = decode(&path, one)?,
            "PodTopologySpread" => all.pod_topology_spread = decode(&path, one)?,
            "InterPodAffinity" => all.inter_pod_affinity = decode(&path, one)?,
            "VolumeBinding" => all.volume_binding = decode(&path, one)?,
            "DefaultPreemption" => all.default_preemption = decode(&path, one)?,
            "DynamicResources" => all.dynamic_resources = decode(&path, one)?,
            other => return Err(format!("{path}: plugin {other:?} takes no arguments")),
        }
    }
    check(&all)?;
    Ok(all)
}

fn decode<T: DeserializeOwned>(path: &str, said: &PluginConfig) -> Result<T, String> {
    let mut args = said.args.clone();
    if args.is_null() {
        args = Value::Object(Default::default());
    }
    if let Some(map) = args.as_object_mut() {
        map.remove("apiVersion");
        let kind = map.remove("kind");
        let expected = format!("{}Args", said.name);
        if kind.as_ref().and_then(Value::as_str).is_some_and(|k| k != expected) {
            return Err(format!("{path}.args: kind is {kind:?}, expected {expected}"));
        }
    }
    serde_json::from_value(args).map_err(|e| format!("{path}.args: {e}"))
}

fn check(args: &Args) -> Result<(), String> {
    let invalid = |path: &str, value: i64, why: &str| Err(format!("{path}: Invalid value: {value}: {why}"));
    let preemption = &args.default_preemption;
    if !(0..=100).contains(&preemption.min_candidate_nodes_percentage) {
        let n = preemption.min_candidate_nodes_percentage;
        return invalid("minCandidateNodesPercentage", n, "not in valid range [0, 100]");
    }
    if preemption.min_candidate_nodes_absolute < 0 {
        let n = preemption.min_candidate_nodes_absolute;
        return invalid("minCandidateNodesAbsolute", n, "not in valid range [0, inf)");
    }
    if preemption.min_candidate_nodes_percentage == 0 && preemption.min_candidate_nodes_absolute == 0 {
        return Err("minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero".into());
    }
    let weight = args.inter_pod_affinity.hard_pod_affinity_weight;
    if !(0..=100).contains(&weight) {
        return invalid("hardPodAffinityWeight", weight, "not in valid range [0-100]");
    }
    if args.volume_binding.bind_timeout_seconds < 0 {
        let n = args.volume_binding.bind_timeout_seconds;
        return invalid("bindTimeoutSeconds", n, "invalid BindTimeoutSeconds, should not be a negative value");
    }
    let devices = &args.dynamic_resources;
    if let Some(limit) = devices.filter_timeout.filter(kube::core::Duration::is_negative) {
        return Err(format!("filterTimeout: Invalid value: {limit:?}: must be zero or positive"));
    }
    let too_short = |t: &kube::core::Duration| t.is_negative() || Duration::from(*t) < Duration::from_secs(1);
    if let Some(limit) = devices.binding_timeout.filter(too_short) {
        return Err(format!("bindingTimeout: Invalid value: {limit:?}: must be at least 1 second"));
    }
    let spread = &args.pod_topology_spread;
    if spread.defaulting_type == Defaulting::System && !spread.default_constraints.is_empty() {
        return Err("defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty".into());
    }
    for c in &spread.default_constraints {
        if c.max_skew <= 0 {
            return invalid("defaultConstraints.maxSkew", c.max_skew, "not in valid range (0, inf)");
        }
        if c.topology_key.is_empty() {
            return Err("defaultConstraints.topologyKey: Required value: can not be empty".into());
        }
        if !matches!(c.when_unsatisfiable.as_str(), "DoNotSchedule" | "ScheduleAnyway") {
            return Err(format!(
                "defaultConstraints.whenUnsatisfiable: Unsupported value: {:?}: supported values: \"DoNotSchedule\", \
                 \"ScheduleAnyway\"",
                c.when_unsatisfiable
            ));
        }
        if c.label_selector.is_some() {
            return Err("defaultConstraints.labelSelector: Forbidden: constraint must not define a selector, as they \
                        deduced for each pod"
                .into());
        }
    }
    resources("resources", &args.balanced_allocation.resources)?;
    if let Some(strategy) = &args.node_resources_fit.scoring_strategy {
        resources("scoringStrategy.resources", &strategy.resources)?;
        if strategy.ty == StrategyType::RequestedToCapacityRatio {
            shape(strategy.requested_to_capacity_ratio.as_ref().map_or(&[], |r| &r.shape))?;
        }
    }
    Ok(())
}

fn resources(path: &str, all: &[Weighted]) -> Result<(), String> {
    match all.iter().find(|r| !(0..=100).contains(&r.weight)) {
        Some(r) => Err(format!(
            "{path}.weight: Invalid value: {}: resource weight of {} not in valid range [1, 100]",
            r.weight, r.name
        )),
        None => Ok(()),
    }
}

fn shape(points: &[ShapePoint]) -> Result<(), String> {
    if points.is_empty() {
        return Err("shape: Required value: at least one point must be specified".into());
    }
    let sorted = points.windows(2).all(|w| w[0].utilization < w[1].utilization);
    let in_range = points.iter().all(|p| (0..=100).contains(&p.utilization) && (0..=10).contains(&p.score));
    match (sorted, in_range) {
        (true, true) => Ok(()),
        (false, _) => {
            Err("shape.utilization: Invalid value: utilization values must be sorted in increasing order".into())
        }
        (_, false) => {
            Err("shape: Invalid value: utilization not in valid range [0-100], or score not in [0-10]".into())
        }
    }
}
