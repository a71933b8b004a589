"""Encodes copies of test products' photos, edited as another shop would. Reads photos, and calls a model server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from encoders.image.isolated_decoder import image_decoder
from encoders.image.perturbation import CHANGES, Pixels
from lookalike.runtime.ordered_map import ordered_map
from lookalike.vectors import F32, I64
from pipeline import image_encoding
from pipeline.image_encoding import PhotoEncoder
from pipeline.photos import pixels_or_none
from pipeline.product_copies import SCALE, copy_photo

MAX_QUERIES = 300  # Each is encoded once per kind of change: 40 s of CPU in all.
ANY = "any changes"
KINDS: Mapping[str, Sequence[str]] = MappingProxyType({ANY: (), **{name: (name,) for name in CHANGES}})
_DECODERS = 2


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPhotos:
    """The vectors of photos and of their copies; zeros for a photo that there is not or that cannot be decoded."""

    photos: F32  # (n, dim), one per photo that was to be encoded.
    rows: I64  # Of the photos that were copied.
    copies: Mapping[str, F32]  # By KINDS, (len(rows), dim).
    encoder: str  # Its fingerprint.


def rows_to_copy(photos: Sequence[Path | None], seed: int) -> I64:
    """The photos to copy: at most MAX_QUERIES, ascending."""
    rows = np.flatnonzero([photo is not None for photo in photos])
    random = np.random.default_rng(seed)
    return np.sort(random.choice(rows, MAX_QUERIES, replace=False)) if len(rows) > MAX_QUERIES else rows


def encode(
    address: str,
    photos: Sequence[Path | None],
    *,
    model: str,
    with_photos: bool,
    copied: I64,
    seed: int,
    count: Callable[[], Any] = lambda: None,
) -> EncodedPhotos:
    """Encode the copies of the photos `copied`; with_photos: and all photos. Raises ServiceError."""

    async def encode_all() -> EncodedPhotos:
        async with image_encoding.connect_encoder(address, model=model) as encoder:
            probe = await image_encoding.probe(encoder)
            side_px, dim = encoder.input_px, probe.vectors.shape[1]
            vectors: F32 = np.zeros((len(photos), dim), dtype=np.float32)
            if with_photos:
                vectors = await _encode_batches(encoder, _decoded(photos, side_px), dim, count)
            originals = [photos[row] for row in copied.tolist()]
            copies = {
                kind: await _encode_batches(encoder, _copied(originals, side_px, changes, seed), dim, count)
                for kind, changes in KINDS.items()
            }
        return EncodedPhotos(photos=vectors, rows=copied, copies=copies, encoder=probe.encoder)

    return asyncio.run(encode_all())


def _decoded(photos: Sequence[Path | None], side_px: int) -> Iterator[Pixels | None]:
    with image_decoder(_DECODERS, side_px) as decode:
        yield from _in_order(lambda photo: pixels_or_none(photo, decode), photos)


def _copied(
    photos: Sequence[Path | None], side_px: int, changes: Collection[str], seed: int
) -> Iterator[Pixels | None]:
    with image_decoder(_DECODERS, SCALE * side_px) as decode:
        yield from _in_order(
            lambda photo: copy_photo(photo, decode, side_px=side_px, seed=seed, changes=changes), photos
        )


def _in_order(read: Callable[[Path], Pixels | None], photos: Sequence[Path | None]) -> Iterator[Pixels | None]:
    """What is read of each photo, by threads; None for none."""

    def read_or_none(photo: Path | None) -> Pixels | None:
        return None if photo is None else read(photo)

    for _, pixels in ordered_map(read_or_none, photos, workers=_DECODERS, ahead=image_encoding.BATCH):
        yield pixels


async def _encode_batches(
    encoder: PhotoEncoder, photos: Iterator[Pixels | None], dim: int, count: Callable[[], Any]
) -> F32:
    """(n, dim) the vectors of decoded photos; zeros for None."""
    parts: list[F32] = [np.zeros((0, dim), dtype=np.float32)]
    blank = np.zeros((encoder.input_px, encoder.input_px, 3), np.uint8)
    while batch := [photo for _, photo in zip(range(image_encoding.BATCH), photos, strict=False)]:
        response = await image_encoding.encode_with_retries(
            encoder.encode, np.stack([blank if photo is None else photo for photo in batch])
        )
        parts.append(response.vectors * np.array([photo is not None for photo in batch])[:, None])
        for _ in batch:
            count()
    return np.concatenate(parts)
