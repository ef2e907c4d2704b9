//! Which claims a pod and its containers use, and what must be true of a claim before its devices are prepared (pure).
//!
//! Follows `k8s.io/dynamic-resource-allocation/resourceclaim`, and `GetResources` of upstream's
//! `pkg/kubelet/cm/dra/manager.go`.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use orkd_reconcile::Meta;
use serde::Deserialize;

use crate::pod;

/// A claim, as far as a kubelet wants to know it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ResourceClaim {
    /// Metadata.
    pub metadata: Meta,
    /// Status.
    pub status: Status,
}

/// The status of a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Status {
    /// Its devices, once it has some.
    pub allocation: Option<Allocation>,
    /// Who may use them.
    pub reserved_for: Vec<Consumer>,
}

/// The devices of a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Allocation {
    /// In a list of their own.
    pub devices: Devices,
}

/// The devices of a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Devices {
    /// Each.
    pub results: Vec<Allocated>,
}

/// A device of a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Allocated {
    /// Its driver.
    pub driver: String,
}

/// Who may use a claim.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Consumer {
    /// Its uid.
    pub uid: String,
}

impl ResourceClaim {
    /// The drivers of a claim that a pod may use now.
    ///
    /// # Errors
    /// Why it may not; the texts are upstream's.
    pub fn drivers_for(&self, object: &Pod, wanted: &Wanted) -> Result<BTreeSet<String>, String> {
        let (name, uid) = (&wanted.claim, &self.metadata.uid);
        let (namespace, user) = (pod::namespace(object), pod::uid(object));
        if wanted.is_own && !self.metadata.is_controlled_by(user) {
            let of = format!("{namespace}/{}", pod::name(object));
            return Err(format!("ResourceClaim {namespace}/{name} was not created for pod {of} (pod is not owner)"));
        }
        if !self.status.reserved_for.iter().any(|c| c.uid == user) {
            return Err(format!(
                "pod {} ({user}) is not allowed to use ResourceClaim {name} ({uid})",
                pod::name(object)
            ));
        }
        let allocation = self.status.allocation.as_ref();
        let allocation =
            allocation.ok_or_else(|| format!("ResourceClaim {name}: claim {namespace}/{name} is not allocated"))?;
        Ok(allocation.devices.results.iter().map(|r| r.driver.clone()).collect())
    }
}

/// A claim that a pod uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The pod's name for it; empty for the claim of its extended resources.
    pub name: String,
    /// The claim.
    pub claim: String,
    /// It was made for the pod.
    pub is_own: bool,
}

/// The claims a pod uses, those of extended resources included.
///
/// # Errors
/// One that is to be made from a template is not there yet.
pub fn wanted(object: &Pod) -> Result<Vec<Wanted>, String> {
    let spec = pod::spec(object);
    let claims = spec.resource_claims.iter().flatten();
    let mut all: Vec<Wanted> = claims.filter_map(|c| of(object, c).transpose()).collect::<Result<_, _>>()?;
    let extended = object.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    all.extend(extended.map(|e| Wanted { name: String::new(), claim: e.resource_claim_name.clone(), is_own: false }));
    Ok(all)
}

/// `None` if it was found that no claim is needed.
fn of(object: &Pod, claim: &PodResourceClaim) -> Result<Option<Wanted>, String> {
    let name = claim.name.clone();
    if let Some(direct) = &claim.resource_claim_name {
        return Ok(Some(Wanted { name, claim: direct.clone(), is_own: false }));
    }
    let statuses = object.status.as_ref().and_then(|s| s.resource_claim_statuses.as_ref()).into_iter().flatten();
    let Some(made) = statuses.into_iter().find(|s| s.name == name) else {
        return Err(format!("pod \"{}/{}\": ResourceClaim not created yet", pod::namespace(object), pod::name(object)));
    };
    Ok(made.resource_claim_name.clone().map(|claim| Wanted { name, claim, is_own: true }))
}

