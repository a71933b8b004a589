"""`lookalike encoders evaluate`: the report that it writes, and its exit status."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoders.image.perturbation import CHANGES
from lookalike.cli import dispatch
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from pipeline import evaluate
from pipeline.evaluation import plots
from pipeline.evaluation.held_out import ProductSample
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.neighbours import choose_queries
from pipeline.evaluation.policy import SpacePolicy
from pipeline.evaluation.retrieval import evaluate_retrieval
from tests.rpc.model_servers import DIM, ArithmeticModel, run_model_server, write_version
from tests.unit.pipeline.catalogues import photo, write_jsonl
from tests.unit.pipeline.indexes import build_index, build_shop, categories, clustered_vectors, ids

PICTURES = ("averages.png", "precision.png", "confusion.png", "neighbours.png")


def run(*argv: str | Path | int) -> int:
    return dispatch.run(lambda: evaluate.main([str(word) for word in argv], {}))


def evaluate_shop(directory: Path, *options: str | int) -> tuple[str, dict[str, Any]]:
    """Evaluate a shop, and return the content of report.md and report.json."""
    out = directory / "out"
    assert run(directory / "catalogue", directory / "index", "--out", out, "--no-untrained", *options) == 0
    return (out / "report.md").read_text(encoding="utf-8"), json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def shop_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shop(tmp_path_factory.mktemp("evaluate"))


@pytest.fixture(scope="module")
def report(shop_directory: Path) -> tuple[str, dict[str, Any]]:
    return evaluate_shop(shop_directory)


def section(text: str, title: str) -> str:
    """The text of a report below this heading."""
    return text.partition(f"\n{title}\n")[2].partition("\n## ")[0]


def test_the_report_describes_the_index_and_the_test_products(report: tuple[str, dict[str, Any]]) -> None:
    text, document = report

    assert text.startswith(f"# Quality of version {document['version']}\n")
    assert "| image | `fake-1` | 16 | 0 |" in text
    assert "| text | `fake-2` | 8 | 0 |" in text
    assert f"Of 200 products, {document['held_out']} are held out" in text
    assert "All of them are the test products" in text
    assert document["date"] in text
    assert document["machine"] in text
    assert "The baseline of an untrained MobileNet is left out" in text


def test_every_space_and_baseline_is_in_the_table_of_every_level(report: tuple[str, dict[str, Any]]) -> None:
    text, document = report

    assert list(document["labellings"]) == ["level 1", "category"]
    by = document["labellings"]["category"]["by"]
    assert list(by) == [
        "image", "text", "AUTO", "random vectors", "TF-IDF of words", "TF-IDF of characters", "chance", "best possible",
    ]  # fmt: skip
    for name, column in by.items():
        value, low, high = column["averages"]["precision@10"]["micro"]
        assert 0 <= low <= value <= high <= 1
        assert section(text, "## Averages").count(f"\n| {name} | ") == 2
        assert sorted(column["labels"]) == ["fashion/hats", "fashion/shoes", "home/beds", "home/mugs"]
    assert by["image"]["averages"]["precision@10"]["micro"][0] > 0.6
    assert by["text"]["averages"]["precision@10"]["micro"][0] < 0.6
    assert document["labellings"]["level 1"]["by"]["text"]["averages"]["precision@10"]["micro"][0] > 0.8


def table(text: str, title: str, metric: str) -> tuple[list[str], dict[str, list[str]]]:
    """The table of one labelling: its columns, and the cells of each label."""
    _, _, lines = section(text, "## By label").partition(f"### {title}\n")[2].partition(f"| | {metric} | ")
    head, _, *rows = lines.partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return head.strip("| ").split(" | "), {label: values for _, label, *values in cells}


def test_every_label_has_precision_and_recall_of_spaces_and_baselines(report: tuple[str, dict[str, Any]]) -> None:
    text, document = report
    by = document["labellings"]["category"]["by"]
    bounds = ["chance", "best possible"]
    for metric, left_out in (("precision@10", []), ("recall@R", bounds)):
        columns, labels = table(text, "By category", metric)
        columns_expected = [name for name in by if name not in left_out]
        assert columns == ["products", *columns_expected]
        assert sorted(labels) == ["fashion/hats", "fashion/shoes", "home/beds", "home/mugs"]
        for label, (_, *cells) in labels.items():
            expected = [by[name]["labels"][label][metric] for name in columns_expected]
            assert [*map(float, cells)] == pytest.approx(expected, abs=0.00051)  # To three digits.
    # The second table leaves out the bounds, and the report says so.
    for label in labels:
        chance, best = (by[name]["labels"][label] for name in bounds)
        assert chance["recall@R"] == chance["precision@10"]
        assert best["recall@R"] == 1


def test_the_report_has_the_gain_of_the_policy_and_confusions(report: tuple[str, dict[str, Any]]) -> None:
    text, document = report

    assert [gain["entry"] for gain in document["policy_gains"]] == ["fashion", "*", "all"]
    assert "| fashion | image |" in section(text, "## Gain of the policy")
    assert "| \\* | text |" in section(text, "## Gain of the policy")
    first = document["confusions"]["text"][0]
    assert (
        first["label"].partition("/")[0] == first["neighbour_label"].partition("/")[0]
    )  # Text vectors distinguish departments only.
    assert f"| {first['label']} | {first['neighbour_label']} |" in section(text, "## Labels of irrelevant neighbours")


def test_pictures_are_drawn_and_linked(shop_directory: Path, report: tuple[str, dict[str, Any]]) -> None:
    for name in PICTURES:
        assert f"]({name})" in report[0]
        with Image.open(shop_directory / "out" / name) as picture:
            picture.load()
            assert min(picture.size) > 100


def test_frames_of_neighbours_are_blue_if_relevant_and_red_if_not(tmp_path: Path) -> None:
    product_categories = [f"{'abcdefgh'[number % 8]}" for number in range(80)]
    products = [Product(id=f"p{number}", category=category) for number, category in enumerate(product_categories)]
    category_vectors = np.eye(8, dtype=np.float32)[[ord(category) - ord("a") for category in product_categories]]
    # In the text space, ten consecutive products of different categories have the same vector.
    sample = ProductSample(
        products=products, vectors={"image": category_vectors, "text": np.eye(8, dtype=np.float32)[np.arange(80) // 10]}
    )
    retrieval = evaluate_retrieval(sample, SpacePolicy.parse("*=image"), {}, seed=0)
    (tmp_path / "grey.png").write_bytes(photo((120, 120, 120)))

    assert retrieval.main_labelling is not None
    photos = [tmp_path / "grey.png"] * 80
    queries = choose_queries(retrieval.main_labelling, np.ones(80, dtype=bool), seed=0)
    assert len({product_categories[query] for query in queries}) == 8
    sheet = tmp_path / "sheet.png"
    plots.draw_neighbours(sheet, retrieval, retrieval.main_labelling, products, photos, queries=queries)

    with Image.open(sheet) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    # Each query has a row of photos for each space: select the rows of the first space.
    first_space = np.arange(len(pixels)) % (len(pixels) // 8) < len(pixels) // 16
    blue, red = (np.abs(pixels - rgb).max(axis=2) < 8 for rgb in ((0x1F, 0x77, 0xB4), (0xD6, 0x27, 0x28)))
    assert blue[first_space].sum() > 0
    assert red[first_space].sum() == 0
    # Of ten consecutive products, one or two others have the query's category.
    assert 0 < blue[~first_space].sum() < red[~first_space].sum() / 2


def test_frames_of_the_same_product_are_green(tmp_path: Path) -> None:
    products = [
        Product(id=f"p{number}", category="ab"[number % 2], tags=[f"group:{number // 4}"]) for number in range(8)
    ]
    # The nearest of a product is the other of its group and its category.
    vectors = np.eye(4, dtype=np.float32)[[number // 4 * 2 + number % 2 for number in range(8)]]
    retrieval = evaluate_retrieval(
        ProductSample(products=products, vectors={"image": vectors}), SpacePolicy.parse("*=image"), {}, seed=0
    )
    (tmp_path / "grey.png").write_bytes(photo((120, 120, 120)))

    assert retrieval.main_labelling is not None
    photos = [tmp_path / "grey.png"] * 8
    plots.draw_neighbours(tmp_path / "sheet.png", retrieval, retrieval.main_labelling, products, photos, queries=[0])

    with Image.open(tmp_path / "sheet.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    tiles = [pixels[:, 76 + 12 + rank * 101 :][:, :96] for rank in range(1, 8)]
    green = [bool((np.abs(tile - (0x2C, 0xA0, 0x2C)).max(axis=2) < 8).any()) for tile in tiles]
    assert green[0]
    assert sum(green) == 3  # The three others of the group, whatever their category.


def test_without_an_index_one_is_built_from_the_catalogue(tmp_path: Path) -> None:
    kinds = ("canvas sneaker", "leather boot", "coffee mug", "desk lamp")
    rows = [
        {
            "id": f"p{number}",
            "category": kinds[number % 4].replace(" ", "/"),
            "title": f"{kinds[number % 4]} k{number:03}",
        }
        for number in range(200)
    ]
    write_jsonl(tmp_path / "catalogue", *rows)

    assert run(tmp_path / "catalogue", "--out", tmp_path / "out") == 0

    document = json.loads((tmp_path / "out" / "report.json").read_text())
    assert list(document["encoders"]) == ["text"]
    assert document["encoders"]["text"].startswith("hybrid-")
    assert [quality["by"] for quality in document["identity"]] == ["made titles"]  # Its encoders are at hand, too.
    assert "There is no product space: there is no image space to fuse." in document["notes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalogue", "out"]
    assert run(tmp_path / "catalogue", tmp_path / "index", "--models", tmp_path) == 2


def test_the_summary_has_figures_and_nothing_of_the_catalogue(tmp_path: Path) -> None:
    kinds = ("canvas sneaker", "leather boot", "coffee mug", "desk lamp")
    product_categories = [kinds[number % 4].replace(" ", "/") for number in range(200)]
    build_index(
        tmp_path / "index", product_categories, {SPACE_IMAGE: (clustered_vectors(product_categories, 1), range(200))}
    )
    write_jsonl(tmp_path / "catalogue", {"id": "p0"})

    text, _ = evaluate_shop(tmp_path)

    summary = (tmp_path / "out" / "summary.md").read_text(encoding="utf-8")
    for heading in ("## Verdict", "## Differences to baselines", "## precision@10", "## Category classification"):
        assert heading in summary
    assert "## Neighbours" in text
    for name in ("sneaker", "boot", "mug", "lamp", "canvas", ".png"):
        assert name in text
        assert name not in summary


def test_the_same_seed_gives_the_same_report(
    shop_directory: Path, report: tuple[str, dict[str, Any]], tmp_path: Path
) -> None:
    before = {name: (shop_directory / "out" / name).read_bytes() for name in (*PICTURES, "report.json")}
    assert run(shop_directory / "catalogue", shop_directory / "index", "--out", tmp_path, "--no-untrained") == 0

    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_the_report_says_that_the_test_products_are_a_sample(shop_directory: Path, tmp_path: Path) -> None:
    assert (
        run(shop_directory / "catalogue", shop_directory / "index", "--out", tmp_path, "--no-untrained", "--sample", 20)
        == 0
    )

    assert "A random sample of 20 of them are the test products" in (tmp_path / "report.md").read_text(encoding="utf-8")


def test_json_on_standard_output_equals_the_file(
    shop_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        run(shop_directory / "catalogue", shop_directory / "index", "--out", tmp_path, "--no-untrained", "--json") == 0
    )

    output = capsys.readouterr()
    assert json.loads(output.out) == json.loads((tmp_path / "report.json").read_text())
    assert output.err == ""


def test_without_photos_there_is_no_contact_sheet_and_the_report_says_so(shop_directory: Path, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "catalogue", *[{"id": f"p{number}"} for number in range(200)])
    assert run(tmp_path / "catalogue", shop_directory / "index", "--out", tmp_path) == 0

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "No test product has a photo in the catalogue" in text
    assert "neighbours.png" not in text
    assert not (tmp_path / "neighbours.png").exists()
    assert (tmp_path / "averages.png").exists()


def many_pictures(directory: Path, encoder: str) -> None:
    """A shop of 400 products with a photo each, whose first byte says its axis: that is also its image vector."""
    product_categories = categories(400)
    axes = np.arange(400) % 250
    pictures = {f"images/{axis}.png": photo((int(axis), 0, 0), (8, 8)) for axis in range(250)}
    rows = [{"id": name, "title": "", "image": f"images/{axis}.png"} for name, axis in zip(ids(400), axes, strict=True)]
    write_jsonl(directory / "catalogue", *rows, photos=pictures)
    vectors = {SPACE_IMAGE: (np.eye(DIM, dtype=np.float32)[axes], range(400))}
    build_index(directory / "index", product_categories, vectors, encoders={SPACE_IMAGE: encoder})


async def test_made_photos_are_searched_for_with_the_image_model_of_the_index(tmp_path: Path) -> None:
    many_pictures(tmp_path, "shopnet-1")
    write_version(tmp_path / "models", 1)
    load = lambda path: ArithmeticModel("shopnet-1", input_px=16)  # noqa: E731
    async with run_model_server(tmp_path / "models", load) as address:
        text, document = await asyncio.to_thread(evaluate_shop, tmp_path, "--model-server", address)
    kinds = [each["by"] for each in document["identity"]]
    assert kinds == [f"made photos, {kind}" for kind in ("any changes", *CHANGES)]
    (flip,) = (each for each in document["identity"] if each["by"] == "made photos, flip")
    assert flip["methods"]["image"]["nearest is the same"][0] == 1  # Pictures of one colour: mirrored, they are equal.
    assert flip["methods"]["random vectors"]["nearest is the same"][0] < 0.2
    assert "### By made photos, crop: " in section(text, "## The same product")


async def test_made_photos_are_left_out_with_another_image_model_than_that_of_the_index(tmp_path: Path) -> None:
    many_pictures(tmp_path, "shopnet-1")
    write_version(tmp_path / "models", 1)
    load = lambda path: ArithmeticModel("shopnet-2", input_px=16)  # noqa: E731
    async with run_model_server(tmp_path / "models", load) as address:
        text, document = await asyncio.to_thread(evaluate_shop, tmp_path, "--model-server", address)
    assert document["identity"] == []
    assert "The image model given is `shopnet-2`, that of the index is `shopnet-1`" in text


def test_without_an_image_model_the_report_says_that_no_made_photos_are_searched_for(
    report: tuple[str, dict[str, Any]],
) -> None:
    assert "No image model was given (--models, --model-server)" in report[0]


def test_with_one_category_the_report_says_that_any_vectors_have_precision_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    product_categories = ["only/one"] * 60
    build_index(
        tmp_path / "index", product_categories, {SPACE_IMAGE: (clustered_vectors(product_categories, 1), range(60))}
    )
    write_jsonl(tmp_path / "catalogue", {"id": "p0"})

    text, document = evaluate_shop(tmp_path)

    assert "All test products have the same label: every neighbour is relevant" in text
    assert [line for line in text.splitlines() if line.startswith("##")] == ["## Notes"]
    assert document["uninformative_labellings"] == ["category"]
    assert "no label distinguishes" in capsys.readouterr().out


def test_names_from_a_catalogue_break_neither_tables_nor_pictures(tmp_path: Path) -> None:
    names = ["家電/カメラ", "a|b/$c$ [x](y)", "<b>/*d*\\"]
    product_categories = [names[number % 3] for number in range(120)]
    build_index(
        tmp_path / "index", product_categories, {SPACE_IMAGE: (clustered_vectors(product_categories, 0.7), range(120))}
    )
    write_jsonl(tmp_path / "catalogue", {"id": "p0"})

    text, _ = evaluate_shop(tmp_path)

    assert r"| a\|b/$c$ \[x\](y) |" in text
    assert r"| \<b\>/\*d\*\\ |" in text
    assert "| 家電/カメラ |" in text


def test_labels_that_are_not_ascii_are_shown_by_their_number_in_the_table() -> None:
    labelling = Labelling.from_labels("category", [])

    assert plots.plot_label(labelling, "家電/カメラ", 3) == "category 3"
    assert plots.plot_label(labelling, "toys", 3) == "toys"
    assert plots.plot_label(labelling, "price/in/$", 3) == r"price/in/\$"
    assert plots.plot_label(labelling, "a" * 20 + "/" + "b" * 20, 3) == "..." + "aaaa/" + "b" * 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "fashion=image"], "no entry for *"),
        (["--policy", "*=smell"], "'*=smell'"),
        (["--sample", "1"], "--sample 1: must be in 2..20000"),
        (["--sample", "20001"], "--sample 20001"),
        (["--models", "a", "--model-server", "b:1"], "--models and --model-server: give only one of them"),
    ],
)
def test_invalid_options_are_refused_by_name(
    shop_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert run(shop_directory / "catalogue", shop_directory / "index", "--out", tmp_path / "out", *options) == 2

    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_missing_index_or_catalogue_is_an_error_that_names_it(
    shop_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shop_directory / "catalogue", tmp_path) == 2
    assert f"{tmp_path}/CURRENT: no index here" in capsys.readouterr().err
    assert run(tmp_path, shop_directory / "index") == 2
    assert f"{tmp_path}: no catalogue here" in capsys.readouterr().err


def test_without_matplotlib_the_error_says_what_to_install(
    shop_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    assert run(shop_directory / "catalogue", shop_directory / "index", "--out", tmp_path / "out") == 2

    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.slow  # Exports a network and starts a model server: loads TensorFlow twice.
def test_the_untrained_network_is_a_named_baseline(shop_directory: Path, tmp_path: Path) -> None:
    environ = dict(os.environ)  # noqa: TID251  # the model server inherits it
    argv = [str(shop_directory / "catalogue"), str(shop_directory / "index"), "--out", str(tmp_path)]
    assert dispatch.run(lambda: evaluate.main(argv, environ)) == 0

    document = json.loads((tmp_path / "report.json").read_text())
    (note,) = (note for note in document["notes"] if "given" not in note)
    assert note.startswith("untrained MobileNet: `mobilenet-untrained-")
    columns, _ = table((tmp_path / "report.md").read_text(encoding="utf-8"), "By category", "recall@R")
    assert columns[-3:] == ["TF-IDF of words", "TF-IDF of characters", "untrained MobileNet"]
    # Each category has one photo: even an untrained network finds it again.
    by = document["labellings"]["category"]["by"]
    assert by["untrained MobileNet"]["averages"]["precision@10"] == by["best possible"]["averages"]["precision@10"]
