//! Content negotiation: which encoding and shape a client wants (`Accept`), and which encoding a body has
//! (`Content-Type`). Upstream: `endpoints/handlers/negotiation`.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use http::request::Parts;
use orkd_api::kind::{Kind, ResourceInfo};
use orkd_api::status::{Details, Status};
use serde_json::Value;

use crate::query::Query;
use crate::registry::options::FieldValidation;
use crate::rest::Call;
use crate::route::RequestInfo;

/// An encoding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `application/json`
    #[default]
    Json,
    /// `application/yaml`
    Yaml,
    /// `application/vnd.kubernetes.protobuf`
    Protobuf,
}

impl Format {
    /// The media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Yaml => "application/yaml",
            Format::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// A shape that a client may want instead of the object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shape {
    /// The object or list itself.
    #[default]
    Object,
    /// A table, of API version `meta.k8s.io/v1` or `v1beta1`.
    Table(&'static str),
    /// Metadata only.
    Metadata(&'static str),
}

/// What is to be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Encoding.
    pub format: Format,
    /// Shape.
    pub shape: Shape,
    /// Whether metadata are asked for as a list.
    pub list: bool,
    /// With line breaks and indentation (JSON).
    pub pretty: bool,
    /// Whether the answer may be compressed.
    pub gzip: bool,
}

/// What an answer can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// An object or a list; tables and metadata can be made of it.
    Objects,
    /// The same of a custom resource, whose objects have no protobuf form; metadata have.
    CustomObjects,
    /// A stream of watch events.
    Watch,
    /// The same of a custom resource.
    CustomWatch,
    /// One object that has no other shape (Status, reviews).
    Plain,
}

impl Offer {
    /// What the objects of a kind can be answered as.
    pub fn of(kind: &dyn Kind) -> Offer {
        if kind.custom().is_some() { Offer::CustomObjects } else { Offer::Objects }
    }

    /// What a watch of a kind can be answered as.
    pub fn of_watch(kind: &dyn Kind) -> Offer {
        if kind.custom().is_some() { Offer::CustomWatch } else { Offer::Watch }
    }

    fn is_custom(self) -> bool {
        matches!(self, Offer::CustomObjects | Offer::CustomWatch)
    }

    fn is_watch(self) -> bool {
        matches!(self, Offer::Watch | Offer::CustomWatch)
    }
}

/// One clause of an `Accept` header.
#[derive(Debug)]
struct Clause<'h> {
    ty: &'h str,
    subtype: &'h str,
    quality: f32,
    params: Vec<(&'h str, &'h str)>,
}

impl<'h> Clause<'h> {
    fn fits(&self, media: &str) -> bool {
        let (ty, subtype) = media.split_once('/').unwrap_or_default();
        (self.ty == "*" && self.subtype == "*") || (self.ty == ty && (self.subtype == "*" || self.subtype == subtype))
    }

    fn param(&self, name: &str) -> &'h str {
        self.params.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map_or("", |(_, v)| v)
    }
}

fn clauses(header: &str) -> Vec<Clause<'_>> {
    let mut all: Vec<Clause<'_>> = header
        .split(',')
        .filter_map(|text| {
            let mut pieces = text.split(';').map(str::trim);
            let (ty, subtype) = match pieces.next()?.split_once('/') {
                Some((ty, subtype)) => (ty.trim(), subtype.trim()),
                None => return None,
            };
            let params: Vec<(&str, &str)> =
                pieces.filter_map(|p| p.split_once('=')).map(|(k, v)| (k.trim(), v.trim().trim_matches('"'))).collect();
            let quality = params.iter().find(|(k, _)| *k == "q").map_or(Some(1.0), |(_, v)| v.parse().ok())?;
            Some(Clause { ty, subtype, quality, params })
        })
        .collect();
    // Higher quality first, then the more specific; otherwise in the client's order.
    all.sort_by(|a, b| {
        let specific = |c: &Clause<'_>| u8::from(c.ty != "*") + u8::from(c.subtype != "*");
        b.quality.total_cmp(&a.quality).then(specific(b).cmp(&specific(a)))
    });
    all
}

fn accept(headers: &HeaderMap) -> String {
    let mut header = String::new();
    for value in headers.get_all(ACCEPT) {
        if !header.is_empty() {
            header.push(',');
        }
        header.push_str(value.to_str().unwrap_or_default());
    }
    header
}

