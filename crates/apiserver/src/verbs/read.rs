//! GET of one object.

use super::{Answer, Context};
use crate::codec;
use crate::negotiation::{self, Format, Offer, Shape};
use crate::registry::key;
use crate::respond;
use crate::verbs::table;

/// Answers with one object.
pub async fn get(cx: &Context<'_>) -> Answer {
    let target = cx.target();
    let is_scale = cx.info.subresource == "scale";
    let offer = if is_scale { Offer::Objects } else { Offer::of(&*cx.resource.kind) };
    let wanted = negotiation::negotiate(&cx.parts.headers, cx.query, offer)?;
    wanted.check_list(cx.resource.info(), false)?;
    super::not_older(cx.server, super::version(cx.query.text("resourceVersion"))?).await?;
    let cache = target.cache()?;
    let missing = || if is_scale { crate::registry::scale::not_found(&target) } else { target.not_found() };
    let entry = cache.get(&key(target.namespace, target.name)).ok_or_else(missing)?;
    cx.resource.prepare([&entry]).await?;
    let entry = cx.resource.served(&entry).ok_or_else(missing)?;
    if is_scale {
        let scale = crate::registry::scale::of(&*cx.resource.kind, &entry.decode())?;
        return Ok(super::write::scaled(cx, &wanted, &scale));
    }
    match (wanted.shape, wanted.format) {
        (Shape::Object, Format::Json) => Ok(respond::json(&wanted, 200, entry.json().clone())),
        (Shape::Object, Format::Protobuf) => {
            let bytes = codec::entry_protobuf(&entry);
            if bytes.is_empty() {
                return Ok(respond::json(&wanted, 200, entry.json().clone()));
            }
            Ok(respond::bytes_response(&wanted, 200, Format::Protobuf.media_type(), bytes))
        }
        (Shape::Object, _) => Ok(respond::object(&wanted, 200, &entry.decode())),
        (shape, _) => Ok(table::one(cx, &wanted, shape, &entry)),
    }
}
