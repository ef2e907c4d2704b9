//! The definition around the schemas. Upstream: `pkg/apis/apiextensions/validation/validation.go` of
//! `k8s.io/apiextensions-apiserver`.
//!
//! Upstream validates an internal form in which what all versions have in common stands above them; its paths
//! (`spec.validation`, `spec.subresources`) are what clients see.

use serde_json::Value;

use super::expressions::Costs;
use super::{defaults, field_path, rules, shown, structural};
use crate::certificates::pem;
use crate::field::{ErrorList, Path, is_print};
use crate::names::{dns_subdomain, dns1035_label};
use crate::object::{View, at, list, same, text};
use crate::validate::immutable_field;
use crate::validate::webhook;

/// The name of a definition is made of what it defines.
pub(super) fn name(errs: &mut ErrorList, obj: &Value) {
    let root = View::root(obj);
    let name = root.dig("metadata.name");
    let wanted = format!("{}.{}", text(obj, &["spec", "names", "plural"]), text(obj, &["spec", "group"]));
    if !name.is_empty() && name.str() != wanted {
        errs.invalid(name.path(), name.str(), "must be spec.names.plural+\".\"+spec.group");
    }
}

/// A definition; `old` is `null` for a new one.
pub(super) fn definition(errs: &mut ErrorList, obj: &Value, old: &Value) {
    spec(errs, obj, old);
    if is_established(old) {
        for path in [&["spec", "scope"][..], &["spec", "names", "kind"]] {
            immutable_field(errs, obj, old, path);
        }
    }
    if old.is_object() {
        for path in [&["spec", "group"][..], &["spec", "names", "plural"]] {
            immutable_field(errs, obj, old, path);
        }
    }
    status(errs, obj);
    stored_versions(errs, obj);
    approval(errs, obj, old);
    let preserve = View::root(obj).dig("spec.preserveUnknownFields");
    if preserve.is_true() && at(old, &["spec", "preserveUnknownFields"]) != &Value::Bool(true) {
        errs.invalid(
            preserve.path(),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
             spec.versions[*].schema instead",
        );
    }
}

fn is_established(obj: &Value) -> bool {
    list(obj, &["status", "conditions"]).iter().any(|c| c["type"] == "Established" && c["status"] == "True")
}

/// The status alone.
pub(super) fn status(errs: &mut ErrorList, obj: &Value) {
    names(errs, &View::root(obj).dig("status.acceptedNames"));
}

fn stored_versions(errs: &mut ErrorList, obj: &Value) {
    let stored = View::root(obj).dig("status.storedVersions");
    if stored.is_empty() {
        errs.invalid(stored.path(), stored.value(), "must have at least one stored version");
        return;
    }
    let versions = list(obj, &["spec", "versions"]);
    for version in versions.iter().filter(|v| v["storage"] == true) {
        let name = text(version, &["name"]);
        if !stored.strs().contains(&name) {
            errs.invalid(stored.path(), stored.value(), format!("must have the storage version {name}"));
        }
    }
    for v in stored.list() {
        if !versions.iter().any(|version| text(version, &["name"]) == v.str()) {
            let name = v.str();
            errs.invalid(
                v.path(),
                name,
                format!(
                    "missing from spec.versions; {name} was previously a storage version, and must remain in \
                     spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                     {name} from status.storedVersions"
                ),
            );
        }
    }
}

/// The annotation in which groups of the Kubernetes project say who approved of them.
pub(super) const APPROVAL: &str = "api-approved.kubernetes.io";

/// What that annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Approval {
    /// Nothing.
    Missing,
    /// That nobody has.
    Bypassed,
    /// Where it was given.
    Given,
    /// Nothing that can be understood.
    Invalid,
}

/// Whether a definition has been approved of; `None` where that is nobody's business. Upstream: `GetAPIApprovalState`.
pub(super) fn approval_of(obj: &Value) -> Option<Approval> {
    let group = text(obj, &["spec", "group"]);
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|d| group == *d || group.ends_with(&format!(".{d}")));
    let word = text(obj, &["metadata", "annotations", APPROVAL]);
    let is_url = word.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    protected.then_some(match word {
        "" => Approval::Missing,
        word if word.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url => Approval::Given,
        _ => Approval::Invalid,
    })
}

