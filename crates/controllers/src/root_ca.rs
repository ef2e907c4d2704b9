//! The authority's certificate in every namespace, for pods to trust the API server by.
//!
//! Follows `pkg/controller/certificates/rootcacertpublisher`.

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Options, Outcome, Queue, Resource, work};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::views::{ConfigMap, Namespace};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "root-ca-certificate-publisher-controller",
    service_account: "root-ca-cert-publisher",
    run: |cx| Box::pin(start(cx)),
};

/// Name of the config map.
const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const DESCRIPTION_TEXT: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal \
                                endpoints such as the internal service IP or kubernetes.default.svc. No other usage \
                                is guaranteed across distributions of Kubernetes clusters.";

async fn start(cx: Cx) -> Result<(), BoxError> {
    if cx.config.root_ca_pem.is_empty() {
        return Ok(());
    }
    let namespaces: Informer<Namespace> = cx.informers.informer();
    let maps: Informer<ConfigMap> = cx.informers.informer_with(Options::fields(format!("metadata.name={NAME}")));
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        namespaces.subscribe(move |event| {
            if !event.is_deleted() {
                queue.add(event.key());
            }
        });
    }
    {
        let queue = queue.clone();
        maps.subscribe(move |event| {
            let meta = &event.object().metadata;
            if &*meta.name == NAME {
                queue.add(Key::new("", &meta.namespace));
            }
        });
    }
    namespaces.synced().await;
    maps.synced().await;
    let (api, namespaces, maps, ca) = (&cx.api, &namespaces, &maps, cx.config.root_ca_pem.as_str());
    work(queue, 1, cx.stop.clone(), |key| async move {
        let alive =
            namespaces.get(&key).is_some_and(|ns| !ns.metadata.is_deleting() && ns.status.phase != "Terminating");
        if !alive {
            return Ok(Outcome::Done);
        }
        let current = maps.get_named(&key.name, NAME);
        let Some(body) = wanted(&key.name, current.as_deref(), ca) else { return Ok(Outcome::Done) };
        let resource = Resource::of::<ConfigMap>();
        let written = match current {
            None => api.create::<IgnoredAny>(&resource.collection(&key.name), &body).await,
            Some(_) => api.update::<IgnoredAny>(&resource.at(&key.name, NAME), &body).await,
        };
        match written {
            Err(err) if err.is_already_exists() || err.has_cause("NamespaceTerminating") => {}
            other => other.map(|_| ())?,
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// The config map as it should be; `None` when it is. A view is written back here because the role may neither
/// `get` nor `patch`; it holds all that a config map of this name may have.
fn wanted(namespace: &str, current: Option<&ConfigMap>, ca: &str) -> Option<Value> {
    let mut metadata = json!({"name": NAME, "namespace": namespace, "annotations": {DESCRIPTION: DESCRIPTION_TEXT}});
    if let Some(current) = current {
        let right = current.data.len() == 1 && current.data.get("ca.crt").is_some_and(|v| v == ca);
        if right && current.metadata.annotation(DESCRIPTION) == Some(DESCRIPTION_TEXT) {
            return None;
        }
        metadata["labels"] = json!(current.metadata.labels);
        for (key, value) in &current.metadata.annotations {
            if key != DESCRIPTION {
                metadata["annotations"][key] = value.as_str().into();
            }
        }
        metadata["uid"] = current.metadata.uid.as_str().into();
        metadata["resourceVersion"] = current.metadata.resource_version.as_str().into();
    }
    Some(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"ca.crt": ca}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_map_is_put_right() {
        let made = wanted("n", None, "CA").expect("missing");
        assert_eq!(made["data"], json!({"ca.crt": "CA"}));
        let current: ConfigMap = serde_json::from_value(made).expect("a config map");
        assert_eq!(wanted("n", Some(&current), "CA"), None);
        let repaired = wanted("n", Some(&current), "NEW").expect("another authority");
        assert_eq!(repaired["data"], json!({"ca.crt": "NEW"}));
    }
}
