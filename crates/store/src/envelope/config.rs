//! The configuration file: `EncryptionConfiguration` of `apiserver.config.k8s.io/v1`
//! (`k8s.io/apiserver/pkg/apis/apiserver/validation/validation_encryption.go`, `pkg/server/options/encryptionconfig`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::GroupResource;
use super::chain::{Chain, Provider};
use super::ciphers::Cipher;
use super::kms::Envelope;

const KIND: (&str, &str) = ("apiserver.config.k8s.io/v1", "EncryptionConfiguration");
const AES_KEYS: &[usize] = &[16, 24, 32];
const SECRETBOX_KEYS: &[usize] = &[32];

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    resources: Vec<Entry>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<Named>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Named {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    identity: Option<Nothing>,
    kms: Option<Kms>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Kms {
    api_version: Option<String>,
    name: String,
    cachesize: Option<i64>,
    endpoint: String,
    timeout: Option<String>,
}

/// Which chain of transformations a resource has.
#[derive(Default)]
pub struct Rules {
    chains: HashMap<GroupResource, Arc<Chain>>,
    services: Vec<Arc<Envelope>>,
    none: Arc<Chain>,
}

impl Rules {
    /// Reads the text of a configuration file and connects to the services it names; `server` is the hash by which metrics
    /// tell the API server. The error is for the operator.
    pub async fn load(text: &str, server: &str) -> Result<Rules, String> {
        let configuration = parse(text)?;
        let errors = problems(&configuration);
        match errors.as_slice() {
            [] => {}
            [one] => return Err(one.clone()),
            all => return Err(format!("[{}]", all.join(", "))),
        }
        let mut services = Vec::new();
        let mut providers: HashMap<GroupResource, Vec<Arc<Provider>>> = HashMap::new();
        for entry in &configuration.resources {
            let mut list = Vec::new();
            for named in &entry.providers {
                list.push(Arc::new(provider(named, server, &mut services).await?));
            }
            for name in &entry.resources {
                let resource = parse_resource(name);
                for star in [&resource.group, "*"] {
                    let masking = GroupResource { group: star.to_owned(), resource: "*".into() };
                    if masking != resource && providers.contains_key(&masking) {
                        return Err(format!("resource {name:?} is masked by earlier rule {:?}", shown(&masking)));
                    }
                }
                providers.entry(resource).or_default().extend(list.iter().cloned());
            }
        }
        let chains = providers.into_iter().map(|(resource, list)| (resource, Arc::new(Chain { providers: list })));
        Ok(Rules { chains: chains.collect(), services, none: Arc::default() })
    }

    /// The chain of a resource: its own, that of its group, that of everything, or none.
    pub fn chain(&self, resource: &GroupResource) -> Arc<Chain> {
        let star = |group: &str| GroupResource { group: group.into(), resource: "*".into() };
        let found = self.chains.get(resource);
        let found = found.or_else(|| self.chains.get(&star(&resource.group))).or_else(|| self.chains.get(&star("*")));
        found.unwrap_or(&self.none).clone()
    }

    /// The state of each key management service, in the order of the file.
    pub fn health(&self) -> Vec<Result<(), String>> {
        self.services.iter().map(|service| service.health()).collect()
    }
}

fn parse(text: &str) -> Result<Configuration, String> {
    if text.trim().is_empty() {
        return Err("encryption provider configuration file is empty".into());
    }
    // By way of a value, so that an empty `identity: {}` and JSON are read alike.
    let value: serde_json::Value = serde_yaml::from_str(text).map_err(|e| format!("error decoding: {e}"))?;
    let configuration: Configuration = serde_json::from_value(value).map_err(|e| format!("error decoding: {e}"))?;
    if (configuration.api_version.as_str(), configuration.kind.as_str()) != KIND {
        return Err(format!(
            "expected kind {:?} of apiVersion {:?}, got {:?} of {:?}",
            KIND.1, KIND.0, configuration.kind, configuration.api_version
        ));
    }
    Ok(configuration)
}

/// `RESOURCE.GROUP`, where the group may be missing or empty (`*.`).
fn parse_resource(text: &str) -> GroupResource {
    let (resource, group) = text.split_once('.').unwrap_or((text, ""));
    GroupResource { group: group.into(), resource: resource.into() }
}

fn shown(resource: &GroupResource) -> String {
    if resource.group.is_empty() && resource.resource != "*" {
        resource.resource.clone()
    } else {
        format!("{}.{}", resource.resource, resource.group)
    }
}

async fn provider(named: &Named, server: &str, services: &mut Vec<Arc<Envelope>>) -> Result<Provider, String> {
    let keys = |prefix: &'static str, keys: &Keys, make: fn(&[u8]) -> Result<Cipher, String>| {
        let mut list = Vec::new();
        for key in &keys.keys {
            let about = |e: String| format!("error while creating cipher for named key {}: {e}", key.name);
            let secret = STANDARD.decode(&key.secret).map_err(|e| about(e.to_string()))?;
            list.push((key.name.clone(), make(&secret).map_err(about)?));
        }
        Ok(Provider::Keys(prefix, list))
    };
    if let Some(k) = &named.aesgcm {
        return keys("k8s:enc:aesgcm:v1:", k, Cipher::gcm);
    }
    if let Some(k) = &named.aescbc {
        return keys("k8s:enc:aescbc:v1:", k, Cipher::cbc);
    }
    if let Some(k) = &named.secretbox {
        return keys("k8s:enc:secretbox:v1:", k, Cipher::secretbox);
    }
    if let Some(kms) = &named.kms {
        let timeout = kms.timeout.as_deref().map_or(Some(Duration::from_secs(3)), duration);
        let timeout = timeout.ok_or("timeout is no duration")?;
        let service = Envelope::connect(&kms.name, &kms.endpoint, timeout, server).await?;
        services.push(service.clone());
        return Ok(Provider::Kms(format!("k8s:enc:kms:v2:{}:", kms.name), service));
    }
    Ok(Provider::Identity)
}

