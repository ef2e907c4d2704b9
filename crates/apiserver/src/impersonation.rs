//! Impersonation (`endpoints/filters/impersonation`): a user who may, acts as another.
//!
//! Differs from upstream: the verbs of constrained impersonation (KEP 5284) are not asked for.

use std::collections::BTreeMap;

use http::request::Parts;
use orkd_api::field::quote;
use orkd_api::status::Status;

use crate::handler::authorize;
use crate::pipeline::ApiServer;
use crate::route::RequestInfo;
use crate::user::{AUTHENTICATED, UNAUTHENTICATED, UserInfo};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

fn is_ours(header: &str) -> bool {
    matches!(header, USER | GROUP | UID) || header.starts_with(EXTRA)
}

/// Whether a request asks to act as another.
pub fn is_asked_for(parts: &Parts) -> bool {
    parts.headers.keys().any(|k| is_ours(k.as_str()))
}

/// The answer to those who ask for facts about a user whom they do not name; the facts are shown as Go shows them.
fn without_a_name(uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> Status {
    let strings = |list: &[String]| {
        let quoted: Vec<String> = list.iter().map(|s| quote(s)).collect();
        format!("[]string{{{}}}", quoted.join(", "))
    };
    let groups = if groups.is_empty() { "[]string(nil)".to_owned() } else { strings(groups) };
    let entries: Vec<String> = extra.iter().map(|(k, v)| format!("{}:{}", quote(k), strings(v))).collect();
    let extra = match entries.is_empty() {
        true => "map[string][]string(nil)".to_owned(),
        false => format!("map[string][]string{{{}}}", entries.join(", ")),
    };
    Status::bad_request(format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{groups}, Extra:{extra}}} without impersonating a user name",
        quote(uid)
    ))
}

/// The user to go on as: the one named by headers, if the asking one may act as him and as each of his groups. The
/// headers are taken off.
pub async fn impersonate(server: &ApiServer, user: UserInfo, parts: &mut Parts) -> Result<UserInfo, Status> {
    let names: Vec<_> = parts.headers.keys().filter(|k| is_ours(k.as_str())).cloned().collect();
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
        // An empty name or UID alone asks for nothing.
        let asks = !uid.is_empty() || !groups.is_empty() || !extra.is_empty();
        return if asks { Err(without_a_name(&uid, &groups, &extra)) } else { Ok(user) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_need_a_name() {
        let groups = ["dev".to_owned(), "ops".to_owned()];
        let extra = BTreeMap::from([("scopes".to_owned(), vec!["a".to_owned()])]);
        for (uid, groups, extra, expected) in [
            ("", &groups[..1], BTreeMap::new(), "UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)}"),
            (
                "u",
                &groups[..],
                extra,
                "UID:\"u\", Groups:[]string{\"dev\", \"ops\"}, Extra:map[string][]string{\"scopes\":[]string{\"a\"}}}",
            ),
            ("u", &groups[..0], BTreeMap::new(), "UID:\"u\", Groups:[]string(nil), Extra:map[string][]string(nil)}"),
        ] {
            let status = without_a_name(uid, groups, &extra);
            let text = format!("requested &user.DefaultInfo{{Name:\"\", {expected} without impersonating a user name");
            assert_eq!((status.code, &*status.reason, status.message), (400, "BadRequest", text));
        }
    }
}
