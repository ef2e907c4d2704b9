//! Tables and metadata-only forms (`endpoints/handlers/response.go`, `pkg/printers`).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use orkd_api::field::quote;
use orkd_api::kind::Kind;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::Context;
use crate::Body;
use crate::cache::Entry;
use crate::negotiation::{Format, Shape, Wanted};
use crate::query::Query;
use crate::resources::Resource;
use crate::respond;

/// What stands beside the cells of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Include {
    /// Nothing.
    None,
    /// The metadata.
    Metadata,
    /// The whole object.
    Object,
}

impl Include {
    /// Reads `includeObject`, which counts for tables only.
    pub fn parse(shape: Shape, query: &Query) -> Result<Include, Status> {
        match query.text("includeObject") {
            _ if !matches!(shape, Shape::Table(_)) => Ok(Include::Metadata),
            "" | "Metadata" => Ok(Include::Metadata),
            "None" => Ok(Include::None),
            "Object" => Ok(Include::Object),
            other => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', \
                 'None', or empty",
                quote(other)
            ))),
        }
    }
}

/// `columnDefinitions`, encoded.
fn columns(resource: &Resource) -> Vec<u8> {
    let mut out = b"\"columnDefinitions\":[".to_vec();
    for (i, c) in resource.info().columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let text = |s: &str| Value::from(s).to_string();
        out.extend_from_slice(
            format!(
                "{{\"name\":{},\"type\":{},\"format\":{},\"description\":{},\"priority\":{}}}",
                text(&c.name),
                text(&c.ty),
                text(&c.format),
                text(&c.description),
                c.priority
            )
            .as_bytes(),
        );
    }
    out.push(b']');
    out
}

/// Puts the rows of a table in the order its kind wants, if it wants any.
pub fn sort(kind: &dyn Kind, entries: &mut [Arc<Entry>]) {
    // The kind says of the first whether it cares.
    if entries.first().is_some_and(|entry| kind.row_rank(&entry.decode()).is_some()) {
        entries.sort_by_cached_key(|entry| kind.row_rank(&entry.decode()));
    }
}

/// Writes the start of a table up to the opening bracket of its rows. `meta` is the encoded list metadata.
pub fn head(resource: &Resource, version: &str, meta: &str, with_columns: bool) -> BytesMut {
    let mut out = BytesMut::new();
    out.put_slice(b"{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/");
    out.put_slice(version.as_bytes());
    out.put_slice(b"\",\"metadata\":");
    out.put_slice(meta.as_bytes());
    out.put_slice(b",");
    if with_columns {
        out.put_slice(&columns(resource));
    } else {
        out.put_slice(b"\"columnDefinitions\":null");
    }
    out.put_slice(b",\"rows\":[");
    out
}

/// Writes one row.
pub fn row(
    out: &mut BytesMut,
    resource: &Resource,
    version: &str,
    include: Include,
    entry: &Entry,
    now: jiff::Timestamp,
) {
    out.put_slice(b"{\"cells\":");
    entry.write_cells(&*resource.kind, now, out);
    let conditions = entry.row_conditions(&*resource.kind);
    if !conditions.is_empty() {
        out.put_slice(b",\"conditions\":");
        out.put_slice(conditions);
    }
    match include {
        Include::None => {}
        Include::Metadata => {
            out.put_slice(b",\"object\":");
            metadata(out, version, entry);
        }
        Include::Object => {
            out.put_slice(b",\"object\":");
            out.put_slice(entry.json());
        }
    }
    out.put_slice(b"}");
}

/// Writes an object as metadata only.
pub fn metadata(out: &mut BytesMut, version: &str, entry: &Entry) {
    out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
    out.put_slice(version.as_bytes());
    out.put_slice(b"\",\"metadata\":");
    out.put_slice(entry.metadata());
    out.put_slice(b"}");
}

/// One object in a shape, encoded as JSON; for GET, for the answers of writes and for watch events.
pub fn one_json(resource: &Resource, shape: Shape, include: Include, entry: &Entry, with_columns: bool) -> Bytes {
    match shape {
        Shape::Object => entry.json().clone(),
        Shape::Metadata(version) => {
            let mut out = BytesMut::new();
            metadata(&mut out, version, entry);
            out.freeze()
        }
        Shape::Table(version) => {
            let meta = json!({"resourceVersion": entry.revision.to_string()}).to_string();
            let mut out = head(resource, version, &meta, with_columns);
            row(&mut out, resource, version, include, entry, jiff::Timestamp::now());
            out.put_slice(b"]}");
            out.freeze()
        }
    }
}

/// Answers with one object in a shape.
pub fn one(cx: &Context<'_>, wanted: &Wanted, shape: Shape, entry: &Entry) -> Response<Body> {
    let include = match Include::parse(shape, cx.query) {
        Ok(include) => include,
        Err(status) => return respond::failure(wanted, &status),
    };
    let bytes = one_json(&cx.resource, shape, include, entry, true);
    match wanted.format {
        Format::Json => respond::json(wanted, 200, bytes),
        _ => respond::object(wanted, 200, &serde_json::from_slice(&bytes).unwrap_or_default()),
    }
}
