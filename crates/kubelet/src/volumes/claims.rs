//! Claimed volumes: a pod's persistent volume claims and the claims of its generic ephemeral volumes.
//!
//! Follows `pkg/kubelet/volumemanager` (what is checked of claim and volume) and `pkg/volume/local`, `hostpath`; volumes
//! of drivers are mounted by [`crate::csi`]. A local volume is bound into the pod's folder; one that orkd's provisioner made is a folder below the node's storage folder
//! and is created when it is first mounted.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use rustix::mount::{MountFlags, MountPropagationFlags};

use super::{Volumes, host_path, is_mount_point};
use crate::pod;
use crate::stats::disk::{self, Filesystem};

/// The provisioner whose volumes are folders of this node.
const PROVISIONER: &str = "orkd.io/local-path";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// A claimed volume that is mounted for a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The pod's name for it.
    pub volume: String,
    /// The claim.
    pub claim: String,
    /// Where it is mounted.
    path: PathBuf,
    /// The driver, and its name for the volume.
    csi: Option<(String, String)>,
}

/// The claim of a pod's volume and whether it is mounted read-only; `None` for a volume without a claim.
fn claim_of(pod: &Pod, volume: &Volume) -> Option<(String, bool)> {
    if let Some(source) = &volume.persistent_volume_claim {
        return Some((source.claim_name.clone(), source.read_only == Some(true)));
    }
    volume.ephemeral.as_ref().map(|_| (format!("{}-{}", pod::name(pod), volume.name), false))
}

impl Volumes {
    /// Sets up a claimed volume. `None` for a volume without a claim.
    pub(super) async fn claimed(&self, pod: &Pod, volume: &Volume) -> Option<Result<PathBuf, String>> {
        let (name, read_only) = claim_of(pod, volume)?;
        Some(self.set_up_claim(pod, volume, &name, read_only).await)
    }

    async fn set_up_claim(&self, pod: &Pod, volume: &Volume, name: &str, read_only: bool) -> Result<PathBuf, String> {
        let namespace = pod::namespace(pod);
        let failed = |why: String| format!("error processing PVC {namespace}/{name}: {why}");
        let claim = match self.objects.claim(namespace, name).await {
            Ok(Some(claim)) => claim,
            Ok(None) => {
                let text = format!("failed to fetch PVC from API server: persistentvolumeclaims {name:?} not found");
                return Err(failed(text));
            }
            Err(error) => return Err(failed(format!("failed to fetch PVC from API server: {error}"))),
        };
        let volume_name = bound_volume(pod, volume, &claim).map_err(failed)?;
        let pv = match self.objects.volume(&volume_name).await {
            Ok(Some(pv)) => pv,
            Ok(None) => return Err(failed(format!("PersistentVolume {volume_name:?} not found"))),
            Err(error) => return Err(failed(format!("failed to fetch PV {volume_name} from API server: {error}"))),
        };
        let path = self.mount(pod, &claim, &pv, read_only).await?;
        let spec = pv.spec.as_ref();
        // A folder of the host is the host's: nobody measures it for the claim.
        if spec.is_some_and(|s| s.host_path.is_none()) {
            let csi = spec.and_then(|s| s.csi.as_ref()).map(|s| (s.driver.clone(), s.volume_handle.clone()));
            let claimed = Claimed { volume: volume.name.clone(), claim: name.to_owned(), path: path.clone(), csi };
            let mut all = self.claimed.lock();
            let known = all.entry(pod::uid(pod).to_owned()).or_default();
            known.retain(|c| c.volume != volume.name);
            known.push(claimed);
        }
        Ok(path)
    }

    /// The claimed volumes that are mounted for a pod and can be measured.
    pub fn claimed_by(&self, uid: &str) -> Vec<Claimed> {
        self.claimed.lock().get(uid).cloned().unwrap_or_default()
    }

