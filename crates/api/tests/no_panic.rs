//! Whatever an object looks like, no kind panics on it: every method is called on full objects (`../shared`'s test
//! data, where it is at hand) and on small ones, with parts replaced by values of other types.

use orkd_api::Value;
use orkd_api::kind::{Cx, Features, Kind};
use orkd_api::object::View;
use orkd_api::table::Template;
use orkd_api::validate::meta::{changed_object, new_object};
use serde_json::json;

/// A small generator of numbers, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n.max(1)
    }
}

fn full_object(kind: &dyn Kind) -> Option<Value> {
    let root = std::env::var_os("ORKD_SHARED").map_or_else(
        || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        std::path::PathBuf::from,
    );
    let info = kind.info();
    let group = if info.group.is_empty() { "core" } else { &info.group };
    let file = root.join("kubernetes-1.36/testdata").join(format!("{group}.{}.{}.json", info.version, info.kind));
    serde_json::from_slice(&std::fs::read(file).ok()?).ok()
}

fn count(v: &Value) -> usize {
    1 + match v {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(map) => map.values().map(count).sum(),
        _ => 0,
    }
}

/// Replaces the `n`th part.
fn replace(v: &mut Value, n: &mut usize, with: &Value) {
    if *n == 0 {
        *v = with.clone();
    }
    *n = n.wrapping_sub(1);
    match v {
        Value::Array(list) => list.iter_mut().for_each(|v| replace(v, n, with)),
        Value::Object(map) => map.values_mut().for_each(|v| replace(v, n, with)),
        _ => {}
    }
}

fn call_everything(kind: &dyn Kind, obj: &Value, old: &Value) {
    let features = Features::default();
    for subresource in
        [None, Some("status"), Some("approval"), Some("finalize"), Some("resize"), Some("ephemeralcontainers")]
    {
        let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource, user: "test", features: &features };
        let mut new = obj.clone();
        kind.default(&mut new);
        kind.prepare_create(&cx, &mut new);
        let _ = (new_object(kind, &cx, &new), kind.warnings(&cx, &new, None));
        kind.canonicalize(&mut new);
        let mut new = obj.clone();
        kind.prepare_update(&cx, &mut new, old);
        let _ = (changed_object(kind, &cx, &new, old), kind.warnings(&cx, &new, Some(old)));
        let _ = kind.reset_fields(subresource);
    }
    let _ =
        (kind.selectable_fields(obj), kind.cells(obj, jiff::Timestamp::UNIX_EPOCH), kind.graceful_delete(obj, None));
    let mut stored = obj.clone();
    kind.to_storage(&mut stored);
    kind.to_served(&mut stored);
    let _ = View::root(obj).dig("a.b.c").list();
}

#[test]
fn no_object_makes_a_kind_panic() {
    let junk = [
        Value::Null,
        json!(true),
        json!(-1),
        json!(i64::MAX),
        json!(""),
        json!("a/b/c%\u{0}é"),
        json!([]),
        json!([null]),
        json!({}),
        json!({"": null}),
    ];
    let mut random = Random(7);
    for kind in orkd_api::kinds::all().into_iter().chain(orkd_api::kinds::bodies()) {
        let full = full_object(&*kind).unwrap_or_else(|| json!({"metadata": {"name": "x"}, "spec": {}, "status": {}}));
        call_everything(&*kind, &full, &full);
        for value in &junk {
            call_everything(&*kind, value, &full);
            call_everything(&*kind, &full, value);
        }
        let parts = count(&full);
        for _ in 0..60 {
            let mut obj = full.clone();
            for _ in 0..=random.below(3) {
                let mut n = random.below(parts);
                replace(&mut obj, &mut n, &junk[random.below(junk.len())]);
            }
            call_everything(&*kind, &obj, &full);
        }
    }
}

#[test]
fn every_kind_has_as_many_cells_as_columns_and_the_same_labels() {
    for kind in orkd_api::kinds::all() {
        let info = kind.info();
        if info.verbs == ["create"] {
            continue;
        }
        let full = full_object(&*kind).unwrap_or_else(|| json!({}));
        for obj in [&full, &json!({})] {
            assert_eq!(kind.cells(obj, jiff::Timestamp::UNIX_EPOCH).len(), info.columns.len(), "{}", info.kind);
        }
        let labels = |obj: &Value| kind.selectable_fields(obj).into_iter().map(|(l, _)| l).collect::<Vec<_>>();
        assert_eq!(labels(&full), labels(&json!({})), "{}", info.kind);
    }
}

#[test]
fn cells_filled_in_later_are_the_cells() {
    let find = |name: &str| orkd_api::kinds::all().into_iter().find(|k| k.info().kind == name).expect("a kind");
    for kind in orkd_api::kinds::all() {
        let full = full_object(&*kind).unwrap_or_else(|| json!({}));
        for obj in [&full, &json!({})] {
            let template = Template::new(&*kind, obj).expect("a template");
            for now in ["1970-01-01T00:00:00Z", "2026-11-21T01:00:00Z", "2089-11-22T12:00:00Z"] {
                let now: jiff::Timestamp = now.parse().expect("a time");
                let mut out = bytes::BytesMut::new();
                template.write(now, &mut out);
                let want = serde_json::to_string(&kind.cells(obj, now)).expect("JSON");
                assert_eq!(String::from_utf8_lossy(&out), want, "{}", kind.info().kind);
            }
        }
    }
    // A text of the object's own is not taken for the place of an age.
    let event = json!({"metadata": {"name": "e"}, "message": "\u{f8fe}0\u{f8ff}"});
    assert!(Template::new(&*find("Event"), &event).is_none());
}
