"""The export of image models as SavedModels, with real TensorFlow."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import json
import logging
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from encoders.image import export
from encoders.image.batch_norm_folding import compute_features, fold_batch_norms
from encoders.image.card import compute_fingerprint, read_card, write_card
from encoders.image.models import ExportedModel, find_model, find_versions, list_versions
from encoders.image.networks import build_network, describe
from encoders.image.preprocessing import preprocess
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.image.tensorflow_runtime import import_tensorflow
from encoders.serving.batching import BatchingParameters
from encoders.serving.saved_model import SavedModel
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.vectors import F32, normalised

# Importing TensorFlow, exporting and loading models take most of the time.
pytestmark = pytest.mark.slow

DIM = 1024  # Of MobileNet v1.
BATCHES_OF_ONE = BatchingParameters(max_batch_size=1)


@pytest.fixture(scope="module")
def tf() -> Any:
    return import_tensorflow({})


@pytest.fixture(scope="module")
def untrained(tf: Any, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export.export(tmp_path_factory.mktemp("models"), weights="untrained", seed=3, tf=tf)


def noise(count: int, side_px: int = 224) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, side_px, side_px, 3), dtype=np.uint8)


def run(model: ExportedModel, tf: Any, images: npt.NDArray[np.uint8]) -> dict[str, Any]:
    loaded = tf.saved_model.load(str(model.path))
    return {name: value.numpy() for name, value in loaded.signatures[SIGNATURE](**{IMAGES: images}).items()}


def test_the_saved_model_returns_the_normalised_features_of_keras(untrained: ExportedModel, tf: Any) -> None:
    images = noise(3)
    features = build_network("untrained", 3).predict(images / np.float32(127.5) - 1, verbose=0)
    assert np.linalg.norm(features, axis=1).max() < 1e-9, (
        "features so small that an epsilon in the normalisation would change them"
    )
    outputs = run(untrained, tf, images)
    np.testing.assert_allclose(outputs[FEATURES], normalised(features), atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(outputs[FEATURES], axis=1), 1, atol=1e-5)


def patches(count: int, side_px: int) -> npt.NDArray[np.uint8]:
    """Pictures that differ when they are average-pooled, too: a few squares in colours of their own."""
    small = np.random.default_rng(1).integers(0, 256, (count, 3, 3, 3), dtype=np.uint8)
    return small.repeat(side_px // 3, axis=1).repeat(side_px // 3, axis=2)


def normalise_by(net: Any, pixels: npt.NDArray[np.float32]) -> None:
    """Give batch normalisations the statistics of these pixels; untrained ones let a deep network forget its input."""
    import keras

    for layer in net.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    net(pixels, training=True)


@pytest.fixture(scope="module")
def random_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights with random batch normalisations: in a new network, and in the ImageNet weights of the test data, these
    are almost the identity."""
    net = build_network("untrained", 5)
    random = np.random.default_rng(5)
    for layer in net.layers:
        if layer.name.endswith("_bn"):
            gamma, beta, mean, variance = (
                random.uniform(low, 1.5, layer.gamma.shape) for low in (0.5, -0.5, -0.5, 0.5)
            )
            layer.set_weights([2 * gamma, beta, mean, variance])
    file = tmp_path_factory.mktemp("weights") / "random.weights.h5"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras' own save_weights
        net.save_weights(file)
    return file


def test_folding_batch_norms_into_the_convolutions_changes_no_features(
    random_weights: Path, tf: Any, tmp_path: Path
) -> None:
    images, net = noise(3), build_network(str(random_weights))
    expected = net.predict(images / np.float32(127.5) - 1, verbose=0)
    raw = compute_features(tf, fold_batch_norms(net), images / np.float32(127.5) - 1, "float32").numpy()
    assert expected.std() > 0.01, "the features differ enough for the comparison to mean something"
    np.testing.assert_allclose(raw, expected, atol=1e-4)
    exported = export.export(tmp_path, weights=str(random_weights), tf=tf)
    np.testing.assert_allclose(run(exported, tf, images)[FEATURES], normalised(expected), atol=1e-4)


