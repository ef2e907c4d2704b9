//! Pods carry zone and region of the node they are bound to (`plugin/pkg/admission/podtopologylabels`).

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::Value;

use super::{Operation, Plugin, Request};
use crate::lookup::Lookup;

const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub struct PodTopologyLabels {
    objects: Lookup,
}

impl PodTopologyLabels {
    /// Reads nodes here.
    pub fn new(objects: Lookup) -> Self {
        PodTopologyLabels { objects }
    }
}

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    async fn admit(&self, request: &Request<'_>, object: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.resource.group.is_empty() {
            return Ok(());
        }
        let bound = request.is("", "pods", "binding");
        let node = if bound && object["target"]["kind"] == "Node" {
            &object["target"]["name"]
        } else if request.is("", "pods", "") {
            &object["spec"]["nodeName"]
        } else {
            return Ok(());
        };
        let Some(name) = node.as_str().filter(|n| !n.is_empty()).map(str::to_owned) else { return Ok(()) };
        for label in LABELS {
            if object["metadata"]["labels"].get(label).is_some() {
                continue;
            }
            // Bindings are many and nodes are large: only the labels are looked at.
            let mut found = self.objects.label("", "nodes", "", &name, label);
            if found.is_none() {
                self.objects.fresh().await?;
                found = self.objects.label("", "nodes", "", &name, label);
            }
            match found {
                None => return Ok(()),
                Some(None) => {}
                Some(Some(value)) => object["metadata"]["labels"][label] = value.into(),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;
    use crate::user::UserInfo;

    #[tokio::test]
    async fn labels_of_the_node_are_copied_and_own_ones_kept() {
        let node = json!({"metadata": {"name": "n", "labels": {LABELS[0]: "z", LABELS[1]: "r", "other": "x"}}});
        let plugin = PodTopologyLabels::new(Fake::with([("nodes", node)]).lookup());
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        let bind = request(&*kind, Operation::Create, "binding", "p", &user, None);
        let mut binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
        plugin.admit(&bind, &mut binding, &mut Vec::new()).await.expect("admitted");
        assert_eq!(binding["metadata"]["labels"], json!({LABELS[0]: "z", LABELS[1]: "r"}));
        let create = request(&*kind, Operation::Create, "", "p", &user, None);
        let mut pod = json!({"metadata": {"labels": {LABELS[0]: "own"}}, "spec": {"nodeName": "n"}});
        plugin.admit(&create, &mut pod, &mut Vec::new()).await.expect("admitted");
        assert_eq!(pod["metadata"]["labels"], json!({LABELS[0]: "own", LABELS[1]: "r"}));
        let mut free = json!({"metadata": {}, "spec": {}});
        plugin.admit(&create, &mut free, &mut Vec::new()).await.expect("admitted");
        assert_eq!(free, json!({"metadata": {}, "spec": {}}));
    }
}
