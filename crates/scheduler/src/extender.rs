//! Servers that are asked as well: which nodes will do, how good they are, which victims will do, and to bind. Upstream:
//! `pkg/scheduler/extender.go`, `k8s.io/kube-scheduler/extender/v1`.
//!
//! They are sent whole pods and nodes as the API has them, which the scheduler does not keep: they are read when asked.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request};
use http_body_util::{BodyExt, Limited};
use kube::client::Body;
use orkd_reconcile::{Api, Resource};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::types;
use crate::framework::{Act, Candidate};
use crate::model::Node;
use crate::nodes::Nodes;
use crate::pod::PodInfo;

/// The most an answer may weigh.
const MAX_ANSWER: usize = 64 << 20;
/// How long an extender may take that says nothing about it.
const TIMEOUT: Duration = Duration::from_secs(5);

/// One server.
#[derive(Clone)]
pub struct Extender {
    config: Arc<types::Extender>,
    client: kube::Client,
    api: Api,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FilterResult {
    nodes: Option<NodeList>,
    #[serde(rename = "nodenames")]
    node_names: Option<Vec<String>>,
    failed_nodes: Option<BTreeMap<String, String>>,
    failed_and_unresolvable_nodes: Option<BTreeMap<String, String>>,
    error: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct NodeList {
    items: Option<Vec<Node>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct HostPriority {
    host: String,
    score: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PreemptionResult {
    node_name_to_meta_victims: Option<HashMap<String, MetaVictims>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetaVictims {
    pods: Option<Vec<MetaPod>>,
    #[serde(rename = "numPDBViolations")]
    violations: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MetaPod {
    uid: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BindingResult {
    error: String,
}

/// What an extender says of nodes.
#[derive(Debug, Default)]
pub struct Filtered {
    /// Those that will do, by name.
    pub fit: Vec<String>,
    /// Those that will not: why, and whether removing pods could not help either.
    pub refused: Vec<(String, String, bool)>,
}

impl Extender {
    /// A server as it is written.
    ///
    /// # Errors
    /// Its address or its certificates are of no use.
    pub async fn new(config: &types::Extender, api: Api) -> Result<Extender, String> {
        let tls = config.tls_config.clone().unwrap_or_default();
        // Who says nothing of authorities believes everyone (`makeTransport`).
        let anyone = config.enable_https && tls.ca_file.is_empty() && tls.ca_data.is_empty();
        let mut cluster = json!({"server": config.url_prefix, "insecure-skip-tls-verify": tls.insecure || anyone});
        let mut user = json!({});
        let set = |of: &mut Value, key: &str, value: &str| {
            if !value.is_empty() {
                of[key] = json!(value);
            }
        };
        set(&mut cluster, "tls-server-name", &tls.server_name);
        set(&mut cluster, "certificate-authority", &tls.ca_file);
        set(&mut cluster, "certificate-authority-data", &tls.ca_data);
        set(&mut user, "client-certificate", &tls.cert_file);
        set(&mut user, "client-certificate-data", &tls.cert_data);
        set(&mut user, "client-key", &tls.key_file);
        set(&mut user, "client-key-data", &tls.key_data);
        let unusable = |e: &dyn std::fmt::Display| format!("extender {}: {e}", config.url_prefix);
        let kubeconfig = json!({"apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "x", "cluster": cluster}], "users": [{"name": "x", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}]});
        let kubeconfig = serde_json::from_value(kubeconfig).map_err(|e| unusable(&e))?;
        let reach = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
        let client = kube::Client::try_from(reach.map_err(|e| unusable(&e))?).map_err(|e| unusable(&e))?;
        Ok(Extender { config: Arc::new(config.clone()), client, api })
    }

    /// Where it is.
    pub fn name(&self) -> &str {
        &self.config.url_prefix
    }

    /// Whether pods are scheduled without it when it fails.
    pub fn is_ignorable(&self) -> bool {
        self.config.ignorable
    }

    /// Whether a pod concerns it.
    pub fn is_interested(&self, pod: &PodInfo) -> bool {
        is_interested(&self.config, pod)
    }

    /// Whether it is asked which nodes will do.
    pub fn filters(&self) -> bool {
        !self.config.filter_verb.is_empty()
    }

    /// Whether it is asked how good nodes are.
    pub fn rates(&self) -> bool {
        !self.config.prioritize_verb.is_empty()
    }

    /// Whether it is asked which victims will do.
    pub fn preempts(&self) -> bool {
        !self.config.preempt_verb.is_empty()
    }

    /// Whether it binds.
    pub fn binds(&self) -> bool {
        !self.config.bind_verb.is_empty()
    }

    async fn ask<T: DeserializeOwned>(&self, verb: &str, args: &Value) -> Result<T, String> {
        let url = format!("{}/{}", self.config.url_prefix.trim_end_matches('/'), verb.trim_start_matches('/'));
        let failed = |e: &dyn std::fmt::Display| format!("Post {url:?}: {e}");
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/{}", verb.trim_start_matches('/')))
            .header(http::header::CONTENT_TYPE, "application/json");
        let request = request.body(Body::from(args.to_string().into_bytes())).map_err(|e| failed(&e))?;
        let limit = self.config.http_timeout.map_or(TIMEOUT, Duration::from);
        let exchange = async {
            let answer = self.client.send(request).await.map_err(|e| failed(&e))?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| failed(&e))?.to_bytes();
            if status != http::StatusCode::OK {
                return Err(format!("failed {verb} with extender at URL {url}, code {}", status.as_u16()));
            }
            serde_json::from_slice(&body).map_err(|e| failed(&e))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(failed(&"context deadline exceeded")),
        }
    }

    /// A pod as the API has it.
    async fn whole(&self, pod: &PodInfo) -> Result<Value, String> {
        let target = Resource::of::<PodInfo>().at(&pod.meta.namespace, &pod.meta.name);
        self.api.get(&target).await.map_err(|e| e.to_string())
    }

    /// The pod and the nodes, in the form that the server wants.
    async fn args(&self, pod: &PodInfo, names: &[String]) -> Result<Value, String> {
        let pod = self.whole(pod).await?;
        if self.config.node_cache_capable {
            return Ok(json!({"pod": pod, "nodenames": names}));
        }
        let all: Value = self.api.get(&Resource::of::<Node>().collection("")).await.map_err(|e| e.to_string())?;
        let wanted: std::collections::HashSet<&str> = names.iter().map(String::as_str).collect();
        let items: Vec<&Value> = (all["items"].as_array().into_iter().flatten())
            .filter(|n| n["metadata"]["name"].as_str().is_some_and(|n| wanted.contains(n)))
            .collect();
        Ok(json!({"pod": pod, "nodes": {"kind": "NodeList", "apiVersion": "v1", "metadata": {}, "items": items}}))
    }

    /// Asks which nodes will do.
    ///
    /// # Errors
    /// The server cannot be asked, or says that it failed.
    pub async fn filter(&self, pod: &PodInfo, names: &[String]) -> Result<Filtered, String> {
        let args = self.args(pod, names).await?;
        let result: FilterResult = self.ask(&self.config.filter_verb, &args).await?;
        if !result.error.is_empty() {
            return Err(result.error);
        }
        let fit = match (result.node_names, result.nodes) {
            (Some(names), _) if self.config.node_cache_capable => names,
            (_, Some(nodes)) => {
                nodes.items.unwrap_or_default().into_iter().map(|n| n.metadata.name.to_string()).collect()
            }
            _ => Vec::new(),
        };
        if let Some(stranger) = fit.iter().find(|n| !names.contains(*n)) {
            return Err(format!(
                "extender {:?} claims a filtered node {stranger:?} which is not found in the input node list",
                self.name()
            ));
        }
        let hopeless = result.failed_and_unresolvable_nodes.unwrap_or_default();
        let failed = result.failed_nodes.unwrap_or_default();
        let mut refused: Vec<_> = hopeless.iter().map(|(n, why)| (n.clone(), why.clone(), true)).collect();
        refused.extend(failed.into_iter().filter(|(n, _)| !hopeless.contains_key(n)).map(|(n, why)| (n, why, false)));
        Ok(Filtered { fit, refused })
    }

    /// Asks how good nodes are: what each gains, in the scheduler's points.
    ///
    /// # Errors
    /// The server cannot be asked.
    pub async fn rate(&self, pod: &PodInfo, names: &[String]) -> Result<HashMap<String, i64>, String> {
        let args = self.args(pod, names).await?;
        let result: Option<Vec<HostPriority>> = self.ask(&self.config.prioritize_verb, &args).await?;
        let points = |score: i64| score.saturating_mul(self.config.weight).saturating_mul(10);
        Ok(result.unwrap_or_default().into_iter().map(|p| (p.host, points(p.score))).collect())
    }

    /// Asks which candidates for preemption will do.
    ///
    /// # Errors
    /// The server cannot be asked, or names what was not asked about.
    pub async fn preempt(
        &self,
        pod: &PodInfo,
        candidates: &[Candidate],
        nodes: &Nodes,
    ) -> Result<Vec<Candidate>, String> {
        // Who knows the pods of nodes is told their names, others the pods themselves.
        let by_name = self.config.node_cache_capable;
        let mut victims = serde_json::Map::new();
        for c in candidates {
            let mut pods = Vec::new();
            for victim in &c.victims {
                pods.push(if by_name { json!({"uid": victim.uid()}) } else { self.whole(victim).await? });
            }
            let name = nodes.rows.name(c.node as usize).to_owned();
            victims.insert(name, json!({"pods": pods, "numPDBViolations": c.violations}));
        }
        let field = if by_name { "nodeNameToMetaVictims" } else { "nodeNameToVictims" };
        let args = json!({"pod": self.whole(pod).await?, field: victims});
        let result: PreemptionResult = self.ask(&self.config.preempt_verb, &args).await?;
        let mut left = Vec::new();
        for (name, said) in result.node_name_to_meta_victims.unwrap_or_default() {
            let Some(node) = nodes.position(&name) else {
                return Err(format!("nodeinfo not found for node name {name:?}"));
            };
            let on_node = &nodes.rows.pods[node];
            let mut victims = Vec::new();
            for uid in said.pods.unwrap_or_default().iter().map(|p| &p.uid) {
                let Some(victim) = on_node.iter().find(|o| o.uid() == uid) else {
                    return Err(format!(
                        "extender: {} claims to preempt pod (UID: {uid}) on node: {name}, but the pod is not found on that \
                         node",
                        self.name()
                    ));
                };
                victims.push(victim.clone());
            }
            if victims.is_empty() {
                if self.is_ignorable() {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            let violations = usize::try_from(said.violations).unwrap_or(0);
            left.push(Candidate { node: node as u32, victims, violations });
        }
        left.sort_by_key(|c| c.node);
        Ok(left)
    }

    /// Has it bind a pod.
    pub fn bind(&self, pod: &PodInfo, node: &str) -> Act {
        let extender = self.clone();
        let args =
            json!({"podName": pod.meta.name, "podNamespace": pod.meta.namespace, "podUID": pod.uid(), "node": node});
        Box::pin(async move {
            let result: BindingResult = extender.ask(&extender.config.bind_verb, &args).await?;
            if result.error.is_empty() { Ok(()) } else { Err(result.error) }
        })
    }
}

/// Whether a pod asks for something that an extender looks after, if that is all it does.
fn is_interested(config: &types::Extender, pod: &PodInfo) -> bool {
    let managed = &config.managed_resources;
    managed.is_empty() || pod.template.requests.iter().any(|(r, _)| managed.iter().any(|m| m.name == *r))
}

#[cfg(test)]
pub(crate) mod tests {
    use base64::Engine as _;
    use orkd_pki::{Authority, Profile};
    use rustls::pki_types::pem::PemObject as _;
    use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::pod::tests::pod;

    /// Reads one request of a connection; its path and body.
    async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<(String, Value)> {
        let mut bytes = Vec::new();
        loop {
            let mut part = [0; 4096];
            let n = stream.read(&mut part).await.ok().filter(|n| *n > 0)?;
            bytes.extend_from_slice(&part[..n]);
            let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length: usize = head.lines().find_map(|l| l.strip_prefix("content-length: "))?.trim().parse().ok()?;
            if body.len() >= length {
                let path = String::from_utf8_lossy(&bytes).split(' ').nth(1)?.to_owned();
                return Some((path, serde_json::from_slice(&bytes[bytes.len() - length..]).ok()?));
            }
        }
    }

    /// Answers the requests of a connection.
    async fn answer_all(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: fn(&str, &Value) -> Value) {
        while let Some((path, body)) = request(&mut stream).await {
            let text = answer(&path, &body).to_string();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
            if stream.write_all(format!("{head}{text}").as_bytes()).await.is_err() {
                break;
            }
        }
    }

    /// A server that answers by `answer`.
    async fn serve(answer: fn(&str, &Value) -> Value) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                answer_all(stream, answer).await;
            }
        });
        format!("http://{address}/scheduler")
    }

    /// What the extender under test is told of itself.
    fn config(url_prefix: String) -> types::Extender {
        types::Extender {
            url_prefix,
            filter_verb: "filter".into(),
            prioritize_verb: "prioritize".into(),
            preempt_verb: "preempt".into(),
            bind_verb: "bind".into(),
            weight: 2,
            node_cache_capable: true,
            ..types::Extender::default()
        }
    }

    /// An extender beside an API that has one pod of every name, and nothing else.
    async fn beside_api(config: &types::Extender) -> Result<Extender, String> {
        let service = tower::service_fn(|request: Request<Body>| async move {
            let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            let pod = json!({"metadata": {"name": name}}).to_string();
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(pod.into_bytes())))
        });
        let api = Api::new(kube::Client::new(service, "default"), "test");
        Extender::new(config, api).await
    }

    /// An extender that answers by `answer`.
    pub(crate) async fn extender(answer: fn(&str, &Value) -> Value) -> Extender {
        beside_api(&config(serve(answer).await)).await.expect("an extender")
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[tokio::test]
    async fn an_extender_filters_rates_and_binds() {
        let e = extender(|path, body| match path {
            "/scheduler/filter" => {
                assert_eq!(
                    (&body["pod"]["metadata"]["name"], &body["nodenames"]),
                    (&json!("p"), &json!(["a", "b", "c"]))
                );
                json!({"nodenames": ["b"], "failedNodes": {"a": "busy"}, "failedAndUnresolvableNodes": {"c": "broken"}})
            }
            "/scheduler/prioritize" => json!([{"host": "b", "score": 7}]),
            "/scheduler/bind" if body["node"] == "b" => json!({}),
            _ => json!({"error": "no"}),
        })
        .await;
        let p = pod("p", json!({}));
        let filtered = e.filter(&p, &names(&["a", "b", "c"])).await.expect("an answer");
        assert_eq!(filtered.fit, ["b"]);
        assert_eq!(filtered.refused, [("c".into(), "broken".into(), true), ("a".into(), "busy".into(), false)]);
        let points = e.rate(&p, &names(&["a", "b"])).await.expect("an answer");
        assert_eq!(points, HashMap::from([("b".to_owned(), 140)]));
        assert_eq!(e.bind(&p, "b").await, Ok(()));
        assert_eq!(e.bind(&p, "x").await, Err("no".into()));
    }

    #[tokio::test]
    async fn an_extender_that_names_strangers_is_not_believed() {
        let e = extender(|_, _| json!({"nodenames": ["x"]})).await;
        let error = e.filter(&pod("p", json!({})), &names(&["a"])).await.expect_err("a stranger");
        assert!(error.contains("claims a filtered node \"x\" which is not found in the input"), "{error}");
    }

    /// A node `a` with two pods on it.
    fn nodes() -> (Nodes, Vec<Candidate>) {
        let mut nodes = Nodes::default();
        nodes.set_node(&crate::nodes::tests::node("a", "1", json!({})));
        let victims = ["v1", "v2"].map(|name| pod(name, json!({})));
        victims.iter().for_each(|v| nodes.place(v.clone(), "a"));
        let node = nodes.position("a").expect("a node") as u32;
        (nodes, vec![Candidate { node, victims: victims.into(), violations: 1 }])
    }

    #[tokio::test]
    async fn an_extender_chooses_among_victims() {
        let (nodes, candidates) = nodes();
        let e = extender(|path, body| {
            assert_eq!(path, "/scheduler/preempt");
            let all = json!({"a": {"pods": [{"uid": "v1"}, {"uid": "v2"}], "numPDBViolations": 1}});
            assert_eq!((&body["pod"]["metadata"]["name"], &body["nodeNameToMetaVictims"]), (&json!("p"), &all));
            assert!(body.get("nodeNameToVictims").is_none());
            json!({"nodeNameToMetaVictims": {"a": {"pods": [{"uid": "v2"}], "numPDBViolations": 0}}})
        })
        .await;
        let left = e.preempt(&pod("p", json!({})), &candidates, &nodes).await.expect("an answer");
        assert_eq!((left.len(), left[0].violations, left[0].victims[0].uid()), (1, 0, "v2"));
    }

    #[tokio::test]
    async fn an_extender_without_a_cache_is_told_of_victims_in_full() {
        let (nodes, candidates) = nodes();
        let answer = |_: &str, body: &Value| {
            let names: Vec<_> = body["nodeNameToVictims"]["a"]["pods"].as_array().into_iter().flatten().collect();
            assert_eq!(names, [&json!({"metadata": {"name": "v1"}}), &json!({"metadata": {"name": "v2"}})]);
            json!({"nodeNameToMetaVictims": {}})
        };
        let config = types::Extender { node_cache_capable: false, ..config(serve(answer).await) };
        let e = beside_api(&config).await.expect("an extender");
        let left = e.preempt(&pod("p", json!({})), &candidates, &nodes).await.expect("an answer");
        assert!(left.is_empty(), "it leaves no node");
    }

    #[tokio::test]
    async fn an_extender_that_names_what_is_not_there_is_not_believed() {
        let (nodes, candidates) = nodes();
        let p = pod("p", json!({}));
        let error = |answer| {
            let (nodes, candidates, p) = (&nodes, &candidates, &p);
            async move { extender(answer).await.preempt(p, candidates, nodes).await.map(drop).expect_err("a stranger") }
        };
        let said = error(|_, _| json!({"nodeNameToMetaVictims": {"x": {"pods": [{"uid": "v1"}]}}})).await;
        assert_eq!(said, "nodeinfo not found for node name \"x\"");
        let said = error(|_, _| json!({"nodeNameToMetaVictims": {"a": {"pods": [{"uid": "v9"}]}}})).await;
        assert!(
            said.ends_with("claims to preempt pod (UID: v9) on node: a, but the pod is not found on that node"),
            "{said}"
        );
        let said = error(|_, _| json!({"nodeNameToMetaVictims": {"a": {"pods": []}}})).await;
        assert_eq!(said, "expected at least one victim pod on node \"a\"");
    }

    #[test]
    fn a_pod_concerns_an_extender_by_its_resources() {
        let e = |managed: &[&str]| {
            let managed =
                managed.iter().map(|n| types::ManagedResource { name: (*n).to_owned(), ..Default::default() });
            types::Extender { managed_resources: managed.collect(), ..config(String::new()) }
        };
        let asks = |name: &str| pod("p", json!({"containers": [{"resources": {"requests": {name: "1"}}}]}));
        let check = |config: types::Extender, pod: &PodInfo, expected: bool| {
            assert_eq!(is_interested(&config, pod), expected, "{:?}", config.managed_resources);
        };
        check(e(&[]), &asks("cpu"), true);
        check(e(&["example.com/gpu"]), &asks("example.com/gpu"), true);
        check(e(&["example.com/gpu"]), &asks("cpu"), false);
    }

    fn base64(text: &str) -> String {
        base64::engine::general_purpose::STANDARD.encode(text)
    }

    /// An authority, and a server that shows a certificate of it and wants one of it shown.
    async fn serve_tls() -> (Authority, String) {
        let now = jiff::Timestamp::now();
        let authority = Authority::create("extender-ca", now).expect("an authority");
        let server = authority.issue(&Profile::server("extender", vec!["extender.test".into()], vec![]), now);
        let server = server.expect("an identity");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate().to_rustls()).expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(server.key.to_pem().as_bytes()).expect("a key");
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(vec![server.certificate.to_rustls()], key)
            .expect("a server");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that does not like the certificate goes away.
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer_all(stream, |_, _| json!({"nodenames": ["a"]})).await;
                }
            }
        });
        (authority, format!("https://{address}"))
    }

