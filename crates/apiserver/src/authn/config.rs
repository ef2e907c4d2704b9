//! `--authentication-config`: `AuthenticationConfiguration` of `apiserver.config.k8s.io`
//! (`k8s.io/apiserver/pkg/apis/apiserver/validation`): issuers with claims, prefixes, expressions and rules, and the
//! anonymous user. What is not known here is refused by name: nothing is believed that was not understood.

use std::collections::BTreeSet;

use orkd_cel::{Env, Type, k8s::authentication, names};
use serde_json::Value;

use super::Anonymous;
use super::oidc::{Issuer, Rule, Source};
use crate::config_file::{check_kind, list, only, text};
use crate::expression::Expression;

/// How many issuers a file may name.
const MAX_ISSUERS: usize = 64;
const BOTH: &str = "claim and expression can't both be set";
const NEITHER: &str = "claim or expression is required";

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Configuration {
    /// Issuers of tokens.
    pub issuers: Vec<Issuer>,
    /// Where anonymous requests are let in; `None` where the file says nothing.
    pub anonymous: Option<Anonymous>,
}

impl Configuration {
    /// Reads the file's text. `own` are the issuers of the cluster's own tokens, which the file must not name. The error
    /// names the field.
    pub fn parse(text: &str, own: &[String]) -> Result<Self, String> {
        let config: Value = serde_yaml::from_str(text).map_err(|e| format!("authentication configuration: {e}"))?;
        check_kind(&config, "AuthenticationConfiguration")?;
        only(&config, "", &["apiVersion", "kind", "jwt", "anonymous"])?;
        let all = list(&config["jwt"]);
        if all.len() > MAX_ISSUERS {
            return Err(format!("jwt: Too many: {}: must have at most {MAX_ISSUERS} items", all.len()));
        }
        let mut issuers = Vec::new();
        let (mut urls, mut documents) = (BTreeSet::new(), BTreeSet::new());
        for (i, jwt) in all.iter().enumerate() {
            let issuer = issuer(jwt, &format!("jwt[{i}]"), own)?;
            if !urls.insert(issuer.url.clone()) {
                return Err(format!("jwt[{i}].issuer.url: Duplicate value: {:?}", issuer.url));
            }
            if let Some(url) = issuer.discovery_url.clone().filter(|url| !documents.insert(url.clone())) {
                return Err(format!("jwt[{i}].issuer.discoveryURL: Duplicate value: {url:?}"));
            }
            issuers.push(issuer);
        }
        Ok(Configuration { issuers, anonymous: anonymous(&config["anonymous"])? })
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
            Err("anonymous.conditions: Invalid value: enabled should be set to true when conditions are defined".into())
        }
        (false, true) => Ok(Some(Anonymous::Off)),
        (true, true) => Ok(Some(Anonymous::Everywhere)),
        (true, false) => Ok(Some(Anonymous::Paths(paths))),
    }
}

fn issuer(jwt: &Value, path: &str, own: &[String]) -> Result<Issuer, String> {
    only(jwt, path, &["issuer", "claimValidationRules", "claimMappings", "userValidationRules"])?;
    let mut issuer = about_issuer(&jwt["issuer"], &format!("{path}.issuer"), own)?;
    claim_rules(&jwt["claimValidationRules"], &format!("{path}.claimValidationRules"), &mut issuer)?;
    let at = format!("{path}.claimMappings");
    let maps = &jwt["claimMappings"];
    only(maps, &at, &["username", "groups", "uid", "extra"])?;
    let username = source(&maps["username"], &format!("{at}.username"))?;
    issuer.username = username.ok_or_else(|| format!("{at}.username: Required value: {NEITHER}"))?;
    issuer.groups = source(&maps["groups"], &format!("{at}.groups"))?;
    issuer.uid = uid(&maps["uid"], &format!("{at}.uid"))?;
    issuer.extra = extra(&maps["extra"], &format!("{at}.extra"))?;
    verified_email(&issuer, &at)?;
    issuer.user_rules = user_rules(&jwt["userValidationRules"], &format!("{path}.userValidationRules"))?;
    // The file leaves no choice: any of these.
    issuer.algorithms = orkd_pki::oidc::ALGORITHMS.iter().map(|(name, _)| (*name).to_owned()).collect();
    Ok(issuer)
}

