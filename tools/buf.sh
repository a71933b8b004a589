#!/usr/bin/env bash
# Lint protos/ and compare it with what was there before: the last tag; without one, the last commit, or the one before it
# where nothing has changed since. A change that breaks callers on purpose says so in its commit message, in a line that
# begins with "BREAKING CHANGE:", and in CHANGELOG.md. Needs npx (Node.js); says so and passes where there is none.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v npx >/dev/null; then
    echo "buf: skipped: npx is not installed (Node.js brings it)"
    exit 0
fi
buf() { npx --yes @bufbuild/buf@1.75.0 "$@"; }

buf lint
if ! before=$(git describe --tags --abbrev=0 2>/dev/null); then
    git diff --quiet HEAD -- protos && before=HEAD~1 || before=HEAD
fi
if ! git cat-file -e "$before:buf.yaml" 2>/dev/null; then
    echo "buf: nothing to compare with: $before has no buf.yaml"
elif git log -1 --format=%B | grep -q '^BREAKING CHANGE:'; then
    echo "buf: the last commit says that it breaks callers: not compared with $before"
else
    buf breaking --against ".git#ref=$before"
fi
