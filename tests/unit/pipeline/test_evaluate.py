"""`lookalike encoders evaluate`: the report that it writes, and how it exits."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lookalike.cli import dispatch
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from pipeline import evaluate
from pipeline.evaluation import plots
from pipeline.evaluation.held_out import Part
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.policy import Policy
from pipeline.evaluation.retrieval import judged
from tests.unit.pipeline.catalogues import jsonl, photo
from tests.unit.pipeline.indexes import around, index, shop

PICTURES = ("averages.png", "precision.png", "confusion.png", "neighbours.png")


def run(*argv: str | Path | int) -> int:
    return dispatch.run(lambda: evaluate.main([str(word) for word in argv], {}))


def evaluated(directory: Path, *options: str | int) -> tuple[str, dict[str, Any]]:
    """report.md and report.json."""
    out = directory / "out"
    assert run(directory / "catalogue", directory / "index", "--out", out, "--no-untrained", *options) == 0
    return (out / "report.md").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def sold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def report(sold: Path) -> tuple[str, dict[str, Any]]:
    return evaluated(sold)


def section(text: str, title: str) -> str:
    return text.partition(f"\n{title}\n")[2].partition("\n## ")[0]


def test_the_report_says_what_was_measured_on_what(report: tuple[str, dict[str, Any]]) -> None:
    text, told = report

    assert text.startswith(f"# Quality of version {told['version']}\n")
    assert "| image | `fake-1` | 16 | 0 |" in text
    assert "| text | `fake-2` | 8 | 0 |" in text
    assert f"Of 200 products {told['held_out']} are held out" in text
    assert "judged are all of them" in text
    assert told["date"] in text
    assert told["machine"] in text
    assert "The baseline of an untrained MobileNet was left out" in text


def test_every_space_stands_beside_the_baselines_at_every_level(report: tuple[str, dict[str, Any]]) -> None:
    text, told = report

    assert list(told["labellings"]) == ["level 1", "category"]
    by = told["labellings"]["category"]["by"]
    assert list(by) == [
        "image", "text", "AUTO", "random vectors", "TF-IDF of titles", "chance", "best possible",
    ]  # fmt: skip
    for name, column in by.items():
        value, low, high = column["averages"]["precision@10"]["micro"]
        assert 0 <= low <= value <= high <= 1
        assert section(text, "## Averages").count(f"\n| {name} | ") == 2
        assert sorted(column["labels"]) == ["fashion/hats", "fashion/shoes", "home/beds", "home/mugs"]
    assert by["image"]["averages"]["precision@10"]["micro"][0] > 0.6
    assert by["text"]["averages"]["precision@10"]["micro"][0] < 0.6
    assert told["labellings"]["level 1"]["by"]["text"]["averages"]["precision@10"]["micro"][0] > 0.8


def table(text: str, title: str, measure: str) -> tuple[list[str], dict[str, list[str]]]:
    """Of one way of labelling: the columns, and the cells of each label."""
    _, _, lines = section(text, "## By label").partition(f"### {title}\n")[2].partition(f"| | {measure} | ")
    head, _, *rows = lines.partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return head.strip("| ").split(" | "), {label: values for _, label, *values in cells}


def test_every_label_has_its_precision_and_recall_beside_the_baselines(report: tuple[str, dict[str, Any]]) -> None:
    text, told = report
    by = told["labellings"]["category"]["by"]
    bounds = ["chance", "best possible"]
    for measure, left_out in (("precision@10", []), ("recall@R", bounds)):
        columns, labels = table(text, "By category", measure)
        ways = [name for name in by if name not in left_out]
        assert columns == ["products", *ways]
        assert sorted(labels) == ["fashion/hats", "fashion/shoes", "home/beds", "home/mugs"]
        for label, (_, *cells) in labels.items():
            wanted = [by[name]["labels"][label][measure] for name in ways]
            assert [*map(float, cells)] == pytest.approx(wanted, abs=0.00051)  # To three digits.
    # What the second table leaves out, and says so.
    for label in labels:
        chance, best = (by[name]["labels"][label] for name in bounds)
        assert chance["recall@R"] == chance["precision@10"]
        assert best["recall@R"] == 1


def test_the_worth_of_the_policy_and_confusions_are_told(report: tuple[str, dict[str, Any]]) -> None:
    text, told = report

    assert [worth["entry"] for worth in told["policy_worth"]] == ["fashion", "*", "all"]
    assert "| fashion | image |" in section(text, "## What the policy is worth")
    assert "| \\* | text |" in section(text, "## What the policy is worth")
    first = told["confusions"]["text"][0]
    assert first["label"].partition("/")[0] == first["neighbour"].partition("/")[0]  # Texts tell departments.
    assert f"| {first['label']} | {first['neighbour']} |" in section(text, "## Where wrong neighbours come from")


def test_pictures_are_drawn_and_shown(sold: Path, report: tuple[str, dict[str, Any]]) -> None:
    for name in PICTURES:
        assert f"]({name})" in report[0]
        with Image.open(sold / "out" / name) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_frames_of_neighbours_are_blue_where_right_and_red_where_wrong(tmp_path: Path) -> None:
    of = [f"{'abcdefgh'[number % 8]}" for number in range(80)]
    products = [Product(id=f"p{at}", category=category) for at, category in enumerate(of)]
    right = np.eye(8, dtype=np.float32)[[ord(category) - ord("a") for category in of]]
    # Of another category is whatever is ten rows on, and looks the same.
    part = Part(products=products, vectors={"image": right, "text": np.eye(8, dtype=np.float32)[np.arange(80) // 10]})
    told = judged(part, Policy.parse("*=image"), {}, seed=0)
    (tmp_path / "grey.png").write_bytes(photo((120, 120, 120)))

    assert told.main is not None
    photos = [tmp_path / "grey.png"] * 80
    assert plots.draw_neighbours(tmp_path / "sheet.png", told, told.main, photos, seed=0) == 8

    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Each query has a line for each space: the lines of the first, of the second.
    lines = np.arange(len(pixels)) % (len(pixels) // 8) < len(pixels) // 16
    blue, red = (np.abs(pixels - rgb).max(axis=2) < 8 for rgb in ((0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)))
    assert blue[lines].sum() > 0
    assert red[lines].sum() == 0
    # In ten rows one or two others have the same of eight categories.
    assert 0 < blue[~lines].sum() < red[~lines].sum() / 2


def test_the_same_seed_gives_the_same_report(sold: Path, report: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    before = {name: (sold / "out" / name).read_bytes() for name in (*PICTURES, "report.json")}
    assert run(sold / "catalogue", sold / "index", "--out", tmp_path, "--no-untrained") == 0

    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_a_sample_is_said_to_be_one(sold: Path, tmp_path: Path) -> None:
    assert run(sold / "catalogue", sold / "index", "--out", tmp_path, "--no-untrained", "--sample", 20) == 0

    assert "judged are 20 of them, drawn at random" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_json_on_standard_output_is_the_file(sold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(sold / "catalogue", sold / "index", "--out", tmp_path, "--no-untrained", "--json") == 0

    said = capsys.readouterr()
    assert json.loads(said.out) == json.loads((tmp_path / "report.json").read_text())
    assert said.err == ""


def test_without_photos_there_is_no_contact_sheet_and_the_report_says_so(sold: Path, tmp_path: Path) -> None:
    jsonl(tmp_path / "catalogue", *[{"id": f"p{number}"} for number in range(200)])
    assert run(tmp_path / "catalogue", sold / "index", "--out", tmp_path) == 0

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No photo of the judged products in the catalogue" in text
    assert "neighbours.png" not in text
    assert not (tmp_path / "neighbours.png").exists()
    assert (tmp_path / "averages.png").exists()


def test_with_one_category_the_report_says_that_any_vectors_are_right(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of = ["only/one"] * 60
    index(tmp_path / "index", of, {SPACE_IMAGE: (around(of, 1), range(60))})
    jsonl(tmp_path / "catalogue", {"id": "p0"})

    text, told = evaluated(tmp_path)

    assert "All judged products have one label: every neighbour is right" in text
    assert "## " not in text
    assert told["trivial"] == ["category"]
    assert "no label tells" in capsys.readouterr().out


def test_names_from_a_catalogue_break_neither_tables_nor_pictures(tmp_path: Path) -> None:
    names = ["家電/カメラ", "a|b/$c$ [x](y)", "<b>/*d*\\"]
    of = [names[number % 3] for number in range(120)]
    index(tmp_path / "index", of, {SPACE_IMAGE: (around(of, 0.7), range(120))})
    jsonl(tmp_path / "catalogue", {"id": "p0"})

    text, _ = evaluated(tmp_path)

    assert r"| a\|b/$c$ \[x\](y) |" in text
    assert r"| \<b\>/\*d\*\\ |" in text
    assert "| 家電/カメラ |" in text


def test_labels_that_fonts_may_lack_are_shown_by_their_place_in_the_table() -> None:
    labelling = Labelling.of("category", [])

    assert plots.shown(labelling, "家電/カメラ", 3) == "category 3"
    assert plots.shown(labelling, "toys", 3) == "toys"
    assert plots.shown(labelling, "price/in/$", 3) == r"price/in/\$"
    assert plots.shown(labelling, "a" * 20 + "/" + "b" * 20, 3) == "..." + "aaaa/" + "b" * 20


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--policy", "fashion=image"], "no entry for *"),
        (["--policy", "*=smell"], "'*=smell'"),
        (["--sample", "1"], "--sample 1: not in 2..20000"),
        (["--sample", "20001"], "--sample 20001"),
    ],
)
def test_options_that_cannot_be_are_refused_by_name(
    sold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], why: str
) -> None:
    assert run(sold / "catalogue", sold / "index", "--out", tmp_path / "out", *options) == 2

    assert why in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_without_an_index_or_a_catalogue_the_error_names_it(
    sold: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(sold / "catalogue", tmp_path) == 2
    assert f"{tmp_path}/CURRENT: no index here" in capsys.readouterr().err
    assert run(tmp_path, sold / "index") == 2
    assert f"{tmp_path}: no catalogue here" in capsys.readouterr().err


def test_without_matplotlib_the_error_says_what_to_install(
    sold: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert run(sold / "catalogue", sold / "index", "--out", tmp_path / "out") == 2

    assert "pip install 'lookalike[report]'" in capsys.readouterr().err


@pytest.mark.slow  # A network is exported, and a model server started for it: TensorFlow is loaded twice.
def test_the_untrained_network_is_a_baseline_with_a_name(sold: Path, tmp_path: Path) -> None:
    environ = dict(os.environ)  # noqa: TID251  # a test begins a process as a terminal does
    argv = [str(sold / "catalogue"), str(sold / "index"), "--out", str(tmp_path)]
    assert dispatch.run(lambda: evaluate.main(argv, environ)) == 0

    told = json.loads((tmp_path / "report.json").read_text())
    (note,) = told["notes"]
    assert note.startswith("untrained MobileNet: `mobilenet-untrained-")
    columns, _ = table((tmp_path / "report.md").read_text(encoding="utf-8"), "By category", "recall@R")
    assert columns[-3:] == ["random vectors", "TF-IDF of titles", "untrained MobileNet"]
    # There is one photo for each category: any network that is not blind finds it again.
    by = told["labellings"]["category"]["by"]
    assert by["untrained MobileNet"]["averages"]["precision@10"] == by["best possible"]["averages"]["precision@10"]
