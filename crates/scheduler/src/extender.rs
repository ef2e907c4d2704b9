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
        let mut cluster = json!({"server": config.url_prefix, "insecure-skip-tls-verify": tls.insecure});
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
        let managed = &self.config.managed_resources;
        managed.is_empty() || pod.template.requests.iter().any(|(r, _)| managed.iter().any(|m| m.name == *r))
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
        let prefix = self.config.url_prefix.trim_end_matches('/');
        let failed = |e: &dyn std::fmt::Display| format!("failed at {prefix}/{verb}: {e}");
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
                return Err(failed(&format!("server returned status {status}")));
            }
            serde_json::from_slice(&body).map_err(|e| failed(&e))
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result,
            Err(_) => Err(failed(&"context deadline exceeded")),
        }
    }

    /// The pod and the nodes, in the form that the server wants.
    async fn args(&self, pod: &PodInfo, names: &[String]) -> Result<Value, String> {
        let target = Resource::of::<PodInfo>().at(&pod.meta.namespace, &pod.meta.name);
        let pod: Value = self.api.get(&target).await.map_err(|e| e.to_string())?;
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
                "extender {:?} claims a filtered node {stranger:?} which is not found in the input",
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
        let victims: serde_json::Map<String, Value> = (candidates.iter())
            .map(|c| {
                let pods: Vec<_> = c.victims.iter().map(|v| json!({"uid": v.uid()})).collect();
                let name = nodes.rows.name(c.node as usize).to_owned();
                (name, json!({"pods": pods, "numPDBViolations": c.violations}))
            })
            .collect();
        let target = Resource::of::<PodInfo>().at(&pod.meta.namespace, &pod.meta.name);
        let whole: Value = self.api.get(&target).await.map_err(|e| e.to_string())?;
        let args = json!({"pod": whole, "nodeNameToMetaVictims": victims});
        let result: PreemptionResult = self.ask(&self.config.preempt_verb, &args).await?;
        let mut left = Vec::new();
        for (name, said) in result.node_name_to_meta_victims.unwrap_or_default() {
            let asked = candidates.iter().find(|c| nodes.rows.name(c.node as usize) == name);
            let Some(asked) = asked else {
                return Err(format!("extender {:?} names node {name:?}, which is no candidate", self.name()));
            };
            let on_node = &nodes.rows.pods[asked.node as usize];
            let victims: Option<Vec<_>> = (said.pods.unwrap_or_default().iter())
                .map(|p| on_node.iter().find(|o| o.uid() == p.uid).cloned())
                .collect();
            let Some(victims) = victims else {
                return Err(format!("extender {:?} names victims that are not on node {name:?}", self.name()));
            };
            if victims.is_empty() {
                if self.is_ignorable() {
                    continue;
                }
                return Err(format!("expected at least one victim pod on node {name:?}"));
            }
            let violations = usize::try_from(said.violations).unwrap_or(0);
            left.push(Candidate { node: asked.node, victims, violations });
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::pod::tests::pod;

    /// Reads one request of a connection; its path and body.
    async fn request(stream: &mut TcpStream) -> Option<(String, Value)> {
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

    /// A server that answers by `answer`.
    async fn serve(answer: fn(&str, &Value) -> Value) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                while let Some((path, body)) = request(&mut stream).await {
                    let text = answer(&path, &body).to_string();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", text.len());
                    if stream.write_all(format!("{head}{text}").as_bytes()).await.is_err() {
                        break;
                    }
                }
            }
        });
        format!("http://{address}/scheduler")
    }

    async fn extender(answer: fn(&str, &Value) -> Value) -> Extender {
        let config = types::Extender {
            url_prefix: serve(answer).await,
            filter_verb: "filter".into(),
            prioritize_verb: "prioritize".into(),
            bind_verb: "bind".into(),
            weight: 2,
            node_cache_capable: true,
            ..types::Extender::default()
        };
        // The API has the pod, and nothing else.
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, std::convert::Infallible>(http::Response::new(Body::from(br#"{"metadata":{"name":"p"}}"#.to_vec())))
        });
        let api = Api::new(kube::Client::new(service, "default"), "test");
        Extender::new(&config, api).await.expect("an extender")
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
}
