//! The part of objects that all loops read.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::shared::{Shared, shared_text};

/// A trimmed struct of what loops read of a kind, decoded from the API's JSON. Unknown fields are dropped; fields
/// that may be absent need `#[serde(default)]`.
pub trait View: DeserializeOwned + Send + Sync + 'static {
    /// API group; empty for core.
    const GROUP: &'static str;
    /// Version, such as `v1`.
    const VERSION: &'static str;
    /// Kind, such as `Pod`.
    const KIND: &'static str;
    /// Plural in URLs, such as `pods`.
    const PLURAL: &'static str;
    /// Whether objects live in namespaces.
    const NAMESPACED: bool = true;
    /// The object's metadata.
    fn meta(&self) -> &Meta;
}

/// Names an object of a known kind. Ordered by namespace, then name. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// Namespace; empty for cluster-wide objects.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl Key {
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `ObjectMeta` without managed fields and without kubectl's copy of the whole object
/// (`kubectl.kubernetes.io/last-applied-configuration`), which no loop reads. What the objects of one owner have in
/// common is kept once.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name.
    pub name: Arc<str>,
    /// Namespace; empty for cluster-wide objects.
    #[serde(deserialize_with = "shared_text")]
    pub namespace: Arc<str>,
    /// Unique id.
    pub uid: String,
    /// Version of the object; compare by [`Meta::rv`].
    pub resource_version: String,
    /// Version of the spec.
    pub generation: i64,
    /// Labels.
    pub labels: Shared<BTreeMap<String, String>>,
    /// Annotations, kubectl's copy of the object left out.
    #[serde(deserialize_with = "annotations")]
    pub annotations: Shared<BTreeMap<String, String>>,
    /// Owners.
    pub owner_references: Shared<Vec<OwnerRef>>,
    /// Finalizers.
    pub finalizers: Shared<Vec<String>>,
    /// When the object was made.
    pub creation_timestamp: Option<Timestamp>,
    /// When the object shall be gone; set while it is being deleted.
    pub deletion_timestamp: Option<Timestamp>,
    /// The grace that was granted.
    pub deletion_grace_period_seconds: Option<i64>,
}

impl Meta {
    /// The object's key.
    pub fn key(&self) -> Key {
        Key { namespace: self.namespace.clone(), name: self.name.clone() }
    }

    /// The resource version as a number; 0 if it is none.
    pub fn rv(&self) -> u64 {
        self.resource_version.parse().unwrap_or(0)
    }

    /// Whether the object is being deleted.
    pub fn is_deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// The owner that controls the object.
    pub fn controller(&self) -> Option<&OwnerRef> {
        self.owner_references.iter().find(|o| o.controller)
    }

    /// Whether the object with this uid controls this one.
    pub fn is_controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|o| o.uid == uid)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }

    /// An annotation's value.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str)
    }
}

/// One owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerRef {
    /// Group and version, such as `apps/v1`.
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
    /// Unique id.
    pub uid: String,
    /// Whether this owner controls the object.
    #[serde(deserialize_with = "null_default")]
    pub controller: bool,
    /// Whether the owner's foreground deletion waits for the object.
    #[serde(deserialize_with = "null_default")]
    pub block_owner_deletion: bool,
}

impl OwnerRef {
    /// The group of [`OwnerRef::api_version`]; empty for core.
    pub fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

/// Reads `null` as the default: `#[serde(default, deserialize_with = "null_default")]`.
pub fn null_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

fn annotations<'de, D: Deserializer<'de>>(d: D) -> Result<Shared<BTreeMap<String, String>>, D::Error> {
    let mut map: BTreeMap<String, String> = null_default(d)?;
    map.remove("kubectl.kubernetes.io/last-applied-configuration");
    Ok(map.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read_with_nulls_and_unknown_fields() {
        let meta: Meta = serde_json::from_str(
            r#"{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","labels":null,"managedFields":[{}],
                "creationTimestamp":"2026-01-01T00:00:00Z","deletionTimestamp":null,
                "annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}","x":"y"},
                "ownerReferences":[{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"r","uid":"o","controller":true}]}"#,
        )
        .expect("metadata");
        assert_eq!((meta.key().to_string().as_str(), meta.rv()), ("n/a", 7));
        assert_eq!(meta.annotations.len(), 1);
        assert!(meta.is_controlled_by("o") && !meta.is_deleting());
        assert_eq!(meta.controller().map(OwnerRef::group), Some("apps"));
    }
}
