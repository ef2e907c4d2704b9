//! A control plane of the binary that is measured, in processes of their own on the loopback address.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::http::{Client, Target};

/// How long a server may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// The binary to measure: `$ORKD_BIN`, or the release build.
pub fn binary() -> Result<PathBuf> {
    let path = match std::env::var_os("ORKD_BIN") {
        Some(path) => PathBuf::from(path),
        None => release()?.join("orkd"),
    };
    ensure!(path.is_file(), "{} is not there: cargo build --release -p orkd", path.display());
    Ok(path)
}

/// Where release builds are.
pub fn release() -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    Ok(target.map_or_else(|| crate::workspace().map(|w| w.join("target")), Ok)?.join("release"))
}

/// A process that ends when it is dropped.
pub struct Process(Child);

impl Process {
    /// Starts a program; what it says goes to a file.
    pub fn start(program: &Path, args: &[&str], log: &Path) -> Result<Process> {
        let log = std::fs::File::create(log)?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process(command.spawn().with_context(|| program.display().to_string())?))
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    fn has_ended(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|status| status.is_some())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing of what is measured outlives the measurement: no need to ask.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `orkd server` without a node. Its data go when it is dropped.
pub struct Server {
    process: Process,
    dir: tempfile::TempDir,
}

impl Server {
    /// Starts one on an empty directory and waits until it answers.
    pub async fn start(extra: &[&str]) -> Result<Server> {
        let dir = tempfile::tempdir()?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let (listen, data, kubeconfig) = (format!("127.0.0.1:{port}"), path("data"), path("admin.kubeconfig"));
        let mut args = vec!["server", "--disable-agent", "--log-level=warn", "--listen", &listen];
        args.extend(["--data-dir", &data, "--write-kubeconfig", &kubeconfig]);
        args.extend(extra);
        let process = Process::start(&binary()?, &args, &dir.path().join("server.log"))?;
        let mut server = Server { process, dir };
        server.wait().await?;
        Ok(server)
    }

    async fn wait(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            let answers = async {
                let client = self.client().await?;
                anyhow::Ok(client.send("GET", "/readyz", String::new(), &[]).await?.code == 200)
            };
            if answers.await.unwrap_or(false) {
                return Ok(());
            }
            if self.process.has_ended() || start.elapsed() > LIMIT {
                bail!("the server does not answer:\n{}", self.log());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The administrator's credential.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.path().join("admin.kubeconfig")
    }

    /// A connection as administrator.
    pub async fn client(&self) -> Result<Client> {
        let clients = Client::several(&Target::load(&self.kubeconfig())?, 1).await?;
        clients.into_iter().next().context("no connection")
    }

    /// The server's process.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Starts another program beside it, which is given the credential's file after `args`.
    pub fn beside(&self, program: &Path, args: &[&str], more: &[&str]) -> Result<Process> {
        let kubeconfig = self.kubeconfig().display().to_string();
        let name = args.first().copied().unwrap_or("beside");
        let log = self.dir.path().join(format!("{}.log", name.trim_start_matches('-')));
        let all: Vec<&str> = args.iter().copied().chain([kubeconfig.as_str()]).chain(more.iter().copied()).collect();
        Process::start(program, &all, &log)
    }

    /// What the server said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }
}