/// A duration as Go writes it: `3s`, `1m30s`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let mut total = 0f64;
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let amount: f64 = rest[..number].parse().ok()?;
        rest = &rest[number..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += amount
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

/// Everything that is wrong with a configuration.
fn problems(configuration: &Configuration) -> Vec<String> {
    let mut errors = Vec::new();
    if configuration.resources.is_empty() {
        errors.push("resources: Required value: at least one resources is required".into());
    }
    let mut services = HashSet::new();
    for (i, entry) in configuration.resources.iter().enumerate() {
        let resources = format!("resources[{i}].resources");
        if entry.resources.is_empty() {
            errors.push(format!("{resources}: Required value: at least one {resources} is required"));
        }
        overlaps(&entry.resources, &resources, &mut errors);
        for (j, name) in entry.resources.iter().enumerate() {
            if let Some(why) = bad_name(name) {
                errors.push(format!("{resources}[{j}]: Invalid value: {name:?}: {why}"));
            }
        }
        let providers = format!("resources[{i}].providers");
        if entry.providers.is_empty() {
            errors.push(format!("{providers}: Required value: at least one {providers} is required"));
        }
        for (j, named) in entry.providers.iter().enumerate() {
            let path = format!("{providers}[{j}]");
            let found = [
                named.aesgcm.is_some(),
                named.aescbc.is_some(),
                named.secretbox.is_some(),
                named.identity.is_some(),
                named.kms.is_some(),
            ];
            match found.iter().filter(|f| **f).count() {
                0 => errors.push(format!(
                    "{path}: Invalid value: {{}}: provider does not contain any of the expected providers: KMS, AESGCM, \
                     AESCBC, Secretbox, Identity"
                )),
                1 => {}
                _ => errors.push(format!(
                    "{path}: Invalid value: {{}}: more than one provider specified in a single element, should split \
                     into different list elements"
                )),
            }
            for (keys, name, sizes) in [
                (&named.aesgcm, "aesgcm", AES_KEYS),
                (&named.aescbc, "aescbc", AES_KEYS),
                (&named.secretbox, "secretbox", SECRETBOX_KEYS),
            ] {
                if let Some(keys) = keys {
                    bad_keys(&keys.keys, &format!("{path}.{name}.keys"), sizes, &mut errors);
                }
            }
            if let Some(kms) = &named.kms {
                bad_kms(kms, &format!("{path}.kms"), &mut services, &mut errors);
            }
        }
    }
    errors
}

fn overlaps(names: &[String], path: &str, errors: &mut Vec<String>) {
    let all: Vec<GroupResource> = names.iter().map(|n| parse_resource(n)).collect();
    let (mut twice, mut overlap) = (false, false);
    for (i, a) in all.iter().enumerate() {
        for (j, b) in all.iter().enumerate() {
            if i == j {
                continue;
            }
            if a == b {
                twice = true;
            } else if (a.group == "*" && a.resource == "*")
                || (a.group == b.group && (a.resource == "*" || b.resource == "*"))
            {
                overlap = true;
            }
        }
    }
    if twice {
        errors.push(format!("{path}: Invalid value: {names:?}: the same resource cannot be specified multiple times"));
    }
    if overlap {
        errors.push(format!(
            "{path}: Invalid value: {names:?}: using overlapping resources such as 'secrets' and '*.' in the same \
             resource list is not allowed as they will be masked"
        ));
    }
}

fn bad_name(name: &str) -> Option<&'static str> {
    let resource = parse_resource(name);
    if name.to_lowercase() != name {
        return Some("resource name should not contain capital letters");
    }
    match (name, resource.group.as_str()) {
        ("*", _) => Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", _) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, "events.k8s.io") => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the \
             config file",
        ),
        (_, "extensions") => Some("'extensions' group has been removed and cannot be used for encryption"),
        (_, "*") if resource.resource != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

fn bad_keys(keys: &[Key], path: &str, sizes: &[usize], errors: &mut Vec<String>) {
    if keys.is_empty() {
        errors.push(format!("{path}: Required value: at least one keys is required"));
    }
    for (i, key) in keys.iter().enumerate() {
        let path = format!("{path}[{i}]");
        if key.name.is_empty() {
            errors.push(format!("{path}.name: Required value: name is a mandatory field for a key"));
        }
        if key.secret.is_empty() {
            errors.push(format!("{path}.secret: Required value: secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(&key.secret) {
            Err(_) => {
                errors.push(format!("{path}.secret: Invalid value: \"REDACTED\": secrets must be base64 encoded"));
            }
            Ok(secret) if !sizes.contains(&secret.len()) => {
                let list = sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
                errors.push(format!(
                    "{path}.secret: Invalid value: \"REDACTED\": secret is not of the expected length, got {}, expected \
                     one of [{list}]",
                    secret.len()
                ));
            }
            Ok(_) => {}
        }
    }
}

fn bad_kms<'a>(kms: &'a Kms, path: &str, names: &mut HashSet<&'a str>, errors: &mut Vec<String>) {
    let version = kms.api_version.as_deref().unwrap_or("v1");
    if kms.name.is_empty() {
        errors.push(format!("{path}.name: Required value: name is a mandatory field for a provider"));
    }
    if version != "v1" && kms.name.contains(':') {
        errors.push(format!(
            "{path}.name: Invalid value: {0:?}: invalid KMS provider name {0}, must not contain ':'",
            kms.name
        ));
    }
    if !names.insert(&kms.name) {
        errors.push(format!(
            "{path}.name: Invalid value: {0:?}: duplicate KMS provider name {0}, names must be unique",
            kms.name
        ));
    }
    if let Some(timeout) = &kms.timeout
        && duration(timeout).is_none_or(|d| d.is_zero())
    {
        errors.push(format!("{path}.timeout: Invalid value: {timeout:?}: timeout should be a positive value"));
    }
    match kms.endpoint.split_once("://") {
        _ if kms.endpoint.is_empty() => {
            errors.push(format!("{path}.endpoint: Invalid value: \"\": endpoint is a mandatory field for a kms"));
        }
        Some(("unix", _)) => {}
        other => errors.push(format!(
            "{path}.endpoint: Invalid value: {:?}: unsupported scheme {:?} for KMS provider, only unix is supported",
            kms.endpoint,
            other.map_or("", |(scheme, _)| scheme)
        )),
    }
    if let Some(size) = kms.cachesize.filter(|_| version != "v1") {
        errors.push(format!("{path}.cachesize: Invalid value: {size}: cachesize is not supported in v2"));
    }
    match version {
        "v2" => {}
        "v1" => errors.push(format!(
            "{path}.apiVersion: Invalid value: \"v1\": KMSv1 is deprecated and off by default since v1.29; use apiVersion v2"
        )),
        other => errors.push(format!(
            "{path}.apiVersion: Invalid value: {other:?}: unsupported apiVersion apiVersion for KMS provider, only v1 and \
             v2 are supported"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(resources: &str) -> String {
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{resources}")
    }

    async fn refused(text: &str) -> String {
        match Rules::load(text, "").await {
            Ok(_) => panic!("taken: {text}"),
            Err(why) => why,
        }
    }

    #[tokio::test]
    async fn problems_are_told_as_upstream_tells_them() {
        let check = async |resources: &str, expected: &str| {
            let why = refused(&file(resources)).await;
            assert!(why.contains(expected), "{why}");
        };
        check("  []", "resources: Required value").await;
        check("- {resources: [], providers: [{identity: {}}]}", "at least one resources[0].resources is required")
            .await;
        check("- {resources: [secrets], providers: []}", "at least one resources[0].providers is required").await;
        check("- {resources: [Secrets], providers: [{identity: {}}]}", "should not contain capital letters").await;
        check("- {resources: ['*'], providers: [{identity: {}}]}", "use '*.' to encrypt all").await;
        check("- {resources: [secrets, '*.'], providers: [{identity: {}}]}", "overlapping resources").await;
        check("- {resources: [secrets, secrets], providers: [{identity: {}}]}", "cannot be specified multiple").await;
        check("- {resources: ['x.*'], providers: [{identity: {}}]}", "across groups is not supported").await;
        check("- {resources: [secrets], providers: [{}]}", "does not contain any of the expected providers").await;
        check(
            "- {resources: [secrets], providers: [{aescbc: {keys: [{name: a, secret: YWJj}]}}]}",
            "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected \
             length, got 3, expected one of [16 24 32]",
        )
        .await;
        check("- {resources: [secrets], providers: [{secretbox: {keys: [{name: a}]}}]}", "secret is a mandatory").await;
        check(
            "- {resources: [secrets], providers: [{kms: {apiVersion: v2, name: 'a:b', endpoint: 'http://x'}}]}",
            "':'",
        )
        .await;
        check("- {resources: [secrets], providers: [{kms: {name: a, endpoint: 'unix:///x'}}]}", "KMSv1").await;
        check("- {resources: [secrets], providers: [{other: {}}]}", "unknown field").await;
        let masked = "- {resources: ['*.*'], providers: [{identity: {}}]}\n- {resources: [secrets], providers: [{identity: {}}]}";
        check(masked, "resource \"secrets\" is masked by earlier rule \"*.*\"").await;
        assert!(refused("kind: Pod").await.contains("EncryptionConfiguration"));
        assert!(refused("").await.contains("empty"));
    }

    #[tokio::test]
    async fn the_nearest_rule_counts() {
        let key = |name: &str| format!("{{aesgcm: {{keys: [{{name: {name}, secret: AAAAAAAAAAAAAAAAAAAAAA==}}]}}}}");
        let text = file(&format!(
            "- {{resources: [secrets], providers: [{}]}}\n- {{resources: [events], providers: [{{identity: {{}}}}]}}\n- \
             {{resources: ['*.apps'], providers: [{}]}}\n- {{resources: ['*.*'], providers: [{}]}}",
            key("one"),
            key("two"),
            key("three")
        ));
        let rules = Rules::load(&text, "").await.expect("rules");
        let check = async |group: &str, resource: &str, expected: &str| {
            let chain = rules.chain(&GroupResource { group: group.into(), resource: resource.into() });
            let sealed = chain.seal("/registry/x", "{}".into()).await.expect("sealed");
            assert!(sealed.starts_with(expected.as_bytes()), "{group} {resource}: {sealed:?}");
        };
        check("", "secrets", "k8s:enc:aesgcm:v1:one:").await;
        check("", "events", "{}").await;
        check("apps", "deployments", "k8s:enc:aesgcm:v1:two:").await;
        check("", "configmaps", "k8s:enc:aesgcm:v1:three:").await;
        check("example.com", "pandas", "k8s:enc:aesgcm:v1:three:").await;
    }

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, expected: Option<f64>| assert_eq!(duration(text).map(|d| d.as_secs_f64()), expected);
        check("3s", Some(3.0));
        check("1m30s", Some(90.0));
        check("500ms", Some(0.5));
        check("0", Some(0.0));
        check("", None);
        check("3", None);
        check("-3s", None);
        check("3x", None);
    }
}
