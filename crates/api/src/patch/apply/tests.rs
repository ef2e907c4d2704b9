//! Stories of several writers, and properties of apply.

use proptest::prelude::*;
use serde_json::json;

use super::versions::{Form, View};
use super::*;
use crate::kind::Kind;
use crate::patch::testing::node;

/// One object and the writes to it.
struct Story {
    ty: &'static str,
    api_version: &'static str,
    kind: &'static str,
    versions: Option<&'static dyn Versions>,
    object: Option<Value>,
    seconds: i64,
}

impl Story {
    fn of(ty: &'static str, api_version: &'static str) -> Self {
        let (_, kind) = ty.split_once('.').expect("a kind");
        Story { ty, api_version, kind, versions: None, object: None, seconds: 0 }
    }

    fn deployment() -> Self {
        Self::of("apps/v1.Deployment", "apps/v1")
    }

    fn config_map() -> Self {
        Self::of("core/v1.ConfigMap", "v1")
    }

    /// The context of the next write, a second after the last.
    fn cx<'a>(&mut self, manager: &'a str, subresource: Option<&'a str>) -> Cx<'a> {
        self.seconds += 1;
        Cx {
            node: node(self.ty),
            api_version: self.api_version,
            kind: self.kind,
            manager,
            subresource,
            reset_fields: if subresource.is_some() { &[&["spec"]] } else { &[&["status"]] },
            versions: self.versions,
            now: Timestamp::from_second(1_767_225_600 + self.seconds).expect("a time"),
        }
    }

    fn with_type(&self, mut body: Value) -> Value {
        body["apiVersion"] = self.api_version.into();
        body["kind"] = self.kind.into();
        body["metadata"]["name"] = "x".into();
        body
    }

    fn store(&mut self, mut object: Value) -> &mut Self {
        object["metadata"]["uid"] = "1".into();
        self.object = Some(object);
        self
    }

    fn try_apply(&mut self, manager: &str, body: Value, force: bool) -> Result<&mut Self, Status> {
        let cx = self.cx(manager, None);
        let applied = self.with_type(body);
        let object = apply(&cx, self.object.as_ref(), &applied, force)?;
        Ok(self.store(object))
    }

    #[track_caller]
    fn apply(&mut self, manager: &str, body: Value) -> &mut Self {
        self.try_apply(manager, body, false).expect("it applies")
    }

    fn update_through(&mut self, manager: &str, subresource: Option<&str>, body: Value) -> &mut Self {
        let cx = self.cx(manager, subresource);
        let mut new = self.with_type(body);
        if self.object.is_some() {
            new["metadata"]["uid"] = "1".into();
        }
        update(&cx, self.object.as_ref(), &mut new);
        self.store(new)
    }

    fn update(&mut self, manager: &str, body: Value) -> &mut Self {
        self.update_through(manager, None, body)
    }

    /// An update that edits what is there.
    fn edit(&mut self, manager: &str, edit: impl FnOnce(&mut Value)) -> &mut Self {
        let mut body = self.object.clone().expect("an object");
        edit(&mut body);
        self.update(manager, body)
    }

    fn object(&self) -> &Value {
        self.object.as_ref().expect("an object")
    }

    #[track_caller]
    fn has(&mut self, pointer: &str, want: Value) -> &mut Self {
        assert_eq!(self.object().pointer(pointer).unwrap_or(&Value::Null), &want, "{pointer}");
        self
    }

    /// The managers as lines of name, operation, second, subresource and fields.
    #[track_caller]
    fn managed(&mut self, want: &[&str]) -> &mut Self {
        let managed = Managed::of(self.object()).expect("well-formed").encode();
        assert_eq!(managed.as_ref(), self.object()["metadata"].get("managedFields"), "sorted");
        let lines: Vec<String> = managed
            .as_ref()
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().unwrap_or("-").to_owned();
                let set = Set::from_value(&entry["fieldsV1"]).expect("field paths");
                let paths: Vec<String> = set.leaves().paths().iter().map(|p| set::path_text(p)).collect();
                let time = text("time").replace("2026-01-01T00:00:", "").replace('Z', "s");
                format!("{} {} {time} {} {}", text("manager"), text("operation"), text("subresource"), paths.join(" "))
            })
            .collect();
        assert_eq!(lines, want);
        self
    }
}

