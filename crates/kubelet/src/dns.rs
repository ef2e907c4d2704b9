//! resolv.conf and /etc/hosts of pods (pure). Follows upstream `pkg/kubelet/network/dns/dns.go` and
//! `pkg/kubelet/kubelet_pods.go`.

use k8s_openapi::api::core::v1::{HostAlias, Pod};
use orkd_cri::v1::DnsConfig;

use crate::pod;

/// The most search domains and name servers a pod may have.
const MAX_SEARCHES: usize = 32;
const MAX_SERVERS: usize = 3;

/// What the host's resolv.conf says.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut out = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => out.servers.extend(words.next()),
            // The last of several wins.
            Some("search") => out.searches = words.map(|w| w.trim_end_matches('.').to_owned()).collect(),
            Some("options") => out.options = words.collect(),
            _ => {}
        }
    }
    out
}

fn push_new(list: &mut Vec<String>, more: impl IntoIterator<Item = String>) {
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
}

/// The resolv.conf of a pod.
pub fn config(pod: &Pod, host: &DnsConfig, cluster_dns: &[String], domain: &str) -> DnsConfig {
    let spec = pod::spec(pod);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let host_network = pod::host_network(pod);
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let mut out = if policy == "None" {
        DnsConfig::default()
    } else if cluster && !cluster_dns.is_empty() {
        let mut searches = Vec::new();
        if !domain.is_empty() {
            let ns = pod::namespace(pod);
            push_new(&mut searches, [format!("{ns}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()]);
        }
        push_new(&mut searches, host.searches.iter().cloned());
        DnsConfig { servers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".to_owned()] }
    } else {
        host.clone()
    };
    if let Some(extra) = &spec.dns_config {
        push_new(&mut out.servers, extra.nameservers.iter().flatten().cloned());
        push_new(&mut out.searches, extra.searches.iter().flatten().cloned());
        for option in extra.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            let text = match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            out.options.retain(|o| o.split(':').next() != Some(name));
            out.options.push(text);
        }
    }
    out.servers.truncate(MAX_SERVERS);
    out.searches.truncate(MAX_SEARCHES);
    out
}

/// The host name of a pod and the domain it is in, empty if none.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, String) {
    let spec = pod::spec(pod);
    if let Some(name) = spec.hostname_override.as_deref().filter(|n| !n.is_empty()) {
        return (name.to_owned(), String::new());
    }
    let given = spec.hostname.as_deref().filter(|h| !h.is_empty());
    let mut host = given.unwrap_or(pod::name(pod)).to_owned();
    // The kernel takes 63 characters, which must not end in a dash or dot.
    host.truncate((0..=63.min(host.len())).rev().find(|i| host.is_char_boundary(*i)).unwrap_or_default());
    let host = host.trim_end_matches(['-', '.']).to_owned();
    let domain = match spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(sub) => format!("{sub}.{}.svc.{cluster_domain}", pod::namespace(pod)),
        None => String::new(),
    };
    (host, domain)
}

fn aliases(list: Option<&Vec<HostAlias>>) -> String {
    let Some(list) = list.filter(|l| !l.is_empty()) else { return String::new() };
    let mut out = "\n# Entries added by HostAliases.\n".to_owned();
    for alias in list {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
    out
}

/// /etc/hosts of a pod. `host` is the host's own file.
pub fn hosts_file(pod: &Pod, ips: &[String], cluster_domain: &str, host: &str) -> String {
    let spec = pod::spec(pod);
    let aliases = aliases(spec.host_aliases.as_ref());
    if pod::host_network(pod) {
        return format!("# Kubernetes-managed hosts file (host network).\n{host}{aliases}");
    }
    let mut out = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
                   fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    let (name, domain) = hostname(pod, cluster_domain);
    for ip in ips {
        match domain.is_empty() {
            true => out.push_str(&format!("{ip}\t{name}\n")),
            false => out.push_str(&format!("{ip}\t{name}.{domain}\t{name}\n")),
        }
    }
    out + &aliases
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec})).unwrap_or_default()
    }

    #[test]
    fn resolv_conf_by_policy() {
        let host = parse_resolv_conf("# c\nnameserver 1.1.1.1\nsearch old\nsearch corp.example.\noptions timeout:1\n");
        let check = |spec: serde_json::Value, servers: &str, searches: &str, options: &str| {
            let made = config(&pod(spec.clone()), &host, &["10.43.0.10".to_owned()], "cluster.local");
            assert_eq!(
                (made.servers.join(" "), made.searches.join(" "), made.options.join(" ")),
                (servers.to_owned(), searches.to_owned(), options.to_owned()),
                "{spec}"
            );
        };
        let cluster = "n.svc.cluster.local svc.cluster.local cluster.local corp.example";
        check(json!({}), "10.43.0.10", cluster, "ndots:5");
        check(json!({"hostNetwork": true}), "1.1.1.1", "corp.example", "timeout:1");
        check(json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}), "10.43.0.10", cluster, "ndots:5");
        check(json!({"dnsPolicy": "Default"}), "1.1.1.1", "corp.example", "timeout:1");
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["9.9.9.9"], "searches": ["a"],
                   "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "9.9.9.9",
            "a",
            "ndots:2 edns0",
        );
        check(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}), "10.43.0.10", cluster, "ndots:1");
    }

    #[test]
    fn hosts() {
        let made = hosts_file(
            &pod(json!({"subdomain": "s", "hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]})),
            &["10.0.0.1".to_owned()],
            "cluster.local",
            "",
        );
        assert!(
            made.ends_with("10.0.0.1\tp.s.n.svc.cluster.local\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n")
        );
    }

    #[test]
    fn long_names_are_cut() {
        let spec = json!({"hostname": format!("{}-tail", "a".repeat(62))});
        assert_eq!(hostname(&pod(spec), "x").0, "a".repeat(62));
    }
}
