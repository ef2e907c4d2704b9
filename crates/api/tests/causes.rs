//! What each kind says of new and changed objects, cause by cause, as upstream's table tests have it: the table is
//! `causes.json`. A case makes an object of `obj`, and changes it by the merge patch `patch` if there is one, through the
//! subresource `door` if there is one. A name, a namespace and an uid are given to what has none.

use std::fmt::Write;

use orkd_api::Value;
use orkd_api::codec::{self, Strictness};
use orkd_api::kind::{Cx, Features, Kind, Scope};
use orkd_api::object::{at, set};
use orkd_api::patch::merge;
use orkd_api::schema::Type;
use orkd_api::validate::meta::{changed_object, new_object};

/// An object of this kind as a client would send it, with the defaults.
fn object(kind: &dyn Kind, fields: &Value) -> Value {
    let info = kind.info();
    let ty = Type::of_kind(&info.group, &info.version, &info.kind).expect("a type");
    let mut obj = fields.clone();
    let group = if info.group.is_empty() { String::new() } else { format!("{}/", info.group) };
    set(&mut obj, &["apiVersion"], format!("{group}{}", info.version));
    set(&mut obj, &["kind"], info.kind.to_string());
    for (field, value) in [("name", "x"), ("uid", "u"), ("namespace", "d")] {
        if at(&obj, &["metadata", field]).is_null() && (field != "namespace" || info.scope == Scope::Namespaced) {
            set(&mut obj, &["metadata", field], value);
        }
    }
    let bytes = serde_json::to_vec(&obj).expect("JSON");
    let (mut obj, _) = codec::json::decode(&bytes, ty, Strictness::Ignore).expect("an object");
    codec::apply_schema_defaults(&mut obj, ty);
    kind.default(&mut obj);
    codec::normalize(&mut obj, ty, Strictness::Ignore).expect("an object");
    obj
}

/// The object as it would be stored; a status that the case has is kept.
fn stored(kind: &dyn Kind, cx: &Cx<'_>, fields: &Value) -> Value {
    let mut obj = object(kind, fields);
    let status = obj.get("status").cloned();
    kind.prepare_create(cx, &mut obj);
    if let Some(status) = status {
        set(&mut obj, &["status"], status);
    }
    let info = kind.info();
    let ty = Type::of_kind(&info.group, &info.version, &info.kind).expect("a type");
    codec::normalize(&mut obj, ty, Strictness::Ignore).expect("an object");
    obj
}

/// Each cause and each warning, in their order.
fn said(case: &Value) -> Vec<String> {
    let text = |field: &str| case[field].as_str().unwrap_or_default();
    let kinds = orkd_api::kinds::all();
    let kind = kinds.iter().find(|k| k.info().kind == text("kind")).expect("a kind").as_ref();
    let features = Features::default();
    let cx = Cx { now: jiff::Timestamp::UNIX_EPOCH, subresource: None, user: "test", features: &features };
    let first = stored(kind, &cx, &case["obj"]);
    let (errs, warnings) = if case["patch"].is_null() {
        (new_object(kind, &cx, &first), kind.warnings(&cx, &first, None))
    } else {
        let mut changed = first.clone();
        merge::apply(&mut changed, case["patch"].clone()).expect("a patch");
        let mut changed = object(kind, &changed);
        let cx = Cx { subresource: case["door"].as_str(), ..cx };
        kind.prepare_update(&cx, &mut changed, &first);
        (changed_object(kind, &cx, &changed, &first), kind.warnings(&cx, &changed, Some(&first)))
    };
    let warnings = warnings.into_iter().map(|warning| format!("warning: {warning}"));
    errs.0.iter().map(ToString::to_string).chain(warnings).collect()
}

#[test]
fn each_cause_is_said_as_upstream_says_it() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("causes.json")).expect("a table");
    let mut bad = String::new();
    for case in &cases {
        let (ours, theirs) = (said(case), &case["said"]);
        let theirs: Vec<&str> = theirs.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // The lines of a difference are ours; what is before them is not.
        let first_line = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        if ours.iter().map(|text| first_line(text)).ne(theirs.iter().map(|text| first_line(text))) {
            let _ = writeln!(
                bad,
                "{} {}\n  ours\n    {}\n  theirs\n    {}",
                case["kind"],
                case["case"],
                ours.join("\n    "),
                theirs.join("\n    ")
            );
        }
    }
    assert!(bad.is_empty(), "{bad}");
}
