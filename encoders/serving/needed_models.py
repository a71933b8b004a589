"""The image encoders that releases need: that of the release which serves, and the one before. Reads a location."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lookalike.errors import LookalikeError
from lookalike.releases.location import Location
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE

log = logging.getLogger(__name__)

MAX_NEEDED = 2  # Gateways may pin the release before until all encoders serve the new one, and CURRENT may go back.


class NeededEncoders:
    """The fingerprints, the newest first; call it to read the location again. For one thread."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._version = ""
        self._needed: tuple[str, ...] = ()
        self._problem = ""

    def __call__(self) -> Sequence[str]:
        """What was needed stays needed while the location cannot be read."""
        try:
            self._read()
            self._problem = ""
        except LookalikeError as error:
            if str(error) != self._problem:
                log.error("the models that the index needs stay: %s", error)
            self._problem = str(error)
        return self._needed

    def _read(self) -> None:
        if (version := self._location.current()) == self._version:
            return
        spaces = {space.name: space.encoder for space in self._location.read_manifest(version).spaces}
        if encoder := spaces.get(space_name(SPACE_IMAGE)):
            before = [each for each in self._needed if each != encoder]
            self._needed = (encoder, *before)[:MAX_NEEDED]
        self._version = version
