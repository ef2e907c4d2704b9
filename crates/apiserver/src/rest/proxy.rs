//! `nodes/proxy`, `pods/proxy` and `services/proxy`: HTTP to a kubelet, a pod or an endpoint of a Service
//! (`pkg/registry/core/{node,pod,service}/.../proxy.go`).
//!
//! Not here: the rewriting of links in HTML pages. `Location` headers are rewritten.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Request, Response, StatusCode, header};
use orkd_api::status::Status;
use rand::seq::IndexedRandom;
use serde_json::Value;

use super::dial::{Address, Dialer, Scheme, is_proxyable, kubelet_of};
use super::{Call, Reply, Rest, connect, tunnel};
use crate::Body;
use crate::admission::{items, meta};
use crate::user::Peer;

/// What is proxied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// A kubelet, or another port of a node.
    Node,
    /// A pod.
    Pod,
    /// An endpoint of a Service.
    Service,
}

/// The handler.
pub struct Proxy {
    to: To,
    dialer: Arc<Dialer>,
}

impl Proxy {
    /// A proxy that connects with this dialer.
    pub fn new(to: To, dialer: Arc<Dialer>) -> Self {
        Proxy { to, dialer }
    }
}

/// `[SCHEME:]NAME[:PORT]` (`k8s.io/apimachinery/pkg/util/net.SplitSchemeNamePort`).
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: &'a str,
    name: &'a str,
    port: &'a str,
}

fn parse(id: &str) -> Option<Id<'_>> {
    let parts: Vec<&str> = id.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && ["", "http", "https"].contains(&scheme)).then_some(Id { scheme, name, port })
}

#[async_trait]
impl Rest for Proxy {
    async fn serve(&self, call: Call, mut request: Request<Body>) -> Result<Reply, Status> {
        connect::admit(&call, &format!("{:?}ProxyOptions", self.to), Some(&connect::path(&call))).await?;
        let resource = call.kind.info().plural.clone();
        let id = parse(&call.info.name)
            .ok_or_else(|| Status::bad_request(format!("invalid {resource} request {:?}", call.info.name)))?;
        let (prefix, rest) = split(request.uri().path(), &call.info.namespace, self.to);
        let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
        let address = match self.to {
            To::Node => node(&call, &id).await?,
            To::Pod => pod(&call, &id).await?,
            To::Service => service(&call, &id)?,
        };
        let reads = matches!(*request.method(), http::Method::GET | http::Method::HEAD);
        if rest.is_empty() && reads && !tunnel::is_upgrade(request.headers()) {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            let to = HeaderValue::from_str(&format!("{}/{query}", request.uri().path()));
            response.headers_mut().insert(header::LOCATION, to.map_err(|_| Status::bad_request("bad path"))?);
            return Ok(Reply::Raw(response));
        }
        let target = if rest.is_empty() { format!("/{query}") } else { format!("{rest}{query}") };
        let peer = request.extensions().get::<Peer>().and_then(|p| p.addr);
        tunnel::add_forwarded(request.headers_mut(), peer);
        if let Ok(value) = HeaderValue::from_str(&prefix) {
            request.headers_mut().insert("x-forwarded-uri", value);
        }
        let mut response = tunnel::forward(&self.dialer, &address, &target, request).await?;
        rewrite_location(&mut response, &prefix, &address);
        Ok(Reply::Raw(response))
    }
}

/// A raw path as the part up to and with `proxy`, and the rest with its slash.
fn split(path: &str, namespace: &str, to: To) -> (String, String) {
    // "", api, v1, [namespaces, NS,] RESOURCE, NAME, proxy
    let segments = if to == To::Node || namespace.is_empty() { 6 } else { 8 };
    let mut seen = 0;
    let end = path.char_indices().find(|(_, c)| {
        seen += usize::from(*c == '/');
        seen == segments
    });
    match end {
        Some((at, _)) => (path[..at].to_owned(), path[at..].to_owned()),
        None => (path.to_owned(), String::new()),
    }
}

/// Leads redirects of the backend to itself back through the proxy.
fn rewrite_location(response: &mut Response<Body>, prefix: &str, address: &Address) {
    let Some(location) = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok()) else { return };
    let path = if location.starts_with('/') {
        location
    } else {
        let rest = location.strip_prefix("http://").or_else(|| location.strip_prefix("https://"));
        let Some(path) = rest.and_then(|r| r.strip_prefix(address.authority().as_str())) else { return };
        path
    };
    if path.starts_with("//") || path.starts_with(prefix) {
        return;
    }
    if let Ok(value) = HeaderValue::from_str(&format!("{prefix}{path}")) {
        response.headers_mut().insert(header::LOCATION, value);
    }
}

fn port_number(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|p| *p != 0)
}

fn scheme(id: &Id<'_>) -> Scheme {
    if id.scheme == "https" { Scheme::Https } else { Scheme::Http }
}

