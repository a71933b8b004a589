"""What Lookalike needs of a TensorFlow-Serving server: held by the embedded model server, and by a real one.

LOOKALIKE_TFSERVING_ADDRESS=host:port runs it against a server of any exported image model called `mobilenet`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoders.prediction_service import GET_MODEL_STATUS, PREDICT, array, tensor
from encoders.signature import DIM, ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tfserving import ImageEncoder
from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.lifecycle import SERVING
from protos.tfserving.v1 import prediction_pb2 as pb

pytestmark = pytest.mark.slow  # An export and a start of TensorFlow: 20 s for all of them together.

REAL = os.environ.get("LOOKALIKE_TFSERVING_ADDRESS", "")  # noqa: TID251
START_S = 180


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model server as an operator starts it, with a model that needs no download."""
    models = tmp_path_factory.mktemp("models")
    lookalike = [sys.executable, "-m", "lookalike"]
    subprocess.run([*lookalike, "encoders", "export", str(models), "--weights", "untrained"], check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    port = address.rpartition(":")[2]
    process = subprocess.Popen([*lookalike, "serve", "model-server", "--models", str(models), "--port", port])
    try:
        wait_until_serving(address, process)
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
    assert status == 0


def wait_until_serving(address: str, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + START_S
    with rpc.blocking_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # Its type stub names no methods.
        while time.monotonic() < give_up_s:
            assert process.poll() is None, "the model server ended"
            with suppress(grpc.RpcError):
                if stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING:
                    return
            time.sleep(0.2)
    raise AssertionError(f"the model server was not ready within {START_S} s")


@pytest.fixture(params=["embedded", "tf-serving"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "tf-serving" and not REAL:
        pytest.skip("no TensorFlow-Serving (LOOKALIKE_TFSERVING_ADDRESS)")
    return REAL if request.param == "tf-serving" else str(request.getfixturevalue("embedded"))


@pytest.fixture
async def channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with rpc.channel(address) as channel:
        yield channel


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def asked(**changes: Any) -> pb.PredictRequest:
    spec = {"name": MODEL, "signature_name": SIGNATURE, **changes.pop("spec", {})}
    inputs = changes.pop("inputs", {IMAGES: tensor(pixels(2))})
    return pb.PredictRequest(model_spec=pb.ModelSpec(**spec), inputs=inputs, **changes)


async def predict(channel: grpc.aio.Channel, request: pb.PredictRequest) -> pb.PredictResponse:
    call = channel.unary_unary(PREDICT, pb.PredictRequest.SerializeToString, pb.PredictResponse.FromString)
    response: pb.PredictResponse = await call(request, timeout=60)
    return response


async def test_the_client_gets_unit_vectors_and_their_encoder(channel: grpc.aio.Channel) -> None:
    encoded = await ImageEncoder(channel).encode(pixels(3), Deadline.after(60))
    assert encoded.vectors.shape == (3, DIM)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)
    assert encoded.encoder.startswith("mobilenet-")


async def test_an_image_has_the_same_vector_in_every_batch(channel: grpc.aio.Channel) -> None:
    encoder, images = ImageEncoder(channel), pixels(5)
    whole = await encoder.encode(images, Deadline.after(60))
    alone = await asyncio.gather(*(encoder.encode(images[n : n + 1], Deadline.after(60)) for n in range(5)))
    np.testing.assert_allclose(np.concatenate([one.vectors for one in alone]), whole.vectors, atol=1e-4)


async def test_the_answer_says_which_model_and_version_made_it(channel: grpc.aio.Channel) -> None:
    response = await predict(channel, asked())
    assert (response.model_spec.name, response.model_spec.signature_name) == (MODEL, SIGNATURE)
    assert response.model_spec.version.value in await ImageEncoder(channel).status(Deadline.after(5))
    assert set(response.outputs) == {FEATURES, ENCODER}
    assert len(set(array(response.outputs[ENCODER]).tolist())) == 1


async def test_the_signature_may_go_unnamed_and_outputs_may_be_chosen(channel: grpc.aio.Channel) -> None:
    response = await predict(channel, asked(spec={"signature_name": ""}, output_filter=[FEATURES]))
    assert set(response.outputs) == {FEATURES}


async def test_the_version_may_be_named(channel: grpc.aio.Channel) -> None:
    (version,) = await ImageEncoder(channel).status(Deadline.after(5))
    request = asked()
    request.model_spec.version.value = version
    assert (await predict(channel, request)).model_spec.version.value == version


async def test_the_model_is_available(channel: grpc.aio.Channel) -> None:
    assert "AVAILABLE" in (await ImageEncoder(channel).status(Deadline.after(5))).values()


INVALID, UNKNOWN = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
WRONG = grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"spec": {"name": "resnet"}}, UNKNOWN, id="unknown model"),
        pytest.param({"spec": {"version": {"value": 987_654}}}, UNKNOWN, id="unknown version"),
        pytest.param({"spec": {"name": ""}}, INVALID, id="no model"),
        pytest.param({"spec": {"version_label": "canary"}}, INVALID, id="unknown label"),
        pytest.param({"spec": {"signature_name": "classify"}}, WRONG, id="unknown signature"),
        pytest.param({"inputs": {}}, INVALID, id="no input"),
        pytest.param({"inputs": {"pictures": tensor(pixels(1))}}, INVALID, id="unknown input"),
        pytest.param({"inputs": {IMAGES: tensor(pixels(1).astype(np.float32))}}, INVALID, id="other type"),
        pytest.param({"inputs": {IMAGES: tensor(pixels(1)[:, :100].copy())}}, INVALID, id="other shape"),
        pytest.param({"inputs": {IMAGES: tensor(pixels(1)[0])}}, INVALID, id="other rank"),
        pytest.param({"inputs": {IMAGES: tensor(pixels(0))}}, INVALID, id="no images"),
        pytest.param({"inputs": {IMAGES: pb.TensorProto(dtype=pb.DT_UINT8)}}, INVALID, id="no values"),
        pytest.param({"output_filter": ["labels"]}, INVALID, id="unknown output"),
    ],
)
async def test_a_request_that_does_not_fit_the_model_is_refused(
    channel: grpc.aio.Channel, changes: dict[str, Any], code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await predict(channel, asked(**changes))
    assert refused.value.code() is code
    assert refused.value.details()


async def test_the_status_of_an_unknown_model_is_not_found(channel: grpc.aio.Channel) -> None:
    call = channel.unary_unary(
        GET_MODEL_STATUS, pb.GetModelStatusRequest.SerializeToString, pb.GetModelStatusResponse.FromString
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name="resnet")), timeout=5)
    assert refused.value.code() is UNKNOWN


async def test_the_official_messages_are_understood(address: str, channel: grpc.aio.Channel) -> None:
    """A client with the stubs of the tensorflow-serving-api package, in a process of its own."""
    script = f"""
import importlib.util, sys, types
empty = types.ModuleType("tensorflow")
empty.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
sys.modules["tensorflow"] = empty
import grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
request = predict_pb2.PredictRequest()
request.model_spec.name = "{MODEL}"
images = request.inputs["{IMAGES}"]
images.dtype, images.tensor_content = 4, bytes(224 * 224 * 3)
for size in (1, 224, 224, 3):
    images.tensor_shape.dim.add(size=size)
with grpc.insecure_channel(sys.argv[1]) as channel:
    answer = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=60)
print(answer.outputs["{ENCODER}"].string_val[0].decode())
"""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, address, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent
    )
    printed, _ = await done.communicate()
    assert done.returncode == 0
    expected = await ImageEncoder(channel).encode(np.zeros((1, 224, 224, 3), np.uint8), Deadline.after(60))
    assert printed.decode().strip() == expected.encoder
