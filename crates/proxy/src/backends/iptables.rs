//! The iptables backend: a [`RuleSet`] becomes one `iptables-restore --noflush` script, applied atomically per
//! table.
//!
//! Chains are kube-proxy's (`pkg/proxy/iptables/proxier.go`): `KUBE-SERVICES` dispatches on the service's address to
//! `KUBE-SVC-…` (endpoints of the cluster) or `KUBE-SVL-…` (of this node); `KUBE-EXT-…` is where traffic from
//! outside enters; `KUBE-SEP-…` is one endpoint. Marked packets (0x4000) are masqueraded on the way out.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use ipnet::IpNet;
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt;

use crate::ruleset::{PortRule, RuleSet};

/// The mark of packets whose source address must be this node's.
const MASQUERADE_MARK: &str = "0x4000/0x4000";

/// The chains of the two tables that are always there, and the jumps that lead to them: table, from, to, when.
const JUMPS: &[(&str, &str, &str, &str)] = &[
    ("filter", "INPUT", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW"),
    ("filter", "INPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
    ("filter", "FORWARD", "KUBE-EXTERNAL-SERVICES", "-m conntrack --ctstate NEW"),
    ("filter", "FORWARD", "KUBE-SERVICES", "-m conntrack --ctstate NEW"),
    ("filter", "FORWARD", "KUBE-FORWARD", ""),
    ("filter", "FORWARD", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
    ("filter", "OUTPUT", "KUBE-SERVICES", "-m conntrack --ctstate NEW"),
    ("filter", "OUTPUT", "KUBE-PROXY-FIREWALL", "-m conntrack --ctstate NEW"),
    ("nat", "PREROUTING", "KUBE-SERVICES", ""),
    ("nat", "OUTPUT", "KUBE-SERVICES", ""),
    ("nat", "POSTROUTING", "KUBE-POSTROUTING", ""),
];

/// What does not come from Services.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Addresses of pods: what comes from there is not masqueraded on its way to a cluster address. `None`: no
    /// telling, so everything to a cluster address but not from this node's... is left as it is.
    pub cluster_cidr: Option<IpNet>,
}

/// Why the kernel did not take the rules.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program cannot be started.
    #[error("cannot run {program}: {source}")]
    Start {
        /// The program.
        program: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The program refused.
    #[error("{program} failed: {stderr}")]
    Refused {
        /// The program.
        program: &'static str,
        /// What it said.
        stderr: String,
    },
}

/// The name of a chain: prefix and sixteen characters of the base32 form of a hash, as kube-proxy makes it.
fn chain(prefix: &str, parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut name = prefix.to_owned();
    // Sixteen characters of five bits are ten bytes.
    let mut bits: u32 = 0;
    let mut have = 0;
    for byte in &digest[..10] {
        bits = (bits << 8) | u32::from(*byte);
        have += 8;
        while have >= 5 {
            have -= 5;
            let index = (bits >> have) & 31;
            name.push(char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[index as usize]));
        }
        bits &= (1 << have) - 1;
    }
    name
}

/// The chains of one rule.
struct Chains {
    cluster: String,
    local: String,
    external: String,
    firewall: String,
}

impl Chains {
    fn of(rule: &PortRule) -> Chains {
        let parts = [rule.name.as_str(), rule.protocol.name()];
        Chains {
            cluster: chain("KUBE-SVC-", &parts),
            local: chain("KUBE-SVL-", &parts),
            external: chain("KUBE-EXT-", &parts),
            firewall: chain("KUBE-FW-", &parts),
        }
    }

    fn endpoint(rule: &PortRule, endpoint: &SocketAddr) -> String {
        chain("KUBE-SEP-", &[&rule.name, rule.protocol.name(), &endpoint.to_string()])
    }
}

/// What one rule contributes.
#[derive(Default)]
struct Piece {
    /// Lines of the filter table's shared chains.
    filter: String,
    /// Lines of the nat table's shared chains.
    dispatch: String,
    /// Its own chains in the nat table.
    chains: BTreeSet<String>,
    /// Their lines.
    body: String,
}

/// A script, and the per-service chains that exist once it is applied.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rendered {
    /// For `iptables-restore --noflush`.
    pub script: String,
    /// Chains made per service and endpoint.
    pub chains: BTreeSet<String>,
}

