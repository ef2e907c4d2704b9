//! Paths into a schema, such as `.spec.replicas` and `.data['a.b']`. Upstream: `ValidFieldPath` in
//! `pkg/apiserver/schema/cel/validation.go` of `k8s.io/apiextensions-apiserver`.

use serde_json::Value;

/// The first token of a text that is not empty, and what follows it.
fn token(text: &str) -> (&str, &str) {
    let is_delimiter = |c: char| matches!(c, '.' | '[' | ']');
    let end = if text.starts_with('\'') {
        let bytes = text.as_bytes();
        (1..bytes.len()).find(|&i| bytes[i] == b'\'' && bytes[i - 1] != b'\\').map_or(text.len(), |i| i + 1)
    } else if text.starts_with(is_delimiter) {
        1
    } else {
        text.find(is_delimiter).unwrap_or(text.len())
    };
    text.split_at(end)
}

fn unescaped(text: &str) -> Result<String, String> {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        out.push(match chars.next() {
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\x0b',
            Some(c @ ('\'' | '\\')) => c,
            Some(c) => return Err(format!("invalid string literal: invalid escape char \\{c}")),
            None => '\\',
        });
    }
    Ok(out)
}

/// The names on a path and the schema at its end, or what is wrong with it.
pub(crate) fn resolve<'a>(
    path: &str,
    mut schema: &'a Value,
    brackets: bool,
) -> Result<(Vec<String>, &'a Value), String> {
    let (mut rest, mut names) = (path, Vec::new());
    let next = |rest: &mut &str| -> Result<String, String> {
        if rest.is_empty() {
            return Err("unexpected end of JSON path".into());
        }
        let (token, after) = token(rest);
        *rest = after;
        Ok(token.to_owned())
    };
    while !rest.is_empty() {
        let start = next(&mut rest)?;
        let name = match start.as_str() {
            "[" if !brackets => return Err("array notation is not allowed".into()),
            "[" => {
                let quoted = next(&mut rest)?;
                match quoted.strip_prefix('\'').and_then(|q| q.strip_suffix('\'')) {
                    Some(inner) => unescaped(inner)?,
                    None => return Err(format!("expected single quoted string but got {quoted}")),
                }
            }
            "." => next(&mut rest)?,
            other => return Err(format!("expected [ or . but got: {other}")),
        };
        const NO_FIELD: &str = "does not refer to a valid field";
        schema = match (schema.get("properties"), schema.get("additionalProperties")) {
            (Some(properties), _) => properties.get(&name).ok_or(NO_FIELD)?,
            (None, Some(additional)) => additional,
            (None, None) => return Err(NO_FIELD.into()),
        };
        names.push(name);
        if start == "[" {
            let end = next(&mut rest)?;
            if end != "]" {
                return Err(format!("expected ] but got {end}"));
            }
        }
    }
    Ok((names, schema))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_lead_to_schemas() {
        let schema = json!({"properties": {"spec": {"properties": {"a.b": {"type": "string"}, "m": {"additionalProperties": {"type": "integer"}}}}}});
        let check = |path: &str, expected: Result<&str, &str>| {
            let found = resolve(path, &schema, true).map(|(_, s)| s["type"].as_str().unwrap_or_default());
            assert_eq!(found, expected.map_err(str::to_owned), "{path}");
        };
        check("", Ok(""));
        check(".spec", Ok(""));
        check(".spec['a.b']", Ok("string"));
        check(".spec.m.x", Ok("integer"));
        check(".spec.m['x\\'y']", Ok("integer"));
        check("spec", Err("expected [ or . but got: spec"));
        check(".", Err("unexpected end of JSON path"));
        check(".spec[0]", Err("expected single quoted string but got 0"));
        check(".spec['m'", Err("unexpected end of JSON path"));
        check(".spec['m'.", Err("expected ] but got ."));
        check(".spec['\\q']", Err("invalid string literal: invalid escape char \\q"));
        check(".nope", Err("does not refer to a valid field"));
        check(".spec.m.x.y", Err("does not refer to a valid field"));
        assert_eq!(resolve(".spec['m']", &schema, false), Err("array notation is not allowed".to_owned()));
    }
}
