//! Certificates: what they say, and the profile a new one is made by.

use std::net::IpAddr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::key::{self, Key};
use crate::{Error, Result, der};

/// What a certificate of this cluster is used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// To show who a client is.
    pub client: bool,
    /// To show who a server is.
    pub server: bool,
    /// Whether `keyEncipherment` is named beside `digitalSignature` (of meaning for RSA keys only).
    pub key_encipherment: bool,
}

impl Usage {
    /// A client's certificate.
    pub const CLIENT: Usage = Usage { client: true, server: false, key_encipherment: false };
    /// A server's certificate.
    pub const SERVER: Usage = Usage { client: false, server: true, key_encipherment: false };
}

/// What a new certificate says.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Common name: the user's name for clients.
    pub common_name: String,
    /// Organizations: the user's groups for clients.
    pub organizations: Vec<String>,
    /// Names a server may be called by.
    pub dns: Vec<String>,
    /// Addresses a server may be called by.
    pub ips: Vec<IpAddr>,
    /// What it is used for.
    pub usage: Usage,
    /// How long it is valid.
    pub lifetime: SignedDuration,
}

/// One year, the life of leaf certificates.
pub const LEAF_LIFETIME: SignedDuration = SignedDuration::from_hours(365 * 24);
/// Ten years, the life of authorities.
pub const CA_LIFETIME: SignedDuration = SignedDuration::from_hours(3650 * 24);
/// How far a certificate's start lies back, for clients whose clocks are behind.
pub const BACKDATE: SignedDuration = SignedDuration::from_mins(5);

impl Profile {
    /// A client: its user name and groups.
    pub fn client(name: &str, groups: &[&str]) -> Self {
        Profile {
            common_name: name.into(),
            organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
            dns: Vec::new(),
            ips: Vec::new(),
            usage: Usage::CLIENT,
            lifetime: LEAF_LIFETIME,
        }
    }

    /// A server: what it may be called by.
    pub fn server(name: &str, dns: Vec<String>, ips: Vec<IpAddr>) -> Self {
        Profile {
            common_name: name.into(),
            organizations: Vec::new(),
            dns,
            ips,
            usage: Usage::SERVER,
            lifetime: LEAF_LIFETIME,
        }
    }
}

/// A certificate and the facts read from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    /// Common name of the subject; empty without one.
    pub common_name: String,
    /// Organizations of the subject, in their order.
    pub organizations: Vec<String>,
    /// Names a server may be called by.
    pub dns: Vec<String>,
    /// Addresses a server may be called by.
    pub ips: Vec<IpAddr>,
    /// When it becomes valid.
    pub not_before: Timestamp,
    /// When it ceases to be valid.
    pub not_after: Timestamp,
    /// Whether it is an authority's.
    pub is_ca: bool,
    /// Serial number, hex.
    pub serial: String,
    public_der: Vec<u8>,
    subject_der: Vec<u8>,
    key_id: Option<Vec<u8>>,
}

impl Certificate {
    /// Reads a DER certificate. Its signature is not checked.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        let bad = |why: &dyn std::fmt::Display| Error::malformed("certificate", why);
        let (rest, x509) = X509Certificate::from_der(der).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(bad(&"bytes follow it"));
        }
        let (common_name, organizations) = names_of(&x509.tbs_certificate.subject);
        let (mut dns, mut ips) = (Vec::new(), Vec::new());
        let mut key_id = None;
        for extension in x509.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(san) => {
                    for name in &san.general_names {
                        match name {
                            GeneralName::DNSName(n) => dns.push((*n).to_owned()),
                            GeneralName::IPAddress(b) => ips.extend(ip_of(b)),
                            _ => {}
                        }
                    }
                }
                ParsedExtension::SubjectKeyIdentifier(id) => key_id = Some(id.0.to_vec()),
                _ => {}
            }
        }
        let time = |t: i64| Timestamp::from_second(t).map_err(|e| bad(&e));
        Ok(Certificate {
            der: der.to_vec(),
            common_name,
            organizations,
            dns,
            ips,
            not_before: time(x509.validity().not_before.timestamp())?,
            not_after: time(x509.validity().not_after.timestamp())?,
            is_ca: x509.is_ca(),
            serial: hex::encode(x509.tbs_certificate.raw_serial()),
            public_der: x509.tbs_certificate.subject_pki.raw.to_vec(),
            subject_der: x509.tbs_certificate.subject.as_raw().to_vec(),
            key_id,
        })
    }

    /// Reads the first certificate of a PEM text.
    pub fn from_pem(text: &str) -> Result<Self> {
        let der = CertificateDer::from_pem_slice(text.as_bytes()).map_err(|e| Error::malformed("certificate", e))?;
        Certificate::from_der(&der)
    }

    /// The certificate, DER.
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The certificate as rustls takes it.
    pub fn to_rustls(&self) -> CertificateDer<'static> {
        CertificateDer::from(self.der.clone())
    }

    /// The certificate, PEM.
    pub fn to_pem(&self) -> String {
        key::pem("CERTIFICATE", &self.der)
    }

    /// The public key (`SubjectPublicKeyInfo`), DER.
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }

    /// The subject, DER.
    pub(crate) fn subject_der(&self) -> &[u8] {
        &self.subject_der
    }

    pub(crate) fn key_id(&self) -> Option<&[u8]> {
        self.key_id.as_deref()
    }

    /// SHA-256 of the public key, hex: how join tokens name a CA.
    pub fn public_key_hash(&self) -> String {
        key::hash_hex(&self.public_der)
    }

    /// Whether an authority's key signed it.
    pub fn is_signed_by(&self, authority: &Certificate) -> bool {
        let (Ok((_, leaf)), Ok((_, ca))) =
            (X509Certificate::from_der(&self.der), X509Certificate::from_der(&authority.der))
        else {
            return false;
        };
        leaf.verify_signature(Some(&ca.tbs_certificate.subject_pki)).is_ok()
    }

    /// Whether it is within its time.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Whether it is time for a new one: less than a third of the life is left, or the start lies ahead.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.not_before.as_second();
        let left = self.not_after.as_second() - now.as_second();
        left * 3 < life || now < self.not_before
    }

    /// How long from `now` it takes until [`Certificate::needs_renewal`] says yes.
    pub fn renew_in(&self, now: Timestamp) -> Duration {
        let life = self.not_after.as_second() - self.not_before.as_second();
        let left = self.not_after.as_second() - now.as_second();
        // One second more: a third exactly is not yet less than a third.
        Duration::from_secs(u64::try_from(left - life / 3 + 1).unwrap_or(0))
    }
}

