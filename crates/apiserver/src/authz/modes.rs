//! Which authorizers there are and in which order: `--authorization-mode`, or the file `--authorization-config`
//! (`pkg/kubeapiserver/options/authorization.go`, `pkg/kubeapiserver/authorizer`).

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use orkd_cel::k8s::authorization;
use orkd_cel::{Type, names};
use serde_json::Value;

use super::always::{AlwaysAllow, AlwaysDeny};
use super::union::Member;
use super::webhook::{self, Webhook};
use super::{Authorizer, Privileged};
use crate::config_file::{check_kind, duration, list, only, text};
use crate::expression::Expression;

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
struct Entry {
    kind: &'static str,
    name: String,
    /// Of a webhook: its kubeconfig, and what else is said of it.
    webhook: Option<(PathBuf, webhook::Settings)>,
}

/// The types in upstream's order (`pkg/kubeapiserver/authorizer/modes`); ABAC is known and refused.
const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// How many match conditions a webhook may have.
const MAX_CONDITIONS: usize = 64;

/// Makes authorizers of a configuration, the first and those that take its place.
pub struct Factory {
    node: Arc<dyn Authorizer>,
    rbac: Arc<dyn Authorizer>,
    /// The types of the first configuration other than webhooks: later ones must have them, too.
    required: BTreeSet<&'static str>,
}

impl Factory {
    /// The authorizers of the configuration that the server starts with, in order. The first is that of `system:masters`.
    pub fn start(
        settings: &Settings,
        node: Arc<dyn Authorizer>,
        rbac: Arc<dyn Authorizer>,
    ) -> Result<(Factory, Vec<Member>), String> {
        let entries = match &settings.config {
            Some(text) => parse(text)?,
            None => from_flags(settings)?,
        };
        let required = entries.iter().filter(|e| e.webhook.is_none()).map(|e| e.kind).collect();
        let factory = Factory { node, rbac, required };
        let members = factory.members(entries)?;
        Ok((factory, members))
    }

    /// Those of a file that has changed.
    pub fn changed(&self, text: &str) -> Result<Vec<Member>, String> {
        let entries = parse(text)?;
        let missing: Vec<&str> =
            self.required.iter().copied().filter(|kind| entries.iter().all(|e| e.kind != *kind)).collect();
        if !missing.is_empty() {
            return Err(format!("missing required types: [{}]", missing.join(" ")));
        }
        let fed = |e: &&Entry| ["Node", "RBAC"].contains(&e.kind) && !self.required.contains(e.kind);
        if let Some(new) = entries.iter().find(fed) {
            return Err(format!(
                "authorizer type {} is not allowed if it was not enabled at initial server startup",
                new.kind
            ));
        }
        self.members(entries)
    }

    fn members(&self, entries: Vec<Entry>) -> Result<Vec<Member>, String> {
        let mut all = vec![Member::uncounted(Arc::new(Privileged))];
        for Entry { kind, name, webhook } in entries {
            let authorizer: Arc<dyn Authorizer> = match (webhook, kind) {
                (Some((path, settings)), _) => Arc::new(Webhook::new(&name, &path, settings)?),
                (None, "Node") => Arc::clone(&self.node),
                (None, "RBAC") => Arc::clone(&self.rbac),
                (None, "AlwaysAllow") => Arc::new(AlwaysAllow),
                (None, _) => Arc::new(AlwaysDeny),
            };
            all.push(Member::counted(kind, &name, authorizer));
        }
        Ok(all)
    }
}

fn from_flags(settings: &Settings) -> Result<Vec<Entry>, String> {
    if settings.modes.is_empty() {
        return Err("at least one authorization-mode must be passed".into());
    }
    let mut entries: Vec<Entry> = Vec::new();
    for mode in &settings.modes {
        if mode == "ABAC" {
            return Err("authorization-mode ABAC is not supported: write its policies as RBAC roles".into());
        }
        let Some(kind) = TYPES.into_iter().find(|t| t == mode) else {
            return Err(format!("authorization-mode {mode:?} is not a valid mode"));
        };
        if entries.iter().any(|e| e.kind == kind) {
            return Err(format!("authorization-mode {:?} has mode specified more than once", settings.modes));
        }
        let webhook = match (kind, &settings.webhook_config) {
            ("Webhook", None) => return Err("authorization-mode Webhook's authorization config file not passed".into()),
            ("Webhook", Some(path)) => Some((path.clone(), settings.webhook.clone())),
            _ => None,
        };
        entries.push(Entry { kind, name: kind.to_lowercase(), webhook });
    }
    if settings.webhook_config.is_some() && entries.iter().all(|e| e.webhook.is_none()) {
        return Err("cannot specify --authorization-webhook-config-file without mode Webhook".into());
    }
    Ok(entries)
}

