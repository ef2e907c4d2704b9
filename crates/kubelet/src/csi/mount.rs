//! Volumes of drivers are mounted for pods, and taken down after them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{CSIPersistentVolumeSource, PersistentVolume, Pod, SecretReference, Volume};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::proto::{
    Access, AccessMode, Empty, MountVolume, Publish, Stage, Unit, Unpublish, Unstage, VolumeCapability, VolumeStats,
    VolumeUsages, mode,
};
use super::{Driver, Drivers};
use crate::objects::Objects;
use crate::pod;
use crate::stats::disk::Filesystem;

/// Where the drivers' folders are, below the kubelet's.
const PLUGINS: &str = "plugins/kubernetes.io/csi";
const DATA: &str = "vol_data.json";

/// What mounting needs.
pub struct Context<'a> {
    /// The kubelet's folder.
    pub root: &'a Path,
    /// The node.
    pub node: &'a str,
    /// The drivers.
    pub drivers: &'a Drivers,
    /// Reads secrets, drivers and attachments.
    pub objects: &'a dyn Objects,
}

/// Whose a mount is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data {
    driver_name: String,
    volume_handle: String,
    #[serde(default, rename = "specVolID")]
    spec_vol_id: String,
    #[serde(default)]
    node_name: String,
    #[serde(default)]
    volume_lifecycle_mode: String,
}

impl Data {
    fn read(dir: &Path) -> Option<Data> {
        serde_json::from_slice(&fs::read(dir.join(DATA)).ok()?).ok()
    }

    fn write(&self, dir: &Path) -> Result<(), String> {
        let text = |e: io::Error| format!("write {}: {e}", dir.join(DATA).display());
        fs::create_dir_all(dir).map_err(text)?;
        let bytes = serde_json::to_vec(self).map_err(|e| e.to_string())?;
        fs::write(dir.join(DATA), bytes).map_err(text)
    }
}

