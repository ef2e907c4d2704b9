//! Who may approve and sign certificate requests, and what no request may ask for
//! (`plugin/pkg/admission/certificates/{approval,signing,subjectrestriction}`).

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_api::status::Status;
use orkd_pki::csr;
use serde_json::Value;

use super::{Operation, Plugin, Request, items};
use crate::authz::{Attributes, Authorizer, Decision};
use crate::route::RequestInfo;
use crate::user::{MASTERS, UserInfo};

const GROUP: &str = "certificates.k8s.io";
const RESOURCE: &str = "certificatesigningrequests";

/// Whether a user may do something with a signer: by its name, or by `DOMAIN/*`
/// (`plugin/pkg/admission/certificates.IsAuthorizedForSignerName`).
async fn may(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let request = RequestInfo {
            is_resource: true,
            verb: verb.into(),
            group: GROUP.into(),
            version: "*".into(),
            resource: "signers".into(),
            name,
            ..RequestInfo::default()
        };
        let decision = authorizer.authorize(&Attributes { user, request: &request }).await;
        if matches!(decision, Decision::Allow(_)) {
            return true;
        }
    }
    false
}

fn signer_of<'v>(request: &'v Request<'_>) -> &'v str {
    request.old.and_then(|o| o["spec"]["signerName"].as_str()).unwrap_or_default()
}

/// Guards `certificatesigningrequests/approval`.
pub struct CertificateApproval {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateApproval {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        CertificateApproval { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if !request.is(GROUP, RESOURCE, "approval") || request.operation != Operation::Update {
            return Ok(());
        }
        let signer = signer_of(request);
        if may(&*self.authorizer, request.user, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbidden(object, &format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// Guards what only a signer may write in `certificatesigningrequests/status`.
pub struct CertificateSigning {
    authorizer: Arc<dyn Authorizer>,
}

impl CertificateSigning {
    /// Asks this authorizer.
    pub fn new(authorizer: Arc<dyn Authorizer>) -> Self {
        CertificateSigning { authorizer }
    }
}

#[async_trait]
impl Plugin for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        if !request.is(GROUP, RESOURCE, "status") || request.operation != Operation::Update {
            return Ok(());
        }
        let old = request.old.unwrap_or(&Value::Null);
        let failed = |v: &Value| items(&v["status"]["conditions"]).iter().filter(|c| c["type"] == "Failed").count();
        if old["status"]["certificate"] == object["status"]["certificate"] && failed(old) == failed(object) {
            return Ok(());
        }
        let signer = signer_of(request);
        if may(&*self.authorizer, request.user, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbidden(object, &format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// Nobody gets a certificate of `system:masters`.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, request: &Request<'_>, object: &Value, _warnings: &mut Vec<String>) -> Result<(), Status> {
        const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
        if !request.is(GROUP, RESOURCE, "")
            || request.operation != Operation::Create
            || object["spec"]["signerName"] != SIGNER
        {
            return Ok(());
        }
        let parsed = parse(object).map_err(|e| request.forbidden(object, &format!("unable to parse csr: {e}")))?;
        if parsed.organizations.iter().any(|o| o == MASTERS) {
            let why = format!("use of {SIGNER} signer with {MASTERS} group is not allowed");
            return Err(request.forbidden(object, &why));
        }
        Ok(())
    }
}

/// The PKCS#10 request in a CertificateSigningRequest.
pub(crate) fn parse(object: &Value) -> Result<csr::Request, String> {
    let encoded = object["spec"]["request"].as_str().unwrap_or_default();
    let pem = STANDARD.decode(encoded).map_err(|e| e.to_string())?;
    csr::Request::from_pem(&pem).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use orkd_pki::{Key, Profile};
    use serde_json::json;

    use super::super::testing::{kind, request};
    use super::*;

    struct Allows(&'static str);

    #[async_trait]
    impl Authorizer for Allows {
        async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
            let r = attributes.request;
            match format!("{} {}/{}", r.verb, r.resource, r.name) == self.0 {
                true => Decision::Allow(String::new()),
                false => Decision::NoOpinion(String::new()),
            }
        }
    }

    #[tokio::test]
    async fn approval_needs_the_signer() {
        let (kind, user) = (kind(RESOURCE), UserInfo::new("u", &[]));
        let old = json!({"metadata": {"name": "c"}, "spec": {"signerName": "example.com/a"}});
        let check = async |allowed: &'static str, good: bool| {
            let request = request(&*kind, Operation::Update, "approval", "c", &user, Some(&old));
            let plugin = CertificateApproval::new(Arc::new(Allows(allowed)));
            assert_eq!(plugin.validate(&request, &old, &mut Vec::new()).await.is_ok(), good, "{allowed}");
        };
        check("approve signers/example.com/a", true).await;
        check("approve signers/example.com/*", true).await;
        check("sign signers/example.com/a", false).await;
    }

    #[tokio::test]
    async fn masters_get_no_certificate() {
        let (kind, user) = (kind(RESOURCE), UserInfo::new("u", &[]));
        let key = Key::generate().expect("key");
        for (group, good) in [("dev", true), (MASTERS, false)] {
            let pem = csr::create(&key, &Profile::client("x", &[group])).expect("request");
            let object = json!({"metadata": {"name": "c"}, "spec": {"request": STANDARD.encode(pem),
                "signerName": "kubernetes.io/kube-apiserver-client"}});
            let request = request(&*kind, Operation::Create, "", "c", &user, None);
            let done = CertificateSubjectRestriction.validate(&request, &object, &mut Vec::new()).await;
            assert_eq!(done.is_ok(), good, "{group}");
        }
    }
}