/// Reads `AuthorizationConfiguration` of `apiserver.config.k8s.io`.
fn parse(source: &str) -> Result<Vec<Entry>, String> {
    let config: Value = serde_yaml::from_str(source).map_err(|e| format!("authorization configuration: {e}"))?;
    check_kind(&config, "AuthorizationConfiguration")?;
    only(&config, "", &["apiVersion", "kind", "authorizers"])?;
    let all = list(&config["authorizers"]);
    if all.is_empty() {
        return Err("authorizers: Required value: at least one authorization mode must be defined".into());
    }
    let mut entries: Vec<Entry> = Vec::new();
    for (i, authorizer) in all.iter().enumerate() {
        let path = format!("authorizers[{i}]");
        only(authorizer, &path, &["type", "name", "webhook"])?;
        let (kind, name) = (text(authorizer, "type"), text(authorizer, "name"));
        let kind = match kind {
            "" => return Err(format!("{path}.type: Required value")),
            "ABAC" => return Err(format!("{path}.type: ABAC is not supported: write its policies as RBAC roles")),
            kind => TYPES.into_iter().find(|t| *t == kind).ok_or_else(|| unsupported(&path, "type", kind, &TYPES))?,
        };
        if kind != "Webhook" && entries.iter().any(|e| e.kind == kind) {
            return Err(format!("{path}.type: Duplicate value: {kind:?}"));
        }
        if name.is_empty() {
            return Err(format!("{path}.name: Required value"));
        }
        if entries.iter().any(|e| e.name == name) {
            return Err(format!("{path}.name: Duplicate value: {name:?}"));
        }
        if let Some(problem) = names::dns_subdomain(name, false).into_iter().next() {
            return Err(format!("{path}.name: Invalid value: {name:?}: authorizer name is invalid: {problem}"));
        }
        let hook = &authorizer["webhook"];
        let webhook = match (kind, hook.is_null()) {
            ("Webhook", true) => return Err(format!("{path}.webhook: Required value: required when type=Webhook")),
            ("Webhook", false) => Some(webhook_of(hook, &path)?),
            (_, false) => {
                return Err(format!(
                    "{path}.webhook: Invalid value: \"non-null\": may only be specified when type=Webhook"
                ));
            }
            (_, true) => None,
        };
        let expected = kind.to_lowercase();
        if webhook.is_none() && name != expected {
            return Err(format!("expected name {expected} for authorizer {kind} instead of {name}"));
        }
        entries.push(Entry { kind, name: name.to_owned(), webhook });
    }
    Ok(entries)
}

fn unsupported(path: &str, field: &str, value: &str, supported: &[&str]) -> String {
    let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
    format!("{path}.{field}: Unsupported value: {value:?}: supported values: {}", list.join(", "))
}

