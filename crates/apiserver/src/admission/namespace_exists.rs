//! Objects need a namespace that exists, or one is made for them (`plugin/pkg/admission/namespace/exists`,
//! `plugin/pkg/admission/namespace/autoprovision`).

use std::sync::OnceLock;

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Operation, Plugin, Request};
use crate::lookup::{Lookup, get_fresh};
use crate::pipeline::WeakServer;
use crate::user::UserInfo;
use crate::writer::Writer;

/// Refuses what is made, changed or deleted in a namespace that does not exist.
pub struct NamespaceExists {
    objects: Lookup,
}

impl NamespaceExists {
    /// Reads namespaces here.
    pub fn new(objects: Lookup) -> Self {
        NamespaceExists { objects }
    }
}

fn is_namespace(request: &Request<'_>) -> bool {
    request.resource.group.is_empty() && request.resource.plural == "namespaces"
}

#[async_trait]
impl Plugin for NamespaceExists {
    fn name(&self) -> &'static str {
        "NamespaceExists"
    }

    async fn validate(&self, request: &Request<'_>, _: &Value, _: &mut Vec<String>) -> Result<(), Status> {
        if request.namespace.is_empty() || is_namespace(request) || request.operation == Operation::Connect {
            return Ok(());
        }
        match get_fresh(&*self.objects, "", "namespaces", "", request.namespace).await? {
            Some(_) => Ok(()),
            None => Err(Status::not_found("", "namespaces", request.namespace)),
        }
    }
}

/// Makes the namespace of a new object where it does not exist.
pub struct NamespaceAutoProvision {
    objects: Lookup,
    server: OnceLock<WeakServer>,
}

impl NamespaceAutoProvision {
    /// Reads namespaces here.
    pub fn new(objects: Lookup) -> Self {
        NamespaceAutoProvision { objects, server: OnceLock::new() }
    }
}

#[async_trait]
impl Plugin for NamespaceAutoProvision {
    fn name(&self) -> &'static str {
        "NamespaceAutoProvision"
    }

    fn bind(&self, server: &WeakServer) {
        // Bound once; a second server would be a mistake of composition, and the first stays.
        let _ = self.server.set(server.clone());
    }

    async fn admit(&self, request: &Request<'_>, _: &mut Value, _: &mut Vec<String>) -> Result<(), Status> {
        let makes = request.operation == Operation::Create && !request.dry_run;
        if !makes || request.namespace.is_empty() || is_namespace(request) {
            return Ok(());
        }
        if get_fresh(&*self.objects, "", "namespaces", "", request.namespace).await?.is_some() {
            return Ok(());
        }
        let Some(server) = self.server.get().and_then(WeakServer::upgrade) else { return Ok(()) };
        let writer = Writer::new(server, UserInfo::new("system:apiserver", &["system:masters"]));
        let namespace = json!({"metadata": {"name": request.namespace}});
        match writer.create("", "namespaces", "", namespace).await {
            Err(status) if status.reason == "AlreadyExists" => Ok(()),
            other => other.map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{kind, request};
    use super::*;
    use crate::lookup::fake::Fake;

    #[tokio::test]
    async fn a_namespace_must_be_there() {
        let there = Fake::with([("namespaces", json!({"metadata": {"name": "default"}}))]);
        let (kind, user) = (kind("pods"), UserInfo::new("u", &[]));
        for (objects, expected) in [(there, None), (Fake::with([]), Some("namespaces \"default\" not found"))] {
            let plugin = NamespaceExists::new(objects.lookup());
            for operation in [Operation::Create, Operation::Update, Operation::Delete] {
                let request = request(&*kind, operation, "", "p", &user, None);
                let done = plugin.validate(&request, &Value::Null, &mut Vec::new()).await;
                assert_eq!(done.err().map(|s| s.message).as_deref(), expected);
            }
        }
    }
}
