"""`lookalike catalog upsert` and `patch` against a small real gRPC server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lookalike.v1.catalog_pb2 import PatchRequest, UpsertRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product
from tests.unit.lookalike.cli.catalog.conftest import STORED_REVISION, FakeCatalog


async def test_an_upsert_sends_its_arguments_and_prints_the_spaces(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "photo.npy", np.array([[1, 2]], np.float64))
    arguments = ["p-17", "--revision", "7", "--title", "red", "--category", "shoes", "--price", "4900", "--no-in-stock"]
    arguments += ["--tag", "a", "--tag", "b", "--expires-at", "2026-12-31", "--image-path", "1.jpg", "--keep-vectors"]
    assert await gateway.shell("upsert", *arguments, "--vector", f"image={tmp_path / 'photo.npy'}") == 0
    (request,) = gateway.requests
    assert isinstance(request, UpsertRequest)
    assert request.product == Product(
        id="p-17",
        title="red",
        category="shoes",
        price=4900,
        in_stock=False,
        tags=["a", "b"],
        image="1.jpg",
        expires_at=1_798_675_200,
    )
    assert (request.revision, request.encode, request.keep_vectors, request.allow_unfindable) == (7, False, True, False)
    assert [(each.space, each.vector) for each in request.vectors] == [(SPACE_IMAGE, np.array([1, 2], "<f4").tobytes())]
    assert capsys.readouterr().out == "p-17: changed, revision 7; in the spaces: image, text\n"


async def test_an_upsert_states_neither_price_nor_stock_unless_they_are_given(gateway: FakeCatalog) -> None:
    assert await gateway.shell("upsert", "p-17", "--title", "red", "--revision", "7", "--allow-unfindable") == 0
    product = Product(id="p-17", title="red")
    assert gateway.requests == [UpsertRequest(product=product, revision=7, allow_unfindable=True)]


async def test_a_change_prints_what_was_cut_and_that_no_search_finds_the_product(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("upsert", "p-17", "--revision", "7", "--title", "x" * 1001) == 0
    assert capsys.readouterr().out.splitlines() == [
        "p-17: changed, revision 7; it has no vector: no search finds it",
        "p-17: title: cut from 1001 to 1000 characters",
    ]


async def test_a_patch_sends_the_fields_that_are_given_and_those_to_clear(gateway: FakeCatalog, tmp_path: Path) -> None:
    (tmp_path / "shoe.jpg").write_bytes(b"photo")
    arguments = ["--price", "4500", "--in-stock", "--title", "red", "--clear", "shop", "--clear", "tags", "--encode"]
    assert await gateway.shell("patch", "p-17", "--revision", "7", *arguments, "--image", f"{tmp_path}/shoe.jpg") == 0
    assert gateway.requests == [
        PatchRequest(
            product=Product(id="p-17", price=4500, in_stock=True, title="red"),
            update_mask=FieldMask(paths=["title", "price", "in_stock", "shop", "tags"]),
            revision=7,
            encode=True,
            image=b"photo",
        )
    ]


@pytest.mark.parametrize("command", ["upsert", "patch", "remove"])
async def test_the_default_revision_is_the_current_time(gateway: FakeCatalog, command: str) -> None:
    assert await gateway.shell(command, "p-17") == 0
    assert gateway.requests[0].revision > 1_700_000_000_000  # type: ignore[attr-defined]  # milliseconds: after 2023


async def test_a_change_with_an_old_revision_is_not_an_error_and_tells_the_stored_one(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("patch", "p-17", "--revision", "3", "--price", "1") == 0
    stored = f"p-17: not changed: revision 3 is not above the stored one, {STORED_REVISION}\n"
    assert capsys.readouterr().out == stored
    assert await gateway.shell("patch", "p-17", "--revision", "3", "--price", "1", "--json") == 0
    response = {"applied": False, "spaces": [], "revision": str(STORED_REVISION), "notices": []}
    assert json.loads(capsys.readouterr().out) == response


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["upsert", "p-17", "--price", "-1"], 2, "product.price: is below 0"),
        (["patch", "p-17", "--price", "-1"], 2, "product.price: is below 0"),
        (["patch", "p-17", "--price", "1", "--clear", "price"], 2, "--clear price: the field is given a value, too"),
        (["patch", "p-17", "--clear", "id"], 2, "invalid choice: 'id'"),
        (["upsert", "p-17", "--expires-at", "soon"], 2, "expected seconds since 1970"),
        (
            ["upsert", "p-17", "--vector", "smell=x.npy"],
            2,
            "expected SPACE=FILE.npy with one of the spaces image, text, product\n",
        ),
        (
            ["patch", "p-17", "--vector", "auto=x.npy"],
            2,
            "expected SPACE=FILE.npy with one of the spaces image, text, product\n",
        ),
        (["upsert", "p-17", "--vector", "text=/no/such.npy"], 2, "No such file"),
        (["upsert", "p-17", "--vector", f"text={__file__}"], 2, f"{__file__}: not a .npy file"),
        (["upsert", "p-17", "--encode", "--image", "/no/such.jpg"], 2, "No such file"),
        (["patch", "none", "--price", "1"], 1, "this shard takes no updates"),
    ],
)
async def test_a_failure_has_a_message_and_an_exit_status(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert await gateway.shell(*arguments) == status
    assert message in capsys.readouterr().err
