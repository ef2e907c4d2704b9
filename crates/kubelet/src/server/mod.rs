//! The node server on port 10250: logs, exec, attach, port-forward, health and figures, for the API server and for
//! whoever collects metrics.
//!
//! Paths are upstream's (`pkg/kubelet/server/server.go`). A session of SPDY is passed byte for byte between the client
//! and the runtime's streaming server; one of WebSocket is translated ([`orkd_streaming`]), because closing the input must
//! reach the process and containerd 1.6 knows no WebSocket protocol that can say so.
//!
//! Not here yet: `/metrics/probes`, `/configz`, `/logs`, `/checkpoint`.

mod auth;
mod log;
mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::Pod;
use orkd_cri::v1;
use orkd_pki::cert::{Certificate, Identity};
use orkd_pki::tls::{self, ClientVerifier};
use orkd_reconcile::Api;
use parking_lot::RwLock;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::Kubelet;
use crate::guard::{Guard, Refused};
use crate::logs::LogOptions;
use crate::pod;
use crate::spec::log_directory;
use crate::stats::Stats;

use orkd_streaming::remote::Streams;

/// Connections open at once.
const CONNECTIONS: usize = 2000;

/// A handshake, and the head of a request, must be done within this.
const PATIENCE: Duration = Duration::from_secs(10);

/// The body of an answer.
type Body = BoxBody<Bytes, Infallible>;

/// The node server.
#[derive(Clone)]
pub struct Server {
    kubelet: Kubelet,
    stats: Arc<Stats>,
    guard: Arc<Guard>,
    node: Arc<str>,
    client_ca: Arc<Certificate>,
    tls: Arc<RwLock<Arc<rustls::ServerConfig>>>,
}

