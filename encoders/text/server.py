"""The text-encoder process: `lookalike serve text-encoder`."""

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

from encoders.product import model as product
from encoders.product import server as product_server
from encoders.product.server import ProductService
from encoders.text import model as text
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
# A text counts as one for each KiB begun: a title is one, the longest text 64. One of 64 holds the thread for 0.03 s,
# for 0.3 s where each of its words is new.
UNIT_BYTES = 1 << 10

BATCH_TEXTS = Histogram("lookalike_text_batch_texts", "Texts encoded together.", buckets=(1, 2, 4, 8, 16, 32, 64, 256))
BATCH_SECONDS = Histogram("lookalike_text_batch_seconds", "Time for one batch.", buckets=telemetry.SECONDS_BUCKETS)

DESCRIPTION = """Words to vectors, and products to vectors and categories, for gateways.

  lookalike serve text-encoder --artifact texts/scdv-3f9a0c17d2b4 --port 7100
  lookalike serve text-encoder --artifact texts/scdv-3f9a0c17d2b4 --product-artifact texts/product-81c09b2e77aa"""


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_TEXT_ENCODER_"

    artifact: Path | None = setting(None, "folder of the trained encoder, as written by `lookalike update`")  # noqa: RUF009  # a field, no value
    product_artifact: Path | None = setting(None, "folder of its product encoder; none, or an empty one: not served")  # noqa: RUF009  # a field, no value
    max_batch: int = setting(64, "texts encoded together; a long one counts by the KiB", at_least=1, at_most=MAX_TEXTS)
    max_waiting: int = setting(
        4096,
        "texts, by the KiB, and products, not yet answered; beyond it: RESOURCE_EXHAUSTED",
        at_least=1,
        at_most=1 << 20,
    )


class Encoder:
    """Batches of texts on one thread, off the event loop; texts that come meanwhile go together in the next.

    A request that is larger than a batch goes in slices, one at a time, so that others have their turn between them,
    and what is left of it is dropped when its deadline passes or its caller leaves.
    """

    def __init__(self, settings: TextEncoderSettings) -> None:
        self._max_batch = settings.max_batch
        self._max_waiting = settings.max_waiting
        self._unanswered = 0
        self._thread = ThreadPoolExecutor(1, "text")
        self._model: text.TextModel | None = None
        self._batches: Coalescer[Sequence[str], F32] = Coalescer(
            self._encode,
            max_in_flight=1,
            max_batch=settings.max_batch,
            max_waiting=sys.maxsize,  # Whole requests are let in or refused, see _admitted.
            size=lambda texts: sum(map(units_of, texts)),
        )

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def load(self, artifact: Path) -> str:
        """Load and warm up; the fingerprint. Raises BadArtifact."""
        model = await asyncio.to_thread(text.load, artifact)
        await self.run(lambda: model.encode(["warm up", "温まる"]))
        self._model = model
        return model.fingerprint

    async def describe(self, request: pb.DescribeEncoderRequest, deadline: Deadline) -> pb.EncoderState:
        model = self._loaded()
        return pb.EncoderState(fingerprint=model.fingerprint, dim=model.dim)

    async def encode(self, request: pb.EncodeTextRequest, deadline: Deadline) -> pb.EncodeTextResponse:
        model = self._loaded()
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise InvalidRequest("texts", f"{len(request.texts)} texts; give 1..{MAX_TEXTS}")
        for i, each in enumerate(request.texts):
            if len(each.encode()) > MAX_TEXT_BYTES:
                raise InvalidRequest(f"texts[{i}]", f"{len(each.encode())} bytes; {MAX_TEXT_BYTES} are the most")
        with self._admitted(sum(map(units_of, request.texts))):
            slices = [await self._batches(each, deadline) for each in sliced(request.texts, self._max_batch)]
        return pb.EncodeTextResponse(vectors=pack(np.concatenate(slices)), dim=model.dim, fingerprint=model.fingerprint)

    async def run(self, work: Callable[[], Result]) -> Result:
        """The outcome of work on the encoder's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def run_beside(self, work: Callable[[], Result], units: int) -> Result:
        """The same, let in or refused as texts of so many KiB would be. Raises Overloaded."""
        with self._admitted(units):
            return await self.run(work)

    @contextmanager
    def _admitted(self, units: int) -> Iterator[None]:
        """For the time of one request. Raises Overloaded; a request larger than the bound is let in alone."""
        if self._unanswered and self._unanswered + units > self._max_waiting:
            raise Overloaded(f"{self._unanswered} KiB of texts, or products, already wait, {self._max_waiting} may")
        self._unanswered += units
        try:
            yield
        finally:
            self._unanswered -= units

    async def _encode(self, requests: list[Sequence[str]]) -> list[F32]:
        with BATCH_SECONDS.time():
            model, batch = self._loaded(), [each for texts in requests for each in texts]
            vectors = await self.run(lambda: model.encode(batch))
        BATCH_TEXTS.observe(len(vectors))
        return np.split(vectors, np.cumsum([len(texts) for texts in requests])[:-1])

    def _loaded(self) -> text.TextModel:
        if self._model is None:
            raise Unavailable("the text encoder is still loading")
        return self._model


def units_of(text: str) -> int:
    """What a text counts as in a batch, and among those that wait."""
    return max(1, math.ceil(len(text.encode()) / UNIT_BYTES))


def sliced(texts: Sequence[str], most: int) -> Iterator[list[str]]:
    """The texts in their order, in lists that count as `most` at most; a text that counts as more is alone."""
    part: list[str] = []
    room = most
    for each in texts:
        units = units_of(each)
        if part and units > room:
            yield part
            part, room = [], most
        part.append(each)
        room -= units
    yield part


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    settings = load(TextEncoderSettings, environ, argv, description=DESCRIPTION)
    if settings.artifact is None:
        raise BadSettings("LOOKALIKE_TEXT_ENCODER_ARTIFACT (--artifact) is empty: name the trained encoder's folder")
    telemetry.configure_logging(settings.log_level)
    asyncio.run(serve(settings, settings.artifact))


async def serve(settings: TextEncoderSettings, artifact: Path) -> None:
    # A title is a product of small matrices: more threads cost ten times the CPU and save nothing.
    threadpool_limits(1, "blas")
    encoder = Encoder(settings)
    products = ProductService(encoder.run_beside)
    handlers = [
        edge.handler(SERVICE, {"Describe": encoder.describe, "Encode": encoder.encode}),
        edge.handler(product_server.SERVICE, products.methods()),
    ]
    fusing = settings.product_artifact is not None and not _is_empty(settings.product_artifact)
    services = [SERVICE.full_name, *([product_server.SERVICE.full_name] if fusing else [])]

    async def load_all() -> None:
        fingerprint = await encoder.load(artifact)
        if fusing and settings.product_artifact is not None:
            products.serve(await asyncio.to_thread(_product_model, settings.product_artifact, fingerprint))

    try:
        await lifecycle.serve(settings, handlers, services=services, warm_up=load_all)
    finally:
        encoder.close()


def _is_empty(folder: Path) -> bool:
    """What stands for no product encoder where a folder must be named. A path without a folder is an error."""
    return folder.is_dir() and not any(folder.iterdir())


def _product_model(artifact: Path, text_encoder: str) -> product.ProductModel:
    """Raises BadArtifact."""
    model = product.load(artifact)
    if model.text_encoder != text_encoder:
        raise BadArtifact(f"{artifact}: trained on vectors of {model.text_encoder}; the text encoder is {text_encoder}")
    return model
