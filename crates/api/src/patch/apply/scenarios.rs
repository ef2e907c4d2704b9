//! Writers who share an object, case by case as in the tests of `structured-merge-diff/merge` (`multiple_appliers_test.go`,
//! `set_test.go`, `duplicates_test.go`, `default_keys_test.go`, `nested_test.go`, `obsolete_versions_test.go`,
//! `schema_change_test.go`): the object they leave, who owns which fields of it, and in which version.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::managed::Managed;
use super::set::path_text;
use super::versions::{Form, Versions, View};
use super::{Cx, apply, update};
use crate::custom::Structural;

/// The kind of all of them. Fields with `_v1` are called otherwise in each version.
fn schema(version: &str, shape: &str) -> Structural {
    let name = json!({"type": "string"});
    let number = json!({"type": "integer"});
    let set = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"x-kubernetes-int-or-string": true}});
    let list = |keys: Value, fields: Value| {
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys,
            "items": {"type": "object", "properties": fields}})
    };
    let renamed = |field: &str| format!("{field}_{version}");
    Structural::compile(&json!({"type": "object", "properties": {
        "set": set, "unrelated": number,
        "list": list(json!(["name"]), json!({"name": name, "value": number, "other": number, "items": set})),
        "ports": list(json!(["port", "protocol"]),
            json!({"port": number, "protocol": {"type": "string", "default": "TCP"}, "name": name})),
        "book": list(json!(["chapter", "section"]), json!({
            "chapter": {"type": "integer", "default": 1}, "section": {"type": "string", "default": "A"},
            "sentences": list(json!(["page"]), json!({"page": {"type": "integer", "default": 2}, "text": name}))})),
        "struct": {"type": "object", "properties": {
            "name": name, renamed("scalar"): name, renamed("complex"): {"type": "object", "properties": {"name": name}}}},
        "pair": {"type": "object", "x-kubernetes-map-type": shape, "properties": {"number": number, "text": name}},
        "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
    }}))
}

/// The versions there are. A field of one is found in another by its suffix.
struct Kind(BTreeMap<String, Structural>);

impl Kind {
    fn new(versions: &[&str], shape: &str) -> Kind {
        Kind(versions.iter().map(|v| (format!("ex.io/{v}"), schema(v, shape))).collect())
    }
}

fn suffix(api_version: &str) -> String {
    api_version.replace("ex.io/", "_")
}

fn renamed(value: &Value, from: &str, to: &str) -> Value {
    match value {
        Value::Object(map) => {
            let name = |key: &String| key.strip_suffix(from).map_or_else(|| key.clone(), |stem| format!("{stem}{to}"));
            let below = |key: &String, value: &Value| match key.as_str() {
                "metadata" => value.clone(),
                _ => renamed(value, from, to),
            };
            Value::Object(map.iter().map(|(key, value)| (name(key), below(key, value))).collect())
        }
        Value::Array(list) => list.iter().map(|value| renamed(value, from, to)).collect(),
        other => other.clone(),
    }
}

impl Versions for Kind {
    fn view(&self, object: &Value, from: &str, to: &str) -> View<'_> {
        match self.0.get(to) {
            Some(schema) => {
                let object = renamed(object, &suffix(from), &suffix(to));
                View::Of(Form { object, node: schema.node(), reset_fields: &[] })
            }
            None => View::Gone,
        }
    }
}

