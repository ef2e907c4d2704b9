//! The documents beside those of a v1.36 server, descriptions aside.

use std::collections::BTreeMap;

use super::*;
use crate::kind::{Kind, ResourceInfo};

fn without_prose(value: &mut Value) {
    match value {
        Value::Object(map) => {
            if map.get("description").is_some_and(Value::is_string) {
                map.remove("description");
            }
            map.values_mut().for_each(without_prose);
        }
        Value::Array(list) => list.iter_mut().for_each(without_prose),
        _ => {}
    }
}

fn is_cbor(media: &str) -> bool {
    media.starts_with("application/cbor") || media == "application/apply-patch+cbor"
}

/// CBOR was on in the server recorded; it is off by default and not served here.
fn without_cbor(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !is_cbor(key));
            map.values_mut().for_each(without_cbor);
        }
        Value::Array(list) => {
            list.retain(|v| !v.as_str().is_some_and(is_cbor));
            list.iter_mut().for_each(without_cbor);
        }
        _ => {}
    }
}

/// The order of lists that have none.
fn sorted(value: &mut Value) {
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| {
            sorted(value);
            if matches!(key.as_str(), "required" | "produces" | "consumes" | "parameters")
                && let Value::Array(list) = value
            {
                list.sort_by_key(Value::to_string);
            }
        }),
        Value::Array(list) => list.iter_mut().for_each(sorted),
        _ => {}
    }
}

fn plain(mut value: Value) -> Value {
    without_prose(&mut value);
    without_cbor(&mut value);
    sorted(&mut value);
    value
}

fn root() -> Option<std::path::PathBuf> {
    let root = match std::env::var_os("ORKD_SHARED") {
        Some(dir) => std::path::PathBuf::from(dir),
        None => std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let root = root.join("kubernetes-1.36/openapi");
    if !root.is_dir() {
        eprintln!("skipped: no ../shared");
        return None;
    }
    Some(root)
}

fn read(path: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("read")).expect("json")
}

/// The documents by address.
fn recorded() -> BTreeMap<String, Value> {
    let Some(root) = root() else { return BTreeMap::new() };
    let files = std::fs::read_dir(root.join("v3")).expect("v3");
    files
        .map(|f| f.expect("entry").path())
        .map(|path| {
            let name = path.file_name().and_then(|n| n.to_str()).expect("name");
            (name.trim_end_matches("_openapi.json").replace("__", "/"), read(&path))
        })
        .collect()
}

