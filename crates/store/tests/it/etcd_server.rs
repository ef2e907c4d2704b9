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

fn free_port() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("a free port")
}

impl EtcdServer {
    /// Starts one; `None`, and a line that says so, where etcd is not installed.
    pub fn start(test: &str) -> Option<Self> {
        Self::start_with(test, None)
    }

    /// The same with TLS and client certificates.
    pub fn start_with(test: &str, tls: Option<&TlsFiles>) -> Option<Self> {
        Self::start_members(test, 1, tls)?.pop()
    }

    /// Starts the members of one cluster.
    pub fn start_cluster(test: &str, members: usize) -> Option<Vec<Self>> {
        Self::start_members(test, members, None)
    }

    fn start_members(test: &str, members: usize, tls: Option<&TlsFiles>) -> Option<Vec<Self>> {
        let Some(binary) = find_binary() else {
            eprintln!("skipped: {test}: no etcd on this machine (Debian package etcd-server)");
            return None;
        };
        let directory = Arc::new(tempfile::tempdir().expect("a directory"));
        let scheme = if tls.is_some() { "https" } else { "http" };
        // Held until all are known, so that no port is given twice.
        let ports: Vec<(TcpListener, TcpListener)> = (0..members).map(|_| (free_port(), free_port())).collect();
        let port = |listener: &TcpListener| listener.local_addr().expect("address").port();
        let urls: Vec<(String, String)> = ports
            .iter()
            .map(|(client, peer)| {
                (format!("{scheme}://127.0.0.1:{}", port(client)), format!("http://127.0.0.1:{}", port(peer)))
            })
            .collect();
        drop(ports);
        let cluster: Vec<String> =
            urls.iter().enumerate().map(|(number, (_, peer))| format!("member{number}={peer}")).collect();
        let member = |(number, (endpoint, peer)): (usize, &(String, String))| {
            let mut arguments: Vec<String> = [
                "--name",
                &format!("member{number}"),
                "--data-dir",
                &directory.path().join(format!("data{number}")).display().to_string(),
                "--listen-client-urls",
                endpoint,
                "--advertise-client-urls",
                endpoint,
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
                "--initial-cluster",
                &cluster.join(","),
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
            let log = directory.path().join(format!("log{number}"));
            let mut server = Self {
                process: None,
                binary: binary.clone(),
                arguments,
                endpoint: endpoint.clone(),
                log,
                _directory: directory.clone(),
            };
            server.restart();
            server
        };
        Some(urls.iter().enumerate().map(member).collect())
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
