//! What cgroups and the machine say they used (pure).
//!
//! Follows the figures of cAdvisor (`container/libcontainer/handler.go`): the working set is what is charged less the
//! files that were not touched lately, a limit above [`UNLIMITED`] is none.

use crate::cgroup::Version;

/// cgroup v1 writes the largest number there is for "no limit".
const UNLIMITED: u64 = 1 << 62;

/// Nanoseconds of a tick of `/proc/stat`; the kernel shows ticks of 10 ms whatever it uses itself.
const TICK: u64 = 10_000_000;

/// What a cgroup used until now. What the host does not count is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Nanoseconds of all cores since the cgroup was made.
    pub cpu: Option<u64>,
    /// Memory now.
    pub memory: Option<Memory>,
    /// Swap now.
    pub swap: Option<Swap>,
    /// Processes now, not counting those of cgroups below.
    pub processes: Option<u64>,
}

/// Bytes of memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Everything that is charged.
    pub usage: u64,
    /// What cannot be taken away without harm.
    pub working_set: u64,
    /// What is no file.
    pub rss: u64,
    /// Page faults so far.
    pub faults: u64,
    /// Those that read from a disk.
    pub major_faults: u64,
    /// The most it may use, where there is a limit.
    pub limit: Option<u64>,
}

/// Bytes of swap.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swap {
    /// In use.
    pub usage: u64,
    /// The most it may use, where there is a limit.
    pub limit: Option<u64>,
}

/// The usage of a cgroup whose files are read by `read` (controller of v1, name of the file).
pub fn of_cgroup(version: Version, read: impl Fn(&str, &str) -> Option<String>) -> Usage {
    let number = |controller: &str, file: &str| read(controller, file)?.trim().parse::<u64>().ok();
    let processes = read("memory", "cgroup.procs").map(|t| t.lines().count() as u64);
    match version {
        Version::V1 => {
            let stat = read("memory", "memory.stat").unwrap_or_default();
            let memory = number("memory", "memory.usage_in_bytes").map(|usage| Memory {
                usage,
                working_set: usage.saturating_sub(field(&stat, "total_inactive_file").unwrap_or(0)),
                rss: field(&stat, "total_rss").unwrap_or(0),
                faults: field(&stat, "total_pgfault").unwrap_or(0),
                major_faults: field(&stat, "total_pgmajfault").unwrap_or(0),
                limit: number("memory", "memory.limit_in_bytes").filter(|l| *l < UNLIMITED),
            });
            let swap = field(&stat, "total_swap").map(|usage| Swap { usage, limit: None });
            Usage { cpu: number("cpuacct", "cpuacct.usage"), memory, swap, processes }
        }
        Version::V2 => {
            let memory = number("memory", "memory.current").map(|usage| {
                let stat = read("memory", "memory.stat").unwrap_or_default();
                Memory {
                    usage,
                    working_set: usage.saturating_sub(field(&stat, "inactive_file").unwrap_or(0)),
                    rss: field(&stat, "anon").unwrap_or(0),
                    faults: field(&stat, "pgfault").unwrap_or(0),
                    major_faults: field(&stat, "pgmajfault").unwrap_or(0),
                    // `max` is no number.
                    limit: number("memory", "memory.max"),
                }
            });
            let swap = number("memory", "memory.swap.current")
                .map(|usage| Swap { usage, limit: number("memory", "memory.swap.max") });
            let cpu = read("cpu", "cpu.stat").and_then(|stat| field(&stat, "usage_usec"));
            Usage { cpu: cpu.map(|micros| micros.saturating_mul(1000)), memory, swap, processes }
        }
    }
}

/// The memory and swap of the machine, from `/proc/meminfo` and `/proc/vmstat`.
pub fn of_machine(meminfo: &str, vmstat: &str) -> (Option<Memory>, Option<Swap>) {
    let bytes = |name: &str| field(meminfo, name).map(|kilobytes| kilobytes.saturating_mul(1024));
    let memory = bytes("MemTotal:").zip(bytes("MemFree:")).map(|(total, free)| {
        let usage = total.saturating_sub(free);
        Memory {
            usage,
            working_set: usage.saturating_sub(bytes("Inactive(file):").unwrap_or(0)),
            rss: bytes("AnonPages:").unwrap_or(0),
            faults: field(vmstat, "pgfault").unwrap_or(0),
            major_faults: field(vmstat, "pgmajfault").unwrap_or(0),
            limit: Some(total),
        }
    });
    let swap = bytes("SwapTotal:").zip(bytes("SwapFree:"));
    (memory, swap.map(|(total, free)| Swap { usage: total.saturating_sub(free), limit: Some(total) }))
}

/// Nanoseconds that all cores of the machine were busy, from `/proc/stat`; for hosts whose root cgroup does not say.
pub fn busy(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|l| l.strip_prefix("cpu "))?;
    let ticks: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { return None };
    Some((user + nice + system + irq + softirq).saturating_mul(TICK))
}

/// When the machine started, in seconds, from `/proc/stat`.
pub fn boot_time(stat: &str) -> Option<i64> {
    stat.lines().find_map(|l| l.strip_prefix("btime "))?.trim().parse().ok()
}

