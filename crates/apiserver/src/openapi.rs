//! OpenAPI v3.

use http::Response;
use http::request::Parts;

use crate::Body;
use crate::negotiation::Wanted;
use crate::pipeline::ApiServer;
use crate::query::Query;

/// Answers below `/openapi/v3`.
pub fn serve(
    _server: &ApiServer,
    _parts: &Parts,
    _wanted: &Wanted,
    _segments: &[&str],
    _query: &Query,
) -> Option<Response<Body>> {
    None
}
