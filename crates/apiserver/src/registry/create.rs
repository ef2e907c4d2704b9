//! Create.

use orkd_api::status::Status;
use orkd_store::Revision;
use serde_json::Value;

use super::options::WriteOptions;
use super::strategy;
use super::{HookContext, MODIFIED, Owners, Request, Target, Written, meta_text, metadata};
use crate::admission::Operation;
use crate::handler::authorize;
use crate::managed;
use crate::route::RequestInfo;
use crate::writer::Writer;

/// How often a name is generated anew when it is taken.
const NAME_ATTEMPTS: usize = 8;

/// Creates an object. `object` is decoded and defaulted; its name is in its metadata.
pub async fn create(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let info = target.resource.info();
    check_address(target, &mut object)?;
    head(target, &mut object);
    strategy::dedup_owners(cx, &mut object, false);
    strategy::default(target, &mut object);
    managed::update(cx, target, None, &mut object, &options.field_manager);
    if !meta_text(&object, "name").is_empty() || meta_text(&object, "generateName").is_empty() {
        return create_once(cx, target, object, options).await;
    }
    let mut last = None;
    for _ in 0..NAME_ATTEMPTS {
        match create_once(cx, target, object.clone(), options).await {
            Err(status) if status.reason == "AlreadyExists" => last = Some(status),
            done => return done,
        }
    }
    let name = last.and_then(|s| s.details).map(|d| d.name).unwrap_or_default();
    let mut status = Status::already_exists(&info.group, &info.plural, &name);
    status.message.push_str(", the server was not able to generate a unique name for the object");
    Err(status)
}

/// Sets `kind` and `apiVersion`, which upstream derives from the door.
pub(super) fn head(target: &Target<'_>, object: &mut Value) {
    let info = target.resource.info();
    if let Some(map) = object.as_object_mut() {
        map.insert("kind".into(), info.kind.to_string().into());
        map.insert("apiVersion".into(), target.resource.api_version().into());
    }
}

/// The namespace of the body must be that of the URL, and is that where it says none. What lives in no namespace loses the
/// one it names (`EnsureObjectNamespaceMatchesRequestNamespace` of `registry/rest/meta.go`).
fn check_namespace(target: &Target<'_>, object: &mut Value) -> Result<(), Status> {
    let namespace = meta_text(object, "namespace");
    if target.namespaced() {
        if !namespace.is_empty() && namespace != target.namespace {
            return Err(Status::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
        let namespace = target.namespace.to_owned();
        if let Some(meta) = metadata(object) {
            meta.insert("namespace".into(), namespace.into());
        }
    } else if !namespace.is_empty()
        && let Some(meta) = metadata(object)
    {
        meta.remove("namespace");
    }
    Ok(())
}

/// An object that is to stand at the URL must say its name (`checkName` of `endpoints/handlers/rest.go`).
pub fn check_named(target: &Target<'_>, object: &mut Value) -> Result<(), Status> {
    check_namespace(target, object)?;
    let (name, wanted) = (meta_text(object, "name"), target.name);
    if name.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if name != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({wanted})"
        )));
    }
    Ok(())
}

/// Namespace and name of the body must be those of the URL.
pub(super) fn check_address(target: &Target<'_>, object: &mut Value) -> Result<(), Status> {
    check_namespace(target, object)?;
    if !target.name.is_empty() {
        let name = meta_text(object, "name").to_owned();
        if name.is_empty() {
            let target_name = target.name.to_owned();
            if let Some(meta) = metadata(object) {
                meta.insert("name".into(), target_name.into());
            }
        } else if name != target.name {
            return Err(Status::new(
                400,
                "BadRequest",
                format!("the name of the object ({name}) does not match the name on the URL ({})", target.name),
            ));
        }
    }
    Ok(())
}

async fn create_once(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    if target.resource.is_terminating() {
        let info = target.resource.info();
        let mut status = Status::method_not_supported(&info.group, &info.plural, "create");
        status.message = "create not allowed while custom resource definition is terminating".into();
        return Err(status);
    }
    if !meta_text(&object, "resourceVersion").is_empty() && meta_text(&object, "resourceVersion") != "0" {
        return Err(Status::new(500, "", "resourceVersion should not be set on objects to be created"));
    }
    let option_value = options.to_value("CreateOptions");
    let named = meta_text(&object, "name").to_owned();
    {
        let target = Target { name: &named, ..target.clone() };
        strategy::mutate(cx, &target, Operation::Create, &mut object, None, &option_value, options.dry_run).await?;
    }
    strategy::dedup_owners(cx, &mut object, true);
    strategy::fill_system_fields(cx, target, &mut object);
    if meta_text(&object, "name").is_empty() && !meta_text(&object, "generateName").is_empty() {
        let name = strategy::generate_name(meta_text(&object, "generateName"));
        if let Some(meta) = metadata(&mut object) {
            meta.insert("name".into(), name.into());
        }
    }
    let name = meta_text(&object, "name").to_owned();
    let target = Target { name: &name, ..target.clone() };
    let writer = Writer::new(cx.server.clone(), cx.user.clone());
    let hook_cx = HookContext { writer: &writer, dry_run: options.dry_run, subresource: "" };
    let finish = match &target.resource.hook {
        Some(hook) => Some(hook.begin_create(&hook_cx, &mut object).await?),
        None => None,
    };
    let done = commit(cx, &target, object, &option_value, options).await;
    if let Some(finish) = finish {
        finish.finish(done.is_ok() && !options.dry_run).await;
    }
    done
}

async fn commit(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    option_value: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    strategy::before_create(cx, target, &mut object)?;
    may_create(cx).await?;
    strategy::check(cx, target, Operation::Create, &object, None, option_value, options.dry_run).await?;
    if options.dry_run {
        return match super::live(cx.server, target).await? {
            Some(current) => Err(exists(target, Some(&current.object))),
            None => {
                super::set_version(&mut object, None);
                Ok(object)
            }
        };
    }
    super::set_version(&mut object, None);
    match super::write(cx, target, object, Revision(0), Owners::of(options)).await? {
        Written::Done(object) => Ok(object),
        Written::Lost(current) => Err(exists(target, current.as_ref().map(|c| &c.object))),
    }
}

/// Who makes an object by an update or an apply has to be allowed to create it, too (`withAuthorization`).
async fn may_create(cx: &Request<'_>) -> Result<(), Status> {
    match cx.info.filter(|info| info.verb != "create") {
        Some(info) => authorize(cx.server, cx.user, &RequestInfo { verb: "create".into(), ..info.clone() }).await,
        None => Ok(()),
    }
}

fn exists(target: &Target<'_>, standing: Option<&Value>) -> Status {
    let info = target.resource.info();
    let mut status = Status::already_exists(&info.group, &info.plural, target.name);
    if standing.is_some_and(|o| o["metadata"]["deletionTimestamp"].is_string()) {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// Creates through PUT or PATCH of what is not there.
pub(super) async fn create_by_update(
    cx: &Request<'_>,
    target: &Target<'_>,
    mut object: Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let version = meta_text(&object, "resourceVersion");
    if !version.is_empty() && version != "0" {
        return Err(target.conflict(MODIFIED));
    }
    check_address(target, &mut object)?;
    head(target, &mut object);
    create_once(cx, target, object, options).await
}
