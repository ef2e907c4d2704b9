//! What expressions see of a request (`admission/plugin/cel/activation.go`, `condition.go`).

use orkd_cel::library::authorizer::{Answers, Question};
use orkd_cel::{Bindings, Value as CelValue};
use serde_json::{Map, Value, json};

use super::asked::{Asked, BodyKind, Door};
use crate::user::UserInfo;

/// Puts texts into an object, those that are not empty.
fn put_texts(map: &mut Map<String, Value>, texts: &[(&str, &str)]) {
    for (name, text) in texts.iter().filter(|(_, text)| !text.is_empty()) {
        map.insert((*name).to_owned(), (*text).into());
    }
}

fn kind(kind: &BodyKind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

fn resource(door: &Door) -> Value {
    json!({"group": door.group, "version": door.version, "resource": door.resource})
}

/// A user, as `authentication.k8s.io/v1.UserInfo`.
pub fn user_info(user: &UserInfo) -> Value {
    let mut map = Map::new();
    put_texts(&mut map, &[("username", &user.name), ("uid", &user.uid)]);
    if !user.groups.is_empty() {
        map.insert("groups".into(), json!(user.groups));
    }
    if !user.extra.is_empty() {
        map.insert("extra".into(), json!(user.extra));
    }
    Value::Object(map)
}

/// `AdmissionRequest` without its objects: what webhooks are sent and expressions see as `request`. `door` is the one
/// that rules found the request at.
pub fn request(asked: &Asked<'_>, door: &Door, uid: &str, user: &UserInfo, options: &Value, dry_run: bool) -> Value {
    let mut map = Map::new();
    map.insert("uid".into(), uid.into());
    map.insert("kind".into(), kind(&door.body));
    map.insert("resource".into(), resource(door));
    map.insert("requestKind".into(), kind(&asked.own.body));
    map.insert("requestResource".into(), resource(&asked.own));
    let texts = [
        ("subResource", asked.subresource),
        ("requestSubResource", asked.subresource),
        ("name", asked.name),
        ("namespace", asked.namespace),
    ];
    put_texts(&mut map, &texts);
    map.insert("operation".into(), asked.operation.as_str().into());
    map.insert("userInfo".into(), user_info(user));
    map.insert("dryRun".into(), dry_run.into());
    map.insert("options".into(), options.clone());
    Value::Object(map)
}

/// What expressions see of a namespace (`cel.CreateNamespaceObject`).
pub fn namespace(object: &Value) -> Value {
    const METADATA: [&str; 12] = [
        "name",
        "generateName",
        "namespace",
        "uid",
        "resourceVersion",
        "generation",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "labels",
        "annotations",
        "finalizers",
    ];
    let known = |field: &&str| object["metadata"].get(*field).map(|v| ((*field).to_owned(), v.clone()));
    let metadata: Map<String, Value> = METADATA.iter().filter_map(known).collect();
    let part = |name: &str| object.get(name).cloned().unwrap_or_else(|| json!({}));
    json!({"metadata": metadata, "spec": part("spec"), "status": part("status")})
}

/// The values of the variables of an expression.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The object; null when it is deleted.
    pub object: &'a Value,
    /// The object before; null when it is created.
    pub old: &'a Value,
    /// See [`request`].
    pub request: &'a Value,
    /// See [`namespace`]; null for what is in none.
    pub namespace: &'a Value,
    /// Parameters; null without.
    pub params: &'a Value,
}

impl<'a> Input<'a> {
    /// All but the authorizer.
    pub fn bindings(&self) -> Bindings<'a> {
        Bindings::new()
            .with("object", self.object)
            .with("oldObject", self.old)
            .with("request", self.request)
            .with("namespaceObject", self.namespace)
            .with("params", self.params)
    }

    /// All of them.
    pub fn bindings_with(&self, answers: &Answers) -> Bindings<'a> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let resource = &self.request["requestResource"];
        let about = Question {
            group: text(&resource["group"]),
            resource: text(&resource["resource"]),
            subresource: text(&self.request["requestSubResource"]),
            namespace: text(&self.request["namespace"]),
            name: text(&self.request["name"]),
            ..Question::default()
        };
        let about: CelValue<'a> = answers.about(about);
        self.bindings().with("authorizer", answers.authorizer()).with("authorizer.requestResource", about)
    }
}

#[cfg(test)]
mod tests {
    use super::super::rules::tests::asked;
    use super::*;
    use crate::admission::Operation;

    #[test]
    fn requests_are_upstreams() {
        let asked = asked(Operation::Update, "apps/v1/deployments:scale", "n");
        let user = UserInfo { uid: "7".into(), ..UserInfo::new("ann", &["dev"]) };
        let options = json!({"kind": "UpdateOptions"});
        let seen = request(&asked, &asked.own, "u", &user, &options, true);
        let (kind, resource) = (
            json!({"group": "apps", "version": "v1", "kind": "Kind"}),
            json!({"group": "apps", "version": "v1", "resource": "deployments"}),
        );
        assert_eq!(
            seen,
            json!({
                "uid": "u", "kind": kind, "resource": resource, "requestKind": kind, "requestResource": resource,
                "subResource": "scale", "requestSubResource": "scale", "name": "x", "namespace": "n",
                "operation": "UPDATE", "dryRun": true, "options": options,
                "userInfo": {"username": "ann", "uid": "7", "groups": ["dev", "system:authenticated"]},
            })
        );
    }

    #[test]
    fn namespaces_are_shown_without_their_managers() {
        let object = json!({"apiVersion": "v1", "metadata": {"name": "n", "labels": {"a": "b"}, "managedFields": [1]},
            "spec": {"finalizers": ["kubernetes"]}});
        let seen = json!({"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"finalizers": ["kubernetes"]},
            "status": {}});
        assert_eq!(namespace(&object), seen);
    }
}
