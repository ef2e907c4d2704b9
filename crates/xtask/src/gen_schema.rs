//! Derives the schema table of `orkd-api` from `fields.json` (wire facts of every type) and the OpenAPI v3
//! documents (list types, merge keys, defaults, required fields).
//!
//! `fields.json` leaves out alpha versions and what only servers exchange (reviews of webhooks, aggregated discovery).
//! Those are declared by hand in `more-fields.json`, in the same form, or are the same on the wire as another version
//! ([`ALIASES`]). The files of `testdata` prove both.
//!
//! The output holds facts only (names, numbers, flags); descriptions are left out. Order of fields is that of
//! `fields.json`, which is the order in which upstream writes them.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

/// Types that are not structs on the wire, in the order of `schema::Builtin`: the table begins with them.
const BUILTIN: &[&[&str]] = &[
    &["string"],
    &["int32"],
    &["int64"],
    &["bool"],
    &["float64"],
    &["bytes"],
    &["interface"],
    &["k8s.io/apimachinery/pkg/api/resource.Quantity"],
    &["k8s.io/apimachinery/pkg/util/intstr.IntOrString"],
    &["k8s.io/apimachinery/pkg/apis/meta/v1.Time"],
    &["k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime"],
    &["k8s.io/apimachinery/pkg/apis/meta/v1.Duration"],
    &["k8s.io/apimachinery/pkg/runtime.RawExtension"],
    &["k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1"],
    &["k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON"],
    &["k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool"],
    &["k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray"],
    &["k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray"],
    &[
        "k8s.io/api/authentication/v1.ExtraValue",
        "k8s.io/api/authentication/v1beta1.ExtraValue",
        "k8s.io/api/authorization/v1.ExtraValue",
        "k8s.io/api/authorization/v1beta1.ExtraValue",
        "k8s.io/api/certificates/v1.ExtraValue",
        "k8s.io/api/certificates/v1beta1.ExtraValue",
    ],
];

/// Types with no use outside the envelope of the protobuf codec.
const LEFT_OUT: &[&str] = &["k8s.io/apimachinery/pkg/runtime.Unknown", "k8s.io/apimachinery/pkg/runtime.TypeMeta"];

/// Types that `fields.json` leaves out and that no other version is the same as.
const MORE: &str = include_str!("../more-fields.json");

/// Kinds that have the wire form of another version: group, version, the version that is declared, kinds.
const ALIASES: &[(&str, &str, &str, &[&str])] = &[
    ("admission.k8s.io", "v1beta1", "v1", &["AdmissionReview"]),
    (
        "admissionregistration.k8s.io",
        "v1alpha1",
        "v1beta1",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ],
    ),
    ("apidiscovery.k8s.io", "v2beta1", "v2", &["APIGroupDiscovery", "APIGroupDiscoveryList"]),
    ("certificates.k8s.io", "v1alpha1", "v1beta1", &["ClusterTrustBundle"]),
    ("coordination.k8s.io", "v1alpha2", "v1beta1", &["LeaseCandidate"]),
    ("resource.k8s.io", "v1alpha3", "v1beta2", &["DeviceTaintRule"]),
    ("storage.k8s.io", "v1alpha1", "v1beta1", &["CSIStorageCapacity", "VolumeAttachment", "VolumeAttributesClass"]),
];

const LIST: u16 = 1;
const MAP: u16 = 2;
const POINTER: u16 = 4;
const OMITEMPTY: u16 = 8;
const OMITZERO: u16 = 16;
const INLINE: u16 = 32;
const REQUIRED: u16 = 64;
const WRAPPED: u16 = 128;

#[derive(Deserialize)]
struct InType {
    fields: Vec<InField>,
    #[serde(default)]
    kinds: Vec<String>,
}

#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct InField {
    json: String,
    #[serde(rename = "type")]
    ty: String,
    number: u16,
    pointer: bool,
    omitempty: bool,
    omitzero: bool,
    inline: bool,
    list: bool,
    map: bool,
}