/// What is said where the annotation is missing.
pub(super) fn missing_approval() -> String {
    format!(
        "protected groups must have approval annotation \"{APPROVAL}\", see \
         https://github.com/kubernetes/enhancements/pull/1111"
    )
}

/// What is said where it cannot be understood.
pub(super) fn invalid_approval() -> String {
    format!(
        "protected groups must have approval annotation \"{APPROVAL}\" with either a URL or a reason starting with \
         \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
    )
}

/// Groups of the Kubernetes project want a word of approval.
fn approval(errs: &mut ErrorList, obj: &Value, old: &Value) {
    let word = |obj| text(obj, &["metadata", "annotations", APPROVAL]).to_owned();
    if old.is_object() && word(obj) == word(old) {
        return;
    }
    let path = Path::new("metadata").child("annotations").key(APPROVAL);
    match approval_of(obj) {
        Some(Approval::Missing) => errs.required(&path, missing_approval()),
        Some(Approval::Invalid) => errs.invalid(&path, word(obj), invalid_approval()),
        _ => {}
    }
}

/// A part of a version that stands above the versions where all have the same.
fn in_common<'a>(versions: &'a [Value], field: &str) -> Option<&'a Value> {
    let first = at(versions.first()?, &[field]);
    versions.iter().all(|v| same(at(v, &[field]), first)).then_some(first)
}

fn spec(errs: &mut ErrorList, obj: &Value, old: &Value) {
    let spec = View::root(obj).get("spec");
    let group = spec.get("group");
    let problems = dns_subdomain(group.str(), false);
    if group.is_empty() {
        errs.required(group.path(), "");
    } else if !problems.is_empty() {
        errs.invalid(group.path(), group.str(), problems.join(","));
    } else if !group.str().contains('.') {
        errs.invalid(group.path(), group.str(), "should be a domain with at least one dot");
    }
    crate::validate::one_of(errs, &spec.get("scope"), &["Cluster", "Namespaced"]);
    let all = list(obj, &["spec", "versions"]);
    let (schema, subresources, columns, fields) = (
        in_common(all, "schema"),
        in_common(all, "subresources"),
        in_common(all, "additionalPrinterColumns"),
        in_common(all, "selectableFields"),
    );
    let old_has_all = !old.is_object()
        || list(old, &["spec", "versions"]).iter().all(|v| !at(v, &["schema", "openAPIV3Schema"]).is_null());
    let above = schema.is_some_and(|s| !at(s, &["openAPIV3Schema"]).is_null());
    if old_has_all && !above {
        for version in spec.items("versions") {
            let schema = version.dig("schema.openAPIV3Schema");
            if !schema.is_set() {
                errs.required(schema.path(), "");
            }
        }
    }
    let preserve = spec.get("preserveUnknownFields");
    if preserve.is_true() && all.iter().any(|v| has_default(at(v, &["schema", "openAPIV3Schema"]))) {
        errs.invalid(preserve.path(), true, "must be false in order to use defaults in the schema");
    }
    let mut seen = std::collections::BTreeSet::new();
    let mut unique = true;
    for version in spec.items("versions") {
        let name = version.get("name");
        unique &= seen.insert(name.str());
        let problems = dns1035_label(name.str(), false);
        if !problems.is_empty() {
            errs.invalid(name.path(), name.str(), problems.join(","));
        }
        deprecation(errs, &version);
        let has_status = version.dig("subresources.status").is_set();
        if schema.is_none() {
            let before = version_of(old, name.str());
            validation(errs, &version.get("schema"), has_status, &before);
        }
        if subresources.is_none() {
            scale(errs, &version.get("subresources"));
        }
        if columns.is_none() {
            printer_columns(errs, &version.get("additionalPrinterColumns"));
        }
        if fields.is_none() {
            let rule = "may only be set when `version.schema.openAPIV3Schema` is not included";
            selectable(errs, &version.get("selectableFields"), version.dig("schema.openAPIV3Schema").value(), rule);
        }
    }
    let versions = spec.get("versions");
    let above: Vec<&str> = [
        ("schema", schema),
        ("subresources", subresources),
        ("additionalPrinterColumns", columns),
        ("selectableFields", fields),
    ]
    .into_iter()
    .filter_map(|(name, common)| common.map(|_| name))
    .collect();
    let mut wrong = |rule| errs.invalid(versions.path(), shown::versions(versions.value(), &above), rule);
    if !unique {
        wrong("must contain unique version names");
    }
    if all.iter().filter(|v| v["storage"] == true).count() != 1 {
        wrong("must have exactly one version marked as storage version");
    }
    // The first version also stands above all.
    let first = all.first().map(|v| text(v, &["name"])).unwrap_or_default();
    let problems = dns1035_label(first, false);
    if !first.is_empty() && !problems.is_empty() {
        errs.invalid(&spec.path().child("version"), first, problems.join(","));
    }
    for field in ["plural", "singular", "kind", "listKind"] {
        let v = spec.get("names").get(field);
        if v.is_empty() {
            errs.required(v.path(), "");
        }
    }
    names(errs, &spec.get("names"));
    let path = spec.path();
    if let Some(schema) = schema {
        let any_status = all.iter().any(|v| !at(v, &["subresources", "status"]).is_null());
        let unchanged = |v: &Value| version_of(old, text(v, &["name"])).schema == Some(at(v, &["schema"]));
        let before = Before { schema: all.iter().all(unchanged).then_some(schema), pruned: pruned_before(old) };
        validation(errs, &View::at(path.child("validation"), schema), any_status, &before);
    }
    if let Some(subresources) = subresources {
        scale(errs, &View::at(path.child("subresources"), subresources));
    }
    if let Some(columns) = columns {
        printer_columns(errs, &View::at(path.child("additionalPrinterColumns"), columns));
    }
    if let Some(fields) = fields {
        let schema = schema.map_or(&Value::Null, |s| at(s, &["openAPIV3Schema"]));
        let rule = "may only be set when validations.schema is included";
        selectable(errs, &View::at(path.child("selectableFields"), fields), schema, rule);
    }
    let strategy = spec.dig("conversion.strategy");
    if preserve.is_true() && strategy.is_set() && strategy.str() != "None" {
        errs.invalid(strategy.path(), strategy.str(), "must be None if spec.preserveUnknownFields is true");
    }
    conversion(errs, &spec.get("conversion"), old);
}

