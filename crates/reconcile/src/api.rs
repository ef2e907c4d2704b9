//! Requests to the API in raw JSON.
//!
//! An [`Api`] is a [`Client`] and a user agent. Bodies are anything that serializes, answers anything that
//! deserializes: a [`crate::View`], a [`serde_json::Value`], or [`serde::de::IgnoredAny`] for nothing.

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::client::Body;
use crate::resource::push_query;
use crate::{ApiError, Client, Status, Target};

/// The most an answer may weigh; lists are paged far below.
const MAX_ANSWER: usize = 256 << 20;

/// The user agent of a controller: its first word, which managed fields show, is upstream's, its last says who it
/// is.
pub fn user_agent(name: &str) -> String {
    format!(
        "kube-controller-manager/v1.36.0 (linux/{}) orkd/{}/{name}",
        std::env::consts::ARCH,
        env!("CARGO_PKG_VERSION")
    )
}

/// How to reach the API as one identity. Cheap to clone.
#[derive(Clone)]
pub struct Api {
    client: Client,
    user_agent: HeaderValue,
}

/// A change of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge.
    Strategic(Value),
    /// RFC 6902.
    Json(Value),
    /// Server-side apply.
    Apply {
        /// Field manager.
        manager: String,
        /// Whether fields of other managers are taken over.
        force: bool,
        /// What the manager wants.
        body: Value,
    },
}

/// What becomes of an object's dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Propagation {
    /// They go after the object.
    Background,
    /// They go before the object.
    Foreground,
    /// They stay.
    Orphan,
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Seconds of grace; the kind's own without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period_seconds: Option<i64>,
    /// What becomes of dependents; the kind's default without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propagation_policy: Option<Propagation>,
    /// Conditions.
    #[serde(skip_serializing_if = "Option::is_none")]
    preconditions: Option<Preconditions>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Preconditions {
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_version: Option<String>,
}

impl DeleteOptions {
    /// Deletes only the object with this uid.
    pub fn uid(mut self, uid: &str) -> Self {
        self.preconditions.get_or_insert_default().uid = Some(uid.to_owned());
        self
    }

    /// Deletes only this version of the object.
    pub fn resource_version(mut self, rv: &str) -> Self {
        self.preconditions.get_or_insert_default().resource_version = Some(rv.to_owned());
        self
    }

    /// Says what becomes of dependents.
    pub fn propagation(mut self, policy: Propagation) -> Self {
        self.propagation_policy = Some(policy);
        self
    }

    /// Says how long the object may take to end.
    pub fn grace(mut self, seconds: i64) -> Self {
        self.grace_period_seconds = Some(seconds);
        self
    }
}

/// What to list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Label selector; empty for all.
    pub labels: String,
    /// Field selector; empty for all.
    pub fields: String,
    /// Page size; 0 for all at once.
    pub limit: u32,
    /// Token of the next page; empty for the first.
    pub continue_token: String,
    /// Resource version; empty for the newest.
    pub resource_version: String,
    /// `Exact` or `NotOlderThan`; empty for the default.
    pub resource_version_match: &'static str,
    /// Whether only metadata is wanted.
    pub metadata_only: bool,
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound = "T: DeserializeOwned")]
pub struct List<T> {
    /// About the list.
    #[serde(default)]
    pub metadata: ListMeta,
    /// The objects.
    #[serde(default = "Vec::new", deserialize_with = "crate::null_default")]
    pub items: Vec<T>,
}

/// About a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    /// The version the list is of.
    pub resource_version: String,
    /// Token of the next page; empty at the end.
    #[serde(rename = "continue")]
    pub continue_token: String,
}

pub(crate) const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
pub(crate) const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";

impl Api {
    /// Requests by a client, named in the user agent as [`user_agent`] does.
    pub fn new(client: impl Into<Client>, name: &str) -> Self {
        Api::with_user_agent(client, &user_agent(name))
    }

    /// Requests by a client with a whole user agent.
    pub fn with_user_agent(client: impl Into<Client>, user_agent: &str) -> Self {
        let user_agent = HeaderValue::from_str(user_agent).unwrap_or_else(|_| HeaderValue::from_static("orkd"));
        Api { client: client.into(), user_agent }
    }

    /// The client beneath.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Reads an object.
    pub async fn get<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ApiError> {
        self.request(Method::GET, target, None).await
    }

    /// Reads a path in a form named by the `Accept` header.
    pub async fn get_as<T: DeserializeOwned>(&self, target: &Target, accept: &'static str) -> Result<T, ApiError> {
        self.send_decoded(Method::GET, &target.path, Request::builder().header(ACCEPT, accept), Bytes::new()).await
    }

    /// Reads an object's metadata, as `PartialObjectMetadata`.
    pub async fn get_metadata<T: DeserializeOwned>(&self, target: &Target) -> Result<T, ApiError> {
        let request = Request::builder().header(ACCEPT, METADATA);
        self.send_decoded(Method::GET, &target.path, request, Bytes::new()).await
    }

