//! `CustomResourceDefinition`.
//!
//! Upstream: `pkg/registry/customresourcedefinition/strategy.go` and `pkg/apis/apiextensions/v1/defaults.go` of
//! `k8s.io/apiextensions-apiserver`. Rules in CEL are compiled ([`super::expressions`]), and defaults are values
//! of their schema ([`super::defaults`]).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{conditions, validate};
use crate::custom::Structural;
use crate::field::{ErrorList, quote};
use crate::kind::{Cells, Cx, Kind, MetaRules};
use crate::kinds::{Facts, NAME, STATUS, facts};
use crate::object::{at, at_mut, default_text, default_value, list, restore, set, text};
use crate::strategy::{first_generation, next_generation, reset_all_or_status, reset_meta_for_status};
use crate::table::name_and_created;

/// The kind `CustomResourceDefinition`.
pub struct CustomResourceDefinition;

impl Kind for CustomResourceDefinition {
    facts!(Facts {
        kind: "CustomResourceDefinition",
        plural: "customresourcedefinitions",
        short_names: &["crd", "crds"],
        categories: &["api-extensions"],
        subresources: &[STATUS],
        prefix: "apiextensions.k8s.io/customresourcedefinitions",
        columns: &[NAME, ("Created At", "date", "", 0)],
        ..Facts::cluster("apiextensions.k8s.io", "v1")
    });

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = at_mut(obj, &["spec"]) {
            let kind = text(spec, &["names", "kind"]).to_owned();
            if let Some(names) = at_mut(spec, &["names"]) {
                default_text(names, "singular", &kind.to_lowercase());
                if !kind.is_empty() {
                    default_text(names, "listKind", &format!("{kind}List"));
                }
            }
            default_value(spec, "conversion", json!({"strategy": "None"}));
            if let Some(service) = at_mut(spec, &["conversion", "webhook", "clientConfig", "service"]) {
                default_value(service, "port", 443);
            }
        }
        if list(obj, &["status", "storedVersions"]).is_empty() {
            remember_storage_version(obj);
        }
    }

    fn prepare_create(&self, _cx: &Cx<'_>, obj: &mut Value) {
        let nothing = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": null});
        set(obj, &["status"], nothing);
        first_generation(obj);
        remember_storage_version(obj);
    }

    fn prepare_update(&self, cx: &Cx<'_>, new: &mut Value, old: &Value) {
        if cx.subresource == Some("status") {
            restore(new, old, &["spec"]);
            reset_meta_for_status(new, old);
            return;
        }
        restore(new, old, &["status"]);
        next_generation(new, old, &["spec"]);
        remember_storage_version(new);
    }

    /// Its objects go first: whoever serves them removes the finalizer.
    fn begin_removal(&self, obj: &mut Value, now: jiff::Timestamp) -> bool {
        set(obj, &["metadata", "deletionTimestamp"], now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let mut finalizers = list(obj, &["metadata", "finalizers"]).to_vec();
        if !finalizers.iter().any(|f| f == conditions::FINALIZER) {
            finalizers.push(conditions::FINALIZER.into());
        }
        set(obj, &["metadata", "finalizers"], finalizers);
        conditions::put(obj, &conditions::Condition::removal_pending(), now);
        true
    }

    fn validate(&self, _cx: &Cx<'_>, obj: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        validate::name(&mut errs, obj);
        validate::definition(&mut errs, obj, &Value::Null);
        errs
    }

    fn validate_update(&self, cx: &Cx<'_>, new: &Value, old: &Value) -> ErrorList {
        let mut errs = ErrorList::new();
        if cx.subresource == Some("status") {
            validate::status(&mut errs, new);
        } else {
            validate::definition(&mut errs, new, old);
        }
        errs
    }

    fn warnings(&self, cx: &Cx<'_>, new: &Value, old: Option<&Value>) -> Vec<String> {
        if cx.subresource.is_some() {
            return Vec::new();
        }
        let before = old.map(unknown_formats).unwrap_or_default();
        let added = unknown_formats(new).into_iter().filter(|format| !before.contains(format));
        added.map(|format| format!("unrecognized format {}", quote(&format))).collect()
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn meta_rules(&self) -> MetaRules {
        MetaRules::Machinery
    }

    fn cells(&self, obj: &Value, _now: jiff::Timestamp) -> Cells {
        name_and_created(obj)
    }

    fn reset_fields(&self, subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        reset_all_or_status(subresource)
    }
}

/// The formats in the schemas of a definition that nobody looks at.
fn unknown_formats(obj: &Value) -> BTreeSet<String> {
    let schemas = list(obj, &["spec", "versions"]).iter().map(|v| at(v, &["schema", "openAPIV3Schema"]));
    schemas.flat_map(|schema| Structural::compile(schema).unknown_formats()).collect()
}

/// The version that objects are stored in is among those that objects may be stored in.
fn remember_storage_version(obj: &mut Value) {
    let Some(version) = list(obj, &["spec", "versions"]).iter().find(|v| v["storage"] == true) else { return };
    let name = version["name"].clone();
    let mut stored = list(obj, &["status", "storedVersions"]).to_vec();
    if name.is_string() && !stored.contains(&name) {
        stored.push(name);
        set(obj, &["status", "storedVersions"], stored);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::testing::{problems, problems_of_update, with_cx};

    fn definition(schema: Value) -> Value {
        let mut obj = json!({"metadata": {"name": "foos.ex.io"}, "spec": {"group": "ex.io", "scope": "Namespaced",
            "names": {"kind": "Foo", "plural": "foos"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        CustomResourceDefinition.default(&mut obj);
        with_cx(None, |cx| CustomResourceDefinition.prepare_create(cx, &mut obj));
        obj
    }

    fn check_schema(schema: Value, expected: &[&str]) {
        let expected: Vec<String> = expected.iter().map(|e| format!("spec.validation.openAPIV3Schema{e}")).collect();
        assert_eq!(problems(&CustomResourceDefinition, &definition(schema)), expected);
    }

    #[test]
    fn defaults() {
        let obj = definition(json!({"type": "object"}));
        assert_eq!(
            obj["spec"]["names"],
            json!({"kind": "Foo", "plural": "foos", "singular": "foo", "listKind": "FooList"})
        );
        assert_eq!(obj["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(obj["metadata"]["generation"], 1);
        assert_eq!(problems(&CustomResourceDefinition, &obj), [""; 0]);
    }

    #[test]
    fn schemas_are_structural() {
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "array"}, "b": {"x-kubernetes-int-or-string": true}}}),
            &[".properties[a].items: Required value: must be specified"],
        );
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "anyOf": [{"properties": {"b": {"type": "string"}}}]}),
            &[
                ".anyOf[0].properties[b].type: Forbidden: must be empty to be structural",
                ".properties[b]: Required value: because it is defined in spec.validation.openAPIV3Schema.anyOf[0].properties[b]",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            &[
                ".properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 5}}},
            "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]}}}),
            &[],
        );
    }

    #[test]
    fn defaults_are_values_of_their_schema() {
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "default": 0}, "b": {"type": "object",
                "properties": {"x": {"type": "string"}}, "default": {"y": 1}}}}),
            &[
                ".properties[a].default: Invalid value: 0:  in body should be greater than or equal to 1",
                ".properties[b].default: Invalid value: {\"y\":1}: must not have unknown fields",
            ],
        );
        // What has unknown fields already may have them.
        let unpruned = |field: &str| {
            let schema = json!({"type": "object", "properties": {"b": {"type": "object", "default": {field: 1}}}});
            let mut obj = definition(schema);
            obj["metadata"]["resourceVersion"] = json!("1");
            obj
        };
        let (old, new) = (unpruned("x"), unpruned("y"));
        assert_eq!(problems(&CustomResourceDefinition, &new).len(), 1);
        assert_eq!(problems_of_update(&CustomResourceDefinition, None, &new, &old), [""; 0]);
    }

    #[test]
    fn what_rules_cost_is_looked_at_once() {
        let dear = |description: &str| {
            let rule = json!([{"rule": "self.all(x, self.all(y, x == y))"}]);
            definition(json!({"type": "object", "description": description, "properties": {"l": {"type": "array",
                "items": {"type": "string"}, "x-kubernetes-validations": rule}}}))
        };
        let old = dear("");
        assert_eq!(problems_of_update(&CustomResourceDefinition, None, &old, &old), [""; 0]);
        assert!(!problems_of_update(&CustomResourceDefinition, None, &dear("changed"), &old).is_empty());
    }

    #[test]
    fn formats_that_nobody_knows_are_told_of_once() {
        let of = |format: &str, ty: &str| {
            definition(json!({"type": "object", "properties": {"a": {"type": ty, "format": format}}}))
        };
        let warnings = |new: &Value, old| with_cx(None, |cx| CustomResourceDefinition.warnings(cx, new, old));
        assert_eq!(warnings(&of("date-time", "string"), None), [""; 0]);
        assert_eq!(warnings(&of("int64", "integer"), None), [""; 0]);
        let (first, second) = (of("int33", "integer"), of("date", "boolean"));
        assert_eq!(warnings(&first, None), ["unrecognized format \"int33\""]);
        assert_eq!(warnings(&first, Some(&first)), [""; 0]);
        assert_eq!(warnings(&second, Some(&first)), ["unrecognized format \"date\""]);
    }

    #[test]
    fn schemas_use_what_is_supported() {
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "strin"}}}),
            &[
                ".properties[a].type: Unsupported value: \"strin\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\"",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "array", "uniqueItems": true, "items": {"type": "object"},
            "x-kubernetes-list-type": "map"}}}),
            &[
                ".properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
                ".properties[a].x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}},
            "additionalProperties": {"type": "string"}, "x-kubernetes-validations": [{"rule": " "}]}}}),
            &[
                ".properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
                ".properties[a].x-kubernetes-validations[0].rule: Required value: rule is not specified",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "object", "properties": {"b": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".b"}, {"rule": "true", "fieldPath": ".c"}]}}}),
            &[".properties[a].x-kubernetes-validations[1].fieldPath: Invalid value: \".c\": must be a valid path"],
        );
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "string", "x-kubernetes-validations": [{"rule": "self == 1"},
            {"rule": "self == 'x'", "optionalOldSelf": true}]}}}),
            &[
                ".properties[a].x-kubernetes-validations[0].rule: Invalid value: {\"Rule\":\"self == 1\",\"Message\":\"\",\"MessageExpression\":\"\",\"Reason\":null,\"FieldPath\":\"\",\"OptionalOldSelf\":null}: compilation failed: ERROR: <input>:1:6: found no matching overload for '_==_' applied to '(string, int)'\n | self == 1\n | .....^",
                ".properties[a].x-kubernetes-validations[1].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
            ],
        );
        check_schema(
            json!({"type": "object", "properties": {"l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "properties": {"k": {"type": "string", "nullable": true}}}}}}),
            &[
                ".properties[l].items.properties[k].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                ".properties[l].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ],
        );
    }

    #[test]
    fn specs() {
        let with = |change: &dyn Fn(&mut Value)| {
            let mut obj = definition(json!({"type": "object"}));
            change(&mut obj);
            problems(&CustomResourceDefinition, &obj)
        };
        assert_eq!(
            with(&|o| o["spec"]["scope"] = json!("x")),
            ["spec.scope: Unsupported value: \"x\": supported values: \"Cluster\", \"Namespaced\""]
        );
        assert_eq!(
            with(&|o| {
                o["spec"]["group"] = json!("io");
                o["metadata"]["name"] = json!("foos.io")
            }),
            ["spec.group: Invalid value: \"io\": should be a domain with at least one dot"]
        );
        assert_eq!(
            with(&|o| o["metadata"]["name"] = json!("foo")),
            ["metadata.name: Invalid value: \"foo\": must be spec.names.plural+\".\"+spec.group"]
        );
        assert_eq!(
            with(&|o| o["spec"]["names"]["listKind"] = json!("Foo")),
            ["spec.names.listKind: Invalid value: \"Foo\": kind and listKind may not be the same"]
        );
        assert_eq!(
            with(&|o| o["spec"]["versions"][0]["additionalPrinterColumns"] =
                json!([{"name": "a", "type": "x", "jsonPath": "a"}])),
            [
                "spec.additionalPrinterColumns[0].type: Invalid value: \"x\": must be one of boolean,date,integer,number,string",
                "spec.additionalPrinterColumns[0].JSONPath: Invalid value: \"a\": must be a simple json path starting with .",
            ]
        );
        assert_eq!(
            with(&|o| o["spec"]["versions"][0]["subresources"] = json!({"scale": {"specReplicasPath": ".x"}})),
            [
                "spec.subresources.scale.specReplicasPath: Invalid value: \".x\": should be a json path under .spec",
                "spec.subresources.scale.statusReplicasPath: Required value",
            ]
        );
        assert_eq!(
            with(&|o| o["spec"]["versions"][0]["additionalPrinterColumns"] =
                json!([{"name": "a", "type": "string", "format": "name", "jsonPath": ".a"}])),
            [
                "spec.additionalPrinterColumns[0].format: Invalid value: \"name\": must be one of byte,date,date-time,double,float,int32,int64,password",
            ]
        );
        assert_eq!(
            with(&|o| {
                o["spec"]["preserveUnknownFields"] = json!(true);
                o["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["a"] =
                    json!({"type": "string", "default": "x"});
                o["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                    "clientConfig": {"url": "https://h.example", "caBundle": "Cg=="}}});
            }),
            [
                "spec.preserveUnknownFields: Invalid value: true: must be false in order to use defaults in the schema",
                "spec.conversion.strategy: Invalid value: \"Webhook\": must be None if spec.preserveUnknownFields is true",
                "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            ]
        );
        assert_eq!(
            with(&|o| {
                let version = &mut o["spec"]["versions"][0];
                version["selectableFields"] =
                    json!([{"jsonPath": ".a"}, {"jsonPath": "['a']"}, {"jsonPath": "a"}, {"jsonPath": ".b"}]);
                version["schema"]["openAPIV3Schema"]["properties"]["a"] = json!({"type": "string"});
            }),
            [
                "spec.selectableFields[1].jsonPath: Invalid value: \"['a']\": is an invalid path: array notation is not allowed",
                "spec.selectableFields[2].jsonPath: Invalid value: \"a\": is an invalid path: expected [ or . but got: a",
                "spec.selectableFields[3].jsonPath: Invalid value: \".b\": is an invalid path: does not refer to a valid field",
            ]
        );
        assert_eq!(
            with(&|o| o["spec"]["versions"][0]["deprecationWarning"] = json!("x")),
            ["spec.versions[0].deprecationWarning: Invalid value: \"x\": can only be set for deprecated versions"]
        );
        assert_eq!(
            with(&|o| {
                o["spec"]["versions"][0]["deprecated"] = json!(true);
                o["spec"]["versions"][0]["deprecationWarning"] = json!("a\u{200b}");
            }),
            [
                "spec.versions[0].deprecationWarning: Invalid value: \"a\\u200b\": must only contain printable UTF-8 characters; non-printable character found at index 1",
            ]
        );
        assert_eq!(
            with(&|o| o["spec"]["conversion"] = json!({"strategy": "Webhook"})),
            [
                "spec.conversion.webhookClientConfig: Required value: required when strategy is set to Webhook",
                "spec.conversion.conversionReviewVersions: Required value",
            ]
        );
        assert_eq!(
            with(&|o| {
                o["spec"]["group"] = json!("x.k8s.io");
                o["metadata"]["name"] = json!("foos.x.k8s.io")
            }),
            [
                "metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
            ]
        );
    }

    #[test]
    fn versions_are_named_and_one_is_stored() {
        let versions = |versions: Value| {
            let mut obj = definition(json!({"type": "object"}));
            obj["spec"]["versions"] = versions;
            let errs = with_cx(None, |cx| CustomResourceDefinition.validate(cx, &obj));
            let short = |e: &crate::field::FieldError| (e.path.text(), e.detail.clone());
            errs.0.iter().map(short).collect::<Vec<_>>()
        };
        let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": {"type": "object"}}});
        let expected = |problems: &[(&str, &str)]| {
            problems.iter().map(|(path, detail)| ((*path).to_owned(), (*detail).to_owned())).collect::<Vec<_>>()
        };
        assert_eq!(versions(json!([version("v1", true), version("v2", false)])), []);
        assert_eq!(
            versions(json!([version("v1", true), version("v1", true)])),
            expected(&[
                ("spec.versions", "must contain unique version names"),
                ("spec.versions", "must have exactly one version marked as storage version"),
            ])
        );
        let of_bad_name = versions(json!([version("V1", true), version("v1", false)]));
        let paths: Vec<&str> = of_bad_name.iter().map(|(path, _)| path.as_str()).collect();
        assert_eq!(paths, ["spec.versions[0].name", "spec.version", "status.storedVersions"]);
        let mut bare = version("v2", false);
        bare["schema"] = Value::Null;
        assert_eq!(
            versions(json!([version("v1", true), bare])),
            expected(&[("spec.versions[1].schema.openAPIV3Schema", "")])
        );
        // A schema in common stands above the versions, of which nothing of it is shown.
        let mut obj = definition(json!({"type": "object"}));
        obj["spec"]["versions"][0]["storage"] = json!(false);
        assert_eq!(
            problems(&CustomResourceDefinition, &obj),
            [
                r#"spec.versions: Invalid value: [{"Name":"v1","Served":true,"Storage":false,"Deprecated":false,"DeprecationWarning":null,"Schema":null,"Subresources":null,"AdditionalPrinterColumns":null,"SelectableFields":null}]: must have exactly one version marked as storage version"#
            ]
        );
    }

    #[test]
    fn what_has_no_form_is_told_of_where_nothing_else_is() {
        check_schema(
            json!({"type": "object", "properties": {"a": {"$ref": "x"}, "b": {}}}),
            &[".properties[a].$ref: Forbidden: $ref is not supported"],
        );
        check_schema(
            json!({"$schema": "x", "type": "object", "properties": {"a": {}}}),
            &[": Invalid value: \"\": OpenAPIV3Schema 'schema' is not supported"],
        );
        // Defaults are looked at before what else is wrong.
        check_schema(
            json!({"type": "object", "properties": {"a": {"type": "string", "default": 1, "uniqueItems": true}}}),
            &[
                ".properties[a].default: Invalid value: \"integer\":  in body must be of type string: \"integer\"",
                ".properties[a].uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ],
        );
    }

    #[test]
    fn what_is_established_keeps_its_names() {
        let mut old = definition(json!({"type": "object"}));
        old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        let mut new = old.clone();
        new["spec"]["scope"] = json!("Cluster");
        new["spec"]["names"]["plural"] = json!("fooz");
        new["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://h.example", "caBundle": "Cg=="}}});
        assert_eq!(
            problems_of_update(&CustomResourceDefinition, None, &new, &old),
            [
                "spec.conversion.webhookClientConfig.caBundle: Invalid value: \"Cg==\": unable to load root certificates: unable to parse bytes as PEM block",
                "spec.scope: Invalid value: \"Cluster\": field is immutable",
                "spec.names.plural: Invalid value: \"fooz\": field is immutable",
            ]
        );
    }
}
