//! What a pod refers to and the API has: ConfigMaps, Secrets, tokens, claims and their volumes, claims of devices.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::storage::v1::{CSIDriver, VolumeAttachment};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};

use crate::dra::claims::ResourceClaim;
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
    /// A persistent volume claim. A node without storage has none.
    async fn claim(&self, _namespace: &str, _name: &str) -> Result<Option<PersistentVolumeClaim>, String> {
        Ok(None)
    }
    /// A persistent volume.
    async fn volume(&self, _name: &str) -> Result<Option<PersistentVolume>, String> {
        Ok(None)
    }
    /// What the cluster knows of a storage driver.
    async fn csi_driver(&self, _name: &str) -> Result<Option<CSIDriver>, String> {
        Ok(None)
    }
    /// An attachment of a volume.
    async fn attachment(&self, _name: &str) -> Result<Option<VolumeAttachment>, String> {
        Ok(None)
    }
    /// A claim of devices.
    async fn resource_claim(&self, _namespace: &str, _name: &str) -> Result<Option<ResourceClaim>, String> {
        Ok(None)
    }
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

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, String> {
        Api::namespaced(self.0.clone(), namespace).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn volume(&self, name: &str) -> Result<Option<PersistentVolume>, String> {
        Api::all(self.0.clone()).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<CSIDriver>, String> {
        Api::all(self.0.clone()).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, String> {
        Api::all(self.0.clone()).get_opt(name).await.map_err(|e| e.to_string())
    }

    async fn resource_claim(&self, namespace: &str, name: &str) -> Result<Option<ResourceClaim>, String> {
        let path = format!("/apis/resource.k8s.io/v1/namespaces/{namespace}/resourceclaims/{name}");
        let request = http::Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        match self.0.request(request).await {
            Ok(claim) => Ok(Some(claim)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error.to_string()),
        }
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