/// The encoding and shape to answer with; 406 where there is none.
pub fn negotiate(headers: &HeaderMap, query: &Query, offer: Offer) -> Result<Wanted, Status> {
    let header = accept(headers);
    let base = Wanted { pretty: pretty(headers, query), gzip: accepts_gzip(headers), ..Wanted::default() };
    if header.trim().is_empty() {
        return Ok(base);
    }
    for clause in clauses(&header) {
        if clause.quality <= 0.0 {
            continue;
        }
        for format in [Format::Json, Format::Yaml, Format::Protobuf] {
            if !clause.fits(format.media_type()) {
                continue;
            }
            let Some((shape, list)) = shape(&clause, offer, format) else { continue };
            if offer.is_custom() && format == Format::Protobuf && shape == Shape::Object {
                continue;
            }
            // What fits first is taken, whether it can be streamed or not.
            if offer.is_watch() && !offered(offer).contains(&format) {
                return Err(not_acceptable(offer));
            }
            let pretty = base.pretty || clause.param("pretty") == "1";
            return Ok(Wanted { format, shape, list, pretty, ..base });
        }
    }
    Err(not_acceptable(offer))
}

/// The media types of objects.
const OBJECTS: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];
/// Those of streams of them.
const STREAMS: [&str; 2] = ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// What a route of a built-in kind is declared to produce, as upstream installs it (`endpoints/installer.go`).
pub fn produced(info: &RequestInfo) -> Vec<&'static str> {
    let text = (info.resource == "pods" && info.subresource == "log").then_some("text/plain");
    let streams = matches!(info.verb.as_str(), "list" | "watch").then_some(STREAMS).into_iter().flatten();
    text.into_iter().chain(OBJECTS).chain(streams).collect()
}

/// Those of documents of discovery.
pub const DOCUMENTS: [&str; 3] = OBJECTS;

/// Refuses what upstream's router refuses before any handler is asked: an `Accept` that names none of the types a route
/// is declared to produce, letter by letter. Ranges other than `*/*` are unknown to it (go-restful's
/// `Route.matchesAccept`).
pub fn check_route(headers: &HeaderMap, produces: &[&str]) -> Result<(), Status> {
    let header = accept(headers);
    let names = |clause: &str| {
        let media = clause.split(';').next().unwrap_or_default().trim_matches(' ');
        media == "*/*" || produces.contains(&media)
    };
    if header.is_empty() || header.split(',').any(names) {
        return Ok(());
    }
    let text = format!("406: Not Acceptable\n\nAvailable representations: {}", produces.join(", "));
    Err(Status { details: Some(Details::default()), ..Status::new(406, "NotAcceptable", text) })
}

/// The encoding of aggregated discovery, for clients that ask for it: any clause that names it counts, wherever it stands
/// (`endpoints/discovery/aggregated/negotiation.go`).
pub fn aggregated_discovery(headers: &HeaderMap, query: &Query) -> Option<Wanted> {
    const NAMED: [(&str, &str); 3] = [("g", "apidiscovery.k8s.io"), ("v", "v2"), ("as", "APIGroupDiscoveryList")];
    let header = accept(headers);
    let base = Wanted { pretty: pretty(headers, query), gzip: accepts_gzip(headers), ..Wanted::default() };
    clauses(&header).iter().filter(|c| c.quality > 0.0).find_map(|clause| {
        let named = NAMED.iter().all(|(name, value)| clause.param(name) == *value);
        let other = !clause.param("sv").is_empty() || !matches!(clause.param("stream"), "" | "watch");
        let format = [Format::Json, Format::Yaml, Format::Protobuf].into_iter().find(|f| clause.fits(f.media_type()));
        let pretty = base.pretty || clause.param("pretty") == "1";
        format.filter(|_| named && !other).map(|format| Wanted { format, pretty, ..base })
    })
}

/// The place of the first media type that the client takes, by its preference; without a header the first.
pub fn first_accepted(headers: &HeaderMap, media: &[&str]) -> Option<usize> {
    let header = accept(headers);
    if header.trim().is_empty() {
        return Some(0);
    }
    clauses(&header).iter().filter(|c| c.quality > 0.0).find_map(|c| media.iter().position(|m| c.fits(m)))
}

fn offered(offer: Offer) -> &'static [Format] {
    match offer {
        Offer::Watch | Offer::CustomWatch => &[Format::Json, Format::Protobuf],
        _ => &[Format::Json, Format::Yaml, Format::Protobuf],
    }
}