def test_the_exported_model_has_only_constants(untrained: ExportedModel, tf: Any) -> None:
    assert not tf.train.list_variables(str(untrained.path / "variables" / "variables"))[1:]  # [0]: the list of objects.
    # Its 3.2 million weights once, of four bytes, and the graph.
    assert 12.8e6 < (untrained.path / "saved_model.pb").stat().st_size < 13.5e6


def test_bfloat16_is_another_encoder_with_nearly_the_same_vectors(
    random_weights: Path, tf: Any, tmp_path: Path
) -> None:
    arguments = [str(tmp_path), "--weights", str(random_weights)]
    assert export.main(arguments, {}) == export.main([*arguments, "--precision", "bfloat16"], {}) == 0
    first, second = list_versions(tmp_path)
    assert (first.precision, second.precision) == ("float32", "bfloat16")
    assert second.encoder == first.encoder.replace("mobilenet-", "mobilenet-bfloat16-")
    assert second.size_bytes < first.size_bytes - 6e6
    vectors = [run(find_model(tmp_path, version), tf, noise(2)) for version in (1, 2)]
    cosines = (vectors[0][FEATURES] * vectors[1][FEATURES]).sum(axis=1)
    assert vectors[1][ENCODER].tolist() == [second.encoder.encode()] * 2
    assert (cosines > 0.99).all()
    assert (cosines < 1 - 1e-6).any(), "the model does compute in bfloat16"
    np.testing.assert_allclose(np.linalg.norm(vectors[1][FEATURES], axis=1), 1, atol=1e-5)


def test_the_fingerprint_says_untrained_at_any_precision(tf: Any, tmp_path: Path) -> None:
    exported = export.export(tmp_path, weights="untrained", precision="bfloat16", tf=tf)
    assert exported.encoder.startswith("mobilenet-untrained-bfloat16-")
    outputs = run(exported, tf, noise(1))
    np.testing.assert_allclose(np.linalg.norm(outputs[FEATURES], axis=1), 1, atol=1e-5)


def test_every_row_contains_the_fingerprint(untrained: ExportedModel, tf: Any) -> None:
    outputs = run(untrained, tf, noise(2))
    assert outputs[FEATURES].shape == (2, DIM)
    assert outputs[ENCODER].tolist() == [untrained.encoder.encode()] * 2


def test_the_exported_signature_is_the_declared_one(untrained: ExportedModel, tf: Any) -> None:
    (specification,) = tf.saved_model.load(str(untrained.path)).signatures[SIGNATURE].structured_input_signature[1:]
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in specification.items()} == {
        IMAGES: (tf.uint8, [None, 224, 224, 3])
    }


def test_tf_serving_can_batch_by_the_shapes_that_the_signature_declares(untrained: ExportedModel, tf: Any) -> None:
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((untrained.path / "saved_model.pb").read_bytes())
    signature = saved.meta_graphs[0].signature_def[SIGNATURE]

    def types_and_sizes(infos: Any) -> dict[str, Any]:
        return {
            name: (tf.dtypes.as_dtype(info.dtype), [dim.size for dim in info.tensor_shape.dim])
            for name, info in infos.items()
        }

    assert signature.method_name == "tensorflow/serving/predict"
    assert types_and_sizes(signature.inputs) == {IMAGES: (tf.uint8, [-1, 224, 224, 3])}
    assert types_and_sizes(signature.outputs) == {FEATURES: (tf.float32, [-1, DIM]), ENCODER: (tf.string, [-1])}


