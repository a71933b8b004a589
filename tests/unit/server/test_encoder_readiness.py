"""Whether the encoders in reach are ready for another version of the index."""

from __future__ import annotations

import pytest

from encoders.clients import EncoderReplica
from lookalike.v1.index_pb2 import DescribeResponse, ShardState, SpaceState
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from server.encoder_readiness import EncoderNames, unready_encoders
from server.topology import choose_snapshot

OLD: EncoderNames = {SPACE_IMAGE: "image-1", SPACE_TEXT: "text-1", SPACE_PRODUCT: "product-1"}
NEW: EncoderNames = {SPACE_IMAGE: "image-2", SPACE_TEXT: "text-2", SPACE_PRODUCT: "product-2"}
WITHOUT_PRODUCTS: EncoderNames = {SPACE_IMAGE: "image-1", SPACE_TEXT: "text-1"}


def texts(*served: str, refusal: str = "") -> EncoderReplica:
    return EncoderReplica("text encoder a", (SPACE_TEXT, SPACE_PRODUCT), frozenset(served), refusal)


def images(*served: str) -> EncoderReplica:
    return EncoderReplica("image encoder b", (SPACE_IMAGE,), frozenset(served))


def test_encoders_that_serve_both_versions_are_ready() -> None:
    replicas = [texts("text-1", "product-1", "text-2", "product-2"), images("image-1", "image-2")]
    assert unready_encoders(OLD, NEW, replicas) == []


@pytest.mark.parametrize(
    ("replica", "reason"),
    [
        (
            texts("text-1", "product-1"),
            "text encoder a does not serve the text encoder text-2 and the product encoder product-2 of the new "
            "version yet",
        ),
        (
            texts("text-1", "product-1", "text-2"),
            "text encoder a does not serve the product encoder product-2 of the new version yet",
        ),
        (images("image-1"), "image encoder b does not serve the image encoder image-2 of the new version yet"),
        (
            texts("text-1", "product-1", refusal="version v2: disk full"),
            "text encoder a does not serve the text encoder text-2 and the product encoder product-2 of the new "
            "version: version v2: disk full",
        ),
    ],
)
def test_an_encoder_that_serves_only_the_old_version_is_named_with_what_it_lacks(
    replica: EncoderReplica, reason: str
) -> None:
    assert unready_encoders(OLD, NEW, [replica]) == [reason]


def test_an_encoder_that_serves_neither_version_loses_nothing() -> None:
    assert unready_encoders(OLD, NEW, [texts("text-0", "product-0"), images()]) == []


def test_an_encoder_that_lacks_one_of_the_old_version_is_asked_only_for_what_it_serves() -> None:
    assert unready_encoders(OLD, NEW, [texts("text-1", "text-2")]) == []


def test_a_space_that_only_the_new_version_has_is_waited_for_where_all_of_the_old_is_served() -> None:
    new: EncoderNames = {**WITHOUT_PRODUCTS, SPACE_PRODUCT: "product-2"}
    (reason,) = unready_encoders(WITHOUT_PRODUCTS, new, [texts("text-1")])
    assert "lacks" not in reason
    assert "the product encoder product-2" in reason
    assert unready_encoders(WITHOUT_PRODUCTS, new, [texts("text-0")]) == []


def test_a_space_that_the_new_version_does_not_have_needs_no_encoder() -> None:
    assert unready_encoders(OLD, WITHOUT_PRODUCTS, [texts("text-1", "product-1")]) == []


def describe(shard: int, *versions: str) -> DescribeResponse:
    def state(version: str) -> ShardState:
        encoders = {"v1": OLD, "v2": NEW}[version]
        spaces = [SpaceState(space=space, dim=8, encoder=name, documents=[1, 1]) for space, name in encoders.items()]
        return ShardState(version=version, shard=shard, shards=2, spaces=spaces)

    return DescribeResponse(versions=[state(each) for each in versions])


def test_requests_pin_the_old_version_and_the_snapshot_says_why_while_an_encoder_is_not_ready() -> None:
    responses = [describe(0, "v2", "v1"), describe(1, "v2", "v1")]
    waiting = choose_snapshot(responses, "v1", None, [images("image-1")])
    assert (waiting.version, waiting.serving, len(waiting.waits_for)) == ("v1", (True, True), 1)
    moved = choose_snapshot(responses, "v1", None, [images("image-1", "image-2")])
    assert (moved.version, moved.waits_for) == ("v2", ())


def test_encoders_are_not_waited_for_where_a_shard_has_lost_the_old_version_or_none_was_pinned() -> None:
    lost = [describe(0, "v2", "v1"), describe(1, "v2")]
    assert choose_snapshot(lost, "v1", None, [images("image-1")]).version == "v2"
    both = [describe(0, "v2", "v1"), describe(1, "v2", "v1")]
    assert choose_snapshot(both, None, None, [images("image-1")]).version == "v2"