/// Every difference as `path: ours, theirs`.
fn compare(at: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for (key, value) in a {
                match b.get(key) {
                    Some(other) => compare(&format!("{at}/{key}"), value, other, out),
                    None => out.push(format!("{at}/{key}: only ours: {value}")),
                }
            }
            for (key, value) in b.iter().filter(|(k, _)| !a.contains_key(*k)) {
                out.push(format!("{at}/{key}: only theirs: {value}"));
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                compare(&format!("{at}/{i}"), a, b, out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(format!("{at}: {a} instead of {b}")),
    }
}

fn none(differences: &[String]) {
    let shown: Vec<String> = differences.iter().take(60).map(|d| d.chars().take(600).collect()).collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
}

/// Whether a path is of a resource that is served; what is not has no path here.
fn is_served(path: &str, kinds: &[Box<dyn Kind>]) -> bool {
    kinds.iter().map(|k| k.info()).filter(|i| !i.verbs.is_empty()).any(|info| {
        let root = paths::root(&info.group, &info.version);
        let Some(rest) = path.strip_prefix(&format!("{root}/")) else { return false };
        let rest = rest.strip_prefix("watch/").unwrap_or(rest);
        let own = rest.split('/').next() == Some(&*info.plural);
        let within = rest.strip_prefix("namespaces/{namespace}/").and_then(|r| r.split('/').next());
        own && within.is_none() || within == Some(&*info.plural)
    })
}

/// Subresources that a kind does not list are not served.
fn is_listed(path: &str, kinds: &[Box<dyn Kind>]) -> bool {
    let Some((item, sub)) = path.split_once("/{name}/") else { return true };
    let sub = sub.split('/').next().unwrap_or_default();
    let plural = item.rsplit('/').next().unwrap_or_default();
    kinds.iter().map(|k| k.info()).filter(|i| i.plural == plural).any(|i| i.subresources.iter().any(|s| s.name == sub))
}

/// Resources by group and version.
fn groups(kinds: &[Box<dyn Kind>]) -> BTreeMap<(String, String), Vec<&ResourceInfo>> {
    let mut groups: BTreeMap<(String, String), Vec<&ResourceInfo>> = BTreeMap::new();
    for info in kinds.iter().map(|k| k.info()) {
        groups.entry((info.group.to_string(), info.version.to_string())).or_default().push(info);
    }
    groups
}

#[test]
fn definitions_are_upstreams() {
    let mut all = definitions(Type::all());
    let mut checked = 0;
    let mut differences = Vec::new();
    for document in recorded().into_values() {
        for (name, want) in document["components"]["schemas"].as_object().into_iter().flatten() {
            // Alpha types have no row; kinds of these two depend on the document.
            let Some(got) = all.get_mut(name) else { continue };
            let mut want = want.clone();
            if in_every_group(name) {
                want[KINDS] = got[KINDS].clone();
            }
            for property in
                want.get_mut("properties").and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
            {
                if let Some(reference) = property.get("$ref").cloned() {
                    *property = json!({ "allOf": [{"$ref": reference}] });
                }
            }
            compare(name, &plain(got.clone()), &plain(want), &mut differences);
            checked += 1;
        }
    }
    none(&differences);
    assert!(checked == 0 || checked > 700, "only {checked}");
}

#[test]
fn v3_paths_are_upstreams() {
    let documents = recorded();
    let kinds = crate::kinds::all();
    let (mut checked, mut differences) = (0, Vec::new());
    for ((group, version), infos) in groups(&kinds) {
        let address = if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") };
        let Some(theirs) = documents.get(&address) else { continue };
        let ours = plain(document(&group, &version, &infos, &|_| None)["paths"].take());
        let theirs = plain(theirs["paths"].clone());
        for (path, item) in ours.as_object().expect("paths") {
            match theirs.get(path) {
                Some(want) => compare(path, item, want, &mut differences),
                None => differences.push(format!("{path} is not upstream's")),
            }
            checked += 1;
        }
        for path in theirs.as_object().expect("paths").keys() {
            if ours.get(path).is_none() && is_served(path, &kinds) && is_listed(path, &kinds) {
                differences.push(format!("{path} is missing"));
            }
        }
    }
    for (address, theirs) in &documents {
        if let Some(mut ours) = other_document(address) {
            compare(address, &plain(ours["paths"].take()), &plain(theirs["paths"].clone()), &mut differences);
        }
    }
    none(&differences);
    assert!(documents.is_empty() || checked > 200, "only {checked}");
}

fn v2_source<'a>(groups: &'a BTreeMap<(String, String), Vec<&'a ResourceInfo>>) -> v2::Source<'a> {
    v2::Source {
        groups: groups.iter().map(|((g, v), infos)| (g.clone(), v.clone(), infos.clone())).collect(),
        schema_of: &|_| None,
    }
}

fn v2_document() -> Value {
    let kinds = crate::kinds::all();
    let groups = groups(&kinds);
    let mut bytes = Vec::new();
    v2::json(&v2_source(&groups), &mut bytes).expect("written");
    serde_json::from_slice(&bytes).expect("well-formed")
}

/// Puts shared parameters where they are referred to.
fn resolved(value: &Value, parameters: &Value) -> Value {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/parameters/")) {
                return parameters[name].clone();
            }
            map.iter().map(|(k, v)| (k.clone(), resolved(v, parameters))).collect::<Map>().into()
        }
        Value::Array(list) => list.iter().map(|v| resolved(v, parameters)).collect(),
        other => other.clone(),
    }
}