/// One write. The text is of the manager and the version.
enum Do {
    Apply(&'static str, Value),
    /// An apply that is refused, and the fields in conflict, by manager.
    Refused(&'static str, Value, &'static [&'static str]),
    Force(&'static str, Value),
    /// An update by the whole object.
    Update(&'static str, Value),
    /// From now on there are these versions, and `pair` has this shape.
    Now(&'static [&'static str], &'static str),
}

use Do::{Apply, Force, Now, Refused, Update};

const ALL: &[&str] = &["v1", "v2", "v3", "v4"];

/// The managers as lines of name, version and fields.
fn managers(object: &Value) -> Vec<String> {
    let managed = Managed::of(object).expect("well-formed");
    let mut lines: Vec<String> = managed
        .iter()
        .map(|(id, manager)| {
            let paths: Vec<String> = manager.fields.paths().iter().map(|p| path_text(p)).collect();
            format!("{} {}: {}", id.manager, manager.api_version.replace("ex.io/", ""), paths.join(" "))
        })
        .collect();
    lines.sort();
    lines
}

#[track_caller]
fn check(name: &str, writes: Vec<Do>, version: &str, want: Value, owners: &[&str]) {
    let mut kind = Kind::new(ALL, "granular");
    // The object as it stands, and the version it is in.
    let mut live: Option<(Value, String)> = None;
    for write in writes {
        let (who, body) = match &write {
            Apply(who, body) | Refused(who, body, _) | Force(who, body) | Update(who, body) => (*who, body),
            Now(versions, shape) => {
                kind = Kind::new(versions, shape);
                continue;
            }
        };
        let (manager, version) = who.split_once(' ').expect("a version");
        let api_version = format!("ex.io/{version}");
        let mut body = body.clone();
        body["apiVersion"] = json!(api_version);
        body["kind"] = json!("Foo");
        body["metadata"] = json!({"name": "n"});
        let standing = live.as_ref().map(|(object, from)| {
            let mut object = renamed(object, &suffix(from), &suffix(&api_version));
            object["apiVersion"] = json!(api_version);
            object
        });
        let cx = Cx {
            node: kind.0[&api_version].node(),
            api_version: &api_version,
            kind: "Foo",
            manager,
            subresource: None,
            reset_fields: &[],
            versions: Some(&kind),
            now: Timestamp::UNIX_EPOCH,
        };
        let done = match &write {
            Update(..) => {
                if standing.is_some() {
                    body["metadata"]["uid"] = json!("1");
                }
                update(&cx, standing.as_ref(), &mut body);
                Ok(body)
            }
            _ => apply(&cx, standing.as_ref(), &body, matches!(write, Force(..))),
        };
        let mut object = match (done, &write) {
            (Err(status), Refused(_, _, conflicts)) => {
                let causes = status.details.map(|d| d.causes).unwrap_or_default();
                let of = |message: &str| message.split('"').nth(1).unwrap_or_default().to_owned();
                let got: Vec<String> = causes.iter().map(|c| format!("{} {}", of(&c.message), c.field)).collect();
                assert_eq!(got, *conflicts, "{name}: {who}: {}", status.message);
                continue;
            }
            (Ok(_), Refused(..)) => panic!("{name}: {who}: no conflict"),
            (done, _) => done.unwrap_or_else(|status| panic!("{name}: {who}: {}", status.message)),
        };
        object["metadata"]["uid"] = json!("1");
        live = Some((object, api_version));
    }
    let (object, from) = live.expect("an object");
    let mut got = renamed(&object, &suffix(&from), &format!("_{version}"));
    for field in ["apiVersion", "kind", "metadata"] {
        got.as_object_mut().expect("an object").remove(field);
    }
    assert_eq!(got, want, "{name}");
    assert_eq!(managers(&object), owners, "{name}");
}

#[test]
fn elements_go_with_their_last_owner() {
    let list = |names: &[&str]| json!({"list": names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>()});
    check(
        "one of two is left out, in another version",
        vec![Apply("one v1", list(&["a", "b"])), Apply("two v2", list(&["c"])), Apply("one v3", list(&["a"]))],
        "v1",
        list(&["a", "c"]),
        &[r#"one v3: .list[name="a"] .list[name="a"].name"#, r#"two v2: .list[name="c"] .list[name="c"].name"#],
    );
    check(
        "what another owns too stays",
        vec![
            Apply("one v1", list(&["a", "b", "c"])),
            Apply("two v2", list(&["c", "d"])),
            Apply("one v3", list(&["a"])),
        ],
        "v1",
        list(&["a", "c", "d"]),
        &[
            r#"one v3: .list[name="a"] .list[name="a"].name"#,
            r#"two v2: .list[name="c"] .list[name="d"] .list[name="c"].name .list[name="d"].name"#,
        ],
    );
    let valued = |n: i64| json!({"list": [{"name": "a", "value": n}]});
    check(
        "the same value is no conflict, another is",
        vec![
            Apply("one v1", valued(0)),
            Apply("two v2", valued(0)),
            Refused("three v2", valued(1), &[r#"one .list[name="a"].value"#, r#"two .list[name="a"].value"#]),
        ],
        "v1",
        valued(0),
        &[
            r#"one v1: .list[name="a"] .list[name="a"].name .list[name="a"].value"#,
            r#"two v2: .list[name="a"] .list[name="a"].name .list[name="a"].value"#,
        ],
    );
    let nested = |b: &[&str]| json!({"list": [{"name": "a"}, {"name": "b", "items": b}]});
    check(
        "an element two appliers share loses what one gave it",
        vec![
            Apply("one v1", nested(&["c"])),
            Apply("two v2", json!({"list": [{"name": "b", "items": ["d"]}]})),
            Update("controller v2", nested(&["c", "d", "e"])),
            Apply("one v3", json!({"list": [{"name": "a"}]})),
        ],
        "v1",
        nested(&["d", "e"]),
        &[
            r#"controller v2: .list[name="b"].items[="e"]"#,
            r#"one v3: .list[name="a"] .list[name="a"].name"#,
            r#"two v2: .list[name="b"] .list[name="b"].name .list[name="b"].items[="d"]"#,
        ],
    );
    check(
        "an element goes with what others put into it",
        vec![
            Apply("one v1", nested(&["c"])),
            Apply("two v2", json!({"list": [{"name": "a", "items": ["x"]}]})),
            Update(
                "controller v2",
                json!({"list": [{"name": "a", "items": ["x"]}, {"name": "b", "items": ["c", "d"]}]}),
            ),
            Apply("one v3", json!({"list": [{"name": "a"}]})),
        ],
        "v1",
        json!({"list": [{"name": "a", "items": ["x"]}]}),
        &[
            r#"one v3: .list[name="a"] .list[name="a"].name"#,
            r#"two v2: .list[name="a"] .list[name="a"].name .list[name="a"].items[="x"]"#,
        ],
    );
}

#[test]
fn sets_are_owned_value_by_value() {
    let set = |values: &[&str]| json!({"set": values});
    check(
        "a second apply adds and removes",
        vec![Apply("a v1", set(&["a", "b", "d"])), Apply("a v2", set(&["a", "c"]))],
        "v1",
        set(&["a", "c"]),
        &[r#"a v2: .set[="a"] .set[="c"]"#],
    );
    check(
        "what a controller added stays",
        vec![
            Apply("a v1", set(&["a", "c"])),
            Update("u v2", set(&["a", "b", "c", "d"])),
            Apply("a v1", set(&["a", "b", "c"])),
        ],
        "v1",
        set(&["a", "b", "c", "d"]),
        &[r#"a v1: .set[="a"] .set[="b"] .set[="c"]"#, r#"u v2: .set[="b"] .set[="d"]"#],
    );
    check(
        "the order is that of who applies",
        vec![
            Apply("a v1", set(&["a", "b", "c", "d"])),
            Update("u v1", set(&["a", "d", "c", "b"])),
            Apply("a v2", set(&["a", "b", "c", "d"])),
        ],
        "v1",
        set(&["a", "b", "c", "d"]),
        &[r#"a v2: .set[="a"] .set[="b"] .set[="c"] .set[="d"]"#],
    );
}

#[test]
fn doubled_values_are_one_to_their_owner() {
    let set = |values: &[i64]| json!({"set": values});
    check("at once", vec![Update("u v1", set(&[1, 1, 3]))], "v1", set(&[1, 1, 3]), &["u v1: .set .set[=1] .set[=3]"]);
    for (name, before, after) in [("added", vec![1, 3], vec![1, 1, 3]), ("taken out", vec![1, 1, 3], vec![1, 3])] {
        check(
            name,
            vec![Update("u v1", set(&before)), Update("v v1", set(&after))],
            "v1",
            set(&after),
            &["u v1: .set .set[=3]", "v v1: .set[=1]"],
        );
    }
    check(
        "applied",
        vec![
            Update("u v1", set(&[1, 1, 3])),
            Refused("a v1", set(&[1]), &["u .set[=1]"]),
            Force("a v1", set(&[1])),
            Apply("b v1", set(&[5])),
        ],
        "v1",
        set(&[1, 3, 5]),
        &["a v1: .set[=1]", "b v1: .set[=5]", "u v1: .set .set[=3]"],
    );
}

#[test]
fn doubled_elements_are_one_to_their_owner() {
    let one = |name: &str, value: i64| json!({"name": name, "value": value});
    let list = |items: Vec<Value>| json!({"list": items});
    let doubled = || list(vec![one("a", 1), one("a", 2), one("b", 3)]);
    let b = r#".list[name="b"].name .list[name="b"].value"#;
    check(
        "at once",
        vec![Update("u v1", doubled())],
        "v1",
        doubled(),
        &[&format!(r#"u v1: .list .list[name="a"] .list[name="b"] {b}"#)],
    );
    let mut more = doubled();
    more["list"][1]["other"] = json!(3);
    for (name, after) in [("changed", list(vec![one("a", 1), one("a", 3), one("b", 3)])), ("given a field", more)] {
        check(
            name,
            vec![Update("u v1", doubled()), Update("v v1", after.clone())],
            "v1",
            after,
            &[&format!(r#"u v1: .list .list[name="b"] {b}"#), r#"v v1: .list[name="a"]"#],
        );
    }
    let mut unrelated = doubled();
    unrelated["unrelated"] = json!(5);
    check(
        "not what is applied",
        vec![Update("u v1", doubled()), Force("a v1", json!({"unrelated": 5}))],
        "v1",
        unrelated,
        &["a v1: .unrelated", &format!(r#"u v1: .list .list[name="a"] .list[name="b"] {b}"#)],
    );
    check(
        "applied",
        vec![
            Update("u v1", doubled()),
            Refused("a v1", list(vec![one("a", 2)]), &[r#"u .list[name="a"]"#]),
            Force("a v1", list(vec![one("a", 3)])),
        ],
        "v1",
        list(vec![one("a", 3), one("b", 3)]),
        &[
            r#"a v1: .list[name="a"] .list[name="a"].name .list[name="a"].value"#,
            &format!(r#"u v1: .list .list[name="b"] {b}"#),
        ],
    );
    check(
        "doubled after an apply, and not applied again",
        vec![
            Apply("a v1", list(vec![one("a", 1), one("b", 3)])),
            Update("u v1", doubled()),
            Apply("a v1", list(vec![one("b", 3)])),
        ],
        "v1",
        doubled(),
        &[&format!(r#"a v1: .list[name="b"] {b}"#), r#"u v1: .list[name="a"]"#],
    );
}

#[test]
fn keys_that_are_left_out_have_their_default() {
    let ports = |ports: Value| json!({"ports": ports});
    let udp = r#".ports[port=80,protocol="UDP"]"#;
    check(
        "beside another that is given",
        vec![Apply("a v1", ports(json!([{"port": 80}, {"port": 80, "protocol": "UDP"}])))],
        "v1",
        ports(json!([{"port": 80}, {"port": 80, "protocol": "UDP"}])),
        &[&format!(
            r#"a v1: .ports[port=80,protocol="TCP"] {udp} .ports[port=80,protocol="TCP"].port {udp}.port {udp}.protocol"#
        )],
    );
    check(
        "and are in conflict so",
        vec![
            Apply("a v1", ports(json!([{"port": 80, "protocol": "TCP", "name": "x"}]))),
            Refused("b v2", ports(json!([{"port": 80, "name": "y"}])), &[r#"a .ports[port=80,protocol="TCP"].name"#]),
        ],
        "v1",
        ports(json!([{"port": 80, "protocol": "TCP", "name": "x"}])),
        &[
            r#"a v1: .ports[port=80,protocol="TCP"] .ports[port=80,protocol="TCP"].name .ports[port=80,protocol="TCP"].port .ports[port=80,protocol="TCP"].protocol"#,
        ],
    );
    let book = json!({"book": [{"sentences": [{"text": "x"}]}]});
    let chapter = r#".book[chapter=1,section="A"]"#;
    check(
        "at every level",
        vec![Apply("a v1", book.clone())],
        "v1",
        book,
        &[&format!("a v1: {chapter} {chapter}.sentences[page=2] {chapter}.sentences[page=2].text")],
    );
    for twice in [json!([{"port": 80}, {"port": 80}]), json!([{"port": 80}, {"port": 80, "protocol": "TCP"}])] {
        check(
            "twice",
            vec![Refused("a v1", ports(twice), &[]), Apply("a v1", json!({"unrelated": 1}))],
            "v1",
            json!({"unrelated": 1}),
            &["a v1: .unrelated"],
        );
    }
}

#[test]
fn keys_of_what_the_schema_leaves_open_are_owned_one_by_one() {
    let open = |value: Value| json!({"open": value});
    check(
        "with what others put below them",
        vec![
            Apply("one v1", open(json!({"a": {"b": {}}, "c": {"d": {}}}))),
            Apply("two v2", open(json!({"a": {}, "c": {"d": {}}}))),
            Update("u v3", open(json!({"a": {"b": {"c": 1}}, "c": {"d": {"e": 1}}}))),
            Apply("one v4", open(json!({}))),
        ],
        "v1",
        open(json!({"a": null, "c": {"d": {"e": 1}}})),
        &["one v4: .open", "two v2: .open.a .open.c .open.c.d", "u v3: .open.c.d.e"],
    );
}

#[test]
fn fields_are_owned_under_their_name_in_each_version() {
    const VERSIONS: [(&str, &str, &str, &str); 3] =
        [("v1", "one v1", "two v1", "u v1"), ("v2", "one v2", "two v2", "u v2"), ("v3", "one v3", "two v3", "u v3")];
    let plain = || json!({"struct": {"name": "a"}});
    let with = |field: &str, version: &str, value: Value| json!({"struct": {format!("{field}_{version}"): value}});
    let whole = |field: &str, version: &str, value: Value| {
        let mut object = with(field, version, value);
        object["struct"]["name"] = json!("a");
        object
    };
    for (v1, one_v1, _, u_v1) in VERSIONS {
        for (v2, one_v2, two_v2, u_v2) in VERSIONS {
            for (v3, one_v3, _, _) in VERSIONS {
                let (scalar, complex) = (json!("a"), json!({"name": "b"}));
                for (field, value) in [("scalar", &scalar), ("complex", &complex)] {
                    let of = |version: &str| whole(field, version, value.clone());
                    let below = if field == "complex" { ".name" } else { "" };
                    check(
                        "given up by its only owner",
                        vec![Apply(one_v1, of(v1)), Apply(one_v2, plain())],
                        v3,
                        plain(),
                        &[&format!("{one_v2}: .struct.name")],
                    );
                    check(
                        "given up by one of two appliers",
                        vec![
                            Apply(one_v1, of(v1)),
                            Apply(two_v2, with(field, v2, value.clone())),
                            Apply(one_v3, plain()),
                        ],
                        v3,
                        of(v3),
                        &[&format!("{one_v3}: .struct.name"), &format!("{two_v2}: .struct.{field}_{v2}{below}")],
                    );
                }
                let of = |version: &str, value: &str| whole("scalar", version, json!(value));
                check(
                    "given up by an applier, owned by an updater",
                    vec![Update(u_v1, of(v1, "a")), Apply(one_v2, of(v2, "a")), Apply(one_v3, plain())],
                    v3,
                    of(v3, "a"),
                    &[&format!("{one_v3}: .struct.name"), &format!("{u_v1}: .struct .struct.name .struct.scalar_{v1}")],
                );
                check(
                    "taken by an updater",
                    vec![Apply(one_v1, of(v1, "a")), Update(u_v2, of(v2, "b"))],
                    v3,
                    of(v3, "b"),
                    &[&format!("{one_v1}: .struct.name"), &format!("{u_v2}: .struct.scalar_{v2}")],
                );
            }
        }
    }
}

#[test]
fn who_wrote_in_a_version_that_is_gone_is_forgotten() {
    let three = |c: Value| json!({"open": {"a": 0, "b": 0, "c": c}});
    check(
        "an updater",
        vec![
            Update("one v1", json!({"open": {"a": 0}})),
            Update("two v2", json!({"open": {"a": 0, "b": 0}})),
            Now(&["v2", "v3"], "granular"),
            Update("three v3", three(json!(0))),
        ],
        "v3",
        three(json!(0)),
        &["three v3: .open.c", "two v2: .open.b"],
    );
    check(
        "an applier, who leaves everything behind",
        vec![
            Apply("a v1", json!({"set": ["a", "b", "c"]})),
            Now(&["v2"], "granular"),
            Apply("a v2", json!({"set": ["a"]})),
        ],
        "v2",
        json!({"set": ["a", "b", "c"]}),
        &[r#"a v2: .set[="a"]"#],
    );
}

#[test]
fn owners_follow_a_schema_that_changes() {
    check(
        "to one value",
        vec![
            Apply("one v1", json!({"pair": {"number": 1}})),
            Now(ALL, "atomic"),
            Refused("two v1", json!({"pair": {"text": "x"}}), &["one .pair"]),
            Force("two v1", json!({"pair": {"text": "x"}})),
        ],
        "v1",
        json!({"pair": {"text": "x"}}),
        &["two v1: .pair"],
    );
    check(
        "from one value",
        vec![
            Now(ALL, "atomic"),
            Apply("one v1", json!({"pair": {"number": 1, "text": "a"}})),
            Refused("two v1", json!({"pair": {"text": "b"}}), &["one .pair"]),
            Now(ALL, "granular"),
            Apply("two v1", json!({"pair": {"number": 1}})),
        ],
        "v1",
        json!({"pair": {"number": 1, "text": "a"}}),
        &["one v1: .pair", "two v1: .pair.number"],
    );
}
