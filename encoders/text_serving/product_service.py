"""The ProductEncoder service: product vectors and categories, from image and text vectors. No I/O of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from encoders.product.classifier import PRECISIONS
from encoders.product.model import CategoryPrediction, ProductModel
from encoders.text_serving.encoder_set import ServedEncoders, find_product_model
from encoders.text_serving.encoder_thread import EncoderThread
from encoders.text_serving.metrics import BATCH_PRODUCTS
from lookalike.errors import InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import product_encoder_pb2 as pb
from lookalike.vectors import F32, pack, unpack

SERVICE = pb.DESCRIPTOR.services_by_name["ProductEncoder"]
MAX_INPUTS = 256
_NORM_TOLERANCE = 5e-3  # Of the squared norm; the encoders' clients check the norm to 1e-3.


class ProductEncoderService:
    """The RPC methods."""

    def __init__(self, served: ServedEncoders, thread: EncoderThread) -> None:
        self._served = served
        self._thread = thread

    def methods(self) -> edge.Methods:
        return {"Encode": self.encode, "Classify": self.classify}

    async def encode(self, request: pb.EncodeProductsRequest, deadline: Deadline) -> pb.EncodeProductsResponse:
        model = find_product_model(self._served, request.fingerprint)
        images, texts = _parse_inputs(model, request.inputs)
        vectors = await self._thread.run_admitted(lambda: model.encode(images, texts), len(images))
        return pb.EncodeProductsResponse(
            vectors=pack(vectors),
            dim=model.dim,
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )

    async def classify(self, request: pb.ClassifyProductsRequest, deadline: Deadline) -> pb.ClassifyProductsResponse:
        model = find_product_model(self._served, request.fingerprint)
        if not PRECISIONS[0] <= request.precision <= PRECISIONS[-1]:
            raise InvalidRequest("precision", f"{request.precision} is not in {PRECISIONS[0]}..{PRECISIONS[-1]}")
        if not request.limit:
            raise InvalidRequest("limit", "0 categories requested, at least 1 is required")
        images, texts = _parse_inputs(model, request.inputs)
        predictions = await self._thread.run_admitted(
            lambda: model.classify(images, texts, limit=request.limit, precision=request.precision), len(images)
        )
        return pb.ClassifyProductsResponse(
            results=map(_to_message, predictions),
            fingerprint=model.fingerprint,
            image_encoder=model.image_encoder,
            text_encoder=model.text_encoder,
        )


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
