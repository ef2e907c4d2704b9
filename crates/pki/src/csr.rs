//! Certificate signing requests (PKCS#10): making them and reading them.
//!
//! A request is written with our own DER functions, so that it may name several organizations.

use std::net::IpAddr;

use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::cert::{self, Profile};
use crate::key::{self, Key};
use crate::{Error, Result, der};

/// Makes a request for a certificate of `key`, PEM. Usage and life time are the signer's to decide.
pub fn create(key: &Key, profile: &Profile) -> Result<String> {
    let subject = der::subject(&profile.common_name, &profile.organizations);
    let attributes = match cert::san(&profile.dns, &profile.ips) {
        None => Vec::new(),
        Some(san) => {
            let extensions = der::sequence(&[&der::extension(&[2, 5, 29, 17], false, &san)]);
            let set = der::tlv(der::tag::SET, &extensions);
            der::sequence(&[&der::oid(&[1, 2, 840, 113549, 1, 9, 14]), &set])
        }
    };
    let info = der::sequence(&[&der::unsigned(&[0]), &subject, &key.public_der(), &der::tlv(0xa0, &attributes)]);
    let signature = key.sign(&info)?;
    let request = der::sequence(&[&info, &key.scheme().identifier()?, &der::bit_string(&signature)]);
    Ok(key::pem("CERTIFICATE REQUEST", &request))
}

/// A request whose signature has been checked: its maker holds the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Common name; empty without one.
    pub common_name: String,
    /// Organizations.
    pub organizations: Vec<String>,
    /// DNS names asked for.
    pub dns: Vec<String>,
    /// Addresses asked for.
    pub ips: Vec<IpAddr>,
    /// E-mail addresses asked for.
    pub emails: Vec<String>,
    /// URIs asked for.
    pub uris: Vec<String>,
    pub(crate) subject_der: Vec<u8>,
    pub(crate) public_der: Vec<u8>,
    pub(crate) san_der: Option<Vec<u8>>,
}

impl Request {
    /// Reads a PEM request: one `CERTIFICATE REQUEST` section. Upstream: `ParseCSR` in
    /// `pkg/apis/certificates/v1/helpers.go`.
    pub fn from_pem(text: &[u8]) -> Result<Self> {
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
        let der = CertificateSigningRequestDer::from_pem_slice(text)
            .map_err(|_| Error::malformed("request", "PEM block type must be CERTIFICATE REQUEST"))?;
        Request::from_der(&der)
    }

    /// Reads a DER request and checks its signature.
    pub fn from_der(bytes: &[u8]) -> Result<Self> {
        let bad = |why: &dyn std::fmt::Display| Error::malformed("request", why);
        let (rest, csr) = X509CertificationRequest::from_der(bytes).map_err(|e| bad(&e))?;
        if !rest.is_empty() {
            return Err(bad(&"bytes follow it"));
        }
        csr.verify_signature().map_err(|e| bad(&e))?;
        let info = &csr.certification_request_info;
        let (common_name, organizations) = cert::names_of(&info.subject);
        let mut request = Request {
            common_name,
            organizations,
            dns: Vec::new(),
            ips: Vec::new(),
            emails: Vec::new(),
            uris: Vec::new(),
            subject_der: info.subject.as_raw().to_vec(),
            public_der: info.subject_pki.raw.to_vec(),
            san_der: None,
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(san) = extension else { continue };
            // Written again from what was understood: a name of a sort not understood is not passed on.
            let mut names = Vec::new();
            for name in &san.general_names {
                match name {
                    GeneralName::DNSName(n) => {
                        request.dns.push((*n).to_owned());
                        names.extend(der::tlv(0x82, n.as_bytes()));
                    }
                    GeneralName::IPAddress(b) => {
                        let ip = cert::ip_of(b).ok_or_else(|| bad(&"an IP address has a wrong length"))?;
                        request.ips.push(ip);
                        names.extend(der::tlv(0x87, b));
                    }
                    GeneralName::RFC822Name(n) => {
                        request.emails.push((*n).to_owned());
                        names.extend(der::tlv(0x81, n.as_bytes()));
                    }
                    GeneralName::URI(n) => {
                        request.uris.push((*n).to_owned());
                        names.extend(der::tlv(0x86, n.as_bytes()));
                    }
                    _ => return Err(bad(&"a subject alternative name is of an unknown sort")),
                }
            }
            request.san_der = Some(der::tlv(der::tag::SEQUENCE, &names));
        }
        Ok(request)
    }

    /// The public key (`SubjectPublicKeyInfo`), DER.
    pub fn public_der(&self) -> &[u8] {
        &self.public_der
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_with_a_foreign_signature_is_refused() {
        let key = Key::generate().expect("key");
        let pem = create(&key, &Profile::client("system:node:a", &["system:nodes", "x"])).expect("request");
        let request = Request::from_pem(pem.as_bytes()).expect("good");
        assert_eq!(request.organizations, ["system:nodes", "x"]);
        use rustls_pki_types::{CertificateSigningRequestDer, pem::PemObject};
        let mut der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).expect("der").to_vec();
        let at = der.windows(6).position(|w| w == b"node:a").expect("name");
        der[at + 5] = b'b';
        assert!(Request::from_der(&der).is_err());
        assert!(Request::from_pem(b"nothing").is_err());
        assert!(Request::from_der(&[0x30, 0x82, 0xff]).is_err());
    }
}
