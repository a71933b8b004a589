#!/usr/bin/env bash
# Unpack programs that no Python package brings from Debian's packages into .servers, for the tests that need a real one:
# MariaDB's server, and promtool. They are run from there: nothing is installed, and root is not needed.
set -euo pipefail
cd "$(dirname "$0")/.."
command -v apt-get dpkg-deb > /dev/null || { echo "tools/debian.sh: needs apt-get and dpkg-deb" >&2; exit 1; }
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
download() { (cd "$work/$1" && apt-get download -qq -o APT::Sandbox::User=root "${@:2}" 2> /dev/null); }
unpack() {  # unpack FOLDER PROGRAM PACKAGE [LIBRARY...]: a release of Debian needs some of the libraries.
    local folder=$1 program=$2 package=$3
    test ! -x ".servers/$folder/$program" || return 0
    mkdir -p "$work/$folder/root" .servers
    download "$folder" "$package" || { apt-get update -qq && download "$folder" "$package"; } || {
        echo "tools/debian.sh: apt-get has no $package" >&2; return 1
    }
    for library in "${@:4}"; do
        download "$folder" "$library" || true
    done
    for each in "$work/$folder"/*.deb; do dpkg-deb -x "$each" "$work/$folder/root"; done
    rm -rf ".servers/$folder" && mv "$work/$folder/root" ".servers/$folder"
}
unpack prometheus usr/bin/promtool prometheus || failed=1
unpack mariadb usr/sbin/mariadbd mariadb-server-core libaio1 libaio1t64 libnuma1 liburing2 libpmem1 || failed=1
exit "${failed:-0}"
