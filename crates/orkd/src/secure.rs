//! The port of a role that runs alone: health, figures and what it was told, over HTTPS. Upstream:
//! `k8s.io/apiserver/pkg/server/options` (serving, delegating authentication and authorization), `cmd/kube-scheduler/app`,
//! `cmd/kube-controller-manager/app/serve.go`.
//!
//! The listener and the form of health are the API server's, the guard is the node server's.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use arc_swap::ArcSwap;
use http::request::Parts;
use http::{Response, StatusCode, header};
use jiff::Timestamp;
use orkd_apiserver::health::{self, Outcome};
use orkd_apiserver::query::Query;
use orkd_apiserver::serve::{Answers, serve};
use orkd_apiserver::user::Peer;
use orkd_apiserver::{Body, handler, metrics, respond};
use orkd_base::{Supervisor, TaskKind, chain};
use orkd_kubelet::guard::{Guard, Refused, User, Wish};
use orkd_pki::cert::{Certificate, Identity, chain_from_pem};
use orkd_pki::tls::{self, ClientVerifier};
use orkd_pki::{Authority, Profile};
use orkd_reconcile::{Api, Target};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::PortArgs;
use crate::client::Renewable;

/// Where a cluster says which authority its clients' certificates are of.
const AUTHENTICATION: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

/// How often that is looked at, and how often while it cannot be.
const LOOK: Duration = Duration::from_secs(300);
/// See [`LOOK`].
const RETRY: Duration = Duration::from_secs(10);

/// Who may do anything (`DelegatingAuthorizationOptions.AlwaysAllowGroups`).
const MASTERS: &str = "system:masters";

/// What a port tells of its role.
pub struct Role {
    /// The role's name for the API.
    pub name: &'static str,
    /// Upstream's port.
    pub port: u16,
    /// What it was told, under the name that upstream gives that.
    pub config: Value,
}

struct Port {
    guard: Guard,
    always: Vec<String>,
    config: String,
}

/// Opens the port of a role, unless it is told not to have one.
///
/// # Errors
/// The port cannot be had, or a file is of no use.
pub async fn open(
    args: &PortArgs,
    role: Role,
    credential: &Renewable,
    supervisor: &Supervisor,
) -> anyhow::Result<Option<SocketAddr>> {
    let address = SocketAddr::new(args.bind_address, args.secure_port.unwrap_or(role.port));
    if address.port() == 0 {
        return Ok(None);
    }
    let now = Timestamp::now();
    let (identity, issuers) = identity(args, address.ip(), now)?;
    let tls = tls::server_config(&identity, &issuers)?;
    let api = |other: Option<Renewable>| {
        let client = other.map_or_else(|| credential.client(), |other| other.client());
        Api::new(client, role.name)
    };
    let users = api(follow(args.authentication_kubeconfig.as_deref(), supervisor).await?);
    let access = api(follow(args.authorization_kubeconfig.as_deref(), supervisor).await?);
    let port = Arc::new(Port {
        guard: Guard::new(users.clone(), access, None),
        always: args.authorization_always_allow_paths.clone(),
        config: role.config.to_string(),
    });
    let believing = port.clone();
    supervisor.spawn(TaskKind::Housekeeping, "client authority", move |stop| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = believe_clients(&believing.guard, &users) => {}
        }
    });
    let listener = TcpListener::bind(address).await.with_context(|| format!("failed to listen on {address}"))?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, "serving health and metrics");
    let answers = Answers::new(move |request| {
        let (port, (parts, _)) = (port.clone(), request.into_parts());
        async move { port.answer(&parts).await }
    });
    let tls = Arc::new(ArcSwap::from_pointee(tls));
    supervisor.spawn(TaskKind::Listener, "secure port", move |stop| serve(listener, tls, answers, stop));
    Ok(Some(bound))
}

async fn follow(path: Option<&Path>, supervisor: &Supervisor) -> anyhow::Result<Option<Renewable>> {
    let Some(path) = path else { return Ok(None) };
    let credential = Renewable::new(path).await?;
    credential.follow(supervisor);
    Ok(Some(credential))
}

