//! Bytes from outside never make a decoder or a patch panic, overflow the stack or eat memory.
//!
//! Each target changes well-formed inputs (the recorded objects, where they are at hand) at random: bits, pieces,
//! nesting, words that mean something. A second each in the everyday run, ten minutes each with `ORKD_LONG`. The seed
//! is printed, and a failing input in hexadecimal; `ORKD_SEED` repeats a run.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use orkd_api::Value;
use orkd_api::codec::{self, Strictness, json, protobuf, yaml};
use orkd_api::custom::CustomKind;
use orkd_api::kind::{Cx, Features, Kind};
use orkd_api::patch::{self, apply};
use orkd_api::schema::{Node, Type};
use orkd_api::selector::{FieldSelector, LabelSelector};

/// Inputs are cut to this; what the server reads is limited as well.
const MAX_INPUT: usize = 64 * 1024;
/// What a run may take at most, whatever it is fed.
const MAX_MEMORY_KB: u64 = 768 * 1024;

/// A small generator of numbers (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % (n.max(1) as u64)).unwrap_or(0)
    }

    fn pick<'v, T>(&mut self, of: &'v [T]) -> &'v T {
        &of[self.below(of.len())]
    }
}

/// Words that mean something to one decoder or another.
const WORDS: &[&[u8]] = &[
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"0x7f",
    b"\"\\u0000\"",
    b"\"\\ud800\"",
    b"\xff\xfe",
    b"k8s\0",
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    b"\xff\xff\xff\xff\x0f",
    b"&a ",
    b"*a",
    b"<<: ",
    b"- - - ",
    b"? ",
    b"|+\n",
    b"!!binary ",
    b"%YAML 1.2\n---\n",
    b"\n...\n---\n",
    b"\t",
    b"\"$patch\":\"delete\",",
    b"\"$patch\":\"replace\",",
    b"\"$retainKeys\":[\"a\"],",
    b"\"$setElementOrder/containers\":[{\"name\":\"a\"}],",
    b"\"$deleteFromPrimitiveList/finalizers\":[1],",
    b"\"metadata\":{\"managedFields\":[{}]},",
    b"\"name\":",
    b"\"op\":\"move\",",
    b"\"path\":\"/a/-\",",
    b"\"from\":\"\",",
    b"2026-11-21T00:00:00Z",
    b"1.5Gi",
    b"100000000000000000000000Ei",
];

fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len() + 1);
        match random.below(9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
            1 => bytes.truncate(at),
            2 => {
                let word = random.pick(WORDS);
                bytes.splice(at..at, word.iter().copied());
            }
            3 => {
                let end = (at + random.below(32)).min(bytes.len());
                bytes.drain(at..end);
            }
            4 => {
                let end = (at + random.below(64)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len() + 1);
                bytes.splice(to..to, piece);
            }
            5 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                let end = (from + random.below(256)).min(other.len());
                bytes.splice(at..at, other[from..end].iter().copied());
            }
            6 => {
                let (open, many) =
                    (*random.pick(&[&b"["[..], b"{\"a\":", b"- ", b"a: {", b"\x0a\x7e"]), random.below(4000));
                bytes.splice(at..at, open.repeat(many));
            }
            7 => {
                let end = (at + 8).min(bytes.len());
                for byte in &mut bytes[at..end] {
                    *byte = random.next() as u8;
                }
            }
            _ => {
                let end = (at + random.below(16)).min(bytes.len());
                let with = random.pick(WORDS);
                bytes.splice(at..end, with.iter().copied());
            }
        }
    }
    bytes.truncate(MAX_INPUT);
    bytes
}

/// Recorded objects of some kinds in one encoding, and small ones.
fn seeds(extension: &str, small: &[&str]) -> Vec<Vec<u8>> {
    let root = match std::env::var_os("ORKD_SHARED") {
        Some(dir) => std::path::PathBuf::from(dir),
        None => std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
    };
    let mut out: Vec<Vec<u8>> = small.iter().map(|s| s.as_bytes().to_vec()).collect();
    for name in
        ["core.v1.Pod", "apps.v1.Deployment", "core.v1.Service", "apiextensions.k8s.io.v1.CustomResourceDefinition"]
    {
        let path = root.join(format!("kubernetes-1.36/testdata/{name}.{extension}"));
        if let Ok(bytes) = std::fs::read(path) {
            out.push(bytes);
        }
    }
    out
}

