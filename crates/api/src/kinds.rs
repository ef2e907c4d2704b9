//! Every built-in kind, listed once, and the short form in which a kind states its facts.
//!
//! Adding a kind: one file in the folder of its group, one line in that group's `all()`. [`all`] are the resources
//! that have an address of their own; [`bodies`] are the kinds that occur only as the body of a subresource
//! (`Scale`, `Eviction`, `TokenRequest`), which are defaulted and validated by the same calls.
//!
//! Every stable kind of v1.36 is here; alpha and beta versions are not served. [`aggregated`] are kinds of other servers
//! upstream.

use std::borrow::Cow;

use crate::kind::{Kind, ResourceInfo, Scope, SubresourceInfo, table};

/// Every resource with an address of its own.
pub fn all() -> Vec<Box<dyn Kind>> {
    [
        crate::core::all(),
        crate::admissionregistration::all(),
        crate::apiextensions::all(),
        crate::apiregistration::all(),
        crate::apps::all(),
        crate::authentication::all(),
        crate::authorization::all(),
        crate::autoscaling::all(),
        crate::batch::all(),
        crate::certificates::all(),
        crate::coordination::all(),
        crate::discovery::all(),
        crate::events::all(),
        crate::flowcontrol::all(),
        crate::networking::all(),
        crate::node::all(),
        crate::policy::all(),
        crate::rbac::all(),
        crate::resource::all(),
        crate::scheduling::all(),
        crate::storage::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The kinds that upstream leaves to a second server behind the aggregation layer, and that the API server of orkd
/// answers itself. They are served beside those of [`all`].
pub fn aggregated() -> Vec<Box<dyn Kind>> {
    crate::metrics::all()
}

/// The kinds that are bodies of subresources only. Their `plural` is the name of the subresource.
pub fn bodies() -> Vec<Box<dyn Kind>> {
    vec![
        Box::new(crate::apps::scale::Scale),
        Box::new(crate::authentication::token_request::TokenRequest),
        Box::new(crate::policy::eviction::Eviction),
    ]
}

/// The facts of a kind in the form its file states them; [`Facts::info`] completes them.
pub(crate) struct Facts {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    /// Empty: the kind in lower case.
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    pub scope: Scope,
    pub verbs: &'static [&'static str],
    pub subresources: &'static [Sub],
    /// Empty: as the plural.
    pub prefix: &'static str,
    pub columns: &'static [(&'static str, &'static str, &'static str, i32)],
}

/// A subresource: name, kind of the body (empty: the resource's own kind), group and version of the body where they
/// differ, verbs.
pub(crate) struct Sub(
    pub &'static str,
    pub &'static str,
    pub Option<(&'static str, &'static str)>,
    pub &'static [&'static str],
);

pub(crate) const READ_WRITE: &[&str] = &["get", "patch", "update"];
pub(crate) const CONNECT: &[&str] = &["create", "get"];
pub(crate) const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
pub(crate) const CREATE_ONLY: &[&str] = &["create"];

pub(crate) const STATUS: Sub = Sub("status", "", None, READ_WRITE);
pub(crate) const SCALE: Sub = Sub("scale", "Scale", Some(("autoscaling", "v1")), READ_WRITE);

/// The name column.
pub(crate) const NAME: (&str, &str, &str, i32) = ("Name", "string", "name", 0);
/// The age column.
pub(crate) const AGE: (&str, &str, &str, i32) = ("Age", "string", "", 0);

impl Facts {
    pub(crate) const fn new(group: &'static str, version: &'static str, scope: Scope) -> Self {
        Facts {
            group,
            version,
            kind: "",
            plural: "",
            singular: "",
            short_names: &[],
            categories: &[],
            scope,
            verbs: crate::kind::ALL_VERBS,
            subresources: &[],
            prefix: "",
            columns: &[NAME, ("Created At", "date", "", 0)],
        }
    }

    /// The facts of a kind that lives in namespaces.
    pub(crate) const fn namespaced(group: &'static str, version: &'static str) -> Self {
        Facts::new(group, version, Scope::Namespaced)
    }

    /// The facts of a kind that lives outside namespaces.
    pub(crate) const fn cluster(group: &'static str, version: &'static str) -> Self {
        Facts::new(group, version, Scope::Cluster)
    }

