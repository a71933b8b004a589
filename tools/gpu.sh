#!/usr/bin/env bash
# On a machine with an NVIDIA GPU and its driver (CUDA 12.6 or newer): check whether faiss can use the GPU, and if so
# measure it (benchmarks/gpu.py) and write benchmarks/results/gpu.json. CUDA need not be installed: faiss-gpu brings its
# libraries. It uses a virtual environment of its own, since faiss-gpu and faiss-cpu are the same Python module.
#   tools/gpu.sh                                   1,000,000 vectors: about 20 GB of disk, 16 GB of memory
#   tools/gpu.sh --vectors 100000 --device cuda:1
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.cache/gpu-venv
test -x "$venv/bin/python" || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: --require-hashes -r requirements/build.lock
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" --no-build-isolation --require-hashes -r requirements/gpu.lock
"$venv/bin/python" - <<'PYTHON'
import sys
from index.backends.device import unavailable_reason
sys.exit(unavailable_reason(0))
PYTHON
exec "$venv/bin/python" -m benchmarks.gpu "$@"
