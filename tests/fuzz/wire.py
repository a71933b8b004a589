"""Hypothesis strategies for the bytes of protobuf messages: valid, at the bounds, hostile, damaged. Pure.

Messages are made as bytes, field by field, so that they can be what no generated class would serialize: strings that
are no UTF-8, fields of the wrong wire type, unknown fields and groups, varints of ten bytes, half of a message.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import cache

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[bytes]], bytes]

VARINT, FIXED64, DELIMITED, START_GROUP, END_GROUP, FIXED32 = range(6)
_MAX_DEPTH = 4
_MAX_REPEATED_BYTES = 1 << 20
_TOO_DEEP = 150  # The parsers stop at 100.
_FIXED = {
    FieldDescriptor.TYPE_DOUBLE: "<d",
    FieldDescriptor.TYPE_FLOAT: "<f",
    FieldDescriptor.TYPE_FIXED64: "<Q",
    FieldDescriptor.TYPE_FIXED32: "<I",
    FieldDescriptor.TYPE_SFIXED64: "<q",
    FieldDescriptor.TYPE_SFIXED32: "<i",
}
_INTEGERS = (0, 1, 2, 3, 10, 100, 255, 256, 257, 1000, 1001, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63)
_NEGATIVE = (2**64 - 1, 2**64 - 2**31)  # -1 and the least int32, as they travel.
_FLOATS = (0.0, -0.0, 0.5, 1.0, -1.0, 1e-45, 1e-300, 3.4e38, 1e308, float("inf"), float("-inf"), float("nan"))
_STRINGS = (
    b"",
    b"a",
    b"\0",
    b"../../etc/passwd",
    "\u202eright to left \U0001f45f".encode(),
    b"\xff\xfe",  # No UTF-8, as the next two.
    b"\xed\xa0\x80",
    b"\xc0\x80",
    b"x" * 257,
    b"x" * (64 << 10),
    "靴".encode() * (22 << 10),
    b"<b>&amp;" * 500,
    b" " * 3000,
)
_BYTES = (b"", b"\0", b"\0\0\xc0\x7f" * 16, b"\0\0\x80\x7f" * 24, b"\xff" * 63, bytes(96), b"\xff\xd8\xff" * 30)


@dataclass(frozen=True, eq=False)
class Hints:
    """What a server is likely to accept, by the full name of a field.

    values:   of a field, as `field` and `varint` take them: without tag and length.
    required: fields that hold messages, without which a request is refused at once.
    """

    values: Mapping[str, st.SearchStrategy[bytes]]
    required: Set[str]


def varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*encoded, value))


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field: a string, bytes, a message, or packed numbers."""
    return varint(number << 3 | DELIMITED) + varint(len(payload)) + payload


@cache
def messages(descriptor: Descriptor, hints: Hints) -> st.SearchStrategy[bytes]:
    """The bytes of a message, four of five times undamaged."""
    whole = _whole(descriptor, hints, 0)
    return st.one_of(whole, whole, whole, whole, whole.flatmap(_damaged))


def _damaged(data: bytes) -> st.SearchStrategy[bytes]:
    end = st.integers(0, max(0, len(data) - 1))
    return st.one_of(
        end.map(lambda at: data[:at]),
        st.tuples(end, st.integers(1, 255)).map(lambda each: _flipped(data, *each)),
        st.binary(max_size=24).map(lambda tail: data + tail),
        st.sampled_from(
            (
                data + field(19999, b"unknown"),
                data + varint(1 << 3 | START_GROUP) * 3 + varint(1 << 3 | END_GROUP) * 3,
                data + varint(1 << 3 | START_GROUP),
                data + varint(7) + b"\x01",  # Wire type 7.
                data + b"\x08" + b"\xff" * 9 + b"\x01",  # A varint of ten bytes,
                data + b"\x08" + b"\xff" * 11,  # and one that is too long.
                data + b"\x0a" + varint(2**31),  # A length beyond the end.
                data * 2,
            )
        ),
    )


def _flipped(data: bytes, at: int, mask: int) -> bytes:
    return data[:at] + bytes(each ^ mask for each in data[at : at + 1]) + data[at + 1 :]


def _whole(descriptor: Descriptor | None, hints: Hints, depth: int) -> st.SearchStrategy[bytes]:
    fields = [] if descriptor is None else list(descriptor.fields)
    if not fields or depth > _MAX_DEPTH:
        return st.just(b"")
    # They are there, and seldom a second time with another value: the last one counts.
    likely = [each for each in fields if each.full_name in hints.values or each.full_name in hints.required]

    any_field = [*likely, *[each for each in fields if each not in likely] * 4]

    @st.composite
    def draw_message(draw: Draw) -> bytes:
        there = [draw(_likely(each, hints, depth)) for each in likely if draw(_MOSTLY)]
        more = draw(_MORE if depth < 2 else _ONE_MORE)
        return b"".join([*there, *(draw(_field(any_field[number % len(any_field)], hints, depth)) for number in more)])

    return draw_message()