fn about_issuer(from: &Value, at: &str, own: &[String]) -> Result<Issuer, String> {
    let fields =
        ["url", "discoveryURL", "certificateAuthority", "audiences", "audienceMatchPolicy", "egressSelectorType"];
    only(from, at, &fields)?;
    if !text(from, "egressSelectorType").is_empty() {
        return Err(format!("{at}.egressSelectorType: not supported: the server reaches issuers itself"));
    }
    let url = text(from, "url");
    if url.is_empty() {
        return Err(format!("{at}.url: Required value"));
    }
    if own.iter().any(|known| known == url) {
        return Err(format!(
            "{at}.url: Invalid value: {url:?}: URL must not overlap with disallowed issuers: [{}]",
            own.join(" ")
        ));
    }
    check_url(url, &format!("{at}.url"))?;
    let discovery = Some(text(from, "discoveryURL")).filter(|u| !u.is_empty());
    if let Some(discovery) = discovery {
        let at = format!("{at}.discoveryURL");
        if discovery.trim_end_matches('/') == url.trim_end_matches('/') {
            return Err(format!("{at}: Invalid value: {discovery:?}: discoveryURL must be different from URL"));
        }
        check_url(discovery, &at)?;
    }
    let audiences: Vec<String> =
        list(&from["audiences"]).iter().map(|a| a.as_str().unwrap_or_default().to_owned()).collect();
    if audiences.is_empty() {
        return Err(format!("{at}.audiences: Required value: at least one {at}.audiences is required"));
    }
    for (i, audience) in audiences.iter().enumerate() {
        if audience.is_empty() {
            return Err(format!("{at}.audiences[{i}]: Required value"));
        }
        if audiences[..i].contains(audience) {
            return Err(format!("{at}.audiences[{i}]: Duplicate value: {audience:?}"));
        }
    }
    let policy = text(from, "audienceMatchPolicy");
    let bad_policy = |why: &str| Err(format!("{at}.audienceMatchPolicy: Invalid value: {policy:?}: {why}"));
    match (audiences.len(), policy) {
        (_, "MatchAny") | (1, "") => {}
        (1, _) => return bad_policy("audienceMatchPolicy must be empty or MatchAny for single audience"),
        _ => return bad_policy("audienceMatchPolicy must be MatchAny for multiple audiences"),
    }
    let authorities = Some(text(from, "certificateAuthority")).filter(|pem| !pem.is_empty());
    if let Some(Err(why)) = authorities.map(crate::security::authorities) {
        return Err(format!("{at}.certificateAuthority: Invalid value: \"<omitted>\": {why}"));
    }
    Ok(Issuer {
        url: url.to_owned(),
        discovery_url: discovery.map(str::to_owned),
        authorities: authorities.map(str::to_owned),
        audiences,
        ..Issuer::default()
    })
}

fn compiled(env: &Env, expression: &str, wanted: Option<&Type>, path: &str) -> Result<Expression, String> {
    Expression::compile(env, expression, wanted).map_err(|why| format!("{path}: Invalid value: {expression:?}: {why}"))
}

fn claim_rules(rules: &Value, path: &str, issuer: &mut Issuer) -> Result<(), String> {
    let (mut claims, mut expressions) = (BTreeSet::new(), BTreeSet::new());
    for (i, rule) in list(rules).iter().enumerate() {
        let at = format!("{path}[{i}]");
        only(rule, &at, &["claim", "requiredValue", "expression", "message"])?;
        let (claim, value) = (text(rule, "claim"), text(rule, "requiredValue"));
        let (expression, message) = (text(rule, "expression"), text(rule, "message"));
        match (claim.is_empty(), expression.is_empty()) {
            (false, false) => return Err(format!("{at}: Invalid value: {claim:?}: {BOTH}")),
            (true, true) => return Err(format!("{at}: Required value: {NEITHER}")),
            (false, true) => {
                if !message.is_empty() {
                    return Err(format!(
                        "{at}.message: Invalid value: {message:?}: may not be specified when claim is set"
                    ));
                }
                if !claims.insert(claim) {
                    return Err(format!("{at}.claim: Duplicate value: {claim:?}"));
                }
                issuer.required.push((claim.to_owned(), value.to_owned()));
            }
            (true, false) => {
                if !value.is_empty() {
                    return Err(format!(
                        "{at}.requiredValue: Invalid value: {value:?}: may not be specified when expression is set"
                    ));
                }
                let at = format!("{at}.expression");
                if !expressions.insert(expression) {
                    return Err(format!("{at}: Duplicate value: {expression:?}"));
                }
                let expression = compiled(&authentication::claims(), expression, Some(&Type::Bool), &at)?;
                issuer.claim_rules.push(Rule { expression, message: message.to_owned() });
            }
        }
    }
    Ok(())
}