async fn node(call: &Call, id: &Id<'_>) -> Result<Address, Status> {
    let node = call.writer().get("", "nodes", "", id.name).await?;
    let kubelet = kubelet_of(&node)?;
    let port = match id.port {
        "" => return Ok(kubelet),
        port => port_number(port)
            .ok_or_else(|| Status::bad_request(format!("invalid node request {:?}", call.info.name)))?,
    };
    if port == kubelet.port {
        return Ok(kubelet);
    }
    check_ip(&kubelet.host)?;
    Ok(Address { host: kubelet.host, port, scheme: scheme(id) })
}

fn check_ip(host: &str) -> Result<(), Status> {
    match host.parse::<IpAddr>() {
        Ok(ip) if is_proxyable(ip) => Ok(()),
        _ => Err(Status::bad_request("address not allowed")),
    }
}

async fn pod(call: &Call, id: &Id<'_>) -> Result<Address, Status> {
    let pod = call.writer().get("", "pods", &call.info.namespace, id.name).await?;
    let ports = || items(&pod["spec"]["containers"]).iter().flat_map(|c| items(&c["ports"]));
    let number = |p: &Value| p["containerPort"].as_u64().and_then(|n| u16::try_from(n).ok());
    let port = match id.port {
        "" => ports().find_map(number).unwrap_or(if id.scheme == "https" { 443 } else { 80 }),
        text => match port_number(text) {
            Some(n) => n,
            None => ports()
                .find(|p| p["name"] == text)
                .and_then(number)
                .ok_or_else(|| Status::bad_request(format!("invalid pod request {:?}", call.info.name)))?,
        },
    };
    let ip = items(&pod["status"]["podIPs"]).first().and_then(|p| p["ip"].as_str()).or(pod["status"]["podIP"].as_str());
    let Some(ip) = ip.filter(|ip| !ip.is_empty()) else {
        return Err(Status::bad_request("address not allowed"));
    };
    check_ip(ip)?;
    Ok(Address { host: ip.to_owned(), port, scheme: scheme(id) })
}

/// One of the ready endpoints, at random.
fn service(call: &Call, id: &Id<'_>) -> Result<Address, Status> {
    let (namespace, reader) = (call.info.namespace.as_str(), call.server.reader());
    let service = reader.get("", "services", namespace, id.name).map(|e| e.decode());
    let Some(service) = service else { return Err(Status::not_found("", "services", id.name)) };
    let ports = items(&service["spec"]["ports"]);
    // A port is named, or given by its number, which stands for the name of the Service's port.
    let name = match port_number(id.port) {
        Some(n) => ports.iter().find(|p| p["port"] == n).map(|p| p["name"].as_str().unwrap_or_default()),
        None => Some(id.port),
    };
    let unavailable = || {
        Status::unavailable(match id.port {
            "" => format!("no endpoints available for service {:?}", id.name),
            port => format!("no endpoints available for service {:?}", format!("{}:{port}", id.name)),
        })
    };
    let name = name.ok_or_else(unavailable)?;
    let found = crate::endpoints::ready(&reader, namespace, id.name, name);
    let (host, port) = found.choose(&mut rand::rng()).cloned().ok_or_else(unavailable)?;
    debug_assert_eq!(meta(&service, "name"), id.name);
    check_ip(&host)?;
    Ok(Address { host, port, scheme: scheme(id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_carry_scheme_and_port() {
        assert_eq!(parse("p"), Some(Id { scheme: "", name: "p", port: "" }));
        assert_eq!(parse("p:80"), Some(Id { scheme: "", name: "p", port: "80" }));
        assert_eq!(parse("https:p:web"), Some(Id { scheme: "https", name: "p", port: "web" }));
        assert_eq!(parse("https:p:"), Some(Id { scheme: "https", name: "p", port: "" }));
        assert_eq!(parse("ftp:p:1"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse("a:b:c:d"), None);
    }

    #[test]
    fn paths_are_split_after_proxy() {
        let check = |path: &str, namespace: &str, to: To, prefix: &str, rest: &str| {
            assert_eq!(split(path, namespace, to), (prefix.to_owned(), rest.to_owned()));
        };
        let node = "/api/v1/nodes/n/proxy";
        check("/api/v1/nodes/n/proxy/a%2Fb/", "", To::Node, node, "/a%2Fb/");
        check(node, "", To::Node, node, "");
        let pod = "/api/v1/namespaces/ns/pods/proxy/proxy";
        check("/api/v1/namespaces/ns/pods/proxy/proxy/x", "ns", To::Pod, pod, "/x");
    }

    #[test]
    fn redirects_stay_within_the_proxy() {
        let address = Address { host: "10.0.0.1".into(), port: 80, scheme: Scheme::Http };
        let check = |from: &'static str, to: &str| {
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(header::LOCATION, HeaderValue::from_static(from));
            rewrite_location(&mut response, "/p", &address);
            assert_eq!(response.headers()[header::LOCATION], to);
        };
        check("/x", "/p/x");
        check("http://10.0.0.1:80/x", "/p/x");
        check("http://elsewhere/x", "http://elsewhere/x");
        check("//elsewhere/x", "//elsewhere/x");
    }
}
