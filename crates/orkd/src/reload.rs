//! Files that are followed while the server runs: what else stands in them is taken over without a restart; what makes
//! no sense leaves in force what was, and is told in the log and in metrics.
//!
//! Follows `pkg/kubeapiserver/authorizer/reload.go`, `server/options/encryptionconfig/controller` and
//! `server/dynamiccertificates` upstream, which look at their files when they change and once a minute; here a change
//! is seen at once, and what failed for a reason that may pass (a service that does not answer) is tried again.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use inotify::{Inotify, WatchMask};
use orkd_base::metrics::{Counter, Family, Gauge};
use orkd_base::{BoxError, Supervisor, TaskKind};
use orkd_store::envelope::hash;
use parking_lot::Mutex;

const STATUS: &[&str] = &["apiserver_id_hash", "status"];
const INFO: &[&str] = &["apiserver_id_hash", "hash"];

/// The metrics of the reloads of one file.
pub struct Meters {
    reloads: Family<Counter>,
    at: Family<Gauge>,
    info: Family<Gauge>,
}

macro_rules! meters {
    ($($name:ident: $subsystem:literal, $level:literal, $reloads:literal, $at:literal, $what:literal;)*) => {
        $(
            #[doc = concat!("The metrics of the ", $what, " configuration.")]
            pub static $name: Meters = Meters {
                reloads: Family::counter(
                    concat!("apiserver_", $subsystem, "_config_controller_automatic_reloads_total"),
                    concat!("[", $level, "] ", $reloads),
                    STATUS,
                ),
                at: Family::gauge(
                    concat!("apiserver_", $subsystem, "_config_controller_automatic_reload_last_timestamp_seconds"),
                    concat!("[", $level, "] ", $at),
                    STATUS,
                ),
                info: Family::gauge(
                    concat!("apiserver_", $subsystem, "_config_controller_last_config_info"),
                    concat!(
                        "[ALPHA] Information about the last applied ", $what,
                        " configuration with hash as label, split by apiserver identity."
                    ),
                    INFO,
                ),
            };
        )*
    };
}

meters! {
    AUTHENTICATION: "authentication", "BETA",
        "Total number of automatic reloads of authentication configuration split by status and apiserver identity.",
        "Timestamp of the last automatic reload of authentication configuration split by status and apiserver identity.",
        "authentication";
    AUTHORIZATION: "authorization", "BETA",
        "Total number of automatic reloads of authorization configuration split by status and apiserver identity.",
        "Timestamp of the last automatic reload of authorization configuration split by status and apiserver identity.",
        "authorization";
    ENCRYPTION: "encryption", "ALPHA",
        "Total number of reload successes and failures of encryption configuration split by apiserver identity.",
        "Timestamp of the last successful or failed automatic reload of encryption configuration split by apiserver \
         identity.",
        "encryption";
}

impl Meters {
    /// What is in force.
    fn applied(&'static self, server: &str, text: &str) {
        self.info.forget("apiserver_id_hash", server);
        self.info.with(&[server, &hash(text)]).set(1.0);
    }

    fn reloaded(&'static self, server: &str, status: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.reloads.with(&[server, status]).inc();
        self.at.with(&[server, status]).set(now.as_secs_f64());
    }
}

/// Takes over what stands in a file. The error is for the operator.
pub type Take = Arc<dyn Fn(String) -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A file to be followed.
pub struct Followed {
    /// What it is, for the log and the name of the task.
    pub what: &'static str,
    /// Where it is.
    pub path: PathBuf,
    /// What stood in it when the server started.
    pub text: String,
    /// Takes over something else.
    pub take: Take,
    /// Its metrics, if upstream has some.
    pub meters: Option<&'static Meters>,
    /// The hash of what the server is called, for them.
    pub server: String,
    /// After how long what was refused is tried again; never where only the file can be wrong.
    pub retry: Option<Duration>,
}

impl Followed {
    /// Follows the file from now on.
    pub fn run(self, supervisor: &Supervisor) {
        if let Some(meters) = self.meters {
            meters.applied(&self.server, &self.text);
        }
        let seen = Arc::new(Mutex::new(self.text.clone().into_bytes()));
        let this = Arc::new(self);
        supervisor.run(TaskKind::Housekeeping, this.what, move |stop| {
            let (this, seen) = (this.clone(), seen.clone());
            async move {
                tokio::select! {
                    () = stop.cancelled() => Ok(()),
                    ended = this.follow(&seen) => ended,
                }
            }
        });
    }

