//! Tokens of OpenID Connect issuers (`k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`).
//!
//! An issuer's keys are read when its first token comes, and again when a token is signed with a key that is not known.
//! Not here: claims that are kept elsewhere (`_claim_names`).

use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use jiff::Timestamp;
use orkd_base::metrics::{Family, Histogram};
use orkd_cel as cel;
use orkd_pki::oidc::{ALGORITHMS, Algorithm, KeySet, Refusal, unverified_claims};
use orkd_store::envelope::hash;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::sync::Mutex;

use super::CREDENTIAL_ID;
use super::bearer::{TokenAuthenticator, TokenVerdict};
use crate::expression::Expression;
use crate::outbound::Endpoint;
use crate::user::UserInfo;

const TIMEOUT: Duration = Duration::from_secs(10);
/// An issuer is not asked for its keys more often than this.
const PAUSE: Duration = Duration::from_secs(5);
/// How far clocks may differ for `nbf` (go-oidc).
const LEEWAY: i64 = 300;

/// A claim and what is put before its value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapping {
    /// The claim.
    pub claim: String,
    /// The prefix.
    pub prefix: String,
}

static LATENCY: Family<Histogram> = Family::histogram(
    "apiserver_authentication_jwt_authenticator_latency_seconds",
    "[ALPHA] Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache \
     miss only (i.e. when the token is not found in the cache).",
    &["jwt_issuer_hash", "result"],
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0],
);

/// Where a fact about the user comes from (`PrefixedClaimOrExpression`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A claim.
    Claim(Mapping),
    /// An expression about the claims.
    Expression(Expression),
}

impl Source {
    /// A claim and a prefix.
    pub fn claim(claim: &str, prefix: &str) -> Self {
        Source::Claim(Mapping { claim: claim.to_owned(), prefix: prefix.to_owned() })
    }
}

impl Default for Source {
    fn default() -> Self {
        Source::claim("sub", "")
    }
}

/// An expression that must be true, and what is said where it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The expression.
    pub expression: Expression,
    /// The text; may be empty.
    pub message: String,
}

/// What is believed of one issuer (`JWTAuthenticator` of the structured configuration).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issuer {
    /// URL of the issuer, as tokens have it in `iss`.
    pub url: String,
    /// Where its discovery document is, if not below the URL.
    pub discovery_url: Option<String>,
    /// PEM of the authorities of its server; the system's if `None`.
    pub authorities: Option<String>,
    /// A token is for one of these (client ids).
    pub audiences: Vec<String>,
    /// The user's name.
    pub username: Source,
    /// His groups.
    pub groups: Option<Source>,
    /// His unique id.
    pub uid: Option<Source>,
    /// Further facts by key.
    pub extra: Vec<(String, Expression)>,
    /// Claims that must have a value.
    pub required: Vec<(String, String)>,
    /// What must hold for the claims.
    pub claim_rules: Vec<Rule>,
    /// What must hold for the user made of them.
    pub user_rules: Vec<Rule>,
    /// Names of signature algorithms; `RS256` where none are named.
    pub algorithms: Vec<String>,
}

impl Issuer {
    /// Whether it makes sense. The error is for the operator.
    fn algorithms(&self) -> Result<Vec<Algorithm>, String> {
        if self.algorithms.is_empty() {
            return Ok(vec![Algorithm::RS256]);
        }
        let find = |name: &String| {
            let found = ALGORITHMS.iter().find(|(n, _)| n == name).map(|(_, a)| *a);
            found.ok_or_else(|| format!("oidc: unsupported signing alg: {name:?}"))
        };
        self.algorithms.iter().map(find).collect()
    }
}

/// Knows the tokens of one issuer.
pub struct Oidc {
    issuer: Issuer,
    algorithms: Vec<Algorithm>,
    keys: ArcSwapOption<KeySet>,
    asked: Mutex<Option<Instant>>,
}

impl Oidc {
    /// An issuer that has not been asked yet.
    pub fn new(issuer: Issuer) -> Result<Self, String> {
        if !issuer.url.starts_with("https://") {
            return Err(format!("'oidc-issuer-url' ({:?}) has invalid scheme, require 'https'", issuer.url));
        }
        if issuer.audiences.is_empty() {
            return Err(
                "oidc-issuer-url and oidc-client-id must be specified together if any oidc flags are set".into()
            );
        }
        Ok(Oidc { algorithms: issuer.algorithms()?, issuer, keys: ArcSwapOption::empty(), asked: Mutex::default() })
    }