/// A number of a file of lines `NAME NUMBER`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok()).flatten()
    })
}

/// What went through a network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Errors in receiving.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Errors in sending.
    pub tx_errors: u64,
}

/// The interfaces of `/proc/PID/net/dev`, without the loopback and the host's ends of pods
/// (`container/libcontainer`, `isIgnoredDevice`).
pub fn interfaces(dev: &str) -> Vec<Interface> {
    let parse = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers.split_whitespace().map_while(|n| n.parse().ok()).collect();
        let name = name.trim();
        let [rx_bytes, _, rx_errors, _, _, _, _, _, tx_bytes, _, tx_errors, ..] = numbers[..] else { return None };
        let wanted = name != "lo" && !name.starts_with("veth");
        wanted.then(|| Interface { name: name.to_owned(), rx_bytes, rx_errors, tx_bytes, tx_errors })
    };
    dev.lines().filter_map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_read_in_both_hierarchies() {
        let check = |version: Version, files: &[(&str, &str)], expected: Usage| {
            let read = |controller: &str, file: &str| {
                let v1 = format!("{controller}/{file}");
                let wanted = if version == Version::V1 { v1.as_str() } else { file };
                files.iter().find(|(name, _)| *name == wanted).map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(of_cgroup(version, read), expected);
        };
        check(
            Version::V1,
            &[
                ("cpuacct/cpuacct.usage", "1651682813443\n"),
                ("memory/memory.usage_in_bytes", "5000\n"),
                ("memory/memory.limit_in_bytes", "9223372036854771712\n"),
                (
                    "memory/memory.stat",
                    "cache 1\nrss 7\ninactive_file 9\ntotal_rss 70\ntotal_pgfault 5\ntotal_pgmajfault 2\ntotal_swap \
                     3\ntotal_inactive_file 1000\n",
                ),
                ("memory/cgroup.procs", "12\n13\n"),
            ],
            Usage {
                cpu: Some(1_651_682_813_443),
                memory: Some(Memory {
                    usage: 5000,
                    working_set: 4000,
                    rss: 70,
                    faults: 5,
                    major_faults: 2,
                    limit: None,
                }),
                swap: Some(Swap { usage: 3, limit: None }),
                processes: Some(2),
            },
        );
        check(
            Version::V2,
            &[
                ("cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n"),
                ("memory.current", "5000\n"),
                ("memory.max", "8192\n"),
                ("memory.stat", "anon 70\nfile 4\ninactive_file 6000\npgfault 5\npgmajfault 2\n"),
                ("memory.swap.current", "3\n"),
                ("memory.swap.max", "max\n"),
                ("cgroup.procs", ""),
            ],
            Usage {
                cpu: Some(1_500_000),
                memory: Some(Memory {
                    usage: 5000,
                    // Never below nothing: the two files are read one after the other.
                    working_set: 0,
                    rss: 70,
                    faults: 5,
                    major_faults: 2,
                    limit: Some(8192),
                }),
                swap: Some(Swap { usage: 3, limit: None }),
                processes: Some(0),
            },
        );
        check(Version::V1, &[], Usage::default());
        check(Version::V2, &[("cpu.stat", "nr_periods 0\n"), ("memory.current", "x")], Usage::default());
    }

    #[test]
    fn the_machine_is_read_from_proc() {
        let meminfo = "MemTotal:        8000 kB\nMemFree:         3000 kB\nInactive(file):  1000 kB\nAnonPages: 500 kB\n\
                       SwapTotal:  0 kB\nSwapFree: 0 kB\n";
        let (memory, swap) = of_machine(meminfo, "pgfault 9\npgmajfault 1\n");
        let expected = Memory {
            usage: 5000 << 10,
            working_set: 4000 << 10,
            rss: 500 << 10,
            faults: 9,
            major_faults: 1,
            limit: Some(8000 << 10),
        };
        assert_eq!((memory, swap), (Some(expected), Some(Swap { usage: 0, limit: Some(0) })));
        assert_eq!(of_machine("", ""), (None, None));
        let stat = "cpu  100 1 20 5000 7 2 3 4 0 0\ncpu0 1 1 1 1 1 1 1 1\nbtime 1700000000\n";
        assert_eq!(busy(stat), Some(126 * TICK));
        assert_eq!(boot_time(stat), Some(1_700_000_000));
        assert_eq!((busy("cpu 1 2\n"), boot_time("")), (None, None));
    }

    #[test]
    fn interfaces_but_the_loopback_and_the_ends_of_pods() {
        let dev = "Inter-|   Receive                          |  Transmit\n face |bytes packets errs|bytes packets errs\n    \
                   lo:    3193      29    0    0    0     0          0         0     3193      29    0    0    0     0       0          0\n\
                   vethab: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n  eth0: 219929219    5875    4    0    0     0          0         0   330984    3678    5    0    0     0       0          0\n";
        let eth0 =
            Interface { name: "eth0".into(), rx_bytes: 219_929_219, rx_errors: 4, tx_bytes: 330_984, tx_errors: 5 };
        assert_eq!(interfaces(dev), [eth0]);
        assert_eq!(interfaces("eth0: 1 2\n"), []);
    }
}
