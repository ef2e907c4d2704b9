//! Tests of the codecs against upstream's own files (`../shared`, skipped where that is missing).

use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

/// The facts of the API, or a visible note that they are missing.
fn shared() -> Option<PathBuf> {
    let root = match std::env::var_os("ORKD_SHARED") {
        Some(dir) => PathBuf::from(dir),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let facts = root.join("kubernetes-1.36");
    if facts.is_dir() {
        return Some(facts);
    }
    eprintln!("skipped: no ../shared");
    None
}

/// Stems of testdata whose object came out of another release's hands ([`what_the_next_release_makes_of_it_is_read`]).
const AFTER_ROUNDTRIP: &str = ".after_roundtrip";

/// The stems of the files in testdata with their types, those of [`AFTER_ROUNDTRIP`] or the others.
fn stems(after_roundtrip: bool) -> Vec<(PathBuf, Type)> {
    let Some(facts) = shared() else { return Vec::new() };
    let mut all = Vec::new();
    for entry in std::fs::read_dir(facts.join("testdata")).expect("testdata") {
        let path = entry.expect("entry").path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let stem = path.with_extension("");
        let name = stem.file_name().and_then(|n| n.to_str()).expect("name").to_owned();
        let plain = name.strip_suffix(AFTER_ROUNDTRIP);
        if plain.is_some() != after_roundtrip {
            continue;
        }
        let (group_version, kind) = plain.unwrap_or(&name).rsplit_once('.').expect("kind");
        let (group, version) = group_version.rsplit_once('.').expect("version");
        let group = if group == "core" { "" } else { group };
        let ty = Type::of_kind(group, version, kind).unwrap_or_else(|| panic!("{name} has no type"));
        all.push((stem, ty));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn testdata() -> Vec<(PathBuf, Type)> {
    stems(false)
}

/// Path of one file of a stem (the stem has dots of its own).
fn file(stem: &std::path::Path, extension: &str) -> PathBuf {
    PathBuf::from(format!("{}.{extension}", stem.display()))
}

fn read(stem: &std::path::Path, extension: &str) -> Vec<u8> {
    let path = file(stem, extension);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn type_of(api_version: &str, kind: &str) -> Type {
    Type::of_api_version(api_version, kind).expect(kind)
}

fn decode_as(kind: &str, text: &str) -> Result<(Value, StrictErrors), DecodeError> {
    json::decode(text.as_bytes(), type_of("v1", kind), Strictness::Strict)
}

/// Equal text, or the first line that is not.
fn same_text(name: &str, got: &[u8], want: &[u8]) {
    if got == want {
        return;
    }
    let (got, want) = (String::from_utf8_lossy(got), String::from_utf8_lossy(want));
    for (i, (g, w)) in got.lines().zip(want.lines()).enumerate() {
        assert_eq!(g, w, "{name}, line {}", i + 1);
    }
    panic!("{name}: {} lines, not {}", got.lines().count(), want.lines().count());
}

#[test]
fn testdata_json_is_written_as_read() {
    let all = testdata();
    for (stem, ty) in &all {
        let (name, ty) = (stem.display().to_string(), *ty);
        let bytes = read(stem, "json");
        let (value, errors) = json::decode(&bytes, ty, Strictness::Strict).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(errors.is_empty(), "{name}: {errors:?}");
        let out = json::pretty(&json::to_vec(&value, ty));
        same_text(&name, &out, &bytes);
        let mut again = value.clone();
        assert_eq!(normalize(&mut again, ty, Strictness::Strict), Ok(StrictErrors::default()), "{name}");
        assert_eq!(again, value, "{name}");
    }
    eprintln!("{} objects", all.len());
    assert!(all.is_empty() || all.len() >= 184, "only {} objects", all.len());
}

/// The object of [`AFTER_ROUNDTRIP`] is what the release after this one makes of this one's: without the fields it has
/// dropped, with those it has added. Read here, a field that was dropped is missing (`null`, where Go writes it always),
/// and one that was added is unknown and dropped.
#[test]
fn what_the_next_release_makes_of_it_is_read() {
    const ADDED: [(&str, &str); 2] =
        [("storage.k8s.io.v1.CSINode", "status"), ("storage.k8s.io.v1beta1.CSINode", "status")];
    const ALWAYS_WRITTEN: (&str, &str) = ("core.v1.Pod", "/status/nodeAllocatableResourceClaimStatuses/0/resources");
    let all = stems(true);
    for (stem, ty) in &all {
        let (name, ty) = (stem.display().to_string(), *ty);
        let (value, errors) =
            json::decode(&read(stem, "json"), ty, Strictness::Strict).unwrap_or_else(|e| panic!("{name}: {e}"));
        let kind =
            stem.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(AFTER_ROUNDTRIP)).expect("kind");
        let (mut plain, _) =
            json::decode(&read(&stem.with_file_name(kind), "json"), ty, Strictness::Strict).expect("json");
        let added = ADDED.iter().find(|(k, _)| *k == kind).map(|(_, field)| format!("unknown field \"{field}\""));
        assert_eq!(errors.0, added.iter().cloned().collect::<Vec<_>>(), "{name}");
        if added.is_some() {
            assert_eq!(value, plain, "{name}");
        } else if kind == ALWAYS_WRITTEN.0 {
            *plain.pointer_mut(ALWAYS_WRITTEN.1).expect("the field") = Value::Null;
            assert_eq!(value, plain, "{name}");
        } else {
            same_text(&name, &json::pretty(&json::to_vec(&value, ty)), &read(stem, "json"));
            same_text(&name, yaml::to_string(&value).as_bytes(), &read(stem, "yaml"));
            let mut out = Vec::new();
            protobuf::encode(&value, ty, &mut out);
            assert_eq!(out, read(stem, "pb"), "{name}");
        }
        let (decoded, _) = yaml::decode(&read(stem, "yaml"), ty, Strictness::Ignore).expect("yaml");
        assert_eq!(decoded, value, "{name}");
        assert_eq!(protobuf::decode(&read(stem, "pb"), ty).as_ref(), Ok(&value), "{name}");
    }
    assert!(all.is_empty() || all.len() == 6, "{} objects", all.len());
}

#[test]
fn testdata_protobuf_is_read_and_written() {
    for (stem, ty) in testdata() {
        let name = stem.display().to_string();
        let (value, _) = json::decode(&read(&stem, "json"), ty, Strictness::Strict).expect("json");
        let bytes = read(&stem, "pb");
        assert!(protobuf::has_form(ty), "{name}");
        let meta = protobuf::identify(&bytes).expect("envelope");
        let decoded = protobuf::decode(&bytes, ty).unwrap_or_else(|e| panic!("{name}: {e}"));
        let (got, want) = (json::pretty(&json::to_vec(&decoded, ty)), json::pretty(&json::to_vec(&value, ty)));
        same_text(&name, &got, &want);
        let mut out = Vec::new();
        if ty.has_type_meta() {
            protobuf::encode(&value, ty, &mut out);
        } else {
            // The type says no kind of itself, the envelope does.
            let mut value = value.clone();
            value["kind"] = meta.kind.into();
            value["apiVersion"] = meta.api_version.into();
            protobuf::encode(&value, ty, &mut out);
        }
        if out != bytes {
            let at = out.iter().zip(&bytes).position(|(a, b)| a != b).unwrap_or(out.len().min(bytes.len()));
            let show =
                |b: &[u8]| b[at.saturating_sub(40).min(b.len())..(at + 40).min(b.len())].escape_ascii().to_string();
            panic!("{name} at {at} of {} / {}:\n got {}\nwant {}", out.len(), bytes.len(), show(&out), show(&bytes));
        }
    }
}

#[test]
fn testdata_yaml_is_read_and_written() {
    for (stem, ty) in testdata() {
        let name = stem.display().to_string();
        let (value, _) = json::decode(&read(&stem, "json"), ty, Strictness::Strict).expect("json");
        let bytes = read(&stem, "yaml");
        same_text(&name, yaml::to_string(&value).as_bytes(), &bytes);
        let (decoded, errors) = yaml::decode(&bytes, ty, Strictness::Strict).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!((decoded, errors.0), (value, Vec::new()), "{name}");
    }
}

#[test]
fn yaml_means_what_it_means_upstream() {
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, labels: {a: 'yes'}}\nimmutable: yes\ndata:\n  a: '1'\n  b: |\n    x\n";
    let ty = type_of("v1", "ConfigMap");
    let (value, _) = yaml::decode(text.as_bytes(), ty, Strictness::Strict).expect("yaml");
    let expected = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","labels":{"a":"yes"}},
        "immutable":true,"data":{"a":"1","b":"x\n"}});
    assert_eq!(value, expected);
    assert_eq!(yaml::identify(text.as_bytes()).map(|m| m.kind).as_deref(), Ok("ConfigMap"));
    let (value, _) =
        yaml::decode_untyped(b"---\nmode: 0644\n? a\n: &x {b: 1}\nc:\n  <<: *x\n", Strictness::Strict).expect("yaml");
    assert_eq!(value, json!({"mode": 420, "a": {"b": 1}, "c": {"b": 1}}));
    let (value, errors) = yaml::decode(b"data:\n  a: x\n  a: z\nnope: 1\n", ty, Strictness::Strict).expect("yaml");
    assert_eq!(value["data"], json!({"a": "z"}));
    assert_eq!(errors.0, ["yaml: unmarshal errors:\n  line 3: key \"a\" already set in map", "unknown field \"nope\""]);
    let wrong = yaml::decode(b"data:\n  a: 1\n", ty, Strictness::Strict).map_err(|e| e.message);
    assert_eq!(wrong, Err("json: cannot unmarshal number into Go struct field ConfigMap.data of type string".into()));
    let broken = yaml::decode(b"a: [", ty, Strictness::Strict).map_err(|e| e.message).err().unwrap_or_default();
    assert!(broken.starts_with("error converting YAML to JSON: yaml: line "), "{broken}");
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x]\n{}",
        (0..20u8)
            .map(|i| {
                let (this, last) = (char::from(b'b' + i), char::from(b'a' + i));
                format!("{this}: &{this} [{}]\n", vec![format!("*{last}"); 8].join(","))
            })
            .collect::<String>()
    );
    assert!(yaml::decode_untyped(bomb.as_bytes(), Strictness::Ignore).is_err());
    assert!(yaml::decode_untyped("[".repeat(50_000).as_bytes(), Strictness::Ignore).is_err());
}

