//! The names of the cluster, as a tree kept in hash maps and changed one service at a time.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::rr::rdata::{A, AAAA, CNAME, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// Seconds for which answers may be kept.
pub const TTL: u32 = 5;

/// How many aliases are followed from a name: more are a circle.
const ALIASES: usize = 8;

/// What one service contributes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceNames {
    /// Cluster addresses; empty for a headless or external service.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.externalName`, for a service that is only an alias.
    pub external_name: Option<String>,
    /// Ports of the service.
    pub ports: Vec<Port>,
    /// Endpoints of a headless service; of others they are not asked for.
    pub endpoints: Vec<Endpoint>,
}

/// A named port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// Name; nameless ports have no SRV records.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
    /// Number.
    pub port: u16,
}

/// One address of a headless service.
#[derive(Clone, Debug, PartialEq)]
pub struct Endpoint {
    /// Address.
    pub ip: IpAddr,
    /// Host name; `None` for one made of the address.
    pub hostname: Option<String>,
    /// Ports of this endpoint.
    pub ports: Vec<Port>,
}

impl Endpoint {
    /// The label below the service's name: the host name or the address with dashes.
    fn label(&self) -> String {
        match &self.hostname {
            Some(name) => name.to_ascii_lowercase(),
            None => self.ip.to_string().replace(['.', ':'], "-"),
        }
    }
}

/// What the zone says to a question.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Records; an empty list: the name exists, this type of record does not.
    Found(Vec<Record>),
    /// Aliases that lead to a name outside: its addresses are the forwarder's to find.
    Alias(Vec<Record>, Name),
    /// No such name.
    NoSuchName,
    /// Not a name of the cluster.
    NotOurs,
}

type Key = (String, String);

/// The zone.
#[derive(Debug)]
pub struct Zone {
    domain: Name,
    labels: Vec<String>,
    services: HashMap<Key, ServiceNames>,
    /// How many services a namespace has: its name exists while there are some.
    namespaces: BTreeMap<String, usize>,
    /// Which services have an address; the first in order names it.
    reverse: HashMap<IpAddr, Vec<Key>>,
}

impl Zone {
    /// An empty zone for a domain such as `cluster.local`.
    ///
    /// # Errors
    /// A domain that is no DNS name.
    pub fn new(domain: &str) -> Result<Zone, String> {
        let text = format!("{}.", domain.trim_matches('.').to_ascii_lowercase());
        let name = Name::from_ascii(&text).map_err(|e| format!("{domain:?} is no domain: {e}"))?;
        let labels = labels(&name);
        Ok(Zone {
            domain: name,
            labels,
            services: HashMap::new(),
            namespaces: BTreeMap::new(),
            reverse: HashMap::new(),
        })
    }

    /// Replaces what a service contributes; `None`: it is gone.
    pub fn set(&mut self, namespace: &str, name: &str, names: Option<ServiceNames>) {
        let key = (namespace.to_owned(), name.to_owned());
        let old = self.services.get(&key);
        if old == names.as_ref() {
            return;
        }
        for ip in old.map(addresses).unwrap_or_default() {
            if let Some(keys) = self.reverse.get_mut(&ip) {
                keys.retain(|k| k != &key);
                if keys.is_empty() {
                    self.reverse.remove(&ip);
                }
            }
        }
        match (old.is_some(), names.is_some()) {
            (false, true) => *self.namespaces.entry(namespace.to_owned()).or_default() += 1,
            (true, false) => {
                if let Some(count) = self.namespaces.get_mut(namespace) {
                    *count -= 1;
                    if *count == 0 {
                        self.namespaces.remove(namespace);
                    }
                }
            }
            _ => {}
        }
        match names {
            Some(names) => {
                for ip in addresses(&names) {
                    let keys = self.reverse.entry(ip).or_default();
                    if let Err(at) = keys.binary_search(&key) {
                        keys.insert(at, key.clone());
                    }
                }
                self.services.insert(key, names);
            }
            None => {
                self.services.remove(&key);
            }
        }
    }

