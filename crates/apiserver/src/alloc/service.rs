//! The hook of Services: fills in IP families, cluster IPs and node ports, and gives back what is no longer used
//! (`pkg/registry/core/service/storage/{storage,alloc,transaction}.go`).
//!
//! Expected flow of a create: bring `clusterIP` and `clusterIPs` in line; settle families; take addresses and ports;
//! the Service is stored or not; what was taken is kept or given back. Of an update: what the client left out but
//! the server had filled in is put back; new addresses and ports are taken; after the commit the old ones are given
//! back. A process that ends in between leaves too much taken, which [`super::repair`] finds.

use std::net::IpAddr;

use async_trait::async_trait;
use orkd_api::field::{ErrorList, Path, Shown};
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::cluster_ip::{ClusterIps, Family, Owner, Refusal};
use super::node_port::{self, NodePorts, Ports};
use crate::admission::{items, meta};
use crate::registry::{Finish, Hook, HookContext};
use crate::writer::Writer;

const NONE: &str = "None";

/// Gives Services their addresses and ports.
pub struct ServiceHook {
    ips: ClusterIps,
    ports: NodePorts,
}

impl ServiceHook {
    /// Takes from these.
    pub fn new(ips: ClusterIps, ports: NodePorts) -> Self {
        ServiceHook { ips, ports }
    }
}

/// What a write has taken, and what it gives back when it is stored.
struct Held {
    ips: ClusterIps,
    ports: NodePorts,
    writer: Writer,
    namespace: String,
    name: String,
    taken_ips: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    old_ips: Vec<IpAddr>,
    old_ports: Vec<i64>,
}

impl Held {
    fn owner(&self) -> Owner<'_> {
        Owner { namespace: &self.namespace, name: &self.name }
    }

    async fn release(&self, ips: &[IpAddr], ports: &[i64]) {
        for ip in ips {
            self.ips.give_back(&self.writer, self.owner(), *ip).await;
        }
        if !ports.is_empty() {
            let done = self.ports.transact(false, |all: &mut Ports| -> Result<(), Status> {
                ports.iter().for_each(|p| all.give_back(*p));
                Ok(())
            });
            if let Err(status) = done.await {
                tracing::warn!(?ports, %status, "failed to give back node ports, repair will");
            }
        }
    }
}

#[async_trait]
impl Finish for Held {
    async fn finish(self: Box<Self>, committed: bool) {
        if committed {
            self.release(&self.old_ips, &self.old_ports).await;
        } else {
            let ports: Vec<i64> = self.taken_ports.iter().map(|p| i64::from(*p)).collect();
            self.release(&self.taken_ips, &ports).await;
        }
    }
}

#[async_trait]
impl Hook for ServiceHook {
    async fn begin_create(&self, cx: &HookContext<'_>, obj: &mut Value) -> Result<Box<dyn Finish>, Status> {
        normalize_create(obj);
        self.begin(cx, obj, None).await
    }

    async fn begin_update(
        &self,
        cx: &HookContext<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Box<dyn Finish>, Status> {
        if !cx.subresource.is_empty() {
            return Ok(Box::new(crate::registry::hook::Nothing));
        }
        patch_allocated(new, old);
        normalize_update(new, old);
        self.begin(cx, new, Some(old)).await
    }

    async fn after_delete(&self, cx: &HookContext<'_>, old: &Value) {
        if cx.dry_run {
            return;
        }
        let held = self.held(cx, old);
        held.release(&addresses(old), &all_ports(old)).await;
    }
}

impl ServiceHook {
    fn held(&self, cx: &HookContext<'_>, service: &Value) -> Held {
        Held {
            ips: self.ips.clone(),
            ports: self.ports.clone(),
            writer: cx.writer.clone(),
            namespace: meta(service, "namespace").into(),
            name: meta(service, "name").into(),
            taken_ips: Vec::new(),
            taken_ports: Vec::new(),
            old_ips: Vec::new(),
            old_ports: Vec::new(),
        }
    }

