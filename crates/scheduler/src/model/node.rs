//! What is read of a node.

use std::collections::BTreeMap;

use orkd_reconcile::{Meta, Shared, View, null_default};
use serde::Deserialize;

use super::Taint;

/// A node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// Spec.
    pub spec: NodeSpec,
    /// Status.
    pub status: NodeStatus,
}

impl View for Node {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Node";
    const PLURAL: &'static str = "nodes";
    const NAMESPACED: bool = false;
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

/// `spec` of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeSpec {
    /// Cordoned.
    pub unschedulable: bool,
    /// Taints.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// `status` of a node.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// What pods may use.
    #[serde(deserialize_with = "null_default")]
    pub allocatable: BTreeMap<String, String>,
    /// Images that are there.
    #[serde(deserialize_with = "null_default")]
    pub images: Vec<Image>,
    /// Features of its kubelet that pods may need.
    pub declared_features: Shared<Vec<String>>,
}

/// An image of a node.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    /// Its names.
    #[serde(deserialize_with = "null_default")]
    pub names: Vec<String>,
    /// Its size.
    pub size_bytes: i64,
}