    /// The record that goes with a negative answer.
    pub fn soa(&self) -> Record {
        let at = |label: &str| self.domain.prepend_label(label).unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(at("ns.dns"), at("hostmaster"), 1, 7200, 1800, 86400, TTL);
        Record::from_rdata(self.domain.clone(), TTL, RData::SOA(soa))
    }

    /// Answers a question. Who asks follows no alias of its own, so an answer has the whole way: the aliases in their
    /// order, and what the last one leads to. One that leads to nothing is an answer by itself, as CoreDNS has it.
    pub fn answer(&self, name: &Name, ty: RecordType) -> Answer {
        let mut way = Vec::new();
        let mut at = name.clone();
        loop {
            return match self.lookup(&at, ty) {
                Answer::Alias(alias, target) => {
                    way.extend(alias);
                    if ty != RecordType::CNAME && way.len() < ALIASES {
                        at = target;
                        continue;
                    }
                    Answer::Found(way)
                }
                answer if way.is_empty() => answer,
                Answer::Found(records) => Answer::Found([way, records].concat()),
                Answer::NoSuchName => Answer::Found(way),
                Answer::NotOurs => Answer::Alias(way, at),
            };
        }
    }

    /// What one name has.
    fn lookup(&self, name: &Name, ty: RecordType) -> Answer {
        let all = labels(name);
        if let Some(ip) = arpa(&all) {
            return self.pointer(name, ty, ip);
        }
        let Some(inside) = all.strip_suffix(self.labels.as_slice()) else { return Answer::NotOurs };
        let parts: Vec<&str> = inside.iter().map(String::as_str).collect();
        match parts.as_slice() {
            [] if ty == RecordType::SOA => Answer::Found(vec![self.soa()]),
            [] | ["svc"] | ["pod"] => Answer::Found(vec![]),
            ["dns-version"] => self.only(name, ty, RecordType::TXT, RData::TXT(TXT::new(vec!["1.1.0".into()]))),
            [.., "svc"] => self.service(name, ty, &parts[..parts.len() - 1]),
            [address, namespace, "pod"] => self.pod(name, ty, address, namespace),
            [namespace, "pod"] if self.namespaces.contains_key(*namespace) => Answer::Found(vec![]),
            _ => Answer::NoSuchName,
        }
    }

    fn only(&self, name: &Name, ty: RecordType, has: RecordType, data: RData) -> Answer {
        let matches = ty == has || ty == RecordType::ANY;
        Answer::Found(if matches { vec![Record::from_rdata(name.clone(), TTL, data)] } else { vec![] })
    }

    fn pointer(&self, name: &Name, ty: RecordType, ip: IpAddr) -> Answer {
        let Some((key, service)) = self.reverse.get(&ip).and_then(|keys| {
            let key = keys.first()?;
            Some((key, self.services.get(key)?))
        }) else {
            return Answer::NotOurs;
        };
        let mut labels = Vec::new();
        if let Some(endpoint) = service.endpoints.iter().find(|e| e.ip == ip) {
            labels.push(endpoint.label());
        }
        labels.extend([key.1.clone(), key.0.clone(), "svc".to_owned()]);
        match self.inside(&labels) {
            Some(target) => self.only(name, ty, RecordType::PTR, RData::PTR(PTR(target))),
            None => Answer::NoSuchName,
        }
    }

    /// `a-b-c-d.namespace.pod`: the address is in the name.
    fn pod(&self, name: &Name, ty: RecordType, address: &str, _namespace: &str) -> Answer {
        let ip = if address.matches('-').count() == 3 && !address.contains("--") {
            address.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok()
        } else {
            address.replace('-', ":").parse::<IpAddr>().ok()
        };
        match ip {
            Some(ip) => Answer::Found(address_records(name, ty, [ip])),
            None => Answer::NoSuchName,
        }
    }

