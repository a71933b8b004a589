#!/usr/bin/env bash
# Without a container engine: put what the image of a role would contain, the packages of its lock file and its source
# folders, into a temporary virtual environment and run a command there.
#   tools/try_image.sh gateway serve gateway --check-config
set -euo pipefail
cd "$(dirname "$0")/.."
target=$1; shift
block() { awk -v head="FROM $1" '$0 == head {on = 1; next} /^FROM / {on = 0} on' deploy/images/Dockerfile; }
lock=$(block "build AS $target-packages" | sed -nE 's/^COPY (requirements[^ ]+) .*/\1/p')
folders=$(block "base AS $target" | sed -nE 's/^COPY ([a-z]+) .*/\1/p')
test -n "$lock" -a -n "$folders" || { echo "no such target: $target" >&2; exit 2; }
image=$(mktemp -d); trap 'rm -rf "$image"' EXIT
"${PYTHON:-python3.11}" -m venv "$image/venv"
"$image/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
mkdir "$image/app"
for folder in $folders; do cp -r "$folder" "$image/app/$folder"; done
"$image/venv/bin/pip" check --disable-pip-version-check || true  # tensorflow-serving-api lacks TensorFlow, on purpose.
du -sh "$image/venv" | cut -f1
cd "$image/app"
env -i PATH="$image/venv/bin:/usr/bin:/bin" PYTHONPATH="$image/app" HOME="$image" python -m lookalike "$@"
