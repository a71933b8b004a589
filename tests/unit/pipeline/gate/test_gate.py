"""The gate: which releases it refuses, and that each refusal names the figure and the limit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from index.building.build import SpaceVectors
from lookalike.errors import BadSettings
from lookalike.releases import version
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from lookalike.vectors import normalised
from pipeline.gate import CHECKS, Check, GateLimits, GateReport, verify_release
from pipeline.gate.limits import parse_limits
from tests.unit.pipeline.gate.releases import COUNT, Shop, with_points

verify = partial(verify_release, limits=GateLimits(sample=300))


def refused(report: GateReport) -> list[str]:
    return [check.name for check in report.refusals]


def of_live(shop: Shop, candidate: str, live: str, name: str) -> Check:
    """One check of a candidate that is built in the shop's own location."""
    return verify(shop.location, candidate, live).check(name)


def test_an_ordinary_night_passes_every_check_and_says_what_was_measured(
    shop: Shop, live: str, next_night: str
) -> None:
    report = verify(shop.location, next_night, live)
    assert not report.refused
    assert tuple(check.name for check in report.checks) == CHECKS
    assert report.check("products").sentence == f"{COUNT - 40:,} products, the live release has {COUNT:,}"
    assert report.check("neighbours").figures["product"]["live"] > 0.9
    assert json.loads(json.dumps(report.as_json()))["refused"] is False


def test_the_first_release_is_compared_with_nothing_and_passes(shop: Shop, live: str) -> None:
    report = verify(shop.location, live, None)
    assert not report.refused
    not_compared = [check.name for check in report.checks if not check.compared]
    assert not_compared == ["products", "shrinkage", "rejects", "recall", "golden", "neighbours", "drift"]
    assert "nothing serves yet" in report.check("drift").sentence


def test_where_only_the_live_manifest_is_at_hand_counts_are_compared_and_neighbours_are_not(
    shop: Shop, live: str, next_night: str, tmp_path: Path
) -> None:
    (tmp_path / live).mkdir()
    shutil.copy(shop.location / live / "manifest.json", tmp_path / live)
    report = verify(shop.location, next_night, live, live_location=tmp_path)
    assert report.check("products").compared
    assert "categories not compared" in report.check("shrinkage").sentence
    assert not report.check("neighbours").compared
    assert "the live release cannot be read" in report.check("neighbours").sentence