def test_tf_serving_can_read_the_warm_up_requests_and_the_model_can_run_them(untrained: ExportedModel, tf: Any) -> None:
    from tensorflow_serving.apis import prediction_log_pb2

    file = untrained.path / "assets.extra" / "tf_serving_warmup_requests"
    records = [record.numpy() for record in tf.data.TFRecordDataset([str(file)])]
    logs = [prediction_log_pb2.PredictionLog.FromString(record) for record in records]
    assert [log.WhichOneof("log_type") for log in logs] == ["predict_log"] * 3
    requests = [log.predict_log.request for log in logs]
    assert {(request.model_spec.name, request.model_spec.signature_name) for request in requests} == {
        ("mobilenet", SIGNATURE)
    }
    images = [tf.make_ndarray(request.inputs[IMAGES]) for request in requests]
    assert [batch.shape for batch in images] == [(count, 224, 224, 3) for count in (1, 8, 16)]
    assert run(untrained, tf, images[1])[FEATURES].shape == (8, DIM)


def test_an_untrained_model_says_so_in_the_log_and_in_its_fingerprint(
    tf: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "encoders.image.export"):
        exported = export.export(tmp_path, weights="untrained", tf=tf)
    assert exported.encoder.startswith("mobilenet-untrained-")
    assert "UNTRAINED" in caplog.text


