//! The configuration: upstream's file (`KubeSchedulerConfiguration`), its checks, and the profiles made of it. Upstream:
//! `pkg/scheduler/apis/config`, `expandMultiPointPlugins` in `pkg/scheduler/framework/runtime/framework.go`.

mod args;
pub mod types;
mod validate;

use std::time::Duration;

use serde_json::{Value, json};

use crate::framework::Point;
use crate::plugins::{self, Args, Doors};
use crate::profile::Profile;
use crate::queue::Backoff;
use types::{Extender, File, PluginSet};

/// Group of the file.
const GROUP: &str = "kubescheduler.config.k8s.io";
/// Group and version of the file.
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
        let file: File = serde_yaml::from_str(text).map_err(|e| match strict(&e.to_string()) {
            Some(why) => format!("strict decoding error: {why}"),
            None => e.to_string(),
        })?;
        if file.kind != KIND || file.api_version != API_VERSION {
            return Err(format!("no kind {:?} is registered for version {:?}", file.kind, file.api_version));
        }
        let mut strictly = Vec::new();
        for (i, profile) in file.profiles.iter().enumerate() {
            for (j, one) in profile.plugin_config.iter().enumerate() {
                if let Err(why) = args::decode(one) {
                    let why = format!("decoding .profiles[{i}].pluginConfig[{j}]: {why}");
                    if !why.contains("strict decoding error: ") {
                        return Err(why);
                    }
                    strictly.push(why);
                }
            }
        }
        if !strictly.is_empty() {
            return Err(format!("strict decoding error: {}", strictly.join(", ")));
        }
        let config = Config { file };
        let wrong: Vec<String> =
            validate::check(&config.file, &config.lead()).0.iter().map(ToString::to_string).collect();
        match &wrong[..] {
            [] => {}
            [one] => return Err(one.clone()),
            several => return Err(format!("[{}]", several.join(", "))),
        }
        config.profiles(&Doors::default())?;
        Ok(config)
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

    /// The names of the profiles.
    pub fn names(&self) -> Vec<&str> {
        let none_said = self.file.profiles.is_empty().then_some("default-scheduler");
        none_said.into_iter().chain(self.file.profiles.iter().map(name_of)).collect()
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

    /// What was told and what stands for what was not, as `/configz` shows it: under the names of upstream's own type, each
    /// profile with the plugins that are called at each point.
    pub fn told(&self) -> Value {
        let (file, lead, backoff) = (&self.file, self.lead(), self.backoff());
        let seconds = |d: Duration| crate::waiting::go_text(d);
        let of_profile = |profile: &Profile| {
            let called = |point: Point| {
                let name = |i: &usize| json!({"Name": profile.plugin(*i).name(), "Weight": profile.weight(*i)});
                json!({"Enabled": profile.at(point).iter().map(name).collect::<Vec<_>>()})
            };
            let plugins: serde_json::Map<_, _> =
                Point::ALL.into_iter().map(|point| (format!("{point:?}"), called(point))).collect();
            json!({"SchedulerName": profile.name, "PercentageOfNodesToScore": profile.percentage, "Plugins": plugins})
        };
        let profiles = self.profiles(&Doors::default()).unwrap_or_default();
        let extender = |e: &Extender| {
            json!({"URLPrefix": e.url_prefix, "FilterVerb": e.filter_verb, "PreemptVerb": e.preempt_verb,
                "PrioritizeVerb": e.prioritize_verb, "Weight": e.weight, "BindVerb": e.bind_verb,
                "EnableHTTPS": e.enable_https, "NodeCacheCapable": e.node_cache_capable, "Ignorable": e.ignorable})
        };
        json!({
            "Parallelism": file.parallelism.unwrap_or(16),
            "LeaderElection": {"LeaderElect": lead.elect, "LeaseDuration": seconds(lead.lease),
                "RenewDeadline": seconds(lead.renew_deadline), "RetryPeriod": seconds(lead.retry),
                "ResourceLock": "leases", "ResourceName": lead.name, "ResourceNamespace": lead.namespace},
            "PercentageOfNodesToScore": file.percentage_of_nodes_to_score.unwrap_or(0),
            "PodInitialBackoffSeconds": backoff.initial.as_secs(),
            "PodMaxBackoffSeconds": backoff.most.as_secs(),
            "Profiles": profiles.iter().map(of_profile).collect::<Vec<_>>(),
            "Extenders": file.extenders.iter().map(extender).collect::<Vec<_>>(),
            "DelayCacheUntilActive": file.delay_cache_until_active,
        })
    }

    /// The profiles.
    ///
    /// # Errors
    /// A plugin is not known, is called where it cannot be, or has arguments that will not do.
    pub fn profiles(&self, doors: &Doors) -> Result<Vec<Profile>, String> {
        let percentage = self.file.percentage_of_nodes_to_score.unwrap_or(0);
        let none_said = [types::Profile::default()];
        let all = if self.file.profiles.is_empty() { &none_said[..] } else { &self.file.profiles };
        let one = |said: &types::Profile| {
            let mut args = Args::default();
            said.plugin_config.iter().try_for_each(|one| args::take(&mut args, one))?;
            let managed = self.file.extenders.iter().flat_map(|e| &e.managed_resources);
            let ignored: Vec<_> = managed.filter(|r| r.ignored_by_scheduler).map(|r| r.name.clone()).collect();
            if !ignored.is_empty() {
                args.node_resources_fit.ignored_resources = ignored;
            }
            let name = name_of(said);
            let mut profile = profile(said, args, doors)
                .map_err(|e| format!("initializing profiles: creating profile for scheduler name {name}: {e}"))?;
            profile.percentage = said.percentage_of_nodes_to_score.unwrap_or(percentage);
            Ok(profile)
        };
        all.iter().map(one).collect()
    }
}

