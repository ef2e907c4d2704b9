//! Service account tokens: signing, checking, and the key set that others check them with.
//!
//! Follows `pkg/serviceaccount` (`claims.go`, `jwt.go`, `openidmetadata.go`) upstream: claim names, key ids and
//! the order of checks. Whether the bound objects still exist is the API server's to look up.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::pem::SectionKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::key::{Key, Scheme};
use crate::{Error, Result};

/// The clock difference that is tolerated, in seconds (go-jose's default).
const LEEWAY: i64 = 60;

/// The largest token looked at.
const MAX_TOKEN: usize = 64 * 1024;

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// For whom the token is.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// When it ends, seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// When it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Who made it.
    #[serde(default)]
    pub iss: String,
    /// Its own id.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What it is bound to.
    #[serde(rename = "kubernetes.io", default)]
    pub kubernetes: Kubernetes,
    /// When it begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub sub: String,
}

/// What a token is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Namespace of the service account and of bound pods and secrets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// The node, bound to or the pod's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: Reference,
    /// When clients that still use the token are to be warned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// An object by name and UID.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// `aud` may be one text or a list (RFC 7519, 4.1.3).
fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Form::deserialize(d)? {
        Form::One(text) => vec![text],
        Form::Many(list) => list,
    })
}

/// The issuer of tokens that stand in Secrets.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// What a token in a Secret says (`pkg/serviceaccount/legacy.go`). It never expires.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    /// [`LEGACY_ISSUER`].
    #[serde(default)]
    pub iss: String,
    /// Namespace of the account and the Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/namespace", default)]
    pub namespace: String,
    /// The Secret.
    #[serde(rename = "kubernetes.io/serviceaccount/secret.name", default)]
    pub secret: String,
    /// The account's name.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.name", default)]
    pub account: String,
    /// The account's UID.
    #[serde(rename = "kubernetes.io/serviceaccount/service-account.uid", default)]
    pub uid: String,
    /// `system:serviceaccount:NAMESPACE:NAME`.
    #[serde(default)]
    pub sub: String,
}

impl LegacyClaims {
    /// The claims of an account's Secret.
    pub fn new(namespace: &str, secret: &str, account: &str, uid: &str) -> Self {
        LegacyClaims {
            iss: LEGACY_ISSUER.into(),
            namespace: namespace.into(),
            secret: secret.into(),
            account: account.into(),
            uid: uid.into(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
        }
    }
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Not a token of this issuer: another authenticator may know it.
    #[error("not a token of this issuer")]
    Foreign,
    /// The signature is by none of the keys.
    #[error("invalid signature")]
    Signature,
    /// The time is over.
    #[error("service account token has expired")]
    Expired,
    /// The time has not come.
    #[error("service account token is not valid yet")]
    NotYet,
}

/// Makes tokens.
pub struct Signer {
    key: EncodingKey,
    algorithm: Algorithm,
    kid: String,
    issuer: String,
}

impl Signer {
    /// A signer with a key and the issuer's URL.
    pub fn new(key: &Key, issuer: &str) -> Result<Self> {
        let bad = |e: jsonwebtoken::errors::Error| Error::malformed("service account key", e);
        let pem = key.to_pem();
        let (algorithm, encoding) = match key.scheme() {
            Scheme::EcdsaP256Sha256 => (Algorithm::ES256, EncodingKey::from_ec_pem(pem.as_bytes()).map_err(bad)?),
            Scheme::EcdsaP384Sha384 => (Algorithm::ES384, EncodingKey::from_ec_pem(pem.as_bytes()).map_err(bad)?),
            Scheme::RsaSha256 => (Algorithm::RS256, EncodingKey::from_rsa_pem(pem.as_bytes()).map_err(bad)?),
            other => return Err(Error::malformed("service account key", format!("{other:?} keys sign no tokens"))),
        };
        Ok(Signer { key: encoding, algorithm, kid: kid(&key.public_der()), issuer: issuer.into() })
    }

