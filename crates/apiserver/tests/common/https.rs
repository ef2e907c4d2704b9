//! A server of the test's own: HTTPS on a port of 127.0.0.1, which takes JSON and answers with a text.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use orkd_pki::Profile;
use orkd_pki::authority::Authority;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// Where it is, and whom to believe.
pub struct Server {
    /// Its port.
    pub port: u16,
    /// The authority of its certificate, as PEM.
    pub ca: String,
}

impl Server {
    /// The authority as a `caBundle`.
    pub fn bundle(&self) -> String {
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &self.ca)
    }
}

/// A request that came.
pub struct Asked {
    /// Path and query.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Value,
}

/// Starts a server. `answer` gets the request, and says a status and a text.
pub async fn serve<F, A>(answer: F) -> Server
where
    F: Fn(Asked) -> A + Send + Sync + 'static,
    A: Future<Output = (u16, String)> + Send + 'static,
{
    let authority = Authority::create("hooks", Timestamp::now()).expect("ca");
    let names = vec!["localhost".to_owned(), "hook.default.svc".to_owned()];
    let profile = Profile::server("hook", names, vec![[127, 0, 0, 1].into()]);
    let identity = authority.issue(&profile, Timestamp::now()).expect("certificate");
    let mut config = orkd_pki::tls::server_config(&identity, &[]).expect("configuration");
    config.alpn_protocols.clear();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("address").port();
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                // A client that does not believe us goes away.
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let serve = service_fn(move |request: Request<Incoming>| {
                    let answer = answer.clone();
                    async move {
                        let (path, headers) = (request.uri().to_string(), request.headers().clone());
                        let body = request.into_body().collect().await.expect("a body").to_bytes();
                        let body = serde_json::from_slice(&body).expect("JSON");
                        let (code, text) = answer(Asked { path, headers, body }).await;
                        let mut response = Response::new(Full::new(Bytes::from(text)));
                        *response.status_mut() = code.try_into().expect("a code");
                        Ok::<_, Infallible>(response)
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), serve).await;
            });
        }
    });
    Server { port, ca: authority.certificate().to_pem() }
}