def test_the_same_weights_are_the_same_encoder_and_are_not_exported_twice(
    untrained: ExportedModel, tf: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    models = untrained.path.parent.parent
    assert export.main([str(models), "--weights", "untrained", "--seed", "3", "--json"], {}) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {"path": str(untrained.path), "version": untrained.version, "encoder": untrained.encoder}
    assert list(find_versions(models)) == [1]
    with pytest.raises(BadSettings, match="already exists"):
        export.export(models, weights="untrained", seed=3, version=1, tf=tf)
    second = export.export(models, weights="untrained", seed=4, tf=tf)
    assert (second.version, second.encoder != untrained.encoder) == (2, True)
    assert sorted(path.name for path in (models / "mobilenet").iterdir()) == ["1", "2"]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own save_weights
def test_the_fingerprint_of_a_weights_file_depends_on_its_values_only(tf: Any, tmp_path: Path) -> None:
    net = build_network("untrained", 5)
    net.save_weights(tmp_path / "own.weights.h5")
    exported = export.export(tmp_path, weights=str(tmp_path / "own.weights.h5"), version=12, tf=tf)
    assert exported.version == 12
    card = describe(net, "mobilenet", "another.weights.h5", precision="float32", seed=0)
    assert exported.encoder == compute_fingerprint(card)
    assert "untrained" not in exported.encoder


def test_a_damaged_or_missing_weights_file_is_refused_and_nothing_is_written(tf: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.weights.h5"
    damaged.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    for weights in (damaged, tmp_path / "nowhere.h5"):
        with pytest.raises(BadArtifact, match="--weights"):
            export.export(tmp_path / "models", weights=str(weights), tf=tf)
    assert not (tmp_path / "models").exists()


def test_if_the_highest_version_is_damaged_a_new_one_is_exported(tf: Any, tmp_path: Path) -> None:
    damaged = tmp_path / "mobilenet" / "3"
    damaged.mkdir(parents=True)
    (damaged / "saved_model.pb").touch()
    assert export.export(tmp_path, weights="untrained", tf=tf).version == 4


@pytest.mark.parametrize("version", [0, -1, 1 << 63])
def test_a_version_number_outside_int64_or_below_one_is_refused(tf: Any, tmp_path: Path, version: int) -> None:
    with pytest.raises(BadSettings, match=f"--model-version {version}: expected 1"):
        export.export(tmp_path, weights="untrained", version=version, tf=tf)
    assert not any(tmp_path.iterdir())


def test_if_the_models_folder_is_a_file_the_error_names_it(tf: Any, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="file/mobilenet/1 cannot be written"):
        export.export(tmp_path / "file", weights="untrained", tf=tf)


def test_if_the_download_fails_the_error_says_what_to_do(
    tmp_path: Path, tf: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    def unreachable(**options: Any) -> None:
        raise Exception("URL fetch failure")  # as Keras does

    monkeypatch.setattr(keras.applications, "MobileNet", unreachable)
    with pytest.raises(OperatorError, match=r"--weights FILE.*--weights untrained"):
        export.export(tmp_path, weights="imagenet", tf=tf)


def test_a_version_folder_with_another_model_is_refused(untrained: ExportedModel, tf: Any, tmp_path: Path) -> None:
    shutil.copytree(untrained.path, tmp_path / "1")
    card = dataclasses.replace(read_card(untrained.path), digest="0" * 64)
    write_card(dataclasses.replace(card, fingerprint=compute_fingerprint(card)), tmp_path / "1")
    with pytest.raises(BadArtifact, match=r"the graph is of encoder .*, but card\.json names mobilenet-untrained-0000"):
        SavedModel(tf, tmp_path / "1", BATCHES_OF_ONE)
    (tmp_path / "1" / "variables" / "variables.index").unlink()
    with pytest.raises(BadArtifact, match="is not an image model"):
        SavedModel(tf, tmp_path / "1", BATCHES_OF_ONE)


@pytest.mark.parametrize("key", ["dimension", "output"])
def test_a_version_that_contradicts_its_card_is_refused_by_name(
    untrained: ExportedModel, tf: Any, tmp_path: Path, key: str
) -> None:
    shutil.copytree(untrained.path, tmp_path / "1")
    value: Any = {"dimension": 512, "output": "embedding"}[key]
    write_card(dataclasses.replace(read_card(untrained.path), **{key: value}), tmp_path / "1")
    message = {
        "dimension": r"card\.json: dimension 512, which is \[-1, 512\], but the model's is \[-1, 1024\]\. ",
        "output": r"card\.json: output 'embedding' is missing in the model; its outputs are encoder, features\. ",
    }[key]
    with pytest.raises(BadArtifact, match=message):
        SavedModel(tf, tmp_path / "1", BATCHES_OF_ONE)


@pytest.mark.parametrize(("network", "alpha", "dim"), [("mobilenet_v2", 0.35, 1280), ("mobilenet_v3_small", 1.0, 576)])
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' own save_weights
def test_a_network_of_keras_gives_what_keras_gives_after_its_own_preprocessing(
    tf: Any, tmp_path: Path, network: str, alpha: float, dim: int
) -> None:
    import keras

    images = patches(4, 96)
    module = getattr(keras.applications, network.removesuffix("_small"))
    pixels = module.preprocess_input(images.astype(np.float32))
    net = build_network("untrained", 7, network=network, alpha=alpha, input_px=96)
    normalise_by(net, pixels)
    net.save_weights(tmp_path / "random.weights.h5")
    expected = normalised(net.predict(pixels, verbose=0))
    assert (expected @ expected.T).min() < 0.9, "the features differ enough for the comparison to mean something"
    scaled_again = normalised(net.predict(pixels / 127.5 - 1, verbose=0))
    assert (expected * scaled_again).sum(axis=1).max() < 0.9, "the preprocessing counts"

    weights = str(tmp_path / "random.weights.h5")
    exported = export.export(tmp_path, weights=weights, network=network, alpha=alpha, input_px=96, tf=tf)
    model = SavedModel(tf, exported.path, BATCHES_OF_ONE)

    # Components of unit vectors, summed in another order; measured: at most 2e-6 apart.
    np.testing.assert_allclose(model(images), expected, rtol=0, atol=2e-5)
    card = read_card(exported.path)
    assert (card.network, card.input_px, card.dimension, model.input_px) == (network, 96, dim, 96)
    assert exported.encoder.startswith(f"{network}-")
    # MobileNetV3 scales its pixels itself, and its card says so.
    assert card.preprocessing == ("in-network" if network.startswith("mobilenet_v3") else "tf")


def test_bfloat16_is_refused_for_a_network_whose_normalisations_are_not_folded(tf: Any, tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="--precision bfloat16: only of mobilenet"):
        export.export(
            tmp_path,
            weights="untrained",
            network="mobilenet_v2",
            alpha=0.35,
            input_px=96,
            precision="bfloat16",
            tf=tf,
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input-px", "100"], "--input-px 100: mobilenet takes multiples of 32"),
        (["--input-px", "1024"], r"--input-px 1024: expected 32\.\.512"),
        (["--alpha", "0"], "--alpha 0: expected more than 0"),
        (["--saved-model", "shopnet", "--weights", "untrained"], "--saved-model and --weights: give only one"),
        (["--model", "../x"], "--model ../x: expected a name"),
    ],
)
def test_options_out_of_bounds_are_refused_by_name(tmp_path: Path, tf: Any, arguments: list[str], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        export.main([str(tmp_path / "models"), *arguments], {})
    assert not (tmp_path / "models").exists()


def photos(real_data: Path, count: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.str_]]:
    """The first photos of the fashion data set, preprocessed, and the article type that each shows."""
    with gzip.open(real_data / "fashion" / "fashion_products.csv.gz", "rt", encoding="utf-8") as file:
        type_by_id = {row["id"]: row["articleType"] for row in csv.DictReader(file)}
    pixels, article_types = [], []
    with tarfile.open(real_data / "fashion" / "images_224.tar.xz", "r|xz") as archive:
        members = (member for member in archive if Path(member.name).stem in type_by_id)
        for member in itertools.islice(members, count):
            file_in_archive = archive.extractfile(member)
            assert file_in_archive is not None
            pixels.append(preprocess(file_in_archive.read(), 224))
            article_types.append(type_by_id[Path(member.name).stem])
    return np.stack(pixels), np.array(article_types)


def precision_at_10(vectors: F32, article_types: npt.NDArray[np.str_]) -> float:
    """The share of a photo's ten nearest neighbours that show the same article type, on average."""
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float((article_types[nearest] == article_types[:, None]).mean())


@pytest.fixture(scope="module")
def imagenet_weights(real_data: Path) -> str:
    (weights,) = (real_data / "mobilenet").glob("*.h5")
    return str(weights)


@pytest.fixture(scope="module")
def trained(imagenet_weights: str, tf: Any, tmp_path_factory: pytest.TempPathFactory) -> ExportedModel:
    return export.export(tmp_path_factory.mktemp("trained"), weights=imagenet_weights, tf=tf)


@pytest.mark.data
def test_neighbours_by_imagenet_weights_show_the_same_article_type_more_often_than_by_untrained_ones(
    real_data: Path, untrained: ExportedModel, trained: ExportedModel, tf: Any
) -> None:
    pixels, article_types = photos(real_data, 240)
    precision = {}
    for name, exported in (("trained", trained), ("untrained", untrained)):
        model = SavedModel(tf, exported.path, BATCHES_OF_ONE)
        vectors = np.concatenate([model(pixels[start : start + 32]) for start in range(0, len(pixels), 32)])
        precision[name] = precision_at_10(vectors, article_types)
    assert precision["trained"] > 0.5
    assert precision["trained"] > precision["untrained"] + 0.12, precision


@pytest.mark.data
def test_the_export_gives_the_features_of_keras_for_real_photos(
    real_data: Path, imagenet_weights: str, trained: ExportedModel, tf: Any, tmp_path: Path
) -> None:
    pixels, _ = photos(real_data, 24)
    net = build_network(imagenet_weights)
    expected = net.predict(pixels / np.float32(127.5) - 1, verbose=0)
    raw = compute_features(tf, fold_batch_norms(net), pixels / np.float32(127.5) - 1, "float32").numpy()
    assert expected.max() > 1, "the features are not so small that anything passes"
    np.testing.assert_allclose(raw, expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(run(trained, tf, pixels)[FEATURES], normalised(expected), rtol=0, atol=1e-4)
    bfloat16 = export.export(tmp_path, weights=imagenet_weights, precision="bfloat16", tf=tf)
    assert ((run(bfloat16, tf, pixels)[FEATURES] * normalised(expected)).sum(axis=1) > 0.995).all()
