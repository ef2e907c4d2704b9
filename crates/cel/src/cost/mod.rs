//! What expressions cost: while they run ([`runtime`]) and, as a range, beforehand ([`estimate`]). The unit is about
//! that of upstream: one for a step, more for what grows with its input.
//!
//! Both follow cel-go (`interpreter/runtimecost.go`, `checker/cost.go`) and Kubernetes' `library/cost.go`. Which
//! expressions the API accepts depends on the estimates, so they are part of the API.

pub(crate) mod estimate;
pub mod range;
pub(crate) mod runtime;

/// Of a character that is looked at.
pub(crate) const TRAVERSAL: f64 = 0.1;

/// Of a character of a pattern.
pub(crate) const PATTERN: f64 = 0.25;

/// Of `check` of an authorizer: two fit in an expression.
pub(crate) const AUTHORIZATION: u64 = 350_000;

/// Functions that cost one whatever they are given.
pub(crate) fn is_nominal(function: &str) -> bool {
    const AUTHORIZER: [&str; 11] = [
        "serviceAccount",
        "path",
        "group",
        "resource",
        "subresource",
        "namespace",
        "name",
        "allowed",
        "reason",
        "error",
        "errored",
    ];
    const ADDRESSES: [&str; 8] = [
        "masked",
        "prefixLength",
        "family",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalMulticast",
        "isLinkLocalUnicast",
        "isGlobalUnicast",
    ];
    const AMOUNTS: [&str; 12] = [
        "sign",
        "asInteger",
        "isInteger",
        "asApproximateFloat",
        "isGreaterThan",
        "isLessThan",
        "compareTo",
        "add",
        "sub",
        "major",
        "minor",
        "patch",
    ];
    const URLS: [&str; 7] =
        ["getScheme", "getHostname", "getHost", "getPort", "getEscapedPath", "getQuery", "format.named"];
    AUTHORIZER.contains(&function)
        || ADDRESSES.contains(&function)
        || AMOUNTS.contains(&function)
        || URLS.contains(&function)
}
