//! The kernel takes what the iptables backend writes, in a network namespace of its own.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::{Command, Stdio};

use orkd_proxy::backends::iptables::{Settings, render};
use orkd_proxy::model::{
    Endpoint, EndpointPort, LoadBalancerIngress, LoadBalancerStatus, Service, ServicePort, ServiceSpec, ServiceStatus,
    Slice,
};
use orkd_proxy::ruleset::build;
use orkd_reconcile::Meta;

/// Restores `scripts` one after the other in a fresh namespace and gives what the kernel has then.
fn restore(scripts: &[String]) -> String {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut shell = String::from("set -e\n");
    for (i, script) in scripts.iter().enumerate() {
        let path = dir.path().join(i.to_string());
        std::fs::write(&path, script).expect("a temporary file can be written");
        shell.push_str(&format!("iptables-restore --noflush < {}\n", path.display()));
    }
    shell.push_str("iptables-save\n");
    let mut child = Command::new("unshare")
        .args(["--net", "sh"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("unshare starts");
    child.stdin.take().expect("piped").write_all(shell.as_bytes()).expect("sh reads");
    let out = child.wait_with_output().expect("sh ends");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn service(name: &str, spec: ServiceSpec, ingress: &str) -> Service {
    let ingress = LoadBalancerIngress { ip: ingress.into(), ip_mode: String::new() };
    Service {
        metadata: Meta { namespace: "default".into(), name: name.into(), ..Meta::default() },
        spec,
        status: ServiceStatus { load_balancer: LoadBalancerStatus { ingress: vec![ingress] } },
    }
}

#[test]
fn the_kernel_takes_every_sort_of_rule_and_a_second_sync_removes_the_first() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let port = |protocol: &str, port, node_port| ServicePort {
        name: protocol.to_lowercase(),
        protocol: protocol.into(),
        port,
        node_port,
    };
    let services: Vec<Service> = ["Cluster", "Local"]
        .iter()
        .enumerate()
        .map(|(i, policy)| {
            let spec = ServiceSpec {
                ty: "LoadBalancer".into(),
                cluster_ips: vec![format!("10.43.0.{}", 10 + i)],
                external_ips: vec![format!("192.0.2.{i}")],
                external_traffic_policy: (*policy).into(),
                internal_traffic_policy: (*policy).into(),
                session_affinity: "ClientIP".into(),
                load_balancer_source_ranges: vec!["198.51.100.0/24".into()],
                ports: vec![port("TCP", 80, 30080 + i as u16), port("UDP", 53, 30090 + i as u16), port("SCTP", 7, 0)],
                ..ServiceSpec::default()
            };
            service(&policy.to_lowercase(), spec, &format!("203.0.113.{i}"))
        })
        .collect();
    let slices: Vec<Slice> = services
        .iter()
        .flat_map(|s| {
            s.spec.ports.iter().map(|p| Slice {
                metadata: Meta {
                    namespace: "default".into(),
                    labels: [("kubernetes.io/service-name".to_owned(), s.metadata.name.to_string())].into(),
                    ..Meta::default()
                },
                address_type: "IPv4".into(),
                ports: vec![EndpointPort {
                    name: Some(p.name.clone()),
                    port: Some(8080),
                    protocol: Some(p.protocol.clone()),
                }],
                endpoints: ["10.42.0.5", "10.42.1.5", "10.42.1.6"]
                    .iter()
                    .map(|ip| Endpoint {
                        addresses: vec![(*ip).into()],
                        node_name: Some(if ip.starts_with("10.42.0") { "n1" } else { "n2" }.into()),
                        ..Endpoint::default()
                    })
                    .collect(),
            })
        })
        .collect();
    let settings = Settings { cluster_cidr: "10.42.0.0/16".parse().ok() };
    let full = render(&build(&services, &slices, "n1", false), &settings, &BTreeSet::new(), None).script;
    let saved = restore(std::slice::from_ref(&full));
    assert!(saved.contains("--to-destination 10.42.0.5:8080"), "{saved}");

    let present: BTreeSet<String> = saved
        .lines()
        .filter_map(|l| l.strip_prefix(':'))
        .filter_map(|l| l.split_whitespace().next().map(str::to_owned))
        .collect();
    let empty = render(&build([], [], "n1", false), &settings, &present, None).script;
    let saved = restore(&[full, empty]);
    assert!(!saved.contains("KUBE-SEP-") && !saved.contains("KUBE-SVC-"), "{saved}");
}
