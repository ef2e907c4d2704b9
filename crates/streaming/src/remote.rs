//! Remote commands between a client's WebSocket and the runtime's SPDY: channels of one become streams of the other.
//!
//! A WebSocket message is a channel number and data; since `v5.channel.k8s.io` the message 255, N closes channel N, so
//! that the end of standard input reaches the process. Follows `k8s.io/apiserver/pkg/util/proxy/streamtranslator.go`,
//! `k8s.io/streaming/pkg/httpstream/wsstream`.

use std::io;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::spdy::{Codec, Frame};

/// Largest message taken from a client.
const MAX_MESSAGE: usize = 4 << 20;

/// How long a client may take to answer the end of a session.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(5);

/// Answers to pings that wait to be written.
const PONGS: usize = 16;

/// How long output may pause after the command has told its end.
const DRAIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A subprotocol of WebSocket sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subprotocol {
    /// Its name in `Sec-WebSocket-Protocol`.
    pub name: &'static str,
    base64: bool,
    /// The error channel carries a `Status`; before version 4 it carried text.
    status: bool,
    /// Channels can be closed one by one.
    close: bool,
}

/// What exec and attach speak, best first.
pub const COMMAND: &[Subprotocol] = &[
    Subprotocol { name: "v5.channel.k8s.io", base64: false, status: true, close: true },
    Subprotocol { name: "v4.channel.k8s.io", base64: false, status: true, close: false },
    Subprotocol { name: "v4.base64.channel.k8s.io", base64: true, status: true, close: false },
    Subprotocol { name: "channel.k8s.io", base64: false, status: false, close: false },
    Subprotocol { name: "base64.channel.k8s.io", base64: true, status: false, close: false },
];

/// Port-forward sessions whose messages carry SPDY as it is.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// The first subprotocol of ours that the client offers; without an offer the oldest.
pub fn choose(offered: &[&str]) -> Option<&'static Subprotocol> {
    if offered.is_empty() {
        return COMMAND.iter().find(|p| p.name == "channel.k8s.io");
    }
    COMMAND.iter().find(|p| offered.contains(&p.name))
}