/// A webhook. Paths are those of upstream, which leaves `webhook` out of them (`ValidateWebhookConfiguration`).
fn webhook_of(value: &Value, path: &str) -> Result<(PathBuf, webhook::Settings), String> {
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
    only(value, path, &known)?;
    let duration = |field: &str| match value[field].as_str() {
        None => Ok(None),
        Some(text) => match duration(text) {
            Some(duration) => Ok(Some(duration)),
            None => Err(format!("{path}.{field}: Invalid value: {text:?}: is not a duration")),
        },
    };
    const LONGEST: Duration = Duration::from_secs(30);
    let timeout = match duration("timeout")?.filter(|t| !t.is_zero()) {
        None => return Err(format!("{path}.timeout: Required value")),
        Some(timeout) if timeout > LONGEST => {
            return Err(format!("{path}.timeout: Invalid value: {timeout:?}: must be > 0s and <= 30s"));
        }
        Some(timeout) => timeout,
    };
    let ttl = |field: &str, cached: &str, default: u64| match duration(field)? {
        _ if value[cached] == false => Ok(Duration::ZERO),
        None => Ok(Duration::from_secs(default)),
        Some(Duration::ZERO) => Err(format!("{path}.{field}: Required value")),
        Some(ttl) => Ok(ttl),
    };
    let one_of = |field: &str, supported: &[&str]| match text(value, field) {
        "" => Err(format!("{path}.{field}: Required value")),
        given if supported.contains(&given) => Ok(given.to_owned()),
        given => Err(unsupported(path, field, given, supported)),
    };
    let settings = webhook::Settings {
        version: one_of("subjectAccessReviewVersion", &["v1", "v1beta1"])?,
        allowed_ttl: ttl("authorizedTTL", "cacheAuthorizedRequests", 300)?,
        other_ttl: ttl("unauthorizedTTL", "cacheUnauthorizedRequests", 30)?,
        timeout,
        failure_denies: one_of("failurePolicy", &["NoOpinion", "Deny"])? == "Deny",
        conditions: conditions(&value["matchConditions"], path)?,
    };
    match text(value, "matchConditionSubjectAccessReviewVersion") {
        "" if settings.conditions.is_empty() => {}
        "" => {
            return Err(format!(
                "{path}.matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified"
            ));
        }
        "v1" => {}
        other => return Err(unsupported(path, "matchConditionSubjectAccessReviewVersion", other, &["v1"])),
    }
    let connection = &value["connectionInfo"];
    only(connection, &format!("{path}.connectionInfo"), &["type", "kubeConfigFile"])?;
    let file = text(connection, "kubeConfigFile");
    match (text(connection, "type"), file) {
        ("KubeConfigFile", "") => Err(format!("{path}.connectionInfo.kubeConfigFile: Required value")),
        ("KubeConfigFile", file) if !file.starts_with('/') => {
            Err(format!("{path}.connectionInfo.kubeConfigFile: Invalid value: {file:?}: must be an absolute path"))
        }
        ("KubeConfigFile", file) => Ok((file.into(), settings)),
        ("", _) => Err(format!("{path}.connectionInfo.type: Required value")),
        (other, _) => Err(unsupported(path, "connectionInfo.type", other, &["KubeConfigFile"])),
    }
}