/// Writes the script that makes the kernel do what `rules` say.
///
/// `present` are the per-service chains that the kernel has now: those no longer used are emptied and removed in
/// the same transaction. `before` are the rules that were applied last, if the kernel still has them: the chains of
/// services that have not changed are then left alone, only the shared chains are written again.
pub fn render(rules: &RuleSet, settings: &Settings, present: &BTreeSet<String>, before: Option<&RuleSet>) -> Rendered {
    let cluster = settings.cluster_cidr.filter(|net| net.addr().is_ipv6() == rules.v6).map(|net| net.to_string());
    let unchanged = |rule: &PortRule| {
        before.is_some_and(|b| {
            let key = |r: &PortRule| (r.name.clone(), r.protocol);
            b.ports.binary_search_by_key(&key(rule), key).is_ok_and(|at| &b.ports[at] == rule)
        })
    };
    let mut all = Piece::default();
    let mut used = BTreeSet::new();
    for rule in &rules.ports {
        let mut piece = Piece::default();
        service(&mut piece, rule, cluster.as_deref());
        all.filter.push_str(&piece.filter);
        all.dispatch.push_str(&piece.dispatch);
        if !unchanged(rule) {
            all.body.push_str(&piece.body);
            all.chains.extend(piece.chains.iter().cloned());
        }
        used.append(&mut piece.chains);
    }
    let mut out = String::with_capacity(all.filter.len() + all.dispatch.len() + all.body.len() + 4096);

    out.push_str("*filter\n");
    for name in ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-FORWARD", "KUBE-PROXY-FIREWALL"] {
        let _ = writeln!(out, ":{name} - [0:0]");
    }
    out.push_str(&all.filter);
    out.push_str("-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n");
    let _ = writeln!(out, "-A KUBE-FORWARD -m mark --mark {MASQUERADE_MARK} -j ACCEPT");
    out.push_str("-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n");
    out.push_str("COMMIT\n");

    out.push_str("*nat\n");
    let stale: Vec<&String> = present.iter().filter(|c| is_service_chain(c) && !used.contains(*c)).collect();
    let shared = ["KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ"];
    let own = all.chains.iter().chain(stale.iter().copied()).map(String::as_str);
    for name in shared.into_iter().chain(own) {
        let _ = writeln!(out, ":{name} - [0:0]");
    }
    out.push_str(&all.dispatch);
    out.push_str(&all.body);
    out.push_str("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS\n");
    out.push_str("-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n");
    let _ = writeln!(out, "-A KUBE-POSTROUTING -m mark ! --mark {MASQUERADE_MARK} -j RETURN");
    out.push_str("-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n");
    out.push_str("-A KUBE-POSTROUTING -j MASQUERADE --random-fully\n");
    for name in &stale {
        let _ = writeln!(out, "-X {name}");
    }
    out.push_str("COMMIT\n");
    Rendered { script: out, chains: used }
}

/// Whether a chain is one of those made per service or endpoint.
fn is_service_chain(name: &str) -> bool {
    ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"].iter().any(|p| name.starts_with(p))
}

fn host(ip: IpAddr) -> String {
    format!("{ip}/{}", if ip.is_ipv6() { 128 } else { 32 })
}

