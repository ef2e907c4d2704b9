//! What probes and hooks share: ports by name and tcp. Texts are upstream's (`pkg/probe`), which are Go's.

use std::net::SocketAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::net::TcpStream;

/// A port by number or by name.
pub fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(n) => Some(*n),
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            match named.map(|p| p.container_port).or_else(|| name.parse().ok()) {
                Some(n) => Some(n),
                None => return Err(format!("couldn't find port: {name:?}")),
            }
        }
    };
    let number = number.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| format!("invalid port number: {port:?}"))
}

/// What Go says of a failed connection.
pub(super) fn dial_error(address: &str, error: &std::io::Error) -> String {
    let what = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => "connection refused".to_owned(),
        Some(libc::EHOSTUNREACH) => "no route to host".to_owned(),
        Some(libc::ENETUNREACH) => "network is unreachable".to_owned(),
        _ => error.to_string().to_lowercase(),
    };
    format!("dial tcp {address}: connect: {what}")
}

/// Connects and hangs up.
pub async fn tcp(action: &TCPSocketAction, container: &Container, ip: &str, timeout: Duration) -> Result<(), String> {
    let host = action.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
    let port = port(&action.port, container)?;
    let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let connect = async {
        match address.parse::<SocketAddr>() {
            Ok(socket) => TcpStream::connect(socket).await,
            Err(_) => TcpStream::connect(&address).await,
        }
    };
    match tokio::time::timeout(timeout, connect).await {
        Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        Ok(Err(e)) => Err(dial_error(&address, &e)),
        Ok(Ok(_)) => Ok(()),
    }
}
