"""`lookalike load`: the options that it refuses, the plan that it passes to its users, and its reports."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loadtest import plan, report
from loadtest.mix import ProductInfo
from loadtest.run import main
from loadtest.slo import Verdict
from lookalike.errors import BadSettings, LookalikeError, Unavailable
from lookalike.limits import MAX_IMAGE_BYTES
from lookalike.runtime.histogram import Histogram, Labels


@pytest.mark.parametrize(
    "argv",
    [
        ["--users", "0"],
        ["--users", "257"],
        ["--seconds", "601"],
        ["--seconds", "nan"],
        ["--rate", "5001"],
        ["--rate", "-1"],
        ["--users", "many"],
        ["--nonsense"],
    ],
)
def test_options_out_of_range_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as error_info:
        main(argv, {})
    assert error_info.value.code == 2


@pytest.mark.parametrize(
    "argv",
    [
        ["--address", "203.0.113.7:50051"],
        ["--address", "gateway.lookalike:50051"],
        ["--metrics", "http://203.0.113.7:9090/metrics"],
        ["--address", "127.0.0.1.example.net:50051"],
        ["--address", "localhost.example.net:50051"],
    ],
)
def test_another_machine_is_refused_by_default(argv: list[str]) -> None:
    with pytest.raises(BadSettings, match="not on this machine"):
        main(argv, {})


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "ipv4:203.0.113.7:1", "unix:/run/x", "", "127.0.0.1:99999", "me@127.0.0.1:1", "a:1/b"]
)
def test_an_invalid_address_is_refused(address: str) -> None:
    with pytest.raises(BadSettings, match="is not HOST:PORT"):
        main(["--address", address], {})


def test_another_machine_is_loaded_if_its_owner_says_so() -> None:
    with pytest.raises(LookalikeError) as error_info:
        main(["--address", "gateway.invalid:1", "--i-own-this-server"], {})
    assert not isinstance(error_info.value, BadSettings)  # The connection was attempted.


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["--slo", "none.toml"], "none.toml"),
        (["--vectors", "auto=v.npy"], "write image=FILE.npy"),
        (["--vectors", "image=none.npy"], "none.npy"),
        (["--vectors", "v.npy"], "write image=FILE.npy"),
    ],
)
def test_a_missing_file_is_an_error_that_names_it(argv: list[str], reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        main(["--address", "127.0.0.1:1", *argv], {})


def test_an_unreachable_gateway_is_an_unavailable_error() -> None:
    with pytest.raises(LookalikeError) as error_info:
        main(["--address", "127.0.0.1:1"], {})
    assert isinstance(error_info.value, Unavailable)


def test_vectors_must_be_rows_of_floats_and_are_bounded(tmp_path: Path) -> None:
    for name, array in {"flat": np.ones(3), "words": np.array([["a"]]), "none": np.ones((0, 4))}.items():
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(BadSettings, match="expected rows of floating-point numbers"):
            plan.read_vectors(tmp_path / f"{name}.npy")
    np.save(tmp_path / "many.npy", np.ones((plan.MAX_VECTORS + 1, 2), dtype=np.float64))
    vectors = plan.read_vectors(tmp_path / "many.npy")
    assert vectors.shape == (plan.MAX_VECTORS, 2)
    assert vectors.dtype == np.dtype(np.float32)


def test_photos_are_found_below_a_directory_up_to_a_limit(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="no photos there"):
        plan.find_photos(tmp_path)
    (tmp_path / "a").mkdir()
    for i in range(plan.MAX_PHOTOS + 5):
        (tmp_path / "a" / f"{i:03}.JPG").write_bytes(b"x")
    (tmp_path / "empty.png").touch()
    (tmp_path / "notes.txt").write_text("x")
    with (tmp_path / "huge.png").open("wb") as huge:
        huge.truncate(MAX_IMAGE_BYTES + 1)
    photos = plan.find_photos(tmp_path)
    assert len(photos) == plan.MAX_PHOTOS
    assert all(name.endswith(".JPG") for name in photos)


def make_plan() -> plan.LoadPlan:
    return plan.LoadPlan(
        address="127.0.0.1:1",
        users=2,
        seconds=3,
        rate=4,
        seed=5,
        mix={"product": 1.0},
        products=[ProductInfo(id="p-1", title="赤い靴", category="fashion", price=1.5)],
        photos=[],
        vectors="",
        vector_space="",
    )


def test_a_written_plan_is_read_back(tmp_path: Path) -> None:
    plan.write(make_plan(), tmp_path / "plan.json")
    assert plan.read(tmp_path / "plan.json") == make_plan()


def series(space: str, cached: str, outcome: str, *counts: int) -> dict[Labels, Histogram]:
    labels = {"method": "Search", "space": space, "cached": cached, "outcome": outcome}
    return {frozenset(labels.items()): Histogram((0.1, 10.0, math.inf), counts, sum_s=2.0)}


RESULT = report.LoadTestResult(
    plan=make_plan(),
    client_measurements={
        "seconds": 2.0,
        "kinds": {"product": {"calls": 9, "failed": 1, "p50_s": 0.05, "p99_s": 11.0}},
        "errors": [{"kind": "product", "error": "examples[0].image: [/] is no photo", "times": 1}],
    },
    left_out={"text": "this gateway has no [text] encoder"},
    requests={
        **series("image", "false", "OK", 3, 0, 1),
        **series("image", "true", "OK", 4, 0, 0),
        **series("image", "false", "UNAVAILABLE", 1, 0, 0),
    },
    stages={frozenset({("stage", "search")}): Histogram((0.1, math.inf), (4, 0), sum_s=0.2)},
    verdicts=[Verdict("errors", "≤ 0", "1", False), Verdict("Search p50", "≤ 0.1 s", "50 ms", True)],
)


def test_the_json_report_has_null_for_unknown_bounds() -> None:
    document = report.document(RESULT)
    assert document["outcomes"] == {"OK": 8, "UNAVAILABLE": 1}
    assert document["cached_share"] == 0.5
    assert [(row["cached"], row["answers"]) for row in document["server"]] == [(False, 4), (True, 4)]
    assert document["server"][0]["p99"] == {"estimate_s": None, "above_s": 10.0, "at_most_s": None}
    assert document["stages"] == {"search": {"times": 4, "mean_s": 0.05}}
    assert document["met"] is False


def test_the_printed_report_shows_errors_and_missed_objectives(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "Console", lambda: Console(width=120))
    report.show(RESULT)
    output = capsys.readouterr().out
    for line in ("> 10 s", "MISSED", "met", "examples[0].image: [/] is no photo", "no [text] encoder", "UNAVAILABLE 1"):
        assert line in output


def test_only_the_module_of_the_users_imports_locust() -> None:
    script = "import sys, loadtest.run; sys.exit('locust' in sys.modules or 'gevent' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
