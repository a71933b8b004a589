"""The ProductEncoder service, which runs in the text encoder's process: product vectors and categories.

Its inputs are image and text vectors. No I/O of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from prometheus_client import Histogram

from encoders.product.classifier import PRECISIONS
from encoders.product.model import CategoryPrediction, ProductModel
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import product_encoder_pb2 as pb
from lookalike.vectors import F32, pack, unpack

RunOnThread = Callable[[Callable[[], Any], int], Awaitable[Any]]
SERVICE = pb.DESCRIPTOR.services_by_name["ProductEncoder"]
MAX_INPUTS = 256
_NORM_TOLERANCE = 5e-3  # Of the squared norm; the encoders' clients check the norm to 1e-3.

BATCH_PRODUCTS = Histogram(
    "lookalike_product_batch_products", "Products fused or classified together.", buckets=(1, 2, 4, 8, 16, 32, 64, 256)
)


class ProductEncoderService:
    """The RPC methods. Until `set_model` is called, every request fails with FAILED_PRECONDITION.

    run: run(work, products) runs the work on the process's encoder thread, admitted as that many products; raises
    Overloaded.
    """

    def __init__(self, run: RunOnThread) -> None:
        self._run = run
        self._model: ProductModel | None = None

    def set_model(self, model: ProductModel) -> None:
        self._model = model

    def methods(self) -> edge.Methods:
        return {"Describe": self.describe, "Encode": self.encode, "Classify": self.classify}

    async def describe(self, request: pb.DescribeProductEncoderRequest, deadline: Deadline) -> pb.ProductEncoderState:
        model = self._require_model()
        return pb.ProductEncoderState(
            fingerprint=model.fingerprint,
            dim=model.dim,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
            categories=len(model.categories),
        )

    async def encode(self, request: pb.EncodeProductsRequest, deadline: Deadline) -> pb.EncodeProductsResponse:
        model = self._require_model()
        images, texts = _parse_inputs(model, request.inputs)
        vectors: F32 = await self._run(lambda: model.encode(images, texts), len(images))
        return pb.EncodeProductsResponse(
            vectors=pack(vectors),
            dim=model.dim,
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )

    async def classify(self, request: pb.ClassifyProductsRequest, deadline: Deadline) -> pb.ClassifyProductsResponse:
        model = self._require_model()
        if not PRECISIONS[0] <= request.precision <= PRECISIONS[-1]:
            raise InvalidRequest("precision", f"{request.precision} is not in {PRECISIONS[0]}..{PRECISIONS[-1]}")
        if not request.limit:
            raise InvalidRequest("limit", "0 categories requested, at least 1 is required")
        images, texts = _parse_inputs(model, request.inputs)
        predictions: list[CategoryPrediction] = await self._run(
            lambda: model.classify(images, texts, limit=request.limit, precision=request.precision), len(images)
        )
        return pb.ClassifyProductsResponse(
            results=map(_to_message, predictions),
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )

    def _require_model(self) -> ProductModel:
        if self._model is None:
            raise FailedPrecondition("this process has no product encoder (--product-artifact)")
        return self._model


def _parse_inputs(model: ProductModel, inputs: Sequence[pb.ProductInput]) -> tuple[F32, F32]:
    """Parse image vectors (n, image_dim) and text vectors (n, text_dim), zeros if missing. Raises InvalidRequest."""
    if not 1 <= len(inputs) <= MAX_INPUTS:
        raise InvalidRequest("inputs", f"{len(inputs)} products, expected 1..{MAX_INPUTS}")
    images = np.zeros((len(inputs), model.image_dim), dtype=np.float32)
    texts = np.zeros((len(inputs), model.text_dim), dtype=np.float32)
    for i, product in enumerate(inputs):
        if not (product.image or product.text):
            raise InvalidRequest(f"inputs[{i}]", "has neither image nor text")
        if product.image:
            images[i] = _parse_unit_vector(f"inputs[{i}].image", product.image, model.image_dim)
        if product.text:
            texts[i] = _parse_unit_vector(f"inputs[{i}].text", product.text, model.text_dim)
    BATCH_PRODUCTS.observe(len(inputs))
    return images, texts


def _parse_unit_vector(field: str, data: bytes, dim: int) -> F32:
    if len(data) != 4 * dim:
        raise InvalidRequest(field, f"{len(data)} bytes, expected {4 * dim} for a vector of {dim} dimensions")
    vector: F32 = unpack(data, dim)[0]
    if not abs(float(vector @ vector) - 1) <= _NORM_TOLERANCE:  # Written so that NaN fails too.
        raise InvalidRequest(field, "is not of unit norm")
    return vector


def _to_message(prediction: CategoryPrediction) -> pb.RankedCategories:
    return pb.RankedCategories(
        categories=prediction.categories, probabilities=pack(prediction.probabilities), threshold=prediction.threshold
    )
