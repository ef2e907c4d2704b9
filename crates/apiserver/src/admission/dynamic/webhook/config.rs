//! The webhooks of configurations, compiled.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_cel::k8s::admission::{self, Has};
use parking_lot::Mutex;
use serde_json::Value;

use super::super::evaluate::Condition;
use super::super::hooks::Compiled;
use super::super::rules::Constraints;
use super::credentials::Credentials;
use crate::admission::{items, meta};
use crate::authz::feed::Feed;
use crate::cache::Reader;
use crate::endpoints;
use crate::outbound::{Answer, DEADLINE, Endpoint};

/// A webhook.
pub struct Webhook {
    /// The configuration it is of.
    pub configuration: Arc<str>,
    /// Its name.
    pub name: Box<str>,
    /// Names it among all webhooks.
    pub id: String,
    /// Which requests it means.
    pub constraints: Constraints,
    /// What else must hold.
    pub conditions: Vec<Condition>,
    /// `failurePolicy: Ignore`: where it cannot be asked, requests pass.
    pub fails_open: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// Whether it may be asked about dry runs: `sideEffects` is `None` or `NoneOnDryRun`.
    pub dry_runs: bool,
    /// The first known version of reviews that it accepts.
    pub version: Option<Version>,
    /// `reinvocationPolicy: IfNeeded`.
    pub reinvoked: bool,
    /// How to reach it.
    pub server: Result<Server, String>,
}

/// A version of `admission.k8s.io`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `v1`.
    V1,
    /// `v1beta1`, whose answers need not say whose they are.
    V1beta1,
}

impl Version {
    /// As `apiVersion` of reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "admission.k8s.io/v1",
            Version::V1beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// Where a webhook is.
pub struct Server {
    /// Its connections.
    pub endpoint: Endpoint,
    /// The URL without parameters.
    pub url: String,
    /// The path of the URL.
    pub path: String,
    /// The Service that stands for the host of the URL: namespace, name and port.
    pub service: Option<(String, String, u16)>,
}

impl Server {
    /// Reads a `clientConfig`; `credentials` say who the API server is there.
    pub fn new(config: &Value, credentials: &Credentials) -> Result<Server, String> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let bundle = match config["caBundle"].as_str().filter(|b| !b.is_empty()) {
            Some(bundle) => {
                let pem = STANDARD.decode(bundle).ok().and_then(|bytes| String::from_utf8(bytes).ok());
                Some(pem.ok_or("unable to load root certificates: unable to parse bytes as PEM block")?)
            }
            None => None,
        };
        let service = &config["service"];
        let (url, service) = if service.is_object() {
            let (namespace, name) = (text(&service["namespace"]), text(&service["name"]));
            let port = service["port"].as_u64().and_then(|p| u16::try_from(p).ok()).unwrap_or(443);
            let path = text(&service["path"]);
            let path = format!("/{}", path.trim_start_matches('/'));
            (format!("https://{name}.{namespace}.svc:{port}{path}"), Some((namespace, name, port)))
        } else {
            (text(&config["url"]), None)
        };
        if url.is_empty() {
            return Err("webhook configuration must have either service or URL".into());
        }
        let parsed: http::Uri = url.parse().map_err(|e| format!("Unparsable URL: {e}"))?;
        let host = parsed.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let credential = credentials.to(host, parsed.port_u16().unwrap_or(443))?.unwrap_or_default();
        let endpoint = Endpoint::shown(&url, bundle.as_deref(), &credential, "kube-apiserver-admission")?;
        let path = parsed.path().to_owned();
        Ok(Server { endpoint, url, path, service })
    }

    /// Posts a review within a time. A Service is looked up by `reader`; without one the API server is ending.
    pub async fn post(&self, review: String, timeout: Duration, reader: Option<Reader>) -> Result<Answer, String> {
        let query = format!("?timeout={}s", timeout.as_secs());
        let addresses = || match (&self.service, reader) {
            (None, _) => Ok(vec![self.endpoint.address()]),
            (Some((namespace, name, port)), Some(reader)) => endpoints::addresses(&reader, namespace, name, *port),
            (Some(_), None) => Err("the server is ending".into()),
        };
        let path = format!("{}{query}", self.path);
        let asking = self.endpoint.post_to(&path, review, addresses);
        let answer = tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err(DEADLINE.into()));
        answer.map_err(|e| format!("Post \"{}{query}\": {e}", self.url))
    }
}

/// The webhooks of a configuration.
fn webhooks(configuration: &Value, credentials: &Credentials) -> Vec<Arc<Webhook>> {
    let name: Arc<str> = meta(configuration, "name").into();
    let one = |(n, hook): (usize, &Value)| Arc::new(Webhook::new(&name, n, hook, credentials));
    items(&configuration["webhooks"]).iter().enumerate().map(one).collect()
}

