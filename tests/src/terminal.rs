//! A terminal with a command in it, whose window the test can resize.

use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::eventually;

/// A terminal and the command that runs in it, as its session's leader.
pub struct Terminal {
    child: Child,
    master: File,
    slave: PathBuf,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    /// Starts a command in a terminal of so many rows and columns.
    pub fn start(command: &Command, rows: u16, columns: u16) -> Result<Terminal> {
        let pty = nix::pty::openpty(None, None).context("no terminal to be had")?;
        let slave = File::from(pty.slave);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&slave);
        let path = std::fs::read_link(format!("/proc/self/fd/{fd}"))?;
        resize(&path, rows, columns)?;
        let mut session = Command::new("setsid");
        session.arg("--ctty").arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => session.env(name, value),
                None => session.env_remove(name),
            };
        }
        session.env("TERM", "xterm");
        session.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = session.spawn().context("setsid (util-linux) starts")?;
        let master = File::from(pty.master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut output, seen) = (master.try_clone()?, shown.clone());
        // It ends when the last process has left the terminal.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n @ 1..) = output.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                seen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        Ok(Terminal { child, master, slave: path, shown })
    }

    /// What has been shown so far.
    pub fn shown(&self) -> String {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Types.
    pub fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.master.write_all(text.as_bytes())?)
    }

    /// Changes the size of the window; the kernel tells the command.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        resize(&self.slave, rows, columns)
    }

    /// Types a line again and again until a text is shown.
    pub fn ask_until(&mut self, line: &str, text: &str) -> Result<()> {
        eventually(&format!("{text:?} in the terminal"), Duration::from_secs(20), || {
            if self.shown().contains(text) {
                return Ok(());
            }
            self.write(line).map_err(|e| format!("{e}: {:?}", self.shown()))?;
            Err(format!("{:?}", self.shown()))
        })
    }

    /// Waits for the command's end; its exit code.
    pub fn end(mut self) -> Result<i32> {
        let child = &mut self.child;
        let status =
            eventually("the command in the terminal to end", Duration::from_secs(20), || match child.try_wait() {
                Ok(Some(status)) => Ok(status),
                other => Err(format!("{other:?}")),
            });
        let shown = self.shown();
        status.with_context(|| format!("{shown:?}"))?.code().with_context(|| format!("a signal; {shown:?}"))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn resize(terminal: &std::path::Path, rows: u16, columns: u16) -> Result<()> {
    let (rows, columns) = (rows.to_string(), columns.to_string());
    let out = Command::new("stty").arg("-F").arg(terminal).args(["rows", &rows, "cols", &columns]).output()?;
    ensure!(out.status.success(), "stty: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}
