//! The configuration: upstream's file (`KubeSchedulerConfiguration`), its checks, and the profiles made of it. Upstream:
//! `pkg/scheduler/apis/config`, `expandMultiPointPlugins` in `pkg/scheduler/framework/runtime/framework.go`.

mod args;
pub mod types;

use std::time::Duration;

use crate::framework::Point;
use crate::plugins::{self, Args, Doors, Weighted};
use crate::profile::Profile;
use crate::queue::Backoff;
use types::{Extender, File, PluginSet};

/// Groups and versions of the file.
const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";
const KIND: &str = "KubeSchedulerConfiguration";

/// What the scheduler is told.
#[derive(Debug, Default)]
pub struct Config {
    file: File,
}

/// Who acts of several schedulers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lead {
    /// Whether only one acts.
    pub elect: bool,
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// How long a silent holder is respected.
    pub lease: Duration,
    /// How long the holder goes on without a renewal.
    pub renew_deadline: Duration,
    /// How often it is tried.
    pub retry: Duration,
}

impl Config {
    /// Reads a file and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Config, String> {
        let file: File = serde_yaml::from_str(text).map_err(|e| format!("strict decoding error: {e}"))?;
        let mut wrong = Vec::new();
        if file.kind != KIND || file.api_version != API_VERSION {
            wrong.push(format!(
                "no kind {:?} is registered for version {:?}; expected {KIND} of {API_VERSION}",
                file.kind, file.api_version
            ));
        }
        check(&file, &mut wrong);
        let config = Config { file };
        if wrong.is_empty()
            && let Err(why) = config.profiles(&Doors::default())
        {
            wrong.push(why);
        }
        if wrong.is_empty() { Ok(config) } else { Err(wrong.join("; ")) }
    }

    /// Whether a YAML document says that it is such a file.
    pub fn is_meant(document: &serde_yaml::Value) -> bool {
        document.get("kind").and_then(|k| k.as_str()) == Some(KIND)
    }

    /// How long pods wait after a failure.
    pub fn backoff(&self) -> Backoff {
        let seconds = |n: Option<i64>, default: Duration| n.map_or(default, |n| Duration::from_secs(n.unsigned_abs()));
        let default = Backoff::default();
        Backoff {
            initial: seconds(self.file.pod_initial_backoff_seconds, default.initial),
            most: seconds(self.file.pod_max_backoff_seconds, default.most),
        }
    }

    /// Servers that are asked as well.
    pub fn extenders(&self) -> &[Extender] {
        &self.file.extenders
    }

    /// Who acts.
    pub fn lead(&self) -> Lead {
        let said = &self.file.leader_election;
        let or = |text: &str, default: &str| if text.is_empty() { default.to_owned() } else { text.to_owned() };
        let time =
            |d: Option<kube::core::Duration>, default: u64| d.map_or(Duration::from_secs(default), Duration::from);
        Lead {
            elect: said.leader_elect.unwrap_or(true),
            namespace: or(&said.resource_namespace, "kube-system"),
            name: or(&said.resource_name, "kube-scheduler"),
            lease: time(said.lease_duration, 15),
            renew_deadline: time(said.renew_deadline, 10),
            retry: time(said.retry_period, 2),
        }
    }

    /// The profiles.
    ///
    /// # Errors
    /// A plugin is not known, is called where it cannot be, or has arguments that will not do.
    pub fn profiles(&self, doors: &Doors) -> Result<Vec<Profile>, String> {
        let percentage = self.file.percentage_of_nodes_to_score.unwrap_or(0);
        let none_said = [types::Profile::default()];
        let all = if self.file.profiles.is_empty() { &none_said[..] } else { &self.file.profiles };
        let one = |(i, said): (usize, &types::Profile)| {
            let mut args = args::read(&said.plugin_config).map_err(|e| format!("profiles[{i}].{e}"))?;
            for resource in self.file.extenders.iter().flat_map(|e| &e.managed_resources) {
                if resource.ignored_by_scheduler {
                    args.node_resources_fit.ignored_resources.push(resource.name.clone());
                }
            }
            let mut profile = profile(said, args, doors).map_err(|e| format!("profiles[{i}]: {e}"))?;
            profile.percentage = said.percentage_of_nodes_to_score.unwrap_or(percentage);
            Ok(profile)
        };
        all.iter().enumerate().map(one).collect()
    }
}

