"""The version of the image model that has the encoder which is meant, over real gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from encoders.clients import Encoders, EncoderSettings
from encoders.serving.policy import All
from lookalike.runtime.deadline import Deadline
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.rpc.model_servers import ArithmeticModel, run_model_server, until, write_version
from tests.rpc.test_image_encoder_rpc import a_photo

SECONDS = 30.0


def load(path: Path) -> ArithmeticModel:
    """Each version has a size and a dimension of its own."""
    number = int(path.name)
    return ArithmeticModel(f"shopnet-{number}", input_px=32 * number, dim=8 * number)


@asynccontextmanager
async def encoders_of(address: str, **settings: Any) -> AsyncIterator[Encoders]:
    encoders = Encoders(EncoderSettings(model_server=address, **settings))
    try:
        yield encoders
    finally:
        await encoders.close()


def served(encoders: Encoders) -> set[str]:
    """The encoders of the one model server in reach; none if it is not."""
    return {fingerprint for replica in encoders.in_reach for fingerprint in replica.fingerprints}


async def test_a_photo_is_encoded_by_the_version_that_has_the_encoder_which_is_meant(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2, 3)
    async with run_model_server(tmp_path, load, policy=All()) as address, encoders_of(address) as encoders:
        await encoders.poll("")
        (replica,) = encoders.in_reach
        assert (replica.name, replica.spaces) == (f"image encoder {address}", (SPACE_IMAGE,))
        assert served(encoders) == {"shopnet-1", "shopnet-2", "shopnet-3"}
        for fingerprint, dim in (("shopnet-1", 8), ("shopnet-2", 16), ("shopnet-1", 8), ("shopnet-3", 24)):
            encoded = await encoders.encode_image("image", a_photo(), Deadline.after(SECONDS), fingerprint)
            assert (encoded.encoder, len(encoded.vector)) == (fingerprint, dim)


@pytest.mark.parametrize("fingerprint", ["", "shopnet-9"])
async def test_where_no_version_is_known_to_have_the_encoder_the_latest_answers_and_is_named(
    tmp_path: Path, fingerprint: str
) -> None:
    write_version(tmp_path, 1, 2)
    async with run_model_server(tmp_path, load, policy=All()) as address, encoders_of(address) as encoders:
        await encoders.poll("")
        assert (
            await encoders.encode_image("image", a_photo(), Deadline.after(SECONDS), fingerprint)
        ).encoder == "shopnet-2"


@pytest.mark.parametrize("pin", [{"model_version": 1}, {"model_label": "stable"}])
async def test_a_pinned_version_encodes_every_photo_and_is_the_only_one_that_is_served(
    tmp_path: Path, pin: dict[str, Any]
) -> None:
    write_version(tmp_path, 1, 2)
    async with (
        run_model_server(tmp_path, load, policy=All(), labels={"stable": 1}) as address,
        encoders_of(address, **pin) as encoders,
    ):
        await encoders.poll("")
        assert served(encoders) == {"shopnet-1"}
        assert (
            await encoders.encode_image("image", a_photo(), Deadline.after(SECONDS), "shopnet-2")
        ).encoder == "shopnet-1"


async def test_a_version_that_comes_or_goes_is_noticed_and_asked_once(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    models: dict[str, ArithmeticModel] = {}

    def remember(path: Path) -> ArithmeticModel:
        models[path.name] = load(path)
        return models[path.name]

    async with (
        run_model_server(tmp_path, remember, poll_s=0.01) as address,
        encoders_of(address) as encoders,
    ):
        await encoders.poll("")
        await encoders.poll("")
        assert models["1"].batches == [1]
        write_version(tmp_path, 2)
        await until(lambda: "2" in models)
        while served(encoders) != {"shopnet-2"}:
            await encoders.poll("")
        assert models["2"].batches == [1]


async def test_a_server_with_another_model_under_a_known_number_is_asked_again(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    model = ArithmeticModel("shopnet-1", input_px=32, dim=8)
    async with run_model_server(tmp_path, lambda path: model) as address, encoders_of(address) as encoders:
        await encoders.poll("")
        model.encoder = "shopnet-1-again"
        await encoders.poll("")
        assert served(encoders) == {"shopnet-1"}
        # The answer names who made it, which callers compare with what they meant.
        assert (
            await encoders.encode_image("image", a_photo(), Deadline.after(SECONDS), "shopnet-1")
        ).encoder == "shopnet-1-again"
        await encoders.poll("")
        assert served(encoders) == {"shopnet-1-again"}


async def test_a_server_that_cannot_be_reached_serves_nothing(tmp_path: Path) -> None:
    async with encoders_of("127.0.0.1:1") as encoders:
        await encoders.poll("")
        assert [*encoders.in_reach] == []
