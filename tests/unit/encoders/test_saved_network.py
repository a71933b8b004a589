"""One's own SavedModel with a card, exported as an image model, with real TensorFlow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from encoders.image import export
from encoders.image.card import CARD_FILE, read_card
from encoders.image.models import find_model, find_versions
from encoders.image.tensorflow_runtime import import_tensorflow
from encoders.serving.batching import BatchingParameters
from encoders.serving.saved_model import SavedModel
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, normalised

pytestmark = pytest.mark.slow  # Imports TensorFlow.

PX, DIM = 32, 6
CARD = {"network": "shopnet", "input_px": PX, "preprocessing": "torch", "output": "embedding", "dimension": DIM}
MEAN, STD = (np.array(each, np.float32) for each in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow({})


@pytest.fixture(scope="module")
def network(tf: Any) -> Any:
    """A convolution with variables, its feature maps averaged and projected."""

    class Network(tf.Module):  # type: ignore[misc]  # tf is Any
        def __init__(self) -> None:
            draw = np.random.default_rng(0).standard_normal
            self.kernel = tf.Variable(draw((3, 3, 3, 8)).astype(np.float32))
            self.projection = tf.Variable(draw((8, DIM)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, PX, PX, 3), tf.float32, name="pixels")])  # type: ignore[untyped-decorator]
        def embed(self, pixels: Any) -> dict[str, Any]:
            maps = tf.nn.relu(tf.nn.conv2d(pixels, self.kernel, strides=2, padding="SAME"))
            return {"maps": maps, "embedding": tf.reduce_mean(maps, axis=(1, 2)) @ self.projection + 0.1}

        @tf.function(input_signature=[tf.TensorSpec((None, PX, PX, 3), tf.uint8, name="pixels")])  # type: ignore[untyped-decorator]
        def embed_bytes(self, pixels: Any) -> dict[str, Any]:
            return {"embedding": self.embed(tf.cast(pixels, tf.float32) / 255)["embedding"]}

        @tf.function(input_signature=[tf.TensorSpec((None, PX, PX, 3), tf.float32, name="pixels")])  # type: ignore[untyped-decorator]
        def embed_nothing(self, pixels: Any) -> dict[str, Any]:
            return {"embedding": self.embed(pixels)["embedding"] * 0}

        @tf.function(input_signature=[tf.TensorSpec((1, PX, PX, 3), tf.float32, name="pixels")])  # type: ignore[untyped-decorator]
        def embed_one(self, pixels: Any) -> dict[str, Any]:
            return {"embedding": self.embed(pixels)["embedding"]}

    return Network()


@pytest.fixture(scope="module")
def shopnet(tf: Any, network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a SavedModel without a card."""
    folder = tmp_path_factory.mktemp("shopnet")
    signatures = {
        "serving_default": network.embed,
        "bytes": network.embed_bytes,
        "nothing": network.embed_nothing,
        "one": network.embed_one,
    }
    tf.saved_model.save(network, str(folder), signatures=signatures)
    return folder


def write(folder: Path, **changes: Any) -> Path:
    (folder / CARD_FILE).write_text(json.dumps({**CARD, **changes}))
    return folder


def serve(tf: Any, version: Path) -> SavedModel:
    return SavedModel(tf, version, BatchingParameters(max_batch_size=4))


def pictures() -> npt.NDArray[np.uint8]:
    small = np.random.default_rng(1).integers(0, 256, (5, 4, 4, 3), dtype=np.uint8)
    return small.repeat(8, axis=1).repeat(8, axis=2)


def embed(network: Any, pixels: npt.NDArray[Any]) -> F32:
    return normalised(network.embed(pixels.astype(np.float32))["embedding"].numpy())


