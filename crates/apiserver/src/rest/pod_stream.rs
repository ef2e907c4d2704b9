//! `pods/log`, `pods/exec`, `pods/attach` and `pods/portforward`: passed on to the pod's kubelet
//! (`pkg/registry/core/pod/rest/{log,subresources}.go`, `pkg/registry/core/pod/strategy.go`).

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderValue, Request, header};
use http_body_util::{BodyExt, Limited};
use orkd_api::status::{Details, Status};
use orkd_streaming::remote::Streams;
use serde_json::Value;

use super::dial::{Address, Dialer, kubelet_of};
use super::{Call, Reply, Rest, connect, tunnel, websocket};
use crate::Body;
use crate::admission::{items, meta};
use crate::authz::{Attributes, Authorizer, Decision, forbidden};

/// How much of a kubelet's error text is read.
const MAX_TEXT: usize = 50_000;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// `exec`
    Exec,
    /// `attach`
    Attach,
    /// `portforward`
    PortForward,
}

/// Serves exec, attach and port-forward.
pub struct PodStream {
    stream: Stream,
    dialer: Arc<Dialer>,
    authorizer: Arc<dyn Authorizer>,
}

impl PodStream {
    /// A handler of one of the three.
    pub fn new(stream: Stream, dialer: Arc<Dialer>, authorizer: Arc<dyn Authorizer>) -> Self {
        PodStream { stream, dialer, authorizer }
    }
}

#[async_trait]
impl Rest for PodStream {
    async fn serve(&self, call: Call, request: Request<Body>) -> Result<Reply, Status> {
        connect::admit(&call, &format!("Pod{:?}Options", self.stream), None).await?;
        // A GET that opens a stream has the power of a POST: it needs its permission, too.
        if call.info.verb == "get" {
            let mut info = call.info.clone();
            info.verb = "create".into();
            let attributes = Attributes { user: &call.user, request: &info };
            if !matches!(self.authorizer.authorize(&attributes).await, Decision::Allow(_)) {
                return Err(forbidden(&attributes, ""));
            }
        }
        let (pod, address) = locate(&call).await?;
        let streams = Streams {
            stdin: call.query.flag("stdin"),
            stdout: call.query.flag("stdout"),
            stderr: call.query.flag("stderr"),
            tty: call.query.flag("tty"),
        };
        let target = self.target(&call, &pod, streams)?;
        let address = address
            .ok_or_else(|| Status::bad_request(format!("pod {} does not have a host assigned", meta(&pod, "name"))))?;
        if !tunnel::is_upgrade(request.headers()) {
            return Err(Status::bad_request("Upgrade request required"));
        }
        let dialer = &self.dialer;
        let answer = match self.stream {
            _ if !tunnel::is_websocket(request.headers()) => tunnel::forward(dialer, &address, &target, request).await,
            Stream::Exec | Stream::Attach => websocket::command(dialer, &address, &target, streams, request).await,
            Stream::PortForward if websocket::is_tunnel(request.headers()) => {
                websocket::tunnel(dialer, &address, &target, request).await
            }
            Stream::PortForward => tunnel::forward(dialer, &address, &target, request).await,
        };
        answer.map(Reply::Raw)
    }
}

impl PodStream {
    /// The kubelet's path and query.
    fn target(&self, call: &Call, pod: &Value, streams: Streams) -> Result<String, Status> {
        if self.stream == Stream::PortForward {
            let ports: Vec<&str> = call.query.all("ports").flat_map(|p| p.split(',')).collect();
            let query = if ports.is_empty() { String::new() } else { encode([("port", ports.join(",").as_str())]) };
            return Ok(path("portForward", pod, None, &query));
        }
        let container = container(pod, call.query.text("container"))?;
        let mut pairs: Vec<(&str, &str)> = Vec::new();
        for (name, wanted) in [
            ("input", streams.stdin),
            ("output", streams.stdout),
            // A terminal has one output.
            ("error", streams.stderr && !streams.tty),
            ("tty", streams.tty),
        ] {
            if wanted {
                pairs.push((name, "1"));
            }
        }
        let name = match self.stream {
            Stream::Exec => {
                pairs.extend(call.query.all("command").map(|c| ("command", c)));
                "exec"
            }
            _ => "attach",
        };
        Ok(path(name, pod, Some(&container), &encode(pairs)))
    }
}

/// Serves logs.
pub struct Log {
    dialer: Arc<Dialer>,
}

impl Log {
    /// Connects with this dialer.
    pub fn new(dialer: Arc<Dialer>) -> Self {
        Log { dialer }
    }
}

#[async_trait]
impl Rest for Log {
    async fn serve(&self, call: Call, client: Request<Body>) -> Result<Reply, Status> {
        let query = log_query(&call)?;
        let (pod, address) = locate(&call).await?;
        let container = container(&pod, call.query.text("container"))?;
        let websocket = tunnel::is_websocket(client.headers());
        let Some(address) = address else { return Ok(Reply::Raw(plain(Body::empty()))) };
        let target = path("containerLogs", &pod, Some(&container), &query);
        let request = Request::get("/").body(Body::empty());
        let request = request.map_err(|_| Status::bad_request("the request cannot be passed on"))?;
        let response = tunnel::forward(&self.dialer, &address, &target, request).await?;
        let status = response.status().as_u16();
        if (200..=206).contains(&status) {
            let body = response.into_body();
            return if websocket { websocket::log(client, body).map(Reply::Raw) } else { Ok(Reply::Raw(plain(body))) };
        }
        let text = match Limited::new(response.into_body(), MAX_TEXT).collect().await {
            Ok(body) => String::from_utf8_lossy(&body.to_bytes()).trim_end().to_owned(),
            Err(_) => String::new(),
        };
        Err(match status {
            500 => Status::internal(text),
            400 => Status::bad_request(text),
            404 => {
                let message = format!("the server could not find the requested resource ({text})");
                let details =
                    Details { name: meta(&pod, "name").into(), kind: "pods/log".into(), ..Details::default() };
                Status { details: Some(details), ..Status::new(404, "NotFound", message) }
            }
            code => Status::new(code, "", text),
        })
    }
}

