//! PATCH in its four forms. Upstream: `endpoints/handlers/patch.go`.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use orkd_api::codec::StrictErrors;
use orkd_api::field::{ErrorList, Path};
use orkd_api::kind::Kind;
use orkd_api::patch as forms;
use orkd_api::schema::Node;
use orkd_api::status::{Details, Status};
use serde_json::Value;

use super::options::{FieldValidation, WriteOptions};
use super::update::{self, Made, Maker, Making};
use super::{Request, Target, create, meta_text, scale, strategy};
use crate::codec::{self, Door};
use crate::managed;
use crate::negotiation::Format;
use crate::warning::Warnings;

/// The form of a patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// By merge keys of the schema.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl Form {
    /// Reads the content type; 415 for others.
    pub fn of(headers: &HeaderMap, kind: &dyn Kind) -> Result<Form, Status> {
        let value = headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match value.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Form::Json),
            "application/merge-patch+json" => Ok(Form::Merge),
            "application/strategic-merge-patch+json" if kind.custom().is_none() => Ok(Form::Strategic),
            "application/apply-patch+yaml" => Ok(Form::Apply),
            _ if kind.custom().is_some() => Err(Status::new(
                415,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            _ => Err(Status {
                details: Some(Details::default()),
                ..Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type")
            }),
        }
    }
}

/// A decoded patch.
pub struct Patch {
    form: Form,
    value: Value,
    validation: FieldValidation,
    /// What strict decoding complained about.
    strict: StrictErrors,
}

impl Patch {
    /// Decodes a patch. For apply, `door` is the type the patch must have.
    pub fn decode(form: Form, bytes: &[u8], door: Door<'_>, validation: FieldValidation) -> Result<Patch, Status> {
        let format = if form == Form::Apply { Format::Yaml } else { Format::Json };
        let decoded = codec::decode_patch(format, bytes, validation);
        let (value, mut strict) = match form {
            // The one form whose decoder upstream says nothing more.
            Form::Strategic => decoded.map_err(Status::bad_request)?,
            Form::Apply => decoded.map_err(|text| Status::bad_request(format!("error decoding YAML: {text}")))?,
            _ => decoded.map_err(|text| Status::bad_request(format!("error decoding patch: {text}")))?,
        };
        if form == Form::Json && validation != FieldValidation::Ignore {
            strict.0.iter_mut().for_each(|text| text.insert_str(0, "json patch "));
            strict.0.extend(forms::json::unknown_fields(&value)?);
        }
        if form == Form::Apply {
            let api_version = crate::resources::api_version(door.group, door.version);
            let (have, kind) =
                (value["apiVersion"].as_str().unwrap_or_default(), value["kind"].as_str().unwrap_or_default());
            let bad = |text: String| Err(Status::new(400, "BadRequest", text));
            if !value.is_object() {
                return bad("error decoding YAML: the patch is not an object".into());
            }
            if have != api_version || kind != door.kind {
                return bad(format!(
                    "invalid object type: {}, Kind={kind}",
                    if have.contains('/') { have.to_owned() } else { format!("/{have}") }
                ));
            }
        }
        Ok(Patch { form, value, validation, strict })
    }

