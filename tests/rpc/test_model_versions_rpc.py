"""Model versions over real gRPC: loading, labels, replacement and unloading with requests in flight."""

from __future__ import annotations

import asyncio
import gc
import shutil
import threading
import urllib.request
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import grpc
import grpc.aio
import pytest
from google.protobuf.message import Message
from prometheus_client import start_http_server

from encoders.image.prediction_service import (
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    RELOAD_CONFIG,
    to_array,
    to_tensor,
)
from encoders.image.signature import ENCODER, IMAGES, MODEL, SIGNATURE
from encoders.serving.config_files import METRICS_PATH
from encoders.serving.model import MAX_ENDED_VERSIONS
from encoders.serving.policy import All, Latest, Specific
from encoders.tfserving.v1 import config_pb2
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.tfserving.v1.saved_model_pb2 import SignatureDefMap
from lookalike.errors import BadArtifact, FailedPrecondition
from lookalike.local import probes
from tests.rpc.model_servers import ArithmeticModel, images, model_server_channel, until, write_version

INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
)
Policy = config_pb2.FileSystemStoragePathSourceConfig.ServableVersionPolicy


ResponseT = TypeVar("ResponseT", bound=Message)


class FakeLoader:
    """Fake loader of ArithmeticModels; versions in `broken` fail to load, `gate` blocks loading."""

    def __init__(self) -> None:
        self.loaded: dict[int, ArithmeticModel] = {}
        self.loads: list[int] = []
        self.broken: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, path: Path) -> ArithmeticModel:
        number = int(path.name)
        self.loads.append(number)
        assert self.gate.wait(10)
        if number in self.broken:
            raise BadArtifact(f"{path} is not an image model")
        self.loaded[number] = ArithmeticModel(f"mobilenet-{number}")
        return self.loaded[number]


