"""Read the .npy files that are named on a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """The array in a .npy file, of any shape and dtype. Raises ValueError, which says why it cannot be read.

    mapped: map the file into memory instead of reading it.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(np.lib.format.MAGIC_PREFIX))
        if magic == np.lib.format.MAGIC_PREFIX:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
            return array
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except EOFError as error:
        raise ValueError(str(error)) from error
    raise ValueError("not a .npy file")
