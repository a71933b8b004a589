"""Export Keras' MobileNet v1 (α 1.0, 224 px, average pooling) as a SavedModel that TF-Serving serves. Writes files.

Preparing the pixels, normalising the features and naming the encoder happen inside the graph: a client sends bytes,
and every row of every answer says which weights made it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders.images import SIDE_PX
from encoders.models import CARD, Exported, fingerprint, versions
from encoders.prediction_service import tensor
from encoders.signature import ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tensorflow_runtime import tensorflow
from lookalike import telemetry
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from protos.tfserving.v1 import prediction_pb2 as pb

log = logging.getLogger(__name__)

_NO_DOWNLOAD = (
    "the ImageNet weights could not be downloaded ({error}); give a file of them with --weights FILE, "
    "or --weights untrained for a model that only tells apart what looks very different"
)
_EXAMPLES = """\
examples:
  lookalike encoders export models                                ImageNet weights, downloaded by Keras
  lookalike encoders export models --weights mobilenet.weights.h5
  lookalike encoders export models --weights untrained --seed 1   no weights at all; says so in every answer
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders export",
        description="Write the image model as MODELS_DIR/mobilenet/<version>, for TF-Serving or the model server.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", metavar="MODELS_DIR", type=Path, help="where the models are")
    parser.add_argument("--weights", default="imagenet", metavar="imagenet|untrained|FILE", help="default: imagenet")
    parser.add_argument("--model-version", type=int, metavar="N", help="default: one more than the highest there is")
    parser.add_argument("--seed", type=int, default=0, help="of untrained weights; default: 0")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")
    args = parser.parse_args(argv)
    telemetry.configure_logging("info")
    done = export(args.models, weights=args.weights, version=args.model_version, seed=args.seed, tf=tensorflow(environ))
    outcome = {"path": str(done.path), "version": done.version, "encoder": done.encoder}
    print(json.dumps(outcome) if args.json else f"{done.encoder} is {done.path}")
    return 0


def export(models: Path, *, weights: str, version: int | None = None, seed: int = 0, tf: Any) -> Exported:
    """Write a version; when none is asked for and the highest one has these weights already, that one is it.

    weights: "imagenet", "untrained", or a file that Keras can read.
    tf:      what `tensorflow_runtime.tensorflow` gave.
    Raises BadSettings, BadArtifact or OperatorError; leaves nothing half-written.
    """
    there = versions(models)
    if version is not None and (version < 1 or version in there):
        raise BadSettings(f"--model-version {version}: {'it exists already' if version in there else 'less than 1'}")
    net = network(weights, seed)
    encoder = fingerprint_of(net.get_weights(), trained=weights != "untrained")
    if weights == "untrained":
        log.warning("UNTRAINED weights (%s): good for trying things out, not for finding similar products", encoder)
    highest = max(there, default=0)
    if version is None and there and fingerprint(there[highest]) == encoder:
        return Exported(path=there[highest], version=highest, encoder=encoder)
    version = version or highest + 1
    card = {"encoder": encoder, "weights": Path(weights).name, "seed": seed if weights == "untrained" else None}
    path = _write(tf, net, card, models / MODEL / str(version))
    return Exported(path=path, version=version, encoder=encoder)


def network(weights: str, seed: int = 0) -> Any:
    """Keras' MobileNet: (n, 224, 224, 3) in -1..1 to (n, 1024), not normalised. Raises BadArtifact, OperatorError."""
    import keras

    keras.utils.set_random_seed(seed)
    shape = {"input_shape": (SIDE_PX, SIDE_PX, 3), "alpha": 1.0, "include_top": False, "pooling": "avg"}
    if weights == "imagenet":
        try:
            return keras.applications.MobileNet(weights="imagenet", **shape)
        except Exception as error:  # Keras raises a bare Exception for a failed download.
            raise OperatorError(_NO_DOWNLOAD.format(error=error)) from error
    net = keras.applications.MobileNet(weights=None, **shape)
    if weights != "untrained":
        _load(net, Path(weights))
    return net


def fingerprint_of(weights: Sequence[npt.NDArray[np.float32]], *, trained: bool) -> str:
    """`mobilenet-<12 hex>`, or `mobilenet-untrained-<12 hex>`: of the numbers, whatever file they came in."""
    digest = hashlib.sha256()
    for part in weights:
        digest.update(f"{part.shape}{part.dtype.str}".encode())
        digest.update(np.ascontiguousarray(part).tobytes())
    return f"mobilenet-{'' if trained else 'untrained-'}{digest.hexdigest()[:12]}"


def _load(net: Any, weights: Path) -> None:
    if not weights.is_file():
        raise BadArtifact(f"--weights {weights}: neither imagenet, nor untrained, nor a file")
    try:
        net.load_weights(str(weights))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"--weights {weights}: not weights of this MobileNet: {error}") from error


def _served(tf: Any, net: Any, encoder: str) -> Any:
    """A module whose one function has the signature that `encoders.signature` describes."""

    class Served(tf.Module):  # type: ignore[misc]  # tf is Any
        def __init__(self) -> None:
            super().__init__()
            self.network = net

        @tf.function(input_signature=[tf.TensorSpec((None, SIDE_PX, SIDE_PX, 3), tf.uint8, name=IMAGES)])  # type: ignore[untyped-decorator]
        def serve(self, images: Any) -> dict[str, Any]:
            features = self.network(tf.cast(images, tf.float32) / 127.5 - 1.0, training=False)
            # First by the largest component: features of untrained weights have norms around 1e-18, whose squares
            # are no float32 any more, and no epsilon is small enough to add.
            peak = tf.reduce_max(tf.abs(features), axis=1, keepdims=True)
            scaled = tf.math.divide_no_nan(features, peak)
            unit = tf.math.divide_no_nan(scaled, tf.norm(scaled, axis=1, keepdims=True))
            return {FEATURES: unit, ENCODER: tf.fill(tf.shape(images)[:1], encoder)}

    return Served()


def _write(tf: Any, net: Any, card: Mapping[str, Any], path: Path) -> Path:
    """Beside it first, under a name no server takes for a version; then a rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=".unfinished-", dir=path.parent))
    try:
        served = _served(tf, net, card["encoder"])
        tf.saved_model.save(served, str(unfinished), signatures={SIGNATURE: served.serve})
        (unfinished / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
        _write_warm_up(tf, unfinished)
        unfinished.chmod(0o755)  # mkdtemp's 0700 would keep a server out that runs as another user.
        os.rename(unfinished, path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return path


def _write_warm_up(tf: Any, folder: Path) -> None:
    """Requests that TF-Serving answers before it calls the version AVAILABLE: one image, and a batch."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for count in (1, 8):
            request = pb.PredictRequest(
                model_spec=pb.ModelSpec(name=MODEL, signature_name=SIGNATURE),
                inputs={IMAGES: tensor(np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8))},
            )
            log_entry = pb.PredictionLog(predict_log=pb.PredictLog(request=request))
            writer.write(log_entry.SerializeToString())
