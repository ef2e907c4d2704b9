//! Arguments of plugins. Upstream: `pkg/scheduler/apis/config/validation/validation_pluginargs.go`, `DecodeNestedObjects`
//! in `k8s.io/kube-scheduler/config/v1/types.go`.

use std::time::Duration;

use orkd_api::field::{ErrorList, Path, Shown};
use orkd_api::names::{label_value, qualified_name};
use orkd_api::validate::labels;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::types::PluginConfig;
use super::{GROUP, strict};
use crate::model::{NodeAffinity, NodeSelectorTerm, Requirement, SpreadConstraint};
use crate::plugins::node_resources_fit::{ShapePoint, Strategy, StrategyType, Weighted};
use crate::plugins::pod_topology_spread::Defaulting;
use crate::plugins::{Args, default_preemption, dynamic_resources, node_resources_fit, pod_topology_spread};
use crate::waiting::go_text;

/// Reads what is said of one plugin, over the defaults of all.
///
/// # Errors
/// It cannot be read.
pub fn decode(said: &PluginConfig) -> Result<Args, String> {
    let mut args = Args::default();
    take(&mut args, said)?;
    Ok(args)
}

/// Takes over what is said of one plugin. What is said of one that takes no arguments is passed over, as it is upstream,
/// where it might be a plugin of another scheduler's.
///
/// # Errors
/// It cannot be read.
pub fn take(all: &mut Args, said: &PluginConfig) -> Result<(), String> {
    match said.name.as_str() {
        "NodeAffinity" => all.node_affinity = read(said)?,
        "NodeResourcesFit" => all.node_resources_fit = read(said)?,
        "NodeResourcesBalancedAllocation" => all.balanced_allocation = read(said)?,
        "PodTopologySpread" => all.pod_topology_spread = read(said)?,
        "InterPodAffinity" => all.inter_pod_affinity = read(said)?,
        "VolumeBinding" => all.volume_binding = read(said)?,
        "DefaultPreemption" => all.default_preemption = read(said)?,
        "DynamicResources" => all.dynamic_resources = read(said)?,
        _ => {}
    }
    Ok(())
}

fn read<T: DeserializeOwned>(said: &PluginConfig) -> Result<T, String> {
    let name = &said.name;
    let mut args = said.args.clone();
    if args.is_null() {
        args = Value::Object(Default::default());
    }
    if let Some(map) = args.as_object_mut() {
        map.remove("apiVersion");
        let (kind, expected) = (map.remove("kind"), format!("{name}Args"));
        if let Some(kind) = kind.as_ref().and_then(Value::as_str).filter(|k| *k != expected) {
            return Err(format!("args for plugin {name} were not of type {expected}.{GROUP}, got {kind}.{GROUP}"));
        }
    }
    // By its text, whose errors say where they are.
    serde_yaml::from_str(&args.to_string()).map_err(|e| match strict(&e.to_string()) {
        Some(why) => format!("strict decoding error: decoding args for plugin {name}: strict decoding error: {why}"),
        None => format!("decoding args for plugin {name}: {e}"),
    })
}

/// What is wrong with the arguments of the plugin of a name; those of `NodeResourcesFit` are looked at when it is made
/// ([`check_fit`]), as they are upstream.
pub fn check(errs: &mut ErrorList, path: &Path, args: &Args, name: &str) {
    match name {
        "NodeAffinity" => {
            if let Some(added) = &args.node_affinity.added_affinity {
                node_affinity(errs, &path.child("addedAffinity"), added);
            }
        }
        "NodeResourcesBalancedAllocation" => {
            balanced(errs, &path.child("resources"), &args.balanced_allocation.resources)
        }
        "PodTopologySpread" => spread(errs, path, &args.pod_topology_spread),
        "InterPodAffinity" => {
            let weight = args.inter_pod_affinity.hard_pod_affinity_weight;
            if !(0..=100).contains(&weight) {
                errs.invalid(&path.child("hardPodAffinityWeight"), weight, "not in valid range [0, 100]");
            }
        }
        "VolumeBinding" => {
            let said = &args.volume_binding;
            if said.bind_timeout_seconds < 0 {
                let why = "invalid BindTimeoutSeconds, should not be a negative value";
                errs.invalid(&path.child("bindTimeoutSeconds"), said.bind_timeout_seconds, why);
            }
            if let Some(shape) = &said.shape {
                let point = |p: &ShapePoint| json!({"Utilization": p.utilization, "Score": p.score});
                let shown: Value = shape.iter().map(point).collect();
                let why = "unexpected field `shape`, remove it or turn on the feature gate StorageCapacityScoring";
                errs.invalid(&path.child("shape"), &shown, why);
            }
        }
        "DefaultPreemption" => preemption(errs, path, &args.default_preemption),
        "DynamicResources" => devices(errs, path, &args.dynamic_resources),
        _ => {}
    }
}

