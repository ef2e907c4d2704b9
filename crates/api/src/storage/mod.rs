//! The API group `storage.k8s.io`.

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::object::View;

pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod storage_class;
pub mod volume_attachment;
pub mod volume_attributes_class;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(storage_class::StorageClass),
        Box::new(csi_driver::CSIDriver),
        Box::new(csi_node::CSINode),
        Box::new(volume_attachment::VolumeAttachment),
        Box::new(csi_storage_capacity::CSIStorageCapacity),
        Box::new(volume_attributes_class::VolumeAttributesClass),
    ]
}

/// Who makes volumes. Upstream: `validateProvisioner`.
fn provisioner(errs: &mut ErrorList, v: &View<'_>) {
    let name = v.str().to_lowercase();
    if name.is_empty() {
        errs.required(v.path(), "");
    } else {
        for problem in crate::names::qualified_name(&name) {
            errs.invalid(v.path(), name.as_str(), problem);
        }
    }
}

/// What is said to who makes them. Upstream: `validateParameters`.
fn parameters(errs: &mut ErrorList, v: &View<'_>, allow_empty: bool) {
    const MAX_COUNT: usize = 512;
    const MAX_SIZE: usize = 256 * 1024;
    if v.len() > MAX_COUNT {
        errs.too_long(v.path(), MAX_COUNT);
        return;
    }
    let mut size = 0;
    for (key, value) in v.entries() {
        if key.is_empty() {
            errs.invalid(v.path(), key, "field can not be empty.");
        }
        size += key.len() + value.len();
    }
    if size > MAX_SIZE {
        errs.too_long(v.path(), MAX_SIZE);
    }
    if !allow_empty && v.is_empty() {
        errs.required(v.path(), "must contain at least one key/value pair");
    }
}
