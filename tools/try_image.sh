#!/usr/bin/env bash
# Without a container engine: put what the image of a role would contain, the packages of its lock file and its source
# folders, compiled, into a temporary folder and run a command there.
#   tools/try_image.sh gateway serve gateway --check-config
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1; shift
block() { awk -v head="FROM $1" '$0 == head {on = 1; next} /^FROM / {on = 0} on' deploy/images/Dockerfile; }
lock=$(block "build AS $target-packages" | sed -nE 's/^COPY (requirements[^ ]+) .*/\1/p')
folders=$(block "base AS $target" | sed -nE 's/^COPY --from=sources [^ ]+ ([a-z]+)$/\1/p')
test -n "$lock" -a -n "$folders" || { echo "no such target: $target" >&2; exit 2; }
image=$(mktemp -d); trap 'rm -rf "$image"' EXIT
export PYTHON=${PYTHON:-python3.11}
requirements/install.sh "$lock" "$image/venv"
mkdir "$image/app"
for folder in $folders; do cp -r "$folder" "$image/app/$folder"; done
"$PYTHON" -m compileall -q --invalidation-mode unchecked-hash "$image/app"
du -sh "$image/venv" | cut -f1
cd "$image/app"
env -i PATH="$image/venv/bin:/usr/bin:/bin" PYTHONPATH="$image/app" PYTHONDONTWRITEBYTECODE=1 HOME="$image" \
    python -m lookalike "$@"
