//! WebSocket sessions of exec, attach, port-forward and log, translated for the node
//! (`k8s.io/apimachinery/pkg/util/{httpstream/wsstream,portforward}`, `k8s.io/apiserver/pkg/util/proxy`).
//!
//! Towards the kubelet there is SPDY only: containerd 1.6 knows no WebSocket protocol in which the end of stdin can be
//! told, and with SPDY it can. So a client's channels become SPDY streams here; the tunnelled port-forward of current
//! kubectl is SPDY already and is taken out of its WebSocket messages.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use orkd_api::status::Status;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::Mutex;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::dial::{Address, Dialer};
use super::spdy::{Decoder, Encoder, Frame};
use crate::Body;

/// The largest message taken from a client.
const MAX_MESSAGE: usize = 4 << 20;

/// How long a client may take to answer the end of a session.
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// The channel of v5 in which the end of another one is told.
const CLOSE: u8 = 255;

/// How channels are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Channels {
    /// Protocol version: 1, 4 or 5.
    version: u8,
    /// Messages are text: a digit and base64.
    base64: bool,
}

/// The protocols of remote commands, best first.
const CHANNELS: [(&str, Channels); 6] = [
    ("v5.channel.k8s.io", Channels { version: 5, base64: false }),
    ("v4.channel.k8s.io", Channels { version: 4, base64: false }),
    ("v4.base64.channel.k8s.io", Channels { version: 4, base64: true }),
    ("channel.k8s.io", Channels { version: 1, base64: false }),
    ("base64.channel.k8s.io", Channels { version: 1, base64: true }),
    ("", Channels { version: 1, base64: false }),
];

/// The protocol of port-forward: SPDY in messages.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The protocols of logs.
const READERS: [(&str, bool); 3] = [("binary.k8s.io", false), ("base64.binary.k8s.io", true), ("", false)];

/// The subprotocols that a client offers.
fn offered(headers: &HeaderMap) -> Vec<&str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let all = values.flat_map(|v| v.split(',')).map(str::trim);
    all.filter(|p| !p.is_empty() && !p.starts_with(crate::authn::bearer::WEBSOCKET_TOKEN)).collect()
}

/// The first of ours that the client offers, too; the nameless one where it offers none.
fn choose<T: Copy>(headers: &HeaderMap, ours: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    let offered = offered(headers);
    ours.iter().find(|(name, _)| if offered.is_empty() { name.is_empty() } else { offered.contains(name) }).copied()
}

fn none_supported(headers: &HeaderMap) -> Status {
    Status::bad_request(format!("unable to negotiate websocket subprotocol, client supports {:?}", offered(headers)))
}

/// A session that has been asked for and not yet answered.
struct Handshake {
    upgrade: OnUpgrade,
    answer: Response<Body>,
}

impl Handshake {
    fn new(mut request: Request<Body>, protocol: &str) -> Result<Self, Status> {
        let upgrade = hyper::upgrade::on(&mut request);
        let key = request.headers().get(header::SEC_WEBSOCKET_KEY);
        let key = key.ok_or_else(|| Status::bad_request("the header Sec-WebSocket-Key is missing"))?;
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let bad = |_| Status::bad_request("the WebSocket handshake cannot be answered");
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept(key.as_bytes())).map_err(bad)?);
        if !protocol.is_empty() {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_str(protocol).map_err(bad)?);
        }
        Ok(Handshake { upgrade, answer })
    }

    /// Answers, and runs the session once the connection has switched.
    fn run<F, S>(self, session: S) -> Response<Body>
    where
        S: FnOnce(Client) -> F + Send + 'static,
        F: Future<Output = ()> + Send,
    {
        let upgrade = self.upgrade;
        tokio::spawn(async move {
            match upgrade.await {
                Ok(io) => {
                    let config = WebSocketConfig::default()
                        .max_message_size(Some(MAX_MESSAGE))
                        .max_frame_size(Some(MAX_MESSAGE));
                    let socket = WebSocketStream::from_raw_socket(TokioIo::new(io), Role::Server, Some(config)).await;
                    session(socket).await;
                }
                Err(error) => tracing::debug!(%error, "a WebSocket session did not begin"),
            }
        });
        self.answer
    }
}

