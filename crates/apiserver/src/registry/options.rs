//! The options of requests, from queries and bodies (`meta/v1` `CreateOptions`, `UpdateOptions`, `PatchOptions`,
//! `DeleteOptions`).

use orkd_api::field::{ErrorList, Path, Shown};
use orkd_api::patch::{manager_from_user_agent, validate_manager};
use orkd_api::status::Status;
use serde_json::{Value, json};

use crate::query::Query;

/// What is done about unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// The request fails.
    Strict,
    /// Each is a warning.
    #[default]
    Warn,
    /// They are dropped.
    Ignore,
}

impl FieldValidation {
    fn as_str(self) -> &'static str {
        match self {
            FieldValidation::Strict => "Strict",
            FieldValidation::Warn => "Warn",
            FieldValidation::Ignore => "Ignore",
        }
    }
}

/// What of the options was said by the request; admission sees nothing else.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    manager: bool,
    validation: bool,
}

/// The options of a create, update or patch.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// Run everything, store nothing.
    pub dry_run: bool,
    /// Who owns the fields; never empty (from the user agent where the request does not say).
    pub field_manager: String,
    /// Strictness.
    pub field_validation: FieldValidation,
    /// Takes over fields in conflict (apply only).
    pub force: bool,
    /// Server-side apply.
    pub applies: bool,
    said: Said,
}

const GROUP: &str = "meta.k8s.io";

fn invalid(kind: &str, errors: &ErrorList) -> Status {
    Status::invalid(GROUP, kind, "", errors)
}

/// Checks `dryRun`: `All` is the one value there is.
fn dry_run(query: &Query, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = query.all("dryRun").collect();
    if values.iter().any(|v| *v != "All") {
        let shown = serde_json::to_string(&values).unwrap_or_default();
        errors.not_supported(&Path::new("dryRun"), Shown::raw(shown), &["All"]);
    }
    !values.is_empty()
}

impl WriteOptions {
    /// Reads the options of a query; `kind` is the name of the options object, such as `CreateOptions`.
    pub fn parse(query: &Query, user_agent: &str, kind: &str, apply: bool) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let dry_run = dry_run(query, &mut errors);
        let manager = query.text("fieldManager");
        let path = Path::new("fieldManager");
        validate_manager(&path, manager, &mut errors);
        let force = query.get("force").is_some();
        if apply && manager.is_empty() {
            errors.required(&path, "is required for apply patch");
        }
        if !apply && force && kind == "PatchOptions" {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        let validation = query.text("fieldValidation");
        let field_validation = match validation {
            "" | "Warn" => FieldValidation::Warn,
            "Strict" => FieldValidation::Strict,
            "Ignore" => FieldValidation::Ignore,
            other => {
                errors.not_supported(&Path::new("fieldValidation"), other, &["Ignore", "Warn", "Strict"]);
                FieldValidation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(invalid(kind, &errors));
        }
        let field_manager = if manager.is_empty() { manager_from_user_agent(user_agent) } else { manager.to_owned() };
        let said = Said { manager: !manager.is_empty(), validation: !query.text("fieldValidation").is_empty() };
        Ok(WriteOptions { dry_run, field_manager, field_validation, force: query.flag("force"), applies: apply, said })
    }

    /// The options of a service of this server that writes by itself.
    pub fn internal(dry_run: bool, field_manager: &str) -> Self {
        WriteOptions { dry_run, field_manager: field_manager.to_owned(), ..WriteOptions::default() }
    }

    /// The options object that admission sees. A patch makes or changes an object: it is seen with the options of that
    /// (`patchToCreateOptions`, `patchToUpdateOptions`).
    pub fn to_value(&self, kind: &str) -> Value {
        let mut v = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            v["dryRun"] = json!(["All"]);
        }
        if self.said.manager {
            v["fieldManager"] = json!(self.field_manager);
        }
        if self.said.validation {
            v["fieldValidation"] = json!(self.field_validation.as_str());
        }
        v
    }
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay.
    Orphan,
}

