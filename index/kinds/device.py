"""GPUs that faiss can use: which there are, what is missing, what fits, and the copy of an index. Talks to the driver.

Of a GPU everything goes through one thread (`index/kinds/owner.py`): faiss's resources are not safe among several.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any, Protocol

from index.kinds.engine import faiss
from lookalike.errors import BadSettings, OperatorError

CPU, AUTO = "cpu", "auto"
# faiss selects neighbours, and lists to visit, in registers: no more than these.
_MOST = 2048
# Scratch space of searches, taken once, before indexes are: faiss would take up to 1.5 GiB.
_SCRATCH_BYTES = 512 << 20
_CUDA = re.compile(r"cuda:(\d{1,3})")


class Device(Protocol):
    """For one thread, the one that made it."""

    name: str
    most: int  # Candidates for a query, and lists that it visits.

    def free_bytes(self) -> int:
        """Of its memory, now."""

    def copied(self, index: Any) -> Any:
        """An index of faiss, in its memory. Raises RuntimeError when it does not know the kind, or has no room."""


class Cuda:
    """`Device`, by CUDA."""

    most = _MOST

    def __init__(self, number: int) -> None:
        self.name = f"cuda:{number}"
        self._number = number
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(_SCRATCH_BYTES)

    def free_bytes(self) -> int:
        library = _runtime()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _checked(library, library.cudaSetDevice(self._number))
        _checked(library, library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def copied(self, index: Any) -> Any:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True  # Look-up tables of product quantisation, and vectors where the index is flat.
        options.indicesOptions = faiss.INDICES_32_BIT
        return faiss.index_cpu_to_gpu(self._resources, self._number, index, options)


def chosen(setting: str) -> int | None:
    """The number of the GPU that a setting stands for; None: none. `auto` is the first, if there is one.

    Raises BadSettings for a setting that is none; OperatorError with what is missing when it asks for a GPU.
    """
    if setting == CPU or (setting == AUTO and missing(0) is not None):
        return None
    match = _CUDA.fullmatch("cuda:0" if setting == AUTO else setting)
    if match is None:
        raise BadSettings(f"device {setting!r}: not cpu, auto or cuda:<number>")
    number = int(match[1])
    if (reason := missing(number)) is not None:
        raise OperatorError(f"device {setting}: {reason}")
    return number


def missing(number: int) -> str | None:
    """Why GPU `number` cannot be used; None: it can."""
    if not hasattr(faiss, "StandardGpuResources"):
        return f"faiss {faiss.__version__} here is built for CPUs: install the extra `gpu` in place of `index`"
    devices = int(faiss.get_num_gpus())
    if devices == 0:
        return f"faiss sees no GPU: {_driver_says()}"
    if number >= devices:
        return f"there are {devices} GPUs, numbered from 0"
    return None


def _driver_says() -> str:
    try:
        library = _runtime()
    except OSError as error:
        return str(error)
    count = ctypes.c_int()
    return _error(library, library.cudaGetDeviceCount(ctypes.byref(count)))


def _runtime() -> ctypes.CDLL:
    """CUDA's runtime, which faiss has loaded already."""
    return ctypes.CDLL("libcudart.so.12")


def _checked(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise RuntimeError(_error(library, status))


def _error(library: ctypes.CDLL, status: int) -> str:
    library.cudaGetErrorString.restype = ctypes.c_char_p
    text: bytes = library.cudaGetErrorString(status)
    return text.decode(errors="replace")