/// The streams of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal: sizes are sent, standard error goes with standard output.
    pub tty: bool,
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// A stream's channel, number and type.
type Open = (u8, u32, &'static str);

impl Streams {
    /// All streams, in the order the runtime wants them opened.
    fn all(self) -> Vec<Open> {
        let wanted = [
            (ERROR, "error", true),
            (STDIN, "stdin", self.stdin),
            (STDOUT, "stdout", self.stdout),
            (STDERR, "stderr", self.stderr && !self.tty),
            (RESIZE, "resize", self.tty),
        ];
        let open = wanted.into_iter().filter(|(.., open)| *open);
        open.enumerate().map(|(i, (channel, name, _))| (channel, 1 + 2 * i as u32, name)).collect()
    }
}

/// Makes a WebSocket of an upgraded connection.
pub async fn websocket<S: AsyncRead + AsyncWrite + Unpin>(io: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

fn message(protocol: &Subprotocol, channel: u8, data: &[u8]) -> Message {
    if protocol.base64 {
        return Message::text(format!("{channel}{}", BASE64_STANDARD.encode(data)));
    }
    let mut bytes = BytesMut::with_capacity(data.len() + 1);
    bytes.put_u8(channel);
    bytes.put_slice(data);
    Message::Binary(bytes.freeze())
}

/// Channel and data of a client's message; `None` for one that is neither.
fn parse(protocol: &Subprotocol, message: Message) -> Option<(u8, Bytes)> {
    let bytes = match message {
        Message::Binary(bytes) => bytes,
        Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
        _ => return None,
    };
    let channel = *bytes.first()?;
    if protocol.base64 {
        let data = BASE64_STANDARD.decode(&bytes[1..]).ok()?;
        return Some((channel.checked_sub(b'0').filter(|c| *c <= 9)?, data.into()));
    }
    Some((channel, bytes.slice(1..)))
}

/// What the error channel says to clients of before version 4: nothing of success, the text of failure.
fn old_error(status: &[u8]) -> Option<Vec<u8>> {
    let value: serde_json::Value = serde_json::from_slice(status).ok()?;
    if value["status"] == "Success" {
        return None;
    }
    Some(value["message"].as_str().unwrap_or_default().as_bytes().to_vec())
}

/// The sending half of a session.
type Sender<C> = SplitSink<WebSocketStream<C>, Message>;

/// Ends a session in order: a client takes a close without this code for a broken connection.
pub async fn end<C: AsyncRead + AsyncWrite + Unpin>(client: &mut Sender<C>) {
    let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    // The client may be gone already.
    let _ = client.send(Message::Close(Some(normal))).await;
    let _ = client.close().await;
}

/// Reads until the client has answered the end of a session, for a while: a connection with bytes unread would be
/// reset, and lose the last words.
async fn farewell<C: AsyncRead + AsyncWrite + Unpin>(client: &mut SplitStream<WebSocketStream<C>>) {
    let gone = async { while let Some(Ok(_)) = client.next().await {} };
    let _ = tokio::time::timeout(FAREWELL, gone).await;
}

fn broken(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

/// Copies between client and runtime until the command has ended or either is gone. In the end the client is told a
/// verdict and a normal closure.
///
/// # Errors
/// A client that is gone, bytes that are no SPDY.
pub async fn translate<C, R>(client: C, runtime: R, protocol: &Subprotocol, streams: Streams) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = websocket(client).await.split();
    let (from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let open = streams.all();
    let mut codec = Codec::default();
    for (_, stream, name) in &open {
        to_runtime.write_all(&codec.syn_stream(*stream, &[("streamType", name)])).await?;
    }
    // An empty message tells the client that the session stands.
    let lowest = match streams {
        Streams { stdout: true, .. } => STDOUT,
        Streams { stderr: true, tty: false, .. } => STDERR,
        _ => ERROR,
    };
    to_client.send(message(protocol, lowest, &[])).await.map_err(broken)?;

    let (pong, pongs) = mpsc::channel(PONGS);
    let verdict = tokio::select! {
        () = up(&mut from_client, to_runtime, protocol, &open, pongs) => return Ok(()),
        verdict = down(from_runtime, codec, &mut to_client, protocol, &open, pong) => verdict?,
    };
    let told = if protocol.status { Some(verdict) } else { old_error(&verdict) };
    if let Some(told) = told {
        to_client.send(message(protocol, ERROR, &told)).await.map_err(broken)?;
    }
    end(&mut to_client).await;
    farewell(&mut from_client).await;
    Ok(())
}

/// From the client to the runtime; it alone writes there. Returns when the client is gone.
async fn up<C, W>(
    client: &mut SplitStream<WebSocketStream<C>>,
    mut runtime: W,
    protocol: &Subprotocol,
    open: &[Open],
    mut pongs: mpsc::Receiver<u32>,
) where
    C: AsyncRead + AsyncWrite + Unpin,
    W: AsyncWrite + Unpin,
{
    let stream_of = |channel: u8| open.iter().find(|(c, ..)| *c == channel).map(|(_, stream, _)| *stream);
    let mut taken = true;
    loop {
        let frame = tokio::select! {
            Some(id) = pongs.recv() => Codec::ping(id),
            received = client.next() => {
                let Some(Ok(received)) = received else { return };
                if matches!(received, Message::Close(_)) {
                    return;
                }
                let Some((channel, data)) = parse(protocol, received) else { continue };
                match channel {
                    CLOSE if protocol.close => match data.first().and_then(|c| stream_of(*c)) {
                        Some(stream) => Codec::data(stream, &[], true),
                        None => continue,
                    },
                    STDIN | RESIZE => match stream_of(channel) {
                        Some(stream) if !data.is_empty() => Codec::data(stream, &data, false),
                        _ => continue,
                    },
                    _ => continue,
                }
            }
        };
        // A process that has ended takes no more input: its end is told by the other streams.
        taken = taken && runtime.write_all(&frame).await.is_ok() && runtime.flush().await.is_ok();
    }
}

/// From the runtime to the client. Returns the verdict when the command has ended, or the runtime is gone.
async fn down<C, R>(
    mut runtime: R,
    mut codec: Codec,
    client: &mut Sender<C>,
    protocol: &Subprotocol,
    open: &[Open],
    pong: mpsc::Sender<u32>,
) -> io::Result<Vec<u8>>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + Unpin,
{
    let channel_of = |stream: u32| open.iter().find(|(_, s, _)| *s == stream).map(|(channel, ..)| *channel);
    let mut buffer = BytesMut::with_capacity(64 << 10);
    let mut waiting: Vec<u8> =
        open.iter().map(|(c, ..)| *c).filter(|c| matches!(*c, STDOUT | STDERR | ERROR)).collect();
    let mut status = Vec::new();
    while !waiting.is_empty() {
        let ended = !waiting.contains(&ERROR);
        let read = tokio::select! {
            read = runtime.read_buf(&mut buffer) => read,
            () = tokio::time::sleep(DRAIN), if ended => break,
        };
        // A connection that breaks is one that ends: what the client is told depends on what came before.
        if !matches!(read, Ok(n) if n > 0) {
            break;
        }
        while let Some(frame) = codec.decode(&mut buffer).map_err(broken)? {
            let (stream, data, fin) = match frame {
                Frame::Data { stream, data, fin } => (stream, data, fin),
                Frame::SynReply { stream, fin } => (stream, Bytes::new(), fin),
                Frame::Reset { stream } => (stream, Bytes::new(), true),
                Frame::Ping(id) => {
                    // Whoever asks faster than answers can be written waits for fewer.
                    let _ = pong.try_send(id);
                    continue;
                }
                Frame::GoAway | Frame::SynStream { .. } | Frame::Other => continue,
            };
            let Some(channel) = channel_of(stream).filter(|c| waiting.contains(c)) else { continue };
            if channel == ERROR {
                // Told last, after all output; bounded as a Status is.
                status.extend(data.iter().take(MAX_MESSAGE.saturating_sub(status.len())));
            } else if !data.is_empty() {
                client.send(message(protocol, channel, &data)).await.map_err(broken)?;
            }
            if fin {
                waiting.retain(|c| *c != channel);
            }
        }
    }
    Ok(if status.is_empty() { silent(!waiting.contains(&ERROR)) } else { status })
}

/// The verdict of a runtime that gave none: a success if it ended the error stream, a failure if its connection broke.
fn silent(ended: bool) -> Vec<u8> {
    if ended {
        return br#"{"metadata":{},"status":"Success"}"#.to_vec();
    }
    let why = "error reading from error stream: unexpected EOF";
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": "InternalError",
        "message": format!("Internal error occurred: {why}"), "details": {"causes": [{"message": why}]}, "code": 500,
    });
    status.to_string().into_bytes()
}

/// Copies SPDY that comes in messages to a connection that carries it as it is, and back. Either end's end is the end
/// of both: what is left open would wait for nobody.
///
/// # Errors
/// A connection that breaks.
pub async fn tunnel<C, R>(client: C, runtime: R) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite,
{
    let (mut to_client, mut from_client) = websocket(client).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let up = async {
        while let Some(Ok(received)) = from_client.next().await {
            match received {
                Message::Binary(data) => {
                    to_runtime.write_all(&data).await?;
                    to_runtime.flush().await?;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        to_runtime.shutdown().await
    };
    let down = async {
        let mut buffer = BytesMut::with_capacity(32 << 10);
        while from_runtime.read_buf(&mut buffer).await.is_ok_and(|n| n > 0) {
            to_client.send(Message::Binary(buffer.split().freeze())).await.map_err(broken)?;
            buffer.reserve(32 << 10);
        }
        end(&mut to_client).await;
        Ok(())
    };
    let ended: io::Result<()> = tokio::select! {
        ended = up => return ended,
        ended = down => ended,
    };
    farewell(&mut from_client).await;
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_subprotocol_offered_is_taken() {
        let name = |offered: &[&str]| choose(offered).map(|p| p.name);
        assert_eq!(name(&["v4.channel.k8s.io", "v5.channel.k8s.io"]), Some("v5.channel.k8s.io"));
        assert_eq!(name(&["v4.base64.channel.k8s.io"]), Some("v4.base64.channel.k8s.io"));
        assert_eq!(name(&[]), Some("channel.k8s.io"));
        assert_eq!(name(&["x"]), None);
    }

    #[test]
    fn a_terminal_has_no_stream_of_errors() {
        let streams = Streams { stdin: true, stdout: true, stderr: true, tty: true };
        let names: Vec<&str> = streams.all().iter().map(|(.., n)| *n).collect();
        assert_eq!(names, ["error", "stdin", "stdout", "resize"]);
        assert_eq!(streams.all().last().map(|s| s.1), Some(7));
    }

    /// A runtime that echoes its input in capitals and ends with a code when the input ends.
    async fn runtime(io: tokio::io::DuplexStream) {
        let (mut read, mut write) = tokio::io::split(io);
        let mut codec = Codec::default();
        let mut buffer = BytesMut::new();
        let mut types = std::collections::HashMap::new();
        loop {
            while let Some(frame) = codec.decode(&mut buffer).expect("good frames") {
                match frame {
                    Frame::SynStream { stream, headers, .. } => {
                        types.insert(headers[0].1.clone(), stream);
                    }
                    Frame::Data { data, fin, .. } => {
                        let out = Codec::data(types["stdout"], &data.to_ascii_uppercase(), fin);
                        write.write_all(&out).await.expect("it is read");
                        if fin {
                            let status = br#"{"status":"Failure","message":"exit 3"}"#;
                            write.write_all(&Codec::data(types["error"], status, true)).await.expect("it is read");
                        }
                    }
                    _ => {}
                }
            }
            if read.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
    }

    #[tokio::test]
    async fn closing_the_input_reaches_the_process_and_its_end_the_client() {
        let (client, server) = tokio::io::duplex(1 << 16);
        let (here, there) = tokio::io::duplex(1 << 16);
        tokio::spawn(runtime(there));
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
        tokio::spawn(async move { translate(server, here, &COMMAND[0], streams).await });

        let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        socket.send(Message::binary(&b"\0hello"[..])).await.expect("it is sent");
        socket.send(Message::binary(vec![255, 0])).await.expect("it is sent");
        let (got, code) = told(&mut socket).await;
        assert_eq!(code, Some(CloseCode::Normal));
        assert_eq!(got, ["\u{1}", "\u{1}HELLO", "\u{3}{\"status\":\"Failure\",\"message\":\"exit 3\"}"]);
    }

    /// What a client is told, and how the session is closed.
    async fn told(socket: &mut WebSocketStream<tokio::io::DuplexStream>) -> (Vec<String>, Option<CloseCode>) {
        let (mut got, mut code) = (Vec::new(), None);
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => got.push(String::from_utf8_lossy(&bytes).into_owned()),
                Message::Close(frame) => code = frame.map(|f| f.code),
                _ => {}
            }
        }
        (got, code)
    }

    #[tokio::test]
    async fn a_session_without_a_verdict_ends_as_its_connection_did() {
        for (answer, expected) in [
            ([Codec::data(1, &[], true), Codec::data(3, &[], true)].concat(), "Success"),
            (Codec::data(3, &[], true).to_vec(), "Failure"),
            (Vec::new(), "Failure"),
        ] {
            let (client, server) = tokio::io::duplex(1 << 16);
            let (here, mut there) = tokio::io::duplex(1 << 16);
            let streams = Streams { stdout: true, ..Streams::default() };
            let session = tokio::spawn(translate(server, here, &COMMAND[0], streams));
            there.write_all(&answer).await.expect("it is read");
            there.shutdown().await.expect("it is read");
            let mut socket = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
            let (got, code) = told(&mut socket).await;
            assert_eq!(code, Some(CloseCode::Normal));
            assert_eq!(got.len(), 2, "{got:?}");
            let status: serde_json::Value = serde_json::from_str(&got[1][1..]).expect("a Status");
            assert_eq!((got[1].as_bytes()[0], &status["status"]), (ERROR, &expected.into()));
            session.await.expect("no panic").expect("no error");
        }
    }

    #[tokio::test]
    async fn more_input_than_any_buffer_holds_comes_back_whole() {
        let (client, server) = tokio::io::duplex(1 << 10);
        let (here, there) = tokio::io::duplex(1 << 10);
        tokio::spawn(runtime(there));
        let streams = Streams { stdin: true, stdout: true, ..Streams::default() };
        tokio::spawn(translate(server, here, &COMMAND[0], streams));
        let (mut send, mut receive) = WebSocketStream::from_raw_socket(client, Role::Client, None).await.split();
        tokio::spawn(async move {
            for _ in 0..64 {
                let data = [&b"\0"[..], &[b'a'; 16 << 10]].concat();
                send.send(Message::binary(data)).await.expect("it is sent");
            }
            send.send(Message::binary(vec![CLOSE, STDIN])).await.expect("it is sent");
        });
        let mut length = 0;
        while let Some(Ok(Message::Binary(bytes))) = receive.next().await {
            length += if bytes.first() == Some(&STDOUT) { bytes.len() - 1 } else { 0 };
        }
        assert_eq!(length, 64 * (16 << 10));
    }

    #[test]
    fn messages_carry_their_channel() {
        let (v5, old) = (&COMMAND[0], &COMMAND[4]);
        let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
        assert_eq!(parse(v5, binary(&[0, b'a'])), Some((STDIN, Bytes::from_static(b"a"))));
        assert_eq!(parse(v5, binary(&[255, 0])), Some((CLOSE, Bytes::from_static(&[0]))));
        assert_eq!(parse(v5, binary(&[])), None);
        assert_eq!(parse(old, Message::text("0YQ==")), Some((STDIN, Bytes::from_static(b"a"))));
        assert_eq!(parse(old, Message::text("x")), None);
        assert_eq!(message(old, 1, b"a"), Message::text("1YQ=="));
        assert_eq!(old_error(br#"{"status":"Failure","message":"exit code 1"}"#), Some(b"exit code 1".to_vec()));
        assert_eq!(old_error(br#"{"status":"Success"}"#), None);
    }
}
