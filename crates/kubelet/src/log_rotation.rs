//! Rotation of container logs: a log larger than 10 MiB becomes `N.log.TIME`, the runtime opens a new one, older ones
//! are compressed, and five files are kept. Follows upstream `pkg/kubelet/logs/container_log_manager.go`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use orkd_cri::Runtime;
use tokio_util::sync::CancellationToken;

use crate::pod::keys;

/// How large a log may grow.
const MAX_SIZE: u64 = 10 << 20;
/// How many files of a container are kept, the current one included.
const MAX_FILES: usize = 5;
/// How often sizes are looked at.
const PERIOD: Duration = Duration::from_secs(10);

/// A log to rotate.
#[derive(Debug, PartialEq, Eq)]
struct Large {
    path: PathBuf,
    uid: String,
    container: String,
}

/// Rotates logs until cancelled.
pub async fn run(log_dir: PathBuf, runtime: Arc<dyn Runtime>, cancel: CancellationToken) {
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(PERIOD) => {}
        }
        for large in find(&log_dir, MAX_SIZE) {
            if let Err(error) = rotate(&large, runtime.as_ref()).await {
                tracing::warn!(path = %large.path.display(), error, "log not rotated");
            }
        }
    }
}

/// The current logs that are too large: `LOGS/NS_NAME_UID/CONTAINER/N.log`, the highest N of each container.
fn find(log_dir: &Path, max: u64) -> Vec<Large> {
    let folders = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let mut out = Vec::new();
    for pod in folders(log_dir) {
        let Some(uid) = pod.file_name().and_then(|n| n.to_str()).and_then(|n| n.rsplit('_').next()) else { continue };
        for container in folders(&pod) {
            let number = |p: &PathBuf| p.file_name()?.to_str()?.strip_suffix(".log")?.parse::<u32>().ok();
            let newest = folders(&container).into_iter().filter_map(|p| number(&p).map(|n| (n, p))).max();
            let Some((_, path)) = newest else { continue };
            if fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() > max) {
                let container = container.file_name().unwrap_or_default().to_string_lossy().into_owned();
                out.push(Large { path, uid: uid.to_owned(), container });
            }
        }
    }
    out
}

async fn rotate(large: &Large, runtime: &dyn Runtime) -> Result<(), String> {
    let labels = HashMap::from([
        (keys::POD_UID.to_owned(), large.uid.clone()),
        (keys::CONTAINER_NAME.to_owned(), large.container.clone()),
    ]);
    let containers = runtime.list_containers(labels).await.map_err(|e| e.to_string())?;
    let running = i32::from(orkd_cri::v1::ContainerState::ContainerRunning);
    let Some(container) = containers.iter().find(|c| c.state == running) else { return Ok(()) };
    prune(&large.path).map_err(|e| e.to_string())?;
    let mut name = large.path.as_os_str().to_owned();
    name.push(Timestamp::now().strftime(".%Y%m%d-%H%M%S").to_string());
    let rotated = PathBuf::from(name);
    fs::rename(&large.path, &rotated).map_err(|e| e.to_string())?;
    if let Err(error) = runtime.reopen_container_log(&container.id).await {
        // The runtime goes on writing to the file it has; it gets its name back.
        let _ = fs::rename(&rotated, &large.path);
        return Err(error.to_string());
    }
    Ok(())
}

/// Compresses rotated logs and removes the oldest, so that there is room for one more.
fn prune(path: &Path) -> io::Result<()> {
    let Some(dir) = path.parent() else { return Ok(()) };
    let prefix = format!("{}.", path.file_name().unwrap_or_default().to_string_lossy());
    let mut rotated: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(&prefix) {
            match name.ends_with(".tmp") {
                true => fs::remove_file(entry.path())?,
                false => rotated.push(entry.path()),
            }
        }
    }
    rotated.sort();
    // The current one and the one about to be made count too.
    let excess = (rotated.len() + 2).saturating_sub(MAX_FILES);
    for old in rotated.drain(..excess.min(rotated.len())) {
        fs::remove_file(old)?;
    }
    for old in rotated.iter().filter(|p| p.extension().is_none_or(|e| e != "gz")) {
        let with = |suffix: &str| {
            let mut name = old.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let temporary = with(".tmp");
        let mut encoder = GzEncoder::new(File::create(&temporary)?, Compression::fast());
        io::copy(&mut File::open(old)?, &mut encoder)?;
        encoder.finish()?;
        fs::rename(temporary, with(".gz"))?;
        fs::remove_file(old)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_log_is_measured_and_old_ones_go() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let container = dir.path().join("ns_pod_uid-1/app");
        fs::create_dir_all(&container)?;
        fs::write(container.join("0.log"), [0; 100])?;
        fs::write(container.join("1.log"), [0; 20])?;
        assert_eq!(find(dir.path(), 50), []);
        let path = container.join("1.log");
        assert_eq!(
            find(dir.path(), 10),
            [Large { path: path.clone(), uid: "uid-1".to_owned(), container: "app".to_owned() }]
        );
        for n in 0..6 {
            fs::write(container.join(format!("1.log.2026010{n}-000000")), b"x")?;
        }
        prune(&path)?;
        let mut names: Vec<_> =
            fs::read_dir(&container)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            ["0.log", "1.log", "1.log.20260103-000000.gz", "1.log.20260104-000000.gz", "1.log.20260105-000000.gz"]
        );
        Ok(())
    }
}
