//! A pod's priority comes from its class (`plugin/pkg/admission/priority`).

use std::sync::Arc;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request, meta};
use crate::lookup::{Lookup, get_fresh};

const GROUP: &str = "scheduling.k8s.io";

/// The plugin.
pub struct Priority {
    objects: Lookup,
}

impl Priority {
    /// Reads priority classes here.
    pub fn new(objects: Lookup) -> Self {
        Priority { objects }
    }

    /// The class for pods that name none: of those marked so the one with the lowest value.
    fn default_class(&self) -> Option<Arc<Value>> {
        let marked = self.objects.list(GROUP, "priorityclasses", None);
        marked.into_iter().filter(|c| c["globalDefault"] == true).min_by_key(|c| c["value"].as_i64().unwrap_or(0))
    }
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn admit(
        &self,
        request: &Request<'_>,
        object: &mut Value,
        _warnings: &mut Vec<String>,
    ) -> Result<(), Status> {
        if !request.is("", "pods", "") || !object["spec"].is_object() {
            return Ok(());
        }
        if request.operation == Operation::Update {
            // A client that does not know the fields must not take them away.
            for field in ["priority", "preemptionPolicy"] {
                let old = request.old.map_or(&Value::Null, |o| &o["spec"][field]);
                if object["spec"][field].is_null() && !old.is_null() {
                    object["spec"][field] = old.clone();
                }
            }
            return Ok(());
        }
        if request.operation != Operation::Create {
            return Ok(());
        }
        let name = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
        let class = if name.is_empty() {
            self.default_class()
        } else {
            let found = get_fresh(&*self.objects, GROUP, "priorityclasses", "", &name).await?;
            let missing = || request.forbidden(object, &format!("no PriorityClass with name {name} was found"));
            Some(found.ok_or_else(missing)?)
        };
        let (mut value, mut policy) = (0, "PreemptLowerPriority".to_owned());
        if let Some(class) = &class {
            value = class["value"].as_i64().unwrap_or(0);
            if let Some(p) = class["preemptionPolicy"].as_str() {
                policy = p.to_owned();
            }
            if name.is_empty() {
                object["spec"]["priorityClassName"] = json!(meta(class, "name"));
            }
        }
        let spec = &object["spec"];
        if let Some(given) = spec["priority"].as_i64()
            && given != value
        {
            let why = format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {value} from the given PriorityClass name"
            );
            return Err(request.forbidden(object, &why));
        }
        if let Some(given) = spec["preemptionPolicy"].as_str()
            && given != policy
        {
            let why = format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission \
                 controller computed {policy} from the given PriorityClass name"
            );
            return Err(request.forbidden(object, &why));
        }
        object["spec"]["priority"] = json!(value);
        object["spec"]["preemptionPolicy"] = json!(policy);
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if !writes || !request.is(GROUP, "priorityclasses", "") || object["globalDefault"] != true {
            return Ok(());
        }
        match self.default_class() {
            Some(other) if meta(&other, "name") != meta(object, "name") => {
                let other = meta(&other, "name");
                let why = format!("PriorityClass {other} is already marked as default. Only one default can exist");
                Err(request.forbidden(object, &why))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    fn class(name: &str, value: i64, default: bool) -> (&'static str, Value) {
        let class = json!({"metadata": {"name": name}, "value": value, "globalDefault": default,
            "preemptionPolicy": "Never"});
        ("priorityclasses", class)
    }

    #[tokio::test]
    async fn the_class_decides() {
        let check = async |classes: Vec<(&'static str, Value)>, spec: Value, expected: Result<Value, &str>| {
            let plugin = Priority::new(Fake::with(classes).lookup());
            let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
            let request = request(&*kind, Operation::Create, "", "", &user, None);
            let mut pod = json!({"metadata": {"name": "p"}, "spec": spec});
            match plugin.admit(&request, &mut pod, &mut Vec::new()).await {
                Ok(()) => assert_eq!(Ok(pod["spec"].clone()), expected),
                Err(status) => assert_eq!(Err(status.message.as_str()), expected),
            }
        };
        check(vec![], json!({}), Ok(json!({"priority": 0, "preemptionPolicy": "PreemptLowerPriority"}))).await;
        let high = json!({"priorityClassName": "high", "priority": 7, "preemptionPolicy": "Never"});
        check(vec![class("high", 7, false)], json!({"priorityClassName": "high"}), Ok(high.clone())).await;
        check(vec![class("high", 7, true)], json!({}), Ok(high)).await;
        let missing = "pods \"p\" is forbidden: no PriorityClass with name nope was found";
        check(vec![], json!({"priorityClassName": "nope"}), Err(missing)).await;
        let differs = "pods \"p\" is forbidden: the integer value of priority (5) must not be provided in pod spec; \
                       priority admission controller computed 0 from the given PriorityClass name";
        check(vec![], json!({"priority": 5}), Err(differs)).await;
    }
}