fn user_rules(rules: &Value, path: &str) -> Result<Vec<Rule>, String> {
    let mut all: Vec<Rule> = Vec::new();
    for (i, rule) in list(rules).iter().enumerate() {
        only(rule, &format!("{path}[{i}]"), &["expression", "message"])?;
        let (expression, at) = (text(rule, "expression"), format!("{path}[{i}].expression"));
        if expression.is_empty() {
            return Err(format!("{at}: Required value"));
        }
        if all.iter().any(|known| known.expression.text() == expression) {
            return Err(format!("{at}: Duplicate value: {expression:?}"));
        }
        let expression = compiled(&authentication::user(), expression, Some(&Type::Bool), &at)?;
        all.push(Rule { expression, message: text(rule, "message").to_owned() });
    }
    Ok(all)
}

/// A claim with its prefix, or an expression; `None` where neither is named.
fn source(value: &Value, path: &str) -> Result<Option<Source>, String> {
    only(value, path, &["claim", "prefix", "expression"])?;
    let (claim, expression, prefix) = (text(value, "claim"), text(value, "expression"), value["prefix"].as_str());
    match (claim.is_empty(), expression.is_empty(), prefix) {
        (false, false, _) => Err(format!("{path}: Invalid value: \"\": {BOTH}")),
        (true, true, _) => Ok(None),
        (true, false, Some(prefix)) => {
            Err(format!("{path}.prefix: Invalid value: {prefix:?}: may not be specified when expression is set"))
        }
        (true, false, None) => {
            let path = format!("{path}.expression");
            compiled(&authentication::claims(), expression, None, &path).map(|e| Some(Source::Expression(e)))
        }
        (false, true, Some(prefix)) => Ok(Some(Source::claim(claim, prefix))),
        (false, true, None) => Err(format!(
            "{path}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to \
             disable prefixing"
        )),
    }
}

fn uid(value: &Value, path: &str) -> Result<Option<Source>, String> {
    only(value, path, &["claim", "expression"])?;
    let (claim, expression) = (text(value, "claim"), text(value, "expression"));
    match (claim.is_empty(), expression.is_empty()) {
        (false, false) => Err(format!("{path}: Invalid value: \"\": {BOTH}")),
        (true, true) => Ok(None),
        (false, true) => Ok(Some(Source::claim(claim, ""))),
        (true, false) => {
            let path = format!("{path}.expression");
            compiled(&authentication::claims(), expression, None, &path).map(|e| Some(Source::Expression(e)))
        }
    }
}

fn extra(mappings: &Value, path: &str) -> Result<Vec<(String, Expression)>, String> {
    let mut all: Vec<(String, Expression)> = Vec::new();
    for (i, mapping) in list(mappings).iter().enumerate() {
        let at = format!("{path}[{i}]");
        only(mapping, &at, &["key", "valueExpression"])?;
        let (key, expression) = (text(mapping, "key"), text(mapping, "valueExpression"));
        check_key(key).map_err(|why| format!("{at}.key: {why}"))?;
        if all.iter().any(|(known, _)| known == key) {
            return Err(format!("{at}.key: Duplicate value: {key:?}"));
        }
        let at = format!("{at}.valueExpression");
        if expression.is_empty() {
            return Err(format!("{at}: Required value"));
        }
        all.push((key.to_owned(), compiled(&authentication::claims(), expression, None, &at)?));
    }
    Ok(all)
}

