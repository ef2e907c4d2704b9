//! Follows the objects of `flowcontrol.apiserver.k8s.io`: makes and keeps the default ones, puts what stands into force,
//! and tells each FlowSchema whether its level is there (`registry/flowcontrol/ensurer`, `apf_controller.go`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use orkd_api::status::Status;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::control::Control;
use super::defaults::{self, AUTO_UPDATE, Upkeep};
use crate::cache::{Changed, Changes};
use crate::pipeline::ApiServer;
use crate::user::{MASTERS, UserInfo};
use crate::writer::Writer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
const SCHEMAS: &str = "flowschemas";
const LEVELS: &str = "prioritylevelconfigurations";

/// Keeps objects and configuration.
pub struct Keeper {
    server: ApiServer,
    control: Arc<Control>,
    writer: Writer,
}

impl Keeper {
    /// A keeper of a server's flow control.
    pub fn new(server: &ApiServer, control: Arc<Control>) -> Keeper {
        let writer = Writer::new(server.clone(), UserInfo::new("system:apiserver", &[MASTERS]));
        Keeper { server: server.clone(), control, writer }
    }

    fn list(&self, resource: &str) -> Vec<Value> {
        self.server.reader().list(GROUP, resource, None).iter().map(|e| e.decode()).collect()
    }

    /// Makes the default objects, and puts into force what stands. To be called before the server is ready.
    pub async fn prepare(&self) -> Result<(), Status> {
        self.upkeep().await?;
        self.apply();
        Ok(())
    }

    fn apply(&self) {
        self.control.configure(&self.list(SCHEMAS), &self.list(LEVELS));
    }

    /// Makes what is missing, and puts right what is to be kept as it was.
    async fn upkeep(&self) -> Result<(), Status> {
        let writer = self.writer.manager("api-priority-and-fairness-config-producer-v1");
        // Levels first: a schema without its level is none.
        for (resource, wanted) in [(LEVELS, defaults::levels()), (SCHEMAS, defaults::schemas())] {
            let mut stored: BTreeMap<String, Value> =
                self.list(resource).into_iter().map(|o| (name(&o).to_owned(), o)).collect();
            for object in &wanted {
                let name = name(object);
                let outcome = match defaults::upkeep(object, stored.remove(name).as_ref()) {
                    Upkeep::Nothing => Ok(()),
                    Upkeep::Create => writer.create(GROUP, resource, "", object.clone()).await.map(|_| ()),
                    Upkeep::Update => {
                        let change = |stored: &mut Value| {
                            stored["spec"] = object["spec"].clone();
                            stored["metadata"]["annotations"][AUTO_UPDATE] = "true".into();
                            Ok(())
                        };
                        writer.update_with(GROUP, resource, "", "", name, change).await.map(|_| ())
                    }
                };
                match outcome {
                    // Another server was faster.
                    Err(status) if matches!(&*status.reason, "AlreadyExists" | "Conflict" | "NotFound") => {}
                    other => other?,
                }
            }
            // What a former version kept and this one does not know.
            for (name, object) in stored {
                if object["metadata"]["annotations"][AUTO_UPDATE] == "true" {
                    let gone = writer.delete(GROUP, resource, "", &name, Default::default()).await;
                    gone.map(|_| ()).or_else(|s| if s.reason == "NotFound" { Ok(()) } else { Err(s) })?;
                }
            }
        }
        Ok(())
    }

    /// Tells schemas whether their level is there, where that has changed.
    async fn tell(&self) -> Result<(), Status> {
        let levels: Vec<String> = self.list(LEVELS).iter().map(|l| name(l).to_owned()).collect();
        let writer = self.writer.manager("api-priority-and-fairness-config-consumer-v1");
        for schema in self.list(SCHEMAS) {
            let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
            let wanted = condition(level, levels.iter().any(|l| l == level), Timestamp::now());
            if stands(&schema, &wanted) {
                continue;
            }
            let change = |object: &mut Value| {
                set_condition(object, &wanted);
                Ok(())
            };
            match writer.update_with(GROUP, SCHEMAS, "status", "", name(&schema), change).await {
                Err(status) if status.reason != "NotFound" => return Err(status),
                _ => {}
            }
        }
        Ok(())
    }

    /// Follows the objects until told to stop.
    pub async fn run(&self, stop: CancellationToken) {
        let reader = self.server.reader();
        let subscribed = (reader.subscribe(GROUP, SCHEMAS), reader.subscribe(GROUP, LEVELS));
        let (Some(mut schemas), Some(mut levels)) = subscribed else { return };
        loop {
            self.apply();
            let done = match self.upkeep().await {
                Ok(()) => self.tell().await,
                Err(status) => Err(status),
            };
            if let Err(status) = &done {
                tracing::warn!(error = status.message, "the objects of flow control could not be kept");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = next(&mut schemas) => {}
                () = next(&mut levels) => {}
                () = tokio::time::sleep(Duration::from_secs(10)), if done.is_err() => {}
            }
        }
    }
}

/// Waits for a change, and takes those that came with it.
async fn next(changes: &mut Changes) {
    let _: Changed = changes.next().await;
    while changes.ready().is_some() {}
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn condition(level: &str, there: bool, now: Timestamp) -> Value {
    let (status, reason, end) = match there {
        true => ("False", "Found", "and it exists"),
        false => ("True", "NotFound", "but there is no such object"),
    };
    json!({
        "type": "Dangling", "status": status, "reason": reason, "lastTransitionTime": crate::registry::stamp(now),
        "message": format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {end}"),
    })
}

/// Whether an object has a condition already, whenever it came.
fn stands(object: &Value, wanted: &Value) -> bool {
    crate::admission::items(&object["status"]["conditions"])
        .iter()
        .any(|c| ["type", "status", "reason", "message"].iter().all(|f| c[*f] == wanted[*f]))
}

fn set_condition(object: &mut Value, wanted: &Value) {
    let mut conditions = crate::admission::items(&object["status"]["conditions"]).to_vec();
    match conditions.iter_mut().find(|c| c["type"] == wanted["type"]) {
        Some(old) => {
            let same = old["status"] == wanted["status"];
            let since = old["lastTransitionTime"].clone();
            *old = wanted.clone();
            if same {
                old["lastTransitionTime"] = since;
            }
        }
        None => conditions.push(wanted.clone()),
    }
    object["status"]["conditions"] = Value::Array(conditions);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_change_their_time_with_their_status() {
        let at = |s: &str| s.parse::<Timestamp>().expect("time");
        let mut object = json!({"status": {}});
        let found = condition("system", true, at("2026-11-21T09:00:00Z"));
        assert!(!stands(&object, &found));
        set_condition(&mut object, &found);
        assert!(stands(&object, &condition("system", true, at("2027-01-01T00:00:00Z"))));
        assert!(!stands(&object, &condition("other", true, at("2027-01-01T00:00:00Z"))));
        set_condition(&mut object, &condition("other", true, at("2027-01-01T00:00:00Z")));
        assert_eq!(object["status"]["conditions"][0]["lastTransitionTime"], "2026-11-21T09:00:00Z");
        set_condition(&mut object, &condition("other", false, at("2027-01-01T00:00:00Z")));
        assert_eq!(
            object["status"]["conditions"],
            json!([{"type": "Dangling", "status": "True", "reason": "NotFound", "lastTransitionTime": "2027-01-01T00:00:00Z",
                "message": "This FlowSchema references the PriorityLevelConfiguration object named \"other\" but there is no \
                            such object"}])
        );
    }
}
