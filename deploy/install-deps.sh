#!/usr/bin/env bash
# Installs Debian packages that are missing. Usage: deploy/install-deps.sh build|run|test ...
# Idempotent: does nothing, and needs no network, where everything is there.
set -euo pipefail

declare -A sets=(
  [build]="gcc libc6-dev protobuf-compiler libprotobuf-dev pkg-config"
  [run]="containerd runc containernetworking-plugins iptables conntrack iproute2"
  [test]="etcd-server docker-registry busybox-static nftables ipset socat procps systemd python3 curl"
)
want=()
for set in "$@"; do
  # shellcheck disable=SC2206
  want+=(${sets[$set]:?unknown set $set})
done
missing=()
for package in "${want[@]}"; do
  dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then exit 0; fi
if [ "$(id -u)" -ne 0 ]; then
  echo "missing packages: ${missing[*]}; run this as root, or: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "installing: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
# Debian starts services on installation; orkd starts its own containerd, and tests start their own servers.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