/// The requests of which a container gets the devices: claims, with the name of a request or an empty one for all.
pub fn requests(object: &Pod, container: &Container) -> Vec<(String, String)> {
    let Ok(wanted) = wanted(object) else { return Vec::new() };
    let resources = container.resources.as_ref();
    let named = resources.and_then(|r| r.claims.as_ref()).into_iter().flatten();
    let mut all: Vec<(String, String)> = named
        .filter_map(|c| {
            let found = wanted.iter().find(|w| w.name == c.name)?;
            Some((found.claim.clone(), c.request.clone().unwrap_or_default()))
        })
        .collect();
    let asked = resources.and_then(|r| r.requests.as_ref());
    let extended = object.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    for mapping in extended.iter().flat_map(|e| &e.request_mappings) {
        let asks = asked.is_some_and(|a| a.contains_key(&mapping.resource_name));
        if mapping.container_name == container.name && asks {
            let claim = extended.map(|e| e.resource_claim_name.clone()).unwrap_or_default();
            all.push((claim, mapping.request_name.clone()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(claims: Value, resources: Value, status: Value) -> Pod {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "status": status, "spec": {
            "resourceClaims": claims, "containers": [{"name": "c", "resources": resources}]}});
        serde_json::from_value(pod).expect("a pod")
    }

    #[test]
    fn claims_are_named_made_or_not_needed() {
        let check = |status: Value, expected: Result<&[&str], &str>| {
            let claims =
                json!([{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimTemplateName": "t"}]);
            let got = wanted(&pod(claims, json!({}), status));
            let got = got
                .map(|all| all.into_iter().map(|w| format!("{}={} {}", w.name, w.claim, w.is_own)).collect::<Vec<_>>());
            assert_eq!(got, expected.map(|e| e.iter().map(|t| (*t).to_owned()).collect()).map_err(str::to_owned));
        };
        check(json!({}), Err("pod \"n/p\": ResourceClaim not created yet"));
        check(json!({"resourceClaimStatuses": [{"name": "b"}]}), Ok(&["a=shared false"]));
        let made = json!([{"name": "b", "resourceClaimName": "p-b-1"}]);
        check(json!({"resourceClaimStatuses": made}), Ok(&["a=shared false", "b=p-b-1 true"]));
        let extended = json!({"resourceClaimName": "p-x", "requestMappings": []});
        let status = json!({"resourceClaimStatuses": made, "extendedResourceClaimStatus": extended});
        check(status, Ok(&["a=shared false", "b=p-b-1 true", "=p-x false"]));
    }

    #[test]
    fn a_container_gets_what_it_names() {
        let claims = json!([{"name": "a", "resourceClaimName": "shared"}, {"name": "b", "resourceClaimName": "other"}]);
        let mapping = |container: &str| json!({"containerName": container, "resourceName": "example.com/gpu", "requestName": "r-0"});
        let status = json!({"extendedResourceClaimStatus":
            {"resourceClaimName": "made", "requestMappings": [mapping("c"), mapping("other")]}});
        let check = |resources: Value, expected: &[(&str, &str)]| {
            let pod = pod(claims.clone(), resources, status.clone());
            let got = requests(&pod, &pod::spec(&pod).containers[0]);
            let got: Vec<(&str, &str)> = got.iter().map(|(c, r)| (c.as_str(), r.as_str())).collect();
            assert_eq!(got, expected);
        };
        check(json!({}), &[]);
        check(json!({"claims": [{"name": "a"}]}), &[("shared", "")]);
        check(json!({"claims": [{"name": "b", "request": "r"}, {"name": "gone"}]}), &[("other", "r")]);
        check(json!({"requests": {"example.com/gpu": "1"}}), &[("made", "r-0")]);
    }

    #[test]
    fn a_claim_must_be_the_pods_and_have_devices() {
        let check = |claim: Value, is_own: bool, expected: Result<&str, &str>| {
            let mut claim = claim;
            claim["metadata"]["uid"] = "cu".into();
            let claim: ResourceClaim = serde_json::from_value(claim).expect("a claim");
            let wanted = Wanted { name: "a".into(), claim: "c".into(), is_own };
            let got = claim.drivers_for(&pod(json!([]), json!({}), json!({})), &wanted);
            let got = got.map(|drivers| drivers.into_iter().collect::<Vec<_>>().join(" "));
            assert_eq!(got, expected.map(str::to_owned).map_err(str::to_owned));
        };
        let devices = json!({"devices": {"results": [{"driver": "y"}, {"driver": "x"}, {"driver": "y"}]}});
        let good = json!({"status": {"reservedFor": [{"uid": "u"}], "allocation": devices}});
        check(good.clone(), false, Ok("x y"));
        check(good.clone(), true, Err("ResourceClaim n/c was not created for pod n/p (pod is not owner)"));
        let mut owned = good.clone();
        let owner = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true});
        owned["metadata"] = json!({"ownerReferences": [owner]});
        check(owned, true, Ok("x y"));
        let mut strange = good.clone();
        strange["status"]["reservedFor"] = json!([{"uid": "other"}]);
        check(strange, false, Err("pod p (u) is not allowed to use ResourceClaim c (cu)"));
        let free = json!({"status": {"reservedFor": [{"uid": "u"}]}});
        check(free, false, Err("ResourceClaim c: claim n/c is not allocated"));
    }
}
