//! The verbs that change something: create, update, patch, delete, deletecollection.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Response;
use orkd_api::status::Status;
use serde_json::Value;

use super::table::{self, Include};
use super::{Answer, Context, list};
use crate::Body;
use crate::cache::Entry;
use crate::codec::{self, Door};
use crate::negotiation::{self, Format, Offer, Shape, Wanted, body_format};
use crate::registry::options::{DeleteOptions, WriteOptions};
use crate::registry::{Request, Target, create, delete, meta_text, patch, scale, update};
use crate::resources::Resource;
use crate::respond;

fn request<'a>(cx: &'a Context<'_>) -> Request<'a> {
    Request { warnings: cx.warnings.clone(), info: Some(cx.info), ..Request::new(cx.server, cx.user) }
}

/// Answers with an object that has been stored: with the bytes that the cache has of it already, where they are what is
/// wanted.
fn stored(cx: &Context<'_>, wanted: &Wanted, code: u16, object: &Value, options: &WriteOptions) -> Response<Body> {
    // A dry run has the version of what it did not change.
    let is_plain = wanted.shape == Shape::Object && wanted.format == Format::Json && !options.dry_run;
    let entry = || {
        let cache = cx.resource.cache.as_ref().filter(|_| cx.resource.is_stored_as_served())?;
        let entry = cache.get(&crate::registry::key(meta_text(object, "namespace"), meta_text(object, "name")))?;
        (meta_text(object, "resourceVersion").parse() == Ok(entry.revision)).then_some(entry)
    };
    match is_plain.then(entry).flatten() {
        Some(entry) => respond::json(wanted, code, entry.json().clone()),
        None => written(cx, &cx.resource, wanted, code, object),
    }
}

/// Answers with a scale.
pub(super) fn scaled(cx: &Context<'_>, wanted: &Wanted, scale: &Value) -> Response<Body> {
    written(cx, scale::resource(), wanted, 200, scale)
}

/// Answers with a written object of a resource in the shape wanted.
fn written(cx: &Context<'_>, resource: &Resource, wanted: &Wanted, code: u16, object: &Value) -> Response<Body> {
    if wanted.shape == Shape::Object || object["kind"] == "Status" {
        return respond::object(wanted, code, object);
    }
    if let Err(status) = wanted.check_list(resource.info(), false) {
        return respond::failure(wanted, &status);
    }
    let bytes: Bytes = codec::encode(object);
    let key = crate::registry::key(meta_text(object, "namespace"), meta_text(object, "name"));
    let revision = meta_text(object, "resourceVersion").parse().unwrap_or(0);
    let entry = Entry::new(&*resource.kind, false, Arc::from(key), &bytes, revision);
    match (entry, Include::parse(wanted.shape, cx.query)) {
        (Some(entry), Ok(include)) => {
            let json = table::one_json(resource, wanted.shape, include, &entry, true);
            match wanted.format {
                Format::Json => respond::json(wanted, code, json),
                _ => respond::object(wanted, code, &serde_json::from_slice(&json).unwrap_or_default()),
            }
        }
        (_, Err(status)) => respond::failure(wanted, &status),
        (None, _) => respond::object(wanted, code, object),
    }
}

fn wanted(cx: &Context<'_>) -> Result<Wanted, Status> {
    negotiation::negotiate(&cx.parts.headers, cx.query, Offer::of(&*cx.resource.kind))
}

/// The type of a body at this door.
fn door<'c>(cx: &'c Context<'_>) -> Door<'c> {
    let info = cx.resource.info();
    match info.subresources.iter().find(|s| s.name == cx.info.subresource) {
        Some(s) if s.kind != info.kind => Door::built_in(
            s.group.as_deref().unwrap_or(&info.group),
            s.version.as_deref().unwrap_or(&info.version),
            &s.kind,
        ),
        _ => Door::of(&*cx.resource.kind),
    }
}

/// POST.
pub async fn create(cx: &Context<'_>, body: Body) -> Answer {
    let wanted = wanted(cx)?;
    let options = WriteOptions::parse(cx.query, cx.user_agent(), "CreateOptions", false)?;
    let format = body_format(&cx.parts.headers)?;
    let bytes = crate::body::read(body).await?;
    let object = codec::decode(format, &bytes, door(cx), options.field_validation, cx.warnings)?;
    crate::audit::request_object(&object);
    let target = cx.target();
    if target.namespaced() && target.namespace.is_empty() {
        return Err(Status::new(400, "BadRequest", "an empty namespace may not be set during creation"));
    }
    let object = create::create(&request(cx), &target, object, &options).await?;
    Ok(stored(cx, &wanted, 201, &object, &options))
}