/// The shape a clause asks for, and whether it names the list of it; `None` where it cannot be had.
fn shape(clause: &Clause<'_>, offer: Offer, format: Format) -> Option<(Shape, bool)> {
    let (kind, group, version) = (clause.param("as"), clause.param("g"), clause.param("v"));
    match clause.param("stream") {
        "" => {}
        "watch" if format != Format::Yaml => {}
        _ => return None,
    }
    if !matches!(clause.param("sv"), "" | "v1") {
        return None;
    }
    if kind.is_empty() && group.is_empty() && version.is_empty() {
        return Some((Shape::Object, false));
    }
    let version = match version {
        "v1" => "v1",
        "v1beta1" => "v1beta1",
        _ => return None,
    };
    if group != "meta.k8s.io" || offer == Offer::Plain {
        return None;
    }
    match kind {
        "Table" if format != Format::Protobuf => Some((Shape::Table(version), false)),
        "PartialObjectMetadata" => Some((Shape::Metadata(version), false)),
        "PartialObjectMetadataList" => Some((Shape::Metadata(version), true)),
        _ => None,
    }
}

impl Wanted {
    /// For an answer to a client that accepts nothing we have: JSON for people.
    pub fn fallback() -> Wanted {
        Wanted { pretty: true, ..Wanted::default() }
    }

    /// 406 where metadata of a list are asked for of one object, or the other way round.
    pub fn check_list(&self, info: &ResourceInfo, is_list: bool) -> Result<(), Status> {
        if !matches!(self.shape, Shape::Metadata(_)) || self.list == is_list {
            return Ok(());
        }
        // The name that upstream's type has in Go.
        let package = match info.group.split('.').next().unwrap_or_default() {
            "" | "events" => "core",
            first => first,
        };
        let kind = &info.kind;
        Err(Status::new(
            406,
            "NotAcceptable",
            match is_list {
                true => format!(
                    "you requested PartialObjectMetadata, but the requested object is a list (*{package}.{kind}List)"
                ),
                false => format!(
                    "you requested PartialObjectMetadataList, but the requested object is not a list (*{package}.{kind})"
                ),
            },
        ))
    }
}

fn not_acceptable(offer: Offer) -> Status {
    let types: Vec<String> = offered(offer)
        .iter()
        .map(|f| match offer {
            Offer::Watch | Offer::CustomWatch => format!("{};stream=watch", f.media_type()),
            _ => f.media_type().to_owned(),
        })
        .collect();
    Status::new(406, "NotAcceptable", format!("only the following media types are accepted: {}", types.join(", ")))
}

fn pretty(headers: &HeaderMap, query: &Query) -> bool {
    match query.text("pretty") {
        value if !value.is_empty() => matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True"),
        _ => headers
            .get(USER_AGENT)
            .and_then(|v| v.to_str().ok())
            .is_some_and(|ua| ["curl", "Wget", "Mozilla/5.0"].iter().any(|p| ua.starts_with(p))),
    }
}

/// Whether an answer may be compressed.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT_ENCODING)
        .and_then(|v| v.to_str().ok())
        .is_some_and(|v| v.split(',').any(|e| e.trim().split(';').next() == Some("gzip")))
}

/// The encoding of a body; 415 for one that is not known. Without a header it is JSON.
pub fn body_format(headers: &HeaderMap) -> Result<Format, Status> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Format::Json) };
    let media = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match media.as_str() {
        "" | "application/json" => Ok(Format::Json),
        "application/yaml" => Ok(Format::Yaml),
        "application/vnd.kubernetes.protobuf" => Ok(Format::Protobuf),
        _ => Err(Status::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json, \
             application/yaml, application/vnd.kubernetes.protobuf",
        )),
    }
}

