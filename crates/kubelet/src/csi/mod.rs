//! Drivers of the container storage interface on this node: who they are, and mounting their volumes.
//!
//! Follows `pkg/kubelet/pluginmanager` (registration), `pkg/volume/csi` (mounting) and `nodeinfomanager` (what the
//! cluster is told). A driver registers by a socket in `ROOT/plugins_registry`; a volume is staged once for the node and
//! published for each pod; beside each mount a `vol_data.json` says whose it is, so that a kubelet that starts anew can
//! take it down.
//!
//! Drivers of devices register at the same place and are handed to [`crate::dra`].
//!
//! Not here: devices (`volumeMode: Block`), growing on the node, conditions of volumes.

mod client;
mod mount;
pub mod proto;
mod registry;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;

pub use client::Plugin;
pub use mount::{Context, in_use};
pub use registry::{Known, run};

/// A driver that has registered.
#[derive(Clone)]
pub struct Driver {
    /// Calls it.
    pub plugin: Plugin,
    /// The socket it registered by.
    socket: PathBuf,
    /// Whether volumes are staged.
    pub stages: bool,
    /// Whether it gives files to a group.
    pub groups: bool,
    /// Whether it says how full volumes are.
    pub measures: bool,
    /// Whether it knows access modes of one node.
    pub precise: bool,
}

/// The drivers of this node, by name. Cheap to clone.
#[derive(Clone, Default)]
pub struct Drivers(Arc<RwLock<HashMap<String, Driver>>>);

impl Drivers {
    /// A driver.
    ///
    /// # Errors
    /// It has not registered (yet); the text is upstream's.
    pub fn get(&self, name: &str) -> Result<Driver, String> {
        let found = self.0.read().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }
}

#[cfg(test)]
pub(crate) mod tests;
