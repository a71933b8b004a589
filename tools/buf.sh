#!/usr/bin/env bash
# Lint protos/ and check it for breaking changes since the last tag; without a tag, since the last commit, or, if protos/
# has not changed since then, the one before it. A deliberate breaking change says so in its commit message, in a line that
# begins with "BREAKING CHANGE:", and in CHANGELOG.md. Needs npm (Node.js); without it, says so and exits with status 0.
# buf itself is installed into .cache/buf, verified by the hashes in tools/buf/package-lock.json; no script of it is run.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v npm >/dev/null; then
    echo "buf: skipped: npm is not installed (it comes with Node.js)"
    exit 0
fi
cache=.cache/buf
buf() { "$cache/node_modules/.bin/buf" "$@"; }
if ! cmp -s tools/buf/package-lock.json "$cache/package-lock.json" || ! buf --version >/dev/null 2>&1; then
    mkdir -p "$cache" && cp tools/buf/package.json tools/buf/package-lock.json "$cache/"
    npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --silent
fi

buf lint
if ! before=$(git describe --tags --abbrev=0 2>/dev/null); then
    git diff --quiet HEAD -- protos && before=HEAD~1 || before=HEAD
fi
if ! git cat-file -e "$before:buf.yaml" 2>/dev/null; then
    echo "buf: not compared: $before has no buf.yaml"
elif git log -1 --format=%B | grep -q '^BREAKING CHANGE:'; then
    echo "buf: not compared with $before: the last commit declares a BREAKING CHANGE"
else
    buf breaking --against ".git#ref=$before"
fi
