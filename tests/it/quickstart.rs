//! The two scripts a stranger runs first and last, on a machine with directories of its own.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use orkd_tests::machine::{Machine, Switch};
use orkd_tests::{eventually, is_root};

/// Gives a machine directories of its own where the scripts write. What is below `/var/lib` must not be an overlay: the
/// containers' file systems are.
fn own_directories(machine: &Machine) -> Result<()> {
    machine.sh(&format!(
        "cd {dir}
         mount -t tmpfs tmpfs /run
         mount -t tmpfs tmpfs /var/log
         for d in etc usr/local; do
           mkdir -p up/$d work/$d
           mount -t overlay overlay -o lowerdir=/$d,upperdir=$PWD/up/$d,workdir=$PWD/work/$d /$d
         done
         mkdir -p lib
         for d in dpkg apt; do mkdir lib/$d; mount --bind /var/lib/$d lib/$d; done
         mount --rbind lib /var/lib",
        dir = machine.dir.path().display()
    ))?;
    Ok(())
}

/// What there is on a machine: processes, mounts, interfaces, rules, namespaces, files, cgroups.
fn inventory(machine: &Machine) -> Result<String> {
    machine.sh(&format!(
        "for p in /proc/[0-9]*; do
           case \"$(tr '\\0' ' ' < $p/cmdline 2>/dev/null)\" in
             *orkd*|*containerd*|*sleep\\ 1000*|*httpd*) tr '\\0' ' ' < $p/cmdline; echo ;;
           esac
         done | grep -v -e 'sh -ec' -e 'while :' -e '^sleep 1000 $' || true
         cut -d' ' -f2,3 /proc/mounts
         ip -o link | cut -d: -f2
         iptables-save | grep -v '^#' | sed 's/\\[.*//' | grep -e KUBE -e CNI || true
         ip6tables-save | grep -e KUBE -e CNI || true
         ls /run/netns 2>/dev/null || true
         find /etc /usr/local /run /var/lib /var/log -not -path '/var/lib/dpkg/*' -not -path '/var/lib/apt/*' | sort
         find /sys/fs/cgroup -type d -path '*{cgroup}*' || true",
        cgroup = machine.cgroup_root
    ))
}

#[test]
fn quickstart_and_uninstall() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    scripts(&[("ORKD_BINARY", orkd_tests::orkd().into_os_string())])
}

/// As the README has it: nothing is given, the script builds a release. It takes ten minutes.
#[test]
fn quickstart_builds_what_it_installs() -> Result<()> {
    if std::env::var_os("ORKD_LONG").is_none() || !is_root() {
        eprintln!("skipped: the build of a release is part of the long run");
        return Ok(());
    }
    // The machine has no way out, so what is to be compiled is fetched before.
    let fetched = Command::new("cargo").args(["fetch", "--locked"]).current_dir(orkd_tests::root()).status()?;
    ensure!(fetched.success(), "cargo fetch: {fetched}");
    scripts(&[("CARGO_NET_OFFLINE", "true".into())])
}

