//! The parts that guard an API server, put together: authenticators, authorizers, admission plugins, allocators and the
//! handlers of reviews, tokens and bindings, in upstream's order. Composition calls [`secure`] and nothing else.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use jiff::Timestamp;
use orkd_pki::cluster::{ClusterPki, FRONT_PROXY_CLIENT};
use orkd_pki::jwt::{Signer, Verifier};
use orkd_pki::tls::{self, ClientVerifier};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::admin_access::AdminAccess;
use crate::admission::param_access::ParamAccess;
use crate::admission::{self, Parts};
use crate::alloc::{ClusterIps, NodePorts, ServiceHook, node_port::PortRange};
use crate::authn::bearer::TokenAuthenticator;
use crate::authn::front_proxy::RequestHeaders;
use crate::authn::legacy_token::{Later, LegacyTokens};
use crate::authn::{self, Anonymous, Bearer, oidc};
use crate::authz::rbac::escalation::Escalation;
use crate::authz::{self, Authorizer, NodeAuthorizer, Rbac, feed, modes};
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
    /// Further issuers whose tokens are taken (`--service-account-issuer` given more than once).
    pub former_issuers: Vec<String>,
    /// Where the keys of service account tokens are said to be (`--service-account-jwks-uri`).
    pub jwks_uri: Option<String>,
    /// PEM of further keys that service account tokens may be signed with (`--service-account-key-file`).
    pub token_keys: Vec<String>,
    /// The longest a token may be asked for (`--service-account-max-token-expiration`), in seconds.
    pub max_token_seconds: Option<i64>,
    /// Whether a pod's token lives longer than asked for (`--service-account-extend-token-expiration`).
    pub extend_tokens: bool,
    /// Audiences of the API server (`--api-audiences`); none: the issuer.
    pub audiences: Vec<String>,
    /// PEM of further authorities of client certificates (`--client-ca-file`).
    pub client_authorities: Option<String>,
    /// PEM of the authorities of front proxies (`--requestheader-client-ca-file`); the cluster's own if `None`.
    pub proxy_authorities: Option<String>,
    /// Which headers of front proxies name users (`--requestheader-*`).
    pub request_headers: RequestHeaders,
    /// Issuers of tokens outside the cluster (`--oidc-*`, `--authentication-config`).
    pub issuers: Vec<oidc::Issuer>,
    /// A webhook that knows tokens: kubeconfig, version of the review, for how long it is believed.
    pub token_webhook: Option<(PathBuf, String, Duration)>,
    /// Which authorizers there are.
    pub authorization: modes::Settings,
    /// Where requests without a credential are let in.
    pub anonymous: Anonymous,
    /// What a flag said of that (`--anonymous-auth`); then the configuration file must not.
    pub anonymous_flag: Option<Anonymous>,
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

impl Options {
    /// Every issuer whose tokens the cluster itself makes or made: no other issuer may be called so.
    pub fn own_issuers(&self) -> Vec<String> {
        std::iter::once(&self.issuer).chain(&self.former_issuers).cloned().collect()
    }
}

