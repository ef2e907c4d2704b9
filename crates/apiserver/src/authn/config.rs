//! `--authentication-config`: `AuthenticationConfiguration` of `apiserver.config.k8s.io`
//! (`k8s.io/apiserver/pkg/apis/apiserver/validation`). Issuers with claims and prefixes, and the anonymous user. What
//! is said in CEL (`expression`, `valueExpression`, user validation) is refused by name: nothing is believed that was
//! not understood.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Anonymous;
use super::oidc::{Issuer, Mapping};
use crate::config_file::{check_kind, only};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Issuers of tokens.
    pub issuers: Vec<Issuer>,
    /// Where anonymous requests are let in; `None` where the file says nothing.
    pub anonymous: Option<Anonymous>,
}

impl Configuration {
    /// Reads the file's text. The error names the field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Value = serde_yaml::from_str(text).map_err(|e| format!("authentication configuration: {e}"))?;
        check_kind(&config, "AuthenticationConfiguration")?;
        only(&config, "", &["apiVersion", "kind", "jwt", "anonymous"])?;
        let mut issuers = Vec::new();
        let mut urls = BTreeSet::new();
        for (i, jwt) in list(&config["jwt"]).iter().enumerate() {
            let issuer = issuer(jwt, &format!("jwt[{i}]"))?;
            if !urls.insert(issuer.url.clone()) {
                return Err(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", issuer.url));
            }
            issuers.push(issuer);
        }
        Ok(Configuration { issuers, anonymous: anonymous(&config["anonymous"])? })
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_default()
}

fn no_cel(value: &Value, path: &str, fields: &[&str]) -> Result<(), String> {
    let set = |f: &&&str| match &value[**f] {
        Value::Null => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(a) => !a.is_empty(),
        _ => true,
    };
    match fields.iter().find(set) {
        Some(field) => Err(format!("{path}.{field}: not supported: expressions in CEL are not evaluated here")),
        None => Ok(()),
    }
}

fn anonymous(value: &Value) -> Result<Option<Anonymous>, String> {
    if value.is_null() {
        return Ok(None);
    }
    only(value, "anonymous", &["enabled", "conditions"])?;
    let paths: Vec<String> = list(&value["conditions"]).iter().map(|c| text(c, "path").to_owned()).collect();
    match (value["enabled"] == true, paths.is_empty()) {
        (false, false) => {
            Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are \
                               defined"
                .into())
        }
        (false, true) => Ok(Some(Anonymous::Off)),
        (true, true) => Ok(Some(Anonymous::Everywhere)),
        (true, false) => Ok(Some(Anonymous::Paths(paths))),
    }
}

