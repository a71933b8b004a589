"""Which versions of a model are wanted, and what to load or unload next, as TensorFlow-Serving decides it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Final, TypeAlias

from encoders.image.models import MAX_VERSION
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.errors import BadSettings

State: TypeAlias = pb.ModelVersionStatus.State.ValueType
START: Final = pb.ModelVersionStatus.START
LOADING: Final = pb.ModelVersionStatus.LOADING
AVAILABLE: Final = pb.ModelVersionStatus.AVAILABLE
UNLOADING: Final = pb.ModelVersionStatus.UNLOADING
END: Final = pb.ModelVersionStatus.END


@dataclass(frozen=True, slots=True)
class Latest:
    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class All:
    pass


@dataclass(frozen=True, slots=True)
class Specific:
    versions: frozenset[int]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class Load:
    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    version: int


def aspired_versions(policy: VersionPolicy, existing: Iterable[int]) -> frozenset[int]:
    """Those of the versions found in the folder that should be served."""
    match policy:
        case Latest(num_versions):
            return frozenset(sorted(existing)[-max(num_versions, 1) :])
        case Specific(versions):
            return versions.intersection(existing)
        case All():
            return frozenset(existing)


def next_action(states: Mapping[int, State], aspired: Set[int]) -> Load | Unload | None:
    """The next step from the versions there are to those that are wanted; None: it is done, or under way.

    TensorFlow-Serving's AvailabilityPreservingPolicy: as long as none of the wanted versions is AVAILABLE, one of the
    old ones stays. What is wanted and has ended failed to load, and is not tried again.
    """
    obsolete = sorted(version for version, state in states.items() if state == AVAILABLE and version not in aspired)
    replacement_available = any(states.get(version) == AVAILABLE for version in aspired)
    if obsolete and (replacement_available or not aspired or len(obsolete) > 1):
        return Unload(obsolete[0])
    new = aspired - states.keys()
    return Load(max(new)) if new else None


def parse_policy(text: str) -> VersionPolicy:
    """`latest`, `latest:2`, `all` or `specific:1,3`. Raises BadSettings."""
    kind, colon, rest = text.partition(":")
    try:
        if kind == "latest":
            policy: VersionPolicy = Latest(_parse_version(rest) if colon else 1)
        elif kind == "specific":
            policy = Specific(frozenset(_parse_version(number) for number in rest.split(",")))
        elif text == "all":
            policy = All()
        else:
            raise ValueError(text)
    except ValueError:
        raise BadSettings(f"model_version_policy={text}: not latest, latest:N, all or specific:N,N,…") from None
    return policy


def parse_labels(pairs: Iterable[str]) -> dict[str, int]:
    """`stable=3` to {"stable": 3}. Raises BadSettings, also for a label that is given twice."""
    labels: dict[str, int] = {}
    for pair in pairs:
        label, _, version = pair.partition("=")
        if label in labels:
            raise BadSettings(f"version_labels={pair}: {label} is version {labels[label]} already")
        try:
            labels[label] = _parse_version(version)
        except ValueError:
            raise BadSettings(f"version_labels={pair}: not LABEL=VERSION") from None
        if not label:
            raise BadSettings(f"version_labels={pair}: not LABEL=VERSION")
    return labels


def _parse_version(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MAX_VERSION:
        raise ValueError(text)
    return int(text)
