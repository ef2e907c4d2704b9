//! The API group `storage.k8s.io`.

use crate::kind::Kind;
pub mod csi_driver;
pub mod csi_node;
pub mod storage_class;
pub mod volume_attachment;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(storage_class::StorageClass),
        Box::new(csi_driver::CSIDriver),
        Box::new(csi_node::CSINode),
        Box::new(volume_attachment::VolumeAttachment),
    ]
}
