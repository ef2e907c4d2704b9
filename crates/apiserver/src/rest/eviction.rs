//! `pods/eviction`: deletes a pod in the name of order (`pkg/registry/core/pod/storage/eviction.go`).
//!
//! A PodDisruptionBudget that covers the pod is asked first: it counts the eviction in its status before the pod is
//! deleted, so that two evictions at once cannot both take the last place.

use async_trait::async_trait;
use orkd_api::selector::LabelSelector;
use orkd_api::status::{Cause, Status};
use serde_json::{Value, json};

use super::{Call, Reply, Rest, body};
use crate::Body;
use crate::admission::{Operation, items, meta};
use crate::query::Query;
use crate::registry::options::DeleteOptions;
use crate::writer::Writer;

/// The handler.
pub struct Eviction;

#[async_trait]
impl Rest for Eviction {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let mut eviction = body::read(&call, request, "Eviction").await?;
        body::same_name(&call, &eviction, "Eviction")?;
        call.admit(Operation::Create, &mut eviction).await?;
        body::validate(&call, "Eviction", &eviction)?;
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let mut options = DeleteOptions::parse(&Query::default(), &eviction["deleteOptions"])?;
        options.dry_run |= call.dry_run();
        let writer = call.writer();
        let mut tries = 0;
        loop {
            let pod = writer.get("", "pods", namespace, name).await?;
            let mut spared = None;
            match evict(&call, &writer, &pod, options.clone(), &mut spared).await {
                // The pod changed between the decision and the deletion, and the request did not ask for a version.
                Err(status) if status.code == 409 && options.resource_version.is_none() => {
                    tries += 1;
                    if tries > RETRIES {
                        return Err(spared.map_or(status, |budget: String| being_processed(&budget)));
                    }
                }
                Err(status) => return Err(status),
                Ok(()) => break,
            }
        }
        Ok(Reply::Object(201, body::success()))
    }
}

/// How often an eviction is decided anew.
const RETRIES: usize = 5;

/// Evicts a pod as it was read. `spared`: the budget that it does not count for, because it is not healthy.
async fn evict(
    call: &Call,
    writer: &Writer,
    pod: &Value,
    mut options: DeleteOptions,
    spared: &mut Option<String>,
) -> Result<(), Status> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let version = meta(pod, "resourceVersion").to_owned();
    if let Some(uid) = &options.uid
        && meta(pod, "uid") != uid.as_str()
    {
        let why = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted \
             and then recreated",
            meta(pod, "uid")
        );
        return Err(Status::conflict("", "Pod", name, &why));
    }
    let ending = pod["metadata"]["deletionTimestamp"].is_string();
    let pending = pod["status"]["phase"] == "Pending";
    if ending || is_over(pod) || pending {
        // Nothing is disrupted; a pod that waits must still be waiting when it goes.
        if pending && options.resource_version.is_none() {
            options.resource_version = Some(version);
        }
        return writer.delete("", "pods", namespace, name, options).await.map(|_| ());
    }
    let asked = ask_budget(call, pod, options.dry_run).await?;
    if let Asked::Unhealthy(budget) = asked {
        // It must not have become healthy meanwhile.
        *spared = Some(budget);
        options.resource_version.get_or_insert(version);
    }
    if !options.dry_run {
        let stamp = crate::registry::stamp(call.now);
        let expected = options.resource_version.clone();
        let marked = writer.update_with("", "pods", "status", namespace, name, |object| {
            let standing = meta(object, "resourceVersion");
            if let Some(asked) = expected.as_deref().filter(|asked| *asked != standing) {
                let why = format!(
                    "the ResourceVersion in the precondition ({asked}) does not match the ResourceVersion in record \
                     ({standing}). The object might have been modified"
                );
                return Err(Status::conflict("", "Pod", name, &why));
            }
            mark(object, &stamp);
            Ok(())
        });
        let marked = marked.await?;
        if options.resource_version.is_some() {
            options.resource_version = Some(meta(&marked, "resourceVersion").to_owned());
        }
    }
    writer.delete("", "pods", namespace, name, options).await.map(|_| ())
}

/// What a budget had to say.
enum Asked {
    /// There is none, or it gave a place.
    Granted,
    /// The pod is not healthy, so that no place is needed in the budget of this name.
    Unhealthy(String),
}

const GROUP: &str = "policy";
const BUDGETS: &str = "poddisruptionbudgets";
const ALLOWED: &str = "DisruptionAllowed";
/// How many evictions may wait for the controller to see them.
const MAX_DISRUPTED: usize = 2000;

/// Takes a place in the pod's budget, where it has one (`checkAndDecrement`).
async fn ask_budget(call: &Call, pod: &Value, dry_run: bool) -> Result<Asked, Status> {
    let namespace = call.info.namespace.as_str();
    let covers = |budget: &Value| {
        LabelSelector::of_object(&budget["spec"]["selector"]).is_ok_and(|selector| selector.matches_object(pod))
    };
    let all = call.server.reader().list(GROUP, BUDGETS, Some(namespace));
    let budgets: Vec<Value> = all.iter().map(|e| e.decode()).filter(covers).collect();
    let budget = match budgets.as_slice() {
        [] => return Ok(Asked::Granted),
        [one] => one,
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::new(500, "", text));
        }
    };
    if !is_ready(pod) {
        let count = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || (count("desiredHealthy") > 0 && count("currentHealthy") >= count("desiredHealthy")) {
            // A pod that is not healthy is not counted among those the budget protects.
            return Ok(Asked::Unhealthy(meta(budget, "name").to_owned()));
        }
    }
    // The status of a budget is the API server's to write here, whoever evicts.
    let writer = call.writer().as_user(crate::alloc::cluster_ip::system_user()).dry_run(dry_run);
    let (name, pod_name) = (meta(budget, "name"), meta(pod, "name"));
    let stamp = crate::registry::stamp(call.now);
    let taken = writer.update_with(GROUP, BUDGETS, "status", namespace, name, |budget| take(budget, pod_name, &stamp));
    taken.await.map(|_| Asked::Granted)
}

