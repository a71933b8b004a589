"""The text encoder process, `lookalike serve text-encoder`: a gRPC server of the text and the product encoder."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
from prometheus_client import Histogram
from threadpoolctl import threadpool_limits

from encoders.product import model as product_model
from encoders.product import server as product_server
from encoders.product.server import ProductEncoderService
from encoders.text import model as text_model
from lookalike.errors import BadArtifact, BadSettings, InvalidRequest, Overloaded, Unavailable
from lookalike.limits import MAX_TEXT_BYTES
from lookalike.runtime import edge, lifecycle, telemetry
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.settings import ProcessSettings, load, setting
from lookalike.v1 import text_encoder_pb2 as pb
from lookalike.vectors import F32, pack

Result = TypeVar("Result")
SERVICE = pb.DESCRIPTOR.services_by_name["TextEncoder"]
MAX_TEXTS = 1024
MAX_LEFT_OUT = 32  # Words of one text: each costs as much as the text.
# A text counts as one unit per KiB, rounded up: a title is 1, the longest text 64. Encoding 64 units takes the thread
# 0.03 s, or 0.3 s if all words are new.
UNIT_BYTES = 1 << 10

BATCH_TEXTS = Histogram("lookalike_text_batch_texts", "Texts per batch.", buckets=(1, 2, 4, 8, 16, 32, 64, 256))
BATCH_SECONDS = Histogram(
    "lookalike_text_batch_seconds", "Time to encode one batch.", buckets=telemetry.SECONDS_BUCKETS
)

DESCRIPTION = """Serve the text encoder and, with --product-artifact, the product encoder.

  lookalike serve text-encoder --artifact texts/hybrid-3f9a0c17d2b4 --port 7100
  lookalike serve text-encoder --artifact texts/hybrid-3f9a0c17d2b4 --product-artifact texts/product-81c09b2e77aa"""


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings(ProcessSettings):
    """Settings of `lookalike serve text-encoder`."""

    PREFIX: ClassVar[str] = "LOOKALIKE_TEXT_ENCODER_"

    artifact: Path | None = setting(None, "folder of the trained text encoder, as written by `lookalike update`")  # noqa: RUF009  # a field, no value
    product_artifact: Path | None = setting(None, "folder of the product encoder; unset or an empty folder: not served")  # noqa: RUF009  # a field, no value
    max_batch: int = setting(
        64, "most texts per batch; a long text counts as one per KiB", at_least=1, at_most=MAX_TEXTS
    )
    max_waiting: int = setting(
        4096,
        "most texts and products in flight; a long text counts as one per KiB; beyond it: RESOURCE_EXHAUSTED",
        at_least=1,
        at_most=1 << 20,
    )


class TextEncoderService:
    """The RPC methods of the text encoder. One thread encodes, in batches that a Coalescer forms.

    A request larger than a batch is split into slices that are encoded one at a time, interleaved with other requests;
    when its deadline passes or its caller leaves, the remaining slices are dropped.
    """

    def __init__(self, settings: TextEncoderSettings) -> None:
        self._max_batch = settings.max_batch
        self._max_waiting = settings.max_waiting
        self._in_flight = 0
        self._thread = ThreadPoolExecutor(1, "text")
        self._model: text_model.TextModel | None = None
        self._batches: Coalescer[Sequence[str], F32] = Coalescer(
            self._encode,
            max_in_flight=1,
            max_batch=settings.max_batch,
            max_waiting=sys.maxsize,  # Whole requests are admitted or refused, see _admit.
            size=lambda texts: sum(map(text_units, texts)),
        )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def methods(self) -> edge.Methods:
        return {"Describe": self.describe, "Encode": self.encode, "LeaveOutWords": self.leave_out_words}

    async def load(self, artifact: Path) -> str:
        """Load an artifact, warm up and return the fingerprint. Raises BadArtifact."""
        model = await asyncio.to_thread(text_model.load, artifact)
        await self.run(lambda: model.encode(["warm up", "温まる"]))
        self._model = model
        return model.fingerprint

    async def describe(self, request: pb.DescribeEncoderRequest, deadline: Deadline) -> pb.EncoderState:
        model = self._require_model()
        return pb.EncoderState(fingerprint=model.fingerprint, dim=model.dim)

    async def encode(self, request: pb.EncodeTextRequest, deadline: Deadline) -> pb.EncodeTextResponse:
        model = self._require_model()
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise InvalidRequest("texts", f"{len(request.texts)} texts, expected 1..{MAX_TEXTS}")
        for i, text in enumerate(request.texts):
            _check_size(f"texts[{i}]", text)
        vectors = await self._encode_admitted(request.texts, deadline)
        return pb.EncodeTextResponse(vectors=pack(vectors), dim=model.dim, fingerprint=model.fingerprint)

    async def leave_out_words(self, request: pb.LeaveOutWordsRequest, deadline: Deadline) -> pb.LeaveOutWordsResponse:
        model = self._require_model()
        _check_size("text", request.text)
        left_out = await self.run_admitted(
            lambda: model.leave_out_words(request.text, MAX_LEFT_OUT), text_units(request.text)
        )
        vectors = await self._encode_admitted([each.rest for each in left_out], deadline)
        return pb.LeaveOutWordsResponse(
            words=[each.word for each in left_out],
            vectors=pack(vectors),
            dim=model.dim,
            fingerprint=model.fingerprint,
        )

    async def _encode_admitted(self, texts: Sequence[str], deadline: Deadline) -> F32:
        """Encode texts in slices, if admitted. Raises Overloaded."""
        with self._admit(sum(map(text_units, texts))):
            slices = [await self._batches(part, deadline) for part in split_texts(texts, self._max_batch)]
        return np.concatenate(slices)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run work on the encoder thread and return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run_admitted(self, work: Callable[[], Result], units: int) -> Result:
        """As `run`, if admitted: the work counts as that many units. Raises Overloaded."""
        with self._admit(units):
            return await self.run(work)

    @contextmanager
    def _admit(self, units: int) -> Iterator[None]:
        """Count a request as in flight. Raises Overloaded; a request above the bound is admitted if it is alone."""
        if self._in_flight and self._in_flight + units > self._max_waiting:
            raise Overloaded(
                f"{self._in_flight} products and KiB of texts are in flight, at most {self._max_waiting} are allowed"
            )
        self._in_flight += units
        try:
            yield
        finally:
            self._in_flight -= units

    async def _encode(self, requests: list[Sequence[str]]) -> list[F32]:
        with BATCH_SECONDS.time():
            model, batch = self._require_model(), [text for texts in requests for text in texts]
            vectors = await self.run(lambda: model.encode(batch))
        BATCH_TEXTS.observe(len(vectors))
        return np.split(vectors, np.cumsum([len(texts) for texts in requests])[:-1])

    def _require_model(self) -> text_model.TextModel:
        if self._model is None:
            raise Unavailable("the text encoder is still loading")
        return self._model


def _check_size(field: str, text: str) -> None:
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidRequest(field, f"{len(text.encode())} bytes, at most {MAX_TEXT_BYTES} are allowed")


def text_units(text: str) -> int:
    """The size of a text in units of 1 KiB, rounded up, at least 1: for batches and admission."""
    return max(1, math.ceil(len(text.encode()) / UNIT_BYTES))


def split_texts(texts: Sequence[str], max_units: int) -> Iterator[list[str]]:
    """Split texts, in order, into lists of at most `max_units` units; a larger text is a list of its own."""
    part: list[str] = []
    room = max_units
    for text in texts:
        units = text_units(text)
        if part and units > room:
            yield part
            part, room = [], max_units
        part.append(text)
        room -= units
    yield part


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    settings = load(TextEncoderSettings, environ, argv, description=DESCRIPTION)
    if settings.artifact is None:
        raise BadSettings(
            "LOOKALIKE_TEXT_ENCODER_ARTIFACT (--artifact) is not set: give the folder of the trained text encoder"
        )
    telemetry.configure_logging(settings.log_level)
    lifecycle.run(serve(settings, settings.artifact))


async def serve(settings: TextEncoderSettings, artifact: Path) -> None:
    """Serve until SIGTERM. Raises BadArtifact for a damaged artifact, or a product encoder of another text encoder."""
    # Encoding a title multiplies small matrices: more threads cost ten times the CPU and save no time.
    threadpool_limits(1, "blas")
    encoder = TextEncoderService(settings)
    products = ProductEncoderService(encoder.run_admitted)
    handlers = [
        edge.handler(SERVICE, encoder.methods()),
        edge.handler(product_server.SERVICE, products.methods()),
    ]
    has_product_encoder = settings.product_artifact is not None and not _is_empty(settings.product_artifact)
    services = [SERVICE.full_name, *([product_server.SERVICE.full_name] if has_product_encoder else [])]

    async def load_all() -> None:
        fingerprint = await encoder.load(artifact)
        if has_product_encoder and settings.product_artifact is not None:
            products.set_model(await asyncio.to_thread(_load_product_model, settings.product_artifact, fingerprint))

    try:
        await lifecycle.serve(settings, handlers, services=services, warm_up=load_all)
    finally:
        encoder.close()


def _is_empty(folder: Path) -> bool:
    """Whether the folder exists and is empty, which means no product encoder. A missing folder is an error."""
    return folder.is_dir() and not any(folder.iterdir())


def _load_product_model(artifact: Path, text_encoder: str) -> product_model.ProductModel:
    """Load the product encoder. Raises BadArtifact if it was trained on vectors of another text encoder."""
    model = product_model.load(artifact)
    if model.text_encoder != text_encoder:
        raise BadArtifact(
            f"{artifact}: trained on vectors of {model.text_encoder}, but the text encoder is {text_encoder}"
        )
    return model
