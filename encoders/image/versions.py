"""Which versions of the image model the model servers serve, by the fingerprints of their encoders. Calls the network.

TF-Serving's versions are numbers, and an index names its encoder by fingerprint. So every version that a server says is
available is asked for the features of one image, once: the answer names the encoder.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError

from encoders.image.client import (
    ModelServerStub,
    metadata_request,
    model_spec,
    parse_fingerprint,
    parse_model,
    predict_request,
)
from encoders.image.prediction_service import BadTensor
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.runtime.call import outgoing
from lookalike.runtime.replicas import Replicas, resolve_address

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ModelServer:
    """A replica of the model server. What its versions are stays known while it can be reached."""

    stub: ModelServerStub
    encoders: dict[int, str] = field(default_factory=dict)  # Fingerprints; empty: that version is no image model.
    asked: int = 0  # How often all was forgotten, when it was asked.


class ImageVersions:
    """The versions of one model at the model servers behind some addresses; for use on one event loop.

    pinned: the number or label that all calls name; None: they name the version of the encoder that they mean.
    """

    def __init__(self, addresses: Sequence[str], model: str, pinned: pb.ModelSpec | None) -> None:
        self._model = model
        self._pinned = pinned
        self._replicas: Replicas[_ModelServer, Mapping[str, int]] = Replicas(
            addresses, lambda channel: _ModelServer(ModelServerStub(channel)), resolve_address
        )
        self._numbers: dict[str, int] = {}
        self._forgotten = 0

    def number(self, fingerprint: str) -> int:
        """The version of an encoder, for calls to name; 0: it is not known, or calls name another."""
        return 0 if self._pinned is not None else self._numbers.get(fingerprint, 0)

    def forget(self) -> None:
        """Ask again at the next poll: a server has another model under a number that was known."""
        self._forgotten += 1
        self._numbers = {}

    async def poll(self, timeout_s: float) -> Mapping[str, Mapping[str, int]]:
        """The versions by fingerprint that each server in reach has available, by its address."""
        served = await self._replicas.poll(lambda server: self._describe(server, timeout_s))
        self._numbers = {fingerprint: number for each in served.values() for fingerprint, number in each.items()}
        return served

    async def close(self) -> None:
        await self._replicas.close()

    async def _describe(self, server: _ModelServer, timeout_s: float) -> Mapping[str, int]:
        spec = self._pinned or pb.ModelSpec(name=self._model)
        try:
            response = await server.stub.status(
                pb.GetModelStatusRequest(model_spec=spec), timeout=timeout_s, metadata=outgoing()
            )
            available = sorted(
                each.version for each in response.model_version_status if each.state == pb.ModelVersionStatus.AVAILABLE
            )
            if server.asked != self._forgotten:
                server.encoders, server.asked = {}, self._forgotten
            for number in available:
                if number not in server.encoders:
                    server.encoders[number] = await self._ask(server, number, timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                server.encoders.clear()  # Another server, with other models, may be there when it can be reached again.
            raise
        return {server.encoders[number]: number for number in available if server.encoders[number]}

    async def _ask(self, server: _ModelServer, number: int, timeout_s: float) -> str:
        """The fingerprint of a version; empty if it is no image model."""
        spec = model_spec(self._model, number)
        try:
            model = parse_model(await server.stub.metadata(metadata_request(spec), timeout=timeout_s))
            image = np.zeros((1, model.input_px, model.input_px, 3), np.uint8)
            return parse_fingerprint(await server.stub.predict(predict_request(spec, image), timeout=timeout_s), 1)
        except (BadTensor, DecodeError) as error:
            log.warning("version %d of %s is not an image model: %s", number, self._model, error)
            return ""
