//! What handlers do with the body of a request: defaults, checks, and the answer that says "done".

use std::sync::LazyLock;

use orkd_api::kind::{Cx, Kind};
use orkd_api::patch::manager_from_user_agent;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::Call;
use crate::managed;

static BODIES: LazyLock<Vec<Box<dyn Kind>>> = LazyLock::new(|| {
    let mut all = orkd_api::kinds::bodies();
    all.extend(orkd_api::kinds::all());
    all
});

/// Reads the body as a kind, sets its defaults and notes who wrote its fields, as for everything that is created.
pub(super) async fn read(call: &Call, request: http::Request<crate::Body>, kind_name: &str) -> Result<Value, Status> {
    let mut object = call.object(request).await?;
    if !object.is_object() {
        return Err(Status::bad_request("the body is not an object"));
    }
    default(kind_name, &mut object);
    place(call, &mut object)?;
    if let Some(kind) = kind(kind_name) {
        let manager = call.query.text("fieldManager");
        let agent = manager_from_user_agent(&call.user_agent);
        let manager = if manager.is_empty() { agent.as_str() } else { manager };
        managed::made(kind, &mut object, manager, &call.info.subresource, call.now);
    }
    Ok(object)
}

/// The namespace of an object is that of the request.
fn place(call: &Call, object: &mut Value) -> Result<(), Status> {
    let meta = object.as_object_mut().map(|o| o.entry("metadata").or_insert_with(|| json!({})));
    let Some(meta) = meta.and_then(Value::as_object_mut) else { return Ok(()) };
    let (given, wanted) = (meta.get("namespace").and_then(Value::as_str).unwrap_or_default(), &call.info.namespace);
    if wanted.is_empty() {
        meta.remove("namespace");
    } else if given.is_empty() {
        meta.insert("namespace".into(), wanted.as_str().into());
    } else if given != wanted {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn kind(name: &str) -> Option<&'static dyn Kind> {
    BODIES.iter().find(|k| k.info().kind == name).map(|k| &**k)
}

/// Sets the defaults of a kind.
pub(super) fn default(kind_name: &str, object: &mut Value) {
    if let Some(kind) = kind(kind_name) {
        crate::codec::default(kind, object);
        kind.default(object);
    }
}

/// Checks an object as the creation of its kind does.
pub(super) fn validate(call: &Call, kind_name: &str, object: &Value) -> Result<(), Status> {
    let Some(kind) = kind(kind_name) else { return Ok(()) };
    let cx = Cx { now: call.now, subresource: None, user: &call.user.name, features: call.server.features() };
    let errors = kind.validate(&cx, object);
    if errors.is_empty() {
        return Ok(());
    }
    let info = kind.info();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    Err(Status::invalid(&info.group, &info.kind, name, &errors))
}

/// The name in the body, where there is one, must be that of the URL.
pub(super) fn same_name(call: &Call, object: &Value, what: &str) -> Result<(), Status> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if !call.info.name.is_empty() && !name.is_empty() && name != call.info.name {
        return Err(Status::bad_request(format!("name in URL does not match name in {what} object")));
    }
    Ok(())
}

/// The `Status` of what went well.
pub(super) fn success() -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
}
