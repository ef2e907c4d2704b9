//! A server on an embedded store in a temporary directory, with a user who may do everything.

use std::sync::Arc;

use async_trait::async_trait;
use http::{Request, Response};
use http_body_util::BodyExt;
use orkd_apiserver::Body;
use orkd_apiserver::authn::{Authenticator, Verdict};
use orkd_apiserver::authz::{Attributes, Authorizer, Decision};
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::{ApiServer, Builder};
use orkd_apiserver::user::{InProcess, UserInfo};
use orkd_store::Store;
use serde_json::Value;
use tower::ServiceExt;

/// Everyone is who the extension says, or the administrator.
pub struct Anyone;

#[async_trait]
impl Authenticator for Anyone {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        Verdict::User(match parts.extensions.get::<InProcess>() {
            Some(InProcess(user)) => user.clone(),
            None => UserInfo::new("admin", &["system:masters"]),
        })
    }
}

/// Masters may do everything, others nothing.
pub struct Masters;

#[async_trait]
impl Authorizer for Masters {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group("system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

pub struct Cluster {
    pub server: ApiServer,
    pub store: Arc<dyn Store>,
    _dir: tempfile::TempDir,
}

pub async fn cluster() -> Cluster {
    cluster_with(|b| b).await
}

pub async fn cluster_with(more: impl FnOnce(Builder) -> Builder) -> Cluster {
    let dir = tempfile::tempdir().expect("temporary directory");
    let store = open_store(dir.path()).await;
    let kinds = orkd_api::kinds::all().into_iter().map(Arc::from).collect();
    let caches = Caches::open(store.clone(), kinds).await.expect("caches open");
    let builder = ApiServer::builder(caches).authenticator(Anyone).authorizer(Arc::new(Masters));
    let server = more(builder).build();
    let cluster = Cluster { server, store, _dir: dir };
    for ns in ["default", "kube-system"] {
        let body = format!(r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{ns}"}}}}"#);
        let (code, value) = cluster.send("POST", "/api/v1/namespaces", body.as_bytes(), &[]).await;
        assert_eq!(code, 201, "{value}");
    }
    cluster
}

async fn open_store(dir: &std::path::Path) -> Arc<dyn Store> {
    let options = orkd_store::backends::embedded::Options::default();
    Arc::new(orkd_store::backends::embedded::Embedded::open(dir.join("store"), options).expect("store opens"))
}

impl Cluster {
    /// Another server on the same store.
    pub async fn restarted(self) -> Cluster {
        let kinds = orkd_api::kinds::all().into_iter().map(Arc::from).collect();
        let caches = Caches::open(self.store.clone(), kinds).await.expect("caches open");
        let server = ApiServer::builder(caches).authenticator(Anyone).authorizer(Arc::new(Masters)).build();
        Cluster { server, ..self }
    }

    /// Sends a request; the raw response.
    pub async fn raw(&self, method: &str, url: &str, body: &[u8], headers: &[(&str, &str)]) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(url);
        if !headers.iter().any(|(k, _)| k.eq_ignore_ascii_case("content-type")) && !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        for (k, v) in headers {
            request = request.header(*k, *v);
        }
        let request = request.body(Body::from(body.to_vec())).expect("request");
        self.server.router().oneshot(request).await.expect("infallible")
    }

    /// Sends a request and reads its JSON answer.
    pub async fn send(&self, method: &str, url: &str, body: &[u8], headers: &[(&str, &str)]) -> (u16, Value) {
        let response = self.raw(method, url, body, headers).await;
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        let value = serde_json::from_slice(&bytes)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        (code, value)
    }

    pub async fn post(&self, url: &str, body: Value) -> (u16, Value) {
        self.send("POST", url, body.to_string().as_bytes(), &[]).await
    }

    pub async fn put(&self, url: &str, body: &Value) -> (u16, Value) {
        self.send("PUT", url, body.to_string().as_bytes(), &[]).await
    }

    pub async fn get(&self, url: &str) -> (u16, Value) {
        self.send("GET", url, b"", &[]).await
    }

    pub async fn delete(&self, url: &str) -> (u16, Value) {
        self.send("DELETE", url, b"", &[]).await
    }

    pub async fn patch(&self, url: &str, kind: &str, body: Value) -> (u16, Value) {
        self.send("PATCH", url, body.to_string().as_bytes(), &[("content-type", kind)]).await
    }

    /// Starts a watch.
    pub async fn watch(&self, url: &str) -> Events {
        let response = self.raw("GET", url, b"", &[]).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }
}

/// The events of a watch.
pub struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    /// The events of an answer.
    pub fn of(response: Response<Body>) -> Events {
        Events { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event; `None` at the end of the stream. Waits ten seconds at most.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("a watch event is JSON"));
            }
            let frame = tokio::time::timeout(std::time::Duration::from_secs(10), self.body.frame())
                .await
                .expect("an event comes in time")?;
            if let Ok(data) = frame.expect("body").into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// `TYPE name` of the next event.
    pub async fn line(&mut self) -> String {
        match self.next().await {
            None => "end".into(),
            Some(e) => format!(
                "{} {}",
                e["type"].as_str().unwrap_or_default(),
                e["object"]["metadata"]["name"].as_str().unwrap_or_default()
            )
            .trim_end()
            .to_owned(),
        }
    }
}

pub fn config_map(name: &str, value: &str) -> Value {
    serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"k": value}})
}
