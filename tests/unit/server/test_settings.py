"""The gateway's settings: what is refused before it starts."""

from __future__ import annotations

import pytest

from encoders.image.client import MAX_IMAGES
from lookalike.errors import BadSettings
from lookalike.settings import load
from server.settings import GatewaySettings


def loaded(*flags: str) -> GatewaySettings:
    return load(GatewaySettings, {}, flags, description="")


def test_a_batch_of_photos_is_as_large_as_the_encoders_client_takes_and_no_larger() -> None:
    assert loaded("--image-batch", str(MAX_IMAGES)).image_batch == MAX_IMAGES
    with pytest.raises(BadSettings, match=rf"--image-batch={MAX_IMAGES + 1}: not in 1\.\.{MAX_IMAGES}"):
        loaded("--image-batch", str(MAX_IMAGES + 1))