/// The certificates of a PEM text, DER, in their order.
pub fn chain_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| Error::malformed("certificate", e))
}

/// A certificate with its key: what a server or client shows.
#[derive(Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: Certificate,
    /// Its key.
    pub key: Key,
}

impl Identity {
    /// From PEM texts; the key must be the certificate's.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self> {
        let identity = Identity { certificate: Certificate::from_pem(certificate)?, key: Key::from_pem(key)? };
        if identity.certificate.public_der != identity.key.public_der() {
            return Err(Error::malformed("key", "it does not belong to the certificate"));
        }
        Ok(identity)
    }
}

/// Common name (the last one) and organizations of a name.
pub(crate) fn names_of(name: &x509_parser::x509::X509Name<'_>) -> (String, Vec<String>) {
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().map(str::to_owned).unwrap_or_default();
    let common_name = name.iter_common_name().last().map(text).unwrap_or_default();
    (common_name, name.iter_organization().map(text).collect())
}

/// The address in an `iPAddress` name; `None` for other lengths than those of IPv4 and IPv6.
pub(crate) fn ip_of(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// Extensions of a certificate, in the order they are written.
pub(crate) fn extensions(
    usage: Option<Usage>,
    san: Option<Vec<u8>>,
    public_der: &[u8],
    issuer_key_id: Option<&[u8]>,
) -> Vec<u8> {
    let mut out = Vec::new();
    match usage {
        None => {
            // keyCertSign, cRLSign, digitalSignature, as kubeadm's authorities have.
            out.extend(der::extension(&[2, 5, 29, 15], true, &der::named_bits(1 | 1 << 5 | 1 << 6)));
            let yes = der::tlv(der::tag::BOOLEAN, &[0xff]);
            out.extend(der::extension(&[2, 5, 29, 19], true, &der::sequence(&[&yes])));
        }
        Some(usage) => {
            let bits = if usage.key_encipherment { 0b101 } else { 0b1 };
            out.extend(der::extension(&[2, 5, 29, 15], true, &der::named_bits(bits)));
            let mut purposes = Vec::new();
            if usage.server {
                purposes.extend(der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, 1]));
            }
            if usage.client {
                purposes.extend(der::oid(&[1, 3, 6, 1, 5, 5, 7, 3, 2]));
            }
            if !purposes.is_empty() {
                out.extend(der::extension(&[2, 5, 29, 37], false, &der::tlv(der::tag::SEQUENCE, &purposes)));
            }
            out.extend(der::extension(&[2, 5, 29, 19], true, &der::sequence(&[])));
        }
    }
    if usage.is_none() {
        out.extend(der::extension(&[2, 5, 29, 14], false, &der::tlv(der::tag::OCTET_STRING, &key_id_of(public_der))));
    }
    if let Some(id) = issuer_key_id {
        out.extend(der::extension(&[2, 5, 29, 35], false, &der::sequence(&[&der::tlv(0x80, id)])));
    }
    if let Some(san) = san {
        out.extend(der::extension(&[2, 5, 29, 17], false, &san));
    }
    out
}

/// A key identifier: the first 20 bytes of the SHA-256 of the public key.
pub(crate) fn key_id_of(public_der: &[u8]) -> Vec<u8> {
    use sha2::{Digest, Sha256};
    Sha256::digest(public_der)[..20].to_vec()
}

/// The `GeneralNames` of a server; `None` for none.
pub(crate) fn san(dns: &[String], ips: &[IpAddr]) -> Option<Vec<u8>> {
    if dns.is_empty() && ips.is_empty() {
        return None;
    }
    let mut names = Vec::new();
    for name in dns {
        names.extend(der::tlv(0x82, name.as_bytes()));
    }
    for ip in ips {
        match ip {
            IpAddr::V4(ip) => names.extend(der::tlv(0x87, &ip.octets())),
            IpAddr::V6(ip) => names.extend(der::tlv(0x87, &ip.octets())),
        }
    }
    Some(der::tlv(der::tag::SEQUENCE, &names))
}
