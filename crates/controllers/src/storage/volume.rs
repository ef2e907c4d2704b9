//! What is to be done for a volume (`syncVolume`, `reclaimVolume`).

use std::sync::Arc;

use orkd_reconcile::{EventType, Key};

use super::BOUND_BY_CONTROLLER;
use super::claim::Told;
use super::views::{Claim, Volume};

/// What is known of one volume.
pub struct Observed {
    /// The volume.
    pub volume: Arc<Volume>,
    /// The claim it is for, if that is there.
    pub claim: Option<Arc<Claim>>,
}

/// What is to be done for one volume.
#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// The phase it shall have, and why.
    pub phase: Option<(&'static str, String)>,
    /// Its claim is forgotten: wholly if we had chosen it, else only the uid.
    pub unbind: bool,
    /// The claim that is to be looked at.
    pub wake: Option<Key>,
    /// What is told about the volume.
    pub event: Option<Told>,
    /// What is told about the claim.
    pub claim_event: Option<Told>,
}

/// What is to be done for a volume.
pub fn plan(observed: &Observed) -> Plan {
    let volume = &*observed.volume;
    let mut plan = Plan::default();
    let Some(of) = &volume.spec.claim_ref else {
        plan.phase = Some(("Available", String::new()));
        return plan;
    };
    if of.uid.is_empty() {
        plan.phase = Some(("Available", String::new()));
        plan.wake = Some(of.key());
        return plan;
    }
    // One of the same name that was made later is not the one.
    let claim = observed.claim.as_deref().filter(|c| c.metadata.uid == of.uid);
    let Some(claim) = claim else {
        release(&mut plan, volume);
        return plan;
    };
    if claim.spec.volume_name.is_empty() {
        if claim.mode() != volume.mode() {
            let name = &*volume.metadata.name;
            let about_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                &*claim.metadata.name
            );
            let about_claim = format!(
                "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
            );
            plan.event = Some((EventType::Warning, "VolumeMismatch", about_volume));
            plan.claim_event = Some((EventType::Warning, "VolumeMismatch", about_claim));
            return plan;
        }
        plan.wake = Some(of.key());
    } else if claim.spec.volume_name == *volume.metadata.name {
        plan.phase = Some(("Bound", String::new()));
        // A claim that is not said to be bound yet is brought on by its own round.
        plan.wake = (claim.status.phase != "Bound").then(|| of.key());
    } else if !volume.provisioned_by().is_empty() && volume.spec.persistent_volume_reclaim_policy == "Delete" {
        // It was made for this claim, which has another now.
        release(&mut plan, volume);
    } else {
        plan.unbind = true;
        plan.phase = Some(("Available", String::new()));
    }
    plan
}

/// The claim is gone.
fn release(plan: &mut Plan, volume: &Volume) {
    let failed = volume.status.phase == "Failed";
    if !failed {
        plan.phase = Some(("Released", String::new()));
    }
    let mut fail = |reason: &'static str, text: String| {
        if !failed {
            plan.phase = Some(("Failed", text.clone()));
            plan.event = Some((EventType::Warning, reason, text));
        }
    };
    match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Retain" => {}
        "Recycle" => fail("VolumeFailedRecycle", "No recycler plugin found for the volume!".into()),
        "Delete" => {
            let by = volume.provisioned_by();
            // Who made it takes it away.
            if by.is_empty() || by.starts_with("kubernetes.io/") {
                fail("VolumeFailedDelete", undeletable(volume));
            }
        }
        _ => fail("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".into()),
    }
}

/// Why a volume that nobody of the cluster made is not deleted. Folders of hosts are not ours to remove, not even those
/// below `/tmp`, which upstream removes where its controllers run.
fn undeletable(volume: &Volume) -> String {
    match volume.spec.host_path.as_ref().filter(|host| !host.path.starts_with("/tmp/")) {
        Some(host) => format!("host_path deleter only supports /tmp/.+ but received provided {}", host.path),
        None => {
            let name = &*volume.metadata.name;
            format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched")
        }
    }
}

/// Whether we chose the claim of a volume.
pub fn is_our_choice(volume: &Volume) -> bool {
    volume.metadata.annotation(BOUND_BY_CONTROLLER).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::PROVISIONED_BY;
    use serde_json::{Value, json};

    fn check(change: impl FnOnce(&mut Value), claim: Option<&str>, expected: &str) {
        let mut json = json!({"metadata": {"name": "v", "annotations": {}},
            "spec": {"persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": "n", "name": "c", "uid": "u"}},
            "status": {"phase": "Bound"}});
        change(&mut json);
        let claim = claim.map(|of| {
            let (uid, volume) = of.split_once(':').unwrap_or((of, ""));
            Arc::new(
                serde_json::from_value(json!({"metadata": {"namespace": "n", "name": "c", "uid": uid},
                    "spec": {"volumeName": volume}, "status": {"phase": "Bound"}}))
                .expect("a claim"),
            )
        });
        let plan = plan(&Observed { volume: Arc::new(serde_json::from_value(json).expect("a volume")), claim });
        let mut text: Vec<String> = plan.phase.iter().map(|p| p.0.to_owned()).collect();
        text.extend(plan.wake.iter().map(|k| format!("wake {k}")));
        text.extend(plan.unbind.then(|| "unbind".to_owned()));
        text.extend(plan.event.iter().map(|e| e.1.to_owned()));
        assert_eq!(text.join(" "), expected);
    }

    #[test]
    fn a_volume_follows_its_claim() {
        check(|v| v["spec"]["claimRef"] = Value::Null, None, "Available");
        check(|v| v["spec"]["claimRef"]["uid"] = "".into(), None, "Available wake n/c");
        check(|_| (), Some("u:v"), "Bound");
        check(|_| (), Some("u"), "wake n/c");
        check(|_| (), Some("u:other"), "Available unbind");
        check(|v| v["spec"]["volumeMode"] = "Block".into(), Some("u"), "VolumeMismatch");
    }

    #[test]
    fn a_volume_without_claim_is_reclaimed() {
        check(|_| (), None, "Released");
        check(|_| (), Some("later:v"), "Released");
        check(|v| v["spec"]["persistentVolumeReclaimPolicy"] = "Recycle".into(), None, "Failed VolumeFailedRecycle");
        check(|v| v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into(), None, "Failed VolumeFailedDelete");
        let made = |v: &mut Value| {
            v["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
            v["metadata"]["annotations"][PROVISIONED_BY] = "example.com/x".into();
        };
        check(made, None, "Released");
        check(made, Some("u:other"), "Released");
        check(|v| v["status"]["phase"] = "Failed".into(), None, "");
        let why = |source: Value| {
            let mut spec = source;
            spec["claimRef"] = json!({"namespace": "n", "name": "c", "uid": "u"});
            spec["persistentVolumeReclaimPolicy"] = "Delete".into();
            let volume = serde_json::from_value(json!({"metadata": {"name": "v"}, "spec": spec})).expect("a volume");
            plan(&Observed { volume: Arc::new(volume), claim: None }).phase.map(|p| p.1).unwrap_or_default()
        };
        let text = "host_path deleter only supports /tmp/.+ but received provided /data";
        assert_eq!(why(json!({"hostPath": {"path": "/data"}})), text);
        let text = "error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched";
        assert_eq!(why(json!({"local": {"path": "/data"}})), text);
    }
}
