//! Who may come in and what is encrypted: the API server's flags for authentication, authorization and encryption at
//! rest, with upstream's names.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use arc_swap::ArcSwap;
use clap::{ArgAction, Args};
use jiff::Timestamp;
use orkd_apiserver::authn::Anonymous;
use orkd_apiserver::authn::config::Configuration;
use orkd_apiserver::authn::front_proxy::RequestHeaders;
use orkd_apiserver::authn::oidc::{Issuer, Source};
use orkd_apiserver::bootstrap::{self, Facts};
use orkd_apiserver::pipeline::{ApiServer, Builder};
use orkd_apiserver::security::{Guard, Options, anonymous};
use orkd_base::Supervisor;
use orkd_store::Store;
use orkd_store::envelope::{Encrypted, Resources, Rules};

use crate::reload::{self, Followed, Meters, Take};

/// Authentication, authorization and encryption.
#[derive(Args, Debug, Clone)]
pub struct AccessArgs {
    /// Issuer of service account tokens [default: https://kubernetes.default.svc.DOMAIN]; further ones are taken, too
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    pub service_account_issuer: Vec<String>,
    /// File of further keys, public or private, that service account tokens may be signed with; may be given more than
    /// once
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Vec<PathBuf>,
    /// Where the keys of service account tokens are said to be [default: /openid/v1/jwks below the issuer]
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// The longest a service account token may be asked for, such as 24h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub service_account_max_token_expiration: Option<Duration>,
    /// Let pods' tokens live a year where clients may not read them again
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub service_account_extend_token_expiration: bool,
    /// Audiences of the API server [default: the issuer]
    #[arg(long, value_name = "AUDIENCE", value_delimiter = ',')]
    pub api_audiences: Vec<String>,
    /// Let requests without a credential in as system:anonymous
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    pub anonymous_auth: Option<bool>,
    /// File of tokens: token,user,uid,"group1,group2"
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Further authorities of client certificates, beside the cluster's own
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// Authorities of authenticating proxies [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of authenticating proxies [default: front-proxy-client]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub requestheader_allowed_names: Option<Vec<String>>,
    /// Headers of proxies with the user's name
    #[arg(long, value_name = "HEADER", value_delimiter = ',', default_value = "X-Remote-User")]
    pub requestheader_username_headers: Vec<String>,
    /// Headers of proxies with the user's unique id
    #[arg(long, value_name = "HEADER", value_delimiter = ',')]
    pub requestheader_uid_headers: Vec<String>,
    /// Headers of proxies with the user's groups
    #[arg(long, value_name = "HEADER", value_delimiter = ',', default_value = "X-Remote-Group")]
    pub requestheader_group_headers: Vec<String>,
    /// Prefixes of headers of proxies with further facts about the user
    #[arg(long, value_name = "PREFIX", value_delimiter = ',', default_value = "X-Remote-Extra-")]
    pub requestheader_extra_headers_prefix: Vec<String>,
    /// OpenID Connect: URL of the issuer
    #[arg(long, value_name = "URL")]
    pub oidc_issuer_url: Option<String>,
    /// OpenID Connect: whom tokens must be for
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// OpenID Connect: authorities of the issuer's server [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// OpenID Connect: claim with the user's name
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    pub oidc_username_claim: String,
    /// OpenID Connect: what is put before the user's name; `-` for nothing [default: the issuer and #, but for email]
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    pub oidc_username_prefix: Option<String>,
    /// OpenID Connect: claim with the user's groups
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// OpenID Connect: what is put before the names of groups
    #[arg(long, value_name = "PREFIX", default_value = "")]
    pub oidc_groups_prefix: String,
    /// OpenID Connect: a claim that must have a value
    #[arg(long, value_name = "CLAIM=VALUE", value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// OpenID Connect: signature algorithms
    #[arg(long, value_name = "ALG", value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,
    /// File of kind AuthenticationConfiguration
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Kubeconfig of a webhook that knows tokens
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReview posted to the webhook
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,
    /// For how long the webhook's answers are believed
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub authentication_token_webhook_cache_ttl: Duration,
    /// Authorizers in order: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_value = "Node,RBAC")]
    pub authorization_mode: Vec<String>,
    /// File of kind AuthorizationConfiguration, instead of --authorization-mode
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// Kubeconfig of a webhook that authorizes
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReview posted to the webhook
    #[arg(long, value_name = "VERSION", default_value = "v1beta1")]
    pub authorization_webhook_version: String,
    /// For how long it is believed that something is allowed
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub authorization_webhook_cache_authorized_ttl: Duration,
    /// For how long it is believed that something is not allowed
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub authorization_webhook_cache_unauthorized_ttl: Duration,
    /// File of kind EncryptionConfiguration: what is encrypted in the store, and with which keys
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Take over changes of that file while running
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub encryption_provider_config_automatic_reload: bool,
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a duration of a flag.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Result<jiff::SignedDuration, _> = text.parse();
    let parsed = parsed.map_err(|_| format!("{text:?} is no duration such as 30s or 24h"))?;
    Duration::try_from(parsed).map_err(|_| "a duration must not be negative".into())
}

