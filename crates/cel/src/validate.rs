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
    if let Kind::Call { target, function, args } = &e.kind
        && let Some(last) = args.last()
        && let Kind::Literal(Literal::String(value)) = &last.kind
    {
        let valid = match (function.as_str(), args.len(), target.is_some()) {
            ("duration", 1, false) => Duration::parse(value).is_some(),
            ("timestamp", 1, false) => Timestamp::parse(value).is_some(),
            ("matches", 1, true) | ("matches", 2, false) => pattern(value).is_ok(),
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