fn service(s: &mut Piece, rule: &PortRule, cluster_cidr: Option<&str>) {
    let chains = Chains::of(rule);
    let protocol = rule.protocol.name();
    let name = &rule.name;
    let to = |ip: IpAddr| format!("-d {} -p {protocol} -m {protocol} --dport {}", host(ip), rule.port);

    // Traffic from inside.
    if rule.internal_endpoints().is_empty() {
        let (verdict, why) =
            if rule.any_endpoints { ("DROP", "has no local endpoints") } else { ("REJECT", "has no endpoints") };
        let _ = writeln!(
            s.filter,
            "-A KUBE-SERVICES -m comment --comment \"{name} {why}\" {} -j {verdict}",
            to(rule.cluster_ip)
        );
    } else {
        let target = if rule.internal_local { &chains.local } else { &chains.cluster };
        let _ = writeln!(
            s.dispatch,
            "-A KUBE-SERVICES -m comment --comment \"{name} cluster IP\" {} -j {target}",
            to(rule.cluster_ip)
        );
    }

    // Traffic from outside.
    let reachable = !rule.external_endpoints().is_empty() || (rule.external_local && !rule.endpoints.is_empty());
    if rule.is_external() {
        if reachable {
            external(s, rule, &chains, cluster_cidr);
        }
        if !reachable {
            for (ip, what) in rule
                .external_ips
                .iter()
                .map(|ip| (ip, "external"))
                .chain(rule.load_balancer_ips.iter().map(|ip| (ip, "load balancer")))
            {
                let _ = writeln!(
                    s.filter,
                    "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} {what} IP has no endpoints\" {} -j REJECT",
                    to(*ip)
                );
            }
            if rule.node_port != 0 {
                let _ = writeln!(
                    s.filter,
                    "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} has no endpoints\" -m addrtype --dst-type \
                     LOCAL -p {protocol} -m {protocol} --dport {} -j REJECT",
                    rule.node_port
                );
            }
        }
    }

    // The endpoints themselves.
    let uses_cluster = (!rule.internal_local || rule.is_external()) && !rule.endpoints.is_empty();
    let uses_local =
        (rule.internal_local || (rule.external_local && rule.is_external())) && !rule.local_endpoints.is_empty();
    if uses_cluster {
        masquerade_foreigners(s, &chains.cluster, &to(rule.cluster_ip), cluster_cidr, name);
        balance(s, rule, &chains.cluster, &rule.endpoints);
    }
    if uses_local {
        if rule.internal_local {
            masquerade_foreigners(s, &chains.local, &to(rule.cluster_ip), cluster_cidr, name);
        }
        balance(s, rule, &chains.local, &rule.local_endpoints);
    }
    let mut used: BTreeSet<&SocketAddr> = BTreeSet::new();
    if uses_cluster {
        used.extend(&rule.endpoints);
    }
    if uses_local {
        used.extend(&rule.local_endpoints);
    }
    for endpoint in used {
        let sep = Chains::endpoint(rule, endpoint);
        // An endpoint that reaches itself through its service must see another's address.
        let _ =
            writeln!(s.body, "-A {sep} -m comment --comment \"{name}\" -s {} -j KUBE-MARK-MASQ", host(endpoint.ip()));
        let affinity = match rule.affinity_seconds {
            Some(_) => format!("-m recent --name {sep} --set "),
            None => String::new(),
        };
        let _ = writeln!(
            s.body,
            "-A {sep} -m comment --comment \"{name}\" {affinity}-p {protocol} -m {protocol} -j DNAT --to-destination \
             {endpoint}"
        );
        s.chains.insert(sep);
    }
}

/// Traffic to the cluster address from outside of the pods' range gets this node's address: the answer must come
/// back this way.
fn masquerade_foreigners(s: &mut Piece, chain: &str, to: &str, cluster_cidr: Option<&str>, name: &str) {
    s.chains.insert(chain.to_owned());
    if let Some(cidr) = cluster_cidr {
        let _ = writeln!(
            s.body,
            "-A {chain} -m comment --comment \"{name} cluster IP\" ! -s {cidr} {to} -j KUBE-MARK-MASQ"
        );
    }
}

