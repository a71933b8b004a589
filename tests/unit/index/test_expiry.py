"""Products that expire: from then on no call finds them, with live updates and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import build
from index.search.expiry import ExpiringView
from index.search.view import View
from index.serving.shard_version import ShardVersion, open_shard
from lookalike.v1.index_pb2 import Update
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.unit.index.live_samples import LIMITS, open_live, upsert
from tests.unit.index.samples import catalogue, unit_vectors, vectors_of

COUNT = 40


@pytest.fixture
def shard(tmp_path: Path) -> ShardVersion:
    """p0 expires at 100, p1 at 200, p2 at 100; the others never do."""
    expiries = pa.array([100, 200, 100, *[0] * (COUNT - 3)], pa.int64())
    table = catalogue(COUNT).append_column("expires_at", expiries)
    build(tmp_path / "index", table, {SPACE_IMAGE: vectors_of(unit_vectors(COUNT, 8))}, shards=1)
    return open_shard(tmp_path / "index", 0)


def ids(view: View) -> set[str]:
    page = view.page(b"", "", 1000)
    assert len(view) == view.count(b"") == len(page)
    return {product_id for product_id, _ in page}


def test_a_product_is_found_until_it_expires(shard: ShardVersion) -> None:
    expiring, whole = ExpiringView(), View((shard.base,))
    everything = ids(whole)
    assert expiring.at(whole, 99.9) is whole
    assert ids(expiring.at(whole, 100.0)) == everything - {"p0", "p2"}
    assert expiring.at(whole, 150.0) is expiring.at(whole, 199.9)
    assert ids(expiring.at(whole, 200.0)) == everything - {"p0", "p1", "p2"}
    assert expiring.at(whole, 201.0).find("p1") is None


def test_products_that_have_expired_are_in_no_answer_of_a_shard(shard: ShardVersion) -> None:
    assert ids(shard.view) == {f"p{i}" for i in range(3, COUNT)}
    assert shard.state().documents == COUNT - 3


def test_an_upsert_and_a_patch_decide_anew_when_a_product_expires(shard: ShardVersion, tmp_path: Path) -> None:
    live, expiring = open_live(shard, tmp_path / "live", LIMITS), ExpiringView()
    image = (SPACE_IMAGE,)
    soon, later, never = upsert("new", 1, spaces=image), upsert("p0", 1, spaces=image), Update(revision=2)
    soon.upsert.product.expires_at, later.upsert.product.expires_at = 300, 400
    never.patch.product.id = "p1"
    never.patch.fields.append("expires_at")
    live.apply([soon, later, never])
    for compact in (False, True):
        if compact:
            live.compact()
        at = {now: ids(expiring.at(live.view, now)) for now in (250, 300, 400)}
        assert {"new", "p0", "p1"} <= at[250]
        assert at[250] - at[300] == {"new"}
        assert at[300] - at[400] == {"p0"}
        assert "p2" not in at[250]
    live.close()


def test_a_search_does_not_see_what_has_expired(shard: ShardVersion) -> None:
    vector = shard.base.spaces[SPACE_IMAGE].vectors[0].astype(np.float32)
    query = next(shard.sample_queries(SPACE_IMAGE, 1))
    query.vectors[0].vector = vector.tobytes()
    (hits,) = shard.search([query]).results
    assert len(hits.ids) == query.k
    assert not {"p0", "p1", "p2"} & {*hits.ids}