    async fn begin(
        &self,
        cx: &HookContext<'_>,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Box<dyn Finish>, Status> {
        if !service["spec"].is_object() {
            // Validation says what is wrong with it.
            return Ok(Box::new(crate::registry::hook::Nothing));
        }
        let invalid =
            |service: &Value, errors: &ErrorList| Status::invalid("", "Service", meta(service, "name"), errors);
        let errors = init_families(service, old, self.ips.default_family(), &|f| self.ips.has(f));
        if !errors.is_empty() {
            return Err(invalid(service, &errors));
        }
        let mut held = self.held(cx, service);
        let done = self.take(cx, service, old, &mut held).await;
        match done {
            Ok(()) if cx.dry_run => Ok(Box::new(crate::registry::hook::Nothing)),
            Ok(()) => Ok(Box::new(held)),
            Err(status) => {
                if !cx.dry_run {
                    Box::new(held).finish(false).await;
                }
                Err(status)
            }
        }
    }

    async fn take(
        &self,
        cx: &HookContext<'_>,
        service: &mut Value,
        old: Option<&Value>,
        held: &mut Held,
    ) -> Result<(), Status> {
        self.take_ips(cx, service, old, held).await?;
        let before: Vec<i64> = old.map(all_ports).unwrap_or_default();
        let planned = self.ports.transact(cx.dry_run, |ports| plan_ports(service, old, ports)).await;
        let (planned, taken) = planned.map_err(|failure| match failure {
            Failure::Status(status) => status,
            Failure::Invalid(errors) => Status::invalid("", "Service", meta(service, "name"), &errors),
            Failure::Internal(text) => Status::internal(text),
        })?;
        *service = planned;
        held.taken_ports = taken;
        let after = all_ports(service);
        held.old_ports = before.into_iter().filter(|p| !after.contains(p)).collect();
        Ok(())
    }

    async fn take_ips(
        &self,
        cx: &HookContext<'_>,
        service: &mut Value,
        old: Option<&Value>,
        held: &mut Held,
    ) -> Result<(), Status> {
        let before = old.map(addresses).unwrap_or_default();
        if !needs_ip(service) {
            held.old_ips = before;
            return Ok(());
        }
        let given: Vec<String> = texts(&service["spec"]["clusterIPs"]);
        if given.first().is_some_and(|ip| ip == NONE) {
            held.old_ips = before;
            return Ok(());
        }
        let owner = Owner { namespace: &held.namespace, name: &held.name };
        let families: Vec<Family> =
            texts(&service["spec"]["ipFamilies"]).iter().filter_map(|f| Family::parse(f)).collect();
        let mut ips: Vec<IpAddr> = Vec::new();
        for (i, family) in families.iter().enumerate() {
            let wanted = given.get(i).filter(|ip| !ip.is_empty());
            let ip = match wanted {
                Some(text) => {
                    // What is no address is for validation to say.
                    let Ok(ip) = text.parse::<IpAddr>() else { return Ok(()) };
                    if before.contains(&ip) {
                        ips.push(ip);
                        continue;
                    }
                    let refused = |why: String| {
                        let mut errors = ErrorList::new();
                        let shown = Shown::raw(json!(given).to_string());
                        errors.invalid(
                            &Path::new("spec").child("clusterIPs"),
                            shown,
                            format!("failed to allocate IP {ip}: {why}"),
                        );
                        Status::invalid("", "Service", owner.name, &errors)
                    };
                    match self.ips.take(cx.writer, owner, ip, cx.dry_run).await {
                        Ok(()) => ip,
                        Err(Refusal::Invalid(why) | Refusal::Failed(why)) => return Err(refused(why)),
                        Err(Refusal::Status(status)) => return Err(status),
                    }
                }
                None => match self.ips.take_any(cx.writer, owner, *family, cx.dry_run).await {
                    Ok(ip) => ip,
                    Err(Refusal::Invalid(why) | Refusal::Failed(why)) => {
                        return Err(Status::internal(format!("failed to allocate a serviceIP: {why}")));
                    }
                    Err(Refusal::Status(status)) => return Err(status),
                },
            };
            if !cx.dry_run {
                held.taken_ips.push(ip);
            }
            ips.push(ip);
        }
        if let Some(first) = ips.first() {
            service["spec"]["clusterIP"] = json!(first.to_string());
            service["spec"]["clusterIPs"] = json!(ips.iter().map(IpAddr::to_string).collect::<Vec<_>>());
        }
        held.old_ips = before.into_iter().filter(|ip| !ips.contains(ip)).collect();
        Ok(())
    }
}

fn text<'v>(service: &'v Value, field: &str) -> &'v str {
    service["spec"][field].as_str().unwrap_or_default()
}

