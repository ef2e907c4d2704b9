//! What is wrong with a file, but for the arguments of plugins ([`super::args`]). Upstream:
//! `pkg/scheduler/apis/config/validation/validation.go`, `k8s.io/component-base/config/validation`.

use std::collections::BTreeSet;
use std::time::Duration;

use orkd_api::field::{ErrorList, Path, Shown};
use orkd_api::names::qualified_name;
use orkd_api::validate::pod_spec::resources::is_extended;
use serde_json::json;

use super::types::{Extender, File, LeaderElection, PluginSet, Profile};
use super::{API_VERSION, Lead, args, name_of};
use crate::waiting::go_text;

/// Plugins of times past that a list may not name.
const REMOVED: [&str; 4] = ["AzureDiskLimits", "CinderLimits", "EBSLimits", "GCEPDLimits"];

/// Everything that is wrong (`ValidateKubeSchedulerConfiguration`).
pub fn check(file: &File, lead: &Lead) -> ErrorList {
    let mut errs = ErrorList::new();
    if let Some(burst) = file.client_connection.burst.filter(|n| *n < 0) {
        errs.invalid(&Path::new("clientConnection").child("burst"), burst, "must be non-negative");
    }
    leader_election(&mut errs, &file.leader_election, lead);
    if let Some(n) = file.parallelism.filter(|n| *n <= 0) {
        errs.invalid(&Path::new("parallelism"), n, "should be an integer value greater than zero");
    }
    let profiles = Path::new("profiles");
    let alone = file.profiles.len() == 1;
    let mut names: Vec<&str> = Vec::new();
    for (i, profile) in file.profiles.iter().enumerate() {
        let path = profiles.index(i);
        let name = if alone { name_of(profile) } else { profile.scheduler_name.as_deref().unwrap_or("") };
        let name_path = path.child("schedulerName");
        if name.is_empty() {
            errs.required(&name_path, "");
        }
        percentage(&mut errs, &path.child("percentageOfNodesToScore"), profile.percentage_of_nodes_to_score);
        plugins(&mut errs, &path, profile);
        if let Some(first) = names.iter().rposition(|n| *n == name) {
            let first = profiles.index(first).child("schedulerName").text();
            errs.duplicate(&name_path, Shown::raw(first));
        }
        names.push(name);
    }
    queue_sort(&mut errs, &profiles, &file.profiles);
    percentage(&mut errs, &Path::new("percentageOfNodesToScore"), file.percentage_of_nodes_to_score);
    let initial = file.pod_initial_backoff_seconds.unwrap_or(1);
    let most = file.pod_max_backoff_seconds.unwrap_or(10);
    if initial <= 0 {
        errs.invalid(&Path::new("podInitialBackoffSeconds"), initial, "must be greater than 0");
    }
    if most < initial {
        let why = "must be greater than or equal to PodInitialBackoffSeconds";
        errs.invalid(&Path::new("podMaxBackoffSeconds"), most, why);
    }
    extenders(&mut errs, &Path::new("extenders"), &file.extenders);
    errs
}

fn leader_election(errs: &mut ErrorList, said: &LeaderElection, lead: &Lead) {
    if !lead.elect {
        return;
    }
    let path = Path::new("leaderElection");
    let shown = |d: Duration| Shown::raw(go_text(d));
    let times = [
        ("leaseDuration", said.lease_duration, lead.lease),
        ("renewDeadline", said.renew_deadline, lead.renew_deadline),
        ("retryPeriod", said.retry_period, lead.retry),
    ];
    for (name, said, time) in times {
        if said.as_ref().is_some_and(kube::core::Duration::is_negative) {
            let text = format!("-{}", go_text(time));
            errs.invalid(&path.child(name), Shown::raw(text), "must be greater than zero");
        } else if time.is_zero() {
            errs.invalid(&path.child(name), shown(time), "must be greater than zero");
        }
    }
    if lead.lease < lead.renew_deadline {
        let why = "LeaseDuration must be greater than RenewDeadline";
        errs.invalid(&path.child("leaseDuration"), shown(lead.renew_deadline), why);
    }
    if !matches!(said.resource_lock.as_str(), "" | "leases") {
        let why = "resourceLock value must be \"leases\"";
        errs.invalid(&path.child("resourceLock"), &said.resource_lock, why);
    }
}

