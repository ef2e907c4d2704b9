//! The pod network of a node: the CNI configuration for the standard plugins, and the host settings it needs.
//!
//! [`conflist`] is pure; [`Network::apply`] writes it and sets the host up; [`agent`] is the loop that does so once
//! the node has its addresses. Another CNI plugin can be used instead:
//! where its configuration is in the directory, orkd writes none ([`foreign`]).
//!
//! Pods hang on a bridge (`cni0`); an endpoint may reach itself through its service (hairpin). What leaves the
//! cluster gets the node's address. Traffic between pods of different nodes needs routes or an overlay, which orkd
//! does not make yet.
//!
//! Invariant: rules of others stay; orkd writes the chain `ORKD-POSTROUTING` only.

pub mod agent;

use std::path::{Path, PathBuf};
use std::process::Stdio;

use ipnet::IpNet;
use serde_json::json;
use tokio::io::AsyncWriteExt;

/// Name of the file orkd writes.
pub const FILE: &str = "10-orkd.conflist";

/// Name of the bridge.
pub const BRIDGE: &str = "cni0";

/// The network of one node.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Where the runtime looks for CNI configuration.
    pub conf_dir: PathBuf,
    /// Where the address plugin keeps what it has given out; must survive a restart.
    pub state_dir: PathBuf,
    /// Addresses of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of all pods.
    pub cluster_cidr: Option<IpNet>,
    /// Largest packet; `None` for that of the bridge.
    pub mtu: Option<u32>,
}

/// Why the network could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The masquerading rule cannot be made.
    #[error("cannot set up masquerading with {program}: {reason}")]
    Masquerade {
        /// The program.
        program: &'static str,
        /// What it said.
        reason: String,
    },
}

/// The configuration list for `bridge`, `host-local` and `portmap`.
///
/// Follows the CNI specification 0.4.0, which containerd 1.6 and later take.
pub fn conflist(network: &Network) -> String {
    let ranges: Vec<_> = network.pod_cidrs.iter().map(|net| json!([{"subnet": net.to_string()}])).collect();
    let routes: Vec<_> = network
        .pod_cidrs
        .iter()
        .map(|net| json!({"dst": if net.addr().is_ipv6() { "::/0" } else { "0.0.0.0/0" }}))
        .collect();
    let mut bridge = json!({
        "type": "bridge",
        "bridge": BRIDGE,
        "isGateway": true,
        "ipMasq": false,
        "hairpinMode": true,
        "ipam": {
            "type": "host-local",
            "ranges": ranges,
            "routes": routes,
            "dataDir": network.state_dir.display().to_string(),
        },
    });
    if let Some(mtu) = network.mtu {
        bridge["mtu"] = json!(mtu);
    }
    let portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}, "snat": true});
    let list = json!({"cniVersion": "0.4.0", "name": "orkd", "plugins": [bridge, portmap]});
    format!("{list:#}\n")
}

/// The configuration of another plugin in `dir`, which has precedence over ours.
pub fn foreign(dir: &Path) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .ok()?
        .flatten()
        .map(|e| e.path())
        .filter(|p| matches!(p.extension().and_then(|e| e.to_str()), Some("conf" | "conflist" | "json")))
        .filter(|p| p.file_name().is_some_and(|n| n != FILE))
        .collect();
    found.sort();
    found.into_iter().next()
}

/// The rules of our chain: what pods send to the outside of the cluster gets the node's address.
fn masquerade(cluster_cidr: IpNet) -> String {
    let multicast = if cluster_cidr.addr().is_ipv6() { "ff00::/8" } else { "224.0.0.0/4" };
    format!(
        "*nat\n:ORKD-POSTROUTING - [0:0]\n\
         -A ORKD-POSTROUTING -d {cluster_cidr} -j RETURN\n\
         -A ORKD-POSTROUTING -d {multicast} -j RETURN\n\
         -A ORKD-POSTROUTING -s {cluster_cidr} -m comment --comment \"pods to the outside\" -j MASQUERADE --random-fully\n\
         COMMIT\n"
    )
}

