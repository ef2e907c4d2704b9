//! Where a webhook is reached. Upstream: `k8s.io/apiserver/pkg/util/webhook/validation.go`.

use crate::field::{ErrorList, Path};
use crate::object::View;

/// The versions of reviews that a server of this version sends.
const ACCEPTED_VERSIONS: [&str; 2] = ["v1", "v1beta1"];

/// A client configuration: an address or a service.
pub fn client_config(errs: &mut ErrorList, config: &View<'_>) {
    let (url, service) = (config.get("url"), config.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => address(errs, &url),
        (false, true) => service_reference(errs, &service),
        _ => errs.required(config.path(), "exactly one of url or service is required"),
    }
}

/// The parts of an address that matter here.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

fn parse(url: &str) -> Url<'_> {
    let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let is_scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let (scheme, rest) = rest.split_once(':').filter(|(scheme, _)| is_scheme(scheme)).unwrap_or(("", rest));
    let authority = rest.strip_prefix("//").map_or("", |rest| rest.split('/').next().unwrap_or_default());
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, authority),
    };
    Url { scheme, user, host, query, fragment }
}

/// Why Go's `url.Parse` refuses a text. What hosts may be made of is looked at less closely here.
fn refused(url: &str) -> Option<String> {
    if url.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return Some("net/url: invalid control character in URL".into());
    }
    let rest = url.split('#').next().unwrap_or_default();
    if rest.starts_with(':') {
        return Some("missing protocol scheme".into());
    }
    let parsed = parse(url);
    let before_query = rest.split('?').next().unwrap_or_default();
    if parsed.scheme.is_empty() && !before_query.starts_with('/') {
        let segment = before_query.split('/').next().unwrap_or_default();
        return segment.contains(':').then(|| "first path segment in URL cannot contain colon".into());
    }
    if let Some((i, _)) = before_query.match_indices('%').find(|(i, _)| {
        let digits = before_query.as_bytes().get(i + 1..i + 3);
        !digits.is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
    }) {
        let shown: String = before_query.get(i..).unwrap_or_default().chars().take(3).collect();
        return Some(format!("invalid URL escape {}", crate::field::quote(&shown)));
    }
    let port = match parsed.host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((_, after)) => after,
            None => return Some("missing ']' in host".into()),
        },
        None => parsed.host.find(':').and_then(|i| parsed.host.get(i..)).unwrap_or_default(),
    };
    let is_port = |p: &str| p.is_empty() || p.strip_prefix(':').is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()));
    if !is_port(port) {
        return Some(format!("invalid port {} after host", crate::field::quote(port)));
    }
    parsed.host.contains(' ').then(|| "invalid character \" \" in host name".into())
}

