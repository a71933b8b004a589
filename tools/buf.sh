#!/usr/bin/env bash
# Lint protos/ and check it for breaking changes since the last tag; without a tag, since the last commit, or, if protos/
# has not changed since then, the one before it. A deliberate breaking change says so in its commit message, in a line that
# begins with "BREAKING CHANGE:", and in CHANGELOG.md. Needs npx (Node.js); without it, says so and exits with status 0.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v npx >/dev/null; then
    echo "buf: skipped: npx is not installed (it comes with Node.js)"
    exit 0
fi
buf() { npx --yes @bufbuild/buf@1.75.0 "$@"; }

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
