//! The two scripts a stranger runs first and last, on a machine with directories of its own.

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
        let out = machine.command(deploy.join(script)).args(args).env("ORKD_BINARY", orkd_tests::orkd()).output()?;
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

    let refused = machine.command(deploy.join("uninstall.sh")).stdin(std::process::Stdio::null()).output()?;
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
