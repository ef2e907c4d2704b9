//! Client certificates: common name is the user, organizations are the groups
//! (`k8s.io/apiserver/pkg/authentication/request/x509`).
//!
//! The handshake proves possession of the key only; chain, client usage and time are checked here, so that a bad
//! certificate is answered with 401. A certificate that was found good is remembered (the check costs a signature
//! verification, and requests of one client come in numbers); its time is looked at on every request.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use jiff::Timestamp;
use orkd_pki::Certificate;
use orkd_pki::tls::ClientVerifier;
use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};

use super::{Authenticator, CREDENTIAL_ID, Verdict};
use crate::user::{Peer, UserInfo};

/// How many certificates are remembered.
const REMEMBERED: usize = 4096;

#[derive(Clone)]
struct Known {
    user: UserInfo,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Who is trusted, and who was found good with that: by SHA-256 of the certificate.
type Trust = (ClientVerifier, Mutex<HashMap<[u8; 32], Known>>);

/// Authenticates by client certificate.
pub struct ClientCertificates {
    trust: ArcSwap<Trust>,
}

impl ClientCertificates {
    /// Trusts what the verifier trusts.
    pub fn new(verifier: ClientVerifier) -> Self {
        ClientCertificates { trust: ArcSwap::from_pointee((verifier, Mutex::default())) }
    }

    /// Replaces the trusted authorities; what was remembered is forgotten.
    pub fn reload(&self, verifier: ClientVerifier) {
        self.trust.store(Arc::new((verifier, Mutex::default())));
    }

    fn check(&self, chain: &[CertificateDer<'_>], now: Timestamp) -> Verdict {
        let Some(leaf) = chain.first() else { return Verdict::NotMine };
        let trust = self.trust.load();
        let hash: [u8; 32] = Sha256::digest(leaf).into();
        let known = trust.1.lock().get(&hash).cloned();
        let known = match known {
            Some(known) if known.not_before <= now && now < known.not_after => known,
            _ => {
                if let Err(e) = trust.0.verify(chain, now) {
                    return Verdict::Bad(format!("x509: {e}"));
                }
                let certificate = match Certificate::from_der(leaf) {
                    Ok(c) => c,
                    Err(e) => return Verdict::Bad(format!("x509: {e}")),
                };
                let known = Known {
                    user: user_of(&certificate, &hash),
                    not_before: certificate.not_before,
                    not_after: certificate.not_after,
                };
                let mut all = trust.1.lock();
                if all.len() >= REMEMBERED {
                    all.clear();
                }
                all.insert(hash, known.clone());
                known
            }
        };
        if known.user.name.is_empty() { Verdict::NotMine } else { Verdict::User(known.user) }
    }
}

fn user_of(certificate: &Certificate, hash: &[u8; 32]) -> UserInfo {
    UserInfo {
        name: certificate.common_name.clone(),
        uid: certificate.uid.clone(),
        groups: certificate.organizations.clone(),
        extra: [(CREDENTIAL_ID.to_owned(), vec![format!("X509SHA256={}", hex::encode(hash))])].into(),
    }
}

#[async_trait]
impl Authenticator for Arc<ClientCertificates> {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        match parts.extensions.get::<Peer>() {
            Some(peer) => self.check(&peer.certificates, Timestamp::now()),
            None => Verdict::NotMine,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use orkd_pki::{Authority, Profile, tls};

    use super::*;

    #[test]
    fn certificates_are_users_until_they_expire() {
        let now: Timestamp = "2026-11-21T00:00:00Z".parse().expect("time");
        let ca = Authority::create("ca", now).expect("ca");
        let roots = tls::roots([ca.certificate().to_rustls()]).expect("roots");
        let authn = ClientCertificates::new(ClientVerifier::new(roots).expect("verifier"));
        let leaf = ca.issue(&Profile::client("ann", &["dev", "ops"]), now).expect("leaf").certificate;
        let chain = [leaf.to_rustls()];
        for _ in 0..2 {
            let Verdict::User(user) = authn.check(&chain, now) else { panic!("not known") };
            assert_eq!(
                (user.name.as_str(), user.groups.as_slice()),
                ("ann", &["dev".to_owned(), "ops".to_owned()][..])
            );
            assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        }
        let later = now + SignedDuration::from_hours(366 * 24);
        assert!(matches!(authn.check(&chain, later), Verdict::Bad(_)));
        let foreign = Authority::create("ca", now).expect("ca").issue(&Profile::client("ann", &[]), now);
        let foreign = [foreign.expect("leaf").certificate.to_rustls()];
        assert!(matches!(authn.check(&foreign, now), Verdict::Bad(_)));
        assert_eq!(authn.check(&[], now), Verdict::NotMine);
        assert!(matches!(authn.check(&[CertificateDer::from(vec![1, 2, 3])], now), Verdict::Bad(_)));
    }
}
