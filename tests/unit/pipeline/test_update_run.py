"""The steps of an update: the gate, publishing, the watch, what is kept, and going on where one was stopped."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index.building import versions
from lookalike.errors import BadSettings, OperatorError, Unavailable
from lookalike.releases import version
from lookalike.releases.location import Directory
from lookalike.releases.records import PUBLISHED, ROLLED_BACK, read_record
from pipeline.reencode import ReencodeOptions, ReencodeReport
from pipeline.update import command
from pipeline.update import make as make_module
from pipeline.update.lease import LEASE, LeaseSettings
from pipeline.update.options import WORK
from pipeline.update.progress import Step
from pipeline.update.run import REFUSED, TAKEN_BACK
from pipeline.update_lock import lock_directory
from tests import stores
from tests.unit.pipeline.catalogues import photo, write_jsonl
from tests.unit.pipeline.updates import COUNT, REFUSING, TITLES, Check, Gate, Shop, Verdict


def test_an_update_publishes_a_version_with_its_encoders_origin_and_record(shop: Shop) -> None:
    result = shop.update(verify=(gate := Gate()))

    manifest = shop.location.read_manifest(shop.location.current())
    assert manifest.version == result.version
    assert manifest.encoders.keys() == {"text"}
    assert manifest.origin is not None
    assert (manifest.origin.catalogue, manifest.origin.rows) == (str(shop.directory), COUNT)
    record = read_record(shop.location, result.version)
    assert record is not None
    assert [event.what for event in record.events] == [PUBLISHED]
    assert record.gate == gate.as_json()
    assert set(record.steps) == {str(step) for step in Step}
    assert gate.asked == [(result.version, None)]
    assert shop.location.list_versions() == [result.version]  # The records are no version.


def test_a_version_that_the_gate_refuses_changes_nothing_that_serves_and_every_reason_is_told(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)

    result = shop.update(verify=Gate((*REFUSING, Check("drift", False, "scores fell"))))

    assert result.status == REFUSED
    assert shop.location.current() == first.version
    assert result.refusals == ("products: 30 products, of 60 that serve", "drift: scores fell")
    assert all(any(reason in text for text in shop.said) for reason in result.refusals)
    record = read_record(shop.location, result.version)
    assert record is not None
    assert not record.events


def test_a_check_that_is_accepted_by_name_lets_the_version_serve_and_is_recorded(shop: Shop) -> None:
    shop.update()
    shop.change_prices(50)
    refused = shop.update(verify=Gate(REFUSING))

    result = shop.update(verify=Gate(REFUSING), accept=frozenset({"products"}))

    assert result.status == 0
    assert shop.location.current() == result.version == refused.version
    assert set(result.taken_over) == {"encode", "train", "build"}
    record = read_record(shop.location, result.version)
    assert record is not None
    assert record.accepted == ("products",)


def test_a_name_that_no_check_has_cannot_be_accepted(shop: Shop) -> None:
    with pytest.raises(BadSettings, match=r"--accept golden: the gate has no such check; it has products, recall"):
        shop.update(verify=Gate(REFUSING), accept=frozenset({"golden"}))
    with pytest.raises(BadSettings, match="whose files are damaged cannot serve"):
        shop.update(verify=Gate(REFUSING), accept=frozenset({"files"}))
    assert not (shop.options.location / "CURRENT").exists()


def test_a_bad_verdict_of_the_watch_lets_the_version_before_serve_again(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)

    result = shop.update(watch=Verdict(["errors rose from 0 to 7 %"]))

    assert result.status == TAKEN_BACK
    assert shop.location.current() == first.version
    assert any(text.startswith(f"TAKEN BACK: version {first.version} serves again") for text in shop.said)
    record = read_record(shop.location, result.version)
    assert record is not None
    assert [(event.what, event.other) for event in record.events] == [
        (PUBLISHED, first.version),
        (ROLLED_BACK, first.version),
    ]
    assert record.events[-1].why == "errors rose from 0 to 7 %"


def test_the_watch_compares_with_what_gateways_said_before_also_if_another_process_published(shop: Shop) -> None:
    watch = Verdict()
    shop.update(watch=watch)
    shop.change_prices(50)

    published = shop.update(watch=watch, step=Step.PUBLISH)
    result = shop.update(watch=watch)

    assert result.version == published.version
    assert [version for _, _, version in watch.watched] == [*watch_versions(shop, result.version)]
    assert watch.watched[-1][:2] == ("reading 2", "reading 3")
    assert watch.readings[-1] == "reading 4"


def watch_versions(shop: Shop, last: str) -> list[str]:
    record = read_record(shop.location, last)
    assert record is not None
    return [record.replaced, last]


def test_a_version_that_was_taken_back_is_published_again_only_if_that_is_accepted(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)
    bad = shop.update(watch=Verdict(["errors rose"]))

    again = shop.update(verify=Gate())
    assert (again.status, again.version) == (REFUSED, bad.version)
    assert "rolled-back: it was published and taken back" in again.refusals[0]
    assert shop.location.current() == first.version

    assert shop.update(verify=Gate(), accept=frozenset({"rolled-back"})).status == 0
    assert shop.location.current() == bad.version
    record = read_record(shop.location, bad.version)
    assert record is not None
    assert record.accepted == ("rolled-back",)


def test_where_another_version_was_made_current_during_the_watch_it_serves_on(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)
    second = shop.update()
    shop.change_prices(90)

    class Meanwhile(Verdict):
        async def watch(self, start: str, end: str, version: str) -> Verdict:
            shop.location.make_current(first.version)
            return self

    result = shop.update(watch=Meanwhile(["errors rose"]))

    assert result.status == TAKEN_BACK
    assert shop.location.current() == first.version != second.version


def test_an_update_that_was_stopped_after_it_published_asks_the_gate_again_if_another_serves_by_now(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)
    published = shop.update(step=Step.PUBLISH)
    versions.use(shop.location, first.version)

    result = shop.update(verify=Gate())

    assert (result.version, result.status) == (published.version, REFUSED)
    assert result.refusals[0].startswith("rolled-back: ")
    assert shop.location.current() == first.version


def test_a_first_version_that_is_out_of_bounds_has_none_to_go_back_to_and_serves_on(shop: Shop) -> None:
    result = shop.update(watch=Verdict(["errors rose"]))

    assert result.status == TAKEN_BACK
    assert shop.location.current() == result.version
    assert any(text.startswith("OUT OF BOUNDS, and no version to go back to") for text in shop.said)


def test_an_unchanged_catalogue_publishes_nothing_and_leaves_the_record_as_it_was(shop: Shop) -> None:
    first = shop.update(verify=(gate := Gate()))
    record = read_record(shop.location, first.version)

    second = shop.update(verify=gate, watch=Verdict(["never asked"]))

    assert (second.version, second.status, second.unchanged) == (first.version, 0, True)
    assert len(gate.asked) == 1
    assert read_record(shop.location, first.version) == record


@pytest.mark.parametrize("step", [Step.ENCODE, Step.TRAIN, Step.BUILD, Step.VERIFY])
def test_before_publish_a_step_alone_lets_nothing_serve(shop: Shop, step: Step) -> None:
    result = shop.update(step=step, verify=Gate())

    assert result.stopped_after == step
    assert set(result.steps) == {str(each) for each in list(Step)[: list(Step).index(step) + 1]}
    assert not (shop.options.location / "CURRENT").exists()


def test_from_verify_on_a_step_goes_on_with_the_version_that_was_built_whatever_the_catalogue_is_by_now(
    shop: Shop,
) -> None:
    built = shop.update(step=Step.BUILD)
    shutil.rmtree(shop.directory)

    assert shop.update(step=Step.VERIFY, verify=(gate := Gate())).version == built.version
    assert shop.update(step=Step.PUBLISH, verify=gate).version == built.version
    assert shop.location.current() == built.version
    assert len(gate.asked) == 1


def test_without_a_step_the_catalogue_is_read_again_and_what_was_of_another_is_left(shop: Shop) -> None:
    built = shop.update(step=Step.BUILD)
    shop.change_prices(50)

    result = shop.update()

    assert result.version != built.version
    assert not result.taken_over
    assert shop.location.current() == result.version


def test_a_built_version_that_was_damaged_meanwhile_is_built_again(shop: Shop) -> None:
    built = shop.update(step=Step.BUILD)
    file = next((shop.options.location / built.version).glob("shard-00000/*.arrow"))
    file.write_bytes(file.read_bytes()[:-1])

    assert shop.update(step=Step.PUBLISH).version == built.version
    shop.location.verify(shop.location.read_manifest(built.version))


def test_where_another_version_serves_since_the_gate_was_asked_it_is_asked_again(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)
    second = shop.update()
    shop.change_prices(90)
    third = shop.update(verify=(gate := Gate()), step=Step.VERIFY)
    shop.location.make_current(first.version)

    shop.update(verify=gate)

    assert gate.asked == [(third.version, second.version), (third.version, first.version)]


def test_a_second_update_of_a_directory_is_refused_at_once(shop: Shop) -> None:
    with (
        lock_directory(shop.options.location / WORK),
        pytest.raises(OperatorError, match="another update is running here"),
    ):
        shop.update()


def test_the_youngest_versions_are_kept_beside_the_one_that_serves_and_the_one_it_replaced(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for number in range(5):
        monkeypatch.setattr("pipeline.update.run.now", lambda n=number: f"2026-11-0{n + 1}T00:00:00+00:00")
        shop.change_prices(10 + number)
        made.append(shop.update(keep=1).version)

    assert shop.location.list_versions() == sorted(made[2:])
    assert read_record(shop.location, made[0]) is not None  # What became of it is still known.


def test_a_version_that_has_never_served_goes_before_any_that_has(shop: Shop) -> None:
    for price in (10, 20, 30):
        shop.change_prices(price)
        shop.update()
    shop.change_prices(40)
    refused = shop.update(verify=Gate(REFUSING))
    shop.change_prices(50)

    shop.update(keep=1)

    kept = shop.location.list_versions()
    assert refused.version not in kept
    assert len(kept) == 3  # What serves, what it replaced, and one of the two that served before.


def test_an_encoder_that_no_version_has_and_no_update_used_for_a_week_is_removed(shop: Shop) -> None:
    encoders = shop.options.artifacts
    (kept,) = (path for path in encoders.iterdir() if path.is_dir())
    old = encoders / "fasttext-000000000000"
    shutil.copytree(kept, old)
    (encoders / "trained-0.json").write_text(json.dumps({"fingerprint": old.name}))
    (foreign := encoders / "notes").mkdir()
    for path in (kept, old, foreign):
        os.utime(path, (1, 1))

    result = shop.update()

    assert result.retained is not None
    assert result.retained.encoders == (old.name,)
    assert not old.exists()
    assert not (encoders / "trained-0.json").exists()
    assert kept.is_dir()
    assert foreign.is_dir()


def test_a_disk_that_is_full_while_the_version_is_built_changes_nothing_and_the_next_update_goes_on(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shop.update()
    shop.change_prices(50)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(version, "write_manifest", full)
        with pytest.raises(OperatorError, match="No space left on device"):
            shop.update()
    assert shop.location.current() == first.version

    result = shop.update()

    assert shop.location.current() == result.version != first.version
    assert set(result.taken_over) == {"encode", "train"}


def test_the_report_shows_what_changed_and_escapes_what_a_shop_writes(shop: Shop) -> None:
    shop.update()
    rows = [{"id": f"p{i}", "title": "<script>alert(1)</script> shirt", "price": 10 + i} for i in range(COUNT - 1)]
    write_jsonl(shop.directory, *rows, {"id": "<i>x", "price": -1})

    result = shop.update(verify=Gate((Check("products", True, "<b>fine</b>"),)))

    html = Path(result.page).read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<b>fine" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; shirt" in html
    assert f"{COUNT - 1} changed" not in html  # Counts are bars.
    assert "bad price" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


def test_the_report_shows_photos_of_what_changed_and_none_from_outside_the_catalogue(shop: Shop) -> None:
    shop.update()
    (shop.directory.parent / "outside.png").write_bytes(photo())
    rows = [{"id": f"p{i}", "title": TITLES[i % 5], "price": 10 + i} for i in range(COUNT)]
    pictures = {"red.png": photo(), "broken.png": b"not a photo"}
    new = [{"id": image, "image": image} for image in (*pictures, "link.png", "https://cdn.example/a.png")]
    write_jsonl(shop.directory, *rows, *new, photos=pictures)
    (shop.directory / "link.png").symlink_to(shop.directory.parent / "outside.png")

    html = Path(shop.update().page).read_text(encoding="utf-8")

    assert html.count("data:image/jpeg;base64,") == 1


def test_the_report_is_written_where_it_is_wanted_also_of_a_version_that_is_refused(shop: Shop, tmp_path: Path) -> None:
    shop.update(verify=Gate(REFUSING), page=tmp_path / "report.html")

    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Refused: it is not published" in html
    assert "30 products, of 60 that serve" in html


LEASE_SETTINGS = LeaseSettings(ttl_s=5.0, pause_s=0.0)


@pytest.fixture
def in_store(shop: Shop) -> Shop:
    return replace(shop, location=stores.in_memory())


def test_at_a_url_the_gate_compares_with_the_version_that_serves_also_on_another_machine(
    in_store: Shop, tmp_path: Path
) -> None:
    first = in_store.update(lease=LEASE_SETTINGS)
    assert in_store.location.current() == first.version
    in_store.change_prices(50)
    elsewhere = replace(in_store, options=replace(in_store.options, location=tmp_path / "elsewhere"))

    second = elsewhere.update(verify=(gate := Gate()), lease=LEASE_SETTINGS)

    assert gate.asked == [(second.version, first.version)]
    assert in_store.location.current() == second.version
    assert second.plan is not None
    assert second.plan.changes.changed == COUNT
    in_store.location.verify(in_store.location.read_manifest(second.version))
    assert in_store.location.read_file(LEASE) is None
    assert read_record(in_store.location, second.version) is not None
    assert in_store.location.list_versions() == sorted({first.version, second.version})
    assert Directory(tmp_path / "elsewhere").current() == second.version


def test_at_a_url_a_version_that_is_refused_is_not_uploaded(in_store: Shop) -> None:
    result = in_store.update(verify=Gate(REFUSING), lease=LEASE_SETTINGS)

    assert result.status == REFUSED
    assert result.version not in in_store.location.list_versions()


def test_progress_that_cannot_be_read_counts_as_none(shop: Shop) -> None:
    built = shop.update(step=Step.BUILD)
    (shop.options.location / WORK / make_module.PROGRESS).write_text("{")

    result = shop.update()

    assert result.version == built.version
    assert not result.taken_over


def test_to_go_back_by_hand_is_recorded_and_what_was_left_is_not_published_again_by_itself(shop: Shop) -> None:
    first = shop.update()
    shop.change_prices(50)
    second = shop.update()

    versions.use(shop.location, first.version)

    record = read_record(shop.location, second.version)
    assert record is not None
    assert (record.is_rolled_back, record.events[-1].why) == (True, "versions use")
    assert shop.update().status == REFUSED
    versions.use(shop.location, second.version)
    assert shop.update().status == 0


def reencoding(monkeypatch: pytest.MonkeyPatch, *reports: ReencodeReport) -> list[str]:
    """Fakes of encoding anew at gateways, one report after another. Returns the versions that they were asked of."""
    asked, answers = list[str](), iter(reports)

    async def fake(addresses: object, built: object, name: str, options: object) -> ReencodeReport:
        asked.append(name)
        return next(answers)

    monkeypatch.setattr("pipeline.update.run.reencode_served", fake)
    return asked


def test_what_changed_meanwhile_is_encoded_anew_where_a_gateway_is_known_and_until_all_of_it_is(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ReencodeReport(changed=2, encoded=2)
    asked = reencoding(monkeypatch, ReencodeReport(changed=2, failed=Counter({"down": 1})), done)
    known: dict[str, Any] = {"gateways": ["127.0.0.1:1"], "reencode": ReencodeOptions()}
    shop.update(**known)
    assert not asked  # The first version: nothing served that could have changed.
    shop.change_prices(50)
    with pytest.raises(Unavailable, match="1 of 2 products are not encoded anew: down"):
        shop.update(**known)

    result = shop.update(step=Step.REENCODE, **known)

    assert asked == [result.version] * 2
    assert result.reencoded is not None
    assert result.reencoded["encoded"] == 2
    assert shop.location.current() == result.version


def test_without_a_gateway_it_is_told_how_what_changed_meanwhile_is_encoded(shop: Shop) -> None:
    shop.update()
    shop.change_prices(50)
    shop.update()
    assert any(f"lookalike catalog reencode {shop.location} --gateway HOST:PORT" in text for text in shop.said)


def test_where_a_gateway_does_not_say_what_it_serves_nothing_is_removed(shop: Shop) -> None:
    made = []
    for price in (10, 20, 30):
        shop.change_prices(price)
        made.append(shop.update(keep=0, gateways=["127.0.0.1:1"]).version)
    assert shop.location.list_versions() == sorted(made)
    assert any("nothing is removed, because a gateway does not say" in text for text in shop.said)


def test_a_dry_run_says_what_would_change_and_be_computed_and_changes_nothing(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    first = shop.update()
    rows = [{"id": f"p{i}", "title": f"{TITLES[i % 5]} {i % 3}", "price": 10 + i} for i in range(1, COUNT)]
    write_jsonl(shop.directory, *rows, {"id": "new", "title": "brown hat"}, {"id": "bad", "price": -1})
    before = sorted(path for path in shop.options.location.rglob("*") if path.is_file())
    arguments = [str(shop.directory), str(shop.options.location), "--artifacts", str(shop.options.artifacts)]

    assert command.main([*arguments, "--text-kind", "fasttext", "--dry-run", "--json"], {}) == 0

    plan = json.loads(capsys.readouterr().out)
    changes = plan["changes"]
    assert (changes["live"], changes["new"], changes["changed"], changes["removed"]) == (first.version, 1, 0, 1)
    assert changes["examples"]["removed"][0]["id"] == "p0"
    assert (plan["rejected"], plan["trains_text_encoder"], plan["photos"]) == (1, True, 0)
    assert plan["bytes"] > 0
    assert sorted(path for path in shop.options.location.rglob("*") if path.is_file()) == before


def test_the_command_ends_with_the_status_of_a_refusal_and_prints_every_reason(
    shop: Shop, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(shop.directory), str(shop.options.location), "--artifacts", str(shop.options.artifacts)]
    arguments += ["--text-kind", "fasttext", "--json"]

    assert command.main(arguments, {}, verify=Gate(REFUSING)) == REFUSED

    printed = capsys.readouterr()
    assert "products: 30 products, of 60 that serve" in printed.err
    result = json.loads(printed.out)
    assert result["refused"] == ["products: 30 products, of 60 that serve"]
    assert result["gate"]["refused"]
    assert result["products"] == COUNT
    assert command.main([*arguments, "--accept", "products"], {}, verify=Gate(REFUSING)) == 0


def test_a_product_that_left_the_catalogue_is_in_no_version_once_two_newer_ones_were_made(shop: Shop) -> None:
    """docs/data-protection.md promises it, and says that the records of releases name it still."""

    def files_with(text: bytes) -> set[str]:
        root = shop.options.location
        found = {
            path.relative_to(root).parts[0] for path in root.rglob("*") if path.is_file() and text in path.read_bytes()
        }
        return found - {".features"}  # Compressed.

    title = b"white lamp and green shirt"
    products = shop.directory / "products.jsonl"
    row = json.loads(products.read_text(encoding="utf-8").partition("\n")[0])
    with products.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row | {"id": "erased", "title": title.decode()}) + "\n")
    first = shop.update()
    assert first.version in files_with(title)
    for price in (50, 60):
        shop.change_prices(price)
        last = shop.update(keep=0)
    assert first.version not in shop.location.list_versions()
    assert last.version not in files_with(title)
    assert files_with(title) <= {"releases"}
