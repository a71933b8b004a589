#!/usr/bin/env bash
# Unpack a MariaDB server from Debian's packages into .servers/mariadb, for the tests that need a real one. It is run
# from there: nothing is installed, and root is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."
target=.servers/mariadb
test ! -x "$target/usr/sbin/mariadbd" || exit 0
command -v apt-get dpkg-deb > /dev/null || { echo "tools/mariadb.sh: needs apt-get and dpkg-deb" >&2; exit 1; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
download() { (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$@" 2> /dev/null); }
download mariadb-server-core || { apt-get update -qq && download mariadb-server-core; } || {
    echo "tools/mariadb.sh: apt-get has no mariadb-server-core" >&2; exit 1
}
for library in libaio1 libaio1t64 libnuma1 liburing2 libpmem1; do  # Of which a release of Debian needs some.
    download "$library" || true
done
mkdir -p "$work/root" .servers
for package in "$work"/*.deb; do dpkg-deb -x "$package" "$work/root"; done
rm -rf "$target" && mv "$work/root" "$target"