fn texts(list: &Value) -> Vec<String> {
    items(list).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

/// Types other than ExternalName have addresses.
fn needs_ip(service: &Value) -> bool {
    text(service, "type") != "ExternalName"
}

fn needs_node_port(service: &Value) -> bool {
    match text(service, "type") {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool() != Some(false),
        _ => false,
    }
}

fn needs_health_port(service: &Value) -> bool {
    text(service, "type") == "LoadBalancer" && text(service, "externalTrafficPolicy") == "Local"
}

/// The cluster IPs a stored Service holds.
pub(super) fn addresses(service: &Value) -> Vec<IpAddr> {
    if !needs_ip(service) {
        return Vec::new();
    }
    let mut all = texts(&service["spec"]["clusterIPs"]);
    if all.is_empty() {
        all.push(text(service, "clusterIP").to_owned());
    }
    all.iter().filter_map(|ip| ip.parse().ok()).collect()
}

/// The node ports a stored Service holds, that of its health check included.
pub(super) fn all_ports(service: &Value) -> Vec<i64> {
    let mut all: Vec<i64> = Vec::new();
    let holds = needs_node_port(service) || text(service, "type") == "LoadBalancer";
    if holds {
        for port in items(&service["spec"]["ports"]) {
            if let Some(n) = port["nodePort"].as_i64().filter(|n| *n != 0)
                && !all.contains(&n)
            {
                all.push(n);
            }
        }
    }
    if needs_health_port(service)
        && let Some(n) = service["spec"]["healthCheckNodePort"].as_i64().filter(|n| *n != 0)
    {
        all.push(n);
    }
    all
}

/// The singular field makes the list, where only it was given.
fn normalize_create(service: &mut Value) {
    let ip = text(service, "clusterIP").to_owned();
    if !ip.is_empty() && items(&service["spec"]["clusterIPs"]).is_empty() {
        service["spec"]["clusterIPs"] = json!([ip]);
    }
}

/// Brings list and singular field in line after a client that knows only one of them has changed it.
fn normalize_update(new: &mut Value, old: &Value) {
    let (was, is) = (text(old, "clusterIP").to_owned(), text(new, "clusterIP").to_owned());
    let (was_list, is_list) = (texts(&old["spec"]["clusterIPs"]), texts(&new["spec"]["clusterIPs"]));
    if !was.is_empty() && is.is_empty() && was_list == is_list {
        remove(new, "clusterIPs");
    } else if is != was && !is.is_empty() && (was_list == is_list || is_list.is_empty()) {
        new["spec"]["clusterIPs"] = json!([is]);
    }
}

fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}

