//! Cgroups of QoS classes and pods by plain files, on cgroup v1 and v2.
//!
//! Layout as upstream's cgroupfs driver: `ROOT/kubepods/podUID` for guaranteed pods,
//! `ROOT/kubepods/{burstable,besteffort}/podUID` for the others. The runtime puts containers below the pod's.

use std::io;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

use crate::resize::Limits;
use crate::stats::usage::{self, Usage};
use crate::{pod, resources};

/// Which hierarchy the host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy a controller.
    V1,
    /// The unified one.
    V2,
}

/// The controllers of v1 that a pod's cgroup is made in.
const V1_CONTROLLERS: [&str; 6] = ["cpu", "cpuacct", "memory", "pids", "freezer", "blkio"];

/// The cgroups of this node's pods.
#[derive(Debug, Clone)]
pub struct Cgroups {
    mount: PathBuf,
    version: Version,
    root: String,
}

impl Cgroups {
    /// Cgroups below `root` (for example `/` or `/node-a`).
    pub fn new(root: &str) -> Self {
        Self::at(Path::new("/sys/fs/cgroup"), root)
    }

    /// As [`Cgroups::new`], with another mount point.
    pub fn at(mount: &Path, root: &str) -> Self {
        let version = if mount.join("cgroup.controllers").exists() { Version::V2 } else { Version::V1 };
        Self { mount: mount.to_owned(), version, root: root.trim_matches('/').to_owned() }
    }

    /// The hierarchy.
    pub fn version(&self) -> Version {
        self.version
    }

    fn under_root(&self, rest: &str) -> String {
        match self.root.is_empty() {
            true => format!("/{rest}"),
            false => format!("/{}/{rest}", self.root),
        }
    }

    fn class(&self, class: &str) -> String {
        match class {
            "Guaranteed" => self.under_root("kubepods"),
            other => self.under_root(&format!("kubepods/{}", other.to_lowercase())),
        }
    }

    /// The cgroup of a pod, from the mount point on; `cgroup_parent` of its sandbox.
    pub fn pod(&self, pod: &Pod) -> String {
        format!("{}/pod{}", self.class(resources::qos_class(&pod::spec(pod))), pod::uid(pod))
    }

    /// The cgroup of all pods.
    pub fn all_pods(&self) -> String {
        self.under_root("kubepods")
    }

    fn read(&self, cgroup: &str, v1_controller: &str, file: &str) -> Option<String> {
        let relative = cgroup.trim_start_matches('/');
        let folder = match self.version {
            Version::V1 => self.mount.join(v1_controller).join(relative),
            Version::V2 => self.mount.join(relative),
        };
        std::fs::read_to_string(folder.join(file)).ok()
    }

    /// What a cgroup used, as far as the host counts it.
    pub fn usage(&self, cgroup: &str) -> Usage {
        usage::of_cgroup(self.version, |controller, file| self.read(cgroup, controller, file))
    }

