//! `ConversionReview`: what is asked of a conversion webhook, and what its answers mean.
//!
//! Upstream: `apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`, whose texts these are.

use orkd_api::field::{ErrorList, Path};
use orkd_api::object::View;
use orkd_api::validate::{labels, meta};
use serde_json::{Value, json};

/// A version of `ConversionReview`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `apiextensions.k8s.io/v1`.
    V1,
    /// `apiextensions.k8s.io/v1beta1`, whose answers need not say whose they are.
    V1beta1,
}

impl Version {
    /// The first version that is known of those a webhook accepts.
    pub fn first<'v>(accepted: impl IntoIterator<Item = &'v str>) -> Option<Version> {
        accepted.into_iter().find_map(|version| match version {
            "v1" => Some(Version::V1),
            "v1beta1" => Some(Version::V1beta1),
            _ => None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "apiextensions.k8s.io/v1",
            Version::V1beta1 => "apiextensions.k8s.io/v1beta1",
        }
    }
}

/// The question.
pub fn question(version: Version, uid: &str, objects: &[&Value], desired: &str) -> Value {
    json!({"kind": "ConversionReview", "apiVersion": version.as_str(),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects}})
}

/// The objects of an answer; the error says why it is none.
pub fn objects(version: Version, uid: &str, mut answer: Value) -> Result<Vec<Value>, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if version == Version::V1 {
        let (api_version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
        if api_version != version.as_str() || kind != "ConversionReview" {
            let wanted = version.as_str();
            return Err(format!(
                "expected webhook response of {wanted}, Kind=ConversionReview, got {api_version}, Kind={kind}"
            ));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".into());
    }
    if version == Version::V1 {
        let said = text(&response["uid"]);
        if said != uid {
            return Err(format!("expected response.uid={uid:?}, got {said:?}"));
        }
    }
    let status = text(&response["result"]["status"]);
    if status != "Success" {
        let message = text(&response["result"]["message"]);
        return Err(match message.is_empty() {
            true => format!("response.result.status was '{status}', not 'Success'"),
            false => message,
        });
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        _ => Ok(Vec::new()),
    }
}

/// `group/version, Kind=kind` of an object.
pub fn group_version_kind(object: &Value) -> String {
    let text = |field: &str| object[field].as_str().unwrap_or_default();
    format!("{}, Kind={}", text("apiVersion"), text("kind"))
}

/// An object that a webhook has made of another, with the metadata of that one but for labels and annotations. The error
/// says what is wrong with it.
pub fn checked(original: &Value, mut converted: Value, desired: &str) -> Result<Value, Wrong> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let said = text(&converted["apiVersion"]);
    if said != desired {
        return Err(Wrong::Object(format!("invalid groupVersion (expected {desired}, received {said})")));
    }
    let (expected, got) = (text(&original["kind"]), text(&converted["kind"]));
    if expected != got {
        return Err(Wrong::Object(format!("invalid kind (expected {expected}, received {got})")));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (expected, got) = (text(&original["metadata"][field]), text(&converted["metadata"][field]));
        if expected != got {
            return Err(Wrong::Object(format!("must have the same {name}: {expected} != {got}")));
        }
    }
    let metadata = restored(&original["metadata"], &converted).map_err(Wrong::Metadata)?;
    converted["metadata"] = metadata;
    Ok(converted)
}

/// What is wrong with a converted object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The object.
    Object(String),
    /// Its metadata.
    Metadata(String),
}