fn percentage(errs: &mut ErrorList, path: &Path, n: Option<i64>) {
    if let Some(n) = n.filter(|n| !(0..=100).contains(n)) {
        errs.invalid(path, n, "not in valid range [0-100]");
    }
}

/// Names and arguments of a profile's plugins (`validatePluginConfig`).
fn plugins(errs: &mut ErrorList, path: &Path, profile: &Profile) {
    let removed = format!("was invalid in version \"v1\" (KubeSchedulerConfiguration is version {API_VERSION:?})");
    for (point, set) in profile.plugins.points() {
        for (i, plugin) in set.enabled.iter().enumerate().filter(|(_, p)| REMOVED.contains(&p.name.as_str())) {
            let path = path.child("plugins").child(point).child("enabled").index(i);
            errs.invalid(&path, &plugin.name, removed.as_str());
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (i, one) in profile.plugin_config.iter().enumerate() {
        let path = path.child("pluginConfig").index(i);
        if seen.contains(&one.name.as_str()) {
            errs.duplicate(&path, &one.name);
        }
        seen.push(&one.name);
        if REMOVED.contains(&one.name.as_str()) {
            errs.invalid(&path, &one.name, removed.as_str());
        } else if let Ok(read) = args::decode(one) {
            args::check(errs, &path.child("args"), &read, &one.name);
        }
    }
}

/// All profiles share a queue, and so what sorts it (`validateCommonQueueSort`).
fn queue_sort(errs: &mut ErrorList, path: &Path, profiles: &[Profile]) {
    let Some(first) = profiles.first() else { return };
    let canon = &first.plugins.queue_sort;
    if canon.enabled.len() > 1 {
        let path = path.index(0).child("plugins").child("queueSort").child("Enabled");
        errs.invalid(&path, canon.enabled.len() as i64, "only one queue sort plugin can be enabled");
    }
    for (i, profile) in profiles.iter().enumerate().skip(1) {
        let set = &profile.plugins.queue_sort;
        if set != canon {
            let path = path.index(i).child("plugins").child("queueSort");
            errs.invalid(&path, &shown(set), "must be the same for all profiles");
        }
    }
}

fn shown(set: &PluginSet) -> serde_json::Value {
    let list = |plugins: &[super::types::Plugin]| {
        let all: Vec<_> = plugins.iter().map(|p| json!({"Name": p.name, "Weight": p.weight})).collect();
        if all.is_empty() { serde_json::Value::Null } else { all.into() }
    };
    json!({"Enabled": list(&set.enabled), "Disabled": list(&set.disabled)})
}

fn extenders(errs: &mut ErrorList, path: &Path, extenders: &[Extender]) {
    let mut binders = 0;
    let mut managed: BTreeSet<&str> = BTreeSet::new();
    for (i, extender) in extenders.iter().enumerate() {
        let path = path.index(i);
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            errs.invalid(&path.child("weight"), extender.weight, "must have a positive weight applied to it");
        }
        binders += usize::from(!extender.bind_verb.is_empty());
        for (j, resource) in extender.managed_resources.iter().enumerate() {
            let path = path.child("managedResources").index(j).child("name");
            let problems = qualified_name(&resource.name);
            for why in &problems {
                errs.invalid(&path, &resource.name, why);
            }
            if problems.is_empty() && !is_extended(&resource.name) {
                errs.invalid(&path, &resource.name, "is an invalid extended resource name");
            }
            if !managed.insert(&resource.name) {
                errs.invalid(&path, &resource.name, "duplicate extender managed resource name");
            }
        }
    }
    if binders > 1 {
        let found = format!("found {binders} extenders implementing bind");
        errs.invalid(path, found, "only one extender can implement bind");
    }
}
