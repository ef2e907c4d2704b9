//! What a kind is: its facts ([`ResourceInfo`]) and its behaviour ([`Kind`]).
//!
//! A kind is one file in the folder of its group, listed once in that group's `all()`. Routes, discovery,
//! OpenAPI, storage keys, table output and RBAC verbs derive from [`ResourceInfo`]; the API server calls
//! the methods of [`Kind`] in the order of `apiserver::registry` and nowhere else.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value;

use crate::custom::CustomKind;
use crate::field::ErrorList;
use crate::schema::Node;

/// A name that is a constant for built-in kinds and owned for those of custom resource definitions.
pub type Name = Cow<'static, str>;

/// Whether objects of a kind live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One flat set of names.
    Cluster,
    /// A set of names per namespace.
    Namespaced,
}

/// The facts of one served resource (group, version, plural).
#[derive(Clone, Debug)]
pub struct ResourceInfo {
    /// API group; empty for core.
    pub group: Name,
    /// Served version, such as `v1`.
    pub version: Name,
    /// Kind, such as `Pod`.
    pub kind: Name,
    /// Plural in URLs, such as `pods`.
    pub plural: Name,
    /// Singular, such as `pod`.
    pub singular: Name,
    /// Short names for kubectl.
    pub short_names: Vec<Name>,
    /// Categories such as `all`.
    pub categories: Vec<Name>,
    /// Where objects live.
    pub scope: Scope,
    /// Verbs in the order of discovery (`create`, `delete`, ...). Review kinds have `create` only.
    pub verbs: &'static [&'static str],
    /// Subresources in the order of discovery.
    pub subresources: Vec<SubresourceInfo>,
    /// The path below `/registry/`, such as `pods`, `services/specs`, `minions`. Two resources with the
    /// same prefix are two views of one storage (`events` and `events.events.k8s.io`).
    pub storage_prefix: Name,
    /// Name of the type in the schema table (the Go path of `fields.json`), such as `k8s.io/api/core/v1.Pod`.
    pub type_name: Name,
    /// Columns of the table form.
    pub columns: Vec<Column>,
}

/// Every verb of an ordinary resource, in the order of discovery.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// One subresource, as discovery shows it.
#[derive(Clone, Debug)]
pub struct SubresourceInfo {
    /// Name after the slash, such as `status`.
    pub name: Name,
    /// Kind of its body, such as `Scale`.
    pub kind: Name,
    /// Group of its body, where it is not the resource's own.
    pub group: Option<Name>,
    /// Version of its body, where it is not the resource's own.
    pub version: Option<Name>,
    /// Verbs in the order of discovery.
    pub verbs: &'static [&'static str],
}

/// A column of the table form (`meta/v1.TableColumnDefinition`).
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Heading, such as `Ready`.
    pub name: Name,
    /// OpenAPI type of the cells: `string`, `integer`, `date`.
    pub ty: Name,
    /// OpenAPI format: `name` for the name column, else mostly empty.
    pub format: Name,
    /// 0 for always shown, more for `-o wide`.
    pub priority: i32,
    /// What the column shows; empty for those of built-in kinds.
    pub description: Name,
}

/// A constant column. `table(&[("Name", "string", "name", 0), ...])`
pub fn table(columns: &[(&'static str, &'static str, &'static str, i32)]) -> Vec<Column> {
    columns
        .iter()
        .map(|&(name, ty, format, priority)| Column {
            name: name.into(),
            ty: ty.into(),
            format: format.into(),
            priority,
            description: "".into(),
        })
        .collect()
}

/// Which rules the kind's own validation applies to the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaRules {
    /// Those of `pkg/apis/core/validation`: finalizers are standard ones or have a domain. Most kinds.
    Core,
    /// Those of `k8s.io/apimachinery/pkg/api/validation`.
    Machinery,
    /// None; the registry checks the metadata of what is otherwise good, and takes any name that fits into a path.
    Registry,
}

/// A look that the own validation of a kind takes at the metadata of a changed object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetaPass {
    /// As at that of a new object (`ValidateObjectMeta`).
    New,
    /// Beside that of the old object (`ValidateObjectMetaUpdate`).
    Changed,
}

