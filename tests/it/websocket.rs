//! Clients that speak WebSocket themselves, in every subprotocol there is, as Kubernetes' own tests do
//! (`test/e2e/common/node/pods.go`, `test/e2e/kubectl/portforward.go`).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use http::header::SEC_WEBSOCKET_PROTOCOL;
use orkd_tests::client::{Credential, Socket};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::tour;

/// A session.
struct Session {
    socket: WebSocketStream<Socket>,
    base64: bool,
}

/// Opens a session; the subprotocol chosen must be the one offered.
async fn open(kubeconfig: &Path, path: &str, protocol: &str) -> Result<Session> {
    let credential = Credential::of(kubeconfig)?;
    let mut request = format!("wss://127.0.0.1:6443{path}").into_client_request()?;
    if !protocol.is_empty() {
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol.parse()?);
    }
    // What a browser and golang.org/x/net/websocket send along.
    request.headers_mut().insert("origin", "http://localhost".parse()?);
    let stream = credential.connect(&[b"http/1.1"]).await?;
    let (socket, answer) = match tokio_tungstenite::client_async(request, stream).await {
        Ok(opened) => opened,
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
            let body = answer.body().clone().unwrap_or_default();
            bail!("{} {}", answer.status(), String::from_utf8_lossy(&body));
        }
        Err(error) => return Err(error.into()),
    };
    let chosen = answer.headers().get(SEC_WEBSOCKET_PROTOCOL).map(|v| v.to_str()).transpose()?.unwrap_or_default();
    ensure!(chosen == protocol, "{chosen} was chosen of {protocol}");
    Ok(Session { socket, base64: protocol.contains("base64") })
}

impl Session {
    async fn send(&mut self, channel: u8, data: &[u8]) -> Result<()> {
        let message = if self.base64 {
            Message::text(format!("{channel}{}", BASE64_STANDARD.encode(data)))
        } else {
            Message::binary([&[channel], data].concat())
        };
        Ok(self.socket.send(message).await?)
    }