    /// How full a claimed volume is: what its file system says, or its driver. `None` if that does not say.
    pub async fn room(&self, claimed: &Claimed) -> Option<Filesystem> {
        if let Some((driver, handle)) = &claimed.csi {
            return self.csi().room(driver, handle, &claimed.path).await;
        }
        let path = claimed.path.clone();
        tokio::task::spawn_blocking(move || disk::filesystem(&path)).await.ok().flatten()
    }

    async fn mount(
        &self,
        pod: &Pod,
        claim: &PersistentVolumeClaim,
        pv: &PersistentVolume,
        read_only: bool,
    ) -> Result<PathBuf, String> {
        let name = pv.metadata.name.clone().unwrap_or_default();
        let spec = pv.spec.as_ref().ok_or_else(|| format!("PV {name} has no spec"))?;
        let of = spec.claim_ref.as_ref().and_then(|r| r.uid.as_ref());
        if of.is_none() || of != claim.metadata.uid.as_ref() {
            return Err(format!(
                "pv {name} does not have matching claimRef.UID. Expected: {}, Actual: {}",
                claim.metadata.uid.as_deref().unwrap_or(""),
                of.map_or("", String::as_str)
            ));
        }
        if spec.volume_mode.as_deref() == Some("Block") {
            return Err(format!("volume {name} has volumeMode Block, which this node does not serve"));
        }
        if let Some(source) = &spec.host_path {
            host_path(source)?;
            return Ok(PathBuf::from(&source.path));
        }
        if let Some(source) = &spec.csi {
            return self.csi().persistent(pod, pv, source, read_only).await;
        }
        let Some(source) = &spec.local else {
            return Err(format!("no volume plugin matched volume {name:?}"));
        };
        let path = Path::new(&source.path);
        if path.components().any(|c| matches!(c, Component::ParentDir)) {
            return Err(format!("path {:?} must not contain '..'", source.path));
        }
        let by = pv.metadata.annotations.as_ref().and_then(|a| a.get(PROVISIONED_BY));
        if by.is_some_and(|by| by == PROVISIONER) && path.parent() == Some(self.storage.as_path()) {
            make_folder(path).map_err(|e| format!("create {}: {e}", path.display()))?;
        }
        let target = self.dir(pod, "local-volume", &name);
        self.bind(pod, path, &target, read_only)?;
        Ok(target)
    }

    /// Binds a folder to a place of the pod's, and gives it to the pod's group.
    fn bind(&self, pod: &Pod, path: &Path, target: &Path, read_only: bool) -> Result<(), String> {
        if is_mount_point(target) {
            return Ok(());
        }
        let failed = |what: &str, e: io::Error| format!("{what} {}: {e}", path.display());
        let metadata = fs::metadata(path).map_err(|e| failed("path does not exist or cannot be read:", e))?;
        if !metadata.is_dir() {
            return Err(format!("local volume {} is not a folder", path.display()));
        }
        fs::create_dir_all(target).map_err(|e| format!("create {}: {e}", target.display()))?;
        if !read_only && self.wants_owner(pod, path, &metadata) {
            self.own(pod, path, false).map_err(|e| failed("set the owner of", e))?;
        }
        let mounted = rustix::mount::mount_bind(path, target)
            .and_then(|()| rustix::mount::mount_change(target, MountPropagationFlags::PRIVATE))
            .and_then(|()| match read_only {
                true => rustix::mount::mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, ""),
                false => Ok(()),
            });
        mounted.map_err(|e| failed("mount", e.into()))
    }

    /// Whether the files are to be given to the pod's group: always, or (`OnRootMismatch`) if the root is not its yet.
    fn wants_owner(&self, pod: &Pod, path: &Path, metadata: &fs::Metadata) -> bool {
        use std::os::unix::fs::MetadataExt;
        let spec = pod::spec(pod);
        let Some(context) = spec.security_context.as_ref() else { return false };
        let Some(group) = context.fs_group else { return false };
        if context.fs_group_change_policy.as_deref() != Some("OnRootMismatch") {
            return true;
        }
        let mode = metadata.permissions().mode();
        let fits = i64::from(metadata.gid()) == group && mode & 0o2000 != 0 && mode & 0o660 == 0o660;
        if fits {
            tracing::debug!(path = %path.display(), "the volume belongs to the pod's group already");
        }
        !fits
    }

    /// Removes the folder of a provisioned volume, with everything in it. One that is not there is fine.
    ///
    /// # Errors
    /// A name that is not one folder, a folder that is in use, or what the file system says.
    pub fn remove_storage(&self, name: &str) -> io::Result<()> {
        let single = matches!(Path::new(name).components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)]);
        if !single || !name.starts_with("pvc-") {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the name of a volume's folder"));
        }
        let path = self.storage.join(name);
        let Ok(metadata) = fs::symlink_metadata(&path) else { return Ok(()) };
        if !metadata.is_dir() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a folder"));
        }
        if !super::mount_points_below(&path.canonicalize()?).is_empty() {
            return Err(io::Error::other("something is mounted in it"));
        }
        fs::remove_dir_all(&path)
    }

    /// Below which folder the volumes are that the node provisions.
    pub fn storage(&self) -> &Path {
        &self.storage
    }
}

