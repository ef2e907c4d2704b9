//! The containerd that orkd runs: its configuration, its start, its adoption after orkd was killed.
//!
//! Invariant: there is never more than one containerd for a root folder. A lock file held by the supervising
//! process keeps a second orkd out; a pid file names the containerd, and it is believed only if that process runs
//! with our configuration file on its command line.
//!
//! Invariant: the end of orkd is not the end of containerd. It runs in its own session, writes to its own log file,
//! and containers outlive both.

mod config;
pub mod pause;

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use orkd_cri::{Client, RuntimeService};
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::{Settings, has_sys_resource, render};

/// How long containerd may take to answer at its socket.
const START: Duration = Duration::from_secs(60);
/// The log is cut when it is larger than this at a start.
const MAX_LOG: u64 = 16 << 20;

/// What cannot be done about containerd. Each names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder.
    #[error("{what} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another orkd holds the lock.
    #[error("another orkd supervises the containerd in {}; stop it or give this one its own --data-dir", .0.display())]
    Locked(PathBuf),
    /// The program cannot be run.
    #[error("cannot run {}: {source}; install containerd or give --container-runtime-endpoint", .program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It ran and did not answer.
    #[error("containerd did not answer at its socket within {0:?}; its log is {log}", log = .1.display())]
    NoAnswer(Duration, PathBuf),
    /// It ended right away.
    #[error("containerd ended while starting; its log {log} ends with: {tail}", log = .0.display(), tail = .1)]
    Ended(PathBuf, String),
    /// A call failed.
    #[error("containerd: {0}")]
    Call(#[from] orkd_cri::Error),
}

/// Where the supervised containerd lives and what it is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program, `/usr/bin/containerd`.
    pub program: PathBuf,
    /// Persistent state; orkd's `<data-dir>/containerd`.
    pub root: PathBuf,
    /// Run-time state, a short path because of sockets; for example `/run/orkd/containerd`.
    pub state: PathBuf,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where CNI configuration is.
    pub cni_conf_dir: PathBuf,
    /// The folder of `hosts.toml` files.
    pub registry_config_dir: PathBuf,
}

impl Options {
    /// The usual places under a data folder.
    pub fn under(data_dir: &Path, run_dir: &Path) -> Self {
        let bins = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"].map(PathBuf::from);
        let cni_bin_dir =
            bins.iter().find(|d| d.join("loopback").exists()).cloned().unwrap_or_else(|| PathBuf::from("/opt/cni/bin"));
        Self {
            program: PathBuf::from("/usr/bin/containerd"),
            root: data_dir.join("containerd"),
            state: run_dir.join("containerd"),
            cni_bin_dir,
            cni_conf_dir: data_dir.join("cni/net.d"),
            registry_config_dir: PathBuf::from("/etc/containerd/certs.d"),
        }
    }

    /// The CRI socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// The generated configuration file.
    pub fn config_file(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// What containerd prints.
    pub fn log_file(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    fn pid_file(&self) -> PathBuf {
        self.root.join("containerd.pid")
    }

    fn settings(&self) -> Settings {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let overlay = std::fs::read_to_string("/proc/filesystems").unwrap_or_default().contains("\toverlay");
        Settings {
            root: self.root.join("root"),
            state: self.state.join("run"),
            socket: self.socket(),
            sandbox_image: pause::IMAGE.to_owned(),
            cni_bin_dir: self.cni_bin_dir.clone(),
            cni_conf_dir: self.cni_conf_dir.clone(),
            registry_config_dir: self.registry_config_dir.clone(),
            snapshotter: if overlay { "overlayfs" } else { "native" }.to_owned(),
            restrict_oom_score_adj: !has_sys_resource(&status),
        }
    }
}

/// A containerd that runs, and the right to supervise it.
pub struct Supervised {
    options: Options,
    client: Client,
    pid: u32,
    exited: AsyncFd<OwnedFd>,
    adopted: bool,
    _lock: File,
}

impl Supervised {
    /// Adopts the containerd that an earlier orkd left, or starts one, and imports the sandbox image.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let file = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { what, path, source }
        };
        for dir in [&options.root, &options.state, &options.cni_conf_dir] {
            std::fs::create_dir_all(dir).map_err(file("create", dir))?;
        }
        let lock_path = options.root.join("orkd.lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(file("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(Error::Locked(options.root.clone())),
            Err(std::fs::TryLockError::Error(source)) => return Err(file("lock", &lock_path)(source)),
        }
        let client = Client::new(&options.socket().to_string_lossy())?;
        let adopted = running(&options).and_then(|pid| watch(pid).map(|fd| (pid, fd)));
        let was_there = adopted.is_some();
        let (pid, exited) = match adopted {
            Some(found) => {
                tracing::info!(pid = found.0, "adopted the containerd that was running");
                found
            }
            None => spawn(&options)?,
        };
        let mut this = Self { options, client, pid, exited, adopted: was_there, _lock: lock };
        this.wait_ready().await?;
        Ok(this)
    }