    /// Reads one page of a list.
    pub async fn list<T: DeserializeOwned>(
        &self,
        collection: &Target,
        options: &ListOptions,
    ) -> Result<List<T>, ApiError> {
        let mut path = collection.path.clone();
        options.push_to(&mut path);
        let accept = if options.metadata_only { METADATA_LIST } else { "application/json" };
        self.send_decoded(Method::GET, &path, Request::builder().header(ACCEPT, accept), Bytes::new()).await
    }

    /// Reads a whole list, in pages of 500. A page that expired starts the list again, once.
    pub async fn list_all<T: DeserializeOwned>(
        &self,
        collection: &Target,
        options: &ListOptions,
    ) -> Result<List<T>, ApiError> {
        let mut restarted = false;
        'list: loop {
            let mut options = ListOptions { limit: 500, ..options.clone() };
            let mut all: Option<List<T>> = None;
            loop {
                let page = match self.list::<T>(collection, &options).await {
                    Err(err) if err.is_gone() && !options.continue_token.is_empty() && !restarted => {
                        restarted = true;
                        continue 'list;
                    }
                    other => other?,
                };
                options.continue_token = page.metadata.continue_token.clone();
                options.resource_version.clear();
                options.resource_version_match = "";
                match &mut all {
                    None => all = Some(page),
                    Some(all) => {
                        all.items.extend(page.items);
                        all.metadata = page.metadata;
                    }
                }
                if options.continue_token.is_empty()
                    && let Some(all) = all
                {
                    return Ok(all);
                }
            }
        }
    }

    /// Creates an object in a collection, or posts to a subresource.
    pub async fn create<T: DeserializeOwned>(
        &self,
        collection: &Target,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ApiError> {
        let body = self.encode(Method::POST, collection, body)?;
        self.request(Method::POST, collection, Some(body)).await
    }

    /// Replaces an object or its subresource. The body must be what was read, changed, and not a view.
    pub async fn update<T: DeserializeOwned>(
        &self,
        target: &Target,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, ApiError> {
        let body = self.encode(Method::PUT, target, body)?;
        self.request(Method::PUT, target, Some(body)).await
    }

    /// Reads an object, changes it and replaces it (or its subresource): for identities that may `update` and not
    /// `patch`, as upstream's roles have it. The object is read raw, so nothing of it is lost. `change` returns
    /// whether there is something to write; it is called again after a lost race, five times at most. Returns
    /// whether something was written.
    pub async fn modify(
        &self,
        target: &Target,
        subresource: &str,
        mut change: impl FnMut(&mut Value) -> bool + Send,
    ) -> Result<bool, ApiError> {
        let door = if subresource.is_empty() { target.clone() } else { target.sub(subresource) };
        let mut tries = 0;
        loop {
            let mut object: Value = self.get(target).await?;
            if !change(&mut object) {
                return Ok(false);
            }
            tries += 1;
            match self.update::<IgnoredAny>(&door, &object).await {
                Err(err) if err.is_conflict() && tries < 5 => {}
                other => return other.map(|_| true),
            }
        }
    }

    /// Patches an object or its subresource.
    pub async fn patch<T: DeserializeOwned>(&self, target: &Target, patch: &Patch) -> Result<T, ApiError> {
        let mut path = target.path.clone();
        let (content_type, body) = match patch {
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Apply { manager, force, body } => {
                push_query(&mut path, "fieldManager", manager);
                push_query(&mut path, "force", if *force { "true" } else { "false" });
                ("application/apply-patch+yaml", body)
            }
        };
        let body = self.encode(Method::PATCH, target, body)?;
        let request = Request::builder().header(CONTENT_TYPE, content_type);
        self.send_decoded(Method::PATCH, &path, request, body).await
    }

    /// Deletes an object.
    pub async fn delete(&self, target: &Target, options: &DeleteOptions) -> Result<(), ApiError> {
        self.delete_returning::<IgnoredAny>(target, options).await.map(|_| ())
    }

    /// Deletes an object and reads the answer: the object that is being deleted, or a `Status`.
    pub async fn delete_returning<T: DeserializeOwned>(
        &self,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<T, ApiError> {
        let body = self.encode(Method::DELETE, target, &Typed { api_version: "v1", kind: "DeleteOptions", options })?;
        self.request(Method::DELETE, target, Some(body)).await
    }

    /// Deletes the objects of a collection.
    pub async fn delete_collection(
        &self,
        collection: &Target,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(), ApiError> {
        let mut target = collection.clone();
        list.push_to(&mut target.path);
        self.delete(&target, options).await
    }

    /// Evicts a pod: 429 when a disruption budget forbids it.
    pub async fn evict(&self, namespace: &str, pod: &str, options: &DeleteOptions) -> Result<(), ApiError> {
        let body = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": pod},
            "deleteOptions": options,
        });
        let target = PODS.at(namespace, pod).sub("eviction");
        self.create::<IgnoredAny>(&target, &body).await.map(|_| ())
    }

    /// Binds a pod to a node. With a uid, only that very pod is bound.
    pub async fn bind(&self, namespace: &str, pod: &str, uid: &str, node: &str) -> Result<(), ApiError> {
        let mut metadata = json!({"namespace": namespace, "name": pod});
        if !uid.is_empty() {
            metadata["uid"] = uid.into();
        }
        let body = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": metadata,
            "target": {"kind": "Node", "name": node},
        });
        let target = PODS.at(namespace, pod).sub("binding");
        self.create::<IgnoredAny>(&target, &body).await.map(|_| ())
    }

    /// Any request; the answer's body is left to the caller. A failure is read as a `Status`.
    pub async fn stream(&self, method: Method, path: &str, accept: &'static str) -> Result<Response<Body>, ApiError> {
        self.send(method, path, Request::builder().header(ACCEPT, accept), Bytes::new()).await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &Target,
        body: Option<Bytes>,
    ) -> Result<T, ApiError> {
        let mut request = Request::builder().header(ACCEPT, "application/json");
        if body.is_some() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        self.send_decoded(method, &target.path, request, body.unwrap_or_default()).await
    }

    fn encode(&self, method: Method, target: &Target, body: &(impl Serialize + ?Sized)) -> Result<Bytes, ApiError> {
        match serde_json::to_vec(body) {
            Ok(body) => Ok(body.into()),
            Err(err) => Err(ApiError::Transport { op: op(&method, &target.path), source: err.into() }),
        }
    }

    async fn send_decoded<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<T, ApiError> {
        let op = op(&method, path);
        let answer = self.send(method, path, request, body).await?;
        let bytes = match Limited::new(answer.into_body(), MAX_ANSWER).collect().await {
            Ok(body) => body.to_bytes(),
            Err(source) => return Err(ApiError::Transport { op, source }),
        };
        serde_json::from_slice(&bytes).map_err(|err| ApiError::Decode { op, source: err.into() })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let op = op(&method, path);
        let request = request.method(method).uri(path).header(USER_AGENT, self.user_agent.clone());
        let request = match request.body(body) {
            Ok(request) => request,
            Err(err) => return Err(ApiError::Transport { op, source: err.into() }),
        };
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            Err(source) => return Err(ApiError::Transport { op, source }),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        // A failure's body is small; one that is not is not read.
        let body = Limited::new(answer.into_body(), 4 << 20).collect().await;
        let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
        Err(ApiError::Status { op, status: Box::new(status_of(code, &bytes)) })
    }
}

