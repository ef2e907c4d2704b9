//! Extended resources that classes of devices stand for: on a node that does not offer such a resource itself, a pod that
//! asks for it gets devices, by a claim that the scheduler makes. Upstream:
//! `plugins/dynamicresources/extendeddynamicresources.go`.

use std::collections::BTreeMap;

use orkd_reconcile::Key;
use serde::Serialize;

use super::Devices;
use super::plan::{Alternative, Count, Request, Wanted};
use super::selectors::Selectors;
use crate::model::{Container, ResourceClaim};
use crate::pod::PodInfo;
use crate::requests::{is_sidecar, parse_amount};

/// On a claim that the scheduler made: `true`.
pub const ANNOTATION: &str = "resource.kubernetes.io/extended-resource-claim";
/// With the name of a class behind it: the resource that any class stands for.
pub const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";
/// What a claim is called that is not made yet: no real one can be.
const IN_MEMORY: &str = "<extended-resources>";

/// What a container asks for of resources that classes may stand for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Needs {
    /// Its place among all init containers and containers.
    pub index: usize,
    /// Name.
    pub container: String,
    /// Whether it ends before the containers begin.
    pub is_short_lived: bool,
    /// The resources, each with its place among all requests of the container, by name; and how much.
    pub wants: Vec<(String, usize, i64)>,
}

/// What the containers of a pod ask for of resources that classes may stand for.
pub fn needs<'a>(init: &'a [Container], containers: &'a [Container]) -> Vec<Needs> {
    let all = init.iter().map(|c| (c, !is_sidecar(c))).chain(containers.iter().map(|c| (c, false)));
    let of = |(index, (container, is_short_lived)): (usize, (&'a Container, bool))| {
        let wants: Vec<_> = (container.resources.requests.iter().enumerate())
            .filter(|(_, (name, _))| name.contains('/'))
            .map(|(at, (name, text))| (name.clone(), at, parse_amount(name, text)))
            .filter(|(_, _, amount)| *amount > 0)
            .collect();
        (!wants.is_empty()).then(|| Needs { index, container: container.name.clone(), is_short_lived, wants })
    };
    all.enumerate().filter_map(of).collect()
}

/// Which request of the claim serves which resource of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// The container.
    pub container_name: String,
    /// The resource.
    pub resource_name: String,
    /// The request.
    pub request_name: String,
}

/// A request of the claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Name.
    pub name: String,
    /// The class.
    pub class: String,
    /// How many devices.
    pub count: i64,
}

/// A claim that is to be made for a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// What it asks for, by name.
    pub requests: Vec<Asked>,
    /// Who uses which of them.
    pub mappings: Vec<Mapping>,
}

/// The claim for resources, each with its class (`createRequestsAndMappings`). Containers that end before others begin
/// leave their devices to those: only what the hungriest of them needs beyond is asked for.
pub fn made(needs: &[Needs], resources: &BTreeMap<String, String>) -> Made {
    let mut made = Made::default();
    for (resource, class) in resources {
        let of = |n: &Needs| n.wants.iter().find(|(name, ..)| name == resource).map(|(_, at, amount)| (*at, *amount));
        let mapping = |n: &Needs, request: &str| Mapping {
            container_name: n.container.clone(),
            resource_name: resource.clone(),
            request_name: request.to_owned(),
        };
        let name = |n: &Needs, at: usize| format!("container-{}-request-{at}", n.index);
        let mut lasting: Vec<(usize, Asked)> = Vec::new();
        for n in needs.iter().filter(|n| !n.is_short_lived) {
            let Some((at, count)) = of(n) else { continue };
            let asked = Asked { name: name(n, at), class: class.clone(), count };
            made.mappings.push(mapping(n, &asked.name));
            lasting.push((n.index, asked));
        }
        let mut most: Option<Asked> = None;
        let mut short = Vec::new();
        for n in needs.iter().filter(|n| n.is_short_lived) {
            let Some((at, wanted)) = of(n) else { continue };
            let mut left = wanted;
            for (_, asked) in lasting.iter().filter(|(index, _)| *index >= n.index) {
                if left <= 0 {
                    break;
                }
                left -= asked.count;
                short.push((mapping(n, &asked.name), false));
            }
            if left > 0 {
                let asked = Asked { name: name(n, at), class: class.clone(), count: left };
                short.push((mapping(n, &asked.name), true));
                if most.as_ref().is_none_or(|m| m.count < asked.count) {
                    most = Some(asked);
                }
            }
        }
        for (mut mapping, beyond) in short {
            if let Some(most) = most.as_ref().filter(|_| beyond) {
                mapping.request_name.clone_from(&most.name);
            }
            made.mappings.push(mapping);
        }
        made.requests.extend(most);
        made.requests.extend(lasting.into_iter().map(|(_, asked)| asked));
    }
    made.requests.sort_by(|a, b| a.name.cmp(&b.name));
    made
}

