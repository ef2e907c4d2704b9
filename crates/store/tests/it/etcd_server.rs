//! A real etcd for tests: Debian's, on free ports of the loopback address, with its files in a temporary directory.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use orkd_store::Error;
use orkd_store::backends::etcd::{Etcd, EtcdOptions};

/// A running etcd, stopped when dropped.
pub struct EtcdServer {
    process: Option<Child>,
    binary: PathBuf,
    arguments: Vec<String>,
    /// Where clients reach it.
    pub endpoint: String,
    log: PathBuf,
    _directory: Arc<tempfile::TempDir>,
}

/// Files of a certificate authority with one certificate.
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

fn find_binary() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    directories.push("/usr/bin".into());
    directories.into_iter().map(|directory| directory.join("etcd")).find(|file| file.is_file())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("address").port()
}

impl EtcdServer {
    /// Starts one; `None`, and a line that says so, where etcd is not installed.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, None)
    }

    pub fn start_with(test: &str, tls: Option<&TlsFiles>) -> Option<Self> {
        let Some(binary) = find_binary() else {
            eprintln!("skipped: {test}: no etcd on this machine (Debian package etcd-server)");
            return None;
        };
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://127.0.0.1:{}", free_port());
        let peer = format!("http://127.0.0.1:{}", free_port());
        let mut arguments: Vec<String> = [
            "--data-dir",
            &directory.path().join("data").display().to_string(),
            "--listen-client-urls",
            &endpoint,
            "--advertise-client-urls",
            &endpoint,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &format!("default={peer}"),
            "--max-request-bytes",
            "4000000",
        ]
        .map(str::to_string)
        .to_vec();
        if let Some(files) = tls {
            let show = |path: &Path| path.display().to_string();
            arguments.extend(["--cert-file".to_string(), show(&files.cert)]);
            arguments.extend(["--key-file".to_string(), show(&files.key)]);
            arguments.extend(["--trusted-ca-file".to_string(), show(&files.ca)]);
            arguments.push("--client-cert-auth".to_string());
        }
        let log = directory.path().join("log");
        let mut server = Self { process: None, binary, arguments, endpoint, log, _directory: directory };
        server.restart();
        Some(server)
    }

    /// Starts the process, again on the same data.
    pub fn restart(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(&self.log).expect("log");
        let process = Command::new(&self.binary)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log"))
            .stderr(log)
            .spawn()
            .expect("etcd starts");
        self.process = Some(process);
    }

    /// Kills the process.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().expect("etcd can be killed");
            process.wait().expect("etcd ends");
        }
    }

    pub fn options(&self) -> EtcdOptions {
        EtcdOptions { endpoints: vec![self.endpoint.clone()], ..EtcdOptions::default() }
    }

    /// A store, as soon as etcd answers.
    pub async fn connect(&self, options: EtcdOptions) -> Etcd {
        let started = Instant::now();
        loop {
            match Etcd::connect(options.clone()).await {
                Ok(store) => return store,
                Err(Error::Unavailable(_)) if started.elapsed() < Duration::from_secs(30) => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => {
                    let log = std::fs::read_to_string(&self.log).unwrap_or_default();
                    panic!("etcd does not answer: {error}\n{log}")
                }
            }
        }
    }
}

impl Drop for EtcdServer {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
