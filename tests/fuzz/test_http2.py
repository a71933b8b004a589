"""What no HTTP/2 peer can do to a server, over either implementation: end it, hang it, or keep what it holds."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable, Iterator

import pytest
from hypothesis import example
from hypothesis import strategies as st

from lookalike.v1.catalog_pb2 import ListRequest
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE
from tests.edges import IMPLEMENTATIONS
from tests.fuzz import http2
from tests.fuzz.budget import OUTCOMES, fuzz
from tests.fuzz.http2 import Connection, Ended, frame
from tests.fuzz.systems import BUGS, System, running_system
from tests.fuzz.vocabulary import IMAGE_DIM

SEARCH, LIST, STREAM = (
    "/lookalike.v1.SimilarProducts/Search",
    "/lookalike.v1.Catalog/List",
    "/lookalike.v1.SimilarProducts/SearchStream",
)
QUERY = SearchRequest(examples=[Example(vector=b"\0\0\x80\x3f" * IMAGE_DIM)], space=SPACE_IMAGE, limit=3)
BODY = http2.message(QUERY.SerializeToString())
BUG_CODES = {code.value[0] for code in BUGS}
# A bug in Python. Where it cannot read a peer's frames or metadata, grpcio's C core answers INTERNAL itself, in its own
# words; the native server does not.
OUR_BUGS = ("internal", "Unexpected")
OPEN, END = 0, http2.END_STREAM
FLOOD = 20_000  # Frames.


@pytest.fixture(scope="module", params=IMPLEMENTATIONS)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with running_system(request.param, tmp_path_factory.mktemp("system")) as system:
        yield system


def headers(stream: int, path: str = SEARCH, *more: tuple[bytes, bytes], flags: int = http2.END_HEADERS) -> bytes:
    return frame(http2.HEADERS, flags, stream, http2.literal(http2.request_fields(path, *more)))


def call(stream: int, path: str = SEARCH, body: bytes = BODY, flags: int = END) -> bytes:
    return headers(stream, path) + frame(http2.DATA, flags, stream, body)


def answer(address: str, *more: tuple[bytes, bytes]) -> Ended:
    with Connection(address) as connection:
        connection.send(headers(1, SEARCH, *more) + frame(http2.DATA, END, 1, BODY))
        return connection.ended(1)


def is_bug(ended: Ended) -> bool:
    return ended.status in BUG_CODES and ended.fields["grpc-message"].startswith(OUR_BUGS)


def rapid_resets(connection: Connection) -> None:
    """CVE-2023-44487."""
    for stream in range(1, FLOOD, 2):
        if not connection.send(call(stream) + frame(http2.RST_STREAM, 0, stream, struct.pack(">I", 8))):
            return


def flood(data: bytes) -> Callable[[Connection], None]:
    """As many frames as `FLOOD`, whose answers are not read."""

    def attack(connection: Connection) -> None:
        for _ in range(FLOOD // 100):
            if not connection.send(data * 100):
                return

    return attack


def endless_headers(block: bytes) -> Callable[[Connection], None]:
    def attack(connection: Connection) -> None:
        connection.send(headers(1, flags=OPEN))
        flood(frame(http2.CONTINUATION, 0, 1, block))(connection)

    return attack


def indexed_header_bomb(connection: Connection) -> None:
    """One header of 4 KB in the table of the decoder, and 12,000 references to it: 48 MB."""
    bomb = b"\x40\x03x-b\x7f\x81\x1e" + b"v" * (127 + 1 + 30 * 128) + b"\xbe" * 12_000
    block = http2.literal(http2.request_fields(SEARCH)) + bomb
    connection.send(frame(http2.HEADERS, http2.END_HEADERS, 1, block) + frame(http2.DATA, END, 1, BODY))
    connection.ended(1, 5)


def many_headers(connection: Connection) -> None:
    more = [(b"x-%d" % number, b"v" * 200) for number in range(200)]
    for stream in range(1, 201, 2):
        connection.send(headers(stream, SEARCH, *more) + frame(http2.DATA, END, stream, BODY))
    connection.ended(199, 5)


def unread_streams(connection: Connection) -> None:
    """A hundred lists of the catalogue, none of which may send a byte."""
    connection.send(http2.settings({http2.INITIAL_WINDOW: 0}))
    for stream in range(1, 201, 2):
        connection.send(call(stream, LIST, http2.message(ListRequest().SerializeToString())))


def unfinished_calls(path: str) -> Callable[[Connection], None]:
    """As many calls as one connection may have, of each of which only half of the message comes."""

    def attack(connection: Connection) -> None:
        for stream in range(1, 2200, 2):
            connection.send(call(stream, path, BODY[:9], OPEN))

    return attack


def empty_data(connection: Connection) -> None:
    connection.send(headers(1))
    flood(frame(http2.DATA, OPEN, 1))(connection)


def huge_length(connection: Connection) -> None:
    connection.send(call(1, SEARCH, b"\0\xff\xff\xff\xff" + b"x" * 100, OPEN))
    connection.ended(1, 1)


def compressed_bomb(connection: Connection) -> None:
    """A message of 16 KB that is 16 MB."""
    data = gzip.compress(bytes(16 << 20), 9)
    connection.send(headers(1, SEARCH, (b"grpc-encoding", b"gzip")))
    connection.send(frame(http2.DATA, END, 1, b"\1" + struct.pack(">I", len(data)) + data))
    assert not is_bug(connection.ended(1, 20))


def window_beyond_its_bound(connection: Connection) -> None:
    connection.send(frame(http2.WINDOW_UPDATE, 0, 0, struct.pack(">I", 2**31 - 1)) * 3 + call(1))


ATTACKS: dict[str, Callable[[Connection], None]] = {
    "rapid resets": rapid_resets,
    "pings": flood(frame(http2.PING, 0, 0, b"12345678")),
    "settings": flood(http2.settings({http2.INITIAL_WINDOW: 70_000})),
    "priorities": flood(frame(http2.PRIORITY, 0, 3, b"\0\0\0\1\0")),
    "window updates": flood(frame(http2.WINDOW_UPDATE, 0, 0, b"\0\0\0\1")),
    "unknown frames": flood(frame(99, 0, 0, b"x")),
    "continuations": endless_headers(http2.literal([(b"x-a", b"b" * 1000)])),
    "empty continuations": endless_headers(b""),
    "an indexed header bomb": indexed_header_bomb,
    "many headers": many_headers,
    "streams that are not read": unread_streams,
    "searches that do not end": unfinished_calls(SEARCH),
    "streams that do not begin": unfinished_calls(STREAM),
    "empty data": empty_data,
    "a message of 4 GB that does not come": huge_length,
    "a compressed bomb": compressed_bomb,
    "a window beyond its bound": window_beyond_its_bound,
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_an_attack_harms_nobody_else_while_it_lasts_and_leaves_nothing(
    system: System, attack: Callable[[Connection], None]
) -> None:
    with system.unharmed():
        with Connection(system.addresses["gateway"]) as connection:
            attack(connection)
            system.check_alive()
        assert answer(system.addresses["gateway"]).status == 0


@pytest.mark.parametrize("first", [b"", http2.PREFACE[:10], http2.PREFACE, b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"])
def test_connections_that_say_nothing_more_harm_nobody(system: System, first: bytes) -> None:
    with system.unharmed():
        connections = [Connection(system.addresses["gateway"], first) for _ in range(200)]
        system.check_alive()
        for connection in connections:
            connection.close()


FRAMES = st.builds(
    frame,
    st.one_of(st.integers(0, 9), st.integers(0, 255)),
    st.one_of(st.sampled_from((0, 1, 4, 5, 0x2D)), st.integers(0, 255)),
    st.sampled_from((0, 1, 1, 3, 5, 2, 2**31 - 1, 2**31 + 1)),
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from(
            (
                http2.literal(http2.request_fields(SEARCH)),
                http2.literal(http2.request_fields(STREAM)),
                BODY,
                struct.pack(">I", 2**31 - 1),
                struct.pack(">HI", 4, 2**31),
                struct.pack(">HI", 5, 0),
                b"\x00" * 8,
                b"x" * 17_000,
            )
        ),
    ),
)


@fuzz(
    60, parts=st.lists(st.one_of(FRAMES, st.sampled_from((call(1), call(3, LIST), headers(5))), st.binary(max_size=20)))
)
@example(parts=[headers(1, flags=OPEN), frame(http2.DATA, END, 1, BODY)])
@example(parts=[frame(http2.DATA), frame(http2.HEADERS, 0x2D, 1)])
def test_any_frames_end_at_most_their_own_connection(system: System, parts: list[bytes]) -> None:
    with Connection(system.addresses["gateway"]) as connection:
        connection.send(b"".join(parts))
        ended = connection.ended(1, 0.05)
    OUTCOMES[f"frames {ended.how}"] += 1
    assert not is_bug(ended)
    assert answer(system.addresses["gateway"]).status == 0
    assert not system.state()["errors"]


KNOWN_NAMES = (
    b"authorization traceparent tracestate baggage grpc-timeout grpc-encoding grpc-accept-encoding content-type te "
    b"grpc-status grpc-message grpc-previous-rpc-attempts grpc-trace-bin x-request-id user-agent content-length x-bin"
).split()
# A peer that sends them speaks no HTTP/2; both servers end the stream or the connection.
FORBIDDEN_NAMES = (
    b"connection",
    b"transfer-encoding",
    b":path",
    b":authority",
    b":status",
    b"X-UPPER",
    b"",
    b"\xff",
    b"a b",
)
ODD_VALUES = (
    b"",
    b"Bearer " + b"x" * 40,
    b"Basic Og==",
    b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01",
    b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-ff",
    b"99999999H",
    b"0n",
    b"-1S",
    b"1S1S",
    b"gzip",
    b"identity",
    "靴".encode(),
    b"x" * 4000,
    b"=" * 7,
    b"18446744073709551616",
)
FORBIDDEN_VALUES = (b"\r\ninjected: 1", b"\0", b"\x7f")
LEGAL = st.tuples(
    st.one_of(
        st.sampled_from(KNOWN_NAMES),
        st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_.", min_size=1, max_size=12).map(str.encode),
    ),
    st.one_of(
        st.sampled_from(ODD_VALUES),
        st.text(alphabet=[chr(code) for code in range(0x20, 0x7F)], max_size=40).map(str.encode),
        st.binary(max_size=20).map(lambda value: bytes(byte | 0x80 for byte in value)),
    ),
)
ILLEGAL = st.tuples(
    st.one_of(st.sampled_from(FORBIDDEN_NAMES), st.just(b"x")),
    st.one_of(st.sampled_from(FORBIDDEN_VALUES), st.binary(max_size=40)),
)
METADATA = st.one_of(st.lists(LEGAL, max_size=12), st.lists(LEGAL, max_size=3), st.lists(LEGAL | ILLEGAL, max_size=3))


@fuzz(100, more=METADATA)
@example(more=[(b"x", b"v" * 15_000)])
@example(more=[(b"x", b"v" * 17_000)])
@example(more=[(b"x-%d" % number, b"v" * 60) for number in range(150)])
@example(more=[(b"grpc-timeout", b"0n")])
@example(more=[(b"grpc-encoding", b"snappy")])
@example(more=[(b":authority", b"another")])
@example(more=[(b":path", b"\xfc")])
@example(more=[(b"authorization", b"\x80")])
def test_any_metadata_has_an_answer_or_an_error_of_its_caller(system: System, more: list[tuple[bytes, bytes]]) -> None:
    ended = answer(system.addresses["gateway"], *more)
    OUTCOMES[f"metadata {ended.how} {ended.status}"] += 1
    assert ended.how != "open"
    assert not is_bug(ended)
    assert not system.state()["errors"]
