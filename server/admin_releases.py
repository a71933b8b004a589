"""The methods of Admin that are about the releases of a location. I/O to the location, on threads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lookalike.errors import (
    BadArtifact,
    BadSettings,
    FailedPrecondition,
    InvalidRequest,
    NotFound,
    OperatorError,
    Unavailable,
)
from lookalike.releases.location import Location
from lookalike.releases.manifest import Manifest
from lookalike.releases.owner import owner_name
from lookalike.releases.records import read_record
from lookalike.releases.serving_version import NoSuchVersion, cut_over, serving, try_version, version_before
from lookalike.releases.version_change import current_manifest, what_is_lost
from lookalike.runtime.call import current
from lookalike.runtime.deadline import Deadline
from lookalike.spaces import space_number
from lookalike.v1 import admin_pb2

Result = TypeVar("Result")

_NOT_RECORDED = "it is not recorded; the server's log says why"


class Releases:
    """The releases of a location; changes are made one after the other. For use on one event loop."""

    def __init__(self, location: Location) -> None:
        self._location = location
        self._changing = asyncio.Lock()

    async def list_releases(
        self, request: admin_pb2.ListReleasesRequest, deadline: Deadline
    ) -> admin_pb2.ListReleasesResponse:
        return await self._on_thread(self._list)

    async def cut_over(self, request: admin_pb2.CutOverRequest, deadline: Deadline) -> admin_pb2.CutOverResponse:
        if not request.release:
            raise InvalidRequest("release", "is empty: name the release that is to serve")
        return await self._change(lambda by, why: self._cut_over(request.release, request.expected, by, why))

    async def roll_back(self, request: admin_pb2.RollBackRequest, deadline: Deadline) -> admin_pb2.CutOverResponse:
        def roll_back(by: str, why: str) -> admin_pb2.CutOverResponse:
            return self._cut_over(version_before(self._location), request.expected, by, why)

        return await self._change(roll_back)

    async def set_canary(self, request: admin_pb2.SetCanaryRequest, deadline: Deadline) -> admin_pb2.SetCanaryResponse:
        if request.release and not 0 < request.share <= 1:  # Written so that NaN fails too.
            raise InvalidRequest("share", f"{request.share} is not above 0 and at most 1")

        def set_canary(by: str, why: str) -> admin_pb2.SetCanaryResponse:
            if request.release:
                try_version(self._location, request.release, request.share)
            else:
                self._location.set_canary(None)
            return admin_pb2.SetCanaryResponse()

        return await self._change(set_canary)

    async def _change(self, change: Callable[[str, str], Result]) -> Result:
        """change: of who makes it and why, for the record."""
        call = current()
        by, why = call.caller.id or owner_name(), f"{call.method.rpartition('/')[2]}, request {call.request_id()}"
        async with self._changing:
            return await self._on_thread(lambda: change(by, why))

    async def _on_thread(self, work: Callable[[], Result]) -> Result:
        with self._errors():
            return await asyncio.to_thread(work)

    def _cut_over(self, name: str, expected: str, by: str, why: str) -> admin_pb2.CutOverResponse:
        manifest = current_manifest(self._location)
        before, problem = cut_over(self._location, name, by=by, why=why, expected=expected)
        lost = what_is_lost(manifest, self._location.read_manifest(name)) if manifest is not None else []
        notices = [*(f"it does not take {each}" for each in lost), *([_NOT_RECORDED] if problem else [])]
        return admin_pb2.CutOverResponse(release=name, before=before, notices=notices)

    def _list(self) -> admin_pb2.ListReleasesResponse:
        serves, canary = serving(self._location), self._location.canary()
        response = admin_pb2.ListReleasesResponse()
        for name in self._location.list_versions():
            release = response.releases.add(name=name, serves=name == serves)
            if canary is not None and canary.version == name:
                release.canary = canary.share
            try:
                _describe(release, self._location.read_manifest(name))
                record = read_record(self._location, name)
            except BadArtifact:  # Also while it is being uploaded: its manifest comes last.
                release.damaged = True
                continue
            if record is not None:
                release.made_at, release.replaced = record.made_at, record.replaced
                release.rolled_back = record.is_rolled_back
        return response

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what a location raises as what callers are told: neither where it is nor which files it has."""
        try:
            yield
        except NoSuchVersion as error:
            raise NotFound(str(error)).hidden_as("there is no such release") from error
        except BadSettings as error:
            public = str(error).removeprefix(f"{self._location}: ")
            raise FailedPrecondition(str(error)).hidden_as(public) from error
        except BadArtifact as error:
            raise FailedPrecondition(str(error)).hidden_as("a file of the releases is missing or damaged") from error
        except OperatorError as error:
            raise Unavailable(str(error)).hidden_as("the releases cannot be read or written") from error


def _describe(release: admin_pb2.Release, manifest: Manifest) -> None:
    release.products, release.shards = sum(manifest.products), manifest.shards
    release.bytes = sum(file.bytes for file in manifest.files.values())
    for space in manifest.spaces:
        release.spaces.add(space=space_number(space.name), dim=space.dim, encoder=space.encoder)
    recalls = [index.recall_at_10 for space in manifest.spaces for index in space.indexes]
    if recalls:
        release.recall_at_10 = min(recalls)