    async fn check(&self, token: &str, now: Timestamp) -> TokenVerdict {
        let ours = unverified_claims(token).is_some_and(|claims| claims["iss"] == self.issuer.url.as_str());
        if !ours {
            return TokenVerdict::NotMine;
        }
        let begun = Instant::now();
        let verdict = self.verdict(token, now).await;
        let result = if matches!(verdict, TokenVerdict::User(..)) { "success" } else { "failure" };
        LATENCY.with(&[&hash(&self.issuer.url), result]).observe(begun.elapsed().as_secs_f64());
        verdict
    }

    async fn verdict(&self, token: &str, now: Timestamp) -> TokenVerdict {
        let failed = |why: String| TokenVerdict::Bad(format!("oidc: {why}"));
        let claims = match self.signed(token).await {
            Ok(claims) => claims,
            Err(why) => return failed(format!("verify token: {why}")),
        };
        match user_of(&self.issuer, &claims, now) {
            Ok((user, _)) => TokenVerdict::User(user, Vec::new()),
            Err(why) => failed(why),
        }
    }

    async fn signed(&self, token: &str) -> Result<Value, String> {
        if let Some(keys) = self.keys.load_full() {
            match keys.verify(token, &self.algorithms) {
                Err(Refusal::Signature) => {}
                other => return other.map_err(|e| e.to_string()),
            }
        }
        let mut asked = self.asked.lock().await;
        if asked.is_some_and(|at| at.elapsed() < PAUSE) {
            // Just read by another request, or failed just now.
            return match self.keys.load_full() {
                Some(keys) => keys.verify(token, &self.algorithms).map_err(|e| e.to_string()),
                None => Err("authenticator not initialized".into()),
            };
        }
        *asked = Some(Instant::now());
        let keys = Arc::new(self.discover().await.inspect_err(|why| tracing::warn!(why, "oidc: reading keys failed"))?);
        self.keys.store(Some(keys.clone()));
        keys.verify(token, &self.algorithms).map_err(|e| e.to_string())
    }

    async fn discover(&self) -> Result<KeySet, String> {
        let read = async |url: &str| {
            let answer = Endpoint::new(url, self.issuer.authorities.as_deref(), TIMEOUT)?.get().await?;
            match answer.status {
                200 => Ok(answer.body),
                other => Err(format!("{url} answered with status {other}")),
            }
        };
        let well_known = format!("{}/.well-known/openid-configuration", self.issuer.url.trim_end_matches('/'));
        let document = read(self.issuer.discovery_url.as_deref().unwrap_or(&well_known)).await?;
        let document: Value = serde_json::from_slice(&document).map_err(|e| format!("discovery document: {e}"))?;
        if document["issuer"] != self.issuer.url.as_str() {
            return Err(format!(
                "oidc: issuer did not match the issuer returned by provider, expected {:?} got {}",
                self.issuer.url, document["issuer"]
            ));
        }
        let keys = document["jwks_uri"].as_str().ok_or("the discovery document has no jwks_uri")?;
        KeySet::parse(&read(keys).await?).map_err(|e| e.to_string())
    }
}

/// Knows the tokens of the issuers of a configuration, which may be replaced while the server runs.
#[derive(Default)]
pub struct Issuers(ArcSwap<Vec<Oidc>>);

impl Issuers {
    /// These issuers.
    pub fn new(issuers: &[Issuer]) -> Result<Self, String> {
        let this = Issuers::default();
        this.replace(issuers)?;
        Ok(this)
    }

    /// Other issuers from now on. One that is as before keeps its keys: it is asked again only where it changed.
    pub fn replace(&self, issuers: &[Issuer]) -> Result<(), String> {
        let list = issuers.iter().map(|issuer| Oidc::new(issuer.clone())).collect::<Result<Vec<_>, _>>()?;
        for old in self.0.load().iter() {
            if let Some(same) = list.iter().find(|new| new.issuer == old.issuer) {
                same.keys.store(old.keys.load_full());
            }
        }
        self.0.store(Arc::new(list));
        Ok(())
    }
}

