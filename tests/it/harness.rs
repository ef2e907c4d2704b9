//! The harness itself: machines see each other, and end whole.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use orkd_tests::machine::Switch;
use orkd_tests::{eventually, is_root};

#[test]
fn machines_see_each_other_and_end_whole() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let switch = Switch::new()?;
    let (one, two) = (switch.machine("one")?, switch.machine("two")?);
    assert_eq!(one.sh("hostname")?.trim(), "one");
    let args = ["-ec".to_owned(), "echo hi | socat -u - TCP-LISTEN:7000,reuseaddr".to_owned()];
    let server = one.spawn("sh".as_ref(), &args, "log")?;
    let greeting = eventually("an answer from the other machine", Duration::from_secs(10), || {
        two.sh(&format!("socat -u TCP:{}:7000 -", one.ip)).map_err(|e| e.to_string())
    })?;
    assert_eq!(greeting.trim(), "hi");
    drop(server);

    let mut sleeper = one.spawn("sleep".as_ref(), &["1000".to_owned()], "log")?;
    drop(one);
    sleeper.wait(Duration::from_secs(10))?;
    Ok(())
}

/// Run by the test below, in a process of its own.
#[test]
#[ignore = "a part of a_killed_test_takes_its_machines_along"]
fn holds_a_machine() -> Result<()> {
    let switch = Switch::new()?;
    let machine = switch.machine("held")?;
    let sleeper = machine.spawn("sleep".as_ref(), &["1000".to_owned()], "log")?;
    let seen = eventually("the process to be there", Duration::from_secs(10), || match sleeper.pid() {
        pid if pid > 0 => Ok(pid),
        pid => Err(pid.to_string()),
    })?;
    println!("\nheld {} {seen} {}", machine.init(), machine.dir.path().display());
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_test_takes_its_machines_along() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--exact", "harness::holds_a_machine", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()?;
    let lines = BufReader::new(child.stdout.take().context("piped")?).lines();
    let held = lines.map_while(Result::ok).find_map(|l| l.strip_prefix("held ").map(str::to_owned));
    child.kill()?;
    child.wait()?;
    let held = held.context("the other test makes no machine")?;
    let [init, sleeper, dir] = held.split(' ').collect::<Vec<_>>()[..] else { anyhow::bail!("{held}") };
    for pid in [init, sleeper] {
        let status = format!("/proc/{pid}/status");
        eventually("the machine to be gone", Duration::from_secs(10), || match std::fs::read_to_string(&status) {
            Ok(text) if !text.contains("State:\tZ") => Err(text),
            _ => Ok(()),
        })?;
    }
    // A test that is killed cannot remove its files.
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
