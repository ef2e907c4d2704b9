//! `componentstatuses`: how the store behind the server is. Upstream asks the controller manager and the scheduler too;
//! here these are loops of the same process and have no address to be asked at.
//!
//! Upstream: `pkg/registry/core/componentstatus/rest.go`.

use async_trait::async_trait;
use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Call, Reply, Rest};
use crate::Body;
use crate::negotiation::{self, Offer, Shape};
use crate::respond;

/// The handler of `componentstatuses`.
pub struct ComponentStatuses;

const NAME: &str = "etcd-0";

#[async_trait]
impl Rest for ComponentStatuses {
    async fn serve(&self, call: Call, request: http::Request<Body>) -> Result<Reply, Status> {
        let wanted = negotiation::negotiate(request.headers(), &call.query, Offer::Objects)?;
        let condition = match call.server.store().current_revision().await {
            Ok(_) => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
            Err(error) => json!({ "type": "Healthy", "status": "False", "error": error.to_string() }),
        };
        let item = json!({ "metadata": { "name": NAME }, "conditions": [condition] });
        let one = call.info.verb == "get";
        if one && call.info.name != NAME {
            return Err(Status::not_found("", "componentstatuses", &call.info.name));
        }
        let items = vec![item];
        let answer = match wanted.shape {
            Shape::Table(_) => table(&call, &items),
            _ if one => {
                let mut object = items.into_iter().next().unwrap_or_default();
                object["kind"] = json!("ComponentStatus");
                object["apiVersion"] = json!("v1");
                object
            }
            _ => json!({ "kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": items }),
        };
        Ok(Reply::Raw(respond::object(&wanted, 200, &answer)))
    }
}

fn table(call: &Call, items: &[Value]) -> Value {
    let info = call.kind.info();
    let columns: Vec<Value> = info
        .columns
        .iter()
        .map(|c| json!({ "name": c.name, "type": c.ty, "format": c.format, "description": "", "priority": c.priority }))
        .collect();
    let rows: Vec<Value> = items
        .iter()
        .map(|item| {
            let object = json!({
                "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"],
            });
            json!({ "cells": call.kind.cells(item, call.now), "object": object })
        })
        .collect();
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "columnDefinitions": columns, "rows": rows,
    })
}
