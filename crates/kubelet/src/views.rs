//! What the kubelet caches of the API. A node's pods are few and read as a whole, so a pod is kept as a whole, without
//! its managed fields.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use orkd_reconcile::{Meta, View};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

macro_rules! whole {
    ($(#[$doc:meta])* $view:ident, $object:ty, $kind:literal, $plural:literal) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $view {
            meta: Meta,
            /// The object.
            pub object: Arc<$object>,
        }

        impl<'de> Deserialize<'de> for $view {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let value = serde_json::Value::deserialize(d)?;
                let meta = value.get("metadata").cloned().unwrap_or_default();
                let meta = Meta::deserialize(meta).map_err(D::Error::custom)?;
                // Items of a list do not name their type, and the typed object insists on it.
                let mut value = value;
                if let Some(map) = value.as_object_mut() {
                    map.insert("apiVersion".to_owned(), "v1".into());
                    map.insert("kind".to_owned(), $kind.into());
                }
                let mut object = <$object>::deserialize(value).map_err(D::Error::custom)?;
                object.metadata.managed_fields = None;
                Ok(Self { meta, object: Arc::new(object) })
            }
        }

        impl View for $view {
            const GROUP: &'static str = "";
            const VERSION: &'static str = "v1";
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            fn meta(&self) -> &Meta {
                &self.meta
            }
        }
    };
}

whole!(
    /// A pod of this node.
    PodView, Pod, "Pod", "pods"
);
whole!(
    /// A service, for environments.
    ServiceView, Service, "Service", "services"
);
whole!(
    /// The node itself.
    NodeView, Node, "Node", "nodes"
);
