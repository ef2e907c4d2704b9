//! The options of a request that opens a stream, made of its query, and their admission
//! (`endpoints/handlers.ConnectResource`). Admission comes before everything else: before the object is looked for, and
//! before it is asked whether the client can switch protocols.

use orkd_api::schema::{Builtin, Type};
use orkd_api::status::Status;
use serde_json::{Map, Value, json};

use super::Call;
use crate::admission::Operation;
use crate::query::Query;

/// Has the options of a kind (`PodExecOptions`) admitted. `path` is what follows the subresource, where that is an option.
pub(super) async fn admit(call: &Call, kind: &str, path: Option<&str>) -> Result<(), Status> {
    if call.query.get("dryRun").is_some() {
        return Err(Status::bad_request("dryRun is not supported"));
    }
    let mut options = options(kind, &call.query, path).map_err(Status::bad_request)?;
    call.admit(Operation::Connect, &mut options).await
}

/// The options that a query says.
fn options(kind: &str, query: &Query, path: Option<&str>) -> Result<Value, String> {
    let mut options = Map::from_iter([("kind".to_owned(), json!(kind)), ("apiVersion".to_owned(), json!("v1"))]);
    for field in Type::of_kind("", "v1", kind).into_iter().flat_map(Type::fields) {
        let name = field.name();
        let value = match (field.ty().builtin(), field.is_list()) {
            _ if matches!(name, "kind" | "apiVersion") => continue,
            (Some(Builtin::Bool), false) => json!(query.flag(name)),
            (Some(Builtin::String), false) if name == "path" => json!(path.unwrap_or_default()),
            (Some(Builtin::String), false) => json!(query.text(name)),
            (Some(Builtin::String), true) => json!(query.all(name).collect::<Vec<_>>()),
            (Some(Builtin::Int32), true) => json!(numbers(query.all(name))?),
            _ => continue,
        };
        let is_empty = matches!(&value, Value::Bool(false))
            || value.as_str().is_some_and(str::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        if !is_empty || !field.omitempty() {
            options.insert(name.to_owned(), if is_empty { Value::Null } else { value });
        }
    }
    Ok(Value::Object(options))
}

/// Numbers of 16 bits, each value one or several (`runtime.Convert_Slice_string_To_Slice_int32`).
fn numbers<'q>(values: impl Iterator<Item = &'q str>) -> Result<Vec<u16>, String> {
    let one = |text: &str| {
        text.parse().map_err(|_| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let why = if digits { "value out of range" } else { "invalid syntax" };
            format!("cannot convert to []int32: strconv.ParseUint: parsing {text:?}: {why}")
        })
    };
    values.flat_map(|value| value.split(',')).map(one).collect()
}

/// The path of a request to a proxy as an option: what follows `proxy`, with its slash.
pub(super) fn path(call: &Call) -> String {
    let rest = &call.info.rest;
    let slash = if rest.is_empty() && !call.info.path.ends_with('/') { "" } else { "/" };
    format!("{slash}{rest}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_made_of_the_query() {
        let check = |kind: &str, query: &str, path: Option<&str>, expected: Result<Value, &str>| {
            let got = options(kind, &Query::parse(query), path);
            let expected = expected.map(|mut wanted| {
                wanted["kind"] = json!(kind);
                wanted["apiVersion"] = json!("v1");
                wanted
            });
            assert_eq!(got, expected.map_err(str::to_owned), "{kind} {query}");
        };
        let exec = "command=sh&command=-c&container=c&stdin=true&stdout=1&tty=false";
        let wanted = json!({"command": ["sh", "-c"], "container": "c", "stdin": true, "stdout": true});
        check("PodExecOptions", exec, None, Ok(wanted));
        check("PodExecOptions", "", None, Ok(json!({"command": null})));
        check("PodAttachOptions", "command=sh&stderr=true", None, Ok(json!({"stderr": true})));
        check("PodPortForwardOptions", "ports=80,81&ports=82", None, Ok(json!({"ports": [80, 81, 82]})));
        let bad = "cannot convert to []int32: strconv.ParseUint: parsing \"x\": invalid syntax";
        check("PodPortForwardOptions", "ports=x", None, Err(bad));
        let large = "cannot convert to []int32: strconv.ParseUint: parsing \"70000\": value out of range";
        check("PodPortForwardOptions", "ports=70000", None, Err(large));
        for kind in ["PodProxyOptions", "ServiceProxyOptions", "NodeProxyOptions"] {
            check(kind, "path=/no", Some("/a/b/"), Ok(json!({"path": "/a/b/"})));
            check(kind, "", Some(""), Ok(json!({})));
        }
    }
}
