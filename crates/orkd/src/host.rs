//! What this machine is called and where it is reached.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context, bail, ensure};

/// The name a node gets: as told, or the host's name.
///
/// # Errors
/// A name that no node may have.
pub fn node_name(told: Option<&str>) -> anyhow::Result<String> {
    let name = match told {
        Some(name) => name.to_owned(),
        None => nix::unistd::gethostname().context("cannot read the host name")?.to_string_lossy().into_owned(),
    };
    let name = name.trim().to_ascii_lowercase();
    let problems = orkd_api::names::dns_subdomain(&name, false);
    ensure!(problems.is_empty(), "{name:?} cannot name a node ({}); set --node-name", problems.join("; "));
    Ok(name)
}

/// The address of this machine: as told, or that of the interface the default route leads through, or the first that
/// is not loopback.
///
/// # Errors
/// There is none.
pub fn address(told: Option<IpAddr>) -> anyhow::Result<IpAddr> {
    if let Some(ip) = told {
        return Ok(ip);
    }
    // Connecting a datagram socket sends nothing; it only asks the routing table.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    if socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).is_ok()
        && let Ok(addr) = socket.local_addr()
        && !addr.ip().is_unspecified()
        && !addr.ip().is_loopback()
    {
        return Ok(addr.ip());
    }
    let found = nix::ifaddrs::getifaddrs()?
        .filter_map(|i| i.address?.as_sockaddr_in().map(|a| IpAddr::V4(a.ip())))
        .find(|ip| !ip.is_loopback());
    match found {
        Some(ip) => Ok(ip),
        None => bail!("this machine has no address but loopback; set --node-ip"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert_eq!(node_name(Some("Node-1")).expect("a good name"), "node-1");
        assert!(node_name(Some("a_b")).is_err());
    }
}
