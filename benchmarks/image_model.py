"""CPU time and quality of the image model in each export format, including formats that are not offered.

Photos are fashion products at 224 × 224, in the order of their archive; weights are trained ones. All variants run in
this process, in turn, `--rounds` times: the median CPU time of all threads per photo, at batch sizes of 1, 8 and 16.
Their vectors are compared with those of the float32 export. precision@10 is the mean share of a photo's ten nearest
others, by cosine, that have its articleType; it is not measured for dropped variants with the vectors of another one.

    python -m benchmarks.image_model WEIGHTS.h5 FASHION_DIR [--photos 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import csv
import gzip
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.meter import write
from encoders.image.batch_norm_folding import Convolution, compute_features, fold_batch_norms
from encoders.image.card import PREPROCESSINGS
from encoders.image.export import keras_module
from encoders.image.networks import build_network
from encoders.image.preprocessing import preprocess
from encoders.image.serving_graph import normalise_rows, preprocess_pixels
from encoders.image.signature import DEFAULT_INPUT_PX, ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.image.tensorflow_runtime import import_tensorflow
from lookalike.vectors import F32

Pixels = npt.NDArray[np.uint8]
Names = npt.NDArray[np.str_]
Run = Callable[[Pixels], F32]

BATCHES = (1, 8, 16)
FEW_PHOTOS = 160  # Number of photos compared where precision@10 is not measured.
VARIANTS = {
    "float32": "the default: constants, normalisation folded into the convolutions",
    "bfloat16": "--precision bfloat16: the same, layers in bfloat16",
    "variables": "dropped: Keras' layers with variables",
    "keras_bfloat16": "dropped: Keras' own mixed_bfloat16, constants",
    "int8_weights": "dropped: float32 layers, kernels rounded to int8 per channel (a quarter if stored so)",
    "int8": "dropped: TensorFlow's post-training static quantisation (TF op set), 64 photos to calibrate",
    "xla": "dropped: jit_compile=True; TF-Serving wants --xla_cpu_compilation_enabled, and compiles every size",
}
EQUAL_TO_ANOTHER = ("variables", "keras_bfloat16", "xla")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights", type=Path)
    parser.add_argument("fashion", type=Path)
    parser.add_argument("--photos", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tf = import_tensorflow(os.environ)  # noqa: TID251  # a script of its own
    photos, kinds = read_photos(options.fashion, options.photos)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        sizes = save_all(tf, Path(folder), str(options.weights), photos)
        runs = {name: load(tf, Path(folder) / name) for name in VARIANTS}
        cpu = measure_cpu(runs, photos, options.rounds)
        quality = measure_quality(runs, photos, kinds)
    rows = [
        {"export": name, "what": VARIANTS[name], "bytes": sizes[name], **cpu[name], **quality[name]}
        for name in VARIANTS
    ]
    result = {
        "weights": options.weights.name,
        "photos": len(photos),
        "kinds": len(set(kinds.tolist())),
        "rounds": options.rounds,
        "processor_has": processor_features(),
        "rows": rows,
        "caveats": "a shared machine: CPU time, of all threads, is compared, not wall time; bfloat16 is as fast only "
        "where the processor computes in it; these weights were trained with fake quantisation",
    }
    print(write("image_model", result))


def read_photos(fashion: Path, count: int) -> tuple[Pixels, Names]:
    """The first photos, and the articleType of each."""
    with gzip.open(fashion / "fashion_products.csv.gz", "rt", encoding="utf-8") as file:
        kinds = {row["id"]: row["articleType"] for row in csv.DictReader(file)}
    pixels, photo_kinds = [], []
    with tarfile.open(fashion / "images_224.tar.xz", "r|xz") as archive:
        members = (member for member in archive if Path(member.name).stem in kinds)
        for member in islice(members, count):
            photo = archive.extractfile(member)
            assert photo is not None  # noqa: S101  # every member of these is a file
            pixels.append(preprocess(photo.read(), DEFAULT_INPUT_PX))
            photo_kinds.append(kinds[Path(member.name).stem])
    return np.stack(pixels), np.array(photo_kinds)


def save_all(tf: Any, folder: Path, weights: str, photos: Pixels) -> Mapping[str, int]:
    """Write every variant as a SavedModel to `folder`, by name; returns the bytes of each."""
    import keras

    net = build_network(weights)
    layers = fold_batch_norms(net)
    keras.config.set_dtype_policy("mixed_bfloat16")
    bfloat16_net = build_network(weights)
    keras.config.set_dtype_policy("float32")
    modules = {
        "float32": keras_module(tf, net, weights=weights)[1],
        "bfloat16": keras_module(tf, net, weights=weights, precision="bfloat16")[1],
        "variables": tf_module(tf, lambda images: net(scale_pixels(tf, images), training=False), net),
        "keras_bfloat16": tf_module(tf, with_constants(tf, bfloat16_net), None),
        "int8_weights": tf_module(
            tf,
            lambda images: compute_features(tf, round_to_int8(layers), scale_pixels(tf, images), "float32"),
            None,
        ),
        "xla": tf_module(
            tf,
            tf.function(
                lambda images: compute_features(tf, layers, scale_pixels(tf, images), "float32"), jit_compile=True
            ),
            None,
        ),
    }
    for name, each in modules.items():
        tf.saved_model.save(each, str(folder / name), signatures={SIGNATURE: each.serve})
    quantise(folder / "float32", folder / "int8", photos[:64])
    return {name: sum(f.stat().st_size for f in (folder / name).rglob("*") if f.is_file()) for name in VARIANTS}


def scale_pixels(tf: Any, images: Any) -> Any:
    return preprocess_pixels(tf, images, PREPROCESSINGS["tf"])


def with_constants(tf: Any, net: Any) -> Callable[[Any], Any]:
    """Keras' layers with constants instead of variables."""
    kinds = (net.trainable_variables, net.non_trainable_variables)
    trainable, others = ([variable.numpy() for variable in variables] for variables in kinds)

    def infer(images: Any) -> Any:
        values = ([tf.constant(value) for value in kind] for kind in (trainable, others))
        return net.stateless_call(*values, scale_pixels(tf, images), training=False)[0]

    return infer