/// What strict decoding says of an error of the decoder; `None` where it is another sort of error. The decoder stops at the
/// first field that it does not know and says where: `profiles[0]: unknown field `x`, expected ...`.
fn strict(error: &str) -> Option<String> {
    let (before, rest) = error.split_once("unknown field `")?;
    let (name, _) = rest.split_once('`')?;
    Some(match before.strip_suffix(": ") {
        Some(path) => format!("unknown field \"{path}.{name}\""),
        None => format!("unknown field {name:?}"),
    })
}

fn name_of(profile: &types::Profile) -> &str {
    profile.scheduler_name.as_deref().unwrap_or("default-scheduler")
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

/// The points in the order in which upstream looks at them (`getExtensionPoints`), with its names of what is called there.
const IN_ORDER: [(Point, &str); 12] = [
    (Point::PreFilter, "PreFilterPlugin"),
    (Point::Filter, "FilterPlugin"),
    (Point::PostFilter, "PostFilterPlugin"),
    (Point::Reserve, "ReservePlugin"),
    (Point::PreScore, "PreScorePlugin"),
    (Point::Score, "ScorePlugin"),
    (Point::PreBind, "PreBindPlugin"),
    (Point::Bind, "BindPlugin"),
    (Point::PostBind, "PostBindPlugin"),
    (Point::Permit, "PermitPlugin"),
    (Point::PreEnqueue, "PreEnqueuePlugin"),
    (Point::QueueSort, "QueueSortPlugin"),
];

/// A weight that is not said is 1.
fn weight_or_one(weight: i64) -> i64 {
    if weight == 0 { 1 } else { weight }
}

/// What is called at all its points: the default plugins but those that are disabled, each as it is said anew or as it is by
/// default, then the others that are said (`mergePluginSet`).
fn everywhere<'a>(defaults: &[(&'a str, i64)], said: &'a PluginSet) -> Vec<(&'a str, i64)> {
    let mut all: Vec<(&str, i64)> = Vec::new();
    let mut taken = Vec::new();
    for (name, weight) in defaults.iter().filter(|(name, _)| !said.disables(name)) {
        // Of several the last counts, and the others stay.
        let anew = said.enabled.iter().rposition(|p| p.name == *name);
        taken.extend(anew);
        all.push((name, weight_or_one(anew.map_or(*weight, |i| said.enabled[i].weight))));
    }
    let rest = said.enabled.iter().enumerate().filter(|(i, _)| !taken.contains(i));
    all.extend(rest.map(|(_, p)| (p.name.as_str(), weight_or_one(p.weight))));
    all
}

