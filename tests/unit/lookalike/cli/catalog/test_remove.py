"""`lookalike catalog remove` against a small real gRPC server."""

from __future__ import annotations

import json
import sys
from io import StringIO

import pytest

from lookalike.v1.catalog_pb2 import RemoveRequest, RemoveWhereRequest
from lookalike.v1.types_pb2 import Filter
from tests.unit.lookalike.cli.catalog.conftest import FakeCatalog

CLOSED = ["--where", "--shop", "closed", "--no-in-stock"]
FILTER = Filter(shop_in=["closed"], in_stock=False)
COUNTED = RemoveWhereRequest(filter=FILTER, dry_run=True)
REMOVED = RemoveWhereRequest(filter=FILTER, revision=7)


class Terminal(StringIO):
    """Standard input at a terminal, with what a person types."""

    def isatty(self) -> bool:
        return True


async def test_one_product_is_removed_by_its_id(gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert await gateway.shell("remove", "p-17", "--revision", "7") == 0
    assert gateway.requests == [RemoveRequest(product_id="p-17", revision=7)]
    assert capsys.readouterr().out == "p-17: changed, revision 7\n"


async def test_a_dry_run_only_counts(gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert await gateway.shell("remove", *CLOSED, "--dry-run", "--yes") == 0
    assert gateway.requests == [COUNTED]
    assert capsys.readouterr().out == "1,200 products pass the conditions; none is removed\n"


async def test_with_yes_the_products_are_counted_and_removed(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("remove", *CLOSED, "--yes", "--revision", "7") == 0
    assert gateway.requests == [COUNTED, REMOVED]
    assert capsys.readouterr().out == "1,199 products removed; 1 are newer\n"
    assert await gateway.shell("remove", *CLOSED, "--yes", "--revision", "7", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"matched": "1200", "removed": "1199"}


@pytest.mark.parametrize(("typed", "status"), [("y\n", 0), ("yes\n", 0), ("\n", 1), ("", 1)])
async def test_without_yes_the_person_at_the_terminal_confirms(
    gateway: FakeCatalog,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: str,
    status: int,
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(typed))
    assert await gateway.shell("remove", *CLOSED, "--revision", "7") == status
    assert gateway.requests == ([COUNTED, REMOVED] if status == 0 else [COUNTED])
    assert "1,200 products pass the conditions. Remove them? [y/N]" in capsys.readouterr().err


async def test_where_nobody_can_confirm_nothing_is_removed(
    gateway: FakeCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))
    assert await gateway.shell("remove", *CLOSED) == 1
    assert gateway.requests == [COUNTED]
    assert "confirm with --yes" in capsys.readouterr().err


async def test_where_no_product_passes_nothing_is_asked(gateway: FakeCatalog) -> None:
    assert await gateway.shell("remove", "--where", "--shop", "nobody") == 0
    assert len(gateway.requests) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "give either ID, or --where and conditions"),
        (["p-17", "--where", "--shop", "a"], 2, "give either ID, or --where and conditions"),
        (["--where"], 2, "--where: give at least one condition"),
        (["p-17", "--shop", "a"], 2, "conditions and --dry-run need --where"),
        (["p-17", "--dry-run"], 2, "conditions and --dry-run need --where"),
        (["none"], 1, "this shard takes no updates"),
    ],
)
async def test_a_failure_has_a_message_and_an_exit_status(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert await gateway.shell("remove", *arguments) == status
    assert message in capsys.readouterr().err