/// Feeds a target for its time.
fn fuzz(target: &str, seeds: &[Vec<u8>], mut feed: impl FnMut(&[u8], &mut Random)) {
    let long = std::env::var_os("ORKD_LONG").is_some();
    let time = if long { Duration::from_secs(600) } else { Duration::from_secs(1) };
    let seed = match std::env::var("ORKD_SEED").ok().and_then(|s| s.parse().ok()) {
        Some(seed) => seed,
        None => u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(1),
    };
    eprintln!("{target}: ORKD_SEED={seed}");
    let mut random = Random(seed);
    let (start, mut inputs) = (Instant::now(), 0u64);
    while start.elapsed() < time {
        let input = mutated(&mut random, seeds);
        let begun = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| feed(&input, &mut random)));
        let shown = || input.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert!(outcome.is_ok(), "{target}: this input makes it panic: {}", shown());
        assert!(begun.elapsed() < Duration::from_secs(20), "{target}: this input takes too long: {}", shown());
        inputs += 1;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.split_whitespace().next());
    let peak: u64 = peak.and_then(|n| n.parse().ok()).unwrap_or(0);
    eprintln!("{target}: {inputs} inputs, at most {peak} kB");
    assert!(peak < MAX_MEMORY_KB, "{target}: {peak} kB were in use");
    assert!(inputs > 10, "{target}: only {inputs} inputs");
}

const TYPES: &[(&str, &str, &str)] = &[
    ("", "v1", "Pod"),
    ("apps", "v1", "Deployment"),
    ("", "v1", "Service"),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
    ("", "v1", "PodList"),
    ("", "v1", "DeleteOptions"),
];

fn ty(random: &mut Random) -> Type {
    let (group, version, kind) = *random.pick(TYPES);
    Type::of_kind(group, version, kind).expect("a type of the table")
}

/// What was decoded can be written and read again, in every encoding.
fn write_all(value: &Value, ty: Type) {
    let text = json::to_vec(value, ty);
    assert!(json::decode(&text, ty, Strictness::Ignore).is_ok(), "what was written as JSON cannot be read");
    let _ = yaml::decode(yaml::to_string(value).as_bytes(), ty, Strictness::Ignore);
    let mut bytes = Vec::new();
    protobuf::encode(value, ty, &mut bytes);
    assert!(protobuf::decode(&bytes, ty).is_ok(), "what was written as protobuf cannot be read");
    let mut value = value.clone();
    codec::apply_schema_defaults(&mut value, ty);
    let _ = codec::normalize(&mut value, ty, Strictness::Strict);
}

#[test]
fn json_never_panics() {
    let seeds = seeds(
        "json",
        &["{}", "[1,2,{\"a\":null}]", "{\"kind\":\"Pod\",\"apiVersion\":\"v1\",\"spec\":{\"containers\":[]}}"],
    );
    fuzz("json", &seeds, |input, random| {
        let ty = ty(random);
        let _ = json::identify(input);
        for strictness in [Strictness::Ignore, Strictness::Strict] {
            let _ = json::decode_untyped(input, strictness);
            if let Ok((value, _)) = json::decode(input, ty, strictness) {
                write_all(&value, ty);
            }
        }
    });
}

#[test]
fn yaml_never_panics() {
    let seeds =
        seeds("yaml", &["a: 1\nb: [x, y]\n", "kind: Pod\nspec:\n  containers:\n  - name: a\n", "a: &x [1]\nb: *x\n"]);
    fuzz("yaml", &seeds, |input, random| {
        let ty = ty(random);
        let _ = yaml::identify(input);
        for strictness in [Strictness::Ignore, Strictness::Strict] {
            let _ = yaml::decode_untyped(input, strictness);
            if let Ok((value, _)) = yaml::decode(input, ty, strictness) {
                write_all(&value, ty);
            }
        }
    });
}

#[test]
fn protobuf_never_panics() {
    let seeds = seeds("pb", &["k8s\0", "k8s\0\n\x0b\n\x02v1\x12\x05Thing\x12\x00\x1a\x00\x22\x00"]);
    fuzz("protobuf", &seeds, |input, random| {
        let ty = ty(random);
        let _ = protobuf::identify(input);
        if let Ok(value) = protobuf::decode(input, ty) {
            write_all(&value, ty);
        }
    });
}

/// Objects to patch.
fn objects() -> Vec<Value> {
    let mut out: Vec<Value> = seeds("json", &["{}"]).iter().filter_map(|b| serde_json::from_slice(b).ok()).collect();
    out.push(serde_json::json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["a/b", "c/d"]},
        "spec": {"containers": [{"name": "a", "image": "i", "ports": [{"containerPort": 80}]}, {"name": "b"}],
            "volumes": [{"name": "v", "emptyDir": {}}], "tolerations": [{"key": "k"}]},
    }));
    out
}