/// Puts back what the server had filled in and the client did not send (`patchAllocatedValues`).
fn patch_allocated(new: &mut Value, old: &Value) {
    if needs_ip(old) && needs_ip(new) {
        if text(new, "clusterIP").is_empty() && !text(old, "clusterIP").is_empty() {
            new["spec"]["clusterIP"] = old["spec"]["clusterIP"].clone();
        }
        if items(&new["spec"]["clusterIPs"]).is_empty() && new["spec"]["clusterIP"] == old["spec"]["clusterIP"] {
            let list = old["spec"]["clusterIPs"].clone();
            if !list.is_null() {
                new["spec"]["clusterIPs"] = list;
            }
        }
    }
    if needs_node_port(old) && needs_node_port(new) {
        let mut used: Vec<i64> = items(&new["spec"]["ports"]).iter().filter_map(|p| p["nodePort"].as_i64()).collect();
        for port in new["spec"].get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            if port["nodePort"].as_i64().unwrap_or(0) != 0 {
                continue;
            }
            let twin = items(&old["spec"]["ports"])
                .iter()
                .find(|p| p["port"] == port["port"] && protocol(p) == protocol(port))
                .and_then(|p| p["nodePort"].as_i64());
            if let Some(n) = twin.filter(|n| *n != 0 && !used.contains(n)) {
                used.push(n);
                port["nodePort"] = json!(n);
            }
        }
    }
    if needs_health_port(old) && needs_health_port(new) && new["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0) == 0
    {
        let port = old["spec"]["healthCheckNodePort"].clone();
        if !port.is_null() {
            new["spec"]["healthCheckNodePort"] = port;
        }
    }
}

fn protocol(port: &Value) -> &str {
    port["protocol"].as_str().unwrap_or("TCP")
}

/// Settles `ipFamilyPolicy` and `ipFamilies` (`initIPFamilyFields`). `has`: whether the cluster has a range of a
/// family.
fn init_families(service: &mut Value, old: Option<&Value>, default: Family, has: &dyn Fn(Family) -> bool) -> ErrorList {
    let mut errors = ErrorList::new();
    if !needs_ip(service) {
        return errors;
    }
    let spec = Path::new("spec");
    let mut families = texts(&service["spec"]["ipFamilies"]);
    let ips = texts(&service["spec"]["clusterIPs"]);
    if let Some(old) = old
        && needs_ip(old)
    {
        // A client that does not know the fields leaves them as they are.
        if service["spec"]["ipFamilyPolicy"].is_null() && !old["spec"]["ipFamilyPolicy"].is_null() {
            service["spec"]["ipFamilyPolicy"] = old["spec"]["ipFamilyPolicy"].clone();
        }
        if families.is_empty() {
            families = texts(&old["spec"]["ipFamilies"]);
        }
        let keeps = service["spec"]["ipFamilyPolicy"] == old["spec"]["ipFamilyPolicy"]
            && families == texts(&old["spec"]["ipFamilies"])
            && ips == texts(&old["spec"]["clusterIPs"]);
        if keeps && !families.is_empty() {
            service["spec"]["ipFamilies"] = json!(families);
            return errors;
        }
        if service["spec"]["ipFamilyPolicy"] == "SingleStack" && old["spec"]["ipFamilyPolicy"] != "SingleStack" {
            // From two families to one: the first stays.
            families.truncate(1);
            if ips.len() > 1 && ips == texts(&old["spec"]["clusterIPs"]) {
                service["spec"]["clusterIPs"] = json!([ips[0]]);
            }
        }
    }
    let ips = texts(&service["spec"]["clusterIPs"]);
    let policy = match text(service, "ipFamilyPolicy") {
        "" => "SingleStack",
        policy => policy,
    }
    .to_owned();
    if policy == "SingleStack" {
        if ips.len() > 1 {
            errors.invalid(
                &spec.child("ipFamilyPolicy"),
                Shown::raw(if service["spec"]["ipFamilyPolicy"].is_null() {
                    "null".into()
                } else {
                    format!("{policy:?}")
                }),
                "must be RequireDualStack or PreferDualStack when multiple clusterIPs are specified",
            );
        }
        if families.len() > 1 {
            errors.invalid(
                &spec.child("ipFamilyPolicy"),
                Shown::raw(if service["spec"]["ipFamilyPolicy"].is_null() {
                    "null".into()
                } else {
                    format!("{policy:?}")
                }),
                "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified",
            );
        }
    }
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| *ip != NONE) {
        let Ok(ip) = ip.parse::<IpAddr>() else { continue };
        let family = Family::of(ip);
        match families.get(i) {
            None => families.push(family.name().into()),
            Some(named) if named != family.name() => {
                let text = format!("expected an {named} value as indicated by `ipFamilies[{i}]`");
                errors.invalid(&spec.child("clusterIPs").index(i), ip.to_string().as_str(), text);
            }
            Some(_) => {}
        }
    }
    let headless = ips.first().is_some_and(|ip| ip == NONE);
    let selectorless = service["spec"]["selector"].as_object().is_none_or(|s| s.is_empty());
    if families.is_empty() {
        families.push(default.name().into());
    }
    if headless && selectorless {
        if families.len() < 2 && policy != "SingleStack" {
            families.extend(Family::parse(&families[0]).map(|f| f.other().name().to_owned()));
        }
    } else {
        for (i, name) in families.iter().enumerate() {
            if Family::parse(name).is_some_and(|f| !has(f)) {
                errors.invalid(&spec.child("ipFamilies").index(i), name, "not configured on this cluster");
            }
        }
        let both = has(Family::V4) && has(Family::V6);
        if policy == "RequireDualStack" && !both {
            errors.invalid(
                &spec.child("ipFamilyPolicy"),
                policy.as_str(),
                "this cluster is not configured for dual-stack services",
            );
        }
        if policy != "SingleStack" && both && families.len() < 2 {
            families.extend(Family::parse(&families[0]).map(|f| f.other().name().to_owned()));
        }
    }
    if errors.is_empty() {
        service["spec"]["ipFamilyPolicy"] = json!(policy);
        service["spec"]["ipFamilies"] = json!(families);
    }
    errors
}