fn name_of(profile: &types::Profile) -> &str {
    profile.scheduler_name.as_deref().unwrap_or("default-scheduler")
}

/// Upstream: `ValidateKubeSchedulerConfiguration`.
fn check(file: &File, wrong: &mut Vec<String>) {
    let mut invalid = |path: &str, value: &dyn std::fmt::Debug, why: &str| {
        wrong.push(format!("{path}: Invalid value: {value:?}: {why}"));
    };
    if let Some(n) = file.parallelism.filter(|n| *n <= 0) {
        invalid("parallelism", &n, "should be an integer value greater than zero");
    }
    let percentage = |invalid: &mut dyn FnMut(&str, &dyn std::fmt::Debug, &str), path: &str, n: Option<i64>| {
        if let Some(n) = n.filter(|n| !(0..=100).contains(n)) {
            invalid(path, &n, "not in valid range [0-100]");
        }
    };
    percentage(&mut invalid, "percentageOfNodesToScore", file.percentage_of_nodes_to_score);
    let initial = file.pod_initial_backoff_seconds.unwrap_or(1);
    let most = file.pod_max_backoff_seconds.unwrap_or(10);
    if initial <= 0 {
        invalid("podInitialBackoffSeconds", &initial, "must be greater than 0");
    }
    if most < initial {
        invalid("podMaxBackoffSeconds", &most, "must be greater than or equal to PodInitialBackoffSeconds");
    }
    let mut names = Vec::new();
    for (i, profile) in file.profiles.iter().enumerate() {
        let name = name_of(profile);
        if name.is_empty() {
            invalid(&format!("profiles[{i}].schedulerName"), &name, "Required value");
        } else if names.contains(&name) {
            invalid(&format!("profiles[{i}].schedulerName"), &name, "Duplicate value");
        }
        names.push(name);
        percentage(
            &mut invalid,
            &format!("profiles[{i}].percentageOfNodesToScore"),
            profile.percentage_of_nodes_to_score,
        );
    }
    let mut binders = 0;
    for (i, extender) in file.extenders.iter().enumerate() {
        if !extender.prioritize_verb.is_empty() && extender.weight <= 0 {
            let path = format!("extenders[{i}].weight");
            invalid(&path, &extender.weight, "must have a positive weight applied to it");
        }
        binders += usize::from(!extender.bind_verb.is_empty());
    }
    if binders > 1 {
        invalid("extenders", &binders, "found more than one extender implementing bind");
    }
    let lead = &file.leader_election;
    if !matches!(lead.resource_lock.as_str(), "" | "leases") {
        invalid("leaderElection.resourceLock", &lead.resource_lock, "resourceLock value must be \"leases\"");
    }
}

/// The profile of pods that name no other, with all plugins where they belong.
pub fn default_profile(doors: &Doors) -> Profile {
    let mut profile = Profile::new("default-scheduler");
    for (plugin, weight) in plugins::all(Args::default(), doors) {
        let points = plugin.points();
        let at = profile.add(plugin);
        profile.weigh(at, weight.max(1));
        for point in Point::ALL.into_iter().filter(|p| points.contains(p)) {
            profile.call(point, at);
        }
    }
    profile
}

fn set_of(plugins: &types::Plugins, point: Point) -> &PluginSet {
    match point {
        Point::PreEnqueue => &plugins.pre_enqueue,
        Point::QueueSort => &plugins.queue_sort,
        Point::PreFilter => &plugins.pre_filter,
        Point::Filter => &plugins.filter,
        Point::PostFilter => &plugins.post_filter,
        Point::PreScore => &plugins.pre_score,
        Point::Score => &plugins.score,
        Point::Reserve => &plugins.reserve,
        Point::Permit => &plugins.permit,
        Point::PreBind => &plugins.pre_bind,
        Point::Bind => &plugins.bind,
        Point::PostBind => &plugins.post_bind,
    }
}