    /// `rest` are the labels in front of `svc`.
    fn service(&self, name: &Name, ty: RecordType, rest: &[&str]) -> Answer {
        let (before, namespace) = match rest {
            [namespace] => {
                let known = self.namespaces.contains_key(*namespace);
                return if known { Answer::Found(vec![]) } else { Answer::NoSuchName };
            }
            [before @ .., namespace] => (before, *namespace),
            [] => return Answer::Found(vec![]),
        };
        let Some((service_name, before)) = before.split_last() else { return Answer::NoSuchName };
        let key = (namespace.to_owned(), (*service_name).to_owned());
        let Some(service) = self.services.get(&key) else { return Answer::NoSuchName };
        if let Some(target) = &service.external_name {
            return match Name::from_ascii(format!("{}.", target.trim_end_matches('.'))) {
                Ok(target) if before.is_empty() => {
                    let record = Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())));
                    Answer::Alias(vec![record], target)
                }
                _ => Answer::NoSuchName,
            };
        }
        match before {
            [] => {
                let ips: Vec<IpAddr> = if service.cluster_ips.is_empty() {
                    service.endpoints.iter().map(|e| e.ip).collect()
                } else {
                    service.cluster_ips.clone()
                };
                if ty == RecordType::SRV {
                    return Answer::Found(self.srv(name, &key, service, None));
                }
                // A headless service without endpoints has no name, as upstream: a client must not cache "no address".
                if ips.is_empty() { Answer::NoSuchName } else { Answer::Found(address_records(name, ty, ips)) }
            }
            [host] => {
                let ips: Vec<IpAddr> = service.endpoints.iter().filter(|e| e.label() == *host).map(|e| e.ip).collect();
                match host.strip_prefix('_') {
                    _ if !ips.is_empty() => Answer::Found(address_records(name, ty, ips)),
                    Some(protocol) if service_ports(service).any(|p| p.protocol == protocol) => Answer::Found(vec![]),
                    _ => Answer::NoSuchName,
                }
            }
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Answer::NoSuchName;
                };
                let records = self.srv(name, &key, service, Some((port, protocol)));
                match records.is_empty() {
                    true => Answer::NoSuchName,
                    false if matches!(ty, RecordType::SRV | RecordType::ANY) => Answer::Found(records),
                    false => Answer::Found(vec![]),
                }
            }
            _ => Answer::NoSuchName,
        }
    }

    /// SRV records of a service, of one port or of all.
    fn srv(&self, name: &Name, key: &Key, service: &ServiceNames, only: Option<(&str, &str)>) -> Vec<Record> {
        let wanted = |p: &&Port| match only {
            Some((port, protocol)) => p.name == port && p.protocol == protocol,
            None => true,
        };
        let base = [key.1.clone(), key.0.clone(), "svc".to_owned()];
        let mut targets: Vec<(u16, Vec<String>)> = Vec::new();
        if service.cluster_ips.is_empty() {
            for endpoint in &service.endpoints {
                for port in endpoint.ports.iter().filter(wanted) {
                    targets.push((port.port, [&[endpoint.label()], &base[..]].concat()));
                }
            }
        } else {
            targets.extend(service.ports.iter().filter(wanted).map(|p| (p.port, base.to_vec())));
        }
        let weight = u16::try_from(100 / targets.len().max(1)).unwrap_or(1).max(1);
        targets
            .into_iter()
            .filter_map(|(port, labels)| {
                let srv = SRV::new(0, weight, port, self.inside(&labels)?);
                Some(Record::from_rdata(name.clone(), TTL, RData::SRV(srv)))
            })
            .collect()
    }

    /// A name below the domain.
    fn inside(&self, labels: &[String]) -> Option<Name> {
        Name::from_ascii(format!("{}.", [labels, &self.labels[..]].concat().join("."))).ok()
    }
}

