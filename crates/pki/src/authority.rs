//! Certificate authorities.

use jiff::{SignedDuration, Timestamp};
use rand::RngCore;

use crate::cert::{self, BACKDATE, CA_LIFETIME, Certificate, Identity, Profile, Usage};
use crate::csr::Request;
use crate::key::Key;
use crate::{Error, Result, der};

/// A certificate authority: signs certificates of others.
#[derive(Debug)]
pub struct Authority {
    identity: Identity,
}

impl Authority {
    /// A new self-signed authority, valid for ten years.
    pub fn create(common_name: &str, now: Timestamp) -> Result<Self> {
        let key = Key::generate()?;
        let public = key.public_der();
        let subject = der::subject(common_name, &[]);
        let parts = Parts {
            subject: &subject,
            public: &public,
            extensions: cert::extensions(None, None, &public, None),
            not_before: before(now, BACKDATE)?,
            not_after: after(now, CA_LIFETIME)?,
        };
        let der = sign(&key, &subject, parts)?;
        Ok(Authority { identity: Identity { certificate: Certificate::from_der(&der)?, key } })
    }

    /// An authority from its certificate and key.
    pub fn new(identity: Identity) -> Result<Self> {
        if !identity.certificate.is_ca {
            return Err(Error::malformed("CA certificate", "it is not marked as one"));
        }
        Ok(Authority { identity })
    }

    /// From PEM texts.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        Authority::new(Identity::from_pem(certificate, key)?)
    }

    /// The authority's own certificate.
    pub fn certificate(&self) -> &Certificate {
        &self.identity.certificate
    }

    /// The authority's key, to be kept.
    pub fn key(&self) -> &Key {
        &self.identity.key
    }

    /// Makes a key and a certificate for it.
    pub fn issue(&self, profile: &Profile, now: Timestamp) -> Result<Identity> {
        let key = Key::generate()?;
        let certificate = self.issue_for(profile, &key.public_der(), now)?;
        Ok(Identity { certificate, key })
    }

    /// Makes a certificate for a public key (`SubjectPublicKeyInfo`, DER).
    pub fn issue_for(&self, profile: &Profile, public_der: &[u8], now: Timestamp) -> Result<Certificate> {
        let subject = der::subject(&profile.common_name, &profile.organizations);
        let san = cert::san(&profile.dns, &profile.ips);
        self.leaf(&subject, public_der, profile.usage, san, profile.lifetime, now)
    }

    /// Makes the certificate that a signing request asks for: its subject, key and alternative names are taken
    /// over as they are, everything else is ours. Whether it may have them has been decided before.
    pub fn sign_request(
        &self,
        request: &Request,
        usage: Usage,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Certificate> {
        self.leaf(&request.subject_der, &request.public_der, usage, request.san_der.clone(), lifetime, now)
    }

    fn leaf(
        &self,
        subject: &[u8],
        public: &[u8],
        usage: Usage,
        san: Option<Vec<u8>>,
        lifetime: SignedDuration,
        now: Timestamp,
    ) -> Result<Certificate> {
        let own = &self.identity.certificate;
        // Of a short life the past takes a small part only: it would look half over at its start.
        let backdate = BACKDATE.min(lifetime / 8).max(SignedDuration::ZERO);
        let parts = Parts {
            subject,
            public,
            extensions: cert::extensions(Some(usage), san, public, own.key_id()),
            not_before: before(now, backdate)?,
            // No certificate outlives its authority.
            not_after: after(now, lifetime)?.min(own.not_after),
        };
        Certificate::from_der(&sign(&self.identity.key, own.subject_der(), parts)?)
    }
}

/// What differs from one certificate to the next.
struct Parts<'a> {
    subject: &'a [u8],
    public: &'a [u8],
    extensions: Vec<u8>,
    not_before: Timestamp,
    not_after: Timestamp,
}

fn before(now: Timestamp, by: SignedDuration) -> Result<Timestamp> {
    now.checked_sub(by).map_err(|e| Error::Crypto(format!("validity is out of range: {e}")))
}

