//! The scale of a custom resource: where its numbers stand, and whether they are any.
//!
//! Upstream: `ValidateScaleSpec` and `ValidateScaleStatus` of `pkg/registry/customresource/validator.go` of
//! `k8s.io/apiextensions-apiserver`.

use serde_json::Value;

use crate::field::{ErrorList, Path};
use crate::object::text;
use crate::patch::go;

/// Where the numbers of a scale stand in an object: the names of the fields to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// The replicas wanted.
    pub spec_replicas: Vec<String>,
    /// The replicas there are.
    pub status_replicas: Vec<String>,
    /// The label selector in its text form, if objects have one.
    pub selector: Option<Vec<String>>,
}

impl ScalePaths {
    pub(super) fn of(scale: &Value) -> Option<ScalePaths> {
        let path = |field: &str| -> Option<Vec<String>> {
            let path = text(scale, &[field]).strip_prefix('.')?;
            Some(path.split('.').map(str::to_owned).collect())
        };
        Some(ScalePaths {
            spec_replicas: path("specReplicasPath")?,
            status_replicas: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    }
}

/// The problems of the replicas wanted.
pub(super) fn spec(errs: &mut ErrorList, paths: &ScalePaths, obj: &Value) {
    replicas(errs, &paths.spec_replicas, obj);
}

/// The problems of the replicas there are, and of the selector.
pub(super) fn status(errs: &mut ErrorList, paths: &ScalePaths, obj: &Value) {
    replicas(errs, &paths.status_replicas, obj);
    if let Some(path) = &paths.selector
        && let Err(problem) = nested(obj, path, Value::is_string, "string")
    {
        errs.invalid(&shown(path), "", problem);
    }
}

fn shown(path: &[String]) -> Path {
    Path::new(&format!(".{}", path.join(".")))
}

fn replicas(errs: &mut ErrorList, path: &[String], obj: &Value) {
    match nested(obj, path, Value::is_i64, "int64").map(|v| v.and_then(Value::as_i64).unwrap_or_default()) {
        Err(problem) => errs.invalid(&shown(path), 0, problem),
        Ok(n) if n < 0 => errs.invalid(&shown(path), n, "should be a non-negative integer"),
        Ok(n) if n > i64::from(i32::MAX) => {
            errs.invalid(&shown(path), n, format!("should be less than or equal to {}", i32::MAX));
        }
        Ok(_) => {}
    }
}

/// The value at a path; the error has the words of `unstructured.NestedFieldNoCopy` and its like.
fn nested<'v>(
    obj: &'v Value,
    path: &[String],
    fits: impl Fn(&Value) -> bool,
    ty: &str,
) -> Result<Option<&'v Value>, String> {
    let problem = |depth: usize, value: &Value, ty: &str| {
        let at = path[..depth].join(".");
        Err(format!(".{at} accessor error: {} is of the type {}, expected {ty}", go::v(value), go::type_name(value)))
    };
    let mut here = obj;
    for (depth, name) in path.iter().enumerate() {
        match here {
            Value::Object(map) => match map.get(name) {
                Some(value) => here = value,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            other => return problem(depth + 1, other, "map[string]interface {}"),
        }
    }
    if fits(here) { Ok(Some(here)) } else { problem(path.len(), here, ty) }
}
