"""Products made so that a photo tells half of what they are, a title the other half, and both together all of it."""

from __future__ import annotations

import numpy as np

from encoders.product.train import TrainingProducts
from lookalike.vectors import F32, normalised

IMAGE_DIM, TEXT_DIM = 24, 16
SHAPES, WORDS = 3, 3  # A category is a shape, which photos show, and a word, which titles say.


def examples(count: int = 900, *, seed: int = 1, noise: float = 0.6, told: bool = True) -> TrainingProducts:
    """Categories "s<shape>/w<word>", tags "colour:<shape of the photo's second half>" and "loose".

    told: False gives titles that say nothing, and photos that show the category and nothing else.
    """
    rng = np.random.default_rng(seed)
    shape, word = rng.integers(SHAPES, size=count), rng.integers(WORDS, size=count)
    if not told:
        word = np.zeros(count, dtype=np.int64)
    colour = rng.integers(4, size=count)
    shown = np.eye(IMAGE_DIM)[shape] + told * np.eye(IMAGE_DIM)[colour + SHAPES]
    said = np.eye(TEXT_DIM)[word] if told else np.ones((count, TEXT_DIM))
    return TrainingProducts(
        ids=[f"p{i}" for i in range(count)],
        categories=[f"s{s}/w{w}" for s, w in zip(shape, word, strict=True)],
        tags=[(f"colour:{c}", "loose") for c in colour],
        images=_noisy(shown, noise, rng),
        texts=_noisy(said, noise, rng),
        image_encoder="mobilenet-0123456789ab",
        text_encoder="scdv-0123456789ab",
    )


def _noisy(vectors: np.ndarray, noise: float, rng: np.random.Generator) -> F32:
    return normalised((vectors + noise * rng.normal(size=vectors.shape)).astype(np.float32))