fn is_ready(pod: &Value) -> bool {
    items(&pod["status"]["conditions"]).iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Says no in the name of a budget (`createTooManyRequestsError`).
fn refused(cause: String, seconds: u32) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::too_many_requests(text, seconds);
    if let Some(details) = &mut status.details {
        let cause = Cause { reason: "DisruptionBudget".into(), message: cause, ..Cause::default() };
        details.causes.push(cause);
    }
    status
}

/// Nothing can be said of a budget yet: ask again later.
fn being_processed(budget: &str) -> Status {
    refused(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

/// Counts one eviction in a budget, or says why not.
fn take(budget: &mut Value, pod: &str, stamp: &str) -> Result<(), Status> {
    let name = meta(budget, "name").to_owned();
    let status = &budget["status"];
    let count = |field: &str| status[field].as_i64().unwrap_or(0);
    if count("observedGeneration") < budget["metadata"]["generation"].as_i64().unwrap_or(0) {
        return Err(being_processed(&name));
    }
    let forbidden = |why: &str| Err(Status::forbidden(GROUP, "poddisruptionbudget", &name, why));
    let allowed = count("disruptionsAllowed");
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    if status["disruptedPods"].as_object().is_some_and(|pods| pods.len() > MAX_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let failed = items(&status["conditions"]).iter().find(|c| c["type"] == ALLOWED && c["reason"] == "SyncFailed");
        let cause = match failed {
            Some(condition) => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                condition["message"].as_str().unwrap_or_default()
            ),
            None => {
                let (needs, has) = (count("desiredHealthy"), count("currentHealthy"));
                format!("The disruption budget {name} needs {needs} healthy pods and has {has} currently")
            }
        };
        return Err(refused(cause, 0));
    }
    budget["status"]["disruptionsAllowed"] = json!(allowed - 1);
    let condition = budget["status"]["conditions"].as_array_mut();
    if allowed == 1
        && let Some(condition) = condition.and_then(|all| all.iter_mut().find(|c| c["type"] == ALLOWED))
    {
        if condition["status"] != "False" {
            condition["lastTransitionTime"] = json!(stamp);
        }
        condition["status"] = json!("False");
        condition["reason"] = json!("InsufficientPods");
        condition["message"] = json!("");
    }
    budget["status"]["disruptedPods"][pod] = json!(stamp);
    Ok(())
}

fn is_over(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Says on the pod why it will end.
fn mark(pod: &mut Value, stamp: &str) {
    const TYPE: &str = "DisruptionTarget";
    let mut conditions = items(&pod["status"]["conditions"]).to_vec();
    let mut condition = json!({
        "type": TYPE, "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": stamp,
    });
    match conditions.iter_mut().find(|c| c["type"] == TYPE) {
        None => conditions.push(condition),
        Some(old) => {
            if old["status"] == "True" {
                condition["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = condition;
        }
    }
    pod["status"]["conditions"] = json!(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_lets_through_what_it_allows() {
        let check = |generation: i64, allowed: i64, expected: Result<i64, &str>| {
            let mut budget = json!({"metadata": {"name": "b", "generation": generation}, "status": {
                "observedGeneration": 1, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2}});
            let done = take(&mut budget, "p", "2026-11-21T00:00:00Z");
            let done = done.map(|()| budget["status"]["disruptionsAllowed"].as_i64().unwrap_or(-1));
            let cause = |s: Status| s.details.and_then(|d| d.causes.first().map(|c| c.message.clone()));
            match (done, expected) {
                (Ok(left), expected) => assert_eq!(Ok(left), expected),
                (Err(status), expected) => {
                    assert_eq!(status.code, 429);
                    assert_eq!(Err(cause(status).unwrap_or_default().as_str()), expected);
                }
            }
        };
        check(1, 1, Ok(0));
        check(1, 2, Ok(1));
        check(1, 0, Err("The disruption budget b needs 2 healthy pods and has 2 currently"));
        check(2, 1, Err("The disruption budget b is still being processed by the server."));
    }

    #[test]
    fn a_pod_says_why_it_goes_since_it_was_first_to_go() {
        let mark = |conditions: Value| {
            let mut pod = json!({"status": {"conditions": conditions}});
            super::mark(&mut pod, "2026-11-21T00:00:00Z");
            let marks = items(&pod["status"]["conditions"]).to_vec();
            let texts =
                |c: &Value| ["status", "reason", "lastTransitionTime"].map(|f| c[f].as_str().unwrap_or("").to_owned());
            marks.iter().filter(|c| c["type"] == "DisruptionTarget").map(texts).collect::<Vec<_>>()
        };
        let marked = |since: &str| vec![["True", "EvictionByEvictionAPI", since].map(str::to_owned)];
        let now = "2026-11-21T00:00:00Z";
        let before = |status: &str| {
            json!([{"type": "Ready", "status": "True"}, {"type": "DisruptionTarget", "status": status,
                "reason": "PreemptionByScheduler", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        assert_eq!(mark(Value::Null), marked(now));
        assert_eq!(mark(before("True")), marked("2026-01-01T00:00:00Z"));
        assert_eq!(mark(before("False")), marked(now));
    }
}
