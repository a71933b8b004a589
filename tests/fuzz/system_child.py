"""A process with the whole system, over one implementation of the gRPC server, for fuzz tests. Starts a Redis.

Two shards that take changes, a text and product encoder, a model server, a gateway, and a node of the same index: what
production runs, built by the same functions, but for the network of the model server, which is arithmetic. It prints
the addresses as JSON, then its state for each line that it reads, until its standard input ends.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import logging
import os
import resource
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import uvloop

from encoders.image.signature import MODEL
from encoders.product import train as train_product
from encoders.serving.batching import BatchingParameters
from encoders.serving.manager import ModelManager
from encoders.serving.model import ModelConfig
from encoders.serving.policy import Latest
from encoders.serving.service import ModelServerService
from encoders.text import model as text_model
from encoders.text import train as train_text
from encoders.text_serving import product_service, text_service
from encoders.text_serving.encoder_thread import EncoderThread
from encoders.text_serving.loader import load_artifacts
from index.building.build import build
from index.serving import shard as shard_process
from index.serving.settings import ShardSettings
from lookalike.runtime import edge, lifecycle
from lookalike.runtime.standard_services import SERVING, HealthService, reflection_handler
from lookalike.v1 import index_pb2
from lookalike.vectors import F32
from node import app as node_app
from node.settings import NodeSettings
from server.app import SERVICES, build_gateway, build_shards
from server.settings import GatewaySettings
from tests.fuzz.vocabulary import IMAGE_DIM, INPUT_PX, SHARDS, TITLES
from tests.redis_servers import RedisServer
from tests.rpc.model_servers import image_signatures, write_version
from tests.rpc.text_encoders import serving_one
from tests.unit.encoders.synthetic_products import make_products
from tests.unit.index.samples import IMAGE, PRODUCT, TEXT, vectors_of


class ArithmeticModel:
    """An image model of 24 dimensions: the mean colours of eight parts of the photo."""

    def __init__(self, encoder: str) -> None:
        self.encoder, self.input_px, self.signatures = encoder, INPUT_PX, image_signatures(INPUT_PX, IMAGE_DIM)

    def __call__(self, images: npt.NDArray[np.uint8]) -> F32:
        parts = images.reshape(len(images), IMAGE_DIM // 3, -1, 3).mean(axis=2).reshape(len(images), IMAGE_DIM) + 1
        features: F32 = (parts / np.linalg.norm(parts, axis=1, keepdims=True)).astype(np.float32)
        return features


class ErrorLog(logging.Handler):
    """Keeps what is logged as an error: of a bug that is caught, or of a task or a thread that ended by one."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