type Client = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// RFC 6455, 4.2.2: proof that the handshake was understood.
fn accept(key: &[u8]) -> String {
    let mut text = key.to_vec();
    text.extend_from_slice(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    STANDARD.encode(digest)
}

/// Asks the kubelet for a SPDY connection. `Err(Ok(..))` is its own answer where it does not switch.
async fn connect(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    protocol: &'static str,
) -> Result<hyper::upgrade::Upgraded, Result<Response<Body>, Status>> {
    let request = Request::post(target)
        .header(header::HOST, address.authority())
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "SPDY/3.1")
        .header("x-stream-protocol-version", protocol)
        .header(header::CONTENT_LENGTH, "0")
        .body(Body::empty())
        .map_err(|_| Err(Status::bad_request("the request cannot be passed on")))?;
    let mut sender = dialer.connect(address).await.map_err(Err)?;
    let failed = |e: hyper::Error| Err(Status::internal(format!("error sending request: {e}")));
    let mut response = sender.send_request(request).await.map_err(failed)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let (parts, body) = response.into_parts();
        return Err(Ok(Response::from_parts(parts, Body::new(body))));
    }
    hyper::upgrade::on(&mut response).await.map_err(failed)
}

/// Which streams a command has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Streams {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// Serves exec and attach.
pub(super) async fn command(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    streams: Streams,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let (protocol, channels) = choose(request.headers(), &CHANNELS).ok_or_else(|| none_supported(request.headers()))?;
    let handshake = Handshake::new(request, protocol)?;
    let backend = match connect(dialer, address, target, "v4.channel.k8s.io").await {
        Ok(backend) => backend,
        Err(answer) => return answer,
    };
    Ok(handshake.run(move |client| async move {
        if let Err(error) = bridge(client, TokioIo::new(backend), channels, streams).await {
            tracing::debug!(%error, "a remote command's session ended");
        }
    }))
}

/// Serves port-forward where the client speaks SPDY in messages. `None` gives the request back: another protocol.
pub(super) fn is_tunnel(headers: &HeaderMap) -> bool {
    offered(headers).contains(&TUNNEL)
}

/// Serves that.
pub(super) async fn tunnel(
    dialer: &Dialer,
    address: &Address,
    target: &str,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let handshake = Handshake::new(request, TUNNEL)?;
    let backend = match connect(dialer, address, target, "portforward.k8s.io").await {
        Ok(backend) => backend,
        Err(answer) => return answer,
    };
    Ok(handshake.run(move |client| async move {
        let (mut to_client, mut from_client) = client.split();
        let (mut from_node, mut to_node) = tokio::io::split(TokioIo::new(backend));
        let up = async {
            while let Some(Ok(message)) = from_client.next().await {
                let bytes: Bytes = match message {
                    Message::Binary(bytes) => bytes,
                    Message::Close(_) => break,
                    _ => continue,
                };
                if to_node.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        };
        let down = async {
            let mut buffer = BytesMut::new();
            loop {
                buffer.reserve(32 * 1024);
                match from_node.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => {}
                    _ => break,
                }
                if to_client.send(Message::Binary(buffer.split().freeze())).await.is_err() {
                    return;
                }
            }
            end(&mut to_client).await;
        };
        // Either end's end is the end of both: what is left open would wait for nobody.
        tokio::select! {
            () = up => {}
            () = down => {}
        }
    }))
}

/// Sends a log as messages.
pub(super) fn log(request: Request<Body>, body: Body) -> Result<Response<Body>, Status> {
    let (protocol, base64) = choose(request.headers(), &READERS).ok_or_else(|| none_supported(request.headers()))?;
    let handshake = Handshake::new(request, protocol)?;
    Ok(handshake.run(move |client| async move {
        let (mut to_client, mut from_client) = client.split();
        let send = async {
            let mut chunks = body.into_data_stream();
            while let Some(Ok(chunk)) = chunks.next().await {
                let message = if base64 { Message::text(STANDARD.encode(&chunk)) } else { Message::Binary(chunk) };
                if to_client.send(message).await.is_err() {
                    return;
                }
            }
            end(&mut to_client).await;
        };
        let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
        tokio::select! {
            () = send => {}
            () = gone => {}
        }
    }))
}

