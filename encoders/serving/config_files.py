"""The command `lookalike encoders serving-config`: write the model server's settings as TensorFlow-Serving's files."""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from google.protobuf import text_format
from google.protobuf.message import Message
from google.protobuf.wrappers_pb2 import BoolValue, Int64Value

from encoders.serving import config_messages
from encoders.serving.batching import BatchingParameters
from encoders.serving.settings import ModelServerSettings, batching_parameters, model_config
from encoders.tfserving.v1 import config_pb2 as pb
from lookalike.errors import BadSettings, OperatorError
from lookalike.runtime.settings import load

METRICS_PATH: Final = "/monitoring/prometheus/metrics"  # TensorFlow-Serving's own.
MODELS, BATCHING, MONITORING = "models.config", "batching.config", "monitoring.config"
_SHARED_SETTINGS: Final = (
    "model",
    "model_version_policy",
    "version_labels",
    "file_system_poll_wait_seconds",
    "max_batch_size",
    "batch_timeout_micros",
    "max_enqueued_batches",
    "num_batch_threads",
    "enable_large_batch_splitting",
    "max_execution_batch_size",
    "allowed_batch_sizes",
)

_EPILOG: Final = """\
examples:
  lookalike encoders serving-config /data/models tf-serving
  lookalike encoders serving-config /data/models tf-serving --max-batch-size 16 --version-labels stable=3,canary=4

The options are settings of 'lookalike serve model-server'; its environment variables are read too."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders serving-config",
        description=f"Write {MODELS}, {BATCHING} and {MONITORING} for TensorFlow-Serving, and print its flags.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODELS_DIR", help="folder in which TensorFlow-Serving finds MODEL/<version>")
    parser.add_argument("out", metavar="OUT_DIR", type=Path, help="folder to write the files to")
    fields = {field.name: field for field in dataclasses.fields(ModelServerSettings)}
    for name in _SHARED_SETTINGS:
        text = f"{fields[name].metadata['help']} [default: {fields[name].default!r}]"
        parser.add_argument(_flag(name), metavar="VALUE", help=text.replace("%", "%%"))
    options = vars(parser.parse_args(argv))
    if not Path(options["models"]).is_absolute():
        raise BadSettings(f"MODELS_DIR {options['models']}: TensorFlow-Serving requires an absolute path")
    arguments = [
        argument for name in _SHARED_SETTINGS if options[name] is not None for argument in (_flag(name), options[name])
    ]
    settings = load(ModelServerSettings, environ, [*arguments, "--models", options["models"]], description="")
    write_files(settings, options["out"])
    print("tensorflow_model_server", *server_flags(settings, options["out"]), sep=" \\\n    ")
    return 0


def render_files(settings: ModelServerSettings) -> dict[str, str]:
    """File name -> content, in protocol buffers' text format. Raises BadSettings."""
    prometheus = pb.PrometheusConfig(enable=True, path=METRICS_PATH)
    messages: dict[str, Message] = {
        MODELS: config_messages.config_to_message([model_config(settings)]),
        BATCHING: _batching_message(batching_parameters(settings)),
        MONITORING: pb.MonitoringConfig(prometheus_config=prometheus),
    }
    return {name: text_format.MessageToString(message) for name, message in messages.items()}


def write_files(settings: ModelServerSettings, folder: Path) -> None:
    """Write the files to `folder`. Raises BadSettings, OperatorError."""
    contents = render_files(settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"{folder} cannot be written: {error}") from error


def server_flags(settings: ModelServerSettings, folder: Path) -> list[str]:
    """The flags of tensorflow_model_server that go with the files."""
    label_flags = ["--allow_version_labels_for_unavailable_models=true"] if settings.version_labels else []
    return [
        f"--model_config_file={folder / MODELS}",
        "--enable_batching=true",
        f"--batching_parameters_file={folder / BATCHING}",
        f"--monitoring_config_file={folder / MONITORING}",
        "--rest_api_port=8501",  # Metrics are served on this port.
        f"--file_system_poll_wait_seconds={math.ceil(settings.file_system_poll_wait_seconds)}",
        *label_flags,  # At startup no version is loaded yet, and labels would be refused.
    ]


def _batching_message(parameters: BatchingParameters) -> pb.BatchingParameters:
    message = pb.BatchingParameters(
        max_batch_size=Int64Value(value=parameters.max_batch_size),
        batch_timeout_micros=Int64Value(value=parameters.batch_timeout_micros),
        max_enqueued_batches=Int64Value(value=parameters.max_enqueued_batches),
        num_batch_threads=Int64Value(value=parameters.num_batch_threads),
        allowed_batch_sizes=parameters.allowed_batch_sizes,
        enable_large_batch_splitting=BoolValue(value=parameters.enable_large_batch_splitting),
    )
    if parameters.enable_large_batch_splitting:
        message.max_execution_batch_size.value = parameters.max_execution_rows
    return message


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
