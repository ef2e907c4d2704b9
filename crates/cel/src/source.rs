//! The text of an expression, places in it, and what is wrong with it, written as cel-go writes it
//! (`common/errors.go`, `common/source.go`).

use std::fmt;

/// A place in an expression: a line from 1 and a column from 0, in code points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The line, from 1.
    pub line: usize,
    /// The column, from 0.
    pub column: usize,
}

/// Something wrong with an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// Where.
    pub location: Location,
    /// What.
    pub message: String,
    /// The line of the expression it is in.
    line: String,
}

impl Issue {
    /// What is wrong at the byte `at` of `text`.
    pub(crate) fn at(text: &str, at: usize, message: impl Into<String>) -> Issue {
        let before = &text[..floor(text, at)];
        let start = before.rfind('\n').map_or(0, |n| n + 1);
        Issue {
            location: Location { line: before.matches('\n').count() + 1, column: before[start..].chars().count() },
            message: message.into(),
            line: text[start..].lines().next().unwrap_or("").replace('\t', " "),
        }
    }
}

/// The greatest boundary of a character that is not beyond `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&n| text.is_char_boundary(n)).unwrap_or(0)
}

/// Longer lines are not shown.
const MAX_LINE: usize = 1000;

/// `ERROR: <input>:1:3: message`, the line, and a caret under the column; wide characters get wide dots.
impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Location { line, column } = self.location;
        write!(f, "ERROR: <input>:{line}:{}: {}", column + 1, self.message)?;
        if self.line.len() > MAX_LINE {
            return Ok(());
        }
        write!(f, "\n | {}\n | ", self.line)?;
        for c in self.line.chars().take(column) {
            f.write_str(if c.is_ascii() { "." } else { "．" })?;
        }
        let here = self.line.chars().nth(column);
        f.write_str(if here.is_none_or(|c| c.is_ascii()) { "^" } else { "＾" })
    }
}

/// Everything that is wrong with an expression, in the order of the text; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issues(Vec<Issue>);

impl Issues {
    /// The issues in the order of their places.
    pub(crate) fn new(mut issues: Vec<Issue>) -> Issues {
        issues.sort_by_key(|i| i.location);
        Issues(issues)
    }

    /// One by one.
    pub fn iter(&self) -> impl Iterator<Item = &Issue> {
        self.0.iter()
    }
}

impl From<Issue> for Issues {
    fn from(issue: Issue) -> Issues {
        Issues(vec![issue])
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, issue) in self.0.iter().enumerate() {
            if n > 0 {
                f.write_str("\n")?;
            }
            issue.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issue_shows_its_line_and_a_caret() {
        let check = |text: &str, at: usize, want: &str| assert_eq!(Issue::at(text, at, "m").to_string(), want);
        check("1 + 'a'", 2, "ERROR: <input>:1:3: m\n | 1 + 'a'\n | ..^");
        check("true &&\n\tx", 9, "ERROR: <input>:2:2: m\n |  x\n | .^");
        check("", 0, "ERROR: <input>:1:1: m\n | \n | ^");
        check("'ü' + x", 7, "ERROR: <input>:1:7: m\n | 'ü' + x\n | .．....^");
    }
}
