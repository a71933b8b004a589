"""Run a system for fuzz tests in a process of its own, and hold it to what no input may cause. Starts processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from google.protobuf.message import Message

from lookalike.channels import blocking_channel
from lookalike.v1 import search_pb2_grpc
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, RequestError
from tests.fuzz.rpcs import Rpc
from tests.fuzz.vocabulary import IMAGE_DIM

REPOSITORY = Path(__file__).resolve().parents[2]
# What nobody's request may end with: they say that a process has a bug.
BUGS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
TIMEOUT_S = 30.0  # Of a call; nothing in a system so small takes as long, on a machine however busy.
_SETTLE_S = 30.0  # For what a system frees by and by.
# By how much a system varies by itself: calls to itself, connections to the stream, what an allocator keeps.
_SLACK = {"descriptors": 16, "threads": 8, "tasks": 60, "rss_bytes": 96 << 20}
_MAX_REPLIES = 2000  # Of a stream; then it is cancelled.


@dataclass
class System:
    """A running system, and channels to its processes."""

    addresses: Mapping[str, str]
    process: subprocess.Popen[str]
    channels: dict[str, grpc.Channel] = field(default_factory=dict)

    def channel(self, target: str) -> grpc.Channel:
        if target not in self.channels:
            self.channels[target] = blocking_channel(self.addresses[target])
        return self.channels[target]

    def call(self, rpc: Rpc, requests: list[bytes], *, timeout_s: float = TIMEOUT_S, metadata: Any = None) -> Outcome:
        """The outcome of a call, with its status; of a stream the replies before it."""
        replies: list[bytes] = []
        channel: Any = self.channel(rpc.target)
        options = {"timeout": timeout_s, "metadata": metadata}
        try:
            if rpc.streams_requests:
                stream: Any = channel.stream_stream(rpc.path)(iter(requests), **options)
            elif rpc.streams_responses:
                stream = channel.unary_stream(rpc.path)(requests[0], **options)
            else:
                stream = iter([channel.unary_unary(rpc.path)(requests[0], **options)])
            for reply in stream:
                replies.append(reply)
                if len(replies) == _MAX_REPLIES:
                    stream.cancel()
                    break
        except grpc.RpcError as error:
            return Outcome(error.code(), error.details() or "", replies)
        return Outcome(grpc.StatusCode.OK, "", replies)

    def state(self, *, collect: bool = False) -> dict[str, Any]:
        """What the process is made of now, after a garbage collection or not; its errors since the last look."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("collect\n" if collect else "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the system ended with status {self.process.wait()}"
        state: dict[str, Any] = json.loads(line)
        return state

    @contextmanager
    def unharmed(self) -> Iterator[None]:
        """After the block, the system answers others and is soon as it was before: nothing stays with it."""
        before = self.state(collect=True)
        yield
        self.check_alive()
        give_up_s = time.monotonic() + _SETTLE_S
        while (grown := _grown(before, after := self.state(collect=True))) and time.monotonic() < give_up_s:
            time.sleep(0.2)
        assert not grown, f"{grown}: {before} -> {after}"
        assert not before["errors"] + after["errors"]

    def check_alive(self) -> None:
        """A caller with a plain request is answered by gateway and node."""
        for target in ("gateway", "node"):
            vector = b"\0\0\x80\x3f" * IMAGE_DIM
            request = SearchRequest(examples=[Example(vector=vector)], space=SPACE_IMAGE, min_coverage=1, limit=3)
            stub = search_pb2_grpc.SimilarProductsStub(self.channel(target))
            stub.Search(request, timeout=TIMEOUT_S, wait_for_ready=True)


@dataclass(frozen=True)
class Outcome:
    """How a call ended."""

    code: grpc.StatusCode
    details: str
    replies: list[bytes]

    def check(self, rpc: Rpc) -> None:
        """Raises AssertionError where the call, or a part of its replies, tells of a bug."""
        assert self.code not in BUGS, f"{rpc}: {self.code.name}: {self.details}"
        for reply in self.replies:
            _check_parts(rpc, rpc.response.FromString(reply))


def _check_parts(rpc: Rpc, message: Message) -> None:
    if isinstance(message, RequestError):
        assert message.code not in {code.value[0] for code in BUGS}, f"{rpc}: {message}"
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None or descriptor.message_type.GetOptions().map_entry:
            continue
        for part in value if descriptor.is_repeated else (value,):
            _check_parts(rpc, part)


def _grown(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [name for name, slack in _SLACK.items() if after[name] > before[name] + slack]


@contextmanager
def running_system(implementation: str, directory: Path) -> Iterator[System]:
    """A system over this implementation of the gRPC server, with its files in `directory`."""
    command = [sys.executable, "-m", "tests.fuzz.system_child", implementation, str(directory)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the system did not start"
        system = System(json.loads(line), process)
        yield system
        for channel in system.channels.values():
            channel.close()
    finally:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
