//! What is wrong with literals before anything is evaluated (`cel/validator.go`: durations, instants, patterns).

use crate::ast::{Expr, Kind, Literal};
use crate::plan::pattern;
use crate::source::{Issue, Issues};
use crate::time::{Duration, Timestamp};

/// Checks the literals given to conversions and to `matches`.
pub(crate) fn literals(text: &str, expr: &Expr) -> Result<(), Issues> {
    let mut issues = Vec::new();
    visit(text, expr, &mut issues);
    if issues.is_empty() { Ok(()) } else { Err(Issues::new(issues)) }
}

fn visit(text: &str, e: &Expr, issues: &mut Vec<Issue>) {
    if let Kind::Call { function, args, .. } = &e.kind
        && let Some(last) = args.last()
        && let Kind::Literal(Literal::String(value)) = &last.kind
    {
        let valid = match (function.as_str(), args.len()) {
            ("duration", 1) => Duration::parse(value).is_some(),
            ("timestamp", 1) => Timestamp::parse(value).is_some(),
            ("matches", 1 | 2) => pattern(value).is_ok(),
            _ => true,
        };
        if !valid {
            issues.push(Issue::at(text, last.at, format!("invalid {function} argument")));
        }
    }
    for child in e.kind.children() {
        visit(text, child, issues);
    }
}
