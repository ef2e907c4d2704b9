//! How much of a device a request takes. Upstream: `consumable_capacity.go` in
//! `k8s.io/dynamic-resource-allocation/structured/internal/incubating`.

use std::collections::BTreeMap;

use orkd_api::quantity::{Format, Quantity};

use super::catalogue::{Device, full_name};
use crate::model::{Amounts, Capacity, RequestPolicy, ValidRange};

/// What is taken of a device, by full names.
pub type Consumed = BTreeMap<String, Quantity>;

/// What a request takes of each capacity of a device, rounded up as its policies say (`calculateConsumedCapacity`);
/// `None` if it cannot be had: the device has no such capacity, or a policy forbids the amount.
pub fn consumed(device: &Device, requests: &Amounts) -> Option<Consumed> {
    let wanted: BTreeMap<String, Quantity> =
        requests.iter().map(|(name, amount)| (full_name(name, &device.id.driver), amount.0)).collect();
    if wanted.keys().any(|name| !device.capacity.contains_key(name)) {
        return None;
    }
    device
        .capacity
        .iter()
        .map(|(name, (_, has))| Some((name.clone(), amount(wanted.get(name).copied(), has)?)))
        .collect()
}

fn amount(wanted: Option<Quantity>, has: &Capacity) -> Option<Quantity> {
    let Some(policy) = &has.request_policy else { return Some(wanted.unwrap_or(has.value.0)) };
    let default = policy.default.map(|d| d.0);
    let taken = match (wanted, &policy.valid_range) {
        (None, _) => default.unwrap_or(has.value.0),
        (Some(wanted), Some(range)) => rounded_up(wanted, range)?,
        (Some(wanted), None) => policy.valid_values.iter().map(|v| v.0).find(|v| wanted <= *v).unwrap_or(wanted),
    };
    (default == Some(taken) || allows(policy, taken)).then_some(taken)
}

/// The next step of a range; `None` if it is beyond all numbers.
fn rounded_up(wanted: Quantity, range: &ValidRange) -> Option<Quantity> {
    let Some(min) = range.min.map(|m| m.0) else { return Some(wanted) };
    if wanted < min {
        return Some(min);
    }
    let Some(in_steps) = range.step.map(|s| s.0).filter(|s| s.value() > 0) else { return Some(wanted) };
    let step = i128::from(in_steps.value());
    let above = i128::from(wanted.value()) - i128::from(min.value());
    let steps = (above + step - 1) / step;
    let rounded = i64::try_from(i128::from(min.value()) + steps * step).ok()?;
    Some(if in_steps.format() == Format::BinarySi {
        Quantity::from_bytes(rounded)
    } else {
        Quantity::from_int(rounded)
    })
}

fn allows(policy: &RequestPolicy, taken: Quantity) -> bool {
    if let Some(range) = &policy.valid_range {
        let too_much = range.max.is_some_and(|max| taken > max.0);
        let min = range.min.map_or(0, |m| i128::from(m.0.value()));
        let step = range.step.map(|s| i128::from(s.0.value())).filter(|s| *s > 0);
        return !too_much && step.is_none_or(|step| (i128::from(taken.value()) - min) % step == 0);
    }
    policy.valid_values.is_empty() || policy.valid_values.iter().any(|v| v.0 == taken)
}

/// Whether a device has enough beside what others have of it.
pub fn suffices(device: &Device, consumed: &Consumed, others: impl Fn(&str) -> Quantity) -> bool {
    consumed
        .iter()
        .all(|(name, amount)| device.capacity.get(name).is_some_and(|(_, has)| *amount + others(name) <= has.value.0))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::catalogue::PoolId;
    use super::*;

    fn check(capacity: Value, wanted: Value, expected: &str) {
        let said = serde_json::from_value(json!({"name": "x", "capacity": {"memory": capacity}})).expect("a device");
        let device = Device::new(&PoolId { driver: "d".into(), pool: "p".into() }, said, false);
        let wanted: Amounts = serde_json::from_value(wanted).expect("amounts");
        let taken = consumed(&device, &wanted).map(|c| c["d/memory"].to_string());
        assert_eq!(taken.as_deref().unwrap_or("-"), expected, "{wanted:?}");
    }

    #[test]
    fn requests_are_rounded_as_policies_say() {
        let plain = json!({"value": "10Gi"});
        check(plain.clone(), json!({}), "10Gi");
        check(plain.clone(), json!({"memory": "3Gi"}), "3Gi");
        check(plain.clone(), json!({"d/memory": "3Gi"}), "3Gi");
        check(plain.clone(), json!({"e/memory": "3Gi"}), "-");
        check(plain, json!({"cores": "3"}), "-");
        let values = json!({"value": "10", "requestPolicy": {"default": "2", "validValues": ["2", "4", "8"]}});
        check(values.clone(), json!({}), "2");
        check(values.clone(), json!({"memory": "3"}), "4");
        check(values, json!({"memory": "9"}), "-");
        let range = json!({"value": "10", "requestPolicy": {"default": "3",
            "validRange": {"min": "2", "max": "8", "step": "3"}}});
        check(range.clone(), json!({}), "3");
        check(range.clone(), json!({"memory": "1"}), "2");
        check(range.clone(), json!({"memory": "3"}), "5");
        check(range.clone(), json!({"memory": "6"}), "8");
        check(range, json!({"memory": "9"}), "-");
        let huge = json!({"value": "10", "requestPolicy": {"validRange": {"min": "1", "step": "4611686018427387904"}}});
        check(huge, json!({"memory": "9223372036854775807"}), "-");
    }
}