impl AccessArgs {
    /// Puts what was chosen into the options of the API server.
    ///
    /// # Errors
    /// What contradicts itself or cannot be read, for the operator.
    pub fn apply(&self, options: &mut Options) -> anyhow::Result<()> {
        let file = |path: &Option<PathBuf>| path.as_deref().map(read).transpose();
        if let [first, rest @ ..] = self.service_account_issuer.as_slice() {
            options.issuer.clone_from(first);
            options.former_issuers = rest.to_vec();
        }
        options.jwks_uri.clone_from(&self.service_account_jwks_uri);
        options.token_keys = self.service_account_key_file.iter().map(|p| read(p)).collect::<anyhow::Result<_>>()?;
        if let Some(longest) = self.service_account_max_token_expiration {
            let hour = Duration::from_secs(3600);
            ensure!(
                (hour..=Duration::from_secs(1 << 32)).contains(&longest),
                "the service-account-max-token-expiration must be between 1 hour and 2^32 seconds"
            );
            options.max_token_seconds = i64::try_from(longest.as_secs()).ok();
        }
        options.extend_tokens = self.service_account_extend_token_expiration;
        options.audiences.clone_from(&self.api_audiences);
        options.static_tokens = file(&self.token_auth_file)?;
        options.client_authorities = file(&self.client_ca_file)?;
        options.proxy_authorities = file(&self.requestheader_client_ca_file)?;
        let own = RequestHeaders::standard(options.request_headers.allowed_names.clone());
        options.request_headers = RequestHeaders {
            allowed_names: self.requestheader_allowed_names.clone().unwrap_or(own.allowed_names),
            username: self.requestheader_username_headers.clone(),
            uid: self.requestheader_uid_headers.clone(),
            groups: self.requestheader_group_headers.clone(),
            extra_prefixes: self.requestheader_extra_headers_prefix.clone(),
        };
        options.anonymous_flag = self.anonymous_auth.map(|on| if on { Anonymous::Everywhere } else { Anonymous::Off });
        options.issuers = self.oidc()?.into_iter().collect();
        let mut in_file = None;
        if let Some(text) = file(&self.authentication_config)? {
            ensure!(options.issuers.is_empty(), "authentication-config file and oidc-* flags are mutually exclusive");
            let config = Configuration::parse(&text, &options.own_issuers()).map_err(anyhow::Error::msg);
            let config = config.context("--authentication-config")?;
            options.issuers = config.issuers;
            in_file = config.anonymous;
        }
        options.anonymous = anonymous(options.anonymous_flag.clone(), in_file).map_err(anyhow::Error::msg)?;
        options.token_webhook = self.authentication_token_webhook_config_file.clone().map(|path| {
            let version = self.authentication_token_webhook_version.clone();
            (path, version, self.authentication_token_webhook_cache_ttl)
        });
        let authorization = &mut options.authorization;
        authorization.modes.clone_from(&self.authorization_mode);
        authorization.webhook_config.clone_from(&self.authorization_webhook_config_file);
        authorization.webhook.version.clone_from(&self.authorization_webhook_version);
        authorization.webhook.allowed_ttl = self.authorization_webhook_cache_authorized_ttl;
        authorization.webhook.other_ttl = self.authorization_webhook_cache_unauthorized_ttl;
        authorization.config = file(&self.authorization_config)?;
        Ok(())
    }

    fn oidc(&self) -> anyhow::Result<Option<Issuer>> {
        let (url, client) = match (&self.oidc_issuer_url, &self.oidc_client_id) {
            (Some(url), Some(client)) => (url, client),
            (None, None) if self.oidc_groups_claim.is_none() && self.oidc_required_claim.is_empty() => return Ok(None),
            _ => bail!("oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"),
        };
        let claim = &self.oidc_username_claim;
        let prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) => prefix.to_owned(),
            None if claim == "email" => String::new(),
            None => format!("{url}#"),
        };
        let mut required = Vec::new();
        for pair in &self.oidc_required_claim {
            let (claim, value) = pair.split_once('=').with_context(|| format!("--oidc-required-claim {pair}: no ="))?;
            required.push((claim.to_owned(), value.to_owned()));
        }
        Ok(Some(Issuer {
            url: url.clone(),
            discovery_url: None,
            authorities: self.oidc_ca_file.as_deref().map(read).transpose()?,
            audiences: vec![client.clone()],
            username: Source::claim(claim, &prefix),
            groups: self.oidc_groups_claim.as_deref().map(|claim| Source::claim(claim, &self.oidc_groups_prefix)),
            required,
            algorithms: self.oidc_signing_algs.clone(),
            ..Issuer::default()
        }))
    }
}

