//! Impersonation (`endpoints/filters/impersonation`): a user who may, acts as another.
//!
//! There are several ways to be allowed to ([`Mode`]). Those of constrained impersonation (KEP 5284) ask twice: whether
//! the user may do what the request does in the place of another (`impersonate-on:MODE:VERB`), and whether he may be that
//! other (`impersonate:MODE`). The old one asks only for the latter (`impersonate`). What each way asks for is pure
//! ([`plan`]); [`impersonate`] asks. The way that led to the end is tried first the next time.
//!
//! Differs from upstream: that somebody may is not remembered for ten seconds, for asking the authorizers of this process
//! costs less than to look it up.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use http::request::Parts;
use orkd_api::field::quote;
use orkd_api::status::Status;
use orkd_base::metrics::{Counter, Family, Histogram};
use orkd_cel::names;
use parking_lot::Mutex;

use crate::authn::config::domain_prefixed_path;
use crate::authz::{Attributes, forbidden};
use crate::handler::authorize;
use crate::pipeline::ApiServer;
use crate::route::RequestInfo;
use crate::user::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo, extra_key};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
/// So many groups or further facts are first asked for at once.
const MANY: usize = 4;
/// Of so many users it is remembered which way they go.
const REMEMBERED: usize = 10_000;

const LABELS: &[&str] = &["decision", "mode"];
/// 1 ms, doubled fourteen times.
const SECONDS: &[f64] =
    &[0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384];
static ATTEMPTS: Family<Counter> = Family::counter(
    "apiserver_impersonation_attempts_total",
    "[ALPHA] Total number of impersonation attempts split by mode and decision.",
    LABELS,
);
static ATTEMPT_TIME: Family<Histogram> = Family::histogram(
    "apiserver_impersonation_attempts_duration_seconds",
    "[ALPHA] Latency of impersonation attempts in seconds split by mode and decision.",
    LABELS,
    SECONDS,
);
static CHECKS: Family<Counter> = Family::counter(
    "apiserver_impersonation_authorization_attempts_total",
    "[ALPHA] Total number of authorization checks made by the impersonation handler split by mode and decision.",
    LABELS,
);
static CHECK_TIME: Family<Histogram> = Family::histogram(
    "apiserver_impersonation_authorization_attempts_duration_seconds",
    "[ALPHA] Latency of authorization checks made by the impersonation handler in seconds split by mode and decision.",
    LABELS,
    SECONDS,
);

/// A way of being allowed to act as another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// A service account acts as the node its pod runs on.
    AssociatedNode,
    /// As any node.
    ArbitraryNode,
    /// As a service account.
    ServiceAccount,
    /// As a user who is neither, with groups and further facts.
    UserInfo,
    /// As anyone, for any request.
    Legacy,
}

/// In the order they are tried.
const MODES: [Mode; 5] =
    [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount, Mode::UserInfo, Mode::Legacy];

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Legacy => "legacy",
        }
    }

    /// The verb with which it is asked whether somebody may be another.
    fn verb(self) -> String {
        match self {
            Mode::Legacy => "impersonate".into(),
            constrained => format!("impersonate:{}", constrained.name()),
        }
    }
}

/// Which way a user went the last time.
#[derive(Default)]
pub struct Remembered {
    hasher: RandomState,
    modes: Mutex<HashMap<u64, Mode>>,
}

impl Remembered {
    fn get(&self, user: &str) -> Option<Mode> {
        self.modes.lock().get(&self.hasher.hash_one(user)).copied()
    }

    fn put(&self, user: &str, mode: Mode) {
        let mut modes = self.modes.lock();
        if modes.len() >= REMEMBERED {
            modes.clear();
        }
        modes.insert(self.hasher.hash_one(user), mode);
    }
}

/// One thing to be asked.
#[derive(Debug)]
enum Step {
    /// This must be allowed.
    Ask(RequestInfo),
    /// This, or else each of those.
    Wide(RequestInfo, Vec<RequestInfo>),
    /// It is never allowed, and why.
    Refuse(RequestInfo, String),
}

/// What a way asks for, about whom, and who the user is then.
#[derive(Debug)]
struct Plan {
    asker: UserInfo,
    steps: Vec<Step>,
    becomes: UserInfo,
}

/// The user to go on as, and the verb of constrained impersonation that allowed it.
#[derive(Debug)]
pub struct Impersonated {
    /// The user.
    pub user: UserInfo,
    /// The verb; empty for the old way.
    pub constraint: String,
}

