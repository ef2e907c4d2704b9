//! Templates: are they the same, what is their hash, which annotations go with them
//! (`pkg/controller/deployment/util`).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::views::{Deployment, ReplicaSet};

/// The label that tells the pods of one template from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";
/// The number of a template in the order of its last use.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Numbers a template had before.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// What the deployment asked for when it last scaled.
pub const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// The most the deployment allowed when it last scaled.
pub const MAX: &str = "deployment.kubernetes.io/max-replicas";

/// Annotations that replica sets do not take from their deployment.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];

/// The most characters of a revision history, as upstream has it.
const HISTORY_LENGTH: usize = 2000;

/// The template of a replica set.
pub fn of_set(set: &ReplicaSet) -> Value {
    set.spec.template.as_ref().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or(Value::Null)
}

/// Whether two templates are the same but for the hash label. Absent, null and empty are equal.
pub fn same(a: &Value, b: &Value) -> bool {
    normal(a) == normal(b)
}

fn normal(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    prune(&mut template);
    template
}

/// Drops nulls and empty maps and lists at all depths, except for those whose presence has a meaning: members of
/// lists, and structs such as `emptyDir: {}`, which stay because they say which one it is.
fn prune(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(prune);
            map.retain(|key, v| match v {
                Value::Null => false,
                Value::Object(m) => {
                    !(m.is_empty()
                        && matches!(
                            key.as_str(),
                            "metadata"
                                | "labels"
                                | "annotations"
                                | "resources"
                                | "securityContext"
                                | "nodeSelector"
                                | "limits"
                                | "requests"
                        ))
                }
                Value::Array(items) => !items.is_empty(),
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// The hash of a template, in letters that make no words (`ComputeHash`, `rand.SafeEncodeString`): FNV-1a over the
/// normal form in JSON and the count of collisions. Upstream hashes a print-out of its Go structs, so that the
/// letters differ from upstream's; their form and their meaning do not.
pub fn hash(template: &Value, collisions: Option<i32>) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut hash: u32 = 0x811c_9dc5;
    let mut feed = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        }
    };
    feed(normal(template).to_string().as_bytes());
    if let Some(collisions) = collisions {
        feed(&u64::from(collisions.unsigned_abs()).to_le_bytes());
    }
    hash.to_string().bytes().map(|digit| LETTERS[usize::from(digit) % LETTERS.len()] as char).collect()
}

/// The revision of a replica set; 0 without.
pub fn revision(set: &ReplicaSet) -> i64 {
    set.metadata.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
}

/// The annotations of a deployment that its replica sets carry.
pub fn copied(deployment: &Deployment) -> BTreeMap<String, String> {
    let annotations = deployment.metadata.annotations.iter();
    annotations.filter(|(k, _)| !NOT_COPIED.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// What the annotations of the newest replica set lack (`SetNewReplicaSetAnnotations`), at a revision.
pub fn annotation_changes(deployment: &Deployment, set: &ReplicaSet, new_revision: i64) -> Map<String, Value> {
    let mut changes = Map::new();
    for (key, value) in copied(deployment) {
        if set.metadata.annotations.get(&key) != Some(&value) {
            changes.insert(key, value.into());
        }
    }
    let old = revision(set);
    if old < new_revision {
        changes.insert(REVISION.into(), new_revision.to_string().into());
        if set.metadata.annotation(REVISION).is_some() {
            let history = set.metadata.annotation(REVISION_HISTORY).unwrap_or("");
            changes.insert(REVISION_HISTORY.into(), with_history(history, old).into());
        }
    }
    changes
}

fn with_history(history: &str, old: i64) -> String {
    let mut revisions: Vec<String> = history.split(',').filter(|r| !r.is_empty()).map(str::to_owned).collect();
    let old = old.to_string();
    if old != "0" {
        revisions.push(old);
    }
    let mut text = revisions.join(",");
    while text.len() > HISTORY_LENGTH {
        match text.split_once(',') {
            Some((_, rest)) => text = rest.to_owned(),
            None => break,
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_label_makes_no_difference() {
        let a = json!({"metadata": {"labels": {"app": "x"}, "creationTimestamp": null}, "spec": {"containers": []}});
        let b = json!({"metadata": {"labels": {"app": "x", HASH_LABEL: "7"}}, "spec": {}});
        assert!(same(&a, &b));
        assert_eq!(hash(&a, None), hash(&b, None));
        assert!(!same(&a, &json!({"metadata": {"labels": {"app": "y"}}, "spec": {}})));
        let volume = |v: Value| json!({"spec": {"volumes": [{"name": "v", "emptyDir": v}]}});
        assert!(!same(&volume(json!({})), &volume(Value::Null)));
    }

    #[test]
    fn a_collision_makes_another_hash_of_safe_letters() {
        let template = json!({"spec": {"containers": [{"name": "c", "image": "i"}]}});
        let (plain, other) = (hash(&template, None), hash(&template, Some(1)));
        assert_ne!(plain, other);
        assert!(plain.len() <= 10 && plain.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b)), "{plain}");
    }

    #[test]
    fn history_grows_at_its_end() {
        assert_eq!(with_history("", 1), "1");
        assert_eq!(with_history("1,3", 5), "1,3,5");
        assert_eq!(with_history("1", 0), "1");
        assert!(with_history(&"9,".repeat(1500), 10).len() <= HISTORY_LENGTH);
    }
}