async def main(directory: Path) -> None:
    errors = ErrorLog()
    logging.basicConfig(handlers=[errors])
    sys.unraisablehook = lambda unraisable: errors.lines.append(f"unraisable: {unraisable.exc_value!r}")
    threading.excepthook = lambda caught: errors.lines.append(f"thread: {caught.exc_value!r}")
    async with AsyncExitStack() as on_exit:
        addresses = await _start(directory, on_exit)
        print(json.dumps(addresses), flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            if line.strip() == "collect":
                gc.collect()
            print(json.dumps(_state(errors)), flush=True)


def _state(errors: ErrorLog) -> dict[str, Any]:
    lines, errors.lines = errors.lines, []
    return {
        "errors": lines,
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize(),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "tasks": len(asyncio.all_tasks()),
    }


async def _start(directory: Path, on_exit: AsyncExitStack) -> dict[str, str]:
    products = make_products()
    train_text.train(TITLES, directory / "text", dim=16)
    text = text_model.load(directory / "text")
    titles = [TITLES[int(category[-1])] for category in products.categories]
    products = dataclasses.replace(products, texts=text.encode(titles), text_encoder=text.fingerprint)
    train_product.train(products, directory / "product")
    encoders = load_artifacts(directory / "text", directory / "product")
    assert encoders.product is not None
    table = pa.table(
        {
            "id": products.ids,
            "title": titles,
            "description": titles,
            "category": products.categories,
            "shop": [f"shop {row % 3}" for row in range(len(titles))],
            "price": [float(row % 50) for row in range(len(titles))],
            "in_stock": [row % 4 > 0 for row in range(len(titles))],
            "tags": [list(tags) for tags in products.tags],
        }
    )
    spaces: dict[int, Any] = {
        IMAGE: vectors_of(products.images, encoder=products.image_encoder),
        TEXT: vectors_of(products.texts, encoder=text.fingerprint),
        PRODUCT: vectors_of(
            encoders.product.encode(products.images, products.texts), encoder=encoders.product.fingerprint
        ),
    }
    build(directory / "index", table, spaces, shards=SHARDS)
    redis = on_exit.enter_context(RedisServer(directory))

    shards = []
    for number in range(SHARDS):
        settings = ShardSettings(location=str(directory / "index"), shard=number, live_dir=directory / f"live-{number}")
        (shard,) = on_exit.enter_context(shard_process.open_shards(settings, [number]))
        await shard.rollout.start()
        await on_exit.enter_async_context(shard_process.running(shard, settings.poll_s))
        service = index_pb2.DESCRIPTOR.services_by_name["IndexShard"].full_name
        shards.append(await on_exit.enter_async_context(_serving([shard.service.handler()], [service])))
    thread = on_exit.enter_context(closing(EncoderThread(4096)))
    served = serving_one(encoders)
    text_handlers = [
        edge.handler(text_service.SERVICE, text_service.TextEncoderService(served, thread, 64).methods()),
        edge.handler(product_service.SERVICE, product_service.ProductEncoderService(served, thread).methods()),
    ]
    text_encoder = await on_exit.enter_async_context(_serving(text_handlers, []))
    model_server = await on_exit.enter_async_context(
        _model_server(directory / "models", ArithmeticModel(products.image_encoder))
    )
    common: dict[str, Any] = {
        "text_encoder": (text_encoder,),
        "model_server": model_server,
        "stream": redis.url,
        "redis": redis.url,
        "recall_sample": 1.0,
        "default_deadline_s": 5.0,
    }
    gateway_settings = GatewaySettings(shards=tuple(shards), **common)
    gateway = build_gateway(gateway_settings, build_shards(gateway_settings))
    on_exit.push_async_callback(gateway.close)
    await gateway.enqueuer.start()
    await on_exit.enter_async_context(lifecycle.background_task(gateway.versions.keep_fresh()))
    await gateway.versions.until_complete()
    gateway_address = await on_exit.enter_async_context(_serving(gateway.handlers, SERVICES))

    node_settings = NodeSettings(
        location=str(directory / "index"), live_dir=directory / "live-node", **{**common, "redis": ""}
    )
    node, node_shards = await on_exit.enter_async_context(node_app.open_node(node_settings))
    await node.enqueuer.start()
    for each in node_shards:
        await each.rollout.start()
        await on_exit.enter_async_context(lifecycle.background_task(each.rollout.watch(node_settings.poll_s)))
    await on_exit.enter_async_context(lifecycle.background_task(node.versions.keep_fresh()))
    await node.versions.until_complete()
    return {
        "gateway": gateway_address,
        "node": await on_exit.enter_async_context(_serving(node.handlers, SERVICES)),
        "shard": shards[0],
        "text_encoder": text_encoder,
        "model_server": model_server,
        "redis": redis.url,
        "models": str(directory / "models"),
        "version": gateway.versions.snapshot().version,
        "text_fingerprint": text.fingerprint,
        "product_fingerprint": encoders.product.fingerprint,
        "image_fingerprint": products.image_encoder,
    }


@asynccontextmanager
async def _serving(handlers: Sequence[grpc.GenericRpcHandler], services: Sequence[str]) -> AsyncIterator[str]:
    """The address of a server with these handlers, health and reflection, as `lifecycle.serve` makes it."""
    health = HealthService()
    server = edge.server([*handlers, health.handler(), reflection_handler(services)])
    for name in ("", *services):
        health.set(name, SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def _model_server(models: Path, model: ArithmeticModel) -> AsyncIterator[str]:
    write_version(models, 1)
    config = ModelConfig(name=MODEL, base_path=models / MODEL, policy=Latest(), labels={"stable": 1})
    manager = ModelManager([config], lambda path: model, BatchingParameters(max_batch_size=64), tuple)
    await manager.start()
    try:
        async with (
            lifecycle.background_task(manager.watch(0.5)),
            _serving(ModelServerService(manager, models).handlers(), []) as address,
        ):
            yield address
    finally:
        manager.close()


if __name__ == "__main__":
    implementation = sys.argv[1]
    edge.auto_implementation = lambda: implementation
    sys.setswitchinterval(0.001)
    uvloop.run(main(Path(sys.argv[2])))
