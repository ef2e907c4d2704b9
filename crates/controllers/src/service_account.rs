//! Service accounts: every namespace has one named `default`.
//!
//! Follows `pkg/controller/serviceaccount/serviceaccounts_controller.go`.

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, Outcome, Queue, Resource, work};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::views::{Namespace, ServiceAccount};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "serviceaccount-controller",
    service_account: "service-account-controller",
    run: |cx| Box::pin(start(cx)),
};

/// Accounts that every namespace has.
const EVERYWHERE: [&str; 1] = ["default"];

async fn start(cx: Cx) -> Result<(), BoxError> {
    let namespaces: Informer<Namespace> = cx.informers.informer();
    let accounts: Informer<ServiceAccount> = cx.informers.informer();
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
        accounts.subscribe(move |event| {
            let meta = &event.object().metadata;
            if event.is_deleted() && EVERYWHERE.contains(&&*meta.name) {
                queue.add(Key::new("", &meta.namespace));
            }
        });
    }
    namespaces.synced().await;
    accounts.synced().await;
    let (api, namespaces, accounts) = (&cx.api, &namespaces, &accounts);
    work(queue, 1, cx.stop, |key| async move {
        let Some(namespace) = namespaces.get(&key) else { return Ok(Outcome::Done) };
        for name in missing(&namespace, |name| accounts.get_named(&key.name, name).is_some()) {
            let body = json!({
                "apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"name": name, "namespace": &*key.name},
            });
            let collection = Resource::of::<ServiceAccount>().collection(&key.name);
            match api.create::<IgnoredAny>(&collection, &body).await {
                Err(err) if err.is_already_exists() || err.has_cause("NamespaceTerminating") => {}
                other => other.map(|_| ())?,
            }
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Which accounts a namespace lacks. One that ends gets none.
fn missing(namespace: &Namespace, has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    if namespace.metadata.is_deleting() || namespace.status.phase == "Terminating" {
        return Vec::new();
    }
    EVERYWHERE.into_iter().filter(|name| !has(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn living_namespaces_have_a_default_account() {
        let namespace = |phase: &str| Namespace {
            status: crate::views::NamespaceStatus { phase: phase.into(), ..Default::default() },
            ..Namespace::default()
        };
        assert_eq!(missing(&namespace("Active"), |_| false), ["default"]);
        assert!(missing(&namespace("Active"), |_| true).is_empty());
        assert!(missing(&namespace("Terminating"), |_| false).is_empty());
    }
}
