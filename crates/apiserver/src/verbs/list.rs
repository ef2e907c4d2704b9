//! LIST: a snapshot of the cache, written as shared bytes.
//!
//! Semantics of `resourceVersion`, `resourceVersionMatch`, `limit` and `continue` are upstream's
//! (`storage/cacher/delegator.go`, `apis/meta/internalversion/validation`): no version is linearizable, 0 is
//! anything (and ignores the limit), a version is "not older than", or "exact" where asked, or where a limit
//! comes with a version.

use std::ops::Bound;
use std::sync::Arc;

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};
use bytes::{BufMut, BytesMut};
use http::Response;
use orkd_api::field::{ErrorList, Path};
use orkd_api::status::Status;
use orkd_store::{RangeRequest, Revision};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Answer, Context, number, too_large, version};
use crate::Body;
use crate::cache::watch_cache::Map;
use crate::cache::{Entry, WatchCache};
use crate::codec;
use crate::negotiation::{self, Format, Offer, Shape, Wanted};
use crate::query::Query;
use crate::registry::{Target, storage_key, store_error};
use crate::respond;
use crate::selector::{FieldSelector, FieldTerm, Filter, LabelSelector, name_fields};
use crate::verbs::items;
use crate::verbs::table::{self, Include};

/// What a list or watch is narrowed to, checked against the kind.
pub(crate) fn filter(cx: &Context<'_>) -> Result<Filter, Status> {
    let bad = |text: String| Status::new(400, "BadRequest", text);
    let labels = LabelSelector::parse(cx.query.text("labelSelector")).map_err(bad)?;
    let mut fields = FieldSelector::parse(cx.query.text("fieldSelector")).map_err(bad)?;
    name_fields(&mut fields, |label| cx.resource.kind.field_label(label)).map_err(bad)?;
    // The deprecated `/watch/RESOURCE/NAME` has its name in the path.
    if !cx.info.name.is_empty() && fields.exact("metadata.name").is_none() {
        fields.terms.push(FieldTerm { field: "metadata.name".into(), value: cx.info.name.clone(), equal: true });
    }
    Ok(Filter { labels, fields })
}

/// A consistent set of objects.
pub(crate) struct Page {
    /// The objects in the order of their keys.
    pub entries: Vec<Arc<Entry>>,
    /// The revision they were read at.
    pub revision: u64,
    /// Where the next page begins.
    pub next: String,
    /// How many objects follow, where that is known.
    pub remaining: Option<u64>,
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
}

fn encode_token(revision: i64, start: &str) -> String {
    URL_SAFE_NO_PAD.encode(format!("{{\"v\":\"meta.k8s.io/v1\",\"rv\":{revision},\"start\":{}}}", Value::from(start)))
}

/// As Go decodes: padding or not, and stray bits at the end are nothing.
const TOKENS: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads a continue token: the first key of the page, below the prefix listed, and the revision.
fn decode_token(token: &str) -> Result<(String, i64), Status> {
    let bad = |why: String| {
        Status::new(400, "BadRequest", format!("invalid continue token: continue key is not valid: {why}"))
    };
    let raw = TOKENS.decode(token).map_err(|e| {
        let at = match e {
            base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
            _ => token.len(),
        };
        bad(format!("illegal base64 data at input byte {at}"))
    })?;
    let parsed: Token = serde_json::from_slice(&raw).map_err(|_| bad(codec::go_json_error(&raw)))?;
    if parsed.v != "meta.k8s.io/v1" {
        return Err(bad(format!("server does not recognize this encoded version {}", parsed.v)));
    }
    if parsed.rv == 0 {
        return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)".into()));
    }
    if parsed.start.is_empty() {
        return Err(bad("encoded start key empty (version meta.k8s.io/v1)".into()));
    }
    let escapes = parsed.start.split('/').any(|s| s == "." || s == ".." || s.is_empty());
    if escapes {
        return Err(bad(parsed.start));
    }
    Ok((parsed.start, parsed.rv))
}

