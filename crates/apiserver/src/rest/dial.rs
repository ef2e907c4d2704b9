//! Connections of the API server to kubelets, pods and services.
//!
//! One connection a request: streams own theirs, and the rest is rare. A kubelet is shown the API server's client
//! certificate, and its serving certificate must be of the cluster's authority.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use orkd_api::status::Status;
use orkd_pki::cluster::ClusterPki;
use orkd_pki::tls;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Body;
use crate::admission::items;

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Where to connect to, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What the other side is.
    pub scheme: Scheme,
}

/// What the other side of a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// TLS whose certificate nobody vouches for: a pod or Service with `https:` (upstream does not check it either).
    Https,
    /// A kubelet.
    Kubelet,
}

impl Address {
    /// `host:port`, as the `Host` header has it.
    pub fn authority(&self) -> String {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            _ => format!("{}:{}", self.host, self.port),
        }
    }
}

/// Makes connections.
pub struct Dialer {
    kubelets: ArcSwap<rustls::ClientConfig>,
    others: Arc<rustls::ClientConfig>,
}

impl Dialer {
    /// A dialer with the certificates of a cluster.
    pub fn new(pki: &ClusterPki) -> Result<Self, orkd_pki::Error> {
        Ok(Dialer { kubelets: ArcSwap::new(kubelet_config(pki)?), others: Arc::new(tls::unverified_client_config()?) })
    }

    /// Takes over renewed certificates.
    pub fn renewed(&self, pki: &ClusterPki) -> Result<(), orkd_pki::Error> {
        self.kubelets.store(kubelet_config(pki)?);
        Ok(())
    }

    /// Connects; ready for one request. Upgrades are possible.
    pub async fn connect(&self, address: &Address) -> Result<SendRequest<Body>, Status> {
        let failed = |e: &dyn std::fmt::Display| {
            // What the network says is of use to whoever asked: it is about his own pod or node.
            Status::internal(format!("error dialing backend: dial tcp {}: {e}", address.authority()))
        };
        let connecting = async {
            let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(|e| failed(&e))?;
            // Only a matter of speed.
            let _ = tcp.set_nodelay(true);
            let config = match address.scheme {
                Scheme::Http => return handshake(tcp).await.map_err(|e| failed(&e)),
                Scheme::Https => Arc::clone(&self.others),
                Scheme::Kubelet => self.kubelets.load_full(),
            };
            let name = ServerName::try_from(address.host.clone()).map_err(|e| failed(&e))?;
            let stream = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| failed(&e))?;
            handshake(stream).await.map_err(|e| failed(&e))
        };
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(failed(&"i/o timeout")))
    }
}

fn kubelet_config(pki: &ClusterPki) -> Result<Arc<rustls::ClientConfig>, orkd_pki::Error> {
    let roots = tls::roots([pki.ca.certificate().to_rustls()])?;
    Ok(Arc::new(tls::client_config(roots, Some(&pki.kubelet_client))?))
}

async fn handshake<S>(stream: S) -> Result<SendRequest<Body>, hyper::Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "a connection to a backend ended");
        }
    });
    Ok(sender)
}

/// Where a node's kubelet listens.
pub fn kubelet_of(node: &Value) -> Result<Address, Status> {
    let addresses = items(&node["status"]["addresses"]);
    let host = ["InternalIP", "ExternalIP", "Hostname", "InternalDNS", "ExternalDNS"]
        .iter()
        .find_map(|kind| addresses.iter().find(|a| a["type"] == **kind))
        .and_then(|a| a["address"].as_str());
    let Some(host) = host else {
        return Err(Status::internal("no preferred addresses found; known addresses: []"));
    };
    let port = &node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"];
    let port = port.as_u64().and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(10250);
    Ok(Address { host: host.to_owned(), port, scheme: Scheme::Kubelet })
}

/// Whether clients may be led to an address: not to the API server's own machine, nor to its link
/// (`pkg/proxy/util.IsProxyableIP`).
pub fn is_proxyable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            !(ip.is_loopback() || ip.is_link_local() || ip.is_multicast() || ip.is_unspecified() || ip.is_broadcast())
        }
        IpAddr::V6(ip) => match ip.to_ipv4_mapped() {
            Some(ip) => is_proxyable(IpAddr::V4(ip)),
            None => !(ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast() || ip.is_unspecified()),
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn kubelets_are_found_at_the_internal_address() {
        let node = json!({"status": {"addresses": [{"type": "Hostname", "address": "n"},
            {"type": "InternalIP", "address": "10.0.0.1"}], "daemonEndpoints": {"kubeletEndpoint": {"Port": 10251}}}});
        let address = kubelet_of(&node).expect("address");
        assert_eq!(address.authority(), "10.0.0.1:10251");
        assert!(kubelet_of(&json!({})).is_err());
        let six = Address { host: "fd00::1".into(), port: 1, scheme: Scheme::Http };
        assert_eq!(six.authority(), "[fd00::1]:1");
    }

    #[test]
    fn nobody_is_led_to_the_servers_own_machine() {
        let check = |ip: &str| is_proxyable(ip.parse().expect("ip"));
        assert!(check("10.0.0.1") && check("fd00::1") && check("8.8.8.8"));
        for bad in ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "0.0.0.0", "224.0.0.1", "::ffff:127.0.0.1"] {
            assert!(!check(bad), "{bad}");
        }
    }
}