impl Wrong {
    /// As upstream tells it, of the object at a place of the answer.
    pub fn told(&self, of: &str, index: usize) -> String {
        match self {
            Wrong::Object(why) => {
                format!("conversion webhook for {of} returned invalid converted object at index {index}: {why}")
            }
            Wrong::Metadata(why) => {
                format!("conversion webhook for {of} returned invalid metadata in object at index {index}: {why}")
            }
        }
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// The original's metadata with the labels and annotations of the converted object.
fn restored(original: &Value, converted: &Value) -> Result<Value, String> {
    let Some(answered) = converted.get("metadata") else {
        return Err("missing metadata in converted object".into());
    };
    if !answered.is_object() {
        return Err(format!("invalid metadata of type {} in converted object", go_type(answered)));
    }
    let mut metadata = original.as_object().cloned().unwrap_or_default();
    for field in ["labels", "annotations"] {
        let Some(answered) = answered.get(field).filter(|v| !v.is_null()) else {
            metadata.remove(field);
            continue;
        };
        let Some(texts) = answered.as_object() else {
            return Err(format!("invalid metadata.{field} of type {} in converted object", go_type(answered)));
        };
        if let Some((key, value)) = texts.iter().find(|(_, v)| !v.is_string()) {
            return Err(format!(
                "metadata.{field}[{key}] must be a string, but is {} in converted object",
                go_type(value)
            ));
        }
        if metadata.get(field) != Some(answered) {
            let mut errors = ErrorList::new();
            let path = |name| View::at(Path::new("metadata").child(name), answered);
            match field {
                "labels" => labels::labels(&mut errors, &path("labels")),
                _ => meta::annotations(&mut errors, &path("annotation")),
            }
            match &errors.0[..] {
                [] => {}
                [one] => return Err(one.to_string()),
                many => {
                    let texts: Vec<String> = many.iter().map(ToString::to_string).collect();
                    return Err(format!("[{}]", texts.join(", ")));
                }
            }
        }
        metadata.insert(field.into(), answered.clone());
    }
    Ok(Value::Object(metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_verified() {
        let answer = |response: Value| json!({"kind": "ConversionReview", "apiVersion": "apiextensions.k8s.io/v1", "response": response});
        let check = |version, answer: Value, expected: Result<usize, &str>| {
            let got = objects(version, "u", answer.clone()).map(|o| o.len());
            assert_eq!(got, expected.map_err(str::to_owned), "{answer}");
        };
        let good = json!({"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}, {}]});
        check(Version::V1, answer(good), Ok(2));
        check(Version::V1, answer(Value::Null), Err("no response provided"));
        let other = json!({"uid": "w", "result": {"status": "Success"}});
        check(Version::V1, answer(other.clone()), Err("expected response.uid=\"u\", got \"w\""));
        check(Version::V1beta1, json!({"response": other}), Ok(0));
        let failed = json!({"uid": "u", "result": {"status": "Failure", "message": "no way"}});
        check(Version::V1, answer(failed), Err("no way"));
        let silent = json!({"uid": "u", "result": {}});
        check(Version::V1, answer(silent), Err("response.result.status was '', not 'Success'"));
        check(
            Version::V1,
            json!({"kind": "X", "apiVersion": "y/v1"}),
            Err("expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got y/v1, Kind=X"),
        );
    }

    #[test]
    fn versions_are_those_known() {
        assert_eq!(Version::first(["v2", "v1beta1", "v1"]), Some(Version::V1beta1));
        assert_eq!(Version::first(["v2"]), None);
    }

    #[test]
    fn converted_objects_keep_who_they_are() {
        let original = json!({"apiVersion": "g/v1", "kind": "K", "spec": {"a": 1},
            "metadata": {"name": "n", "namespace": "d", "uid": "1", "labels": {"a": "b"}, "finalizers": ["x/y"]}});
        let check = |change: &dyn Fn(&mut Value), expected: Result<Value, &str>| {
            let mut converted = json!({"apiVersion": "g/v2", "kind": "K", "spec": {"b": 1},
                "metadata": {"name": "n", "namespace": "d", "uid": "1", "labels": {"a": "c"}}});
            change(&mut converted);
            let got = checked(&original, converted, "g/v2").map(|o| o["metadata"].clone()).map_err(|w| w.told("x", 3));
            assert_eq!(got, expected.map_err(str::to_owned));
        };
        let metadata = json!({"name": "n", "namespace": "d", "uid": "1", "labels": {"a": "c"}, "finalizers": ["x/y"]});
        check(&|_| {}, Ok(metadata));
        let object = "conversion webhook for x returned invalid converted object at index 3: ";
        let fails = |change: &dyn Fn(&mut Value), why: &str| check(change, Err(&format!("{object}{why}")));
        fails(&|o| o["apiVersion"] = json!("g/v3"), "invalid groupVersion (expected g/v2, received g/v3)");
        fails(&|o| o["kind"] = json!("L"), "invalid kind (expected K, received L)");
        fails(&|o| o["metadata"]["name"] = json!("m"), "must have the same name: n != m");
        fails(&|o| o["metadata"]["uid"] = json!("2"), "must have the same UID: 1 != 2");
        let metadata = "conversion webhook for x returned invalid metadata in object at index 3: ";
        check(
            &|o| o["metadata"]["labels"]["a"] = json!(1),
            Err(&format!("{metadata}metadata.labels[a] must be a string, but is int64 in converted object")),
        );
    }
}