fn after(now: Timestamp, by: SignedDuration) -> Result<Timestamp> {
    now.checked_add(by).map_err(|e| Error::Crypto(format!("validity is out of range: {e}")))
}

fn sign(key: &Key, issuer: &[u8], parts: Parts<'_>) -> Result<Vec<u8>> {
    let algorithm = key.scheme().identifier()?;
    let mut serial = [0u8; 16];
    rand::rng().fill_bytes(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x01;
    let version = der::tlv(0xa0, &der::unsigned(&[2]));
    let validity = der::sequence(&[&der::time(parts.not_before), &der::time(parts.not_after)]);
    let extensions = der::tlv(0xa3, &der::tlv(der::tag::SEQUENCE, &parts.extensions));
    let tbs = der::sequence(&[
        &version,
        &der::unsigned(&serial),
        &algorithm,
        issuer,
        &validity,
        parts.subject,
        parts.public,
        &extensions,
    ]);
    let signature = key.sign(&tbs)?;
    Ok(der::sequence(&[&tbs, &algorithm, &der::bit_string(&signature)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls;

    fn now() -> Timestamp {
        "2026-11-21T00:00:00Z".parse().expect("test time")
    }

    #[test]
    fn issued_certificates_verify_and_say_what_was_asked() {
        let ca = Authority::create("orkd-ca", now()).expect("ca");
        assert!(ca.certificate().is_ca);
        let profile = Profile::client("system:node:n1", &["system:nodes", "b"]);
        let leaf = ca.issue(&profile, now()).expect("leaf").certificate;
        assert_eq!(leaf.common_name, "system:node:n1");
        assert_eq!(leaf.organizations, ["system:nodes", "b"]);
        let roots = tls::roots([ca.certificate().to_rustls()]).expect("roots");
        let clients = tls::ClientVerifier::new(roots).expect("verifier");
        let chain = [leaf.to_rustls()];
        clients.verify(&chain, now()).expect("valid now");
        assert!(clients.verify(&chain, now() + SignedDuration::from_hours(366 * 24)).is_err());
        let other = Authority::create("orkd-ca", now()).expect("ca").issue(&profile, now()).expect("leaf");
        assert!(clients.verify(&[other.certificate.to_rustls()], now()).is_err());
        let server = ca.issue(&Profile::server("x", vec!["x".into()], vec![]), now()).expect("leaf");
        assert!(clients.verify(&[server.certificate.to_rustls()], now()).is_err());
    }

    #[test]
    fn a_leaf_is_renewed_in_its_last_third() {
        let ca = Authority::create("c", now()).expect("ca");
        let leaf = ca.issue(&Profile::client("a", &[]), now()).expect("leaf").certificate;
        let day = |n: i64| now() + SignedDuration::from_hours(24 * n);
        assert!(!leaf.needs_renewal(day(240)));
        assert!(leaf.needs_renewal(day(250)));
        assert!(leaf.needs_renewal(day(-1)));
        assert!(!leaf.is_valid_at(day(366)));
    }

    #[test]
    fn requests_are_signed_with_their_own_subject_and_names() {
        let ca = Authority::create("c", now()).expect("ca");
        let key = Key::generate().expect("key");
        let profile = Profile::server("system:node:n1", vec!["n1".into()], vec!["10.0.0.1".parse().expect("ip")]);
        let profile = Profile { organizations: vec!["system:nodes".into()], ..profile };
        let pem = crate::csr::create(&key, &profile).expect("request");
        let request = Request::from_pem(pem.as_bytes()).expect("parsed");
        assert_eq!(request.common_name, "system:node:n1");
        assert_eq!(request.organizations, ["system:nodes"]);
        assert_eq!(request.dns, ["n1"]);
        let hour = SignedDuration::from_hours(1);
        let leaf = ca.sign_request(&request, Usage::SERVER, hour, now()).expect("signed");
        assert_eq!(leaf.dns, ["n1"]);
        assert_eq!(leaf.ips, ["10.0.0.1".parse::<std::net::IpAddr>().expect("ip")]);
        assert_eq!(leaf.public_der(), key.public_der());
        assert_eq!(leaf.not_after, now() + hour);
    }
}