def test_ones_own_network_is_served_with_the_preprocessing_of_its_card(
    tf: Any, network: Any, shopnet: Path, tmp_path: Path
) -> None:
    images = pictures()
    unit, numbers = images / np.float32(255), {"mean": [10, 20, 30], "std": [4, 5, 6], "channels": "BGR"}
    vectors: list[F32] = []
    for preprocessing, pixels in (
        ("torch", (unit - MEAN) / STD),
        (numbers, (images[..., ::-1].astype(np.float32) - [10, 20, 30]) / [4, 5, 6]),
    ):
        exported = export.export_saved_model(tmp_path, write(shopnet, preprocessing=preprocessing), tf=tf)
        model = serve(tf, exported.path)
        vectors.append(model(images))
        # Measured: at most 2e-7 apart.
        np.testing.assert_allclose(vectors[-1], embed(network, pixels), rtol=0, atol=1e-5)
        assert (model.encoder, model.input_px) == (exported.encoder, PX)
        card = read_card(exported.path)
        assert (card.network, card.dimension, card.output) == ("shopnet", DIM, "features")
    assert (vectors[0] * vectors[1]).sum(axis=1).max() < 0.99, "the preprocessing counts"


def test_another_preprocessing_is_another_encoder_and_the_same_is_not_exported_twice(
    tf: Any, shopnet: Path, tmp_path: Path
) -> None:
    first = export.export_saved_model(tmp_path, write(shopnet), tf=tf)
    same = export.export_saved_model(tmp_path, write(shopnet), tf=tf)
    other = export.export_saved_model(tmp_path, write(shopnet, preprocessing="tf"), tf=tf)
    assert (first, other.version) == (same, 2)
    assert first.encoder != other.encoder
    assert {first.encoder[:8], other.encoder[:8]} == {"shopnet-"}
    with pytest.raises(BadArtifact, match=f"fingerprint '{first.encoder}', but this network with this preprocessing"):
        export.export_saved_model(tmp_path, write(shopnet, preprocessing="tf", fingerprint=first.encoder), tf=tf)
    assert list(find_versions(tmp_path)) == [1, 2]


def test_the_command_exports_a_network_that_takes_bytes_under_a_name_of_its_own(
    tf: Any, network: Any, shopnet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(shopnet, preprocessing="in-network", signature="bytes")
    arguments = [str(tmp_path), "--saved-model", str(shopnet), "--model", "shopnet", "--json"]
    assert export.main(arguments, {}) == 0
    exported = find_model(tmp_path, name="shopnet")
    assert json.loads(capsys.readouterr().out)["encoder"] == exported.encoder
    expected = embed(network, pictures() / np.float32(255))
    np.testing.assert_allclose(serve(tf, exported.path)(pictures()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dimension": 8}, "dimension 8, but output 'embedding' of the model has 6; correct the card"),
        ({"output": "features"}, "output 'features' is missing in the model; its outputs are embedding, maps"),
        ({"output": "maps"}, r"output 'maps' is \(2, 16, 16, 8\) for two images; .* pool the features"),
        ({"preprocessing": "vgg"}, 'preprocessing "vgg": unknown; expected one of in-network'),
        ({"input_px": 64}, r"input_px 64, but the model's input 'pixels' is \(\?, 32, 32, 3\); it has to be \(\?, 64,"),
        ({"input": "images"}, "input 'images': the model's inputs are pixels"),
        ({"signature": "embed"}, "signature 'embed' is missing in the model; its signatures are bytes, nothing, one"),
        ({"signature": "bytes"}, "preprocessing 'torch' gives fractions, .* is uint8; .* say \"in-network\""),
        ({"signature": "one"}, r"the model's input 'pixels' is \(1, 32, 32, 3\); .* any number of images"),
        ({"signature": "nothing"}, "all zero or not finite, so they have no direction; is it the preprocessing"),
    ],
)
def test_a_card_that_the_model_contradicts_is_refused_by_name_and_nothing_is_written(
    tf: Any, shopnet: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadArtifact, match=rf"card\.json: .*{message}"):
        export.export_saved_model(tmp_path / "models", write(shopnet, **changes), tf=tf)
    assert not (tmp_path / "models").exists()


def test_a_folder_that_is_no_saved_model_is_refused(tf: Any, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="is not a SavedModel"):
        export.export_saved_model(tmp_path / "models", write(tmp_path), tf=tf)


def test_ones_own_saved_model_in_the_place_of_an_exported_version_is_refused(tf: Any, shopnet: Path) -> None:
    with pytest.raises(BadArtifact, match="'lookalike encoders export MODELS_DIR --saved-model"):
        serve(tf, write(shopnet))