/// A profile as it is written: the plugins of all points, then what each point says for itself.
fn profile(said: &types::Profile, args: Args, doors: &Doors) -> Result<Profile, String> {
    let mut profile = Profile::new(name_of(said));
    let mut known: Vec<(&'static str, i64, usize)> = Vec::new();
    for (plugin, weight) in plugins::all(args, doors) {
        let name = plugin.name();
        known.push((name, Weighted::default_weight(weight), profile.add(plugin)));
    }
    let find = |name: &str| known.iter().find(|(n, ..)| *n == name).copied();
    let exists = |name: &str| find(name).ok_or_else(|| format!("plugin {name:?} is not known"));
    // Which are called at all their points, in upstream's order; what is named anew keeps its place and has its weight.
    let everywhere = &said.plugins.multi_point;
    let mut multi: Vec<(usize, i64)> = Vec::new();
    for (name, weight, at) in known.iter().filter(|(n, ..)| !everywhere.disables(n)) {
        let own = everywhere.enabled.iter().find(|p| p.name == *name).map(|p| p.weight.max(1));
        multi.push((*at, own.unwrap_or(*weight)));
    }
    for plugin in &everywhere.enabled {
        let (name, _, at) = exists(&plugin.name)?;
        if everywhere.disables(name) {
            multi.push((at, plugin.weight.max(1)));
        }
    }
    for point in Point::ALL {
        let set = set_of(&said.plugins, point);
        let mut own: Vec<(usize, i64)> = Vec::new();
        for plugin in &set.enabled {
            let (name, _, at) = exists(&plugin.name)?;
            if !profile.plugin(at).points().contains(&point) {
                return Err(format!("plugin {name:?} does not extend {point:?} plugin"));
            }
            if own.iter().any(|(a, _)| *a == at) {
                return Err(format!("plugin {name:?} already registered as {point:?}"));
            }
            own.push((at, plugin.weight.max(1)));
        }
        let here: Vec<(usize, i64)> = (multi.iter().copied())
            .filter(|(at, _)| {
                profile.plugin(*at).points().contains(&point) && !set.disables(profile.plugin(*at).name())
            })
            .collect();
        // Those of this point that are called everywhere too, then the others from everywhere, then the rest.
        let is_multi = |at: usize| multi.iter().any(|(a, _)| *a == at);
        let (first, last): (Vec<_>, Vec<_>) = own.into_iter().partition(|(at, _)| is_multi(*at));
        let rest = here.into_iter().filter(|(at, _)| !first.iter().any(|(a, _)| a == at)).collect::<Vec<_>>();
        for (at, weight) in first.iter().copied().chain(rest).chain(last) {
            profile.call(point, at);
            if point == Point::Score {
                profile.weigh(at, weight);
            }
        }
    }
    match profile.at(Point::QueueSort) {
        [_] => {}
        several => return Err(format!("only one queue sort plugin required, not {}", several.len())),
    }
    if profile.at(Point::Bind).is_empty() {
        return Err("at least one bind plugin is needed".into());
    }
    Ok(profile)
}

trait DefaultWeight {
    fn default_weight(weight: i64) -> i64;
}

impl DefaultWeight for Weighted {
    /// A plugin whose weight is not said counts once.
    fn default_weight(weight: i64) -> i64 {
        weight.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Config, String> {
        Config::parse(&format!("apiVersion: {API_VERSION}\nkind: {KIND}\n{body}"))
    }

    /// The plugins that the first profile calls at a point, with their weights.
    fn calls(body: &str, point: Point) -> Vec<(String, i64)> {
        let profiles = parse(body).and_then(|c| c.profiles(&Doors::default())).expect("good");
        let profile = &profiles[0];
        profile.at(point).iter().map(|i| (profile.plugin(*i).name().to_owned(), profile.weight(*i))).collect()
    }

    fn refused(body: &str, why: &str) {
        let error = parse(body).map(|_| ()).expect_err("bad");
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn without_a_word_everything_is_as_upstream_has_it() {
        let names: Vec<_> = calls("profiles: [{}]", Point::Score);
        let expected = [
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodeResourcesFit", 1),
            ("PodTopologySpread", 2),
            ("InterPodAffinity", 2),
            ("DynamicResources", 1),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1),
        ];
        assert_eq!(names, expected.map(|(n, w)| (n.to_owned(), w)));
        let config = parse("").expect("good");
        assert_eq!(config.backoff(), Backoff::default());
        assert!(config.lead().elect && config.lead().name == "kube-scheduler");
    }

    #[test]
    fn plugins_are_disabled_enabled_and_weighed() {
        let body = "profiles:\n- plugins:\n    score:\n      disabled: [{name: ImageLocality}, {name: TaintToleration}]\n      \
                    enabled: [{name: TaintToleration, weight: 9}]\n    filter: {disabled: [{name: '*'}], enabled: [{name: \
                    NodePorts}]}\n";
        let score = calls(body, Point::Score);
        assert_eq!(score[0], ("TaintToleration".to_owned(), 9));
        assert!(!score.iter().any(|(n, _)| n == "ImageLocality"));
        assert_eq!(calls(body, Point::Filter), [("NodePorts".to_owned(), 1)]);
        let body = "profiles:\n- plugins:\n    multiPoint:\n      enabled: [{name: NodeResourcesFit, weight: 5}]\n      \
                    disabled: [{name: InterPodAffinity}]\n";
        assert_eq!(calls(body, Point::Score)[2], ("NodeResourcesFit".to_owned(), 5));
        assert!(!calls(body, Point::Filter).iter().any(|(n, _)| n == "InterPodAffinity"));
    }

    #[test]
    fn what_extenders_look_after_is_not_looked_at_here() {
        use crate::cycle::Algorithm;
        use crate::nodes::tests::node;
        use crate::pod::tests::pod;
        use serde_json::json;
        let gpu = pod("p", json!({"containers": [{"resources": {"requests": {"example.com/gpu": "1"}}}]}));
        let fits = |body: &str| {
            let mut a = Algorithm::new(parse(body).and_then(|c| c.profiles(&Doors::default())).expect("good"));
            a.cluster.nodes.set_node(&node("a", "1", json!({})));
            a.find(0, &gpu).is_ok()
        };
        let extender = |ignored: bool| {
            format!(
                "extenders:\n- urlPrefix: http://127.0.0.1:1\n  managedResources:\n  - name: example.com/gpu\n    \
                 ignoredByScheduler: {ignored}\n"
            )
        };
        assert!(!fits("") && !fits(&extender(false)));
        assert!(fits(&extender(true)), "whether profiles are written or not");
        assert!(fits(&format!("{}profiles: [{{}}]\n", extender(true))));
    }

    #[test]
    fn what_is_wrong_is_told() {
        refused("podInitialBackoffSecs: 3", "unknown field `podInitialBackoffSecs`");
        refused("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0");
        refused("podMaxBackoffSeconds: 1\npodInitialBackoffSeconds: 2", "must be greater than or equal");
        refused("percentageOfNodesToScore: 101", "not in valid range [0-100]");
        refused("profiles: [{schedulerName: a}, {schedulerName: a}]", "profiles[1].schedulerName");
        refused("profiles: [{plugins: {score: {enabled: [{name: Mine}]}}}]", "plugin \"Mine\" is not known");
        refused("profiles: [{plugins: {score: {enabled: [{name: NodePorts}]}}}]", "does not extend Score plugin");
        refused("profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]", "at least one bind plugin is needed");
        refused(
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {ignored: []}}]}]",
            "unknown field `ignored`",
        );
        refused(
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "[0-100]",
        );
        assert!(Config::parse("kind: Other").is_err());
    }
}