    /// The issuer's URL, which [`Claims::iss`] is set to.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs claims; the issuer is put in.
    pub fn sign(&self, mut claims: Claims) -> Result<String> {
        claims.iss.clone_from(&self.issuer);
        self.encode(&claims)
    }

    /// Signs the claims of a token that stands in a Secret.
    pub fn sign_legacy(&self, claims: &LegacyClaims) -> Result<String> {
        self.encode(claims)
    }

    fn encode(&self, claims: &impl Serialize) -> Result<String> {
        let mut header = Header::new(self.algorithm);
        header.typ = None;
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.key).map_err(|e| Error::Crypto(format!("failed to sign: {e}")))
    }
}

struct Verifying {
    kid: String,
    algorithm: Algorithm,
    key: DecodingKey,
    jwk: Value,
}

/// Checks tokens.
pub struct Verifier {
    keys: Vec<Verifying>,
    issuers: Vec<String>,
}

impl Verifier {
    /// A verifier that takes tokens of these issuers signed with one of these keys.
    pub fn new<'a>(keys: impl IntoIterator<Item = &'a Key>, issuers: Vec<String>) -> Result<Self> {
        let keys = keys.into_iter().map(verifying).collect::<Result<Vec<_>>>()?;
        Ok(Verifier { keys, issuers })
    }

    /// Takes tokens signed with the keys of a PEM file, too: public keys, private keys or certificates, any number of
    /// them. Those known already are passed over. Upstream: `keyutil.PublicKeysFromFile`.
    ///
    /// # Errors
    /// What is no key, or no key that signs tokens; a file without keys.
    pub fn add_keys(&mut self, pem: &str) -> Result<()> {
        let none =
            || Error::malformed("service account key", "data does not contain any valid RSA or ECDSA public keys");
        let mut found = false;
        for (kind, der) in sections(pem)? {
            let key = match kind {
                SectionKind::PublicKey => of_public(&der)?,
                SectionKind::Certificate => of_public(crate::cert::Certificate::from_der(&der)?.public_der())?,
                SectionKind::RsaPrivateKey | SectionKind::PrivateKey | SectionKind::EcPrivateKey => {
                    let label = match kind {
                        SectionKind::RsaPrivateKey => "RSA PRIVATE KEY",
                        SectionKind::EcPrivateKey => "EC PRIVATE KEY",
                        _ => "PRIVATE KEY",
                    };
                    of_public(&Key::from_pem(&crate::key::pem(label, &der))?.public_der())?
                }
                _ => continue,
            };
            found = true;
            if !self.keys.iter().any(|known| known.kid == key.kid) {
                self.keys.push(key);
            }
        }
        if found { Ok(()) } else { Err(none()) }
    }

    /// Whether a text looks like a token of this issuer, without checking it.
    pub fn is_ours(&self, token: &str) -> bool {
        issuer_of(token).is_some_and(|issuer| self.issuers.contains(&issuer))
    }

    /// Checks the signature of a token that stands in a Secret. Whether that Secret still holds it is the caller's.
    pub fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, Refusal> {
        if issuer_of(token).is_none_or(|issuer| issuer != LEGACY_ISSUER) {
            return Err(Refusal::Foreign);
        }
        self.signed(token)
    }

    fn signed<T: serde::de::DeserializeOwned>(&self, token: &str) -> Result<T, Refusal> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Signature)?;
        let candidates = self.keys.iter().filter(|k| {
            k.algorithm == header.alg && header.kid.as_deref().is_none_or(|kid| kid.is_empty() || kid == k.kid)
        });
        candidates
            .filter_map(|k| {
                let mut checks = Validation::new(k.algorithm);
                checks.required_spec_claims.clear();
                checks.validate_exp = false;
                checks.validate_nbf = false;
                checks.validate_aud = false;
                jsonwebtoken::decode::<T>(token, &k.key, &checks).ok()
            })
            .map(|data| data.claims)
            .next()
            .ok_or(Refusal::Signature)
    }

    /// Checks issuer, signature and time (`now` in seconds since the epoch). Audience and bound objects are the
    /// caller's.
    pub fn verify(&self, token: &str, now: i64) -> Result<Claims, Refusal> {
        if !self.is_ours(token) {
            return Err(Refusal::Foreign);
        }
        let claims: Claims = self.signed(token)?;
        if claims.nbf.is_some_and(|t| now.saturating_add(LEEWAY) < t) {
            return Err(Refusal::NotYet);
        }
        if claims.exp.is_some_and(|t| now.saturating_sub(LEEWAY) > t) {
            return Err(Refusal::Expired);
        }
        Ok(claims)
    }

    /// The key set document (`/openid/v1/jwks`).
    pub fn key_set(&self) -> Value {
        json!({ "keys": self.keys.iter().map(|k| &k.jwk).collect::<Vec<_>>() })
    }

    /// The names of the algorithms in use, for the discovery document.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let mut names: Vec<_> = self.keys.iter().map(|k| name_of(k.algorithm)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// The issuer that a text names, if it looks like a token; unchecked.