impl MetaPass {
    /// `passes` for the object itself, one beside the old object for `status` and `finalize`.
    pub fn of_door(subresource: Option<&str>, passes: &'static [Self]) -> &'static [Self] {
        if matches!(subresource, Some("status" | "finalize")) { &[Self::Changed] } else { passes }
    }
}

/// What becomes of dependents by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dependents {
    /// They are deleted.
    Delete,
    /// They stay, as they did when the kind was new; a warning for those who did not ask for it.
    Orphan(Option<&'static str>),
}

/// The circumstances of one request, as far as a kind may know them.
#[derive(Clone, Debug)]
pub struct Cx<'a> {
    /// The time.
    pub now: jiff::Timestamp,
    /// The subresource addressed, such as `status`; `None` for the object itself.
    pub subresource: Option<&'a str>,
    /// Name of the user.
    pub user: &'a str,
    /// Feature gates that are on.
    pub features: &'a Features,
}

/// Feature gates: what is alpha is off unless named.
#[derive(Clone, Debug, Default)]
pub struct Features(BTreeMap<String, bool>);

impl Features {
    /// The gates set by the operator.
    pub fn new(set: impl IntoIterator<Item = (String, bool)>) -> Self {
        Features(set.into_iter().collect())
    }

    /// Whether a gate is on; `by_default` is its default in v1.36.
    pub fn enabled(&self, gate: &str, by_default: bool) -> bool {
        self.0.get(gate).copied().unwrap_or(by_default)
    }
}

/// One row of the table form: the cells in the order of [`ResourceInfo::columns`].
pub type Cells = Vec<Value>;

