//! A cluster, the shortest ways to ask it, and a definition of widgets.

use std::time::Duration;

use http::Request;
use http_body_util::BodyExt;
use orkd_apiserver::Body;
use orkd_apiserver::user::InProcess;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::common::{World, admin};

pub const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
pub const WIDGETS: &str = "/apis/example.com/v1/namespaces/default/widgets";

/// A definition of widgets with one version; `more` is put into its spec.
pub fn definition(more: Value) -> Value {
    let mut definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "widgets.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"], "categories": ["all"]},
            "versions": [version("v1", true)]},
    });
    if let (Some(spec), Value::Object(more)) = (definition["spec"].as_object_mut(), more) {
        spec.extend(more);
    }
    definition
}

pub fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}],
        "selectableFields": [{"jsonPath": ".spec.color"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "size": {"type": "integer", "default": 3}, "color": {"type": "string"},
                "replicas": {"type": "integer"}}},
            "status": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}}})
}

pub fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

/// A cluster and the shortest ways to ask it.
pub struct Api(pub World);

impl Api {
    pub async fn start() -> Api {
        Api(World::start().await)
    }

    pub async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.0.call(&admin(), method, path, body).await
    }

    pub async fn get(&self, path: &str) -> (u16, Value) {
        self.call("GET", path, Value::Null).await
    }

    /// Sends a request that must succeed.
    pub async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (code, value) = self.call(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
        value
    }

    /// Sends with headers; status, media type and body.
    pub async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> (u16, String, Vec<u8>) {
        let mut request = Request::builder().method(method).uri(path).extension(InProcess(admin()));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body)).expect("request");
        let response = self.0.server.router().oneshot(request).await.expect("infallible");
        let code = response.status().as_u16();
        let media = response.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
        (code, media, response.into_body().collect().await.expect("body").to_bytes().to_vec())
    }

    pub async fn patch(&self, path: &str, form: &str, patch: Value) -> (u16, Value) {
        let media = format!("application/{form}");
        let (code, _, body) =
            self.raw("PATCH", path, &[("content-type", &media)], patch.to_string().into_bytes()).await;
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// Asks until what comes satisfies.
    pub async fn until(&self, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
        let begun = std::time::Instant::now();
        loop {
            let (code, value) = self.get(path).await;
            if wanted(code, &value) {
                return value;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "{path} stays {code} {value:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes a definition and waits until it is established, as `kubectl wait` does.
    pub async fn define(&self, definition: Value) -> Value {
        let name = definition["metadata"]["name"].as_str().expect("a name").to_owned();
        self.ok("POST", DEFINITIONS, definition).await;
        self.established(&name).await
    }

    pub async fn established(&self, name: &str) -> Value {
        self.until(&format!("{DEFINITIONS}/{name}"), |_, d| condition(d, "Established")["status"] == "True").await
    }
}

pub fn condition<'v>(object: &'v Value, kind: &str) -> &'v Value {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Lines of a watch.
pub struct Events {
    body: Body,
    buffer: Vec<u8>,
}

impl Events {
    pub async fn of(api: &Api, path: &str) -> Events {
        let request = Request::get(path).extension(InProcess(admin())).body(Body::empty()).expect("request");
        let response = api.0.server.router().oneshot(request).await.expect("infallible");
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), buffer: Vec::new() }
    }

    /// The next event; `None` at the end.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is JSON"));
            }
            let frame = tokio::time::timeout(Duration::from_secs(60), self.body.frame()).await.expect("in time")?;
            if let Ok(data) = frame.expect("body").into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
