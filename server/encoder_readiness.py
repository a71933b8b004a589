"""Whether the encoders in reach are ready for another version of the index. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from encoders.clients import EncoderReplica
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import Space

# The fingerprint of the encoder of each space of a version.
EncoderNames = Mapping[Space.ValueType, str]


def unready_encoders(pinned: EncoderNames, following: EncoderNames, replicas: Sequence[EncoderReplica]) -> list[str]:
    """What requests would lose if they pinned the following version: a sentence for each replica.

    A replica that is not in reach, or does not serve what the pinned version needs either, loses nothing: then the
    following version is no worse.
    """
    return [
        f"{replica.name} does not serve {' and '.join(lost)} of the new version{_because(replica)}"
        for replica in replicas
        if (lost := _lost(pinned, following, replica))
    ]


def _lost(pinned: EncoderNames, following: EncoderNames, replica: EncoderReplica) -> list[str]:
    """The following version's encoders that the replica lacks, where it serves the pinned version's."""
    before = [pinned[space] for space in replica.spaces if space in pinned]
    serves_pinned = bool(before) and replica.fingerprints.issuperset(before)
    return [
        f"the {space_name(space)} encoder {following[space]}"
        for space in replica.spaces
        if space in following
        and following[space] not in replica.fingerprints
        and (pinned[space] in replica.fingerprints if space in pinned else serves_pinned)
    ]


def _because(replica: EncoderReplica) -> str:
    return f": {replica.refusal}" if replica.refusal else " yet"