fn issuer_of(token: &str) -> Option<String> {
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    if token.len() > MAX_TOKEN {
        return None;
    }
    #[derive(Deserialize)]
    struct Issuer {
        #[serde(default)]
        iss: String,
    }
    let bytes = URL_SAFE_NO_PAD.decode(payload).ok()?;
    Some(serde_json::from_slice::<Issuer>(&bytes).ok()?.iss)
}

fn name_of(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::ES384 => "ES384",
        Algorithm::RS256 => "RS256",
        _ => "ES256",
    }
}

/// A key's id: the SHA-256 of the public key, as `pkg/serviceaccount/jwt.go` makes it.
fn kid(public_der: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(public_der))
}

fn verifying(key: &Key) -> Result<Verifying> {
    of_public(&key.public_der())
}

/// The sections of a PEM file.
fn sections(pem: &str) -> Result<Vec<(SectionKind, Vec<u8>)>> {
    use rustls_pki_types::pem::PemObject;
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::malformed("service account key", e))
}

/// Makes a `SubjectPublicKeyInfo` check tokens.
fn of_public(der: &[u8]) -> Result<Verifying> {
    use x509_parser::prelude::FromDer;
    /// What an elliptic curve's key is shown as.
    const EC: &str = "1.2.840.10045.2.1";
    const RSA: &str = "1.2.840.113549.1.1.1";
    let bad = |e: jsonwebtoken::errors::Error| Error::malformed("service account key", e);
    let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(der)
        .map_err(|e| Error::malformed("service account key", e))?;
    let kid = kid(der);
    let bits: &[u8] = &info.subject_public_key.data;
    let (algorithm, decoding, mut jwk) = match (info.algorithm.algorithm.to_id_string().as_str(), bits.len()) {
        // An uncompressed point: 4, x, y.
        (EC, 65 | 97) => {
            let (algorithm, curve) =
                if bits.len() == 65 { (Algorithm::ES256, "P-256") } else { (Algorithm::ES384, "P-384") };
            let point = bits.get(1..).unwrap_or_default();
            let (x, y) = point.split_at(point.len() / 2);
            let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
            let decoding = DecodingKey::from_ec_components(&x, &y).map_err(bad)?;
            (algorithm, decoding, json!({ "kty": "EC", "crv": curve, "x": x, "y": y }))
        }
        (RSA, _) => {
            let (n, e) = rsa_numbers(bits)?;
            let decoding = DecodingKey::from_rsa_raw_components(&n, &e);
            let jwk = json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode(&n), "e": URL_SAFE_NO_PAD.encode(&e) });
            (Algorithm::RS256, decoding, jwk)
        }
        (other, _) => {
            return Err(Error::malformed("service account key", format!("keys of algorithm {other} sign no tokens")));
        }
    };
    jwk["use"] = json!("sig");
    jwk["kid"] = json!(kid);
    jwk["alg"] = json!(name_of(algorithm));
    Ok(Verifying { kid, algorithm, key: decoding, jwk })
}