fn replicas(n: i64) -> Value {
    json!({"spec": {"replicas": n}})
}

#[test]
fn a_create_owns_what_it_sets() {
    let mut story = Story::deployment();
    story.update(
        "kubectl-create",
        json!({
            "metadata": {"labels": {"app": "x"}},
            "spec": {
                "replicas": 1, "selector": {"matchLabels": {"app": "x"}},
                "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%"}},
                "template": {
                    "metadata": {"labels": {"app": "x"}},
                    "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
                },
            },
        }),
    );
    // As a v1.36 server writes it.
    assert_eq!(
        story.object()["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "2026-01-01T00:00:01Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                "f:spec": {
                    "f:replicas": {}, "f:selector": {},
                    "f:strategy": {"f:rollingUpdate": {".": {}, "f:maxSurge": {}}, "f:type": {}},
                    "f:template": {
                        "f:metadata": {"f:labels": {".": {}, "f:app": {}}},
                        "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {
                            ".": {}, "f:image": {}, "f:name": {}, "f:resources": {},
                            "f:ports": {
                                ".": {},
                                "k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}},
                            },
                        }}},
                    },
                },
            },
        }])
    );
}

#[test]
fn an_apply_owns_what_it_says_and_drops_what_it_no_longer_says() {
    Story::config_map()
        .apply("a", json!({"data": {"one": "1", "two": "2"}}))
        .managed(&["a Apply 01s - .data.one .data.two"])
        .apply("a", json!({"data": {"two": "2"}}))
        .has("/data", json!({"two": "2"}))
        .managed(&["a Apply 02s - .data.two"])
        .apply("a", json!({}))
        .has("/data", Value::Null)
        .managed(&[]);
}

#[test]
fn two_appliers_share_a_map() {
    Story::config_map()
        .apply("a", json!({"data": {"one": "1", "both": "x"}}))
        .apply("b", json!({"data": {"two": "2", "both": "x"}}))
        .managed(&["a Apply 01s - .data.both .data.one", "b Apply 02s - .data.both .data.two"])
        .apply("a", json!({"data": {}}))
        .has("/data", json!({"two": "2", "both": "x"}))
        .apply("b", json!({"data": {"both": "x"}}))
        .has("/data", json!({"both": "x"}))
        .managed(&["b Apply 04s - .data.both", "a Apply 03s - .data"].into_iter().rev().collect::<Vec<_>>());
}

#[test]
fn conflicts_name_the_owner() {
    let mut story = Story::deployment();
    story.update("kubectl-client-side-apply", replicas(1));
    let error = story.try_apply("b", replicas(2), false).err().expect("a conflict");
    assert_eq!(
        error.to_value(),
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 409,
            "reason": "Conflict",
            "message": "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: \
                        .spec.replicas",
            "details": {"causes": [{
                "reason": "FieldManagerConflict", "field": ".spec.replicas",
                "message": "conflict with \"kubectl-client-side-apply\" using apps/v1",
            }]},
        })
    );
    story
        .apply("c", replicas(1))
        .managed(&["c Apply 03s - .spec.replicas", "kubectl-client-side-apply Update 01s - .spec.replicas"]);
    let error = story.try_apply("b", json!({"spec": {"replicas": 2, "paused": true}}), false).err().expect("conflicts");
    assert_eq!(
        error.message,
        "Apply failed with 2 conflicts: conflicts with \"c\":\n- .spec.replicas\n\
         conflicts with \"kubectl-client-side-apply\" using apps/v1:\n- .spec.replicas"
    );
    story.try_apply("b", replicas(2), true).expect("by force").managed(&["b Apply 05s - .spec.replicas"]);
}