/// Why ports cannot be had.
enum Failure {
    Status(Status),
    Invalid(ErrorList),
    Internal(String),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Status(status)
    }
}

/// The Service with its ports filled in, and the ports taken for it (`initNodePorts`, `updateNodePorts`).
fn plan_ports(service: &Value, old: Option<&Value>, ports: &mut Ports) -> Result<(Value, Vec<u16>), Failure> {
    let mut service = service.clone();
    let held: Vec<i64> = old.map(all_ports).unwrap_or_default();
    let mut taken: Vec<u16> = Vec::new();
    let refused = |path: Path, n: i64, why: node_port::Refusal| {
        let mut errors = ErrorList::new();
        errors.invalid(&path, n, why.to_string());
        Failure::Invalid(errors)
    };
    let spec = Path::new("spec");
    if needs_node_port(&service) {
        let requested: Vec<(i64, i64)> = items(&service["spec"]["ports"])
            .iter()
            .map(|p| (p["port"].as_i64().unwrap_or(0), p["nodePort"].as_i64().unwrap_or(0)))
            .collect();
        let mut by_port: Vec<(i64, i64)> = Vec::new();
        for (i, (port, asked)) in requested.iter().copied().enumerate() {
            let shared = by_port.iter().find(|(p, _)| *p == port).map(|(_, n)| *n);
            // Two protocols of one port share its node port, also where the later one names it.
            let later = requested.iter().find(|(p, n)| *p == port && *n != 0).map(|(_, n)| *n);
            let wanted = match (asked, shared, later) {
                (n, _, _) if n != 0 => Some(n),
                (_, Some(n), _) => Some(n),
                (_, None, later) if old.is_none() => later,
                _ => None,
            };
            let n = match wanted {
                Some(n) if held.contains(&n) || taken.iter().any(|t| i64::from(*t) == n) => n,
                Some(n) => {
                    let path = spec.child("ports").index(i).child("nodePort");
                    let port = ports.take(n).map_err(|why| refused(path, n, why))?;
                    taken.push(port);
                    n
                }
                None => {
                    let port = ports.take_any();
                    let port = port.map_err(|e| Failure::Internal(format!("failed to allocate a nodePort: {e}")))?;
                    taken.push(port);
                    i64::from(port)
                }
            };
            if shared.is_none() {
                by_port.push((port, n));
            }
            service["spec"]["ports"][i]["nodePort"] = json!(n);
        }
    }
    if needs_health_port(&service) {
        let asked = service["spec"]["healthCheckNodePort"].as_i64().unwrap_or(0);
        let n = if asked == 0 {
            let port = ports.take_any();
            let failed = |e| Failure::Internal(format!("failed to allocate a HealthCheck NodePort {asked}: {e}"));
            let port = port.map_err(failed)?;
            taken.push(port);
            i64::from(port)
        } else {
            if !held.contains(&asked) {
                let failed =
                    |e| Failure::Internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {e}"));
                taken.push(ports.take(asked).map_err(failed)?);
            }
            asked
        };
        service["spec"]["healthCheckNodePort"] = json!(n);
    }
    Ok((service, taken))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn only_v4(family: Family) -> bool {
        family == Family::V4
    }

    fn families(spec: Value, old: Option<Value>) -> Result<Value, String> {
        let mut service = json!({"metadata": {"name": "s"}, "spec": spec});
        let old = old.map(|spec| json!({"spec": spec}));
        let errors = init_families(&mut service, old.as_ref(), Family::V4, &only_v4);
        if errors.is_empty() {
            Ok(json!([service["spec"]["ipFamilyPolicy"], service["spec"]["ipFamilies"]]))
        } else {
            Err(errors.0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
    }

    #[test]
    fn families_are_settled() {
        let single = Ok(json!(["SingleStack", ["IPv4"]]));
        assert_eq!(families(json!({"type": "ClusterIP"}), None), single);
        assert_eq!(families(json!({"clusterIPs": ["None"], "selector": {"a": "b"}}), None), single);
        assert_eq!(families(json!({"clusterIPs": ["None"]}), None), single);
        let prefer = families(json!({"ipFamilyPolicy": "PreferDualStack"}), None);
        assert_eq!(prefer, Ok(json!(["PreferDualStack", ["IPv4"]])));
        let require = families(json!({"ipFamilyPolicy": "RequireDualStack"}), None);
        let text = "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for \
                    dual-stack services";
        assert_eq!(require, Err(text.into()));
        let six = families(json!({"ipFamilies": ["IPv6"]}), None);
        assert_eq!(six, Err("spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster".into()));
        let external = families(json!({"type": "ExternalName"}), None);
        assert_eq!(external, Ok(json!([null, null])));
        let old = json!({"type": "ClusterIP", "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"],
            "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]});
        assert_eq!(families(json!({"type": "ClusterIP", "clusterIPs": ["10.0.0.1"]}), Some(old)), single);
    }

    #[test]
    fn updates_keep_what_was_given_out() {
        let old = json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        let mut new = json!({"spec": {"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}, {"port": 81}]}});
        patch_allocated(&mut new, &old);
        normalize_update(&mut new, &old);
        assert_eq!(new["spec"]["clusterIPs"], json!(["10.0.0.1"]));
        assert_eq!(new["spec"]["ports"], json!([{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 81}]));
        let mut changed = old.clone();
        changed["spec"]["clusterIP"] = json!("10.0.0.9");
        normalize_update(&mut changed, &old);
        assert_eq!(changed["spec"]["clusterIPs"], json!(["10.0.0.9"]));
    }

    #[test]
    fn types_say_what_is_held() {
        let mut service = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "healthCheckNodePort": 30001, "ports": [{"nodePort": 30000}, {"nodePort": 30000}],
            "clusterIPs": ["10.0.0.1", "None"]}});
        assert_eq!(all_ports(&service), [30000, 30001]);
        assert_eq!(addresses(&service).len(), 1);
        service["spec"]["type"] = json!("ClusterIP");
        assert!(all_ports(&service).is_empty());
        service["spec"]["type"] = json!("ExternalName");
        assert!(addresses(&service).is_empty());
    }
}
