//! Tokens of OpenID Connect issuers (`k8s.io/apiserver/plugin/pkg/authenticator/token/oidc`).
//!
//! An issuer's keys are read when its first token comes, and again when a token is signed with a key that is not known.
//! Not here: claims that are kept elsewhere (`_claim_names`) and expressions in CEL.

use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use async_trait::async_trait;
use jiff::Timestamp;
use orkd_pki::oidc::{ALGORITHMS, Algorithm, KeySet, Refusal, unverified_claims};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::Mutex;

use super::CREDENTIAL_ID;
use super::bearer::{TokenAuthenticator, TokenVerdict};
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
    pub username: Mapping,
    /// His groups.
    pub groups: Option<Mapping>,
    /// His unique id.
    pub uid_claim: Option<String>,
    /// Claims that must have a value.
    pub required: Vec<(String, String)>,
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
    let mapping = &issuer.username;
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
    let mut user = UserInfo { name: format!("{}{name}", mapping.prefix), ..UserInfo::default() };
    if let Some(mapping) = &issuer.groups
        && let Some(value) = claims.get(&mapping.claim)
    {
        let groups = texts(value).ok_or_else(|| format!("parse groups claim {:?}: it is no list", mapping.claim))?;
        user.groups = groups.into_iter().map(|g| format!("{}{g}", mapping.prefix)).collect();
    }
    if let Some(claim) = &issuer.uid_claim {
        let uid = claims[claim].as_str().ok_or_else(|| format!("parse uid claim {claim:?}: claim not present"))?;
        uid.clone_into(&mut user.uid);
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
    if let Some(id) = claims["jti"].as_str().filter(|id| !id.is_empty()) {
        user.extra.insert(CREDENTIAL_ID.into(), vec![format!("JTI={id}")]);
    }
    Ok((user, audience.clone()))
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
            username: Mapping { claim: "sub".into(), prefix: "i:".into() },
            groups: Some(Mapping { claim: "roles".into(), prefix: "g:".into() }),
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
        let email = Issuer { username: Mapping { claim: "email".into(), ..Mapping::default() }, ..issuer() };
        let mut mail = good.clone();
        mail["email"] = json!("a@b");
        assert_eq!(user_of(&email, &mail, now).expect("user").0.name, "a@b");
        mail["email_verified"] = json!(false);
        assert!(user_of(&email, &mail, now).is_err());
    }

    #[test]
    fn senseless_issuers_are_refused() {
        assert!(Oidc::new(issuer()).is_ok());
        assert!(Oidc::new(Issuer { url: "http://i".into(), ..issuer() }).is_err());
        assert!(Oidc::new(Issuer { audiences: Vec::new(), ..issuer() }).is_err());
        assert!(Oidc::new(Issuer { algorithms: vec!["none".into()], ..issuer() }).is_err());
    }
}