impl Default for Options {
    fn default() -> Self {
        Options {
            issuer: DEFAULT_ISSUER.into(),
            former_issuers: Vec::new(),
            jwks_uri: None,
            token_keys: Vec::new(),
            max_token_seconds: None,
            extend_tokens: true,
            audiences: Vec::new(),
            client_authorities: None,
            proxy_authorities: None,
            request_headers: RequestHeaders::standard(vec![FRONT_PROXY_CLIENT.to_owned()]),
            issuers: Vec::new(),
            token_webhook: None,
            authorization: modes::Settings::default(),
            anonymous: Anonymous::default(),
            anonymous_flag: None,
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
    later: Later,
    issuers: Arc<oidc::Issuers>,
    anonymous: Arc<ArcSwap<Anonymous>>,
    anonymous_flag: Option<Anonymous>,
    own_issuers: Vec<String>,
    authorizers: Arc<authz::Union>,
    factory: modes::Factory,
    clients: Arc<authn::x509::ClientCertificates>,
    proxies: Arc<authn::front_proxy::FrontProxy>,
    client_ca: orkd_pki::Certificate,
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
    let proxies = match options.proxy_authorities.as_deref() {
        Some(pem) => trust(None, Some(pem))?,
        None => trust(Some(pki.front_proxy_ca.certificate()), None)?,
    };
    let proxies = Arc::new(authn::front_proxy::FrontProxy::new(proxies, options.request_headers.clone()));
    let clients = trust(Some(pki.ca.certificate()), options.client_authorities.as_deref())?;
    let clients = Arc::new(authn::x509::ClientCertificates::new(clients));

    let audiences = if options.audiences.is_empty() { vec![options.issuer.clone()] } else { options.audiences.clone() };
    let mut verifier = Verifier::new([&pki.service_account_key], options.own_issuers()).map_err(text)?;
    for pem in &options.token_keys {
        verifier.add_keys(pem).map_err(|e| format!("service account keys: {e}"))?;
    }
    let verifier = Arc::new(verifier);
    let signer = Arc::new(Signer::new(&pki.service_account_key, &options.issuer).map_err(text)?);
    let mut tokens: Vec<Box<dyn TokenAuthenticator>> = Vec::new();
    if let Some(file) = &options.static_tokens {
        let parsed = authn::static_token::StaticTokens::parse(file).map_err(|e| format!("token file: {e}"))?;
        tokens.push(Box::new(parsed));
    }
    let later = Later::default();
    let (tokens_of, lookup) = (|| Arc::clone(&verifier), || Arc::clone(&objects));
    tokens.push(Box::new(LegacyTokens::new(tokens_of(), lookup(), Arc::clone(&later))));
    tokens.push(Box::new(authn::service_account::ServiceAccountTokens::new(tokens_of(), lookup())));
    tokens.push(Box::new(authn::bootstrap_token::BootstrapTokens::new(lookup())));
    let issuers = Arc::new(oidc::Issuers::new(&options.issuers)?);
    tokens.push(Box::new(Arc::clone(&issuers)));
    if let Some((kubeconfig, version, ttl)) = &options.token_webhook {
        let webhook = authn::webhook::TokenWebhook::new(kubeconfig, version, audiences.clone(), *ttl);
        tokens.push(Box::new(webhook.map_err(|e| format!("authentication webhook: {e}"))?));
    }
    let bearer = Arc::new(Bearer::new(tokens, audiences));
    let authenticators = authn::Union::new(
        vec![
            Box::new(authn::in_process::InProcessIdentity),
            Box::new(Arc::clone(&proxies)),
            Box::new(Arc::clone(&clients)),
            Box::new(Arc::clone(&bearer)),
        ],
        options.anonymous.clone(),
    );

    let anonymous = authenticators.anonymous();

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
    let node = node.with_slices(feed::of(&reader, "resource.k8s.io", "resourceslices"));
    let (factory, members) = modes::Factory::start(&options.authorization, Arc::new(node), rbac.clone())?;
    let authorizers = Arc::new(authz::Union::new(members));
    let authorizer: Arc<dyn Authorizer> = authorizers.clone();

    let configs = options.admission_configs.clone();
    let feeds: admission::Feeds = {
        let reader = reader.clone();
        Arc::new(move |group, resource| feed::of(&reader, group, resource))
    };
    let parts = Parts { objects: Arc::clone(&objects), authorizer: Arc::clone(&authorizer), configs, feeds };
    let mut plugins = admission::selected(&parts, &options.enable_admission, &options.disable_admission)?;
    plugins.push(Arc::new(Escalation::new(rbac, Arc::clone(&authorizer))));
    plugins.push(Arc::new(ParamAccess::new(Arc::clone(&authorizer), Arc::clone(&objects))));

    let ips = ClusterIps::new(Arc::clone(&objects), options.service_cidrs.clone());
    let node_ports = NodePorts::new(Arc::clone(caches.store()), options.node_ports);
    let services = ServiceHook::new(ips, node_ports.clone());
    let builder = builder
        .authenticator(authenticators)
        .authorizer(Arc::clone(&authorizer))
        .admission(plugins)
        .hook("", "services", Arc::new(services))
        .hook("certificates.k8s.io", "certificatesigningrequests", Arc::new(crate::requester::Requester));
    let admin = |kind, spec| Arc::new(AdminAccess { kind, spec, objects: Arc::clone(&objects) });
    let builder = builder.hook("resource.k8s.io", "resourceclaims", admin("ResourceClaim", "/spec")).hook(
        "resource.k8s.io",
        "resourceclaimtemplates",
        admin("ResourceClaimTemplate", "/spec/spec"),
    );
    let dialer = Arc::new(Dialer::new(pki).map_err(text)?);
    let guard = Guard {
        objects,
        node_ports,
        dialer,
        bearer,
        authorizer,
        later,
        issuers,
        anonymous,
        anonymous_flag: options.anonymous_flag.clone(),
        own_issuers: options.own_issuers(),
        authorizers,
        factory,
        clients,
        proxies,
        client_ca: pki.ca.certificate().clone(),
    };
    let builder = crate::rest::handlers::add(builder, &guard, &signer, &verifier, options);
    Ok((builder, guard))
}

impl Guard {
    /// Makes what a cluster is born with, and serves the custom resources it has. To be called before the server is ready.
    pub async fn bootstrap(
        &self,
        server: &ApiServer,
        facts: &bootstrap::Facts,
    ) -> Result<(), orkd_api::status::Status> {
        // Set once; a second start of the same guard is of the same server.
        let _ = self.later.set(Arc::downgrade(&server.0));
        bootstrap::run(server, facts, Timestamp::now()).await?;
        crate::custom::definitions::start(server).await;
        Ok(())
    }

    /// Takes over the text of another authentication configuration (`--authentication-config`), or nothing of it.
    pub fn authentication_changed(&self, text: &str) -> Result<(), String> {
        let config = authn::config::Configuration::parse(text, &self.own_issuers)?;
        let anonymous = anonymous(self.anonymous_flag.clone(), config.anonymous)?;
        self.issuers.replace(&config.issuers)?;
        self.anonymous.store(Arc::new(anonymous));
        Ok(())
    }

    /// Takes over the text of another authorization configuration (`--authorization-config`), or nothing of it.
    pub fn authorization_changed(&self, text: &str) -> Result<(), String> {
        self.authorizers.replace(self.factory.changed(text)?);
        Ok(())
    }

    /// Trusts other authorities of clients beside the cluster's own (`--client-ca-file`).
    pub fn client_authorities_changed(&self, pem: &str) -> Result<(), String> {
        self.clients.reload(trust(Some(&self.client_ca), Some(pem))?);
        Ok(())
    }

    /// Trusts other authorities of proxies (`--requestheader-client-ca-file`).
    pub fn proxy_authorities_changed(&self, pem: &str) -> Result<(), String> {
        self.proxies.reload(trust(None, Some(pem))?);
        Ok(())
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

/// Where anonymous requests are let in: one of flag and configuration file may say so.
pub fn anonymous(flag: Option<Anonymous>, file: Option<Anonymous>) -> Result<Anonymous, String> {
    if flag.is_some() && file.is_some() {
        return Err("--anonymous-auth flag cannot be set when anonymous field is configured in authentication \
                    configuration file"
            .into());
    }
    Ok(flag.or(file).unwrap_or_default())
}

/// Trusts an authority of our own and those of a PEM.
fn trust(own: Option<&orkd_pki::Certificate>, more: Option<&str>) -> Result<ClientVerifier, String> {
    let mut list: Vec<_> = own.into_iter().map(orkd_pki::Certificate::to_rustls).collect();
    if let Some(pem) = more {
        list.extend(authorities(pem)?);
    }
    tls::roots(list).and_then(ClientVerifier::new).map_err(|e| e.to_string())
}

/// The certificates of a PEM: one at least.
pub(crate) fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let list = orkd_pki::cert::chain_from_pem(pem).map_err(|e| e.to_string())?;
    if list.is_empty() {
        return Err("data does not contain any valid RSA or ECDSA certificates".into());
    }
    Ok(list)
}
