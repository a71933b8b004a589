"""The networks of keras.applications that can be exported, each with its own preprocessing. Downloads weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from encoders.image.batch_norm_folding import compute_features, fold_batch_norms
from encoders.image.card import UNTRAINED, Card, Precision
from encoders.image.signature import DEFAULT_INPUT_PX, FEATURES, IMAGES
from lookalike.errors import BadArtifact, BadSettings, OperatorError

Compute = Callable[[Any], Any]  # Preprocessed pixels (n, px, px, 3) float32 to features (n, dim).

IMAGENET: Final = "imagenet"
_NO_DOWNLOAD = (
    "the ImageNet weights of {network} could not be downloaded ({error}); give them as a file with --weights FILE, "
    "or use --weights untrained for a model that only separates images that look very different"
)
_STRIDE_PX: Final = 32  # Five strides of 2.


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A network of keras.applications, without its classifier."""

    application: str
    preprocessing: str


# MobileNetV3 scales its pixels itself (`include_preprocessing`, its default); its preprocess_input does nothing.
NETWORKS: Final = {
    "mobilenet": Network(application="MobileNet", preprocessing="tf"),
    "mobilenet_v2": Network(application="MobileNetV2", preprocessing="tf"),
    "mobilenet_v3_small": Network(application="MobileNetV3Small", preprocessing="in-network"),
    "mobilenet_v3_large": Network(application="MobileNetV3Large", preprocessing="in-network"),
}
DEFAULT_NETWORK: Final = "mobilenet"


def build_network(
    weights: str, seed: int = 0, *, network: str = DEFAULT_NETWORK, alpha: float = 1.0, input_px: int = DEFAULT_INPUT_PX
) -> Any:
    """Keras' network: preprocessed (n, px, px, 3) to (n, dim), average-pooled, not normalised.

    weights: "imagenet", "untrained", or a file that Keras can read. Raises BadSettings, BadArtifact, OperatorError.
    """
    import keras

    if input_px % _STRIDE_PX or not input_px:
        raise BadSettings(f"--input-px {input_px}: {network} takes multiples of {_STRIDE_PX}")
    keras.utils.set_random_seed(seed)
    application = getattr(keras.applications, NETWORKS[network].application)
    options = {"input_shape": (input_px, input_px, 3), "alpha": alpha, "include_top": False, "pooling": "avg"}
    if weights == IMAGENET:
        try:
            return application(weights=IMAGENET, **options)
        except ValueError as error:  # There are none for this alpha.
            raise BadSettings(f"--alpha {alpha:g}: {error}") from error
        except Exception as error:  # Keras raises a plain Exception for a failed download.
            raise OperatorError(_NO_DOWNLOAD.format(network=network, error=error)) from error
    try:
        net = application(weights=None, **options)
    except ValueError as error:
        raise BadSettings(f"--alpha {alpha:g}: {error}") from error
    if weights != UNTRAINED:
        _load_weights(net, Path(weights), network)
    return net


def describe(net: Any, network: str, weights: str, *, precision: Precision, seed: int) -> Card:
    """The card of a network that `build_network` built; its digest is of the weights' values, whatever their file."""
    return Card(
        network=network,
        input_px=net.input_shape[1],
        preprocessing=NETWORKS[network].preprocessing,
        input=IMAGES,
        output=FEATURES,
        dimension=net.output_shape[-1],
        precision=precision,
        weights=Path(weights).name,
        seed=seed if weights == UNTRAINED else None,
        digest=_digest(net.get_weights()),
    )


def inference(tf: Any, net: Any, network: str, precision: Precision) -> Compute:
    """The network with constants instead of variables, which TensorFlow optimises when it loads the model."""
    if network == "mobilenet":
        layers = fold_batch_norms(net)
        return lambda pixels: compute_features(tf, layers, pixels, precision)
    if precision != "float32":
        raise BadSettings(f"--precision {precision}: only of mobilenet (v1), whose normalisations are folded")
    kinds = (net.trainable_variables, net.non_trainable_variables)
    trainable, others = ([variable.numpy() for variable in variables] for variables in kinds)

    def compute(pixels: Any) -> Any:
        values = ([tf.constant(value) for value in kind] for kind in (trainable, others))
        return net.stateless_call(*values, pixels, training=False)[0]

    return compute


def _digest(weights: Sequence[npt.NDArray[np.float32]]) -> str:
    digest = hashlib.sha256()
    for array in weights:
        digest.update(f"{array.shape}{array.dtype.str}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _load_weights(net: Any, weights: Path, network: str) -> None:
    if not weights.is_file():
        raise BadArtifact(f"--weights {weights}: not imagenet, untrained or an existing file")
    try:
        net.load_weights(str(weights))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(
            f"--weights {weights}: not weights of this {network} (without its top; --alpha has to be that of the "
            f"weights): {error}"
        ) from error
