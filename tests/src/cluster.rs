//! A cluster under test: `orkd server` on a machine, and agents on others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually;
use crate::kubectl::{self, Kubectl};
use crate::machine::{Machine, Process, Switch};

/// A server on a machine of its own.
pub struct Cluster {
    /// The orkd process; `None` while it is stopped.
    pub server: Option<Process>,
    /// The machine it runs on.
    pub machine: Machine,
    /// The network, for further machines.
    pub switch: Switch,
    /// The binary that is started.
    pub binary: PathBuf,
    args: Vec<String>,
}

impl Cluster {
    /// A server without a node: API server, controllers, scheduler.
    pub fn control_plane(extra: &[&str]) -> Result<Cluster> {
        let mut args = vec!["--disable-agent"];
        args.extend(extra);
        Cluster::start(&args)
    }

    /// A server that is a node as well, with the test image loaded.
    pub fn node(extra: &[&str]) -> Result<Cluster> {
        let cluster = Cluster::start(extra)?;
        cluster.wait_ready("server")?;
        load_busybox(&cluster.machine)?;
        Ok(cluster)
    }

    /// A server with a node and no image.
    pub fn start(extra: &[&str]) -> Result<Cluster> {
        let mut cluster = Cluster::prepare(extra)?;
        cluster.boot()?;
        Ok(cluster)
    }

    /// A machine on which nothing runs yet; [`Cluster::launch`] or [`Cluster::boot`] start the server. `extra` may
    /// have another log level than the tests'.
    pub fn prepare(extra: &[&str]) -> Result<Cluster> {
        let switch = Switch::new()?;
        let machine = switch.machine("server")?;
        let mut args = vec!["server".to_owned()];
        args.push(format!("--write-kubeconfig={}", machine.path("admin.kubeconfig").display()));
        args.extend(node_args(&machine));
        if extra.iter().any(|a| a.starts_with("--log-level=")) {
            args.retain(|a| !a.starts_with("--log-level="));
        }
        args.extend(extra.iter().map(|a| (*a).to_owned()));
        Ok(Cluster { server: None, machine, switch, binary: crate::orkd(), args })
    }

    /// Adds flags for the next start.
    pub fn argue(&mut self, more: &[String]) {
        self.args.extend_from_slice(more);
    }

    /// Starts the server and waits for nothing.
    pub fn launch(&mut self) -> Result<()> {
        self.server = Some(self.machine.spawn(&self.binary, &self.args, "server.log")?);
        Ok(())
    }

    /// Starts the server (again) and waits until it answers.
    pub fn boot(&mut self) -> Result<()> {
        self.launch()?;
        let mut process = self.server.take().context("it was started")?;
        let kubeconfig = self.kubeconfig();
        let ready = eventually("the server to be ready", Duration::from_secs(60), || {
            if process.has_ended() {
                return Err(format!("orkd has ended:\n{}", process.tail(30)));
            }
            if !kubeconfig.exists() {
                return Err("no kubeconfig yet".into());
            }
            let out = self
                .machine
                .sh("curl -ksf --max-time 2 https://127.0.0.1:6443/readyz")
                .map_err(|e| format!("{e}; log:\n{}", process.tail(20)))?;
            if out.trim() == "ok" { Ok(()) } else { Err(out) }
        });
        self.server = Some(process);
        ready
    }

    /// Ends the server at once, as a crash or a power cut would.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.server.take().context("the server runs")?;
        process.signal(nix::sys::signal::Signal::SIGKILL);
        process.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// Asks the server to end, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        let mut process = self.server.take().context("the server runs")?;
        process.signal(nix::sys::signal::Signal::SIGTERM);
        let status = process.wait(Duration::from_secs(30))?;
        ensure!(status.success(), "orkd ends with {status}:\n{}", process.tail(30));
        Ok(())
    }

    /// Ends the machine of the server as a power cut would ([`Machine::power_off`]).
    pub fn power_off(&mut self) -> Result<()> {
        self.machine.power_off()?;
        self.server.take().context("the server runs")?.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// A token with which machines join.
    pub fn token(&self, ttl: &str) -> Result<String> {
        let kubeconfig = self.kubeconfig().display().to_string();
        let out = self.machine.output(&self.binary, &["token", "create", "--ttl", ttl, "--kubeconfig", &kubeconfig])?;
        ensure!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned())
    }

    /// Another machine on the switch, which joins as a node. It is not waited for.
    pub fn join(&self, name: &str) -> Result<Agent> {
        let machine = self.switch.machine(name)?;
        let server = format!("https://{}:6443", self.machine.ip);
        let args = agent_args(&machine, &server, &self.token("1h")?);
        let mut agent = Agent { process: None, machine, binary: self.binary.clone(), args };
        agent.boot()?;
        Ok(agent)
    }

    /// The administrator's credential.
    pub fn kubeconfig(&self) -> PathBuf {
        self.machine.path("admin.kubeconfig")
    }

    /// The newest kubectl with the administrator's credential.
    pub fn kubectl(&self) -> Result<Kubectl<'_>> {
        Ok(self.kubectl_of(kubectl::newest()?))
    }

    /// A given kubectl with the administrator's credential.
    pub fn kubectl_of(&self, binary: PathBuf) -> Kubectl<'_> {
        Kubectl { machine: &self.machine, binary, kubeconfig: self.kubeconfig() }
    }

    /// The end of the server's log.
    pub fn log(&self) -> String {
        self.server.as_ref().map(|p| p.tail(60)).unwrap_or_default()
    }

    /// Waits until a node is Ready.
    pub fn wait_ready(&self, node: &str) -> Result<()> {
        let kubectl = self.kubectl()?;
        eventually(&format!("node {node} to be Ready"), Duration::from_secs(60), || {
            let object = kubectl.json(&format!("get node {node}")).map_err(|e| format!("{e}\n{}", self.log()))?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
            if ready["status"] == "True" { Ok(()) } else { Err(format!("{ready}\n{}", self.log())) }
        })
    }
}

