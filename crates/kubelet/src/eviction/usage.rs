//! What a pod uses of what can be short, from what was measured (pure).

use std::collections::HashMap;

use crate::stats::disk::Held;
use crate::stats::{Disks, Pod, Snapshot};

use super::thresholds::Signal;

/// What a pod uses.
#[derive(Debug, Clone, Default)]
pub struct PodUsage {
    /// Bytes of memory.
    pub memory: u64,
    /// Processes.
    pub processes: u64,
    /// Of each container.
    pub containers: Vec<ContainerUsage>,
    /// Of each volume that the kubelet fills itself.
    pub volumes: Vec<VolumeUsage>,
}

/// What a container uses.
#[derive(Debug, Clone, Default)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Bytes of memory, where they are counted.
    pub memory: Option<u64>,
    /// Its writable layer.
    pub rootfs: Option<Held>,
    /// Its logs.
    pub logs: Option<Held>,
}

/// What a volume holds.
#[derive(Debug, Clone, Default)]
pub struct VolumeUsage {
    /// Its name in the pod.
    pub name: String,
    /// How much.
    pub held: Held,
    /// Whether it takes room on the node's disk.
    pub on_disk: bool,
}

/// By uid.
pub type Usages = HashMap<String, PodUsage>;

impl PodUsage {
    fn new(pod: &Pod, disks: Option<&Disks>) -> PodUsage {
        let memory = |m: &Option<crate::stats::Measured>| Some(m.as_ref()?.usage.memory?.working_set);
        let containers = pod.containers.iter().map(|c| {
            let own = disks.and_then(|d| d.containers.get(&c.id)).copied().unwrap_or_default();
            ContainerUsage { name: c.name.clone(), memory: memory(&c.measured), rootfs: own.rootfs, logs: own.logs }
        });
        let volumes = disks.and_then(|d| d.volumes.get(&pod.uid)).into_iter().flatten();
        let volume = |v: &crate::stats::VolumeDisk| VolumeUsage {
            name: v.name.clone(),
            held: v.held.unwrap_or_default(),
            on_disk: v.on_disk,
        };
        PodUsage {
            memory: memory(&pod.measured).unwrap_or(0),
            processes: pod.containers.iter().filter_map(|c| c.measured.as_ref()?.usage.processes).sum(),
            containers: containers.collect(),
            volumes: volumes.map(volume).collect(),
        }
    }

    /// What it holds of the disk that a signal is about: everything where there is one disk; where images have their own,
    /// writable layers of that and the rest of the node's.
    pub fn disk(&self, signal: Signal, images_apart: bool) -> Held {
        let of_images = matches!(signal, Signal::ImageFs | Signal::ImageFsInodes);
        let mut sum = Held::default();
        for container in &self.containers {
            if !images_apart || of_images {
                sum += container.rootfs.unwrap_or_default();
            }
            if !images_apart || !of_images {
                sum += container.logs.unwrap_or_default();
            }
        }
        for volume in self.volumes.iter().filter(|v| v.on_disk && (!images_apart || !of_images)) {
            sum += volume.held;
        }
        sum
    }
}

/// What the pods of a snapshot use.
pub fn usages(snapshot: &Snapshot) -> Usages {
    let disks = snapshot.disks.as_ref();
    snapshot.pods.iter().map(|pod| (pod.uid.clone(), PodUsage::new(pod, disks))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_told_apart_where_images_have_their_own() {
        let snapshot = crate::stats::tests::snapshot();
        let all = usages(&snapshot);
        let pod = &all["u"];
        assert_eq!((pod.memory, pod.processes, pod.containers[0].memory), (4, 2, Some(4)));
        let check = |signal: Signal, images_apart: bool, bytes: u64| {
            assert_eq!(pod.disk(signal, images_apart).bytes, bytes, "{signal:?} {images_apart}");
        };
        // A layer of 4, logs of 2, a volume of 8.
        check(Signal::NodeFs, false, 14);
        check(Signal::ImageFs, false, 14);
        check(Signal::NodeFs, true, 10);
        check(Signal::ImageFs, true, 4);
    }
}
