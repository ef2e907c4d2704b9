//! Who makes a request.

use std::collections::BTreeMap;

/// An authenticated user (`k8s.io/apiserver/pkg/authentication/user.Info`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// Name, such as `system:node:n1`.
    pub name: String,
    /// Unique id; empty where there is none.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts, such as `authentication.kubernetes.io/pod-name`.
    pub extra: BTreeMap<String, Vec<String>>,
}

/// The group of everyone who has been authenticated.
pub const AUTHENTICATED: &str = "system:authenticated";
/// The group of everyone who has not.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The group that may do everything.
pub const MASTERS: &str = "system:masters";

/// A key of [`UserInfo::extra`] as the name of a header says it: headers know no case, and what has one is escaped
/// (`headerrequest.unescapeExtraKey`).
pub fn extra_key(header: &str) -> String {
    percent_encoding::percent_decode_str(&header.to_lowercase()).decode_utf8_lossy().into_owned()
}

impl UserInfo {
    /// A user with groups; `system:authenticated` is added.
    pub fn new(name: impl Into<String>, groups: &[&str]) -> Self {
        let mut all: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        all.push(AUTHENTICATED.into());
        UserInfo { name: name.into(), groups: all, ..UserInfo::default() }
    }

    /// The user of nobody.
    pub fn anonymous() -> Self {
        UserInfo { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..UserInfo::default() }
    }

    /// A service account's user.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        let group = format!("system:serviceaccounts:{namespace}");
        UserInfo::new(format!("system:serviceaccount:{namespace}:{name}"), &["system:serviceaccounts", &group])
    }

    /// Whether the user is in a group.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// The identity that composition gives to a loop of this process: a request extension. It cannot come from a
/// socket, because extensions are made inside the process only.
#[derive(Clone, Debug)]
pub struct InProcess(pub UserInfo);

/// What the TLS layer learned of the peer: a request extension of every request from a socket.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// Remote address.
    pub addr: Option<std::net::SocketAddr>,
    /// The client's certificate chain, DER, leaf first; empty without one. Only its possession has been proved:
    /// chain, usage and expiry are the authenticator's to check.
    pub certificates: Vec<rustls_pki_types::CertificateDer<'static>>,
}
