"""The log of slow work."""

from __future__ import annotations

import pytest

from lookalike.runtime.slow_log import SlowLog, shape_of, slow_log
from lookalike.runtime.telemetry import FIELDS
from lookalike.v1.types_pb2 import Filter


def test_no_more_than_ten_slow_searches_a_second_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    slow = SlowLog(0.1, clock=lambda: now_s)
    for _ in range(25):
        slow.write("slow search", {})
    now_s += 1
    slow.write("slow search", {})
    assert [getattr(each, FIELDS)["left_out"] for each in caplog.records] == [0] * 10 + [15]


def test_without_a_threshold_there_is_no_log() -> None:
    assert slow_log(0.0) is None


def test_the_shape_of_a_message_is_its_fields_and_how_many_values_each_has() -> None:
    message = Filter(shop_in=["a", "b"], max_price=7.5, none_of=[Filter(in_stock=False), Filter()])
    assert shape_of(message) == {"shop_in": 2, "max_price": 1, "none_of": [{"in_stock": 1}, {}]}