#[test]
fn a_subresource_is_another_manager() {
    let mut story = Story::deployment();
    story
        .update("kubelet", replicas(1))
        .update_through("kubelet", Some("status"), json!({"spec": {"replicas": 1}, "status": {"replicas": 3}}))
        .managed(&["kubelet Update 01s - .spec.replicas", "kubelet Update 02s status .status.replicas"]);
    let cx = Cx { reset_fields: &[], ..story.cx("b", None) };
    let applied = story.with_type(json!({"status": {"replicas": 4}}));
    let error = apply(&cx, story.object.as_ref(), &applied, false).expect_err("a conflict");
    assert_eq!(
        error.message,
        "Apply failed with 1 conflict: conflict with \"kubelet\" with subresource \"status\" using apps/v1: \
         .status.replicas"
    );
    // What this way in resets is nobody's.
    story.apply("c", json!({"status": {"replicas": 4}, "spec": {"replicas": 1}})).managed(&[
        "c Apply 04s - .spec.replicas",
        "kubelet Update 01s - .spec.replicas",
        "kubelet Update 02s status .status.replicas",
    ]);
}

#[test]
fn an_update_takes_what_it_changes() {
    Story::config_map()
        .apply("a", json!({"data": {"one": "1", "two": "2"}}))
        .edit("u", |o| o["data"]["one"] = "x".into())
        .managed(&["a Apply 01s - .data.two", "u Update 02s - .data.one"])
        // An update that changes nothing leaves owners and times alone.
        .edit("v", |_| {})
        .managed(&["a Apply 01s - .data.two", "u Update 02s - .data.one"])
        .edit("v", |o| o["data"] = json!({"two": "2"}))
        .managed(&["a Apply 01s - .data.two"])
        .edit("u", |o| o["metadata"]["labels"] = json!({"l": "1"}))
        .edit("u", |o| o["metadata"]["annotations"] = json!({"n": "1"}))
        .managed(&["a Apply 01s - .data.two", "u Update 06s - .metadata.annotations.n .metadata.labels.l"]);
}

