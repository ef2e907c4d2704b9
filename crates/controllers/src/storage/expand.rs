//! Says that a claim that shall grow waits for its driver (`pkg/controller/volume/expand`).
//!
//! Volumes of CSI drivers are grown by the driver's own resizer, those of orkd by [`super::local_path`]; for others it may
//! wait for ever.

use orkd_base::BoxError;
use orkd_reconcile::{Informer, Key, ObjectRef, Outcome, Queue, work};

use super::views::{Claim, Volume, storage};
use crate::{ControllerSpec, Cx};

/// How the list of controllers names it.
pub const SPEC: ControllerSpec = ControllerSpec {
    name: "volume-expand-controller",
    service_account: "expand-controller",
    run: |cx| Box::pin(start(cx)),
};

async fn start(cx: Cx) -> Result<(), BoxError> {
    let claims: Informer<Claim> = cx.informers.informer();
    let volumes: Informer<Volume> = cx.informers.informer();
    let queue: Queue<Key> = cx.queue(SPEC.name);
    {
        let queue = queue.clone();
        claims.subscribe(move |event| {
            if !event.is_deleted() && begins_to_grow(event.old().map(|c| &**c), event.object()) {
                queue.add(event.key());
            }
        });
    }
    claims.synced().await;
    volumes.synced().await;
    let (claims, volumes, recorder) = (&claims, &volumes, &cx.recorder);
    work(queue, 1, cx.stop, |key| async move {
        let Some(claim) = claims.get(&key).filter(|c| wants_to_grow(c)) else { return Ok(Outcome::Done) };
        let volume = volumes.get(&Key::new("", &claim.spec.volume_name));
        let Some(volume) = volume.filter(|v| v.is_for(&claim)) else { return Ok(Outcome::Done) };
        if volume.provisioned_by() != super::local_path::PROVISIONER {
            let text = "waiting for an external controller to expand this PVC";
            recorder.normal(&ObjectRef::of(&*claim), "ExternalExpanding", text);
        }
        Ok(Outcome::Done)
    })
    .await;
    Ok(())
}

/// Whether a claim asks for more than it did: what its driver does about it meanwhile is no news.
fn begins_to_grow(old: Option<&Claim>, claim: &Claim) -> bool {
    wants_to_grow(claim) && old.is_none_or(|old| !wants_to_grow(old) || old.size() < claim.size())
}

/// Whether a bound claim asks for more than it has.
pub(super) fn wants_to_grow(claim: &Claim) -> bool {
    claim.status.phase == "Bound" && claim.size() > storage(&claim.status.capacity)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_growing_claim_is_told_once() {
        let claim = |asked: &str, has: &str, phase: &str| -> Claim {
            serde_json::from_value(json!({"spec": {"resources": {"requests": {"storage": asked}}},
                "status": {"phase": phase, "capacity": {"storage": has}}}))
            .expect("a claim")
        };
        let check = |old: Option<Claim>, new: Claim, expected: bool| {
            assert_eq!(begins_to_grow(old.as_ref(), &new), expected, "{old:?} {new:?}");
        };
        let (small, grows) = (|| claim("1Gi", "1Gi", "Bound"), || claim("2Gi", "1Gi", "Bound"));
        check(None, grows(), true);
        check(Some(small()), grows(), true);
        check(Some(grows()), grows(), false);
        check(Some(grows()), claim("3Gi", "1Gi", "Bound"), true);
        check(Some(small()), small(), false);
        check(None, claim("2Gi", "1Gi", "Pending"), false);
    }
}
