//! Built-in kinds as custom resources: with the schemas of a v1.36 server, upstream's own test objects are good objects
//! of them, nothing of them is lost, and managed fields name the same fields as those of the built-in kind.

use orkd_api::Value;
use orkd_api::codec::Strictness;
use orkd_api::custom::CustomKind;
use orkd_api::kind::{Cx, Features, Kind};
use orkd_api::patch::apply;
use orkd_api::schema::Node;
use serde_json::json;

fn fact(name: &str) -> Option<Value> {
    let root = std::env::var_os("ORKD_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    match std::fs::read(root.join("kubernetes-1.36").join(name)) {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("recorded facts are JSON")),
        Err(_) => {
            eprintln!("skipped: no ../shared ({name})");
            None
        }
    }
}

/// A schema with all it refers to in the place of the references, as a definition may have it.
fn inlined(schema: &Value, of: &Value) -> Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|r| r.rsplit('/').next()) {
        return match name.rsplit('.').next() {
            Some("IntOrString" | "Quantity") => json!({"x-kubernetes-int-or-string": true}),
            _ => inlined(&of[name], of),
        };
    }
    let Value::Object(map) = schema else { return schema.clone() };
    let mut out = map.clone();
    out.remove("default");
    out.remove("x-kubernetes-group-version-kind");
    for (key, value) in &mut out {
        match key.as_str() {
            "properties" => {
                value.as_object_mut().into_iter().flatten().for_each(|(_, v)| *v = inlined(v, of));
            }
            "items" | "additionalProperties" => *value = inlined(value, of),
            _ => {}
        }
    }
    Value::Object(out)
}

/// The kind made of a built-in one.
fn custom(document: &str, name: &str) -> Option<CustomKind> {
    let document = fact(document)?;
    let schemas = &document["components"]["schemas"];
    let mut schema = inlined(&schemas[name], schemas);
    schema["properties"].as_object_mut()?.remove("metadata");
    let kind = name.rsplit('.').next()?;
    let definition = json!({"metadata": {"name": "x.ex.io"}, "spec": {"group": "ex.io", "scope": "Namespaced",
        "names": {"kind": kind, "plural": "x"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
    Some(CustomKind::new(&definition, "v1").expect("a kind"))
}

fn managed(node: Node<'_>, api_version: &str, kind: &str, object: &Value) -> Value {
    let cx = apply::Cx {
        node,
        api_version,
        kind,
        manager: "m",
        subresource: None,
        reset_fields: &[],
        versions: None,
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    let mut object = object.clone();
    object["metadata"] = json!({"name": "n"});
    apply::update(&cx, None, &mut object);
    let mut fields = object["metadata"]["managedFields"][0]["fieldsV1"]["f:spec"].clone();
    without_dots(&mut fields);
    fields
}

/// A struct of a built-in type is there before anything is written into it; an object of a custom one is not.
fn without_dots(fields: &mut Value) {
    for (_, below) in fields.as_object_mut().into_iter().flatten() {
        without_dots(below);
    }
    if let Some(map) = fields.as_object_mut() {
        map.remove(".");
    }
}

#[track_caller]
fn check(document: &str, group: &str, object: &str) {
    let kind_name = object.rsplit('.').next().unwrap_or_default();
    let Some(kind) = custom(document, &format!("io.k8s.api.{object}")) else { return };
    let Some(recorded) = fact(&format!("testdata/{}.json", object.replace("networking", "networking.k8s.io"))) else {
        return;
    };
    // As JSON, the schema of a pod has 450,000 bytes. Descriptions are left out, equal parts and names kept once.
    assert!(kind.schema().size() < 32_000, "{} bytes", kind.schema().size());

    let mut sent = recorded.clone();
    kind.adopt(&mut sent);
    let (mut decoded, strict) =
        kind.decode(sent.to_string().as_bytes(), false, Strictness::Strict).expect("it is an object");
    assert_eq!(strict.0, Vec::<String>::new());
    assert_eq!(decoded["spec"], recorded["spec"]);
    assert_eq!(decoded["status"], recorded["status"]);
    Kind::default(&kind, &mut decoded);
    let features = Features::default();
    let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "u", features: &features };
    let problems: Vec<String> = kind.validate(&cx, &decoded).0.iter().map(ToString::to_string).collect();
    assert_eq!(problems, Vec::<String>::new());

    let builtin = Node::of_kind(group, "v1", kind_name).expect("a built-in kind");
    let api_version = if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") };
    assert_eq!(
        managed(kind.node(), "ex.io/v1", kind_name, &decoded),
        managed(builtin, &api_version, kind_name, &recorded),
        "{object}"
    );
}

#[test]
fn a_pod_is_a_custom_object() {
    check("openapi/v3/api__v1_openapi.json", "", "core.v1.Pod");
}

#[test]
fn workloads_are_custom_objects() {
    for object in ["apps.v1.Deployment", "apps.v1.DaemonSet", "apps.v1.StatefulSet"] {
        check("openapi/v3/apis__apps__v1_openapi.json", "apps", object);
    }
    check("openapi/v3/apis__batch__v1_openapi.json", "batch", "batch.v1.CronJob");
}

#[test]
fn other_kinds_are_custom_objects() {
    check("openapi/v3/api__v1_openapi.json", "", "core.v1.Service");
    check("openapi/v3/apis__networking.k8s.io__v1_openapi.json", "networking.k8s.io", "networking.v1.NetworkPolicy");
}
