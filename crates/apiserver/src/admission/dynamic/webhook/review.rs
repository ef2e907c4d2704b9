//! `AdmissionReview`: what is asked, and what answers mean (`webhook/request/admissionreview.go`,
//! `webhook/errors/statuserror.go`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use orkd_api::status::{Cause, Details, Status};
use serde_json::{Value, json};

use super::config::Version;
use crate::admission::items;

/// The question: `request` is an `AdmissionRequest` without objects.
pub fn question(version: Version, mut request: Value, object: &Value, old: &Value) -> Value {
    request["object"] = object.clone();
    request["oldObject"] = old.clone();
    json!({"kind": "AdmissionReview", "apiVersion": version.as_str(), "request": request})
}

/// What a webhook said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// Whether the request passes.
    pub allowed: bool,
    /// Why not, as a `Status`.
    pub result: Value,
    /// For the client.
    pub warnings: Vec<String>,
    /// For audit.
    pub annotations: Vec<(String, String)>,
    /// How the object is to be changed, and the type of the patch; of mutating webhooks only.
    pub patch: Option<(Vec<u8>, String)>,
}

/// Reads an answer; the error says why it is none.
pub fn verdict(version: Version, uid: &str, mutating: bool, answer: &Value) -> Result<Verdict, String> {
    let response = &answer["response"];
    if !response.is_object() {
        return Err("webhook response was absent".into());
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if version == Version::V1 {
        let said = text(&response["uid"]);
        if said != uid {
            return Err(format!("expected response.uid={uid:?}, got {said:?}"));
        }
        let (api_version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
        if api_version != version.as_str() || kind != "AdmissionReview" {
            let wanted = format!("{}, Kind=AdmissionReview", version.as_str());
            return Err(format!("expected webhook response of {wanted}, got {api_version}, Kind={kind}"));
        }
    }
    let patch = text(&response["patch"]);
    let patch = STANDARD.decode(&patch).map_err(|e| format!("illegal base64 data in response.patch: {e}"))?;
    let patch_type = response.get("patchType").filter(|t| !t.is_null()).map(text);
    let patch = match (patch.is_empty(), patch_type) {
        (true, None) => None,
        (false, _) if !mutating && version == Version::V1 => {
            return Err("validating webhook may not return response.patch".into());
        }
        (_, Some(_)) if !mutating && version == Version::V1 => {
            return Err("validating webhook may not return response.patchType".into());
        }
        _ if !mutating => None,
        (false, Some(ty)) if ty.is_empty() => {
            return Err("webhook returned invalid response.patchType of \"\"".into());
        }
        (false, Some(ty)) => Some((patch, ty)),
        (true, Some(_)) if version == Version::V1beta1 => None,
        (false, None) if version == Version::V1beta1 => Some((patch, "JSONPatch".to_owned())),
        (false, None) => return Err("webhook returned response.patch but not response.patchType".into()),
        (true, Some(_)) => return Err("webhook returned response.patchType but not response.patch".into()),
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        result: response["status"].clone(),
        warnings: items(&response["warnings"]).iter().map(text).collect(),
        annotations: annotations.map(|(key, value)| (key.clone(), text(value))).collect(),
        patch,
    })
}

/// The refusal of a webhook, its `status` being `result` (`ToStatusErr`).
pub fn refusal(webhook: &str, result: &Value) -> Status {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (message, reason) = (text(&result["message"]), text(&result["reason"]));
    // A refusal is no success.
    let code = result["code"].as_u64().and_then(|c| u16::try_from(c).ok()).filter(|c| (400..1000).contains(c));
    let said = match (message.as_str(), reason.as_str()) {
        ("", "") => " without explanation".to_owned(),
        ("", reason) => format!(": {reason}"),
        (message, _) => format!(": {message}"),
    };
    let mut status =
        Status::new(code.unwrap_or(400), "", format!("admission webhook {webhook:?} denied the request{said}"));
    status.reason = reason.into();
    status.details = result["details"].is_object().then(|| details(&result["details"]));
    status
}

/// The details of a `Status`.
fn details(value: &Value) -> Details {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let cause =
        |c: &Value| Cause { reason: text(&c["reason"]), message: text(&c["message"]), field: text(&c["field"]) };
    Details {
        name: text(&value["name"]),
        group: text(&value["group"]),
        kind: text(&value["kind"]),
        uid: text(&value["uid"]),
        causes: items(&value["causes"]).iter().map(cause).collect(),
        retry_after_seconds: value["retryAfterSeconds"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
    }
}

/// What is said of an answer whose code tells of a failure (`errors.NewGenericServerResponse`); a `Status` in the body
/// speaks for itself.
pub fn failure(code: u16, body: &[u8]) -> String {
    let status: Value = serde_json::from_slice(body).unwrap_or_default();
    if status["kind"] == "Status"
        && let Some(message) = status["message"].as_str().filter(|m| !m.is_empty())
    {
        return message.to_owned();
    }
    let said = || {
        let text = String::from_utf8_lossy(&body[..body.len().min(2048)]);
        if text.trim().is_empty() { "unknown".to_owned() } else { text.trim().to_owned() }
    };
    match code {
        400 | 406 | 409 | 415 | 422 => "the server rejected our request for an unknown reason".into(),
        401 => "the server has asked for the client to provide credentials".into(),
        403 => said(),
        404 => "the server could not find the requested resource".into(),
        405 => "the server does not allow this method on the requested resource".into(),
        429 => "the server has received too many requests and has asked us to try again later".into(),
        503 => "the server is currently unable to handle the request".into(),
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
                .into()
        }
        500.. => format!("an error on the server ({:?}) has prevented the request from succeeding", said()),
        _ => format!("the server responded with the status code {code} but did not return more information"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(response: Value) -> Value {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
    }

    #[test]
    fn answers_are_verified() {
        let check = |mutating: bool, answer: Value, want: Result<bool, &str>| {
            let got = verdict(Version::V1, "u", mutating, &answer).map(|v| v.allowed);
            assert_eq!(got, want.map_err(str::to_owned), "{answer}");
        };
        let patch = STANDARD.encode("[]");
        check(true, answer(json!({"uid": "u", "allowed": true})), Ok(true));
        check(false, answer(json!({"uid": "u"})), Ok(false));
        check(false, json!({}), Err("webhook response was absent"));
        check(false, answer(json!({"uid": "v"})), Err("expected response.uid=\"u\", got \"v\""));
        let text =
            "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got admission.k8s.io/v2, Kind=X";
        check(false, json!({"apiVersion": "admission.k8s.io/v2", "kind": "X", "response": {"uid": "u"}}), Err(text));
        let with =
            |patch: &str, ty: Value| answer(json!({"uid": "u", "allowed": true, "patch": patch, "patchType": ty}));
        check(true, with(&patch, json!("JSONPatch")), Ok(true));
        check(true, with(&patch, json!(null)), Err("webhook returned response.patch but not response.patchType"));
        check(true, with("", json!("JSONPatch")), Err("webhook returned response.patchType but not response.patch"));
        check(true, with(&patch, json!("")), Err("webhook returned invalid response.patchType of \"\""));
        check(false, with(&patch, json!(null)), Err("validating webhook may not return response.patch"));
        check(false, with("", json!("JSONPatch")), Err("validating webhook may not return response.patchType"));

        let old =
            json!({"response": {"allowed": true, "patch": patch, "warnings": ["w"], "auditAnnotations": {"a": "b"}}});
        let said = verdict(Version::V1beta1, "u", true, &old).expect("lenient");
        assert_eq!(said.patch, Some((b"[]".to_vec(), "JSONPatch".to_owned())));
        assert_eq!((said.warnings, said.annotations), (vec!["w".to_owned()], vec![("a".to_owned(), "b".to_owned())]));
    }

    #[test]
    fn refusals_are_upstreams() {
        let check = |result: Value, code: u16, reason: &str, said: &str| {
            let status = refusal("a.b.c", &result);
            let message = format!("admission webhook \"a.b.c\" denied the request{said}");
            assert_eq!((status.code, &*status.reason, status.message), (code, reason, message));
        };
        check(Value::Null, 400, "", " without explanation");
        check(json!({"message": "no", "code": 403}), 403, "", ": no");
        check(json!({"message": "no", "reason": "Own", "code": 200}), 400, "Own", ": no");
        check(json!({"reason": "Forbidden"}), 400, "Forbidden", ": Forbidden");
        let causes =
            json!({"details": {"name": "n", "causes": [{"message": "m", "field": "f"}], "retryAfterSeconds": 3}});
        let details = refusal("x", &causes).details.expect("details");
        assert_eq!(
            (details.name.as_str(), details.causes[0].field.as_str(), details.retry_after_seconds),
            ("n", "f", 3)
        );
    }

    #[test]
    fn failures_are_upstreams() {
        assert_eq!(failure(404, b"404 page"), "the server could not find the requested resource");
        assert_eq!(
            failure(500, b" oops\n"),
            "an error on the server (\"oops\") has prevented the request from succeeding"
        );
        assert_eq!(failure(502, b""), "an error on the server (\"unknown\") has prevented the request from succeeding");
        assert_eq!(failure(403, br#"{"kind":"Status","message":"forbidden: no"}"#), "forbidden: no");
    }
}