#[async_trait]
impl TokenAuthenticator for Arc<Issuers> {
    async fn token(&self, token: &str, audiences: &[String]) -> TokenVerdict {
        for issuer in self.0.load_full().iter() {
            match issuer.token(token, audiences).await {
                TokenVerdict::NotMine => {}
                decided => return decided,
            }
        }
        TokenVerdict::NotMine
    }
}

/// The user of checked claims, and which audience the token is for.
fn user_of(issuer: &Issuer, claims: &Value, now: Timestamp) -> Result<(UserInfo, String), String> {
    let now = now.as_second();
    let time = |name: &str| claims[name].as_f64().map(|t| t as i64);
    match time("exp") {
        None => return Err("verify token: oidc: token has no expiry".into()),
        Some(exp) if exp < now => return Err(format!("verify token: oidc: token is expired (Token Expiry: {exp})")),
        Some(_) => {}
    }
    if let Some(nbf) = time("nbf").filter(|nbf| now + LEEWAY < *nbf) {
        return Err(format!("verify token: oidc: current time {now} before the nbf (not before) time: {nbf}"));
    }
    let for_whom = texts(&claims["aud"]).unwrap_or_default();
    let Some(audience) = issuer.audiences.iter().find(|a| for_whom.contains(a)) else {
        return Err(format!("verify token: oidc: expected audience in {:?} got {for_whom:?}", issuer.audiences));
    };
    let bindings = || cel::Bindings::new().with("claims", claims);
    let name = match &issuer.username {
        Source::Expression(expression) => text_of(expression, &bindings(), "username")?,
        Source::Claim(mapping) => name_of(mapping, claims)?,
    };
    let mut user = UserInfo { name, ..UserInfo::default() };
    match &issuer.groups {
        None => {}
        Some(Source::Expression(expression)) => {
            let value = evaluated(expression, &bindings());
            let groups = value.and_then(|v| listed(&v));
            user.groups = groups.map_err(|why| format!("error evaluating group claim expression: {why}"))?;
        }
        Some(Source::Claim(mapping)) => {
            if let Some(value) = claims.get(&mapping.claim) {
                let groups = texts(value);
                let groups = groups.ok_or_else(|| format!("parse groups claim {:?}: it is no list", mapping.claim))?;
                user.groups = groups.into_iter().map(|g| format!("{}{g}", mapping.prefix)).collect();
            }
        }
    }
    match &issuer.uid {
        None => {}
        Some(Source::Expression(expression)) => user.uid = text_of(expression, &bindings(), "uid")?,
        Some(Source::Claim(Mapping { claim, .. })) => {
            let uid = claims[claim].as_str().ok_or_else(|| format!("parse uid claim {claim:?}: claim not present"))?;
            uid.clone_into(&mut user.uid);
        }
    }
    for (key, expression) in &issuer.extra {
        let value = evaluated(expression, &bindings())?;
        let values = listed(&value)
            .map_err(|why| format!("error evaluating extra claim expression: {}: {why}", expression.text()))?;
        if !values.is_empty() {
            user.extra.insert(key.clone(), values);
        }
    }
    for (claim, wanted) in &issuer.required {
        match claims.get(claim) {
            None => return Err(format!("required claim {claim} not present in ID token")),
            Some(Value::String(value)) if value == wanted => {}
            Some(Value::String(value)) => {
                return Err(format!("required claim {claim} value does not match. Got = {value}, want = {wanted}"));
            }
            Some(_) => return Err(format!("parse claim {claim}: it is not a string")),
        }
    }
    hold(&issuer.claim_rules, &bindings())
        .map_err(|why| format!("error evaluating claim validation expression: {why}"))?;
    if !issuer.user_rules.is_empty() {
        let facts = json!({ "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra });
        hold(&issuer.user_rules, &cel::Bindings::new().with("user", &facts))
            .map_err(|why| format!("error evaluating user info validation rule: {why}"))?;
    }
    if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
        user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
    }
    Ok((user, audience.clone()))
}

/// The name that a claim gives.
fn name_of(mapping: &Mapping, claims: &Value) -> Result<String, String> {
    let name = match claims.get(&mapping.claim) {
        None => return Err(format!("parse username claims {:?}: claim not present", mapping.claim)),
        Some(Value::String(name)) => name,
        Some(_) => return Err(format!("parse username claims {:?}: it is not a string", mapping.claim)),
    };
    if mapping.claim == "email" {
        match claims.get("email_verified") {
            None | Some(Value::Bool(true)) => {}
            Some(Value::Bool(false)) => return Err("email not verified".into()),
            Some(_) => return Err("parse 'email_verified' claim: it is not a boolean".into()),
        }
    }
    Ok(format!("{}{name}", mapping.prefix))
}

/// The value of an expression. The error names it.
fn evaluated<'a>(expression: &Expression, bindings: &cel::Bindings<'a>) -> Result<cel::Value<'a>, String> {
    expression.eval(bindings).map_err(|why| format!("expression '{}' resulted in error: {why}", expression.text()))
}