/// Patches of all forms, small.
const PATCHES: &[&str] = &[
    "[{\"op\":\"add\",\"path\":\"/metadata/labels/x\",\"value\":\"y\"},{\"op\":\"remove\",\"path\":\"/spec\"}]",
    "[{\"op\":\"move\",\"from\":\"/spec\",\"path\":\"/a\"},{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/b/-\"}]",
    "[{\"op\":\"test\",\"path\":\"/metadata/name\",\"value\":\"x\"},{\"op\":\"replace\",\"path\":\"\",\"value\":{}}]",
    "{\"metadata\":{\"labels\":{\"a\":null,\"b\":\"c\"}},\"spec\":{\"containers\":[{\"name\":\"a\",\"$patch\":\"delete\"}]}}",
    "{\"spec\":{\"$setElementOrder/containers\":[{\"name\":\"b\"},{\"name\":\"a\"}],\"containers\":[{\"name\":\"b\",\"image\":\"j\"}]}}",
    "{\"spec\":{\"volumes\":[{\"name\":\"v\",\"$retainKeys\":[\"name\",\"hostPath\"],\"hostPath\":{\"path\":\"/\"}}]}}",
    "{\"metadata\":{\"$deleteFromPrimitiveList/finalizers\":[\"a/b\"]},\"spec\":{\"$patch\":\"replace\"}}",
    "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"x\"},\"spec\":{\"containers\":[{\"name\":\"a\"}]}}",
];

#[test]
fn patches_never_panic() {
    let seeds = seeds("json", PATCHES);
    let objects = objects();
    let node = Node::of_kind("", "v1", "Pod").expect("Pod");
    let pod = Type::of_kind("", "v1", "Pod").expect("Pod");
    fuzz("patch", &seeds, |input, random| {
        let Ok((value, _)) = json::decode_untyped(input, Strictness::Ignore) else { return };
        let object = random.pick(&objects).clone();
        let mut by_json = object.clone();
        if let Ok(patch) = patch::json::Patch::decode(value.clone()) {
            let _ = patch.apply(&mut by_json);
        }
        let mut merged = object.clone();
        let _ = patch::merge::apply(&mut merged, value.clone());
        let mut strategic = object.clone();
        let _ = patch::strategic::apply(&mut strategic, value.clone(), node);
        let _ = patch::strategic::type_problem(node, &strategic);
        let _ = patch::shown(&value);
        for mut patched in [by_json, merged, strategic] {
            let _ = codec::normalize(&mut patched, pod, Strictness::Warn);
        }
    });
}

#[test]
fn server_side_apply_never_panics() {
    let seeds = seeds("json", PATCHES);
    let objects = objects();
    let node = Node::of_kind("", "v1", "Pod").expect("Pod");
    fuzz("apply", &seeds, |input, random| {
        let Ok((value, _)) = json::decode_untyped(input, Strictness::Ignore) else { return };
        let cx = apply::Cx {
            node,
            api_version: "v1",
            kind: "Pod",
            manager: if random.below(2) == 0 { "kubectl" } else { "m" },
            subresource: (random.below(4) == 0).then_some("status"),
            reset_fields: &[],
            versions: None,
            now: Timestamp::UNIX_EPOCH,
        };
        let live = random.pick(&objects).clone();
        let force = random.below(2) == 0;
        if let Ok(applied) = apply::apply(&cx, Some(&live), &value, force) {
            let again =
                apply::apply(&cx, Some(&applied), &value, force).expect("what was applied can be applied again");
            // What nobody manages is what was before the first apply, each time.
            if applied["metadata"].get("managedFields").is_some() {
                assert_eq!(again, applied, "applying again changes nothing");
            }
        }
        let mut new = value;
        if new.is_object() {
            apply::update(&cx, Some(&live), &mut new);
            apply::keep_times(&live, &mut new);
        }
    });
}

