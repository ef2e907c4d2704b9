//! Which volume suits a claim (`FindMatchingVolume`, `checkVolumeSatisfyClaim`).

use std::sync::Arc;

use super::views::{Claim, Volume};

/// The volume that suits best: one that is meant for the claim, else of those that can do what is asked for the one
/// with the fewest other uses, and of these the smallest. A claim that waits for its first pod gets only what is meant
/// for it.
pub fn best<'a>(claim: &Claim, candidates: &'a [Arc<Volume>], waits: bool) -> Option<&'a Arc<Volume>> {
    let usable = |v: &&Arc<Volume>| {
        has_modes(v, claim)
            && v.mode() == claim.mode()
            && v.spec.volume_attributes_class_name.as_deref().unwrap_or("") == claim.attributes_class()
            && v.size() >= claim.size()
            && !v.metadata.is_deleting()
    };
    let mut usable: Vec<&Arc<Volume>> = candidates.iter().filter(usable).collect();
    if let Some(meant) = usable.iter().find(|v| v.is_for(claim)) {
        return Some(meant);
    }
    if waits {
        return None;
    }
    usable.retain(|v| {
        v.spec.claim_ref.is_none()
            && v.status.phase == "Available"
            && v.class() == claim.class()
            && claim.spec.selector.as_ref().is_none_or(|s| s.matches(&v.metadata.labels))
    });
    usable.into_iter().min_by(|a, b| {
        let uses = a.spec.access_modes.len().cmp(&b.spec.access_modes.len());
        uses.then_with(|| a.size().cmp(&b.size())).then_with(|| a.metadata.name.cmp(&b.metadata.name))
    })
}

fn has_modes(volume: &Volume, claim: &Claim) -> bool {
    claim.spec.access_modes.iter().all(|mode| volume.spec.access_modes.contains(mode))
}

/// Why a volume that a claim names does not suit it.
pub fn objection(volume: &Volume, claim: &Claim) -> Option<String> {
    if volume.metadata.is_deleting() {
        return Some(format!("the volume is marked for deletion {:?}", &*volume.metadata.name));
    }
    let wrong = if volume.size() < claim.size() {
        "requested PV is too small"
    } else if volume.class() != claim.class() {
        "storageClassName does not match"
    } else if volume.spec.volume_attributes_class_name.as_deref().unwrap_or("") != claim.attributes_class() {
        "volumeAttributesClassName does not match"
    } else if volume.mode() != claim.mode() {
        "incompatible volumeMode"
    } else if !has_modes(volume, claim) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(wrong.to_owned())
}