/// Whether a schema has a default anywhere.
fn has_default(schema: &Value) -> bool {
    let each = |name: &str| at(schema, &[name]).as_object().into_iter().flatten().map(|(_, s)| s);
    let one = |name: &str| Some(at(schema, &[name])).filter(|s| s.is_object());
    !at(schema, &["default"]).is_null()
        || ["properties", "patternProperties", "definitions"].into_iter().flat_map(each).any(has_default)
        || ["items", "not", "additionalProperties", "additionalItems"].into_iter().filter_map(one).any(has_default)
        || ["allOf", "anyOf", "oneOf", "items"].iter().flat_map(|name| list(schema, &[name])).any(has_default)
}

fn deprecation(errs: &mut ErrorList, version: &View<'_>) {
    let warning = version.get("deprecationWarning");
    let Some(text) = warning.opt_str() else { return };
    let path = warning.path();
    if !version.get("deprecated").is_true() {
        errs.invalid(path, text, "can only be set for deprecated versions");
        return;
    }
    if text.len() > 256 {
        errs.invalid(path, text, "must be <= 256 characters long");
    }
    if text.is_empty() {
        errs.invalid(path, text, "must not be an empty string");
    }
    if let Some((i, _)) = text.char_indices().find(|(_, c)| !is_print(*c)) {
        let what = "must only contain printable UTF-8 characters; non-printable character found at index";
        errs.invalid(path, text, format!("{what} {i}"));
    }
}

fn names(errs: &mut ErrorList, names: &View<'_>) {
    let mut label = |v: &View<'_>, mixed: bool| {
        let text = if mixed { v.str().to_lowercase() } else { v.str().to_owned() };
        let problems = dns1035_label(&text, false);
        if !problems.is_empty() {
            let intro = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errs.invalid(v.path(), v.str(), format!("{intro}{}", problems.join(",")));
        }
    };
    for (field, mixed) in [("plural", false), ("singular", false), ("kind", true), ("listKind", true)] {
        let v = names.get(field);
        if !v.is_empty() {
            label(&v, mixed);
        }
    }
    names.items("shortNames").iter().for_each(|v| label(v, false));
    let (kind, list_kind) = (names.get("kind"), names.get("listKind"));
    if !kind.is_empty() && kind.str() == list_kind.str() {
        errs.invalid(list_kind.path(), list_kind.str(), "kind and listKind may not be the same");
    }
    for v in names.items("categories") {
        let problems = dns1035_label(v.str(), false);
        if !problems.is_empty() {
            errs.invalid(v.path(), v.str(), problems.join(","));
        }
    }
}

