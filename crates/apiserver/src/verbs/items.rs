//! Lists as they stand in the cache, in JSON or protobuf, whole, as metadata or as tables: nothing is decoded, and the pieces are put together as
//! fast as the client takes them, so that a list costs one chunk of memory, compressed or not.

use std::io::Write;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};

use crate::Body;
use crate::cache::Entry;
use crate::codec;
use crate::negotiation::{Format, Wanted};
use crate::resources::Resource;
use crate::respond;
use crate::verbs::table::{self, Include};

/// Bytes written at a time.
const CHUNK: usize = 64 * 1024;

/// How the items of a list are written.
pub enum Form {
    /// As objects.
    Json,
    /// As objects, in protobuf.
    Protobuf,
    /// As metadata of a version.
    Metadata(&'static str),
    /// As rows of a table.
    Table(Rows),
}

/// What the rows of a table are made by.
pub struct Rows {
    /// The resource.
    pub resource: Arc<Resource>,
    /// The version of the table.
    pub version: &'static str,
    /// What stands beside the cells.
    pub include: Include,
    /// As of when ages are told.
    pub now: jiff::Timestamp,
}

impl Form {
    fn put(&self, out: &mut BytesMut, first: bool, entry: &Entry) {
        if !first && !matches!(self, Form::Protobuf) {
            out.put_u8(b',');
        }
        match self {
            Form::Json => {
                out.put_u8(b'{');
                out.put_slice(entry.list_item());
            }
            Form::Protobuf => {
                let envelope = codec::entry_protobuf(entry);
                codec::put_list_item(out, codec::protobuf_message(&envelope));
            }
            Form::Metadata(version) => table::metadata(out, version, entry),
            Form::Table(rows) => table::row(out, &rows.resource, rows.version, rows.include, entry, rows.now),
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
pub fn json(wanted: &Wanted, form: Form, head: BytesMut, entries: Vec<Arc<Entry>>) -> Response<Body> {
    respond_with(wanted, form, Format::Json.media_type(), head, b"]}\n", entries)
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
    let media = Format::Protobuf.media_type();
    Ok(respond_with(wanted, Form::Protobuf, media, head, codec::PROTOBUF_TAIL, entries))
}

fn respond_with(
    wanted: &Wanted,
    form: Form,
    media_type: &'static str,
    head: BytesMut,
    tail: &'static [u8],
    entries: Vec<Arc<Entry>>,
) -> Response<Body> {
    let mut chunks =
        Chunks { form, head: Some(head), entries: entries.into_iter(), tail, gzip: None, first: true, done: false };
    // As much as decides whether it is long; a short list is sent as one piece.
    let mut begin = BytesMut::new();
    while begin.len() <= respond::GZIP_FROM {
        match chunks.plain() {
            Some(chunk) if begin.is_empty() => begin = chunk,
            Some(chunk) => begin.extend_from_slice(&chunk),
            None => return respond::bytes_response(wanted, 200, media_type, begin.freeze()),
        }
    }
    let mut begin = begin.freeze();
    if wanted.gzip {
        let mut gzip = GzEncoder::new(Vec::with_capacity(CHUNK), Compression::fast());
        let _ = gzip.write_all(&begin);
        begin = std::mem::take(gzip.get_mut()).into();
        chunks.gzip = Some(gzip);
    }
    let body = stream::unfold((begin, chunks), |(begin, mut chunks)| async move {
        let chunk = if begin.is_empty() { chunks.next()? } else { begin };
        Some((Ok::<Bytes, std::convert::Infallible>(chunk), (Bytes::new(), chunks)))
    });
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if wanted.gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}