    /// Applies a patch of the three forms that change a document.
    fn apply_to(&self, document: &mut Value, door: Door<'_>, warnings: &Warnings) -> Result<(), Status> {
        let before = document.clone();
        match self.form {
            Form::Json => forms::json::Patch::decode(self.value.clone())?.apply(document)?,
            Form::Merge => forms::merge::apply(document, self.value.clone())?,
            Form::Strategic => {
                let node = node_of(door)
                    .ok_or_else(|| Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type"))?;
                forms::strategic::apply(document, self.value.clone(), node)?;
            }
            Form::Apply => {}
        }
        // A patch does not change the type of an object. One by merge keys sets fields of a typed object, whose type is
        // told by nobody; after the others the object is decoded as what it says to be.
        for field in ["kind", "apiVersion"] {
            if (self.form == Form::Strategic || document.get(field).is_none_or(Value::is_null))
                && let (Some(map), Some(value)) = (document.as_object_mut(), before.get(field))
            {
                map.insert(field.into(), value.clone());
            }
        }
        let shown = match self.form {
            Form::Strategic => forms::shown(&self.value),
            _ => document.to_string(),
        };
        let invalid = |text: String| {
            let mut errors = ErrorList::new();
            errors.invalid(&Path::new("patch"), shown.as_str(), text);
            Status::invalid("", "", "", &errors)
        };
        if self.form == Form::Strategic
            && let Some(problem) = node_of(door).and_then(|node| forms::strategic::type_problem(node, document))
        {
            return Err(invalid(problem));
        }
        let text = |field: &str| document[field].as_str().unwrap_or_default();
        if door.custom.is_none()
            && let Some(problem) = codec::type_problem(door, text("apiVersion"), text("kind"))
        {
            return Err(invalid(problem));
        }
        let found = codec::normalize(document, door, self.validation).map_err(invalid)?;
        let all = StrictErrors(self.strict.0.iter().cloned().chain(found.0).collect());
        self.complain(&all, warnings, || invalid(all.message()))
    }

    /// Does with strict errors what the request asks for.
    fn complain(
        &self,
        strict: &StrictErrors,
        warnings: &Warnings,
        failure: impl FnOnce() -> Status,
    ) -> Result<(), Status> {
        match self.validation {
            FieldValidation::Strict if !strict.is_empty() => Err(failure()),
            FieldValidation::Warn => {
                warnings.extend(strict.0.iter().cloned());
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

struct Patching<'a> {
    patch: &'a Patch,
    cx: &'a Request<'a>,
    target: &'a Target<'a>,
    options: &'a WriteOptions,
    door: Door<'a>,
}

impl Maker for Patching<'_> {
    fn make<'f>(&'f self, current: Option<&'f Value>) -> Making<'f> {
        Box::pin(async move {
            if self.patch.form == Form::Apply {
                let WriteOptions { field_manager, force, .. } = self.options;
                let mut object =
                    managed::apply(self.cx, self.target, current, &self.patch.value, field_manager, *force)?;
                if current.is_none() {
                    let uid = meta_text(&self.patch.value, "uid");
                    if !uid.is_empty() {
                        let cause = format!(
                            "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                        );
                        return Err(self.target.conflict(&cause));
                    }
                }
                self.patch.complain(&self.patch.strict, &self.cx.warnings, || {
                    Status::bad_request(format!("error strict decoding YAML: {}", self.patch.strict.0.join(", ")))
                })?;
                codec::normalize(&mut object, self.door, FieldValidation::Ignore).map_err(|text| {
                    Status::new(500, "", format!("failed to convert new typed object to object: {text}"))
                })?;
                create::check_named(self.target, &mut object)?;
                strategy::default(self.target, &mut object);
                return Ok(Made::Object(object));
            }
            let Some(current) = current else { return Err(self.target.not_found()) };
            let mut object = current.clone();
            self.patch.apply_to(&mut object, self.door, &self.cx.warnings)?;
            create::check_named(self.target, &mut object)?;
            strategy::default(self.target, &mut object);
            managed::update(self.cx, self.target, Some(current), &mut object, &self.options.field_manager);
            Ok(Made::Object(object))
        })
    }

    fn creates(&self) -> bool {
        self.patch.form == Form::Apply && self.target.subresource.is_empty()
    }
}

/// Patches an object. The flag tells whether it was created (by apply).
pub async fn patch(
    cx: &Request<'_>,
    target: &Target<'_>,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<(Value, bool), Status> {
    let maker = Patching { patch, cx, target, options, door: Door::of(&*target.resource.kind) };
    update::run(cx, target, &maker, options).await
}

/// The schema by which a strategic merge patch is merged; custom resources have none.
fn node_of(door: Door<'_>) -> Option<Node<'static>> {
    Node::of_kind(door.group, door.version, door.kind).filter(|_| door.custom.is_none())
}

/// Patches the scale of an object. The object.
pub async fn scale(
    cx: &Request<'_>,
    target: &Target<'_>,
    patch: &Patch,
    options: &WriteOptions,
) -> Result<Value, Status> {
    if patch.form == Form::Apply {
        let maker = ScaleApplying { patch, cx, target, options };
        return update::run(cx, target, &maker, options).await.map(|(object, _)| object);
    }
    let change = |object: &mut Value| {
        let mut scale = scale::of(&*target.resource.kind, object)?;
        patch.apply_to(&mut scale, Door::built_in("autoscaling", "v1", "Scale"), &cx.warnings)?;
        scale::into_object(target, &scale, object)
    };
    update::update_with(cx, target, &change, options).await
}

struct ScaleApplying<'a> {
    patch: &'a Patch,
    cx: &'a Request<'a>,
    target: &'a Target<'a>,
    options: &'a WriteOptions,
}

impl Maker for ScaleApplying<'_> {
    fn make<'f>(&'f self, current: Option<&'f Value>) -> Making<'f> {
        Box::pin(async move {
            let Some(current) = current else { return Err(self.target.not_found()) };
            let (scale, managed) = managed::apply_scale(
                current,
                &scale::of(&*self.target.resource.kind, current)?,
                &self.patch.value,
                &self.options.field_manager,
                self.options.force,
                &*self.target.resource.kind,
                self.cx.now,
            )?;
            let mut object = current.clone();
            scale::into_object(self.target, &scale, &mut object)?;
            if let Some(meta) = super::metadata(&mut object) {
                match managed {
                    Some(list) => meta.insert("managedFields".into(), list),
                    None => meta.remove("managedFields"),
                };
            }
            Ok(Made::Object(object))
        })
    }

    fn creates(&self) -> bool {
        false
    }
}
