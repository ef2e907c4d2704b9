//! The configuration file: a YAML map whose keys are the long flags of the command that reads it.
//!
//! There is no second list of settings: the file is turned into flags that stand before those typed, and clap
//! parses the whole. A key that is no flag is an error that names the nearest one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{ArgAction, CommandFactory};
use serde_yaml::Value;

use crate::cli::Cli;

/// Read by `server` and `agent` where it exists and no other file is named.
pub const DEFAULT_PATH: &str = "/etc/orkd/config.yaml";

/// Why a configuration file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read configuration file {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not YAML, or no map.
    #[error("configuration file {path} is not a YAML map of settings: {reason}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A key is no flag of the command.
    #[error("unknown key {key:?} in configuration file {path}{}", hint.as_ref().map(|h| format!("; did you mean {h:?}?")).unwrap_or_default())]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The nearest flag.
        hint: Option<String>,
    },
    /// A value has a form that no flag takes.
    #[error("key {key:?} in configuration file {path}: expected {expected}")]
    Value {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What would do.
        expected: &'static str,
    },
}

/// The arguments to parse: those of the process, with the file's settings behind the command's name.
pub fn with_file(args: Vec<OsString>) -> Result<Vec<OsString>, Error> {
    let Some(command) = args.get(1).and_then(|a| a.to_str()) else { return Ok(args) };
    let cli = Cli::command();
    let Some(sub) = cli.find_subcommand(command) else { return Ok(args) };
    if !sub.get_arguments().any(|a| a.get_long() == Some("config")) {
        return Ok(args);
    }
    let path = match typed(&args, "config") {
        Some(path) => PathBuf::from(path),
        // It is written for a whole machine: a role alone has few of its keys.
        None if matches!(command, "server" | "agent") && Path::new(DEFAULT_PATH).exists() => DEFAULT_PATH.into(),
        None => return Ok(args),
    };
    let text = std::fs::read_to_string(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
    if command == "scheduler"
        && let Some(flags) = scheduler_flags(&path, &text, typed(&args, "kubeconfig").is_some())
    {
        // Upstream's own file stands where ours would.
        return Ok(args[..2].iter().cloned().chain(flags).chain(without(&args[2..], "config")).collect());
    }
    let flags = flags(sub, &path, &text, |name| typed(&args, name).is_some())?;
    let mut all = args[..2].to_vec();
    all.extend(flags);
    all.extend_from_slice(&args[2..]);
    Ok(all)
}

/// The flags that stand for a `KubeSchedulerConfiguration`; `None` if a file is none.
fn scheduler_flags(path: &Path, text: &str, has_kubeconfig: bool) -> Option<Vec<OsString>> {
    let document: Value = serde_yaml::from_str(text).ok()?;
    if !orkd_scheduler::Config::is_meant(&document) {
        return None;
    }
    let mut flags = vec![OsString::from(format!("--scheduler-config={}", path.display()))];
    let kubeconfig = document.get("clientConnection").and_then(|c| c.get("kubeconfig")).and_then(Value::as_str);
    if let Some(kubeconfig) = kubeconfig.filter(|k| !k.is_empty() && !has_kubeconfig) {
        flags.push(format!("--kubeconfig={kubeconfig}").into());
    }
    Some(flags)
}

/// Arguments without a flag and its value.
fn without(args: &[OsString], name: &str) -> Vec<OsString> {
    let long = format!("--{name}");
    let mut left = Vec::new();
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let text = arg.to_string_lossy();
        if text == long {
            rest.next();
        } else if !text.starts_with(&format!("{long}=")) {
            left.push(arg.clone());
        }
    }
    left
}

/// The value typed for a flag, in either form; `Some("")` for a switch.
fn typed(args: &[OsString], name: &str) -> Option<String> {
    let long = format!("--{name}");
    let mut rest = args.iter().skip(2);
    while let Some(arg) = rest.next() {
        let arg = arg.to_string_lossy();
        if arg == long {
            return Some(rest.next().map(|v| v.to_string_lossy().into_owned()).unwrap_or_default());
        }
        if let Some(value) = arg.strip_prefix(&format!("{long}=")) {
            return Some(value.to_owned());
        }
    }
    None
}