/// What is wrong with the arguments of `NodeResourcesFit` (`ValidateNodeResourcesFitArgs`).
pub fn check_fit(args: &node_resources_fit::Args) -> ErrorList {
    let mut errs = ErrorList::new();
    for (i, resource) in args.ignored_resources.iter().enumerate() {
        labels::name(&mut errs, resource, &Path::new("ignoredResources").index(i));
    }
    for (i, group) in args.ignored_resource_groups.iter().enumerate() {
        let path = Path::new("ignoredResourceGroups").index(i);
        if group.contains('/') {
            errs.invalid(&path, group, "resource group name can't contain '/'");
        }
        labels::name(&mut errs, group, &path);
    }
    if let Some(strategy) = &args.scoring_strategy {
        fit_strategy(&mut errs, &Path::new("scoringStrategy"), strategy);
    }
    errs
}

fn fit_strategy(errs: &mut ErrorList, path: &Path, strategy: &Strategy) {
    if let StrategyType::Other(ty) = &strategy.ty {
        let supported = ["LeastAllocated", "MostAllocated", "RequestedToCapacityRatio"];
        errs.not_supported(&path.child("type"), ty, &supported);
    }
    for (i, r) in strategy.resources.iter().enumerate().filter(|(_, r)| !(0..=100).contains(&r.weight)) {
        let why = format!("resource weight of {} not in valid range (0, 100]", r.name);
        errs.invalid(&path.child("resources").index(i).child("weight"), r.weight, why);
    }
    let ratio = path.child("requestedToCapacityRatio");
    match (&strategy.ty, &strategy.requested_to_capacity_ratio) {
        (StrategyType::RequestedToCapacityRatio, None) => {
            errs.required(&ratio, "must be specified when type is RequestedToCapacityRatio");
        }
        (StrategyType::RequestedToCapacityRatio, Some(said)) => shape(errs, &ratio.child("shape"), &said.shape),
        (_, Some(_)) => errs.forbidden(&ratio, "must be nil when type is not RequestedToCapacityRatio"),
        (_, None) => {}
    }
}

/// A line through points (`validateFunctionShape`).
fn shape(errs: &mut ErrorList, path: &Path, points: &[ShapePoint]) {
    if points.is_empty() {
        errs.required(path, "at least one point must be specified");
    }
    if let Some(i) = points.windows(2).position(|w| w[0].utilization >= w[1].utilization) {
        let path = path.index(i + 1).child("utilization");
        errs.invalid(&path, points[i + 1].utilization, "values must be sorted in increasing order");
    }
    for (i, point) in points.iter().enumerate() {
        for (name, n, most) in [("utilization", point.utilization, 100), ("score", point.score, 10)] {
            if !(0..=most).contains(&n) {
                errs.invalid(&path.index(i).child(name), n, format!("not in valid range [0, {most}]"));
            }
        }
    }
}

/// All resources count the same, and once (`ValidateNodeResourcesBalancedAllocationArgs`).
fn balanced(errs: &mut ErrorList, path: &Path, resources: &[Weighted]) {
    for (i, r) in resources.iter().enumerate() {
        if resources[..i].iter().any(|other| other.name == r.name) {
            errs.duplicate(&path.index(i).child("name"), &r.name);
        }
        // One that is not said is 1.
        if !matches!(r.weight, 0 | 1) {
            errs.invalid(&path.index(i).child("weight"), r.weight, "must be 1");
        }
    }
}

fn preemption(errs: &mut ErrorList, path: &Path, args: &default_preemption::Args) {
    let (percentage, absolute) = (args.min_candidate_nodes_percentage, args.min_candidate_nodes_absolute);
    let (of_percentage, of_absolute) =
        (path.child("minCandidateNodesPercentage"), path.child("minCandidateNodesAbsolute"));
    if !(0..=100).contains(&percentage) {
        errs.invalid(&of_percentage, percentage, "not in valid range [0, 100]");
    }
    if absolute < 0 {
        errs.invalid(&of_absolute, absolute, "not in valid range [0, inf)");
    }
    if percentage == 0 && absolute == 0 {
        let why = |other: &str| format!("cannot be zero at the same time as {other}");
        errs.invalid(&of_percentage, percentage, why("minCandidateNodesAbsolute"));
        errs.invalid(&of_absolute, absolute, why("minCandidateNodesPercentage"));
    }
}

fn devices(errs: &mut ErrorList, path: &Path, args: &dynamic_resources::Args) {
    let shown = |d: kube::core::Duration| {
        let sign = if d.is_negative() { "-" } else { "" };
        Shown::raw(format!("{sign}{}", go_text(Duration::from(d))))
    };
    if let Some(limit) = args.filter_timeout.filter(kube::core::Duration::is_negative) {
        errs.invalid(&path.child("filterTimeout"), shown(limit), "must be zero or positive");
    }
    let too_short = |t: &kube::core::Duration| t.is_negative() || Duration::from(*t) < Duration::from_secs(1);
    if let Some(limit) = args.binding_timeout.filter(too_short) {
        errs.invalid(&path.child("bindingTimeout"), shown(limit), "must be at least 1 second");
    }
}