    pub(crate) fn info(self) -> ResourceInfo {
        let package = match self.group.split('.').next() {
            Some("") | None => "core",
            Some(first) => first,
        };
        let own = |names: &[&'static str]| names.iter().map(|&n| Cow::Borrowed(n)).collect();
        ResourceInfo {
            group: self.group.into(),
            version: self.version.into(),
            kind: self.kind.into(),
            plural: self.plural.into(),
            singular: match self.singular {
                "" => self.kind.to_lowercase().into(),
                singular => singular.into(),
            },
            short_names: own(self.short_names),
            categories: own(self.categories),
            scope: self.scope,
            verbs: self.verbs,
            subresources: self
                .subresources
                .iter()
                .map(|&Sub(name, kind, body, verbs)| SubresourceInfo {
                    name: name.into(),
                    kind: if kind.is_empty() { self.kind } else { kind }.into(),
                    group: body.map(|(group, _)| group.into()),
                    version: body.map(|(_, version)| version.into()),
                    verbs,
                })
                .collect(),
            storage_prefix: if self.prefix.is_empty() { self.plural } else { self.prefix }.into(),
            type_name: format!("{}/{}.{}", go_package(package), self.version, self.kind).into(),
            columns: table(self.columns),
        }
    }
}

/// The Go package of a group, without the version.
fn go_package(group: &str) -> String {
    match group {
        "apiextensions" => "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions".into(),
        "apiregistration" => "k8s.io/kube-aggregator/pkg/apis/apiregistration".into(),
        "metrics" => "k8s.io/metrics/pkg/apis/metrics".into(),
        _ => format!("k8s.io/api/{group}"),
    }
}

/// Implements [`Kind::info`] from the facts of the kind.
macro_rules! facts {
    ($facts:expr) => {
        fn info(&self) -> &crate::kind::ResourceInfo {
            static INFO: std::sync::LazyLock<crate::kind::ResourceInfo> =
                std::sync::LazyLock::new(|| crate::kinds::Facts::info($facts));
            &INFO
        }
    };
}
pub(crate) use facts;

/// Resources whose removal answers with the object; all others answer with a Status (`ReturnDeletedObject` of
/// their stores).
const RETURN_DELETED: &[(&str, &str)] = &[
    ("", "persistentvolumeclaims"),
    ("", "persistentvolumes"),
    ("", "pods"),
    ("", "podtemplates"),
    ("", "resourcequotas"),
    ("", "serviceaccounts"),
    ("", "services"),
    ("resource.k8s.io", "deviceclasses"),
    ("resource.k8s.io", "resourceclaims"),
    ("resource.k8s.io", "resourceclaimtemplates"),
    ("resource.k8s.io", "resourceslices"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "volumeattributesclasses"),
];

/// Whether the removal of an object answers with the object.
pub fn returns_deleted(info: &ResourceInfo) -> bool {
    RETURN_DELETED.iter().any(|(group, plural)| *group == info.group && *plural == info.plural)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;

    /// A file of the recorded facts, or `None` (said aloud) where they are not at hand.
    pub(crate) fn recorded(path: &str) -> Option<Value> {
        let root = std::env::var_os("ORKD_SHARED").map_or_else(
            || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
            std::path::PathBuf::from,
        );
        let file = root.join("kubernetes-1.36").join(path);
        match std::fs::read(&file) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).expect("recorded facts are JSON")),
            Err(_) => {
                eprintln!("skipped: no ../shared ({path})");
                None
            }
        }
    }

    #[test]
    fn every_kind_is_listed_once() {
        let (mut kinds, mut addresses) = (BTreeSet::new(), BTreeSet::new());
        for kind in all() {
            let info = kind.info();
            assert!(kinds.insert((info.group.clone(), info.version.clone(), info.kind.clone())), "{info:?}");
            assert!(addresses.insert((info.group.clone(), info.version.clone(), info.plural.clone())), "{info:?}");
        }
        for kind in aggregated() {
            let info = kind.info();
            assert!(addresses.insert((info.group.clone(), info.version.clone(), info.plural.clone())), "{info:?}");
        }
        for kind in bodies().into_iter().chain(aggregated()) {
            let info = kind.info();
            assert!(kinds.insert((info.group.clone(), info.version.clone(), info.kind.clone())), "{info:?}");
        }
    }

    #[test]
    fn facts_are_those_recorded() {
        let Some(columns) = recorded("recorded/table-columns.json") else { return };
        for kind in all() {
            let info = kind.info();
            let (file, path) = if info.group.is_empty() {
                (format!("recorded/discovery/api__{}.json", info.version), format!("/api/{}", info.version))
            } else {
                (
                    format!("recorded/discovery/apis__{}__{}.json", info.group, info.version),
                    format!("/apis/{}/{}", info.group, info.version),
                )
            };
            let Some(discovery) = recorded(&file) else { return };
            let find = |name: &str| {
                discovery["resources"]
                    .as_array()
                    .and_then(|list| list.iter().find(|r| r["name"] == name))
                    .unwrap_or_else(|| panic!("{name} is not in {file}"))
            };
            let texts = |v: &Value| -> Vec<String> {
                v.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
            };
            let main = find(&info.plural);
            assert_eq!(main["kind"], *info.kind);
            assert_eq!(main["singularName"], *info.singular);
            assert_eq!(main["namespaced"], info.scope == Scope::Namespaced, "{}", info.kind);
            assert_eq!(texts(&main["verbs"]), info.verbs, "{}", info.kind);
            assert_eq!(texts(&main["shortNames"]), info.short_names, "{}", info.kind);
            assert_eq!(texts(&main["categories"]), info.categories, "{}", info.kind);
            let prefix = format!("{}/", info.plural);
            let names: Vec<&str> = discovery["resources"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|r| r["name"].as_str()?.strip_prefix(&prefix))
                .collect();
            let ours: Vec<&str> = info.subresources.iter().map(|s| &*s.name).collect();
            assert_eq!(names, ours, "{}", info.kind);
            for sub in &info.subresources {
                let theirs = find(&format!("{prefix}{}", sub.name));
                assert_eq!(theirs["kind"], *sub.kind);
                assert_eq!(theirs["group"].as_str(), sub.group.as_deref());
                assert_eq!(theirs["version"].as_str(), sub.version.as_deref());
                assert_eq!(texts(&theirs["verbs"]), sub.verbs, "{}/{}", info.kind, sub.name);
            }
            if let Some(list) = columns[format!("{path}/{}", info.plural)].as_array() {
                let ours: Vec<Value> = info
                    .columns
                    .iter()
                    .map(|c| serde_json::json!({"name": c.name, "type": c.ty, "format": c.format, "priority": c.priority}))
                    .collect();
                assert_eq!(list, &ours, "{}", info.kind);
            }
        }
    }
}
