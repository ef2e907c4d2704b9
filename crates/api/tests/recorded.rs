//! What a v1.36 server answered (`../shared/kubernetes-1.36/recorded`), compared with what the kinds make of the same
//! requests without the stages that need a server: admission, allocators, authorization.

use orkd_api::Value;
use orkd_api::codec::{self, Strictness};
use orkd_api::kind::{Cx, Features, Kind};
use orkd_api::object::{at, at_mut, items_mut, remove, set};
use orkd_api::schema::Type;
use orkd_api::status::Status;
use orkd_api::validate::meta::{changed_object, new_object};

fn recorded(name: &str) -> Vec<Value> {
    let root = std::env::var_os("ORKD_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    match std::fs::read(root.join("kubernetes-1.36/recorded").join(name)) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("recorded facts are JSON"),
        Err(_) => {
            eprintln!("skipped: no ../shared (recorded/{name})");
            Vec::new()
        }
    }
}

/// The uid of objects made here.
const UID: &str = "00000000-0000-0000-0000-000000000000";

/// The kind a POST addresses, if it is served.
fn addressed(path: &str) -> Option<Box<dyn Kind>> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (group, rest) = match parts.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        _ => return None,
    };
    let version = if group.is_empty() { parts.get(1) } else { parts.get(2) }?;
    let plural = match rest {
        [plural] | ["namespaces", _, plural] => *plural,
        _ => return None,
    };
    orkd_api::kinds::all()
        .into_iter()
        .find(|k| k.info().group == group && k.info().version == *version && k.info().plural == plural)
}

fn schema(kind: &dyn Kind) -> Type {
    let info = kind.info();
    Type::of_kind(&info.group, &info.version, &info.kind).expect("every kind has a schema")
}

/// Decodes, defaults and prepares a new object.
fn created(kind: &dyn Kind, cx: &Cx<'_>, request: &Value, path: &str) -> Option<Value> {
    let ty = schema(kind);
    let bytes = serde_json::to_vec(request).ok()?;
    let (mut obj, _) = codec::json::decode(&bytes, ty, Strictness::Ignore).ok()?;
    set(&mut obj, &["metadata", "uid"], UID);
    if path.contains("/namespaces/") {
        set(&mut obj, &["metadata", "namespace"], "default");
    }
    codec::apply_schema_defaults(&mut obj, ty);
    kind.default(&mut obj);
    codec::normalize(&mut obj, ty, Strictness::Ignore).ok()?;
    let once = obj.clone();
    kind.default(&mut obj);
    codec::normalize(&mut obj, ty, Strictness::Ignore).ok()?;
    assert_eq!(once, obj, "defaults of {} are not idempotent", kind.info().kind);
    kind.prepare_create(cx, &mut obj);
    codec::normalize(&mut obj, ty, Strictness::Ignore).ok()?;
    Some(obj)
}

/// Takes out of a recorded answer what admission and the allocators put there.
fn without_the_server(obj: &mut Value) {
    let kind = obj["kind"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "Pod" => {
            for field in ["priority", "preemptionPolicy", "serviceAccount", "serviceAccountName"] {
                remove(obj, &["spec", field]);
            }
            let Some(spec) = at_mut(obj, &["spec"]) else { return };
            let ours = |v: &Value| !v["name"].as_str().unwrap_or_default().starts_with("kube-api-access-");
            for list in ["containers", "initContainers"] {
                for container in items_mut(spec, list) {
                    retain(container, "volumeMounts", ours);
                }
            }
            retain(spec, "volumes", ours);
            retain(spec, "tolerations", |t| !t["key"].as_str().is_some_and(|k| k.starts_with("node.kubernetes.io/")));
        }
        "Service" => {
            let headless = at(obj, &["spec", "clusterIP"]) == "None";
            let fields: &[&str] = if headless {
                &["ipFamilies", "ipFamilyPolicy"]
            } else {
                &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort"]
            };
            for field in fields {
                remove(obj, &["spec", field]);
            }
            if let Some(spec) = at_mut(obj, &["spec"]) {
                for port in items_mut(spec, "ports") {
                    remove(port, &["nodePort"]);
                }
            }
        }
        "Node" => {
            remove(obj, &["spec", "taints"]);
        }
        // The uid of the recording.
        "Job" => {
            let uid = at(obj, &["metadata", "labels", "controller-uid"]).as_str().unwrap_or_default().to_owned();
            *obj = serde_json::from_str(&obj.to_string().replace(&uid, UID)).expect("still JSON");
        }
        // The time of the recording.
        "PersistentVolume" => {
            set(obj, &["status", "lastPhaseTransitionTime"], "1970-01-01T00:00:00Z");
            remove(obj, &["metadata", "finalizers"]);
        }
        "PersistentVolumeClaim" => {
            remove(obj, &["metadata", "finalizers"]);
        }
        _ => {}
    }
}

