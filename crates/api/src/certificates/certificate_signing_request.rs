//! `CertificateSigningRequest`.

use crate::kind::Kind;
use crate::kinds::{AGE, Facts, NAME, READ_WRITE, STATUS, Sub, facts};

/// The kind `CertificateSigningRequest`.
pub struct CertificateSigningRequest;

impl Kind for CertificateSigningRequest {
    facts!(Facts {
        kind: "CertificateSigningRequest",
        plural: "certificatesigningrequests",
        short_names: &["csr"],
        subresources: &[Sub("approval", "", None, READ_WRITE), STATUS],
        columns: &[
            NAME,
            AGE,
            ("SignerName", "string", "", 0),
            ("Requestor", "string", "", 0),
            ("RequestedDuration", "string", "", 0),
            ("Condition", "string", "", 0)
        ],
        ..Facts::cluster("certificates.k8s.io", "v1")
    });
}