/// What OpenAPI says of a field beyond its type.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Extra {
    list_type: u8,
    keys: Vec<String>,
    strategy: String,
    merge_key: String,
    map_type: u8,
    default: String,
    element_default: String,
}

struct OutField {
    name: String,
    ty: u16,
    flags: u16,
    number: u16,
    extra: Extra,
}

/// Writes or checks the table.
pub fn run(check: bool) -> Result<()> {
    let Some(shared) = crate::shared()? else {
        println!("gen-schema skipped: no ../shared");
        return Ok(());
    };
    let text = generate(&shared)?;
    let path = crate::workspace()?.join("crates/api/src/schema/generated.rs");
    if check {
        let have = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        ensure!(have == text, "{} is out of date: run cargo xtask gen-schema", path.display());
        return Ok(());
    }
    std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
}

/// `k8s.io/api/core/v1.Pod` as OpenAPI names it: `io.k8s.api.core.v1.Pod`.
fn openapi_name(go: &str) -> String {
    let (path, name) = go.rsplit_once('.').unwrap_or(("", go));
    let mut parts = path.split('/');
    let host: Vec<&str> = parts.next().unwrap_or_default().split('.').rev().collect();
    let mut out = host.join(".");
    for part in parts {
        out.push('.');
        out.push_str(part);
    }
    out.push('.');
    out.push_str(name);
    out
}

fn schemas(shared: &Path) -> Result<HashMap<String, Value>> {
    let mut all = HashMap::new();
    for entry in std::fs::read_dir(shared.join("openapi/v3"))? {
        let mut doc: Value = serde_json::from_slice(&std::fs::read(entry?.path())?)?;
        if let Some(Value::Object(found)) = doc.pointer_mut("/components/schemas").map(Value::take) {
            all.extend(found);
        }
    }
    Ok(all)
}