fn is_ours(header: &str) -> bool {
    matches!(header, USER | GROUP | UID) || header.starts_with(EXTRA)
}

/// The answer to those who ask for facts about a user whom they do not name; the facts are shown as Go shows them.
fn without_a_name(wanted: &UserInfo) -> Status {
    let strings = |list: &[String]| {
        let quoted: Vec<String> = list.iter().map(|s| quote(s)).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if wanted.groups.is_empty() { "[]string(nil)".to_owned() } else { strings(&wanted.groups) };
    let entries: Vec<String> = wanted.extra.iter().map(|(k, v)| format!("{}:{}", quote(k), strings(v))).collect();
    let extra = match entries.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => format!("map[string][]string{{{}}}", entries.join(", ")),
    };
    Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:{extra}}} without impersonating a user name",
        quote(&wanted.uid)
    ))
}

/// Whom the headers ask to act as; `None` where they ask for nobody.
fn wanted(parts: &Parts) -> Result<Option<UserInfo>, Status> {
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let groups = parts.headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok().map(str::to_owned));
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in &parts.headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA), value.to_str()) {
            extra.entry(extra_key(key)).or_default().push(value.to_owned());
        }
    }
    let wanted = UserInfo { name: text(USER), uid: text(UID), groups: groups.collect(), extra };
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    // An empty name or UID alone asks for nothing.
    let asks = !wanted.uid.is_empty() || !wanted.groups.is_empty() || !wanted.extra.is_empty();
    if asks { Err(without_a_name(&wanted)) } else { Ok(None) }
}

fn node_of(user: &str) -> Option<&str> {
    user.strip_prefix("system:node:").filter(|name| names::dns_subdomain(name, false).is_empty())
}

fn account_of(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let good = names::dns_label(namespace, false).is_empty() && names::dns_subdomain(name, false).is_empty();
    good.then_some((namespace, name))
}