fn address(errs: &mut ErrorList, v: &View<'_>) {
    const FORM: &str = "; desired format: https://host[/path]";
    if let Some(why) = refused(v.str()) {
        let shown = crate::field::quote(v.str());
        errs.required(v.path(), format!("url must be a valid URL: parse {shown}: {why}{FORM}"));
        return;
    }
    let url = parse(v.str());
    let scheme = url.scheme.to_ascii_lowercase();
    if scheme != "https" {
        errs.invalid(v.path(), &scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if url.host.is_empty() {
        errs.invalid(v.path(), url.host, format!("host must be specified{FORM}"));
    }
    if let Some(user) = url.user {
        errs.invalid(v.path(), user, "user information is not permitted in the URL");
    }
    if !url.fragment.is_empty() {
        errs.invalid(v.path(), url.fragment, "fragments are not permitted in the URL");
    }
    if !url.query.is_empty() {
        errs.invalid(v.path(), url.query, "query parameters are not permitted in the URL");
    }
}

fn service_reference(errs: &mut ErrorList, service: &View<'_>) {
    let (name, namespace, port, path) =
        (service.get("name"), service.get("namespace"), service.get("port"), service.get("path"));
    if name.is_empty() {
        errs.required(name.path(), "");
    }
    if namespace.is_empty() {
        errs.required(namespace.path(), "");
    }
    let n = port.int().unwrap_or_default();
    if !(1..=65535).contains(&n) {
        errs.invalid(port.path(), n, "port is not valid: must be between 1 and 65535, inclusive");
    }
    url_path(errs, path.str(), path.path());
}

fn url_path(errs: &mut ErrorList, text: &str, path: &Path) {
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        errs.invalid(path, text, "segment[0] may not be empty");
        return;
    }
    if !text.starts_with('/') {
        errs.invalid(path, text, "must start with a '/'");
    }
    let mut chars = text.chars();
    chars.next();
    let rest = chars.as_str();
    for (i, step) in rest.strip_suffix('/').unwrap_or(rest).split('/').enumerate() {
        if step.is_empty() {
            errs.invalid(path, text, format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in crate::names::dns_subdomain(step, false) {
            errs.invalid(path, text, format!("segment[{i}]: {problem}"));
        }
    }
}

/// Versions of reviews that a webhook understands; at least one is ours, where that is required.
pub fn review_versions(errs: &mut ErrorList, list: &View<'_>, recognized: bool) {
    if list.is_empty() {
        errs.required(list.path(), format!("must specify one of {}", ACCEPTED_VERSIONS.join(", ")));
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for v in list.list() {
        if !seen.insert(v.str()) {
            errs.invalid(v.path(), v.str(), "duplicate version");
            continue;
        }
        for problem in crate::names::dns1035_label(v.str(), false) {
            errs.invalid(v.path(), v.str(), problem);
        }
    }
    if recognized && !list.strs().iter().any(|v| is_accepted(v)) {
        let accepted = ACCEPTED_VERSIONS.join(", ");
        errs.invalid(list.path(), list.value(), format!("must include at least one of {accepted}"));
    }
}

/// Whether this server sends reviews of a version.
pub fn is_accepted(version: &str) -> bool {
    ACCEPTED_VERSIONS.contains(&version)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::validate::testing::texts;

    #[test]
    fn a_webhook_is_reached_in_one_way() {
        let check = |config: serde_json::Value, expected: &[&str]| {
            let mut errs = ErrorList::new();
            client_config(&mut errs, &View::at(Path::new("c"), &config));
            assert_eq!(texts(&errs), expected);
        };
        check(json!({"url": "https://host:8443/path"}), &[]);
        check(json!({"service": {"name": "s", "namespace": "n", "port": 443, "path": "/a/b/"}}), &[]);
        for (url, why) in [
            ("://x", "missing protocol scheme"),
            ("1x:y", "first path segment in URL cannot contain colon"),
            ("https://h:port/", "invalid port \":port\" after host"),
            ("https://h/%zz", "invalid URL escape \"%zz\""),
            ("https://[::1", "missing ']' in host"),
        ] {
            let expected = format!(
                "c.url: Required value: url must be a valid URL: parse \"{url}\": {why}; desired format: https://host[/path]"
            );
            check(json!({ "url": url }), &[&expected]);
        }
        check(json!({"url": "https://[::1]:443/"}), &[]);
        check(json!({}), &["c: Required value: exactly one of url or service is required"]);
        check(
            json!({"url": "http://u:p@h/x?q#f"}),
            &[
                "c.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                "c.url: Invalid value: \"u:p\": user information is not permitted in the URL",
                "c.url: Invalid value: \"f\": fragments are not permitted in the URL",
                "c.url: Invalid value: \"q\": query parameters are not permitted in the URL",
            ],
        );
        check(
            json!({"service": {"name": "", "namespace": "n", "port": 0, "path": "a//b"}}),
            &[
                "c.service.name: Required value",
                "c.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "c.service.path: Invalid value: \"a//b\": must start with a '/'",
                "c.service.path: Invalid value: \"a//b\": segment[0] may not be empty",
                "c.service.path: Invalid value: \"a//b\": segment[1] may not be empty",
            ],
        );
    }
}
