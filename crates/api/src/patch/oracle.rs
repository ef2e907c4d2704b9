//! Strategic merge patches compared with what upstream's own code makes of them: `kubectl patch --local` runs it
//! without a server. Objects and patches are made at random from a fixed seed (`ORKD_SEED` and `ORKD_CASES` change
//! seed and number), so a failure can be repeated.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::{strategic, testing};
use crate::codec::{self, Strictness};
use crate::schema::Type;

/// What kubectl makes of the patch. `Err` is its error text; `None` when there is no kubectl.
fn kubectl(object: &Value, patch: &Value) -> Option<Result<Value, String>> {
    let mut child = Command::new("kubectl")
        .args(["patch", "--local", "--output=json", "--type=strategic", "--filename=-", "--patch", &patch.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(object.to_string().as_bytes()).expect("kubectl reads its input");
    drop(stdin);
    let output = child.wait_with_output().expect("kubectl ends");
    Some(if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).expect("kubectl prints JSON"))
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

fn normal(mut object: Value) -> Value {
    let ty = Type::of_api_version("v1", "Pod").expect("a type");
    codec::normalize(&mut object, ty, Strictness::Ignore).expect("it decodes");
    object
}

/// A small generator of random numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len.max(1) as u64)).expect("small")
    }

    /// Different letters, at most `max`.
    fn names(&mut self, max: u64) -> Vec<&'static str> {
        let mut all = vec!["a", "b", "c", "d", "e"];
        (0..self.below(max + 1)).map(|_| all.remove(self.index(all.len()))).collect()
    }

    /// The names with others among them.
    fn order(&mut self, mut names: Vec<&'static str>) -> Value {
        for other in ["b", "c", "e"] {
            if !names.contains(&other) && self.one_in(2) {
                let at = self.index(names.len() + 1);
                names.insert(at, other);
            }
        }
        names.iter().map(|name| json!({"name": name})).collect()
    }

    fn pod(&mut self) -> Value {
        let containers: Vec<Value> = self
            .names(4)
            .into_iter()
            .map(|name| {
                let mut container = json!({"name": name, "image": "i1"});
                if self.one_in(2) {
                    container["env"] = self.names(3).iter().map(|n| json!({"name": n, "value": "v"})).collect();
                }
                if self.one_in(2) {
                    let port = |i| json!({"containerPort": 80 + i, "protocol": "TCP"});
                    container["ports"] = (0..self.below(3)).map(port).collect();
                }
                if self.one_in(3) {
                    container["args"] = json!(["x", "y"]);
                }
                container
            })
            .collect();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}});
        pod["spec"] = json!({"containers": containers, "tolerations": [{"key": "a"}]});
        if self.one_in(2) {
            pod["metadata"]["labels"] = json!({"l1": "1", "l2": "2"});
        }
        if self.one_in(2) {
            pod["metadata"]["finalizers"] = json!(self.names(4));
        }
        if self.one_in(2) {
            pod["spec"]["volumes"] = self.names(3).iter().map(|n| json!({"name": n, "emptyDir": {}})).collect();
        }
        if self.one_in(2) {
            pod["spec"]["nodeSelector"] = json!({"k": "v"});
        }
        pod
    }

    fn container_patch(&mut self, name: &str) -> Value {
        let mut container = json!({"name": name});
        match self.below(6) {
            0 => {
                container["$patch"] = "delete".into();
                return container;
            }
            1 => container["image"] = Value::Null,
            2 => container["image"] = "i3".into(),
            3 => container["args"] = json!(["z"]),
            _ => {}
        }
        if self.one_in(3) {
            let names = self.names(3);
            container["env"] = names.iter().map(|n| json!({"name": n, "value": "w"})).collect();
            if self.one_in(2) {
                container["$setElementOrder/env"] = self.order(names);
            }
        }
        if self.one_in(4) {
            container["ports"] = json!([{"containerPort": 80 + self.below(4), "name": "web"}]);
        }
        container
    }

    fn patch(&mut self) -> Value {
        let mut patch = json!({"metadata": {}, "spec": {}});
        let names = self.names(4);
        let mut containers: Vec<Value> = names.iter().map(|name| self.container_patch(name)).collect();
        let mut kept: Vec<&str> = Vec::new();
        for (name, container) in names.iter().zip(&containers) {
            if container.get("$patch").is_none() {
                kept.push(name);
            }
        }
        if self.one_in(10) {
            kept.reverse();
        }
        if self.one_in(10) {
            containers.push(json!({"$patch": "replace"}));
        }
        if !self.one_in(3) {
            patch["spec"]["containers"] = containers.into();
        }
        if self.one_in(2) {
            patch["spec"]["$setElementOrder/containers"] = self.order(kept);
        }
        let mut finalizers = self.names(3);
        match self.below(4) {
            0 => patch["metadata"]["finalizers"] = json!(finalizers),
            1 => {
                patch["metadata"]["finalizers"] = json!(finalizers);
                finalizers.push("f");
                patch["metadata"]["$setElementOrder/finalizers"] = json!(finalizers);
            }
            2 => patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!(finalizers),
            _ => {}
        }
        match self.below(8) {
            0 => patch["metadata"]["labels"] = Value::Null,
            1 => patch["metadata"]["labels"] = json!({"$patch": "replace", "l9": "9"}),
            2 => patch["metadata"]["labels"] = json!({"l1": null, "l3": "3"}),
            3 => patch["metadata"]["labels"] = json!({"$patch": "delete"}),
            _ => {}
        }
        if self.one_in(3) {
            let name = ["a", "b", "f"][self.index(3)];
            let volume = json!({"name": name, "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}});
            patch["spec"]["volumes"] = json!([volume]);
        }
        if self.one_in(3) {
            patch["spec"]["nodeSelector"] = json!({"k2": "v"});
        }
        if self.one_in(4) {
            patch["spec"]["tolerations"] = json!([{"key": "z"}]);
        }
        patch
    }
}

#[test]
fn strategic_merge_is_upstreams() {
    let number = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).filter(|n| *n > 0).unwrap_or(default)
    };
    let mut random = Random(number("ORKD_SEED", 88_172_645_463_325_252));
    for case in 0..number("ORKD_CASES", 40) {
        let object = normal(random.pod());
        let patch = random.patch();
        let Some(want) = kubectl(&object, &patch) else {
            println!("skipped: no kubectl to compare with");
            return;
        };
        let mut got = object.clone();
        let got = strategic::apply(&mut got, patch.clone(), testing::node("core/v1.Pod")).map(|()| normal(got));
        match (want.map(normal), got) {
            (Ok(want), Ok(got)) => assert_eq!(got, want, "case {case}: {object} patched by {patch}"),
            (Err(want), Err(got)) => {
                assert!(want.contains(got.message.trim()), "case {case}: {} for {want} of {patch}", got.message);
            }
            (want, got) => panic!("case {case}: {got:?} for {want:?}: {object} patched by {patch}"),
        }
    }
}