#[test]
fn presence_in_protobuf_is_gos() {
    let ty = type_of("apps/v1", "Deployment");
    let text =
        br#"{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"x"},"spec":{"replicas":0,"paused":false,
        "selector":{"matchLabels":{"a":"b"}},"template":{"spec":{"automountServiceAccountToken":false,
        "containers":[{"name":"c","image":"i","securityContext":{"runAsUser":0}}]}},
        "strategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":"25%"}}}}"#;
    let (value, _) = json::decode(text, ty, Strictness::Strict).expect("deployment");
    let mut out = Vec::new();
    protobuf::encode(&value, ty, &mut out);
    assert_eq!(protobuf::decode(&out, ty), Ok(value));
    assert_eq!(
        protobuf::decode(b"{}", ty).map_err(|e| e.message),
        Err("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]".into())
    );
    let frame = protobuf::watch_frame("ADDED", &out);
    assert_eq!(u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]) as usize, frame.len() - 4);
}

#[test]
fn zero_values_are_dropped_and_added_as_go_does() {
    let text = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","labels":{},"creationTimestamp":null},
        "spec":{"hostNetwork":false,"hostUsers":false,"nodeSelector":{},"volumes":[],"terminationGracePeriodSeconds":0,
        "priority":null,"containers":[{"name":"c","ports":null,"resources":{"limits":{"cpu":"0.5","memory":1073741824}},
        "env":[{"name":"A","value":""}],"livenessProbe":{"httpGet":{"port":80}}}]}}"#;
    let (value, _) = decode_as("Pod", text).expect("pod");
    let expected = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"},"spec":{"hostUsers":false,
        "terminationGracePeriodSeconds":0,"containers":[{"name":"c","resources":{"limits":{"cpu":"500m",
        "memory":"1073741824"}},"env":[{"name":"A"}],"livenessProbe":{"httpGet":{"port":80}}}]},"status":{}});
    assert_eq!(value, expected);
    let mut same: Value = serde_json::from_str(text).expect("json");
    normalize(&mut same, type_of("v1", "Pod"), Strictness::Strict).expect("normal");
    assert_eq!(same, expected);

    let (value, _) = decode_as("Service", r#"{"spec":{"ports":[{"port":1}]}}"#).expect("service");
    let expected = json!({"metadata":{},"spec":{"ports":[{"port":1,"targetPort":0}]},"status":{"loadBalancer":{}}});
    assert_eq!(value, expected);
    let role = type_of("rbac.authorization.k8s.io/v1", "ClusterRole");
    for text in [r#"{"metadata":{"name":"r"}}"#, r#"{"metadata":{"name":"r"},"rules":[]}"#] {
        let (value, _) = json::decode(text.as_bytes(), role, Strictness::Strict).expect("role");
        assert_eq!(value, json!({"metadata":{"name":"r"},"rules":null}));
    }
    let (value, _) = decode_as("Event", "{}").expect("event");
    for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
        assert_eq!(value.get(field), Some(&Value::Null), "{field}");
    }
    let (value, _) = decode_as("Pod", r#"{"metadata":{"labels":{"a":null}}}"#).expect("pod");
    assert_eq!(value, json!({"metadata":{"labels":{"a":""}},"spec":{"containers":null},"status":{}}));
}

