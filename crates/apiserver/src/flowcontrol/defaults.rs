//! The objects that every cluster has (`k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap/default.go`): the mandatory
//! ones, which are always as they are here, and the suggested ones, which are kept so until an operator takes them over.

use serde_json::{Value, json};

/// Whether the server keeps an object as it is here.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// The names that cannot be changed or done without.
pub const MANDATORY: [&str; 2] = ["exempt", "catch-all"];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": kind,
        "metadata": { "name": name, "annotations": { AUTO_UPDATE: "true" } }, "spec": spec,
    })
}

/// Every priority level.
pub fn levels() -> Vec<Value> {
    // Name, shares, lendable percent, and queues: how many, of which a flow has, and how long.
    type Row = (&'static str, i32, i32, Option<(i32, i32, i32)>);
    const LIMITED: [Row; 7] = [
        ("catch-all", 5, 0, None),
        ("system", 30, 33, Some((64, 6, 50))),
        ("node-high", 40, 25, Some((64, 6, 50))),
        ("leader-election", 10, 0, Some((16, 4, 50))),
        ("workload-high", 40, 50, Some((128, 6, 50))),
        ("workload-low", 100, 90, Some((128, 6, 50))),
        ("global-default", 20, 50, Some((128, 6, 50))),
    ];
    let kind = "PriorityLevelConfiguration";
    let exempt = json!({ "type": "Exempt", "exempt": { "nominalConcurrencyShares": 0, "lendablePercent": 0 } });
    let mut all = vec![object(kind, "exempt", exempt)];
    all.extend(LIMITED.into_iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            None => json!({ "type": "Reject" }),
            Some((queues, hand, length)) => json!({
                "type": "Queue", "queuing": { "queues": queues, "handSize": hand, "queueLengthLimit": length },
            }),
        };
        let limited = json!({
            "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response,
        });
        object(kind, name, json!({ "type": "Limited", "limited": limited }))
    }));
    all
}

