//! The configuration file of the containerd that orkd runs (pure).
//!
//! Written in containerd's config version 2, which 1.6 and 1.7 read as it is and 2.x migrates by itself.

use std::path::{Path, PathBuf};

/// What the configuration depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Persistent state: content, snapshots.
    pub root: PathBuf,
    /// Run-time state: sockets, shims.
    pub state: PathBuf,
    /// The CRI socket.
    pub socket: PathBuf,
    /// The sandbox image.
    pub sandbox_image: String,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where CNI configuration is.
    pub cni_conf_dir: PathBuf,
    /// The folder of `hosts.toml` files: mirrors and certificates of registries.
    pub registry_config_dir: PathBuf,
    /// The snapshotter.
    pub snapshotter: String,
    /// The process may not lower `oom_score_adj` (it lacks CAP_SYS_RESOURCE).
    pub restrict_oom_score_adj: bool,
}

/// A TOML basic string.
fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\u{:04X}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn path(path: &Path) -> String {
    quote(&path.to_string_lossy())
}

/// The text of the configuration file.
pub fn render(s: &Settings) -> String {
    format!(
        r#"# Written by orkd at every start; edits are lost.
version = 2
root = {root}
state = {state}
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
  address = {socket}

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = {sandbox_image}
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  disable_tcp_service = true
  restrict_oom_score_adj = {restrict}
  # Ping sockets and low ports for every pod, as the field expects.
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = {bin}
  conf_dir = {conf}

[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = {registry}

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = {snapshotter}
  default_runtime_name = "runc"
  discard_unpacked_layers = false

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
"#,
        root = path(&s.root),
        state = path(&s.state),
        socket = path(&s.socket),
        sandbox_image = quote(&s.sandbox_image),
        restrict = s.restrict_oom_score_adj,
        bin = path(&s.cni_bin_dir),
        conf = path(&s.cni_conf_dir),
        registry = path(&s.registry_config_dir),
        snapshotter = quote(&s.snapshotter),
    )
}

/// Whether the effective capabilities in the text of `/proc/self/status` hold CAP_SYS_RESOURCE (bit 24).
pub fn has_sys_resource(proc_status: &str) -> bool {
    let effective = proc_status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|caps| caps & (1 << 24) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        let check = |input: &str, expected: &str| assert_eq!(quote(input), expected);
        check("/run/x.sock", "\"/run/x.sock\"");
        check("a\"b\\c\n", "\"a\\\"b\\\\c\\u000A\"");
    }

    #[test]
    fn capabilities_are_read() {
        let check = |caps: &str, expected: bool| {
            assert_eq!(has_sys_resource(&format!("Name:\tx\nCapEff:\t{caps}\nCapBnd:\t0\n")), expected, "{caps}");
        };
        check("000001fffeffffff", false);
        check("000001ffffffffff", true);
        check("zz", false);
    }

    #[test]
    fn the_file_says_what_was_asked() {
        let text = render(&Settings {
            root: "/d/c".into(),
            state: "/r/c".into(),
            socket: "/r/c/c.sock".into(),
            sandbox_image: "localhost/pause:1".into(),
            cni_bin_dir: "/opt/cni/bin".into(),
            cni_conf_dir: "/d/cni".into(),
            registry_config_dir: "/etc/certs.d".into(),
            snapshotter: "overlayfs".into(),
            restrict_oom_score_adj: true,
        });
        for line in ["restrict_oom_score_adj = true", "address = \"/r/c/c.sock\"", "conf_dir = \"/d/cni\""] {
            assert!(text.contains(line), "{line} not in {text}");
        }
    }
}
