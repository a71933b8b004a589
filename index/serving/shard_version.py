"""One shard of one version, loaded: search, fetch, count, list. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from index.backends import gpu
from index.live.live_shard import LiveShard
from index.search import segment
from index.search.cost import UNLIMITED
from index.search.expiry import ExpiringView
from index.search.segment import Segment
from index.search.space import DevicePlacement
from index.search.view import DocumentRef, View
from index.serving import messages
from index.serving.shard_search import ShardSearch
from lookalike.errors import BadArtifact, InvalidRequest
from lookalike.limits import MAX_IDS
from lookalike.releases import version
from lookalike.releases.manifest import Manifest
from lookalike.releases.names import shard_name
from lookalike.shard_query import ShardQuery
from lookalike.spaces import space_number
from lookalike.timestamps import unix_time_s
from lookalike.v1 import index_pb2, types_pb2
from lookalike.v1.types_pb2 import DuplicatesThreshold, Product, Space, SpaceWeight
from lookalike.vectors import pack

MAX_DESCRIPTIONS = 256  # In one response; each has at most 64 KiB.
PAGE_ROWS, DESCRIBED_PAGE_ROWS = 500, 256


class ShardVersion:
    """One shard of a version: the base, as it was built, and the updates of `live`. Thread-safe."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        shard: int,
        base: Segment,
        live: LiveShard | None = None,
    ) -> None:
        self.manifest = manifest
        self.shard = shard
        self.base = base
        self.live = live  # None: it takes no updates.
        self._base_view = View((base,))
        self._expiring = ExpiringView()
        self.dims = {number: space.dim for number, space in base.spaces.items()}

    @property
    def view(self) -> View:
        """The current snapshot, without what has expired. A call takes it once, so that it sees no update half-way."""
        return self._expiring.at(self._base_view if self.live is None else self.live.view, unix_time_s())

    def with_live(self, live: LiveShard) -> ShardVersion:
        """The same version, taking updates."""
        return ShardVersion(manifest=self.manifest, shard=self.shard, base=self.base, live=live)

    def state(self, known_sequence: int | None = None) -> index_pb2.ShardState:
        """known_sequence: the updates after it are part of the state; None: none are."""
        # The number before the view: a search that begins now finds all updates up to it.
        sequence = self.live.sequence if self.live else 0
        changes = None
        if self.live is not None and known_sequence is not None:
            changes = self.live.recent_changes(known_sequence, sequence)
        view = self.view
        spaces = [
            index_pb2.SpaceState(
                space=number,
                dim=entry.dim,
                encoder=entry.encoder,
                documents=entry.documents,
                live=view.vector_count(number),
                device=gpu.device_of(self.base.spaces[number].ann_index),
                duplicates=DuplicatesThreshold(**asdict(entry.duplicates)) if entry.duplicates else None,
                recall=index_pb2.PromisedRecall(**asdict(recall)) if (recall := entry.recall_at_10) else None,
            )
            for entry in self.manifest.spaces
            for number in [space_number(entry.name)]
        ]
        return index_pb2.ShardState(
            version=self.manifest.version,
            shard=self.shard,
            shards=self.manifest.shards,
            spaces=spaces,
            documents=len(view),
            sequence=sequence,
            live=self.live.state() if self.live else None,
            changes=changes,
            text_weights=[
                SpaceWeight(space=space_number(name), weight=share) for name, share in self.manifest.text_shares.items()
            ],
        )

    def search(self, queries: Sequence[index_pb2.ShardQuery]) -> index_pb2.ShardSearchResponse:
        """Search; returns one ShardHits for each query, with an error in that of an invalid query."""
        search = self.start_search(messages.parse_queries(queries, self.dims))
        search.read(search.find([*search.pending], UNLIMITED))
        return messages.search_response(search.results)

    def start_search(self, queries: Sequence[ShardQuery | ValueError]) -> ShardSearch:
        """A search of the present content, which has found nothing yet."""
        return ShardSearch(self.view, queries)

    def fetch(self, request: index_pb2.FetchRequest) -> index_pb2.FetchResponse:
        """Products by id. Raises InvalidRequest for more than fit into a response."""
        limit = MAX_DESCRIPTIONS if request.descriptions else MAX_IDS
        if len(request.ids) > limit:
            raise InvalidRequest("ids", f"the request has {len(request.ids)} ids, at most {limit} are allowed")
        response, view = index_pb2.FetchResponse(), self.view
        for product_id in request.ids:
            fetched = response.products.add()
            if (ref := view.find(product_id)) is None:
                continue
            fetched.product = _serialized(ref, description=request.descriptions)
            for number in request.vectors:
                if number in self.dims and (vector := ref.vector(number)) is not None:
                    fetched.vectors.add(space=number, vector=pack(vector))
        return response

    def count(self, condition: types_pb2.Filter) -> int:
        return self.view.count(condition.SerializeToString(deterministic=True))

    def page(self, condition: types_pb2.Filter, after: str, *, descriptions: bool = False) -> index_pb2.ShardListPage:
        """A page of products that pass, with ids greater than `after`, by rising id; empty: no more."""
        size = DESCRIBED_PAGE_ROWS if descriptions else PAGE_ROWS
        page = self.view.page(condition.SerializeToString(deterministic=True), after, size)
        return index_pb2.ShardListPage(
            ids=[product_id for product_id, _ in page],
            products=[_serialized(ref, description=descriptions) for _, ref in page],
        )

    def sample_queries(self, number: Space.ValueType, size: int) -> Iterator[index_pb2.ShardQuery]:
        """Queries by vectors spread evenly over a space, to warm up with."""
        space = self.base.spaces[number]
        for position in np.linspace(0, len(space) - 1, min(size, len(space)), dtype=np.int64):
            vector = index_pb2.QueryVector(space=number, vector=pack(space.vectors[position]))
            yield index_pb2.ShardQuery(vectors=[vector], k=10)


def _serialized(ref: DocumentRef, *, description: bool) -> bytes:
    """Serialized messages, one after the other, are the message with the fields of both."""
    return ref.product + Product(description=ref.description).SerializeToString() if description else ref.product


def open_shard(location: Path, shard: int, name: str = "") -> ShardVersion:
    """Verify and map a shard of the version `name`, or of the current one. Raises BadArtifact, naming the file."""
    manifest = version.read_manifest(location, name or version.read_current(location))
    version.verify(location / manifest.version, manifest, prefix=shard_name(shard) + "/")
    return map_shard(location, manifest, shard)


def map_shard(location: Path, manifest: Manifest, shard: int, placement: DevicePlacement | None = None) -> ShardVersion:
    """Map a shard whose files are verified; `placement` moves its ANN indexes to a device, such as a GPU.

    Raises BadArtifact where the version has no such shard, or a file is not as described; what `placement` raises.
    """
    if not 0 <= shard < manifest.shards:
        raise BadArtifact(
            f"{location}: version {manifest.version} has shards 0 to {manifest.shards - 1}, not shard {shard}"
        )
    base = segment.open_segment(location / manifest.version, manifest, shard, placement)
    return ShardVersion(manifest=manifest, shard=shard, base=base)