fn spread(errs: &mut ErrorList, path: &Path, args: &pod_topology_spread::Args) {
    let constraints = &args.default_constraints;
    let ty = path.child("defaultingType");
    match &args.defaulting_type {
        Defaulting::Other(other) => errs.not_supported(&ty, other, &["System", "List"]),
        Defaulting::System if !constraints.is_empty() => {
            errs.invalid(&ty, "System", "when .defaultConstraints are not empty");
        }
        Defaulting::System | Defaulting::List => {}
    }
    for (i, c) in constraints.iter().enumerate() {
        constraint(errs, &path.child("defaultConstraints").index(i), c);
        let same =
            |o: &SpreadConstraint| o.topology_key == c.topology_key && o.when_unsatisfiable == c.when_unsatisfiable;
        if constraints[..i].iter().any(same) {
            let shown = format!("{{{}, {}}}", c.topology_key, c.when_unsatisfiable);
            errs.duplicate(&path.child("defaultConstraints").index(i), shown);
        }
    }
}

fn constraint(errs: &mut ErrorList, path: &Path, c: &SpreadConstraint) {
    if c.max_skew <= 0 {
        errs.invalid(&path.child("maxSkew"), c.max_skew, "not in valid range (0, inf)");
    }
    let key = path.child("topologyKey");
    match c.topology_key.as_str() {
        "" => errs.required(&key, "can not be empty"),
        name => labels::name(errs, name, &key),
    }
    let when = path.child("whenUnsatisfiable");
    match c.when_unsatisfiable.as_str() {
        "" => errs.required(&when, "can not be empty"),
        "DoNotSchedule" | "ScheduleAnyway" => {}
        other => errs.not_supported(&when, other, &["DoNotSchedule", "ScheduleAnyway"]),
    }
    if c.label_selector.is_some() {
        let why = "constraint must not define a selector, as they deduced for each pod";
        errs.forbidden(&path.child("labelSelector"), why);
    }
}

/// Selectors that cannot be (`nodeaffinity.NewNodeSelector`, `NewPreferredSchedulingTerms`).
fn node_affinity(errs: &mut ErrorList, path: &Path, affinity: &NodeAffinity) {
    let required = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    let terms = affinity.required.iter().flat_map(|r| &r.node_selector_terms).enumerate();
    terms.for_each(|(i, term)| node_term(errs, &required.index(i), term));
    let preferred = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let terms = affinity.preferred.iter().enumerate().filter(|(_, p)| p.weight != 0);
    terms.for_each(|(i, p)| node_term(errs, &preferred.index(i), &p.preference));
}

fn node_term(errs: &mut ErrorList, path: &Path, term: &NodeSelectorTerm) {
    for (i, r) in term.match_expressions.iter().enumerate() {
        requirement(errs, &path.child("matchExpressions").index(i), r);
    }
    for (i, r) in term.match_fields.iter().enumerate() {
        let path = path.child("matchFields").index(i);
        match r.operator.as_str() {
            "In" | "NotIn" if r.values.len() == 1 => {}
            "In" | "NotIn" => errs.invalid(&path.child("values"), r.values.len() as i64, "must have one element"),
            other => errs.not_supported(&path.child("operator"), other, &["In", "NotIn"]),
        }
    }
}

/// A requirement on a label (`labels.NewRequirement`).
fn requirement(errs: &mut ErrorList, path: &Path, r: &Requirement) {
    let values = path.child("values");
    let shown = || json!(r.values);
    let why = match (r.operator.as_str(), r.values.len()) {
        ("In" | "NotIn", 0) => Some("for 'in', 'notin' operators, values set can't be empty"),
        ("Exists" | "DoesNotExist", 1..) => Some("values set must be empty for exists and does not exist"),
        ("Gt" | "Lt", n) if n != 1 => Some("for 'Gt', 'Lt' operators, exactly one value is required"),
        ("Gt" | "Lt", _) if r.values[0].parse::<i64>().is_err() => {
            let why = "for 'Gt', 'Lt' operators, the value must be an integer";
            errs.invalid(&values.index(0), &r.values[0], why);
            None
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => None,
        (other, _) => {
            let supported = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
            errs.not_supported(&path.child("operator"), other, &supported);
            return;
        }
    };
    let problems = qualified_name(&r.key);
    if !problems.is_empty() {
        errs.invalid(&path.child("key"), &r.key, problems.join("; "));
    }
    if let Some(why) = why {
        errs.invalid(&values, &shown(), why);
    }
    for (i, value) in r.values.iter().enumerate() {
        let problems = label_value(value);
        if !problems.is_empty() {
            errs.invalid(&values.index(i).key(&r.key), value, problems.join("; "));
        }
    }
}