fn check_options(query: &Query) -> Result<(), Status> {
    let mut errors = ErrorList::new();
    let path = Path::new("resourceVersionMatch");
    let matching = query.text("resourceVersionMatch");
    if !matching.is_empty() {
        if query.text("resourceVersion").is_empty() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        if !query.text("continue").is_empty() {
            errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
        }
        if matching != "Exact" && matching != "NotOlderThan" {
            errors.not_supported(&path, matching, &["Exact", "NotOlderThan", ""]);
        }
        if matching == "Exact" && query.text("resourceVersion") == "0" {
            errors.forbidden(&path, "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
        }
    }
    if query.get("sendInitialEvents").is_some() {
        errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
    }
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("meta.k8s.io", "ListOptions", "", &errors)) }
}

/// A failure, or one that carries a token to go on with.
pub(crate) enum Failed {
    /// A failure.
    Status(Status),
    /// The page's revision is gone; the token continues without it.
    Expired(Value),
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        Failed::Status(status)
    }
}

const TOO_OLD_TOKEN: &str = "The provided continue parameter is too old to display a consistent list result. You can \
                             start a new list without the continue parameter, or use the continue token in this \
                             response to retrieve the remainder of the results. Continuing with the provided token \
                             results in an inconsistent list - objects that were created, modified, or deleted between \
                             the time the first chunk was returned and now may show up in the list.";

/// The same for a first page of an old revision, which has no token to go on with.
const TOO_OLD_PAGE: &str = "The provided continue parameter is too old to display a consistent list result. You can \
                            start a new list without the continue parameter.";

const TOO_OLD: &str = "The resourceVersion for the provided list is too old.";

/// Reads what the query asks for, ready to be served in the version asked for.
pub(crate) async fn read(cx: &Context<'_>, target: &Target<'_>) -> Result<Page, Failed> {
    let page = find(cx, target).await?;
    cx.resource.prepare(&page.entries).await?;
    Ok(page)
}

async fn find(cx: &Context<'_>, target: &Target<'_>) -> Result<Page, Failed> {
    let (query, server) = (cx.query, cx.server);
    let limit = usize::try_from(number(query, "limit")?.unwrap_or(0)).unwrap_or(0);
    let filter = filter(cx)?;
    check_options(query)?;
    let token = query.text("continue");
    let cache = target.cache()?;
    let prefix = if target.namespace.is_empty() { String::new() } else { format!("{}/", target.namespace) };
    if !token.is_empty() {
        let (start, revision) = decode_token(token)?;
        if !matches!(query.text("resourceVersion"), "" | "0") {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue").into());
        }
        if revision > 0 {
            let revision = u64::try_from(revision).unwrap_or(0);
            let Some(map) = at_revision(cx, cache, revision).await? else {
                if limit == 0 {
                    return Err(Status::expired(TOO_OLD).into());
                }
                let mut value = Status::expired(TOO_OLD_TOKEN).to_value();
                value["metadata"]["continue"] = json!(encode_token(-1, &start));
                return Err(Failed::Expired(value));
            };
            return Ok(page(&map, revision, &prefix, &start, limit, cx, &filter).await?);
        }
        super::not_older(server, None).await?;
        let snapshot = cache.snapshot();
        return Ok(page(&snapshot.map, snapshot.revision, &prefix, &start, limit, cx, &filter).await?);
    }
    let asked = version(query.text("resourceVersion"))?;
    let exact = match query.text("resourceVersionMatch") {
        "Exact" => true,
        "" => limit > 0 && asked.is_some_and(|v| v > 0),
        _ => false,
    };
    if let (true, Some(revision)) = (exact, asked) {
        super::not_older(server, Some(revision)).await?;
        let too_old = if limit > 0 { TOO_OLD_PAGE } else { TOO_OLD };
        let map = at_revision(cx, cache, revision).await?.ok_or_else(|| Status::expired(too_old))?;
        return Ok(page(&map, revision, &prefix, "", limit, cx, &filter).await?);
    }
    super::not_older(server, asked).await?;
    let limit = if asked == Some(0) { 0 } else { limit };
    if let Some(name) = filter.fields.exact("metadata.name").filter(|_| target.namespaced() != prefix.is_empty()) {
        // One object at most: no need to walk.
        let snapshot = cache.snapshot();
        let entry = snapshot.map.get(&*format!("{prefix}{name}"));
        cx.resource.prepare(entry).await?;
        let entry = entry.filter(|e| cx.resource.matches(&filter, e)).cloned();
        return Ok(Page {
            entries: entry.into_iter().collect(),
            revision: snapshot.revision,
            next: String::new(),
            remaining: None,
        });
    }
    let snapshot = cache.snapshot();
    Ok(page(&snapshot.map, snapshot.revision, &prefix, "", limit, cx, &filter).await?)
}