    #[tokio::test]
    async fn an_extender_is_reached_by_tls() {
        // Another test may have installed it.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (authority, url) = serve_tls().await;
        let now = jiff::Timestamp::now();
        let client = authority.issue(&Profile::client("scheduler", &[]), now).expect("an identity");
        let shown = types::ExtenderTls {
            server_name: "extender.test".into(),
            cert_data: base64(&client.certificate.to_pem()),
            key_data: base64(&client.key.to_pem()),
            ..types::ExtenderTls::default()
        };
        let ask = |tls: types::ExtenderTls, enable_https: bool| {
            let config = types::Extender { tls_config: Some(tls), enable_https, ..config(url.clone()) };
            async move {
                let e = beside_api(&config).await.expect("an extender");
                e.filter(&pod("p", json!({})), &names(&["a"])).await.map(|f| f.fit)
            }
        };
        let of = |authority: &Authority| base64(&authority.certificate().to_pem());
        let trusting = types::ExtenderTls { ca_data: of(&authority), ..shown.clone() };
        assert_eq!(ask(trusting.clone(), true).await, Ok(names(&["a"])));
        assert_eq!(ask(shown.clone(), true).await, Ok(names(&["a"])), "without an authority anyone is believed");
        let stranger = Authority::create("another", now).expect("an authority");
        let wary = types::ExtenderTls { ca_data: of(&stranger), ..shown.clone() };
        let error = ask(wary, true).await.expect_err("not its authority");
        assert!(error.starts_with("Post \"https://127.0.0.1:"), "{error}");
        let misnamed = types::ExtenderTls { server_name: "other.test".into(), ..trusting.clone() };
        assert!(ask(misnamed, true).await.is_err(), "another name");
        let silent = types::ExtenderTls { cert_data: String::new(), key_data: String::new(), ..trusting };
        assert!(ask(silent, true).await.is_err(), "the server wants a certificate");
    }

    #[tokio::test]
    async fn what_goes_wrong_says_where() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            request(&mut stream).await.expect("a request");
            stream.write_all(b"HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n").await.expect("an answer");
        });
        let e = beside_api(&config(url.clone())).await.expect("an extender");
        let error = e.filter(&pod("p", json!({})), &names(&["a"])).await.expect_err("it failed");
        assert_eq!(error, format!("failed filter with extender at URL {url}/filter, code 500"));
    }
}