fn text(v: &Value, key: &str) -> String {
    v.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn map_type(v: &Value) -> Result<u8> {
    Ok(match v.get("x-kubernetes-map-type").and_then(Value::as_str) {
        None => 0,
        Some("atomic") => 1,
        Some("granular") => 2,
        Some(other) => bail!("unknown map type {other}"),
    })
}

fn extra(property: &Value) -> Result<Extra> {
    let default_of = |v: &Value| v.get("default").map(Value::to_string).unwrap_or_default();
    Ok(Extra {
        list_type: match property.get("x-kubernetes-list-type").and_then(Value::as_str) {
            None => 0,
            Some("atomic") => 1,
            Some("set") => 2,
            Some("map") => 3,
            Some(other) => bail!("unknown list type {other}"),
        },
        keys: property
            .get("x-kubernetes-list-map-keys")
            .and_then(Value::as_array)
            .map(|keys| keys.iter().filter_map(|k| k.as_str().map(str::to_owned)).collect())
            .unwrap_or_default(),
        strategy: text(property, "x-kubernetes-patch-strategy"),
        merge_key: text(property, "x-kubernetes-patch-merge-key"),
        map_type: map_type(property)?,
        default: default_of(property),
        element_default: property
            .get("items")
            .or_else(|| property.get("additionalProperties"))
            .map(default_of)
            .unwrap_or_default(),
    })
}

fn generate(shared: &Path) -> Result<String> {
    let mut types: BTreeMap<String, InType> = serde_json::from_slice(&std::fs::read(shared.join("fields.json"))?)?;
    for (name, ty) in serde_json::from_str::<BTreeMap<String, InType>>(MORE).context("more-fields.json")? {
        ensure!(types.insert(name.clone(), ty).is_none(), "{name} is in fields.json: take it out of more-fields.json");
    }
    let schemas = schemas(shared)?;

    let mut ids: HashMap<&str, u16> = HashMap::new();
    for (id, names) in BUILTIN.iter().enumerate() {
        for name in *names {
            ids.insert(name, u16::try_from(id)?);
        }
    }
    let mut structs: Vec<&str> = Vec::new();
    for name in types.keys() {
        if !ids.contains_key(name.as_str()) && !LEFT_OUT.contains(&name.as_str()) {
            ids.insert(name, u16::try_from(BUILTIN.len() + structs.len())?);
            structs.push(name);
        }
    }
    // A type that occurs only inlined has no definition of its own; its properties stand in that of the type
    // which inlines it.
    let mut inlined_by: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, ty) in &types {
        for field in ty.fields.iter().filter(|f| f.inline) {
            inlined_by.entry(&field.ty).or_default().push(name);
        }
    }
    let definition = |name: &str| -> Option<&Value> {
        let mut at = vec![name];
        while let Some(name) = at.pop() {
            if let Some(found) = schemas.get(&openapi_name(name)) {
                return Some(found);
            }
            at.extend(inlined_by.get(name).into_iter().flatten().copied());
        }
        None
    };

    let mut fields: Vec<OutField> = Vec::new();
    let mut ranges: HashMap<&str, (usize, usize)> = HashMap::new();
    for name in &structs {
        let start = fields.len();
        let def = definition(name);
        let required: Vec<&str> = def
            .and_then(|d| d.get("required"))
            .and_then(Value::as_array)
            .map(|r| r.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        for field in &types[*name].fields {
            let mut flags = 0;
            let mut flag = |set: bool, bit: u16| {
                if set {
                    flags |= bit;
                }
            };
            let mut go = field.ty.as_str();
            if go.ends_with(".ValidationRules") {
                go = "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.ValidationRule";
            } else if go.ends_with(".Verbs") {
                go = "string";
                flag(true, WRAPPED);
            }
            flag(field.list, LIST);
            flag(field.map, MAP);
            flag(field.pointer, POINTER);
            flag(field.omitempty, OMITEMPTY);
            flag(field.omitzero, OMITZERO);
            flag(field.inline, INLINE);
            flag(required.contains(&field.json.as_str()), REQUIRED);
            let ty = *ids.get(go).with_context(|| format!("{name}.{}: unknown type {go}", field.json))?;
            let property = def.and_then(|d| d.get("properties")).and_then(|p| p.get(&field.json));
            let extra = property.map(extra).transpose()?.unwrap_or_default();
            fields.push(OutField { name: field.json.clone(), ty, flags, number: field.number, extra });
        }
        ranges.insert(name, (start, fields.len()));
    }

    let mut extras: Vec<Extra> = fields.iter().map(|f| f.extra.clone()).collect();
    extras.push(Extra::default());
    extras.sort();
    extras.dedup();

    let mut flat: Vec<u16> = Vec::new();
    let mut sorted: Vec<u16> = Vec::new();
    let mut rank: Vec<u16> = Vec::new();
    let mut out = String::from(
        "//! @generated by `cargo xtask gen-schema`: the facts of the API. Do not edit.\n\n\
         use super::table::{Extra as E, Field as F, Type as T};\n\n",
    );
    writeln!(out, "pub(super) static TYPES: [T; {}] = [", BUILTIN.len() + structs.len())?;
    for names in BUILTIN {
        writeln!(out, "T({:?}, 0, 0, 0, 0, 0),", names[0])?;
    }
    for name in &structs {
        let (start, end) = ranges[name];
        let mut own = Vec::new();
        flatten(start, end, &fields, &structs, &ranges, &mut own);
        let mut seen = std::collections::HashSet::new();
        for &i in &own {
            ensure!(seen.insert(&fields[usize::from(i)].name), "{name}: field {} twice", fields[usize::from(i)].name);
        }
        ensure!(own.len() <= 128, "{name}: more fields than the decoder's bit set holds");
        let first = flat.len();
        flat.extend(&own);
        own.sort_by(|a, b| fields[usize::from(*a)].name.cmp(&fields[usize::from(*b)].name));
        rank.extend(own.iter().filter_map(|i| flat[first..].iter().position(|f| f == i)).map(|at| at as u16));
        sorted.extend(&own);
        let map_type = schemas.get(&openapi_name(name)).map(map_type).transpose()?.unwrap_or(0);
        writeln!(out, "T({name:?}, {start}, {}, {first}, {}, {map_type}),", end - start, own.len())?;
    }
    out.push_str("];\n\n");

    writeln!(out, "pub(super) static FIELDS: [F; {}] = [", fields.len())?;
    for name in &structs {
        let (start, end) = ranges[name];
        for field in &fields[start..end] {
            let extra = extras.binary_search(&field.extra).map_err(|_| anyhow::anyhow!("extra lost"))?;
            write!(out, "F({:?},{},{},{},{extra}),", field.name, field.ty, field.flags, field.number)?;
        }
        out.push('\n');
    }
    out.push_str("];\n\n");

    for (name, list) in [("FLAT", &flat), ("SORTED", &sorted), ("RANK", &rank)] {
        writeln!(out, "pub(super) static {name}: [u16; {}] = [", list.len())?;
        for chunk in list.chunks(32) {
            for i in chunk {
                write!(out, "{i},")?;
            }
            out.push('\n');
        }
        out.push_str("];\n\n");
    }

    writeln!(out, "pub(super) static EXTRAS: [E; {}] = [", extras.len())?;
    for e in &extras {
        writeln!(
            out,
            "E {{ list_type: {}, keys: &{:?}, strategy: {:?}, merge_key: {:?}, map_type: {}, default: {:?}, element_default: {:?} }},",
            e.list_type, e.keys, e.strategy, e.merge_key, e.map_type, e.default, e.element_default
        )?;
    }
    out.push_str("];\n\n");

    let mut kinds: Vec<(String, String, String, u16)> = Vec::new();
    for name in &structs {
        for kind in &types[*name].kinds {
            let mut parts = kind.splitn(3, '/').map(str::to_owned);
            let (Some(group), Some(version), Some(kind)) = (parts.next(), parts.next(), parts.next()) else {
                bail!("{name}: odd kind {kind}");
            };
            kinds.push((group, version, kind, ids[name]));
        }
    }
    for (group, version, declared, names) in ALIASES {
        for name in *names {
            let is = |k: &&(String, String, String, u16)| k.0 == *group && k.1 == *declared && k.2 == *name;
            let id = kinds.iter().find(is).with_context(|| format!("no {group}/{declared} {name}"))?.3;
            kinds.push(((*group).to_owned(), (*version).to_owned(), (*name).to_owned(), id));
        }
    }
    kinds.sort();
    kinds.dedup();
    writeln!(out, "pub(super) static KINDS: [(&str, &str, &str, u16); {}] = [", kinds.len())?;
    for (group, version, kind, id) in &kinds {
        writeln!(out, "({group:?}, {version:?}, {kind:?}, {id}),")?;
    }
    out.push_str("];\n");
    Ok(out)
}

/// The fields of a struct as JSON shows them: those of inlined structs stand in its place.
fn flatten(
    start: usize,
    end: usize,
    fields: &[OutField],
    structs: &[&str],
    ranges: &HashMap<&str, (usize, usize)>,
    out: &mut Vec<u16>,
) {
    for (i, field) in fields.iter().enumerate().take(end).skip(start) {
        if field.flags & INLINE != 0 {
            let (start, end) = ranges[structs[usize::from(field.ty) - BUILTIN.len()]];
            flatten(start, end, fields, structs, ranges, out);
        } else {
            out.push(u16::try_from(i).unwrap_or(u16::MAX));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_committed_table_is_current() -> anyhow::Result<()> {
        super::run(true)
    }
}