fn service_ports(service: &ServiceNames) -> impl Iterator<Item = &Port> {
    service.ports.iter().chain(service.endpoints.iter().flat_map(|e| &e.ports))
}

fn addresses(service: &ServiceNames) -> Vec<IpAddr> {
    service.cluster_ips.iter().copied().chain(service.endpoints.iter().map(|e| e.ip)).collect()
}

/// The labels of a name in lower case, first label first.
fn labels(name: &Name) -> Vec<String> {
    name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect()
}

/// The address that a name below `in-addr.arpa` or `ip6.arpa` asks for.
fn arpa(labels: &[String]) -> Option<IpAddr> {
    match labels {
        [rest @ .., zone, top] if top == "arpa" && zone == "in-addr" && rest.len() == 4 => {
            let text: Vec<&str> = rest.iter().rev().map(String::as_str).collect();
            text.join(".").parse::<Ipv4Addr>().ok().map(IpAddr::V4)
        }
        [rest @ .., zone, top] if top == "arpa" && zone == "ip6" && rest.len() == 32 => {
            let mut value: u128 = 0;
            for label in rest.iter().rev() {
                value = (value << 4) | u128::from(u8::from_str_radix(label, 16).ok().filter(|n| *n < 16)?);
            }
            Some(IpAddr::V6(value.into()))
        }
        _ => None,
    }
}

