//! Lists as they stand in the cache, in JSON or protobuf: nothing is decoded, and the pieces are put together as
//! fast as the client takes them, so that a list costs one chunk of memory, compressed or not.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, VARY};

use crate::Body;
use crate::cache::Entry;
use crate::codec;
use crate::negotiation::{Format, Wanted};
use crate::respond;

/// Bytes written at a time.
const CHUNK: usize = 64 * 1024;

/// How the items of a list are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Json,
    Protobuf,
}

impl Form {
    fn put(self, out: &mut BytesMut, first: bool, entry: &Entry) {
        match self {
            Form::Json => {
                out.put_slice(if first { b"{" } else { b",{" });
                out.put_slice(entry.list_item());
            }
            Form::Protobuf => {
                let envelope = codec::entry_protobuf(entry);
                codec::put_list_item(out, codec::protobuf_message(&envelope));
            }
        }
    }
}

struct Chunks {
    form: Form,
    /// What begins the list; taken by the first chunk.
    head: Option<BytesMut>,
    entries: std::vec::IntoIter<Arc<Entry>>,
    tail: &'static [u8],
    gzip: Option<GzEncoder<Vec<u8>>>,
    first: bool,
    done: bool,
}

impl Chunks {
    /// The next bytes as they are without compression.
    fn plain(&mut self) -> Option<BytesMut> {
        if self.done {
            return None;
        }
        let mut out = self.head.take().unwrap_or_default();
        out.reserve(CHUNK);
        while out.len() < CHUNK {
            let Some(entry) = self.entries.next() else {
                out.put_slice(self.tail);
                self.done = true;
                break;
            };
            self.form.put(&mut out, self.first, &entry);
            self.first = false;
        }
        Some(out)
    }

    fn next(&mut self) -> Option<Bytes> {
        let Some(mut gzip) = self.gzip.take() else {
            return self.plain().map(BytesMut::freeze);
        };
        // Goes on until there is something to send: a compressor swallows a good deal before it says anything.
        while let Some(chunk) = self.plain() {
            let _ = gzip.write_all(&chunk);
            if gzip.get_ref().len() >= CHUNK / 4 {
                let bytes = std::mem::take(gzip.get_mut());
                self.gzip = Some(gzip);
                return Some(bytes.into());
            }
        }
        gzip.finish().ok().filter(|rest| !rest.is_empty()).map(Bytes::from)
    }
}

/// Answers with a JSON list: `head` up to the opening bracket of the items.
pub fn json(wanted: &Wanted, head: BytesMut, entries: Vec<Arc<Entry>>) -> Response<Body> {
    let commas = entries.len().saturating_sub(1);
    let total = head.len() + entries.iter().map(|e| e.list_item().len() + 1).sum::<usize>() + commas + 3;
    respond_with(wanted, Form::Json, Format::Json.media_type(), total, head, b"]}\n", entries)
}

/// Answers with a protobuf list; gives the entries back where the kind has no such form.
pub fn protobuf(
    wanted: &Wanted,
    api_version: &str,
    kind: &str,
    meta: &str,
    entries: Vec<Arc<Entry>>,
) -> Result<Response<Body>, Vec<Arc<Entry>>> {
    let Some(meta) = codec::list_meta_protobuf(meta).filter(|_| codec::has_protobuf(api_version, kind)) else {
        return Err(entries);
    };
    let items: usize =
        entries.iter().map(|e| codec::list_item_len(codec::protobuf_message(&codec::entry_protobuf(e)).len())).sum();
    let head = codec::protobuf_list_head(api_version, &format!("{kind}List"), &meta, items);
    let total = head.len() + items + codec::PROTOBUF_TAIL.len();
    let media = Format::Protobuf.media_type();
    Ok(respond_with(wanted, Form::Protobuf, media, total, head, codec::PROTOBUF_TAIL, entries))
}

fn respond_with(
    wanted: &Wanted,
    form: Form,
    media_type: &'static str,
    total: usize,
    head: BytesMut,
    tail: &'static [u8],
    entries: Vec<Arc<Entry>>,
) -> Response<Body> {
    let compress = wanted.gzip && total > respond::GZIP_FROM;
    let gzip = compress.then(|| GzEncoder::new(Vec::with_capacity(CHUNK), Compression::fast()));
    let mut chunks =
        Chunks { form, head: Some(head), entries: entries.into_iter(), tail, gzip, first: true, done: false };
    if total <= CHUNK {
        let bytes = chunks.next().unwrap_or_default();
        return respond::bytes_response(wanted, 200, media_type, bytes);
    }
    let body = stream::unfold(chunks, |mut chunks| async move {
        let chunk = chunks.next()?;
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), chunks))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(total));
    }
    response
}