/// The volume of a claim that may be used (`getPVCExtractPV`).
fn bound_volume(pod: &Pod, volume: &Volume, claim: &PersistentVolumeClaim) -> Result<String, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if volume.ephemeral.is_some() {
        let owners = claim.metadata.owner_references.iter().flatten();
        if !owners.clone().any(|o| o.controller == Some(true) && o.uid == pod::uid(pod)) {
            return Err(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                pod::namespace(pod),
                pod::namespace(pod),
                pod::name(pod)
            ));
        }
    }
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".to_owned());
    }
    let named = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|n| !n.is_empty());
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    match named {
        Some(named) if bound => Ok(named),
        Some(_) => Err("PVC is not bound".to_owned()),
        None => Err("PVC has non-bound phase or empty pvc.Spec.VolumeName".to_owned()),
    }
}

/// Makes the folder of a provisioned volume: anybody may write, as on a fresh disk of most clouds' classes.
fn make_folder(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::objects::Objects;
    use async_trait::async_trait;
    use k8s_openapi::api::core::v1::{ConfigMap, Secret};
    use k8s_openapi::jiff::Timestamp;
    use serde_json::{Value, json};

    struct One {
        claim: Value,
        volume: Value,
    }

    #[async_trait]
    impl Objects for One {
        async fn config_map(&self, _: &str, _: &str) -> Result<Option<ConfigMap>, String> {
            Ok(None)
        }
        async fn secret(&self, _: &str, _: &str) -> Result<Option<Secret>, String> {
            Ok(None)
        }
        async fn token(
            &self,
            _: &Pod,
            _: &str,
            _: Option<&str>,
            _: std::time::Duration,
        ) -> Result<(String, Timestamp), String> {
            Err("none".into())
        }
        async fn claim(&self, _: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, String> {
            let claim = serde_json::from_value(self.claim.clone()).map_err(|e| e.to_string())?;
            Ok((name == "data").then_some(claim))
        }
        async fn volume(&self, _: &str) -> Result<Option<PersistentVolume>, String> {
            serde_json::from_value(self.volume.clone()).map(Some).map_err(|e| e.to_string())
        }
    }

    async fn check(change: impl FnOnce(&mut Value, &mut Value, &mut Value), expected: &str) {
        let dir = tempfile::tempdir().expect("dir");
        let mut pod = json!({"metadata": {"namespace": "n", "name": "p", "uid": "pod"}, "spec": {"containers": [],
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
        let mut claim = json!({"metadata": {"namespace": "n", "name": "data", "uid": "u"},
            "spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}});
        let mut volume = json!({"metadata": {"name": "pv"},
            "spec": {"claimRef": {"uid": "u"}, "hostPath": {"path": "/data"}}});
        change(&mut pod, &mut claim, &mut volume);
        let volumes = Volumes::new(dir.path().join("kubelet"), Arc::new(One { claim, volume }));
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let volume = pod::spec(&pod).volumes.iter().flatten().next().expect("a volume").clone();
        let result = match volumes.claimed(&pod, &volume).await.expect("a claim") {
            Ok(path) => path.display().to_string(),
            Err(text) => text,
        };
        assert_eq!(result, expected);
    }

    #[tokio::test]
    async fn a_claim_must_be_bound_and_its_volume_the_claims() {
        check(|_, _, _| (), "/data").await;
        let why = "error processing PVC n/data: ";
        check(|_, c, _| c["status"]["phase"] = "Pending".into(), &format!("{why}PVC is not bound")).await;
        let text = format!("{why}PVC has non-bound phase or empty pvc.Spec.VolumeName");
        check(|_, c, _| c["spec"]["volumeName"] = "".into(), &text).await;
        let text = "pv pv does not have matching claimRef.UID. Expected: u, Actual: other";
        check(|_, _, v| v["spec"]["claimRef"]["uid"] = "other".into(), text).await;
        let text =
            "error processing PVC n/x: failed to fetch PVC from API server: persistentvolumeclaims \"x\" not found";
        check(|p, _, _| p["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"] = "x".into(), text).await;
        let text = "path \"/a/../b\" must not contain '..'";
        check(|_, _, v| v["spec"] = json!({"claimRef": {"uid": "u"}, "local": {"path": "/a/../b"}}), text).await;
        let ephemeral = |p: &mut Value, _: &mut Value, _: &mut Value| {
            p["metadata"]["name"] = "da".into();
            p["spec"]["volumes"][0] = json!({"name": "ta", "ephemeral": {}});
        };
        let text = "error processing PVC n/da-ta: failed to fetch PVC from API server: persistentvolumeclaims \"da-ta\" not found";
        check(ephemeral, text).await;
    }

    #[tokio::test]
    async fn what_is_mounted_for_a_claim_is_known_until_the_pod_goes() {
        let dir = tempfile::tempdir().expect("dir");
        let one = One { claim: Value::Null, volume: Value::Null };
        let volumes = Volumes::new(dir.path().join("kubelet"), Arc::new(one));
        let claimed = Claimed { volume: "v".into(), claim: "data".into(), path: dir.path().to_owned(), csi: None };
        volumes.claimed.lock().insert("u".into(), vec![claimed.clone()]);
        assert_eq!(volumes.claimed_by("u"), std::slice::from_ref(&claimed));
        assert!(volumes.room(&claimed).await.is_some_and(|fs| fs.capacity > 0));
        // A driver that is not there says nothing.
        let of_driver = Claimed { csi: Some(("d".into(), "h".into())), ..claimed };
        assert_eq!(volumes.room(&of_driver).await, None);
        volumes.teardown("u").expect("nothing is there");
        assert!(volumes.claimed_by("u").is_empty());
    }

    #[test]
    fn only_folders_of_volumes_are_removed() {
        let dir = tempfile::tempdir().expect("dir");
        let one = One { claim: Value::Null, volume: Value::Null };
        let volumes = Volumes::new(dir.path().join("kubelet"), Arc::new(one));
        let folder = volumes.storage().join("pvc-1_n_data");
        fs::create_dir_all(folder.join("deep")).expect("folder");
        for bad in ["..", "kubelet", "pvc-1/..", "pvc-1/../../x", "", "/etc"] {
            assert!(volumes.remove_storage(bad).is_err(), "{bad}");
        }
        volumes.remove_storage("pvc-1_n_data").expect("removed");
        volumes.remove_storage("pvc-1_n_data").expect("removed again");
        assert!(!folder.exists());
    }
}