fn address_records(name: &Name, ty: RecordType, ips: impl IntoIterator<Item = IpAddr>) -> Vec<Record> {
    ips.into_iter()
        .filter_map(|ip| match (ip, ty) {
            (IpAddr::V4(ip), RecordType::A | RecordType::ANY) => Some(RData::A(A(ip))),
            (IpAddr::V6(ip), RecordType::AAAA | RecordType::ANY) => Some(RData::AAAA(AAAA(ip))),
            _ => None,
        })
        .map(|data| Record::from_rdata(name.clone(), TTL, data))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zone() -> Zone {
        let mut zone = Zone::new("cluster.local").expect("a domain");
        let port = |name: &str, port| Port { name: name.into(), protocol: "tcp".into(), port };
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let web =
            ServiceNames { cluster_ips: vec![ip("10.43.0.9")], ports: vec![port("http", 80)], ..Default::default() };
        zone.set("default", "web", Some(web));
        let endpoint = |text: &str, hostname: Option<&str>| Endpoint {
            ip: ip(text),
            hostname: hostname.map(str::to_owned),
            ports: vec![port("sql", 5432)],
        };
        let db = ServiceNames {
            endpoints: vec![endpoint("10.42.0.5", Some("db-0")), endpoint("10.42.0.6", None)],
            ports: vec![port("sql", 5432)],
            ..Default::default()
        };
        zone.set("data", "db", Some(db));
        let alias = ServiceNames { external_name: Some("example.com".into()), ..Default::default() };
        zone.set("default", "alias", Some(alias));
        zone.set("default", "empty", Some(ServiceNames::default()));
        for (name, target) in [
            ("near", "web.default.svc.cluster.local"),
            ("far", "alias.default.svc.cluster.local."),
            ("twice", "near.aliases.svc.cluster.local"),
            ("astray", "nope.default.svc.cluster.local"),
            ("circle", "circle.aliases.svc.cluster.local"),
        ] {
            zone.set("aliases", name, Some(ServiceNames { external_name: Some(target.into()), ..Default::default() }));
        }
        zone
    }

    fn check(name: &str, ty: RecordType, expected: &str) {
        let name = Name::from_ascii(name).expect("a name");
        let got = match zone().answer(&name, ty) {
            Answer::Found(records) => records.iter().map(|r| r.data.to_string()).collect::<Vec<_>>().join(" | "),
            Answer::Alias(_, name) => format!("alias {name}"),
            Answer::NoSuchName => "no such name".into(),
            Answer::NotOurs => "not ours".into(),
        };
        assert_eq!(got, expected, "{name} {ty}");
    }

    #[test]
    fn services() {
        use RecordType::{A, AAAA, SRV};
        check("web.default.svc.cluster.local.", A, "10.43.0.9");
        check("WEB.Default.svc.cluster.LOCAL.", A, "10.43.0.9");
        check("web.default.svc.cluster.local.", AAAA, "");
        check("_http._tcp.web.default.svc.cluster.local.", SRV, "0 100 80 web.default.svc.cluster.local.");
        check("_http._udp.web.default.svc.cluster.local.", SRV, "no such name");
        check("_tcp.web.default.svc.cluster.local.", A, "");
        check("nope.default.svc.cluster.local.", A, "no such name");
        check("alias.default.svc.cluster.local.", A, "alias example.com.");
    }

    #[test]
    fn aliases_are_followed_inside() {
        use RecordType::{A, AAAA, CNAME};
        check("near.aliases.svc.cluster.local.", A, "web.default.svc.cluster.local. | 10.43.0.9");
        check("near.aliases.svc.cluster.local.", AAAA, "web.default.svc.cluster.local.");
        check("twice.aliases.svc.cluster.local.", CNAME, "near.aliases.svc.cluster.local.");
        check(
            "twice.aliases.svc.cluster.local.",
            A,
            "near.aliases.svc.cluster.local. | web.default.svc.cluster.local. | 10.43.0.9",
        );
        check("far.aliases.svc.cluster.local.", A, "alias example.com.");
        check("astray.aliases.svc.cluster.local.", A, "nope.default.svc.cluster.local.");
        check("circle.aliases.svc.cluster.local.", A, &["circle.aliases.svc.cluster.local."; ALIASES].join(" | "));
    }

    #[test]
    fn headless_services() {
        use RecordType::{A, SRV};
        check("db.data.svc.cluster.local.", A, "10.42.0.5 | 10.42.0.6");
        check("db-0.db.data.svc.cluster.local.", A, "10.42.0.5");
        check("10-42-0-6.db.data.svc.cluster.local.", A, "10.42.0.6");
        check(
            "_sql._tcp.db.data.svc.cluster.local.",
            SRV,
            "0 50 5432 db-0.db.data.svc.cluster.local. | 0 50 5432 10-42-0-6.db.data.svc.cluster.local.",
        );
        check("empty.default.svc.cluster.local.", A, "no such name");
    }

    #[test]
    fn pods_reverse_names_and_the_rest() {
        use RecordType::{A, AAAA, PTR, TXT};
        check("10-42-0-5.data.pod.cluster.local.", A, "10.42.0.5");
        check("fd00--5.data.pod.cluster.local.", AAAA, "fd00::5");
        check("x.data.pod.cluster.local.", A, "no such name");
        check("9.0.43.10.in-addr.arpa.", PTR, "web.default.svc.cluster.local.");
        check("5.0.42.10.in-addr.arpa.", PTR, "db-0.db.data.svc.cluster.local.");
        check("1.1.1.1.in-addr.arpa.", PTR, "not ours");
        check("dns-version.cluster.local.", TXT, "1.1.0");
        check("default.svc.cluster.local.", A, "");
        check("nope.svc.cluster.local.", A, "no such name");
        check("example.com.", A, "not ours");
    }

    #[test]
    fn what_is_gone_is_forgotten() {
        let mut zone = zone();
        zone.set("default", "web", None);
        for name in ["web.default.svc.cluster.local.", "9.0.43.10.in-addr.arpa."] {
            let name = Name::from_ascii(name).expect("a name");
            assert!(!matches!(zone.answer(&name, RecordType::ANY), Answer::Found(_)), "{name}");
        }
        assert!(zone.namespaces.contains_key("default"));
        zone.set("default", "alias", None);
        zone.set("default", "empty", None);
        assert!(!zone.namespaces.contains_key("default"));
        assert_eq!(zone.reverse.len(), 2);
    }
}