impl Network {
    /// Writes the configuration, unless another plugin's is there, and sets the host up. Doing it again changes
    /// nothing. Gives whether ours is in force.
    ///
    /// # Errors
    /// A file that cannot be written, a rule the kernel does not take.
    pub async fn apply(&self) -> Result<bool, Error> {
        if let Some(path) = foreign(&self.conf_dir) {
            tracing::info!(path = %path.display(), "using the CNI configuration that is there");
            return Ok(false);
        }
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/bridge/bridge-nf-call-iptables", "1");
        if self.pod_cidrs.iter().any(|c| c.addr().is_ipv6()) {
            sysctl("net/ipv6/conf/all/forwarding", "1");
            sysctl("net/bridge/bridge-nf-call-ip6tables", "1");
        }
        if let Some(cidr) = self.cluster_cidr {
            ensure_masquerade(cidr).await?;
        }
        write_if_changed(&self.conf_dir.join(FILE), &conflist(self))?;
        Ok(true)
    }
}

/// Replaces a file at once, and only where its content differs, so that the runtime does not reload for nothing.
fn write_if_changed(path: &Path, content: &str) -> Result<(), Error> {
    let error = |source| Error::Write { path: path.to_owned(), source };
    if std::fs::read_to_string(path).is_ok_and(|now| now == content) {
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(error)?;
    }
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, content).map_err(error)?;
    std::fs::rename(&temporary, path).map_err(error)
}

/// Sets a kernel parameter. One that is missing or read-only is said once; what depends on it will show.
fn sysctl(name: &str, value: &str) {
    let path = Path::new("/proc/sys").join(name);
    if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return;
    }
    if let Err(e) = std::fs::write(&path, value) {
        tracing::warn!(parameter = name, error = %e, "cannot set kernel parameter");
    }
}

async fn ensure_masquerade(cidr: IpNet) -> Result<(), Error> {
    let (tool, restore) =
        if cidr.addr().is_ipv6() { ("ip6tables", "ip6tables-restore") } else { ("iptables", "iptables-restore") };
    run(restore, &["--noflush", "-w", "5"], &masquerade(cidr)).await?;
    let jump = ["-w", "5", "-t", "nat"];
    let rule = ["POSTROUTING", "-m", "comment", "--comment", "orkd pod network", "-j", "ORKD-POSTROUTING"];
    let with = |verb| [&jump[..], &[verb], &rule[..]].concat();
    if run(tool, &with("-C"), "").await.is_err() {
        run(tool, &with("-A"), "").await?;
    }
    Ok(())
}

async fn run(program: &'static str, args: &[&str], input: &str) -> Result<(), Error> {
    let error = |reason: String| Error::Masquerade { program, reason };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| error(e.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early closes its input; its exit code tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let out = child.wait_with_output().await.map_err(|e| error(e.to_string()))?;
    if out.status.success() { Ok(()) } else { Err(error(String::from_utf8_lossy(&out.stderr).trim().to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(dir: &Path) -> Network {
        Network {
            conf_dir: dir.to_owned(),
            state_dir: "/state".into(),
            pod_cidrs: vec!["10.42.0.0/24".parse().expect("a range")],
            cluster_cidr: "10.42.0.0/16".parse().ok(),
            mtu: None,
        }
    }

    #[test]
    fn configuration_is_for_the_standard_plugins() {
        let list: serde_json::Value = serde_json::from_str(&conflist(&network(Path::new("/x")))).expect("it is JSON");
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.42.0.0/24");
        assert_eq!(list["plugins"][0]["hairpinMode"], true);
        assert_eq!(list["plugins"][1]["capabilities"]["portMappings"], true);
    }

    #[test]
    fn another_plugins_configuration_is_left_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(foreign(dir.path()), None);
        write_if_changed(&dir.path().join(FILE), "{}").expect("it can be written");
        assert_eq!(foreign(dir.path()), None);
        let theirs = dir.path().join("05-cilium.conf");
        std::fs::write(&theirs, "{}").expect("it can be written");
        assert_eq!(foreign(dir.path()), Some(theirs));
    }
}
