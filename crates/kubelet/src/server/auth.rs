//! What requests to the node server need. As upstream's webhook mode: the user must be allowed a verb on
//! `nodes/SUBRESOURCE` of this node.

use http::Method;
use rustls_pki_types::CertificateDer;

use crate::guard::{Guard, Refused, Wish};

/// The subresources of `nodes` that a path stands for; one that is allowed is enough (`pkg/kubelet/server/auth.go`,
/// fine-grained authorization included).
pub fn subresources(path: &str) -> &'static [&'static str] {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => &["stats"],
        "metrics" => &["metrics"],
        "logs" => &["log"],
        "checkpoint" => &["checkpoint"],
        "pods" | "runningpods" => &["pods", "proxy"],
        "healthz" => &["healthz", "proxy"],
        "configz" => &["configz", "proxy"],
        _ => &["proxy"],
    }
}

/// Lets a request to the server of a node pass or says why not.
pub async fn check(
    guard: &Guard,
    node: &str,
    chain: &[CertificateDer<'static>],
    token: Option<&str>,
    method: &Method,
    path: &str,
) -> Result<(), Refused> {
    let user = guard.user(chain, token).await?.ok_or_else(|| Refused(401, "Unauthorized".into()))?;
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::DELETE => "delete",
        Method::PATCH => "patch",
        _ => "get",
    };
    let mut refused = Vec::new();
    for subresource in subresources(path) {
        if guard.may(&user, &Wish::Node { verb, subresource, node: node.to_owned() }).await? {
            return Ok(());
        }
        refused.push(*subresource);
    }
    let named = refused.join(", ");
    let why = format!("Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{named}])", user.name);
    Err(Refused(403, why))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_subresources_of_nodes() {
        let check = |path: &str, expected: &[&str]| assert_eq!(subresources(path), expected, "{path}");
        check("/containerLogs/ns/pod/c", &["proxy"]);
        check("/stats/summary", &["stats"]);
        check("/metrics", &["metrics"]);
        check("/metrics/resource", &["metrics"]);
        check("/logs/", &["log"]);
        check("/pods", &["pods", "proxy"]);
        check("/runningpods/", &["pods", "proxy"]);
        check("/healthz", &["healthz", "proxy"]);
        check("/statsx", &["proxy"]);
        check("/", &["proxy"]);
    }
}
