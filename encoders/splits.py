"""Split products into training, calibration and test sets by a hash of the product id. Pure.

A product is in the same split in every run, on every machine, and whatever else the catalogue contains.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


class Split(IntEnum):
    """The set that a product belongs to."""

    TRAIN = 0  # 70 %
    CALIBRATE = 1  # 10 %: for hyperparameters, temperatures and thresholds.
    TEST = 2  # 20 %: held out from all training; reported metrics are measured on these.


def split_of(product_id: str) -> Split:
    """The split of one product, by a hash of its id."""
    digest = blake2b(product_id.encode(), digest_size=4, person=b"split").digest()
    tenth = int.from_bytes(digest, "little") % 10
    return Split.TEST if tenth >= 8 else Split.CALIBRATE if tenth == 7 else Split.TRAIN


def splits_of(ids: Sequence[str]) -> npt.NDArray[np.int8]:
    """(n,) int8, the Split of each id."""
    return np.fromiter(map(split_of, ids), np.int8, len(ids))