fn conditions(value: &Value, path: &str) -> Result<Vec<Expression>, String> {
    let path = format!("{path}.matchConditions");
    let given = list(value);
    if given.len() > MAX_CONDITIONS {
        return Err(format!("{path}: Too many: {}: must have at most {MAX_CONDITIONS} items", given.len()));
    }
    let mut all: Vec<Expression> = Vec::new();
    for (i, condition) in given.iter().enumerate() {
        only(condition, &format!("{path}[{i}]"), &["expression"])?;
        let (source, path) = (text(condition, "expression"), format!("{path}[{i}].expression"));
        if source.trim().is_empty() {
            return Err(format!("{path}: Required value"));
        }
        if all.iter().any(|known| known.text() == source) {
            return Err(format!("{path}: Duplicate value: {source:?}"));
        }
        let compiled = Expression::compile(&authorization::request(), source, Some(&Type::Bool));
        all.push(compiled.map_err(|why| format!("{path}: Invalid value: {source:?}: {why}"))?);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(settings: &Settings) -> Result<(Factory, Vec<Member>), String> {
        let nobody: Arc<dyn Authorizer> = Arc::new(AlwaysDeny);
        Factory::start(settings, nobody.clone(), nobody)
    }

    fn file(list: &str) -> String {
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: {list}\n")
    }

    fn webhook(rest: &str) -> String {
        file(&format!(
            "[{{type: Webhook, name: w, webhook: {{failurePolicy: Deny, subjectAccessReviewVersion: v1, timeout: 3s, \
             connectionInfo: {{type: KubeConfigFile, kubeConfigFile: /x}}{rest}}}}}]"
        ))
    }

    #[test]
    fn modes_are_checked_as_upstream_checks_them() {
        let check = |modes: &[&str], expected: Result<usize, &str>| {
            let modes = modes.iter().map(|m| (*m).to_owned()).collect();
            match (start(&Settings { modes, ..Settings::default() }), expected) {
                (Ok((_, all)), Ok(count)) => assert_eq!(all.len(), count + 1),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (got, expected) => panic!("{:?} instead of {expected:?}", got.map(|(_, all)| all.len())),
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
        let entries = parse(&file("[{type: Node, name: node}, {type: RBAC, name: rbac}]")).expect("good");
        assert_eq!(entries.iter().map(|e| e.kind).collect::<Vec<_>>(), ["Node", "RBAC"]);
        let entries = parse(&webhook(
            ", authorizedTTL: 10s, cacheUnauthorizedRequests: false, matchConditionSubjectAccessReviewVersion: v1, \
             matchConditions: [{expression: \"has(request.resourceAttributes)\"}, {expression: \"'dev' in request.groups\"}]",
        ));
        let entries = entries.expect("good");
        let [Entry { kind: "Webhook", webhook: Some((path, settings)), .. }] = entries.as_slice() else {
            panic!("{entries:?}")
        };
        assert_eq!((path.to_str(), settings.failure_denies), (Some("/x"), true));
        assert_eq!((settings.allowed_ttl, settings.other_ttl), (Duration::from_secs(10), Duration::ZERO));
        assert_eq!(settings.conditions.len(), 2);
    }

    #[test]
    fn wrong_files_are_refused_with_their_place() {
        let check = |text: &str, part: &str| {
            let why = parse(text).map(|all| all.len()).expect_err("refused");
            assert!(why.contains(part), "{why}");
        };
        check(&file("[]"), "at least one");
        check(&file("[{type: RBAC}]"), "authorizers[0].name: Required");
        check(&file("[{type: RBAC, name: rbac}, {type: RBAC, name: b}]"), "authorizers[1].type: Duplicate");
        check(&file("[{type: RBAC, name: rbac, other: 1}]"), "unknown field");
        check(&file("[{type: RBAC, name: mine}]"), "expected name rbac for authorizer RBAC instead of mine");
        check(&file("[{type: Other, name: x}]"), "supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\"");
        check(&file("[{type: Webhook, name: 'A b', webhook: {}}]"), "authorizer name is invalid: a lowercase RFC 1123");
        check(&file("[{type: Webhook, name: a}]"), "required when type=Webhook");
        check(&file("[{type: Webhook, name: a, webhook: {}}]"), "authorizers[0].timeout: Required value");
        let hook = |rest: &str, part: &str| check(&webhook(rest), part);
        hook(", authorizedTTL: 0s", "authorizers[0].authorizedTTL: Required value");
        hook(", matchConditions: [{expression: 'true'}]", "matchConditionSubjectAccessReviewVersion: Required value");
        let conditions = |list: &str, part: &str| {
            hook(&format!(", matchConditionSubjectAccessReviewVersion: v1, matchConditions: {list}"), part);
        };
        conditions("[{expression: ''}]", "authorizers[0].matchConditions[0].expression: Required value");
        conditions("[{expression: 'true'}, {expression: 'true'}]", "matchConditions[1].expression: Duplicate value");
        conditions("[{expression: request.user}]", "must evaluate to bool but got string");
        conditions("[{expression: request.nope}]", "compilation failed: ERROR: <input>:1:8: undefined field 'nope'");
        conditions(&format!("[{}]", vec!["{expression: 'true'}"; 65].join(", ")), "Too many: 65");
    }

    #[test]
    fn what_a_server_starts_with_stays() {
        let (factory, _) = start(&Settings { modes: vec!["RBAC".into()], ..Settings::default() }).expect("good");
        let check = |list: &str, expected: Result<usize, &str>| match (factory.changed(&file(list)), expected) {
            (Ok(all), Ok(count)) => assert_eq!(all.len(), count + 1),
            (Err(why), Err(text)) => assert_eq!(why, text),
            (got, expected) => panic!("{:?} instead of {expected:?}", got.map(|all| all.len())),
        };
        let rbac = "{type: RBAC, name: rbac}";
        check(&format!("[{{type: AlwaysDeny, name: alwaysdeny}}, {rbac}]"), Ok(2));
        check("[{type: AlwaysAllow, name: alwaysallow}]", Err("missing required types: [RBAC]"));
        check(
            &format!("[{{type: Node, name: node}}, {rbac}]"),
            Err("authorizer type Node is not allowed if it was not enabled at initial server startup"),
        );
    }
}
