//! Managed fields, as the registry uses them.

use jiff::Timestamp;
use orkd_api::kind::Kind;
use orkd_api::status::Status;
use serde_json::Value;

/// Records that `manager` wrote `object` through `subresource` (empty for the object itself) by create, update or
/// patch; `live` is what stood before.
pub fn update(
    _kind: &dyn Kind,
    _live: Option<&Value>,
    _object: &mut Value,
    _manager: &str,
    _subresource: &str,
    _now: Timestamp,
) -> Result<(), Status> {
    Ok(())
}

/// Applies `patch` for `manager`.
pub fn apply(
    _kind: &dyn Kind,
    _live: Option<&Value>,
    patch: Value,
    _manager: &str,
    _force: bool,
    _subresource: &str,
    _now: Timestamp,
) -> Result<Value, Status> {
    Ok(patch)
}

/// Where nothing but the times of managed fields differs, takes the times that stand, so that a write of no change
/// is none.
pub fn keep_times(new: &mut Value, old: &Value) {
    let (Some(a), Some(b)) = (new["metadata"]["managedFields"].as_array(), old["metadata"]["managedFields"].as_array())
    else {
        return;
    };
    if a == b {
        return;
    }
    let mut probe = new.clone();
    probe["metadata"]["managedFields"] = old["metadata"]["managedFields"].clone();
    let alike = a.len() == b.len()
        && a.iter().zip(b).all(|(x, y)| {
            let fields = ["manager", "operation", "apiVersion", "subresource", "fieldsType", "fieldsV1"];
            fields.iter().all(|f| x[f] == y[f])
        });
    if alike && probe == *old {
        *new = probe;
    }
}