/// Decodes the body of a call into the kind of its door.
pub fn decode_body(call: &Call, parts: &Parts, bytes: &Bytes) -> Result<Value, Status> {
    let info = call.kind.info();
    let sub = info.subresources.iter().find(|s| s.name == call.info.subresource);
    let (group, version, kind) = match sub {
        Some(s) => (s.group.as_ref().unwrap_or(&info.group), s.version.as_ref().unwrap_or(&info.version), &s.kind),
        None => (&info.group, &info.version, &info.kind),
    };
    let format = body_format(&parts.headers)?;
    let strict = match call.query.text("fieldValidation") {
        "Strict" => FieldValidation::Strict,
        "Ignore" => FieldValidation::Ignore,
        _ => FieldValidation::Warn,
    };
    crate::codec::decode(format, bytes, crate::codec::Door::built_in(group, version, kind), strict, &call.warnings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept: &str, offer: Offer, expected: &str) {
        let mut headers = HeaderMap::new();
        if let Ok(value) = accept.parse() {
            headers.insert(ACCEPT, value);
        }
        let text = match negotiate(&headers, &Query::default(), offer) {
            Ok(w) => format!("{:?} {:?}", w.format, w.shape),
            Err(s) => s.code.to_string(),
        };
        assert_eq!(text, expected, "{accept}");
    }

    #[test]
    fn accept_is_read_as_upstream_does() {
        use Offer::{CustomObjects, CustomWatch, Objects, Plain, Watch};
        let protobuf = "application/vnd.kubernetes.protobuf";
        check(protobuf, CustomObjects, "406");
        check(&format!("{protobuf},application/json"), CustomObjects, "Json Object");
        check(&format!("{protobuf},application/json"), CustomWatch, "Json Object");
        let metadata = format!("{protobuf};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
        check(&metadata, CustomObjects, "Protobuf Metadata(\"v1\")");
        check("*/*", Objects, "Json Object");
        check("application/yaml", Objects, "Yaml Object");
        check("application/vnd.kubernetes.protobuf,application/json", Objects, "Protobuf Object");
        check("application/yaml;q=0.5,application/json;q=0.4", Objects, "Yaml Object");
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Objects, "Json Table(\"v1\")");
        check("application/json;as=Table;v=v1;g=meta.k8s.io,application/json", Plain, "Json Object");
        check("application/json;as=Table;v=v9;g=meta.k8s.io", Objects, "406");
        check("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Objects, "Json Metadata(\"v1\")");
        check(
            "application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io,application/json",
            Objects,
            "Json Object",
        );
        check("application/yaml", Watch, "406");
        check("application/yaml,application/json", Watch, "406");
        check("application/json;stream=watch", Watch, "Json Object");
        check("application/json;stream=other", Objects, "406");
        check("application/yaml;stream=watch,application/json", Objects, "Json Object");
        check("application/json;g=meta.k8s.io;v=v1", Objects, "406");
        check("application/json;sv=v2", Objects, "406");
        check("application/json;charset=utf-8", Objects, "Json Object");
        check("application/json;q=0,application/yaml", Objects, "Yaml Object");
        check("*/*;q=0.1,application/yaml;q=0.2", Objects, "Yaml Object");
        check("application/*", Objects, "Json Object");
        check("application/vnd.kubernetes.protobuf;as=Table;v=v1;g=meta.k8s.io", Objects, "406");
        check("application/cbor", Objects, "406");
        check("text/html", Objects, "406");
    }

    fn accepting(accept: &str) -> HeaderMap {
        HeaderMap::from_iter([(ACCEPT, accept.parse().expect("a header"))])
    }

    #[test]
    fn routes_are_chosen_by_the_letter() {
        let check = |accept: &str, produces: &[&str], expected: bool| {
            assert_eq!(check_route(&accepting(accept), produces).is_ok(), expected, "{accept}");
        };
        let pods = |verb: &str, subresource: &str| {
            produced(&RequestInfo {
                verb: verb.into(),
                resource: "pods".into(),
                subresource: subresource.into(),
                ..RequestInfo::default()
            })
        };
        check("application/json;as=Table;g=meta.k8s.io;v=v1", &DOCUMENTS, true);
        check("text/html, application/yaml;q=0.1", &DOCUMENTS, true);
        check("text/html,*/*;q=0.8", &DOCUMENTS, true);
        check("application/*", &DOCUMENTS, false);
        check("text/plain", &pods("get", ""), false);
        check("text/plain", &pods("get", "log"), true);
        let refused = check_route(&accepting("application/cbor"), &pods("list", "")).expect_err("refused");
        let text = "406: Not Acceptable\n\nAvailable representations: application/json, application/yaml, \
                    application/vnd.kubernetes.protobuf, application/json;stream=watch, \
                    application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!((refused.code, &*refused.reason, &*refused.message), (406, "NotAcceptable", text));
        assert!(check_route(&HeaderMap::new(), &DOCUMENTS).is_ok());
    }

    #[test]
    fn aggregated_discovery_is_asked_for_by_name() {
        let check = |accept: &str, expected: Option<Format>| {
            let got = aggregated_discovery(&accepting(accept), &Query::default()).map(|w| w.format);
            assert_eq!(got, expected, "{accept}");
        };
        let named = "g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        check(&format!("application/json;{named},application/json"), Some(Format::Json));
        check(&format!("application/json,application/vnd.kubernetes.protobuf;{named}"), Some(Format::Protobuf));
        check(&format!("application/yaml;{named}"), Some(Format::Yaml));
        check(&format!("*/*;{named}"), Some(Format::Json));
        check("application/json;g=apidiscovery.k8s.io;v=v1;as=APIGroupDiscoveryList", None);
        check("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupList", None);
        check(&format!("text/html;{named}"), None);
        check("application/json", None);
    }
}
