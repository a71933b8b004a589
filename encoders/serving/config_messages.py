"""Convert TensorFlow-Serving's ModelServerConfig to and from ModelConfig. Only I/O: checks that base paths exist."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from encoders.serving.model import ModelConfig
from encoders.serving.policy import All, Latest, Specific, VersionPolicy
from encoders.tfserving.v1 import config_pb2 as pb
from lookalike.errors import InvalidRequest

PLATFORM: Final = "tensorflow"
_PolicyMessage = pb.FileSystemStoragePathSourceConfig.ServableVersionPolicy


def parse_config(config: pb.ModelServerConfig, models: Path) -> list[ModelConfig]:
    """Parse the config of a ReloadConfigRequest. Raises InvalidRequest, with TensorFlow-Serving's messages.

    models: the only folder in which a request's base paths may be.
    """
    if config.WhichOneof("config") != "model_config_list":
        kinds = "Only ModelConfigList is currently supported"
        raise InvalidRequest("config", f"ServerModelConfig type not supported by HandleReloadConfigRequest. {kinds}")
    entries = config.model_config_list.config
    names = [entry.name for entry in entries]
    for entry in entries:
        if names.count(entry.name) > 1:
            raise InvalidRequest("config", f"Illegal to list model {entry.name} multiple times in config list")
        if entry.model_platform != PLATFORM:
            platform = entry.model_platform
            raise InvalidRequest("config", f"Model {entry.name} requests unsupported platform {platform}")
    return [_parse_model(entry, models.resolve()) for entry in entries]


def config_to_message(configs: Sequence[ModelConfig]) -> pb.ModelServerConfig:
    entries = [
        pb.ModelConfig(
            name=config.name,
            base_path=str(config.base_path),
            model_platform=PLATFORM,
            model_version_policy=_policy_to_message(config.policy),
            version_labels=config.labels,
        )
        for config in configs
    ]
    return pb.ModelServerConfig(model_config_list=pb.ModelConfigList(config=entries))


def _parse_model(entry: pb.ModelConfig, models: Path) -> ModelConfig:
    if not entry.name:
        raise InvalidRequest("config", "a model has no name")
    base_path = Path(entry.base_path).resolve()
    if base_path.parent != models or not base_path.is_dir():
        raise InvalidRequest("config", f"Could not find base path {entry.base_path} for servable {entry.name}")
    return ModelConfig(
        name=entry.name,
        base_path=base_path,
        policy=_parse_policy(entry.model_version_policy),
        labels=dict(entry.version_labels),
    )


def _parse_policy(policy: _PolicyMessage) -> VersionPolicy:
    match policy.WhichOneof("policy_choice"):
        case "all":
            return All()
        case "specific":
            return Specific(frozenset(policy.specific.versions))
        case _:
            return Latest(max(policy.latest.num_versions, 1))


def _policy_to_message(policy: VersionPolicy) -> _PolicyMessage:
    match policy:
        case All():
            return _PolicyMessage(all=_PolicyMessage.All())
        case Specific(versions):
            return _PolicyMessage(specific=_PolicyMessage.Specific(versions=sorted(versions)))
        case Latest(num_versions):
            return _PolicyMessage(latest=_PolicyMessage.Latest(num_versions=num_versions))