/// Encryption at rest, where it was asked for.
pub struct Encryption {
    store: Arc<Encrypted>,
    path: PathBuf,
    text: String,
    server: String,
    reloads: bool,
}

/// After how long an encryption configuration is tried again that was refused: the service it names may come.
const ENCRYPTION_RETRY: Duration = Duration::from_secs(10);

impl Encryption {
    /// The store to use: the one given, encrypted where a configuration file was named. `server` is the hash of what the
    /// API server is called.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub async fn of(
        args: &AccessArgs,
        store: Arc<dyn Store>,
        server: &str,
    ) -> anyhow::Result<(Arc<dyn Store>, Option<Encryption>)> {
        let Some(path) = args.encryption_provider_config.clone() else { return Ok((store, None)) };
        let text = read(&path)?;
        let rules = Rules::load(&text, server).await.map_err(anyhow::Error::msg);
        let rules = rules.with_context(|| format!("--encryption-provider-config {}", path.display()))?;
        let store = Arc::new(Encrypted::new(store, resources(), rules));
        let reloads = args.encryption_provider_config_automatic_reload;
        Ok((store.clone(), Some(Encryption { store, path, text, server: server.to_owned(), reloads })))
    }

    /// Adds the checks of key management services, named as upstream names them.
    pub fn checks(&self, mut builder: Builder) -> Builder {
        if self.reloads {
            let store = self.store.clone();
            return builder.ready_check("kms-providers", move || store.rules().health().into_iter().collect());
        }
        for i in 0..self.store.rules().health().len() {
            let store = self.store.clone();
            let one = move || store.rules().health().into_iter().nth(i).unwrap_or(Ok(()));
            builder = builder.ready_check(&format!("kms-provider-{i}"), one);
        }
        builder
    }

    /// Takes over changes of the file from now on, if that is wanted.
    pub fn follow(self, supervisor: &Supervisor) {
        if !self.reloads {
            return;
        }
        let (store, server) = (self.store, self.server.clone());
        let take: Take = Arc::new(move |text| {
            let (store, server) = (store.clone(), server.clone());
            Box::pin(async move {
                let rules = Rules::load(&text, &server).await?;
                // Each service had its time to answer. One that did not must not take the place of one that does.
                let health: Result<(), String> = rules.health().into_iter().collect();
                health.map_err(|why| format!("health check for new transformers failed: {why}"))?;
                store.reload(rules);
                Ok(())
            })
        });
        let followed = Followed {
            what: "encryption configuration",
            path: self.path,
            text: self.text,
            take,
            meters: Some(&reload::ENCRYPTION),
            server: self.server,
            retry: Some(ENCRYPTION_RETRY),
        };
        followed.run(supervisor);
    }
}

/// What changes with the files that say who may come in.
#[derive(Clone)]
pub struct Entrance {
    /// The server.
    pub server: ApiServer,
    /// What guards it.
    pub guard: Arc<Guard>,
    /// What it says of itself to clients: whom it trusts is a part of that.
    pub facts: Arc<ArcSwap<Facts>>,
}

/// A file that says who may come in.
struct AccessFile {
    what: &'static str,
    path: fn(&AccessArgs) -> &Option<PathBuf>,
    meters: Option<&'static Meters>,
    /// Takes it over.
    change: fn(&Guard, &str) -> Result<(), String>,
    /// Notes what of it clients are told, in a ConfigMap (`clusterauthenticationtrust`).
    tell: Option<fn(&mut Facts, &str)>,
}

static ACCESS_FILES: [AccessFile; 4] = [
    AccessFile {
        what: "authentication configuration",
        path: |args| &args.authentication_config,
        meters: Some(&reload::AUTHENTICATION),
        change: Guard::authentication_changed,
        tell: None,
    },
    AccessFile {
        what: "authorization configuration",
        path: |args| &args.authorization_config,
        meters: Some(&reload::AUTHORIZATION),
        change: Guard::authorization_changed,
        tell: None,
    },
    AccessFile {
        what: "authorities of clients",
        path: |args| &args.client_ca_file,
        meters: None,
        change: Guard::client_authorities_changed,
        tell: Some(|facts, pem| facts.client_ca_pem = format!("{}{pem}", facts.server_ca_pem)),
    },
    AccessFile {
        what: "authorities of proxies",
        path: |args| &args.requestheader_client_ca_file,
        meters: None,
        change: Guard::proxy_authorities_changed,
        tell: Some(|facts, pem| pem.clone_into(&mut facts.front_proxy_ca_pem)),
    },
];