fn external(s: &mut Piece, rule: &PortRule, chains: &Chains, cluster_cidr: Option<&str>) {
    let (name, protocol) = (&rule.name, rule.protocol.name());
    let ext = &chains.external;
    s.chains.insert(ext.clone());
    let to = |ip: &IpAddr| format!("-d {} -p {protocol} -m {protocol} --dport {}", host(*ip), rule.port);
    for ip in &rule.external_ips {
        let _ =
            writeln!(s.dispatch, "-A KUBE-SERVICES -m comment --comment \"{name} external IP\" {} -j {ext}", to(ip));
    }
    for ip in &rule.load_balancer_ips {
        let target = if rule.source_ranges.is_empty() { ext } else { &chains.firewall };
        let _ = writeln!(
            s.dispatch,
            "-A KUBE-SERVICES -m comment --comment \"{name} load balancer IP\" {} -j {target}",
            to(ip)
        );
        if !rule.source_ranges.is_empty() {
            // What the firewall chain did not pass on still has its old destination.
            let _ = writeln!(
                s.filter,
                "-A KUBE-PROXY-FIREWALL -m comment --comment \"{name} traffic not accepted\" {} -j DROP",
                to(ip)
            );
        }
    }
    if !rule.source_ranges.is_empty() && !rule.load_balancer_ips.is_empty() {
        s.chains.insert(chains.firewall.clone());
        for range in &rule.source_ranges {
            let _ = writeln!(
                s.body,
                "-A {} -m comment --comment \"{name} load balancer IP\" -s {range} -j {ext}",
                chains.firewall
            );
        }
    }
    if rule.node_port != 0 {
        let _ = writeln!(
            s.dispatch,
            "-A KUBE-NODEPORTS -m comment --comment \"{name}\" -p {protocol} -m {protocol} --dport {} -j {ext}",
            rule.node_port
        );
    }
    if !rule.external_local {
        let _ = writeln!(
            s.body,
            "-A {ext} -m comment --comment \"masquerade traffic for {name} external destinations\" -j KUBE-MARK-MASQ"
        );
        let _ = writeln!(s.body, "-A {ext} -j {}", chains.cluster);
        return;
    }
    if !rule.endpoints.is_empty() {
        if let Some(cidr) = cluster_cidr {
            let _ = writeln!(
                s.body,
                "-A {ext} -m comment --comment \"pod traffic for {name} external destinations\" -s {cidr} -j {}",
                chains.cluster
            );
        }
        let local = format!("-A {ext} -m comment --comment \"local traffic for {name} external destinations\"");
        let _ = writeln!(s.body, "{local} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ");
        let _ = writeln!(s.body, "{local} -m addrtype --src-type LOCAL -j {}", chains.cluster);
    }
    if rule.local_endpoints.is_empty() {
        for ip in rule.external_ips.iter().chain(&rule.load_balancer_ips) {
            let _ = writeln!(
                s.filter,
                "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} has no local endpoints\" {} -j DROP",
                to(ip)
            );
        }
        if rule.node_port != 0 {
            let _ = writeln!(
                s.filter,
                "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"{name} has no local endpoints\" -m addrtype --dst-type \
                 LOCAL -p {protocol} -m {protocol} --dport {} -j DROP",
                rule.node_port
            );
        }
    } else {
        let _ = writeln!(s.body, "-A {ext} -j {}", chains.local);
    }
}

/// Gives each of `endpoints` the same share: the first of n takes one in n, the next one in n - 1 of the rest.
fn balance(s: &mut Piece, rule: &PortRule, chain: &str, endpoints: &[SocketAddr]) {
    s.chains.insert(chain.to_owned());
    let name = &rule.name;
    if let Some(seconds) = rule.affinity_seconds {
        for endpoint in endpoints {
            let sep = Chains::endpoint(rule, endpoint);
            let _ = writeln!(
                s.body,
                "-A {chain} -m comment --comment \"{name} -> {endpoint}\" -m recent --name {sep} --rcheck --seconds \
                 {seconds} --reap -j {sep}"
            );
        }
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let sep = Chains::endpoint(rule, endpoint);
        let left = endpoints.len() - i;
        let share = if left == 1 {
            String::new()
        } else {
            format!("-m statistic --mode random --probability {:.10} ", 1.0 / left as f64)
        };
        let _ = writeln!(s.body, "-A {chain} -m comment --comment \"{name} -> {endpoint}\" {share}-j {sep}");
    }
}

/// The kernel side: which programs are run for which family.
#[derive(Clone, Copy, Debug)]
pub struct Programs {
    restore: &'static str,
    save: &'static str,
    tool: &'static str,
}

impl Programs {
    /// For IPv4 or IPv6.
    pub fn new(v6: bool) -> Programs {
        if v6 {
            Programs { restore: "ip6tables-restore", save: "ip6tables-save", tool: "ip6tables" }
        } else {
            Programs { restore: "iptables-restore", save: "iptables-save", tool: "iptables" }
        }
    }

    /// The chains of the nat table that the kernel has now.
    pub async fn present(self) -> Result<BTreeSet<String>, Error> {
        let text = run(self.save, &["-t", "nat"], None).await?;
        Ok(text
            .lines()
            .filter_map(|l| l.strip_prefix(':'))
            .filter_map(|l| l.split_whitespace().next())
            .map(str::to_owned)
            .collect())
    }

