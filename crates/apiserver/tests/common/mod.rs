//! A whole API server on an embedded store, in process, for tests.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod https;

use std::sync::Arc;
use std::time::Instant;

use http::Request;
use http_body_util::BodyExt;
use jiff::Timestamp;
use orkd_apiserver::Body;
use orkd_apiserver::bootstrap::Facts;
use orkd_apiserver::cache::Caches;
use orkd_apiserver::pipeline::ApiServer;
use orkd_apiserver::security::{self, Guard, Options};
use orkd_apiserver::user::{InProcess, MASTERS, UserInfo};
use orkd_pki::cluster::{ClusterPki, ServerNames};
use orkd_store::backends::embedded;
use serde_json::Value;
use tower::ServiceExt;

/// The server and what it was made of.
pub struct World {
    /// The server.
    pub server: ApiServer,
    /// Its certificates.
    pub pki: ClusterPki,
    /// What guards it.
    pub guard: Guard,
    /// Its data.
    pub dir: tempfile::TempDir,
}

/// A user who may everything.
pub fn admin() -> UserInfo {
    UserInfo::new("admin", &[MASTERS])
}

impl World {
    /// A new cluster.
    pub async fn start() -> World {
        World::start_in(tempfile::tempdir().expect("dir")).await
    }

    /// A new cluster with other options.
    pub async fn start_changed(change: impl FnOnce(&mut Options)) -> World {
        let more = |mut options| {
            change(&mut options);
            options
        };
        World::start_with(tempfile::tempdir().expect("dir"), more).await
    }

    /// The cluster of a directory.
    pub async fn start_in(dir: tempfile::TempDir) -> World {
        World::start_with(dir, |options| options).await
    }

    /// The cluster of a directory, with other options.
    pub async fn start_with(dir: tempfile::TempDir, more: impl FnOnce(Options) -> Options) -> World {
        let started = Instant::now();
        let pki = ClusterPki::load_or_create(&dir.path().join("pki"), ServerNames::default(), Timestamp::now());
        let pki = pki.expect("pki");
        let store = embedded::Embedded::open(dir.path().join("db"), embedded::Options::default()).expect("store");
        let kinds = orkd_api::kinds::all().into_iter().chain(orkd_api::kinds::aggregated());
        let kinds = kinds.map(Arc::from).collect();
        let caches = Caches::open(Arc::new(store), kinds).await.expect("caches");
        let cidr = "10.43.0.0/16".parse().expect("cidr");
        let options = more(Options { service_cidrs: vec![cidr], ..Options::default() });
        let builder = ApiServer::builder(caches.clone());
        let (builder, guard) = security::secure(builder, &caches, &pki, &options).expect("secured");
        let server = builder.build();
        let facts = Facts {
            service_cidrs: vec![cidr],
            advertise: vec![[192, 0, 2, 1].into()],
            port: 6443,
            client_ca_pem: pki.ca_pem(),
            front_proxy_ca_pem: pki.front_proxy_ca.certificate().to_pem(),
            request_headers: options.request_headers.clone(),
            server_ca_pem: pki.ca_pem(),
        };
        let before = started.elapsed();
        guard.bootstrap(&server, &facts).await.expect("bootstrap");
        eprintln!("opened in {before:?}, ready in {:?}", started.elapsed());
        World { server, pki, guard, dir }
    }

    /// Sends a request.
    pub async fn send(&self, request: Request<Body>) -> (u16, Value) {
        let response = self.server.router().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::String(String::from_utf8_lossy(&bytes).into())))
    }

    /// Calls as a user.
    pub async fn call(&self, user: &UserInfo, method: &str, path: &str, body: Value) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        self.send(request.extension(InProcess(user.clone())).body(body).expect("request")).await
    }

    /// Reads with a bearer token.
    pub async fn get_with_token(&self, token: &str, path: &str) -> (u16, Value) {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        self.send(request.body(Body::empty()).expect("request")).await
    }
}
