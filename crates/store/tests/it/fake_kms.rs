//! A key management service for tests: it "encrypts" by turning bits with the number of its key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use orkd_store::envelope::proto::key_management_service_server::{KeyManagementService, KeyManagementServiceServer};
use orkd_store::envelope::proto::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use tonic::{Request, Response, Status};

/// What a test sees and sets of the service.
#[derive(Clone, Default)]
pub struct Knobs {
    /// The key in use.
    pub key: Arc<AtomicU8>,
    /// Whether it says that it is well.
    pub sick: Arc<AtomicBool>,
    /// How often it was asked to decrypt.
    pub decrypted: Arc<AtomicU64>,
}

struct Fake(Knobs);

fn turned(bytes: &[u8], key: u8) -> Vec<u8> {
    bytes.iter().map(|b| b ^ (key + 1)).collect()
}

#[tonic::async_trait]
impl KeyManagementService for Fake {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let healthz = if self.0.sick.load(Ordering::SeqCst) { "sick" } else { "ok" };
        Ok(Response::new(StatusResponse {
            version: "v2".into(),
            healthz: healthz.into(),
            key_id: format!("key-{}", self.0.key.load(Ordering::SeqCst)),
        }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let key = self.0.key.load(Ordering::SeqCst);
        Ok(Response::new(EncryptResponse {
            ciphertext: turned(&request.into_inner().plaintext, key),
            key_id: format!("key-{key}"),
            annotations: BTreeMap::from([("fake.kms.example".to_owned(), vec![key])]),
        }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        self.0.decrypted.fetch_add(1, Ordering::SeqCst);
        let request = request.into_inner();
        let key = request.annotations.get("fake.kms.example").and_then(|a| a.first().copied());
        match key {
            Some(key) if request.key_id == format!("key-{key}") => {
                Ok(Response::new(DecryptResponse { plaintext: turned(&request.ciphertext, key) }))
            }
            _ => Err(Status::invalid_argument("an unknown key")),
        }
    }
}

/// Serves on a socket until the test's runtime ends.
pub fn serve(directory: &Path) -> (Knobs, PathBuf) {
    let knobs = Knobs::default();
    let socket = serve_with(directory, knobs.clone());
    (knobs, socket)
}

/// The same, perhaps not for the first time.
pub fn serve_with(directory: &Path, knobs: Knobs) -> PathBuf {
    let socket = directory.join("kms.sock");
    // That of an earlier service.
    let _ = std::fs::remove_file(&socket);
    let listener = tokio::net::UnixListener::bind(&socket).expect("socket");
    let service = KeyManagementServiceServer::new(Fake(knobs));
    let incoming = async_stream(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    socket
}

fn async_stream(
    listener: tokio::net::UnixListener,
) -> impl futures_util::Stream<Item = std::io::Result<tokio::net::UnixStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    })
}
