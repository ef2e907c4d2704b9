//! The official Python client. It is installed from the Python index into a virtual environment of the target
//! directory; where the index cannot be reached, the test says that it skips.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use orkd_tests::cluster::Cluster;
use orkd_tests::is_root;

use super::IMAGE;

/// A Python that has the modules of `packages`.
pub(super) fn python(packages: &[&str]) -> Result<Option<PathBuf>> {
    // .../target/debug/deps/it-...
    let exe = std::env::current_exe()?;
    let target = exe.ancestors().nth(3).context("a target directory")?;
    let dir = target.join("python-client");
    let python = dir.join("bin/python");
    if has(&python, packages) {
        return Ok(Some(python));
    }
    let made = Command::new("python3").args(["-m", "venv"]).arg(&dir).output();
    let installed = match made {
        Ok(out) if out.status.success() => {
            Command::new(dir.join("bin/pip")).args(["install", "--quiet"]).args(packages).output()
        }
        other => other,
    };
    match installed {
        Ok(out) if out.status.success() && has(&python, packages) => Ok(Some(python)),
        Ok(out) => {
            println!("skipped: no Python with {}: {}", packages.join(", "), String::from_utf8_lossy(&out.stderr));
            Ok(None)
        }
        Err(error) => {
            println!("skipped: no Python: {error}");
            Ok(None)
        }
    }
}

fn has(python: &Path, packages: &[&str]) -> bool {
    let found = Command::new(python).args(["-c", &format!("import {}", packages.join(", "))]).output();
    found.is_ok_and(|out| out.status.success())
}

#[test]
fn python_client_tours_api_and_node() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(python) = python(&["kubernetes"])? else { return Ok(()) };
    let cluster = Cluster::node(&[])?;
    let script = orkd_tests::root().join("tests/clients/tour.py");
    let (script, kubeconfig) = (script.display().to_string(), cluster.kubeconfig().display().to_string());
    let out = cluster.machine.output(&python, &[&script, &kubeconfig, IMAGE])?;
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    ensure!(out.status.success() && stdout.ends_with("done\n"), "{stdout}{stderr}\n{}", cluster.log());
    for step in ["patches", "watches", "exec", "log", "port_forward"] {
        ensure!(stdout.contains(&format!("ok {step}\n")), "{step}: {stdout}");
    }
    Ok(())
}
