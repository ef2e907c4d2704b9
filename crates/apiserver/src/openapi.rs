//! OpenAPI v3: an index of documents by group and version, each made on first use from the schema table and the
//! resources served, and kept for as long as these stay. Upstream: `kube-openapi/pkg/handler3`.
//!
//! The address of a document carries its hash; asked for with it, the answer may be kept for ever.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::request::Parts;
use http::{Response, StatusCode};
use orkd_api::kind::ResourceInfo;
use orkd_api::schema::openapi;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Body;
use crate::discovery;
use crate::negotiation::Wanted;
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::resources::Resources;
use crate::respond;

/// The documents of one set of resources.
#[derive(Default)]
pub struct Documents {
    made: Mutex<BTreeMap<String, LazyDocument>>,
}

type LazyDocument = Arc<LazyLock<Document, Box<dyn FnOnce() -> Document + Send>>>;

struct Document {
    bytes: Bytes,
    hash: String,
}

/// `api/v1`, `apis/apps/v1`.
fn address(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

impl Documents {
    /// The document at an address; `None` where nothing is served.
    fn get(&self, resources: &Resources, address: &str) -> Option<LazyDocument> {
        if let Some(made) = self.made.lock().get(address) {
            return Some(made.clone());
        }
        let (group, version) = match address.split('/').collect::<Vec<_>>().as_slice() {
            ["api", version] => (String::new(), (*version).to_owned()),
            ["apis", group, version] => ((*group).to_owned(), (*version).to_owned()),
            _ => return None,
        };
        let infos: Vec<ResourceInfo> =
            resources.iter().map(|r| r.info()).filter(|i| i.group == group && i.version == version).cloned().collect();
        if infos.is_empty() {
            return None;
        }
        let make = move || {
            let infos: Vec<&ResourceInfo> = infos.iter().collect();
            let value = openapi::document(&group, &version, &infos, &|_| None);
            let bytes: Bytes = serde_json::to_vec(&value).unwrap_or_default().into();
            let hash = hex::encode_upper(Sha256::digest(&bytes));
            Document { bytes, hash }
        };
        let document: LazyDocument = Arc::new(LazyLock::new(Box::new(make)));
        self.made.lock().insert(address.to_owned(), document.clone());
        Some(document)
    }
}

/// Answers below `/openapi/v3`.
pub fn serve(
    server: &ApiServer,
    parts: &Parts,
    wanted: &Wanted,
    segments: &[&str],
    query: &Query,
) -> Option<Response<Body>> {
    let resources = server.resources();
    if segments.is_empty() {
        let mut paths = serde_json::Map::new();
        for (group, versions) in discovery::groups(&resources) {
            for version in versions {
                let address = address(&group, &version);
                // The hash of what the document is made of, so that the index needs no document to be made.
                let hash = fingerprint(&resources, &group, &version);
                let url = format!("/openapi/v3/{address}?hash={hash}");
                paths.insert(address, json!({"serverRelativeURL": url}));
            }
        }
        return Some(respond::object(wanted, 200, &json!({"paths": Value::Object(paths)})));
    }
    let address = segments.join("/");
    let document = server.documents().get(&resources, &address)?;
    let (group, version) = match segments {
        ["api", version] => ("", *version),
        ["apis", group, version] => (*group, *version),
        _ => return None,
    };
    let asked = query.text("hash");
    let fingerprint = fingerprint(&resources, group, version);
    if !asked.is_empty() && asked != fingerprint {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(url) = HeaderValue::from_str(&format!("/openapi/v3/{address}?hash={fingerprint}")) {
            response.headers_mut().insert(LOCATION, url);
        }
        return Some(response);
    }
    let tag = format!("\"{}\"", document.hash);
    let known = parts.headers.get(IF_NONE_MATCH).is_some_and(|v| v.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes_response(wanted, 200, "application/json", document.bytes.clone())
    };
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    if !asked.is_empty() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(EXPIRES, HeaderValue::from_static("Fri, 31 Dec 2055 23:59:59 GMT"));
    }
    Some(response)
}

/// A hash of everything a document is made of: this program's tables and the facts of the resources.
fn fingerprint(resources: &Resources, group: &str, version: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    for info in resources.iter().map(|r| r.info()).filter(|i| i.group == group && i.version == version) {
        hash.update(format!("{info:?}"));
    }
    hex::encode_upper(hash.finalize())
}