/// Modulus and exponent of an `RSAPublicKey`, without leading zeros.
fn rsa_numbers(der: &[u8]) -> Result<(Vec<u8>, Vec<u8>)> {
    use x509_parser::prelude::FromDer;
    let (_, key) =
        x509_parser::public_key::RSAPublicKey::from_der(der).map_err(|e| Error::malformed("RSA public key", e))?;
    let trim = |b: &[u8]| b.iter().copied().skip_while(|b| *b == 0).collect::<Vec<u8>>();
    Ok((trim(key.modulus), trim(key.exponent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn claims() -> Claims {
        Claims {
            aud: vec!["api".into()],
            exp: Some(NOW + 3600),
            nbf: Some(NOW),
            iat: Some(NOW),
            jti: "id".into(),
            sub: "system:serviceaccount:default:a".into(),
            kubernetes: Kubernetes {
                namespace: "default".into(),
                serviceaccount: Reference { name: "a".into(), uid: "u".into() },
                ..Kubernetes::default()
            },
            ..Claims::default()
        }
    }

    #[test]
    fn tokens_are_checked_for_issuer_signature_and_time() {
        let key = Key::generate().expect("key");
        let signer = Signer::new(&key, "https://issuer").expect("signer");
        let verifier = Verifier::new([&key], vec!["https://issuer".into()]).expect("verifier");
        let token = signer.sign(claims()).expect("token");
        let read = verifier.verify(&token, NOW).expect("good");
        assert_eq!(read, Claims { iss: "https://issuer".into(), ..claims() });
        assert_eq!(verifier.verify(&token, NOW + 3661), Err(Refusal::Expired));
        assert_eq!(verifier.verify(&token, NOW + 3659).map(|_| ()), Ok(()));
        assert_eq!(verifier.verify(&token, NOW - 61), Err(Refusal::NotYet));

        let other = Key::generate().expect("key");
        let forged = Signer::new(&other, "https://issuer").expect("signer").sign(claims()).expect("token");
        assert_eq!(verifier.verify(&forged, NOW), Err(Refusal::Signature));
        let foreign = Signer::new(&key, "https://other").expect("signer").sign(claims()).expect("token");
        assert_eq!(verifier.verify(&foreign, NOW), Err(Refusal::Foreign));
        for bad in ["", "a.b.c", "...", &format!("{token}x"), &token.replace('.', "")] {
            assert!(verifier.verify(bad, NOW).is_err(), "{bad}");
        }
        // "none" is not an algorithm.
        let payload = token.split('.').nth(1).expect("payload");
        let none = format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#));
        assert_eq!(verifier.verify(&none, NOW), Err(Refusal::Signature));
    }

    #[test]
    fn keys_of_files_are_taken_too() {
        let (own, second, third) =
            (Key::generate().expect("key"), Key::generate().expect("key"), Key::generate().expect("key"));
        let mut verifier = Verifier::new([&own], vec!["https://issuer".into()]).expect("verifier");
        let file = format!("{}\n{}\n{}", second.public_pem(), third.to_pem(), own.public_pem());
        verifier.add_keys(&file).expect("keys");
        assert_eq!(verifier.key_set()["keys"].as_array().map(Vec::len), Some(3));
        for key in [&own, &second, &third] {
            let token = Signer::new(key, "https://issuer").expect("signer").sign(claims()).expect("token");
            assert!(verifier.verify(&token, NOW).is_ok());
        }
        for bad in ["", "no PEM", "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"] {
            assert!(verifier.add_keys(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_key_set_names_the_key() {
        let key = Key::generate().expect("key");
        let verifier = Verifier::new([&key], vec![]).expect("verifier");
        let set = verifier.key_set();
        assert_eq!(set["keys"][0]["alg"], "ES256");
        assert_eq!(set["keys"][0]["kid"], kid(&key.public_der()));
        assert_eq!(set["keys"][0]["x"].as_str().map(str::len), Some(43));
    }
}