/// The certificate to show, and those of who issued it: what is given, or one of an authority that nobody knows.
fn identity(args: &PortArgs, address: IpAddr, now: Timestamp) -> anyhow::Result<(Identity, Vec<Certificate>)> {
    let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    match (&args.tls_cert_file, &args.tls_private_key_file) {
        (Some(certificate), Some(key)) => {
            let chain = read(certificate)?;
            let identity = Identity::from_pem(&chain, &read(key)?)?;
            let issuers = chain_from_pem(&chain)?.into_iter().skip(1).map(|c| Certificate::from_der(&c));
            Ok((identity, issuers.collect::<Result<_, _>>()?))
        }
        (None, None) => {
            let mut addresses = vec![IpAddr::from([127, 0, 0, 1])];
            addresses.extend(Some(address).filter(|a| !a.is_unspecified() && !a.is_loopback()));
            let authority = Authority::create("localhost-ca", now)?;
            let identity = authority.issue(&Profile::server("localhost", vec!["localhost".into()], addresses), now)?;
            Ok((identity, Vec::new()))
        }
        _ => bail!("--tls-cert-file and --tls-private-key-file belong together"),
    }
}

/// Keeps to the authority that the cluster names for its clients, from when it can be asked.
async fn believe_clients(guard: &Guard, api: &Api) {
    loop {
        let wait = match client_authority(api).await {
            Ok(verifier) => {
                guard.believe(verifier);
                LOOK
            }
            Err(error) => {
                tracing::debug!(error = %chain(&*error), "the authority of client certificates cannot be looked up");
                RETRY
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// What tells the certificates of the cluster's clients from others.
async fn client_authority(api: &Api) -> anyhow::Result<ClientVerifier> {
    let map: Value = api.get(&Target::path(AUTHENTICATION)).await?;
    let pem = map["data"]["client-ca-file"].as_str().context("the cluster does not say which authority is its own")?;
    Ok(ClientVerifier::new(tls::roots([Certificate::from_pem(pem)?.to_rustls()])?)?)
}

impl Port {
    async fn answer(&self, request: &Parts) -> Response<Body> {
        let path = request.uri.path();
        if let Err(Refused(code, message)) = self.check(request, path).await {
            return refused(code, &message);
        }
        let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
        let found = match segments[..] {
            ["healthz" | "livez" | "readyz", ..] => {
                let query = Query::parse(request.uri.query().unwrap_or_default());
                health::answer(&segments, &query, &checks(segments[0]))
            }
            ["metrics"] => Some(handler::metrics_text(metrics::of_process())),
            ["metrics", "slis"] => Some(handler::metrics_text(metrics::slis())),
            ["configz"] => Some(in_json(200, self.config.clone())),
            _ => None,
        };
        found.unwrap_or_else(|| respond::text(404, "404 page not found\n"))
    }

    /// Whether a request may pass; some paths are for everyone.
    async fn check(&self, request: &Parts, path: &str) -> Result<(), Refused> {
        let certificates = request.extensions.get::<Peer>().map_or(&[][..], |peer| &peer.certificates);
        let bearer = request.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let token = bearer.and_then(|v| v.strip_prefix("Bearer "));
        let user = self.guard.user(certificates, token).await?.unwrap_or_else(User::anonymous);
        if is_for_everyone(&self.always, path) || user.groups.iter().any(|g| g == MASTERS) {
            return Ok(());
        }
        let verb = request.method.as_str().to_ascii_lowercase();
        match self.guard.may(&user, &Wish::Path { verb: verb.clone(), path: path.to_owned() }).await? {
            true => Ok(()),
            false => Err(Refused(403, format!("forbidden: User {:?} cannot {verb} path {path:?}", user.name))),
        }
    }
}

/// Whether a path is among those that need no leave; one that ends in `*` stands for all that begin so (`path.NewAuthorizer`).
fn is_for_everyone(always: &[String], path: &str) -> bool {
    let path = path.trim_start_matches('/');
    always.iter().any(|allowed| {
        let allowed = allowed.trim_start_matches('/');
        allowed.strip_suffix('*').map_or(path == allowed, |start| path.starts_with(start))
    })
}

/// The checks behind a kind of health. A role that lost its lease has ended, and one that competes for it is well.
fn checks(kind: &str) -> Vec<Outcome> {
    let names: &[&str] = if kind == "readyz" { &["ping", "informer-sync"] } else { &["ping", "leaderElection"] };
    names.iter().map(|name| ((*name).to_owned(), Ok(()))).collect()
}

fn in_json(code: u16, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let form = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}

/// A refusal as a Status.
fn refused(code: u16, message: &str) -> Response<Body> {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        _ => "InternalError",
    };
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "details": {}, "code": code});
    in_json(code, status.to_string())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use http::Request;
    use http_body_util::BodyExt;
    use kube::client::Body as ClientBody;

    use super::*;

    /// A port in front of a cluster that knows a token and lets its user read metrics.
    fn port() -> Port {
        let service = tower::service_fn(|request: Request<ClientBody>| async move {
            let body = request.into_body().collect_bytes().await.unwrap_or_default();
            let review: Value = serde_json::from_slice(&body).unwrap_or_default();
            let spec = &review["spec"];
            let status = match review["kind"].as_str() {
                Some("TokenReview") => json!({"authenticated": spec["token"] == "known",
                    "user": {"username": "reader", "groups": ["readers"]}}),
                _ => {
                    let wish = json!({"verb": "get", "path": "/metrics"});
                    json!({"allowed": spec["user"] == "reader" && spec["nonResourceAttributes"] == wish})
                }
            };
            let answer = ClientBody::from(json!({"metadata": {}, "status": status}).to_string().into_bytes());
            Ok::<_, std::convert::Infallible>(Response::new(answer))
        });
        let api = Api::new(kube::Client::new(service, "default"), "test");
        let always = ["/healthz", "/livez*"].map(str::to_owned).into();
        Port { guard: Guard::new(api.clone(), api, None), always, config: r#"{"componentconfig":{}}"#.into() }
    }

    async fn ask(port: &Port, path: &str, token: &str) -> (u16, String) {
        let mut request = Request::builder().uri(path);
        if !token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let (parts, ()) = request.body(()).expect("a request").into_parts();
        let answer = port.answer(&parts).await;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn health_is_for_everyone_and_the_rest_for_those_who_may() {
        let port = port();
        assert_eq!(ask(&port, "/healthz", "").await, (200, "ok".into()));
        assert_eq!(ask(&port, "/livez/ping", "").await, (200, "ok".into()));
        let verbose = "[+]ping ok\n[+]leaderElection ok\nlivez check passed\n";
        assert_eq!(ask(&port, "/livez?verbose", "").await, (200, verbose.into()));
        let (code, text) = ask(&port, "/metrics", "").await;
        let status: Value = serde_json::from_str(&text).expect("a Status");
        let said: HashMap<_, _> = [("reason", "Forbidden"), ("status", "Failure")].into();
        assert!(code == 403 && said.iter().all(|(k, v)| status[*k] == **v), "{text}");
        assert_eq!(status["message"], r#"forbidden: User "system:anonymous" cannot get path "/metrics""#);
        assert_eq!(ask(&port, "/readyz", "known").await.0, 403, "the user may read metrics alone");
        assert_eq!(ask(&port, "/healthz", "strange").await.0, 401, "who is not believed gets nothing");
        let (code, text) = ask(&port, "/metrics", "known").await;
        assert!(code == 200 && text.contains("\nprocess_resident_memory_bytes "), "{code} {text}");
    }

    #[test]
    fn some_paths_are_for_everyone() {
        let check = |allowed: &str, path: &str, expected: bool| {
            assert_eq!(is_for_everyone(&[allowed.to_owned()], path), expected, "{allowed} {path}");
        };
        check("/healthz", "/healthz", true);
        check("/healthz", "/healthz/ping", false);
        check("/healthz*", "/healthz/ping", true);
        check("healthz", "/healthz", true);
        check("/*", "/metrics", true);
    }

    #[test]
    fn a_certificate_is_shown_as_given_or_made() {
        let args = PortArgs {
            secure_port: None,
            bind_address: IpAddr::from([0, 0, 0, 0]),
            tls_cert_file: None,
            tls_private_key_file: None,
            authentication_kubeconfig: None,
            authorization_kubeconfig: None,
            authorization_always_allow_paths: Vec::new(),
        };
        let now = Timestamp::now();
        let (made, issuers) = identity(&args, args.bind_address, now).expect("a certificate");
        assert_eq!((made.certificate.common_name.as_str(), issuers.len()), ("localhost", 0));
        let dir = tempfile::tempdir().expect("a folder");
        let (certificate, key) = (dir.path().join("tls.crt"), dir.path().join("tls.key"));
        let authority = Authority::create("someone", now).expect("an authority");
        let own =
            authority.issue(&Profile::server("own", vec!["own.test".into()], vec![]), now).expect("a certificate");
        let chain = own.certificate.to_pem() + &authority.certificate().to_pem();
        std::fs::write(&certificate, chain).expect("written");
        std::fs::write(&key, own.key.to_pem()).expect("written");
        let given = PortArgs { tls_cert_file: Some(certificate), tls_private_key_file: Some(key), ..args.clone() };
        let (shown, issuers) = identity(&given, given.bind_address, now).expect("they can be read");
        assert_eq!((shown.certificate.common_name.as_str(), issuers.len()), ("own", 1));
        tls::server_config(&shown, &issuers).expect("they can be shown");
        let half = PortArgs { tls_cert_file: Some("x".into()), ..args };
        assert!(identity(&half, half.bind_address, now).is_err());
    }
}