fn sha(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Where a volume is staged: a folder of the driver, and in it the mount.
fn staging(root: &Path, driver: &str, handle: &str) -> PathBuf {
    root.join(PLUGINS).join(driver).join(sha(handle))
}

/// Whether a driver's name may be part of a path.
fn is_safe(name: &str) -> bool {
    !name.is_empty() && !name.contains('/') && name != "." && name != ".."
}

impl Context<'_> {
    /// Mounts a persistent volume for a pod. Returns where.
    pub async fn persistent(
        &self,
        pod: &Pod,
        pv: &PersistentVolume,
        csi: &CSIPersistentVolumeSource,
        read_only: bool,
    ) -> Result<PathBuf, String> {
        let name = pv.metadata.name.clone().unwrap_or_default();
        let target = self.target(pod, &name)?;
        if crate::volumes::is_mount_point(&target) {
            return Ok(target);
        }
        if !is_safe(&csi.driver) {
            return Err(format!("driver name {:?} is invalid", csi.driver));
        }
        let driver = self.drivers.get(&csi.driver)?;
        let about = self.objects.csi_driver(&csi.driver).await?.map(|d| d.spec).unwrap_or_default();
        let publish_context = match about.attach_required {
            Some(false) => HashMap::new(),
            _ => self.attached(&csi.driver, &csi.volume_handle).await?,
        };
        let spec = pv.spec.clone().unwrap_or_default();
        let modes = spec.access_modes.clone().unwrap_or_default();
        let group = pod::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
        let capability = VolumeCapability {
            access: Some(Access::Mount(MountVolume {
                fs_type: csi.fs_type.clone().unwrap_or_default(),
                mount_flags: spec.mount_options.clone().unwrap_or_default(),
                volume_mount_group: group.filter(|_| driver.groups).map(|g| g.to_string()).unwrap_or_default(),
            })),
            access_mode: Some(AccessMode { mode: mode(&modes, driver.precise) }),
        };
        let context: HashMap<String, String> = csi.volume_attributes.clone().unwrap_or_default().into_iter().collect();
        let mut staging_target_path = String::new();
        if driver.stages {
            let dir = staging(self.root, &csi.driver, &csi.volume_handle);
            let path = dir.join("globalmount");
            let data = Data {
                driver_name: csi.driver.clone(),
                volume_handle: csi.volume_handle.clone(),
                spec_vol_id: name.clone(),
                node_name: self.node.to_owned(),
                volume_lifecycle_mode: "Persistent".to_owned(),
            };
            data.write(&dir)?;
            fs::create_dir_all(&path).map_err(|e| format!("create {}: {e}", path.display()))?;
            staging_target_path = path.to_string_lossy().into_owned();
            let stage = Stage {
                volume_id: csi.volume_handle.clone(),
                publish_context: publish_context.clone(),
                staging_target_path: staging_target_path.clone(),
                volume_capability: Some(capability.clone()),
                secrets: self.secrets(csi.node_stage_secret_ref.as_ref()).await?,
                volume_context: context.clone(),
            };
            let staged: Result<Empty, String> = driver.plugin.call("/csi.v1.Node/NodeStageVolume", stage).await;
            staged.map_err(|e| format!("MountVolume.MountDevice failed for volume {name:?} : {e}"))?;
        }
        let read_only = read_only || csi.read_only == Some(true);
        let publish = Publish {
            volume_id: csi.volume_handle.clone(),
            publish_context,
            staging_target_path,
            target_path: String::new(),
            volume_capability: Some(capability),
            readonly: read_only,
            secrets: self.secrets(csi.node_publish_secret_ref.as_ref()).await?,
            volume_context: with_pod(context, pod, about.pod_info_on_mount == Some(true), false),
        };
        let data = Data {
            driver_name: csi.driver.clone(),
            volume_handle: csi.volume_handle.clone(),
            spec_vol_id: name,
            node_name: self.node.to_owned(),
            volume_lifecycle_mode: "Persistent".to_owned(),
        };
        self.publish(&driver, &data, publish, &target).await?;
        // The policy of the driver says whether files are given to the pod's group.
        let by_kubelet = match about.fs_group_policy.as_deref() {
            Some("None") => false,
            Some("File") => true,
            _ => {
                csi.fs_type.as_ref().is_some_and(|t| !t.is_empty())
                    && modes.iter().any(|m| m.starts_with("ReadWriteOnce"))
            }
        };
        if let Some(group) = group.and_then(|g| u32::try_from(g).ok())
            && by_kubelet
            && !driver.groups
            && !read_only
        {
            crate::volumes::set_group(&target, group, false)
                .map_err(|e| format!("applyFSGroup failed for vol {}: {e}", data.volume_handle))?;
        }
        Ok(target)
    }

    /// Mounts a volume that lives with its pod. Returns where.
    pub async fn inline(&self, pod: &Pod, volume: &Volume) -> Option<Result<PathBuf, String>> {
        let source = volume.csi.as_ref()?;
        Some(self.mount_inline(pod, &volume.name, source).await)
    }

    async fn mount_inline(
        &self,
        pod: &Pod,
        name: &str,
        source: &k8s_openapi::api::core::v1::CSIVolumeSource,
    ) -> Result<PathBuf, String> {
        let target = self.target(pod, name)?;
        if crate::volumes::is_mount_point(&target) {
            return Ok(target);
        }
        let driver = self.drivers.get(&source.driver)?;
        let about = self.objects.csi_driver(&source.driver).await?.map(|d| d.spec).unwrap_or_default();
        if !about.volume_lifecycle_modes.iter().flatten().any(|m| m == "Ephemeral") {
            return Err(format!(
                "volume mode \"Ephemeral\" not supported by driver {} (only supports [\"Persistent\"])",
                source.driver
            ));
        }
        let handle = format!("csi-{}", sha(&format!("{}{name}", pod::uid(pod))));
        let capability = VolumeCapability {
            access: Some(Access::Mount(MountVolume {
                fs_type: source.fs_type.clone().unwrap_or_default(),
                ..MountVolume::default()
            })),
            access_mode: Some(AccessMode { mode: 1 }),
        };
        let secret = source
            .node_publish_secret_ref
            .as_ref()
            .map(|r| SecretReference { name: Some(r.name.clone()), namespace: Some(pod::namespace(pod).to_owned()) });
        let context: HashMap<String, String> =
            source.volume_attributes.clone().unwrap_or_default().into_iter().collect();
        let publish = Publish {
            volume_id: handle.clone(),
            volume_capability: Some(capability),
            readonly: source.read_only == Some(true),
            secrets: self.secrets(secret.as_ref()).await?,
            volume_context: with_pod(context, pod, about.pod_info_on_mount == Some(true), true),
            ..Publish::default()
        };
        let data = Data {
            driver_name: source.driver.clone(),
            volume_handle: handle,
            spec_vol_id: name.to_owned(),
            node_name: self.node.to_owned(),
            volume_lifecycle_mode: "Ephemeral".to_owned(),
        };
        self.publish(&driver, &data, publish, &target).await?;
        Ok(target)
    }

    /// How full a volume is; `None` if its driver does not say, or not soon.
    pub async fn room(&self, driver: &str, handle: &str, path: &Path) -> Option<Filesystem> {
        const SOON: Duration = Duration::from_secs(5);
        let driver = self.drivers.get(driver).ok().filter(|d| d.measures)?;
        let call = VolumeStats {
            volume_id: handle.to_owned(),
            volume_path: path.to_string_lossy().into_owned(),
            staging_target_path: String::new(),
        };
        let asked = driver.plugin.call::<_, VolumeUsages>("/csi.v1.Node/NodeGetVolumeStats", call);
        let told = tokio::time::timeout(SOON, asked).await.ok()?.inspect_err(|error| {
            tracing::debug!(volume = handle, error, "a driver does not say how full its volume is");
        });
        Some(filesystem(&told.ok()?))
    }

    fn target(&self, pod: &Pod, name: &str) -> Result<PathBuf, String> {
        if !is_safe(name) {
            return Err(format!("volume name {name:?} is invalid"));
        }
        Ok(volumes_of(self.root, pod::uid(pod)).join(name).join("mount"))
    }

    async fn publish(&self, driver: &Driver, data: &Data, mut call: Publish, target: &Path) -> Result<(), String> {
        let dir = target.parent().unwrap_or(target);
        // First the note: what is mounted without one would never be taken down.
        data.write(dir)?;
        call.target_path = target.to_string_lossy().into_owned();
        let published: Result<Empty, String> = driver.plugin.call("/csi.v1.Node/NodePublishVolume", call).await;
        published.map(drop)
    }

    /// What attaching told, once the volume is attached.
    async fn attached(&self, driver: &str, handle: &str) -> Result<HashMap<String, String>, String> {
        let name = format!("csi-{}", sha(&format!("{handle}{driver}{}", self.node)));
        let Some(attachment) = self.objects.attachment(&name).await? else {
            return Err(format!("volume attachment {name} does not exist yet"));
        };
        let status = attachment.status.unwrap_or_default();
        if !status.attached {
            let why = status.attach_error.and_then(|e| e.message).unwrap_or_default();
            return Err(format!("volume is not attached yet: {why}"));
        }
        Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect())
    }

    async fn secrets(&self, reference: Option<&SecretReference>) -> Result<HashMap<String, String>, String> {
        let Some(reference) = reference else { return Ok(HashMap::new()) };
        let (namespace, name) =
            (reference.namespace.clone().unwrap_or_default(), reference.name.clone().unwrap_or_default());
        let Some(secret) = self.objects.secret(&namespace, &name).await? else {
            return Err(format!("failed to find the secret {name} in the namespace {namespace}"));
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, text(v.0))).collect())
    }

    /// Takes down the drivers' volumes of a pod. What is left of its folder is the caller's.
    pub async fn take_down(&self, uid: &str) -> io::Result<()> {
        let failed = |text: String| io::Error::other(text);
        let entries = fs::read_dir(volumes_of(self.root, uid)).into_iter().flatten().flatten();
        for dir in entries.map(|e| e.path()) {
            let Some(data) = Data::read(&dir) else { continue };
            let driver = self.drivers.get(&data.driver_name).map_err(failed)?;
            let target = dir.join("mount");
            let call =
                Unpublish { volume_id: data.volume_handle.clone(), target_path: target.to_string_lossy().into_owned() };
            let done: Result<Empty, String> = driver.plugin.call("/csi.v1.Node/NodeUnpublishVolume", call).await;
            done.map_err(failed)?;
            fs::remove_file(dir.join(DATA))?;
            self.unstage(&driver, &data).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Takes a volume off the node when no pod uses it any more.
    async fn unstage(&self, driver: &Driver, data: &Data) -> Result<(), String> {
        let dir = staging(self.root, &data.driver_name, &data.volume_handle);
        let staged = driver.stages && data.volume_lifecycle_mode == "Persistent" && dir.exists();
        let same = |other: &Data| other.driver_name == data.driver_name && other.volume_handle == data.volume_handle;
        if !staged || published(self.root).iter().any(same) {
            return Ok(());
        }
        let path = dir.join("globalmount");
        let call =
            Unstage { volume_id: data.volume_handle.clone(), staging_target_path: path.to_string_lossy().into_owned() };
        let done: Result<Empty, String> = driver.plugin.call("/csi.v1.Node/NodeUnstageVolume", call).await;
        done.map_err(|e| format!("UnmountDevice failed for volume {}: {e}", data.volume_handle))?;
        if crate::volumes::is_mount_point(&path) {
            return Err(format!("{} is still mounted", path.display()));
        }
        fs::remove_dir_all(&dir).map_err(|e| format!("remove {}: {e}", dir.display()))
    }
}

fn volumes_of(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid).join("volumes/kubernetes.io~csi")
}

