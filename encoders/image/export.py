"""Export an image model as a version that TF-Serving and the model server serve. Writes files.

The network is one of Keras', or one's own SavedModel with a card. Its preprocessing, the normalisation of its features
and the name of the encoder become part of the graph.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from encoders.image import networks
from encoders.image.card import (
    CARD_FILE,
    MAX_INPUT_PX,
    MIN_INPUT_PX,
    PRECISIONS,
    UNTRAINED,
    Card,
    Precision,
    compute_fingerprint,
    read_exported_card,
    write_card,
)
from encoders.image.models import MAX_VERSION, ExportedModel, find_versions
from encoders.image.networks import DEFAULT_NETWORK, IMAGENET, NETWORKS
from encoders.image.prediction_service import to_tensor
from encoders.image.saved_network import load_network
from encoders.image.serving_graph import serving_module
from encoders.image.signature import DEFAULT_INPUT_PX, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.image.tensorflow_runtime import import_tensorflow
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.cli import arguments
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.runtime import telemetry

log = logging.getLogger(__name__)

_EXAMPLES = """\
examples:
  lookalike encoders export models                                ImageNet weights, downloaded by Keras
  lookalike encoders export models --weights mobilenet.weights.h5
  lookalike encoders export models --network mobilenet_v3_large --weights v3_large_no_top.h5
  lookalike encoders export models --saved-model shopnet          your own SavedModel: shopnet/card.json describes it
  lookalike encoders export models --weights untrained --seed 1   random weights; the fingerprint says so
  lookalike encoders export models --precision bfloat16           half the CPU time with AVX512_BF16 or AMX

A version of another network, preprocessing or precision is another encoder: an index built with one is never searched
with another.
"""
WARM_UP_IMAGES: Final = (1, 8, 16)
_KERAS_OPTIONS: Final = ("network", "weights", "alpha", "input_px", "precision", "seed")
_MAX_ALPHA: Final = 2.0
_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # Names a directory.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(argv)
    _check(options)
    telemetry.configure_logging("info")
    tf, common = import_tensorflow(environ), {"model": options.model, "version": options.model_version}
    if options.saved_model is not None:
        exported = export_saved_model(options.models, options.saved_model, tf=tf, **common)
    else:
        exported = export(
            options.models,
            network=options.network or DEFAULT_NETWORK,
            weights=options.weights or IMAGENET,
            alpha=1.0 if options.alpha is None else options.alpha,
            input_px=DEFAULT_INPUT_PX if options.input_px is None else options.input_px,
            precision=options.precision or "float32",
            seed=options.seed or 0,
            tf=tf,
            **common,
        )
    result = {"path": str(exported.path), "version": exported.version, "encoder": exported.encoder}
    print(json.dumps(result) if options.json else f"{exported.encoder} is {exported.path}")
    return 0


def export(
    models: Path,
    *,
    weights: str,
    network: str = DEFAULT_NETWORK,
    alpha: float = 1.0,
    input_px: int = DEFAULT_INPUT_PX,
    precision: Precision = "float32",
    model: str = MODEL,
    version: int | None = None,
    seed: int = 0,
    tf: Any,
) -> ExportedModel:
    """Export a network of Keras. Without `version`, if the highest existing version is this encoder, return that.

    weights:   "imagenet", "untrained", or a file that Keras can read.
    alpha:     the width of the network; input_px: of its square input.
    precision: of the layers; features are always float32.
    model:     its name on the server, and its folder in `models`.
    tf:        the result of `tensorflow_runtime.import_tensorflow`.
    Raises BadSettings, BadArtifact or OperatorError; never leaves a partial version.
    """
    _check_version(models / model, version)
    net = networks.build_network(weights, seed, network=network, alpha=alpha, input_px=input_px)
    card, module = keras_module(tf, net, network=network, weights=weights, precision=precision, seed=seed)
    if weights == UNTRAINED:
        log.warning("UNTRAINED weights (%s): for trying out only, not for finding similar products", card.fingerprint)
    return _export(tf, card, module, models / model, version)


def keras_module(
    tf: Any,
    net: Any,
    *,
    network: str = DEFAULT_NETWORK,
    weights: str,
    precision: Precision = "float32",
    seed: int = 0,
) -> tuple[Card, Any]:
    """The card and the tf.Module to serve of a network that `networks.build_network` built."""
    card = networks.describe(net, network, weights, precision=precision, seed=seed)
    card = dataclasses.replace(card, fingerprint=compute_fingerprint(card))
    return card, serving_module(tf, card, networks.inference(tf, net, network, precision))


def export_saved_model(
    models: Path, folder: Path, *, model: str = MODEL, version: int | None = None, tf: Any
) -> ExportedModel:
    """Export one's own SavedModel with the card beside it. Otherwise as `export`."""
    _check_version(models / model, version)
    card, compute, owner = load_network(tf, folder)
    card = dataclasses.replace(card, input=IMAGES, output=FEATURES, signature=SIGNATURE)
    return _export(tf, card, serving_module(tf, card, compute, owner=owner), models / model, version)