#[test]
fn v2_is_upstreams() {
    let Some(root) = root() else { return };
    let kinds = crate::kinds::all();
    let theirs = read(&root.join("swagger.json"));
    let ours = v2_document();
    for key in ["swagger", "info", "security"] {
        assert_eq!(ours[key], theirs[key], "{key}");
    }
    let mut differences = Vec::new();
    let paths = |document: &Value| plain(resolved(&document["paths"], &document["parameters"]));
    let (mine, want) = (paths(&ours), paths(&theirs));
    for (path, item) in mine.as_object().expect("paths") {
        compare(path, item, &want[path], &mut differences);
    }
    for path in want.as_object().expect("paths").keys() {
        if mine.get(path).is_none() && is_served(path, &kinds) && is_listed(path, &kinds) {
            differences.push(format!("{path} is missing"));
        }
    }
    let theirs = &theirs["definitions"];
    for (name, definition) in ours["definitions"].as_object().expect("definitions") {
        // Which groups register the kinds of every group is a matter of what is served.
        let mut want = theirs[name].clone();
        if in_every_group(name) {
            want[KINDS] = definition[KINDS].clone();
        }
        compare(name, &plain(definition.clone()), &plain(want), &mut differences);
    }
    none(&differences);
}

/// Reads messages as `number -> payload`, to see that what was written is what a decoder finds.
fn fields(mut bytes: &[u8]) -> Vec<(u32, &[u8])> {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        while let Some((first, rest)) = bytes.split_first() {
            *bytes = rest;
            value |= u64::from(first & 0x7f) << shift;
            shift += 7;
            if first & 0x80 == 0 {
                break;
            }
        }
        value
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = varint(&mut bytes);
        let payload = match key & 7 {
            2 => {
                let len = varint(&mut bytes) as usize;
                let (payload, rest) = bytes.split_at(len);
                bytes = rest;
                payload
            }
            1 => {
                let (payload, rest) = bytes.split_at(8);
                bytes = rest;
                payload
            }
            0 => {
                varint(&mut bytes);
                &[]
            }
            other => panic!("wire type {other}"),
        };
        out.push(((key >> 3) as u32, payload));
    }
    out
}

fn message(bytes: &[u8], number: u32) -> &[u8] {
    fields(bytes).into_iter().find(|f| f.0 == number).map_or(&[], |f| f.1)
}

#[test]
fn v2_in_protobuf_says_the_same() {
    let kinds = crate::kinds::all();
    let groups = groups(&kinds);
    let bytes = v2::protobuf(&v2_source(&groups));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(message(&bytes, 1)), "2.0");
    let json = v2_document();
    let names = |section: u32, number: u32| -> Vec<String> {
        let mut names: Vec<String> = fields(message(&bytes, section))
            .into_iter()
            .filter(|f| f.0 == number)
            .map(|f| text(message(f.1, 1)))
            .collect();
        names.sort();
        names
    };
    let keys = |section: &str| json[section].as_object().expect("section").keys().cloned().collect::<Vec<_>>();
    for (section, number, name) in [(8, 2, "paths"), (9, 1, "definitions"), (10, 1, "parameters")] {
        let mut want = keys(name);
        want.sort();
        assert_eq!(names(section, number), want, "{name}");
    }
    let find = |section: u32, number: u32, name: &str| -> Vec<u8> {
        let all = fields(message(&bytes, section)).into_iter().filter(|f| f.0 == number);
        all.map(|f| f.1).find(|f| text(message(f, 1)) == name).map(|f| message(f, 2).to_vec()).expect("named")
    };
    let deployment = find(9, 1, "io.k8s.api.apps.v1.Deployment");
    assert_eq!(text(message(message(&deployment, 22), 1)), "object");
    let extension = message(&deployment, 31);
    assert_eq!(text(message(extension, 1)), "x-kubernetes-group-version-kind");
    assert_eq!(
        text(message(message(extension, 2), 2)),
        "[{\"group\":\"apps\",\"kind\":\"Deployment\",\"version\":\"v1\"}]\n"
    );
    let spec = fields(message(&deployment, 25)).into_iter().map(|f| f.1).find(|f| text(message(f, 1)) == "spec");
    assert_eq!(text(message(message(spec.expect("spec"), 2), 1)), "#/definitions/io.k8s.api.apps.v1.DeploymentSpec");
    let path = find(8, 2, "/apis/apps/v1/namespaces/{namespace}/deployments/{name}");
    let patch = message(&path, 8);
    assert_eq!(text(message(patch, 5)), "patchAppsV1NamespacedDeployment");
    let consumes: Vec<String> = fields(patch).into_iter().filter(|f| f.0 == 7).map(|f| text(f.1)).collect();
    assert!(consumes.contains(&"application/strategic-merge-patch+json".to_owned()), "{consumes:?}");
}