/// Whether the scheduler made a claim.
pub fn is_made(claim: &ResourceClaim) -> bool {
    claim.metadata.annotation(ANNOTATION) == Some("true")
}

impl Made {
    /// What the claim wants, as a plan.
    pub fn wanted(&self, pod: &PodInfo, devices: &Devices, selectors: &Selectors) -> Option<Wanted> {
        let request = |asked: &Asked| {
            let class = devices.class(&asked.class)?.clone();
            let cel = class.spec.selectors.iter().filter_map(|s| s.cel.as_ref());
            let of_class = cel.map(|cel| selectors.get(&cel.expression)).collect();
            let alternative = Alternative {
                reference: asked.name.clone(),
                class,
                selectors: [of_class, Vec::new()],
                count: Count::Exactly(usize::try_from(asked.count).unwrap_or(usize::MAX)),
                admin: false,
                tolerations: Vec::new(),
                capacity: Default::default(),
            };
            Some(Request { name: asked.name.clone(), is_list: false, alternatives: vec![alternative] })
        };
        let requests: Option<Vec<Request>> = self.requests.iter().map(request).collect();
        let key = Key { namespace: pod.meta.namespace.clone(), name: IN_MEMORY.into() };
        Some(Wanted { key, requests: requests?, constraints: Vec::new(), config: Vec::new() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(init: Value, containers: Value, expected: &[&str]) {
        let read = |v: Value| -> Vec<Container> { serde_json::from_value(v).expect("containers") };
        let resources = BTreeMap::from([("x/gpu".to_owned(), "gpu".to_owned())]);
        let made = made(&needs(&read(init), &read(containers)), &resources);
        let requests = made.requests.iter().map(|r| format!("{} {}", r.name, r.count));
        let mappings = made.mappings.iter().map(|m| format!("{}: {}", m.container_name, m.request_name));
        assert_eq!(requests.chain(mappings).collect::<Vec<_>>(), expected);
    }

    fn container(name: &str, gpus: i64) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": "1", "x/gpu": gpus.to_string()}}})
    }

    #[test]
    fn containers_that_end_leave_their_devices_to_others() {
        check(
            json!([]),
            json!([container("a", 2), {"name": "b"}, container("c", 1)]),
            &[
                "container-0-request-1 2",
                "container-2-request-1 1",
                "a: container-0-request-1",
                "c: container-2-request-1",
            ],
        );
        check(
            json!([container("i", 1)]),
            json!([container("a", 2)]),
            &["container-1-request-1 2", "a: container-1-request-1", "i: container-1-request-1"],
        );
        check(
            json!([container("i", 5), container("j", 3)]),
            json!([container("a", 2)]),
            &[
                "container-0-request-1 3",
                "container-2-request-1 2",
                "a: container-2-request-1",
                "i: container-2-request-1",
                "i: container-0-request-1",
                "j: container-2-request-1",
                "j: container-0-request-1",
            ],
        );
        let mut sidecar = container("s", 1);
        sidecar["restartPolicy"] = json!("Always");
        check(
            json!([sidecar, container("i", 1)]),
            json!([]),
            &[
                "container-0-request-1 1",
                "container-1-request-1 1",
                "s: container-0-request-1",
                "i: container-1-request-1",
            ],
        );
        check(json!([]), json!([container("a", 0)]), &[]);
    }
}