    /// Puts the jumps into the built-in chains, in front, where they are missing. Made once and after someone
    /// flushed the tables.
    pub async fn ensure_jumps(self) -> Result<(), Error> {
        for table in ["filter", "nat"] {
            let now = run(self.save, &["-t", table], None).await?;
            let mut script = format!("*{table}\n");
            let mut missing = false;
            for (_, from, to, when) in JUMPS.iter().filter(|(t, ..)| *t == table).rev() {
                if !now.lines().any(|l| l == format!(":{to} - [0:0]") || l.starts_with(&format!(":{to} "))) {
                    let line = format!(":{to} - [0:0]\n");
                    if !script.contains(&line) {
                        script.push_str(&line);
                    }
                }
                let jump = format!("-j {to}");
                if !now.lines().any(|l| l.starts_with(&format!("-A {from} ")) && l.ends_with(&jump)) {
                    missing = true;
                    let when = if when.is_empty() { String::new() } else { format!("{when} ") };
                    let _ = writeln!(
                        script,
                        "-I {from} 1 {when}-m comment --comment \"kubernetes service portals\" {jump}"
                    );
                }
            }
            script.push_str("COMMIT\n");
            if missing {
                run(self.restore, &["--noflush", "-w", "5"], Some(script)).await?;
            }
        }
        Ok(())
    }

    /// Applies a script.
    pub async fn restore(self, script: String) -> Result<(), Error> {
        run(self.restore, &["--noflush", "-w", "5"], Some(script)).await.map(drop)
    }

    /// Whether the family can be used on this machine.
    pub async fn usable(self) -> bool {
        run(self.tool, &["-w", "5", "-t", "nat", "-L", "-n"], None).await.is_ok()
    }
}

