//! Finding by pattern (`apiserver/pkg/cel/library/regex.go`).

use super::{Library, Result, int, text};
use crate::eval::EvalError;
use crate::functions::Functions;
use crate::plan::pattern;
use crate::types::Type;
use crate::value::Value;

/// The library.
pub const LIBRARY: Library = Library::new("kubernetes.regex", declare);

fn compiled(args: &[Value<'_>]) -> std::result::Result<::regex::Regex, EvalError> {
    pattern(text(args, 1)?).map_err(|e| EvalError::new(format!("Illegal regex: {e}")))
}

fn find<'a>(args: &[Value<'a>]) -> Result<'a> {
    let found = compiled(args)?.find(text(args, 0)?).map_or("", |m| m.as_str()).to_owned();
    Ok(found.into())
}

/// All that is found, or as many as the third argument says; any number below zero means all.
fn find_all<'a>(args: &[Value<'a>]) -> Result<'a> {
    let most = if args.len() > 2 { usize::try_from(int(args, 2)?).unwrap_or(usize::MAX) } else { usize::MAX };
    let pattern = compiled(args)?;
    let found = pattern.find_iter(text(args, 0)?).take(most).map(|m| Value::from(m.as_str().to_owned()));
    Ok(found.collect::<Vec<_>>().into())
}

fn declare(f: &mut Functions) {
    let list = Type::list(Type::String);
    f.member("find", "string_find_string", [Type::String, Type::String], Type::String, find);
    f.member("findAll", "string_find_all_string", [Type::String, Type::String], list.clone(), find_all);
    f.member("findAll", "string_find_all_string_int", [Type::String, Type::String, Type::Int], list, find_all);
}
