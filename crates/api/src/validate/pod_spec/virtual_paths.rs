//! Files of a volume that are in each other's way: the same, or one below the other.
//! Upstream: `warningsForOverlappingVirtualPaths` in `pkg/api/pod/warnings.go`.

use std::fmt;

use crate::field::quote;
use crate::object::View;

/// A file, and what makes it where that is not clear.
struct File {
    path: String,
    source: String,
}

impl fmt::Display for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quote(&self.path))?;
        if self.source.is_empty() { Ok(()) } else { write!(f, " ({})", self.source) }
    }
}

/// Warnings for all volumes of a pod.
pub fn overlapping(spec: &View<'_>) -> Vec<String> {
    let mut out = Vec::new();
    for volume in spec.items("volumes") {
        let name = quote(volume.get("name").str());
        let mut say = |what: &str, files: Vec<File>| {
            out.extend(
                overlaps(files).into_iter().map(|of| format!("volume {name} ({what}): overlapping paths: {of}")),
            );
        };
        let named = |field: &'static str, key: &'static str| quote(volume.get(field).get_named(key).str());
        say(&format!("ConfigMap {}", named("configMap", "name")), items(&volume.get("configMap"), ""));
        say(&format!("Secret {}", named("secret", "secretName")), items(&volume.get("secret"), ""));
        say("DownwardAPI", items(&volume.get("downwardAPI"), ""));
        let sources = volume.get("projected").items("sources");
        let empty = sources.iter().filter(|source| source.entries().is_empty()).count();
        say("Projected", sources.iter().flat_map(projected).collect());
        out.extend(std::iter::repeat_n(format!("volume {name} (Projected) has no sources provided"), empty));
    }
    out
}

fn items(v: &View<'_>, source: &str) -> Vec<File> {
    v.items("items").iter().map(|item| file(item.get("path").str(), source)).collect()
}

fn file(path: &str, source: impl Into<String>) -> File {
    File { path: path.trim_end_matches('/').to_owned(), source: source.into() }
}

fn projected(source: &View<'_>) -> Vec<File> {
    let named = |what: &str, v: &View<'_>| format!("{what} {}", quote(v.get("name").str()));
    let one = |field: &'static str| Some(source.get(field)).filter(View::is_set);
    if let Some(v) = one("configMap").filter(|v| v.get("items").is_set()) {
        return items(&v, &named("ConfigMap", &v));
    }
    if let Some(v) = one("secret").filter(|v| v.get("items").is_set()) {
        return items(&v, &named("Secret", &v));
    }
    if let Some(v) = one("downwardAPI").filter(|v| v.get("items").is_set()) {
        return items(&v, "DownwardAPI");
    }
    if let Some(v) = one("serviceAccountToken") {
        return vec![file(v.get("path").str(), "ServiceAccountToken")];
    }
    if let Some(v) = one("clusterTrustBundle") {
        let name = if v.get("name").is_set() { v.get("name") } else { v.get("signerName") };
        return vec![file(v.get("path").str(), format!("ClusterTrustBundle {}", quote(name.str())))];
    }
    let of_certificate = one("podCertificate").into_iter().flat_map(|v| {
        [
            ("certificateChainPath", "PodCertificate chain"),
            ("keyPath", "PodCertificate key"),
            ("credentialBundlePath", "PodCertificate credential bundle"),
        ]
        .map(|(field, what)| file(v.get_named(field).str(), what))
    });
    of_certificate.collect()
}

/// Each file with each before it that is in its way.
fn overlaps(files: Vec<File>) -> Vec<String> {
    let below = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
    let files: Vec<File> = files.into_iter().filter(|file| !file.path.is_empty()).collect();
    let pairs = files.iter().enumerate().flat_map(|(i, file)| files[..i].iter().map(move |before| (file, before)));
    pairs
        .filter(|(file, before)| below(&file.path, &before.path) || below(&before.path, &file.path))
        .map(|(file, before)| format!("{file} with {before}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_in_each_others_way_are_told() {
        let files = |paths: &[&str]| json!(paths.iter().map(|p| json!({"key": "k", "path": p})).collect::<Vec<_>>());
        for (volume, expected) in [
            (json!({"name": "v", "configMap": {"name": "n", "items": files(&["a", "b", "ab", "c/d"])}}), &[][..]),
            (
                json!({"name": "v", "configMap": {"name": "n", "items": files(&["a", "a/b/", "a"])}}),
                &[
                    r#"volume "v" (ConfigMap "n"): overlapping paths: "a/b" with "a""#,
                    r#"volume "v" (ConfigMap "n"): overlapping paths: "a" with "a""#,
                    r#"volume "v" (ConfigMap "n"): overlapping paths: "a" with "a/b""#,
                ],
            ),
            (
                json!({"name": "v", "secret": {"secretName": "n", "items": files(&["a", "a"])}}),
                &[r#"volume "v" (Secret "n"): overlapping paths: "a" with "a""#],
            ),
            (
                json!({"name": "v", "downwardAPI": {"items": files(&["a/b", "a"])}}),
                &[r#"volume "v" (DownwardAPI): overlapping paths: "a" with "a/b""#],
            ),
            (
                json!({"name": "v", "projected": {"sources": [
                    {}, {"secret": {"name": "s", "items": files(&["token", "ca"])}}, {"serviceAccountToken": {"path": "token"}},
                    {"clusterTrustBundle": {"signerName": "g", "path": "ca"}}, {"secret": {"name": "whole"}},
                    {"podCertificate": {"keyPath": "ca/key"}}]}}),
                &[
                    r#"volume "v" (Projected): overlapping paths: "token" (ServiceAccountToken) with "token" (Secret "s")"#,
                    r#"volume "v" (Projected): overlapping paths: "ca" (ClusterTrustBundle "g") with "ca" (Secret "s")"#,
                    r#"volume "v" (Projected): overlapping paths: "ca/key" (PodCertificate key) with "ca" (Secret "s")"#,
                    r#"volume "v" (Projected): overlapping paths: "ca/key" (PodCertificate key) with "ca" (ClusterTrustBundle "g")"#,
                    r#"volume "v" (Projected) has no sources provided"#,
                ],
            ),
        ] {
            let spec = json!({"volumes": [volume]});
            assert_eq!(overlapping(&View::root(&spec)), expected, "{volume}");
        }
    }
}
