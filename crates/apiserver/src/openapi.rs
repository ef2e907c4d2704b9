//! OpenAPI: version 3 as an index of documents by group and version, version 2 as one document; both in JSON and in
//! protobuf. Upstream: `kube-openapi/pkg/{handler,handler3}`.
//!
//! A document is made on first use from the schema table and the resources served, and kept compressed until one of
//! these changes. The address of a version 3 document carries its hash; asked for with it, the answer may be kept for
//! ever. The hash is of everything the document is made of, so that the index needs no document to be made.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION,
    VARY,
};
use http::request::Parts;
use http::{HeaderMap, Response, StatusCode};
use orkd_api::kind::ResourceInfo;
use orkd_api::schema::openapi::{self, OwnSchema};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Body;
use crate::discovery;
use crate::negotiation::{self, Wanted};
use crate::pipeline::ApiServer;
use crate::query::Query;
use crate::resources::{Resource, Resources};
use crate::respond;

const JSON: &str = "application/json";
const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// What clients ask for; a media type cannot have the sign, which is why the answer is called otherwise.
const V2_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";
const V3_PROTOBUF_OLD: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
/// Addresses of documents that belong to no group.
const OTHERS: [&str; 5] = ["api", "apis", "version", ".well-known/openid-configuration", "openid/v1/jwks"];

/// The documents made so far, by address (`v2` for that of version 2), with `.pb` where they are protobuf.
#[derive(Default)]
pub struct Documents {
    made: Mutex<BTreeMap<String, (String, LazyDocument)>>,
}

type Make = Box<dyn FnOnce() -> Bytes + Send>;
/// The compressed document.
type LazyDocument = Arc<LazyLock<Bytes, Make>>;

impl Documents {
    /// The document at an address, made anew where what it is made of has changed.
    fn get(&self, address: &str, hash: &str, make: impl FnOnce() -> Make) -> LazyDocument {
        let mut made = self.made.lock();
        if let Some((of, document)) = made.get(address)
            && of == hash
        {
            return document.clone();
        }
        let document: LazyDocument = Arc::new(LazyLock::new(make()));
        made.insert(address.to_owned(), (hash.to_owned(), document.clone()));
        document
    }
}

impl Documents {
    /// Forgets the documents of groups and versions that are not served any more.
    pub(crate) fn forget_others(&self, resources: &Resources) {
        let served: BTreeSet<String> = discovery::groups(resources)
            .into_iter()
            .flat_map(|(group, versions)| {
                let own = format!("apis/{group}");
                versions.into_iter().map(move |version| address(&group, &version)).chain([own])
            })
            .collect();
        self.made.lock().retain(|at, _| !at.starts_with("apis/") || served.contains(at.trim_end_matches(".pb")));
    }
}

fn compressed(write: impl FnOnce(&mut GzEncoder<Vec<u8>>)) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    write(&mut encoder);
    let mut bytes = encoder.finish().unwrap_or_default();
    bytes.shrink_to_fit();
    bytes.into()
}

/// `api/v1`, `apis/apps/v1`.
fn address(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The resources of a group and version, with the schemas of those that are not built in.
fn of_version(resources: &Resources, group: &str, version: &str) -> Owned {
    let own = |r: &Resource| Some(OwnSchema { schema: r.kind.openapi_schema()?, list_kind: r.list_kind() });
    resources
        .iter()
        .filter(|r| r.info().group == group && r.info().version == version)
        .map(|r| (r.info().clone(), own(r)))
        .collect()
}

type Owned = Vec<(ResourceInfo, Option<OwnSchema>)>;

fn schema_of<'a>(all: &'a [&'a Owned]) -> impl Fn(&ResourceInfo) -> Option<OwnSchema> + 'a {
    |info| {
        let same = |i: &ResourceInfo| i.group == info.group && i.version == info.version && i.plural == info.plural;
        all.iter().copied().flatten().find(|(i, _)| same(i)).and_then(|(_, schema)| schema.clone())
    }
}

/// A hash of everything a document is made of: this program's tables and the facts of the resources.
fn fingerprint<'r>(resources: impl Iterator<Item = &'r Arc<crate::resources::Resource>>) -> String {
    let mut hash = Sha256::new();
    hash.update(openapi::revision().to_le_bytes());
    for resource in resources {
        hash.update(resource.fingerprint.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(format!("{:?}", resource.info()));
            hash.update(resource.definition());
            hash.finalize().into()
        }));
    }
    hex::encode_upper(hash.finalize())
}

fn fingerprint_of(resources: &Resources, group: &str, version: &str) -> String {
    fingerprint(resources.iter().filter(|r| r.info().group == group && r.info().version == version))
}

