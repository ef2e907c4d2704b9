//! What a pod refers to and the API has: ConfigMaps, Secrets, tokens.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};

use crate::pod;

/// Reads what pods refer to. `Ok(None)` means: it does not exist.
#[async_trait]
pub trait Objects: Send + Sync + 'static {
    /// A ConfigMap.
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String>;
    /// A Secret.
    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String>;
    /// A token of a service account, bound to a pod: the token and when it expires.
    async fn token(
        &self,
        pod: &Pod,
        service_account: &str,
        audience: Option<&str>,
        lifetime: Duration,
    ) -> Result<(String, Timestamp), String>;
}

/// [`Objects`] of an API server.
#[derive(Clone)]
pub struct ApiObjects(pub Client);

#[async_trait]
impl Objects for ApiObjects {
    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<ConfigMap>, String> {
        Api::namespaced(self.0.clone(), namespace).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, String> {
        Api::namespaced(self.0.clone(), namespace).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn token(
        &self,
        pod: &Pod,
        service_account: &str,
        audience: Option<&str>,
        lifetime: Duration,
    ) -> Result<(String, Timestamp), String> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: audience.map(|a| vec![a.to_owned()]),
                expiration_seconds: i64::try_from(lifetime.as_secs()).ok(),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: pod.metadata.name.clone(),
                    uid: pod.metadata.uid.clone(),
                }),
            }),
            ..TokenRequest::default()
        };
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{service_account}/token", pod::namespace(pod));
        let body = serde_json::to_vec(&request).map_err(|e| e.to_string())?;
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| e.to_string())?;
        let answer: TokenRequest = self.0.request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status.ok_or("the token request was answered without a status")?;
        match (status.token, status.expiration_timestamp) {
            (Some(token), Some(expires)) => Ok((token, expires.0)),
            _ => Err("the token request was answered without a token".to_owned()),
        }
    }
}
