//! Importing an image from memory through containerd's own services, which listen on the CRI socket.
//!
//! The image is an OCI image of one uncompressed layer. Blobs are written under a lease, so that containerd's
//! garbage collector leaves them alone until the image's name is in place; labels tie manifest to config and layer
//! as the collector expects. Importing again is a no-op.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request};

use crate::proto::containerd::services::content::v1::content_client::ContentClient;
use crate::proto::containerd::services::content::v1::{WriteAction, WriteContentRequest};
use crate::proto::containerd::services::images::v1::images_client::ImagesClient;
use crate::proto::containerd::services::images::v1::{CreateImageRequest, Image, UpdateImageRequest};
use crate::proto::containerd::services::leases::v1::leases_client::LeasesClient;
use crate::proto::containerd::services::leases::v1::{CreateRequest, DeleteRequest};
use crate::proto::containerd::types::{Descriptor, FieldMask};
use crate::{Client, Error, Result};

/// The namespace CRI keeps its things in.
const NAMESPACE: &str = "k8s.io";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Messages of a write are cut to this size.
const CHUNK: usize = 1 << 20;

/// An image that exists in memory.
#[derive(Debug, Clone)]
pub struct MemoryImage {
    /// The config blob (JSON).
    pub config: Bytes,
    /// The only layer, a plain tar.
    pub layer: Bytes,
    /// The manifest blob (JSON).
    pub manifest: Bytes,
    /// `sha256:…` of the three, in the same order.
    pub digests: [String; 3],
}

impl MemoryImage {
    /// Builds manifest and digests around a config and a layer. `digest` is SHA-256 as `sha256:<hex>`; it is given
    /// by the caller so that this crate needs no hash.
    pub fn new(config: Bytes, layer: Bytes, digest: impl Fn(&[u8]) -> String) -> Self {
        let (config_digest, layer_digest) = (digest(&config), digest(&layer));
        // Only digests and numbers go in: nothing needs escaping.
        let manifest = Bytes::from(format!(
            "{{\"schemaVersion\":2,\"mediaType\":\"{MANIFEST}\",\"config\":{{\"mediaType\":\"{CONFIG}\",\
             \"digest\":\"{config_digest}\",\"size\":{}}},\"layers\":[{{\"mediaType\":\"{LAYER}\",\
             \"digest\":\"{layer_digest}\",\"size\":{}}}]}}",
            config.len(),
            layer.len()
        ));
        let manifest_digest = digest(&manifest);
        Self { config, layer, manifest, digests: [config_digest, layer_digest, manifest_digest] }
    }
}

impl Client {
    /// Imports an image under each of the names. `labels` go on the image (for example
    /// `io.cri-containerd.pinned=pinned`).
    pub async fn import_image(
        &self,
        image: &MemoryImage,
        names: &[String],
        labels: &BTreeMap<String, String>,
    ) -> Result<()> {
        let mut leases = LeasesClient::new(self.channel());
        let id = format!("orkd-import-{}", image.digests[2].trim_start_matches("sha256:"));
        let request = CreateRequest { id: id.clone(), labels: HashMap::new() };
        match leases.create(with_namespace(request, None)?).await {
            Ok(_) => {}
            // Left over from an import that was cut short.
            Err(status) if status.code() == Code::AlreadyExists => {}
            Err(status) => return Err(status.into()),
        }
        let outcome = self.import_under_lease(image, names, labels, &id).await;
        let dropped = leases.delete(with_namespace(DeleteRequest { id, sync: false }, None)?).await;
        if let Err(status) = dropped {
            tracing::warn!(%status, "could not drop the lease of an image import");
        }
        outcome
    }

    async fn import_under_lease(
        &self,
        image: &MemoryImage,
        names: &[String],
        labels: &BTreeMap<String, String>,
        lease: &str,
    ) -> Result<()> {
        let [config, layer, manifest] = &image.digests;
        self.write_blob(lease, config, image.config.clone(), HashMap::new()).await?;
        self.write_blob(lease, layer, image.layer.clone(), HashMap::new()).await?;
        let references = HashMap::from([
            ("containerd.io/gc.ref.content.config".to_owned(), config.clone()),
            ("containerd.io/gc.ref.content.l.0".to_owned(), layer.clone()),
        ]);
        self.write_blob(lease, manifest, image.manifest.clone(), references).await?;

        let mut images = ImagesClient::new(self.channel());
        for name in names {
            let entry = Image {
                name: name.clone(),
                labels: labels.clone().into_iter().collect(),
                target: Some(Descriptor {
                    media_type: MANIFEST.to_owned(),
                    digest: manifest.clone(),
                    size: image.manifest.len() as i64,
                    annotations: HashMap::new(),
                }),
            };
            let create = CreateImageRequest { image: Some(entry.clone()) };
            match images.create(with_namespace(create, Some(lease))?).await {
                Ok(_) => {}
                Err(status) if status.code() == Code::AlreadyExists => {
                    let mask = FieldMask { paths: vec!["target".to_owned(), "labels".to_owned()] };
                    let update = UpdateImageRequest { image: Some(entry), update_mask: Some(mask) };
                    images.update(with_namespace(update, Some(lease))?).await?;
                }
                Err(status) => return Err(status.into()),
            }
        }
        Ok(())
    }

    async fn write_blob(&self, lease: &str, digest: &str, data: Bytes, labels: HashMap<String, String>) -> Result<()> {
        let mut content: ContentClient<Channel> = ContentClient::new(self.channel());
        let total = data.len() as i64;
        let reference = format!("orkd-{digest}");
        let mut messages = Vec::with_capacity(data.len() / CHUNK + 2);
        let mut offset = 0;
        while offset < data.len() {
            let end = (offset + CHUNK).min(data.len());
            messages.push(WriteContentRequest {
                action: WriteAction::Write.into(),
                r#ref: reference.clone(),
                total,
                expected: digest.to_owned(),
                offset: offset as i64,
                data: data.slice(offset..end),
                labels: HashMap::new(),
            });
            offset = end;
        }
        messages.push(WriteContentRequest {
            action: WriteAction::Commit.into(),
            r#ref: reference,
            total,
            expected: digest.to_owned(),
            offset: total,
            data: Bytes::new(),
            labels,
        });
        let request = with_namespace(futures_util::stream::iter(messages), Some(lease))?;
        let outcome = async {
            let mut answers = content.write(request).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok::<_, tonic::Status>(())
        };
        match outcome.await {
            Ok(()) => Ok(()),
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            Err(status) => Err(status.into()),
        }
    }
}

/// containerd takes its namespace and lease from the metadata of a call.
fn with_namespace<T>(message: T, lease: Option<&str>) -> Result<Request<T>> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static(NAMESPACE));
    if let Some(lease) = lease {
        let value =
            lease.parse().map_err(|_| Error::new(Code::InvalidArgument, "a lease id that is no header value"))?;
        request.metadata_mut().insert("containerd-lease", value);
    }
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_names_its_blobs() {
        let image = MemoryImage::new(Bytes::from_static(b"{}"), Bytes::from_static(b"tar"), |b| {
            format!("sha256:{:02}", b.len())
        });
        assert_eq!(image.digests[0], "sha256:02");
        assert_eq!(image.digests[1], "sha256:03");
        let text = String::from_utf8(image.manifest.to_vec()).unwrap_or_default();
        assert!(text.contains("\"digest\":\"sha256:03\",\"size\":3"), "{text}");
    }
}
