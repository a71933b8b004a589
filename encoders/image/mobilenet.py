"""Export Keras' MobileNet v1 (α 1.0, 224 px, average pooling) as a SavedModel that TF-Serving serves. Writes files.

Scaling the pixels, normalising the features and naming the encoder are part of the graph: a client sends uint8 pixels,
and every output row contains the fingerprint of the weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from encoders.image.batch_norm_folding import (
    PRECISIONS,
    Convolution,
    Precision,
    compute_features,
    fold_batch_norms,
    normalise_rows,
)
from encoders.image.models import MAX_VERSION, METADATA_FILE, ExportedModel, find_versions, read_fingerprint
from encoders.image.prediction_service import to_tensor
from encoders.image.preprocessing import SIDE_PX
from encoders.image.signature import ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.image.tensorflow_runtime import import_tensorflow
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.cli import arguments
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.runtime import telemetry

log = logging.getLogger(__name__)

_NO_DOWNLOAD = (
    "the ImageNet weights could not be downloaded ({error}); give them as a file with --weights FILE, "
    "or use --weights untrained for a model that only separates images that look very different"
)
_EXAMPLES = """\
examples:
  lookalike encoders export models                                ImageNet weights, downloaded by Keras
  lookalike encoders export models --weights mobilenet.weights.h5
  lookalike encoders export models --weights untrained --seed 1   random weights; the fingerprint says so
  lookalike encoders export models --precision bfloat16           half the CPU time with AVX512_BF16 or AMX

A version of another precision is another encoder: an index built with one is never searched with the other.
"""
WARM_UP_IMAGES: Final = (1, 8, 16)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders export",
        description="Write the image model as MODELS_DIR/mobilenet/<version>, for TF-Serving or the model server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODELS_DIR", type=Path, help="folder of the exported models")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|untrained|FILE", help="default: imagenet")
    parser.add_argument("--precision", choices=PRECISIONS, default="float32", help="of the layers; default: float32")
    parser.add_argument("--model-version", type=int, metavar="N", help="default: the highest existing version + 1")
    parser.add_argument("--seed", type=arguments.seed, default=0, help="seed of untrained weights; default: 0")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options = parser.parse_args(argv)
    telemetry.configure_logging("info")
    exported = export(
        options.models,
        weights=options.weights,
        precision=options.precision,
        version=options.model_version,
        seed=options.seed,
        tf=import_tensorflow(environ),
    )
    result = {"path": str(exported.path), "version": exported.version, "encoder": exported.encoder}
    print(json.dumps(result) if options.json else f"{exported.encoder} is {exported.path}")
    return 0


def export(
    models: Path,
    *,
    weights: str,
    precision: Precision = "float32",
    version: int | None = None,
    seed: int = 0,
    tf: Any,
) -> ExportedModel:
    """Export a new version. Without `version`, if the highest existing version is this encoder already, return that.

    weights:   "imagenet", "untrained", or a file that Keras can read.
    precision: of the layers; features are always float32.
    tf:        the result of `tensorflow_runtime.import_tensorflow`.
    Raises BadSettings, BadArtifact or OperatorError; never leaves a partial version.
    """
    existing = find_versions(models)
    highest = max(existing, default=0)
    number = highest + 1 if version is None else version
    if not 1 <= number <= MAX_VERSION:
        raise BadSettings(f"--model-version {number}: expected 1..{MAX_VERSION}")
    if version in existing:
        raise BadSettings(f"--model-version {version}: this version already exists")
    net = build_network(weights, seed)
    encoder = weights_fingerprint(net.get_weights(), trained=weights != "untrained", precision=precision)
    if weights == "untrained":
        log.warning("UNTRAINED weights (%s): for trying out only, not for finding similar products", encoder)
    if version is None and existing and _has_fingerprint(existing[highest], encoder):
        return ExportedModel(path=existing[highest], version=highest, encoder=encoder)
    metadata = {
        "encoder": encoder,
        "weights": Path(weights).name,
        "precision": precision,
        "seed": seed if weights == "untrained" else None,
    }
    path = _write(
        tf, serving_module(tf, fold_batch_norms(net), encoder, precision), metadata, models / MODEL / str(number)
    )
    return ExportedModel(path=path, version=number, encoder=encoder)


def build_network(weights: str, seed: int = 0) -> Any:
    """Keras' MobileNet: (n, 224, 224, 3) in -1..1 to (n, 1024), not normalised. Raises BadArtifact, OperatorError."""
    import keras

    keras.utils.set_random_seed(seed)
    shape = {"input_shape": (SIDE_PX, SIDE_PX, 3), "alpha": 1.0, "include_top": False, "pooling": "avg"}
    if weights == "imagenet":
        try:
            return keras.applications.MobileNet(weights="imagenet", **shape)
        except Exception as error:  # Keras raises a plain Exception for a failed download.
            raise OperatorError(_NO_DOWNLOAD.format(error=error)) from error
    net = keras.applications.MobileNet(weights=None, **shape)
    if weights != "untrained":
        _load_weights(net, Path(weights))
    return net