/// Fields of the root schema that stay meaningful when the schema of the status is taken out of it.
const ROOT_FIELDS: [(&str, &str); 22] = [
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// What an update changes.
struct Before<'a> {
    /// The part of the version with its schema, before the update.
    schema: Option<&'a Value>,
    /// All defaults held only what their schema names (`requirePrunedDefaults`); so it stays then.
    pruned: bool,
}

fn version_of<'a>(old: &'a Value, name: &str) -> Before<'a> {
    let before = list(old, &["spec", "versions"]).iter().find(|v| text(v, &["name"]) == name);
    Before { schema: before.map(|v| at(v, &["schema"])), pruned: pruned_before(old) }
}

fn pruned_before(old: &Value) -> bool {
    list(old, &["spec", "versions"]).iter().all(|v| defaults::are_pruned(at(v, &["schema", "openAPIV3Schema"])))
}

fn validation(errs: &mut ErrorList, validation: &View<'_>, has_status: bool, old: &Before<'_>) {
    let schema = validation.get("openAPIV3Schema");
    let Some(map) = schema.map() else { return };
    let start = errs.0.len();
    if has_status {
        let ty = schema.get("type");
        if !ty.is_empty() && ty.str() != "object" {
            errs.invalid(
                ty.path(),
                ty.str(),
                "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
            );
        } else if map.keys().any(|k| !ROOT_FIELDS.iter().any(|(f, _)| f == k)) {
            let allowed: Vec<&str> = ROOT_FIELDS.iter().map(|(_, go)| *go).collect();
            errs.invalid(
                schema.path(),
                shown::schema(schema.value()),
                format!(
                    "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                    allowed.join(" ")
                ),
            );
        }
    }
    if schema.get("nullable").is_true() {
        errs.forbidden(schema.get("nullable").path(), "nullable cannot be true at the root");
    }
    // Defaults and rules are those of a schema that is structural, rules also of one whose defaults are values of it.
    let shapeless = structural::unsupported(schema.value());
    let before = errs.0.len();
    if shapeless.is_none() {
        structural::validate(errs, &schema);
        if errs.0.len() == before {
            defaults::validate(errs, schema.path(), schema.value(), old.pruned);
        }
    }
    let is_sound = shapeless.is_none() && errs.0.len() == before;
    let mut costs = Costs::new(old.schema == Some(validation.value()));
    rules::validate(errs, &schema, is_sound.then_some(&mut costs));
    if let (true, Some(problem)) = (errs.0.len() == start, shapeless) {
        errs.invalid(schema.path(), "", problem);
    }
    costs.check(errs, schema.path());
}

fn scale(errs: &mut ErrorList, subresources: &View<'_>) {
    let scale = subresources.get("scale");
    if !scale.is_set() {
        return;
    }
    for (field, parents, rule) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let v = scale.get(field);
        if v.is_empty() {
            if field != "labelSelectorPath" {
                errs.required(v.path(), "");
            }
        } else if simple_path(errs, &v, v.path()) && !parents.iter().any(|p| v.str().starts_with(p)) {
            errs.invalid(v.path(), v.str(), rule);
        }
    }
}

/// A path of dots and names; whether it is one.
fn simple_path(errs: &mut ErrorList, v: &View<'_>, path: &Path) -> bool {
    let good = v.str().starts_with('.');
    if !good {
        errs.invalid(path, v.str(), "must be a simple json path starting with .");
    }
    good
}

fn printer_columns(errs: &mut ErrorList, columns: &View<'_>) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    for column in columns.list() {
        let (name, ty, format, path) =
            (column.get("name"), column.get("type"), column.get("format"), column.get("jsonPath"));
        if name.is_empty() {
            errs.required(name.path(), "");
        }
        let types = format!("must be one of {}", TYPES.join(","));
        if ty.is_empty() {
            errs.required(ty.path(), types);
        } else if !TYPES.contains(&ty.str()) {
            errs.invalid(ty.path(), ty.str(), types);
        }
        if !format.is_empty() && !FORMATS.contains(&format.str()) {
            errs.invalid(format.path(), format.str(), format!("must be one of {}", FORMATS.join(",")));
        }
        let at = column.path().child("JSONPath");
        if path.is_empty() {
            errs.required(&at, "");
        } else {
            simple_path(errs, &path, &at);
        }
    }
}

