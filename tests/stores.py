"""Places to keep an index in: a directory, memory behind fsspec, and S3 over HTTP, by a stand-in on 127.0.0.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import fsspec
from moto.server import ThreadedMotoServer

from lookalike.releases.location import open_location
from lookalike.releases.store import ObjectStore


@contextmanager
def s3() -> Iterator[str]:
    """The options of a server that holds whatever buckets are made in it."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        client = {"endpoint_url": f"http://{host}:{port}"}
        yield json.dumps({"key": "test", "secret": "test", "client_kwargs": client, "skip_instance_cache": True})
    finally:
        server.stop()


def in_bucket(options: str) -> ObjectStore:
    bucket = f"bucket-{uuid4().hex[:12]}"
    filesystem: Any = fsspec.filesystem("s3", **json.loads(options))
    filesystem.mkdir(bucket)
    return stored(f"s3://{bucket}/indexes/shop", options)


def in_memory() -> ObjectStore:
    return stored(f"memory://{uuid4().hex}/index", "")


def stored(url: str, options: str) -> ObjectStore:
    location = open_location(url, options)
    assert isinstance(location, ObjectStore)
    return location
