//! The pods of a namespace run on the nodes that its annotation selects (`plugin/pkg/admission/podnodeselector`).

use std::collections::BTreeMap;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::lookup::{Lookup, get_fresh};

const ANNOTATION: &str = "scheduler.alpha.kubernetes.io/node-selector";
const CLUSTER_DEFAULT: &str = "clusterDefaultNodeSelector";

type Labels = BTreeMap<String, String>;

/// The plugin.
pub struct PodNodeSelector {
    objects: Lookup,
    /// The cluster's selector and what namespaces may select, by namespace.
    configured: BTreeMap<String, String>,
}

impl PodNodeSelector {
    /// Reads namespaces here; `config` is the plugin's configuration.
    pub fn new(objects: Lookup, config: &Value) -> Self {
        let map = config["podNodeSelectorPluginConfig"].as_object().into_iter().flatten();
        let configured = map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect();
        PodNodeSelector { objects, configured }
    }

    fn configured(&self, key: &str) -> Result<Labels, Status> {
        parse(self.configured.get(key).map(String::as_str).unwrap_or_default())
    }

    async fn of_namespace(&self, name: &str) -> Result<Labels, Status> {
        let found = get_fresh(&*self.objects, "", "namespaces", "", name).await?;
        let Some(namespace) = found else { return Err(Status::not_found("", "namespaces", name)) };
        match namespace["metadata"]["annotations"].get(ANNOTATION).and_then(Value::as_str) {
            Some(selector) => parse(selector),
            None => self.configured(CLUSTER_DEFAULT),
        }
    }
}

/// `a=b,c=d` (`labels.ConvertSelectorToLabelsMap`).
fn parse(selector: &str) -> Result<Labels, Status> {
    let terms = selector.split(',').map(str::trim).filter(|t| !t.is_empty());
    let pair = |term: &str| match term.split_once('=') {
        Some((key, value)) => Ok((key.trim().to_owned(), value.trim().to_owned())),
        None => Err(Status::new(500, "", format!("invalid selector: {term}"))),
    };
    terms.map(pair).collect()
}

fn selector(pod: &Value) -> Labels {
    let map = pod["spec"]["nodeSelector"].as_object().into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

fn conflict(a: &Labels, b: &Labels) -> bool {
    a.iter().any(|(k, v)| b.get(k).is_some_and(|other| other != v))
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is("", "pods", "") {
            return Ok(());
        }
        let mut merged = self.of_namespace(request.namespace).await?;
        let own = selector(object);
        if conflict(&merged, &own) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbidden(object, why));
        }
        merged.extend(own);
        if !merged.is_empty() {
            object["spec"]["nodeSelector"] = json!(merged);
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.is("", "pods", "") {
            return Ok(());
        }
        let own = selector(object);
        if conflict(&self.of_namespace(request.namespace).await?, &own) {
            let why = "pod node label selector conflicts with its namespace node label selector";
            return Err(request.forbidden(object, why));
        }
        let allowed = self.configured(request.namespace)?;
        if !allowed.is_empty() && own.iter().any(|(k, v)| allowed.get(k) != Some(v)) {
            let why = "pod node label selector labels conflict with its namespace whitelist";
            return Err(request.forbidden(object, why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn selectors_are_merged_and_bounded() {
        let check = async |annotation: Option<&str>, config: Value, own: Value, expected: Result<Value, &str>| {
            let mut namespace = json!({"metadata": {"name": "default"}});
            if let Some(annotation) = annotation {
                namespace["metadata"]["annotations"][ANNOTATION] = json!(annotation);
            }
            let config = json!({"podNodeSelectorPluginConfig": config});
            let plugin = PodNodeSelector::new(Fake::with([("namespaces", namespace)]).lookup(), &config);
            let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
            let request = request(&*kind, Operation::Create, "", "p", &user, None);
            let mut pod = json!({"metadata": {"name": "p"}, "spec": {"nodeSelector": own}});
            let mut done = plugin.admit(&request, &mut pod, &mut Vec::new()).await;
            if done.is_ok() {
                done = plugin.validate(&request, &pod, &mut Vec::new()).await;
            }
            match (done, expected) {
                (Ok(()), Ok(selector)) => assert_eq!(pod["spec"]["nodeSelector"], selector),
                (Err(status), Err(text)) => assert!(status.message.ends_with(text), "{}", status.message),
                (done, expected) => panic!("{done:?}, expected {expected:?}"),
            }
        };
        check(Some("env=test"), json!({}), json!({"a": "b"}), Ok(json!({"a": "b", "env": "test"}))).await;
        check(None, json!({CLUSTER_DEFAULT: "env=all"}), json!({}), Ok(json!({"env": "all"}))).await;
        let conflicts = "conflicts with its namespace node label selector";
        check(Some("env=test"), json!({}), json!({"env": "prod"}), Err(conflicts)).await;
        check(
            None,
            json!({"default": "env=test"}),
            json!({"env": "prod"}),
            Err("conflict with its namespace whitelist"),
        )
        .await;
    }
}
