"""A redis-server that persists, and that tests kill, suspend and start again. Starts processes.

LOOKALIKE_TEST_REDIS_SERVER names another binary than the one that the system itself would start.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from redis import Redis
from redis.exceptions import RedisError

from lookalike.local import probes, process_specs

DURABLE = {"appendonly": "yes", "appendfsync": "always"}


def executable() -> str:
    stated = os.environ.get("LOOKALIKE_TEST_REDIS_SERVER")  # noqa: TID251  # whoever runs the tests chooses
    path = stated or process_specs.redis_executable()
    assert path, "no redis-server"
    return str(path)


class RedisServer:
    """A server with its data in a directory, on one port however often it is started."""

    def __init__(self, directory: Path, **options: str) -> None:
        (self.port,) = probes.free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}"
        self._directory = directory
        self._options = {**DURABLE, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> None:
        command = [executable(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        command += ["--loglevel", "warning", "--save", ""]
        for name, value in self._options.items():
            command += [f"--{name}", *value.split()]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        give_up_s = time.monotonic() + 20
        with Redis.from_url(self.url) as redis:
            while time.monotonic() < give_up_s:
                with suppress(RedisError, OSError):
                    redis.ping()
                    return
                time.sleep(0.02)
        raise AssertionError("redis-server does not answer")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> Redis:
        return Redis.from_url(self.url)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
