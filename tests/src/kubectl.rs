//! Stock kubectl, run on a machine of the test.

use std::io::Write;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::machine::Machine;

/// The kubectl binaries at hand: the one on the path, and those that `tests/tools.sh` fetched. Says which are
/// missing.
pub fn all() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let path = std::env::var_os("PATH").unwrap_or_default();
    if let Some(installed) = std::env::split_paths(&path).map(|d| d.join("kubectl")).find(|p| p.is_file()) {
        found.push(installed);
    }
    for name in ["kubectl-1.34", "kubectl-1.36"] {
        let dir = std::env::var_os("ORKD_TOOLS").map(PathBuf::from);
        match dir.map(|d| d.join(name)).filter(|p| p.is_file()) {
            Some(path) => found.push(path),
            None => println!("skipped: no {name} (tests/tools.sh fetches it)"),
        }
    }
    found
}

/// The newest kubectl at hand.
pub fn newest() -> Result<PathBuf> {
    all().pop().context("no kubectl at hand")
}

/// The oldest and the newest kubectl at hand.
pub fn oldest_and_newest() -> Result<Vec<PathBuf>> {
    let mut found = all();
    let newest = found.pop().context("no kubectl at hand")?;
    found.truncate(1);
    found.push(newest);
    Ok(found)
}

/// A kubectl with a credential, on a machine.
pub struct Kubectl<'a> {
    /// Where it runs.
    pub machine: &'a Machine,
    /// Which one.
    pub binary: PathBuf,
    /// The credential.
    pub kubeconfig: PathBuf,
}

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// Exit code; -1 for a signal.
    pub code: i32,
}

impl Kubectl<'_> {
    /// A command line, ready to be given streams.
    pub fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.machine.command(&self.binary);
        command.env("KUBECONFIG", &self.kubeconfig).env("HOME", self.machine.dir.path()).args(args);
        command
    }

    /// Runs to the end whatever the exit code, with `input` on standard input.
    pub fn run(&self, args: &[&str], input: &str) -> Result<Outcome> {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("kubectl starts")?;
        let mut stdin = child.stdin.take().context("kubectl has a standard input")?;
        let input = input.to_owned();
        // A command that does not read its input closes it: not an error.
        let writer = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
        let out = child.wait_with_output()?;
        let _ = writer.join();
        Ok(Outcome {
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
            code: out.status.code().unwrap_or(-1),
        })
    }

    /// Runs a command line split at spaces, which must succeed; its standard output.
    pub fn ok(&self, line: &str) -> Result<String> {
        let args: Vec<&str> = line.split_whitespace().collect();
        self.ok_args(&args, "")
    }

    /// Runs a command that must succeed; its standard output.
    pub fn ok_args(&self, args: &[&str], input: &str) -> Result<String> {
        let out = self.run(args, input)?;
        ensure!(out.code == 0, "kubectl {args:?} exits with {}: {}{}", out.code, out.stderr, out.stdout);
        Ok(out.stdout)
    }

    /// Runs a command line that must fail; its standard error.
    pub fn fails(&self, line: &str) -> Result<String> {
        let args: Vec<&str> = line.split_whitespace().collect();
        let out = self.run(&args, "")?;
        ensure!(out.code != 0, "kubectl {line} succeeds: {}", out.stdout);
        Ok(out.stderr)
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.ok_args(&["apply", "-f", "-"], manifest)
    }

    /// `kubectl get ... -o json`.
    pub fn json(&self, line: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.ok(&format!("{line} -o json"))?)?)
    }
}
