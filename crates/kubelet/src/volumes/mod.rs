//! The volumes of a pod: set up before its containers, kept up to date, taken down after it.
//!
//! Kinds: emptyDir (memory too), hostPath, configMap, secret, downwardAPI, projected, and claims (also those of generic
//! ephemeral volumes) of local, hostPath and CSI volumes; CSI volumes inline. Any other kind is refused with a message,
//! and the pod waits: image volumes are not here yet.
//!
//! Invariant: everything of a pod is below `ROOT/pods/UID`; taking a pod down unmounts all below it first, and deletes
//! nothing through a mount.

pub mod atomic;
mod claims;
pub mod payload;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, Volume};
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::mount::{MountFlags, UnmountFlags};

use crate::csi::{self, Drivers};
use crate::env::Facts;
use crate::objects::Objects;
use crate::{pod, resources};

pub use claims::Claimed;
pub use payload::Tokens;

/// A volume that could not be set up: its name and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeError {
    /// The volume.
    pub volume: String,
    /// The text of the event.
    pub message: String,
}

/// Where a pod's volumes are on the host, by name.
pub type Mounted = HashMap<String, PathBuf>;

/// Sets up and takes down volumes.
pub struct Volumes {
    root: PathBuf,
    /// Where the volumes are that the node provisions, beside `root`.
    storage: PathBuf,
    objects: Arc<dyn Objects>,
    tokens: Tokens,
    /// The node, and the storage drivers it has.
    node: String,
    drivers: Drivers,
    /// What is mounted for claims, by the pods' uids.
    claimed: Mutex<HashMap<String, Vec<Claimed>>>,
}

impl Volumes {
    /// Volumes below a root folder (`/var/lib/kubelet` by upstream's custom).
    pub fn new(root: PathBuf, objects: Arc<dyn Objects>) -> Self {
        let storage = root.parent().unwrap_or(&root).join("storage");
        let (tokens, node, drivers) = (Tokens::default(), String::new(), Drivers::default());
        Self { root, storage, objects, tokens, node, drivers, claimed: Mutex::default() }
    }

    /// On a node with storage drivers.
    pub fn with_drivers(self, node: &str, drivers: Drivers) -> Self {
        Self { node: node.to_owned(), drivers, ..self }
    }