/// The options of a delete.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Run everything, store nothing.
    pub dry_run: bool,
    /// How long the object may take to end.
    pub grace_period: Option<i64>,
    /// Only an object with this UID.
    pub uid: Option<String>,
    /// Only an object with this resourceVersion.
    pub resource_version: Option<String>,
    /// The old form of [`DeleteOptions::propagation`].
    pub orphan_dependents: Option<bool>,
    /// What becomes of dependents; `None` for the kind's default.
    pub propagation: Option<Propagation>,
    /// That default: whether they stay.
    pub orphans_by_default: bool,
    /// A collection is deleted: admission is asked about each object, but told the name of none.
    pub of_collection: bool,
}

impl DeleteOptions {
    /// Reads the options: those of the body (null without one), else those of the query.
    pub fn parse(query: &Query, body: &Value) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let mut options = DeleteOptions::default();
        let bad = |what: String| Status::new(400, "BadRequest", what);
        let propagation;
        if body.is_object() {
            let dry: Vec<&str> = body["dryRun"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if dry.iter().any(|v| *v != "All") {
                let shown = serde_json::to_string(&dry).unwrap_or_default();
                errors.not_supported(&Path::new("dryRun"), Shown::raw(shown), &["All"]);
            }
            // kubectl's raw requests carry dryRun in the query beside a body.
            options.dry_run = !dry.is_empty() || dry_run(query, &mut errors);
            options.grace_period = body["gracePeriodSeconds"].as_i64();
            options.orphan_dependents = body["orphanDependents"].as_bool();
            propagation = body["propagationPolicy"].as_str().unwrap_or_default().to_owned();
            let text = |v: &Value| v.as_str().map(str::to_owned);
            options.uid = text(&body["preconditions"]["uid"]);
            options.resource_version = text(&body["preconditions"]["resourceVersion"]);
        } else {
            options.dry_run = dry_run(query, &mut errors);
            if let Some(text) = query.get("gracePeriodSeconds") {
                let parsed = text.parse::<i64>();
                options.grace_period =
                    Some(parsed.map_err(|_| bad(format!("strconv.ParseInt: parsing {text:?}: invalid syntax")))?);
            }
            options.orphan_dependents = query.get("orphanDependents").map(|_| query.flag("orphanDependents"));
            propagation = query.text("propagationPolicy").to_owned();
        }
        let path = Path::new("propagationPolicy");
        options.propagation = match propagation.as_str() {
            "" => None,
            "Background" => Some(Propagation::Background),
            "Foreground" => Some(Propagation::Foreground),
            "Orphan" => Some(Propagation::Orphan),
            other => {
                errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
                None
            }
        };
        if options.orphan_dependents.is_some() && !propagation.is_empty() {
            errors.invalid(&path, &propagation, "orphanDependents and deletionPropagation cannot be both set");
        }
        if errors.is_empty() { Ok(options) } else { Err(invalid("DeleteOptions", &errors)) }
    }

    /// The options object that admission sees.
    pub fn to_value(&self) -> Value {
        let mut v = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            v["dryRun"] = json!(["All"]);
        }
        if let Some(n) = self.grace_period {
            v["gracePeriodSeconds"] = json!(n);
        }
        if let Some(p) = self.propagation {
            v["propagationPolicy"] = json!(format!("{p:?}"));
        }
        if let Some(o) = self.orphan_dependents {
            v["orphanDependents"] = json!(o);
        }
        for (name, text) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(text) = text {
                v["preconditions"][name] = json!(text);
            }
        }
        v
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_sees_what_the_request_says() {
        let check = |query: &str, expected: Value| {
            let options = WriteOptions::parse(&Query::parse(query), "kubectl/v1.36", "PatchOptions", false);
            let mut wanted = json!({"kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1"});
            for (field, value) in expected.as_object().expect("fields") {
                wanted[field] = value.clone();
            }
            assert_eq!(options.expect("good").to_value("UpdateOptions"), wanted, "{query}");
        };
        check("", json!({}));
        check("fieldManager=me&fieldValidation=Strict", json!({"fieldManager": "me", "fieldValidation": "Strict"}));
        check("dryRun=All&fieldValidation=Ignore", json!({"dryRun": ["All"], "fieldValidation": "Ignore"}));
    }
}
