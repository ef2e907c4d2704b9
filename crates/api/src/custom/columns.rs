//! The columns of the table form: what a definition wants to be shown, or else the age.
//!
//! Upstream: `pkg/registry/customresource/tableconvertor` of `k8s.io/apiextensions-apiserver`.

use jiff::Timestamp;
use serde_json::{Number, Value};

use super::json_path::JsonPath;
use crate::kind::{Cells, Column};
use crate::object::{list, text};
use crate::patch::go;
use crate::schema::Type;
use crate::schema::openapi::describe;
use crate::table;

/// The columns after the name: what they are called, and where their cells come from (nothing, if the path is none).
#[derive(Debug)]
pub(super) struct Columns(Vec<(Column, Option<JsonPath>)>);

impl Columns {
    /// The columns of a version of a definition.
    pub fn of(version: &Value) -> Columns {
        let one = |column: &Value| {
            let own = |field: &str| text(column, &[field]).to_owned().into();
            let priority = column.get("priority").and_then(Value::as_i64).unwrap_or_default();
            let facts = Column {
                name: own("name"),
                ty: own("type"),
                format: own("format"),
                priority: i32::try_from(priority).unwrap_or_default(),
                description: match text(column, &["description"]) {
                    "" => described(text(column, &["jsonPath"])),
                    text => text.to_owned(),
                }
                .into(),
            };
            (facts, JsonPath::parse(text(column, &["jsonPath"])))
        };
        let wanted = list(version, &["additionalPrinterColumns"]);
        if wanted.is_empty() {
            const CREATED: &str = ".metadata.creationTimestamp";
            let age = of_meta("Age", "date", "", "creationTimestamp");
            return Columns(vec![(age, JsonPath::parse(CREATED))]);
        }
        Columns(wanted.iter().map(one).collect())
    }

    /// All columns.
    pub fn facts(&self) -> Vec<Column> {
        let name = of_meta("Name", "string", "name", "name");
        std::iter::once(name).chain(self.0.iter().map(|(column, _)| column.clone())).collect()
    }

    /// The cells of an object.
    pub fn cells(&self, obj: &Value, now: Timestamp) -> Cells {
        let of_column = |(column, path): &(Column, Option<JsonPath>)| {
            path.as_ref().and_then(|path| path.first(obj)).map_or(Value::Null, |value| cell(&column.ty, value, now))
        };
        std::iter::once(table::name(obj).into()).chain(self.0.iter().map(of_column)).collect()
    }
}

/// What is said of a column that does not say it itself.
fn described(path: &str) -> String {
    format!("Custom resource definition column (in JSONPath format): {path}")
}

/// A column of a field of the metadata.
fn of_meta(name: &'static str, ty: &'static str, format: &'static str, field: &str) -> Column {
    let meta = Type::named("k8s.io/apimachinery/pkg/apis/meta/v1.ObjectMeta");
    let description = meta.map_or("", |meta| describe::field(meta, field));
    Column { name: name.into(), ty: ty.into(), format: format.into(), priority: 0, description: description.into() }
}

/// A value as a column of a type shows it; `null` for what it cannot show.
fn cell(ty: &str, value: &Value, now: Timestamp) -> Value {
    match (ty, value) {
        ("string", Value::Null) => "<no value>".into(),
        ("string", value) => go::v(value).into(),
        ("integer", Value::Number(n)) if n.is_f64() => (n.as_f64().unwrap_or_default() as i64).into(),
        ("integer", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("number", Value::Number(n)) => n.as_f64().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        ("date", Value::String(text)) => match text.as_str() {
            "" | "null" => "<unknown>".into(),
            text if text.parse::<Timestamp>().is_err() => "<invalid>".into(),
            text => table::since(Some(text), now).into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells_follow_the_types_of_their_columns() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let column =
            |name: &str, ty: &str, path: &str| json!({"name": name, "type": ty, "jsonPath": path, "priority": 1});
        let version = json!({"additionalPrinterColumns": [
            column("S", "string", ".spec.s"), column("N", "string", ".spec.n"), column("I", "integer", ".spec.f"),
            column("F", "number", ".spec.n"), column("B", "boolean", ".spec.b"), column("D", "date", ".spec.d"),
            column("X", "date", ".spec.s"), column("M", "string", ".spec.m"), column("W", "integer", ".spec.s"),
            column("Z", "string", ".spec.nope"), column("P", "string", ".spec["),
            column("R", "string", ".status.conditions[?(@.type==\"Ready\")].status")]});
        let object = json!({"metadata": {"name": "n"}, "spec": {"s": "x", "n": 3, "f": 2.7, "b": true,
            "d": "2026-01-01T00:00:00Z", "m": {"a": [1]}}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let columns = Columns::of(&version);
        assert_eq!(columns.facts().len(), 13);
        assert_eq!(columns.facts()[1].priority, 1);
        assert_eq!(columns.facts()[1].description, "Custom resource definition column (in JSONPath format): .spec.s");
        assert_eq!(
            Value::Array(columns.cells(&object, now)),
            json!(["n", "x", "3", 2, 3.0, true, "10s", "<invalid>", "map[a:[1]]", null, null, null, "True"])
        );
    }

    #[test]
    fn the_age_is_shown_where_nothing_else_is_wanted() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().expect("a time");
        let columns = Columns::of(&json!({}));
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(Value::Array(columns.cells(&object, now)), json!(["n", "10s"]));
        assert_eq!(columns.facts()[1].name, "Age");
    }
}
