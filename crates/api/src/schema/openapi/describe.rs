//! Descriptions of types, fields and parameters, for `kubectl explain` and the documents of OpenAPI.
//!
//! They are our own words, kept as text beside the source (`descriptions/*.txt`): one block for each type,
//!
//! ```text
//! Pod: Containers that run together on one node.
//!  spec: What the pod should be.
//! ```
//!
//! A line ` =Other` takes the fields that are not given from another type. A type is named by its last path elements (`core/v1.Event`) or, where that is enough, by its short name alone; the
//! block `*` holds fields that mean the same everywhere, and `?` the parameters of requests. A type that is nowhere
//! described has none, which is allowed everywhere in OpenAPI.

use std::collections::HashMap;
use std::sync::LazyLock;

use serde_json::Value;

use super::super::Type;

/// The texts, in the order in which a later one may add to an earlier one.
const TEXTS: &[&str] = &[
    include_str!("descriptions/common.txt"),
    include_str!("descriptions/core.txt"),
    include_str!("descriptions/pod.txt"),
    include_str!("descriptions/storage.txt"),
    include_str!("descriptions/workloads.txt"),
    include_str!("descriptions/network.txt"),
    include_str!("descriptions/access.txt"),
    include_str!("descriptions/extension.txt"),
    include_str!("descriptions/other.txt"),
];

/// The blocks by type. A block is the text of the type and the lines of its fields.
static BLOCKS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    let mut blocks = HashMap::new();
    for text in TEXTS {
        let mut rest = *text;
        while !rest.is_empty() {
            let mut end = 0;
            for line in rest.split_inclusive('\n') {
                if end > 0 && !line.starts_with(' ') {
                    break;
                }
                end += line.len();
            }
            let (block, after) = rest.split_at(end);
            if let Some((name, body)) = block.split_once(':') {
                blocks.insert(name, body);
            }
            rest = after;
        }
    }
    blocks
});

/// A hash of all texts.
pub(super) fn digest() -> u64 {
    let bytes = TEXTS.iter().flat_map(|text| text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// `core/v1.Pod`.
fn qualified(ty: Type) -> &'static str {
    let name = ty.name();
    match name.rmatch_indices('/').nth(1) {
        Some((at, _)) => &name[at + 1..],
        None => name,
    }
}

/// `Pod`.
fn short(ty: Type) -> &'static str {
    ty.name().rsplit('.').next().unwrap_or_default()
}

fn in_block(block: &str, field: &str) -> Option<&'static str> {
    let body = BLOCKS.get(block)?;
    let found = body.lines().skip(1).find_map(|line| line.strip_prefix(' ')?.strip_prefix(field)?.strip_prefix(':'));
    match found {
        Some(text) => Some(text.trim()),
        None => in_block(body.lines().find_map(|line| line.strip_prefix(" ="))?, field),
    }
}

/// What a type is; empty where nothing is said.
pub fn ty(ty: Type) -> &'static str {
    let of = |name: &str| BLOCKS.get(name).and_then(|body| body.lines().next()).map(str::trim);
    of(qualified(ty))
        .or_else(|| of(short(ty)))
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| if short(ty).ends_with("List") { "A list of objects of one kind." } else { "" })
}

/// What a field of a type is; empty where nothing is said.
pub fn field(ty: Type, name: &str) -> &'static str {
    in_block(qualified(ty), name)
        .or_else(|| in_block(short(ty), name))
        .or_else(|| in_block("*", name))
        .unwrap_or_default()
}

/// What a parameter of a request is; empty where nothing is said. Those of paths begin with `path/`.
pub fn parameter(name: &str) -> &'static str {
    in_block("?", name).unwrap_or_default()
}

/// Puts a description into a schema or parameter; an empty one leaves it as it is.
pub fn set(schema: &mut Value, text: &str) {
    if !text.is_empty() && schema.is_object() {
        schema["description"] = text.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Field;

    #[test]
    fn every_block_names_a_type_and_every_line_a_field() {
        let all: Vec<Type> = Type::all().collect();
        for (name, body) in BLOCKS.iter().filter(|(n, _)| **n != "*" && **n != "?") {
            let types: Vec<Type> =
                all.iter().copied().filter(|t| qualified(*t) == *name || short(*t) == *name).collect();
            assert!(!types.is_empty(), "no type is called {name}");
            for line in body.lines().skip(1) {
                if let Some(other) = line.strip_prefix(" =") {
                    assert!(BLOCKS.contains_key(other), "{name} is to be like {other}, which is not described");
                    continue;
                }
                let field = line.trim_start().split(':').next().unwrap_or_default();
                assert!(types.iter().any(|t| t.field(field).is_some()), "{name} has no field {field}");
            }
        }
    }

    /// The share of described fields in what is served, as a floor that may only rise.
    #[test]
    fn most_fields_are_described() {
        // No document shows what only servers exchange.
        let exchanged = |group: &str| matches!(group, "admission.k8s.io" | "apidiscovery.k8s.io");
        let roots = Type::kinds().filter(|k| matches!(k.1, "v1" | "v2") && !exchanged(k.0)).map(|k| k.3);
        let mut open: Vec<Type> = roots.collect();
        let mut seen = std::collections::BTreeSet::new();
        let (mut types, mut fields, mut described, mut missing) = (0, 0, 0, Vec::new());
        while let Some(t) = open.pop() {
            if t.fields().len() == 0 || !seen.insert(t.index()) {
                continue;
            }
            types += 1;
            if ty(t).is_empty() {
                missing.push(qualified(t).to_owned());
            }
            for f in t.fields() {
                fields += 1;
                if field(t, f.name()).is_empty() {
                    missing.push(format!("{}.{}", qualified(t), f.name()));
                } else {
                    described += 1;
                }
            }
            open.extend(t.fields().map(Field::ty));
        }
        if std::env::var_os("ORKD_SHOW_MISSING").is_some() {
            missing.sort();
            eprintln!("{}", missing.join("\n"));
        }
        eprintln!("{described} of {fields} fields of {types} types are described");
        assert!(missing.is_empty(), "not described: {missing:?}");
    }
}
