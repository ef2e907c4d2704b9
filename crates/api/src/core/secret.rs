//! `Secret`. Upstream: `pkg/registry/core/secret/strategy.go`, `ValidateSecret`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config_map::{MAX_DATA, base64_len, immutable};
use crate::field::ErrorList;
use crate::kind::{Cells, Cx, Kind, MetaPass, Name};
use crate::kinds::{AGE, Facts, NAME, facts};
use crate::object::{View, at, default_text, remove, set, text};
use crate::table::{age, name};
use crate::validate::{config_map_key, immutable_field};

/// The kind `Secret`.
pub struct Secret;

impl Kind for Secret {
    facts!(Facts {
        kind: "Secret",
        plural: "secrets",
        columns: &[NAME, ("Type", "string", "", 0), ("Data", "string", "", 0), AGE],
        ..Facts::namespaced("", "v1")
    });

    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed, MetaPass::New]
    }

    /// `stringData` is write-only: it becomes `data`, and wins over it.
    fn default(&self, obj: &mut Value) {
        default_text(obj, "type", "Opaque");
        let Some(Value::Object(texts)) = remove(obj, &["stringData"]) else { return };
        for (key, value) in texts {
            let encoded = STANDARD.encode(value.as_str().unwrap_or_default());
            set(obj, &["data", &key], encoded);
        }
    }

    fn prepare_update(&self, _cx: &Cx<'_>, new: &mut Value, old: &Value) {
        // An update that leaves the type out keeps it; it could not be changed anyway.
        if text(new, &["type"]).is_empty() {
            set(new, &["type"], at(old, &["type"]).clone());
        }
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        let root = View::root(obj);
        let data = root.get("data");
        let mut total = 0;
        for (key, value) in data.entries() {
            errs.extend(config_map_key(key, value.path()));
            total += base64_len(value.str());
        }
        if total > MAX_DATA {
            errs.too_long(data.path(), MAX_DATA);
        }
        let require = |errs: &mut ErrorList, key: &str| {
            if !data.get_named(key).is_set() {
                errs.required(&data.path().key(key), "");
            }
        };
        match root.get("type").str() {
            "kubernetes.io/service-account-token" => {
                let path = crate::field::Path::new("metadata").child("annotations");
                let account = at(obj, &["metadata", "annotations", "kubernetes.io/service-account.name"]);
                if account.as_str().unwrap_or_default().is_empty() {
                    errs.required(&path.key("kubernetes.io/service-account.name"), "");
                }
            }
            "kubernetes.io/dockercfg" => docker_config(&mut errs, &data, ".dockercfg"),
            "kubernetes.io/dockerconfigjson" => docker_config(&mut errs, &data, ".dockerconfigjson"),
            "kubernetes.io/basic-auth" if !data.get("username").is_set() && !data.get("password").is_set() => {
                errs.required(&data.path().key("username"), "");
                errs.required(&data.path().key("password"), "");
            }
            "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_empty() => {
                errs.required(&data.path().key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => {
                require(&mut errs, "tls.crt");
                require(&mut errs, "tls.key");
            }
            _ => {}
        }
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        immutable_field(&mut errs, new, old, &["type"]);
        immutable(&mut errs, new, old, &["data"]);
        errs.extend(self.validate(cx, new));
        errs
    }

    fn selectable_fields(&self, obj: &Value) -> Vec<(Name, String)> {
        vec![("type".into(), text(obj, &["type"]).to_owned())]
    }

    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        let root = View::root(obj);
        vec![json!(name(obj)), json!(text(obj, &["type"])), json!(root.get("data").len()), json!(age(obj, now))]
    }
}

fn docker_config(errs: &mut ErrorList, data: &View<'_>, key: &str) {
    let path = data.path().key(key);
    let value = data.get_named(key);
    if !value.is_set() {
        errs.required(&path, "");
        return;
    }
    let bytes = STANDARD.decode(value.str()).unwrap_or_default();
    let problem = match crate::codec::json::decode_untyped(&bytes, crate::codec::Strictness::Ignore) {
        Err(error) => error.message,
        Ok((Value::Object(_) | Value::Null, _)) => return,
        Ok((other, _)) => {
            let kind = match other {
                Value::String(_) => "string",
                Value::Array(_) => "array",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            format!("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")
        }
    };
    errs.invalid(&path, "<secret contents redacted>", problem);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::problems;

    #[test]
    fn a_docker_configuration_is_a_json_object() {
        let check = |text: &str, expected: &[&str]| {
            let obj = json!({"type": "kubernetes.io/dockercfg", "data": {".dockercfg": STANDARD.encode(text)}});
            assert_eq!(problems(&Secret, &obj), expected);
        };
        check("{}", &[]);
        check(
            "[1]",
            &[
                "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": json: cannot unmarshal array into Go value \
               of type map[string]interface {}",
            ],
        );
        check(
            "x",
            &[
                "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": invalid character 'x' looking for beginning \
               of value",
            ],
        );
    }
}