/// A text answer.
fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text.into())).boxed());
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// An answer in JSON.
fn json(body: String) -> Response<Body> {
    let mut response = text(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn not_found(what: impl Into<String>) -> Response<Body> {
    text(StatusCode::NOT_FOUND, what)
}

impl Server {
    /// A server that shows `identity` and trusts clients whose certificates `client_ca` signed; `client` asks the API
    /// server what they may do.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub fn new(
        kubelet: Kubelet,
        client: kube::Client,
        node: &str,
        identity: &Identity,
        client_ca: &Certificate,
    ) -> Result<Server, orkd_pki::Error> {
        let verifier = ClientVerifier::new(tls::roots([client_ca.to_rustls()])?)?;
        let tls = Arc::new(RwLock::new(tls_config(identity, client_ca)?));
        let api = Api::new(client, "kubelet");
        let guard = Arc::new(Guard::new(api.clone(), api, Some(verifier)));
        let stats = Arc::new(Stats::new(kubelet.context.clone(), {
            let kubelet = kubelet.clone();
            move || kubelet.pods()
        }));
        Ok(Server { kubelet, stats, guard, node: node.into(), client_ca: Arc::new(client_ca.clone()), tls })
    }

    /// Shows another certificate from the next connection on.
    ///
    /// # Errors
    /// A certificate that cannot be used.
    pub fn renewed(&self, identity: &Identity) -> Result<(), orkd_pki::Error> {
        *self.tls.write() = tls_config(identity, &self.client_ca)?;
        Ok(())
    }

    /// Serves until `stop`; sessions end with it.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let Ok(place) = places.clone().try_acquire_owned() else { continue };
                    let (server, stop) = (self.clone(), stop.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = server.connection(stream, &stop) => {}
                        }
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, stop: &CancellationToken) {
        let _ = stream.set_nodelay(true);
        let accept = TlsAcceptor::from(self.tls.read().clone()).accept(stream);
        let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, accept).await else { return };
        let chain: Arc<[CertificateDer<'static>]> =
            stream.get_ref().1.peer_certificates().unwrap_or_default().iter().cloned().collect();
        let service = service_fn(|request| {
            let (server, chain, stop) = (self.clone(), chain.clone(), stop.clone());
            async move { Ok::<_, Infallible>(server.handle(request, &chain, stop).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the node server ended");
        }
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        chain: &[CertificateDer<'static>],
        stop: CancellationToken,
    ) -> Response<Body> {
        let path = request.uri().path().to_owned();
        let token = request
            .headers()
            .get(header::AUTHORIZATION)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| v.strip_prefix("Bearer "));
        let checked = auth::check(&self.guard, &self.node, chain, token, request.method(), &path).await;
        if let Err(Refused(code, why)) = checked {
            return text(StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN), why);
        }
        let parts: Vec<String> = path.split('/').skip(1).map(percent_decode).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        match parts.as_slice() {
            ["healthz"] => text(StatusCode::OK, "ok"),
            ["pods"] | ["pods", ""] => self.pods(),
            ["stats", "summary"] if request.method() == Method::GET => {
                self.summary(request.uri().query().unwrap_or_default()).await
            }
            ["metrics", rest @ ..] if request.method() == Method::GET => self.metrics(rest).await,
            ["orkd", "volumes", name] if request.method() == Method::DELETE => self.remove_storage(name).await,
            ["containerLogs", namespace, name, container] if request.method() == Method::GET => {
                self.logs(namespace, name, container, request.uri().query().unwrap_or_default()).await
            }
            [what @ ("exec" | "attach"), namespace, name, container]
            | [what @ ("exec" | "attach"), namespace, name, _, container] => {
                self.command(what, namespace, name, container, request, stop).await
            }
            ["portForward", namespace, name] | ["portForward", namespace, name, _] => {
                self.port_forward(namespace, name, request, stop).await
            }
            _ => not_found("404 page not found"),
        }
    }

    /// Removes the folder of a volume that the node provisioned. The volume's claim is gone.
    async fn remove_storage(&self, name: &str) -> Response<Body> {
        let (context, name) = (self.kubelet.context.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || context.volumes.remove_storage(&name)).await;
        match removed {
            Ok(Ok(())) => json(r#"{"kind":"Status","apiVersion":"v1","status":"Success"}"#.into()),
            Ok(Err(error)) => text(StatusCode::CONFLICT, error.to_string()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn pods(&self) -> Response<Body> {
        let items: Vec<_> =
            self.kubelet.pods().iter().map(|p| serde_json::to_value(&**p).unwrap_or_default()).collect();
        let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
        json(list.to_string())
    }

    /// The node and its pods in figures; `only_cpu_and_memory=true` is quick.
    async fn summary(&self, query: &str) -> Response<Body> {
        let only = pairs(query).any(|(key, value)| key == "only_cpu_and_memory" && matches!(&*value, "true" | "1"));
        match self.stats.summary(only).await {
            Ok(summary) => json(serde_json::to_string(&summary).unwrap_or_default()),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("Internal Error: {error}")),
        }
    }

    async fn metrics(&self, rest: &[&str]) -> Response<Body> {
        let answer = match rest {
            [] | [""] => self.stats.kubelet_metrics().await,
            ["resource"] => Ok(self.stats.resource_metrics().await),
            ["cadvisor"] => self.stats.cadvisor_metrics().await,
            _ => return not_found("404 page not found"),
        };
        match answer {
            Ok(answer) => {
                let mut response = text(StatusCode::OK, answer);
                let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8; escaping=underscores");
                response.headers_mut().insert(header::CONTENT_TYPE, form);
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    fn find(&self, namespace: &str, name: &str) -> Result<Arc<Pod>, Box<Response<Body>>> {
        let missing = || Box::new(not_found(format!("pod {name:?}.{namespace:?} not found")));
        self.kubelet.find(namespace, name).ok_or_else(missing)
    }

    async fn logs(&self, namespace: &str, name: &str, container: &str, query: &str) -> Response<Body> {
        let pod = match self.find(namespace, name) {
            Ok(pod) => pod,
            Err(response) => return *response,
        };
        let (options, previous) = match log_options(query) {
            Ok(parsed) => parsed,
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        if pod::find_container(&pod::spec(&pod), container).is_none() {
            return not_found(format!("container {container:?} not found in pod {name:?}"));
        }
        let observed = match self.kubelet.context.observe(pod::uid(&pod)).await {
            Ok(observed) => observed,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let wait = || {
            let message = format!("container {container:?} in pod {name:?} is waiting to start: ContainerCreating");
            text(StatusCode::BAD_REQUEST, message)
        };
        let mut runs = observed.containers.iter().filter(|c| pod::container_name(c) == container);
        let found = match previous {
            false => runs.next(),
            true => runs.nth(1),
        };
        let attempt = match (found, previous) {
            (Some(status), _) => pod::restart_count(status),
            (None, false) => return wait(),
            (None, true) => {
                let message = format!("previous terminated container {container:?} in pod {name:?} not found");
                return text(StatusCode::BAD_REQUEST, message);
            }
        };
        let path = log_directory(&self.kubelet.context.log_dir, &pod).join(container).join(format!("{attempt}.log"));
        let file = match log::open(&path, &options) {
            Ok(file) => file,
            // Created and not started yet: there is nothing to read.
            Err(_) if !options.follow => return text(StatusCode::OK, ""),
            Err(_) => return wait(),
        };
        let id = found.map(|c| c.id.clone()).unwrap_or_default();
        let runtime = self.kubelet.context.runtime.clone();
        let (sender, receiver) = mpsc::channel(16);
        let is_running = move || -> BoxFuture<'static, bool> {
            let (runtime, id) = (runtime.clone(), id.clone());
            Box::pin(async move {
                let status = runtime.container_status(&id).await;
                status.is_ok_and(|s| pod::state(&s) == v1::ContainerState::ContainerRunning)
            })
        };
        tokio::spawn(log::send(file, path, options, sender, is_running));
        let stream = tokio_stream(receiver).map(|bytes| Ok(Frame::data(bytes)));
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream)));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    }

    async fn command(
        &self,
        what: &str,
        namespace: &str,
        name: &str,
        container: &str,
        request: Request<Incoming>,
        stop: CancellationToken,
    ) -> Response<Body> {
        let pod = match self.find(namespace, name) {
            Ok(pod) => pod,
            Err(response) => return *response,
        };
        let observed = match self.kubelet.context.observe(pod::uid(&pod)).await {
            Ok(observed) => observed,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let running = |c: &&v1::ContainerStatus| pod::state(c) == v1::ContainerState::ContainerRunning;
        let Some(status) = observed.latest(container).filter(running) else {
            let message = format!("container not found ({container:?})");
            return text(StatusCode::INTERNAL_SERVER_ERROR, message);
        };
        let query = request.uri().query().unwrap_or_default();
        let flag = |names: [&str; 2]| pairs(query).any(|(k, v)| names.contains(&&*k) && (v == "1" || v == "true"));
        let streams = Streams {
            stdin: flag(["input", "stdin"]),
            stdout: flag(["output", "stdout"]),
            stderr: flag(["error", "stderr"]),
            tty: flag(["tty", "tty"]),
        };
        if !(streams.stdin || streams.stdout || streams.stderr) {
            return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
        }
        let stderr = streams.stderr && !streams.tty;
        let id = status.id.clone();
        let runtime = &self.kubelet.context.runtime;
        let url = if what == "exec" {
            let cmd: Vec<String> = pairs(query).filter(|(k, _)| k == "command").map(|(_, v)| v).collect();
            let Streams { stdin, stdout, tty, .. } = streams;
            runtime.exec(v1::ExecRequest { container_id: id, cmd, tty, stdin, stdout, stderr }).await
        } else {
            let Streams { stdin, stdout, tty, .. } = streams;
            runtime.attach(v1::AttachRequest { container_id: id, stdin, tty, stdout, stderr }).await
        };
        match url {
            Ok(url) => upgrade::command(request, &url, streams, stop).await,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }

    async fn port_forward(
        &self,
        namespace: &str,
        name: &str,
        request: Request<Incoming>,
        stop: CancellationToken,
    ) -> Response<Body> {
        let pod = match self.find(namespace, name) {
            Ok(pod) => pod,
            Err(response) => return *response,
        };
        let observed = match self.kubelet.context.observe(pod::uid(&pod)).await {
            Ok(observed) => observed,
            Err(error) => return text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        };
        let Some(sandbox) = observed.sandboxes.first().filter(|s| pod::is_ready(s)) else {
            return text(StatusCode::INTERNAL_SERVER_ERROR, format!("pod {name:?} is not running"));
        };
        let port = match upgrade::forwarded_ports(&request) {
            Ok(port) => port,
            Err(why) => return text(StatusCode::BAD_REQUEST, why),
        };
        let ask = v1::PortForwardRequest { pod_sandbox_id: sandbox.id.clone(), port };
        match self.kubelet.context.runtime.port_forward(ask).await {
            Ok(url) => upgrade::port_forward(request, &url, stop).await,
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        }
    }
}

fn tls_config(identity: &Identity, client_ca: &Certificate) -> Result<Arc<rustls::ServerConfig>, orkd_pki::Error> {
    let mut config = tls::server_config(identity, std::slice::from_ref(client_ca))?;
    // Upgrades are of HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn tokio_stream(receiver: mpsc::Receiver<Bytes>) -> impl futures_util::Stream<Item = Bytes> + Send + Sync {
    futures_util::stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

/// The pairs of a query, decoded.
fn pairs(query: &str) -> impl Iterator<Item = (String, String)> + '_ {
    query.split('&').filter(|p| !p.is_empty()).map(|pair| {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(&key.replace('+', " ")), percent_decode(&value.replace('+', " ")))
    })
}

fn percent_decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = bytes.get(i + 1..i + 3).and_then(|h| std::str::from_utf8(h).ok());
        match (bytes[i], hex.and_then(|h| u8::from_str_radix(h, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What is wanted of a log, and whether of the container's run before.
fn log_options(query: &str) -> Result<(LogOptions, bool), String> {
    let mut options = LogOptions::default();
    let mut previous = false;
    for (key, value) in pairs(query) {
        let flag = || matches!(value.as_str(), "true" | "1" | "");
        let number = || value.parse::<usize>().map_err(|_| format!("{key}: {value:?} is not a number"));
        match key.as_str() {
            "follow" => options.follow = flag(),
            "previous" => previous = flag(),
            "timestamps" => options.timestamps = flag(),
            "tailLines" => options.tail = Some(number()?),
            "limitBytes" => options.limit_bytes = Some(number()?),
            "stream" => options.stream = Some(value.clone()),
            "sinceSeconds" => {
                let ago = jiff::SignedDuration::from_secs(i64::try_from(number()?).unwrap_or(i64::MAX / 4));
                options.since = jiff::Timestamp::now().checked_sub(ago).ok();
            }
            "sinceTime" => {
                options.since = Some(value.parse().map_err(|_| format!("sinceTime: {value:?} is not a time"))?);
            }
            _ => {}
        }
    }
    Ok((options, previous))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let got: Vec<_> = pairs("command=sh&command=-c&command=echo+a%20%26b&x").collect();
        let pair = |k: &str, v: &str| (k.to_owned(), v.to_owned());
        assert_eq!(got, [pair("command", "sh"), pair("command", "-c"), pair("command", "echo a &b"), pair("x", "")]);
        assert_eq!(percent_decode("%zz%4"), "%zz%4");
    }

    #[test]
    fn log_options_are_read() {
        let (options, previous) = log_options("follow=true&tailLines=5&previous=true&timestamps=true").expect("good");
        assert!(options.follow && previous && options.timestamps && options.tail == Some(5));
        assert!(log_options("tailLines=x").is_err());
    }
}
