//! Slices of drivers that are not here go: a pod that was sent to their devices would wait for ever.
//!
//! Follows `wipeResourceSlices` of upstream's `pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go`: when a kubelet starts, no
//! driver has registered yet, and all slices of its node go; drivers publish them again. Those of a driver that leaves go
//! after a while, so that it can be replaced.

use std::time::Duration;

use orkd_reconcile::{Api, DeleteOptions, ListOptions, Resource};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Drivers;

const SLICES: Resource = Resource::new("resource.k8s.io", "v1", "resourceslices", "ResourceSlice", false);

/// How long a driver may be away.
pub(super) const AWAY: Duration = Duration::from_secs(30);
/// How long until a removal that failed is tried again.
const AGAIN: Duration = Duration::from_secs(5);

/// Stands for all drivers.
pub(super) const ALL: &str = "";

/// Removes slices of a node whose drivers are not here, until stopped.
pub async fn run(api: Api, node: String, drivers: Drivers, stop: CancellationToken) {
    loop {
        let changed = drivers.changed();
        let next = drivers.next_due();
        let due = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => continue,
            () = due => {}
        }
        for (driver, due) in drivers.overdue(Instant::now()) {
            match remove(&api, &node, &driver).await {
                Ok(()) => drivers.settle(&driver, due, None),
                Err(error) => {
                    tracing::warn!(driver, error = %orkd_base::chain(&error), "slices of a driver that is gone not removed");
                    drivers.settle(&driver, due, Some(Instant::now() + AGAIN));
                }
            }
        }
    }
}

async fn remove(api: &Api, node: &str, driver: &str) -> Result<(), orkd_reconcile::ApiError> {
    let mut fields = format!("spec.nodeName={node}");
    if driver != ALL {
        fields.push_str(&format!(",spec.driver={driver}"));
    }
    let list = ListOptions { fields, ..ListOptions::default() };
    match api.delete_collection(&SLICES.collection(""), &list, &DeleteOptions::default()).await {
        // Nothing of the kind is served.
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