fn plain(body: Body) -> http::Response<Body> {
    let mut response = http::Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// The kubelet's query for a log, from the checked options of the request.
fn log_query(call: &Call) -> Result<String, Status> {
    let mut errors = orkd_api::field::ErrorList::new();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for name in ["follow", "previous", "timestamps"] {
        if call.query.flag(name) {
            pairs.push((name, "true".into()));
        }
    }
    for (name, least, text) in [
        ("sinceSeconds", 1, "must be greater than 0"),
        ("tailLines", 0, "must be greater than or equal to 0"),
        ("limitBytes", 1, "must be greater than 0"),
    ] {
        if let Some(n) = crate::verbs::number(&call.query, name)? {
            if n < least {
                errors.invalid(&orkd_api::field::Path::new(name), n, text);
            }
            pairs.push((name, n.to_string()));
        }
    }
    let since = call.query.text("sinceTime");
    if !since.is_empty() {
        if call.query.get("sinceSeconds").is_some() {
            errors.forbidden(
                &orkd_api::field::Path::new(""),
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            );
        }
        let time = since.parse::<jiff::Timestamp>().map_err(|_| {
            Status::bad_request(format!(
                "parsing time {since:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {since:?}"
            ))
        })?;
        pairs.push(("sinceTime", time.to_string()));
    }
    if let Some(stream) = call.query.get("stream").filter(|s| !s.is_empty()) {
        pairs.push(("stream", stream.to_owned()));
    }
    if !errors.is_empty() {
        return Err(Status::invalid("", "PodLogOptions", &call.info.name, &errors));
    }
    Ok(encode(pairs.iter().map(|(k, v)| (*k, v.as_str()))))
}

/// The pod, and where its kubelet is; `None` while it has no node.
async fn locate(call: &Call) -> Result<(Value, Option<Address>), Status> {
    let writer = call.writer();
    let pod = writer.get("", "pods", &call.info.namespace, &call.info.name).await?;
    let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Ok((pod, None));
    }
    let node = writer.get("", "nodes", "", node).await?;
    let address = kubelet_of(&node)?;
    Ok((pod, Some(address)))
}

/// The container that is meant (`validateContainer`).
fn container(pod: &Value, asked: &str) -> Result<String, Status> {
    let names = |list: &str| -> Vec<String> {
        items(&pod["spec"][list]).iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    };
    let (containers, init, ephemeral) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let pod_name = meta(pod, "name");
    if !asked.is_empty() {
        let all = [&containers, &init, &ephemeral];
        return if all.iter().any(|list| list.iter().any(|n| n == asked)) {
            Ok(asked.to_owned())
        } else {
            Err(Status::bad_request(format!("container {asked} is not valid for pod {pod_name}")))
        };
    }
    match containers.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(Status::bad_request(format!("a container name must be specified for pod {pod_name}"))),
        several => {
            let mut text = format!(
                "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                several.join(" ")
            );
            if !init.is_empty() {
                text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
            }
            Err(Status::bad_request(text))
        }
    }
}

/// A kubelet's path for a pod.
fn path(what: &str, pod: &Value, container: Option<&str>, query: &str) -> String {
    let mut path = format!("/{what}/{}/{}", meta(pod, "namespace"), meta(pod, "name"));
    if let Some(container) = container {
        path.push('/');
        path.push_str(container);
    }
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// A query.
fn encode<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
    let pair = |(k, v): (&str, &str)| format!("{k}={}", utf8_percent_encode(v, NON_ALPHANUMERIC));
    pairs.into_iter().map(pair).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_container_is_found_or_asked_for() {
        let check = |pod: Value, asked: &str, expected: Result<&str, &str>| {
            let found = container(&pod, asked);
            assert_eq!(found.as_deref().map_err(|s| s.message.as_str()), expected);
        };
        let pod = |containers: Value| json!({"metadata": {"name": "p"}, "spec": {"containers": containers, "initContainers": [{"name": "i"}]}});
        let (one, two) = (pod(json!([{"name": "a"}])), pod(json!([{"name": "a"}, {"name": "b"}])));
        check(one.clone(), "", Ok("a"));
        check(two.clone(), "b", Ok("b"));
        check(one.clone(), "i", Ok("i"));
        check(one, "x", Err("container x is not valid for pod p"));
        let text =
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]";
        check(two, "", Err(text));
    }

    #[test]
    fn paths_are_the_kubelets() {
        let pod = json!({"metadata": {"namespace": "ns", "name": "p"}});
        let query = encode([("command", "sh -c"), ("command", "a&b"), ("input", "1")]);
        assert_eq!(path("exec", &pod, Some("c"), &query), "/exec/ns/p/c?command=sh%20%2Dc&command=a%26b&input=1");
        assert_eq!(path("portForward", &pod, None, ""), "/portForward/ns/p");
    }
}
