"""The service ProductEncoder, in the text encoder's process: vectors of photo and text to one, or to a category."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from prometheus_client import Histogram

from encoders.product.classifier import PRECISIONS
from encoders.product.model import Guess, ProductModel
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import product_encoder_pb2 as pb
from lookalike.vectors import F32, pack, unpack

Run = Callable[[Callable[[], Any], int], Awaitable[Any]]
SERVICE = pb.DESCRIPTOR.services_by_name["ProductEncoder"]
MAX_INPUTS = 256
_NORM_TOLERANCE = 5e-3  # Of its square; the encoders' clients hold the length to 1e-3.

BATCH_PRODUCTS = Histogram(
    "lookalike_product_batch_products", "Products fused or classified together.", buckets=(1, 2, 4, 8, 16, 32, 64, 256)
)


class ProductService:
    """Until `serve` was called every request is FAILED_PRECONDITION: there is no product encoder here.

    run: does work of so many products on the process's one thread for vectors, off the event loop, or raises
    Overloaded.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._model: ProductModel | None = None

    def serve(self, model: ProductModel) -> None:
        self._model = model

    def methods(self) -> edge.Methods:
        return {"Describe": self.describe, "Encode": self.encode, "Classify": self.classify}

    async def describe(self, request: pb.DescribeProductEncoderRequest, deadline: Deadline) -> pb.ProductEncoderState:
        model = self._served()
        return pb.ProductEncoderState(
            fingerprint=model.fingerprint,
            dim=model.dim,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
            categories=len(model.categories),
        )

    async def encode(self, request: pb.EncodeProductsRequest, deadline: Deadline) -> pb.EncodeProductsResponse:
        model = self._served()
        images, texts = _sides(model, request.inputs)
        vectors: F32 = await self._run(lambda: model.encode(images, texts), len(images))
        return pb.EncodeProductsResponse(
            vectors=pack(vectors),
            dim=model.dim,
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )

    async def classify(self, request: pb.ClassifyProductsRequest, deadline: Deadline) -> pb.ClassifyProductsResponse:
        model = self._served()
        if not PRECISIONS[0] <= request.precision <= PRECISIONS[-1]:
            raise InvalidRequest("precision", f"{request.precision} is not in {PRECISIONS[0]}..{PRECISIONS[-1]}")
        if not request.limit:
            raise InvalidRequest("limit", "0 categories are asked for")
        images, texts = _sides(model, request.inputs)
        guesses: list[Guess] = await self._run(
            lambda: model.classify(images, texts, limit=request.limit, precision=request.precision), len(images)
        )
        return pb.ClassifyProductsResponse(
            results=map(_classified, guesses),
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )

    def _served(self) -> ProductModel:
        if self._model is None:
            raise FailedPrecondition("this process has no product encoder (--product-artifact)")
        return self._model


def _sides(model: ProductModel, inputs: Sequence[pb.ProductInput]) -> tuple[F32, F32]:
    """Photo vectors (n, image_dim) and title vectors (n, text_dim); rows of zeros for what is not there."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidRequest("inputs", f"{len(inputs)} products; give 1..{MAX_INPUTS}")
    images = np.zeros((len(inputs), model.image_dim), dtype=np.float32)
    texts = np.zeros((len(inputs), model.text_dim), dtype=np.float32)
    for i, each in enumerate(inputs):
        if not (each.image or each.text):
            raise InvalidRequest(f"inputs[{i}]", "has neither image nor text")
        if each.image:
            images[i] = _unit(f"inputs[{i}].image", each.image, model.image_dim)
        if each.text:
            texts[i] = _unit(f"inputs[{i}].text", each.text, model.text_dim)
    BATCH_PRODUCTS.observe(len(inputs))
    return images, texts


def _unit(field: str, data: bytes, dim: int) -> F32:
    if len(data) != 4 * dim:
        raise InvalidRequest(field, f"{len(data)} bytes; a vector of {dim} dimensions has {4 * dim}")
    vector: F32 = unpack(data, dim)[0]
    if not abs(float(vector @ vector) - 1) <= _NORM_TOLERANCE:  # Written so that NaN fails too.
        raise InvalidRequest(field, "is not of unit norm")
    return vector


def _classified(guess: Guess) -> pb.RankedCategories:
    return pb.RankedCategories(
        categories=guess.categories, probabilities=pack(guess.probabilities), threshold=guess.threshold
    )