/// Follows the files that say who may come in: structured authentication and authorization, and the authorities of
/// clients and proxies. The file of static tokens is read once, as upstream reads it.
///
/// # Errors
/// A file that cannot be read or makes no sense.
pub fn follow(args: &AccessArgs, entrance: &Entrance, server: &str, supervisor: &Supervisor) -> anyhow::Result<()> {
    for &AccessFile { what, path, meters, change, tell } in &ACCESS_FILES {
        let Some(path) = path(args).clone() else { continue };
        let text = read(&path)?;
        // It may have changed since the server was put together.
        change(&entrance.guard, &text).map_err(|why| anyhow::anyhow!("{what} {}: {why}", path.display()))?;
        let entrance = entrance.clone();
        let take: Take = Arc::new(move |text| {
            let Entrance { server, guard, facts } = entrance.clone();
            Box::pin(async move {
                change(&guard, &text)?;
                let Some(tell) = tell else { return Ok(()) };
                let mut told = Facts::clone(&facts.load());
                tell(&mut told, &text);
                facts.store(Arc::new(told));
                let told = bootstrap::run(&server, &facts.load_full(), Timestamp::now()).await;
                told.map_err(|status| format!("clients cannot be told: {}", status.message))
            })
        });
        let server = server.to_owned();
        Followed { what, path, text, take, meters, server, retry: None }.run(supervisor);
    }
    Ok(())
}

/// Which resource is stored where.
fn resources() -> Resources {
    let kinds = orkd_api::kinds::all();
    Resources::new(kinds.iter().map(|kind| {
        let info = kind.info();
        // Events are one resource, whatever group they are asked for in.
        let group = if info.group == "events.k8s.io" { "" } else { &*info.group };
        (info.storage_prefix.to_string(), group.to_owned(), info.plural.to_string())
    }))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        access: AccessArgs,
    }

    fn options(flags: &[&str]) -> anyhow::Result<Options> {
        let flags = Flags::try_parse_from(["x"].iter().chain(flags))?;
        let mut options = Options::default();
        flags.access.apply(&mut options)?;
        Ok(options)
    }

    #[test]
    fn flags_are_options() {
        let plain = options(&[]).expect("good");
        assert_eq!(plain.anonymous, Anonymous::Everywhere);
        assert_eq!(plain.authorization.modes, ["Node", "RBAC"]);
        assert_eq!(plain.request_headers, RequestHeaders::standard(vec!["front-proxy-client".into()]));
        let oidc = ["--oidc-issuer-url=https://i", "--oidc-client-id=me", "--oidc-groups-claim=g"];
        let issuer = &options(&oidc).expect("good").issuers[0];
        assert_eq!((&issuer.username, issuer.audiences[0].as_str()), (&Source::claim("sub", "https://i#"), "me"));
        let email = ["--oidc-issuer-url=https://i", "--oidc-client-id=me", "--oidc-username-claim=email"];
        assert_eq!(options(&email).expect("good").issuers[0].username, Source::claim("email", ""));
        let none = [&oidc[..], &["--oidc-username-prefix=-"]].concat();
        assert_eq!(options(&none).expect("good").issuers[0].username, Source::claim("sub", ""));
        let issuers = options(&["--service-account-issuer=https://a,https://b"]).expect("good");
        assert_eq!(
            (issuers.issuer.as_str(), issuers.former_issuers.as_slice()),
            ("https://a", &["https://b".to_owned()][..])
        );
        let longest = options(&["--service-account-max-token-expiration=24h"]).expect("good").max_token_seconds;
        assert_eq!(longest, Some(86_400));
        assert_eq!(options(&["--anonymous-auth=false"]).expect("good").anonymous, Anonymous::Off);
        assert!(options(&["--oidc-issuer-url=https://i"]).is_err());
        assert!(options(&["--service-account-max-token-expiration=1m"]).is_err());
        assert!(options(&["--token-auth-file=/does/not/exist"]).is_err());
    }

    #[test]
    fn resources_know_their_prefixes() {
        let resources = resources();
        let of = |key: &str| resources.of(key).map(|r| (r.group, r.resource));
        assert_eq!(of("/registry/secrets/a/b"), Some((String::new(), "secrets".into())));
        assert_eq!(of("/registry/events/a/b"), Some((String::new(), "events".into())));
        assert_eq!(of("/registry/services/specs/a/b"), Some((String::new(), "services".into())));
        assert_eq!(of("/registry/deployments/a/b"), Some(("apps".into(), "deployments".into())));
    }
}
