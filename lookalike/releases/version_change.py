"""What a version cannot take of the changes made while another one served. Reads manifests, prints.

Whether there are such changes only the shards know: they count what they could not take, and answers say so.
"""

from __future__ import annotations

import sys

from lookalike.errors import BadArtifact
from lookalike.releases.location import Location
from lookalike.releases.manifest import Manifest


def current_manifest(location: Location) -> Manifest | None:
    """That of the version that serves; None: there is none that can be read."""
    try:
        return location.read_manifest(location.current())
    except BadArtifact:
        return None


def what_is_lost(before: Manifest, after: Manifest) -> list[str]:
    """What of changes to one version another one does not take, and why: one clause for each cause."""
    lost = []
    spaces = {space.name: space for space in after.spaces}
    for old in before.spaces:
        if (new := spaces.get(old.name)) is None:
            lost.append(f"{old.name} vectors of changes (it has no such space)")
        elif new.encoder != old.encoder:
            lost.append(f"{old.name} vectors of changes (its encoder is {new.encoder}, before {old.encoder})")
        elif new.dim != old.dim:
            lost.append(f"changes with {old.name} vectors ({new.dim} dimensions, before {old.dim})")
    return lost


def tell_what_is_lost(before: Manifest | None, after: Manifest) -> None:
    """Say on standard error what a version that serves from now on does not take over."""
    if before is not None and (lost := what_is_lost(before, after)):
        print(
            f"notice: of changes made while version {before.version} served, version {after.version} does not take: "
            f"{'; '.join(lost)}",
            file=sys.stderr,
        )