    async fn follow(&self, seen: &Mutex<Vec<u8>>) -> Result<(), BoxError> {
        let mut changes = Changes::of(&self.path)?;
        let mut refused = None;
        loop {
            let text = match (refused.take(), self.retry) {
                (Some(text), Some(pause)) => match tokio::time::timeout(pause, changes.next(seen)).await {
                    Ok(changed) => changed?,
                    Err(_) => text,
                },
                _ => changes.next(seen).await?,
            };
            match (self.take)(text.clone()).await {
                Ok(()) => {
                    tracing::info!(file = %self.path.display(), "the {} was taken over", self.what);
                    if let Some(meters) = self.meters {
                        meters.applied(&self.server, &text);
                        meters.reloaded(&self.server, "success");
                    }
                }
                Err(why) => {
                    tracing::error!(file = %self.path.display(), "the changed {} is not taken over: {why}", self.what);
                    if let Some(meters) = self.meters {
                        meters.reloaded(&self.server, "failure");
                    }
                    refused = Some(text);
                }
            }
        }
    }
}

/// The changes of what stands in a file.
struct Changes {
    path: PathBuf,
    events: inotify::EventStream<[u8; 4096]>,
}

impl Changes {
    fn of(path: &Path) -> std::io::Result<Self> {
        // The directory: editors and ConfigMap volumes put another file in the place of the old one.
        let directory = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let inotify = Inotify::init()?;
        inotify.watches().add(directory, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE)?;
        Ok(Changes { path: path.to_owned(), events: inotify.into_event_stream([0; 4096])? })
    }

    /// Waits until something else stands there than was seen last. A file that is gone or empty is about to be written.
    async fn next(&mut self, seen: &Mutex<Vec<u8>>) -> std::io::Result<String> {
        loop {
            let now = tokio::fs::read(&self.path).await.unwrap_or_default();
            if !now.is_empty() && *seen.lock() != now {
                seen.lock().clone_from(&now);
                return Ok(String::from_utf8_lossy(&now).into_owned());
            }
            match self.events.next().await {
                Some(event) => event?,
                None => return Err(std::io::Error::other("the file is watched no more")),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a follower of a file was given, in order.
    fn follower(path: &Path, retry: Option<Duration>) -> (Followed, tokio::sync::mpsc::UnboundedReceiver<String>) {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let take: Take = Arc::new(move |text: String| {
            let bad = text.starts_with("bad");
            tell.send(text).expect("somebody listens");
            Box::pin(async move { if bad { Err("it is bad".into()) } else { Ok(()) } })
        });
        let followed = Followed {
            what: "file of a test",
            path: path.to_owned(),
            text: "first".into(),
            take,
            meters: Some(&AUTHORIZATION),
            server: "sha256:of-a-test".into(),
            retry,
        };
        (followed, told)
    }

    fn count(status: &str) -> u64 {
        AUTHORIZATION.reloads.with(&["sha256:of-a-test", status]).get()
    }

    #[tokio::test]
    async fn changes_are_taken_over_and_counted() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        // It changed between the start of the server and the look of the follower.
        std::fs::write(&path, "second").expect("written");
        let (followed, mut told) = follower(&path, None);
        let supervisor = Supervisor::new();
        followed.run(&supervisor);
        assert_eq!(told.recv().await.as_deref(), Some("second"));
        // The same again is no change; another file in its place is one.
        std::fs::write(&path, "second").expect("written");
        std::fs::write(directory.path().join("new"), "bad third").expect("written");
        std::fs::rename(directory.path().join("new"), &path).expect("moved");
        assert_eq!(told.recv().await.as_deref(), Some("bad third"));
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(directory.path().join("new"), "fourth").expect("written");
        std::fs::rename(directory.path().join("new"), &path).expect("moved");
        assert_eq!(told.recv().await.as_deref(), Some("fourth"));
        let both = async {
            while count("success") < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), both).await.expect("counted");
        assert_eq!(count("failure"), 1);
        let mut text = String::new();
        orkd_base::metrics::render(&mut text);
        let shown = |text: &str| format!("hash=\"{}\"}} 1\n", hash(text));
        assert!(text.contains(&shown("fourth")) && !text.contains(&shown("second")), "{text}");
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "bad").expect("written");
        let (mut followed, mut told) = follower(&path, Some(Duration::from_millis(1)));
        followed.meters = None;
        followed.run(&Supervisor::new());
        for _ in 0..3 {
            assert_eq!(told.recv().await.as_deref(), Some("bad"));
        }
    }
}
