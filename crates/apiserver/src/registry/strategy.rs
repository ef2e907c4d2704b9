//! What happens to an object between "it is known" and "it is committed", for every kind alike.
//!
//! Upstream: `registry/rest/{create,update}.go` (`BeforeCreate`, `BeforeUpdate`) and the admission chain.

use std::time::Instant;

use orkd_api::status::Status;
use orkd_api::validate::meta::{changed_object, new_object};
use rand::Rng;
use serde_json::Value;

use super::{Request, Target, meta_text, metadata};
use crate::admission::{self, Operation, Reinvocation};
use crate::codec;
use crate::metrics::AdmissionTimes;

/// Sets the defaults of the schema and of the kind.
pub fn default(target: &Target<'_>, object: &mut Value) {
    codec::default(&*target.resource.kind, object);
    target.resource.kind.default(object);
}

fn attributes<'a>(
    cx: &'a Request<'_>,
    target: &'a Target<'_>,
    operation: Operation,
    old: Option<&'a Value>,
    options: &'a Value,
    dry_run: bool,
    reinvocation: &'a Reinvocation,
) -> admission::Request<'a> {
    admission::Request {
        operation,
        resource: target.resource.info(),
        kind: &*target.resource.kind,
        subresource: target.subresource,
        namespace: target.namespace,
        name: target.name,
        user: cx.user,
        dry_run,
        now: cx.now,
        old,
        options,
        annotations: cx.warnings.annotations(),
        reinvocation,
    }
}

static STEPS: AdmissionTimes = AdmissionTimes::new(None);

/// The time a phase of admission takes, and each plugin in it (`admission/metrics`).
struct Phase {
    operation: Operation,
    mutating: bool,
    begun: Instant,
    /// When the last plugin was done.
    last: Instant,
}

impl Phase {
    fn begin(operation: Operation, mutating: bool) -> Self {
        let now = Instant::now();
        Phase { operation, mutating, begun: now, last: now }
    }

    /// Notes what a plugin did. A refusal ends the phase.
    fn passed(&mut self, times: &AdmissionTimes, outcome: Result<(), Status>) -> Result<(), Status> {
        let (rejected, now) = (outcome.is_err(), Instant::now());
        times.observe(self.operation, self.mutating, rejected, now - self.last);
        self.last = now;
        if rejected {
            STEPS.observe(self.operation, self.mutating, true, now - self.begun);
        }
        outcome
    }

    fn end(self) {
        STEPS.observe(self.operation, self.mutating, false, self.last - self.begun);
    }
}

/// Runs the mutating phase of admission, a second time where a policy or webhook changed what others had seen before;
/// defaults are set again after it.
pub async fn mutate(
    cx: &Request<'_>,
    target: &Target<'_>,
    operation: Operation,
    object: &mut Value,
    old: Option<&Value>,
    options: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let reinvocation = Reinvocation::default();
    let request = attributes(cx, target, operation, old, options, dry_run, &reinvocation);
    let mut warnings = Vec::new();
    let mut phase = Phase::begin(operation, true);
    loop {
        for (plugin, times) in cx.server.admission() {
            let outcome = plugin.admit(&request, object, &mut warnings).await;
            phase.passed(times, outcome)?;
        }
        if !reinvocation.begin_again() {
            break;
        }
    }
    phase.end();
    cx.warnings.extend(warnings);
    if operation != Operation::Delete && object.is_object() && is_own_body(target) {
        default(target, object);
    }
    Ok(())
}

/// Whether the body of this door is the resource's own kind.
fn is_own_body(target: &Target<'_>) -> bool {
    let info = target.resource.info();
    target.subresource.is_empty()
        || info.subresources.iter().any(|s| s.name == target.subresource && s.kind == info.kind)
}

/// Runs the validating phase of admission.
pub async fn check(
    cx: &Request<'_>,
    target: &Target<'_>,
    operation: Operation,
    object: &Value,
    old: Option<&Value>,
    options: &Value,
    dry_run: bool,
) -> Result<(), Status> {
    let reinvocation = Reinvocation::default();
    let request = attributes(cx, target, operation, old, options, dry_run, &reinvocation);
    let mut warnings = Vec::new();
    let mut phase = Phase::begin(operation, false);
    for (plugin, times) in cx.server.admission() {
        let outcome = plugin.validate(&request, object, &mut warnings).await;
        phase.passed(times, outcome)?;
    }
    phase.end();
    cx.warnings.extend(warnings);
    Ok(())
}