/// Answers below `/openapi/v3`.
pub fn v3(server: &ApiServer, parts: &Parts, segments: &[&str], query: &Query) -> Option<Response<Body>> {
    let resources = server.resources();
    let wanted = negotiation::negotiate(&parts.headers, query, negotiation::Offer::Plain).unwrap_or_default();
    if segments.is_empty() {
        let mut paths = serde_json::Map::new();
        let mut add = |address: String, hash: String| {
            let url = format!("/openapi/v3/{address}?hash={hash}");
            paths.insert(address, json!({"serverRelativeURL": url}));
        };
        let of_nothing = fingerprint(std::iter::empty());
        for address in OTHERS {
            add(address.to_owned(), of_nothing.clone());
        }
        for (group, versions) in discovery::groups(&resources) {
            if !group.is_empty() {
                add(format!("apis/{group}"), of_nothing.clone());
            }
            for version in versions {
                add(address(&group, &version), fingerprint_of(&resources, &group, &version));
            }
        }
        return Some(respond::object(&wanted, 200, &json!({"paths": Value::Object(paths)})));
    }
    let address = segments.join("/");
    let accepted = negotiation::first_accepted(&parts.headers, &[JSON, V3_PROTOBUF_OLD, V3_PROTOBUF]);
    let protobuf = accepted.is_some_and(|which| which > 0);
    let (hash, make): (String, Box<dyn FnOnce() -> Make>) = match segments {
        ["api", version] => of_group(&resources, "", version, protobuf)?,
        ["apis", group, version] => of_group(&resources, group, version, protobuf)?,
        _ => {
            let known = match segments {
                ["apis", group] => resources.iter().any(|r| r.info().group == *group),
                _ => OTHERS.contains(&address.as_str()),
            };
            if !known {
                return None;
            }
            let of = address.clone();
            let make = move || -> Make {
                Box::new(move || written(&openapi::other_document(&of).unwrap_or_default(), protobuf))
            };
            (fingerprint(std::iter::empty()), Box::new(make))
        }
    };
    if accepted.is_none() {
        return Some(not_acceptable());
    }
    let asked = query.text("hash");
    if !asked.is_empty() && asked != hash {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
        if let Ok(url) = HeaderValue::from_str(&format!("/openapi/v3/{address}?hash={hash}")) {
            response.headers_mut().insert(LOCATION, url);
        }
        return Some(response);
    }
    let (kept, media) = if protobuf { (format!("{address}.pb"), V3_PROTOBUF) } else { (address, JSON) };
    let document = server.documents().get(&kept, &hash, make);
    let mut response = answer(&parts.headers, &wanted, media, &hash, &document);
    if !asked.is_empty() {
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
        headers.insert(EXPIRES, HeaderValue::from_static("Fri, 31 Dec 2055 23:59:59 GMT"));
    }
    Some(response)
}

type Making = (String, Box<dyn FnOnce() -> Make>);

/// A document of version 3, encoded.
fn written(document: &Value, protobuf: bool) -> Bytes {
    compressed(|out| {
        drop(match protobuf {
            true => out.write_all(&openapi::protobuf(document)),
            false => serde_json::to_writer(out, document).map_err(std::io::Error::from),
        });
    })
}

fn of_group(resources: &Resources, group: &str, version: &str, protobuf: bool) -> Option<Making> {
    let owned = of_version(resources, group, version);
    if owned.is_empty() {
        return None;
    }
    let (group, version) = (group.to_owned(), version.to_owned());
    let hash = fingerprint_of(resources, &group, &version);
    let make = move || -> Make {
        Box::new(move || {
            let infos: Vec<&ResourceInfo> = owned.iter().map(|(info, _)| info).collect();
            written(&openapi::document(&group, &version, &infos, &schema_of(&[&owned])), protobuf)
        })
    };
    Some((hash, Box::new(make)))
}

/// Answers `/openapi/v2`.
pub fn v2(server: &ApiServer, parts: &Parts) -> Response<Body> {
    let resources = server.resources();
    let (media, protobuf) = match negotiation::first_accepted(&parts.headers, &[JSON, V2_PROTOBUF_OLD, V2_PROTOBUF]) {
        Some(0) => (JSON, false),
        Some(_) => (V2_PROTOBUF, true),
        None => return not_acceptable(),
    };
    let hash = fingerprint(resources.iter());
    let make = || -> Make {
        let groups: Vec<(String, String, Owned)> = discovery::groups(&resources)
            .into_iter()
            .flat_map(|(group, versions)| versions.into_iter().map(move |version| (group.clone(), version)))
            .map(|(group, version)| {
                let owned = of_version(&resources, &group, &version);
                (group, version, owned)
            })
            .collect();
        Box::new(move || {
            let owned: Vec<&Owned> = groups.iter().map(|(_, _, owned)| owned).collect();
            let schema_of = schema_of(&owned);
            let infos = |owned: &'_ Owned| owned.iter().map(|(info, _)| info.clone()).collect::<Vec<_>>();
            let all: Vec<Vec<ResourceInfo>> = groups.iter().map(|(_, _, owned)| infos(owned)).collect();
            let source = openapi::v2::Source {
                groups: groups
                    .iter()
                    .zip(&all)
                    .map(|((group, version, _), infos)| (group.clone(), version.clone(), infos.iter().collect()))
                    .collect(),
                schema_of: &schema_of,
            };
            compressed(|out| {
                drop(match protobuf {
                    true => out.write_all(&openapi::v2::protobuf(&source)),
                    false => openapi::v2::json(&source, out),
                });
            })
        })
    };
    let document = server.documents().get(if protobuf { "v2.pb" } else { "v2" }, &hash, make);
    let wanted = Wanted { gzip: negotiation::accepts_gzip(&parts.headers), ..Wanted::default() };
    answer(&parts.headers, &wanted, media, &hash, &document)
}

fn not_acceptable() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_ACCEPTABLE;
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// Answers with a document, or that the client has it already. Clients that do not take it compressed get it plain.
fn answer(
    headers: &HeaderMap,
    wanted: &Wanted,
    media: &'static str,
    hash: &str,
    document: &LazyDocument,
) -> Response<Body> {
    let tag = format!("\"{hash}\"");
    let known = headers
        .get(IF_NONE_MATCH)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|asked| asked.split(',').map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*"));
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(VARY, HeaderValue::from_static("Accept, Accept-Encoding"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    let packed: &Bytes = document;
    let bytes = if wanted.gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        packed.clone()
    } else {
        let mut plain = Vec::new();
        if GzDecoder::new(&packed[..]).read_to_end(&mut plain).is_err() {
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        }
        plain.into()
    };
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes.len()));
    *response.body_mut() = Body::from(bytes);
    response
}
