//! The parts that guard an API server, put together: authenticators, authorizers, admission plugins, allocators and the
//! handlers of reviews, tokens and bindings, in upstream's order. Composition calls [`secure`] and nothing else.

use std::sync::Arc;

use ipnet::IpNet;
use jiff::Timestamp;
use orkd_pki::cluster::{ClusterPki, FRONT_PROXY_CLIENT};
use orkd_pki::jwt::{Signer, Verifier};
use orkd_pki::tls::{self, ClientVerifier};
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Parts};
use crate::alloc::{ClusterIps, NodePorts, ServiceHook, node_port::PortRange};
use crate::authn::bearer::TokenAuthenticator;
use crate::authn::{self, Anonymous, Bearer};
use crate::authz::rbac::escalation::Escalation;
use crate::authz::{self, Authorizer, NodeAuthorizer, Privileged, Rbac, feed};
use crate::bootstrap;
use crate::cache::Caches;
use crate::lookup::Lookup;
use crate::pipeline::{ApiServer, Builder};
use crate::rest::dial::Dialer;
use crate::writer::Writer;

/// The issuer of service account tokens, and their audience where none is named.
pub const DEFAULT_ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct Options {
    /// URL of the issuer of service account tokens (`--service-account-issuer`).
    pub issuer: String,
    /// Audiences of the API server (`--api-audiences`); none: the issuer.
    pub audiences: Vec<String>,
    /// Where requests without a credential are let in.
    pub anonymous: Anonymous,
    /// Text of a static token file (`--token-auth-file`).
    pub static_tokens: Option<String>,
    /// Admission plugins to enable by name.
    pub enable_admission: Vec<String>,
    /// Admission plugins to disable by name.
    pub disable_admission: Vec<String>,
    /// What is configured of single admission plugins.
    pub admission_configs: admission::PluginConfigs,
    /// Ranges of cluster IPs.
    pub service_cidrs: Vec<IpNet>,
    /// Range of node ports.
    pub node_ports: PortRange,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            issuer: DEFAULT_ISSUER.into(),
            audiences: Vec::new(),
            anonymous: Anonymous::default(),
            static_tokens: None,
            enable_admission: Vec::new(),
            disable_admission: Vec::new(),
            admission_configs: admission::PluginConfigs::default(),
            service_cidrs: Vec::new(),
            node_ports: PortRange::default(),
        }
    }
}

/// What remains to be held beside the server: made by [`secure`].
pub struct Guard {
    objects: Lookup,
    node_ports: NodePorts,
    /// Connects to kubelets, pods and services.
    pub dialer: Arc<Dialer>,
    /// Whose bearer tokens are.
    pub bearer: Arc<Bearer>,
    /// Every authorizer.
    pub authorizer: Arc<dyn Authorizer>,
}

