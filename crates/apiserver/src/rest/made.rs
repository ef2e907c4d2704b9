//! Answers with objects that are made on the spot and not stored, in every shape and encoding that stored ones have.

use orkd_api::status::Status;
use serde_json::{Value, json};

use super::{Call, Reply};
use crate::negotiation::{Shape, Wanted};
use crate::resources::api_version;
use crate::respond;
use crate::verbs::table::Include;

/// Answers with one object, which has neither `kind` nor `apiVersion` yet.
pub(super) fn one(call: &Call, wanted: &Wanted, object: Value) -> Result<Reply, Status> {
    let answer = match wanted.shape {
        Shape::Object => whole(call, object),
        Shape::Metadata(version) => metadata(version, &object),
        Shape::Table(version) => table(call, wanted, version, vec![object])?,
    };
    Ok(Reply::Raw(respond::object(wanted, 200, &answer)))
}

/// Answers with a list of such objects.
pub(super) fn list(call: &Call, wanted: &Wanted, items: Vec<Value>) -> Result<Reply, Status> {
    let info = call.kind.info();
    let answer = match wanted.shape {
        Shape::Object => json!({
            "kind": format!("{}List", info.kind), "apiVersion": api_version(&info.group, &info.version),
            "metadata": {}, "items": items,
        }),
        Shape::Metadata(version) => json!({
            "kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
            "items": items.iter().map(|i| metadata(version, i)).collect::<Vec<_>>(),
        }),
        Shape::Table(version) => table(call, wanted, version, items)?,
    };
    Ok(Reply::Raw(respond::object(wanted, 200, &answer)))
}

fn whole(call: &Call, mut object: Value) -> Value {
    let info = call.kind.info();
    object["kind"] = json!(info.kind);
    object["apiVersion"] = json!(api_version(&info.group, &info.version));
    object
}

fn metadata(version: &str, object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": object["metadata"],
    })
}

fn table(call: &Call, wanted: &Wanted, version: &str, items: Vec<Value>) -> Result<Value, Status> {
    let include = Include::parse(wanted.shape, &call.query)?;
    let columns: Vec<Value> = call
        .kind
        .info()
        .columns
        .iter()
        .map(|c| json!({ "name": c.name, "type": c.ty, "format": c.format, "description": "", "priority": c.priority }))
        .collect();
    let row = |item: Value| {
        let mut row = json!({ "cells": call.kind.cells(&item, call.now) });
        match include {
            Include::None => {}
            Include::Metadata => row["object"] = metadata(version, &item),
            Include::Object => row["object"] = whole(call, item),
        }
        row
    };
    Ok(json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": {},
        "columnDefinitions": columns, "rows": items.into_iter().map(row).collect::<Vec<_>>(),
    }))
}
