//! Images that no container uses go when the disk they are on fills up, those used longest ago first. Follows upstream
//! `pkg/kubelet/images/image_gc_manager.go`.
//!
//! [`Ledger`] remembers when each image was seen first and used last, and names the victims (pure); [`Collector`]
//! looks at the runtime and its disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use orkd_cri::{Runtime, v1};
use orkd_reconcile::{EventType, Recorder};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::containerd::pause;
use crate::node_events;
use crate::stats::disk;

/// How often the disk is looked at (`ImageGCPeriod`).
const PERIOD: Duration = Duration::from_secs(300);

/// When images go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// From how many per cent of the disk in use on images go; 100 for never.
    pub high_percent: u8,
    /// Down to how many per cent.
    pub low_percent: u8,
    /// How long an image stays in any case: it may have been pulled for a container that is about to start.
    pub min_age: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, min_age: Duration::from_secs(120) }
    }
}

/// How full a disk is, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    /// What can be used of it at all.
    pub capacity: u64,
    /// What can still be written.
    pub available: u64,
}

impl Policy {
    /// How many bytes must go; `None` while there is room.
    pub fn to_free(&self, disk: Disk) -> Option<u64> {
        let (capacity, available) = (u128::from(disk.capacity), u128::from(disk.available.min(disk.capacity)));
        let used = 100 - (available * 100).checked_div(capacity)?;
        if self.high_percent >= 100 || used < u128::from(self.high_percent) {
            return None;
        }
        let wanted = capacity * (100 - u128::from(self.low_percent.min(100))) / 100;
        u64::try_from(wanted.saturating_sub(available)).ok().filter(|bytes| *bytes > 0)
    }
}

/// What is remembered of an image.
#[derive(Debug, Clone)]
struct Entry {
    /// When it was seen first; `None` if it was there before this kubelet.
    seen: Option<Instant>,
    /// When a container had it last.
    used: Option<Instant>,
    size: u64,
    kept: bool,
}

/// The images of a node, by id, over time.
#[derive(Debug, Default)]
pub struct Ledger {
    entries: BTreeMap<String, Entry>,
    looked: bool,
}

/// An image that may go, and its size.
pub type Victim = (String, u64);

impl Ledger {
    /// Notes what is there and what containers have (ids or names of images).
    pub fn observe(&mut self, images: &[v1::Image], in_use: &HashSet<String>, now: Instant) {
        let seen = std::mem::replace(&mut self.looked, true).then_some(now);
        let there: HashSet<&str> = images.iter().map(|i| i.id.as_str()).collect();
        self.entries.retain(|id, _| there.contains(id.as_str()));
        for image in images {
            let names = || std::iter::once(&image.id).chain(&image.repo_tags).chain(&image.repo_digests);
            let entry =
                self.entries.entry(image.id.clone()).or_insert(Entry { seen, used: None, size: 0, kept: false });
            if names().any(|name| in_use.contains(name)) {
                entry.used = Some(now);
            }
            entry.size = image.size;
            // Runtimes before the field pinned do not say that their sandboxes need an image.
            entry.kept = image.pinned || names().any(|name| name == pause::IMAGE);
        }
    }

    /// The images to remove for so many bytes: unused now and not new, those used longest ago first.
    pub fn victims(&self, bytes: u64, min_age: Duration, now: Instant) -> Vec<Victim> {
        let mut free: Vec<(&String, &Entry)> = self
            .entries
            .iter()
            .filter(|(_, e)| !e.kept && e.used.is_none_or(|used| used < now))
            .filter(|(_, e)| e.seen.is_none_or(|seen| now.duration_since(seen) >= min_age))
            .collect();
        free.sort_by_key(|(_, e)| (e.used, e.seen));
        let mut freed = 0;
        let enough = |(id, e): (&String, &Entry)| {
            if freed >= bytes {
                return None;
            }
            freed += e.size;
            Some((id.clone(), e.size))
        };
        free.into_iter().map_while(enough).collect()
    }
}

/// Why too little was freed; the texts are upstream's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime does not answer.
    #[error("{0}")]
    Runtime(#[from] orkd_cri::Error),
    /// The disk says that it has no size.
    #[error("invalid capacity 0 on image filesystem")]
    NoCapacity,
    /// There was not enough that could go.
    #[error(
        "Failed to garbage collect required amount of images. Attempted to free {wanted} bytes, but only found {freed} \
         bytes eligible to free."
    )]
    TooLittle {
        /// Bytes that should have gone.
        wanted: u64,
        /// Bytes that went.
        freed: u64,
    },
    /// Images could not be removed.
    #[error("wanted to free {wanted} bytes, but freed {freed} bytes space with errors in image deletion: {why}")]
    NotRemoved {
        /// Bytes that should have gone.
        wanted: u64,
        /// Bytes that went.
        freed: u64,
        /// The first failure.
        why: orkd_cri::Error,
    },
}

