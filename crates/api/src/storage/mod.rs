//! The API group `storage.k8s.io`.

use crate::kind::Kind;
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
