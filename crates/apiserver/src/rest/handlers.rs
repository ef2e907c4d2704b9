//! Every handler, listed once.

use std::sync::Arc;

use http::{HeaderValue, header};
use orkd_pki::jwt::{Signer, Verifier};
use serde_json::{Value, json};

use super::binding::Binding;
use super::component_status::ComponentStatuses;
use super::eviction::Eviction;
use super::pod_stream::{Log, PodStream, Stream};
use super::proxy::{Proxy, To};
use super::resource_metrics::{Collector, Of, ResourceMetrics};
use super::review::{AccessReview, RulesReview, SelfReview, TokenReview, Whose};
use super::token::Token;
use crate::pipeline::{Builder, PathHandler};
use crate::security::{Guard, Options};

/// Adds the handlers to a server.
pub(crate) fn add(
    builder: Builder,
    guard: &Guard,
    signer: &Arc<Signer>,
    verifier: &Arc<Verifier>,
    options: &Options,
) -> Builder {
    const AUTHENTICATION: &str = "authentication.k8s.io";
    const AUTHORIZATION: &str = "authorization.k8s.io";
    let review = |whose| Arc::new(AccessReview::new(Arc::clone(&guard.authorizer), whose));
    let dialer = || Arc::clone(&guard.dialer);
    let stream = |stream| Arc::new(PodStream::new(stream, dialer(), Arc::clone(&guard.authorizer)));
    let token = Token::new(Arc::clone(signer), guard.bearer.audiences().to_vec())
        .limit(options.max_token_seconds)
        .extend(options.extend_tokens);
    let collector = Collector::new(dialer());
    let metrics = |of| Arc::new(ResourceMetrics::new(of, collector.clone()));
    let own_keys = format!("{}/openid/v1/jwks", signer.issuer().trim_end_matches('/'));
    let discovery = json!({
        "issuer": signer.issuer(),
        "jwks_uri": options.jwks_uri.as_ref().unwrap_or(&own_keys),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": verifier.algorithms(),
    });
    let keys = verifier.key_set();
    builder
        .rest(AUTHENTICATION, "tokenreviews", "", Arc::new(TokenReview::new(Arc::clone(&guard.bearer))))
        .rest(AUTHENTICATION, "selfsubjectreviews", "", Arc::new(SelfReview))
        .rest(AUTHORIZATION, "subjectaccessreviews", "", review(Whose::Named))
        .rest(AUTHORIZATION, "localsubjectaccessreviews", "", review(Whose::NamedHere))
        .rest(AUTHORIZATION, "selfsubjectaccessreviews", "", review(Whose::Own))
        .rest(AUTHORIZATION, "selfsubjectrulesreviews", "", Arc::new(RulesReview::new(Arc::clone(&guard.authorizer))))
        .rest("", "serviceaccounts", "token", Arc::new(token))
        .rest("", "pods", "binding", Arc::new(Binding))
        .rest("", "bindings", "", Arc::new(Binding))
        .rest("", "componentstatuses", "", Arc::new(ComponentStatuses))
        .rest("", "pods", "eviction", Arc::new(Eviction))
        .rest("", "pods", "log", Arc::new(Log::new(dialer())))
        .rest("", "pods", "exec", stream(Stream::Exec))
        .rest("", "pods", "attach", stream(Stream::Attach))
        .rest("", "pods", "portforward", stream(Stream::PortForward))
        .rest("", "nodes", "proxy", Arc::new(Proxy::new(To::Node, dialer())))
        .rest("", "pods", "proxy", Arc::new(Proxy::new(To::Pod, dialer())))
        .rest("", "services", "proxy", Arc::new(Proxy::new(To::Service, dialer())))
        .rest("metrics.k8s.io", "nodes", "", metrics(Of::Nodes))
        .rest("metrics.k8s.io", "pods", "", metrics(Of::Pods))
        .path("/.well-known/openid-configuration", document(&discovery, "application/json"))
        .path("/openid/v1/jwks", document(&keys, "application/jwk-set+json"))
}

/// A document that may be kept for an hour (`pkg/routes/openidmetadata.go`).
fn document(value: &Value, content_type: &'static str) -> PathHandler {
    let text = value.to_string();
    Arc::new(move |_| {
        let mut response = http::Response::new(crate::Body::from(text.clone()));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600"));
        response
    })
}
