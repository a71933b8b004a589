"""`lookalike catalog import`: makes a catalogue of a table and photos, and writes nothing else."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lookalike.cli import dispatch
from lookalike.product_rules import CatalogueProduct
from pipeline import catalogue
from pipeline.catalogue_import import main
from pipeline.product import RejectedRow
from tests.unit.pipeline.catalogues import photo

TABLE = 'sku,name,kind,cost\n1,Red shoe,Shoes,"1,200"\n2,Blue lamp,Lamps,900\n3,Gone,Lamps,cheap\n4,Plain,Lamps,1\n'
FIELDS = ["--field", "id=sku", "--field", "title=name", "--field", "category=kind", "--field", "price=cost"]


def run(*argv: str | Path | int) -> int:
    return dispatch.run(lambda: main([str(word) for word in argv], {}))


def imported_products(directory: Path) -> list[CatalogueProduct]:
    return [item[1] for item in catalogue.read(directory) if not isinstance(item, RejectedRow)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "shop.csv").write_text(TABLE)
    return tmp_path / "shop.csv"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


def write_archive(path: Path, members: dict[str, bytes], *links: tuple[str, str, bytes]) -> Path:
    open_file = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with open_file(path, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:  # type: ignore[operator]
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)
    return path


def test_a_table_becomes_a_catalogue(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, target, *FIELDS, "--set", "currency=INR") == 0

    assert imported_products(target)[:2] == [
        CatalogueProduct(id="1", title="Red shoe", category="shoes", price=1200, currency="INR"),
        CatalogueProduct(id="2", title="Blue lamp", category="lamps", price=900, currency="INR"),
    ]
    output = capsys.readouterr()
    assert "3 products, 1 bad rows skipped: 1 bad price" in output.out
    assert output.err == 'shop.csv:4: bad price: "cheap" is not a number of 0 or more (product "3")\n'


def test_tags_come_from_columns(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, target, *FIELDS, "--field", "tags=colour:{colour}") == 2
    assert "shop.csv has no column colour" in capsys.readouterr().err
    assert run(source, target, *FIELDS, "--field", "tags=kind,costs:{cost},says:{name}") == 0
    assert imported_products(target)[0].tags == ("costs:1,200", "says:red-shoe", "shoes")


@pytest.mark.parametrize("suffix", [".tar", ".tar.xz", ".tar.gz", "folder"])
def test_photos_come_from_a_folder_or_an_archive(source: Path, target: Path, tmp_path: Path, suffix: str) -> None:
    pictures = {"images/1.png": photo(), "./images/deep/2.png": photo((0, 0, 250))}
    if suffix == "folder":
        images = tmp_path / "photos"
        for name, data in pictures.items():
            (images / name).parent.mkdir(parents=True, exist_ok=True)
            (images / name).write_bytes(data)
    else:
        images = write_archive(tmp_path / f"photos{suffix}", pictures)

    assert run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png") == 0

    assert [product.image for product in imported_products(target)] == ["images/1.png", "images/deep/2.png", ""]
    assert (target / "images/deep/2.png").read_bytes() == photo((0, 0, 250))


def test_with_photos_required_the_limit_counts_products_with_a_photo(
    source: Path, target: Path, tmp_path: Path
) -> None:
    images = write_archive(tmp_path / "photos.tar", {"2.png": photo(), "4.png": photo()})

    assert (
        run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png", "--require-image", "--limit", 1) == 0
    )

    assert [product.id for product in imported_products(target)] == ["2"]
    assert sorted(path.name for path in (target / "images").iterdir()) == ["2.png"]


def test_a_broken_photo_is_a_bad_row(source: Path, target: Path, tmp_path: Path) -> None:
    images = write_archive(tmp_path / "photos.tar", {"1.png": photo()[:50], "2.png": photo()})

    assert run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png") == 0

    assert [product.id for product in imported_products(target)] == ["2", "4"]
    assert not (target / "images/1.png").exists()


def test_nothing_of_an_archive_is_written_outside_the_target(source: Path, target: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(photo())
    malicious = {"../1.png": photo(), "/tmp/lookalike-2.png": photo(), "images/../../4.png": photo()}  # noqa: S108
    links = (
        ("l1.png", str(secret), tarfile.SYMTYPE),
        ("l2.png", "secret.png", tarfile.LNKTYPE),
        ("p.png", "", tarfile.FIFOTYPE),
    )
    images = write_archive(tmp_path / "photos.tar", malicious, *links)
    before = sorted(path for path in tmp_path.rglob("*"))
    for template in ("{sku}.png", "../{sku}.png", "/tmp/lookalike-{sku}.png", "l{sku}.png", "p.png"):  # noqa: S108
        assert run(source, target, *FIELDS, "--images", images, "--image", template) in (0, 2)
        assert (
            not any(product.image for product in imported_products(target))
            if (target / "products.jsonl").exists()
            else True
        )
        assert not (target / "images").exists()
        for file in target.iterdir():
            file.unlink()
        target.rmdir()

    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert not Path("/tmp/lookalike-2.png").exists()  # noqa: S108


def test_if_an_archive_member_cannot_be_written_only_its_photo_is_missing(
    source: Path, target: Path, tmp_path: Path
) -> None:
    images = write_archive(tmp_path / "photos.tar", {"a": photo(), "a/2": photo(), f"{'n' * 300}1": photo()})
    (tmp_path / "shop.csv").write_text("sku,name,kind,cost\na,x,k,1\na/2,y,k,1\n" + "n" * 300 + "1,z,k,1\n")

    assert run(source, target, "--field", "title=name", "--field", "id=name", "--field", "category=kind",
               "--images", images, "--image", "{sku}") == 0  # fmt: skip

    assert [product.id for product in imported_products(target)] == ["x"]


def test_a_photo_over_the_size_limit_is_rejected(source: Path, target: Path, tmp_path: Path) -> None:
    images = write_archive(tmp_path / "photos.tar", {"1.png": photo() + b"\0" * (20 << 20)})

    assert run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png", "--require-image") == 2

    assert not list((target / "images").iterdir())


def test_a_table_without_a_header_line_is_imported_by_the_given_column_names(tmp_path: Path, target: Path) -> None:
    (tmp_path / "t.csv").write_text('1,Lamp,"[""Home >> Lamps >> Big lamps""]"\n2,Short\n')

    assert run(tmp_path / "t.csv", target, "--no-header", "--columns", "id,name,tree", "--field", "title=name",
               "--field", "category=tree", "--category-separator", " >> ", "--category-depth", 2) == 0  # fmt: skip

    assert imported_products(target) == [CatalogueProduct(id="1", title="Lamp", category="home/lamps")]


def test_json_lines_are_imported_too(tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines: list[dict[str, Any]] = [
        {"id": 5, "names": "A", "path": ["x/y"], "left": False},
        {"id": 5, "path": "z"},
        {"path": "q"},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))

    assert run(tmp_path / "t.jsonl", target, "--field", "title=names", "--field", "category=path",
               "--field", "in_stock=left", "--json") == 0  # fmt: skip

    assert imported_products(target) == [CatalogueProduct(id="5", title="A", category="x/y", in_stock=False)]
    assert json.loads(capsys.readouterr().out)["reasons"] == {"duplicate id": 1, "missing id": 1}


@pytest.mark.parametrize(
    "options",
    [
        ["--field", "title=nothing"],
        ["--field", "title"],
        ["--images", "photos.tar"],
        ["--image", "{sku}.png"],
        ["--image", "{nothing}.png", "--images", "photos.tar"],
        ["--no-header"],
        ["--columns", "a,b"],
        ["--limit", "0"],
        ["--strict"],
    ],
)
def test_invalid_options_exit_with_status_2(source: Path, target: Path, options: list[str]) -> None:
    assert run(source, target, *FIELDS, *options) == 2


@pytest.mark.parametrize("data", [b"", b"no tar", b"\xfd7zXZ\x00 broken"])
def test_a_damaged_archive_exits_with_status_2(source: Path, target: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photos.tar").write_bytes(data)

    assert run(source, target, *FIELDS, "--images", tmp_path / "photos.tar", "--image", "{sku}.png") == 2