impl Webhook {
    fn new(configuration: &Arc<str>, n: usize, hook: &Value, credentials: &Credentials) -> Webhook {
        let env = admission::admission(Has { params: false, authorizer: true }).build();
        let name = hook["name"].as_str().unwrap_or_default();
        let version = |v: &Value| match v.as_str()? {
            "v1" => Some(Version::V1),
            "v1beta1" => Some(Version::V1beta1),
            _ => None,
        };
        Webhook {
            configuration: configuration.clone(),
            name: name.into(),
            id: format!("{configuration}/{name}/{n}"),
            constraints: Constraints::of_webhook(hook),
            conditions: Condition::all(&env, &hook["matchConditions"]),
            fails_open: hook["failurePolicy"] == "Ignore",
            timeout: Duration::from_secs(hook["timeoutSeconds"].as_u64().unwrap_or(10)),
            dry_runs: matches!(hook["sideEffects"].as_str(), Some("None" | "NoneOnDryRun")),
            version: items(&hook["admissionReviewVersions"]).iter().find_map(version),
            reinvoked: hook["reinvocationPolicy"] == "IfNeeded",
            server: Server::new(&hook["clientConfig"], credentials),
        }
    }
}

/// The webhooks of all configurations of one kind.
pub struct Webhooks {
    source: Mutex<Compiled<Vec<Arc<Webhook>>>>,
    all: ArcSwap<Vec<Arc<Webhook>>>,
}

impl Webhooks {
    /// None yet; the feed brings configurations.
    pub fn new(feed: Box<dyn Feed>, credentials: Credentials) -> Self {
        let make = move |configuration: &Value| webhooks(configuration, &credentials);
        Webhooks { source: Mutex::new(Compiled::new(feed, make)), all: ArcSwap::default() }
    }

    /// Those there are now: by the names of their configurations, then as these list them.
    pub fn now(&self) -> Arc<Vec<Arc<Webhook>>> {
        let mut source = self.source.lock();
        if source.sync() {
            self.all.store(Arc::new(source.iter().flat_map(|of| of.iter().cloned()).collect()));
        }
        self.all.load_full()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::authz::feed::fake::FakeFeed;

    #[test]
    fn servers_are_found() {
        let check = |config: Value, expected: Result<(&str, &str), &str>| {
            let server = Server::new(&config, &Credentials::default());
            let got = server.as_ref().map(|s| (s.url.as_str(), s.path.as_str())).map_err(String::as_str);
            assert_eq!(got, expected, "{config}");
        };
        let service = |path: &str| json!({"service": {"namespace": "ns", "name": "hook", "path": path, "port": 8443}});
        check(service("/a/b"), Ok(("https://hook.ns.svc:8443/a/b", "/a/b")));
        check(service("a"), Ok(("https://hook.ns.svc:8443/a", "/a")));
        check(json!({"service": {"namespace": "ns", "name": "hook"}}), Ok(("https://hook.ns.svc:443/", "/")));
        check(json!({"url": "https://1.2.3.4/x"}), Ok(("https://1.2.3.4/x", "/x")));
        check(json!({}), Err("webhook configuration must have either service or URL"));
        let bad = "unable to load root certificates: unable to parse bytes as PEM block";
        check(json!({"url": "https://a/", "caBundle": "?"}), Err(bad));
    }

    #[test]
    fn webhooks_are_listed_by_configuration() {
        let feed = FakeFeed::default();
        let hooks = Webhooks::new(Box::new(feed.clone()), Credentials::default());
        let put = |name: &str, generation: i64, hooks: &[&str]| {
            let hooks: Vec<_> =
                hooks.iter().map(|h| json!({"name": h, "admissionReviewVersions": ["v2", "v1beta1"]})).collect();
            feed.put(json!({"metadata": {"name": name, "uid": name, "generation": generation}, "webhooks": hooks}));
        };
        put("b", 1, &["z", "y"]);
        put("a", 1, &["x"]);
        let ids = || hooks.now().iter().map(|h| h.id.clone()).collect::<Vec<_>>();
        assert_eq!(ids(), ["a/x/0", "b/z/0", "b/y/1"]);
        let before = hooks.now();
        assert_eq!((before[0].version, before[0].timeout), (Some(Version::V1beta1), Duration::from_secs(10)));
        put("b", 2, &["z"]);
        assert_eq!(ids(), ["a/x/0", "b/z/0"]);
        assert!(Arc::ptr_eq(&before[0], &hooks.now()[0]), "what did not change keeps its connections");
        feed.delete("a");
        assert_eq!(ids(), ["b/z/0"]);
    }
}
