"""The text encoder service over real gRPC, and its client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.text import model as text_model
from encoders.text.client import TextEncoder
from encoders.text.model import TextModel, load
from encoders.text.train import train
from encoders.text_serving.loader import load_artifacts
from encoders.text_serving.settings import MAX_TEXTS
from encoders.text_serving.text_service import split_texts
from lookalike.channels import aio_channel
from lookalike.errors import DeadlineExceeded, Overloaded
from lookalike.limits import MAX_TEXT_BYTES
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import text_encoder_pb2 as pb
from lookalike.v1 import text_encoder_pb2_grpc
from lookalike.vectors import F32
from tests.rpc.text_encoders import run_text_encoder, serving_one, text_client

TITLES = ["red dress", "blue dress", "赤い靴", "white mug"]
NO_DEADLINE = Deadline.after(None)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("text") / "scdv"
    train(TITLES, out, dim=16)
    return out


@pytest.fixture
async def address(artifact: Path) -> AsyncIterator[str]:
    async with run_text_encoder(serving_one(load_artifacts(artifact, None)), max_waiting=8) as server:
        yield server.address


@pytest.fixture
async def client(address: str) -> AsyncIterator[TextEncoder]:
    async with text_client(address) as client:
        yield client


@pytest.fixture
async def stub(address: str) -> AsyncIterator[text_encoder_pb2_grpc.TextEncoderAsyncStub]:
    async with aio_channel(address) as channel:
        yield text_encoder_pb2_grpc.TextEncoderStub(channel)


async def test_encode_returns_the_models_vectors_and_its_fingerprint(client: TextEncoder, artifact: Path) -> None:
    model = load(artifact)
    encoded = await client.encode([*TITLES, ""], NO_DEADLINE)
    np.testing.assert_allclose(encoded.vectors, model.encode([*TITLES, ""]), atol=1e-6)
    assert encoded.encoder == model.fingerprint


async def test_artifacts_are_described_as_those_of_a_version_without_a_name(
    stub: text_encoder_pb2_grpc.TextEncoderAsyncStub, artifact: Path
) -> None:
    model = load(artifact)
    (described,) = (await stub.Describe(pb.DescribeEncodersRequest())).versions
    assert (described.version, described.text.fingerprint, described.text.dim) == ("", model.fingerprint, model.dim)
    assert not described.HasField("product")


async def test_an_encoder_that_is_not_served_is_refused_with_those_that_are(
    stub: text_encoder_pb2_grpc.TextEncoderAsyncStub, artifact: Path
) -> None:
    fingerprint = load(artifact).fingerprint
    assert (await stub.Encode(pb.EncodeTextRequest(texts=["mug"], fingerprint=fingerprint))).fingerprint == fingerprint
    for call in (
        stub.Encode(pb.EncodeTextRequest(texts=["mug"], fingerprint="hybrid-0")),
        stub.LeaveOutWords(pb.LeaveOutWordsRequest(text="mug", fingerprint="hybrid-0")),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await call
        assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.value.details() == f"this process serves the text encoder {fingerprint}, not hybrid-0"


async def test_leaving_out_words_returns_each_and_the_vector_of_the_text_without_it(
    client: TextEncoder, artifact: Path
) -> None:
    model = load(artifact)
    words, rests = await client.leave_out_words("red Dress 赤い靴", NO_DEADLINE)
    assert [*words] == ["red", "Dress", "赤い", "靴"]
    texts = ["dress 赤い靴", "red 赤い靴", "red dress 靴", "red dress 赤い"]
    np.testing.assert_allclose(rests.vectors, model.encode(texts), atol=1e-6)
    assert rests.encoder == model.fingerprint


async def test_without_its_only_word_a_text_is_zeros_and_one_without_words_has_none_to_leave_out(
    client: TextEncoder, artifact: Path
) -> None:
    dim = load(artifact).dim
    words, rests = await client.leave_out_words("mug", NO_DEADLINE)
    assert ([*words], rests.vectors.shape) == (["mug"], (1, dim))
    assert not rests.vectors.any()
    words, rests = await client.leave_out_words("☺", NO_DEADLINE)
    assert ([*words], rests.vectors.shape) == ([], (0, dim))


async def test_the_first_32_words_are_left_out(client: TextEncoder) -> None:
    text = " ".join(f"dress{i}" for i in range(40))
    words, rests = await client.leave_out_words(text, NO_DEADLINE)
    assert [*words] == text.split()[:32]
    assert len(rests.vectors) == 32


async def test_a_text_too_long_to_encode_is_refused_where_words_are_left_out(
    stub: text_encoder_pb2_grpc.TextEncoderAsyncStub,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.LeaveOutWords(pb.LeaveOutWordsRequest(text="x" * (MAX_TEXT_BYTES + 1)))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_concurrent_callers_each_get_their_own_vectors(client: TextEncoder, artifact: Path) -> None:
    model = load(artifact)
    responses = await asyncio.gather(*(client.encode([title], NO_DEADLINE) for title in TITLES))
    np.testing.assert_allclose(
        np.concatenate([response.vectors for response in responses]), model.encode(TITLES), atol=1e-6
    )


@pytest.mark.parametrize("texts", [[], ["x"] * (MAX_TEXTS + 1), ["ok", "x" * (MAX_TEXT_BYTES + 1)]])
async def test_no_texts_too_many_or_too_long_texts_are_refused(
    stub: text_encoder_pb2_grpc.TextEncoderAsyncStub, texts: list[str]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await stub.Encode(pb.EncodeTextRequest(texts=texts))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.value.details() or "").startswith("texts")


async def test_beyond_max_waiting_requests_are_refused_at_once(client: TextEncoder) -> None:
    calls = [client.encode(["dress"] * 8, NO_DEADLINE) for _ in range(20)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(outcome, Overloaded) for outcome in outcomes)
    assert any(not isinstance(outcome, BaseException) for outcome in outcomes)


class BlockedModel:
    """A real model that signals when a batch starts, and blocks it until it is released."""

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self.fingerprint, self.dim = model.fingerprint, model.dim
        self.batches: list[list[str]] = []
        self.started = threading.Event()
        self.released = threading.Event()
        self.released.set()

    def encode(self, texts: Sequence[str]) -> F32:
        self.batches.append(list(texts))
        self.started.set()
        self.released.wait(10)
        return self._model.encode(texts)

    def block(self) -> None:
        self.batches.clear()
        self.started.clear()
        self.released.clear()

    async def wait_until_started(self) -> None:
        assert await asyncio.to_thread(self.started.wait, 10)


@pytest.fixture
async def blocked_server(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[BlockedModel, TextEncoder]]:
    """A server with batches of four, blocked in its first one, and a client of it."""
    model = BlockedModel(load(artifact))
    monkeypatch.setattr(text_model, "load", lambda path: model)
    served = serving_one(load_artifacts(artifact, None))
    model.block()
    async with (
        run_text_encoder(served, max_batch=4, max_waiting=16) as server,
        text_client(server.address) as client,
    ):
        yield model, client
        model.released.set()


async def test_a_large_request_is_interleaved_with_others(
    blocked_server: tuple[BlockedModel, TextEncoder], artifact: Path
) -> None:
    model, client = blocked_server
    texts = [f"dress {i}" for i in range(10)]
    large = asyncio.create_task(client.encode(texts, NO_DEADLINE))
    await model.wait_until_started()
    small = [asyncio.create_task(client.encode(["mug", *TITLES[:n]], NO_DEADLINE)) for n in (0, 1)]
    await asyncio.sleep(0.2)  # Until both have arrived: only the order of batches depends on it.
    model.released.set()
    encoded = await large
    await asyncio.gather(*small)
    assert [batch[0] for batch in model.batches] == ["dress 0", "mug", "dress 4", "dress 8"]
    np.testing.assert_allclose(encoded.vectors, load(artifact).encode(texts), atol=1e-6)


async def test_the_remaining_texts_of_a_cancelled_request_are_not_encoded(
    blocked_server: tuple[BlockedModel, TextEncoder],
) -> None:
    model, client = blocked_server
    cancelled = asyncio.create_task(client.encode(["dress"] * 12, NO_DEADLINE))
    await model.wait_until_started()
    cancelled.cancel()
    await asyncio.sleep(0.2)  # Until the server notices.
    model.released.set()
    # Nothing else is in flight, so all are admitted.
    assert len((await client.encode(["mug"] * 16, NO_DEADLINE)).vectors) == 16
    assert model.batches == [["dress"] * 4, *[["mug"] * 4] * 4]


async def test_the_remaining_texts_are_not_encoded_after_the_deadline(
    blocked_server: tuple[BlockedModel, TextEncoder],
) -> None:
    model, client = blocked_server
    with pytest.raises(DeadlineExceeded):
        await client.encode(["dress"] * 12, Deadline.after(0.3))
    await asyncio.sleep(0.1)  # The server measures the deadline itself.
    model.released.set()
    await client.encode(["mug"], NO_DEADLINE)
    assert model.batches == [["dress"] * 4, ["mug"]]


async def test_the_bound_on_texts_in_flight_counts_them_by_the_kib(
    blocked_server: tuple[BlockedModel, TextEncoder],
) -> None:
    model, client = blocked_server
    large = asyncio.create_task(
        client.encode(["x" * MAX_TEXT_BYTES], NO_DEADLINE)
    )  # Above the bound, but admitted alone.
    await model.wait_until_started()
    with pytest.raises(Overloaded, match="64"):
        await client.encode(["mug"], NO_DEADLINE)
    model.released.set()
    await large
    assert len((await client.encode(["mug"], NO_DEADLINE)).vectors) == 1


def test_split_texts_keeps_the_order_and_counts_long_texts_by_the_kib() -> None:
    long, longest = "é" * 1000, "x" * MAX_TEXT_BYTES
    assert list(split_texts(["a", "b", "c"], 2)) == [["a", "b"], ["c"]]
    assert list(split_texts(["a", long, "b", longest, "c"], 3)) == [["a", long], ["b"], [longest], ["c"]]
    assert list(split_texts(["x" * 1024] * 3, 2)) == [["x" * 1024] * 2, ["x" * 1024]]
