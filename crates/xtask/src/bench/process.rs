//! What processes of this machine use, from `/proc`.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;

/// Clock ticks a second in `/proc/PID/stat`, as Linux has it on every architecture.
const TICKS: u64 = 100;

/// What some processes have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Processor time, of user and system.
    pub cpu: Duration,
    /// Resident memory.
    pub rss_mb: f64,
}

impl Usage {
    /// Reads it; a process that has gone counts nothing.
    pub fn of(pids: &[u32]) -> Usage {
        let mut usage = Usage::default();
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // The name may hold anything, spaces and brackets too.
            let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
            let tick = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
            usage.cpu += Duration::from_millis((tick(11) + tick(12)) * 1000 / TICKS);
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let rss = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
            usage.rss_mb += rss.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0;
        }
        usage
    }

    /// Processor time since an earlier reading.
    pub fn since(&self, before: &Usage) -> Duration {
        self.cpu.saturating_sub(before.cpu)
    }
}

/// How many processes wanted a core in the last minute.
pub fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The processes that listen on a TCP port.
pub fn listening(port: u16) -> Result<Vec<u32>> {
    let mut sockets = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in std::fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (Some(local), Some(&"0A"), Some(inode)) = (fields.get(1), fields.get(3), fields.get(9)) else {
                continue;
            };
            if local.ends_with(&format!(":{port:04X}")) {
                sockets.insert(format!("socket:[{inode}]"));
            }
        }
    }
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(files) = std::fs::read_dir(entry.path().join("fd")) else { continue };
        let holds = |f: std::fs::DirEntry| {
            std::fs::read_link(f.path()).is_ok_and(|to| to.to_str().is_some_and(|to| sockets.contains(to)))
        };
        if files.flatten().any(holds) {
            pids.push(pid);
        }
    }
    Ok(pids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_found_and_measured() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(listening(port).expect("read"), [std::process::id()]);
        assert!(Usage::of(&[std::process::id()]).rss_mb > 0.5);
        assert_eq!(Usage::of(&[u32::MAX]).cpu, Duration::ZERO);
    }
}
