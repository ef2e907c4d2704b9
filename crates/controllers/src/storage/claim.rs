//! What is to be done for a claim (`syncClaim`).

use std::sync::Arc;

use orkd_reconcile::EventType;

use super::matching;
use super::views::{Claim, StorageClass, Volume};
use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, SELECTED_NODE};

/// What is known of one claim.
#[derive(Default)]
pub struct Observed {
    /// The claim.
    pub claim: Arc<Claim>,
    /// The volume it names.
    pub named: Option<Arc<Volume>>,
    /// Volumes that may suit it.
    pub candidates: Vec<Arc<Volume>>,
    /// Its class.
    pub class: Option<Arc<StorageClass>>,
    /// The class of claims that name none.
    pub default_class: Option<String>,
    /// Pods that wait for it.
    pub pods: Vec<String>,
}

/// Something to be told.
pub type Told = (EventType, &'static str, String);

/// What is to be done.
#[derive(Debug)]
pub enum Step {
    /// The claim gets the default class.
    Assign(String),
    /// The claim and the volume become one.
    Bind(Arc<Volume>),
    /// It waits.
    Wait(Option<Told>),
    /// Somebody else is asked to make a volume.
    Ask(String, Told),
    /// It is lost.
    Lose(Told),
}

/// What is to be done for a claim.
pub fn plan(observed: &Observed) -> Step {
    if observed.claim.metadata.annotation(BIND_COMPLETED).is_some() { bound(observed) } else { unbound(observed) }
}

fn unbound(observed: &Observed) -> Step {
    let claim = &*observed.claim;
    if !claim.spec.volume_name.is_empty() {
        return named(observed);
    }
    let class = observed.class.as_deref();
    let waits = class.is_some_and(StorageClass::waits);
    if let Some(volume) = matching::best(claim, &observed.candidates, waits) {
        return Step::Bind(volume.clone());
    }
    if !claim.has_class()
        && let Some(name) = &observed.default_class
    {
        return Step::Assign(name.clone());
    }
    if waits && claim.metadata.annotation(SELECTED_NODE).is_none_or(str::is_empty) {
        return Step::Wait(Some(waiting(&observed.pods)));
    }
    if claim.class().is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set";
        return Step::Wait(Some((EventType::Normal, "FailedBinding", text.into())));
    }
    let failed = |text: String| Step::Wait(Some((EventType::Warning, "ProvisioningFailed", text)));
    let Some(class) = class else {
        return failed(format!("storageclass.storage.k8s.io {:?} not found", claim.class()));
    };
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {provisioner}"));
    }
    let text = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    Step::Ask(provisioner.clone(), (EventType::Normal, "ExternalProvisioning", text))
}

