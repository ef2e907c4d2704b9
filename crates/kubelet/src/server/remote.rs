//! Remote commands between a client's WebSocket and the runtime's SPDY: channels of one become streams of the other.
//!
//! A WebSocket message is a channel number and data; since `v5.channel.k8s.io` the message 255, N closes channel N, so
//! that the end of standard input reaches the process. Follows `k8s.io/apiserver/pkg/util/proxy/streamtranslator.go`,
//! `k8s.io/streaming/pkg/httpstream/wsstream`.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::spdy::{Codec, Frame};

/// Largest message taken from a client.
const MAX_MESSAGE: usize = 4 << 20;

/// How long output may take to drain after the command has told its end.
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

impl Streams {
    /// Channel, stream number and type of each stream, in the order the runtime wants them opened.
    fn all(self) -> Vec<(u8, u32, &'static str)> {
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
        return Some((channel.checked_sub(b'0')?, data.into()));
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

/// Copies between client and runtime until the command has ended or either is gone.
///
/// # Errors
/// A connection that breaks, bytes that are no SPDY.
pub async fn translate<C, R>(client: C, runtime: R, protocol: &Subprotocol, streams: Streams) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    R: AsyncRead + AsyncWrite + Unpin + Send,
{
    let other = |e: &dyn std::fmt::Display| std::io::Error::other(e.to_string());
    let (mut to_client, mut from_client) = websocket(client).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let open = streams.all();
    let stream_of = |channel: u8| open.iter().find(|(c, ..)| *c == channel).map(|(_, stream, _)| *stream);
    let channel_of = |stream: u32| open.iter().find(|(_, s, _)| *s == stream).map(|(channel, ..)| *channel);

    let mut codec = Codec::default();
    for (_, stream, name) in &open {
        to_runtime.write_all(&codec.syn_stream(*stream, &[("streamType", name)])).await?;
    }
    // An empty message tells the client that the session stands.
    let lowest = if streams.stdout { STDOUT } else { ERROR };
    to_client.send(message(protocol, lowest, &[])).await.map_err(|e| other(&e))?;

    let mut buffer = BytesMut::with_capacity(64 << 10);
    let mut waiting: Vec<u8> =
        open.iter().map(|(c, ..)| *c).filter(|c| matches!(*c, STDOUT | STDERR | ERROR)).collect();
    let mut status = Vec::new();
    let mut client_open = true;
    let far = tokio::time::Instant::now() + std::time::Duration::from_secs(86400 * 365);
    let mut deadline = far;
    'session: while !waiting.is_empty() {
        tokio::select! {
            read = from_runtime.read_buf(&mut buffer) => {
                if read? == 0 {
                    break 'session;
                }
                while let Some(frame) = codec.decode(&mut buffer).map_err(|e| other(&e))? {
                    let (stream, data, fin) = match frame {
                        Frame::Data { stream, data, fin } => (stream, data, fin),
                        Frame::SynReply { stream, fin } => (stream, Bytes::new(), fin),
                        Frame::Reset { stream } => (stream, Bytes::new(), true),
                        Frame::Ping(id) => {
                            to_runtime.write_all(&Codec::ping(id)).await?;
                            continue;
                        }
                        Frame::GoAway | Frame::SynStream { .. } | Frame::Other => continue,
                    };
                    let Some(channel) = channel_of(stream) else { continue };
                    if channel == ERROR {
                        status.extend_from_slice(&data);
                    } else if !data.is_empty() {
                        to_client.send(message(protocol, channel, &data)).await.map_err(|e| other(&e))?;
                    }
                    if fin {
                        waiting.retain(|c| *c != channel);
                        if channel == ERROR {
                            deadline = tokio::time::Instant::now() + DRAIN;
                        }
                    }
                }
            }
            received = from_client.next(), if client_open => match received {
                Some(Ok(Message::Close(_))) | None => break 'session,
                Some(Err(_)) => break 'session,
                Some(Ok(received)) => {
                    let Some((channel, data)) = parse(protocol, received) else { continue };
                    let frame = match channel {
                        CLOSE if protocol.close => match data.first().and_then(|c| stream_of(*c)) {
                            Some(stream) => Codec::data(stream, &[], true),
                            None => continue,
                        },
                        STDIN | RESIZE => match stream_of(channel) {
                            Some(stream) if !data.is_empty() => Codec::data(stream, &data, false),
                            _ => continue,
                        },
                        _ => continue,
                    };
                    // A process that has ended takes no more input: its end is told by the other streams.
                    if to_runtime.write_all(&frame).await.is_err() {
                        client_open = false;
                    }
                }
            },
            () = tokio::time::sleep_until(deadline) => break 'session,
        }
    }
    if status.is_empty() && protocol.status && waiting.is_empty() {
        // A stream of errors that ended without a word: there was none.
        status = br#"{"metadata":{},"status":"Success"}"#.to_vec();
    }
    if !status.is_empty() {
        let told = if protocol.status { Some(status) } else { old_error(&status) };
        if let Some(told) = told {
            let _ = to_client.send(message(protocol, ERROR, &told)).await;
        }
    }
    let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
    let _ = to_client.send(Message::Close(Some(normal))).await;
    let _ = to_client.close().await;
    Ok(())
}

/// Copies SPDY that comes in messages to a connection that carries it as it is, and back.
///
/// # Errors
/// A connection that breaks.
pub async fn tunnel<C, R>(client: C, runtime: R) -> std::io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin + Send,
    R: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (mut to_client, mut from_client) = websocket(client).await.split();
    let (mut from_runtime, mut to_runtime) = tokio::io::split(runtime);
    let mut buffer = BytesMut::with_capacity(32 << 10);
    loop {
        tokio::select! {
            read = from_runtime.read_buf(&mut buffer) => {
                if read? == 0 {
                    break;
                }
                let sent = to_client.send(Message::Binary(buffer.split().freeze())).await;
                sent.map_err(|e| std::io::Error::other(e.to_string()))?;
                buffer.reserve(32 << 10);
            }
            received = from_client.next() => match received {
                Some(Ok(Message::Binary(data))) => to_runtime.write_all(&data).await?,
                Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                Some(Ok(_)) => {}
            },
        }
    }
    let _ = to_runtime.shutdown().await;
    let _ = to_client.close().await;
    Ok(())
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
        let mut got = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Binary(bytes) => got.push(String::from_utf8_lossy(&bytes).into_owned()),
                _ => break,
            }
        }
        assert_eq!(got, ["\u{1}", "\u{1}HELLO", "\u{3}{\"status\":\"Failure\",\"message\":\"exit 3\"}"]);
    }
}