impl Error {
    /// What the event is called.
    fn reason(&self) -> &'static str {
        match self {
            Error::NoCapacity => "InvalidDiskCapacity",
            Error::TooLittle { .. } => "FreeDiskSpaceFailed",
            Error::Runtime(_) | Error::NotRemoved { .. } => "ImageGCFailed",
        }
    }
}

/// Removes images as far as the policy wants it; how many bytes went.
pub async fn collect(
    runtime: &dyn Runtime,
    ledger: &mut Ledger,
    policy: Policy,
    disk: Disk,
    now: Instant,
) -> Result<u64, Error> {
    observe(runtime, ledger, now).await?;
    if disk.capacity == 0 {
        return Err(Error::NoCapacity);
    }
    let Some(wanted) = policy.to_free(disk) else { return Ok(0) };
    tracing::info!(wanted, capacity = disk.capacity, available = disk.available, "images go: the disk is full");
    match free(runtime, ledger.victims(wanted, policy.min_age, now)).await {
        (freed, Some(why)) => Err(Error::NotRemoved { wanted, freed, why }),
        (freed, None) if freed < wanted => Err(Error::TooLittle { wanted, freed }),
        (freed, None) => Ok(freed),
    }
}

/// Notes which images there are and which are in use.
async fn observe(runtime: &dyn Runtime, ledger: &mut Ledger, now: Instant) -> Result<(), Error> {
    let containers = runtime.list_containers(HashMap::new()).await?;
    // A container that has ended may start again, and its image with it.
    let names = containers.into_iter().flat_map(|c| [Some(c.image_ref), c.image.map(|i| i.image)]);
    let in_use = names.flatten().filter(|name| !name.is_empty()).collect();
    ledger.observe(&runtime.list_images().await?, &in_use, now);
    Ok(())
}

