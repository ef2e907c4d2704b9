//! Update: the conflict-retry loop that PUT, PATCH and apply share.

use std::future::Future;
use std::pin::Pin;

use orkd_api::field::{ErrorList, Path};
use orkd_api::status::Status;
use parking_lot::Mutex;
use serde_json::Value;

use super::options::WriteOptions;
use super::{Current, HookContext, MODIFIED, Owners, Request, Target, Written, create, delete, meta_text, strategy};
use crate::admission::Operation;
use crate::managed;
use crate::writer::Writer;

/// Attempts before a lost race is told to the client; upstream's patch gives up after 5, its storage layer goes
/// on. A writer that loses learns what stands from the failed commit, so each attempt costs one commit.
const ATTEMPTS: usize = 64;

/// What an attempt makes of the object that stands.
pub(super) enum Made {
    /// The object wanted, managed fields done.
    Object(Value),
}

/// A future in a box, so that the loop is compiled once.
pub(super) type Making<'f> = Pin<Box<dyn Future<Output = Result<Made, Status>> + Send + 'f>>;

/// Makes the object wanted from the one that stands (`None`: there is none), once per attempt.
pub(super) trait Maker: Send + Sync {
    /// Makes it.
    fn make<'f>(&'f self, current: Option<&'f Value>) -> Making<'f>;

    /// Whether an object that is not there is made.
    fn creates(&self) -> bool;
}

struct Put<'a> {
    /// Taken by the attempt that is the last in any case.
    object: Mutex<Option<Value>>,
    cx: &'a Request<'a>,
    target: &'a Target<'a>,
    manager: &'a str,
    creates: bool,
}

impl Put<'_> {
    /// The object for an attempt. One that names the version that stands is not copied: if another version stands at the
    /// next attempt, that is a conflict whatever the object is.
    fn take(&self, current: Option<&Value>) -> Option<Value> {
        let mut object = self.object.lock();
        let named = object.as_ref().map_or("", |o| meta_text(o, "resourceVersion"));
        if !named.is_empty() && current.is_some_and(|c| meta_text(c, "resourceVersion") == named) {
            return object.take();
        }
        object.clone()
    }
}

impl Maker for Put<'_> {
    fn make<'f>(&'f self, current: Option<&'f Value>) -> Making<'f> {
        Box::pin(async move {
            let Some(mut object) = self.take(current) else { return Err(self.target.conflict(MODIFIED)) };
            strategy::dedup_owners(self.cx, &mut object, false);
            managed::update(self.cx, self.target, current, &mut object, self.manager);
            Ok(Made::Object(object))
        })
    }

    fn creates(&self) -> bool {
        self.creates
    }
}

/// Replaces an object. The flag tells whether it was created.
pub async fn put(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<(Value, bool), Status> {
    create::check_named(target, &mut object)?;
    create::head(target, &mut object);
    strategy::default(target, &mut object);
    let creates = target.subresource.is_empty() && target.resource.kind.create_on_update();
    let maker = Put { object: Mutex::new(Some(object)), cx, target, manager: &options.field_manager, creates };
    run(cx, target, &maker, options).await
}

struct With<'a, F> {
    change: &'a F,
    cx: &'a Request<'a>,
    target: &'a Target<'a>,
    manager: &'a str,
}

impl<F: Fn(&mut Value) -> Result<(), Status> + Send + Sync> Maker for With<'_, F> {
    fn make<'f>(&'f self, current: Option<&'f Value>) -> Making<'f> {
        Box::pin(async move {
            let Some(current) = current else { return Err(self.target.not_found()) };
            let mut object = current.clone();
            (self.change)(&mut object)?;
            strategy::default(self.target, &mut object);
            managed::update(self.cx, self.target, Some(current), &mut object, self.manager);
            Ok(Made::Object(object))
        })
    }

    fn creates(&self) -> bool {
        false
    }
}

/// Changes an object by a function of what stands.
pub async fn update_with<F>(
    cx: &Request<'_>,
    target: &Target<'_>,
    change: &F,
    options: &WriteOptions,
) -> Result<Value, Status>
where
    F: Fn(&mut Value) -> Result<(), Status> + Send + Sync,
{
    let maker = With { change, cx, target, manager: &options.field_manager };
    run(cx, target, &maker, options).await.map(|(object, _)| object)
}

/// The loop. The first attempt works on what the cache has; when that attempt fails and the store has something
/// newer, it is repeated on that, so that nobody is refused because the cache was behind.
pub(super) async fn run(
    cx: &Request<'_>,
    target: &Target<'_>,
    maker: &dyn Maker,
    options: &WriteOptions,
) -> Result<(Value, bool), Status> {
    let mut current = super::cached(target).await?;
    let mut is_live = false;
    for _ in 0..ATTEMPTS {
        match attempt(cx, target, maker, current.as_ref(), options).await {
            Ok(Attempt::Done(object, created)) => return Ok((object, created)),
            Ok(Attempt::Lost(standing)) => {
                // The failed commit told what stands, so the next attempt works on live data.
                current = match standing {
                    Some(standing) => Some(standing),
                    None => super::live(cx.server, target).await?,
                };
                is_live = true;
            }
            Err(status) if !is_live => {
                let standing = super::live(cx.server, target).await?;
                if standing.as_ref().map(|c| c.revision) == current.as_ref().map(|c| c.revision) {
                    return Err(status);
                }
                current = standing;
                is_live = true;
            }
            Err(status) => return Err(status),
        }
    }
    Err(target.conflict(MODIFIED))
}