def weights_fingerprint(
    weights: Sequence[npt.NDArray[np.float32]], *, trained: bool, precision: Precision = "float32"
) -> str:
    """`mobilenet-[untrained-][bfloat16-]<12 hex>`: a digest of the values of the weights, independent of their file.

    A bfloat16 vector is up to 0.05 from its float32 vector (cosine 0.9986, benchmarks/image_model): another encoder.
    """
    digest = hashlib.sha256()
    for array in weights:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    parts = [MODEL, *([] if trained else ["untrained"]), *([] if precision == "float32" else [precision])]
    return "-".join([*parts, digest.hexdigest()[:12]])


def serving_module(tf: Any, layers: Sequence[Convolution], encoder: str, precision: Precision) -> Any:
    """A tf.Module whose one function has the signature of `encoders.image.signature`."""

    class ServingModule(tf.Module):  # type: ignore[misc]  # tf is Any
        @tf.function(  # type: ignore[untyped-decorator]
            input_signature=[tf.TensorSpec((None, SIDE_PX, SIDE_PX, 3), tf.uint8, name=IMAGES)], autograph=False
        )
        def serve(self, images: Any) -> dict[str, Any]:
            vectors = normalise_rows(tf, compute_features(tf, layers, images, precision))
            return {FEATURES: vectors, ENCODER: tf.fill(tf.shape(images)[:1], encoder)}

    return ServingModule()


def _has_fingerprint(path: Path, encoder: str) -> bool:
    """Whether a version has this fingerprint. False, with a warning, if its metadata is damaged."""
    try:
        return read_fingerprint(path) == encoder
    except BadArtifact as error:
        log.warning("%s; exporting a new version", error)
        return False


def _load_weights(net: Any, weights: Path) -> None:
    if not weights.is_file():
        raise BadArtifact(f"--weights {weights}: not imagenet, untrained or an existing file")
    try:
        net.load_weights(str(weights))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"--weights {weights}: not weights of this MobileNet: {error}") from error


def _write(tf: Any, module: Any, metadata: Mapping[str, Any], path: Path) -> Path:
    """Write to a staging directory, whose name no server mistakes for a version, and rename it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=path.parent, ignore_cleanup_errors=True) as staging:
            staging_path = Path(staging)
            tf.saved_model.save(module, str(staging_path), signatures={SIGNATURE: module.serve})
            (staging_path / METADATA_FILE).write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
            _write_warm_up(tf, staging_path)
            staging_path.chmod(0o755)  # mkdtemp's 0700 would lock out a server that runs as another user.
            os.rename(staging_path, path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error}") from error
    return path


def _write_warm_up(tf: Any, folder: Path) -> None:
    """Write the warm-up requests that TF-Serving runs before a version is AVAILABLE: one image, and batches."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for count in WARM_UP_IMAGES:
            request = pb.PredictRequest(
                model_spec=pb.ModelSpec(name=MODEL, signature_name=SIGNATURE),
                inputs={IMAGES: to_tensor(np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8))},
            )
            log_entry = pb.PredictionLog(predict_log=pb.PredictLog(request=request))
            writer.write(log_entry.SerializeToString())
