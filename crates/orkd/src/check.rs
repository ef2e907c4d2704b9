//! `orkd check`: whether this machine can run orkd, and what to do where it cannot.
//!
//! Each check is one function and one line in [`ALL`]. The server runs the same list before it starts a node and
//! prints what fails.

use std::fmt;
use std::path::{Path, PathBuf};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// All is well; the text says what was seen.
    Good(String),
    /// orkd runs, but something will not work.
    Warning {
        /// What was seen.
        seen: String,
        /// What to do.
        remedy: String,
    },
    /// orkd cannot run here.
    Failure {
        /// What was seen.
        seen: String,
        /// What to do.
        remedy: String,
    },
}

impl Finding {
    fn failure(seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::Failure { seen: seen.into(), remedy: remedy.into() }
    }

    fn warning(seen: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding::Warning { seen: seen.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Good(seen) => write!(f, "ok      {seen}"),
            Finding::Warning { seen, remedy } => write!(f, "warning {seen}; remedy: {remedy}"),
            Finding::Failure { seen, remedy } => write!(f, "FAILED  {seen}; remedy: {remedy}"),
        }
    }
}

/// A check: its name, whether only nodes need it, and what looks.
type Check = (&'static str, bool, fn() -> Finding);

/// Every check, in the order they are printed.
const ALL: &[Check] = &[
    ("user", true, user),
    ("containerd", true, containerd),
    ("runc", true, || program("runc", "apt-get install runc")),
    ("iptables", true, || program("iptables-restore", "apt-get install iptables")),
    ("ip", true, || program("ip", "apt-get install iproute2")),
    ("conntrack", true, conntrack),
    ("cni plugins", true, cni_plugins),
    ("overlay", true, overlay),
    ("cgroups", true, cgroups),
    ("ip forwarding", true, forwarding),
    ("swap", true, swap),
    ("memory", false, memory),
    ("clock", false, clock),
];

/// Runs the checks; those of nodes only where `node`.
pub fn run(node: bool) -> Vec<(&'static str, Finding)> {
    ALL.iter().filter(|(_, node_only, _)| node || !node_only).map(|(name, _, look)| (*name, look())).collect()
}

/// Prints every finding; whether none is a failure.
pub fn print(node: bool) -> bool {
    let findings = run(node);
    for (name, finding) in &findings {
        println!("{name:14} {finding}");
    }
    !findings.iter().any(|(_, f)| matches!(f, Finding::Failure { .. }))
}

/// The first file called `name` in the directories of `$PATH` and the system's usual ones.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
    std::env::split_paths(&path).chain(usual.iter().map(PathBuf::from)).map(|d| d.join(name)).find(|p| p.is_file())
}

fn program(name: &str, remedy: &str) -> Finding {
    match find_program(name) {
        Some(path) => Finding::Good(path.display().to_string()),
        None => Finding::failure(format!("no {name} on the path"), remedy),
    }
}

fn user() -> Finding {
    if nix::unistd::geteuid().is_root() {
        Finding::Good("root".into())
    } else {
        Finding::failure("not root", "run orkd with sudo, or only its control plane: orkd server --disable-agent")
    }
}

fn containerd() -> Finding {
    program("containerd", "apt-get install containerd, or name a runtime with --container-runtime-endpoint")
}

fn conntrack() -> Finding {
    match find_program("conntrack") {
        Some(path) => Finding::Good(path.display().to_string()),
        None => Finding::warning("no conntrack: UDP flows to removed endpoints linger", "apt-get install conntrack"),
    }
}

fn cni_plugins() -> Finding {
    let wanted = ["bridge", "host-local", "portmap", "loopback"];
    for dir in ["/usr/lib/cni", "/opt/cni/bin"] {
        if wanted.iter().all(|p| Path::new(dir).join(p).is_file()) {
            return Finding::Good(dir.into());
        }
    }
    Finding::failure("no CNI plugins in /usr/lib/cni or /opt/cni/bin", "apt-get install containernetworking-plugins")
}

fn overlay() -> Finding {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if filesystems.lines().any(|l| l.split_whitespace().last() == Some("overlay")) {
        Finding::Good("overlay file system".into())
    } else {
        Finding::failure("the kernel has no overlay file system", "modprobe overlay")
    }
}

fn cgroups() -> Finding {
    let unified = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let has = |controller: &&&str| match &unified {
        Some(list) => list.split_whitespace().any(|c| c == **controller),
        None => Path::new("/sys/fs/cgroup").join(controller).is_dir(),
    };
    let missing: Vec<&str> = ["cpu", "memory", "pids"].iter().filter(|c| !has(c)).copied().collect();
    if missing.is_empty() {
        Finding::Good(format!("version {} with cpu, memory, pids", if unified.is_some() { 2 } else { 1 }))
    } else {
        let remedy = "enable them on the kernel command line, such as cgroup_enable=memory, and mount /sys/fs/cgroup";
        Finding::failure(format!("cgroup controllers missing: {}", missing.join(", ")), remedy)
    }
}

fn forwarding() -> Finding {
    match std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward") {
        Ok(text) if text.trim() == "1" => Finding::Good("on".into()),
        Ok(_) => Finding::Good("off; orkd turns it on".into()),
        Err(e) => Finding::failure(format!("cannot read net.ipv4.ip_forward: {e}"), "mount /proc"),
    }
}

fn swap() -> Finding {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() > 1 { Finding::Good("on; pods do not use it".into()) } else { Finding::Good("off".into()) }
}

fn memory() -> Finding {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let available = text
        .lines()
        .find_map(|l| l.strip_prefix("MemAvailable:"))
        .and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
    match available {
        Some(kib) if kib < 128 * 1024 => {
            Finding::warning(format!("{} MiB available", kib / 1024), "orkd itself needs about 60 MiB; free some")
        }
        Some(kib) => Finding::Good(format!("{} MiB available", kib / 1024)),
        None => Finding::Good("unknown".into()),
    }
}

fn clock() -> Finding {
    let now = jiff::Timestamp::now();
    if now < jiff::Timestamp::constant(1_767_225_600, 0) {
        Finding::failure(format!("the clock says {now}"), "set it: certificates made now would not be valid elsewhere")
    } else {
        Finding::Good(now.strftime("%Y-%m-%d %H:%M UTC").to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_failure_has_a_remedy() {
        let mut names: Vec<_> = ALL.iter().map(|(name, ..)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for (name, finding) in run(true) {
            if let Finding::Failure { remedy, .. } | Finding::Warning { remedy, .. } = finding {
                assert!(!remedy.is_empty(), "{name}");
            }
        }
    }
}