/// Schemas of custom resources, and objects of them.
const CUSTOM: &[&str] = &[
    r#"{"type":"object","required":["spec"],"properties":{"spec":{"type":"object","default":{"a":1},"properties":{
        "a":{"type":"integer","format":"int32","minimum":1,"maximum":9.5,"multipleOf":2,"default":2,"nullable":true},
        "b":{"type":"string","maxLength":3,"pattern":"^[a-z]+$","enum":["a","b"],"format":"date-time"},
        "c":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},
        "d":{"type":"array","x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object",
            "properties":{"k":{"type":"string"},"v":{"type":"number"}}}},
        "e":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true},
        "f":{"type":"object","additionalProperties":{"type":"array","items":{"type":"boolean"}},"maxProperties":2}},
        "x-kubernetes-validations":[{"rule":"self.a > 1 || has(self.b)","messageExpression":"'a is ' + string(self.a)",
            "fieldPath":".a","reason":"FieldValueForbidden"},{"rule":"self == oldSelf"}],
        "oneOf":[{"required":["a"]},{"not":{"required":["b"]}}]}}}"#,
    r#"{"type":"object","x-kubernetes-preserve-unknown-fields":true,"properties":{"spec":{"x-kubernetes-preserve-unknown-fields":true}}}"#,
    r#"{"apiVersion":"ex.io/v1","kind":"Foo","metadata":{"name":"n","labels":{"a":"b"}},"spec":{"a":2,"b":"a","c":"5%",
        "d":[{"k":"x","v":1},{"k":"y","v":2.5}],"e":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{}},
        "f":{"x":[true,false]}},"status":{"x":[null,{}]}}"#,
    r#"{"apiVersion":"ex.io/v1","kind":"Foo","metadata":{"name":"n","generation":0},"spec":null,"more":{"a":{"b":[[[1]]]}}}"#,
];

#[test]
fn custom_objects_never_panic() {
    let seeds: Vec<Vec<u8>> = CUSTOM.iter().map(|s| s.as_bytes().to_vec()).collect();
    let parsed: Vec<Value> = CUSTOM.iter().map(|s| s.parse().expect("JSON")).collect();
    let definitions = orkd_api::kinds::all();
    let definitions = definitions.iter().find(|k| k.info().plural == "customresourcedefinitions").expect("definitions");
    let features = Features::default();
    let cx = Cx { now: Timestamp::UNIX_EPOCH, subresource: None, user: "u", features: &features };
    fuzz("custom", &seeds, |input, random| {
        let Ok((value, _)) = json::decode_untyped(input, Strictness::Ignore) else { return };
        let schema = if random.below(2) == 0 { value.clone() } else { parsed[random.below(2)].clone() };
        let definition = serde_json::json!({"metadata": {"name": "foos.ex.io"}, "spec": {"group": "ex.io", "scope": "Cluster",
            "names": {"kind": "Foo", "plural": "foos", "singular": "foo", "listKind": "FooList"}, "versions": [{"name": "v1",
            "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}, "subresources": {"status": {}, "scale": {
                "specReplicasPath": ".spec.a", "statusReplicasPath": ".status.x", "labelSelectorPath": ".spec.b"}},
            "additionalPrinterColumns": [{"name": "A", "type": "string", "jsonPath": ".spec.d[?(@.k==\"x\")].v"}]}]}});
        let _ = definitions.validate(&cx, &definition);
        let kind = CustomKind::new(&definition, "v1").expect("names are there");
        let old = random.pick(&parsed[2..]).clone();
        for sent in [value.to_string(), old.to_string()] {
            let Ok((mut object, _)) = kind.decode(sent.as_bytes(), false, Strictness::Warn) else { continue };
            let before = object.clone();
            let strict = kind.normalize(&mut object, Strictness::Strict).expect("what is normal stays so");
            assert!(strict.is_empty() && object == before, "normal twice is normal once: {strict:?}");
            Kind::default(&kind, &mut object);
            let defaulted = object.clone();
            Kind::default(&kind, &mut object);
            assert_eq!(object, defaulted, "defaults twice are defaults once");
            let _ = (kind.validate(&cx, &object), kind.validate_update(&cx, &object, &old));
            let _ = (kind.cells(&object, Timestamp::UNIX_EPOCH), kind.openapi_schema(), kind.restore(&mut object));
        }
    });
}

#[test]
fn texts_never_panic() {
    let seeds: Vec<Vec<u8>> =
        ["a=b,c in (d,e),!f", "metadata.name=a\\,b", "1.5Gi", "1h30m5s", "2026-11-21T00:00:00.5+01:00", "80%"]
            .iter()
            .map(|s| s.as_bytes().to_vec())
            .collect();
    fuzz("texts", &seeds, |input, _| {
        let text = String::from_utf8_lossy(input);
        if let Ok(selector) = LabelSelector::parse(&text) {
            assert!(LabelSelector::parse(&selector.to_string()).is_ok(), "{selector} is not read again");
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            assert!(FieldSelector::parse(&selector.to_string()).is_ok(), "{selector} is not read again");
        }
        let _ = orkd_api::time::parse_duration(&text);
        let _ = text.parse::<orkd_api::quantity::Quantity>();
        for value in [Value::from(text.as_ref()), serde_json::json!({"matchLabels": {text.as_ref(): text.as_ref()}})] {
            let _ = LabelSelector::of_object(&value);
        }
    });
}
