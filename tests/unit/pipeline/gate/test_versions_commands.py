"""`lookalike versions show|diff|golden|gc`, by the table of commands, over a directory and over a URL."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from index.building.build import build
from lookalike.__main__ import COMMANDS
from lookalike.cli.dispatch import dispatch
from lookalike.releases.location import open_location
from lookalike.releases.manifest import Origin
from lookalike.releases.records import PUBLISHED, ReleaseRecord, write_record
from pipeline.gate.golden import read_golden
from tests import stores
from tests.unit.pipeline.gate.releases import COUNT, Shop

ORIGIN = Origin(catalogue="shop", digest="d", rows=4, rejected=1, image_model="mobilenet:3", software="lookalike 0.1.0")


def status(*words: str) -> int:
    return dispatch("lookalike", COMMANDS, ["versions", *words], {})


def small_release(location: Path, products: int, origin: Origin | None = ORIGIN) -> str:
    table = pa.table({"id": [f"p{i}" for i in range(products)], "category": ["a"] * products})
    return build(location, table, {}, shards=1, origin=origin)


def recorded(location: Path, count: int) -> list[str]:
    """Releases in the order in which they were made; the last one serves, and replaced the one before."""
    names = [small_release(location, i + 1) for i in range(count)]
    for i, name in enumerate(names):
        record = ReleaseRecord(version=name, made_at=f"2026-11-{i + 1:02}T02:00:00+00:00")
        record = record.with_event(PUBLISHED, "me@here", other=names[i - 1] if i else "")
        write_record(open_location(str(location)), record)
    return names


def test_everything_known_of_a_release_is_shown(shop: Shop, live: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("show", str(shop.location)) == 0
    printed = capsys.readouterr().out
    assert f"version {live}, serves: {COUNT:,} products, 2 shards" in printed
    assert f"{COUNT} rows, 0 rejected" in printed
    assert status("show", str(shop.location), live, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["serves"] is True
    assert {*shown["encoders"]} == {"text", "product"}
    assert shown["record"] is None


def test_the_record_of_a_release_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, name = recorded(tmp_path, 2)
    location = open_location(str(tmp_path))
    checks = [{"name": "drift", "passed": False, "sentence": "too far"}, {"name": "files", "passed": True}]
    record = ReleaseRecord(version=name, made_at="2026-11-29", gate={"checks": checks}, accepted=("drift",))
    write_record(location, record.with_event(PUBLISHED, "me@here", other=before))
    assert status("show", str(tmp_path)) == 0
    printed = capsys.readouterr().out
    assert "drift (accepted): too far" in printed
    assert f"published by me@here, instead of {before}" in printed
    assert "4 rows, 1 rejected" in printed
    assert "photos were encoded by mobilenet:3" in printed


@pytest.fixture(params=["directory", "URL"])
def location(request: pytest.FixtureRequest, shop: Shop, live: str, next_night: str) -> str:
    """Where the two releases are."""
    if request.param == "directory":
        return str(shop.location)
    store = stores.in_memory()
    for name in (next_night, live):
        store.publish(shop.location, name)
    return str(store)


def test_a_diff_counts_products_and_shows_whose_neighbours_changed(
    location: str, live: str, next_night: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    page = tmp_path / "diff.html"
    assert status("diff", location, live, next_night, "--sample", "200", "--json", "--html", str(page)) == 0
    diff = json.loads(capsys.readouterr().out)
    assert (diff["new"], diff["gone"], diff["changed"], diff["same"]) == (0, 40, 0, COUNT - 40)
    images = diff["spaces"][0]
    assert images["space"] == "image"
    assert images["products"] == 200
    assert 0.9 < images["mean_overlap"] < 1  # A twentieth of the neighbours is gone.
    assert images["worst"][0]["overlap"] == min(each["overlap"] for each in images["worst"])
    assert images["worst"][0]["title"] in page.read_text(encoding="utf-8")


def test_a_diff_is_printed_side_by_side(
    shop: Shop, live: str, next_night: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("diff", str(shop.location), live, next_night, "--sample", "50") == 0
    printed = capsys.readouterr().out
    assert f"0 products are new, 40 gone, 0 changed, {COUNT - 40} the same" in printed
    assert "of the ten nearest to 50 products" in printed


def test_a_release_does_not_differ_from_itself(shop: Shop, live: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("diff", str(shop.location), live, live, "--sample", "50", "--json") == 0
    diff = json.loads(capsys.readouterr().out)
    assert (diff["new"], diff["gone"], diff["changed"]) == (0, 0, 0)
    assert [(each["mean_overlap"], each["worst"]) for each in diff["spaces"]] == [(1.0, [])] * 3


def test_a_version_that_is_not_there_cannot_be_compared(
    shop: Shop, live: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("diff", str(shop.location), live, "0123456789abcdef") == 2
    assert "no version 0123456789abcdef here" in capsys.readouterr().err


def test_golden_queries_are_written_once_and_not_over_what_was_edited(
    shop: Shop, live: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "golden.jsonl"
    assert status("golden", str(shop.location), "--out", str(out), "--count", "12") == 0
    assert "12 golden queries" in capsys.readouterr().out
    assert len(read_golden(out)) == 12
    assert out.read_text(encoding="utf-8").startswith(f"# Golden queries of version {live}")
    assert status("golden", str(shop.location), "--out", str(out)) == 2


def test_gc_keeps_what_serves_what_it_replaced_what_is_pinned_and_the_youngest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oldest, second, third, fourth, replaced, serving = recorded(tmp_path, 6)
    location = open_location(str(tmp_path))
    words = ("gc", str(tmp_path), "--keep", "1", "--pin", second)
    assert status(*words, "--dry-run") == 0
    assert f"version {oldest} would be removed" in capsys.readouterr().out
    assert len(location.list_versions()) == 6
    assert status(*words, "--json") == 0
    assert json.loads(capsys.readouterr().out)["removed"] == [oldest, third]
    assert {*location.list_versions()} == {second, fourth, replaced, serving}
    assert status(*words) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_gc_leaves_alone_what_no_update_made_and_what_is_damaged(tmp_path: Path) -> None:
    by_hand, damaged = small_release(tmp_path, 7, origin=None), small_release(tmp_path, 8)
    (tmp_path / damaged / "manifest.json").write_text("{")
    recorded(tmp_path, 2)
    assert status("gc", str(tmp_path), "--keep", "0") == 0
    assert {by_hand, damaged} <= {*open_location(str(tmp_path)).list_versions()}


def test_without_a_version_that_serves_nothing_is_removed(tmp_path: Path) -> None:
    recorded(tmp_path, 3)
    (tmp_path / "CURRENT").unlink()
    assert status("gc", str(tmp_path), "--keep", "0") == 0
    assert len(open_location(str(tmp_path)).list_versions()) == 3


def test_gc_refuses_to_pin_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recorded(tmp_path, 1)
    assert status("gc", str(tmp_path), "--pin", "nothing") == 2
    assert "no version nothing to pin" in capsys.readouterr().err