fn waiting(pods: &[String]) -> Told {
    match pods {
        [] => {
            let text = "waiting for first consumer to be created before binding";
            (EventType::Normal, "WaitForFirstConsumer", text.into())
        }
        [pod] => (EventType::Normal, "WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => {
            (EventType::Normal, "WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
        }
    }
}

/// A claim that names its volume and has not been bound to it.
fn named(observed: &Observed) -> Step {
    let claim = &*observed.claim;
    let Some(volume) = &observed.named else { return Step::Wait(None) };
    let name = &volume.metadata.name;
    if volume.spec.claim_ref.is_none() {
        return match matching::objection(volume, claim) {
            None => Step::Bind(volume.clone()),
            Some(why) => {
                let text = format!("Cannot bind to requested volume {:?}: {why}", &**name);
                Step::Wait(Some((EventType::Warning, "VolumeMismatch", text)))
            }
        };
    }
    if volume.is_for(claim) {
        return Step::Bind(volume.clone());
    }
    if claim.metadata.annotation(BOUND_BY_CONTROLLER).is_some() {
        // Half-way bound by us, and the volume has gone to another meanwhile: only people can say what is right.
        tracing::warn!(claim = %claim.metadata.key(), volume = &**name, "a claim we bound names a volume of another");
        return Step::Wait(None);
    }
    let text = format!("volume {:?} already bound to a different claim.", &**name);
    Step::Wait(Some((EventType::Warning, "FailedBinding", text)))
}

/// A claim that was bound.
fn bound(observed: &Observed) -> Step {
    let claim = &*observed.claim;
    let lost = |text: &str| Step::Lose((EventType::Warning, "ClaimLost", text.into()));
    if claim.spec.volume_name.is_empty() {
        return lost("Bound claim has lost reference to PersistentVolume. Data on the volume is lost!");
    }
    let Some(volume) = &observed.named else {
        return lost("Bound claim has lost its PersistentVolume. Data on the volume is lost!");
    };
    match &volume.spec.claim_ref {
        None => Step::Bind(volume.clone()),
        Some(of) if of.uid == claim.metadata.uid => Step::Bind(volume.clone()),
        Some(_) => {
            let text = "Two claims are bound to the same volume, this one is bound incorrectly";
            Step::Lose((EventType::Warning, "ClaimMisbound", text.into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn object<T: serde::de::DeserializeOwned>(value: Value) -> Arc<T> {
        Arc::new(serde_json::from_value(value).expect("an object"))
    }

    fn claim(change: impl FnOnce(&mut Value)) -> Arc<Claim> {
        let mut json = json!({"metadata": {"namespace": "n", "name": "c", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "",
                "resources": {"requests": {"storage": "1Gi"}}}});
        change(&mut json);
        object(json)
    }

    /// `name size modes[ class]`, the modes by their first letters of `ReadWriteOnce`, `ReadOnlyMany`, `ReadWriteMany`.
    fn volume(text: &str, change: impl FnOnce(&mut Value)) -> Arc<Volume> {
        let mut parts = text.split(' ');
        let (name, size, modes) = (parts.next(), parts.next(), parts.next().unwrap_or(""));
        let modes: Vec<&str> = modes
            .chars()
            .map(|c| match c {
                'o' => "ReadWriteOnce",
                'r' => "ReadOnlyMany",
                _ => "ReadWriteMany",
            })
            .collect();
        let mut json = json!({"metadata": {"name": name, "uid": name},
            "spec": {"capacity": {"storage": size}, "accessModes": modes, "storageClassName": parts.next().unwrap_or("")},
            "status": {"phase": "Available"}});
        change(&mut json);
        object(json)
    }

    fn class(provisioner: &str, mode: &str) -> Option<Arc<StorageClass>> {
        Some(object(json!({"metadata": {"name": "fast"}, "provisioner": provisioner, "volumeBindingMode": mode})))
    }

    fn check(observed: Observed, expected: &str) {
        let told = |told: Option<&Told>| told.map_or(String::new(), |t| format!(" {}: {}", t.1, t.2));
        let text = match plan(&observed) {
            Step::Assign(class) => format!("assign {class}"),
            Step::Bind(volume) => format!("bind {}", volume.metadata.name),
            Step::Wait(event) => format!("wait{}", told(event.as_ref())),
            Step::Ask(who, _) => format!("ask {who}"),
            Step::Lose(event) => format!("lose{}", told(Some(&event))),
        };
        assert_eq!(text, expected);
    }

    #[test]
    fn the_volume_with_the_fewest_uses_and_then_the_smallest_is_taken() {
        let candidates = || {
            vec![
                volume("small 500Mi o", |_| ()),
                volume("wide 1Gi ow", |_| ()),
                volume("big 20Gi o", |_| ()),
                volume("fits 2Gi o", |_| ()),
                volume("other 1Gi o fast", |_| ()),
                volume("taken 1Gi o", |v| v["spec"]["claimRef"] = json!({"namespace": "n", "name": "x"})),
                volume("pending 1Gi o", |v| v["status"]["phase"] = "Pending".into()),
                volume("block 1Gi o", |v| v["spec"]["volumeMode"] = "Block".into()),
            ]
        };
        let of = |claim| Observed { claim, candidates: candidates(), ..Observed::default() };
        check(of(claim(|_| ())), "bind fits");
        check(of(claim(|c| c["spec"]["accessModes"] = json!(["ReadWriteMany"]))), "bind wide");
        check(of(claim(|c| c["spec"]["resources"]["requests"]["storage"] = "3Gi".into())), "bind big");
        check(of(claim(|c| c["spec"]["storageClassName"] = "fast".into())), "bind other");
        check(of(claim(|c| c["spec"]["volumeMode"] = "Block".into())), "bind block");
        check(of(claim(|c| c["metadata"]["name"] = "x".into())), "bind taken");
        let none = "wait FailedBinding: no persistent volumes available for this claim and no storage class is set";
        check(of(claim(|c| c["spec"]["selector"] = json!({"matchLabels": {"a": "b"}}))), none);
        let chosen = |c: &mut Value| c["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
        let labelled = volume("chosen 8Gi o", |v| v["metadata"]["labels"] = json!({"a": "b"}));
        check(Observed { claim: claim(chosen), candidates: vec![labelled], ..Observed::default() }, "bind chosen");
    }

    #[test]
    fn volumes_are_made_by_others() {
        let fast = |c: &mut Value| c["spec"]["storageClassName"] = "fast".into();
        let of = |claim, class| Observed { claim, class, ..Observed::default() };
        check(of(claim(fast), class("example.com/x", "Immediate")), "ask example.com/x");
        let late = || class("example.com/x", "WaitForFirstConsumer");
        let text = "wait WaitForFirstConsumer: waiting for first consumer to be created before binding";
        check(of(claim(fast), late()), text);
        let pods = |pods: &[&str]| pods.iter().map(|p| (*p).to_owned()).collect();
        let waiting = Observed { pods: pods(&["p"]), ..of(claim(fast), late()) };
        check(waiting, "wait WaitForPodScheduled: waiting for pod p to be scheduled");
        let placed = claim(|c| {
            fast(c);
            c["metadata"]["annotations"] = json!({SELECTED_NODE: "n1"});
        });
        check(of(placed, late()), "ask example.com/x");
        check(of(claim(fast), None), "wait ProvisioningFailed: storageclass.storage.k8s.io \"fast\" not found");
        let none = claim(|c| c["spec"]["storageClassName"] = Value::Null);
        check(Observed { claim: none, default_class: Some("fast".into()), ..Observed::default() }, "assign fast");
    }

    #[test]
    fn a_claim_may_name_its_volume() {
        let naming = || claim(|c| c["spec"]["volumeName"] = "v".into());
        let of = |named| Observed { claim: naming(), named, ..Observed::default() };
        check(of(None), "wait");
        check(of(Some(volume("v 1Gi o", |_| ()))), "bind v");
        let text = "wait VolumeMismatch: Cannot bind to requested volume \"v\": requested PV is too small";
        check(of(Some(volume("v 1Mi o", |_| ()))), text);
        let taken = volume("v 1Gi o", |v| v["spec"]["claimRef"] = json!({"namespace": "n", "name": "x"}));
        check(of(Some(taken)), "wait FailedBinding: volume \"v\" already bound to a different claim.");
    }

    #[test]
    fn what_was_bound_stays_bound_or_is_lost() {
        let bound = || {
            claim(|c| {
                c["spec"]["volumeName"] = "v".into();
                c["metadata"]["annotations"] = json!({BIND_COMPLETED: "yes"});
            })
        };
        let of = |named| Observed { claim: bound(), named, ..Observed::default() };
        let with = |uid: &str| {
            let uid = uid.to_owned();
            volume("v 1Gi o", |v| v["spec"]["claimRef"] = json!({"namespace": "n", "name": "c", "uid": uid}))
        };
        check(of(Some(with("u"))), "bind v");
        check(of(None), "lose ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
        let text = "lose ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly";
        check(of(Some(with("other"))), text);
    }
}
