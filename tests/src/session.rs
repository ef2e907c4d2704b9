//! Sessions: the `console` blocks of a page, which are run as they stand and must print what they show.
//!
//! ```text
//! $ NODE=$(kubectl get nodes -o name | head -n 1)     a variable for the commands below
//! $ kubectl apply -f .                                 no output shown: it must succeed, whatever it prints
//! $ kubectl get pod hello                              repeated until it prints this
//! NAME    READY   STATUS    RESTARTS   AGE
//! hello   1/1     Running   0          ...
//! ```
//!
//! `...` stands for any text in a line, and alone for any number of lines; how many spaces there are does not matter.
//! A command that changes something ([`CHANGES`]) runs once; others are what a reader would type again.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::machine::Machine;

/// How long a command may take to print what the page shows: a kubelet may take a minute and a half to look at a
/// ConfigMap again.
const PATIENCE: Duration = Duration::from_secs(150);

/// What follows `kubectl` in a command that is not repeated.
const CHANGES: &[&str] = &[
    "annotate",
    "apply",
    "autoscale",
    "cordon",
    "create",
    "delete",
    "drain",
    "expose",
    "label",
    "patch",
    "replace",
    "rollout restart",
    "rollout undo",
    "run",
    "scale",
    "set",
    "taint",
    "uncordon",
];

/// A command of a page, and the output shown below it.
#[derive(Debug, PartialEq, Eq)]
pub struct Step {
    /// Where it stands.
    pub line: usize,
    /// The command; lines that begin with `> ` go on with it.
    pub command: String,
    /// The lines shown; none if the output does not matter.
    pub shown: Vec<String>,
}

