"""GPUs that faiss can use: find one, say why it cannot be used, copy an index to it. Talks to the driver.

All work on a GPU goes through one thread (`index/backends/device_thread.py`): faiss's GPU resources are not
thread-safe.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any, Protocol

from index.backends.faiss_support import faiss
from lookalike.errors import BadSettings, OperatorError

CPU, AUTO = "cpu", "auto"
# faiss selects candidates, and lists to visit, in GPU registers, which hold no more.
_MAX_SELECTED = 2048
# Scratch space of searches, allocated once, before any index; faiss's default is up to 1.5 GiB.
_SCRATCH_BYTES = 512 << 20
_CUDA = re.compile(r"cuda:(\d{1,3})")


class Device(Protocol):
    """A GPU. Only the thread that created it may use it."""

    name: str
    max_selected: int  # Most candidates, or inverted lists, per query.

    def free_bytes(self) -> int:
        """Free memory."""

    def copy_to_device(self, index: Any) -> Any:
        """Copy a faiss index to its memory. Raises RuntimeError for an unsupported type, or if memory is full."""


class CudaDevice:
    """`Device`, by CUDA."""

    max_selected = _MAX_SELECTED

    def __init__(self, number: int) -> None:
        self.name = f"cuda:{number}"
        self._number = number
        self._resources = faiss.StandardGpuResources()
        self._resources.setTempMemory(_SCRATCH_BYTES)

    def free_bytes(self) -> int:
        library = _load_cuda_runtime()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        _raise_on_error(library, library.cudaSetDevice(self._number))
        _raise_on_error(library, library.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def copy_to_device(self, index: Any) -> Any:
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True  # For the look-up tables of product quantisation, and for flat vectors.
        options.indicesOptions = faiss.INDICES_32_BIT
        return faiss.index_cpu_to_gpu(self._resources, self._number, index, options)


def parse_device(setting: str) -> int | None:
    """The number of the GPU that a setting names; None: the CPU. `auto` is the first GPU, if there is one.

    Raises BadSettings for a malformed setting; OperatorError when the GPU it names cannot be used, with the reason.
    """
    if setting == CPU or (setting == AUTO and unavailable_reason(0) is not None):
        return None
    match = _CUDA.fullmatch("cuda:0" if setting == AUTO else setting)
    if match is None:
        raise BadSettings(f"device {setting!r}: expected cpu, auto or cuda:<number>")
    number = int(match[1])
    if (reason := unavailable_reason(number)) is not None:
        raise OperatorError(f"device {setting}: {reason}")
    return number


def unavailable_reason(number: int) -> str | None:
    """Why GPU `number` cannot be used; None: it can."""
    if not hasattr(faiss, "StandardGpuResources"):
        return f"faiss {faiss.__version__} here is built for CPUs: install faiss-gpu in place of faiss-cpu"
    devices = int(faiss.get_num_gpus())
    if devices == 0:
        return f"faiss sees no GPU: {_driver_error()}"
    if number >= devices:
        return f"there are {devices} GPUs, numbered from 0"
    return None


def _driver_error() -> str:
    try:
        library = _load_cuda_runtime()
    except OSError as error:
        return str(error)
    count = ctypes.c_int()
    return _error_text(library, library.cudaGetDeviceCount(ctypes.byref(count)))


def _load_cuda_runtime() -> ctypes.CDLL:
    """CUDA's runtime, which faiss has loaded already."""
    return ctypes.CDLL("libcudart.so.12")


def _raise_on_error(library: ctypes.CDLL, status: int) -> None:
    if status:
        raise RuntimeError(_error_text(library, status))


def _error_text(library: ctypes.CDLL, status: int) -> str:
    library.cudaGetErrorString.restype = ctypes.c_char_p
    text: bytes = library.cudaGetErrorString(status)
    return text.decode(errors="replace")
