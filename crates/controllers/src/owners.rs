//! Adoption and release by controller reference (`pkg/controller/controller_ref_manager.go`).

use orkd_base::BoxError;
use orkd_reconcile::{Api, ApiError, LabelSelector, Meta, Patch, Resource, View};
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// What an owner is to do about an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is owned and stays so.
    Keep,
    /// It is nobody's and matches: take it.
    Adopt,
    /// It is owned and no longer matches: let it go.
    Release,
    /// It is none of ours.
    Ignore,
}

/// Decides about one object.
pub fn claim(owner: &Meta, selector: &LabelSelector, object: &Meta) -> Claim {
    let matches = selector.matches(&object.labels);
    match object.controller() {
        Some(controller) if controller.uid != owner.uid => Claim::Ignore,
        Some(_) if matches => Claim::Keep,
        Some(_) if owner.is_deleting() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if owner.is_deleting() || !matches || object.is_deleting() => Claim::Ignore,
        None => Claim::Adopt,
    }
}

/// The controller reference to an owner.
pub fn controller_ref<T: View>(owner: &T) -> Value {
    let meta = owner.meta();
    json!({
        "apiVersion": Resource::of::<T>().api_version(), "kind": T::KIND,
        "name": &*meta.name, "uid": meta.uid, "controller": true, "blockOwnerDeletion": true,
    })
}

/// Makes `owner` the controller of an object. The owner is read afresh first: one that is being deleted or was
/// replaced adopts nothing.
pub async fn adopt<T: View>(api: &Api, owner: &T, resource: &Resource, object: &Meta) -> Result<(), BoxError> {
    adopt_holding(api, owner, resource, object, &[]).await
}

/// [`adopt`], adding finalizers by the same write.
pub async fn adopt_holding<T: View>(
    api: &Api,
    owner: &T,
    resource: &Resource,
    object: &Meta,
    finalizers: &[&str],
) -> Result<(), BoxError> {
    let meta = owner.meta();
    let live: T = api.get(&Resource::of::<T>().at(&meta.namespace, &meta.name)).await?;
    if live.meta().uid != meta.uid {
        return Err(format!("original {} {} is gone: got uid {}", T::KIND, meta.key(), live.meta().uid).into());
    }
    if live.meta().is_deleting() {
        return Err(format!("{} {} has just been deleted", T::KIND, meta.key()).into());
    }
    let mut patch = json!({"metadata": {"uid": object.uid, "ownerReferences": [controller_ref(owner)]}});
    if !finalizers.is_empty() {
        patch["metadata"]["finalizers"] = json!(finalizers);
    }
    let target = resource.at(&object.namespace, &object.name);
    Ok(api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await.map(|_| ())?)
}

/// Takes `owner` out of an object's owners. An object that is gone or was replaced needs nothing.
pub async fn release(api: &Api, owner: &Meta, resource: &Resource, object: &Meta) -> Result<(), ApiError> {
    let patch = json!({"metadata": {
        "uid": object.uid, "ownerReferences": [{"$patch": "delete", "uid": owner.uid}],
    }});
    let target = resource.at(&object.namespace, &object.name);
    match api.patch::<IgnoredAny>(&target, &Patch::Strategic(patch)).await {
        Err(err) if err.is_not_found() || err.is_invalid() || err.is_conflict() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Replaces the status of an object that is still the one with this uid. Upstream's roles let controllers `update`
/// a status and not `patch` it. An object that is gone needs nothing.
pub async fn write_status<T: View>(api: &Api, object: &T, status: &Value) -> Result<(), ApiError> {
    write_status_and_note(api, object, status, None).await
}

/// The same, with an annotation that is noted by the same write.
pub async fn write_status_and_note<T: View>(
    api: &Api,
    object: &T,
    status: &Value,
    note: Option<(&str, &str)>,
) -> Result<(), ApiError> {
    let meta = object.meta();
    let target = Resource::of::<T>().at(&meta.namespace, &meta.name);
    let written = api
        .modify(&target, "status", |live| {
            if live["metadata"]["uid"] != meta.uid.as_str() {
                return false;
            }
            merge(&mut live["status"], status);
            if let Some((name, text)) = note {
                merge(&mut live["metadata"]["annotations"], &json!({name: text}));
            }
            true
        })
        .await;
    match written {
        Err(err) if err.is_not_found() => Ok(()),
        other => other.map(|_| ()),
    }
}

/// RFC 7386, one level deep: what is null goes, what is not named stays.
fn merge(status: &mut Value, change: &Value) {
    if !status.is_object() {
        *status = json!({});
    }
    let (Some(status), Some(change)) = (status.as_object_mut(), change.as_object()) else { return };
    for (key, value) in change {
        if value.is_null() {
            status.remove(key);
        } else {
            status.insert(key.clone(), value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(owner: &str, object: &str, expected: Claim) {
        let owner: Meta = serde_json::from_str(owner).expect("an owner");
        let object: Meta = serde_json::from_str(object).expect("an object");
        let selector: LabelSelector = serde_json::from_str(r#"{"matchLabels":{"app":"x"}}"#).expect("a selector");
        assert_eq!(claim(&owner, &selector, &object), expected, "{object:?}");
    }

    #[test]
    fn claims_follow_the_reference_then_the_labels() {
        let me = r#"{"name":"rs","uid":"me"}"#;
        let mine = r#""ownerReferences":[{"uid":"me","controller":true}]"#;
        check(me, &format!(r#"{{"labels":{{"app":"x"}},{mine}}}"#), Claim::Keep);
        check(me, &format!(r#"{{"labels":{{"app":"y"}},{mine}}}"#), Claim::Release);
        check(me, r#"{"labels":{"app":"x"}}"#, Claim::Adopt);
        check(me, r#"{"labels":{"app":"x"},"deletionTimestamp":"2026-01-01T00:00:00Z"}"#, Claim::Ignore);
        check(me, r#"{"labels":{"app":"x"},"ownerReferences":[{"uid":"other","controller":true}]}"#, Claim::Ignore);
        check(r#"{"uid":"me","deletionTimestamp":"2026-01-01T00:00:00Z"}"#, r#"{"labels":{"app":"x"}}"#, Claim::Ignore);
    }
}
