//! An authenticating proxy in front: it shows a client certificate of the front-proxy authority and names the user
//! in headers (`k8s.io/apiserver/pkg/authentication/request/headerrequest`).

use async_trait::async_trait;
use jiff::Timestamp;
use orkd_pki::Certificate;
use orkd_pki::tls::ClientVerifier;

use super::{Authenticator, Verdict};
use crate::user::{Peer, UserInfo};

const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// Believes the headers of proxies with a certificate of the front-proxy authority.
pub struct FrontProxy {
    verifier: ClientVerifier,
    allowed: Vec<String>,
}

impl FrontProxy {
    /// `allowed`: common names a proxy may have; empty for any.
    pub fn new(verifier: ClientVerifier, allowed: Vec<String>) -> Self {
        FrontProxy { verifier, allowed }
    }
}

#[async_trait]
impl Authenticator for FrontProxy {
    async fn authenticate(&self, parts: &http::request::Parts) -> Verdict {
        if !parts.headers.contains_key(USER) {
            return Verdict::NotMine;
        }
        let Some(peer) = parts.extensions.get::<Peer>() else { return Verdict::NotMine };
        let Some(leaf) = peer.certificates.first() else { return Verdict::NotMine };
        // A client of the cluster that sends such headers is itself and nobody else: the next one is asked.
        if self.verifier.verify(&peer.certificates, Timestamp::now()).is_err() {
            return Verdict::NotMine;
        }
        let Ok(certificate) = Certificate::from_der(leaf) else { return Verdict::NotMine };
        if !self.allowed.is_empty() && !self.allowed.contains(&certificate.common_name) {
            return Verdict::Bad(format!(
                "x509: subject with cn={} is not in the allowed list",
                certificate.common_name
            ));
        }
        user_of(&parts.headers).map_or(Verdict::NotMine, Verdict::User)
    }
}

fn user_of(headers: &http::HeaderMap) -> Option<UserInfo> {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim().to_owned();
    let name = text(USER);
    if name.is_empty() {
        return None;
    }
    let mut user = UserInfo { name, uid: text(UID), ..UserInfo::default() };
    user.groups = headers.get_all(GROUP).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect();
    for (key, value) in headers {
        if let (Some(key), Ok(value)) = (key.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
            user.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    Some(user)
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
        let authn = FrontProxy::new(verifier.expect("verifier"), vec!["front-proxy-client".into()]);
        let check = async |ca: &Authority, name: &str| {
            let leaf = ca.issue(&Profile::client(name, &[]), now).expect("leaf").certificate;
            let peer = Peer { certificates: vec![leaf.to_rustls()], ..Peer::default() };
            let request = http::Request::get("/").header("X-Remote-User", "ann").header("X-Remote-Group", "dev");
            let request = request.header("X-Remote-Extra-A%2fb", "c").extension(peer).body(()).expect("request");
            authn.authenticate(&request.into_parts().0).await
        };
        let Verdict::User(user) = check(&front, "front-proxy-client").await else { panic!("not believed") };
        assert_eq!((user.name.as_str(), user.groups[0].as_str()), ("ann", "dev"));
        assert_eq!(user.extra["a/b"], ["c"]);
        assert_eq!(check(&other, "front-proxy-client").await, Verdict::NotMine);
        assert!(matches!(check(&front, "someone").await, Verdict::Bad(_)));
    }
}
