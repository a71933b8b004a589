"""The TextEncoder service: text vectors, and which encoders the process serves. No I/O of its own."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from encoders.text.model import TextModel
from encoders.text_serving import encoder_set
from encoders.text_serving.encoder_set import ServedEncoders, find_text_model
from encoders.text_serving.encoder_thread import EncoderThread
from encoders.text_serving.metrics import BATCH_SECONDS, BATCH_TEXTS
from encoders.text_serving.settings import MAX_TEXTS
from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_TEXT_BYTES
from lookalike.runtime import edge
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import text_encoder_pb2 as pb
from lookalike.vectors import F32, pack

SERVICE = pb.DESCRIPTOR.services_by_name["TextEncoder"]
MAX_LEFT_OUT = 32  # Words of one text: each costs as much as the text.
# A text counts as one unit per KiB, rounded up: a title is 1, the longest text 64. Encoding 64 units takes the thread
# 0.03 s, or 0.3 s if all words are new.
UNIT_BYTES = 1 << 10


class _Texts(NamedTuple):
    """Texts to encode, and by which encoder."""

    model: TextModel
    texts: Sequence[str]


class TextEncoderService:
    """The RPC methods. One thread encodes, in batches that a Coalescer forms.

    A request larger than a batch is split into slices that are encoded one at a time, interleaved with other requests;
    when its deadline passes or its caller leaves, the remaining slices are dropped.
    """

    def __init__(self, served: ServedEncoders, thread: EncoderThread, max_batch: int) -> None:
        self._served = served
        self._thread = thread
        self._max_batch = max_batch
        self._batches: Coalescer[_Texts, F32] = Coalescer(
            self._encode_batch,
            max_in_flight=1,
            max_batch=max_batch,
            max_waiting=sys.maxsize,  # Whole requests are admitted or refused, see EncoderThread.admit.
            size=lambda each: sum(map(text_units, each.texts)),
            name="encode texts",
        )

    def methods(self) -> edge.Methods:
        return {"Describe": self.describe, "Encode": self.encode, "LeaveOutWords": self.leave_out_words}

    async def describe(self, request: pb.DescribeEncodersRequest, deadline: Deadline) -> pb.DescribeEncodersResponse:
        return encoder_set.describe(self._served, request.pinned)

    async def encode(self, request: pb.EncodeTextRequest, deadline: Deadline) -> pb.EncodeTextResponse:
        model = find_text_model(self._served, request.fingerprint)
        if not 1 <= len(request.texts) <= MAX_TEXTS:
            raise InvalidRequest("texts", f"{len(request.texts)} texts, expected 1..{MAX_TEXTS}")
        for i, text in enumerate(request.texts):
            _check_size(f"texts[{i}]", text)
        vectors = await self._encode(model, request.texts, deadline)
        return pb.EncodeTextResponse(vectors=pack(vectors), dim=model.dim, fingerprint=model.fingerprint)

    async def leave_out_words(self, request: pb.LeaveOutWordsRequest, deadline: Deadline) -> pb.LeaveOutWordsResponse:
        model = find_text_model(self._served, request.fingerprint)
        _check_size("text", request.text)
        left_out = await self._thread.run_admitted(
            lambda: model.leave_out_words(request.text, MAX_LEFT_OUT), text_units(request.text)
        )
        vectors = await self._encode(model, [each.rest for each in left_out], deadline)
        return pb.LeaveOutWordsResponse(
            words=[each.word for each in left_out],
            vectors=pack(vectors),
            dim=model.dim,
            fingerprint=model.fingerprint,
        )

    async def _encode(self, model: TextModel, texts: Sequence[str], deadline: Deadline) -> F32:
        """Encode texts in slices, if admitted. Raises Overloaded."""
        with self._thread.admit(sum(map(text_units, texts))):
            parts = split_texts(texts, self._max_batch)
            slices = [await self._batches(_Texts(model, part), deadline) for part in parts]
        return np.concatenate(slices)

    async def _encode_batch(self, batch: list[_Texts]) -> list[F32]:
        """The texts of each encoder together; two are asked at once only while one version replaces another."""
        vectors: dict[int, F32] = {}
        for model in dict.fromkeys(each.model for each in batch):
            members = [i for i, each in enumerate(batch) if each.model is model]
            texts = [text for i in members for text in batch[i].texts]
            with BATCH_SECONDS.time():
                encoded = await self._thread.run(partial(model.encode, texts))
            BATCH_TEXTS.observe(len(encoded))
            ends = np.cumsum([len(batch[i].texts) for i in members])[:-1]
            vectors.update(zip(members, np.split(encoded, ends), strict=True))
        return [vectors[i] for i in range(len(batch))]


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
