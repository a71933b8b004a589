"""The current version of an index location, `serve local`, and the specs of its processes."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from lookalike.cli.dispatch import run
from lookalike.errors import BadArtifact
from lookalike.local import location, process_specs, serve
from lookalike.local.location import ServedIndex
from tests.conftest import REPOSITORY


def write(index: Path, manifest: Mapping[str, object]) -> None:
    (index / "v1").mkdir(parents=True)
    (index / "CURRENT").write_text("v1\n")
    (index / "v1" / "manifest.json").write_text(json.dumps(manifest))


def test_the_current_version_has_its_shards_and_spaces(tmp_path: Path) -> None:
    write(tmp_path, {"shards": 3, "spaces": [{"name": "image"}, {"name": "text"}]})
    assert location.read_current(tmp_path) == ServedIndex(version="v1", shards=3, spaces=("image", "text"))


@pytest.mark.parametrize("manifest", [{}, {"spaces": 1}, {"spaces": [1]}])
def test_a_damaged_manifest_is_an_error(tmp_path: Path, manifest: Mapping[str, object]) -> None:
    write(tmp_path, manifest)
    with pytest.raises(BadArtifact, match="damaged"):
        location.read_current(tmp_path)


def test_a_missing_index_is_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: serve.main([str(tmp_path / "nothing")], {})) == 2
    assert "no index here" in capsys.readouterr().err


def test_a_port_in_use_is_exit_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, {"shards": 1, "spaces": []})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = str(listener.getsockname()[1])
        assert run(lambda: serve.main([str(tmp_path), "--port", port], {})) == 2
    assert f"port {port} of 127.0.0.1 is already in use" in capsys.readouterr().err


def test_a_node_gets_the_address_of_every_process_beside_it_and_no_others() -> None:
    encoder = process_specs.text_encoder(Path("/index"), 7100)
    command = process_specs.node(Path("/index"), 50051, text_encoder=encoder).command
    flags = dict(zip(command[5::2], command[6::2], strict=True))
    assert (flags["--location"], flags["--text-encoder"]) == ("/index", "127.0.0.1:7100")
    assert (flags["--model-server"], flags["--redis"]) == ("", "")
    assert flags["--host"] == "127.0.0.1"


def test_replicas_of_a_shard_are_peers_with_directories_of_their_own() -> None:
    groups = process_specs.replicas(Path("/index"), 2, 2, [1, 2, 3, 4], live_dir=Path("/changes"))
    flags = [dict(zip(each.command[5::2], each.command[6::2], strict=True)) for group in groups for each in group]
    assert [each["--shard"] for each in flags] == ["0", "0", "1", "1"]
    assert [each["--peers"] for each in flags] == ["127.0.0.1:1,127.0.0.1:2"] * 2 + ["127.0.0.1:3,127.0.0.1:4"] * 2
    assert [each["--live-dir"] for each in flags] == ["/changes", "/changes/replica-1"] * 2
    gateway = process_specs.gateway(groups, 50051).command
    assert "127.0.0.1:1+127.0.0.1:2,127.0.0.1:3+127.0.0.1:4" in gateway


def test_replicas_that_take_no_updates_have_no_peers() -> None:
    ((only,),) = process_specs.replicas(Path("/index"), 1, 1, [1])
    assert only.command[only.command.index("--peers") + 1] == ""
    assert "--live-dir" not in only.command


def test_redis_from_the_path_wins_over_the_bundled_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = tmp_path / "redis-server"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert process_specs.redis_executable() == server
    monkeypatch.setenv("PATH", "")
    bundled = process_specs.redis_executable()
    assert bundled is None or bundled.is_file()


def test_commands_run_in_the_repository_that_holds_the_packages() -> None:
    assert process_specs.ROOT == REPOSITORY