/// What is mounted for pods.
fn published(root: &Path) -> Vec<Data> {
    let pods = fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    let volumes =
        pods.filter_map(|p| fs::read_dir(p.path().join("volumes/kubernetes.io~csi")).ok()).flatten().flatten();
    volumes.filter_map(|v| Data::read(&v.path())).collect()
}

/// Volumes that the node uses, as its status names them.
pub fn in_use(root: &Path) -> Vec<String> {
    let drivers = fs::read_dir(root.join(PLUGINS)).into_iter().flatten().flatten();
    let staged = drivers.filter_map(|d| fs::read_dir(d.path()).ok()).flatten().flatten();
    let staged = staged.filter_map(|v| Data::read(&v.path()));
    let persistent = published(root).into_iter().filter(|d| d.volume_lifecycle_mode == "Persistent");
    let mut names: Vec<String> =
        staged.chain(persistent).map(|d| format!("kubernetes.io/csi/{}^{}", d.driver_name, d.volume_handle)).collect();
    names.sort();
    names.dedup();
    names
}

/// What a driver says of a volume, as of a file system.
fn filesystem(told: &VolumeUsages) -> Filesystem {
    let mut all = Filesystem::default();
    for usage in &told.usage {
        let [available, total, used] = [usage.available, usage.total, usage.used].map(|n| n.max(0).unsigned_abs());
        match usage.unit() {
            Unit::Bytes => (all.available, all.capacity, all.used) = (available, total, used),
            Unit::Inodes => (all.inodes_free, all.inodes) = (available, total),
            Unit::Unknown => {}
        }
    }
    all
}

/// What a driver is told of the pod, if it wants to know.
fn with_pod(mut context: HashMap<String, String>, pod: &Pod, wanted: bool, ephemeral: bool) -> HashMap<String, String> {
    if wanted {
        let account = pod::spec(pod).service_account_name.clone().unwrap_or_default();
        for (key, value) in [
            ("pod.name", pod::name(pod).to_owned()),
            ("pod.namespace", pod::namespace(pod).to_owned()),
            ("pod.uid", pod::uid(pod).to_owned()),
            ("serviceAccount.name", account),
            ("ephemeral", ephemeral.to_string()),
        ] {
            context.insert(format!("csi.storage.k8s.io/{key}"), value);
        }
    }
    context
}