/// A key of a further fact: a path in a domain that is not Kubernetes' own, in small letters.
fn check_key(key: &str) -> Result<(), String> {
    domain_prefixed_path(key)?;
    if key.to_lowercase() != key {
        return Err(format!("Invalid value: {key:?}: must be lowercase"));
    }
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let ours = |own: &str| domain == own || domain.strip_suffix(own).is_some_and(|rest| rest.ends_with('.'));
    if ours("kubernetes.io") || ours("k8s.io") {
        return Err(format!(
            "Invalid value: {key:?}: k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use"
        ));
    }
    Ok(())
}

/// Whether a text is `domain/path` (`IsDomainPrefixedPath`).
pub(crate) fn domain_prefixed_path(key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("Required value".into());
    }
    let Some((domain, path)) = key.split_once('/').filter(|(domain, path)| !domain.is_empty() && !path.is_empty())
    else {
        return Err(format!("Invalid value: {key:?}: must be a domain-prefixed path (such as \"acme.io/foo\")"));
    };
    if let Some(problem) = names::dns_subdomain(domain, false).into_iter().next() {
        return Err(format!("Invalid value: {domain:?}: {problem}"));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
    if !path.chars().all(allowed) {
        return Err(format!("Invalid value: {path:?}: Invalid path"));
    }
    Ok(())
}

/// An expression that makes names of addresses of mail must say what it thinks of addresses that nobody verified.
fn verified_email(issuer: &Issuer, path: &str) -> Result<(), String> {
    let Source::Expression(username) = &issuer.username else { return Ok(()) };
    let mut others = issuer.claim_rules.iter().map(|r| &r.expression).chain(issuer.extra.iter().map(|(_, e)| e));
    const VERIFIED: &str = "email_verified";
    if !username.selects("claims", "email")
        || username.selects("claims", VERIFIED)
        || others.any(|e| e.selects("claims", VERIFIED))
    {
        return Ok(());
    }
    Err(format!(
        "{path}.username.expression: Invalid value: {:?}: claims.email_verified must be used in \
         claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression \
         when claims.email is used in claimMappings.username.expression",
        username.text()
    ))
}

