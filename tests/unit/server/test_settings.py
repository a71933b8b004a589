"""The settings of the gateway: invalid values are refused before it starts."""

from __future__ import annotations

import pytest

from encoders.image.client import max_images
from encoders.image.signature import DEFAULT_INPUT_PX
from lookalike.errors import BadSettings
from lookalike.runtime.settings import load
from server.settings import GatewaySettings


def load_settings(*flags: str) -> GatewaySettings:
    return load(GatewaySettings, {}, flags, description="")


def test_image_batch_is_bounded_by_what_fits_in_a_message() -> None:
    most = max_images(DEFAULT_INPUT_PX)
    assert load_settings("--image-batch", str(most)).image_batch == most
    with pytest.raises(BadSettings, match=rf"--image-batch={most + 1}: not in 1\.\.{most}"):
        load_settings("--image-batch", str(most + 1))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--auto-policy", "fashion=sound,*=text"), "auto policy 'fashion=sound': 'sound' is not one of"),
        (("--auto-policy", "fashion=image"), "no entry for"),
        (("--auto-photo", "text"), "auto policy 'auto_photo=text'"),
        (("--auto-text", "product>product"), "product is listed twice"),
        (("--shards", "a:1,,b:1"), "--shards=a:1,,b:1: not a list: one of its entries is empty"),
        (("--shards", "a:1+,b:1"), r"shards: 'a:1\+' has an empty address: join those of replicas by one \+"),
        (("--shards", "a:1,b"), "shards: 'b' in 'b': expected host:port"),
        (("--shards", "a:1+b:port"), r"shards: 'b:port' in 'a:1\+b:port': expected host:port"),
        (("--shards", "a:1,b:65536"), "expected host:port"),
        (("--shards", ":1"), "expected host:port"),
        (("--shards", "a:1+b:1,b:1"), "shards: b:1 is given for shard 0 and for shard 1"),
        (("--shards", "10.0.0.1:1", "--write-quorum", "2"), "write_quorum=2: shard 0 has 1 replicas"),
        (("--model-version", "1", "--model-label", "stable"), "model_version=1, model_label=stable: set at most one"),
    ],
)
def test_settings_that_the_gateway_cannot_start_with_are_refused_by_check_config(
    flags: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(BadSettings, match=reason):
        load_settings(*flags, "--check-config")


def test_shards_are_given_by_ordinal_and_their_replicas_joined() -> None:
    settings = load_settings("--shards", "a:7000 + b:7000, [::1]:7001,name:7002,", "--write-quorum", "1")
    assert settings.replicas() == [("a:7000", "b:7000"), ("[::1]:7001",), ("name:7002",)]