/// The behaviour of one kind. All methods are pure; all have the default of a kind that has nothing to add.
///
/// Order of a create: decode, schema defaults, [`Kind::default`], managed fields, mutating admission (defaults
/// again), [`Kind::prepare_create`], [`Kind::validate`], [`Kind::canonicalize`], validating admission, commit. Of an update: read the
/// current object, decode or patch, defaults, managed fields, mutating admission, [`Kind::prepare_update`],
/// [`Kind::validate_update`], [`Kind::canonicalize`], validating admission, commit; again from the start when the commit loses a race.
///
/// Metadata common to all kinds (name, namespace, labels, annotations, owners, finalizers) is checked by the caller
/// ([`crate::validate::meta`]) with [`Kind::validate_name`] and [`Kind::meta_rules`].
pub trait Kind: Send + Sync + 'static {
    /// The facts.
    fn info(&self) -> &ResourceInfo;

    /// The schema of objects, for patches, apply and managed fields.
    fn node(&self) -> Option<Node<'_>> {
        let info = self.info();
        Node::of_kind(&info.group, &info.version, &info.kind)
    }

    /// The kind of a custom resource that this is; `None` for a built-in one. What the codecs do for built-in types by
    /// their table, a custom kind does by its own schema ([`CustomKind::decode`], [`CustomKind::normalize`]).
    fn custom(&self) -> Option<&CustomKind> {
        None
    }

    /// Defaults that the schema table does not express (they depend on other fields). Runs on every decode,
    /// must be idempotent. Upstream: `SetDefaults_*` in `pkg/apis/<group>/<version>/defaults.go`.
    fn default(&self, _obj: &mut Value) {}

    /// Clears what a client may not set and sets what the server owns, before a create (status dropped,
    /// `generation` 1). Upstream: `PrepareForCreate` of the strategy.
    fn prepare_create(&self, _cx: &Cx<'_>, _obj: &mut Value) {}

    /// The same before an update: restores what this door may not change (`status` through the main resource,
    /// `spec` through `status`), increments `generation` when the spec changed. The subresource is in
    /// [`Cx::subresource`]. Upstream: `PrepareForUpdate`.
    fn prepare_update(&self, _cx: &Cx<'_>, _new: &mut Value, _old: &Value) {}

    /// Checks a new object. Every problem is reported.
    fn validate(&self, _cx: &Cx<'_>, _obj: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Checks a changed object, what may not change included. Upstream's `ValidateUpdate` of the strategy (or
    /// of the subresource's strategy).
    fn validate_update(&self, cx: &Cx<'_>, new: &Value, _old: &Value) -> ErrorList {
        self.validate(cx, new)
    }

    /// Brings what was found to be good into the form that is stored. Upstream: `Canonicalize` of the strategy.
    fn canonicalize(&self, _obj: &mut Value) {}

    /// The rule for names: the messages of what is wrong, empty for a good one. Most kinds: a DNS subdomain.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::names::dns_subdomain(name, prefix)
    }

    /// By which rules the kind looks at the metadata.
    fn meta_rules(&self) -> MetaRules {
        MetaRules::Core
    }

    /// The looks that the kind's own validation takes at the metadata of a changed object, beside the two of the registry:
    /// clients see the same problem once for each of them.
    fn meta_passes(&self, _subresource: Option<&str>) -> &'static [MetaPass] {
        &[MetaPass::Changed]
    }

    /// Texts for `Warning` headers. `old` is `None` on create.
    fn warnings(&self, _cx: &Cx<'_>, _new: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Fields usable in field selectors beside `metadata.name` and `metadata.namespace`: label and value (empty
    /// text for unset). Every object of the kind gives the same labels in the same order. Upstream:
    /// `ToSelectableFields`, `AddFieldLabelConversionFunc`.
    fn selectable_fields(&self, _obj: &Value) -> Vec<(Name, String)> {
        Vec::new()
    }

    /// The selectable field that a label of a field selector names, or why it names none (`AddFieldLabelConversionFunc`,
    /// `DefaultMetaV1FieldSelectorConversion`).
    fn field_label<'l>(&self, label: &'l str) -> Result<&'l str, String> {
        let own = self.selectable_fields(&Value::Null);
        let is_default = own.is_empty() && self.custom().is_none();
        let known = match label {
            "metadata.name" => true,
            "metadata.namespace" => is_default || self.info().scope == Scope::Namespaced,
            _ => own.iter().any(|(known, _)| known == label),
        };
        match known {
            true => Ok(label),
            false if is_default => Err(unknown_label(label)),
            false => Err(format!("field label not supported: {label}")),
        }
    }

    /// The lists that [`Kind::selectable_fields`] looks into, by the name of their field: whoever wants nothing but
    /// selectable fields passes over all others.
    fn selectable_lists(&self) -> &'static [&'static str] {
        &[]
    }

    /// What the rows of a table of several are sorted by; `None` leaves them in the order of the list.
    fn row_rank(&self, _obj: &Value) -> Option<i64> {
        None
    }

    /// Cells of the table form. Upstream: `pkg/printers/internalversion/printers.go`.
    fn cells(&self, obj: &Value, now: jiff::Timestamp) -> Cells {
        crate::table::name_and_age(obj, now)
    }

    /// Conditions of the row of the table form (`meta/v1.TableRowCondition`). Pods alone have any upstream.
    fn row_conditions(&self, _obj: &Value) -> Vec<Value> {
        Vec::new()
    }

    /// The warning that goes with every request for a kind that is no longer to be used.
    fn deprecation(&self) -> Option<Cow<'_, str>> {
        None
    }

    /// Paths that an apply through this door (`None` for the main resource) does not own, because the server
    /// resets them: `["status"]` for the main resource of a kind with a status. Upstream: `GetResetFields`.
    fn reset_fields(&self, _subresource: Option<&str>) -> &'static [&'static [&'static str]] {
        &[]
    }

    /// Whether a PUT on a missing object creates it (upstream's `AllowCreateOnUpdate`: leases, RBAC kinds,
    /// events, ...).
    fn create_on_update(&self) -> bool {
        false
    }

    /// What becomes of dependents where neither a deletion nor a finalizer says (`DefaultGarbageCollectionPolicy`).
    fn dependents(&self) -> Dependents {
        Dependents::Delete
    }

    /// Whether an update without a resourceVersion is taken as it is (`AllowUnconditionalUpdate`).
    fn unconditional_update(&self) -> bool {
        true
    }

    /// Marks an object whose removal somebody else has to prepare, on the first DELETE of it; whether there is such a
    /// somebody. Upstream: `Delete` of the store of definitions.
    fn begin_removal(&self, _obj: &mut Value, _now: jiff::Timestamp) -> bool {
        false
    }

    /// How long a deleted object may stay to end by itself, in seconds, given what the request asked for; `None`
    /// for kinds that are removed at once. Pods alone have one upstream (`CheckGracefulDelete`).
    fn graceful_delete(&self, _obj: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Turns an object into the form it is stored in. Of the kinds that share a `storage_prefix` the first listed is the
    /// stored form; the others are views of it (`events.k8s.io` of core events) and convert.
    fn to_storage(&self, _obj: &mut Value) {}

    /// Turns a stored object into the form of this view.
    fn to_served(&self, _obj: &mut Value) {}

    /// The OpenAPI v3 schema of a kind that is not in the schema table (a custom resource); `None` for built-in ones.
    fn openapi_schema(&self) -> Option<Value> {
        None
    }

    /// How long a record of this kind lives, in seconds; `None` for ever. Events: 3600.
    fn ttl_seconds(&self) -> Option<u64> {
        None
    }
}

/// What is told of a field label where name and namespace are all there is.
pub fn unknown_label(label: &str) -> String {
    let label = crate::field::quote(label);
    format!("{label} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
}
