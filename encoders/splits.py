"""Which products an encoder learns from, and which it is judged by: decided by the product's id alone. Pure.

So a product is on the same side in every run, on every machine, and whatever else the catalogue holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from hashlib import blake2b

import numpy as np
import numpy.typing as npt


class Split(IntEnum):
    TRAIN = 0  # 70 %
    CALIBRATE = 1  # 10 %: choices, temperatures and thresholds.
    TEST = 2  # 20 %: nothing is learnt from these; what is reported of an encoder is measured on them.


def split_of(product_id: str) -> Split:
    place = blake2b(product_id.encode(), digest_size=4, person=b"split").digest()
    tenth = int.from_bytes(place, "little") % 10
    return Split.TEST if tenth >= 8 else Split.CALIBRATE if tenth == 7 else Split.TRAIN


def splits_of(ids: Sequence[str]) -> npt.NDArray[np.int8]:
    """(n,) of Split."""
    return np.fromiter(map(split_of, ids), np.int8, len(ids))