/// Quickstart twice and uninstall twice, with these variables, on a machine that is compared with what it was.
fn scripts(variables: &[(&str, OsString)]) -> Result<()> {
    let switch = Switch::new()?;
    let machine = switch.machine("fresh")?;
    own_directories(&machine)?;
    let deploy = orkd_tests::root().join("deploy").canonicalize()?;
    let before = inventory(&machine)?;

    // Settings of the operator are found where the README says.
    machine.sh(&format!(
        "mkdir -p /etc/orkd && printf 'cgroup-root: {}\\nnode-ip: {}\\neviction-hard: memory.available<50Mi\\n' > \
         /etc/orkd/config.yaml",
        machine.cgroup_root, machine.ip
    ))?;
    let run = |script: &str, args: &[&str]| -> Result<String> {
        let out = machine.command(deploy.join(script)).args(args).envs(variables.iter().cloned()).output()?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        ensure!(out.status.success(), "{script}: {}: {text}", out.status);
        Ok(text)
    };
    let facts = "kubectl --kubeconfig /etc/orkd/admin.kubeconfig get pods -A -o \
                 jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}'";
    let log = || machine.sh("tail -n 40 /var/log/orkd.log").unwrap_or_default();
    let said = run("quickstart.sh", &[]).with_context(log)?;
    ensure!(said.contains("\nhello from hello-"), "{said}");
    ensure!(said.contains("export KUBECONFIG=/etc/orkd/admin.kubeconfig"), "{said}");
    let pods = machine.sh(facts)?;
    ensure!(!pods.trim().is_empty(), "no pods");

    // Again: nothing is started anew, and the answer is there.
    let again = run("quickstart.sh", &[]).with_context(log)?;
    ensure!(again.contains("\nhello from hello-"), "{again}");
    assert_eq!(machine.sh(facts)?, pods);

    let refused = machine.command(deploy.join("uninstall.sh")).stdin(Stdio::null()).output()?;
    ensure!(!refused.status.success(), "it deletes without an answer");
    assert_eq!(machine.sh(facts)?, pods);
    let said = run("uninstall.sh", &["--yes"])?;
    ensure!(said.contains("kept"), "{said}");
    // Processes that were ended are gone once their parent has seen it.
    eventually("nothing to be left", Duration::from_secs(20), || {
        let after = inventory(&machine).map_err(|e| e.to_string())?;
        let left: Vec<&str> = after.lines().filter(|l| !before.lines().any(|b| b == *l)).collect();
        let gone: Vec<&str> = before.lines().filter(|b| !after.lines().any(|l| l == *b)).collect();
        if left.is_empty() && gone.is_empty() {
            Ok(())
        } else {
            Err(format!("left {left:#?}, missing {gone:#?}\n{said}"))
        }
    })?;
    // What is gone already is no error.
    run("uninstall.sh", &["--yes"])?;
    Ok(())
}

const SYSTEMD: &str = "/lib/systemd/systemd";

/// Begins the boot of a machine, outside of its own namespaces: from here on the machine's cgroup is the root of all.
const ENTER_CGROUPS: &str = r#"
grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/mounts | while read -r _ at _; do
  mkdir -p "$at/$0"
  for f in cpuset.cpus cpuset.mems; do
    [ -f "$at/$f" ] && [ ! -s "$at/$0/$f" ] && cat "$at/$f" > "$at/$0/$f"
  done
  echo $$ > "$at/$0/cgroup.procs"
done
exec unshare --mount --pid --cgroup --fork --kill-child --mount-proc "$@"
"#;

/// The rest of the boot: cgroup file systems seen from the new root, and of Debian's units none but the journal. The others
/// would set up the machine these tests run on (its temporary files, modules, settings of the kernel).
const BOOT: &str = r#"
grep -E '^[^ ]+ [^ ]+ cgroup2? ' /proc/mounts | while read -r _ at type options _; do
  umount "$at"
  if [ "$type" = cgroup2 ]; then mount -t cgroup2 cgroup2 "$at"; continue; fi
  own=$(echo "$options" | tr , '\n' | grep -vxE 'rw|relatime|nosuid|nodev|noexec' | paste -sd,)
  case $own in name=*) own=none,$own ;; esac
  mount -t cgroup -o "$own" cgroup "$at"
done
mkdir -p /run/none
for d in system-generators tmpfiles.d sysctl.d modules-load.d; do
  for at in /usr/lib/$d /usr/lib/systemd/$d /etc/$d; do
    if [ -d $at ]; then mount --bind /run/none $at; fi
  done
done
: > /etc/fstab
mkdir -p /etc/systemd/system
for unit in /lib/systemd/system/*.target.wants/* /etc/systemd/system/*.target.wants/*; do
  case $unit in
    *journald*) ;;
    *) ln -sfn /dev/null "/etc/systemd/system/${unit##*/}" ;;
  esac
done
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
exec env -i container=orkd PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
  /lib/systemd/systemd --unit=multi-user.target
"#;

/// A machine whose first process is systemd.
struct Booted<'m> {
    machine: &'m Machine,
    boot: Child,
    /// systemd, as the machine counts processes.
    first: String,
}

