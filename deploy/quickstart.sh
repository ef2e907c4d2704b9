#!/usr/bin/env bash
# From a machine with a Rust toolchain and Debian's packages to a running cluster with an application on it.
# Idempotent: run it again after a change or a reboot. Usage: sudo ./deploy/quickstart.sh
#   ORKD_BINARY=FILE   install this binary instead of building one
set -euo pipefail
cd "$(dirname "$0")/.."

kubeconfig=/etc/orkd/admin.kubeconfig
socket=/run/orkd/containerd/containerd.sock
say() { printf '\n== %s\n' "$*"; }
die() { echo "quickstart: $*" >&2; exit 1; }

[ "$(id -u)" -eq 0 ] || die "run this as root: sudo ./deploy/quickstart.sh"
binary=${ORKD_BINARY:-}
if [ -n "$binary" ]; then
  [ -x "$binary" ] || die "ORKD_BINARY=$binary is no program"
  say "installing what is missing"
  ./deploy/install-deps.sh run
else
  # sudo drops the caller's toolchain from the path.
  if ! command -v cargo >/dev/null; then
    for home in "${SUDO_USER:+$(getent passwd "$SUDO_USER" | cut -d: -f6)}" "$HOME"; do
      [ -n "$home" ] && [ -x "$home/.cargo/bin/cargo" ] && PATH=$home/.cargo/bin:$PATH \
        && export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup} && break
    done
  fi
  command -v cargo >/dev/null || die "no Rust toolchain: install one as rust-lang.org says, or name a built binary: ORKD_BINARY=FILE"
  say "installing what is missing"
  ./deploy/install-deps.sh build run
  say "building orkd (some minutes the first time)"
  cargo build --release --bin orkd
  binary=${CARGO_TARGET_DIR:-target}/release/orkd
fi
# The example's image is made of it.
command -v busybox >/dev/null || ./deploy/install-deps.sh test
changed=
if ! cmp -s "$binary" /usr/local/bin/orkd; then
  install -m 0755 "$binary" /usr/local/bin/orkd.new
  mv /usr/local/bin/orkd.new /usr/local/bin/orkd
  changed=1
fi

say "checking this machine"
orkd check || die "this machine cannot run orkd yet: see FAILED above"

running() { # whether our own process runs
  local pid
  [ -s /run/orkd.pid ] && pid=$(cat /run/orkd.pid) && [ "$(readlink "/proc/$pid/exe" 2>/dev/null | cut -d' ' -f1)" = /usr/local/bin/orkd ]
}
log() { # the last words of orkd
  if [ -d /run/systemd/system ]; then journalctl -u orkd-server --no-pager -n 20; else tail -n 20 /var/log/orkd.log; fi >&2
}

say "starting the cluster"
if [ -d /run/systemd/system ]; then
  install -m 0644 deploy/systemd/orkd-server.service /etc/systemd/system/
  systemctl daemon-reload
  systemctl enable --quiet orkd-server
  if [ -n "$changed" ]; then systemctl restart orkd-server; else systemctl start orkd-server; fi
  alive() { [ "$(systemctl is-active orkd-server)" != failed ]; }
else
  if [ -n "$changed" ] && running; then
    kill "$(cat /run/orkd.pid)"
    while running; do sleep 0.1; done
  fi
  if running; then
    echo "it runs already"
  else
    setsid nohup orkd server >>/var/log/orkd.log 2>&1 </dev/null &
    echo $! > /run/orkd.pid
    echo "no systemd here: orkd runs in the background, its log is /var/log/orkd.log"
    while [ "$(readlink "/proc/$!/exe")" != /usr/local/bin/orkd ] && kill -0 $! 2>/dev/null; do sleep 0.02; done
  fi
  alive() { running; }
fi

wait_for() { # seconds, what, command...
  local limit=$1 what=$2 out=
  shift 2
  for _ in $(seq $((limit * 5))); do
    if out=$("$@" 2>&1); then return 0; fi
    alive || { log; die "orkd has ended; its last words are above"; }
    sleep 0.2
  done
  log
  die "not within $limit s: $what; last seen: ${out:-nothing}; the log's end is above"
}
export KUBECONFIG=$kubeconfig
wait_for 30 "an answer of the API server" curl -ksSf https://127.0.0.1:6443/readyz
wait_for 30 "the container runtime" test -S "$socket"

if ! command -v kubectl >/dev/null; then
  say "fetching kubectl"
  ./tests/tools.sh /usr/local/lib/orkd/tools
  [ -x /usr/local/lib/orkd/tools/kubectl-1.36 ] || die "no kubectl: put one on the path and run this again"
  ln -sf /usr/local/lib/orkd/tools/kubectl-1.36 /usr/local/bin/kubectl
fi
name=$(sed -n 's/^node-name: *//p' /etc/orkd/config.yaml 2>/dev/null | tr -d "\"'" || true)
name=${name:-$(hostname | tr '[:upper:]' '[:lower:]')}
wait_for 60 "node $name to be registered" kubectl get node "$name"
kubectl wait --for=condition=Ready "node/$name" --timeout=60s || { log; die "node $name is not Ready"; }

say "deploying examples/hello"
./deploy/busybox-image.sh /var/lib/orkd/busybox.tar
ctr --address "$socket" -n k8s.io images import /var/lib/orkd/busybox.tar >/dev/null
kubectl apply -f examples/hello
kubectl rollout status deployment/hello --timeout=120s || { kubectl describe pods -l app=hello >&2; die "the example does not run"; }

address=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')
wait_for 30 "an answer of the Service" curl -sSf --max-time 2 "http://$address/"
say "the Service http://$address answers:"
curl -s "http://$address/"

cat <<END

The cluster is up. To use it:

    export KUBECONFIG=$kubeconfig
    kubectl get nodes
    kubectl get pods -o wide

More machines join with what this prints:  orkd token create --print-join-command
Remove everything with:                    sudo ./deploy/uninstall.sh
END
