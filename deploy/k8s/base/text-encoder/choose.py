"""Links the encoders that the index was built with, before their process starts: CHOSEN/text and CHOSEN/product link to
ARTIFACTS/<fingerprint>. If the index has no product space, CHOSEN/product is an empty folder.

python choose.py INDEX ARTIFACTS CHOSEN
"""

import json
import shutil
import sys
from pathlib import Path


def encoder_fingerprints(index: Path) -> dict[str, str]:
    """The fingerprint of the encoder of each space of the current version."""
    version = (index / "CURRENT").read_text(encoding="utf-8").strip()
    manifest = json.loads((index / version / "manifest.json").read_bytes())
    encoders = {space["name"]: space["encoder"] for space in manifest["spaces"]}
    if "text" not in encoders:
        sys.exit(f"version {version} of the index has no text space: scale text-encoder to 0")
    return encoders


def link_encoders(index: Path, artifacts: Path, chosen: Path) -> None:
    encoders = encoder_fingerprints(index)
    for space in ("text", "product"):
        if space in encoders and not (artifacts / encoders[space]).is_dir():
            sys.exit(f"the index needs {artifacts / encoders[space]}, which is not there")
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir(parents=True)
    for space in ("text", "product"):
        if space in encoders:
            (chosen / space).symlink_to(artifacts / encoders[space])
            print(f"{space}: {artifacts / encoders[space]}")
        else:
            (chosen / space).mkdir()


if __name__ == "__main__":
    try:
        link_encoders(*map(Path, sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.exit(f"there is no index to serve encoders for: {error}")
