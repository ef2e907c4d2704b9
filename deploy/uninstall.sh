#!/usr/bin/env bash
# Ends orkd and its containers and removes what it wrote. Asks first, unless --yes. Idempotent.
# Usage: sudo ./deploy/uninstall.sh [--yes]
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo "run this as root: sudo ./deploy/uninstall.sh" >&2; exit 1; }
if [ "${1:-}" != --yes ]; then
  read -r -p "This deletes the cluster on this machine and all its data. Go on? [y/N] " answer || answer=
  [ "$answer" = y ] || { echo "nothing was done" >&2; exit 1; }
fi

setting() { # a key of the configuration file, or its default
  local value
  value=$(sed -n "s/^$1: *//p" /etc/orkd/config.yaml 2>/dev/null | tr -d "\"'" || true)
  echo "${value:-$2}"
}
data=$(setting data-dir /var/lib/orkd)
logs=$(setting pod-log-dir /var/log/pods)
cgroups=$(setting cgroup-root /)
run=/run/orkd
[ "$data" = /var/lib/orkd ] || run=$data/run

gone() { # waits for the end of processes, then insists
  local pid i
  for pid in "$@"; do
    for i in $(seq 150); do
      [ -d "/proc/$pid" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null || continue 2
      sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
  done
}
processes() { # pids whose command line has this text
  local dir
  for dir in /proc/[0-9]*; do
    if tr '\0' ' ' < "$dir/cmdline" 2>/dev/null | grep -qF -- "$1"; then echo "${dir#/proc/}"; fi
  done
}

echo "ending orkd"
if [ -d /run/systemd/system ]; then
  systemctl disable --now --quiet orkd-server orkd-agent 2>/dev/null || true
  rm -f /etc/systemd/system/orkd-server.service /etc/systemd/system/orkd-agent.service
  systemctl daemon-reload
fi
if [ -s /run/orkd.pid ]; then
  pid=$(cat /run/orkd.pid)
  if [ "$(readlink "/proc/$pid/exe" 2>/dev/null | cut -d' ' -f1)" = /usr/local/bin/orkd ]; then
    kill "$pid" && gone "$pid"
  fi
fi

echo "ending containers"
# Which network namespaces are ours, the sandboxes say.
netns=$(cat "$run"/containerd/*/*/k8s.io/*/config.json 2>/dev/null \
  | grep -o '/var/run/netns/cni-[0-9a-f-]*' | sort -u || true)
ids=$(for dir in "$run"/containerd/*/*/k8s.io/*/; do [ -d "$dir" ] && basename "$dir"; done || true)
sockets=$(cat "$run"/containerd/*/*/k8s.io/*/address 2>/dev/null | sed 's|unix://|\n|g' | grep '^/' || true)
pidfile=$data/agent/containerd/containerd.pid
if [ -s "$pidfile" ] && tr '\0' ' ' < "/proc/$(cat "$pidfile")/cmdline" 2>/dev/null | grep -q containerd; then
  pid=$(cat "$pidfile")
  kill "$pid" 2>/dev/null && gone "$pid"
fi
for shim in $(processes "-address $run/containerd/"); do
  # The first process of each container; those it began end with it.
  for child in $(cat "/proc/$shim/task/$shim/children" /proc/"$shim"/task/*/children 2>/dev/null | tr ' ' '\n' | sort -u); do
    kill -KILL "$child" 2>/dev/null || true
  done
  kill -KILL "$shim" 2>/dev/null || true
  gone "$shim"
done

echo "removing mounts, interfaces and rules"
for ns in $netns; do
  umount -l "$ns" 2>/dev/null || true
  rm -f "$ns"
done
awk -v a="$data/" -v b="$run/" 'index($2, a) == 1 || index($2, b) == 1 {print $2}' /proc/mounts | sort -r \
  | while read -r mount; do umount -l "$(printf '%b' "$mount")" || true; done
# The bridge is ours if nothing hangs on it any more.
if [ -d "$data/agent/cni" ] && ip link show cni0 >/dev/null 2>&1; then
  for _ in $(seq 50); do
    [ -z "$(ip -o link show master cni0)" ] && ip link delete cni0 && break
    sleep 0.1
  done
fi
for family in iptables ip6tables; do
  command -v $family-save >/dev/null || continue
  rules=$($family-save 2>/dev/null || true)
  pattern='KUBE-|ORKD-'
  # Chains of CNI plugins stay where other networks than orkd's use them.
  if ! grep -F 'name: \"' <<<"$rules" | grep -vqF 'name: \"orkd\"'; then pattern="$pattern|CNI-"; fi
  if grep -qE -- "$pattern" <<<"$rules"; then grep -vE -- "$pattern" <<<"$rules" | $family-restore; fi
done

echo "removing files"
for id in $ids; do rm -rf "/run/containerd/runc/k8s.io/$id" /var/lib/cni/results/*-"$id"-*; done
for socket in $sockets; do rm -f "$socket"; done
# What other runtimes use is not empty and stays.
rmdir /run/containerd/runc/k8s.io /run/containerd/runc /run/containerd/s /run/containerd /run/netns \
  /var/lib/cni/results /var/lib/cni 2>/dev/null || true
find /sys/fs/cgroup -depth -type d -path "*${cgroups%/}/kubepods*" -exec rmdir {} + 2>/dev/null || true
[ "$cgroups" = / ] || rmdir /sys/fs/cgroup/*"$cgroups" /sys/fs/cgroup"$cgroups" 2>/dev/null || true
if [ -d "$data/agent" ]; then rm -rf "$logs"; fi
rm -rf "$data" "$run" /etc/orkd /run/orkd.pid /var/log/orkd.log /usr/local/bin/orkd /usr/local/lib/orkd
case $(readlink /usr/local/bin/kubectl || true) in /usr/local/lib/orkd/*) rm -f /usr/local/bin/kubectl ;; esac
echo "orkd is gone; kept: Debian's packages, net.ipv4.ip_forward, and this directory"
