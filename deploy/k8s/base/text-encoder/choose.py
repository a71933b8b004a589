"""Choose the text encoder that the index was built with: ARTIFACTS/<fingerprint>, linked as LINK, before it starts.

python choose.py INDEX ARTIFACTS LINK
"""

import json
import sys
from pathlib import Path


def chosen(index: Path, artifacts: Path) -> Path:
    version = (index / "CURRENT").read_text(encoding="utf-8").strip()
    manifest = json.loads((index / version / "manifest.json").read_bytes())
    encoders = [space["encoder"] for space in manifest["spaces"] if space["name"] == "text"]
    if not encoders:
        sys.exit(f"version {version} of the index has no text space: scale text-encoder to 0")
    if not (artifacts / encoders[0]).is_dir():
        sys.exit(f"version {version} of the index needs {artifacts / encoders[0]}, which is not there")
    return artifacts / encoders[0]


if __name__ == "__main__":
    index, artifacts, link = map(Path, sys.argv[1:])
    try:
        artifact = chosen(index, artifacts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"no index to serve texts for: {error}")
    link.unlink(missing_ok=True)
    link.symlink_to(artifact)
    print(f"serving {artifact}")