/// PUT.
pub async fn update(cx: &Context<'_>, body: Body) -> Answer {
    let wanted = wanted(cx)?;
    let options = WriteOptions::parse(cx.query, cx.user_agent(), "UpdateOptions", false)?;
    let format = body_format(&cx.parts.headers)?;
    let bytes = crate::body::read(body).await?;
    let mut object = codec::decode(format, &bytes, door(cx), options.field_validation, cx.warnings)?;
    crate::audit::request_object(&object);
    let target = cx.target();
    if cx.info.subresource == "scale" {
        create::check_named(&target, &mut object)?;
        let change = |current: &mut Value| scale::into_object(&target, &object, current);
        let object = update::update_with(&request(cx), &target, &change, &options).await?;
        return Ok(scaled(cx, &wanted, &scale::of(&*target.resource.kind, &object)?));
    }
    let (object, created) = update::put(&request(cx), &target, object, &options).await?;
    Ok(stored(cx, &wanted, if created { 201 } else { 200 }, &object, &options))
}

/// PATCH.
pub async fn patch(cx: &Context<'_>, body: Body) -> Answer {
    let wanted = wanted(cx)?;
    let form = patch::Form::of(&cx.parts.headers, &*cx.resource.kind)?;
    let options = WriteOptions::parse(cx.query, cx.user_agent(), "PatchOptions", form == patch::Form::Apply)?;
    let bytes = crate::body::read(body).await?;
    crate::audit::request_patch(&bytes);
    let patch = patch::Patch::decode(form, &bytes, door(cx), options.field_validation)?;
    let target = cx.target();
    if cx.info.subresource == "scale" {
        let object = patch::scale(&request(cx), &target, &patch, &options).await?;
        return Ok(scaled(cx, &wanted, &scale::of(&*target.resource.kind, &object)?));
    }
    let (object, created) = patch::patch(&request(cx), &target, &patch, &options).await?;
    Ok(stored(cx, &wanted, if created { 201 } else { 200 }, &object, &options))
}

async fn delete_options(cx: &Context<'_>, body: Body) -> Result<DeleteOptions, Status> {
    let bytes = crate::body::read(body).await?;
    let value = if bytes.is_empty() {
        Value::Null
    } else {
        let format = body_format(&cx.parts.headers)?;
        codec::decode_delete_options(format, &bytes).inspect(crate::audit::request_object)?
    };
    DeleteOptions::parse(cx.query, &value)
}

/// DELETE of one object.
pub async fn delete(cx: &Context<'_>, body: Body) -> Answer {
    let wanted = wanted(cx)?;
    let options = delete_options(cx, body).await?;
    let target = cx.target();
    let deleted = delete::delete(&request(cx), &target, &options).await?;
    let code = if !deleted.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
    Ok(written(cx, &cx.resource, &wanted, code, &delete::answer(&target, deleted)))
}

/// How many objects of a collection are deleted at a time.
const DELETES_AT_ONCE: usize = 16;

/// DELETE of a collection: everything a list with the same options would show.
pub async fn delete_collection(cx: &Context<'_>, body: Body) -> Answer {
    let wanted = wanted(cx)?;
    let include = Include::parse(wanted.shape, cx.query)?;
    let options = DeleteOptions { of_collection: true, ..delete_options(cx, body).await? };
    let target = cx.target();
    let page = match list::read(cx, &target).await {
        Ok(page) => page,
        Err(list::Failed::Status(status)) => return Err(status),
        Err(list::Failed::Expired(value)) => return Ok(respond::object(&wanted, 410, &value)),
    };
    let request = request(cx);
    let (request, options, target) = (&request, &options, &target);
    let failures: Vec<Status> = stream::iter(page.entries.clone())
        .map(|entry| async move {
            let namespace = if target.namespaced() { entry.namespace() } else { "" };
            let one = Target { namespace, name: entry.name(), ..target.clone() };
            match delete::delete(request, &one, options).await {
                Err(status) if status.code != 404 => Some(status),
                _ => None,
            }
        })
        .buffer_unordered(DELETES_AT_ONCE)
        .filter_map(|failure| async move { failure })
        .collect()
        .await;
    match failures.into_iter().next() {
        Some(status) => Err(status),
        None => Ok(list::answer(cx, &wanted, include, page)),
    }
}