/// A machine with `orkd agent`.
pub struct Agent {
    /// The process; `None` while it is stopped.
    pub process: Option<Process>,
    /// The machine it runs on.
    pub machine: Machine,
    binary: PathBuf,
    args: Vec<String>,
}

impl Agent {
    /// Starts the agent (again); it is not waited for.
    pub fn boot(&mut self) -> Result<()> {
        self.process = Some(self.machine.spawn(&self.binary, &self.args, "agent.log")?);
        Ok(())
    }

    /// Ends the machine as a power cut would ([`Machine::power_off`]).
    pub fn power_off(&mut self) -> Result<()> {
        self.machine.power_off()?;
        self.process.take().context("the agent runs")?.wait(Duration::from_secs(10))?;
        Ok(())
    }

    /// The end of its log.
    pub fn log(&self) -> String {
        self.process.as_ref().map(|p| p.tail(60)).unwrap_or_default()
    }
}

/// The flags of an agent that joins.
pub fn agent_args(machine: &Machine, server: &str, token: &str) -> Vec<String> {
    let mut args = vec!["agent".to_owned(), format!("--join={server}"), format!("--token={token}")];
    args.extend(node_args(machine));
    args
}

/// The flags by which several nodes share this computer.
pub fn node_args(machine: &Machine) -> Vec<String> {
    vec![
        format!("--data-dir={}", machine.path("data").display()),
        format!("--node-name={}", machine.name),
        format!("--node-ip={}", machine.ip),
        format!("--cgroup-root={}", machine.cgroup_root),
        format!("--pod-log-dir={}", machine.path("pod-logs").display()),
        format!("--registry-config-dir={}", machine.path("registries.d").display()),
        // How full the disk of this computer is says nothing about the test.
        "--eviction-hard=memory.available<50Mi".into(),
        "--log-level=info,orkd=debug".into(),
    ]
}

/// Loads `orkd.local/busybox:latest` into the containerd of a machine.
pub fn load_busybox(machine: &Machine) -> Result<()> {
    let archive = busybox_archive(machine)?;
    import(machine, &archive)
}

/// Makes the archive of `orkd.local/busybox:latest` in the directory of a machine.
pub fn busybox_archive(machine: &Machine) -> Result<PathBuf> {
    let archive = machine.path("busybox.tar");
    let script = crate::root().join("deploy/busybox-image.sh");
    let out = std::process::Command::new(script).arg(&archive).output()?;
    ensure!(out.status.success(), "busybox-image.sh: {}", String::from_utf8_lossy(&out.stderr));
    Ok(archive)
}

/// The archive of `orkd.local/postgres:latest`, which `tests/tools.sh` makes; `None` (said) where it is not at hand.
pub fn postgres_archive() -> Option<PathBuf> {
    let path = std::env::var_os("ORKD_TOOLS").map(|d| PathBuf::from(d).join("postgres.tar"));
    let found = path.filter(|p| p.is_file());
    if found.is_none() {
        println!("skipped: no postgres.tar (tests/tools.sh makes it)");
    }
    found
}

/// Imports an archive of images into the containerd of a machine.
pub fn import(machine: &Machine, archive: &Path) -> Result<()> {
    machine.sh(&format!(
        "ctr --address {} -n k8s.io images import {}",
        machine.path("data/run/containerd/containerd.sock").display(),
        archive.display()
    ))?;
    Ok(())
}