fn flags(
    command: &clap::Command,
    path: &Path,
    text: &str,
    is_typed: impl Fn(&str) -> bool,
) -> Result<Vec<OsString>, Error> {
    let syntax = |reason: String| Error::Syntax { path: path.to_owned(), reason };
    let root: Value = serde_yaml::from_str(text).map_err(|e| syntax(e.to_string()))?;
    let map = match root {
        Value::Null => return Ok(Vec::new()),
        Value::Mapping(map) => map,
        _ => return Err(syntax("it is not a map".into())),
    };
    let mut out = Vec::new();
    for (key, value) in map {
        let Value::String(key) = key else { return Err(syntax("a key is not a string".into())) };
        let arg = command.get_arguments().find(|a| a.get_long() == Some(key.as_str()) && key != "config");
        let Some(arg) = arg else {
            return Err(Error::UnknownKey { path: path.to_owned(), hint: nearest(command, &key), key });
        };
        if is_typed(&key) {
            continue;
        }
        let wrong = |expected| Error::Value { path: path.to_owned(), key: key.clone(), expected };
        let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
        match value {
            Value::Bool(on) if is_switch => {
                if on {
                    out.push(format!("--{key}").into());
                }
            }
            _ if is_switch => return Err(wrong("true or false")),
            Value::Sequence(items) if matches!(arg.get_action(), ArgAction::Append) => {
                for item in items {
                    let text = scalar(&item).ok_or_else(|| wrong("a list of plain values"))?;
                    out.push(format!("--{key}={text}").into());
                }
            }
            other => {
                let text = scalar(&other).ok_or_else(|| wrong("a plain value"))?;
                out.push(format!("--{key}={text}").into());
            }
        }
    }
    Ok(out)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        Value::Bool(b) => Some(b.to_string()),
        _ => None,
    }
}

/// The flag whose name takes the fewest edits to make of `key`, if that is at most half of it.
fn nearest(command: &clap::Command, key: &str) -> Option<String> {
    command
        .get_arguments()
        .filter_map(|a| a.get_long())
        .filter(|name| *name != "config" && *name != "help")
        .map(|name| (edits(name, key), name))
        .min()
        .filter(|(distance, _)| *distance <= key.len().max(2) / 2)
        .map(|(_, name)| name.to_owned())
}

fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, typed: &[&str], expected: Result<&[&str], &str>) {
        let cli = Cli::command();
        let command = cli.find_subcommand("server").expect("server exists");
        let got = flags(command, Path::new("f"), file, |name| typed.contains(&name));
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected.iter().map(OsString::from).collect::<Vec<_>>()),
            (Err(e), Err(expected)) => assert_eq!(e.to_string(), expected),
            (got, expected) => panic!("got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn keys_are_flags() {
        check("", &[], Ok(&[]));
        check("data-dir: /x\nmax-pods: 5", &[], Ok(&["--data-dir=/x", "--max-pods=5"]));
        check("tls-san: [a, b]\ndisable-agent: true", &[], Ok(&["--tls-san=a", "--tls-san=b", "--disable-agent"]));
        check("disable-agent: false", &[], Ok(&[]));
    }

    #[test]
    fn what_is_typed_wins() {
        check("data-dir: /x", &["data-dir"], Ok(&[]));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        check("data-dri: /x", &[], Err("unknown key \"data-dri\" in configuration file f; did you mean \"data-dir\"?"));
        check("qqqqqqqqq: 1", &[], Err("unknown key \"qqqqqqqqq\" in configuration file f"));
        check("disable-agent: 3", &[], Err("key \"disable-agent\" in configuration file f: expected true or false"));
        check("- a", &[], Err("configuration file f is not a YAML map of settings: it is not a map"));
    }

    #[test]
    fn a_file_of_the_scheduler_is_told_from_ours() {
        let text = "kind: KubeSchedulerConfiguration\nclientConnection: {kubeconfig: /k}\n";
        let flags = scheduler_flags(Path::new("/s"), text, false);
        assert_eq!(flags, Some(vec!["--scheduler-config=/s".into(), "--kubeconfig=/k".into()]));
        assert_eq!(scheduler_flags(Path::new("/s"), text, true).map(|f| f.len()), Some(1));
        assert_eq!(scheduler_flags(Path::new("/s"), "log-level: info", false), None);
        let args = ["--config", "/s", "--config=/s", "--x"].map(OsString::from);
        assert_eq!(without(&args, "config"), ["--x"]);
    }
}
