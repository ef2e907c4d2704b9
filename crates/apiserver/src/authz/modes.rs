//! Which authorizers there are and in which order: `--authorization-mode`, or the file `--authorization-config`
//! (`pkg/kubeapiserver/options/authorization.go`, `pkg/kubeapiserver/authorizer`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::always::{AlwaysAllow, AlwaysDeny};
use super::webhook::{self, Webhook};
use super::{Authorizer, Privileged};

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--authorization-mode`.
    pub modes: Vec<String>,
    /// `--authorization-webhook-config-file`.
    pub webhook_config: Option<PathBuf>,
    /// What else is said of that webhook.
    pub webhook: webhook::Settings,
    /// Text of `--authorization-config`, which stands in the place of all others.
    pub config: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            modes: vec!["Node".into(), "RBAC".into()],
            webhook_config: None,
            webhook: webhook::Settings::default(),
            config: None,
        }
    }
}

/// One authorizer of a configuration.
#[derive(Clone, Debug)]
enum Mode {
    AlwaysAllow,
    AlwaysDeny,
    Node,
    Rbac,
    Webhook(PathBuf, webhook::Settings),
}

/// The authorizers in order. The first is that of `system:masters`.
pub fn build(
    settings: &Settings,
    node: Arc<dyn Authorizer>,
    rbac: Arc<dyn Authorizer>,
) -> Result<Vec<Arc<dyn Authorizer>>, String> {
    let modes = match &settings.config {
        Some(text) => parse(text)?,
        None => from_flags(settings)?,
    };
    let mut all: Vec<Arc<dyn Authorizer>> = vec![Arc::new(Privileged)];
    for mode in modes {
        all.push(match mode {
            Mode::AlwaysAllow => Arc::new(AlwaysAllow),
            Mode::AlwaysDeny => Arc::new(AlwaysDeny),
            Mode::Node => Arc::clone(&node),
            Mode::Rbac => Arc::clone(&rbac),
            Mode::Webhook(path, settings) => Arc::new(Webhook::new(&path, settings)?),
        });
    }
    Ok(all)
}

fn from_flags(settings: &Settings) -> Result<Vec<Mode>, String> {
    if settings.modes.is_empty() {
        return Err("at least one authorization-mode must be passed".into());
    }
    let mut seen = BTreeSet::new();
    let mut modes = Vec::new();
    for mode in &settings.modes {
        if !seen.insert(mode.as_str()) {
            return Err(format!("authorization-mode {:?} has mode specified more than once", settings.modes));
        }
        modes.push(match mode.as_str() {
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "Webhook" => match &settings.webhook_config {
                Some(path) => Mode::Webhook(path.clone(), settings.webhook.clone()),
                None => return Err("authorization-mode Webhook's authorization config file not passed".into()),
            },
            "ABAC" => return Err("authorization-mode ABAC is not supported: write its policies as RBAC roles".into()),
            other => return Err(format!("authorization-mode {other:?} is not a valid mode")),
        });
    }
    if settings.webhook_config.is_some() && !seen.contains("Webhook") {
        return Err("cannot specify --authorization-webhook-config-file without mode Webhook".into());
    }
    Ok(modes)
}

/// Reads `AuthorizationConfiguration` of `apiserver.config.k8s.io`. Match conditions, which are CEL, are refused.
fn parse(text: &str) -> Result<Vec<Mode>, String> {
    let config: Value = serde_yaml::from_str(text).map_err(|e| format!("authorization configuration: {e}"))?;
    crate::config_file::check_kind(&config, "AuthorizationConfiguration")?;
    crate::config_file::only(&config, "", &["apiVersion", "kind", "authorizers"])?;
    let list = config["authorizers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if list.is_empty() {
        return Err("authorizers: Required value: at least one authorization mode must be defined".into());
    }
    let (mut names, mut types) = (BTreeSet::new(), BTreeSet::new());
    let mut modes = Vec::new();
    for (i, authorizer) in list.iter().enumerate() {
        let path = format!("authorizers[{i}]");
        crate::config_file::only(authorizer, &path, &["type", "name", "webhook"])?;
        let text = |field: &str| authorizer[field].as_str().unwrap_or_default();
        let (kind, name) = (text("type"), text("name"));
        if kind.is_empty() {
            return Err(format!("{path}.type: Required value"));
        }
        if name.is_empty() {
            return Err(format!("{path}.name: Required value"));
        }
        if !names.insert(name.to_owned()) {
            return Err(format!("{path}.name: Duplicate value: {name:?}"));
        }
        if kind != "Webhook" {
            if !types.insert(kind.to_owned()) {
                return Err(format!("{path}.type: Duplicate value: {kind:?}"));
            }
            if !authorizer["webhook"].is_null() {
                return Err(format!(
                    "{path}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"
                ));
            }
        }
        modes.push(match kind {
            "AlwaysAllow" => Mode::AlwaysAllow,
            "AlwaysDeny" => Mode::AlwaysDeny,
            "Node" => Mode::Node,
            "RBAC" => Mode::Rbac,
            "Webhook" => webhook_of(&authorizer["webhook"], &format!("{path}.webhook"))?,
            "ABAC" => return Err(format!("{path}.type: ABAC is not supported: write its policies as RBAC roles")),
            other => {
                return Err(format!(
                    "{path}.type: Unsupported value: {other:?}: supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \
                     \"RBAC\", \"Webhook\""
                ));
            }
        });
    }
    Ok(modes)
}

fn webhook_of(value: &Value, path: &str) -> Result<Mode, String> {
    if !value.is_object() {
        return Err(format!("{path}: Required value: required when type=Webhook"));
    }
    let known = [
        "authorizedTTL",
        "unauthorizedTTL",
        "timeout",
        "subjectAccessReviewVersion",
        "matchConditionSubjectAccessReviewVersion",
        "failurePolicy",
        "connectionInfo",
        "matchConditions",
        "cacheAuthorizedRequests",
        "cacheUnauthorizedRequests",
    ];
    crate::config_file::only(value, path, &known)?;
    if value["matchConditions"].as_array().is_some_and(|c| !c.is_empty()) {
        return Err(format!("{path}.matchConditions: not supported: expressions in CEL are not evaluated here"));
    }
    let duration = |field: &str, default: u64| match value[field].as_str() {
        None => Ok(Duration::from_secs(default)),
        Some(text) => crate::config_file::duration(text)
            .ok_or_else(|| format!("{path}.{field}: Invalid value: {text:?}: is not a duration")),
    };
    let cached = |field: &str| value[field].as_bool().unwrap_or(true);
    let timeout = duration("timeout", 30)?;
    if timeout.is_zero() || timeout > Duration::from_secs(30) {
        return Err(format!("{path}.timeout: Invalid value: must be between 0 and 30s"));
    }
    let settings = webhook::Settings {
        version: value["subjectAccessReviewVersion"].as_str().unwrap_or_default().to_owned(),
        allowed_ttl: if cached("cacheAuthorizedRequests") { duration("authorizedTTL", 300)? } else { Duration::ZERO },
        other_ttl: if cached("cacheUnauthorizedRequests") { duration("unauthorizedTTL", 30)? } else { Duration::ZERO },
        timeout,
        failure_denies: match value["failurePolicy"].as_str() {
            Some("NoOpinion") => false,
            Some("Deny") => true,
            other => {
                return Err(format!(
                    "{path}.failurePolicy: Unsupported value: {:?}: supported values: \"NoOpinion\", \"Deny\"",
                    other.unwrap_or_default()
                ));
            }
        },
    };
    let connection = &value["connectionInfo"];
    match (connection["type"].as_str(), connection["kubeConfigFile"].as_str()) {
        (Some("KubeConfigFile"), Some(file)) if !file.is_empty() => Ok(Mode::Webhook(file.into(), settings)),
        (Some("KubeConfigFile"), _) => Err(format!("{path}.connectionInfo.kubeConfigFile: Required value")),
        (other, _) => Err(format!(
            "{path}.connectionInfo.type: Unsupported value: {:?}: supported values: \"KubeConfigFile\"",
            other.unwrap_or_default()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_checked_as_upstream_checks_them() {
        let check = |modes: &[&str], expected: Result<usize, &str>| {
            let modes = modes.iter().map(|m| (*m).to_owned()).collect();
            let settings = Settings { modes, ..Settings::default() };
            let node: Arc<dyn Authorizer> = Arc::new(AlwaysDeny);
            match (build(&settings, node.clone(), node), expected) {
                (Ok(all), Ok(count)) => assert_eq!(all.len(), count + 1),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (got, expected) => panic!("{:?} instead of {expected:?}", got.map(|a| a.len())),
            }
        };
        check(&["Node", "RBAC"], Ok(2));
        check(&["AlwaysAllow"], Ok(1));
        check(&[], Err("at least one"));
        check(&["RBAC", "RBAC"], Err("more than once"));
        check(&["ABAC"], Err("ABAC is not supported"));
        check(&["Webhook"], Err("config file not passed"));
        check(&["rbac"], Err("is not a valid mode"));
    }

    #[test]
    fn files_name_authorizers_in_order() {
        let file = |list: &str| {
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {list}\n")
        };
        let modes = parse(&file("[{type: Node, name: n}, {type: RBAC, name: r}]")).expect("good");
        assert!(matches!(modes.as_slice(), [Mode::Node, Mode::Rbac]));
        let hook = "{failurePolicy: Deny, subjectAccessReviewVersion: v1, authorizedTTL: 10s, timeout: 3s, \
                    connectionInfo: {type: KubeConfigFile, kubeConfigFile: /x}}";
        let modes = parse(&file(&format!("[{{type: Webhook, name: w, webhook: {hook}}}]"))).expect("good");
        let [Mode::Webhook(path, settings)] = modes.as_slice() else { panic!("{modes:?}") };
        assert_eq!((path.to_str(), settings.failure_denies), (Some("/x"), true));
        assert_eq!(settings.allowed_ttl, Duration::from_secs(10));
        for (bad, part) in [
            ("[]", "at least one"),
            ("[{type: RBAC}]", "name: Required"),
            ("[{type: RBAC, name: a}, {type: RBAC, name: b}]", "Duplicate"),
            ("[{type: RBAC, name: a, other: 1}]", "unknown field"),
            ("[{type: Webhook, name: a}]", "required when type=Webhook"),
        ] {
            let why = parse(&file(bad)).map(|m| m.len()).expect_err("refused");
            assert!(why.contains(part), "{why}");
        }
    }
}