/// A profile as it is written: the plugins of all points, then what each point says for itself (`NewFramework`,
/// `updatePluginList`, `expandMultiPointPlugins`).
fn profile(said: &types::Profile, args: Args, doors: &Doors) -> Result<Profile, String> {
    let of_fit = args::check_fit(&args.node_resources_fit);
    let mut profile = Profile::new(name_of(said));
    let mut defaults: Vec<(&'static str, i64)> = Vec::new();
    for (plugin, weight) in plugins::all(args, doors) {
        defaults.push((plugin.name(), weight));
        profile.add(plugin);
    }
    let multi = everywhere(&defaults, &said.plugins.multi_point);
    let is_needed = |name: &str| {
        let said = said.plugins.points();
        multi.iter().any(|(n, _)| *n == name) || said.iter().any(|(_, s)| s.enabled.iter().any(|p| p.name == name))
    };
    if let Some(wrong) = of_fit.0.first().filter(|_| is_needed("NodeResourcesFit")) {
        let all: Vec<String> = of_fit.0.iter().map(ToString::to_string).collect();
        let text = if all.len() == 1 { wrong.to_string() } else { format!("[{}]", all.join(", ")) };
        return Err(format!("initializing plugin \"NodeResourcesFit\": {text}"));
    }
    let find = |name: &str, ty: &str| {
        let at = defaults.iter().position(|(n, _)| *n == name);
        at.ok_or_else(|| format!("{ty} {name:?} does not exist"))
    };
    let twice = |name: &str, ty: &str| format!("plugin {name:?} already registered as {ty:?}");
    // What each point names for itself is looked at before what is called everywhere.
    let mut own_of: Vec<Vec<(usize, i64)>> = Vec::new();
    for (point, ty) in IN_ORDER {
        let mut own: Vec<(usize, i64)> = Vec::new();
        for plugin in &set_of(&said.plugins, point).enabled {
            let at = find(&plugin.name, ty)?;
            if !profile.plugin(at).points().contains(&point) {
                return Err(format!("plugin {:?} does not extend {ty} plugin", plugin.name));
            }
            if own.iter().any(|(a, _)| *a == at) {
                return Err(twice(&plugin.name, ty));
            }
            own.push((at, weight_or_one(plugin.weight)));
        }
        own_of.push(own);
    }
    for ((point, ty), own) in IN_ORDER.into_iter().zip(own_of) {
        let set = set_of(&said.plugins, point);
        let (mut first, mut from_all): (Vec<usize>, Vec<(usize, i64)>) = (Vec::new(), Vec::new());
        for (name, weight) in multi.iter().filter(|_| !set.disabled.iter().any(|p| p.name == "*")) {
            let at = find(name, ty)?;
            if !profile.plugin(at).points().contains(&point) || set.disables(name) {
                continue;
            }
            if own.iter().any(|(a, _)| *a == at) {
                first.push(at);
            } else if from_all.iter().any(|(a, _)| *a == at) {
                return Err(twice(name, ty));
            } else {
                from_all.push((at, *weight));
            }
        }
        // What this point says anew of what is called everywhere, then that, then the rest.
        let (before, after): (Vec<_>, Vec<_>) = own.into_iter().partition(|(at, _)| first.contains(at));
        for (at, weight) in before.into_iter().chain(from_all).chain(after) {
            profile.call(point, at);
            if point == Point::Score {
                profile.weigh(at, weight);
            }
        }
    }
    let name = name_of(said);
    match profile.at(Point::QueueSort) {
        [_] => {}
        several => {
            let n = several.len();
            return Err(format!(
                "only one queue sort plugin required for profile with scheduler name {name:?}, but got {n}"
            ));
        }
    }
    if profile.at(Point::Bind).is_empty() {
        return Err(format!("at least one bind plugin is needed for profile with scheduler name {name:?}"));
    }
    Ok(profile)
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
        assert_eq!(score.last(), Some(&("TaintToleration".to_owned(), 9)), "after the default ones");
        assert!(!score.iter().any(|(n, _)| n == "ImageLocality"));
        assert_eq!(calls(body, Point::Filter), [("NodePorts".to_owned(), 1)]);
        let body = "profiles: [{plugins: {score: {enabled: [{name: NodeAffinity, weight: 7}]}}}]";
        let score = calls(body, Point::Score);
        assert_eq!(score[0], ("NodeAffinity".to_owned(), 7), "what a point says anew comes first");
        assert_eq!(score.len(), 8);
        let body = "profiles:\n- plugins:\n    multiPoint:\n      enabled: [{name: NodeResourcesFit, weight: 5}]\n      \
                    disabled: [{name: InterPodAffinity}]\n";
        assert_eq!(calls(body, Point::Score)[2], ("NodeResourcesFit".to_owned(), 5));
        assert!(!calls(body, Point::Filter).iter().any(|(n, _)| n == "InterPodAffinity"));
        let body = "profiles: [{plugins: {multiPoint: {disabled: [{name: '*'}], enabled: [{name: DefaultBinder}, {name: \
                    PrioritySort}, {name: NodePorts}, {name: NodeName}]}}}]";
        assert_eq!(calls(body, Point::Filter), [("NodePorts".to_owned(), 1), ("NodeName".to_owned(), 1)]);
        let body = "profiles: [{plugins: {multiPoint: {enabled: [{name: TaintToleration}]}}}]";
        assert_eq!(calls(body, Point::Score)[0], ("TaintToleration".to_owned(), 1), "the weight is said anew too");
    }

    #[test]
    fn what_was_told_can_be_shown() {
        let body = "podMaxBackoffSeconds: 20\nprofiles: [{schedulerName: mine, plugins: {score: {disabled: [{name: '*'}], \
                    enabled: [{name: NodeAffinity, weight: 7}]}}}]";
        let told = parse(body).expect("good").told();
        assert_eq!((&told["PodMaxBackoffSeconds"], &told["Parallelism"]), (&json!(20), &json!(16)));
        assert_eq!(told["LeaderElection"]["LeaseDuration"], "15s");
        let profile = &told["Profiles"][0];
        assert_eq!(profile["SchedulerName"], "mine");
        assert_eq!(profile["Plugins"]["Score"]["Enabled"], json!([{"Name": "NodeAffinity", "Weight": 7}]));
    }

    #[test]
    fn each_profile_has_its_share_of_nodes() {
        let body = "percentageOfNodesToScore: 30\nprofiles: [{schedulerName: a}, {schedulerName: b, \
                    percentageOfNodesToScore: 0}, {schedulerName: c, percentageOfNodesToScore: 70}]";
        let profiles = parse(body).and_then(|c| c.profiles(&Doors::default())).expect("good");
        let shares: Vec<_> = profiles.iter().map(|p| (p.name.as_str(), p.percentage)).collect();
        assert_eq!(shares, [("a", 30), ("b", 0), ("c", 70)]);
    }

    #[test]
    fn profiles_rate_by_their_own_arguments() {
        use crate::cycle::Algorithm;
        use crate::nodes::tests::{cpu, node};
        use crate::pod::tests::pod;
        let alone = "plugins: {score: {disabled: [{name: '*'}], enabled: [{name: NodeResourcesFit}]}}";
        let profile = |name: &str, strategy: &str| {
            format!(
                "- schedulerName: {name}\n  {alone}\n  pluginConfig: [{{name: NodeResourcesFit, args: {{scoringStrategy: \
                 {{resources: [{{name: cpu}}], {strategy}}}}}}}]\n"
            )
        };
        let shape = "[{utilization: 0, score: 0}, {utilization: 50, score: 10}, {utilization: 100, score: 0}]";
        let body = [
            profile("spread", "type: LeastAllocated"),
            profile("pack", "type: MostAllocated"),
            profile("half", &format!("type: RequestedToCapacityRatio, requestedToCapacityRatio: {{shape: {shape}}}")),
        ];
        let profiles = parse(&format!("profiles:\n{}", body.concat())).and_then(|c| c.profiles(&Doors::default()));
        let mut a = Algorithm::new(profiles.expect("good"));
        for (name, used) in [("empty", "0"), ("middling", "400m"), ("full", "800m")] {
            a.cluster.nodes.set_node(&node(name, "1", serde_json::json!({})));
            a.cluster.nodes.place(pod(name, cpu(used)), name);
        }
        for (profile, expected) in [("spread", "empty"), ("pack", "full"), ("half", "middling")] {
            let profile = a.profile_of(profile).expect("a profile");
            let Ok(at) = a.schedule(profile, &pod("p", cpu("100m")), 0) else { panic!("every node will do") };
            assert_eq!(a.cluster.nodes.rows.name(at as usize), expected);
        }
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

    fn check(body: &str, expected: &str) {
        assert_eq!(parse(body).map(|_| ()).expect_err("bad"), expected, "{body}");
    }

    fn profile_with(plugins: &str, why: &str) {
        let expected = format!("initializing profiles: creating profile for scheduler name default-scheduler: {why}");
        check(&format!("profiles: [{{plugins: {{{plugins}}}}}]"), &expected);
    }

    fn args_of(name: &str, args: &str, why: &str) {
        let expected = why.replace("ARGS", "profiles[0].pluginConfig[0].args");
        check(&format!("profiles: [{{pluginConfig: [{{name: {name}, args: {args}}}]}}]"), &expected);
    }

    #[test]
    fn a_file_that_cannot_be_read_says_where() {
        check("podInitialBackoffSecs: 3", "strict decoding error: unknown field \"podInitialBackoffSecs\"");
        check(
            "profiles: [{plugins: {scores: {}}}]",
            "strict decoding error: unknown field \"profiles[0].plugins.scores\"",
        );
        args_of(
            "NodeResourcesFit",
            "{ignored: []}",
            "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: decoding args for plugin \
             NodeResourcesFit: strict decoding error: unknown field \"ignored\"",
        );
        args_of(
            "NodeResourcesFit",
            "{scoringStrategy: {kind: X}}",
            "strict decoding error: decoding .profiles[0].pluginConfig[0]: strict decoding error: decoding args for plugin \
             NodeResourcesFit: strict decoding error: unknown field \"scoringStrategy.kind\"",
        );
        args_of(
            "DefaultPreemption",
            "{kind: InterPodAffinityArgs}",
            "decoding .profiles[0].pluginConfig[0]: args for plugin DefaultPreemption were not of type \
             DefaultPreemptionArgs.kubescheduler.config.k8s.io, got InterPodAffinityArgs.kubescheduler.config.k8s.io",
        );
        assert_eq!(
            Config::parse("kind: Other\napiVersion: v1").map(|_| ()),
            Err("no kind \"Other\" is registered for version \"v1\"".into())
        );
        assert!(parse("profiles: [{pluginConfig: [{name: Mine, args: {any: thing}}]}]").is_ok(), "another's plugin");
    }

    #[test]
    fn what_is_wrong_is_told_as_upstream_tells_it() {
        check("clientConnection: {burst: -1}", "clientConnection.burst: Invalid value: -1: must be non-negative");
        check("parallelism: 0", "parallelism: Invalid value: 0: should be an integer value greater than zero");
        check("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0");
        check(
            "podMaxBackoffSeconds: 1\npodInitialBackoffSeconds: 2",
            "podMaxBackoffSeconds: Invalid value: 1: must be greater than or equal to PodInitialBackoffSeconds",
        );
        check(
            "percentageOfNodesToScore: 101\nprofiles: [{percentageOfNodesToScore: -1}]",
            "[profiles[0].percentageOfNodesToScore: Invalid value: -1: not in valid range [0-100], \
             percentageOfNodesToScore: Invalid value: 101: not in valid range [0-100]]",
        );
        check(
            "leaderElection: {leaseDuration: 5s, retryPeriod: 0s, resourceLock: endpoints}",
            "[leaderElection.retryPeriod: Invalid value: 0s: must be greater than zero, leaderElection.leaseDuration: \
             Invalid value: 10s: LeaseDuration must be greater than RenewDeadline, leaderElection.resourceLock: Invalid \
             value: \"endpoints\": resourceLock value must be \"leases\"]",
        );
        assert!(parse("leaderElection: {leaderElect: false, leaseDuration: 5s}").is_ok());
        check(
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "profiles[1].schedulerName: Duplicate value: profiles[0].schedulerName",
        );
        check("profiles: [{schedulerName: a}, {}]", "profiles[1].schedulerName: Required value");
        check(
            "profiles: [{schedulerName: a}, {schedulerName: b, plugins: {queueSort: {enabled: [{name: PrioritySort}]}}}]",
            "profiles[1].plugins.queueSort: Invalid value: {\"Disabled\":null,\"Enabled\":[{\"Name\":\"PrioritySort\",\
             \"Weight\":0}]}: must be the same for all profiles",
        );
        check(
            "profiles: [{plugins: {filter: {enabled: [{name: EBSLimits}]}}}]",
            "profiles[0].plugins.filter.enabled[0]: Invalid value: \"EBSLimits\": was invalid in version \"v1\" \
             (KubeSchedulerConfiguration is version \"kubescheduler.config.k8s.io/v1\")",
        );
        check(
            "profiles: [{pluginConfig: [{name: NodeAffinity}, {name: NodeAffinity}]}]",
            "profiles[0].pluginConfig[1]: Duplicate value: \"NodeAffinity\"",
        );
        check(
            "extenders: [{prioritizeVerb: p, bindVerb: b}, {bindVerb: b, managedResources: [{name: a.b/c}, {name: a.b/c}, \
             {name: kubernetes.io/x}]}]",
            "[extenders[0].weight: Invalid value: 0: must have a positive weight applied to it, \
             extenders[1].managedResources[1].name: Invalid value: \"a.b/c\": duplicate extender managed resource name, \
             extenders[1].managedResources[2].name: Invalid value: \"kubernetes.io/x\": is an invalid extended resource name, \
             extenders: Invalid value: \"found 2 extenders implementing bind\": only one extender can implement bind]",
        );
    }

    #[test]
    fn plugins_that_cannot_be_called_there_are_refused() {
        profile_with("score: {enabled: [{name: Mine}]}", "ScorePlugin \"Mine\" does not exist");
        profile_with("multiPoint: {enabled: [{name: Mine}]}", "PreFilterPlugin \"Mine\" does not exist");
        profile_with(
            "score: {enabled: [{name: NodePorts}]}",
            "plugin \"NodePorts\" does not extend ScorePlugin plugin",
        );
        profile_with(
            "filter: {enabled: [{name: NodePorts}, {name: NodePorts}]}",
            "plugin \"NodePorts\" already registered as \"FilterPlugin\"",
        );
        profile_with(
            "multiPoint: {disabled: [{name: NodeName}], enabled: [{name: NodeName}, {name: NodeName}]}",
            "plugin \"NodeName\" already registered as \"FilterPlugin\"",
        );
        profile_with(
            "bind: {disabled: [{name: '*'}]}",
            "at least one bind plugin is needed for profile with scheduler name \"default-scheduler\"",
        );
        profile_with(
            "queueSort: {disabled: [{name: '*'}]}",
            "only one queue sort plugin required for profile with scheduler name \"default-scheduler\", but got 0",
        );
    }

    #[test]
    fn arguments_of_plugins_are_looked_at() {
        args_of(
            "DefaultPreemption",
            "{minCandidateNodesPercentage: 200, minCandidateNodesAbsolute: -1}",
            "[ARGS.minCandidateNodesPercentage: Invalid value: 200: not in valid range [0, 100], \
             ARGS.minCandidateNodesAbsolute: Invalid value: -1: not in valid range [0, inf)]",
        );
        args_of(
            "DefaultPreemption",
            "{minCandidateNodesPercentage: 0, minCandidateNodesAbsolute: 0}",
            "[ARGS.minCandidateNodesPercentage: Invalid value: 0: cannot be zero at the same time as \
             minCandidateNodesAbsolute, ARGS.minCandidateNodesAbsolute: Invalid value: 0: cannot be zero at the same time as \
             minCandidateNodesPercentage]",
        );
        args_of(
            "InterPodAffinity",
            "{hardPodAffinityWeight: 101}",
            "ARGS.hardPodAffinityWeight: Invalid value: 101: not in valid range [0, 100]",
        );
        args_of(
            "NodeResourcesBalancedAllocation",
            "{resources: [{name: cpu, weight: 2}, {name: cpu}]}",
            "[ARGS.resources[0].weight: Invalid value: 2: must be 1, ARGS.resources[1].name: Duplicate value: \"cpu\"]",
        );
        args_of(
            "VolumeBinding",
            "{bindTimeoutSeconds: -1, shape: [{utilization: 0, score: 10}]}",
            "[ARGS.bindTimeoutSeconds: Invalid value: -1: invalid BindTimeoutSeconds, should not be a negative value, \
             ARGS.shape: Invalid value: [{\"Score\":10,\"Utilization\":0}]: unexpected field `shape`, remove it or turn on \
             the feature gate StorageCapacityScoring]",
        );
        args_of(
            "DynamicResources",
            "{filterTimeout: -1s, bindingTimeout: 500ms}",
            "[ARGS.filterTimeout: Invalid value: -1s: must be zero or positive, ARGS.bindingTimeout: Invalid value: 500ms: \
             must be at least 1 second]",
        );
        args_of(
            "PodTopologySpread",
            "{defaultConstraints: [{maxSkew: 0, whenUnsatisfiable: Never, labelSelector: {}}]}",
            "[ARGS.defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty, \
             ARGS.defaultConstraints[0].maxSkew: Invalid value: 0: not in valid range (0, inf), \
             ARGS.defaultConstraints[0].topologyKey: Required value: can not be empty, \
             ARGS.defaultConstraints[0].whenUnsatisfiable: Unsupported value: \"Never\": supported values: \
             \"DoNotSchedule\", \"ScheduleAnyway\", ARGS.defaultConstraints[0].labelSelector: Forbidden: constraint must not \
             define a selector, as they deduced for each pod]",
        );
        let c = "{maxSkew: 1, topologyKey: k, whenUnsatisfiable: DoNotSchedule}";
        args_of(
            "PodTopologySpread",
            &format!("{{defaultingType: List, defaultConstraints: [{c}, {c}]}}"),
            "ARGS.defaultConstraints[1]: Duplicate value: \"{k, DoNotSchedule}\"",
        );
        args_of(
            "PodTopologySpread",
            "{defaultingType: None}",
            "ARGS.defaultingType: Unsupported value: \"None\": supported values: \"System\", \"List\"",
        );
        args_of(
            "NodeAffinity",
            "{addedAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: \
             k, operator: Near}, {key: k, operator: In}], matchFields: [{key: metadata.name, operator: In}]}]}}}",
            "[ARGS.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].operator: \
             Unsupported value: \"Near\": supported values: \"In\", \"NotIn\", \"Exists\", \"DoesNotExist\", \"Gt\", \"Lt\", \
             ARGS.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[1].values: \
             Invalid value: []: for 'in', 'notin' operators, values set can't be empty, \
             ARGS.addedAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].values: \
             Invalid value: 0: must have one element]",
        );
    }

    #[test]
    fn how_nodes_are_rated_is_looked_at_when_the_plugin_is_made() {
        let strategy = |args: &str, why: &str| {
            let expected = "initializing profiles: creating profile for scheduler name default-scheduler: initializing \
                            plugin \"NodeResourcesFit\": ";
            args_of("NodeResourcesFit", args, &format!("{expected}{why}"));
        };
        strategy(
            "{scoringStrategy: {resources: [{name: cpu, weight: 101}]}}",
            "[scoringStrategy.type: Unsupported value: \"\": supported values: \"LeastAllocated\", \"MostAllocated\", \
             \"RequestedToCapacityRatio\", scoringStrategy.resources[0].weight: Invalid value: 101: resource weight of cpu not \
             in valid range (0, 100]]",
        );
        strategy(
            "{scoringStrategy: {type: RequestedToCapacityRatio}}",
            "scoringStrategy.requestedToCapacityRatio: Required value: must be specified when type is \
             RequestedToCapacityRatio",
        );
        strategy(
            "{scoringStrategy: {type: MostAllocated, requestedToCapacityRatio: {}}}",
            "scoringStrategy.requestedToCapacityRatio: Forbidden: must be nil when type is not RequestedToCapacityRatio",
        );
        strategy(
            "{scoringStrategy: {type: RequestedToCapacityRatio, requestedToCapacityRatio: {shape: [{utilization: 50, score: \
             11}, {utilization: 50}]}}}",
            "[scoringStrategy.requestedToCapacityRatio.shape[1].utilization: Invalid value: 50: values must be sorted in \
             increasing order, scoringStrategy.requestedToCapacityRatio.shape[0].score: Invalid value: 11: not in valid range \
             [0, 10]]",
        );
        strategy(
            "{ignoredResourceGroups: [a/b]}",
            "ignoredResourceGroups[0]: Invalid value: \"a/b\": resource group name can't contain '/'",
        );
    }
}
