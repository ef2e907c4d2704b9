#!/usr/bin/env bash
# Makes an OCI image archive of Debian's PostgreSQL on busybox: orkd.local/postgres:latest, for the tests that want a
# real database. Nothing is installed; the packages of this Debian are fetched with apt-get and unpacked.
# Usage: tests/postgres-image.sh FILE     (root; about half a minute, 30 MB to fetch)
set -euo pipefail

out=$(realpath -m "${1:?usage: postgres-image.sh FILE}")
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/debs" "$work/all" "$work/root"

solve() { # PACKAGE -> names of everything it needs, as if nothing were installed
  apt-get -qq --print-uris -y --no-install-recommends -o Dir::State::status=/dev/null install "$1" |
    awk '{ sub(/_.*/, "", $2); print $2 }'
}
solve postgresql > "$work/solved" 2>/dev/null || { apt-get update -qq; solve postgresql > "$work/solved"; }
server=$(grep -m1 -xE 'postgresql-[0-9]+' "$work/solved")
version=${server#postgresql-}
# The libraries that may be linked to; not the compiler of queries and what only maintainer scripts want.
grep -xE "postgresql-(client-)?$version|tzdata|zlib1g|lib[a-z].*" "$work/solved" |
  grep -vE '^lib(llvm|z3|perl|[a-z-]*-perl$|semanage|sepol|db5|gdbm)' > "$work/wanted"
chmod 755 "$work" "$work/debs" # apt-get fetches as a user of its own
(cd "$work/debs" && xargs apt-get -qq -o APT::Sandbox::User=root download < "$work/wanted")
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/all"; done

# The server's programs, their libraries as the loader finds them, and the data they read.
bin=usr/lib/postgresql/$version/bin
[ -e "$work/all/lib64" ] || ln -s usr/lib64 "$work/all/lib64"
keep() { for path; do (cd "$work/all" && cp -aL --parents "$path" "$work/root"); done; }
for program in postgres initdb psql pg_ctl pg_isready pgbench; do
  keep "$bin/$program"
  chroot "$work/all" /lib64/ld-linux-x86-64.so.2 --list "/$bin/$program" |
    awk '$2 == "=>" { print $3 } $1 ~ /^\// { print $1 }' >> "$work/libraries"
done
sort -u "$work/libraries" | while read -r library; do keep "${library#/}"; done
keep "usr/lib/postgresql/$version/lib" "usr/share/postgresql/$version" usr/share/zoneinfo
rm -rf "$work/root/usr/lib/postgresql/$version/lib/bitcode" "$work/root/usr/lib/postgresql/$version/lib"/llvmjit*
rm -rf "$work/root/usr/share/postgresql/$version/man"
mkdir -p "$work/root/usr/local/bin" "$work/root/etc"
for program in "$work/root/$bin"/*; do ln -s "/$bin/${program##*/}" "$work/root/usr/local/bin/"; done
printf 'root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999:postgres:/tmp:/bin/sh\n' > "$work/root/etc/passwd"
printf 'root:x:0:\npostgres:x:999:\n' > "$work/root/etc/group"

"$here/../deploy/busybox-image.sh" "$out.tmp" orkd.local/postgres:latest "$work/root"
mv "$out.tmp" "$out"