enum Attempt {
    Done(Value, bool),
    Lost(Option<Current>),
}

async fn attempt(
    cx: &Request<'_>,
    target: &Target<'_>,
    maker: &dyn Maker,
    current: Option<&Current>,
    options: &WriteOptions,
) -> Result<Attempt, Status> {
    let Some(current) = current else {
        if !maker.creates() {
            return Err(target.not_found());
        }
        let Made::Object(object) = maker.make(None).await?;
        return match create::create_by_update(cx, target, object, options).await {
            Err(status) if status.reason == "AlreadyExists" => Ok(Attempt::Lost(None)),
            done => done.map(|object| Attempt::Done(object, true)),
        };
    };
    let old = &current.object;
    let option_value = options.to_value("UpdateOptions");
    let Made::Object(mut new) = maker.make(Some(old)).await?;
    let dry = options.dry_run;
    strategy::mutate(cx, target, Operation::Update, &mut new, Some(old), &option_value, dry).await?;
    strategy::dedup_owners(cx, &mut new, true);
    check_identity(target, &mut new, old)?;
    let writer = Writer::new(cx.server.clone(), cx.user.clone());
    let hook_cx = HookContext { writer: &writer, dry_run: dry, subresource: target.subresource };
    let finish = match &target.resource.hook {
        Some(hook) => Some(hook.begin_update(&hook_cx, &mut new, old).await?),
        None => None,
    };
    let done = commit(cx, target, new, current, &option_value, options).await;
    if let Some(finish) = finish {
        finish.finish(matches!(done, Ok(Attempt::Done(..))) && !dry).await;
    }
    done
}

/// UID and resourceVersion of the new object must be those that stand, where they are given.
fn check_identity(target: &Target<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
    let (uid, standing) = (meta_text(new, "uid"), meta_text(old, "uid"));
    if !uid.is_empty() && uid != standing {
        let key = target.storage_key()?;
        return Err(target.conflict(&format!(
            "StorageError: invalid object, Code: 4, Key: {key}, ResourceVersion: 0, AdditionalErrorMsg: Precondition \
             failed: UID in precondition: {uid}, UID in object meta: {standing}"
        )));
    }
    let version = meta_text(new, "resourceVersion");
    if version.is_empty() || version == "0" {
        if !target.resource.kind.unconditional_update() {
            let mut errors = ErrorList::new();
            errors.invalid(&Path::new("metadata").child("resourceVersion"), 0i64, "must be specified for an update");
            return Err(strategy::invalid(target, new, &errors));
        }
    } else if version.parse::<u64>().is_err() {
        let mut errors = ErrorList::new();
        let parsing = format!("strconv.ParseUint: parsing {version:?}: invalid syntax");
        errors.invalid(&Path::new("resourceVersion"), version, parsing);
        return Err(Status::new(400, "BadRequest", format!("invalid resource version: {}", errors.0[0])));
    } else if version != meta_text(old, "resourceVersion") {
        return Err(target.conflict(MODIFIED));
    }
    let standing = meta_text(old, "resourceVersion").parse().ok();
    super::set_version(new, standing);
    Ok(())
}

async fn commit(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut new: Value,
    current: &Current,
    option_value: &Value,
    options: &WriteOptions,
) -> Result<Attempt, Status> {
    let Current { object: old, revision } = current;
    let (revision, dry_run) = (*revision, options.dry_run);
    strategy::before_update(cx, target, &mut new, old)?;
    strategy::check(cx, target, Operation::Update, &new, Some(old), option_value, dry_run).await?;
    if delete::ends_with_update(target, &new, old) {
        return match delete::after_last_finalizer(cx, target, &new, old, revision, dry_run).await? {
            Ok(object) => Ok(Attempt::Done(object, false)),
            Err(standing) => Ok(Attempt::Lost(standing)),
        };
    }
    managed::keep_times(&mut new, old);
    if dry_run || (same(&new, old) && !is_stale(cx, target).await?) {
        return Ok(Attempt::Done(new, false));
    }
    match super::write(cx, target, new, revision, Owners::of(options)).await? {
        Written::Done(object) => Ok(Attempt::Done(object, false)),
        Written::Lost(standing) => Ok(Attempt::Lost(standing)),
    }
}

/// Whether what is stored has to be written anew although nothing changes (an encryption key is being rotated out).
async fn is_stale(cx: &Request<'_>, target: &Target<'_>) -> Result<bool, Status> {
    let key = target.storage_key()?;
    cx.server.store().is_stale(&key).await.map_err(|e| super::store_error(&e))
}

/// Whether two objects would be stored alike.
fn same(new: &Value, old: &Value) -> bool {
    new == old
}