def round_to_int8(layers: Sequence[Convolution]) -> list[Convolution]:
    """Kernels rounded to 255 steps for each output channel: the numbers that int8 stored on disk gives."""

    def rounded(layer: Convolution) -> F32:
        step = np.abs(layer.kernel).max(axis=(0, 1) if layer.depthwise else (0, 1, 2), keepdims=True) / 127
        kernel: F32 = np.round(layer.kernel / np.where(step, step, 1)) * step
        return kernel

    return [replace(layer, kernel=rounded(layer)) for layer in layers]


def tf_module(tf: Any, infer: Callable[[Any], Any], variables_owner: Any) -> Any:
    """As `serving_module`, of any layers; `variables_owner` keeps their variables alive."""

    def serve(images: Any) -> dict[str, Any]:
        return {
            FEATURES: normalise_rows(tf, tf.cast(infer(images), tf.float32)),
            ENCODER: tf.fill(tf.shape(images)[:1], "other"),
        }

    served_module = tf.Module()
    served_module.variables_owner = variables_owner
    specification = tf.TensorSpec((None, DEFAULT_INPUT_PX, DEFAULT_INPUT_PX, 3), tf.uint8, name=IMAGES)
    served_module.serve = tf.function(serve, input_signature=[specification], autograph=False)
    return served_module


def quantise(source: Path, target: Path, photos: Pixels) -> None:
    from tensorflow.compiler.mlir.quantization.tensorflow import quantization_options_pb2 as options
    from tensorflow.compiler.mlir.quantization.tensorflow.python import quantize_model

    method = options.QuantizationMethod.METHOD_STATIC_RANGE_INT8
    quantization = options.QuantizationOptions(
        quantization_method=options.QuantizationMethod(preset_method=method),
        op_set=options.TF,
        tags={"serve"},
        signature_keys=[SIGNATURE],
    )
    calibration_batches = [{IMAGES: photos[start : start + 8]} for start in range(0, len(photos), 8)]
    quantize_model.quantize(str(source), str(target), quantization, representative_dataset=calibration_batches)


def load(tf: Any, path: Path) -> Run:
    loaded = tf.saved_model.load(str(path))

    def run(images: Pixels) -> F32:
        features: F32 = loaded.signatures[SIGNATURE](**{IMAGES: tf.constant(images)})[FEATURES].numpy()
        return features

    return run


def measure_cpu(runs: Mapping[str, Run], photos: Pixels, rounds: int) -> dict[str, dict[str, float]]:
    """The median CPU milliseconds per photo of each variant, at each batch size."""
    cpu: dict[str, dict[str, float]] = {name: {} for name in runs}
    for size in BATCHES:
        took_ms: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(rounds + 1):  # The first warms up.
            for name, run in runs.items():
                began_s = time.process_time()
                for start in range(0, BATCHES[-1], size):
                    run(photos[start : start + size])
                took_ms[name] += [(time.process_time() - began_s) / BATCHES[-1] * 1e3] if turn else []
        for name, values in took_ms.items():
            cpu[name][f"cpu_ms_batch_{size}"] = round(float(np.median(values)), 2)
    return cpu


def measure_quality(runs: Mapping[str, Run], photos: Pixels, kinds: Names) -> dict[str, dict[str, float | int | None]]:
    reference = vectors(runs["float32"], photos)
    rows: dict[str, dict[str, float | int | None]] = {}
    for name, run in runs.items():
        count = FEW_PHOTOS if name in EQUAL_TO_ANOTHER else len(photos)
        features = reference if name == "float32" else vectors(run, photos[:count])
        rows[name] = {
            "compared_photos": count,
            "max_abs_difference": float(f"{np.abs(features - reference[:count]).max():.2g}"),
            "min_cosine": round(float(np.einsum("ij,ij->i", features, reference[:count]).min()), 5),
            "precision_at_10": round(precision_at_10(features, kinds), 4) if count == len(photos) else None,
        }
    return rows


def vectors(run: Run, photos: Pixels) -> F32:
    return np.concatenate([run(photos[start : start + 16]) for start in range(0, len(photos), 16)])


def precision_at_10(features: F32, kinds: Names) -> float:
    scores = features @ features.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    return float((kinds[nearest] == kinds[:, None]).mean())


def processor_features() -> list[str]:
    """The instruction sets of this processor that make bfloat16 or int8 fast."""
    flags = Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split()
    return [name for name in ("avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8") if name in flags]


if __name__ == "__main__":
    main()