/// Ends a session in order: a client takes a close without this code for a broken connection. What the client still
/// sends is left to whoever reads.
async fn end<S: AsyncRead + AsyncWrite + Unpin>(client: &mut SplitSink<WebSocketStream<S>, Message>) {
    let normal = CloseFrame { code: CloseCode::Normal, reason: Default::default() };
    // The client may be gone already.
    let _ = client.send(Message::Close(Some(normal))).await;
    let _ = client.close().await;
}

type Node<IO> = Mutex<WriteHalf<IO>>;

/// Carries channels over streams until the command has ended or a side is gone.
async fn bridge<S, IO>(
    client: WebSocketStream<S>,
    node: IO,
    channels: Channels,
    streams: Streams,
) -> Result<(), super::spdy::Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
    IO: AsyncRead + AsyncWrite,
{
    let (to_client, mut from_client) = client.split();
    let (from_node, to_node) = tokio::io::split(node);
    let to_node: Node<IO> = Mutex::new(to_node);
    let mut encoder = Encoder::new()?;
    let mut by_channel: HashMap<u8, u32> = HashMap::new();
    let wanted = [
        (ERROR, "error", true),
        (STDIN, "stdin", streams.stdin),
        (STDOUT, "stdout", streams.stdout),
        (STDERR, "stderr", streams.stderr && !streams.tty),
        (RESIZE, "resize", streams.tty),
    ];
    let mut opening = Vec::new();
    for (channel, name, _) in wanted.into_iter().filter(|(_, _, wanted)| *wanted) {
        let (stream, frame) = encoder.open(&[("streamtype", name)])?;
        by_channel.insert(channel, stream);
        opening.extend(frame);
    }
    if to_node.lock().await.write_all(&opening).await.is_err() {
        return Ok(());
    }
    let done = tokio::select! {
        () = up(&mut from_client, &to_node, channels, &by_channel) => return Ok(()),
        done = down(from_node, &to_node, to_client, channels, &by_channel) => done,
    };
    // Until the client has answered the close: a connection with bytes unread would be reset, and lose the last words.
    let gone = async { while let Some(Ok(_)) = from_client.next().await {} };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, gone).await;
    done
}