    /// The processes of a cgroup, not counting those below.
    pub fn processes(&self, cgroup: &str) -> Vec<u32> {
        let text = self.read(cgroup, "memory", "cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|l| l.parse().ok()).filter(|pid| *pid != 0).collect()
    }

    /// The folders of a cgroup: one, or one a controller.
    fn folders(&self, cgroup: &str) -> Vec<PathBuf> {
        let relative = cgroup.trim_start_matches('/');
        match self.version {
            Version::V2 => vec![self.mount.join(relative)],
            Version::V1 => V1_CONTROLLERS
                .iter()
                .map(|c| self.mount.join(c))
                .filter(|c| c.is_dir())
                .map(|c| c.join(relative))
                .collect(),
        }
    }

    /// Makes the cgroups of the QoS classes.
    pub fn create_classes(&self) -> io::Result<()> {
        for class in ["Guaranteed", "Burstable", "BestEffort"] {
            self.create(&self.class(class))?;
        }
        // Best effort pods get what is left.
        if let Err(error) = self.set_shares(&self.class("BestEffort"), resources::MIN_SHARES) {
            tracing::debug!(%error, "cgroup value not set");
        }
        Ok(())
    }

    fn create(&self, cgroup: &str) -> io::Result<()> {
        if self.version == Version::V2 {
            // Controllers are handed down step by step.
            let mut at = self.mount.clone();
            for part in cgroup.trim_matches('/').split('/') {
                let available = std::fs::read_to_string(at.join("cgroup.controllers")).unwrap_or_default();
                for controller in available.split_whitespace() {
                    // A controller that cannot be handed down here (busy, threaded) is done without.
                    let _ = std::fs::write(at.join("cgroup.subtree_control"), format!("+{controller}"));
                }
                at.push(part);
                create_dir(&at)?;
            }
            return Ok(());
        }
        for folder in self.folders(cgroup) {
            std::fs::create_dir_all(&folder)?;
        }
        Ok(())
    }

    /// Writes a value, in the words of the hierarchy (controller and file of v1, file of v2); a host without the controller
    /// does without.
    fn set(&self, cgroup: &str, v1: (&str, &str, String), v2: (&str, String)) -> io::Result<()> {
        let relative = cgroup.trim_start_matches('/');
        let (path, value) = match self.version {
            Version::V1 => (self.mount.join(v1.0).join(relative).join(v1.1), v1.2),
            Version::V2 => (self.mount.join(relative).join(v2.0), v2.1),
        };
        if !path.exists() {
            tracing::debug!(path = %path.display(), "the host has no such cgroup value");
            return Ok(());
        }
        std::fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
    }

    /// Sets the share of cpu of a cgroup.
    pub fn set_shares(&self, cgroup: &str, shares: i64) -> io::Result<()> {
        let weight = resources::weight(shares).to_string();
        self.set(cgroup, ("cpu", "cpu.shares", shares.to_string()), ("cpu.weight", weight))
    }

    /// Sets how many microseconds of cpu a cgroup may use a period.
    pub fn set_quota(&self, cgroup: &str, quota: i64) -> io::Result<()> {
        let with_period = format!("{quota} {}", resources::QUOTA_PERIOD);
        self.set(cgroup, ("cpu", "cpu.cfs_quota_us", quota.to_string()), ("cpu.max", with_period))
    }

    /// Sets how much memory a cgroup may use.
    pub fn set_memory(&self, cgroup: &str, bytes: i64) -> io::Result<()> {
        self.set(cgroup, ("memory", "memory.limit_in_bytes", bytes.to_string()), ("memory.max", bytes.to_string()))
    }

    /// What is set of a cgroup.
    pub fn limits(&self, cgroup: &str) -> Limits {
        let number = |file: &str| self.read(cgroup, "cpu", file)?.split_whitespace().next()?.parse::<i64>().ok();
        let shares = match self.version {
            Version::V1 => number("cpu.shares"),
            Version::V2 => number("cpu.weight").map(resources::shares_of_weight),
        };
        let quota = match self.version {
            Version::V1 => number("cpu.cfs_quota_us"),
            Version::V2 => number("cpu.max"),
        };
        let memory = self.usage(cgroup).memory.and_then(|m| m.limit);
        Limits {
            memory: memory.and_then(|bytes| i64::try_from(bytes).ok()),
            quota: quota.filter(|quota| *quota > 0),
            shares: shares.unwrap_or_default(),
        }
    }

    /// Makes a pod's cgroup with its limits.
    pub fn create_pod(&self, pod: &Pod) -> io::Result<()> {
        let cgroup = self.pod(pod);
        self.create(&cgroup)?;
        let limits = Limits::of(pod);
        let quota = limits.quota.map_or(Ok(()), |quota| self.set_quota(&cgroup, quota));
        let memory = limits.memory.map_or(Ok(()), |bytes| self.set_memory(&cgroup, bytes));
        for error in [self.set_shares(&cgroup, limits.shares), quota, memory].into_iter().filter_map(Result::err) {
            tracing::debug!(%error, "cgroup value not set");
        }
        Ok(())
    }

    /// Removes a pod's cgroup, in whichever class it is. Idempotent; a busy one is left and tried again later.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        for class in ["Guaranteed", "Burstable", "BestEffort"] {
            let cgroup = format!("{}/pod{uid}", self.class(class));
            let relative = cgroup.trim_start_matches('/');
            match self.version {
                Version::V2 => remove_tree(&self.mount.join(relative))?,
                // The runtime made it in every hierarchy there is.
                Version::V1 => {
                    for hierarchy in std::fs::read_dir(&self.mount)?.flatten() {
                        remove_tree(&hierarchy.path().join(relative))?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn create_dir(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Removes a cgroup and those below it (their files go with them).
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match std::fs::remove_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Without a controller (a file), nothing is set, and nothing is wrong.
    #[test]
    fn limits_are_read_as_they_were_set() {
        let check = |version: Version, folders: &[&str], files: &[(&str, &str)], expected: Limits| {
            let dir = tempfile::tempdir().expect("dir");
            for folder in folders {
                std::fs::create_dir_all(dir.path().join(folder).join("p")).expect("made");
            }
            for (file, text) in files {
                std::fs::write(dir.path().join(file), text).expect("written");
            }
            let cgroups = Cgroups { version, ..Cgroups::at(dir.path(), "/") };
            assert_eq!(cgroups.limits("/p"), Limits { memory: None, quota: None, shares: 0 });
            cgroups.set_memory("/p", 4096).expect("set");
            cgroups.set_quota("/p", 2000).expect("set");
            cgroups.set_shares("/p", 1024).expect("set");
            assert_eq!(cgroups.limits("/p"), expected);
        };
        let unlimited = "9223372036854771712";
        let v1 = [
            ("memory/p/memory.limit_in_bytes", unlimited),
            ("memory/p/memory.usage_in_bytes", "1"),
            ("cpu/p/cpu.cfs_quota_us", "-1"),
            ("cpu/p/cpu.shares", ""),
        ];
        let set = Limits { memory: Some(4096), quota: Some(2000), shares: 1024 };
        check(Version::V1, &["memory", "cpu"], &v1, set);
        let v2 =
            [("p/memory.max", "max"), ("p/memory.current", "1"), ("p/cpu.max", "max 100000"), ("p/cpu.weight", "")];
        check(Version::V2, &[""], &v2, Limits { shares: resources::shares_of_weight(39), ..set });
        check(Version::V2, &[""], &[], Limits { memory: None, quota: None, shares: 0 });
    }

    #[test]
    fn pods_are_filed_by_class() {
        let check = |root: &str, resources: serde_json::Value, expected: &str| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"uid": "u"}, "spec": {"containers": [{"name": "a", "resources": resources}]},
            }))
            .unwrap_or_default();
            assert_eq!(Cgroups::at(Path::new("/nowhere"), root).pod(&pod), expected);
        };
        check("/", json!({}), "/kubepods/besteffort/podu");
        check("/x", json!({"requests": {"cpu": "1"}}), "/x/kubepods/burstable/podu");
        check("", json!({"limits": {"cpu": "1", "memory": "1"}}), "/kubepods/podu");
    }
}