fn retain(obj: &mut Value, field: &str, keep: impl Fn(&Value) -> bool) {
    if let Some(list) = obj.get_mut(field).and_then(Value::as_array_mut) {
        list.retain(keep);
        if list.is_empty() {
            remove(obj, &[field]);
        }
    }
}

#[test]
fn recorded_defaults() {
    let features = Features::default();
    let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
    let (mut seen, mut bad) = (0, Vec::new());
    for case in recorded("defaulting.json") {
        let path = case["path"].as_str().unwrap_or_default();
        let kind = addressed(path).unwrap_or_else(|| panic!("not served: {}", case["case"]));
        seen += 1;
        let Some(mut ours) = created(&*kind, &cx, &case["request"], path) else {
            bad.push(format!("{}: not decoded", case["case"]));
            continue;
        };
        for field in ["generation", "uid"] {
            remove(&mut ours, &["metadata", field]);
        }
        let mut theirs = case["response"].clone();
        without_the_server(&mut theirs);
        codec::normalize(&mut theirs, schema(&*kind), Strictness::Ignore).expect("a recorded answer is an object");
        if ours != theirs {
            bad.push(format!("{}\n  ours   {ours}\n  theirs {theirs}", case["case"]));
        }
        if at(&ours, &["metadata", "name"]).is_string() {
            set(&mut ours, &["metadata", "uid"], UID);
        }
        if kind.info().kind == "Pod" {
            // Admission names the account before the pod is checked.
            set(&mut ours, &["spec", "serviceAccountName"], "default");
        }
        let problems = new_object(&*kind, &cx, &ours);
        if !problems.is_empty() && case["response"]["kind"] != "Service" {
            bad.push(format!(
                "{} is refused: {:?}",
                case["case"],
                problems.0.iter().map(ToString::to_string).collect::<Vec<_>>()
            ));
        }
    }
    eprintln!("{seen} cases");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn recorded_validation_errors() {
    let features = Features::default();
    let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
    let (mut seen, mut bad) = (0, Vec::new());
    for case in recorded("errors.json") {
        let path = case["path"].as_str().unwrap_or_default();
        // Ranges of addresses and ports are the allocators' to know.
        let allocator = matches!(case["case"].as_str(), Some("E nodeport range" | "E clusterip range"));
        if case["method"] != "POST" || case["status"] != 422 || allocator {
            continue;
        }
        let kind = addressed(path).unwrap_or_else(|| panic!("not served: {}", case["case"]));
        seen += 1;
        let obj = created(&*kind, &cx, &case["request"], path).expect("the object is well formed");
        let errs = new_object(&*kind, &cx, &obj);
        let info = kind.info();
        let name = at(&obj, &["metadata", "name"]).as_str().unwrap_or_default();
        let ours = Status::invalid(&info.group, &info.kind, name, &errs).to_value();
        let theirs = &case["response"];
        if ours["message"] != theirs["message"] || ours["details"] != theirs["details"] {
            bad.push(format!("{}\n  ours   {}\n  theirs {}", case["case"], ours["message"], theirs["message"]));
        }
    }
    eprintln!("{seen} cases");
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

#[test]
fn writing_back_what_was_read_changes_nothing() {
    let features = Features::default();
    let mut bad = Vec::new();
    for case in recorded("defaulting.json") {
        let Some(kind) = addressed(case["path"].as_str().unwrap_or_default()) else { continue };
        if kind.info().verbs == ["create"] {
            continue;
        }
        let mut old = case["response"].clone();
        // The labels of a job's pods have its own.
        let own = at(&old, &["spec", "selector", "matchLabels", "batch.kubernetes.io/controller-uid"]).clone();
        set(&mut old, &["metadata", "uid"], own.as_str().unwrap_or(UID));
        set(&mut old, &["metadata", "generation"], 3);
        let doors =
            kind.info().subresources.iter().filter(|s| s.kind == kind.info().kind && s.verbs.contains(&"update"));
        for door in std::iter::once(None).chain(doors.map(|s| Some(s.name.to_string()))) {
            let cx = Cx {
                now: jiff::Timestamp::UNIX_EPOCH,
                subresource: door.as_deref(),
                user: "test",
                features: &features,
            };
            let mut new = old.clone();
            kind.default(&mut new);
            kind.prepare_update(&cx, &mut new, &old);
            codec::normalize(&mut new, schema(&*kind), Strictness::Ignore).expect("still an object");
            let mut before = old.clone();
            codec::normalize(&mut before, schema(&*kind), Strictness::Ignore).expect("an object");
            if new != before {
                bad.push(format!("{} by {door:?}\n  new {new}\n  old {before}", case["case"]));
            }
            let errs = changed_object(&*kind, &cx, &new, &old);
            if !errs.is_empty() {
                let texts: Vec<String> = errs.0.iter().map(ToString::to_string).collect();
                bad.push(format!("{} by {door:?} is refused: {texts:?}", case["case"]));
            }
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}