    /// The next message's bytes, of base64 where the subprotocol has it; `None` at an orderly end.
    async fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let wait = tokio::time::timeout(Duration::from_secs(20), self.socket.next()).await;
        match wait.context("nothing comes")? {
            Some(Ok(Message::Binary(bytes))) if !self.base64 => Ok(Some(bytes.to_vec())),
            Some(Ok(Message::Text(text))) if self.base64 => Ok(Some(text.as_bytes().to_vec())),
            Some(Ok(Message::Close(Some(frame)))) => {
                ensure!(u16::from(frame.code) == 1000, "closed with {frame:?}");
                Ok(None)
            }
            other => bail!("{other:?}"),
        }
    }

    /// Channel and data of the next message.
    async fn channel(&mut self) -> Result<Option<(u8, Vec<u8>)>> {
        let Some(bytes) = self.next().await? else { return Ok(None) };
        let (channel, data) = bytes.split_first().context("an empty message")?;
        if self.base64 {
            return Ok(Some((channel - b'0', BASE64_STANDARD.decode(data)?)));
        }
        Ok(Some((*channel, data.to_vec())))
    }

    /// Everything until the end, by channel.
    async fn all(&mut self) -> Result<[String; 4]> {
        let mut all: [Vec<u8>; 4] = Default::default();
        while let Some((channel, data)) = self.channel().await? {
            all.get_mut(usize::from(channel)).context("an unknown channel")?.extend(data);
        }
        Ok(all.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

const POD: &str = "/api/v1/namespaces/default/pods/log";

fn exec(script: &str) -> String {
    let script: String = script.bytes().map(|b| format!("%{b:02X}")).collect();
    format!("{POD}/exec?command=sh&command=-c&command={script}&stdout=1&stderr=1&container=c")
}

async fn commands(kubeconfig: &Path) -> Result<()> {
    // As the conformance test has it: nothing but standard output.
    for protocol in ["channel.k8s.io", "base64.channel.k8s.io", ""] {
        let mut session = open(kubeconfig, &exec("echo remote execution test"), protocol).await?;
        let [_, out, err, error] = session.all().await.with_context(|| protocol.to_owned())?;
        assert_eq!((out.as_str(), err.as_str(), error.as_str()), ("remote execution test\n", "", ""), "{protocol}");
        // Failure is told as text.
        let mut session = open(kubeconfig, &exec("echo no >&2; exit 7"), protocol).await?;
        let [_, out, err, error] = session.all().await.with_context(|| protocol.to_owned())?;
        assert_eq!((out.as_str(), err.as_str()), ("", "no\n"), "{protocol}");
        ensure!(error.contains("command terminated with non-zero exit code"), "{protocol}: {error}");
    }
    // Since version 4 the verdict is a Status.
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"] {
        let mut session = open(kubeconfig, &exec("echo good"), protocol).await?;
        let [_, out, _, status] = session.all().await.with_context(|| protocol.to_owned())?;
        assert_eq!(out, "good\n", "{protocol}");
        let status: serde_json::Value = serde_json::from_str(&status)?;
        assert_eq!(status["status"], "Success", "{protocol}");
        let mut session = open(kubeconfig, &exec("exit 7"), protocol).await?;
        let [.., status] = session.all().await.with_context(|| protocol.to_owned())?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        assert_eq!(
            (&status["status"], &status["reason"]),
            (&"Failure".into(), &"NonZeroExitCode".into()),
            "{protocol}"
        );
        assert_eq!(status["details"]["causes"][0], serde_json::json!({"reason": "ExitCode", "message": "7"}));
    }
    // Input reaches the process in all of them; its end can be told since version 5.
    for protocol in ["channel.k8s.io", "v4.base64.channel.k8s.io", "v5.channel.k8s.io"] {
        let script = if protocol.starts_with("v5") { "cat" } else { "head -n 1" };
        let path = format!("{}&stdin=1", exec(script));
        let mut session = open(kubeconfig, &path, protocol).await?;
        session.send(0, b"typed\n").await?;
        if protocol.starts_with("v5") {
            session.send(255, &[0]).await?;
        }
        let [_, out, err, _] = session.all().await.with_context(|| protocol.to_owned())?;
        assert_eq!((out.as_str(), err.as_str()), ("typed\n", ""), "{protocol}");
    }
    let refused = open(kubeconfig, &exec("true"), "v9.channel.k8s.io").await.err().context("it is taken")?;
    ensure!(refused.to_string().starts_with("4"), "{refused:#}");
    Ok(())
}

async fn logs(kubeconfig: &Path) -> Result<()> {
    for (protocol, text) in [("binary.k8s.io", "one\n"), ("base64.binary.k8s.io", "b25lCg=="), ("", "one\n")] {
        let mut session = open(kubeconfig, &format!("{POD}/log?container=c"), protocol).await?;
        let mut got = Vec::new();
        while let Some(bytes) = session.next().await? {
            got.extend(bytes);
        }
        assert_eq!(String::from_utf8_lossy(&got), text, "{protocol}");
    }
    Ok(())
}

async fn ports(kubeconfig: &Path) -> Result<()> {
    const WWW: &str = "/api/v1/namespaces/default/pods/www/portforward";
    for protocol in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let mut session = open(kubeconfig, &format!("{WWW}?ports=8080"), protocol).await?;
        // Each channel begins with the port, little-endian: first that of data, then that of errors.
        for channel in [0, 1] {
            let begin = session.channel().await?.context("the session ends")?;
            assert_eq!(begin, (channel, 8080u16.to_le_bytes().to_vec()), "{protocol}");
        }
        session.send(0, b"GET / HTTP/1.0\r\n\r\n").await?;
        let mut got = String::new();
        while !got.contains("forwarded\n") {
            let (channel, data) = session.channel().await?.with_context(|| format!("{protocol}: {got}"))?;
            assert_eq!(channel, 0, "{protocol}: {}", String::from_utf8_lossy(&data));
            got.push_str(&String::from_utf8_lossy(&data));
        }
        ensure!(got.starts_with("HTTP/1."), "{protocol}: {got}");
        // Two ports are four channels.
        let mut session = open(kubeconfig, &format!("{WWW}?ports=8080,8081"), protocol).await?;
        for (channel, port) in [(0, 8080u16), (1, 8080), (2, 8081), (3, 8081)] {
            let begin = session.channel().await?.context("the session ends")?;
            assert_eq!(begin, (channel, port.to_le_bytes().to_vec()), "{protocol}");
        }
    }
    for (query, text) in [("", "query parameter \"port\" is required"), ("?ports=0", "must be > 0")] {
        let refused = open(kubeconfig, &format!("{WWW}{query}"), "v4.channel.k8s.io").await;
        let refused = refused.err().context("it is taken")?.to_string();
        ensure!(refused.starts_with("400 ") && refused.contains(text), "{refused}");
    }
    Ok(())
}

#[test]
fn clients_that_speak_websocket_themselves() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let cluster = Cluster::node(&[])?;
    let k = cluster.kubectl()?;
    k.apply(&tour::pod("log", "echo one; exec sleep 1000"))?;
    k.apply(&tour::pod("www", "echo forwarded > /tmp/index.html; exec httpd -f -p 8080 -h /tmp"))?;
    k.ok("wait --for=condition=Ready pod/log pod/www --timeout=30s")?;
    let kubeconfig = cluster.kubeconfig();
    cluster.machine.inside(move || async move {
        commands(&kubeconfig).await.context("exec")?;
        logs(&kubeconfig).await.context("logs")?;
        ports(&kubeconfig).await.context("port-forward")
    })
}