/// What a way asks for; `None` where it is no way to act as the wanted user.
fn plan(mode: Mode, asker: &UserInfo, wanted: &UserInfo, request: &RequestInfo) -> Option<Plan> {
    let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
    let (node, account) = (node_of(&wanted.name), account_of(&wanted.name));
    let is_one = match mode {
        Mode::AssociatedNode => bare && node.is_some_and(|node| runs_on(asker, node)),
        Mode::ArbitraryNode => bare && node.is_some(),
        Mode::ServiceAccount => bare && account.is_some(),
        Mode::UserInfo => node.is_none() && account.is_none(),
        Mode::Legacy => true,
    };
    if !is_one {
        return None;
    }
    let constrained = mode != Mode::Legacy;
    let mut steps = Vec::new();
    if constrained {
        let verb = format!("impersonate-on:{}:{}", mode.name(), request.verb);
        steps.push(Step::Ask(RequestInfo { verb, ..request.clone() }));
    }
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: mode.verb(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    const AUTHENTICATION: &str = "authentication.k8s.io";
    let own = if constrained { AUTHENTICATION } else { "" };
    let mut becomes = wanted.clone();
    match (node.filter(|_| constrained), account) {
        (Some(node), _) => {
            becomes.groups = vec!["system:nodes".into()];
            // Whoever may act as his own node may act as any that may become his.
            let name = if mode == Mode::AssociatedNode { "*" } else { node };
            steps.push(Step::Ask(ask(own, "nodes", "", "", name)));
        }
        (None, Some((namespace, name))) => {
            if becomes.groups.is_empty() {
                becomes.groups = UserInfo::service_account(namespace, name).groups;
            }
            steps.push(Step::Ask(ask(own, "serviceaccounts", "", namespace, name)));
        }
        (None, None) => steps.push(Step::Ask(ask(own, "users", "", "", &wanted.name))),
    }
    if !wanted.uid.is_empty() {
        steps.push(Step::Ask(ask(AUTHENTICATION, "uids", "", "", &wanted.uid)));
    }
    if constrained {
        if wanted.groups.iter().any(String::is_empty) {
            let why = "impersonating the empty string group is not allowed".into();
            steps.push(Step::Refuse(ask(own, "groups", "", "", ""), why));
        }
        if wanted.in_group(MASTERS) {
            let why = format!("impersonating the {MASTERS} group is not allowed");
            steps.push(Step::Refuse(ask(own, "groups", "", "", MASTERS), why));
        }
    }
    let groups: Vec<RequestInfo> = wanted.groups.iter().map(|g| ask(own, "groups", "", "", g)).collect();
    many(&mut steps, constrained, groups.len(), ask(own, "groups", "", "", "*"), groups);
    if constrained && let Err(why) = check_extra(&wanted.extra) {
        steps.push(Step::Refuse(ask(AUTHENTICATION, "userextras", "", "", ""), why));
    }
    let extra = wanted.extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
    let extra: Vec<RequestInfo> = extra.map(|(k, v)| ask(AUTHENTICATION, "userextras", k, "", v)).collect();
    let count = extra.len().max(wanted.extra.len());
    many(&mut steps, constrained, count, ask(AUTHENTICATION, "userextras", "*", "", "*"), extra);

    if becomes.name == "system:anonymous" {
        if !becomes.in_group(UNAUTHENTICATED) {
            becomes.groups.push(UNAUTHENTICATED.into());
        }
    } else if !becomes.in_group(AUTHENTICATED) && !becomes.in_group(UNAUTHENTICATED) {
        becomes.groups.push(AUTHENTICATED.into());
    }
    let mut asker = asker.clone();
    if mode == Mode::AssociatedNode {
        // That he runs there has been seen; the rest differs from pod to pod.
        let keys = asker.extra.into_keys().collect();
        asker.extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
    }
    Some(Plan { asker, steps, becomes })
}

/// Whether a user is the service account of a pod on a node.
fn runs_on(user: &UserInfo, node: &str) -> bool {
    let nodes = user.extra.get("authentication.kubernetes.io/node-name");
    account_of(&user.name).is_some() && nodes.is_some_and(|nodes| *nodes == [node])
}

fn many(steps: &mut Vec<Step>, constrained: bool, count: usize, all: RequestInfo, each: Vec<RequestInfo>) {
    if constrained && count >= MANY {
        steps.push(Step::Wide(all, each));
    } else {
        steps.extend(each.into_iter().map(Step::Ask));
    }
}

/// Whether further facts may be asked for at all.
fn check_extra(extra: &BTreeMap<String, Vec<String>>) -> Result<(), String> {
    for (key, values) in extra {
        if key.is_empty() {
            return Err("impersonating the empty string key in extra is not allowed".into());
        }
        domain_prefixed_path(key)
            .map_err(|why| format!("impersonating an invalid key in extra is not allowed: extra.key: {why}"))?;
        if values.iter().any(String::is_empty) {
            return Err("impersonating the empty string value in extra is not allowed".into());
        }
    }
    Ok(())
}

/// The user to go on as: the one named by headers, if the asking one may act as him and as each of his groups; `None`
/// where none is named. The headers are taken off.
pub async fn impersonate(
    server: &ApiServer,
    user: &UserInfo,
    request: &RequestInfo,
    parts: &mut Parts,
) -> Result<Option<Impersonated>, Status> {
    let Some(wanted) = wanted(parts)? else { return Ok(None) };
    let headers: Vec<_> = parts.headers.keys().filter(|k| is_ours(k.as_str())).cloned().collect();
    for header in headers {
        parts.headers.remove(header);
    }
    let last = server.impersonations().get(&user.name);
    let order = last.into_iter().chain(MODES.into_iter().filter(|mode| Some(*mode) != last));
    let mut refusal = None;
    for mode in order {
        let Some(plan) = plan(mode, user, &wanted, request) else { continue };
        let begun = Instant::now();
        let outcome = ask(server, mode, &plan).await;
        let labels = [decision(&outcome), mode.name()];
        ATTEMPTS.with(&labels).inc();
        ATTEMPT_TIME.with(&labels).observe(begun.elapsed().as_secs_f64());
        match outcome {
            Ok(()) => {
                server.impersonations().put(&user.name, mode);
                let constraint = if mode == Mode::Legacy { String::new() } else { mode.verb() };
                return Ok(Some(Impersonated { user: plan.becomes, constraint }));
            }
            Err(status) => refusal = refusal.or(Some(status)),
        }
    }
    // The old way is one for everybody, so there is a refusal.
    Err(refusal.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

fn decision(outcome: &Result<(), Status>) -> &'static str {
    if outcome.is_ok() { "allowed" } else { "denied" }
}

async fn ask(server: &ApiServer, mode: Mode, plan: &Plan) -> Result<(), Status> {
    let one = async |request: &RequestInfo| {
        let begun = Instant::now();
        let outcome = authorize(server, &plan.asker, request).await;
        counted(mode, &outcome, begun.elapsed());
        outcome
    };
    for step in &plan.steps {
        match step {
            Step::Ask(request) => one(request).await?,
            Step::Refuse(request, why) => {
                return Err(forbidden(&Attributes { user: &plan.asker, request }, why));
            }
            Step::Wide(all, each) => {
                if one(all).await.is_err() {
                    for request in each {
                        one(request).await?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn counted(mode: Mode, outcome: &Result<(), Status>, took: Duration) {
    let labels = [decision(outcome), mode.name()];
    CHECKS.with(&labels).inc();
    CHECK_TIME.with(&labels).observe(took.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo { name: name.into(), groups: groups.iter().map(|g| (*g).to_owned()).collect(), ..UserInfo::default() }
    }

    /// `verb resource[.group][/subresource] [namespace/]name`
    fn shown(info: &RequestInfo) -> String {
        let mut text = format!("{} {}", info.verb, info.resource);
        for (before, part) in [(".", &info.group), ("/", &info.subresource), (" ", &info.namespace)] {
            if !part.is_empty() {
                text += before;
                text += part;
            }
        }
        let between = if info.namespace.is_empty() { " " } else { "/" };
        if info.name.is_empty() { text } else { format!("{text}{between}{}", info.name) }
    }

    fn check(mode: Mode, asker: &UserInfo, wanted: &UserInfo, expected: &[&str]) -> Option<Plan> {
        let request = RequestInfo {
            is_resource: true,
            verb: "list".into(),
            resource: "pods".into(),
            namespace: "d".into(),
            ..RequestInfo::default()
        };
        let plan = plan(mode, asker, wanted, &request);
        let steps: Vec<String> = plan
            .iter()
            .flat_map(|plan| &plan.steps)
            .map(|step| match step {
                Step::Ask(request) => shown(request),
                Step::Wide(all, each) => format!("{}, or {} of them", shown(all), each.len()),
                Step::Refuse(request, why) => format!("never {}: {why}", shown(request)),
            })
            .collect();
        assert_eq!(steps, expected, "{mode:?} {wanted:?}");
        plan
    }

    #[test]
    fn users_are_asked_for_with_all_that_they_are() {
        let ann = user("ann", &[]);
        let bob = UserInfo {
            uid: "7".into(),
            extra: [("example.com/scopes".to_owned(), vec!["view".to_owned()])].into(),
            ..user("bob", &["dev"])
        };
        let plan = check(
            Mode::UserInfo,
            &ann,
            &bob,
            &[
                "impersonate-on:user-info:list pods d",
                "impersonate:user-info users.authentication.k8s.io bob",
                "impersonate:user-info uids.authentication.k8s.io 7",
                "impersonate:user-info groups.authentication.k8s.io dev",
                "impersonate:user-info userextras.authentication.k8s.io/example.com/scopes view",
            ],
        );
        let becomes = plan.expect("a way").becomes;
        assert_eq!(becomes.groups, ["dev", AUTHENTICATED]);
        check(
            Mode::Legacy,
            &ann,
            &bob,
            &[
                "impersonate users bob",
                "impersonate uids.authentication.k8s.io 7",
                "impersonate groups dev",
                "impersonate userextras.authentication.k8s.io/example.com/scopes view",
            ],
        );
        for mode in [Mode::AssociatedNode, Mode::ArbitraryNode, Mode::ServiceAccount] {
            check(mode, &ann, &bob, &[]);
        }
    }

    #[test]
    fn many_groups_are_asked_for_at_once_and_some_never() {
        let ann = user("ann", &[]);
        let on = "impersonate-on:user-info:list pods d";
        let bob = "impersonate:user-info users.authentication.k8s.io bob";
        check(
            Mode::UserInfo,
            &ann,
            &user("bob", &["a", "b", "c", "d"]),
            &[on, bob, "impersonate:user-info groups.authentication.k8s.io *, or 4 of them"],
        );
        let old = ["impersonate users bob", "impersonate groups a", "impersonate groups system:masters"];
        check(Mode::Legacy, &ann, &user("bob", &["a", MASTERS]), &old);
        let never = "never impersonate:user-info groups.authentication.k8s.io system:masters: impersonating the \
                     system:masters group is not allowed";
        let masters = "impersonate:user-info groups.authentication.k8s.io system:masters";
        check(Mode::UserInfo, &ann, &user("bob", &[MASTERS]), &[on, bob, never, masters]);
        let extra = |key: &str, values: &[&str], expected: &[&str]| {
            let values = values.iter().map(|v| (*v).to_owned()).collect();
            let wanted = UserInfo { extra: [(key.to_owned(), values)].into(), ..user("bob", &[]) };
            let all: Vec<&str> = [on, bob].into_iter().chain(expected.iter().copied()).collect();
            check(Mode::UserInfo, &ann, &wanted, &all);
        };
        extra(
            "plain",
            &["x"],
            &[
                "never impersonate:user-info userextras.authentication.k8s.io: impersonating an invalid key in extra is not \
                 allowed: extra.key: Invalid value: \"plain\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "impersonate:user-info userextras.authentication.k8s.io/plain x",
            ],
        );
        extra(
            "example.com/a",
            &["1", "2", "3", "4"],
            &["impersonate:user-info userextras.authentication.k8s.io/* *, or 4 of them"],
        );
    }

    #[test]
    fn nodes_and_accounts_have_ways_of_their_own() {
        let (ann, node) = (user("ann", &[]), user("system:node:n1", &[]));
        let plan = check(
            Mode::ArbitraryNode,
            &ann,
            &node,
            &["impersonate-on:arbitrary-node:list pods d", "impersonate:arbitrary-node nodes.authentication.k8s.io n1"],
        );
        assert_eq!(plan.expect("a way").becomes.groups, ["system:nodes", AUTHENTICATED]);
        check(Mode::UserInfo, &ann, &node, &[]);
        check(Mode::ArbitraryNode, &ann, &user("system:node:n1", &["dev"]), &[]);
        check(Mode::AssociatedNode, &ann, &node, &[]);
        check(Mode::Legacy, &ann, &node, &["impersonate users system:node:n1"]);

        let on = |name: &str, nodes: &[&str]| UserInfo {
            extra: [
                ("authentication.kubernetes.io/node-name".to_owned(), nodes.iter().map(|n| (*n).to_owned()).collect()),
                ("authentication.kubernetes.io/pod-name".to_owned(), vec!["p".to_owned()]),
            ]
            .into(),
            ..user(name, &[])
        };
        let agent = "system:serviceaccount:kube-system:agent";
        let steps =
            ["impersonate-on:associated-node:list pods d", "impersonate:associated-node nodes.authentication.k8s.io *"];
        let plan = check(Mode::AssociatedNode, &on(agent, &["n1"]), &node, &steps).expect("a way");
        let keys = ["authentication.kubernetes.io/node-name", "authentication.kubernetes.io/pod-name"];
        assert_eq!(plan.asker.extra["authentication.kubernetes.io/associated-node-keys"], keys);
        assert_eq!((plan.asker.extra.len(), plan.becomes.name.as_str()), (1, "system:node:n1"));
        for other in [on(agent, &["n2"]), on(agent, &["n1", "n2"]), on("ann", &["n1"])] {
            check(Mode::AssociatedNode, &other, &node, &[]);
        }

        let robot = user("system:serviceaccount:a:robot", &[]);
        let plan = check(
            Mode::ServiceAccount,
            &ann,
            &robot,
            &[
                "impersonate-on:serviceaccount:list pods d",
                "impersonate:serviceaccount serviceaccounts.authentication.k8s.io a/robot",
            ],
        );
        let groups = ["system:serviceaccounts", "system:serviceaccounts:a", AUTHENTICATED];
        assert_eq!(plan.expect("a way").becomes.groups, groups);
        check(Mode::Legacy, &ann, &robot, &["impersonate serviceaccounts a/robot"]);
        // What is no account by its name is a user.
        check(
            Mode::Legacy,
            &ann,
            &user("system:serviceaccount:a", &[]),
            &["impersonate users system:serviceaccount:a"],
        );
    }

    #[test]
    fn facts_need_a_name() {
        let extra = BTreeMap::from([("scopes".to_owned(), vec!["a".to_owned()])]);
        for (uid, groups, extra, expected) in [
            ("", &["dev"][..], BTreeMap::new(), "UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)}"),
            (
                "u",
                &["dev", "ops"],
                extra,
                "UID:\"u\", Groups:[]string{\"dev\", \"ops\"}, Extra:map[string][]string{\"scopes\":[]string{\"a\"}}}",
            ),
            ("u", &[], BTreeMap::new(), "UID:\"u\", Groups:[]string(nil), Extra:map[string][]string(nil)}"),
        ] {
            let status = without_a_name(&UserInfo { uid: uid.into(), extra, ..user("", groups) });
            let text = format!("requested &user.DefaultInfo{{Name:\"\", {expected} without impersonating a user name");
            assert_eq!((status.code, &*status.reason, status.message), (400, "BadRequest", text));
        }
    }
}
