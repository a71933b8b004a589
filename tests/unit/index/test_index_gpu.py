"""Codes on a GPU, with a device that is this machine's memory: all but the copy is the code that a GPU runs."""

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

Opened = Callable[..., Gpu]


@pytest.fixture
def opened() -> Iterator[Opened]:
    made: list[Gpu] = []

    def on(host: Host, *, limit_bytes: int = 0, optional: bool = False) -> Gpu:
        made.append(Gpu(lambda: host, "host", limit_bytes=limit_bytes, max_waiting=64, optional=optional))
        return made[-1]

    yield on
    for each in made:
        each.close()


def codes_of(name: str) -> VectorIndex:
    recipe = resolve_recipe(name, COUNT, DIM, 0)
    assert recipe is not None
    return factory.train_index(recipe, VECTORS[:COUNT], 0, 1)


def searched(where: str) -> float:
    counted: float = DEVICE_QUERIES.labels(where)._value.get()
    return counted


@pytest.mark.parametrize("name", ["IVF16,Flat", "IVF16,SQ8", "IVF16,SQ4", "IVF16,PQ8x8", "PCAR16,IVF16,SQ8", "SQfp16"])
def test_a_copy_finds_what_the_original_does(opened: Opened, name: str) -> None:
    original, there = codes_of(name), opened(Host()).place(codes_of(name))
    before = searched("device")
    found = there.find_candidates(QUERIES[:16], 20, 4)
    assert searched("device") == before + 16
    assert np.array_equal(np.sort(found), np.sort(original.find_candidates(QUERIES[:16], 20, 4)))


@pytest.mark.parametrize("name", ["IVF16,PQ8x4fs", "IVF16,RaBitQ", "HNSW16"])
def test_a_kind_that_no_gpu_knows_is_refused_by_name_of_those_that_it_does(opened: Opened, name: str) -> None:
    with pytest.raises(OperatorError, match="host: only SQfp16, and IVF with Flat, SQ8, SQ4, PQ8, can be searched"):
        opened(Host()).place(codes_of(name))


def test_what_a_device_cannot_select_the_original_does(opened: Opened) -> None:
    """More than 2,048 candidates."""
    original, there = codes_of("IVF16,SQ8"), opened(Host()).place(codes_of("IVF16,SQ8"))
    before = searched("cpu")
    deep = there.find_candidates(QUERIES[:2], 2049, 16)
    assert np.array_equal(deep, original.find_candidates(QUERIES[:2], 2049, 16))
    assert searched("cpu") == before + 2


def test_so_many_lists_as_a_device_cannot_visit_the_original_does(opened: Opened) -> None:
    host = Host()
    host.max_selected = 8
    there, before = opened(host).place(codes_of("IVF16,SQ8")), searched("cpu")
    assert (there.find_candidates(QUERIES[:1], 8, 9) >= 0).all()
    assert searched("cpu") == before + 1


def test_many_threads_are_answered_as_one(opened: Opened) -> None:
    original, there = codes_of("IVF16,SQ8"), opened(Host()).place(codes_of("IVF16,SQ8"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: there.find_candidates(QUERIES[i : i + 1], 10, 4), range(40)))
    assert np.array_equal(np.concatenate(found), original.find_candidates(QUERIES, 10, 4))


def test_more_queries_than_may_wait_are_refused(opened: Opened) -> None:
    with pytest.raises(Overloaded):
        opened(Host()).place(codes_of("SQfp16")).find_candidates(np.repeat(QUERIES, 2, axis=0), 10, 1)


@pytest.mark.parametrize(("free_bytes", "limit_bytes"), [(1 << 17, 0), (1 << 30, 1 << 17)])
def test_what_does_not_fit_is_refused_with_figures_before_it_is_copied(
    opened: Opened, free_bytes: int, limit_bytes: int
) -> None:
    class Counting(Host):
        copies = 0

        def copy_to_device(self, index: Any) -> Any:
            self.copies += 1
            return index

    host = Counting(free_bytes)
    with pytest.raises(OperatorError, match=r"host: 4000 vectors take \d+ KiB there, 1\d\d KiB may be used"):
        opened(host, limit_bytes=limit_bytes).place(codes_of("IVF16,SQ8"))
    assert host.copies == 0


def test_a_cap_is_on_all_that_is_there_together_and_what_goes_makes_room(opened: Opened) -> None:
    codes = codes_of("IVF16,SQ8")
    assert isinstance(codes, IvfIndex)
    held = opened(Host(), limit_bytes=int(2.5 * device_bytes_of(codes)))
    placed = [held.place(codes) for _ in range(2)]
    with pytest.raises(OperatorError, match="may be used"):
        held.place(codes)
    for _ in range(3):
        placed.pop()
        gc.collect()
        placed.append(held.place(codes))
    with pytest.raises(OperatorError, match="may be used"):
        held.place(codes)


def test_where_the_cpu_may_do_it_what_does_not_fit_stays_there_and_that_is_said(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    codes, before = codes_of("IVF16,SQ8"), DEVICE_REFUSALS._value.get()
    kept = opened(Host(0), optional=True).place(codes)
    assert kept is codes
    assert gpu.device_of(kept) == "cpu"
    assert DEVICE_REFUSALS._value.get() == before + 1
    assert "searched on the CPU: host: 4000 vectors take" in caplog.text


def test_an_index_is_freed_by_the_thread_that_owns_the_device(opened: Opened) -> None:
    freed_by: list[object] = []
    held = opened(Host())

    class Copy:
        def __del__(self) -> None:
            freed_by.append(held.device_thread.is_current_thread())

    held.device.copy_to_device = lambda index: Copy()  # type: ignore[method-assign]
    there = held.place(codes_of("IVF16,SQ8"))
    assert gpu.device_of(there) == "host"
    del there
    gc.collect()
    held.device_thread.run(lambda: None)
    assert freed_by == [True]


def test_memory_is_computed_by_lists_as_they_are_laid_out() -> None:
    """Codes in groups of 32 vectors, ids of 4 bytes, each array in steps of 512 bytes."""
    assert inverted_lists_bytes([0], 64) == 0
    assert inverted_lists_bytes([1], 64) == 32 * 64 + 512
    assert inverted_lists_bytes([33, 129], 64) == (64 * 64 + 512) + (160 * 64 + 1024)


def test_with_the_devices_help_codes_are_learnt_that_find_the_same(opened: Opened) -> None:
    recipe = resolve_recipe("IVF16,SQ8", COUNT, DIM, 0)
    assert recipe is not None
    made = opened(Host()).train_ivf(recipe, VECTORS[:COUNT], 0, 1)  # type: ignore[arg-type]
    found = made.find_candidates(QUERIES[:16], 10, 4)
    assert np.array_equal(found, codes_of("IVF16,SQ8").find_candidates(QUERIES[:16], 10, 4))


def test_without_a_gpu_a_shard_says_what_is_missing_and_auto_does_without() -> None:
    assert parse_device("cpu") is None
    if unavailable_reason(0) is None:
        pytest.skip("there is a GPU")
    assert parse_device("auto") is None
    with pytest.raises(OperatorError, match="device cuda:0: faiss"):
        parse_device("cuda:0")


def test_a_setting_that_is_no_device_is_refused() -> None:
    for setting in ("gpu", "cuda", "cuda:x", "CPU", ""):
        with pytest.raises(BadSettings, match="not cpu, auto or cuda:<number>"):
            parse_device(setting)


def test_a_driver_that_is_too_old_is_told_from_no_gpu_and_from_a_wrong_number(monkeypatch: pytest.MonkeyPatch) -> None:
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