/// The objects as of a revision, from the history or from the store.
async fn at_revision(cx: &Context<'_>, cache: &WatchCache, revision: u64) -> Result<Option<Map>, Status> {
    if cx.server.caches().progress().revision() < revision {
        return Err(too_large(revision, cx.server.caches().progress().revision()));
    }
    let prefix = storage_key(cache, "");
    // What the store has forgotten is gone for clients, too, however long the cache's memory: tokens expire. The
    // probe asks for a key that nobody has.
    let probe = RangeRequest {
        prefix: format!("{prefix}\0"),
        limit: 1,
        revision: Some(Revision(revision)),
        ..RangeRequest::default()
    };
    if matches!(cx.server.store().range(probe).await, Err(orkd_store::Error::Compacted { .. })) {
        return Ok(None);
    }
    if let Some(map) = cache.snapshot_at(revision) {
        return Ok(Some(map));
    }
    let mut map = Map::new();
    let mut request = RangeRequest {
        prefix: prefix.clone(),
        limit: 2000,
        revision: Some(Revision(revision)),
        ..RangeRequest::default()
    };
    loop {
        let result = match cx.server.store().range(request.clone()).await {
            Ok(result) => result,
            Err(orkd_store::Error::Compacted { .. }) => return Ok(None),
            Err(e) => return Err(store_error(&e)),
        };
        for record in &result.records {
            let key = record.key.strip_prefix(&prefix).unwrap_or_default();
            if let Some(entry) = cache.entry(key, &record.value, record.mod_revision.0) {
                map.insert(entry.key.clone(), Arc::new(entry));
            }
        }
        match result.records.last() {
            Some(last) if result.more => request.start = format!("{}\0", last.key),
            _ => return Ok(Some(map)),
        }
    }
}

/// Cuts a page out of a map. `start` is below `prefix`.
async fn page(
    map: &Map,
    revision: u64,
    prefix: &str,
    start: &str,
    limit: usize,
    cx: &Context<'_>,
    filter: &Filter,
) -> Result<Page, Status> {
    let from = format!("{prefix}{start}");
    let range = || {
        let range = map.range::<_, str>((Bound::Included(from.as_str()), Bound::Unbounded));
        range.take_while(|(k, _)| k.starts_with(prefix)).map(|(_, e)| e)
    };
    if filter.by_fields() {
        cx.resource.prepare(range()).await?;
    }
    Ok(cut(range(), revision, prefix, limit, cx, filter))
}

fn cut<'m>(
    mut wanted: impl Iterator<Item = &'m Arc<Entry>>,
    revision: u64,
    prefix: &str,
    limit: usize,
    cx: &Context<'_>,
    filter: &Filter,
) -> Page {
    let matches = |e: &Arc<Entry>| cx.resource.matches(filter, e);
    let everything = filter.is_empty();
    let mut entries: Vec<Arc<Entry>> = Vec::new();
    if limit == 0 {
        entries.extend(wanted.filter(|e| everything || matches(e)).cloned());
        return Page { entries, revision, next: String::new(), remaining: None };
    }
    let mut more = false;
    for entry in wanted.by_ref() {
        if !(everything || matches(entry)) {
            continue;
        }
        if entries.len() == limit {
            more = true;
            break;
        }
        entries.push(entry.clone());
    }
    if !more {
        return Page { entries, revision, next: String::new(), remaining: None };
    }
    let last = entries.last().map_or("", |e| &e.key[prefix.len()..]);
    let next = encode_token(i64::try_from(revision).unwrap_or(i64::MAX), &format!("{last}\0"));
    let remaining = everything.then(|| wanted.count() as u64 + 1);
    Page { entries, revision, next, remaining }
}

