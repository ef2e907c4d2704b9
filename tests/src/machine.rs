//! A machine made of namespaces (network, mounts, processes, host name) on a switch of its own.
//!
//! Every [`Switch`] is a network namespace with a bridge; each [`Machine`] has one leg in it. The first process
//! of a machine's process namespace holds it: when that ends, the kernel ends everything else in there and the
//! interfaces go with the namespace, so that a failed test leaves nothing behind but cgroups, which are removed
//! on drop. A test that is killed takes its machines along.

use std::ffi::OsStr;
use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sched::CloneFlags;

use crate::eventually;

/// A layer-2 network between machines, 10.77.0.0/24, with 10.77.0.1 as its own address.
pub struct Switch {
    holder: Holder,
    next: AtomicU8,
}

/// A machine.
pub struct Machine {
    holder: Holder,
    /// Its host name.
    pub name: String,
    /// Its address on the switch.
    pub ip: Ipv4Addr,
    /// A directory for its files, removed on drop.
    pub dir: tempfile::TempDir,
    /// The cgroup below which its pods run.
    pub cgroup_root: String,
}

/// The process that keeps a set of namespaces alive.
struct Holder {
    child: Child,
    /// The process inside, as seen from here.
    inner: i32,
}

impl Holder {
    fn start(hostname: &str) -> Result<Holder> {
        // The shell reaps what is orphaned inside, as init does.
        let script =
            format!("hostname {hostname}; ip link set lo up; trap : TERM; while :; do sleep 1000 & wait; done");
        // The kernel ends `unshare` with the thread of the test that started it, and `unshare` its child with itself.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "unshare"])
            .args(["--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        let child = command.spawn().context("setpriv and unshare (util-linux) start")?;
        let outer = child.id();
        let inner = eventually("a namespace holder", Duration::from_secs(10), || {
            let path = format!("/proc/{outer}/task/{outer}/children");
            let text = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
            let pid = text.split_whitespace().next().and_then(|p| p.parse().ok()).ok_or("no child yet")?;
            Ok::<i32, String>(pid)
        })?;
        Ok(Holder { child, inner })
    }

    fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.inner.to_string(), "-n", "-m", "-u", "-i", "-p", "--"]).arg(program);
        command
    }

    fn sh(&self, script: &str) -> Result<String> {
        let out = self.command("sh").args(["-ec", script]).output().context("nsenter starts")?;
        ensure!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        Ok(String::from_utf8_lossy(&out.stdout).into_owned())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.inner);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

impl Switch {
    /// A switch with nothing on it.
    pub fn new() -> Result<Switch> {
        let holder = Holder::start("switch")?;
        holder.sh("ip link add br0 type bridge && ip addr add 10.77.0.1/24 dev br0 && ip link set br0 up")?;
        Ok(Switch { holder, next: AtomicU8::new(2) })
    }

    /// A new machine on this switch.
    pub fn machine(&self, name: &str) -> Result<Machine> {
        let holder = Holder::start(name)?;
        let host = self.next.fetch_add(1, Ordering::Relaxed);
        let ip = Ipv4Addr::new(10, 77, 0, host);
        let port = format!("p{host}");
        // Only the switch's network is entered, so that the machine is known by its pid out here.
        let link = format!(
            "ip link add {port} type veth peer name eth0 netns {pid} && ip link set {port} master br0 up",
            pid = holder.inner
        );
        let switch = self.holder.inner.to_string();
        let out = Command::new("nsenter").args(["-t", &switch, "-n", "sh", "-ec", &link]).output()?;
        ensure!(out.status.success(), "{link}: {}", String::from_utf8_lossy(&out.stderr));
        // Where runtimes and plugins keep things of one boot: this machine's end with it.
        holder
            .sh("for d in /run/netns /run/containerd /var/lib/cni; do mkdir -p $d && mount -t tmpfs tmpfs $d; done")?;
        holder.sh(&format!(
            "ip addr add {ip}/24 dev eth0 && ip link set eth0 up && ip route add default via 10.77.0.1"
        ))?;
        let dir = tempfile::Builder::new().prefix("orkd-").tempdir()?;
        let unique = dir.path().file_name().and_then(OsStr::to_str).unwrap_or(name).to_owned();
        Ok(Machine { holder, name: name.into(), ip, dir, cgroup_root: format!("/{unique}") })
    }
}

