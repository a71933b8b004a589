"""Synthetic products: the image determines half of the category, the text the other half."""

from __future__ import annotations

import numpy as np

from encoders.product.train import TrainingProducts
from lookalike.vectors import F32, normalised

IMAGE_DIM, TEXT_DIM = 24, 16
SHAPES, WORDS = 3, 3  # A category is a shape, encoded in the image, and a word, encoded in the text.


def make_products(count: int = 900, *, seed: int = 1, noise: float = 0.6) -> TrainingProducts:
    """Products with categories "s<shape>/w<word>" and tags "colour:<colour in the image>" and "loose"."""
    rng = np.random.default_rng(seed)
    shape, word = rng.integers(SHAPES, size=count), rng.integers(WORDS, size=count)
    colour = rng.integers(4, size=count)
    image_signal = np.eye(IMAGE_DIM)[shape] + np.eye(IMAGE_DIM)[colour + SHAPES]
    text_signal = np.eye(TEXT_DIM)[word]
    return TrainingProducts(
        ids=[f"p{i}" for i in range(count)],
        categories=[f"s{s}/w{w}" for s, w in zip(shape, word, strict=True)],
        tags=[(f"colour:{c}", "loose") for c in colour],
        images=_noisy(image_signal, noise, rng),
        texts=_noisy(text_signal, noise, rng),
        image_encoder="mobilenet-0123456789ab",
        text_encoder="scdv-0123456789ab",
    )


def _noisy(vectors: np.ndarray, noise: float, rng: np.random.Generator) -> F32:
    return normalised((vectors + noise * rng.normal(size=vectors.shape)).astype(np.float32))