/// From the client to the node. Returns when the client is gone.
async fn up<S: AsyncRead + AsyncWrite + Unpin, IO: AsyncRead + AsyncWrite>(
    client: &mut SplitStream<WebSocketStream<S>>,
    node: &Node<IO>,
    channels: Channels,
    by_channel: &HashMap<u8, u32>,
) {
    while let Some(Ok(message)) = client.next().await {
        let bytes = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return,
            _ => continue,
        };
        let Some((channel, payload)) = unpack(channels, &bytes) else { continue };
        let frame = match channel {
            CLOSE if channels.version >= 5 => match payload.first().and_then(|c| by_channel.get(c)) {
                Some(stream) => Encoder::close(*stream),
                None => continue,
            },
            STDIN | RESIZE => match by_channel.get(&channel) {
                Some(stream) if !payload.is_empty() => Encoder::data(*stream, &payload),
                _ => continue,
            },
            _ => continue,
        };
        if node.lock().await.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// A message's channel and payload; `None` for one that makes no sense.
fn unpack(channels: Channels, message: &[u8]) -> Option<(u8, Bytes)> {
    let (first, rest) = message.split_first()?;
    if channels.base64 {
        let channel = first.checked_sub(b'0').filter(|c| *c <= 9)?;
        return Some((channel, STANDARD.decode(rest).ok()?.into()));
    }
    Some((*first, Bytes::copy_from_slice(rest)))
}

/// The message of a channel.
fn pack(channels: Channels, channel: u8, payload: &[u8]) -> Message {
    if channels.base64 {
        return Message::text(format!("{channel}{}", STANDARD.encode(payload)));
    }
    let mut bytes = BytesMut::with_capacity(payload.len() + 1);
    bytes.put_u8(channel);
    bytes.extend_from_slice(payload);
    Message::Binary(bytes.freeze())
}

/// From the node to the client. Returns when the command has ended, or a side is gone.
async fn down<S: AsyncRead + AsyncWrite + Unpin, IO: AsyncRead + AsyncWrite>(
    mut node: tokio::io::ReadHalf<IO>,
    to_node: &Node<IO>,
    mut client: SplitSink<WebSocketStream<S>, Message>,
    channels: Channels,
    by_channel: &HashMap<u8, u32>,
) -> Result<(), super::spdy::Error> {
    let mut decoder = Decoder::default();
    let mut open: HashMap<u32, u8> = by_channel
        .iter()
        .filter(|(channel, _)| [STDOUT, STDERR, ERROR].contains(channel))
        .map(|(channel, stream)| (*stream, *channel))
        .collect();
    let mut verdict = Vec::new();
    let mut spoken = false;
    'session: while !open.is_empty() {
        while let Some(frame) = decoder.next()? {
            let (stream, bytes, fin) = match frame {
                Frame::Data(stream, bytes, fin) => (stream, bytes, fin),
                Frame::Reply(stream, fin) => (stream, Bytes::new(), fin),
                Frame::Reset(stream) => (stream, Bytes::new(), true),
                Frame::Ping(id) => {
                    if to_node.lock().await.write_all(&Encoder::pong(id)).await.is_err() {
                        break 'session;
                    }
                    continue;
                }
                Frame::GoAway | Frame::Other => continue,
            };
            let Some(channel) = open.get(&stream).copied() else { continue };
            if channel == ERROR {
                // Told last, after all output; bounded as a Status is.
                verdict.extend(bytes.iter().take(MAX_MESSAGE - verdict.len().min(MAX_MESSAGE)));
            } else if !bytes.is_empty() && client.send(pack(channels, channel, &bytes)).await.is_err() {
                return Ok(());
            }
            if fin {
                open.remove(&stream);
                spoken |= channel == ERROR;
            }
        }
        if open.is_empty() {
            break;
        }
        decoder.buffer().reserve(32 * 1024);
        match node.read_buf(decoder.buffer()).await {
            Ok(n) if n > 0 => {}
            _ => break,
        }
    }
    if verdict.is_empty() {
        verdict = silent(spoken);
    }
    let verdict = told(channels, verdict);
    if !verdict.is_empty() && client.send(pack(channels, ERROR, &verdict)).await.is_err() {
        return Ok(());
    }
    end(&mut client).await;
    Ok(())
}

/// The verdict of a node that gave none: a success if it ended the error stream, a failure if its connection broke.
fn silent(ended: bool) -> Vec<u8> {
    let status = if ended {
        json!({ "metadata": {}, "status": "Success" })
    } else {
        Status::internal("error reading from error stream: unexpected EOF").to_value()
    };
    status.to_string().into_bytes()
}

