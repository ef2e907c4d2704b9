//! The gRPC health check (`grpc.health.v1.Health/Check`). Its two messages have one field each, so they are written and
//! read here without generated code. Texts are upstream's (`pkg/probe/grpc/grpc.go`).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// Messages as bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;
    fn encoder(&mut self) -> Raw {
        Raw
    }
    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(input.copy_to_bytes(input.remaining())))
    }
}

/// A HealthCheckRequest: field 1 is the service's name.
fn request(service: &str) -> Bytes {
    if service.is_empty() {
        return Bytes::new();
    }
    let mut out = vec![0x0a];
    let mut length = service.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(service.as_bytes());
    Bytes::from(out)
}

/// The status of a HealthCheckResponse: field 1, a small number; absent means 0.
fn status(answer: &[u8]) -> &'static str {
    match answer {
        [0x08, 1, ..] => "SERVING",
        [0x08, 2, ..] => "NOT_SERVING",
        [0x08, 3, ..] => "SERVICE_UNKNOWN",
        _ => "UNKNOWN",
    }
}

/// Asks whether a service is healthy.
pub async fn check(ip: &str, port: u16, service: &str, timeout: Duration) -> Result<(), String> {
    let address = if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") };
    let late = || {
        format!(
            "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
            timeout.as_secs()
        )
    };
    let exchange = async {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| e.to_string())?;
        let channel = endpoint.connect().await.map_err(|_| late())?;
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.map_err(|_| late())?;
        let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
        match client.unary(Request::new(request(service)), path, Raw).await {
            Ok(answer) => match status(answer.get_ref()) {
                "SERVING" => Ok(()),
                other => Err(format!("service unhealthy (responded with {other:?})")),
            },
            Err(e) if e.code() == Code::Unimplemented => Err(format!(
                "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                e.message()
            )),
            Err(e) => Err(format!("error: health rpc probe failed: {}", orkd_cri::Error::from(e))),
        }
    };
    tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|_| Err(late()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        assert_eq!(request(""), Bytes::new());
        assert_eq!(request("ab"), Bytes::from_static(b"\x0a\x02ab"));
        assert_eq!(request(&"x".repeat(200)).get(..3), Some(b"\x0a\xc8\x01".as_slice()));
        assert_eq!(status(b"\x08\x01"), "SERVING");
        assert_eq!(status(b""), "UNKNOWN");
    }

    #[tokio::test]
    async fn nobody_there() {
        let error = check("127.0.0.1", 1, "", Duration::from_secs(2)).await;
        let text = "timeout: failed to connect service \"127.0.0.1:1\" within 2s: context deadline exceeded";
        assert_eq!(error, Err(text.to_owned()));
    }
}