fn check_url(url: &str, path: &str) -> Result<(), String> {
    let bad = |why: &str| Err(format!("{path}: Invalid value: {url:?}: {why}"));
    // A fragment is no part of what `Uri` reads: it is looked for first.
    if url.contains('#') {
        return bad("URL must not contain a fragment");
    }
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

    const OWN: &str = "https://kubernetes.default.svc";

    fn parse(rest: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n{rest}");
        Configuration::parse(&text, &[OWN.to_owned()])
    }

    fn refused(rest: &str, part: &str) {
        let why = parse(rest).expect_err("refused");
        assert!(why.contains(part), "{why}");
    }

    #[test]
    fn files_are_understood_or_refused() {
        let config = parse(
            "jwt:\n- issuer: {url: https://i, audiences: [a, b], audienceMatchPolicy: MatchAny}\n  claimMappings:\n    \
             username: {claim: sub, prefix: \"\"}\n    groups: {claim: groups, prefix: \"g:\"}\n    uid: {claim: uid}\n  \
             claimValidationRules: [{claim: hd, requiredValue: x}]\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n",
        );
        let config = config.expect("good");
        assert_eq!(config.anonymous, Some(Anonymous::Paths(vec!["/livez".into()])));
        assert_eq!(config.issuers[0].groups, Some(Source::claim("groups", "g:")));
        assert_eq!(config.issuers[0].required, [("hd".to_owned(), "x".to_owned())]);
        let check = |issuer: &str, maps: &str, part: &str| {
            refused(&format!("jwt: [{{issuer: {issuer}, claimMappings: {maps}}}]"), part);
        };
        let (maps, good) = ("{username: {claim: sub, prefix: \"\"}}", "{url: https://i, audiences: [a]}");
        check("{url: http://i, audiences: [a]}", maps, "jwt[0].issuer.url: Invalid value");
        check("{url: 'https://i#x', audiences: [a]}", maps, "must not contain a fragment");
        check(
            &format!("{{url: '{OWN}', audiences: [a]}}"),
            maps,
            "must not overlap with disallowed issuers: [https://kub",
        );
        check("{audiences: [a]}", maps, "jwt[0].issuer.url: Required value");
        check("{url: https://i}", maps, "audiences: Required");
        check("{url: https://i, audiences: [a, b]}", maps, "must be MatchAny");
        check(
            "{url: https://i, audiences: [a, a], audienceMatchPolicy: MatchAny}",
            maps,
            "audiences[1]: Duplicate value",
        );
        check(
            "{url: https://i, audiences: [a], audienceMatchPolicy: All}",
            maps,
            "empty or MatchAny for single audience",
        );
        check("{url: https://i, audiences: [a], certificateAuthority: x}", maps, "certificateAuthority: Invalid value");
        check("{url: https://i, discoveryURL: https://i/, audiences: [a]}", maps, "must be different from URL");
        check("{url: https://i, audiences: [a], other: 1}", maps, "unknown field");
        check(good, "{username: {claim: sub}}", "prefix is required");
        check(good, "{}", "username: Required value: claim or expression is required");
        refused("anonymous: {enabled: false, conditions: [{path: /x}]}", "enabled should be set");
        let one = format!("{{issuer: {good}, claimMappings: {maps}}}");
        refused(&format!("jwt: [{one}, {one}]"), "jwt[1].issuer.url: Duplicate value");
        refused(&format!("jwt: [{}]", vec!["{}"; 65].join(", ")), "jwt: Too many: 65: must have at most 64 items");
    }

    #[test]
    fn expressions_are_compiled_or_refused_with_their_place() {
        let jwt = |rest: &str| format!("jwt: [{{issuer: {{url: https://i, audiences: [a]}}, {rest}}}]");
        let config = parse(&jwt(
            "claimValidationRules: [{expression: 'claims.email_verified == true', message: m}], claimMappings: {username: \
             {expression: claims.email}, groups: {expression: claims.roles}, uid: {expression: claims.id}, extra: [{key: \
             example.com/a, valueExpression: claims.a}]}, userValidationRules: [{expression: \"user.username != ''\"}]",
        ));
        let issuer = &config.expect("good").issuers[0];
        assert!(matches!(&issuer.username, Source::Expression(e) if e.text() == "claims.email"));
        assert_eq!((issuer.extra[0].0.as_str(), issuer.claim_rules[0].message.as_str()), ("example.com/a", "m"));
        assert_eq!(issuer.user_rules[0].expression.text(), "user.username != ''");

        let name = "claimMappings: {username: {claim: sub, prefix: ''}}";
        let check = |rest: &str, part: &str| refused(&jwt(rest), part);
        check(
            "claimMappings: {username: {expression: 'claims.'}}",
            "username.expression: Invalid value: \"claims.\": comp",
        );
        check("claimMappings: {username: {expression: 'user.x'}}", "undeclared reference to 'user'");
        check("claimMappings: {username: {expression: a, claim: b}}", "claim and expression can't both be set");
        check(
            "claimMappings: {username: {expression: claims.a, prefix: ''}}",
            "prefix: Invalid value: \"\": may not be",
        );
        check("claimMappings: {username: {expression: claims.email}}", "claims.email_verified must be used");
        check(
            &format!("{name}, claimValidationRules: [{{expression: claims.a}}]"),
            "must evaluate to bool but got dyn",
        );
        check(&format!("{name}, claimValidationRules: [{{}}]"), "claimValidationRules[0]: Required value: claim or");
        check(
            &format!("{name}, claimValidationRules: [{{claim: a}}, {{claim: a}}]"),
            "[1].claim: Duplicate value: \"a\"",
        );
        check(
            &format!("{name}, claimValidationRules: [{{claim: a, message: m}}]"),
            "may not be specified when claim is set",
        );
        check(&format!("{name}, userValidationRules: [{{expression: 'user.nope'}}]"), "undefined field 'nope'");
        check(&format!("{name}, userValidationRules: [{{message: m}}]"), "userValidationRules[0].expression: Required");
        let extra = |key: &str, part: &str| {
            check(
                &format!(
                    "claimMappings: {{username: {{claim: sub, prefix: ''}}, extra: [{{key: {key}, valueExpression: claims.a}}]}}"
                ),
                part,
            );
        };
        extra("plain", "must be a domain-prefixed path");
        extra("example.com/A", "must be lowercase");
        extra("a.k8s.io/x", "reserved for Kubernetes use");
        extra("kubernetes.io/x", "reserved for Kubernetes use");
    }
}