    /// What volumes of storage drivers are mounted with.
    pub(super) fn csi(&self) -> csi::Context<'_> {
        csi::Context { root: &self.root, node: &self.node, drivers: &self.drivers, objects: self.objects.as_ref() }
    }

    /// Takes down what drivers mounted for a pod. Comes before [`Volumes::teardown`]; idempotent.
    ///
    /// # Errors
    /// What a driver says; it is asked again.
    pub async fn detach(&self, uid: &str) -> io::Result<()> {
        self.csi().take_down(uid).await
    }

    /// The kubelet's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder of a pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.root.join("pods").join(uid)
    }

    /// Uids that have a folder.
    pub fn pods_on_disk(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.join("pods")).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// Sets up all volumes of a pod, or brings them up to date. All failures are told at once.
    pub async fn setup(&self, pod: &Pod, facts: &Facts) -> Result<Mounted, Vec<VolumeError>> {
        let (mut mounted, mut errors) = (Mounted::new(), Vec::new());
        for volume in pod::spec(pod).volumes.iter().flatten() {
            match self.setup_one(pod, volume, facts).await {
                Ok(path) => {
                    mounted.insert(volume.name.clone(), path);
                }
                Err(message) => errors.push(VolumeError { volume: volume.name.clone(), message }),
            }
        }
        if errors.is_empty() { Ok(mounted) } else { Err(errors) }
    }

    /// Whether something in the pod's volumes can change while it runs.
    pub fn can_change(pod: &Pod) -> bool {
        let changes = |v: &Volume| {
            v.config_map.is_some() || v.secret.is_some() || v.downward_api.is_some() || v.projected.is_some()
        };
        pod::spec(pod).volumes.iter().flatten().any(changes)
    }

    fn dir(&self, pod: &Pod, plugin: &str, volume: &str) -> PathBuf {
        self.pod_dir(pod::uid(pod)).join("volumes").join(format!("kubernetes.io~{plugin}")).join(volume)
    }

    async fn setup_one(&self, pod: &Pod, volume: &Volume, facts: &Facts) -> Result<PathBuf, String> {
        let failed = |what: &str, path: &Path, e: io::Error| format!("{what} {}: {e}", path.display());
        if let Some(source) = &volume.empty_dir {
            let dir = self.dir(pod, "empty-dir", &volume.name);
            let fresh = !dir.exists();
            if fresh {
                fs::create_dir_all(&dir).map_err(|e| failed("create", &dir, e))?;
            }
            if source.medium.as_deref() == Some("Memory") && !is_mount_point(&dir) {
                let limit = source.size_limit.as_ref().and_then(|q| resources::units(&q.0)).filter(|v| *v > 0);
                mount_tmpfs(&dir, limit).map_err(|e| failed("mount tmpfs on", &dir, e))?;
            }
            if fresh {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(|e| failed("chmod", &dir, e))?;
                self.own(pod, &dir, false).map_err(|e| failed("set the owner of", &dir, e))?;
            }
            return Ok(dir);
        }
        if let Some(source) = &volume.host_path {
            host_path(source)?;
            return Ok(PathBuf::from(&source.path));
        }
        if let Some(path) = self.claimed(pod, volume).await {
            return path;
        }
        if let Some(path) = self.csi().inline(pod, volume).await {
            return path;
        }
        let plugin = if volume.config_map.is_some() {
            "configmap"
        } else if volume.secret.is_some() {
            "secret"
        } else if volume.downward_api.is_some() {
            "downward-api"
        } else if volume.projected.is_some() {
            "projected"
        } else {
            return Err(format!("no volume plugin matched volume \"{}\"", volume.name));
        };
        let payload = payload::collect(pod, volume, facts, self.objects.as_ref(), &self.tokens).await?;
        let dir = self.dir(pod, plugin, &volume.name);
        if !dir.exists() {
            fs::create_dir_all(&dir).map_err(|e| failed("create", &dir, e))?;
        }
        // Secrets never touch a disk.
        if plugin != "configmap" && !is_mount_point(&dir) {
            mount_tmpfs(&dir, None).map_err(|e| failed("mount tmpfs on", &dir, e))?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).map_err(|e| failed("chmod", &dir, e))?;
        }
        atomic::write(&dir, &payload, &|fresh| self.own(pod, fresh, true)).map_err(|e| failed("write", &dir, e))?;
        Ok(dir)
    }

    /// Gives a volume to the pod's fsGroup.
    fn own(&self, pod: &Pod, dir: &Path, read_only: bool) -> io::Result<()> {
        let group = pod::spec(pod).security_context.as_ref().and_then(|s| s.fs_group);
        match group.and_then(|g| u32::try_from(g).ok()) {
            Some(group) => set_group(dir, group, read_only),
            None => Ok(()),
        }
    }

    /// The host side of a subPath, bound to a place of its own so that nobody can swap it under the runtime.
    pub fn sub_path(
        &self,
        pod: &Pod,
        volume: (&str, &Path),
        container: &str,
        index: usize,
        sub_path: &str,
    ) -> Result<PathBuf, String> {
        let (name, base) = volume;
        let text = |e: io::Error| {
            format!("failed to prepare subPath for volumeMount {name:?} of container {container:?}: {e}")
        };
        let relative = Path::new(sub_path);
        if relative.is_absolute() || sub_path.split('/').any(|p| p == "..") {
            return Err(format!("invalid subPath {sub_path:?}"));
        }
        let root = rustix::fs::open(base, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| text(e.into()))?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let open = || rustix::fs::openat2(&root, relative, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath);
        let file = match open() {
            Ok(file) => file,
            Err(rustix::io::Errno::NOENT) => {
                // As the volume itself: who may write to it may write here.
                let mode = rustix::fs::fstat(&root).map_err(|e| text(e.into()))?.st_mode & 0o2777;
                make_beneath(&root, relative, mode).map_err(text)?;
                open().map_err(|e| text(e.into()))?
            }
            Err(e) => return Err(text(e.into())),
        };
        let is_dir = rustix::fs::fstat(&file).map_err(|e| text(e.into()))?.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let parent = self.pod_dir(pod::uid(pod)).join("volume-subpaths").join(name).join(container);
        let target = parent.join(index.to_string());
        fs::create_dir_all(&parent).map_err(text)?;
        if is_mount_point(&target) {
            rustix::mount::unmount(&target, UnmountFlags::DETACH).map_err(|e| text(e.into()))?;
        }
        match is_dir {
            true if !target.is_dir() => fs::create_dir(&target).map_err(text)?,
            false if !target.exists() => drop(fs::File::create(&target).map_err(text)?),
            _ => {}
        }
        let source = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        rustix::mount::mount_bind(&source, &target).map_err(|e| text(e.into()))?;
        Ok(target)
    }

    /// Unmounts and deletes everything of a pod. Idempotent.
    pub fn teardown(&self, uid: &str) -> io::Result<()> {
        self.tokens.forget(uid);
        self.claimed.lock().remove(uid);
        let dir = self.pod_dir(uid);
        if !dir.exists() {
            return Ok(());
        }
        let canonical = dir.canonicalize()?;
        let mut below = mount_points_below(&canonical);
        below.sort_by_key(|p| std::cmp::Reverse(p.as_os_str().len()));
        for point in below {
            rustix::mount::unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
        }
        if !mount_points_below(&canonical).is_empty() {
            return Err(io::Error::other("mounts remain"));
        }
        fs::remove_dir_all(&dir)
    }
}