impl Machine {
    /// A command that runs on this machine.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        self.holder.command(program)
    }

    /// Runs a shell script on this machine; its standard output.
    pub fn sh(&self, script: &str) -> Result<String> {
        self.holder.sh(script)
    }

    /// Runs a command on this machine to its end.
    pub fn output(&self, program: &Path, args: &[&str]) -> Result<Output> {
        self.command(program).args(args).output().with_context(|| format!("{} starts", program.display()))
    }

    /// Starts a thread of this process in the network of this machine, with a runtime of its own.
    pub fn thread<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<JoinHandle<Result<T>>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        let network = std::fs::File::open(format!("/proc/{}/ns/net", self.holder.inner))?;
        Ok(std::thread::spawn(move || {
            nix::sched::setns(&network, CloneFlags::CLONE_NEWNET).context("cannot enter the network of a machine")?;
            // One thread: a second would be in the network this process came from.
            tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work())
        }))
    }

    /// Runs `work` in the network of this machine; what it gives.
    pub fn inside<T, F>(&self, work: impl FnOnce() -> F + Send + 'static) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>>,
    {
        joined(self.thread(work)?)
    }

    /// The pids and start times (in ticks since boot) of the processes with this command line.
    pub fn processes(&self, command: &str) -> Result<Vec<String>> {
        let script = format!(
            "for d in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' < $d/cmdline 2>/dev/null)\" = '{command} ' ] && \
             echo $(cut -d' ' -f1,22 $d/stat); done; true"
        );
        let mut found: Vec<String> = self.sh(&script)?.lines().map(str::to_owned).collect();
        found.sort();
        Ok(found)
    }

    /// Ends everything that runs on it at once, as a power cut would, and what the next boot does not find: mounts,
    /// interfaces, rules, what is kept below `/run`. Its files stay.
    pub fn power_off(&self) -> Result<()> {
        // The second time for what was being started at the first.
        self.sh("kill -9 -1 || true; sleep 0.2; kill -9 -1 || true; sleep 0.2")?;
        let (dir, run) = (self.dir.path().display(), self.path("data/run"));
        self.sh(&format!(
            "awk '$5 ~ \"^({dir}|/run/netns|/run/containerd|/var/lib/cni)\" {{ print $5 }}' /proc/self/mountinfo | \
             sort -r | while read -r at; do umount -l \"$at\" || true; done
             for d in /run/netns /run/containerd /var/lib/cni; do mount -t tmpfs tmpfs $d; done
             for i in $(ip -o link | cut -d: -f2 | cut -d@ -f1); do
               case $i in lo|eth0) ;; *) ip link del $i 2>/dev/null || true ;; esac
             done
             for t in nat filter mangle raw; do iptables -t $t -F && iptables -t $t -X; done; true"
        ))?;
        let _ = std::fs::remove_dir_all(run);
        remove_cgroups(self.cgroup_root.trim_start_matches('/'));
        Ok(())
    }

    /// Pulls its plug out of the switch, or puts it in again.
    pub fn connected(&self, yes: bool) -> Result<()> {
        self.sh(&format!(
            "ip link set eth0 {}",
            if yes { "up && ip route add default via 10.77.0.1" } else { "down" }
        ))?;
        Ok(())
    }

    /// The process that holds this machine, as seen from outside.
    pub fn init(&self) -> i32 {
        self.holder.inner
    }

    /// A path in this machine's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts a process on this machine that logs to a file in its directory.
    pub fn spawn(&self, program: &Path, args: &[String], log: &str) -> Result<Process> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(self.path(log))?;
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("{} starts", program.display()))?;
        Ok(Process { child, log: self.path(log) })
    }
}

/// What a thread gives when it ends.
pub fn joined<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

impl Drop for Machine {
    fn drop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.holder.inner);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        let _ = self.holder.child.wait();
        remove_cgroups(self.cgroup_root.trim_start_matches('/'));
    }
}

/// Removes the cgroup `name` below every mounted hierarchy, innermost first.
fn remove_cgroups(name: &str) {
    fn remove(dir: &Path) {
        let Ok(entries) = std::fs::read_dir(dir) else { return };
        for entry in entries.flatten().filter(|e| e.path().is_dir()) {
            remove(&entry.path());
        }
        let _ = std::fs::remove_dir(dir);
    }
    let Ok(mounts) = std::fs::read_to_string("/proc/mounts") else { return };
    for line in mounts.lines() {
        let mut fields = line.split_whitespace().skip(1);
        if let (Some(at), Some("cgroup" | "cgroup2")) = (fields.next(), fields.next()) {
            remove(&Path::new(at).join(name));
        }
    }
}

/// A process of a machine.
pub struct Process {
    child: Child,
    /// Its output.
    pub log: PathBuf,
}

impl Process {
    /// The pid of the process itself (not of the helper that entered the namespaces), as seen from here.
    pub fn pid(&self) -> i32 {
        let outer = self.child.id();
        // nsenter forks once for the process namespace.
        std::fs::read_to_string(format!("/proc/{outer}/task/{outer}/children"))
            .ok()
            .and_then(|t| t.split_whitespace().next().and_then(|p| p.parse().ok()))
            .unwrap_or(outer as i32)
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> Result<std::process::ExitStatus> {
        let child = &mut self.child;
        eventually("a process to end", limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("still running".into()),
            Err(e) => Err(e.to_string()),
        })
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    /// The last lines of its output.
    pub fn tail(&self, lines: usize) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.has_ended() {
            self.signal(nix::sys::signal::Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