/// What the error channel says: a Status from version 4 on; before, the text of a failure.
fn told(channels: Channels, verdict: Vec<u8>) -> Vec<u8> {
    if channels.version >= 4 {
        return verdict;
    }
    match serde_json::from_slice::<Value>(&verdict) {
        Ok(status) if status["status"] == "Success" => Vec::new(),
        Ok(status) => status["message"].as_str().unwrap_or_default().as_bytes().to_vec(),
        Err(_) => verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_answered_as_the_rfc_says() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let check = |offer: &'static str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            if !offer.is_empty() {
                headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offer));
            }
            assert_eq!(choose(&headers, &CHANNELS).map(|(name, _)| name), expected, "{offer}");
        };
        check("v4.channel.k8s.io, v5.channel.k8s.io", Some("v5.channel.k8s.io"));
        check("channel.k8s.io, base64url.bearer.authorization.k8s.io.abc", Some("channel.k8s.io"));
        check("base64url.bearer.authorization.k8s.io.abc", Some(""));
        check("", Some(""));
        check("v9.channel.k8s.io", None);
    }

    #[tokio::test]
    async fn the_end_of_stdin_reaches_the_command_and_its_verdict_comes_last() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (ours, mut node) = tokio::io::duplex(1 << 16);
        let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
        let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
        let session = tokio::spawn(bridge(server, ours, CHANNELS[0].1, streams));
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        client.send(Message::Binary(Bytes::from_static(b"\0hi"))).await.expect("sent");
        client.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await.expect("sent");

        // Streams are opened in the order error, stdin, stdout: 1, 3, 5.
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        while !seen.contains(&Frame::Data(3, Bytes::new(), true)) {
            node.read_buf(decoder.buffer()).await.expect("read");
            while let Some(frame) = decoder.next().expect("frame") {
                seen.push(frame);
            }
        }
        assert_eq!(seen[..3], [Frame::Other, Frame::Other, Frame::Other]);
        assert_eq!(seen[3], Frame::Data(3, Bytes::from_static(b"hi"), false));
        let mut answer = Encoder::data(1, br#"{"status":"Success"}"#);
        answer.extend(Encoder::pong(2));
        answer.extend(Encoder::data(5, b"out"));
        answer.extend(Encoder::close(5));
        answer.extend(Encoder::close(1));
        node.write_all(&answer).await.expect("written");

        let mut messages = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            match message {
                Message::Binary(bytes) => messages.push(bytes),
                Message::Close(frame) => assert_eq!(frame.map(|f| f.code), Some(CloseCode::Normal)),
                _ => {}
            }
        }
        assert_eq!(messages, [&b"\x01out"[..], &b"\x03{\"status\":\"Success\"}"[..]]);
        session.await.expect("no panic").expect("no error");
    }

    #[tokio::test]
    async fn a_session_without_a_verdict_ends_as_its_connection_did() {
        for (answer, expected) in
            [([Encoder::close(1), Encoder::close(3)].concat(), "Success"), (Vec::new(), "Failure")]
        {
            let (near, far) = tokio::io::duplex(1 << 16);
            let (ours, mut node) = tokio::io::duplex(1 << 16);
            let server = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            let streams = Streams { stdout: true, ..Streams::default() };
            let session = tokio::spawn(bridge(server, ours, CHANNELS[0].1, streams));
            let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            node.write_all(&answer).await.expect("written");
            node.shutdown().await.expect("written");
            let told = client.next().await.expect("a message").expect("whole").into_data();
            assert_eq!(told[0], ERROR);
            let told: Value = serde_json::from_slice(&told[1..]).expect("a Status");
            assert_eq!(told["status"], expected);
            let close = client.next().await.expect("a message").expect("whole");
            let Message::Close(Some(frame)) = close else { panic!("{close:?}") };
            assert_eq!(frame.code, CloseCode::Normal);
            while client.next().await.is_some() {}
            session.await.expect("no panic").expect("no error");
        }
    }

    #[test]
    fn messages_carry_their_channel() {
        let (v5, old) = (CHANNELS[0].1, Channels { version: 1, base64: true });
        assert_eq!(unpack(v5, &[0, b'a']), Some((STDIN, Bytes::from_static(b"a"))));
        assert_eq!(unpack(v5, &[255, 0]), Some((CLOSE, Bytes::from_static(&[0]))));
        assert_eq!(unpack(v5, &[]), None);
        assert_eq!(unpack(old, b"0YQ=="), Some((STDIN, Bytes::from_static(b"a"))));
        assert_eq!(unpack(old, b"x"), None);
        assert_eq!(pack(old, 1, b"a"), Message::text("1YQ=="));
        let failure = br#"{"status":"Failure","message":"exit code 1"}"#.to_vec();
        assert_eq!(told(v5, failure.clone()), failure);
        assert_eq!(told(old, failure), b"exit code 1");
        assert_eq!(told(old, br#"{"status":"Success"}"#.to_vec()), b"");
    }
}