/// Runs a program with a script on its standard input.
async fn run(program: &'static str, args: &[&str], input: Option<String>) -> Result<String, Error> {
    let start = |source| Error::Start { program, source };
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(start)?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A program that ends early closes its input; what it says then is in its exit code.
        let _ = stdin.write_all(text.as_bytes()).await;
    }
    let out = child.wait_with_output().await.map_err(start)?;
    if !out.status.success() {
        return Err(Error::Refused { program, stderr: String::from_utf8_lossy(&out.stderr).trim().to_owned() });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ruleset::build;
    use crate::ruleset::tests::{service, slice};

    fn settings() -> Settings {
        Settings { cluster_cidr: "10.42.0.0/16".parse().ok() }
    }

    /// Renders and gives the lines that contain `about`, chain hashes shortened to the prefix.
    fn check(rules: &RuleSet, about: &str, expected: &[&str]) {
        let text = render(rules, &settings(), &BTreeSet::new(), None).script;
        let short = regex_lite(&text);
        let lines: Vec<&str> = short.lines().filter(|l| l.contains(about)).collect();
        assert_eq!(lines, expected, "\n{short}");
    }

    /// Replaces the hashes of chain names by `x`, so that expectations read.
    fn regex_lite(text: &str) -> String {
        let mut out = String::new();
        let mut rest = text;
        let prefixes = ["KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-"];
        while let Some((at, prefix)) = prefixes.iter().filter_map(|p| rest.find(p).map(|at| (at, p))).min() {
            out.push_str(&rest[..at + prefix.len()]);
            out.push('x');
            rest = &rest[at + prefix.len() + 16..];
        }
        out + rest
    }

    #[test]
    fn chain_names_are_kube_proxys() {
        // sha256("default/kubernetes:https" + "tcp") begins with these ten bytes upstream, too.
        assert_eq!(chain("KUBE-SVC-", &["default/kubernetes:https", "tcp"]), "KUBE-SVC-NPX46M4PTMTKRN6Y");
    }

    #[test]
    fn a_cluster_ip_is_balanced() {
        let rules = build(
            [&service("a", "10.43.0.9")],
            [&slice("a", &[("10.42.0.5", "n1", "ready"), ("10.42.1.5", "n2", "ready")])],
            "n1",
            false,
        );
        check(
            &rules,
            "-A KUBE-S",
            &[
                "-A KUBE-SERVICES -m comment --comment \"default/a:http cluster IP\" -d 10.43.0.9/32 -p tcp -m tcp --dport 80 -j KUBE-SVC-x",
                "-A KUBE-SVC-x -m comment --comment \"default/a:http cluster IP\" ! -s 10.42.0.0/16 -d 10.43.0.9/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ",
                "-A KUBE-SVC-x -m comment --comment \"default/a:http -> 10.42.0.5:8080\" -m statistic --mode random --probability 0.5000000000 -j KUBE-SEP-x",
                "-A KUBE-SVC-x -m comment --comment \"default/a:http -> 10.42.1.5:8080\" -j KUBE-SEP-x",
                "-A KUBE-SEP-x -m comment --comment \"default/a:http\" -s 10.42.0.5/32 -j KUBE-MARK-MASQ",
                "-A KUBE-SEP-x -m comment --comment \"default/a:http\" -p tcp -m tcp -j DNAT --to-destination 10.42.0.5:8080",
                "-A KUBE-SEP-x -m comment --comment \"default/a:http\" -s 10.42.1.5/32 -j KUBE-MARK-MASQ",
                "-A KUBE-SEP-x -m comment --comment \"default/a:http\" -p tcp -m tcp -j DNAT --to-destination 10.42.1.5:8080",
                "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
            ],
        );
    }

    #[test]
    fn a_service_without_endpoints_is_refused() {
        let mut s = service("a", "10.43.0.9");
        s.spec.ports[0].node_port = 30080;
        check(
            &build([&s], [], "n1", false),
            "has no endpoints",
            &[
                "-A KUBE-SERVICES -m comment --comment \"default/a:http has no endpoints\" -d 10.43.0.9/32 -p tcp -m tcp --dport 80 -j REJECT",
                "-A KUBE-EXTERNAL-SERVICES -m comment --comment \"default/a:http has no endpoints\" -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 30080 -j REJECT",
            ],
        );
    }

    #[test]
    fn a_local_node_port_keeps_the_clients_address() {
        let mut s = service("a", "10.43.0.9");
        s.spec.ports[0].node_port = 30080;
        s.spec.external_traffic_policy = "Local".into();
        let rules =
            build([&s], [&slice("a", &[("10.42.0.5", "n1", "ready"), ("10.42.1.5", "n2", "ready")])], "n1", false);
        check(
            &rules,
            "-A KUBE-EXT-",
            &[
                "-A KUBE-EXT-x -m comment --comment \"pod traffic for default/a:http external destinations\" -s 10.42.0.0/16 -j KUBE-SVC-x",
                "-A KUBE-EXT-x -m comment --comment \"local traffic for default/a:http external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
                "-A KUBE-EXT-x -m comment --comment \"local traffic for default/a:http external destinations\" -m addrtype --src-type LOCAL -j KUBE-SVC-x",
                "-A KUBE-EXT-x -j KUBE-SVL-x",
            ],
        );
    }

    #[test]
    fn affinity_remembers_clients() {
        let mut s = service("a", "10.43.0.9");
        s.spec.session_affinity = "ClientIP".into();
        let rules = build([&s], [&slice("a", &[("10.42.0.5", "n1", "ready")])], "n1", false);
        let text = render(&rules, &settings(), &BTreeSet::new(), None).script;
        assert!(text.contains("--rcheck --seconds 10800 --reap"), "{text}");
        assert!(text.contains("--set -p tcp -m tcp -j DNAT"), "{text}");
    }

    #[test]
    fn chains_no_longer_used_are_removed() {
        let present = BTreeSet::from(["KUBE-SVC-OLDOLDOLDOLDOLDO".to_owned(), "OTHER".to_owned()]);
        let text = render(&RuleSet::default(), &settings(), &present, None).script;
        assert!(text.contains(":KUBE-SVC-OLDOLDOLDOLDOLDO - [0:0]\n"), "{text}");
        assert!(text.contains("-X KUBE-SVC-OLDOLDOLDOLDOLDO\n"), "{text}");
        assert!(!text.contains("OTHER"), "{text}");
    }

    #[test]
    fn unchanged_services_are_left_alone() {
        let one = |ip| build([&service("a", "10.43.0.9")], [&slice("a", &[(ip, "n1", "ready")])], "n1", false);
        let (old, new) = (one("10.42.0.5"), one("10.42.0.6"));
        let first = render(&old, &settings(), &BTreeSet::new(), None);
        assert_eq!(first.chains.len(), 2);
        let again = render(&old, &settings(), &first.chains, Some(&old));
        assert!(!again.script.contains("-A KUBE-SEP-") && again.script.contains("-j KUBE-SVC-"), "{}", again.script);
        assert_eq!(again.chains, first.chains);
        let changed = render(&new, &settings(), &first.chains, Some(&old));
        assert!(changed.script.contains("--to-destination 10.42.0.6:8080"), "{}", changed.script);
        assert!(changed.script.contains("-X KUBE-SEP-"), "{}", changed.script);
    }
}