    /// A client of it. It stays good over restarts.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it was running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Keeps it running until cancelled: starts it again when it ends, not faster than once a second and slower
    /// after failures. Its own end leaves containers running; their shims wait for the next one.
    pub async fn supervise(mut self, cancel: CancellationToken) {
        let mut delay = Duration::from_secs(1);
        loop {
            let since = Instant::now();
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = self.exited.readable() => {}
            }
            if since.elapsed() > Duration::from_secs(60) {
                delay = Duration::from_secs(1);
            }
            tracing::warn!(pid = self.pid, log = %self.options.log_file().display(), "containerd ended; starting it again");
            loop {
                tokio::select! {
                    () = cancel.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                delay = (delay * 2).min(Duration::from_secs(30));
                let started = match spawn(&self.options) {
                    Ok((pid, exited)) => {
                        (self.pid, self.exited) = (pid, exited);
                        self.wait_ready().await
                    }
                    Err(e) => Err(e),
                };
                match started {
                    Ok(()) => break,
                    Err(error) => tracing::error!(%error, "containerd does not start"),
                }
            }
        }
    }

    /// Ends it, for tests and for `uninstall`: SIGTERM, then SIGKILL after a while. Containers stay.
    pub async fn stop(self) {
        let pid = nix::unistd::Pid::from_raw(self.pid.cast_signed());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        if tokio::time::timeout(Duration::from_secs(10), self.exited.readable()).await.is_err() {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let _ = std::fs::remove_file(self.options.pid_file());
    }

    /// Waits until CRI answers, then sees to the sandbox image.
    async fn wait_ready(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        let log = self.options.log_file();
        loop {
            match tokio::time::timeout(Duration::from_secs(5), self.client.version()).await {
                Ok(Ok(version)) => {
                    tracing::info!(pid = self.pid, version = version.runtime_version, "containerd answers");
                    break;
                }
                _ if Instant::now() > deadline => return Err(Error::NoAnswer(START, log)),
                _ => {}
            }
            tokio::select! {
                _ = self.exited.readable() => return Err(Error::Ended(log.clone(), tail(&log))),
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
            }
        }
        match pause::Arch::host() {
            Some(arch) => pause::import(&self.client, arch).await?,
            None => tracing::warn!("no built-in sandbox image for this processor"),
        }
        Ok(())
    }
}

/// The pid of a containerd that runs with our configuration file.
fn running(options: &Options) -> Option<u32> {
    let pid: u32 = std::fs::read_to_string(options.pid_file()).ok()?.trim().parse().ok()?;
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let config = options.config_file();
    let ours = command.split(|b| *b == 0).any(|arg| arg == config.as_os_str().as_encoded_bytes());
    ours.then_some(pid)
}

/// A descriptor that becomes readable when the process ends.
fn watch(pid: u32) -> Option<AsyncFd<OwnedFd>> {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed())?;
    let fd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::NONBLOCK).ok()?;
    // SAFETY: the descriptor is owned by the AsyncFd and lives as long as its registration.
    unsafe { AsyncFd::register_with_interest(fd, tokio::io::Interest::READABLE).ok() }
}

fn spawn(options: &Options) -> Result<(u32, AsyncFd<OwnedFd>), Error> {
    let file = |what, path: PathBuf| move |source| Error::File { what, path, source };
    let config = options.config_file();
    write_atomically(&config, render(&options.settings()).as_bytes()).map_err(file("write", config.clone()))?;
    let log = options.log_file();
    let keep = std::fs::metadata(&log).map_or(0, |m| m.len()) <= MAX_LOG;
    let output = OpenOptions::new()
        .create(true)
        .write(true)
        .append(keep)
        .truncate(!keep)
        .open(&log)
        .map_err(file("open", log.clone()))?;
    let errors = output.try_clone().map_err(file("open", log))?;
    let mut command = Command::new(&options.program);
    command.arg("--config").arg(&config).stdin(Stdio::null()).stdout(output).stderr(errors);
    // SAFETY: setsid is async-signal-safe and touches no memory of ours.
    unsafe {
        command.pre_exec(|| rustix::process::setsid().map(drop).map_err(io::Error::from));
    }
    let mut child = command.spawn().map_err(|source| Error::Program { program: options.program.clone(), source })?;
    let pid = child.id();
    let exited = watch(pid).ok_or_else(|| Error::Program {
        program: options.program.clone(),
        source: io::Error::other("it ended at once"),
    })?;
    let pid_file = options.pid_file();
    write_atomically(&pid_file, format!("{pid}\n").as_bytes()).map_err(file("write", pid_file))?;
    // Reaps it; nobody else does as long as this process lives.
    std::thread::Builder::new()
        .name("reap-containerd".to_owned())
        .stack_size(64 << 10)
        .spawn(move || child.wait())
        .map_err(file("start a thread for", options.program.clone()))?;
    Ok((pid, exited))
}

/// Writes a file so that it is there whole or not at all.
pub(crate) fn write_atomically(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = File::create(&temporary)?;
    file.write_all(data)?;
    drop(file);
    std::fs::rename(temporary, path)
}

/// The last lines of a log, for an error.
fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