/// List metadata, encoded.
fn list_meta(page: &Page) -> String {
    let mut meta = format!("{{\"resourceVersion\":\"{}\"", page.revision);
    if !page.next.is_empty() {
        meta.push_str(&format!(",\"continue\":{}", Value::from(page.next.as_str())));
    }
    if let Some(remaining) = page.remaining {
        meta.push_str(&format!(",\"remainingItemCount\":{remaining}"));
    }
    meta.push('}');
    meta
}

/// Answers a LIST.
pub async fn list(cx: &Context<'_>) -> Answer {
    let wanted = negotiation::negotiate(&cx.parts.headers, cx.query, Offer::of(&*cx.resource.kind))?;
    wanted.check_list(cx.resource.info(), true)?;
    let include = Include::parse(wanted.shape, cx.query)?;
    let target = cx.target();
    match read(cx, &target).await {
        Ok(page) => Ok(answer(cx, &wanted, include, page)),
        Err(Failed::Status(status)) => Err(status),
        Err(Failed::Expired(value)) => Ok(respond::object(&wanted, 410, &value)),
    }
}

/// Answers with a page.
pub(crate) fn answer(cx: &Context<'_>, wanted: &Wanted, include: Include, page: Page) -> Response<Body> {
    let info = cx.resource.info();
    let meta = list_meta(&page);
    let mut entries: Vec<Arc<Entry>> = if cx.resource.is_view() {
        page.entries.iter().filter_map(|e| cx.resource.served(e)).collect()
    } else {
        page.entries
    };
    if matches!(wanted.shape, Shape::Table(_)) {
        table::sort(&*cx.resource.kind, &mut entries);
    }
    let mut head = BytesMut::new();
    match wanted.shape {
        Shape::Object => {
            head.put_slice(
                format!(
                    "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
                    cx.resource.list_kind(),
                    cx.resource.api_version()
                )
                .as_bytes(),
            );
        }
        Shape::Metadata(v) => head.put_slice(
            format!(
                "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/{v}\",\"metadata\":{meta},\"items\":["
            )
            .as_bytes(),
        ),
        Shape::Table(v) => head = table::head(&cx.resource, v, &meta, true),
    }
    let now = jiff::Timestamp::now();
    if wanted.format == Format::Json && !wanted.pretty {
        let form = match wanted.shape {
            Shape::Object => items::Form::Json,
            Shape::Metadata(version) => items::Form::Metadata(version),
            Shape::Table(version) => {
                items::Form::Table(items::Rows { resource: cx.resource.clone(), version, include, now })
            }
        };
        return items::json(wanted, form, head, entries);
    }
    let entries = match (wanted.shape, wanted.format) {
        (Shape::Object, Format::Protobuf) => {
            match items::protobuf(wanted, &cx.resource.api_version(), &info.kind, &meta, entries) {
                Ok(response) => return response,
                Err(entries) => entries,
            }
        }
        _ => entries,
    };
    for (i, entry) in entries.iter().enumerate() {
        if i > 0 {
            head.put_slice(b",");
        }
        match wanted.shape {
            Shape::Object => {
                head.put_slice(b"{");
                head.put_slice(entry.list_item());
            }
            Shape::Metadata(v) => table::metadata(&mut head, v, entry),
            Shape::Table(v) => table::row(&mut head, &cx.resource, v, include, entry, now),
        }
    }
    head.put_slice(b"]}");
    match wanted.format {
        Format::Json => respond::json(wanted, 200, head.freeze()),
        _ => respond::object(wanted, 200, &serde_json::from_slice(&head).unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_upstreams() {
        let token = encode_token(5, "default/a\0");
        assert_eq!(decode_token(&token).ok(), Some(("default/a\0".into(), 5)));
        let text = |t: &str| decode_token(t).err().map(|s| s.message).unwrap_or_default();
        assert_eq!(
            text("zzz"),
            "invalid continue token: continue key is not valid: invalid character 'Ï' looking for beginning of value"
        );
        assert!(text("!!").contains("illegal base64 data at input byte 0"));
        assert!(
            text(&URL_SAFE_NO_PAD.encode(br#"{"v":"meta.k8s.io/v1","rv":1,"start":"../x"}"#)).contains("not valid")
        );
    }
}