/// Adds everything that guards a server to its builder. The error is for the operator: an unknown plugin, a bad token
/// file, a key that signs nothing.
pub fn secure(
    builder: Builder,
    caches: &Arc<Caches>,
    pki: &ClusterPki,
    options: &Options,
) -> Result<(Builder, Guard), String> {
    let reader = caches.reader();
    let objects: Lookup = Arc::new(reader.clone());
    let text = |e: orkd_pki::Error| e.to_string();
    let trust = |ca: &orkd_pki::Authority| {
        tls::roots([ca.certificate().to_rustls()]).and_then(ClientVerifier::new).map_err(text)
    };

    let audiences = if options.audiences.is_empty() { vec![options.issuer.clone()] } else { options.audiences.clone() };
    let verifier = Verifier::new([&pki.service_account_key], vec![options.issuer.clone()]).map_err(text)?;
    let verifier = Arc::new(verifier);
    let signer = Arc::new(Signer::new(&pki.service_account_key, &options.issuer).map_err(text)?);
    let mut tokens: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(file) = &options.static_tokens {
        let parsed = authn::static_token::StaticTokens::parse(file).map_err(|e| format!("token file: {e}"))?;
        tokens.push(Box::new(parsed));
    }
    tokens
        .push(Box::new(authn::service_account::ServiceAccountTokens::new(Arc::clone(&verifier), Arc::clone(&objects))));
    tokens.push(Box::new(authn::bootstrap_token::BootstrapTokens::new(Arc::clone(&objects))));
    let bearer = Arc::new(Bearer::new(tokens, audiences));
    let authenticators = authn::Union::new(
        vec![
            Box::new(authn::in_process::InProcessIdentity),
            Box::new(authn::front_proxy::FrontProxy::new(
                trust(&pki.front_proxy_ca)?,
                vec![FRONT_PROXY_CLIENT.to_owned()],
            )),
            Box::new(authn::x509::ClientCertificates::new(trust(&pki.ca)?)),
            Box::new(Arc::clone(&bearer)),
        ],
        options.anonymous.clone(),
    );

    const RBAC: &str = "rbac.authorization.k8s.io";
    let rbac = Arc::new(Rbac::new(
        feed::of(&reader, RBAC, "roles"),
        feed::of(&reader, RBAC, "clusterroles"),
        feed::of(&reader, RBAC, "rolebindings"),
        feed::of(&reader, RBAC, "clusterrolebindings"),
    ));
    let node = NodeAuthorizer::new(
        bootstrap::roles::node_rules(),
        feed::of(&reader, "", "pods"),
        Some(feed::of(&reader, "", "persistentvolumes")),
        Some(feed::of(&reader, "storage.k8s.io", "volumeattachments")),
    );
    let rbac_authorizer: Arc<dyn Authorizer> = rbac.clone();
    let authorizer: Arc<dyn Authorizer> =
        Arc::new(authz::Union::new(vec![Arc::new(Privileged), Arc::new(node), rbac_authorizer]));

    let configs = options.admission_configs.clone();
    let parts = Parts { objects: Arc::clone(&objects), authorizer: Arc::clone(&authorizer), configs };
    let mut plugins = admission::selected(&parts, &options.enable_admission, &options.disable_admission)?;
    plugins.push(Arc::new(Escalation::new(rbac, Arc::clone(&authorizer))));

    let ips = ClusterIps::new(Arc::clone(&objects), options.service_cidrs.clone());
    let node_ports = NodePorts::new(Arc::clone(caches.store()), options.node_ports);
    let services = ServiceHook::new(ips, node_ports.clone());
    let builder = builder
        .authenticator(authenticators)
        .authorizer(Arc::clone(&authorizer))
        .admission(plugins)
        .hook("", "services", Arc::new(services))
        .hook("certificates.k8s.io", "certificatesigningrequests", Arc::new(crate::requester::Requester));
    let dialer = Arc::new(Dialer::new(pki).map_err(text)?);
    let guard = Guard { objects, node_ports, dialer, bearer, authorizer };
    let builder = crate::rest::handlers::add(builder, &guard, &signer, &verifier);
    Ok((builder, guard))
}

impl Guard {
    /// Makes what a cluster is born with. To be called before the server is ready.
    pub async fn bootstrap(
        &self,
        server: &ApiServer,
        facts: &bootstrap::Facts,
    ) -> Result<(), orkd_api::status::Status> {
        bootstrap::run(server, facts, Timestamp::now()).await
    }

    /// Takes over certificates that [`ClusterPki::renew`] has made anew.
    pub fn renewed(&self, pki: &ClusterPki) -> Result<(), orkd_pki::Error> {
        self.dialer.renewed(pki)
    }

    /// Repairs cluster IPs and node ports. To be spawned once the server is ready; ends by itself.
    pub async fn repair(&self, server: &ApiServer, stop: CancellationToken) {
        let writer = Writer::new(server.clone(), crate::alloc::cluster_ip::system_user());
        crate::alloc::repair::run(Arc::clone(&self.objects), writer, self.node_ports.clone(), stop).await;
    }
}
