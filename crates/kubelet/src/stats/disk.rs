//! How full file systems are, and how much folders hold.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// For how long the size of a folder is believed at most (`volumeStatsAggPeriod`): it is costly to find out.
const MOST: Duration = Duration::from_secs(60);
/// For how long it is believed in any case.
const LEAST: Duration = Duration::from_secs(5);
/// In between it is believed for so many times what it took to find out.
const WORTH: u32 = 100;
/// The most files a folder is measured with; what has more is told as unknown rather than for minutes.
const MOST_FILES: u64 = 200_000;

/// A file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filesystem {
    /// Its size in bytes.
    pub capacity: u64,
    /// Bytes that anybody may still take.
    pub available: u64,
    /// Bytes in use.
    pub used: u64,
    /// How many files it can have.
    pub inodes: u64,
    /// How many it can still take.
    pub inodes_free: u64,
}

impl Filesystem {
    /// What is in use and what may still be taken, in bytes; how full a disk is, is a share of this. What is set aside for
    /// others (reserved blocks) is nobody's room: upstream counts it as such, and calls a disk full of which a third is
    /// free. `df` counts as we do.
    pub fn reachable(&self) -> u64 {
        self.used.saturating_add(self.available)
    }
}

/// The file system that a path is on.
pub fn filesystem(path: &Path) -> Option<Filesystem> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(Filesystem {
        capacity: stat.f_blocks * stat.f_frsize,
        available: stat.f_bavail * stat.f_frsize,
        used: stat.f_blocks.saturating_sub(stat.f_bfree) * stat.f_frsize,
        inodes: stat.f_files,
        inodes_free: stat.f_ffree,
    })
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Bytes on the disk.
    pub bytes: u64,
    /// Files and folders.
    pub inodes: u64,
}

impl std::ops::AddAssign for Held {
    fn add_assign(&mut self, other: Held) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// Measures a folder: no link is followed, no other file system is entered, a file with several names counts once.
/// `None` if it is not there or has more than `most` files.
pub fn held(path: &Path, most: u64) -> Option<Held> {
    let root = std::fs::symlink_metadata(path).ok()?;
    let mut held = Held { bytes: root.blocks() * 512, inodes: 1 };
    let mut seen = HashSet::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        // What goes away meanwhile is not there.
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.dev() != root.dev()
                || (metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert(metadata.ino()))
            {
                continue;
            }
            held += Held { bytes: metadata.blocks() * 512, inodes: 1 };
            if held.inodes > most {
                return None;
            }
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Some(held)
}

/// A size, and until when it is believed.
type Believed = (Instant, Option<Held>);

/// Sizes of folders as measured lately.
#[derive(Debug, Default)]
pub struct Folders(Mutex<HashMap<PathBuf, Believed>>);

impl Folders {
    /// What a folder holds, or held a short while ago.
    pub fn held(&self, path: &Path) -> Option<Held> {
        let started = Instant::now();
        if let Some((until, known)) = self.0.lock().get(path)
            && started < *until
        {
            return *known;
        }
        let measured = held(path, MOST_FILES);
        let now = Instant::now();
        let until = now + believed_for(now - started);
        let mut known = self.0.lock();
        known.retain(|_, (until, _)| now < *until);
        known.insert(path.to_owned(), (until, measured));
        measured
    }
}

/// For how long a size is believed that took so long to find out: a hundredth of the time is spent on measuring, at most.
fn believed_for(took: Duration) -> Duration {
    took.saturating_mul(WORTH).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_measured_without_leaving_it() -> std::io::Result<()> {
        let (dir, other) = (tempfile::tempdir()?, tempfile::tempdir()?);
        std::fs::write(other.path().join("big"), vec![1; 1 << 20])?;
        std::fs::create_dir(dir.path().join("below"))?;
        std::fs::write(dir.path().join("below/a"), vec![1; 8192])?;
        std::fs::hard_link(dir.path().join("below/a"), dir.path().join("again"))?;
        std::os::unix::fs::symlink(other.path(), dir.path().join("out"))?;
        let got = held(dir.path(), 100).expect("measured");
        assert_eq!(got.inodes, 4, "itself, the folder, the file once, the link");
        assert!((8192..200_000).contains(&got.bytes), "{got:?}");
        assert_eq!(held(dir.path(), 3), None, "too many");
        assert_eq!(held(&dir.path().join("nothing"), 100), None);
        Ok(())
    }

    #[test]
    fn sizes_are_believed_for_a_while() -> std::io::Result<()> {
        let dir = tempfile::tempdir()?;
        let folders = Folders::default();
        let first = folders.held(dir.path());
        std::fs::write(dir.path().join("a"), "x")?;
        assert_eq!(folders.held(dir.path()), first);
        let check = |took: u64, seconds: u64| {
            assert_eq!(believed_for(Duration::from_millis(took)), Duration::from_secs(seconds), "{took} ms");
        };
        check(0, 5);
        check(200, 20);
        check(10_000, 60);
        Ok(())
    }

    #[test]
    fn a_file_system_has_room() {
        let root = filesystem(Path::new("/")).expect("there is one");
        assert!(root.capacity >= root.used && root.available <= root.capacity, "{root:?}");
        assert!(root.available <= root.reachable() && root.reachable() <= root.capacity, "{root:?}");
        assert_eq!(filesystem(Path::new("/nothing/here")), None);
    }
}
