//! The front door: accepts connections, speaks TLS, HTTP/1.1 and HTTP/2, and hands requests to the service.
//!
//! Client certificates are asked for; the handshake proves possession of their key and no more, and the chain
//! travels as [`Peer`] to the authenticator. Ending is orderly: a moment in which requests are sent away with an answer,
//! then no new connections and a drain of what is under way (watches end by
//! [`crate::pipeline::ApiServer::stopping`]), then a deadline.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::Body;
use crate::coalesce::Coalesce;
use crate::handler::Router;
use crate::unread;
use crate::user::Peer;

/// Connections open at once.
const MAX_CONNECTIONS: usize = 20_000;
/// A handshake must be done within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The head of a request must be there within this.
const HEAD: Duration = Duration::from_secs(32);
/// The head of a request in all (`DefaultMaxHeaderBytes` of Go's server).
const MAX_HEAD: usize = 1 << 20;
/// So long after it was told to stop the door stays open: whoever comes is sent away with an answer (`handler`), and
/// `/readyz` says why. A connection that is merely closed may have a request on its way.
const FAREWELL: Duration = Duration::from_millis(300);
/// What is under way at shutdown may take this long.
const DRAIN: Duration = Duration::from_secs(20);

/// The TLS configuration in force; replace it to renew certificates while running.
pub type Tls = Arc<ArcSwap<rustls::ServerConfig>>;

/// An answer on its way. A type of its own: what a connection does can be proved to be `Send` only if this has no lifetime.
pub struct Answer(Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>);

impl Future for Answer {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

/// What answers the requests of a door: the API server, or whoever else has one. A request carries its [`Peer`].
#[derive(Clone)]
pub struct Answers(Arc<dyn Fn(Request<Body>) -> Answer + Send + Sync>);

impl Answers {
    /// By a function.
    pub fn new<F, A>(answer: F) -> Answers
    where
        F: Fn(Request<Body>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        Answers(Arc::new(move |request| {
            let answer = answer(request);
            Answer(Box::pin(async move { Ok(answer.await) }))
        }))
    }
}

impl From<Router> for Answers {
    fn from(router: Router) -> Answers {
        Answers(Arc::new(move |request| Answer(tower::Service::call(&mut router.clone(), request))))
    }
}

/// Hands the requests of one connection on.
struct Door {
    answers: Answers,
    peer: Peer,
}

impl hyper::service::Service<Request<Incoming>> for Door {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, mut request: Request<Incoming>) -> Answer {
        request.extensions_mut().insert(self.peer.clone());
        let (request, rest) = unread::lend(request);
        let answer = self.answers.0(request.map(Body::new));
        let Some(rest) = rest else { return answer };
        Answer(Box::pin(async move {
            let answer = answer.await;
            rest.read().await;
            answer
        }))
    }
}

/// Serves until told to stop, then drains.
pub async fn serve(listener: TcpListener, tls: Tls, service: impl Into<Answers>, shutdown: CancellationToken) {
    let service = service.into();
    let closing = CancellationToken::new();
    let farewell = async {
        shutdown.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
        closing.cancel();
    };
    futures_util::future::join(farewell, accept(listener, tls, service, closing.clone())).await;
}

async fn accept(listener: TcpListener, tls: Tls, service: Answers, shutdown: CancellationToken) {
    let graceful = GracefulShutdown::new();
    let limit = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = async {
                let permit = limit.clone().acquire_owned().await;
                (listener.accept().await, permit)
            } => accepted,
        };
        let (stream, peer, permit) = match accepted {
            (Ok((stream, peer)), permit) => (stream, peer, permit),
            (Err(error), _) => {
                // Out of file descriptors, or the peer is gone already: the next one may fare better.
                warn!(%error, "accepting a connection failed");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let (tls, service, watcher) = (tls.load_full(), service.clone(), graceful.watcher());
        let shutdown = shutdown.clone();
        tokio::spawn(async move {
            connection(stream, peer, tls, service, watcher, shutdown).await;
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        warn!("some connections did not end in time");
    }
}

/// Whether the first bytes are those of an HTTP request (`tlsRecordHeaderLooksLikeHTTP` of Go's `net/http`).
async fn speaks_plain_http(stream: &TcpStream) -> bool {
    let mut first = [0; 5];
    let peeked = tokio::time::timeout(HANDSHAKE, stream.peek(&mut first)).await;
    matches!(peeked, Ok(Ok(5))) && [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"].contains(&&first)
}

/// Says so in clear, as Go's server does.
async fn refuse_plain_http(mut stream: TcpStream) {
    const ANSWER: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let answer = async {
        stream.write_all(ANSWER).await?;
        stream.shutdown().await?;
        // What it still sends is read, for a while: closing over it would take the answer back.
        let mut rest = [0; 1024];
        for _ in 0..1024 {
            if stream.read(&mut rest).await? == 0 {
                break;
            }
        }
        Ok::<_, std::io::Error>(())
    };
    // A client that is gone needs no answer.
    let _ = tokio::time::timeout(Duration::from_secs(2), answer).await;
}

async fn connection(
    stream: TcpStream,
    addr: SocketAddr,
    tls: Arc<rustls::ServerConfig>,
    service: Answers,
    watcher: Watcher,
    shutdown: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    if speaks_plain_http(&stream).await {
        return refuse_plain_http(stream).await;
    }
    let handshake = TlsAcceptor::from(tls).accept(stream);
    // A peer that has not finished its handshake is not waited for at shutdown.
    let accepted = tokio::select! {
        biased;
        () = shutdown.cancelled() => return,
        accepted = tokio::time::timeout(HANDSHAKE, handshake) => accepted,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%addr, %error, "TLS handshake failed"),
        Err(_) => return debug!(%addr, "TLS handshake took too long"),
    };
    let certificates = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| chain.iter().map(|c| c.clone().into_owned()).collect())
        .unwrap_or_default();
    let is_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = Coalesce::new(stream, is_h2);
    let peer = Peer { addr: Some(addr), certificates };
    let service = Door { answers: service, peer };
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(MAX_HEAD).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_header_list_size(MAX_HEAD as u32)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let turns = stream.turns();
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    if let Err(error) = turns.run(watcher.watch(connection.into_owned())).await {
        debug!(%addr, error, "connection ended");
    }
}
