from __future__ import annotations

import json
from pathlib import Path

import pytest

from lookalike.errors import BadSettings, OperatorError
from pipeline.sync.command import URL_VARIABLE, main
from tests.sync_shops import Shop

T0 = "2025-11-24 10:00:00"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    shop = Shop(tmp_path)
    shop.put("a", T0)
    return shop


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "give one of --query and --table"),
        ("--table products --query SELECT", "give one of --query and --table"),
        ("--table products", "give --stream URL or --out DIR, or --dry-run"),
        ("--table products --stream redis://x", "--stream needs --state FILE"),
        ("--table products --out y --follow", "--out writes the whole result once"),
        ("--table products --dry-run --from monday", "--from monday: neither a number nor a time"),
        ("--table products --dry-run --time-zone Mars/Base", "--time-zone Mars/Base: not a time zone"),
        ("--table products --dry-run --max-removed lots", "--max-removed lots"),
        ("--table products --dry-run --sql-file none", "--sql-file none: No such file"),
        ("--table products --dry-run --sql-file x --sql y", "--sql and --sql-file exclude each other"),
        ("--table products --dry-run", "no database: give --sql URL"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_name(options: str, message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        main(options.split(), {})


@pytest.mark.parametrize("way", ["option", "file", "environment"])
def test_the_url_comes_from_an_option_a_file_or_the_environment(
    way: str, shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "url").write_text(f"{shop.url}\n")
    options = {"option": ["--sql", shop.url], "file": ["--sql-file", str(tmp_path / "url")], "environment": []}[way]
    environ = {URL_VARIABLE: shop.url} if way == "environment" else {}
    assert main(["--table", "products", "--dry-run", "--json", *options], environ) == 0
    assert json.loads(capsys.readouterr().out)["products"] == 1


@pytest.mark.parametrize(
    "url", ["nonsense secret-word", "foo://u:secret-word@host/db", "postgresql://u:secret-word@127.0.0.1:port/db"]
)
def test_a_wrong_url_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(OperatorError) as caught:
        main(["--table", "products", "--dry-run", "--sql", url], {})
    assert "secret-word" not in str(caught.value)


def test_a_dry_run_with_a_state_says_what_would_be_published(
    shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--table", "products", "--cursor", "updated_at", "--sql", shop.url, "--state", str(tmp_path / "state")]
    assert main([*options, "--stream", "redis://127.0.0.1:1", "--dry-run"], {}) == 0
    assert "1 products and 0 removals published" in capsys.readouterr().out
    assert not (tmp_path / "state").exists()


def test_a_catalogue_is_written_and_summed_up(shop: Shop, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shop.put("bad", T0, price="cheap")
    assert main(["--table", "products", "--sql", shop.url, "--out", str(tmp_path / "out")], {}) == 0
    printed = capsys.readouterr()
    assert "1 products, 1 bad rows skipped: 1 bad price" in printed.out
    assert "products:2: bad price" in printed.err
