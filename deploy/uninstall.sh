#!/usr/bin/env bash
# Ends orkd and its containers and removes what it wrote. Asks first, unless --yes. Usage: sudo ./deploy/uninstall.sh
set -euo pipefail

[ "$(id -u)" -eq 0 ] || { echo "run this as root" >&2; exit 1; }
if [ "${1:-}" != --yes ]; then
  read -r -p "This deletes the cluster on this machine and all its data. Go on? [y/N] " answer
  [ "$answer" = y ] || exit 1
fi
if [ -d /run/systemd/system ]; then
  systemctl disable --now --quiet orkd-server orkd-agent 2>/dev/null || true
  rm -f /etc/systemd/system/orkd-server.service /etc/systemd/system/orkd-agent.service
  systemctl daemon-reload
elif [ -s /run/orkd.pid ]; then
  kill "$(cat /run/orkd.pid)" 2>/dev/null || true
  rm -f /run/orkd.pid
fi
socket=/run/orkd/containerd/containerd.sock
if [ -S "$socket" ] && command -v ctr >/dev/null; then
  for task in $(ctr --address "$socket" -n k8s.io tasks ls -q 2>/dev/null); do
    ctr --address "$socket" -n k8s.io tasks kill -s KILL "$task" 2>/dev/null || true
  done
fi
pidfile=/var/lib/orkd/agent/containerd/containerd.pid
[ -s "$pidfile" ] && kill "$(cat "$pidfile")" 2>/dev/null || true
awk '$2 ~ "^/var/lib/orkd/|^/run/orkd/" {print $2}' /proc/mounts | sort -r | while read -r mount; do umount -l "$mount" || true; done
rm -rf /var/lib/orkd /etc/orkd /run/orkd /usr/local/bin/orkd
echo "orkd is gone; rules of iptables chains KUBE-* stay until the next boot"
