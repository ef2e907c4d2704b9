//! An authenticating proxy in front: it shows a client certificate of the front-proxy authority and names the user
//! in headers (`k8s.io/apiserver/pkg/authentication/request/headerrequest`).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::HeaderMap;
use jiff::Timestamp;
use orkd_pki::Certificate;
use orkd_pki::tls::ClientVerifier;

use super::{Authenticator, Verdict};
use crate::user::{Peer, UserInfo, extra_key};

/// Which headers name the user, and which proxies are believed (`--requestheader-*`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaders {
    /// Common names a proxy's certificate may have; none for any.
    pub allowed_names: Vec<String>,
    /// Headers with the name; the first that is there counts.
    pub username: Vec<String>,
    /// Headers with the unique id.
    pub uid: Vec<String>,
    /// Headers with groups, all of them.
    pub groups: Vec<String>,
    /// Prefixes of headers with further facts.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeaders {
    /// Upstream's names of headers.
    pub fn standard(allowed_names: Vec<String>) -> Self {
        let one = |s: &str| vec![s.to_owned()];
        RequestHeaders {
            allowed_names,
            username: one("X-Remote-User"),
            uid: Vec::new(),
            groups: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }

    /// The user that headers name; `None` where they name none.
    pub fn user(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let first = |names: &[String]| {
            names.iter().find_map(|name| {
                let value = headers.get(name.as_str())?.to_str().ok()?.trim();
                (!value.is_empty()).then(|| value.to_owned())
            })
        };
        let name = first(&self.username)?;
        let all = |name: &String| {
            let values = headers.get_all(name.as_str()).iter().filter_map(|v| v.to_str().ok());
            values.filter(|v| !v.is_empty()).map(str::to_owned)
        };
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.extra_prefixes.iter().map(|p| p.to_lowercase()) {
            for (key, value) in headers {
                if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(&prefix), value.to_str()) {
                    extra.entry(extra_key(key)).or_default().push(value.to_owned());
                }
            }
        }
        Some(UserInfo {
            name,
            uid: first(&self.uid).unwrap_or_default(),
            groups: self.groups.iter().flat_map(all).collect(),
            extra,
        })
    }
}

/// Believes the headers of proxies with a certificate of the front-proxy authority.
pub struct FrontProxy {
    verifier: ArcSwap<ClientVerifier>,
    headers: RequestHeaders,
}

impl FrontProxy {
    /// Proxies with certificates that `verifier` trusts.
    pub fn new(verifier: ClientVerifier, headers: RequestHeaders) -> Self {
        FrontProxy { verifier: ArcSwap::from_pointee(verifier), headers }
    }

    /// Trusts other authorities from now on.
    pub fn reload(&self, verifier: ClientVerifier) {
        self.verifier.store(Arc::new(verifier));
    }
}

#[async_trait]
impl Authenticator for Arc<FrontProxy> {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        let Some(user) = self.headers.user(&parts.headers) else { return Verdict::NotMine };
        let Some(peer) = parts.extensions.get::<Peer>() else { return Verdict::NotMine };
        let Some(leaf) = peer.certificates.first() else { return Verdict::NotMine };
        // A client of the cluster that sends such headers is itself and nobody else: the next one is asked.
        if self.verifier.load().verify(&peer.certificates, Timestamp::now()).is_err() {
            return Verdict::NotMine;
        }
        let Ok(certificate) = Certificate::from_der(leaf) else { return Verdict::NotMine };
        let allowed = &self.headers.allowed_names;
        if !allowed.is_empty() && !allowed.contains(&certificate.common_name) {
            return Verdict::Bad(format!(
                "x509: subject with cn={} is not in the allowed list",
                certificate.common_name
            ));
        }
        Verdict::User(user)
    }
}

#[cfg(test)]
mod tests {
    use orkd_pki::{Authority, Profile, tls};

    use super::*;

    #[tokio::test]
    async fn headers_count_only_with_the_proxys_certificate() {
        let now = Timestamp::now();
        let (front, other) = (Authority::create("f", now).expect("ca"), Authority::create("o", now).expect("ca"));
        let verifier = ClientVerifier::new(tls::roots([front.certificate().to_rustls()]).expect("roots"));
        let headers = RequestHeaders::standard(vec!["front-proxy-client".into()]);
        let authn = Arc::new(FrontProxy::new(verifier.expect("verifier"), headers));
        let check = async |ca: &Authority, name: &str| {
            let leaf = ca.issue(&Profile::client(name, &[]), now).expect("leaf").certificate;
            let peer = Peer { certificates: vec![leaf.to_rustls()], ..Peer::default() };
            let request = http::Request::get("/").header("X-Remote-User", "ann").header("X-Remote-Group", "dev");
            let request = request.header("X-Remote-Group", "").header("X-Remote-Extra-%41-B", "d");
            let request = request.header("X-Remote-Extra-A%2fb", "c").extension(peer).body(()).expect("request");
            authn.authenticate(&request.into_parts().0).await
        };
        let Verdict::User(user) = check(&front, "front-proxy-client").await else { panic!("not believed") };
        assert_eq!((user.name.as_str(), user.groups), ("ann", vec!["dev".to_owned()]));
        assert_eq!((&user.extra["a/b"], &user.extra["A-b"]), (&vec!["c".to_owned()], &vec!["d".to_owned()]));
        assert_eq!(check(&other, "front-proxy-client").await, Verdict::NotMine);
        assert!(matches!(check(&front, "someone").await, Verdict::Bad(_)));
        let verifier = ClientVerifier::new(tls::roots([other.certificate().to_rustls()]).expect("roots"));
        authn.reload(verifier.expect("verifier"));
        assert_eq!(check(&front, "front-proxy-client").await, Verdict::NotMine);
        assert!(matches!(check(&other, "front-proxy-client").await, Verdict::User(_)));
    }
}