/// The text that an expression gives.
fn text_of(expression: &Expression, bindings: &cel::Bindings<'_>, what: &str) -> Result<String, String> {
    let value =
        evaluated(expression, bindings).map_err(|why| format!("error evaluating {what} claim expression: {why}"))?;
    let text = value.as_str().map(str::to_owned);
    text.ok_or_else(|| {
        format!("error evaluating {what} claim expression: {what} claim expression must return a string")
    })
}

/// The texts that an expression gives: one, a list, or none. Empty ones are left out.
fn listed(value: &cel::Value<'_>) -> Result<Vec<String>, String> {
    let bad = || "expression must return a string or a list of strings".to_owned();
    let all = match value {
        cel::Value::Null => Vec::new(),
        cel::Value::String(text) => vec![text.to_string()],
        cel::Value::List(list) => {
            list.iter().map(|item| item.as_str().map(str::to_owned).ok_or_else(bad)).collect::<Result<_, _>>()?
        }
        _ => return Err(bad()),
    };
    Ok(all.into_iter().filter(|text| !text.is_empty()).collect())
}

/// Whether every rule holds (`checkValidationRulesEvaluation`). All are evaluated before one is looked at.
fn hold(rules: &[Rule], bindings: &cel::Bindings<'_>) -> Result<(), String> {
    let values = rules.iter().map(|rule| evaluated(&rule.expression, bindings)).collect::<Result<Vec<_>, _>>()?;
    for (rule, value) in rules.iter().zip(values) {
        match value.as_bool() {
            Some(true) => {}
            Some(false) => {
                return Err(format!("validation expression '{}' failed: {}", rule.expression.text(), rule.message));
            }
            None => return Err("validation expression must return a boolean".into()),
        }
    }
    Ok(())
}

/// One text or a list of texts.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

#[async_trait]
impl TokenAuthenticator for Oidc {
    async fn token(&self, token: &str, _audiences: &[String]) -> TokenVerdict {
        self.check(token, Timestamp::now()).await
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn issuer() -> Issuer {
        Issuer {
            url: "https://i".into(),
            audiences: vec!["me".into()],
            username: Source::claim("sub", "i:"),
            groups: Some(Source::claim("roles", "g:")),
            required: vec![("hd".into(), "example.com".into())],
            ..Issuer::default()
        }
    }

    #[test]
    fn claims_are_users() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let good = json!({"iss": "https://i", "aud": ["x", "me"], "exp": now.as_second() + 10, "sub": "ann",
            "roles": ["a", "b"], "hd": "example.com", "jti": "7"});
        let (user, audience) = user_of(&issuer(), &good, now).expect("user");
        assert_eq!((user.name.as_str(), audience.as_str()), ("i:ann", "me"));
        assert_eq!(user.groups, ["g:a", "g:b"]);
        assert_eq!(user.extra[CREDENTIAL_ID], ["JTI=7"]);
        let check = |change: Value, part: &str| {
            let mut claims = good.clone();
            for (key, value) in change.as_object().expect("map") {
                claims[key] = value.clone();
            }
            let why = user_of(&issuer(), &claims, now).expect_err("refused");
            assert!(why.contains(part), "{why}");
        };
        check(json!({"exp": now.as_second() - 1}), "expired");
        check(json!({"exp": null}), "no expiry");
        check(json!({"nbf": now.as_second() + 400}), "before the nbf");
        check(json!({"aud": "other"}), "expected audience");
        check(json!({"sub": 5}), "not a string");
        check(json!({"hd": "evil.com"}), "does not match");
        check(json!({"roles": 3}), "no list");
        let email = Issuer { username: Source::claim("email", ""), ..issuer() };
        let mut mail = good.clone();
        mail["email"] = json!("a@b");
        assert_eq!(user_of(&email, &mail, now).expect("user").0.name, "a@b");
        mail["email_verified"] = json!(false);
        assert!(user_of(&email, &mail, now).is_err());
    }