/// The letters of generated names: no vowels, no digits that look like letters.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A name from a prefix: at most 58 characters of it and five random ones.
pub fn generate_name(prefix: &str) -> String {
    let mut end = prefix.len().min(58);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    let mut rng = rand::rng();
    for _ in 0..5 {
        name.push(char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    }
    name
}

/// Sets what every new object gets from the server: name, uid, creation time.
pub fn fill_system_fields(cx: &Request<'_>, target: &Target<'_>, object: &mut Value) {
    let Some(meta) = metadata(object) else { return };
    meta.insert("creationTimestamp".into(), cx.stamp().into());
    meta.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    if target.namespaced() {
        meta.insert("namespace".into(), target.namespace.into());
    }
}

/// Prepares and checks a new object (`rest.BeforeCreate`).
pub fn before_create(cx: &Request<'_>, target: &Target<'_>, object: &mut Value) -> Result<(), Status> {
    let kind = &*target.resource.kind;
    if let Some(meta) = metadata(object) {
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            meta.remove(field);
        }
        if !target.namespaced() {
            meta.remove("namespace");
        }
    }
    let kcx = cx.cx("");
    kind.prepare_create(&kcx, object);
    orkd_api::gates::drop_disabled(kind, &kcx, object, None);
    let errors = new_object(kind, &kcx, object);
    if !errors.is_empty() {
        return Err(invalid(target, object, &errors));
    }
    cx.warnings.extend(kind.warnings(&kcx, object, None));
    kind.canonicalize(object);
    Ok(())
}

/// Prepares and checks a changed object (`rest.BeforeUpdate`).
pub fn before_update(cx: &Request<'_>, target: &Target<'_>, new: &mut Value, old: &Value) -> Result<(), Status> {
    let kind = &*target.resource.kind;
    let old_meta = &old["metadata"];
    if let Some(meta) = metadata(new) {
        meta.remove("selfLink");
        match old_meta.get("generation") {
            Some(generation) => meta.insert("generation".into(), generation.clone()),
            None => meta.remove("generation"),
        };
        if target.namespaced() {
            meta.entry("namespace").or_insert_with(|| target.namespace.into());
        } else {
            meta.remove("namespace");
        }
    }
    // A scale is written by the rules of the object itself.
    let kcx = cx.cx(if target.subresource == "scale" { "" } else { target.subresource });
    kind.prepare_update(&kcx, new, old);
    orkd_api::gates::drop_disabled(kind, &kcx, new, Some(old));
    if let Some(meta) = metadata(new) {
        for field in ["uid", "creationTimestamp"] {
            let empty = meta.get(field).is_none_or(|v| v.is_null() || v.as_str() == Some(""));
            if let (true, Some(value)) = (empty, old_meta.get(field)) {
                meta.insert(field.into(), value.clone());
            }
        }
        // Deletion is asked for by DELETE alone, and never taken back.
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
            match old_meta.get(field) {
                Some(value) if !value.is_null() => {
                    if field == "deletionTimestamp" || meta.get(field).is_none_or(Value::is_null) {
                        meta.insert(field.into(), value.clone());
                    }
                }
                _ => {
                    if field == "deletionGracePeriodSeconds" || meta.get(field).is_some_and(Value::is_null) {
                        meta.remove(field);
                    }
                }
            }
        }
    }
    let errors = changed_object(kind, &kcx, new, old);
    if !errors.is_empty() {
        return Err(invalid(target, new, &errors));
    }
    cx.warnings.extend(kind.warnings(&kcx, new, Some(old)));
    kind.canonicalize(new);
    Ok(())
}

/// 422 about an object.
pub fn invalid(target: &Target<'_>, object: &Value, errors: &orkd_api::field::ErrorList) -> Status {
    let info = target.resource.info();
    Status::invalid(&info.group, &info.kind, meta_text(object, "name"), errors)
}

/// Drops owner references that occur twice; the second door after admission says so in other words.
pub fn dedup_owners(cx: &Request<'_>, object: &mut Value, after_admission: bool) {
    let Some(owners) =
        object.get_mut("metadata").and_then(|m| m.get_mut("ownerReferences")).and_then(Value::as_array_mut)
    else {
        return;
    };
    let before = owners.len();
    if before < 2 {
        return;
    }
    let mut seen: Vec<Value> = Vec::with_capacity(before);
    let mut doubled: Vec<String> = Vec::new();
    owners.retain(|owner| {
        if seen.contains(owner) {
            doubled.push(owner["uid"].as_str().unwrap_or_default().to_owned());
            return false;
        }
        seen.push(owner.clone());
        true
    });
    if !doubled.is_empty() {
        let uids = doubled.join(", ");
        cx.warnings.add(if after_admission {
            format!(
                ".metadata.ownerReferences contains duplicate entries after mutating admission happens; API server dedups \
                 owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; \
                 duplicate UID(s) observed: {uids}"
            )
        } else {
            format!(
                ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and \
                 may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
            )
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let long = "x".repeat(100);
        assert_eq!(generate_name(&long).len(), 63);
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert!(name[4..].bytes().all(|b| ALPHABET.contains(&b)), "{name}");
    }
}