/// Removes images; how many bytes went, and the first failure.
async fn free(runtime: &dyn Runtime, victims: Vec<Victim>) -> (u64, Option<orkd_cri::Error>) {
    let (mut freed, mut failure) = (0, None);
    for (id, size) in victims {
        tracing::info!(image = id, size, "removing an image that is not used");
        match runtime.remove_image(v1::ImageSpec { image: id, ..v1::ImageSpec::default() }).await {
            Ok(()) => freed += size,
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    (freed, failure)
}

/// How full the disk of the images is.
async fn disk_of_images(runtime: &dyn Runtime) -> Result<Disk, Error> {
    let info = runtime.image_fs_info().await?;
    let mountpoint = info.image_filesystems.into_iter().find_map(|fs| fs.fs_id).map(|id| id.mountpoint);
    let found = mountpoint.and_then(|path| disk::filesystem(path.as_ref()));
    Ok(found.map_or(Disk::default(), |fs| Disk { capacity: fs.reachable(), available: fs.available }))
}

/// Removes images of a node, as the disk fills up or when told to.
pub struct Collector {
    runtime: Arc<dyn Runtime>,
    policy: Policy,
    ledger: Mutex<Ledger>,
}

impl Collector {
    /// Removes images of a runtime by a policy.
    pub fn new(runtime: Arc<dyn Runtime>, policy: Policy) -> Collector {
        Collector { runtime, policy, ledger: Mutex::default() }
    }

    /// Keeps the disk of the images from filling up, until cancelled.
    pub async fn run(self: Arc<Self>, node: String, recorder: Recorder, stop: CancellationToken) {
        let about = node_events::reference(&node);
        let runtime = self.runtime.as_ref();
        loop {
            let pass = async {
                let disk = disk_of_images(runtime).await?;
                collect(runtime, &mut *self.ledger.lock().await, self.policy, disk, Instant::now()).await
            };
            if let Err(error) = pass.await {
                tracing::warn!(%error, "image garbage collection");
                recorder.event(&about, EventType::Warning, error.reason(), error.to_string());
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    /// Removes every image that is not in use and not new (`DeleteUnusedImages`); how many bytes went.
    ///
    /// # Errors
    /// The runtime does not answer, or does not remove an image.
    pub async fn remove_unused(&self) -> Result<u64, Error> {
        let (runtime, now) = (self.runtime.as_ref(), Instant::now());
        let mut ledger = self.ledger.lock().await;
        observe(runtime, &mut ledger, now).await?;
        match free(runtime, ledger.victims(u64::MAX, self.policy.min_age, now)).await {
            (freed, Some(why)) => Err(Error::NotRemoved { wanted: u64::MAX, freed, why }),
            (freed, None) => Ok(freed),
        }
    }
}

#[cfg(test)]
mod tests {
    use orkd_cri::{Fake, ImageService};

    use super::*;

    fn check_need(capacity: u64, available: u64, expected: Option<u64>) {
        assert_eq!(Policy::default().to_free(Disk { capacity, available }), expected, "{available} of {capacity}");
    }

    #[test]
    fn images_go_from_the_high_mark_down_to_the_low_one() {
        check_need(1000, 1000, None);
        check_need(1000, 160, None);
        check_need(1000, 150, Some(50));
        check_need(1000, 0, Some(200));
        check_need(1000, 2000, None);
        check_need(0, 0, None);
        check_need(u64::MAX, 0, Some(u64::MAX / 5));
        let never = Policy { high_percent: 100, ..Policy::default() };
        assert_eq!(never.to_free(Disk { capacity: 1000, available: 0 }), None);
    }

    fn image(id: &str, size: u64) -> v1::Image {
        v1::Image { id: id.to_owned(), size, repo_tags: vec![format!("{id}:latest")], ..v1::Image::default() }
    }

    fn ids(victims: &[Victim]) -> Vec<&str> {
        victims.iter().map(|(id, _)| id.as_str()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn those_used_longest_ago_go_first() {
        let (policy, mut ledger) = (Policy::default(), Ledger::default());
        let used = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<HashSet<String>>();
        let pinned = v1::Image { pinned: true, ..image("pinned", 5) };
        let pause = v1::Image { repo_tags: vec![pause::IMAGE.to_owned()], ..image("pause", 5) };
        let mut images = vec![image("a", 10), image("b", 10), image("c", 10), pinned, pause];
        ledger.observe(&images, &used(&["a", "b:latest"]), Instant::now());
        tokio::time::advance(Duration::from_secs(300)).await;
        images.push(image("new", 10));
        ledger.observe(&images, &used(&["b:latest"]), Instant::now());
        let now = Instant::now();
        // c was never used, a is not any more; b is in use, new is new, and what sandboxes need stays.
        assert_eq!(ids(&ledger.victims(100, policy.min_age, now)), ["c", "a"]);
        assert_eq!(ids(&ledger.victims(10, policy.min_age, now)), ["c"]);
        assert_eq!(ids(&ledger.victims(11, policy.min_age, now)), ["c", "a"]);
        assert!(ledger.victims(0, policy.min_age, now).is_empty());
        tokio::time::advance(policy.min_age).await;
        let now = Instant::now();
        assert_eq!(ids(&ledger.victims(100, policy.min_age, now)), ["c", "new", "a", "b"]);
        // What is gone is forgotten.
        ledger.observe(&images[..1], &used(&[]), now);
        assert_eq!(ids(&ledger.victims(100, policy.min_age, now)), ["a"]);
    }

    #[tokio::test]
    async fn a_full_disk_loses_its_unused_images() {
        let runtime = Fake::new();
        runtime.add_image("example.com/one:1");
        runtime.add_image("example.com/two:1");
        let count = async || runtime.list_images().await.map_or(0, |images| images.len());
        let size = runtime.list_images().await.expect("images")[0].size;
        let (mut ledger, policy, now) = (Ledger::default(), Policy::default(), Instant::now());
        let roomy = Disk { capacity: 100, available: 50 };
        assert_eq!(collect(&runtime, &mut ledger, policy, roomy, now).await.expect("nothing to do"), 0);
        assert_eq!(count().await, 2);
        // A fifth of this disk is one image.
        let full = Disk { capacity: size * 5, available: 0 };
        assert_eq!(collect(&runtime, &mut ledger, policy, full, now).await.expect("one goes"), size);
        assert_eq!(count().await, 1);
        let large = Disk { capacity: size * 50, available: 0 };
        let error = collect(&runtime, &mut ledger, policy, large, now).await.expect_err("one is not enough");
        assert_eq!(count().await, 0);
        let text = format!(
            "Failed to garbage collect required amount of images. Attempted to free {} bytes, but only found {size} bytes \
             eligible to free.",
            size * 10
        );
        assert_eq!((error.reason(), error.to_string()), ("FreeDiskSpaceFailed", text));
        let error = collect(&runtime, &mut ledger, policy, Disk::default(), now).await.expect_err("no disk");
        assert_eq!(
            (error.reason(), error.to_string().as_str()),
            ("InvalidDiskCapacity", "invalid capacity 0 on image filesystem")
        );
    }

    #[tokio::test]
    async fn all_that_nobody_uses_goes_when_told_to() {
        let runtime = Arc::new(Fake::new());
        runtime.add_image("example.com/one:1");
        let policy = Policy { min_age: Duration::ZERO, ..Policy::default() };
        let collector = Collector::new(runtime.clone(), policy);
        assert!(collector.remove_unused().await.expect("it goes") > 0);
        assert!(runtime.list_images().await.expect("images").is_empty());
        assert_eq!(collector.remove_unused().await.expect("nothing is left"), 0);
    }
}
