"""Vector indexes on a GPU, with a fake device in this machine's memory: only the copy differs from a real GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import Host
from index.backends import device, factory, gpu
from index.backends.device import parse_device, unavailable_reason
from index.backends.gpu import DEVICE_QUERIES, DEVICE_REFUSALS, Gpu, device_bytes_of, inverted_lists_bytes
from index.backends.ivf import IvfIndex
from index.backends.recipe import resolve_recipe
from index.backends.vector_index import VectorIndex
from lookalike.errors import BadSettings, OperatorError, Overloaded
from tests.unit.index.samples import clustered

COUNT, DIM = 4_000, 32
VECTORS = clustered(COUNT + 40, DIM)
QUERIES = VECTORS[COUNT:]

OpenGpu = Callable[..., Gpu]


@pytest.fixture
def open_gpu() -> Iterator[OpenGpu]:
    gpus: list[Gpu] = []

    def open_on(host: Host, *, limit_bytes: int = 0, optional: bool = False) -> Gpu:
        gpus.append(Gpu(lambda: host, "host", limit_bytes=limit_bytes, max_waiting=64, optional=optional))
        return gpus[-1]

    yield open_on
    for opened in gpus:
        opened.close()


def index_of(name: str) -> VectorIndex:
    recipe = resolve_recipe(name, COUNT, DIM, 0)
    assert recipe is not None
    return factory.train_index(recipe, VECTORS[:COUNT], 0, 1)


def queries_on(where: str) -> float:
    count: float = DEVICE_QUERIES.labels(where)._value.get()
    return count


@pytest.mark.parametrize("name", ["IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4", "IVF16,PQ8x8", "PCAR16,IVF16,SQ8", "SQfp16"])
def test_a_copy_finds_the_same_candidates_as_the_original(open_gpu: OpenGpu, name: str) -> None:
    original, on_gpu = index_of(name), open_gpu(Host()).place(index_of(name))
    before = queries_on("device")
    candidates = on_gpu.find_candidates(QUERIES[:16], 20, 4)
    assert queries_on("device") == before + 16
    # The original compares centroids in bfloat16, the copy in float32: lists of nearly equal rank may change places.
    shared = [
        len(np.intersect1d(*pair))
        for pair in zip(candidates, original.find_candidates(QUERIES[:16], 20, 4), strict=True)
    ]
    assert sum(shared) >= 0.99 * 16 * 20


@pytest.mark.parametrize("name", ["IVF16,PQ8x4fs", "IVF16,RaBitQ", "HNSW16"])
def test_a_recipe_that_no_gpu_can_search_is_refused_and_the_allowed_ones_named(open_gpu: OpenGpu, name: str) -> None:
    with pytest.raises(OperatorError, match="host: only SQfp16, and IVF with Flat, SQ8, SQ4, PQ8, can be searched"):
        open_gpu(Host()).place(index_of(name))


def test_the_original_searches_for_more_candidates_than_a_device_selects(open_gpu: OpenGpu) -> None:
    """More than 2,048 candidates."""
    original, on_gpu = index_of("IVF16,SQ8"), open_gpu(Host()).place(index_of("IVF16,SQ8"))
    before = queries_on("cpu")
    deep = on_gpu.find_candidates(QUERIES[:2], 2049, 16)
    assert np.array_equal(deep, original.find_candidates(QUERIES[:2], 2049, 16))
    assert queries_on("cpu") == before + 2


def test_the_original_searches_more_lists_than_a_device_can_visit(open_gpu: OpenGpu) -> None:
    host = Host()
    host.max_selected = 8
    on_gpu, before = open_gpu(host).place(index_of("IVF16,SQ8")), queries_on("cpu")
    assert (on_gpu.find_candidates(QUERIES[:1], 8, 9) >= 0).all()
    assert queries_on("cpu") == before + 1


def test_concurrent_searches_get_the_same_results_as_serial_ones(open_gpu: OpenGpu) -> None:
    original, on_gpu = index_of("IVF16,SQ8"), open_gpu(Host()).place(index_of("IVF16,SQ8"))
    with ThreadPoolExecutor(8) as pool:
        candidates = list(pool.map(lambda i: on_gpu.find_candidates(QUERIES[i : i + 1], 10, 4), range(40)))
    assert np.array_equal(np.concatenate(candidates), original.find_candidates(QUERIES, 10, 4))


def test_more_queries_than_the_queue_holds_are_refused(open_gpu: OpenGpu) -> None:
    with pytest.raises(Overloaded):
        open_gpu(Host()).place(index_of("SQfp16")).find_candidates(np.repeat(QUERIES, 2, axis=0), 10, 1)


@pytest.mark.parametrize(("free_bytes", "limit_bytes"), [(1 << 17, 0), (1 << 30, 1 << 17)])
def test_an_index_that_does_not_fit_is_refused_with_figures_before_it_is_copied(
    open_gpu: OpenGpu, free_bytes: int, limit_bytes: int
) -> None:
    class Counting(Host):
        copies = 0

        def copy_to_device(self, index: Any) -> Any:
            self.copies += 1
            return index

    host = Counting(free_bytes)
    with pytest.raises(OperatorError, match=r"host: 4000 vectors need \d+ KiB, 1\d\d KiB may be used"):
        open_gpu(host, limit_bytes=limit_bytes).place(index_of("IVF16,SQ8"))
    assert host.copies == 0


def test_the_memory_limit_covers_all_indexes_and_a_freed_one_makes_room(open_gpu: OpenGpu) -> None:
    index = index_of("IVF16,SQ8")
    assert isinstance(index, IvfIndex)
    gpu_on_host = open_gpu(Host(), limit_bytes=int(2.5 * device_bytes_of(index)))
    placed = [gpu_on_host.place(index) for _ in range(2)]
    with pytest.raises(OperatorError, match="may be used"):
        gpu_on_host.place(index)
    for _ in range(3):
        placed.pop()
        gc.collect()
        placed.append(gpu_on_host.place(index))
    with pytest.raises(OperatorError, match="may be used"):
        gpu_on_host.place(index)


def test_with_auto_an_index_that_does_not_fit_stays_on_the_cpu_and_the_log_says_so(
    open_gpu: OpenGpu, caplog: pytest.LogCaptureFixture
) -> None:
    index, before = index_of("IVF16,SQ8"), DEVICE_REFUSALS._value.get()
    kept = open_gpu(Host(0), optional=True).place(index)
    assert kept is index
    assert gpu.device_of(kept) == "cpu"
    assert DEVICE_REFUSALS._value.get() == before + 1
    assert "searched on the CPU: host: 4000 vectors need" in caplog.text


def test_an_index_is_freed_by_the_thread_that_owns_the_device(open_gpu: OpenGpu) -> None:
    freed_by: list[object] = []
    gpu_on_host = open_gpu(Host())

    class Copy:
        def __del__(self) -> None:
            freed_by.append(gpu_on_host.device_thread.is_current_thread())

    gpu_on_host.device.copy_to_device = lambda index: Copy()  # type: ignore[method-assign]
    on_gpu = gpu_on_host.place(index_of("IVF16,SQ8"))
    assert gpu.device_of(on_gpu) == "host"
    del on_gpu
    gc.collect()
    gpu_on_host.device_thread.run(lambda: None)
    assert freed_by == [True]


def test_device_memory_is_computed_from_the_layout_of_the_lists() -> None:
    """Codes in groups of 32 vectors, ids of 4 bytes, each array in steps of 512 bytes."""
    assert inverted_lists_bytes([0], 64) == 0
    assert inverted_lists_bytes([1], 64) == 32 * 64 + 512
    assert inverted_lists_bytes([33, 129], 64) == (64 * 64 + 512) + (160 * 64 + 1024)


def test_an_index_trained_on_the_device_finds_the_same_candidates(open_gpu: OpenGpu) -> None:
    recipe = resolve_recipe("IVF16,SQ8", COUNT, DIM, 0)
    assert recipe is not None
    trained = open_gpu(Host()).train_ivf(recipe, VECTORS[:COUNT], 0, 1)  # type: ignore[arg-type]
    candidates = trained.find_candidates(QUERIES[:16], 10, 4)
    assert np.array_equal(candidates, index_of("IVF16,SQ8").find_candidates(QUERIES[:16], 10, 4))


def test_without_a_gpu_naming_one_is_an_error_with_the_reason_and_auto_means_the_cpu() -> None:
    assert parse_device("cpu") is None
    if unavailable_reason(0) is None:
        pytest.skip("there is a GPU")
    assert parse_device("auto") is None
    with pytest.raises(OperatorError, match="device cuda:0: faiss"):
        parse_device("cuda:0")


def test_a_malformed_device_setting_is_refused() -> None:
    for setting in ("gpu", "cuda", "cuda:x", "CPU", ""):
        with pytest.raises(BadSettings, match="expected cpu, auto or cuda:<number>"):
            parse_device(setting)


def test_an_old_driver_and_a_wrong_gpu_number_give_different_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    class Faiss:
        __version__ = "1.15.1"
        StandardGpuResources = object

        def __init__(self, devices: int) -> None:
            self.get_num_gpus = lambda: devices

    monkeypatch.setattr(device, "faiss", Faiss(0))
    monkeypatch.setattr(device, "_driver_error", lambda: "CUDA driver version is insufficient")
    assert unavailable_reason(0) == "faiss sees no GPU: CUDA driver version is insufficient"
    monkeypatch.setattr(device, "faiss", Faiss(2))
    assert unavailable_reason(1) is None
    assert unavailable_reason(2) == "there are 2 GPUs, numbered from 0"
    assert parse_device("auto") == 0
    assert parse_device("cuda:1") == 1