class Client:
    """Calls the RPC methods directly, so that tests see status codes and messages as they are sent."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    async def predict(self, *axes: int, output_filter: tuple[str, ...] = (), **spec: Any) -> pb.PredictResponse:
        request = pb.PredictRequest(model_spec=model_spec(**spec), inputs={IMAGES: to_tensor(images(*axes or (0,)))})
        request.output_filter.extend(output_filter)
        return await self._call(PREDICT, request, pb.PredictResponse)

    async def encoder(self, **spec: Any) -> str:
        """The encoder that answered a request."""
        response = await self.predict(**spec)
        return str(to_array(response.outputs[ENCODER])[0], "ascii")

    async def states(self, **spec: Any) -> dict[int, str]:
        statuses = await self.statuses(**spec)
        return {entry.version: pb.ModelVersionStatus.State.Name(entry.state) for entry in statuses}

    async def statuses(self, **spec: Any) -> list[pb.ModelVersionStatus]:
        request = pb.GetModelStatusRequest(model_spec=model_spec(**spec))
        response = await self._call(GET_MODEL_STATUS, request, pb.GetModelStatusResponse)
        return list(response.model_version_status)

    async def metadata(self, *fields: str, **spec: Any) -> pb.GetModelMetadataResponse:
        request = pb.GetModelMetadataRequest(model_spec=model_spec(**spec), metadata_field=fields)
        return await self._call(GET_MODEL_METADATA, request, pb.GetModelMetadataResponse)

    async def reload(self, *configs: config_pb2.ModelConfig, timeout_s: float = 10) -> pb.ReloadConfigResponse:
        config_list = config_pb2.ModelConfigList(config=configs)
        request = pb.ReloadConfigRequest(config=config_pb2.ModelServerConfig(model_config_list=config_list))
        return await self._call(RELOAD_CONFIG, request, pb.ReloadConfigResponse, timeout_s)

    async def until(self, states: dict[int, str]) -> None:
        """Wait until the versions have these states."""
        async with asyncio.timeout(60):
            while await self.states() != states:  # noqa: ASYNC110  # the server changes it
                await asyncio.sleep(0.01)

    async def _call(
        self, path: str, request: Message, response_type: type[ResponseT], timeout_s: float = 10
    ) -> ResponseT:
        call = self._channel.unary_unary(path, type(request).SerializeToString, response_type.FromString)
        response: ResponseT = await call(request, timeout=timeout_s)
        return response


def model_spec(**spec: Any) -> pb.ModelSpec:
    return pb.ModelSpec(**{"name": MODEL, **spec})


def model_config(
    models: Path, policy: Policy | None = None, name: str = MODEL, **labels: int
) -> config_pb2.ModelConfig:
    return config_pb2.ModelConfig(
        name=name,
        base_path=str(models / name),
        model_platform="tensorflow",
        model_version_policy=policy,
        version_labels=labels,
    )


def raises_rpc_error(code: grpc.StatusCode, message: str = "") -> Any:
    return pytest.raises(grpc.aio.AioRpcError, match=rf"(?s){code.name}.*{message}")


async def test_while_loading_a_model_is_not_found_and_its_status_is_loading(tmp_path: Path) -> None:
    write_version(tmp_path, 3)
    load = FakeLoader()
    async with model_server_channel(tmp_path, load, policy=All()) as channel:
        client = Client(channel)
        load.gate.clear()
        write_version(tmp_path, 4)
        await client.reload(model_config(tmp_path, Policy(all=Policy.All())))
        await client.until({4: "LOADING", 3: "AVAILABLE"})
        with raises_rpc_error(NOT_FOUND, r"Servable not found for request: Specific\(mobilenet, 4\)"):
            await client.predict(version={"value": 4})
        assert await client.encoder() == "mobilenet-3"
        load.gate.set()
        await client.until({4: "AVAILABLE", 3: "AVAILABLE"})
        assert await client.encoder() == "mobilenet-4"


async def test_before_the_first_load_no_model_is_found(tmp_path: Path) -> None:
    write_version(tmp_path, 3)
    async with model_server_channel(tmp_path, FakeLoader(), start=False) as channel:
        with raises_rpc_error(NOT_FOUND, r"Servable not found for request: Latest\(mobilenet\)"):
            await Client(channel).predict()
        with raises_rpc_error(NOT_FOUND, "Could not find any versions of model mobilenet"):
            await Client(channel).statuses()


async def test_requests_are_served_by_the_version_that_they_name_or_else_by_the_highest(tmp_path: Path) -> None:
    write_version(tmp_path, 2, 3, 11)
    async with model_server_channel(tmp_path, FakeLoader(), policy=Latest(2)) as channel:
        client = Client(channel)
        assert list(await client.states()) == [11, 3]
        assert await client.encoder() == "mobilenet-11"
        assert await client.encoder(version={"value": 3}) == "mobilenet-3"
        assert (await client.predict(version={"value": 3})).model_spec.version.value == 3
        assert await client.states(version={"value": 3}) == {3: "AVAILABLE"}
        with raises_rpc_error(NOT_FOUND, r"Specific\(mobilenet, 2\)"):
            await client.predict(version={"value": 2})
        with raises_rpc_error(NOT_FOUND, "Could not find version 2 of model mobilenet"):
            await client.statuses(version={"value": 2})


async def test_a_new_version_takes_over_and_requests_in_flight_on_the_old_one_succeed(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = FakeLoader()
    async with model_server_channel(tmp_path, load, poll_s=0.02) as channel:
        client = Client(channel)
        load.loaded[1].gate.clear()
        in_flight = asyncio.create_task(client.encoder())
        waiting = asyncio.create_task(client.encoder())
        await asyncio.sleep(0.1)
        write_version(tmp_path, 2)
        await client.until({2: "AVAILABLE", 1: "UNLOADING"})
        assert not in_flight.done()
        with raises_rpc_error(NOT_FOUND):
            await client.predict(version={"value": 1})
        load.loaded[1].gate.set()
        assert [await in_flight, await waiting] == ["mobilenet-1", "mobilenet-1"]
        await client.until({2: "AVAILABLE", 1: "END"})
        assert await client.encoder() == "mobilenet-2"


async def test_while_a_new_version_loads_the_old_one_serves(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = FakeLoader()
    async with model_server_channel(tmp_path, load, poll_s=0.02) as channel:
        client = Client(channel)
        load.gate.clear()
        write_version(tmp_path, 2)
        await client.until({2: "LOADING", 1: "AVAILABLE"})
        assert await client.encoder() == "mobilenet-1"
        load.gate.set()
        await client.until({2: "AVAILABLE", 1: "END"})


async def test_a_version_that_fails_to_load_ends_with_its_error_and_the_old_one_keeps_serving(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = FakeLoader()
    load.broken.add(2)
    async with model_server_channel(tmp_path, load, poll_s=0.02) as channel:
        client = Client(channel)
        write_version(tmp_path, 2)
        await client.until({2: "END", 1: "AVAILABLE"})
        (status, _) = await client.statuses()
        assert status.status.error_code == INVALID_ARGUMENT.value[0]
        assert "is not an image model" in status.status.error_message
        await asyncio.sleep(0.1)
        assert load.loads == [1, 2]  # Tried once.
        assert await client.encoder() == "mobilenet-1"


async def test_a_repaired_version_is_loaded_when_it_reappears(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = FakeLoader()
    load.broken.add(2)
    async with model_server_channel(tmp_path, load, poll_s=0.02) as channel:
        client = Client(channel)
        write_version(tmp_path, 2)
        await client.until({2: "END", 1: "AVAILABLE"})
        shutil.rmtree(tmp_path / MODEL / "2")
        await asyncio.sleep(0.1)
        load.broken.clear()
        write_version(tmp_path, 2)
        await client.until({2: "AVAILABLE", 1: "END"})


async def test_a_temporarily_empty_folder_unloads_nothing(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    async with model_server_channel(tmp_path, FakeLoader(), poll_s=0.02) as channel:
        client = Client(channel)
        shutil.rmtree(tmp_path / MODEL)
        await asyncio.sleep(0.1)
        assert await client.encoder() == "mobilenet-1"


async def test_startup_fails_if_no_version_can_be_loaded(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = FakeLoader()
    load.broken.add(1)
    with pytest.raises(BadArtifact, match=r"no version of mobilenet could be loaded: .* is not an image model"):
        async with model_server_channel(tmp_path, load):
            pass


async def test_a_label_is_moved_to_another_version_by_a_new_configuration(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2)
    all_versions = Policy(all=Policy.All())
    async with model_server_channel(tmp_path, FakeLoader(), policy=All(), labels={"stable": 1}) as channel:
        client = Client(channel)
        assert await client.encoder(version_label="stable") == "mobilenet-1"
        assert await client.states(version_label="stable") == {1: "AVAILABLE"}
        await client.reload(model_config(tmp_path, all_versions, stable=2, previous=1))
        assert await client.encoder(version_label="stable") == "mobilenet-2"
        assert await client.encoder(version_label="previous") == "mobilenet-1"
        with raises_rpc_error(INVALID_ARGUMENT, "Unrecognized servable version label: canary"):
            await client.predict(version_label="canary")
        with raises_rpc_error(INVALID_ARGUMENT, "Unrecognized servable version label: canary"):
            await client.statuses(version_label="canary")


async def test_a_label_of_an_unavailable_version_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2)
    async with model_server_channel(
        tmp_path, FakeLoader(), policy=Specific(frozenset({1})), labels={"stable": 1}
    ) as channel:
        client = Client(channel)
        with raises_rpc_error(
            FAILED_PRECONDITION,
            "Request to assign label to version 2 of model mobilenet, which is not currently available",
        ):
            await client.reload(model_config(tmp_path, Policy(all=Policy.All()), stable=2))
        assert await client.encoder(version_label="stable") == "mobilenet-1"
        assert await client.states() == {1: "AVAILABLE"}


async def test_startup_fails_if_a_label_names_an_unavailable_version(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    with pytest.raises(FailedPrecondition, match="version 9 of model mobilenet"):
        async with model_server_channel(tmp_path, FakeLoader(), labels={"stable": 9}):
            pass


async def test_a_new_policy_loads_the_aspired_versions_before_unloading_the_others(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2)
    load = FakeLoader()
    async with model_server_channel(tmp_path, load) as channel:
        client = Client(channel)
        await client.reload(model_config(tmp_path, Policy(specific=Policy.Specific(versions=[1]))))
        await client.until({2: "END", 1: "AVAILABLE"})
        await client.reload(model_config(tmp_path))
        await client.until({2: "AVAILABLE", 1: "END"})
        assert load.loads == [2, 1, 2]


async def test_a_version_that_is_aspired_again_while_it_unloads_is_loaded_again(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2)
    load = FakeLoader()
    async with model_server_channel(tmp_path, load, policy=All()) as channel:
        client, old = Client(channel), load.loaded[1]
        old.gate.clear()
        in_flight = asyncio.create_task(client.encoder(version={"value": 1}))
        await until(lambda: old.batches)
        await client.reload(model_config(tmp_path))
        await client.until({2: "AVAILABLE", 1: "UNLOADING"})
        await client.reload(model_config(tmp_path, Policy(all=Policy.All())))
        old.gate.set()
        await in_flight
        await client.until({2: "AVAILABLE", 1: "AVAILABLE"})
        assert load.loads == [2, 1, 1]


async def test_a_new_model_is_available_when_reload_returns(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    write_version(tmp_path, 5, name="other")
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        client = Client(channel)
        await client.reload(model_config(tmp_path), model_config(tmp_path, name="other"))
        assert await client.encoder(name="other") == "mobilenet-5"
        assert await client.encoder() == "mobilenet-1"


async def test_loading_continues_if_the_caller_of_reload_gives_up(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    write_version(tmp_path, 5, name="other")
    load = FakeLoader()
    async with model_server_channel(tmp_path, load) as channel:
        client = Client(channel)
        load.gate.clear()
        with raises_rpc_error(grpc.StatusCode.DEADLINE_EXCEEDED):
            await client.reload(model_config(tmp_path), model_config(tmp_path, name="other"), timeout_s=0.3)
        load.gate.set()
        async with asyncio.timeout(60):
            while await client.states(name="other") != {5: "AVAILABLE"}:  # noqa: ASYNC110  # the server changes it
                await asyncio.sleep(0.01)
        assert load.loads == [1, 5]


async def test_reload_fails_if_a_new_model_cannot_be_loaded(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    write_version(tmp_path, 5, name="other")
    load = FakeLoader()
    async with model_server_channel(tmp_path, load) as channel:
        load.broken.add(5)
        with raises_rpc_error(FAILED_PRECONDITION, "did not become available: other"):
            await Client(channel).reload(model_config(tmp_path), model_config(tmp_path, name="other"))
        assert await Client(channel).encoder() == "mobilenet-1"


async def test_an_unloaded_version_is_freed_from_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_version(tmp_path, 1)
    collect, collections = gc.collect, list[int]()

    def counted() -> int:
        collections.append(collect())
        return collections[-1]

    monkeypatch.setattr(gc, "collect", counted)
    loaded: list[weakref.ref[ArithmeticModel]] = []

    def load(path: Path) -> ArithmeticModel:
        model = ArithmeticModel()
        model.__dict__["itself"] = model  # A reference cycle, as in TensorFlow's models.
        loaded.append(weakref.ref(model))
        return model

    async with model_server_channel(tmp_path, load) as channel:
        client = Client(channel)
        await client.predict()
        assert loaded[0]() is not None
        await client.reload()
        await client.until({1: "END"})
        assert collections  # By the server, which alone frees a model that holds itself.
        # It frees nothing if another collection is under way, or a thread still holds its last batch: then once more.
        await until(lambda: loaded[0]() is None or (collect() >= 0 and loaded[0]() is None))


async def test_a_model_that_is_no_longer_configured_is_unloaded(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        client = Client(channel)
        await client.reload()
        await client.until({1: "END"})
        with raises_rpc_error(NOT_FOUND, r"Latest\(mobilenet\)"):
            await client.predict()
        await client.reload(model_config(tmp_path))
        assert await client.encoder() == "mobilenet-1"


Change = Callable[[config_pb2.ModelConfig], Any]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: setattr(config, "base_path", "/etc"), "Could not find base path /etc"),
        (lambda config: setattr(config, "base_path", config.base_path + "/1"), "Could not find base path"),
        (lambda config: setattr(config, "base_path", config.base_path + "/../../.."), "Could not find base path"),
        (lambda config: setattr(config, "base_path", config.base_path + "s"), "Could not find base path"),
        (lambda config: setattr(config, "model_platform", "pytorch"), "requests unsupported platform pytorch"),
        (lambda config: setattr(config, "name", ""), "has no name"),
    ],
)
async def test_an_invalid_configuration_is_refused(tmp_path: Path, change: Change, message: str) -> None:
    write_version(tmp_path, 1)
    config = model_config(tmp_path)
    change(config)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        with raises_rpc_error(INVALID_ARGUMENT, message):
            await Client(channel).reload(config)
        assert await Client(channel).encoder() == "mobilenet-1"


async def test_a_duplicate_model_and_a_missing_model_list_are_refused(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        client = Client(channel)
        with raises_rpc_error(INVALID_ARGUMENT, "multiple times"):
            await client.reload(model_config(tmp_path), model_config(tmp_path))
        with raises_rpc_error(INVALID_ARGUMENT, "Only ModelConfigList is currently supported"):
            await client._call(RELOAD_CONFIG, pb.ReloadConfigRequest(), pb.ReloadConfigResponse)


async def test_metadata_are_the_signatures_under_the_official_type_name(tmp_path: Path) -> None:
    write_version(tmp_path, 7)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        client = Client(channel)
        response = await client.metadata("signature_def")
        assert (response.model_spec.name, response.model_spec.version.value) == (MODEL, 7)
        packed = response.metadata["signature_def"]
        assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
        assert set(SignatureDefMap.FromString(packed.value).signature_def) == {SIGNATURE}
        with raises_rpc_error(INVALID_ARGUMENT, "must specify at least one metadata_field"):
            await client.metadata()
        with raises_rpc_error(INVALID_ARGUMENT, "Metadata field weights is not supported"):
            await client.metadata("weights")
        with raises_rpc_error(NOT_FOUND, r"Latest\(resnet\)"):
            await client.metadata("signature_def", name="resnet")


async def test_requests_without_a_model_are_refused(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        client = Client(channel)
        for path, request, response_type in (
            (PREDICT, pb.PredictRequest(), pb.PredictResponse),
            (GET_MODEL_STATUS, pb.GetModelStatusRequest(), pb.GetModelStatusResponse),
            (GET_MODEL_METADATA, pb.GetModelMetadataRequest(), pb.GetModelMetadataResponse),
        ):
            with raises_rpc_error(INVALID_ARGUMENT, "Missing ModelSpec"):
                await client._call(path, request, response_type)
        with raises_rpc_error(INVALID_ARGUMENT, "ModelSpec has no name specified"):
            await client.predict(name="")


def scrape_metrics() -> str:
    """Scrape the metrics at TensorFlow-Serving's path."""
    (port,) = probes.free_ports(1)
    server, thread = start_http_server(port, addr="127.0.0.1")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{METRICS_PATH}", timeout=10) as response:
            return str(response.read(), "utf-8")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_requests_batches_queues_and_versions_are_counted(tmp_path: Path) -> None:
    write_version(tmp_path, 41)
    write_version(tmp_path, 42)
    load = FakeLoader()
    load.broken.add(42)
    async with model_server_channel(tmp_path, load, policy=All()) as channel:
        client = Client(channel)
        await client.predict(1, 2, 3)
        with raises_rpc_error(NOT_FOUND):
            await client.predict(name="resnet")
        lines = (await asyncio.to_thread(scrape_metrics)).splitlines()
    for line in (
        'lookalike_model_requests_total{code="OK",method="Predict",model_name="mobilenet",version="41"} 1.0',
        'lookalike_model_version_state{model_name="mobilenet",version="41"} 30.0',
        'lookalike_model_version_state{model_name="mobilenet",version="42"} 50.0',
        'lookalike_model_queued_images{model_name="mobilenet",version="41"} 0.0',
    ):
        assert line in lines
    text = "\n".join(lines)
    assert 'code="NOT_FOUND",method="Predict",model_name="",version=""' in text
    assert "resnet" not in text  # A caller cannot create label values.
    for name in ("request_seconds", "queue_seconds", "batch_images", "batch_seconds"):
        assert f"lookalike_model_{name}_count" in text
    assert 'lookalike_model_loads_total{model_name="mobilenet",outcome="failed"}' in text


async def test_a_request_without_images_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    async with model_server_channel(tmp_path, FakeLoader()) as channel:
        request = pb.PredictRequest(model_spec=model_spec(), inputs={IMAGES: to_tensor(images())})
        with raises_rpc_error(INVALID_ARGUMENT):
            await Client(channel)._call(PREDICT, request, pb.PredictResponse)


async def test_the_oldest_ended_versions_are_forgotten(tmp_path: Path) -> None:
    last = MAX_ENDED_VERSIONS + 4
    write_version(tmp_path, *range(1, last + 1))
    async with model_server_channel(tmp_path, FakeLoader(), policy=All()) as channel:
        client = Client(channel)
        await client.reload(model_config(tmp_path))
        async with asyncio.timeout(60):
            while len(states := await client.states()) != 1 + MAX_ENDED_VERSIONS:  # noqa: ASYNC110  # the server changes it
                await asyncio.sleep(0.01)
        assert list(states) == [last, *range(last - 1, last - 1 - MAX_ENDED_VERSIONS, -1)]