fn issuer(jwt: &Value, path: &str) -> Result<Issuer, String> {
    let known = ["issuer", "claimValidationRules", "claimMappings", "userValidationRules"];
    only(jwt, path, &known)?;
    no_cel(jwt, path, &["userValidationRules"])?;
    let from = &jwt["issuer"];
    let at = format!("{path}.issuer");
    let fields =
        ["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "egressSelectorType"];
    only(from, &at, &fields)?;
    no_cel(from, &at, &["egressSelectorType"]).map_err(|_| format!("{at}.egressSelectorType: not supported"))?;
    let url = text(from, "url");
    check_url(url, &format!("{at}.url"))?;
    let discovery = from["discoveryURL"].as_str().filter(|u| !u.is_empty());
    if let Some(discovery) = discovery {
        check_url(discovery, &format!("{at}.discoveryURL"))?;
        if discovery.trim_end_matches('/') == url.trim_end_matches('/') {
            return Err(format!(
                "{at}.discoveryURL: Invalid value: {discovery:?}: discoveryURL must be different from URL"
            ));
        }
    }
    let audiences: Vec<String> =
        list(&from["audiences"]).iter().filter_map(|a| a.as_str().map(str::to_owned)).collect();
    if audiences.is_empty() {
        return Err(format!("{at}.audiences: Required value: at least one {at}.audiences is required"));
    }
    let policy = text(from, "audienceMatchPolicy");
    if audiences.len() > 1 && policy != "MatchAny" {
        return Err(format!(
            "{at}.audienceMatchPolicy: Invalid value: {policy:?}: audienceMatchPolicy must be MatchAny for multiple \
             audiences"
        ));
    }
    let mut required = Vec::new();
    for (i, rule) in list(&jwt["claimValidationRules"]).iter().enumerate() {
        let at = format!("{path}.claimValidationRules[{i}]");
        only(rule, &at, &["claim", "requiredValue", "expression", "message"])?;
        no_cel(rule, &at, &["expression"])?;
        let claim = text(rule, "claim");
        if claim.is_empty() {
            return Err(format!("{at}: Required value: claim or expression is required"));
        }
        required.push((claim.to_owned(), text(rule, "requiredValue").to_owned()));
    }
    let maps = &jwt["claimMappings"];
    let at = format!("{path}.claimMappings");
    only(maps, &at, &["username", "groups", "uid", "extra"])?;
    no_cel(maps, &at, &["extra"])?;
    let Some(username) = mapping(&maps["username"], &format!("{at}.username"))? else {
        return Err(format!("{at}.username: Required value: claim or expression is required"));
    };
    let uid = &maps["uid"];
    only(uid, &format!("{at}.uid"), &["claim", "expression"])?;
    no_cel(uid, &format!("{at}.uid"), &["expression"])?;
    Ok(Issuer {
        url: url.to_owned(),
        discovery_url: discovery.map(str::to_owned),
        authorities: from["certificateAuthority"].as_str().filter(|p| !p.is_empty()).map(str::to_owned),
        audiences,
        username,
        groups: mapping(&maps["groups"], &format!("{at}.groups"))?,
        uid_claim: uid["claim"].as_str().filter(|c| !c.is_empty()).map(str::to_owned),
        required,
        // The file leaves no choice: any of these.
        algorithms: orkd_pki::oidc::ALGORITHMS.iter().map(|(name, _)| (*name).to_owned()).collect(),
    })
}

fn mapping(value: &Value, path: &str) -> Result<Option<Mapping>, String> {
    only(value, path, &["claim", "prefix", "expression"])?;
    no_cel(value, path, &["expression"])?;
    let claim = text(value, "claim");
    match (claim.is_empty(), value["prefix"].as_str()) {
        (true, Some(p)) if !p.is_empty() => {
            Err(format!("{path}: Invalid value: {p:?}: prefix may not be set without a claim"))
        }
        (true, _) => Ok(None),
        (false, Some(prefix)) => Ok(Some(Mapping { claim: claim.to_owned(), prefix: prefix.to_owned() })),
        (false, None) => Err(format!(
            "{path}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to \
             disable prefixing"
        )),
    }
}

fn check_url(url: &str, path: &str) -> Result<(), String> {
    if url.is_empty() {
        return Err(format!("{path}: Required value: URL is required"));
    }
    let bad = |why: &str| Err(format!("{path}: Invalid value: {url:?}: {why}"));
    match url.parse::<http::Uri>() {
        Err(e) => bad(&e.to_string()),
        Ok(uri) if uri.scheme_str() != Some("https") => bad("URL scheme must be https"),
        Ok(uri) if uri.authority().is_some_and(|a| a.as_str().contains('@')) => {
            bad("URL must not contain a username or password")
        }
        Ok(uri) if uri.query().is_some_and(|q| !q.is_empty()) => bad("URL must not contain a query"),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(rest: &str) -> String {
        format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{rest}")
    }

    #[test]
    fn files_are_understood_or_refused() {
        let text = file(
            "jwt:\n- issuer: {url: https://i, audiences: [a, b], audienceMatchPolicy: MatchAny}\n  claimMappings:\n    \
             username: {claim: sub, prefix: \"\"}\n    groups: {claim: groups, prefix: \"g:\"}\n    uid: {claim: uid}\n  \
             claimValidationRules: [{claim: hd, requiredValue: x}]\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n",
        );
        let config = Configuration::parse(&text).expect("good");
        assert_eq!(config.anonymous, Some(Anonymous::Paths(vec!["/livez".into()])));
        assert_eq!(config.issuers[0].groups.as_ref().map(|g| g.prefix.as_str()), Some("g:"));
        assert_eq!(config.issuers[0].required, [("hd".to_owned(), "x".to_owned())]);
        let check = |rest: &str, part: &str| {
            let why = Configuration::parse(&file(rest)).expect_err("refused");
            assert!(why.contains(part), "{why}");
        };
        let jwt = |issuer: &str, maps: &str| format!("jwt: [{{issuer: {issuer}, claimMappings: {maps}}}]");
        let maps = "{username: {claim: sub, prefix: \"\"}}";
        check(&jwt("{url: http://i, audiences: [a]}", maps), "jwt[0].issuer.url: Invalid value");
        check(&jwt("{audiences: [a]}", maps), "URL is required");
        check(&jwt("{url: https://i}", maps), "audiences: Required");
        check(&jwt("{url: https://i, audiences: [a, b]}", maps), "must be MatchAny");
        check(&jwt("{url: https://i, audiences: [a]}", "{username: {claim: sub}}"), "prefix is required");
        check(&jwt("{url: https://i, audiences: [a]}", "{username: {expression: x}}"), "CEL");
        check(&jwt("{url: https://i, audiences: [a], other: 1}", maps), "unknown field");
        check("anonymous: {enabled: false, conditions: [{path: /x}]}", "enabled should be set");
    }
}