#[test]
fn an_apply_without_a_change_is_no_write() {
    let mut story = Story::deployment();
    story.apply("a", replicas(1));
    let before = story.object().clone();
    story.apply("a", replicas(1));
    assert_eq!(story.object(), &before);
    // The same with a value written otherwise: the merge sees a change, the stored object has none.
    let mut after = before.clone();
    after["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z".into();
    keep_times(&before, &mut after);
    assert_eq!(after, before);
    let mut changed = before.clone();
    changed["metadata"]["managedFields"][0]["time"] = "2027-01-01T00:00:00Z".into();
    changed["spec"]["replicas"] = 2.into();
    let wanted = changed.clone();
    keep_times(&before, &mut changed);
    assert_eq!(changed, wanted);
}

#[test]
fn the_first_apply_finds_owners_for_what_was_there() {
    let mut story = Story::config_map();
    let bare = story.with_type(json!({"data": {"one": "1"}}));
    story.store(bare);
    // Nobody manages the object, and updates leave it so.
    story.edit("u", |o| o["data"]["two"] = "2".into()).managed(&[]);
    story
        .apply("a", json!({"data": {"one": "1"}}))
        .managed(&["a Apply 02s - .data.one", "before-first-apply Update 02s - .data.one .data.two"]);
}

#[test]
fn clients_may_clear_and_may_not_spoil_managed_fields() {
    for reset in [json!([]), json!([{}])] {
        Story::config_map()
            .apply("a", json!({"data": {"one": "1"}}))
            .edit("u", |o| o["metadata"]["managedFields"] = reset)
            .managed(&[])
            .has("/metadata/managedFields", Value::Null);
    }
    for spoilt in [json!([{"manager": "a"}]), json!("x"), json!([{"operation": "Apply", "fieldsType": "x"}])] {
        Story::config_map()
            .apply("a", json!({"data": {"one": "1"}}))
            .edit("u", |o| o["metadata"]["managedFields"] = spoilt)
            .managed(&["a Apply 01s - .data.one"]);
    }
    Story::config_map()
        .apply("a", json!({"data": {"one": "1"}}))
        .edit("u", |o| o["metadata"]["managedFields"][0]["manager"] = "renamed".into())
        .managed(&["renamed Apply 01s - .data.one"])
        .edit("u", |o| {
            o["metadata"].as_object_mut().expect("metadata").remove("managedFields");
        })
        .managed(&["renamed Apply 01s - .data.one"]);
}

#[test]
fn admission_may_edit_and_may_not_spoil_managed_fields() {
    let mut story = Story::config_map();
    story.apply("a", json!({"data": {"one": "1"}}));
    let stood = story.object()["metadata"]["managedFields"].clone();
    let after = |edit: fn(&mut Value)| {
        let mut object = story.object().clone();
        edit(&mut object["metadata"]["managedFields"]);
        let warning = after_admission(Some(&stood), &mut object);
        (warning, object["metadata"]["managedFields"].clone())
    };
    assert_eq!(after(|_| {}), (None, stood.clone()));
    let (warning, fields) = after(|list| list[0]["manager"] = "renamed".into());
    assert_eq!((warning, &fields[0]["manager"]), (None, &json!("renamed")));
    let (warning, fields) = after(|list| list[0]["fieldsType"] = "".into());
    assert_eq!(fields, stood);
    assert_eq!(
        warning.as_deref(),
        Some(
            ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated \
             mutating admission controller; please fix your requests: missing fieldsType in managed fields entry 0"
        )
    );
}

#[test]
fn lists_are_owned_by_element() {
    let pod = |containers: Value| json!({"spec": {"template": {"spec": {"containers": containers}}}});
    let c = "/spec/template/spec/containers";
    Story::deployment()
        .apply("a", pod(json!([{"name": "app", "image": "1", "ports": [{"containerPort": 80}]}])))
        .edit("injector", |o| {
            o["spec"]["template"]["spec"]["containers"] = json!([
                {"name": "app", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP"}]},
                {"name": "sidecar", "image": "s"},
            ]);
        })
        .apply("a", pod(json!([{"name": "app", "image": "2", "ports": [{"containerPort": 81}]}])))
        .has(
            c,
            json!([
                {"name": "app", "image": "2", "ports": [{"containerPort": 81}]},
                {"name": "sidecar", "image": "s"},
            ]),
        )
        .apply("a", pod(json!([])))
        .has(c, json!([{"name": "sidecar", "image": "s"}]));
}

#[test]
fn kubectl_takes_over_from_its_client_side_apply() {
    let last = |n: i64| {
        let object =
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"replicas": n}});
        json!({"metadata": {"annotations": {LAST_APPLIED: format!("{object}\n")}}, "spec": {"replicas": n}})
    };
    let mut story = Story::deployment();
    story.update("kubectl-client-side-apply", last(1));
    assert_eq!(story.try_apply("other", replicas(2), false).err().expect("a conflict").code, 409);
    story
        .apply("kubectl", replicas(2))
        .has("/spec/replicas", 2.into())
        .has(
            "/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration",
            "{\"apiVersion\":\"apps/v1\",\"kind\":\"Deployment\",\"metadata\":{\"name\":\"x\"},\
             \"spec\":{\"replicas\":2}}\n"
                .into(),
        )
        .managed(&[
            "kubectl Apply 03s - .spec.replicas",
            &format!("kubectl-client-side-apply Update 01s - .metadata.annotations.{LAST_APPLIED}"),
        ]);

    // What has been changed since is in conflict all the same.
    let mut story = Story::deployment();
    story.update("kubectl-client-side-apply", last(1)).edit("hpa", |o| o["spec"]["replicas"] = 5.into());
    let error = story.try_apply("kubectl", replicas(2), false).err().expect("a conflict");
    assert_eq!(error.message, "Apply failed with 1 conflict: conflict with \"hpa\" using apps/v1: .spec.replicas");
}