/// Every flow schema.
pub fn schemas() -> Vec<Value> {
    let group = |name: &str| json!({ "kind": "Group", "group": { "name": name } });
    let user = |name: &str| json!({ "kind": "User", "user": { "name": name } });
    let system_accounts =
        json!({ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": "*" } });
    let everyone = || vec![group("system:unauthenticated"), group("system:authenticated")];
    let everything = || {
        (
            json!([{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"] }]),
            json!([{ "verbs": ["*"], "nonResourceURLs": ["*"] }]),
        )
    };
    let leases = |verbs: Value| json!({ "verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"] });
    let schema = |name: &str,
                  level: &str,
                  precedence: i32,
                  by: Option<&str>,
                  subjects: Vec<Value>,
                  (resources, paths): (Value, Value)| {
        let mut rule = json!({ "subjects": subjects });
        for (field, rules) in [("resourceRules", resources), ("nonResourceRules", paths)] {
            if !rules.is_null() {
                rule[field] = rules;
            }
        }
        let mut spec = json!({
            "priorityLevelConfiguration": { "name": level }, "matchingPrecedence": precedence, "rules": [rule],
        });
        if let Some(by) = by {
            spec["distinguisherMethod"] = json!({ "type": by });
        }
        object("FlowSchema", name, spec)
    };
    let (by_user, by_namespace) = (Some("ByUser"), Some("ByNamespace"));
    let probes = json!([{ "verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"] }]);
    let node_high = json!([
        {
            "verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "clusterScope": true,
            "namespaces": ["*"],
        },
        leases(json!(["*"])),
    ]);
    let (manager, scheduler) = (user("system:kube-controller-manager"), user("system:kube-scheduler"));
    let leaders = vec![manager.clone(), scheduler.clone(), system_accounts.clone()];
    let election = json!([leases(json!(["get", "create", "update"]))]);
    vec![
        schema("exempt", "exempt", 1, None, vec![group("system:masters")], everything()),
        schema("probes", "exempt", 2, None, everyone(), (Value::Null, probes)),
        schema("system-leader-election", "leader-election", 100, by_user, leaders, (election, Value::Null)),
        schema("system-node-high", "node-high", 400, by_user, vec![group("system:nodes")], (node_high, Value::Null)),
        schema("system-nodes", "system", 500, by_user, vec![group("system:nodes")], everything()),
        schema("kube-controller-manager", "workload-high", 800, by_namespace, vec![manager], everything()),
        schema("kube-scheduler", "workload-high", 800, by_namespace, vec![scheduler], everything()),
        schema("kube-system-service-accounts", "workload-high", 900, by_namespace, vec![system_accounts], everything()),
        schema("service-accounts", "workload-low", 9000, by_user, vec![group("system:serviceaccounts")], everything()),
        schema("global-default", "global-default", 9900, by_user, everyone(), everything()),
        schema("catch-all", "catch-all", 10_000, by_user, everyone(), everything()),
    ]
}

/// What is to be done about a default object, given what is stored.
#[derive(Debug, PartialEq)]
pub enum Upkeep {
    /// Nothing.
    Nothing,
    /// It is missing.
    Create,
    /// Its spec or its annotation are to be as here.
    Update,
}

/// Decides. Objects that an operator has taken over (annotation `false`) are his; mandatory ones never are.
pub fn upkeep(wanted: &Value, stored: Option<&Value>) -> Upkeep {
    let Some(stored) = stored else { return Upkeep::Create };
    let mandatory = wanted["metadata"]["name"].as_str().is_some_and(|n| MANDATORY.contains(&n));
    let note = stored["metadata"]["annotations"][AUTO_UPDATE].as_str();
    let ours = match note {
        _ if mandatory => true,
        Some("true") => true,
        Some("false") => false,
        // Somebody changed it before there was such an annotation, or removed it.
        _ => stored["metadata"]["generation"] == 1,
    };
    // Without ours, the annotation says so from now on only if it says nothing.
    if !ours || (stored["spec"] == wanted["spec"] && note == Some("true")) { Upkeep::Nothing } else { Upkeep::Update }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_those_of_a_recorded_cluster() {
        let dir = std::env::var_os("ORKD_SHARED").map(std::path::PathBuf::from);
        let dir = dir.unwrap_or_else(|| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"));
        let dir = dir.join("kubernetes-1.36/recorded/bootstrap");
        for (file, mut ours) in [("flowschemas", schemas()), ("prioritylevelconfigurations", levels())] {
            let Ok(text) = std::fs::read_to_string(dir.join(format!("{file}.json"))) else {
                println!("skipped: no ../shared beside this clone");
                return;
            };
            let recorded: Vec<Value> = serde_json::from_str(&text).expect("JSON");
            ours.sort_by_key(|o| o["metadata"]["name"].as_str().map(str::to_owned));
            assert_eq!(ours.len(), recorded.len());
            for (ours, theirs) in ours.iter().zip(&recorded) {
                assert_eq!(ours["spec"], theirs["spec"]);
                assert_eq!(ours["metadata"]["name"], theirs["metadata"]["name"]);
                assert_eq!(ours["metadata"]["annotations"], theirs["metadata"]["annotations"]);
            }
        }
    }

    #[test]
    fn operators_keep_what_they_took_over() {
        let level = |name: &str| levels().into_iter().find(|l| l["metadata"]["name"] == name).expect("known");
        let check = |name: &str, change: &dyn Fn(&mut Value), expected: Upkeep| {
            let mut stored = level(name);
            change(&mut stored);
            assert_eq!(upkeep(&level(name), Some(&stored)), expected, "{name}");
        };
        let take_over = |o: &mut Value| o["metadata"]["annotations"][AUTO_UPDATE] = "false".into();
        let shares = |o: &mut Value| o["spec"]["limited"]["nominalConcurrencyShares"] = 1.into();
        check("system", &|_| {}, Upkeep::Nothing);
        check("system", &shares, Upkeep::Update);
        check("system", &|o| (take_over(o), shares(o)).1, Upkeep::Nothing);
        check("catch-all", &|o| (take_over(o), shares(o)).1, Upkeep::Update);
        check("catch-all", &take_over, Upkeep::Update);
        assert_eq!(upkeep(&level("system"), None), Upkeep::Create);
    }
}