#[test]
fn v3_in_protobuf_says_the_same() {
    let kinds = crate::kinds::all();
    let infos: Vec<&ResourceInfo> =
        kinds.iter().map(|k| k.info()).filter(|i| i.group == "apps" && i.version == "v1").collect();
    let json = document("apps", "v1", &infos, &|_| None);
    let bytes = protobuf(&json);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(text(message(&bytes, 1)), "3.0.0");
    assert_eq!(text(message(message(&bytes, 2), 6)), "unversioned");
    let entries = |map: &[u8]| -> BTreeMap<String, Vec<u8>> {
        fields(map).into_iter().map(|f| (text(message(f.1, 1)), message(f.1, 2).to_vec())).collect()
    };
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().expect("object").keys().cloned().collect();
        keys.sort();
        keys
    };
    let (paths, schemas) = (entries(message(&bytes, 4)), entries(message(message(&bytes, 5), 1)));
    assert_eq!(paths.keys().cloned().collect::<Vec<_>>(), keys(&json["paths"]));
    assert_eq!(schemas.keys().cloned().collect::<Vec<_>>(), keys(&json["components"]["schemas"]));
    let deployment = message(&schemas["io.k8s.api.apps.v1.Deployment"], 1);
    assert_eq!(text(message(deployment, 25)), "object");
    assert_eq!(text(message(message(deployment, 36), 1)), "x-kubernetes-group-version-kind");
    let properties = entries(message(deployment, 31));
    assert_eq!(text(message(message(&properties["apiVersion"], 1), 25)), "string");
    // A reference beside a default is wrapped.
    let spec = message(message(&properties["spec"], 1), 26);
    assert_eq!(text(message(message(spec, 2), 1)), "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
    let path = &paths["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = message(path, 10);
    assert_eq!(text(message(patch, 5)), "patchAppsV1NamespacedDeployment");
    let body = entries(message(message(message(patch, 7), 1), 2));
    assert!(body.contains_key("application/strategic-merge-patch+json"), "{:?}", body.keys());
}

#[test]
fn lists_of_a_definition_are_called_as_it_says() {
    let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "listKind": "Widgetry"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    let kind = crate::custom::CustomKind::new(&definition, "v1").expect("a kind");
    let info = kind.info();
    let own = |_: &ResourceInfo| Some(OwnSchema { schema: json!({"type": "object"}), list_kind: "Widgetry".into() });
    let document = document("example.com", "v1", &[info], &own);
    let schemas = &document["components"]["schemas"];
    let list = &schemas["com.example.v1.Widgetry"];
    assert_eq!(list["x-kubernetes-group-version-kind"][0]["kind"], "Widgetry");
    assert_eq!(list["properties"]["items"]["items"]["$ref"], "#/components/schemas/com.example.v1.Widget");
    assert!(schemas.get("com.example.v1.WidgetList").is_none());
    let get =
        &document["paths"]["/apis/example.com/v1/widgets"]["get"]["responses"]["200"]["content"]["application/json"];
    assert_eq!(get["schema"]["$ref"], "#/components/schemas/com.example.v1.Widgetry");
}
