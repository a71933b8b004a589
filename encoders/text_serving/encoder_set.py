"""The encoders of a version, loaded, and how requests find the one that they mean. In memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from encoders.product.model import ProductModel
from encoders.text.model import TextModel
from lookalike.errors import FailedPrecondition
from lookalike.releases.served_versions import ServedVersions
from lookalike.v1 import text_encoder_pb2 as pb

Model = TypeVar("Model", TextModel, ProductModel)


@dataclass(frozen=True, slots=True)
class EncoderSet:
    """The encoders of one version. None: it has none."""

    text: TextModel | None = None
    product: ProductModel | None = None


ServedEncoders = ServedVersions[EncoderSet]


def served_encoders(lease_s: float, clock: Callable[[], float] = time.monotonic) -> ServedEncoders:
    return ServedVersions(clock, lease_s, "text encoder")


def find_text_model(served: ServedEncoders, fingerprint: str) -> TextModel:
    """The text encoder that a request means; empty: that of the current version.

    Raises Unavailable while none is loaded, FailedPrecondition for one that is not.
    """
    return _find("text encoder", [each.text for each in served.loaded()], fingerprint)


def find_product_model(served: ServedEncoders, fingerprint: str) -> ProductModel:
    """As `find_text_model`, the product encoder."""
    return _find("product encoder", [each.product for each in served.loaded()], fingerprint)


def describe(served: ServedEncoders, pinned: str) -> pb.DescribeEncodersResponse:
    """The versions, the current one first; pins the one that the gateway names. Raises Unavailable while none is."""
    return pb.DescribeEncodersResponse(
        versions=[
            pb.EncodersOfVersion(version=each.name, text=_state(each.loaded.text), product=_state(each.loaded.product))
            for each in served.pin(pinned)
        ],
        refusal=served.refusal,
    )


def _find(what: str, models: list[Model | None], fingerprint: str) -> Model:
    """models: those of each version, that of the current one first."""
    for model in models if fingerprint else models[:1]:
        if model is not None and fingerprint in ("", model.fingerprint):
            return model
    names = dict.fromkeys(model.fingerprint for model in models if model is not None)
    if not names:
        raise FailedPrecondition(f"this process has no {what}")
    raise FailedPrecondition(
        f"this process serves the {what} {' and '.join(names)}, not {fingerprint or 'one of the current version'}"
    )


def _state(model: TextModel | ProductModel | None) -> pb.EncoderState | None:
    return None if model is None else pb.EncoderState(fingerprint=model.fingerprint, dim=model.dim)