_MORE = st.one_of(st.just(b""), st.binary(max_size=1), st.binary(max_size=4))
_ONE_MORE = st.one_of(st.just(b""), st.binary(max_size=1))
_MOSTLY: st.SearchStrategy[bytes] = st.sampled_from((*[b"y"] * 9, b""))


@cache
def _likely(each: FieldDescriptor, hints: Hints, depth: int) -> st.SearchStrategy[bytes]:
    if (values := hints.values.get(each.full_name)) is None:
        values = _whole(each.message_type, hints, depth + 1)
    one = values.map(lambda value: _tagged(each, value))
    return st.lists(one, min_size=1, max_size=3).map(b"".join) if each.is_repeated else one


@cache
def _field(each: FieldDescriptor, hints: Hints, depth: int) -> st.SearchStrategy[bytes]:
    if each.type == FieldDescriptor.TYPE_MESSAGE:
        values = st.deferred(lambda: _whole(each.message_type, hints, depth + 1))
        if each.message_type is each.containing_type:
            values |= st.just(_nested(each.number, _TOO_DEEP)) | st.just(_nested(each.number, 20))
    else:
        values = _scalar(each)
    one = values.map(lambda value: _tagged(each, value))
    if each.is_repeated:
        many = one.flatmap(lambda value: st.sampled_from((101, 1001)).map(lambda times: _repeated(value, times)))
        choices = [st.lists(one, min_size=1, max_size=3).map(b"".join)] * 3 + [many]
        if _wire_type(each) != DELIMITED:
            choices.append(st.lists(values, max_size=5).map(lambda each_: field(each.number, b"".join(each_))))
        one = st.one_of(choices)
    wrong_type = st.sampled_from((varint(each.number << 3) + b"\x01", varint(each.number << 3 | FIXED32) + b"abcd"))
    return st.one_of(one, one, one, one, one, wrong_type)


def _repeated(value: bytes, times: int) -> bytes:
    return value * min(times, max(1, _MAX_REPEATED_BYTES // max(1, len(value))))


def _tagged(each: FieldDescriptor, value: bytes) -> bytes:
    wire_type = _wire_type(each)
    return field(each.number, value) if wire_type == DELIMITED else varint(each.number << 3 | wire_type) + value


def _nested(number: int, levels: int) -> bytes:
    data = b""
    for _ in range(levels):
        data = field(number, data)
    return data


def _wire_type(each: FieldDescriptor) -> int:
    if each.type in _FIXED:
        return FIXED64 if struct.calcsize(_FIXED[each.type]) == 8 else FIXED32
    kinds = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_MESSAGE)
    return DELIMITED if each.type in kinds else VARINT


@cache
def _scalar(each: FieldDescriptor) -> st.SearchStrategy[bytes]:
    """The values of a field that is no message, without their tag, and a string's without its length."""
    if each.type in _FIXED and each.cpp_type not in (FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT):
        size = struct.calcsize(_FIXED[each.type])
        return st.binary(min_size=size, max_size=size)
    integers = st.one_of(st.sampled_from((*_INTEGERS, *_NEGATIVE)), st.integers(0, 2**64 - 1)).map(varint)
    doubles = st.one_of(st.sampled_from(_FLOATS), st.floats())
    enums = [] if each.enum_type is None else [value.number for value in each.enum_type.values]
    by_type = {
        FieldDescriptor.TYPE_STRING: st.one_of(st.sampled_from(_STRINGS), st.text(max_size=20).map(str.encode)),
        FieldDescriptor.TYPE_BYTES: st.one_of(st.sampled_from(_BYTES), st.binary(max_size=100)),
        FieldDescriptor.TYPE_BOOL: st.sampled_from((b"\0", b"\1", b"\2")),
        FieldDescriptor.TYPE_ENUM: st.sampled_from((*enums, 99, 2**64 - 1)).map(lambda each: varint(each % 2**64)),
        FieldDescriptor.TYPE_DOUBLE: doubles.map(lambda value: struct.pack("<d", value)),
        FieldDescriptor.TYPE_FLOAT: doubles.map(pack_float),
    }
    return by_type.get(each.type, integers)


def pack_float(value: float) -> bytes:
    """Four bytes; infinite where the value is beyond their range."""
    try:
        return struct.pack("<f", value)
    except OverflowError:
        return struct.pack("<f", float("inf") if value > 0 else float("-inf"))