    #[test]
    fn expressions_make_and_check_users() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let claims = json!({"iss": "https://i", "aud": "me", "exp": now.as_second() + 10, "sub": "ann", "team": "red",
            "roles": ["a", "", "b"], "n": 3, "flags": {"x": true}});
        let about = cel::k8s::authentication::claims();
        let expression = |text: &str| Expression::compile(&about, text, None).expect(text);
        let of = |text: &str| Source::Expression(expression(text));
        let rule = |env: &cel::Env, text: &str, message: &str| Rule {
            expression: Expression::compile(env, text, Some(&cel::Type::Bool)).expect(text),
            message: message.into(),
        };
        let issuer = Issuer {
            url: "https://i".into(),
            audiences: vec!["me".into()],
            username: of("claims.team + ':' + claims.sub"),
            groups: Some(of("claims.roles.map(r, r == '' ? '' : 'role:' + r)")),
            uid: Some(of("string(claims.n)")),
            extra: vec![
                ("example.com/team".into(), expression("claims.team")),
                ("example.com/none".into(), expression("claims.?missing.orValue('')")),
            ],
            claim_rules: vec![rule(&about, "claims.flags.x == true", "x is needed")],
            user_rules: vec![rule(
                &cel::k8s::authentication::user(),
                "!user.username.startsWith('system:') && user.groups.all(g, g != 'role:root') && \
                 user.extra['example.com/team'] == ['red']",
                "no system user",
            )],
            ..Issuer::default()
        };
        let (user, _) = user_of(&issuer, &claims, now).expect("user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("red:ann", "3"));
        assert_eq!(user.groups, ["role:a", "role:b"]);
        assert_eq!(user.extra, [("example.com/team".to_owned(), vec!["red".to_owned()])].into());

        let check = |change: Value, expected: &str| {
            let mut claims = claims.clone();
            for (key, value) in change.as_object().expect("map") {
                claims[key] = value.clone();
            }
            assert_eq!(user_of(&issuer, &claims, now).expect_err("refused"), expected);
        };
        check(
            json!({"team": "system"}),
            "error evaluating user info validation rule: validation expression '!user.username.startsWith('system:') && \
             user.groups.all(g, g != 'role:root') && user.extra['example.com/team'] == ['red']' failed: no system user",
        );
        check(
            json!({"flags": {"x": false}}),
            "error evaluating claim validation expression: validation expression 'claims.flags.x == true' failed: x is needed",
        );
        check(
            json!({"flags": {}}),
            "error evaluating claim validation expression: expression 'claims.flags.x == true' resulted in error: no such \
             key: x",
        );
        check(
            json!({"roles": 7}),
            "error evaluating group claim expression: expression 'claims.roles.map(r, r == '' ? '' : 'role:' + r)' resulted \
             in error: got 'types.Int', expected iterable type",
        );
        let odd = |username: &str, groups: &str| {
            let issuer = Issuer { username: of(username), groups: Some(of(groups)), ..issuer.clone() };
            user_of(&issuer, &claims, now).expect_err("refused")
        };
        assert!(odd("claims.n", "''").ends_with("username claim expression must return a string"));
        assert!(odd("claims.sub", "claims.flags").ends_with("expression must return a string or a list of strings"));
        assert!(odd("claims.sub", "[claims.n]").ends_with("expression must return a string or a list of strings"));
    }

    #[test]
    fn senseless_issuers_are_refused() {
        assert!(Oidc::new(issuer()).is_ok());
        assert!(Oidc::new(Issuer { url: "http://i".into(), ..issuer() }).is_err());
        assert!(Oidc::new(Issuer { audiences: Vec::new(), ..issuer() }).is_err());
        assert!(Oidc::new(Issuer { algorithms: vec!["none".into()], ..issuer() }).is_err());
    }
}
