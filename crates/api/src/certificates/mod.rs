//! The API group `certificates.k8s.io`.

use crate::kind::Kind;

pub mod certificate_signing_request;
pub(crate) mod pem;

/// The kinds of the group.
pub fn all() -> Vec<Box<dyn Kind>> {
    vec![Box::new(certificate_signing_request::CertificateSigningRequest)]
}
