"""Arrays that a person names on a command line: .npy files. Reads files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt


def read(path: Path, *, mapped: bool = False) -> npt.NDArray[Any]:
    """The array of a .npy file, of any shape and type of number. Raises ValueError, which says why it is none.

    mapped: left where it is, and read as it is looked at.
    """
    try:
        with path.open("rb") as file:
            head = file.read(len(np.lib.format.MAGIC_PREFIX))
        if head == np.lib.format.MAGIC_PREFIX:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
            return array
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except EOFError as error:
        raise ValueError(str(error)) from error
    raise ValueError("not a .npy file")