#[test]
fn bad_configurations_get_upstreams_errors() {
    let check = |applied: Value, code: u16, reason: &str, message: &str| {
        let cx = Story::deployment().cx("a", None);
        let error = apply(&cx, None, &applied, false).expect_err("refused");
        assert_eq!((error.code, &*error.reason, error.message.as_str()), (code, reason, message));
    };
    check(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}),
        400,
        "BadRequest",
        "invalid object type: /v1, Kind=Pod",
    );
    let deployment = |more: Value| {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment"});
        object.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        object
    };
    check(
        deployment(json!({"metadata": {"managedFields": []}})),
        400,
        "BadRequest",
        "metadata.managedFields must be nil",
    );
    check(
        deployment(json!({"metadata": {"name": "x", "namespace": "ns"}, "spec": {"nope": 1}})),
        500,
        "",
        "failed to create typed patch object (ns/x; apps/v1, Kind=Deployment): .spec.nope: field not declared in schema",
    );
}

#[test]
fn an_update_of_another_version_keeps_entries_as_they_are() {
    let mut story = Story::config_map();
    story.update("a", json!({"data": {"one": "1"}}));
    let mut other = story.object()["metadata"]["managedFields"][0].clone();
    other["apiVersion"] = "v0".into();
    story.edit("a", |o| {
        o["metadata"]["managedFields"] = json!([other]);
        o["data"]["one"] = "2".into();
    });
    story.managed(&["a Update 01s - .data.one", "a Update 02s - .data.one"]);
}

/// Autoscalers: v1 knows less of them, and says it otherwise.
struct Autoscalers;

impl Versions for Autoscalers {
    fn view(&self, object: &Value, from: &str, to: &str) -> View<'_> {
        const BEFORE: crate::autoscaling::v1::HorizontalPodAutoscaler = crate::autoscaling::v1::HorizontalPodAutoscaler;
        let mut object = object.clone();
        match (from, to) {
            ("autoscaling/v1", "autoscaling/v2") => BEFORE.to_storage(&mut object),
            ("autoscaling/v2", "autoscaling/v1") => BEFORE.to_served(&mut object),
            (from, to) if from == to => {}
            _ => return View::Gone,
        }
        let node = Node::of_kind("autoscaling", &to[12..], "HorizontalPodAutoscaler").expect("a kind");
        View::Of(Form { object, node, reset_fields: &[&["status"]] })
    }
}

/// An autoscaler, written in version 2 first.
fn autoscaler() -> Story {
    Story { versions: Some(&Autoscalers), ..Story::of("autoscaling/v2.HorizontalPodAutoscaler", "autoscaling/v2") }
}

impl Story {
    /// Goes on in another version.
    fn turned(&mut self, ty: &'static str, api_version: &'static str) -> &mut Self {
        if let View::Of(form) = Autoscalers.view(self.object(), self.api_version, api_version) {
            self.object = Some(form.object);
        }
        (self.ty, self.api_version) = (ty, api_version);
        self
    }

    fn in_v1(&mut self) -> &mut Self {
        self.turned("autoscaling/v1.HorizontalPodAutoscaler", "autoscaling/v1")
    }

    fn in_v2(&mut self) -> &mut Self {
        self.turned("autoscaling/v2.HorizontalPodAutoscaler", "autoscaling/v2")
    }
}

/// 50% of the processors, as version 2 says it.
fn half() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": 50});
    json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}])
}

#[test]
fn what_is_owned_in_another_version_is_in_conflict_there() {
    let mut story = autoscaler();
    story.apply("a", json!({"spec": {"maxReplicas": 5, "metrics": half()}})).in_v1();
    let refused = |story: &mut Story, body: Value| {
        let error = story.try_apply("b", body, false).err().expect("a conflict");
        error.message
    };
    let one = "Apply failed with 1 conflict: conflict with \"a\": ";
    assert_eq!(refused(&mut story, json!({"spec": {"maxReplicas": 7}})), format!("{one}.spec.maxReplicas"));
    // The fields are called as their owner calls them.
    let percent = json!({"spec": {"targetCPUUtilizationPercentage": 60}});
    assert_eq!(refused(&mut story, percent.clone()), format!("{one}.spec.metrics"));
    story
        .apply("b", json!({"spec": {"maxReplicas": 5}}))
        .try_apply("b", percent, true)
        .expect("by force")
        .managed(&["a Apply 01s - .spec.maxReplicas", "b Apply 05s - .spec.targetCPUUtilizationPercentage"]);
}

