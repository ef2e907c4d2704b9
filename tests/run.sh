#!/usr/bin/env bash
# The everyday run: installs what tests need, then format, lints, and every test. Ends with the runner's summary.
#   tests/run.sh           under 40 minutes from an empty target directory on two cores
#   tests/run.sh --long    also fuzzing, crash cycles, soak and scale
set -euo pipefail
cd "$(dirname "$0")/.."

long=
[ "${1:-}" = --long ] && long=1

./deploy/install-deps.sh build run test
command -v cargo-nextest >/dev/null || cargo install --locked cargo-nextest

target=${CARGO_TARGET_DIR:-$PWD/target}
export ORKD_TOOLS=${ORKD_TOOLS:-$target/tools}
./tests/tools.sh "$ORKD_TOOLS"
if [ -z "${ORKD_SHARED:-}" ] && [ -d ../shared/kubernetes-1.36 ]; then
  ORKD_SHARED=$(cd ../shared && pwd)
  export ORKD_SHARED
fi
[ -n "${ORKD_SHARED:-}" ] || echo "skipped: tests against recorded data (no ../shared beside this clone)"
[ "$(id -u)" -eq 0 ] || echo "skipped: tests that need root (node tests)"

export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
[ -n "${CI:-}" ] && export CARGO_INCREMENTAL=0
cargo fmt --all --check
cargo clippy --workspace --all-targets --quiet -- -D warnings
cargo build --workspace --bins
export ORKD_BIN=$target/debug/orkd
if [ -n "$long" ]; then
  ORKD_LONG=1 cargo nextest run --workspace
else
  cargo nextest run --workspace
fi