/// The steps of a page in Markdown.
pub fn steps(page: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            inside = line == "```console";
        } else if !inside {
            continue;
        } else if let Some(command) = line.strip_prefix("$ ") {
            steps.push(Step { line: number + 1, command: command.to_owned(), shown: Vec::new() });
        } else if let Some(step) = steps.last_mut() {
            match line.strip_prefix("> ") {
                Some(more) if step.shown.is_empty() => step.command.extend(["\n", more]),
                _ => step.shown.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether an output is the one shown.
pub fn agrees(shown: &[String], output: &str) -> bool {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let shown: Vec<String> = shown.iter().map(|l| words(l)).filter(|l| !l.is_empty()).collect();
    let output: Vec<String> = output.lines().map(words).filter(|l| !l.is_empty()).collect();
    lines_agree(&shown, &output)
}

fn lines_agree(shown: &[String], output: &[String]) -> bool {
    match (shown.split_first(), output.split_first()) {
        (None, None) => true,
        (Some((gap, rest)), _) if gap == "..." => {
            lines_agree(rest, output) || output.split_first().is_some_and(|(_, output)| lines_agree(shown, output))
        }
        (Some((first, rest)), Some((line, output))) => line_agrees(first, line) && lines_agree(rest, output),
        _ => false,
    }
}

fn line_agrees(shown: &str, line: &str) -> bool {
    let parts: Vec<&str> = shown.split("...").collect();
    let [first, between @ .., last] = &parts[..] else { return shown == line };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Whether a command may be run again until it prints what is shown.
fn repeats(command: &str) -> bool {
    let mut words = command.split_whitespace().peekable();
    while let Some(word) = words.next() {
        if word.trim_start_matches("$(") != "kubectl" {
            continue;
        }
        let rest = words.clone().collect::<Vec<_>>().join(" ") + " ";
        if CHANGES.iter().any(|c| rest.starts_with(&format!("{c} "))) {
            return false;
        }
    }
    true
}

/// The variable that a command sets; it does nothing else.
fn variable(command: &str) -> Option<&str> {
    let (name, _) = command.split_once('=')?;
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')).then_some(name)
}

/// A shell on a machine that runs the steps of a page.
pub struct Session<'a> {
    /// Where it runs.
    pub machine: &'a Machine,
    /// The folder it runs in.
    pub folder: std::path::PathBuf,
    /// The variables of its environment.
    pub environment: BTreeMap<String, String>,
}

impl Session<'_> {
    /// Runs a page to its end.
    pub fn run(&mut self, page: &str) -> Result<()> {
        for step in steps(page) {
            self.step(&step).with_context(|| format!("line {}: $ {}", step.line, step.command))?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        let name = variable(&step.command);
        let script = match name {
            Some(name) => format!("{}\necho \"${name}\"", step.command),
            None => step.command.clone(),
        };
        let began = std::time::Instant::now();
        loop {
            let (success, output) = self.bash(&script)?;
            let good = match name {
                Some(_) => success && !output.trim().is_empty(),
                None if step.shown.is_empty() => success,
                None => agrees(&step.shown, &output),
            };
            if good {
                if let Some(name) = name {
                    self.environment.insert(name.to_owned(), output.trim().to_owned());
                }
                return Ok(());
            }
            // What is shown may take a moment to be so; a change is made once.
            let again = repeats(&step.command) && (name.is_some() || !step.shown.is_empty());
            let shown = step.shown.join("\n");
            ensure!(again, "prints, with success={success}:\n{output}\nthe page shows:\n{shown}");
            ensure!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}; prints, with success={success}:\n{output}\nthe page shows:\n{shown}"
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }

    /// Runs a script; whether it succeeded, and both its streams as a terminal would show them.
    fn bash(&self, script: &str) -> Result<(bool, String)> {
        let mut command = self.machine.command("timeout");
        let seconds = PATIENCE.as_secs().to_string();
        command.args([&seconds, "bash", "-c", &format!("cd \"$0\" && exec 2>&1\n{script}")]).arg(&self.folder);
        let output = command.envs(&self.environment).stdin(std::process::Stdio::null()).output()?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read() {
        let page = "# Title\n\n```console\n$ kubectl get pods\nNAME\na\n$ kubectl apply -f - <<END\n> x\n> END\n```\n\
                    ```yaml\n$ no\n```\n";
        let step = |line, command: &str, shown: &[&str]| Step {
            line,
            command: command.to_owned(),
            shown: shown.iter().map(|s| (*s).to_owned()).collect(),
        };
        let expected =
            vec![step(4, "kubectl get pods", &["NAME", "a"]), step(7, "kubectl apply -f - <<END\nx\nEND", &[])];
        assert_eq!(steps(page), expected);
    }

    #[test]
    fn outputs_agree_with_what_is_shown() {
        let check = |shown: &[&str], output: &str, expected: bool| {
            let shown: Vec<String> = shown.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(agrees(&shown, output), expected, "{shown:?} {output:?}");
        };
        check(&["a b"], "a   b\n", true);
        check(&["a b"], "a b c\n", false);
        check(&["a ..."], "a b c\n", true);
        check(&["a ... c"], "a b c\n", true);
        check(&["a ... d"], "a b c\n", false);
        check(&["... b ..."], "a b c\n", true);
        check(&["ab...ba"], "aba\n", false);
        check(&["a...b...c"], "a1b2c\n", true);
        check(&["a", "..."], "a\n", true);
        check(&["a", "..."], "a\nb\nc\n", true);
        check(&["...", "c"], "a\nb\nc\n", true);
        check(&["...", "b", "..."], "a\nb\nc\n", true);
        check(&["a", "c"], "a\nb\nc\n", false);
        check(&["a"], "", false);
    }

    #[test]
    fn only_what_changes_nothing_is_repeated() {
        for command in ["kubectl get pods", "kubectl rollout status deployment/web", "curl x", "kubectl set-context"] {
            assert!(repeats(command), "{command}");
        }
        for command in ["kubectl apply -f .", "kubectl rollout undo deployment/web", "echo x | kubectl create -f -"] {
            assert!(!repeats(command), "{command}");
        }
    }

    #[test]
    fn a_variable_is_known() {
        let cases = [("NODE=$(kubectl get x=y)", Some("NODE")), ("kubectl set env A=b", None), ("kubectl", None)];
        for (command, expected) in cases {
            assert_eq!(variable(command), expected, "{command}");
        }
    }
}
