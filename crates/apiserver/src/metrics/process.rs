//! What the kernel knows of this process, under the names every Prometheus client uses.

use orkd_base::metrics::{head, line};

/// Ticks of the kernel's clock for user space, on every Linux there is.
const TICKS: f64 = 100.0;
const PAGE: f64 = 4096.0;

/// Writes the metrics of the process. What cannot be read is left out.
pub fn write(out: &mut String) {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in parentheses, may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split_whitespace().collect();
    let number = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    let mut put = |name: &str, help: &str, kind: &str, value: Option<f64>| {
        if let Some(value) = value {
            head(out, name, help, kind);
            line(out, name, &[], value);
        }
    };
    let cpu = number(11).zip(number(12)).map(|(user, system)| (user + system) / TICKS);
    put("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.", "counter", cpu);
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let files = limits.lines().find_map(|l| l.strip_prefix("Max open files"));
    let files = files.and_then(|l| l.split_whitespace().next()).and_then(|f| f.parse().ok());
    put("process_max_fds", "Maximum number of open file descriptors.", "gauge", files);
    let open = std::fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64);
    put("process_open_fds", "Number of open file descriptors.", "gauge", open);
    let resident = number(21).map(|pages| pages * PAGE);
    put("process_resident_memory_bytes", "Resident memory size in bytes.", "gauge", resident);
    let boot = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = boot.lines().find_map(|l| l.strip_prefix("btime ")).and_then(|t| t.trim().parse::<f64>().ok());
    let start = boot.zip(number(19)).map(|(boot, ticks)| boot + ticks / TICKS);
    put("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", "gauge", start);
    put("process_virtual_memory_bytes", "Virtual memory size in bytes.", "gauge", number(20));
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_memory_and_files() {
        let mut out = String::new();
        super::write(&mut out);
        let value = |name: &str| {
            let line = out.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_else(|| panic!("{name}: {out}"));
            line.trim().parse::<f64>().expect("a number")
        };
        assert!(value("process_resident_memory_bytes ") > 100_000.0);
        assert!(value("process_open_fds ") >= 3.0);
        assert!(value("process_start_time_seconds ") > 1.6e9);
    }
}
