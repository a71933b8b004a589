"""Images are pinned by the digests of a real HTTP server that speaks the API of a registry, with its tokens."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.unit.deploy.kustomize import build, pod_specs
from tools.pin_images import MANIFESTS, main

INDEX = MANIFESTS[0]


def manifest(text: str) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [{"platform": {"os": text}}]}).encode()


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


@dataclass
class Registry:
    """Repositories by name and tag, readable with a token that names the repository."""

    manifests: dict[tuple[str, str], bytes]
    media_type: str = INDEX
    told_digest: str | None = None
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        path, _, query = handler.path.partition("?")
        self.asked.append(path)
        if path == "/token":
            return 200, {}, json.dumps({"token": query.partition("scope=")[2]}).encode()
        repository, _, tag = path.removeprefix("/v2/").partition("/manifests/")
        token = f"repository%3A{repository.replace('/', '%2F')}%3Apull"
        if handler.headers.get("Authorization") != f"Bearer {token}":
            scope = f"repository:{repository}:pull"
            return 401, {"WWW-Authenticate": f'Bearer realm="{self.url}/token",service="here",scope="{scope}"'}, b""
        body = self.manifests.get((repository, tag))
        if body is None or INDEX not in handler.headers["Accept"]:
            return 404, {}, b""
        return 200, {"Content-Type": self.media_type, "Docker-Content-Digest": self.told_digest or digest(body)}, body


@pytest.fixture
def registry() -> Iterator[Registry]:
    tags = [("library/python", "3.11-slim"), ("library/redis", "8.2-alpine"), ("tensorflow/serving", "2.19.0")]
    registry = Registry({tag: manifest(tag[0]) for tag in tags})

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = registry.answer(self)
            self.send_response(status)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        registry.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield registry
        server.shutdown()
        thread.join()


@pytest.fixture
def deploy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY / "deploy", tmp_path / "deploy"))


def run(registry: Registry, deploy: Path, *options: str) -> int:
    return main(["--registry", registry.url, "--deploy", str(deploy), *options])


def contents(deploy: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in deploy.rglob("*") if path.is_file()}


def test_every_image_of_others_is_pinned_by_the_digest_of_its_list_of_platforms(
    registry: Registry, deploy: Path
) -> None:
    assert run(registry, deploy) == 0
    python = f"python:3.11-slim@{digest(manifest('library/python'))}"
    dockerfile = (deploy / "images" / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM {python} AS base\n" in dockerfile
    assert f"FROM {python} AS build\n" in dockerfile
    images = {
        container["image"]
        for document in build(deploy / "k8s" / "base")
        for spec in pod_specs(document)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
        if not container["image"].startswith("lookalike/")
    }
    assert images == {
        f"redis:8.2-alpine@{digest(manifest('library/redis'))}",
        f"tensorflow/serving:2.19.0@{digest(manifest('tensorflow/serving'))}",
    }
    assert run(registry, deploy, "--check") == 0


def test_an_image_that_names_its_registry_is_asked_for_there(
    registry: Registry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    host = registry.url.removeprefix("http://")
    (tmp_path / "Dockerfile").write_text(f"FROM {host}/library/redis:8.2-alpine\n")
    assert run(Registry({}, url="http://127.0.0.1:1"), tmp_path) == 2  # By https, which this server does not speak.
    assert f"https://{host}/v2/library/redis/manifests/8.2-alpine" in capsys.readouterr().err
    assert (tmp_path / "Dockerfile").read_text() == f"FROM {host}/library/redis:8.2-alpine\n"


def test_check_finds_a_tag_that_has_moved_and_changes_nothing(
    registry: Registry, deploy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(deploy)
    assert run(registry, deploy, "--check") == 1
    assert contents(deploy) == before
    run(registry, deploy)
    pinned = contents(deploy)
    registry.manifests["library/redis", "8.2-alpine"] = manifest("another")
    capsys.readouterr()
    assert run(registry, deploy, "--check") == 1
    assert contents(deploy) == pinned
    assert "k8s/base/kustomization.yaml: not pinned" in capsys.readouterr().out
    assert run(registry, deploy) == 0
    assert run(registry, deploy, "--check") == 0


def test_a_manifest_that_is_not_that_of_its_digest_is_refused(
    registry: Registry, deploy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(deploy)
    registry.told_digest = "sha256:" + "0" * 64
    assert run(registry, deploy) == 2
    assert "not that of its Docker-Content-Digest" in capsys.readouterr().err
    registry.told_digest, registry.media_type = None, "text/html"
    assert run(registry, deploy) == 2
    assert "no manifest, but text/html" in capsys.readouterr().err
    assert contents(deploy) == before


def test_without_a_registry_or_a_tag_nothing_is_written(registry: Registry, deploy: Path) -> None:
    before = contents(deploy)
    del registry.manifests["tensorflow/serving", "2.19.0"]
    assert run(registry, deploy) == 2
    assert run(Registry({}, url="http://127.0.0.1:1"), deploy) == 2
    assert contents(deploy) == before
