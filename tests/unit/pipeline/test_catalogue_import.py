"""`lookalike catalog import`: makes a catalogue of a table and photos, and writes nothing else."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from lookalike.cli import dispatch
from lookalike.product_rules import CatalogueProduct
from lookalike.timestamps import unix_time_s
from pipeline import archive as archive_module
from pipeline import catalogue
from pipeline.catalogue_report import MAX_PHOTOS_NAMED
from pipeline.import_command import main
from pipeline.product import RejectedRow
from tests.unit.pipeline.catalogues import photo
from tests.unit.pipeline.shop_exports import PRESET_TABLES

TABLE = 'sku,name,kind,cost\n1,Red shoe,Shoes,"1,200"\n2,Blue lamp,Lamps,900\n3,Gone,Lamps,cheap\n4,Plain,Lamps,1\n'
FIELDS = ["--field", "id=sku", "--field", "title=name", "--field", "category=kind", "--field", "price=cost"]


def run(*argv: str | Path | int) -> int:
    return dispatch.run(lambda: main([str(word) for word in argv], {}))


def imported_products(directory: Path) -> list[CatalogueProduct]:
    return [item.product for item in catalogue.read(directory) if not isinstance(item, RejectedRow)]


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
    assert "shop.csv: no column colour" in capsys.readouterr().err
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


def test_a_product_with_a_broken_photo_is_kept_without_it(source: Path, target: Path, tmp_path: Path) -> None:
    images = write_archive(tmp_path / "photos.tar", {"1.png": photo()[:50], "2.png": photo()})

    assert run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png") == 0

    assert [(product.id, product.image) for product in imported_products(target)] == [
        ("1", ""),
        ("2", "images/2.png"),
        ("4", ""),
    ]
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


PHOTOS = [*FIELDS, "--image", "{sku}.png"]


def test_every_photo_that_cannot_be_used_is_counted_and_named_and_its_product_kept(
    source: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("sku,name,kind,cost\n1,a,k,1\n2,b,k,1\n3,c,k,1\n4,d,k,1\n5,e,k,1\n../6,f,k,1\n")
    images = tmp_path / "photos"
    images.mkdir()
    (images / "1.png").write_bytes(photo())
    (images / "2.png").write_bytes(b"")
    (images / "3.png").write_bytes(photo()[:50])
    (images / "4.png").write_bytes(photo() + b"\0" * (8 << 20))

    assert run(source, target, *PHOTOS, "--images", images) == 0

    assert [product.image for product in imported_products(target)] == ["images/1.png", *[""] * 5]
    output = capsys.readouterr()
    assert (
        "kept without their photo: 2 broken photo, 1 too large a photo, 1 missing photo, 1 bad photo path" in output.out
    )
    assert [line.split(": ")[0] for line in output.err.splitlines()] == [f"shop.csv:{n}" for n in range(3, 8)]
    assert sorted(path.name for path in (target / "images").iterdir()) == ["1.png"]


@pytest.mark.parametrize("kind", ["folder", "photos.tar"])
def test_products_may_share_a_photo_good_or_broken(
    source: Path, target: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("sku,name,kind,cost\n" + "".join(f"{n},{'good' if n % 2 else 'bad'},k,1\n" for n in range(60)))
    pictures = {"good.png": photo(size=(900, 900)), "bad.png": photo()[:50]}
    if kind == "folder":
        images = tmp_path / "photos"
        images.mkdir()
        for name, data in pictures.items():
            (images / name).write_bytes(data)
    else:
        images = write_archive(tmp_path / kind, pictures)

    assert run(source, target, *FIELDS, "--images", images, "--image", "{name}.png", "--json") == 0

    assert [product.image for product in imported_products(target)] == ["", "images/good.png"] * 30
    assert json.loads(capsys.readouterr().out)["unused_photos"] == {"broken photo": 30}
    assert [path.name for path in (target / "images").iterdir()] == ["good.png"]


def test_of_photos_that_are_missing_for_one_reason_only_the_first_are_named(
    source: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source.write_text("sku,name,kind,cost\n" + "".join(f"{n},a,k,1\n" for n in range(100)))
    (tmp_path / "photos").mkdir()

    assert run(source, target, *PHOTOS, "--images", tmp_path / "photos") == 0

    output = capsys.readouterr()
    assert "100 missing photo" in output.out
    assert len(output.err.splitlines()) == MAX_PHOTOS_NAMED


@pytest.mark.parametrize("name", ["ガ.png", "カ\u3099.png"])
def test_photos_are_found_in_any_unicode_form_and_in_another_case(target: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "t.csv").write_text("id,kind,photo\n1,k,ガ.png\n2,k,カ\u3099.png\n3,k,up.PNG\n", encoding="utf-8")
    images = write_archive(tmp_path / "photos.tar", {f"x/{name}": photo(), "x/UP.png": photo()})

    assert run(tmp_path / "t.csv", target, "--field", "category=kind", "--images", images, "--image", "{photo}") == 0

    assert [bool(product.image) for product in imported_products(target)] == [True, True, True]


def test_a_photo_by_url_stays_in_its_product_and_is_listed_for_a_fetcher(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("id,kind,photo\n1,k,https://cdn.example/a.jpg?v=1\n2,k,\n")

    assert run(tmp_path / "t.csv", target, "--field", "category=kind", "--image", "{photo}", "--json") == 0

    assert [product.image for product in imported_products(target)] == ["https://cdn.example/a.jpg?v=1", ""]
    report = json.loads(capsys.readouterr().out)
    assert report["unused_photos"] == {"photo by URL, not fetched": 1}
    assert [(photo["id"], photo["detail"]) for photo in report["photo_problems"]] == [
        ("1", "https://cdn.example/a.jpg?v=1")
    ]


def test_json_contains_every_bad_row(source: Path, target: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(source, target, *FIELDS, "--json") == 0

    (reject,) = json.loads(capsys.readouterr().out)["rejects"]
    assert (reject["line"], reject["id"], reject["reason"]) == (4, "3", "bad price")


@pytest.mark.parametrize(("unit", "rejected"), [("ms", ["2"]), ("s", ["1", "2"]), ("ns", []), ("none", [])])
def test_a_row_whose_revision_is_far_ahead_in_the_stated_unit_is_bad(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str], unit: str, rejected: list[str]
) -> None:
    now_ms = int(unix_time_s() * 1000)
    source.write_text(f"sku,name,kind,cost,changed\n1,a,k,1,{now_ms}\n2,b,k,1,{now_ms * 1000}\n3,c,k,1,\n")

    assert run(source, target, *FIELDS, "--field", "revision=changed", "--revision-unit", unit, "--json") == 0

    report = json.loads(capsys.readouterr().out)
    assert [(reject["id"], reject["reason"]) for reject in report["rejects"]] == [
        (each, "bad revision") for each in rejected
    ]


def test_a_photo_by_url_whose_file_is_there_is_that_file(target: Path, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,kind,photo\n1,k,https://cdn.example/p/a%20b.png?v=1\n")
    images = write_archive(tmp_path / "photos.tar", {"a b.png": photo()})

    assert run(tmp_path / "t.csv", target, "--field", "category=kind", "--image", "{photo}", "--images", images) == 0

    assert [product.image for product in imported_products(target)] == ["images/a b.png"]


def write_zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_zip_file_holds_a_table_and_its_photos(target: Path, tmp_path: Path) -> None:
    members = {
        "shop/table.CSV": TABLE.encode(),
        "shop/images/1.png": photo(),
        "__MACOSX/shop/._table.csv": b"x",
        "shop/.hidden.csv": b"x",
        "../2.png": photo(),
    }
    archive = write_zip(tmp_path / "shop.ZIP", members)

    assert run(archive, target, *PHOTOS) == 0

    assert [product.image for product in imported_products(target)] == ["images/shop/images/1.png", "", ""]


@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_names_in_a_zip_file_may_be_utf8_without_saying_so_or_shift_jis(
    target: Path, tmp_path: Path, encoding: str
) -> None:
    name = "写真.png".encode(encoding)
    archive = write_zip(tmp_path / "shop.zip", {"x" * len(name): photo(), "t.csv": "id,kind\n写真,k\n".encode()})
    archive.write_bytes(archive.read_bytes().replace(b"x" * len(name), name))

    assert run(archive, target, "--field", "category=kind", "--image", "{id}.png") == 0

    assert [bool(product.image) for product in imported_products(target)] == [True]


@pytest.mark.parametrize(
    "members", [{}, {"a.csv": b"id,c\n1,k\n", "b.csv": b""}, {"a.png": b""}, {"a.csv": b"id,c\n" + b"1,k\n" * 50}]
)
def test_a_zip_file_without_one_table_of_bounded_size_is_refused(
    target: Path, tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "MAX_TABLE_BYTES", 100)
    monkeypatch.setattr(archive_module, "_CHUNK_BYTES", 10)

    assert run(write_zip(tmp_path / "shop.zip", members), target, "--field", "category=c") == 2

    assert not target.exists()


def test_a_link_in_a_zip_file_is_not_followed(target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(photo())
    link = zipfile.ZipInfo("1.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "shop.zip", "w") as archive:
        archive.writestr("t.csv", TABLE)
        archive.writestr(link, str(tmp_path / "secret.png"))

    assert run(tmp_path / "shop.zip", target, *PHOTOS) == 0

    assert not any(product.image for product in imported_products(target))


def test_rows_are_chosen_by_conditions_and_counted(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, target, *FIELDS, "--where", "kind=lamps", "--where", "name!=Plain") == 0

    assert [product.id for product in imported_products(target)] == ["2"]
    assert "read: 4 rows, 2 left out by --where" in capsys.readouterr().out


VARIANTS = """id,model,kind,photo,price,left,labels
s1,shoe,Shoes,,30,0,red
s2,shoe,Shoes,2.png,20,0,blue
s3,shoe,Shoes,3.png,,4,
b1,,Bags,,5,1,
b2,,Bags,,6,1,
"""


def test_variants_become_one_product(target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(VARIANTS)
    images = write_archive(tmp_path / "photos.tar", {"2.png": photo(), "3.png": photo()})

    assert run(tmp_path / "t.csv", target, "--field", "category=kind", "--field", "price=price", "--field",
               "in_stock=left", "--field", "tags=labels", "--group", "model", "--images", images, "--image",
               "{photo}") == 0  # fmt: skip

    shoe, *bags = imported_products(target)
    assert shoe == CatalogueProduct(
        id="s2", category="shoes", price=20, in_stock=True, image="images/2.png", tags=("blue", "red")
    )
    assert [product.id for product in bags] == ["b1", "b2"]
    assert "read: 5 rows, 2 merged with others of their group" in capsys.readouterr().out


def test_an_import_with_more_rejected_rows_than_allowed_writes_nothing(
    source: Path, target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = write_archive(tmp_path / "photos.tar", {"1.png": photo()})

    assert run(source, target, *PHOTOS, "--images", images, "--max-rejected", "0") == 2

    assert not list(target.iterdir())
    assert "1 of 4 rows rejected, more than --max-rejected 0: nothing is published" in capsys.readouterr().err
    assert run(source, target, *FIELDS, "--max-rejected", "25%") == 0


def test_the_rows_of_a_report_add_up(target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.csv").write_text(
        VARIANTS + "b1,,Bags,,7,1,\nb3,,Bags,,x,1,\nb4,,Hats,,1,1,\nb5,,Bags,,1,1,\nshort\n"
    )

    assert run(tmp_path / "t.csv", target, "--field", "category=kind", "--field", "price=price", "--group", "model",
               "--where", "kind!=Hats", "--limit", "3", "--json") == 0  # fmt: skip

    report = json.loads(capsys.readouterr().out)
    counted = ("products", "rejected", "filtered", "merged", "over_limit")
    assert [report[name] for name in ("rows", *counted)] == [10, 3, 2, 1, 2, 2]


@pytest.mark.parametrize("name", list(PRESET_TABLES))
def test_a_preset_imports_the_export_of_its_shop_system(
    target: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    example = PRESET_TABLES[name]
    path = tmp_path / example.file
    path.write_bytes(example.text.encode(example.encoding))

    assert run(path, target, "--preset", example.preset) == 0, capsys.readouterr().err

    assert imported_products(target) == example.products


def test_options_change_the_mapping_of_a_preset(target: Path, tmp_path: Path) -> None:
    example = PRESET_TABLES["google-merchant"]
    (tmp_path / example.file).write_text(example.text, encoding="utf-8")

    assert run(tmp_path / example.file, target, "--preset", "google-merchant", "--set", "currency=EUR", "--field",
               "price=price", "--where", "availability!=out of stock", "--field", "title=brand,title") == 0  # fmt: skip

    first = imported_products(target)[0]
    assert (first.title, first.price, first.currency) == ("Acme Linen shirt red", 15, "EUR")


def test_a_table_that_lacks_what_a_preset_needs_is_refused(
    source: Path, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(source, target, "--preset", "shopify") == 2
    assert "no column Title" in capsys.readouterr().err


def test_prices_that_can_be_read_in_two_ways_are_told_where_others_have_decimal_commas(
    target: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.csv").write_text("id;c;p\n1;k;49,90\n2;k;1.299\n")
    options = ["--field", "category=c", "--field", "price=p"]

    assert run(tmp_path / "t.csv", target / "a", *options) == 0
    assert "notice: 1 rows: price can be read in two ways" in capsys.readouterr().err
    assert run(tmp_path / "t.csv", target / "b", *options, "--decimal-sign", ",") == 0
    assert "two ways" not in capsys.readouterr().err
    assert [product.price for product in imported_products(target / "b")] == [49.9, 1299]


def test_if_an_archive_member_cannot_be_written_only_its_photo_is_missing(
    source: Path, target: Path, tmp_path: Path
) -> None:
    images = write_archive(tmp_path / "photos.tar", {"a": photo(), "a/2": photo(), f"{'n' * 300}1": photo()})
    (tmp_path / "shop.csv").write_text("sku,name,kind,cost\na,x,k,1\na/2,y,k,1\n" + "n" * 300 + "1,z,k,1\n")

    assert run(source, target, "--field", "title=name", "--field", "id=name", "--field", "category=kind",
               "--images", images, "--image", "{sku}") == 0  # fmt: skip

    assert [product.image != "" for product in imported_products(target)] == [True, False, False]


def test_a_photo_over_the_size_limit_is_rejected(source: Path, target: Path, tmp_path: Path) -> None:
    images = write_archive(tmp_path / "photos.tar", {"1.png": photo() + b"\0" * (20 << 20)})

    assert run(source, target, *FIELDS, "--images", images, "--image", "{sku}.png", "--require-image") == 2

    assert not list(target.iterdir())


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
        ["--encoding", "utf-9"],
        ["--delimiter", "ab"],
        ["--max-rejected", "few"],
        ["--where", "kind"],
        ["--group", "nothing"],
        ["--where", "nothing=1"],
        ["--decimal-sign", "x"],
    ],
)
def test_invalid_options_exit_with_status_2(source: Path, target: Path, options: list[str]) -> None:
    assert run(source, target, *FIELDS, *options) == 2


@pytest.mark.parametrize("data", [b"", b"no tar", b"\xfd7zXZ\x00 broken"])
def test_a_damaged_archive_exits_with_status_2(source: Path, target: Path, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "photos.tar").write_bytes(data)

    assert run(source, target, *FIELDS, "--images", tmp_path / "photos.tar", "--image", "{sku}.png") == 2
