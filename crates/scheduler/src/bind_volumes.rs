//! Writes what was decided about a pod's volumes, and waits until they are bound. Upstream: `BindPodVolumes` in
//! `plugins/volumebinding/binder.go`.

use std::collections::BTreeMap;
use std::time::Duration;

use orkd_reconcile::{Api, Informer, Patch, Resource};
use serde_json::json;
use tokio::sync::watch;

use crate::model::{Claim, PersistentVolume};
use crate::pod::PodInfo;
use crate::selector::NodeTerms;
use crate::storage::{Decision, SELECTED_NODE, is_bound, is_reachable};

/// What is needed to bind volumes.
#[derive(Clone)]
pub struct Binder {
    /// The API.
    pub api: Api,
    /// Claims.
    pub claims: Informer<Claim>,
    /// Volumes.
    pub volumes: Informer<PersistentVolume>,
    /// Pods.
    pub pods: Informer<PodInfo>,
    /// Changes whenever one of those does.
    pub changed: watch::Receiver<u64>,
}

impl Binder {
    /// Writes, and waits.
    ///
    /// # Errors
    /// What keeps the volumes from being bound: the pod is to be scheduled anew.
    pub async fn bind(
        &self,
        pod: &PodInfo,
        node: &str,
        labels: &BTreeMap<String, String>,
        decision: Decision,
        timeout: Duration,
    ) -> Result<(), String> {
        let mut versions = Vec::new();
        for binding in &decision.bindings {
            let (volume, claim) = (&binding.volume, &binding.claim.metadata);
            let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace,
                "name": claim.name, "uid": claim.uid, "resourceVersion": claim.resource_version});
            let mut metadata = json!({"resourceVersion": volume.metadata.resource_version});
            if volume.spec.claim_ref.is_none() {
                metadata["annotations"] = json!({"pv.kubernetes.io/bound-by-controller": "yes"});
            }
            let target = Resource::of::<PersistentVolume>().at("", &volume.metadata.name);
            let patch = Patch::Merge(json!({"metadata": metadata, "spec": {"claimRef": reference}}));
            let written: PersistentVolume = self.api.patch(&target, &patch).await.map_err(|e| e.to_string())?;
            versions.push(written.metadata.rv());
        }
        for claim in &decision.provisions {
            let meta = &claim.metadata;
            let target = Resource::of::<Claim>().at(&meta.namespace, &meta.name);
            let patch = Patch::Merge(json!({"metadata": {
                "resourceVersion": meta.resource_version, "annotations": {SELECTED_NODE: node}}}));
            let written: Claim = self.api.patch(&target, &patch).await.map_err(|e| e.to_string())?;
            versions.push(written.metadata.rv());
        }
        let mut changed = self.changed.clone();
        let bound = async {
            loop {
                changed.mark_unchanged();
                if self.are_bound(pod, node, labels, &decision, &versions)? {
                    return Ok(());
                }
                if changed.changed().await.is_err() {
                    return Err("the scheduler is stopping".to_owned());
                }
            }
        };
        match tokio::time::timeout(timeout, bound).await {
            Ok(result) => result.map_err(|why| format!("binding volumes: {why}")),
            Err(_) => Err("binding volumes: context deadline exceeded".into()),
        }
    }

    /// Whether everything is bound by now (`checkBindings`).
    fn are_bound(
        &self,
        pod: &PodInfo,
        node: &str,
        labels: &BTreeMap<String, String>,
        decision: &Decision,
        versions: &[u64],
    ) -> Result<bool, String> {
        if self.pods.get(&pod.key()).is_none_or(|p| p.uid() != pod.uid()) {
            return Err(format!("pod does not exist any more: pod {:?} not found", &*pod.meta.name));
        }
        let claim = |of: &Claim| {
            let key = of.metadata.key();
            self.claims
                .get(&key)
                .ok_or_else(|| format!("could not find v1.PersistentVolumeClaim {:?}", key.to_string()))
        };
        let reaches = |volume: &PersistentVolume| {
            let required = volume.spec.node_affinity.required.as_ref().map(NodeTerms::new);
            match is_reachable(required.as_ref(), labels) {
                true => Ok(()),
                false => Err(format!(
                    "pv {:?} node affinity doesn't match node {node:?}: no matching NodeSelectorTerms",
                    &*volume.metadata.name
                )),
            }
        };
        let (of_volumes, of_claims) = versions.split_at(decision.bindings.len().min(versions.len()));
        for (binding, version) in decision.bindings.iter().zip(of_volumes) {
            let name = &binding.volume.metadata.name;
            let Some(volume) = self.volumes.get_named("", name) else {
                return Err(format!("failed to check binding: could not find v1.PersistentVolume {:?}", &**name));
            };
            let claim = claim(&binding.claim).map_err(|e| format!("failed to check binding: {e}"))?;
            if volume.metadata.rv() < *version {
                return Ok(false);
            }
            reaches(&volume)?;
            if volume.spec.claim_ref.as_ref().is_none_or(|r| r.uid.is_empty()) {
                return Err(format!("ClaimRef got reset for pv {:?}", &**name));
            }
            if !is_bound(&claim) {
                return Ok(false);
            }
        }
        for (wanted, version) in decision.provisions.iter().zip(of_claims) {
            let claim = claim(wanted).map_err(|e| format!("failed to check provisioning pvc: {e}"))?;
            if claim.metadata.rv() < *version {
                return Ok(false);
            }
            match claim.metadata.annotation(SELECTED_NODE) {
                Some(selected) if selected == node => {}
                _ => return Err(format!("provisioning failed for PVC {:?}", &*claim.metadata.name)),
            }
            if !claim.spec.volume_name.is_empty() {
                let Some(volume) = self.volumes.get_named("", &claim.spec.volume_name) else { return Ok(false) };
                reaches(&volume)?;
            }
            if !is_bound(&claim) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
