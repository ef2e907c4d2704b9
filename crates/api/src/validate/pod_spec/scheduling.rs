//! Tolerations, topology spread, gates, resource claims, DNS settings and host aliases.

use std::collections::BTreeSet;

use crate::field::{ErrorList, Path};
use crate::object::View;
use crate::validate::{dns_label_at, internal, labels, selector, taint_effect};

/// Tolerations. Upstream: `ValidateTolerations`.
pub fn tolerations(errs: &mut ErrorList, list: &View<'_>) {
    for toleration in list.list() {
        let (key, operator, value, effect) =
            (toleration.get("key"), toleration.get("operator"), toleration.get("value"), toleration.get("effect"));
        if !key.str().is_empty() {
            labels::name(errs, key.str(), key.path());
        } else if operator.str() != "Exists" {
            errs.invalid(
                operator.path(),
                operator.str(),
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.str() != "NoExecute" {
            errs.invalid(effect.path(), effect.str(), "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.str() {
            "" | "Equal" => {
                let problems = crate::names::label_value(value.str());
                if !problems.is_empty() {
                    errs.invalid(operator.path(), value.str(), problems.join(";"));
                }
            }
            "Exists" => {
                if !value.str().is_empty() {
                    errs.invalid(operator.path(), value.str(), "value must be empty when `operator` is 'Exists'");
                }
            }
            other => errs.not_supported(operator.path(), other, &["Equal", "Exists"]),
        }
        if !effect.str().is_empty() {
            taint_effect(errs, &effect, true);
        }
    }
}

/// Topology spread constraints. Upstream: `validateTopologySpreadConstraints`.
pub fn spread(errs: &mut ErrorList, list: &View<'_>) {
    let constraints = list.list();
    for (i, c) in constraints.iter().enumerate() {
        let (skew, key, when) = (c.get("maxSkew"), c.get("topologyKey"), c.get("whenUnsatisfiable"));
        if skew.int().unwrap_or_default() <= 0 {
            errs.invalid(skew.path(), skew.int().unwrap_or_default(), "must be greater than zero");
        }
        if key.str().is_empty() {
            errs.required(key.path(), "can not be empty");
        } else {
            labels::name(errs, key.str(), key.path());
        }
        if !matches!(when.str(), "DoNotSchedule" | "ScheduleAnyway") {
            errs.not_supported(when.path(), when.str(), &["DoNotSchedule", "ScheduleAnyway"]);
        }
        let again = |other: &View<'_>| {
            other.get("topologyKey").str() == key.str() && other.get("whenUnsatisfiable").str() == when.str()
        };
        if constraints.iter().skip(i + 1).any(again) {
            errs.duplicate(
                &c.path().child("{topologyKey, whenUnsatisfiable}"),
                format!("{{{}, {}}}", key.str(), when.str()).as_str(),
            );
        }
        let domains = c.get("minDomains");
        if let Some(n) = domains.int() {
            if n <= 0 {
                errs.invalid(domains.path(), n, "must be greater than zero");
            }
            if when.str() != "DoNotSchedule" {
                errs.invalid(
                    domains.path(),
                    n,
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}", when.str()),
                );
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let policy = c.get(field);
            if policy.is_set() && !matches!(policy.str(), "Honor" | "Ignore") {
                errs.not_supported(policy.path(), policy.str(), &["Honor", "Ignore"]);
            }
        }
        spread_label_keys(errs, c);
        selector::label_selector(errs, &c.get("labelSelector"));
    }
}

/// Keys whose values the pod's own labels give, none of them in the selector. The keys that became requirements when
/// the pod was made are of no concern. Upstream: `validateMatchLabelKeysInTopologySpread`.
fn spread_label_keys(errs: &mut ErrorList, c: &View<'_>) {
    let (keys, chosen) = (c.get("matchLabelKeys"), c.get("labelSelector"));
    if keys.is_empty() {
        return;
    }
    if !chosen.is_set() {
        errs.forbidden(keys.path(), "must not be specified when labelSelector is not set");
    }
    for key in keys.list() {
        labels::name(errs, key.str(), key.path());
        if chosen.get("matchLabels").get_named(key.str()).is_set() {
            errs.invalid(key.path(), key.str(), "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Readiness and scheduling gates. Upstream: `validateReadinessGates`, `validateSchedulingGates`.
pub fn gates(errs: &mut ErrorList, spec: &View<'_>) {
    for gate in spec.items("readinessGates") {
        let ty = gate.get("conditionType");
        labels::name(errs, ty.str(), ty.path());
    }
    let mut seen = BTreeSet::new();
    for gate in spec.items("schedulingGates") {
        for problem in crate::names::qualified_name(gate.get("name").str()) {
            errs.invalid(gate.path(), gate.get("name").str(), problem);
        }
        if !seen.insert(gate.get("name").str()) {
            errs.duplicate(gate.path(), gate.get("name").str());
        }
    }
}

/// Resource claims: one source each. Upstream: `validatePodResourceClaims`.
pub fn resource_claims(errs: &mut ErrorList, list: &View<'_>) {
    let mut seen = BTreeSet::new();
    for claim in list.list() {
        let name = claim.get("name");
        if name.str().is_empty() {
            errs.required(name.path(), "");
        } else if seen.insert(name.str()) {
            dns_label_at(errs, &name);
        } else {
            errs.duplicate(name.path(), name.str());
        }
        let sources: Vec<View<'_>> = ["resourceClaimName", "resourceClaimTemplateName"]
            .iter()
            .map(|f| claim.get(f))
            .filter(View::is_set)
            .collect();
        let shown = internal::shown(internal::POD_RESOURCE_CLAIM, claim.value());
        match sources.len() {
            0 => errs.invalid(
                claim.path(),
                shown,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            1 => {}
            _ => errs.invalid(
                claim.path(),
                shown,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
        }
        for source in sources {
            for problem in crate::names::dns_subdomain(source.str(), false) {
                errs.invalid(source.path(), source.str(), problem);
            }
        }
    }
}

/// `dnsConfig`. Upstream: `validatePodDNSConfig`.
pub fn dns_config(errs: &mut ErrorList, spec: &View<'_>) {
    const MAX_NAMESERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_SEARCH_CHARS: usize = 2048;
    let config = spec.get("dnsConfig");
    if spec.get("dnsPolicy").str() == "None" {
        if !config.is_set() {
            errs.required(config.path(), "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if config.get("nameservers").is_empty() {
            errs.required(
                config.get("nameservers").path(),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            );
            return;
        }
    }
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if servers.len() > MAX_NAMESERVERS {
        errs.invalid(servers.path(), servers.value(), format!("must not have more than {MAX_NAMESERVERS} nameservers"));
    }
    for server in servers.list() {
        crate::validate::ip_address(errs, server.str(), server.path());
    }
    if searches.len() > MAX_SEARCHES {
        errs.invalid(searches.path(), searches.value(), format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if searches.strs().join(" ").len() > MAX_SEARCH_CHARS {
        errs.invalid(
            searches.path(),
            searches.value(),
            format!("must not have more than {MAX_SEARCH_CHARS} characters (including spaces) in the search list"),
        );
    }
    for search in searches.list() {
        // A lone dot and a final dot are allowed, and so are underscores.
        if search.str() == "." {
            continue;
        }
        let name = search.str().strip_suffix('.').unwrap_or(search.str());
        for problem in crate::names::dns_subdomain_with_underscore(name) {
            errs.invalid(search.path(), name, problem);
        }
    }
    for option in config.items("options") {
        if option.get("name").str().is_empty() {
            errs.required(option.path(), "must not be empty");
        }
    }
}

/// `hostAliases`. Upstream: `ValidateHostAliases`.
pub fn host_aliases(errs: &mut ErrorList, list: &View<'_>) {
    for alias in list.list() {
        let ip = alias.get("ip");
        crate::validate::ip_address(errs, ip.str(), ip.path());
        for hostname in alias.items("hostnames") {
            let path: Path = hostname.path().clone();
            for problem in crate::names::dns_subdomain(hostname.str(), false) {
                errs.invalid(&path, hostname.str(), problem);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::pod_spec::tests::problems;

    #[test]
    fn searches_and_claims_are_checked() {
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}], "resourceClaims": [{"name": "a"}],
                "dnsConfig": {"searches": [".", "_tcp.example.com.", "-"]},
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["a"]},
                    {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {}}]})),
            [
                "spec.resourceClaims[0]: Invalid value: {\"Name\":\"a\",\"ResourceClaimName\":null,\
                 \"ResourceClaimTemplateName\":null}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                "spec.dnsConfig.searches[2]: Invalid value: \"-\": a lowercase RFC 1123 subdomain must consist of lower case \
                 alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. \
                 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{z, DoNotSchedule}\"",
                "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
            ]
        );
    }

    #[test]
    fn tolerations_and_spread_are_checked() {
        assert_eq!(
            problems(json!({"containers": [{"name": "c", "image": "i"}],
                "tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "tolerationSeconds": 1}],
                "topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]})),
            [
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which \
                 means \"match all values and all keys\"",
                "spec.tolerations[1].effect: Invalid value: \"\": effect must be 'NoExecute' when `tolerationSeconds` is set",
            ]
        );
    }
}
