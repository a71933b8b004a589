"""TensorFlow-Serving's version policies: which versions to serve, and what to load or unload next. Pure."""

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
    """The highest versions."""

    num_versions: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """The listed versions."""

    versions: frozenset[int]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class Load:
    """The action of loading a version."""

    version: int


@dataclass(frozen=True, slots=True)
class Unload:
    """The action of unloading a version."""

    version: int


def aspired_versions(policy: VersionPolicy, existing: Iterable[int]) -> frozenset[int]:
    """The versions to serve, of those that exist in the folder."""
    match policy:
        case Latest(num_versions):
            return frozenset(sorted(existing)[-max(num_versions, 1) :])
        case Specific(versions):
            return versions.intersection(existing)
        case All():
            return frozenset(existing)


def next_action(states: Mapping[int, State], aspired: Set[int]) -> Load | Unload | None:
    """The next step from the current version states to the aspired versions; None: done, or in progress.

    TensorFlow-Serving's AvailabilityPreservingPolicy: until an aspired version is AVAILABLE, one old version is kept.
    An aspired version that has ended failed to load, and is not retried.
    """
    obsolete = sorted(version for version, state in states.items() if state == AVAILABLE and version not in aspired)
    replacement_available = any(states.get(version) == AVAILABLE for version in aspired)
    if obsolete and (replacement_available or not aspired or len(obsolete) > 1):
        return Unload(obsolete[0])
    new = aspired - states.keys()
    return Load(max(new)) if new else None


def parse_policy(text: str) -> VersionPolicy:
    """Parse `latest`, `latest:2`, `all` or `specific:1,3`. Raises BadSettings."""
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
        raise BadSettings(f"model_version_policy={text}: expected latest, latest:N, all or specific:N,N,…") from None
    return policy


def parse_labels(pairs: Iterable[str]) -> dict[str, int]:
    """Parse `stable=3` to {"stable": 3}. Raises BadSettings, also for a duplicate label."""
    labels: dict[str, int] = {}
    for pair in pairs:
        label, _, version = pair.partition("=")
        if label in labels:
            raise BadSettings(f"version_labels={pair}: {label} is already version {labels[label]}")
        try:
            labels[label] = _parse_version(version)
        except ValueError:
            raise BadSettings(f"version_labels={pair}: expected LABEL=VERSION") from None
        if not label:
            raise BadSettings(f"version_labels={pair}: expected LABEL=VERSION")
    return labels


def _parse_version(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text) <= MAX_VERSION:
        raise ValueError(text)
    return int(text)
