//! Whether a request fits into quotas, and what they use then: pure (`CheckRequest`).

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use orkd_api::quota::{Amounts, Evaluator, Scope, add, amounts, mask, scopes, to_value};
use orkd_api::status::Status;
use serde_json::Value;

use super::super::{Operation, Request, items, meta};

/// A quota and what it uses so far.
pub(super) struct Quota {
    /// Its name.
    pub(super) name: String,
    /// What is used, with what this batch has been granted.
    pub(super) used: Amounts,
    hard: Amounts,
    object: Arc<Value>,
}

impl Quota {
    pub(super) fn new(object: Arc<Value>) -> Self {
        let status = &object["status"];
        let (hard, used) = (amounts(&status["hard"]), amounts(&status["used"]));
        Quota { name: meta(&object, "name").to_owned(), used, hard, object }
    }

    /// The quota as it is to be stored.
    pub(super) fn to_object(&self) -> Value {
        let mut object = Value::clone(&self.object);
        object["status"]["used"] = to_value(&self.used);
        object
    }
}

/// A resource that may be used only where a quota says so (`LimitedResource`).
pub(super) struct Limited {
    group: String,
    resource: String,
    contains: Vec<String>,
    scopes: Vec<Scope>,
}

impl Limited {
    pub(super) fn parse(value: &Value) -> Self {
        let text = |f: &str| value[f].as_str().unwrap_or_default().to_owned();
        let contains = items(&value["matchContains"]).iter().filter_map(|c| c.as_str().map(str::to_owned));
        Limited {
            group: text("apiGroup"),
            resource: text("resource"),
            contains: contains.collect(),
            scopes: items(&value["matchScopes"]).iter().map(Scope::parse).collect(),
        }
    }
}

/// What a request asks for.
pub(super) struct Asked {
    /// Whether nothing will be stored.
    pub(super) dry_run: bool,
    evaluator: Evaluator,
    update: bool,
    subresource: String,
    group: String,
    resource: String,
    name: String,
    object: Value,
    old: Option<Value>,
    now: Timestamp,
}

impl Asked {
    pub(super) fn new(request: &Request<'_>, evaluator: Evaluator, object: &Value) -> Self {
        Asked {
            dry_run: request.dry_run,
            evaluator,
            update: request.operation == Operation::Update,
            subresource: request.subresource.to_owned(),
            group: request.resource.group.to_string(),
            resource: request.resource.plural.to_string(),
            name: request.shown_name(object).to_owned(),
            object: object.clone(),
            old: request.old.cloned(),
            now: request.now,
        }
    }

    fn forbidden(&self, why: &str) -> Status {
        Status::forbidden(&self.group, &self.resource, &self.name, why)
    }
}