/// Makes the folders of a path below an open folder, following no link out of it (`doSafeMakeDir`).
fn make_beneath(root: &std::os::fd::OwnedFd, relative: &Path, mode: u32) -> io::Result<()> {
    let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut at = PathBuf::new();
    for part in relative.components() {
        let parent = if at.as_os_str().is_empty() { PathBuf::from(".") } else { at.clone() };
        let folder = rustix::fs::openat2(
            root,
            &parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            beneath,
        )?;
        match rustix::fs::mkdirat(&folder, part.as_os_str(), Mode::from_raw_mode(mode)) {
            Ok(()) => {
                // The umask has no say.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let made = rustix::fs::openat2(&folder, part.as_os_str(), flags, Mode::empty(), beneath)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        at.push(part);
    }
    Ok(())
}

/// Whether a path is a mount point.
pub fn is_mount_point(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|p| mount_points_below(&p).contains(&p))
}

/// Mount points at or below a (canonical) folder.
fn mount_points_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = table.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape).map(PathBuf::from);
    points.filter(|p| p.starts_with(dir)).collect()
}

/// Octal escapes of the mount table.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let code = bytes
            .get(i + 1..i + 4)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match (bytes[i], code) {
            (b'\\', Some(code)) => {
                out.push(code);
                i += 4;
            }
            (b, _) => {
                out.push(b);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn mount_tmpfs(dir: &Path, limit: Option<i64>) -> io::Result<()> {
    let options = match limit {
        Some(bytes) => format!("size={bytes}"),
        None => "size=0".to_owned(),
    };
    let options = std::ffi::CString::new(options).unwrap_or_default();
    rustix::mount::mount("tmpfs", dir, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
        .map_err(io::Error::from)
}

/// Gives files and folders to a group, with the bits that make it useful.
pub(crate) fn set_group(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    std::os::unix::fs::lchown(path, None, Some(group))?;
    if metadata.file_type().is_symlink() {
        return Ok(());
    }
    let mut mode = metadata.permissions().mode() | if read_only { 0o440 } else { 0o660 };
    if metadata.is_dir() {
        mode |= 0o2110;
        for entry in fs::read_dir(path)? {
            set_group(&entry?.path(), group, read_only)?;
        }
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o7777))
}

/// Checks (and makes, where the type says so) a path of the host.
fn host_path(source: &HostPathVolumeSource) -> Result<(), String> {
    let path = Path::new(&source.path);
    let kind = source.type_.as_deref().unwrap_or_default();
    let failed = |e: io::Error| format!("hostPath {}: {e}", source.path);
    let metadata = fs::metadata(path).ok();
    let wrong = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", source.path));
    match kind {
        "" => Ok(()),
        "DirectoryOrCreate" if metadata.is_none() => {
            fs::create_dir_all(path).map_err(failed)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).map_err(failed)
        }
        "FileOrCreate" if metadata.is_none() => {
            drop(fs::OpenOptions::new().create(true).append(true).open(path).map_err(failed)?);
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).map_err(failed)
        }
        "Directory" | "DirectoryOrCreate" if !metadata.as_ref().is_some_and(fs::Metadata::is_dir) => {
            wrong("a directory")
        }
        "File" | "FileOrCreate" if !metadata.as_ref().is_some_and(fs::Metadata::is_file) => wrong("a file"),
        "Socket" if !metadata.as_ref().is_some_and(|m| m.file_type().is_socket()) => wrong("a socket file"),
        "CharDevice" if !metadata.as_ref().is_some_and(|m| m.file_type().is_char_device()) => {
            wrong("a character device")
        }
        "BlockDevice" if !metadata.as_ref().is_some_and(|m| m.file_type().is_block_device()) => wrong("a block device"),
        "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice" | "BlockDevice" => Ok(()),
        other => Err(format!("{other} is an invalid volume type")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_paths_are_checked() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let check = |path: &Path, kind: &str, ok: bool| {
            let source =
                HostPathVolumeSource { path: path.to_string_lossy().into_owned(), type_: Some(kind.to_owned()) };
            assert_eq!(host_path(&source).is_ok(), ok, "{} {kind}", path.display());
        };
        check(dir.path(), "Directory", true);
        check(dir.path(), "File", false);
        check(&dir.path().join("new/dir"), "DirectoryOrCreate", true);
        check(&dir.path().join("file"), "FileOrCreate", true);
        check(&dir.path().join("nothing"), "Directory", false);
        check(Path::new("/dev/null"), "CharDevice", true);
        check(&dir.path().join("nothing"), "", true);
        Ok(())
    }

    #[test]
    fn folders_of_a_sub_path_are_as_the_volume_is() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o2777))?;
        let root = rustix::fs::open(dir.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        make_beneath(&root, Path::new("some/where"), 0o2777)?;
        for path in ["some", "some/where"] {
            assert_eq!(fs::metadata(dir.path().join(path))?.permissions().mode() & 0o7777, 0o2777, "{path}");
        }
        std::os::unix::fs::symlink("/", dir.path().join("out"))?;
        assert!(make_beneath(&root, Path::new("out/orkd-must-not-be"), 0o777).is_err());
        Ok(())
    }

    #[test]
    fn mount_table_escapes() {
        assert_eq!(unescape("/a\\040b\\134"), "/a b\\");
        assert_eq!(unescape("/é"), "/é");
    }
}
