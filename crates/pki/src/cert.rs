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
    /// Instead of the above: bits of the key's usage, and which of the extended ones (see [`Usage::of`]).
    named: Option<(u16, u16)>,
}

/// Usages of a key by the names that signing requests use, and their bits
/// (`pkg/controller/certificates/authority.keyUsagesFromStrings`).
const KEY_USAGES: [(&str, u16); 10] = [
    ("signing", 1),
    ("digital signature", 1),
    ("content commitment", 1 << 1),
    ("key encipherment", 1 << 2),
    ("data encipherment", 1 << 3),
    ("key agreement", 1 << 4),
    ("cert sign", 1 << 5),
    ("crl sign", 1 << 6),
    ("encipher only", 1 << 7),
    ("decipher only", 1 << 8),
];

/// Extended usages by name, and their object identifiers.
const EXTENDED_USAGES: [(&str, &[u64]); 13] = [
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

impl Usage {
    /// A client's certificate.
    pub const CLIENT: Usage = Usage { client: true, server: false, key_encipherment: false, named: None };
    /// A server's certificate.
    pub const SERVER: Usage = Usage { client: false, server: true, key_encipherment: false, named: None };

    /// Exactly the usages that a signing request names.
    pub fn of<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let (mut key, mut extended) = (0, 0);
        for name in names {
            if let Some((_, bit)) = KEY_USAGES.iter().find(|(n, _)| *n == name) {
                key |= bit;
            } else if let Some(at) = EXTENDED_USAGES.iter().position(|(n, _)| *n == name) {
                extended |= 1 << at;
            } else {
                return Err(format!("unrecognized usage values: [{name:?}]"));
            }
        }
        Ok(Usage { named: Some((key, extended)), ..Usage::default() })
    }

    fn key_bits(self) -> u16 {
        match self.named {
            Some((key, _)) => key,
            None if self.key_encipherment => 0b101,
            None => 0b1,
        }
    }

    /// The purposes' object identifiers, each once.
    fn purposes(self) -> Vec<&'static [u64]> {
        let chosen = |at: usize, name: &str| match self.named {
            Some((_, extended)) => extended & (1 << at) != 0,
            None => (name == "server auth" && self.server) || (name == "client auth" && self.client),
        };
        let all = EXTENDED_USAGES.iter().enumerate().filter(|(at, (name, _))| chosen(*at, name));
        let mut oids: Vec<&[u64]> = all.map(|(_, (_, oid))| *oid).collect();
        oids.dedup();
        oids
    }
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
    /// The user's unique id; empty without one.
    pub uid: String,
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
            uid: uid_of(&x509.tbs_certificate.subject),
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

/// The object identifier of the attribute with a user's unique id (`certificates.UIDOID` upstream).
const UID: &str = "1.3.6.1.4.1.57683.2";

/// The unique id that a name gives its user; empty for none or more than one.
fn uid_of(name: &x509_parser::x509::X509Name<'_>) -> String {
    let mut found = name.iter_attributes().filter(|a| a.attr_type().to_id_string() == UID);
    match (found.next(), found.next()) {
        (Some(one), None) => one.as_str().map(str::to_owned).unwrap_or_default(),
        _ => String::new(),
    }
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
            if usage.key_bits() != 0 {
                out.extend(der::extension(&[2, 5, 29, 15], true, &der::named_bits(usage.key_bits())));
            }
            let purposes: Vec<u8> = usage.purposes().into_iter().flat_map(der::oid).collect();
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

#[cfg(test)]
mod usage_tests {
    use super::*;

    #[test]
    fn a_name_may_carry_one_uid() {
        let attribute = |text: &str| {
            let oid = der::oid(&[1, 3, 6, 1, 4, 1, 57683, 2]);
            der::tlv(der::tag::SET, &der::sequence(&[&oid, &der::tlv(0x0c, text.as_bytes())]))
        };
        let check = |parts: &[&[u8]], expected: &str| {
            let bytes = der::sequence(parts);
            let (_, name) = x509_parser::x509::X509Name::from_der(&bytes).expect("a name");
            assert_eq!(uid_of(&name), expected);
        };
        check(&[], "");
        check(&[&attribute("7")], "7");
        check(&[&attribute("7"), &attribute("8")], "");
    }

    #[test]
    fn usages_are_taken_by_name() {
        let usage = Usage::of(["digital signature", "key encipherment", "server auth", "email protection", "s/mime"]);
        let usage = usage.expect("known");
        assert_eq!(usage.key_bits(), 0b101);
        assert_eq!(usage.purposes().len(), 2);
        assert_eq!((Usage::CLIENT.key_bits(), Usage::CLIENT.purposes().len()), (1, 1));
        assert!(Usage::of(["nonsense"]).is_err());
    }
}
