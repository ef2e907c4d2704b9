//! Calls of a plugin at a socket.

use std::path::{Path, PathBuf};
use std::time::Duration;

use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long a call may take, as upstream's.
const CALL: Duration = Duration::from_secs(120);

/// A plugin at a socket. The connection is made by the first call.
#[derive(Clone)]
pub struct Plugin(Channel);

impl Plugin {
    /// The plugin at a socket.
    pub fn at(socket: &Path) -> Self {
        let target: PathBuf = socket.to_owned();
        let connector = tower::service_fn(move |_: Uri| {
            let target = target.clone();
            async move { tokio::net::UnixStream::connect(target).await.map(TokioIo::new) }
        });
        // The authority is never resolved; the connector goes to the socket.
        Plugin(Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector))
    }

    /// One call.
    ///
    /// # Errors
    /// What the plugin, or the way to it, says.
    pub async fn call<A, B>(&self, method: &'static str, request: A) -> Result<B, String>
    where
        A: Message + 'static,
        B: Message + Default + 'static,
    {
        let call = async {
            let mut grpc = Grpc::new(self.0.clone());
            grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
            let codec = tonic_prost::ProstCodec::<A, B>::default();
            grpc.unary(tonic::Request::new(request), PathAndQuery::from_static(method), codec).await
        };
        match tokio::time::timeout(CALL, call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(format!("rpc error: code = {:?} desc = {}", status.code(), status.message())),
            Err(_) => Err("rpc error: code = DeadlineExceeded desc = context deadline exceeded".to_owned()),
        }
    }
}