def _check_version(base: Path, version: int | None) -> None:
    """Before the network is built. Raises BadSettings."""
    if version is not None and not 1 <= version <= MAX_VERSION:
        raise BadSettings(f"--model-version {version}: expected 1..{MAX_VERSION}")
    if version in find_versions(base.parent, base.name):
        raise BadSettings(f"--model-version {version}: this version already exists")


def _export(tf: Any, card: Card, module: Any, base: Path, version: int | None) -> ExportedModel:
    existing = find_versions(base.parent, base.name)
    highest = max(existing, default=0)
    if version is None and existing and _is_encoder(existing[highest], card.fingerprint):
        return ExportedModel(path=existing[highest], version=highest, encoder=card.fingerprint)
    number = highest + 1 if version is None else version
    path = base / str(number)
    try:
        base.mkdir(parents=True, exist_ok=True)
        # A staging directory, whose name no server mistakes for a version, is renamed at the end.
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=base, ignore_cleanup_errors=True) as staging:
            staging_path = Path(staging)
            tf.saved_model.save(module, str(staging_path), signatures={SIGNATURE: module.serve})
            write_card(card, staging_path)
            _write_warm_up(tf, staging_path, base.name, card.input_px)
            staging_path.chmod(0o755)  # mkdtemp's 0700 would lock out a server that runs as another user.
            os.rename(staging_path, path)
    except OSError as error:
        raise OperatorError(f"{path} cannot be written: {error}") from error
    return ExportedModel(path=path, version=number, encoder=card.fingerprint)


def _is_encoder(version: Path, fingerprint: str) -> bool:
    """Whether a version is this encoder. False, with a warning, if its card is wrong."""
    try:
        return read_exported_card(version).fingerprint == fingerprint
    except BadArtifact as error:
        log.warning("%s; exporting a new version", error)
        return False


def _write_warm_up(tf: Any, folder: Path, model: str, input_px: int) -> None:
    """Write the warm-up requests that TF-Serving runs before a version is AVAILABLE: one image, and batches."""
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as writer:
        for count in WARM_UP_IMAGES:
            request = pb.PredictRequest(
                model_spec=pb.ModelSpec(name=model, signature_name=SIGNATURE),
                inputs={IMAGES: to_tensor(np.zeros((count, input_px, input_px, 3), np.uint8))},
            )
            log_entry = pb.PredictionLog(predict_log=pb.PredictLog(request=request))
            writer.write(log_entry.SerializeToString())


def _check(options: argparse.Namespace) -> None:
    """Raise BadSettings for options that exclude each other or are out of bounds."""
    if not _MODEL.fullmatch(options.model):
        raise BadSettings(f"--model {options.model}: expected a name of a-z, 0-9, _ and -")
    given = [name for name in _KERAS_OPTIONS if getattr(options, name) is not None]
    if options.saved_model is not None and given:
        raise BadSettings(f"--saved-model and --{given[0].replace('_', '-')}: give only one of them")
    if options.alpha is not None and not 0 < options.alpha <= _MAX_ALPHA:
        raise BadSettings(f"--alpha {options.alpha:g}: expected more than 0 and at most {_MAX_ALPHA:g}")
    if options.input_px is not None and not MIN_INPUT_PX <= options.input_px <= MAX_INPUT_PX:
        raise BadSettings(f"--input-px {options.input_px}: expected {MIN_INPUT_PX}..{MAX_INPUT_PX}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike encoders export",
        description="Write an image model as MODELS_DIR/NAME/<version>, for TF-Serving or the model server: a network "
        "of Keras, or your own SavedModel with a card.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("models", metavar="MODELS_DIR", type=Path, help="folder of the exported models")
    add("--network", choices=list(NETWORKS), help=f"network of keras.applications; default: {DEFAULT_NETWORK} (v1)")
    add("--weights", metavar="imagenet|untrained|FILE", help="default: imagenet")
    add("--alpha", type=float, metavar="A", help="width of the network; default: 1")
    add("--input-px", type=int, metavar="N", help=f"width and height of its input; default: {DEFAULT_INPUT_PX}")
    add("--precision", choices=PRECISIONS, help="of the layers, of mobilenet only; default: float32")
    add("--seed", type=arguments.seed, help="seed of untrained weights; default: 0")
    add("--saved-model", metavar="DIR", type=Path, help=f"your own SavedModel, with DIR/{CARD_FILE}, instead of Keras'")
    add("--model", default=MODEL, metavar="NAME", help="name of the model on the server; default: %(default)s")
    add("--model-version", type=int, metavar="N", help="default: the highest existing version + 1")
    add("--json", action="store_true", help="print the result as JSON")
    return parser