#[test]
fn an_update_takes_what_it_changes_from_owners_in_other_versions() {
    autoscaler()
        .update("u", json!({"spec": {"minReplicas": 1, "maxReplicas": 5, "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}))
        .in_v1()
        .edit("v", |o| o["spec"]["minReplicas"] = 2.into())
        .managed(&[
            "u Update 01s - .spec.maxReplicas .spec.scaleTargetRef.kind .spec.scaleTargetRef.name",
            "v Update 02s - .spec.minReplicas",
        ])
        .in_v2()
        .edit("w", |o| o["spec"]["minReplicas"] = 3.into())
        .managed(&[
            "u Update 01s - .spec.maxReplicas .spec.scaleTargetRef.kind .spec.scaleTargetRef.name",
            "w Update 03s - .spec.minReplicas",
        ]);
}

#[test]
fn an_applier_that_changes_its_version_leaves_nothing_behind() {
    autoscaler()
        .apply("a", json!({"spec": {"minReplicas": 2, "maxReplicas": 5, "metrics": half()}}))
        .apply("b", json!({"spec": {"minReplicas": 2}}))
        .in_v1()
        .has("/spec/targetCPUUtilizationPercentage", 50.into())
        .apply("a", json!({"spec": {"maxReplicas": 5}}))
        .has("/spec/targetCPUUtilizationPercentage", Value::Null)
        .has("/spec/minReplicas", 2.into())
        .managed(&["b Apply 02s - .spec.minReplicas", "a Apply 03s - .spec.maxReplicas"])
        .in_v2()
        .has("/spec/metrics", Value::Null);
}

#[test]
fn who_owned_in_a_version_that_is_gone_owns_nothing() {
    let mut story = autoscaler();
    story.apply("a", json!({"spec": {"maxReplicas": 5}})).apply("b", json!({"spec": {"minReplicas": 2}}));
    let mut object = story.object().clone();
    object["metadata"]["managedFields"][0]["apiVersion"] = "autoscaling/v2beta2".into();
    story.store(object.clone());
    story.edit("u", |_| {}).managed(&["b Apply 02s - .spec.minReplicas"]);
    // Nor is anything taken away that it had applied.
    story.store(object);
    story.apply("a", json!({"spec": {"minReplicas": 2}})).has("/spec/maxReplicas", 5.into());
}

/// Config maps, small.
fn any_data() -> impl Strategy<Value = Value> {
    let map = |values: &'static str| prop::collection::btree_map("[a-c]", values, 0..3);
    (map("[xy]"), map("[xy]"), prop::collection::btree_set("[f-h]", 0..3)).prop_map(
        |(data, labels, finalizers)| json!({"data": data, "metadata": {"labels": labels, "finalizers": finalizers}}),
    )
}

/// Whether a path is that of an entry of a map or an element of a list.
fn is_entry(path: &str) -> bool {
    [".data.", ".metadata.labels.", ".metadata.finalizers["].iter().any(|p| path.starts_with(p))
}

/// The entries of maps and elements of lists of a config map.
fn entries(body: &Value) -> Vec<String> {
    let set = field_set::field_set(Some(node("core/v1.ConfigMap")), body);
    set.paths().iter().map(|p| set::path_text(p)).filter(|p| is_entry(p)).collect()
}

proptest! {
    #[test]
    fn apply_is_idempotent(before in any_data(), body in any_data()) {
        let mut story = Story::config_map();
        story.update("u", before);
        story.try_apply("a", body.clone(), true).expect("by force");
        let once = story.object().clone();
        story.try_apply("a", body, false).expect("nothing changes");
        prop_assert_eq!(story.object(), &once);
    }

    #[test]
    fn dropping_fields_leaves_what_others_own(other in any_data(), first in any_data(), second in any_data()) {
        let mut story = Story::config_map();
        story.apply("b", other.clone());
        story.try_apply("a", first, true).expect("by force");
        let owned = |story: &Story, manager: &str| -> Set {
            let managed = Managed::of(story.object()).expect("well-formed");
            managed.iter().find(|(id, _)| id.manager == manager).map(|(_, m)| m.fields.clone()).unwrap_or_default()
        };
        let others = owned(&story, "b");
        if story.try_apply("a", second.clone(), false).is_ok() {
            // Nothing of another manager is gone, everything applied is there, and nothing else.
            let present = entries(story.object());
            let wanted = entries(&second);
            let kept: Vec<String> = others.paths().iter().map(|p| set::path_text(p)).filter(|p| is_entry(p)).collect();
            for path in kept.iter().chain(&wanted) {
                prop_assert!(present.contains(path), "{path} is gone");
            }
            for path in &present {
                prop_assert!(kept.contains(path) || wanted.contains(path), "{path} is nobody's");
            }
        }
    }

    #[test]
    fn an_unowned_field_stays(live in any_data(), body in any_data()) {
        let mut story = Story::config_map();
        let live = story.with_type(live);
        story.store(live.clone());
        story.try_apply("a", body.clone(), true).expect("by force");
        let after = entries(story.object());
        for path in entries(&live) {
            prop_assert!(after.contains(&path), "{path} is gone");
        }
    }

    #[test]
    fn nothing_panics(
        live in crate::patch::testing::any_json(),
        new in crate::patch::testing::any_json(),
        managed in crate::patch::testing::any_json(),
    ) {
        let mut story = Story::deployment();
        let cx = story.cx("a", None);
        let mut object = new.clone();
        update(&cx, Some(&live), &mut object);
        keep_times(&live, &mut object);
        let live = json!({"metadata": {"managedFields": managed, "uid": "1"}, "spec": live});
        let spec = json!({"template": {"spec": new}});
        let mut object = json!({"metadata": {}, "spec": spec});
        update(&cx, Some(&live), &mut object);
        let _ = apply(&cx, Some(&live), &story.with_type(json!({"metadata": {}, "spec": spec})), true);
        let _ = apply(&cx, Some(&object), &story.with_type(json!({"metadata": {}, "spec": live})), false);
    }
}

/// What the server makes of the result of an apply or patch before it compares and stores it.
fn normal(mut object: Value) -> Value {
    let ty = crate::schema::Type::of_api_version("v1", "Pod").expect("a type");
    crate::codec::normalize(&mut object, ty, crate::codec::Strictness::Strict).expect("it decodes");
    crate::codec::apply_schema_defaults(&mut object, ty);
    object
}

#[test]
fn values_written_otherwise_are_no_write() {
    let mut story = Story::of("core/v1.Pod", "v1");
    let body = story.with_type(json!({
        "metadata": {"labels": {"a": "b"}, "creationTimestamp": null},
        "spec": {"containers": [{
            "name": "c", "image": "i", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1000m"}}, "args": null,
        }]},
        "status": {},
    }));
    let cx = story.cx("a", None);
    let created = normal(apply(&cx, None, &body, false).expect("it applies"));
    story.store(created.clone());
    let stored = story.object().clone();
    assert_eq!(stored["spec"]["containers"][0]["resources"], json!({"limits": {"cpu": "1"}}));
    story.managed(&[
        "a Apply 01s - .metadata.labels.a .spec.containers[name=\"c\"].args .spec.containers[name=\"c\"].image \
         .spec.containers[name=\"c\"].name .spec.containers[name=\"c\"].ports[containerPort=80,protocol=\"TCP\"]\
         .containerPort .spec.containers[name=\"c\"].resources.limits.cpu",
    ]);
    let cx = story.cx("a", None);
    let mut again = normal(apply(&cx, Some(&stored), &body, false).expect("it applies"));
    assert_ne!(again, stored, "the merge sees 1000m for 1");
    keep_times(&stored, &mut again);
    assert_eq!(again, stored);

    // An update by what was read takes nothing over, and a patch that changes nothing is no write either.
    let mut put = normal(stored.clone());
    update(&story.cx("u", None), Some(&stored), &mut put);
    assert_eq!(put, stored);
}