/// At most so many fields of a version can be used in field selectors.
const MAX_SELECTABLE_FIELDS: usize = 8;

fn selectable(errs: &mut ErrorList, fields: &View<'_>, schema: &Value, rule: &str) {
    if fields.is_empty() {
        return;
    }
    if schema.is_null() {
        errs.invalid(fields.path(), "", rule);
        return;
    }
    let mut seen = std::collections::BTreeSet::new();
    for field in fields.list() {
        let path = field.get("jsonPath");
        if path.is_empty() {
            errs.required(path.path(), "");
            continue;
        }
        let (names, found) = match field_path::resolve(path.str(), schema, false) {
            Ok(found) => found,
            Err(problem) => {
                errs.invalid(path.path(), path.str(), format!("is an invalid path: {problem}"));
                continue;
            }
        };
        if names.first().is_some_and(|name| name == "metadata") {
            errs.invalid(path.path(), path.str(), "must not point to fields in metadata");
        }
        if !matches!(text(found, &["type"]), "string" | "boolean" | "integer") {
            errs.invalid(
                path.path(),
                path.str(),
                "must point to a field of type string, boolean or integer. Enum string fields and strings with formats \
                 are allowed.",
            );
        }
        if !seen.insert(path.str()) {
            errs.duplicate(path.path(), path.str());
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS {
        errs.too_many(fields.path(), seen.len(), MAX_SELECTABLE_FIELDS);
    }
}

/// What is wrong with certificates. Upstream: `rootCertPool` of client-go.
fn bundle_problem(bundle: &str) -> Option<&'static str> {
    let blocks = pem::blocks(bundle);
    if blocks.iter().any(|b| b.ty == "CERTIFICATE" && !b.headers && pem::is_sequence(&b.der)) {
        None
    } else if blocks.is_empty() {
        Some("unable to load root certificates: unable to parse bytes as PEM block")
    } else {
        Some("unable to load root certificates: no valid certificate authority data seen")
    }
}

fn conversion(errs: &mut ErrorList, conversion: &View<'_>, old: &Value) {
    if !conversion.is_set() {
        return;
    }
    let strategy = conversion.get("strategy");
    crate::validate::one_of(errs, &strategy, &["None", "Webhook"]);
    let hook = conversion.get("webhook");
    let (config_path, versions_path) =
        (conversion.path().child("webhookClientConfig"), conversion.path().child("conversionReviewVersions"));
    let (config, versions) = (hook.get("clientConfig"), hook.get("conversionReviewVersions"));
    if strategy.str() == "Webhook" {
        let config = View::at(config_path, config.value());
        if config.is_set() {
            webhook::client_config(errs, &config);
            const BUNDLE: [&str; 5] = ["spec", "conversion", "webhook", "clientConfig", "caBundle"];
            let (bundle, before) = (config.get("caBundle"), text(old, &BUNDLE));
            // What is established stays with certificates that are some, unless they already were none.
            let lenient = !is_established(old) || !before.is_empty() && bundle_problem(before).is_some();
            if let (false, false, Some(problem)) = (bundle.is_empty(), lenient, bundle_problem(bundle.str())) {
                errs.invalid(bundle.path(), bundle.str(), problem);
            }
        } else {
            errs.required(config.path(), "required when strategy is set to Webhook");
        }
        let versions = View::at(versions_path, versions.value());
        if versions.is_empty() {
            errs.required(versions.path(), "");
        } else {
            let before = list(old, &["spec", "conversion", "webhook", "conversionReviewVersions"]);
            let recognized = before.is_empty() || before.iter().any(|v| v.as_str().is_some_and(webhook::is_accepted));
            webhook::review_versions(errs, &versions, recognized);
        }
    } else {
        if config.is_set() {
            errs.forbidden(&config_path, "should not be set when strategy is not set to Webhook");
        }
        if !versions.is_empty() {
            errs.forbidden(&versions_path, "should not be set when strategy is not set to Webhook");
        }
    }
}
