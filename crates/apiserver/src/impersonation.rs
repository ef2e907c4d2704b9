//! Impersonation (`endpoints/filters/impersonation`): a user who may, acts as another.

use std::collections::BTreeMap;

use http::request::Parts;
use orkd_api::status::Status;

use crate::handler::authorize;
use crate::pipeline::ApiServer;
use crate::route::RequestInfo;
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whether a request asks to act as another.
pub fn is_asked_for(parts: &Parts) -> bool {
    parts.headers.keys().any(|k| k.as_str().starts_with("impersonate-"))
}

/// The user to go on as: the one named by headers, if the asking one may act as him and as each of his groups. The
/// headers are taken off.
pub async fn impersonate(server: &ApiServer, user: UserInfo, parts: &mut Parts) -> Result<UserInfo, Status> {
    let names: Vec<_> = parts.headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    if names.is_empty() {
        return Ok(user);
    }
    let text = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let (name, uid) = (text(USER), text(UID));
    let groups: Vec<String> =
        parts.headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok().map(str::to_owned)).collect();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, value) in &parts.headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            extra.entry(key).or_default().push(value.to_owned());
        }
    }
    if name.is_empty() {
        return Err(Status::internal("requested groups, a UID or extra facts without impersonating a user name"));
    }
    let ask = |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| RequestInfo {
        is_resource: true,
        verb: "impersonate".into(),
        group: group.into(),
        version: "v1".into(),
        resource: resource.into(),
        subresource: subresource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..RequestInfo::default()
    };
    let mut questions = Vec::new();
    let account = name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'));
    match account {
        Some((namespace, account)) => questions.push(ask("", "serviceaccounts", "", namespace, account)),
        None => questions.push(ask("", "users", "", "", &name)),
    }
    questions.extend(groups.iter().map(|g| ask("", "groups", "", "", g)));
    if !uid.is_empty() {
        questions.push(ask("authentication.k8s.io", "uids", "", "", &uid));
    }
    for (key, values) in &extra {
        questions.extend(values.iter().map(|v| ask("authentication.k8s.io", "userextras", key, "", v)));
    }
    for question in &questions {
        authorize(server, &user, question).await?;
    }
    let mut as_user = match account {
        Some((namespace, account)) if groups.is_empty() => UserInfo::service_account(namespace, account),
        _ => UserInfo { name: name.clone(), groups, ..UserInfo::default() },
    };
    as_user.uid = uid;
    as_user.extra = extra;
    if name == "system:anonymous" {
        if !as_user.in_group(UNAUTHENTICATED) {
            as_user.groups.push(UNAUTHENTICATED.into());
        }
    } else if !as_user.in_group(AUTHENTICATED) && !as_user.in_group(UNAUTHENTICATED) {
        as_user.groups.push(AUTHENTICATED.into());
    }
    for header in names {
        parts.headers.remove(header);
    }
    Ok(as_user)
}
