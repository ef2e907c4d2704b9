//! How many pods each replica set shall have (`pkg/controller/deployment/util/deployment_util.go`).

use serde_json::Value;

use super::template::{DESIRED, MAX};
use crate::views::{Deployment, ReplicaSet};

/// What a deployment asks for.
pub fn wanted(deployment: &Deployment) -> i32 {
    deployment.spec.replicas.unwrap_or(1)
}

/// What a replica set is asked for.
pub fn asked(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(0)
}

/// Surge and unavailability of a rolling update, resolved; not both zero (`ResolveFenceposts`).
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if deployment.spec.strategy.kind == "Recreate" {
        return (0, 0);
    }
    let rolling = deployment.spec.strategy.rolling_update.clone().unwrap_or_default();
    let total = wanted(deployment);
    let surge = int_or_percent(&rolling.max_surge, total, true);
    let unavailable = int_or_percent(&rolling.max_unavailable, total, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// How many pods may be missing (`MaxUnavailable`).
pub fn max_unavailable(deployment: &Deployment) -> i32 {
    if deployment.spec.strategy.kind != "RollingUpdate" || wanted(deployment) == 0 {
        return 0;
    }
    fenceposts(deployment).1.min(wanted(deployment))
}

/// How many pods may be too many (`MaxSurge`).
pub fn max_surge(deployment: &Deployment) -> i32 {
    if deployment.spec.strategy.kind != "RollingUpdate" { 0 } else { fenceposts(deployment).0 }
}

/// A number, or a percentage of a total.
pub fn int_or_percent(value: &Value, total: i32, up: bool) -> i32 {
    match value {
        Value::Number(n) => n.as_i64().and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            let product = percent.saturating_mul(total.into());
            let share = if up { product.saturating_add(99) / 100 } else { product / 100 };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
        _ => 0,
    }
}

/// How many pods the new replica set shall have (`NewRSNewReplicas`).
pub fn new_set(deployment: &Deployment, all: i32, new: i32) -> i32 {
    let wanted = wanted(deployment);
    if deployment.spec.strategy.kind == "Recreate" {
        return wanted;
    }
    let most = wanted.saturating_add(max_surge(deployment));
    if all >= most {
        return new;
    }
    new.saturating_add((most - all).min(wanted - new))
}

/// The annotations that remember what a set was scaled for.
pub fn is_up_to_date(deployment: &Deployment, set: &ReplicaSet) -> bool {
    annotation(set, DESIRED) == Some(wanted(deployment))
        && annotation(set, MAX) == Some(wanted(deployment) + max_surge(deployment))
}

/// A number in an annotation.
pub fn annotation(set: &ReplicaSet, name: &str) -> Option<i32> {
    set.metadata.annotation(name).and_then(|v| v.parse().ok())
}

/// The share of a set in a change of the whole (`GetReplicaSetFraction`, `GetProportion`): towards the new most
/// that is allowed, in the proportion the set had of the old.
pub fn proportion(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    if asked(set) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let allowed = to_add - added;
    let share = fraction(deployment, set);
    if to_add > 0 { share.min(allowed) } else { share.max(allowed) }
}

fn fraction(deployment: &Deployment, set: &ReplicaSet) -> i32 {
    if wanted(deployment) == 0 {
        return -asked(set);
    }
    let most = f64::from(wanted(deployment) + max_surge(deployment));
    let before = match annotation(set, MAX) {
        Some(before) if before > 0 => before,
        // The status is what is left to judge by; without pods there is no proportion.
        _ if deployment.status.replicas <= 0 => return 0,
        _ => deployment.status.replicas,
    };
    let size = f64::from(asked(set)) * most / f64::from(before);
    #[expect(clippy::cast_possible_truncation, reason = "replica counts are far below")]
    let size = size.round() as i32;
    size - asked(set)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: Value, unavailable: Value) -> Deployment {
        serde_json::from_value(json!({
            "metadata": {"name": "d"},
            "spec": {"replicas": replicas, "strategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}},
        }))
        .expect("a deployment")
    }

    #[test]
    fn percentages_round_apart() {
        let check = |replicas, surge: Value, unavailable: Value, expected| {
            let d = deployment(replicas, surge, unavailable);
            assert_eq!((max_surge(&d), max_unavailable(&d)), expected);
        };
        check(10, json!("25%"), json!("25%"), (3, 2));
        check(1, json!("25%"), json!("25%"), (1, 0));
        check(2, json!(0), json!("25%"), (0, 1));
        check(0, json!("25%"), json!("25%"), (0, 0));
        check(3, json!(2), json!(9), (2, 3));
    }

    #[test]
    fn a_new_set_grows_as_far_as_surge_allows() {
        let d = deployment(10, json!(2), json!(0));
        assert_eq!(new_set(&d, 10, 0), 2);
        assert_eq!(new_set(&d, 12, 2), 2);
        assert_eq!(new_set(&d, 0, 0), 10);
    }
}
