"""`lookalike encoders serving-config`: the files and flags that it writes for TensorFlow-Serving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from encoders.serving.config_files import BATCHING, MODELS, MONITORING, main, render_files, server_flags
from encoders.serving.config_messages import parse_config
from encoders.serving.settings import ModelServerSettings, batching_parameters, model_config
from encoders.tfserving.v1.config_pb2 import BatchingParameters, ModelServerConfig, MonitoringConfig
from lookalike.errors import BadSettings, OperatorError
from tests.conftest import REPOSITORY

DEPLOYED = REPOSITORY / "deploy" / "k8s" / "base" / "model-server"


def test_the_deployed_files_are_those_that_the_command_writes(tmp_path: Path) -> None:
    options = ["--num-batch-threads", "2", "--model-version-policy", "latest:2"]
    assert main(["/data/models", str(tmp_path), *options], {}) == 0
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in DEPLOYED.iterdir()
    }


def test_the_official_message_parses_the_model_config(tmp_path: Path) -> None:
    """tensorflow-serving-api contains ModelServerConfig, but not BatchingParameters and MonitoringConfig."""
    main(["/models", str(tmp_path), "--model-version-policy", "specific:3,1", "--version-labels", "stable=1,new=3"], {})
    script = """
import importlib.util, json, sys, types
empty = types.ModuleType("tensorflow")
empty.__path__ = list(importlib.util.find_spec("tensorflow").submodule_search_locations)
sys.modules["tensorflow"] = empty
from google.protobuf import json_format, text_format
from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig
config = text_format.Parse(sys.stdin.read(), ModelServerConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""
    text = (tmp_path / MODELS).read_text()
    result = subprocess.run([sys.executable, "-c", script], input=text, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout) == {
        "model_config_list": {
            "config": [
                {
                    "name": "mobilenet",
                    "base_path": "/models/mobilenet",
                    "model_platform": "tensorflow",
                    "model_version_policy": {"specific": {"versions": ["1", "3"]}},
                    "version_labels": {"stable": "1", "new": "3"},
                }
            ]
        }
    }


@pytest.mark.parametrize("policy", ["latest:1", "latest:3", "all", "specific:2,7"])
def test_the_model_config_is_that_of_the_embedded_server(tmp_path: Path, policy: str) -> None:
    (tmp_path / "mobilenet").mkdir()
    settings = ModelServerSettings(models=tmp_path, model_version_policy=policy, version_labels=("stable=2",))
    config = text_format.Parse(render_files(settings)[MODELS], ModelServerConfig())
    assert parse_config(config, tmp_path) == [model_config(settings)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_batch_size": 8, "enable_large_batch_splitting": False, "allowed_batch_sizes": ("2", "8")},
        {"batch_timeout_micros": 500, "max_enqueued_batches": 7, "num_batch_threads": 3},
        {"max_batch_size": 64, "max_execution_batch_size": 0},
    ],
)
def test_the_batching_parameters_are_those_of_the_embedded_server(changes: dict[str, Any]) -> None:
    settings = ModelServerSettings(**changes)
    config = text_format.Parse(render_files(settings)[BATCHING], BatchingParameters())
    parameters = batching_parameters(settings)
    assert config.max_batch_size.value == parameters.max_batch_size
    assert config.batch_timeout_micros.value == parameters.batch_timeout_micros
    assert config.max_enqueued_batches.value == parameters.max_enqueued_batches
    assert config.num_batch_threads.value == parameters.num_batch_threads
    assert config.enable_large_batch_splitting.value == parameters.enable_large_batch_splitting
    assert (config.max_execution_batch_size.value or config.max_batch_size.value) == parameters.max_execution_rows
    assert tuple(config.allowed_batch_sizes) == parameters.allowed_batch_sizes


def test_the_metrics_path_is_that_of_tensorflow_serving() -> None:
    config = text_format.Parse(render_files(ModelServerSettings())[MONITORING], MonitoringConfig()).prometheus_config
    assert (config.enable, config.path) == (True, "/monitoring/prometheus/metrics")


def test_environment_variables_are_read_and_flags_override_them(tmp_path: Path) -> None:
    environ = {"LOOKALIKE_MODEL_SERVER_MAX_ENQUEUED_BATCHES": "5", "LOOKALIKE_MODEL_SERVER_NUM_BATCH_THREADS": "5"}
    main(["/models", str(tmp_path), "--num-batch-threads", "6"], environ)
    config = text_format.Parse((tmp_path / BATCHING).read_text(), BatchingParameters())
    assert (config.max_enqueued_batches.value, config.num_batch_threads.value) == (5, 6)


def test_the_flags_that_go_with_the_files_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["/models", str(tmp_path)], {})
    printed = capsys.readouterr().out
    assert f"--model_config_file={tmp_path / MODELS}" in printed
    assert "allow_version_labels" not in printed
    labelled = ModelServerSettings(version_labels=("stable=1",), file_system_poll_wait_seconds=0.2)
    assert "--allow_version_labels_for_unavailable_models=true" in server_flags(labelled, tmp_path)
    assert "--file_system_poll_wait_seconds=1" in server_flags(labelled, tmp_path)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["models"], "absolute"),
        (["/models", "--max-batch-size", "0"], "max-batch-size=0"),
        (["/models", "--max-batch-size", "8"], "max_execution_batch_size=16"),
        (["/models", "--allowed-batch-sizes", "1,x"], "not whole numbers"),
        (["/models", "--model-version-policy", "newest"], "newest"),
        (["/models", "--version-labels", "stable"], "expected LABEL=VERSION"),
    ],
)
def test_invalid_settings_are_refused_and_nothing_is_written(tmp_path: Path, argv: list[str], message: str) -> None:
    folder = tmp_path / "out"
    with pytest.raises(BadSettings, match=message):
        main([argv[0], str(folder), *argv[1:]], {})
    assert not folder.exists()


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OperatorError, match="cannot be written"):
        main(["/models", str(tmp_path / "out")], {})
