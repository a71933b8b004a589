"""The settings of the gateway: invalid values are refused before it starts."""

from __future__ import annotations

import pytest

from encoders.image.client import MAX_IMAGES
from lookalike.errors import BadSettings
from lookalike.runtime.settings import load
from server.settings import GatewaySettings


def load_settings(*flags: str) -> GatewaySettings:
    return load(GatewaySettings, {}, flags, description="")


def test_image_batch_is_bounded_by_what_the_image_encoder_client_accepts() -> None:
    assert load_settings("--image-batch", str(MAX_IMAGES)).image_batch == MAX_IMAGES
    with pytest.raises(BadSettings, match=rf"--image-batch={MAX_IMAGES + 1}: not in 1\.\.{MAX_IMAGES}"):
        load_settings("--image-batch", str(MAX_IMAGES + 1))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--auto-policy", "fashion=sound,*=text"), "auto policy 'fashion=sound': 'sound' is not one of"),
        (("--auto-policy", "fashion=image"), "no entry for"),
        (("--auto-photo", "text"), "auto policy 'auto_photo=text'"),
        (("--auto-text", "product>product"), "product is listed twice"),
        (("--model-version", "1", "--model-label", "stable"), "model_version=1, model_label=stable: set at most one"),
    ],
)
def test_settings_that_the_gateway_cannot_start_with_are_refused_by_check_config(
    flags: tuple[str, ...], reason: str
) -> None:
    with pytest.raises(BadSettings, match=reason):
        load_settings(*flags, "--check-config")
