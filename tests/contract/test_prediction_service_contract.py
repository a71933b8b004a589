"""The contract of a TensorFlow-Serving server, checked against the embedded model server and a real one.

To run against a real one, with an exported MobileNet v1 called `mobilenet`:

    lookalike encoders export /srv/models
    lookalike encoders serving-config /models /srv/serving
    docker run --rm -p 8500:8500 -v /srv/models:/models:ro -v /srv/serving:/serving:ro tensorflow/serving \\
        --model_config_file=/serving/models.config \\
        --enable_batching=true --batching_parameters_file=/serving/batching.config
    LOOKALIKE_TFSERVING_ADDRESS=127.0.0.1:8500 python -m pytest tests/contract/test_prediction_service_contract.py

LOOKALIKE_TFSERVING_LABEL: one of its version labels; unset: no requests by label.
LOOKALIKE_TFSERVING_BASE_PATH: where it reads the model (/models/mobilenet). If set, the configuration of the server is
replaced, and left at the latest version, with the label if one is set.
LOOKALIKE_TFSERVING_MAX_BATCH_SIZE: its max_batch_size, at most 220: one more image must still fit into a message.
LOOKALIKE_TFSERVING_BURST: a number of images that overflows its queue (max_enqueued_batches). They are sent at
once, so set it only if nobody else uses the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc

from encoders.image.client import ImageEncoder
from encoders.image.prediction_service import (
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    RELOAD_CONFIG,
    to_array,
    to_tensor,
)
from encoders.image.signature import DEFAULT_INPUT_PX, ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.tfserving.v1.config_pb2 import ModelConfig, ModelConfigList, ModelServerConfig
from encoders.tfserving.v1.saved_model_pb2 import SignatureDefMap, TensorInfo
from lookalike.channels import aio_channel, blocking_channel
from lookalike.errors import DeadlineExceeded, Overloaded, Unavailable
from lookalike.local import probes
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.standard_services import SERVING

ResponseT = TypeVar("ResponseT", bound=Message)

pytestmark = pytest.mark.slow  # An export and a start of TensorFlow: 20 s for all of them together.

DIM = 1024  # Of MobileNet v1.
REAL = os.environ.get("LOOKALIKE_TFSERVING_ADDRESS", "")  # noqa: TID251
REAL_LABEL = os.environ.get("LOOKALIKE_TFSERVING_LABEL", "")  # noqa: TID251
REAL_BASE_PATH = os.environ.get("LOOKALIKE_TFSERVING_BASE_PATH", "")  # noqa: TID251
REAL_MAX_BATCH_SIZE = int(os.environ.get("LOOKALIKE_TFSERVING_MAX_BATCH_SIZE", "0"))  # noqa: TID251
REAL_BURST = int(os.environ.get("LOOKALIKE_TFSERVING_BURST", "0"))  # noqa: TID251
LABEL = "stable"  # of the embedded server
# Of the embedded server: room for 64 waiting images, in batches of 16.
MAX_BATCH_SIZE, MAX_ENQUEUED_BATCHES, BURST = 32, 4, 320
BURST_REQUEST_IMAGES = 8
START_TIMEOUT_S = 180


@dataclass(frozen=True)
class Server:
    address: str
    label: str  # "": none configured
    base_path: str  # "": the configuration must not be replaced
    max_batch_size: int  # 0: unknown
    burst: int  # number of images that overflows the queue; 0: the queue must not be filled


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """An embedded model server, started by its command, with a model that needs no download."""
    models = tmp_path_factory.mktemp("models")
    lookalike = [sys.executable, "-m", "lookalike"]
    subprocess.run([*lookalike, "encoders", "export", str(models), "--weights", "untrained"], check=True)
    (port,) = probes.free_ports(1)
    address = f"127.0.0.1:{port}"
    options = ["--models", str(models), "--port", str(port), "--version-labels", f"{LABEL}=1"]
    options += ["--max-batch-size", str(MAX_BATCH_SIZE), "--max-enqueued-batches", str(MAX_ENQUEUED_BATCHES)]
    process = subprocess.Popen([*lookalike, "serve", "model-server", *options])
    try:
        wait_until_serving(address, process)
        yield Server(address, LABEL, str(models / MODEL), MAX_BATCH_SIZE, BURST)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
    assert status == 0


def wait_until_serving(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    with blocking_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # Its type stub declares no methods.
        while time.monotonic() < deadline_s:
            assert process.poll() is None, "the model server ended"
            with suppress(grpc.RpcError):
                if stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status == SERVING:
                    return
            time.sleep(0.2)
    raise AssertionError(f"the model server was not ready within {START_TIMEOUT_S} s")


@pytest.fixture(params=["embedded", "tf-serving"])
def server(request: pytest.FixtureRequest) -> Server:
    if request.param == "tf-serving" and not REAL:
        pytest.skip("no TensorFlow-Serving (LOOKALIKE_TFSERVING_ADDRESS)")
    if request.param == "tf-serving":
        return Server(REAL, REAL_LABEL, REAL_BASE_PATH, REAL_MAX_BATCH_SIZE, REAL_BURST)
    embedded: Server = request.getfixturevalue("embedded")
    return embedded


@pytest.fixture
async def channel(server: Server) -> AsyncIterator[grpc.aio.Channel]:
    async with aio_channel(server.address) as channel:
        yield channel


@pytest.fixture
def label(server: Server) -> str:
    if not server.label:
        pytest.skip("no label of this server is configured (LOOKALIKE_TFSERVING_LABEL)")
    return server.label


@pytest.fixture
async def base_path(server: Server, channel: grpc.aio.Channel) -> AsyncIterator[str]:
    """Where the model is, for a server whose configuration may be replaced; restores the configuration afterwards."""
    if not server.base_path:
        pytest.skip("the configuration of this server must not be replaced (LOOKALIKE_TFSERVING_BASE_PATH)")
    yield server.base_path
    labels = {}
    if server.label:
        labels[server.label] = await highest_available_version(channel)
    await reload(channel, model_config(server.base_path, **labels))


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)


def predict_request(**changes: Any) -> pb.PredictRequest:
    spec = {"name": MODEL, "signature_name": SIGNATURE, **changes.pop("spec", {})}
    inputs = changes.pop("inputs", {IMAGES: to_tensor(pixels(2))})
    return pb.PredictRequest(model_spec=pb.ModelSpec(**spec), inputs=inputs, **changes)


async def call(channel: grpc.aio.Channel, path: str, request: Message, response_type: type[ResponseT]) -> ResponseT:
    call = channel.unary_unary(path, type(request).SerializeToString, response_type.FromString)
    response: ResponseT = await call(request, timeout=60)
    return response


async def predict(channel: grpc.aio.Channel, request: pb.PredictRequest) -> pb.PredictResponse:
    return await call(channel, PREDICT, request, pb.PredictResponse)


async def status(channel: grpc.aio.Channel, **spec: Any) -> dict[int, str]:
    request = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(**{"name": MODEL, **spec}))
    response = await call(channel, GET_MODEL_STATUS, request, pb.GetModelStatusResponse)
    return {entry.version: pb.ModelVersionStatus.State.Name(entry.state) for entry in response.model_version_status}


async def highest_available_version(channel: grpc.aio.Channel) -> int:
    """The highest AVAILABLE version, which serves requests that name no version."""
    return max(version for version, state in (await status(channel)).items() if state == "AVAILABLE")


async def metadata(channel: grpc.aio.Channel, *fields: str, **spec: Any) -> pb.GetModelMetadataResponse:
    model_spec = pb.ModelSpec(**{"name": MODEL, **spec})
    request = pb.GetModelMetadataRequest(model_spec=model_spec, metadata_field=fields)
    return await call(channel, GET_MODEL_METADATA, request, pb.GetModelMetadataResponse)


def model_config(base_path: str, **labels: int) -> ModelConfig:
    return ModelConfig(name=MODEL, base_path=base_path, model_platform="tensorflow", version_labels=labels)


async def reload(channel: grpc.aio.Channel, *configs: ModelConfig) -> pb.ReloadConfigResponse:
    config = ModelServerConfig(model_config_list=ModelConfigList(config=configs))
    return await call(channel, RELOAD_CONFIG, pb.ReloadConfigRequest(config=config), pb.ReloadConfigResponse)


async def test_the_client_gets_unit_vectors_and_their_encoder(channel: grpc.aio.Channel) -> None:
    encoded = await ImageEncoder(channel).encode(pixels(3), Deadline.after(60))
    assert encoded.vectors.shape == (3, DIM)
    np.testing.assert_allclose(np.linalg.norm(encoded.vectors, axis=1), 1, atol=1e-5)
    assert encoded.encoder.startswith("mobilenet-")


async def test_an_image_has_the_same_vector_in_every_batch(channel: grpc.aio.Channel) -> None:
    encoder, images = ImageEncoder(channel), pixels(5)
    whole = await encoder.encode(images, Deadline.after(60))
    alone = await asyncio.gather(*(encoder.encode(images[n : n + 1], Deadline.after(60)) for n in range(5)))
    np.testing.assert_allclose(np.concatenate([encoded.vectors for encoded in alone]), whole.vectors, atol=1e-4)


async def test_the_response_names_model_and_version(channel: grpc.aio.Channel) -> None:
    response = await predict(channel, predict_request())
    assert (response.model_spec.name, response.model_spec.signature_name) == (MODEL, SIGNATURE)
    assert response.model_spec.version.value in await ImageEncoder(channel).status(Deadline.after(5))
    assert set(response.outputs) == {FEATURES, ENCODER}
    assert len(set(to_array(response.outputs[ENCODER]).tolist())) == 1


async def test_the_signature_name_is_optional_and_outputs_can_be_filtered(channel: grpc.aio.Channel) -> None:
    unnamed = {"signature_name": ""}
    for output_filter in ([FEATURES], [ENCODER], [ENCODER, FEATURES], []):
        response = await predict(channel, predict_request(spec=unnamed, output_filter=output_filter))
        assert set(response.outputs) == set(output_filter or [FEATURES, ENCODER])
        assert response.model_spec.signature_name == SIGNATURE


async def test_a_request_can_name_the_version(channel: grpc.aio.Channel) -> None:
    version = await highest_available_version(channel)
    response = await predict(channel, predict_request(spec={"version": {"value": version}}))
    assert response.model_spec.version.value == version
    assert await status(channel, version={"value": version}) == {version: "AVAILABLE"}


async def test_a_client_can_pin_a_version(channel: grpc.aio.Channel) -> None:
    version = await highest_available_version(channel)
    named = await ImageEncoder(channel, version=version).encode(pixels(2), Deadline.after(60))
    latest = await ImageEncoder(channel).encode(pixels(2), Deadline.after(60))
    assert named.encoder == latest.encoder
    with pytest.raises(Unavailable, match="NOT_FOUND"):
        await ImageEncoder(channel, version=987_654).encode(pixels(1), Deadline.after(60))


async def test_a_request_can_name_a_version_label(channel: grpc.aio.Channel, label: str) -> None:
    response = await predict(channel, predict_request(spec={"version_label": label}))
    (labelled,) = await status(channel, version_label=label)
    assert response.model_spec.version.value == labelled
    encoded = await ImageEncoder(channel, label=label).encode(pixels(2), Deadline.after(60))
    assert {encoded.encoder.encode()} == set(to_array(response.outputs[ENCODER]).tolist())


async def test_concurrent_callers_each_get_their_own_rows(channel: grpc.aio.Channel) -> None:
    encoder, images = ImageEncoder(channel), pixels(24)
    slices = [images[n : n + 1 + n % 4] for n in range(20)]
    whole = await encoder.encode(images, Deadline.after(60))
    answers = await asyncio.gather(*(encoder.encode(part, Deadline.after(60)) for part in slices))
    for n, encoded in enumerate(answers):
        np.testing.assert_allclose(encoded.vectors, whole.vectors[n : n + len(slices[n])], atol=1e-4)


async def test_a_deadline_is_respected(channel: grpc.aio.Channel) -> None:
    with pytest.raises(DeadlineExceeded):
        await ImageEncoder(channel).encode(pixels(16), Deadline.after(0.005))


async def test_max_batch_size_images_are_accepted_and_one_more_is_refused(
    server: Server, channel: grpc.aio.Channel
) -> None:
    if not server.max_batch_size:
        pytest.skip("max_batch_size of this server is unknown (LOOKALIKE_TFSERVING_MAX_BATCH_SIZE)")
    encoded = await ImageEncoder(channel).encode(pixels(server.max_batch_size), Deadline.after(60))
    assert len(encoded.vectors) == server.max_batch_size
    with pytest.raises(grpc.aio.AioRpcError, match="larger than maximum input batch size") as raised:
        await predict(channel, predict_request(inputs={IMAGES: to_tensor(pixels(server.max_batch_size + 1))}))
    assert raised.value.code() is INVALID_ARGUMENT


async def test_a_full_queue_refuses_at_once_and_serves_the_requests_it_accepted(
    server: Server, channel: grpc.aio.Channel
) -> None:
    if not server.burst:
        pytest.skip("the queue of this server must not be filled (LOOKALIKE_TFSERVING_BURST)")
    encoder, images = ImageEncoder(channel), pixels(BURST_REQUEST_IMAGES)
    calls = [encoder.encode(images, Deadline.after(60)) for _ in range(server.burst // BURST_REQUEST_IMAGES)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    accepted = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    assert refused, f"{server.burst} images do not fill the queue"
    assert {type(error) for error in refused} == {Overloaded}
    assert all("UNAVAILABLE: The batch scheduling queue" in str(error) for error in refused)
    alone = await encoder.encode(images, Deadline.after(60))  # The server has recovered.
    assert accepted
    for encoded in accepted:
        np.testing.assert_allclose(encoded.vectors, alone.vectors, atol=1e-4)


async def test_the_client_learns_the_sizes_of_the_model(channel: grpc.aio.Channel) -> None:
    model = await ImageEncoder(channel).model(Deadline.after(60))
    assert (model.input_px, model.dimension) == (DEFAULT_INPUT_PX, DIM)
    assert model.version == await highest_available_version(channel)
    pinned = await ImageEncoder(channel, version=model.version).model(Deadline.after(60))
    assert pinned == model


async def test_metadata_describe_inputs_and_outputs(channel: grpc.aio.Channel) -> None:
    response = await metadata(channel, "signature_def")
    assert (response.model_spec.name, response.model_spec.version.value) == (
        MODEL,
        await highest_available_version(channel),
    )
    packed = response.metadata["signature_def"]
    assert packed.TypeName() == "tensorflow.serving.SignatureDefMap"
    signature = SignatureDefMap.FromString(packed.value).signature_def[SIGNATURE]
    assert {name: (info.dtype, sizes(info)) for name, info in signature.inputs.items()} == {
        IMAGES: (pb.DT_UINT8, [-1, 224, 224, 3])
    }
    assert {name: info.dtype for name, info in signature.outputs.items()} == {
        FEATURES: pb.DT_FLOAT,
        ENCODER: pb.DT_STRING,
    }
    assert sizes(signature.outputs[FEATURES]) == [-1, DIM]
    assert signature.method_name == "tensorflow/serving/predict"


def sizes(info: TensorInfo) -> list[int]:
    return [dim.size for dim in info.tensor_shape.dim]


async def test_unknown_metadata_fields_are_refused(channel: grpc.aio.Channel) -> None:
    for fields, spec, code in (
        ((), {}, INVALID_ARGUMENT),
        (("weights",), {}, INVALID_ARGUMENT),
        (("signature_def",), {"name": "resnet"}, NOT_FOUND),
        (("signature_def",), {"version": {"value": 987_654}}, NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await metadata(channel, *fields, **spec)
        assert raised.value.code() is code


async def test_a_new_configuration_can_label_the_latest_version(channel: grpc.aio.Channel, base_path: str) -> None:
    version = await highest_available_version(channel)
    response = await reload(channel, model_config(base_path, canary=version))
    assert response.status.error_code == 0
    canary = await predict(channel, predict_request(spec={"version_label": "canary"}))
    assert canary.model_spec.version.value == version


async def test_a_label_of_a_version_that_is_not_served_is_refused(channel: grpc.aio.Channel, base_path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="not currently available for inference") as raised:
        await reload(channel, model_config(base_path, canary=987_654))
    assert raised.value.code() is FAILED_PRECONDITION
    assert await highest_available_version(channel)


async def test_a_configuration_without_a_list_of_models_is_refused(channel: grpc.aio.Channel, base_path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="Only ModelConfigList") as raised:
        await call(channel, RELOAD_CONFIG, pb.ReloadConfigRequest(), pb.ReloadConfigResponse)
    assert raised.value.code() is INVALID_ARGUMENT


INVALID_ARGUMENT, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        pytest.param({"spec": {"name": "resnet"}}, NOT_FOUND, id="unknown model"),
        pytest.param({"spec": {"version": {"value": 987_654}}}, NOT_FOUND, id="unknown version"),
        pytest.param({"spec": {"name": ""}}, INVALID_ARGUMENT, id="no model"),
        pytest.param({"spec": {"version_label": "canary"}}, INVALID_ARGUMENT, id="unknown label"),
        pytest.param({"spec": {"signature_name": "classify"}}, FAILED_PRECONDITION, id="unknown signature"),
        pytest.param({"inputs": {}}, INVALID_ARGUMENT, id="no input"),
        pytest.param({"inputs": {"pictures": to_tensor(pixels(1))}}, INVALID_ARGUMENT, id="unknown input"),
        pytest.param({"inputs": {IMAGES: to_tensor(pixels(1).astype(np.float32))}}, INVALID_ARGUMENT, id="other type"),
        pytest.param({"inputs": {IMAGES: to_tensor(pixels(1)[:, :100].copy())}}, INVALID_ARGUMENT, id="other shape"),
        pytest.param({"inputs": {IMAGES: to_tensor(pixels(1)[0])}}, INVALID_ARGUMENT, id="other rank"),
        pytest.param({"inputs": {IMAGES: pb.TensorProto(dtype=pb.DT_UINT8)}}, INVALID_ARGUMENT, id="no values"),
        pytest.param({"output_filter": ["labels"]}, INVALID_ARGUMENT, id="unknown output"),
        pytest.param({"output_filter": [FEATURES, FEATURES]}, INVALID_ARGUMENT, id="an output twice"),
    ],
)
async def test_a_request_that_does_not_fit_the_model_is_refused(
    channel: grpc.aio.Channel, changes: dict[str, Any], code: grpc.StatusCode
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await predict(channel, predict_request(**changes))
    assert raised.value.code() is code
    assert raised.value.details()


async def test_requests_without_a_model_are_refused(channel: grpc.aio.Channel) -> None:
    for path, request, response_type in (
        (PREDICT, pb.PredictRequest(), pb.PredictResponse),
        (GET_MODEL_STATUS, pb.GetModelStatusRequest(), pb.GetModelStatusResponse),
        (GET_MODEL_METADATA, pb.GetModelMetadataRequest(), pb.GetModelMetadataResponse),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call(channel, path, request, response_type)
        assert raised.value.code() is INVALID_ARGUMENT


@pytest.mark.parametrize("spec", [{"name": "resnet"}, {"version": {"value": 987_654}}])
async def test_the_status_of_an_unknown_model_or_version_is_not_found(
    channel: grpc.aio.Channel, spec: dict[str, Any]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await status(channel, **spec)
    assert raised.value.code() is NOT_FOUND


async def test_the_server_accepts_the_official_messages(server: Server, channel: grpc.aio.Channel) -> None:
    """Runs a client with the stubs of the tensorflow-serving-api package in a separate process."""
    script = f"""
import importlib.util, sys, types
empty = types.ModuleType("tensorflow")
empty.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
sys.modules["tensorflow"] = empty
import grpc
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc
request = predict_pb2.PredictRequest()
request.model_spec.name = "{MODEL}"
images = request.inputs["{IMAGES}"]
images.dtype, images.tensor_content = 4, bytes(224 * 224 * 3)
for size in (1, 224, 224, 3):
    images.tensor_shape.dim.add(size=size)
with grpc.insecure_channel(sys.argv[1]) as channel:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, timeout=60)
    metadata_request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    metadata_request.model_spec.name = "{MODEL}"
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert stub.GetModelMetadata(metadata_request, timeout=60).metadata["signature_def"].Unpack(signatures)
    assert "{IMAGES}" in signatures.signature_def["{SIGNATURE}"].inputs
print(response.outputs["{ENCODER}"].string_val[0].decode())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, server.address, stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parent
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    expected = await ImageEncoder(channel).encode(np.zeros((1, 224, 224, 3), np.uint8), Deadline.after(60))
    assert output.decode().strip() == expected.encoder