impl<'m> Booted<'m> {
    fn boot(machine: &'m Machine) -> Result<Self> {
        let log = std::fs::File::create(machine.path("boot.log"))?;
        let boot = machine
            .command("sh")
            .args(["-ec", ENTER_CGROUPS, machine.cgroup_root.trim_start_matches('/'), "sh", "-ec", BOOT])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut booted = Booted { machine, boot, first: String::new() };
        booted.first = eventually("systemd", Duration::from_secs(30), || {
            let log = || std::fs::read_to_string(machine.path("boot.log")).unwrap_or_default();
            let pid = machine.sh("pgrep -xo systemd").map_err(|e| format!("{e}: {}", log()))?;
            Ok::<_, String>(pid.trim().to_owned())
        })?;
        eventually("the end of the boot", Duration::from_secs(30), || {
            let state = booted.sh("systemctl is-system-running || true").map_err(|e| e.to_string())?;
            if matches!(state.trim(), "running" | "degraded") { Ok(()) } else { Err(state) }
        })?;
        Ok(booted)
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = self.machine.command("nsenter");
        command.args(["-t", &self.first, "-m", "-p", "-C", "--"]).arg(program);
        command
    }

    fn run(&self, mut command: Command) -> Result<String> {
        let out = command.output()?;
        let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
        ensure!(out.status.success(), "{command:?}: {}: {text}", out.status);
        Ok(text)
    }

    fn sh(&self, script: &str) -> Result<String> {
        let mut command = self.command("sh");
        command.args(["-ec", script]);
        self.run(command)
    }
}

impl Drop for Booted<'_> {
    fn drop(&mut self) {
        let _ = self.machine.sh(&format!("kill -KILL {}", self.first));
        let _ = self.boot.wait();
    }
}

/// Where systemd is the first process, the scripts make orkd one of its services.
#[test]
fn quickstart_under_systemd() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    if !Path::new(SYSTEMD).exists() {
        eprintln!("skipped: {SYSTEMD} is not installed");
        return Ok(());
    }
    let switch = Switch::new()?;
    let machine = switch.machine("booted")?;
    own_directories(&machine)?;
    machine.sh(&format!(
        "mkdir -p /etc/orkd && printf 'node-ip: {}\\neviction-hard: memory.available<50Mi\\n' > /etc/orkd/config.yaml",
        machine.ip
    ))?;
    let booted = Booted::boot(&machine)?;
    let deploy = orkd_tests::root().join("deploy").canonicalize()?;
    let log = || booted.sh("journalctl -u orkd-server --no-pager -n 40").unwrap_or_default();
    let quickstart = || {
        let mut command = booted.command(deploy.join("quickstart.sh"));
        command.env("ORKD_BINARY", orkd_tests::orkd());
        booted.run(command).with_context(log)
    };
    let said = quickstart()?;
    ensure!(said.contains("\nhello from hello-"), "{said}");
    ensure!(booted.sh("systemctl is-enabled orkd-server")?.trim() == "enabled");
    let main = || booted.sh("systemctl show -P MainPID orkd-server").map(|pid| pid.trim().to_owned());
    let pods = || {
        booted.sh("kubectl --kubeconfig /etc/orkd/admin.kubeconfig get pods -A -o \
             jsonpath='{range .items[*]}{.metadata.uid} {.status.containerStatuses[0].containerID}{\"\\n\"}{end}'")
    };
    let (first, before) = (main()?, pods()?);
    ensure!(!before.trim().is_empty(), "no pods");

    // Killed, it is started again, and its containers do not notice.
    booted.sh(&format!("kill -KILL {first}"))?;
    eventually("orkd to be there again", Duration::from_secs(30), || {
        let now = main().map_err(|e| e.to_string())?;
        if now == first || now == "0" { Err(now) } else { pods().map_err(|e| e.to_string()) }
    })?;
    let second = main()?;
    let again = quickstart()?;
    ensure!(again.contains("\nhello from hello-"), "{again}");
    assert_eq!(pods()?, before);
    assert_eq!(main()?, second, "a second run starts nothing anew");

    let mut uninstall = booted.command(deploy.join("uninstall.sh"));
    uninstall.arg("--yes");
    let said = booted.run(uninstall)?;
    ensure!(said.contains("kept"), "{said}");
    let left = booted.sh(
        "systemctl list-unit-files 'orkd*' --no-legend || true; ls -d /var/lib/orkd /etc/orkd 2>/dev/null || true",
    )?;
    ensure!(left.trim().is_empty(), "{left}");
    eventually("its processes to end", Duration::from_secs(20), || {
        let running = booted.sh("pgrep -a orkd || pgrep -a container || true").map_err(|e| e.to_string())?;
        if running.trim().is_empty() { Ok(()) } else { Err(running) }
    })
}
