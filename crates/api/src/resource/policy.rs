//! How much of a device's capacity a request may take. Upstream: `validateRequestPolicy`.

use super::set;
use crate::field::ErrorList;
use crate::object::View;
use crate::quantity::Quantity;

fn amount(v: &View<'_>) -> Option<Quantity> {
    match v.int() {
        Some(n) => Some(Quantity::from_int(n)),
        None => v.opt_str()?.parse().ok(),
    }
}

/// The capacity of a device that may be allocated several times.
pub(super) fn shared(errs: &mut ErrorList, capacity: &View<'_>) {
    let policy = capacity.get("requestPolicy");
    let Some(max) = amount(&capacity.get("value")) else { return };
    let (values, range, default) = (policy.get("validValues"), policy.get("validRange"), policy.get("default"));
    let several = !values.is_empty();
    if several && range.is_set() {
        errs.forbidden(
            policy.path(),
            "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time",
        );
        return;
    }
    if !several && !range.is_set() {
        return;
    }
    let Some(chosen) = amount(&default) else {
        let what = if several { "validValues" } else { "validRange" };
        errs.required(default.path(), format!("required when {what} is defined"));
        return;
    };
    if several { valid_values(errs, &values, chosen, max) } else { valid_range(errs, &range, chosen, max) }
}

fn valid_values(errs: &mut ErrorList, list: &View<'_>, default: Quantity, max: Quantity) {
    let values: Vec<Quantity> = list.list().iter().filter_map(amount).collect();
    for (i, pair) in values.windows(2).enumerate() {
        if let [a, b] = pair
            && a > b
        {
            errs.invalid(&list.path().index(i + 1), b.to_string().as_str(), "values must be sorted in ascending order");
        }
    }
    set(
        errs,
        list,
        10,
        |v| amount(v).map(|q| q.value().to_string()).unwrap_or_default(),
        |errs, v| {
            if let Some(option) = amount(v).filter(|option| *option > max) {
                errs.invalid(
                    v.path(),
                    option.to_string().as_str(),
                    format!("option is larger than capacity value: {max}"),
                );
            }
        },
    );
    if !values.contains(&default) {
        errs.invalid(
            list.path(),
            default.to_string().as_str(),
            "default value is not valid according to the requestPolicy",
        );
    }
}

fn valid_range(errs: &mut ErrorList, range: &View<'_>, default: Quantity, capacity: Quantity) {
    let path = range.path();
    let Some(min) = amount(&range.get("min")) else {
        errs.required(&path.child("min"), "required when validRange is defined");
        return;
    };
    let mut invalid = |field: &str, value: Quantity, detail: String| {
        errs.invalid(&path.child(field), value.to_string().as_str(), detail);
    };
    if min > capacity {
        invalid("min", min, format!("min is larger than capacity value: {capacity}"));
    }
    if default < min {
        invalid("min", default, format!("default is less than min: {min}"));
    }
    let max = amount(&range.get("max"));
    if let Some(max) = max {
        if min > max {
            invalid("max", min, format!("min is larger than max: {max}"));
        }
        if max > capacity {
            invalid("max", max, format!("max is larger than capacity value: {capacity}"));
        }
        if default > max {
            invalid("max", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = amount(&range.get("step")) else { return };
    if step.sign() <= 0 {
        invalid("step", step, "must be greater than zero".into());
        return;
    }
    if min + step > capacity {
        let added = min + step;
        invalid("step", step, format!("one step {added} is larger than capacity value: {capacity}"));
    }
    for value in std::iter::once(default).chain(max) {
        let offset = i128::from(value.value()) - i128::from(min.value());
        if offset % i128::from(step.value()).max(1) != 0 {
            invalid("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}
