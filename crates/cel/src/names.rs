//! Rules for names, labels and annotations, with upstream's texts
//! (`k8s.io/apimachinery/pkg/util/validation`).

use std::sync::LazyLock;

use regex::Regex;

const DNS_LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

fn matches(pattern: &'static LazyLock<Regex>, text: &str) -> bool {
    pattern.is_match(text)
}

fn regex(body: &str) -> Regex {
    Regex::new(&format!("^(?:{body})$")).expect("constant pattern compiles")
}

fn max_len(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

/// `generateName` may end in a dash: the check is of what a suffix makes of it.
fn masked(name: &str, prefix: bool) -> String {
    match name.strip_suffix('-') {
        Some(head) if prefix && !head.is_empty() => format!("{head}a"),
        _ => name.to_owned(),
    }
}

/// A DNS subdomain (RFC 1123), as most kinds' names are.
pub fn dns_subdomain(name: &str, prefix: bool) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| regex(&format!("{DNS_LABEL}(\\.{DNS_LABEL})*")));
    let name = masked(name, prefix);
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(max_len(253));
    }
    if !matches(&RE, &name) {
        problems.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .into(),
        );
    }
    problems
}

/// A DNS subdomain whose labels may have underscores, as search domains are.
/// Upstream: `IsDNS1123SubdomainWithUnderscore`, whose text shows the pattern without them.
pub fn dns_subdomain_with_underscore(name: &str) -> Vec<String> {
    const LABEL: &str = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?";
    static RE: LazyLock<Regex> = LazyLock::new(|| regex(&format!("{LABEL}(\\.{LABEL})*")));
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(max_len(253));
    }
    if !matches(&RE, name) {
        problems.push(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
                .into(),
        );
    }
    problems
}

/// A DNS label (RFC 1123), as namespaces, containers and ports are named.
pub fn dns_label(name: &str, prefix: bool) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| regex(DNS_LABEL));
    let name = masked(name, prefix);
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(max_len(63));
    }
    if !matches(&RE, &name) {
        problems.push(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
                .into(),
        );
    }
    problems
}

/// A DNS label (RFC 1035), as services were named before v1.36's relaxation.
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| regex("[a-z]([-a-z0-9]*[a-z0-9])?"));
    let name = masked(name, prefix);
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(max_len(63));
    }
    if !matches(&RE, &name) {
        problems.push(
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
             character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
             validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"
                .into(),
        );
    }
    problems
}

/// A name usable as one segment of a URL path, as RBAC objects are named.
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    let mut problems = Vec::new();
    if !prefix && (name == "." || name == "..") {
        problems.push(format!("may not be '{name}'"));
    }
    for c in ["/", "%"] {
        if name.contains(c) {
            problems.push(format!("may not contain '{c}'"));
        }
    }
    problems
}

/// A qualified name: an optional DNS subdomain and a slash, then a name of at most 63 characters. Label keys,
/// annotation keys, resource names and finalizers are such.
pub fn qualified_name(value: &str) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| regex("([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"));
    const RULE: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end \
                        with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
                        validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
    let mut problems = Vec::new();
    let parts: Vec<&str> = value.split('/').collect();
    let name = match parts.as_slice() {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".into());
            } else {
                problems.extend(dns_subdomain(prefix, false).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            problems.push(
                "a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
                 an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
                 '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
                    .into(),
            );
            return problems;
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".into());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", max_len(63)));
    }
    if !matches(&RE, name) {
        problems.push(RULE.into());
    }
    problems
}

/// A label's value: empty or at most 63 characters of a name.
pub fn label_value(value: &str) -> Vec<String> {
    static RE: LazyLock<Regex> = LazyLock::new(|| regex("(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"));
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push(max_len(63));
    }
    if !matches(&RE, value) {
        problems.push(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must \
             start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used \
             for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
                .into(),
        );
    }
    problems
}