#[test]
fn strict_errors_are_worded_as_upstream() {
    for (kind, text, want) in [
        ("Pod", r#"{"spec":{"nope":1}}"#, vec!["unknown field \"spec.nope\""]),
        ("ConfigMap", r#"{"data":{"a":"1","a":"2"}}"#, vec!["duplicate field \"data.a\""]),
        (
            "Pod",
            r#"{"b":1,"a":1,"spec":{"containers":[{"name":"a"},{"Name":"b","name":"c","name":"d"}]}}"#,
            vec![
                "unknown field \"b\"",
                "unknown field \"a\"",
                "unknown field \"spec.containers[1].Name\"",
                "duplicate field \"spec.containers[1].name\"",
            ],
        ),
    ] {
        let (_, errors) = decode_as(kind, text).expect(text);
        assert_eq!(errors.0, want);
    }
    let (value, errors) =
        json::decode(br#"{"spec":{"nope":1}}"#, type_of("v1", "Pod"), Strictness::Ignore).expect("pod");
    assert!(errors.is_empty() && value["spec"].get("nope").is_none());
    let (_, errors) = json::decode_untyped(br#"{"a":[{"b":1,"b":2}]}"#, Strictness::Strict).expect("json");
    assert_eq!(errors.message(), "strict decoding error: duplicate field \"a[0].b\"");
}

#[test]
fn faults_are_worded_as_go_does() {
    let quantity = crate::quantity::ParseError::Format.to_string();
    for (text, want) in [
        (
            r#"{"spec":{"containers":"x"}}"#,
            "json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            r#"{"spec":{"containers":[{"name":1,"image":{}}]}}"#,
            "json: cannot unmarshal number into Go struct field Container.spec.containers.name of type string",
        ),
        (
            r#"{"spec":{"priority":1.5}}"#,
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"spec":{"priority":4294967296}}"#,
            "json: cannot unmarshal number 4294967296 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            r#"{"metadata":{"labels":{"a":true}}}"#,
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        ("[]", "json: cannot unmarshal array into Go value of type v1.Pod"),
        (r#"{"spec":{"priority":"x","containers":[{"resources":{"requests":{"cpu":"abc"}}}]}}"#, quantity.as_str()),
        (r#"{"spec":{"priority":"x"}"#, "unexpected end of JSON input"),
        ("", "unexpected end of JSON input"),
        (r#"{"a" 1}"#, "invalid character '1' after object key"),
        (r#"{"a":1,}"#, "invalid character '}' looking for beginning of object key string"),
        (r#"{"a":01}"#, "invalid character '1' after object key:value pair"),
        (r#"{"a":[1 2]}"#, "invalid character '2' after array element"),
        (r#"{"a":tru}"#, "invalid character '}' in literal true (expecting 'e')"),
        ("{} x", "invalid character 'x' after top-level value"),
        ("{\"a\":\"\n\"}", "invalid character '\\n' in string literal"),
        (r#"{"a":"\x"}"#, "invalid character 'x' in string escape code"),
        ("{'a':1}", "invalid character '\\'' looking for beginning of object key string"),
        (r#"{"a":-}"#, "invalid character '}' in numeric literal"),
        (
            r#"{"metadata":{"creationTimestamp":"x"}}"#,
            "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
        ),
        (r#"{"metadata":{"managedFields":[{"fieldsV1":{"#, "unexpected end of JSON input"),
    ] {
        match decode_as("Pod", text) {
            Ok((value, _)) => panic!("{text} became {value}"),
            Err(e) => assert_eq!(e.message, want, "{text}"),
        }
    }
    assert_eq!(
        decode_as("Secret", r#"{"data":{"a":"%"}}"#).map_err(|e| e.message).err().as_deref(),
        Some("illegal base64 data at input byte 0")
    );
    let invalid = json::decode_untyped(&[0xcf, 0x22], Strictness::Ignore).map_err(|e| e.message);
    assert_eq!(invalid, Err("invalid character 'Ï' looking for beginning of value".into()));
    let deep = "[".repeat(100_000);
    assert_eq!(
        json::decode_untyped(deep.as_bytes(), Strictness::Ignore).map_err(|e| e.message),
        Err("exceeded max depth".into())
    );
    let mut wrong = json!({"spec": {"containers": "x"}});
    let refused = normalize(&mut wrong, type_of("v1", "Pod"), Strictness::Ignore).map_err(|e| e.message);
    assert_eq!(
        refused,
        Err("json: cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container".into())
    );
}

#[test]
fn recorded_decoding_errors_are_reproduced() {
    let Some(facts) = shared() else { return };
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(facts.join("recorded/errors.json")).expect("read")).expect("json");
    let mut checked = 0;
    for case in cases {
        let message = case.pointer("/response/message").and_then(Value::as_str).unwrap_or_default();
        if case["contentType"] != "application/json"
            || !(message.contains("cannot be handled as") || message.contains("object provided is unrecognized"))
            // Another kind than the path wants: not a matter of decoding.
            || message.contains("unknown conversion")
            || message.contains("is registered for version")
        {
            continue;
        }
        let body = match &case["request"] {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let body = body.as_bytes();
        let got = match json::identify(body) {
            Err(e) => unrecognized("Pod", &e.message, body),
            Ok(meta) => {
                let ty = meta.builtin().expect("built in");
                let version = meta.group_version().1;
                let cause = match json::decode(body, ty, Strictness::Strict) {
                    Err(e) => e.message,
                    Ok((_, errors)) => errors.message(),
                };
                cannot_be_handled(&meta.kind, version, &meta.kind, &cause)
            }
        };
        assert_eq!(got, message, "{}", case["case"]);
        checked += 1;
    }
    assert!(checked >= 5, "only {checked} cases");
}

#[test]
fn recorded_answers_are_in_normal_form() {
    let Some(facts) = shared() else { return };
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(facts.join("recorded/defaulting.json")).expect("read")).expect("json");
    let mut checked = 0;
    for case in cases {
        let answer = &case["response"];
        let text = |key: &str| answer[key].as_str().unwrap_or_default();
        let Some(ty) = Type::of_api_version(text("apiVersion"), text("kind")) else { continue };
        let (value, errors) = json::decode(answer.to_string().as_bytes(), ty, Strictness::Strict).expect("answer");
        assert!(errors.is_empty(), "{}: {errors:?}", case["case"]);
        assert_eq!(&value, answer, "{}", case["case"]);
        checked += 1;
    }
    assert!(checked > 40, "only {checked}");
}

#[test]
fn deep_values_do_not_exhaust_the_stack() {
    let ty = type_of("apiextensions.k8s.io/v1", "CustomResourceDefinition");
    let nest = |levels: usize, open: &str, close: &str| {
        let mut text = String::from(r#"{"spec":{"versions":[{"name":"v1","schema":{"openAPIV3Schema":"#);
        text.push_str(&open.repeat(levels));
        text.push_str("{}");
        text.push_str(&close.repeat(levels));
        text.push_str("}}]}}");
        text
    };
    for (open, close) in [
        (r#"{"properties":{"a":"#, "}}"),
        (r#"{"items":"#, "}"),
        (r#"{"allOf":["#, "]}"),
        (r#"{"additionalProperties":"#, "}"),
    ] {
        for levels in [20, 40, 56, 60, 110, 115, 1000] {
            let text = nest(levels, open, close);
            let Ok((value, _)) = json::decode(text.as_bytes(), ty, Strictness::Strict) else { continue };
            let mut pb = Vec::new();
            protobuf::encode(&value, ty, &mut pb);
            assert_eq!(protobuf::decode(&pb, ty).as_ref(), Ok(&value));
            assert!(serde_json::from_slice::<Value>(&json::to_vec(&value, ty)).is_ok());
            let yaml = yaml::to_string(&value);
            assert_eq!(yaml::decode(yaml.as_bytes(), ty, Strictness::Strict).map(|r| r.0).as_ref(), Ok(&value));
            let mut copy = value;
            assert!(normalize(&mut copy, ty, Strictness::Strict).is_ok());
            apply_schema_defaults(&mut copy, ty);
        }
    }
}

#[test]
fn deep_protobuf_is_refused() {
    let ty = json::schema_type().expect("schema");
    let number = ty.field("not").map(crate::schema::Field::number).expect("not");
    let varint = |mut n: usize, out: &mut Vec<u8>| {
        while n >= 0x80 {
            out.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        out.push(n as u8);
    };
    let wrap = |number: u32, inner: &[u8]| {
        let mut out = Vec::new();
        varint((number << 3 | 2) as usize, &mut out);
        varint(inner.len(), &mut out);
        out.extend_from_slice(inner);
        out
    };
    for (levels, fine) in [(50, true), (5000, false)] {
        let message = (0..levels).fold(Vec::new(), |inner, _| wrap(number, &inner));
        let bytes = [protobuf::PREFIX.to_vec(), wrap(2, &message)].concat();
        assert_eq!(protobuf::decode(&bytes, ty).is_ok(), fine, "{levels}");
    }
}

#[test]
fn schema_defaults_are_filled_in() {
    let pod = type_of("v1", "Pod");
    let text = r#"{"spec":{"containers":[{"name":"c","ports":[{"containerPort":80}]}]}}"#;
    let (mut value, _) = decode_as("Pod", text).expect("pod");
    apply_schema_defaults(&mut value, pod);
    assert_eq!(value["spec"]["containers"][0]["ports"][0], json!({"containerPort": 80, "protocol": "TCP"}));
    let (mut value, _) = decode_as("ReplicationController", r#"{"spec":{}}"#).expect("rc");
    apply_schema_defaults(&mut value, type_of("v1", "ReplicationController"));
    assert_eq!(value["spec"]["replicas"], 1);
}

#[test]
fn text_is_escaped_as_go_does() {
    let value = json!({"b": "<a&b>\u{2028}\u{1}\u{8}\n\"\\/é", "a": [1.0, 1.5, 1e21, 1e-7, -3, u64::MAX]});
    assert_eq!(
        json::to_string(&value),
        "{\"a\":[1,1.5,1e+21,1e-7,-3,18446744073709551615],\
         \"b\":\"\\u003ca\\u0026b\\u003e\\u2028\\u0001\\b\\n\\\"\\\\/é\"}"
    );
    assert_eq!(
        json::pretty(br#"{"a":[],"b":{},"c":[1,{"d":"}"}]}"#),
        b"{\n  \"a\": [],\n  \"b\": {},\n  \"c\": [\n    1,\n    {\n      \"d\": \"}\"\n    }\n  ]\n}"
    );
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_yaml_writes_it_reads(text in "[ -~\n\t\u{85}\u{a0}é]{0,120}", key in "[ -~]{1,20}") {
            let value = json!({ key: [text, {"n": 1}] });
            let out = yaml::to_string(&value);
            let (back, _) = yaml::decode_untyped(out.as_bytes(), Strictness::Strict).unwrap_or_else(|e| panic!("{e}:\n{out}"));
            prop_assert_eq!(back, value, "{}", out);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = json::decode(&bytes, type_of("v1", "Pod"), Strictness::Strict);
            let _ = json::decode_untyped(&bytes, Strictness::Strict);
            let _ = json::identify(&bytes);
            let _ = yaml::decode(&bytes, type_of("v1", "Pod"), Strictness::Strict);
            let _ = json::pretty(&bytes);
            let mut pb = protobuf::PREFIX.to_vec();
            pb.extend_from_slice(&bytes);
            let _ = protobuf::decode(&pb, type_of("v1", "Pod"));
            let mut message = protobuf::PREFIX.to_vec();
            message.extend([0x12, u8::try_from(bytes.len().min(127)).unwrap_or(0)]);
            message.extend_from_slice(&bytes[..bytes.len().min(127)]);
            let _ = protobuf::decode(&message, type_of("apiextensions.k8s.io/v1", "CustomResourceDefinition"));
            let _ = protobuf::decode(&message, type_of("v1", "List"));
        }

        #[test]
        fn spoilt_testdata_never_panics(
            pick in any::<proptest::sample::Index>(),
            spoils in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let all = testdata();
            if all.is_empty() {
                return Ok(());
            }
            let (stem, ty) = &all[pick.index(all.len())];
            let ty = *ty;
            for extension in ["json", "pb", "yaml"] {
                let mut bytes = read(stem, extension);
                for (at, byte) in &spoils {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                let value = match extension {
                    "json" => json::decode(&bytes, ty, Strictness::Strict).map(|r| r.0),
                    "pb" => protobuf::decode(&bytes, ty),
                    _ => yaml::decode(&bytes, ty, Strictness::Strict).map(|r| r.0),
                };
                // What was read can be written in every form, and read again the same.
                let Ok(value) = value else { continue };
                let json = json::to_vec(&value, ty);
                let back = json::decode(&json, ty, Strictness::Ignore).map(|r| r.0);
                prop_assert_eq!(back.as_ref(), Ok(&value));
                let mut pb = Vec::new();
                protobuf::encode(&value, ty, &mut pb);
                let back = protobuf::decode(&pb, ty);
                prop_assert_eq!(back.as_ref(), Ok(&value));
                let yaml = yaml::to_string(&value);
                let back = yaml::decode(yaml.as_bytes(), ty, Strictness::Ignore).map(|r| r.0);
                prop_assert_eq!(back.as_ref(), Ok(&value));
            }
        }

        #[test]
        fn untyped_strings_round_trip(text in "\\PC{0,40}") {
            let value = json!({ text.clone(): text });
            let out = json::to_string(&value);
            let (back, _) = json::decode_untyped(out.as_bytes(), Strictness::Strict).expect("own output");
            prop_assert_eq!(back, value);
        }
    }
}

/// Prints what a Pod costs: `cargo test -p orkd-api --release -- --ignored --nocapture codec_costs`.
#[test]
#[ignore = "prints numbers"]
fn codec_costs() {
    let pod = type_of("v1", "Pod");
    let text = br#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web-5d4f8c7b9-abcde","generateName":"web-5d4f8c7b9-","namespace":"default","uid":"1b4e28ba-2fa1-11d2-883f-0016d3cca427","creationTimestamp":"2026-11-21T05:45:00Z","labels":{"app":"web","pod-template-hash":"5d4f8c7b9"},"ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"web-5d4f8c7b9","uid":"1b4e28ba-2fa1-11d2-883f-0016d3cca428","controller":true,"blockOwnerDeletion":true}]},"spec":{"volumes":[{"name":"kube-api-access","projected":{"sources":[{"serviceAccountToken":{"expirationSeconds":3607,"path":"token"}},{"configMap":{"name":"kube-root-ca.crt","items":[{"key":"ca.crt","path":"ca.crt"}]}}],"defaultMode":420}}],"containers":[{"name":"web","image":"nginx","ports":[{"containerPort":80,"protocol":"TCP"}],"resources":{"limits":{"cpu":"500m","memory":"128Mi"},"requests":{"cpu":"250m","memory":"64Mi"}},"volumeMounts":[{"name":"kube-api-access","readOnly":true,"mountPath":"/var/run/secrets/kubernetes.io/serviceaccount"}],"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"Always"}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"default","serviceAccount":"default","securityContext":{},"schedulerName":"default-scheduler","tolerations":[{"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":300},{"key":"node.kubernetes.io/unreachable","operator":"Exists","effect":"NoExecute","tolerationSeconds":300}],"priority":0,"enableServiceLinks":true,"preemptionPolicy":"PreemptLowerPriority"},"status":{}}"#;
    fn cost<T>(what: &str, mut f: impl FnMut() -> T) {
        let rounds = 20_000u32;
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            std::hint::black_box(f());
        }
        eprintln!("{what}: {} ns", start.elapsed().as_nanos() / u128::from(rounds));
    }
    let (value, _) = json::decode(text, pod, Strictness::Strict).expect("pod");
    assert_eq!(String::from_utf8_lossy(&json::to_vec(&value, pod)), String::from_utf8_lossy(text));
    cost("json decode, strict", || json::decode(text, pod, Strictness::Strict));
    cost("json decode, untyped", || json::decode_untyped(text, Strictness::Ignore));
    cost("serde_json::from_slice", || serde_json::from_slice::<Value>(text));
    cost("json encode", || json::to_vec(&value, pod));
    cost("clone", || value.clone());
    let mut pb = Vec::new();
    protobuf::encode(&value, pod, &mut pb);
    cost("protobuf decode", || protobuf::decode(&pb, pod));
    cost("protobuf encode", || {
        let mut out = Vec::with_capacity(pb.len());
        protobuf::encode(&value, pod, &mut out);
        out
    });
    cost("normalize", || {
        let mut copy = value.clone();
        normalize(&mut copy, pod, Strictness::Strict)
    });
}