const PODS: crate::Resource = crate::Resource::new("", "v1", "pods", "Pod", true);

fn op(method: &Method, path: &str) -> String {
    format!("{method} {path}")
}

/// The `Status` of a failed answer. A body that is none (a proxy's page) becomes the message.
fn status_of(code: u16, body: &[u8]) -> Status {
    match serde_json::from_slice::<Status>(body) {
        Ok(status) if status.code != 0 || !status.message.is_empty() => {
            Status { code: if status.code == 0 { code } else { status.code }, ..status }
        }
        _ => {
            let text: String = String::from_utf8_lossy(body).chars().take(512).collect();
            let message = if text.trim().is_empty() { format!("HTTP status {code}") } else { text.trim().to_owned() };
            Status { code, message, ..Status::default() }
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Typed<'a> {
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    options: &'a DeleteOptions,
}

impl ListOptions {
    pub(crate) fn push_to(&self, path: &mut String) {
        for (key, value) in [
            ("labelSelector", self.labels.as_str()),
            ("fieldSelector", &self.fields),
            ("continue", &self.continue_token),
            ("resourceVersion", &self.resource_version),
            ("resourceVersionMatch", self.resource_version_match),
        ] {
            if !value.is_empty() {
                push_query(path, key, value);
            }
        }
        if self.limit > 0 {
            push_query(path, "limit", &self.limit.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delete_options_are_written_as_upstream_does() {
        let options = DeleteOptions::default().uid("u").propagation(Propagation::Foreground);
        assert_eq!(
            serde_json::to_value(&options).expect("json"),
            json!({"propagationPolicy": "Foreground", "preconditions": {"uid": "u"}})
        );
    }

    #[test]
    fn failures_are_read_with_or_without_a_status() {
        let status = status_of(404, br#"{"kind":"Status","reason":"NotFound","message":"gone","code":404}"#);
        assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"));
        assert_eq!(status_of(502, b"<html>bad gateway").message, "<html>bad gateway");
        assert_eq!(status_of(500, b"").message, "HTTP status 500");
    }
}