def test_half_a_catalogue_is_refused_with_the_loss_and_its_limit(shop: Shop, live: str) -> None:
    half = shop.build(shop.content.take(range(COUNT // 2)))
    report = verify(shop.location, half, live)
    assert refused(report)[:2] == ["products", "shrinkage"]
    assert "400 products, the live release has 800: a loss of 50.0%, more than 10%" in report.check("products").sentence
    for space in ("image", "text", "product"):
        assert f"400 {space} vectors" in report.check("shrinkage").sentence


def test_an_empty_release_is_refused_even_if_nothing_serves(copied: Shop) -> None:
    empty = copied.build(copied.content.take([]), spaces=lambda spaces: {}, encoders={})
    report = verify(copied.location, empty, None)
    assert refused(report) == ["products"]
    assert report.check("products").sentence == "it has no product"


def test_a_space_that_is_gone_is_refused(shop: Shop, live: str) -> None:
    without = shop.build(spaces=lambda spaces: {SPACE_TEXT: spaces[SPACE_TEXT]}, encoders={SPACE_TEXT: shop.text})
    sentence = of_live(shop, without, live, "shrinkage").sentence
    assert "0 image vectors, the live release has 800: a loss of 100.0%, more than 10%" in sentence


def test_a_catalogue_of_one_category_is_refused_by_its_share_and_by_what_is_gone(shop: Shop, live: str) -> None:
    one = shop.build(shop.content.with_categories("round/lamp"))
    sentence = of_live(shop, one, live, "shrinkage").sentence
    assert "11 of 12 categories are gone (91.7%, more than 20%)" in sentence
    assert "100.0% of the products are of the category round/lamp" in sentence
    assert "a rise of more than 20%" in sentence


def test_a_rise_of_rejected_rows_is_refused(shop: Shop, live: str) -> None:
    rejecting = shop.build(shop.content.take(range(1, COUNT)), rejected=40)
    check = of_live(shop, rejecting, live, "rejects")
    assert not check.passed
    assert check.sentence == ("4.77% of 839 rows were rejected, 0.00% for the live release: a rise of more than 2.0%")
    assert verify(shop.location, rejecting, live, limits=GateLimits(max_reject_rise=0.05)).check("rejects").passed


def test_a_damaged_file_is_refused_by_name_and_nothing_else_is_measured(copied: Shop) -> None:
    name = copied.build()
    file = copied.location / name / "encoders" / "text" / "manifest.json"
    file.write_bytes(file.read_bytes() + b" ")
    report = verify(copied.location, name, None)
    assert refused(report) == ["files"]
    assert str(file) in report.check("files").sentence
    assert all(not check.compared for check in report.checks[1:])


def test_an_encoder_that_was_damaged_before_its_release_was_built_is_refused(copied: Shop, tmp_path: Path) -> None:
    damaged = tmp_path / "text"
    shutil.copytree(copied.text, damaged)
    (damaged / "idf.npy").write_bytes(b"")
    name = copied.build(encoders={SPACE_TEXT: damaged})
    check = verify(copied.location, name, None).check("self_test")
    assert not check.passed
    assert "idf.npy: its SHA-256 differs" in check.sentence


def test_a_release_without_its_text_encoder_is_refused(copied: Shop) -> None:
    name = copied.build(encoders={})
    sentence = verify(copied.location, name, None).check("self_test").sentence
    assert str(Path("encoders") / "text" / "manifest.json") in sentence


def test_text_vectors_of_another_encoder_are_refused_with_the_cosine(copied: Shop) -> None:
    def stale(spaces: dict[int, SpaceVectors]) -> dict[int, SpaceVectors]:
        turned = np.roll(spaces[SPACE_TEXT].vectors, 1, axis=1)  # As far from each other as they were.
        return {**spaces, SPACE_TEXT: replace(spaces[SPACE_TEXT], vectors=turned)}

    sentence = verify(copied.location, copied.build(spaces=stale), None).check("self_test").sentence
    assert "text: the vectors of 200 of 200 products are not those that the release's encoder" in sentence
    assert "less than 0.999" in sentence


def test_an_encoder_of_another_fingerprint_than_its_space_is_refused(copied: Shop) -> None:
    def renamed(spaces: dict[int, SpaceVectors]) -> dict[int, SpaceVectors]:
        return {**spaces, SPACE_TEXT: replace(spaces[SPACE_TEXT], encoder="fasttext-000000000000")}

    sentence = verify(copied.location, copied.build(spaces=renamed), None).check("self_test").sentence
    assert "the space is of fasttext-000000000000" in sentence


def test_an_index_that_finds_less_than_it_states_is_refused_with_both_figures(copied: Shop) -> None:
    graph = copied.build(recipe="HNSW16")
    assert verify(copied.location, graph, None).check("recall").passed
    copied.rewrite(
        graph, lambda manifest: with_points(manifest, lambda point: replace(point, search_parameter=1, refine_factor=1))
    )
    check = verify(copied.location, graph, None).check("recall")
    assert not check.passed
    measured, stated = (check.figures["image of shard 0"][name] for name in ("measured", "stated"))
    assert measured < stated - 0.05
    assert f"image of shard 0: recall@10 {measured:.3f} for queries that the index does not hold" in check.sentence
    assert f"stated {stated:.3f}: a shortfall of {stated - measured:.3f}, more than 0.01" in check.sentence


def test_recall_of_a_backend_that_cannot_hide_vectors_is_measured_by_what_it_holds(copied: Shop) -> None:
    name = copied.build(recipe="SymQG32", encoders={}, spaces=_wide_images)
    check = verify(copied.location, name, None).check("recall")
    assert check.passed
    for figures in check.figures.values():
        assert abs(figures["measured"] - figures["stated"]) < 0.05


def _wide_images(spaces: dict[int, SpaceVectors]) -> dict[int, SpaceVectors]:
    wide = np.random.default_rng(1).standard_normal((24, 64)).astype(np.float32)
    images = spaces[SPACE_IMAGE]
    return {SPACE_IMAGE: replace(images, vectors=normalised(images.vectors @ wide))}


def test_photos_that_are_mixed_up_are_refused_by_the_neighbours_categories(shop: Shop, live: str) -> None:
    def mixed_up(spaces: dict[int, SpaceVectors]) -> dict[int, SpaceVectors]:
        images = spaces[SPACE_IMAGE]
        return {**spaces, SPACE_IMAGE: replace(images, vectors=np.random.default_rng(0).permutation(images.vectors))}

    candidate = shop.build(spaces=mixed_up)
    report = verify(shop.location, candidate, live)
    check = report.check("neighbours")
    figures = check.figures["image"]
    loss = figures["live"] - figures["now"]
    assert loss > 0.1
    assert f"image: precision@10 by category {figures['now']:.3f}, {figures['live']:.3f} in the live" in check.sentence
    assert f"a loss of {loss:.3f}, more than 0.02 and chance" in check.sentence
    assert report.check("drift").passed  # The vectors are the same ones.
    assert "self_test" in refused(report)  # The product vectors are of the photos as they were.


def test_scores_that_drift_by_the_same_encoder_are_refused_and_less_so_by_a_retrained_one(
    shop: Shop, live: str
) -> None:
    def flattened(encoder: str) -> str:
        def change(spaces: dict[int, SpaceVectors]) -> dict[int, SpaceVectors]:
            images = spaces[SPACE_IMAGE]
            raised = normalised(images.vectors + np.float32(0.03))  # Everything is a little more alike.
            return {**spaces, SPACE_IMAGE: replace(images, vectors=raised, encoder=encoder)}

        return shop.build(spaces=change)

    same, retrained = (of_live(shop, flattened(encoder), live, "drift") for encoder in ("mobilenet-1", "mobilenet-2"))
    drift = same.figures["image nearest"]["drift"]
    assert 0.10 < drift < 0.20
    assert f"image: scores of the nearest drift by {drift:.3f}" in same.sentence
    assert "more than 0.1 by the same encoder" in same.sentence
    assert retrained.passed


def test_every_reason_is_said_and_not_only_the_first(shop: Shop, live: str) -> None:
    bad = shop.build(shop.content.take(range(100)).with_categories("round/lamp"), rejected=100)
    report = verify(shop.location, bad, live)
    assert {"products", "shrinkage", "rejects"} <= {*refused(report)}


def test_nothing_is_changed_by_looking(shop: Shop, live: str, next_night: str) -> None:
    def state() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in sorted(shop.location.rglob("*")) if path.is_file()}

    before = state()
    verify(shop.location, next_night, live)
    assert state() == before


def test_a_release_without_a_manifest_is_refused_and_not_an_error(tmp_path: Path) -> None:
    report = verify(tmp_path, "0123456789abcdef", None)
    assert refused(report) == ["files"]
    assert "manifest.json" in report.check("files").sentence


def test_the_same_release_has_the_same_report(shop: Shop, live: str, next_night: str) -> None:
    one, other = (verify(shop.location, next_night, live, seed=3) for _ in range(2))
    assert replace(one, seconds=0) == replace(other, seconds=0)


def test_limits_are_checked() -> None:
    with pytest.raises(BadSettings, match=r"max_drift -1: must not be negative"):
        GateLimits(max_drift=-1)


def test_limits_are_given_by_name() -> None:
    assert parse_limits(["max_drift=0.5", "sample=200"]) == GateLimits(max_drift=0.5, sample=200)
    for pair, reason in (("max_drifts=1", "no such limit; it has max_lost_products"), ("sample=0.5", "not a number")):
        with pytest.raises(BadSettings, match=reason):
            parse_limits([pair])
    with pytest.raises(BadSettings, match=r"sample: must be at least 1"):
        GateLimits(sample=0)


def test_the_manifests_of_the_fixtures_name_their_encoders(shop: Shop, live: str) -> None:
    assert {*version.read_manifest(shop.location, live).encoders} == {"text", "product"}
