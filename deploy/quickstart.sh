#!/usr/bin/env bash
# From a machine with a Rust toolchain and Debian's packages to a running cluster with an application on it.
# Idempotent: run it again after a change or a reboot. Usage: sudo ./deploy/quickstart.sh
set -euo pipefail
cd "$(dirname "$0")/.."

kubeconfig=/etc/orkd/admin.kubeconfig
socket=/run/orkd/containerd/containerd.sock
say() { printf '\n== %s\n' "$*"; }

[ "$(id -u)" -eq 0 ] || { echo "run this as root: sudo ./deploy/quickstart.sh" >&2; exit 1; }
# sudo drops the caller's toolchain from the path.
if ! command -v cargo >/dev/null; then
  for home in "${SUDO_USER:+$(getent passwd "$SUDO_USER" | cut -d: -f6)}" "$HOME"; do
    [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH \
      && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} && break
  done
fi
command -v cargo >/dev/null || { echo "no Rust toolchain: install one, see rust-lang.org" >&2; exit 1; }

say "installing what is missing"
./deploy/install-deps.sh build run
command -v busybox >/dev/null || ./deploy/install-deps.sh test

say "building orkd (some minutes the first time)"
cargo build --release --bin orkd
target=${CARGO_TARGET_DIR:-target}
if ! cmp -s "$target/release/orkd" /usr/local/bin/orkd; then
  install -m 0755 "$target/release/orkd" /usr/local/bin/orkd.new
  mv /usr/local/bin/orkd.new /usr/local/bin/orkd
  changed=1
fi

say "checking this machine"
orkd check

say "starting the cluster"
if [ -d /run/systemd/system ]; then
  install -m 0644 deploy/systemd/orkd-server.service /etc/systemd/system/
  systemctl daemon-reload
  systemctl enable --quiet orkd-server
  if [ -n "${changed:-}" ]; then systemctl restart orkd-server; else systemctl start orkd-server; fi
else
  if [ -n "${changed:-}" ] && [ -s /run/orkd.pid ] && kill -0 "$(cat /run/orkd.pid)" 2>/dev/null; then
    kill "$(cat /run/orkd.pid)"
    while kill -0 "$(cat /run/orkd.pid)" 2>/dev/null; do sleep 0.1; done
  fi
  if ! { [ -s /run/orkd.pid ] && kill -0 "$(cat /run/orkd.pid)" 2>/dev/null; }; then
    setsid nohup orkd server >>/var/log/orkd.log 2>&1 </dev/null &
    echo $! > /run/orkd.pid
    echo "no systemd here: orkd runs in the background, its log is /var/log/orkd.log"
  fi
fi

wait_for() { # seconds, what, command...
  local limit=$1 what=$2 out
  shift 2
  for _ in $(seq $((limit * 5))); do
    if out=$("$@" 2>&1); then return 0; fi
    sleep 0.2
  done
  echo "not within $limit s: $what; last seen: $out" >&2
  exit 1
}
export KUBECONFIG=$kubeconfig
wait_for 30 "the API server's answer" curl -ksf https://127.0.0.1:6443/readyz
wait_for 30 "the runtime's socket" test -S "$socket"
./deploy/busybox-image.sh /var/lib/orkd/busybox.tar
ctr --address "$socket" -n k8s.io images import /var/lib/orkd/busybox.tar >/dev/null

if ! command -v kubectl >/dev/null; then
  ./tests/tools.sh /usr/local/lib/orkd/tools
  ln -sf /usr/local/lib/orkd/tools/kubectl-1.36 /usr/local/bin/kubectl
fi

say "deploying examples/hello"
kubectl apply -f examples/hello
kubectl rollout status deployment/hello --timeout=120s

address=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
wait_for 30 "an answer of the Service" curl -sf --max-time 2 "http://$address/"
say "the Service http://$address answers:"
curl -s "http://$address/"

cat <<EOF

The cluster is up. To use it:

    export KUBECONFIG=$kubeconfig
    kubectl get nodes
    kubectl get pods -o wide

More machines join with:  orkd agent --join https://THIS-MACHINE:6443 --token \$(orkd token create)
EOF
