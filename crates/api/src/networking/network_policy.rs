//! `NetworkPolicy`. Upstream: `pkg/registry/networking/networkpolicy/strategy.go`, `ValidateNetworkPolicySpec`.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Kind;
use crate::kind::{Cells, Cx};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, at_mut, default_value, items_mut, list, set};
use crate::strategy::{first_generation, next_generation};
use crate::table::{age, label_selector, name};
use crate::validate::{ip, port_name, port_number, selector};

/// The kind `NetworkPolicy`.
pub struct NetworkPolicy;

impl Kind for NetworkPolicy {
    facts!(Facts {
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        short_names: &["netpol"],
        columns: &[NAME, ("Pod-Selector", "string", "", 0), AGE],
        ..Facts::namespaced("networking.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        let Some(spec) = at_mut(obj, &["spec"]) else { return };
        for (rules, _) in DIRECTIONS {
            for rule in items_mut(spec, rules) {
                for port in items_mut(rule, "ports") {
                    default_value(port, "protocol", "TCP");
                }
            }
        }
        if list(spec, &["policyTypes"]).is_empty() {
            // Without a word a policy is about what comes in, and about what goes out where it has rules for that.
            let mut types = vec![json!("Ingress")];
            if !list(spec, &["egress"]).is_empty() {
                types.push(json!("Egress"));
            }
            set(spec, &["policyTypes"], types);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        first_generation(obj);
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        next_generation(new, old, &["spec"]);
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let spec = View::root(obj).get("spec");
        selector::label_selector(&mut errs, &spec.get("podSelector"));
        for (rules, peers) in DIRECTIONS {
            for rule in spec.items(rules) {
                for port in rule.items("ports") {
                    self::port(&mut errs, &port);
                }
                for peer in rule.items(peers) {
                    self::peer(&mut errs, &peer);
                }
            }
        }
        let types = spec.get("policyTypes");
        if types.len() > 2 {
            errs.invalid(types.path(), types.value(), "may not specify more than two policyTypes");
        } else {
            for ty in types.list() {
                if !matches!(ty.str(), "Egress" | "Ingress") {
                    errs.not_supported(ty.path(), ty.str(), &["Ingress", "Egress"]);
                }
            }
        }
        errs
    }

    fn warnings(&self, _cx: &Cx<'_>, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        let spec = View::root(new).get("spec");
        for (rules, peers) in DIRECTIONS {
            for block in spec.items(rules).iter().flat_map(|rule| rule.items(peers)).map(|peer| peer.get("ipBlock")) {
                warnings.extend(ip::cidr_warnings(&block.get("cidr")));
                warnings.extend(block.items("except").iter().flat_map(ip::cidr_warnings));
            }
        }
        warnings
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        vec![json!(name(obj)), json!(label_selector(at(obj, &["spec", "podSelector"]))), json!(age(obj, now))]
    }
}

/// Rules of a direction and the peers in them.
const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

fn port(errs: &mut ErrorList, v: &View<'_>) {
    let (protocol, port, end) = (v.get("protocol"), v.get("port"), v.get("endPort"));
    const KNOWN: [&str; 3] = ["TCP", "UDP", "SCTP"];
    if protocol.is_set() && !KNOWN.contains(&protocol.str()) {
        errs.not_supported(protocol.path(), protocol.str(), &KNOWN);
    }
    if let Some(first) = port.int() {
        port_number(errs, first, port.path());
        if let Some(last) = end.int() {
            if last < first {
                // Upstream shows the first port here.
                errs.invalid(end.path(), first, "must be greater than or equal to `port`");
            }
            port_number(errs, last, end.path());
        }
    } else if port.is_set() {
        if end.is_set() {
            errs.invalid(end.path(), end.value(), "may not be specified when `port` is non-numeric");
        }
        for problem in port_name(port.str()) {
            errs.invalid(port.path(), port.str(), problem);
        }
    } else if end.is_set() {
        errs.invalid(end.path(), end.value(), "may not be specified when `port` is not specified");
    }
}

fn peer(errs: &mut ErrorList, v: &View<'_>) {
    let (pods, namespaces, block) = (v.get("podSelector"), v.get("namespaceSelector"), v.get("ipBlock"));
    let mut found = 0;
    for selected in [&pods, &namespaces] {
        if selected.is_set() {
            found += 1;
            selector::label_selector(errs, selected);
        }
    }
    if block.is_set() {
        found += 1;
        ip_block(errs, &block);
    }
    if found == 0 {
        errs.required(v.path(), "must specify a peer");
    } else if found > 1 && block.is_set() {
        errs.forbidden(v.path(), "may not specify both ipBlock and another peer");
    }
}

fn ip_block(errs: &mut ErrorList, v: &View<'_>) {
    let cidr = v.get("cidr");
    if cidr.str().is_empty() {
        errs.required(cidr.path(), "");
        return;
    }
    let Some(net) = ip::cidr(errs, cidr.str(), cidr.path()) else { return };
    for except in v.items("except") {
        let Some(part) = ip::cidr(errs, except.str(), except.path()) else { continue };
        if !net.contains(&part.network()) || net.prefix_len() >= part.prefix_len() {
            errs.invalid(except.path(), except.str(), "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    fn policy(spec: Value) -> Value {
        let mut obj = json!({"spec": spec});
        NetworkPolicy.default(&mut obj);
        obj
    }

    #[test]
    fn ports() {
        let check = |port: Value, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|e| format!("spec.egress[0].ports[0].{e}")).collect();
            assert_eq!(problems(&NetworkPolicy, &policy(json!({"egress": [{"ports": [port]}]}))), expected);
        };
        check(json!({"port": 80, "endPort": 90}), &[]);
        check(json!({"port": "http", "protocol": "SCTP"}), &[]);
        check(
            json!({"protocol": "x"}),
            &["protocol: Unsupported value: \"x\": supported values: \"TCP\", \"UDP\", \"SCTP\""],
        );
        check(
            json!({"port": 90, "endPort": 0}),
            &[
                "endPort: Invalid value: 90: must be greater than or equal to `port`",
                "endPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        );
        check(
            json!({"port": "http", "endPort": 90}),
            &["endPort: Invalid value: 90: may not be specified when `port` is non-numeric"],
        );
        check(
            json!({"endPort": 90}),
            &["endPort: Invalid value: 90: may not be specified when `port` is not specified"],
        );
    }

    #[test]
    fn peers() {
        let check = |peer: Value, expected: &[&str]| {
            let expected: Vec<String> = expected.iter().map(|e| format!("spec.ingress[0].from[0]{e}")).collect();
            assert_eq!(problems(&NetworkPolicy, &policy(json!({"ingress": [{"from": [peer]}]}))), expected);
        };
        check(json!({"podSelector": {}, "namespaceSelector": {}}), &[]);
        check(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}), &[]);
        check(json!({}), &[": Required value: must specify a peer"]);
        check(json!({"ipBlock": {"cidr": ""}}), &[".ipBlock.cidr: Required value"]);
        check(
            json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "x", "11.0.0.0/16"]}}),
            &[
                ".ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                ".ipBlock.except[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ".ipBlock.except[2]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
                ": Forbidden: may not specify both ipBlock and another peer",
            ],
        );
    }

    #[test]
    fn types() {
        let of = |types: Value| problems(&NetworkPolicy, &policy(json!({"policyTypes": types})));
        assert_eq!(policy(json!({"egress": [{}]}))["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(
            of(json!(["x"])),
            ["spec.policyTypes[0]: Unsupported value: \"x\": supported values: \"Ingress\", \"Egress\""]
        );
        assert_eq!(
            of(json!(["Ingress", "Egress", "x"])),
            [
                "spec.policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"x\"]: may not specify more than two policyTypes"
            ]
        );
    }
}
