"""The text encoder over real gRPC, and the client the gateway asks it with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.text import load
from encoders.text_client import TextEncoder
from encoders.text_server import MAX_TEXTS, SERVICE, Encoder, TextEncoderSettings
from encoders.tokens import MAX_TEXT_BYTES
from encoders.train_text import train
from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.errors import Overloaded
from protos.lookalike.v1 import text_encoder_pb2 as pb
from protos.lookalike.v1 import text_encoder_pb2_grpc
from tests.rpc.gateways import serving

TITLES = ["red dress", "blue dress", "赤い靴", "white mug"]
SOON = Deadline.after(None)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "scdv"
    train(TITLES, out, dim=16)
    return out


@pytest.fixture
async def channel(artifact: Path) -> AsyncIterator[grpc.aio.Channel]:
    encoder = Encoder(TextEncoderSettings(max_waiting=8))
    await encoder.load(artifact)
    handler = rpc.handler(SERVICE, {"Describe": encoder.describe, "Encode": encoder.encode})
    async with serving(handler) as address, rpc.channel(address) as made:
        yield made
    encoder.close()


async def test_it_answers_what_its_model_does_and_says_who_it_is(channel: grpc.aio.Channel, artifact: Path) -> None:
    model = load(artifact)
    encoded = await TextEncoder(channel).encode([*TITLES, ""], SOON)
    np.testing.assert_allclose(encoded.vectors, model.encode([*TITLES, ""]), atol=1e-6)
    assert encoded.encoder == model.fingerprint
    state = await text_encoder_pb2_grpc.TextEncoderStub(channel).Describe(pb.DescribeEncoderRequest())
    assert (state.fingerprint, state.dim) == (model.fingerprint, model.dim)


async def test_many_callers_at_once_each_have_their_own_vectors(channel: grpc.aio.Channel, artifact: Path) -> None:
    model, client = load(artifact), TextEncoder(channel)
    answers = await asyncio.gather(*(client.encode([title], SOON) for title in TITLES))
    np.testing.assert_allclose(np.concatenate([answer.vectors for answer in answers]), model.encode(TITLES), atol=1e-6)


@pytest.mark.parametrize("texts", [[], ["x"] * (MAX_TEXTS + 1), ["ok", "x" * (MAX_TEXT_BYTES + 1)]])
async def test_no_texts_too_many_or_too_long_ones_are_refused(channel: grpc.aio.Channel, texts: list[str]) -> None:
    stub = text_encoder_pb2_grpc.TextEncoderStub(channel)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Encode(pb.EncodeTextRequest(texts=texts))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.value.details() or "").startswith("texts")


async def test_beyond_its_queue_it_refuses_at_once(channel: grpc.aio.Channel) -> None:
    client = TextEncoder(channel)
    calls = [client.encode(["dress"] * 8, SOON) for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(outcome, Overloaded) for outcome in outcomes)
    assert any(not isinstance(outcome, BaseException) for outcome in outcomes)
