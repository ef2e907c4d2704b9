//! Changes of a record below everything that guards an object: no defaults, no admission, no managed fields, no validation.
//!
//! Upstream: `Storage.GuaranteedUpdate`, where the storage of a subresource calls it by itself (`BindingREST`). Whoever may
//! use such a door has been asked before, and what it does to the object is fixed by its code; so the object is changed as
//! the text it is stored as, and nothing of it is decoded that the change does not look at.

use bytes::Bytes;
use orkd_api::codec::json::Outline;
use orkd_api::schema::Type;
use orkd_api::status::Status;
use orkd_store::{Record, Revision};

use super::{MODIFIED, Request, Target};
use crate::codec;

/// What a change does to the object; called once for every attempt.
pub type Change<'c> = &'c (dyn Fn(&mut Outline<'_>) -> Result<(), Status> + Send + Sync);

/// Attempts before a lost race is told to the client.
const ATTEMPTS: usize = 64;

/// A record as it stands: JSON, with or without a resourceVersion.
struct Standing {
    json: Bytes,
    revision: Revision,
}

/// Changes the record of an object until no other writer was faster; 404 without one. As in [`super::update`], the first
/// attempt works on what the cache has, and nobody is refused because of that.
pub async fn rewrite(cx: &Request<'_>, target: &Target<'_>, dry_run: bool, change: Change<'_>) -> Result<(), Status> {
    let entry = target.cache()?.get(&target.key());
    let mut standing = entry.map(|e| Standing { json: e.json().clone(), revision: Revision(e.revision) });
    let mut is_live = false;
    for _ in 0..ATTEMPTS {
        let made = match &standing {
            Some(Standing { json, revision }) => changed(target, json, change).map(|value| (value, *revision)),
            None => Err(target.not_found()),
        };
        match made {
            Ok(_) if dry_run => return Ok(()),
            Ok((value, revision)) => match super::put(cx, target, value, revision).await? {
                Ok(_) => return Ok(()),
                // The failed commit told what stands.
                Err(record) => standing = record.map(|r| of_record(target, &r)).transpose()?,
            },
            Err(status) if is_live => return Err(status),
            Err(status) => {
                let record = cx.server.store().get(&target.storage_key()?).await.map_err(|e| super::store_error(&e))?;
                if record.as_ref().map(|r| r.mod_revision) == standing.as_ref().map(|s| s.revision) {
                    return Err(status);
                }
                standing = record.map(|r| of_record(target, &r)).transpose()?;
            }
        }
        is_live = true;
    }
    Err(target.conflict(MODIFIED))
}

fn unreadable() -> Status {
    Status::internal("a stored object cannot be read")
}

/// The object after the change, as it is stored.
fn changed(target: &Target<'_>, json: &[u8], change: Change<'_>) -> Result<Bytes, Status> {
    let info = target.resource.stored_kind().info();
    let ty = Type::of_kind(&info.group, &info.version, &info.kind).ok_or_else(unreadable)?;
    let mut object = Outline::read(json, ty).map_err(|_| unreadable())?;
    object.open("metadata").ok_or_else(unreadable)?.remove("resourceVersion");
    change(&mut object)?;
    let mut out = Vec::with_capacity(json.len() + 256);
    object.write(&mut out);
    Ok(out.into())
}

fn of_record(target: &Target<'_>, record: &Record) -> Result<Standing, Status> {
    let revision = record.mod_revision;
    if !record.value.starts_with(b"k8s\0") {
        return Ok(Standing { json: record.value.clone(), revision });
    }
    let kind = target.resource.stored_kind();
    let object = codec::decode_stored(kind, &record.value).ok_or_else(unreadable)?;
    Ok(Standing { json: codec::encode_stored(kind, &object), revision })
}