fn shown(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

fn names<'n>(names: impl IntoIterator<Item = &'n String>) -> String {
    names.into_iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

/// What the quotas use when the request is granted; `None` if that changes nothing.
pub(super) fn check(quotas: &[Quota], asked: &Asked, limited: &[Limited]) -> Result<Option<Vec<Amounts>>, Status> {
    let evaluator = &asked.evaluator;
    let usage = evaluator.usage(&asked.object, asked.now);
    let needs_quota: BTreeSet<&String> = limited
        .iter()
        .filter(|l| l.group == asked.group && l.resource == asked.resource)
        .flat_map(|l| {
            let hit = |name: &&String| l.contains.iter().any(|c| name.contains(c.as_str()));
            usage.iter().filter(|(_, amount)| amount.sign() > 0).map(|(name, _)| name).filter(hit)
        })
        .collect();
    let limited_scopes = limited.iter().flat_map(|l| &l.scopes).filter(|s| evaluator.in_scope(s, &asked.object));

    let mut restricted: BTreeSet<String> = BTreeSet::new();
    let mut covered_scopes: BTreeSet<String> = BTreeSet::new();
    let mut interesting = Vec::new();
    for (i, quota) in quotas.iter().enumerate() {
        let matching = scopes(&quota.object["spec"]).into_iter().filter(|s| evaluator.in_scope(s, &asked.object));
        covered_scopes.extend(matching.map(|s| s.name));
        if !evaluator.covers(&quota.object, &asked.object) {
            continue;
        }
        let local = evaluator.matching(quota.hard.keys());
        let name = &quota.name;
        if let Err(why) = evaluator.constraints(&local, &asked.object) {
            return Err(asked.forbidden(&format!("failed quota: {name}: {why}")));
        }
        if !local.iter().all(|n| quota.used.contains_key(n)) {
            let why = format!("status unknown for quota: {name}, resources: {}", names(&local));
            return Err(asked.forbidden(&why));
        }
        interesting.push(i);
        restricted.extend(local);
    }

    let negative: Vec<&String> = usage.iter().filter(|(_, a)| a.sign() < 0).map(|(n, _)| n).collect();
    if !negative.is_empty() {
        return Err(asked.forbidden(&format!("quota usage is negative for resource(s): {}", names(negative))));
    }
    let delta = match &asked.old {
        Some(old) if asked.update && !meta(old, "resourceVersion").is_empty() => {
            let before = evaluator.usage(old, asked.now);
            let more = |(name, amount): (&String, &orkd_api::quantity::Quantity)| {
                let rest = before.get(name).map_or(*amount, |b| *amount - *b);
                (rest.sign() > 0).then(|| (name.clone(), rest))
            };
            usage.iter().filter_map(more).collect()
        }
        _ => usage.clone(),
    };
    let charge = |quota: &Quota| -> Amounts {
        let was_covered = asked.update && asked.old.as_ref().is_some_and(|old| evaluator.covers(&quota.object, old));
        let mut charge = if asked.update && !was_covered { usage.clone() } else { delta.clone() };
        charge.retain(|_, amount| !amount.is_zero());
        charge
    };
    let charges: Vec<(usize, Amounts)> = interesting.iter().map(|i| (*i, charge(&quotas[*i]))).collect();
    let nothing = match charges.is_empty() {
        true => delta.values().all(orkd_api::quantity::Quantity::is_zero),
        false => charges.iter().all(|(_, charge)| charge.is_empty()),
    };
    if nothing {
        return Ok(None);
    }
    let uncovered: Vec<&String> = needs_quota.into_iter().filter(|n| !restricted.contains(*n)).collect();
    if !uncovered.is_empty() {
        return Err(asked.forbidden(&format!("insufficient quota to consume: {}", names(uncovered))));
    }
    if evaluator.has_scopes() {
        let uncovered: Vec<String> = limited_scopes
            .filter(|s| !covered_scopes.contains(&s.name))
            .map(|s| format!("{{{} {} [{}]}}", s.name, s.operator, s.values.join(" ")))
            .collect();
        if !uncovered.is_empty() {
            let text = format!("insufficient quota to match these scopes: [{}]", uncovered.join(" "));
            return Err(Status::new(500, "", text));
        }
    }

    let mut all: Vec<Amounts> = quotas.iter().map(|q| q.used.clone()).collect();
    for (i, charge) in charges {
        let quota = &quotas[i];
        let requested = mask(&charge, quota.hard.keys());
        add(&mut all[i], &requested);
        if asked.subresource == "status" {
            continue;
        }
        let over = |name: &&String| {
            all[i].get(*name).is_some_and(|used| quota.hard.get(*name).is_some_and(|hard| used > hard))
        };
        let exceeded: Vec<&String> = requested.keys().filter(over).collect();
        if !exceeded.is_empty() {
            let of = |amounts: &Amounts| shown(&mask(amounts, exceeded.iter().copied()));
            return Err(asked.forbidden(&format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                quota.name,
                of(&requested),
                of(&quota.used),
                of(&quota.hard)
            )));
        }
    }
    let changed = all.iter().zip(quotas).any(|(used, quota)| *used != quota.used);
    Ok(changed.then_some(all))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quota(name: &str, spec: Value, hard: Value, used: Value) -> Quota {
        let status = json!({"hard": hard, "used": used});
        Quota::new(Arc::new(json!({"metadata": {"name": name}, "spec": spec, "status": status})))
    }

    fn asked(group: &str, resource: &str, object: Value, old: Option<Value>) -> Asked {
        Asked {
            dry_run: false,
            evaluator: Evaluator::of(group, resource),
            update: old.is_some(),
            subresource: String::new(),
            group: group.into(),
            resource: resource.into(),
            name: "x".into(),
            object,
            old,
            now: Timestamp::UNIX_EPOCH,
        }
    }

    fn pod(cpu: &str) -> Value {
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}})
    }

    fn check(quotas: &[Quota], asked: &Asked, limited: Value, expected: Result<&[&str], &str>) {
        let limited: Vec<Limited> = items(&limited).iter().map(Limited::parse).collect();
        let done = super::check(quotas, asked, &limited);
        let done = done.map(|used| used.unwrap_or_default().iter().map(shown).collect::<Vec<_>>());
        match (done, expected) {
            (Ok(used), Ok(expected)) => assert_eq!(used, expected),
            (Err(status), Err(text)) => {
                assert_eq!(status.message.split_once("forbidden: ").map_or(&*status.message, |s| s.1), text);
            }
            (done, expected) => panic!("{done:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn what_fits_is_charged_and_what_does_not_is_refused() {
        let quotas = || {
            let hard = json!({"pods": "2", "requests.cpu": "1", "services": "1"});
            [quota("q", json!({}), hard, json!({"pods": "1", "requests.cpu": "600m", "services": "0"}))]
        };
        check(&quotas(), &asked("", "pods", pod("400m"), None), json!([]), Ok(&["pods=2,requests.cpu=1,services=0"]));
        let over = "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1";
        check(&quotas(), &asked("", "pods", pod("500m"), None), json!([]), Err(over));
        check(&quotas(), &asked("", "configmaps", json!({}), None), json!([]), Ok(&[]));
        let silent = json!({"spec": {"containers": [{"name": "c"}]}});
        check(
            &quotas(),
            &asked("", "pods", silent, None),
            json!([]),
            Err("failed quota: q: must specify requests.cpu for: c"),
        );
        let unknown = [quota("q", json!({}), json!({"pods": "2", "count/pods": "5"}), json!({}))];
        check(
            &unknown,
            &asked("", "pods", pod("1"), None),
            json!([]),
            Err("status unknown for quota: q, resources: count/pods,pods"),
        );
    }

    #[test]
    fn updates_are_charged_by_the_difference() {
        let quotas = |used: &str| {
            [quota("q", json!({}), json!({"services.nodeports": "3"}), json!({"services.nodeports": used}))]
        };
        let service = |sort: &str, ports: usize| json!({"metadata": {"resourceVersion": "1"}, "spec": {"type": sort, "ports": vec![json!({}); ports]}});
        let update = |from, to| asked("", "services", to, Some(from));
        let (one, two, three) = (service("NodePort", 1), service("NodePort", 2), service("ClusterIP", 3));
        check(&quotas("1"), &update(one.clone(), two.clone()), json!([]), Ok(&["services.nodeports=2"]));
        check(&quotas("1"), &update(two.clone(), three.clone()), json!([]), Ok(&[]));
        check(&quotas("1"), &update(three, two), json!([]), Ok(&["services.nodeports=3"]));
        let over = "exceeded quota: q, requested: services.nodeports=1, used: services.nodeports=3, limited: \
                    services.nodeports=3";
        check(&quotas("3"), &update(one, service("NodePort", 2)), json!([]), Err(over));
    }

    #[test]
    fn scopes_select_and_limits_by_default_need_a_quota() {
        let spec = json!({"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
        let quotas = [quota("q", spec, json!({"pods": "1"}), json!({"pods": "0"}))];
        let of = |class: &str| {
            let mut pod = pod("1");
            pod["spec"]["priorityClassName"] = json!(class);
            asked("", "pods", pod, None)
        };
        check(&quotas, &of("high"), json!([]), Ok(&["pods=1"]));
        check(&quotas, &of("low"), json!([]), Ok(&[]));
        let limited = json!([{"resource": "pods", "matchScopes": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high", "low"]}]}]);
        check(&quotas, &of("high"), limited.clone(), Ok(&["pods=1"]));
        let text = "insufficient quota to match these scopes: [{PriorityClass In [high low]}]";
        check(&quotas, &of("low"), limited, Err(text));
        let cpu = json!([{"resource": "pods", "matchContains": ["requests.cpu"]}]);
        check(&quotas, &of("low"), cpu, Err("insufficient quota to consume: requests.cpu"));
    }
}
