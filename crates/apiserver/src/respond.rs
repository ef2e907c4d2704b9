//! Answers: objects, lists and failures in the encoding and shape negotiated.

use std::io::Write;

use bytes::{Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, RETRY_AFTER, VARY};
use http::{Response, StatusCode};
use orkd_api::status::Status;
use serde_json::Value;

use crate::Body;
use crate::codec;
use crate::negotiation::{Format, Wanted};

/// Bodies above this are compressed for clients that take it (`defaultGzipThresholdBytes`).
pub const GZIP_FROM: usize = 128 * 1024;

/// Answers with encoded JSON.
pub fn json(wanted: &Wanted, code: u16, bytes: Bytes) -> Response<Body> {
    let bytes = if wanted.pretty { pretty(&bytes).into() } else { bytes };
    let mut out = BytesMut::with_capacity(bytes.len() + 1);
    out.extend_from_slice(&bytes);
    out.extend_from_slice(b"\n");
    bytes_response(wanted, code, Format::Json.media_type(), out.freeze())
}

/// Answers with bytes of a media type, compressed where that is wanted and worth it.
pub fn bytes_response(wanted: &Wanted, code: u16, media_type: &'static str, bytes: Bytes) -> Response<Body> {
    let compress = wanted.gzip && bytes.len() > GZIP_FROM;
    let bytes = if compress { gzip(&bytes) } else { bytes };
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    *response.body_mut() = Body::from(bytes);
    response
}

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::fast());
    let _ = encoder.write_all(bytes);
    encoder.finish().unwrap_or_default().into()
}

/// Answers with an object. `apiVersion` and `kind` must be set.
pub fn object(wanted: &Wanted, code: u16, value: &Value) -> Response<Body> {
    match wanted.format {
        Format::Json => json(wanted, code, codec::encode(value)),
        Format::Yaml => bytes_response(wanted, code, Format::Yaml.media_type(), codec::encode_yaml(value)),
        Format::Protobuf => match codec::encode_protobuf(value) {
            Some(bytes) => bytes_response(wanted, code, Format::Protobuf.media_type(), bytes),
            None => json(wanted, code, codec::encode(value)),
        },
    }
}

/// Answers with a failure.
pub fn failure(wanted: &Wanted, status: &Status) -> Response<Body> {
    let mut response = object(wanted, status.code, &status.to_value());
    if let Some(seconds) = status.details.as_ref().map(|d| d.retry_after_seconds).filter(|s| *s > 0) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// Answers with plain text.
pub fn text(code: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = bytes_response(&Wanted::default(), code, "text/plain; charset=utf-8", body.into());
    response.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    response
}

/// Indents JSON by two spaces without changing its order.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let (mut in_string, mut escaped) = (false, false);
    let line = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for (i, &c) in json.iter().enumerate() {
        if in_string {
            out.push(c);
            in_string = escaped || c != b'"';
            escaped = !escaped && c == b'\\';
            continue;
        }
        match c {
            b'"' => {
                in_string = true;
                out.push(c);
            }
            b'{' | b'[' => {
                out.push(c);
                if !matches!(json.get(i + 1), Some(b'}' | b']')) {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            b'}' | b']' => {
                if !matches!(json.get(i.wrapping_sub(1)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    line(&mut out, depth);
                }
                out.push(c);
            }
            b',' => {
                out.push(c);
                line(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            b' ' | b'\n' | b'\r' | b'\t' => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretty_keeps_order_and_strings() {
        let text = pretty(br#"{"b":[1,{"a":"x,\"}"}],"a":{},"c":[]}"#);
        assert_eq!(
            String::from_utf8_lossy(&text),
            "{\n  \"b\": [\n    1,\n    {\n      \"a\": \"x,\\\"}\"\n    }\n  ],\n  \"a\": {},\n  \"c\": []\n}"
        );
    }
}
