"""Reads the result of a query from a SQL database, in chunks through a server-side cursor. Network I/O.

The session is read-only, and in UTC. No message or log holds the URL, since it may hold a password.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.sql.elements import TextClause

from lookalike.errors import BadSettings, LookalikeError, Unavailable
from pipeline.sync.cursor import Cursor, just_before
from pipeline.sync.source import Source

_CHUNK: Final = 500  # Rows fetched at once.
_CONNECT_S: Final = 10
_SILENT_S: Final = 3600  # A query that sorts a large table may take so long to its first row.
_MAX_MESSAGE: Final = 300  # Characters of what a driver says.
# URLs name the database; which driver is meant is ours to know.
_DRIVERS: Final = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
# A result that is read slowly, since the stream is full, must not be cut off: MySQL gives up after 60 s.
_MYSQL_SESSION: Final = (
    f"SET SESSION net_write_timeout = {_SILENT_S}, SESSION time_zone = '+00:00'",
    "SET SESSION TRANSACTION READ ONLY",
)
_SESSION: Final = {
    "postgresql": ("SET TIME ZONE 'UTC'", "SET default_transaction_read_only = on"),
    "mysql": _MYSQL_SESSION,
    "mariadb": _MYSQL_SESSION,
    "sqlite": ("PRAGMA query_only = ON",),
}
_CONNECT: Final[Mapping[str, Mapping[str, Any]]] = {
    "psycopg": {
        "connect_timeout": _CONNECT_S,
        "keepalives_idle": 30,
        "keepalives_interval": 10,
        "keepalives_count": 3,
        "tcp_user_timeout": 60_000,
    },
    "pymysql": {"connect_timeout": _CONNECT_S, "read_timeout": _SILENT_S},
}
# Classes of SQLSTATE, and errors of MySQL, after which the same query may succeed: connections lost and refused,
# servers that stop, deadlocks and time-outs.
_PASSING_STATES: Final = ("08", "40", "53", "55P03", "57", "58")
_PASSING_MYSQL: Final = frozenset({1040, 1053, 1158, 1159, 1160, 1161, 1205, 1213, 1317, 1927, 2003, 2006, 2013, 2055})
_REFUSED: Final = re.compile(
    r"authentication failed|no password supplied|access denied|unknown database"
    r"|(?:database|role) \"[^\"]*\" does not exist|no pg_hba\.conf entry|could not translate host name",
    re.IGNORECASE,
)
_AFTER_CURSOR: Final = re.compile(r"(?<![<>=!])>\s*:cursor\b")
_CURSOR: Final = "cursor"  # The name of the parameter.


class Database:
    """A database, and what is read from it. Use it in one thread at a time; `interrupt` is for another one."""

    def __init__(self, url: str, source: Source) -> None:
        parsed = _parse_url(url)
        self._source = source
        self._name = _describe(parsed)
        self._secret = str(parsed.password or "")
        try:
            self._engine: Engine = create_engine(
                parsed, poolclass=NullPool, connect_args=dict(_CONNECT.get(parsed.get_driver_name(), {}))
            )
        except ImportError as error:
            raise BadSettings(f"--sql: {parsed.drivername} needs a package that is not installed: {error}") from None
        except (ArgumentError, NoSuchModuleError):
            raise BadSettings(f"--sql: no driver for {parsed.drivername}:// is installed") from None
        event.listen(self._engine, "connect", self._begin_session)
        self._bound = bool(source.query) and _binds(source.query)
        if self._bound and source.first is None:
            raise BadSettings(
                "--query has :cursor: --from states where to begin, such as --from 1970-01-01 or --from 0"
            )
        self._connection: Connection | None = None
        # Of a connection that is lost it tells, with a traceback, that the cursor cannot be closed either.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)

    def __str__(self) -> str:
        return self._name

    @contextmanager
    def read(self, start: Cursor | None) -> Iterator[tuple[Sequence[str], Iterator[Sequence[Sequence[Any]]]]]:
        """The names of the columns, and the rows in chunks; from `start` on, inclusive, and by rising cursor.

        start: None: from `Source.first`, or all, in the order of the query if there is no cursor.
        Raises Unavailable if the database cannot be reached or fails on its side, BadSettings for what it refuses.
        """
        with self._errors(), self._connect() as connection:
            options = {"stream_results": True, "max_row_buffer": _CHUNK}
            statement, parameters = self._statement(start)
            with (
                self._dropped_on_error(connection),
                connection.execution_options(**options).execute(statement, parameters) as result,
                self._dropped_on_error(connection),  # Before the result is closed.
            ):
                # SQLAlchemy's own names tell columns of one name apart.
                names = [str(each[0]) for each in result.cursor.description]
                if duplicates := sorted({name for name in names if names.count(name) > 1}):
                    raise BadSettings(
                        f"two columns of the result are called {', '.join(duplicates)}: give one AS another"
                    )
                self._check_columns(names)
                yield names, self._chunks(result.partitions(_CHUNK))

    def greatest_cursor(self) -> Any:
        """The greatest value of the cursor column in the whole result; None: it has no rows."""
        with self._errors(), self._connect() as connection:
            statement, parameters = self._statement(None, select=f"max({self._column()})", ordered=False)
            return connection.execute(statement, parameters).scalar()

    def interrupt(self) -> None:
        """End the call that another thread is in, by an error."""
        connection = self._connection
        if connection is None:
            return
        with suppress(Exception):  # It may have ended meanwhile, and each driver says that in its own way.
            raw: Any = connection.connection.driver_connection
            if hasattr(raw, "cancel_safe"):
                raw.cancel_safe(timeout=2.0)
            elif hasattr(raw, "interrupt"):
                raw.interrupt()
            else:
                raw._sock.shutdown(socket.SHUT_RDWR)

    def _statement(
        self, start: Cursor | None, *, select: str = "*", ordered: bool = True
    ) -> tuple[TextClause, dict[str, Any]]:
        source = self._source
        if self._bound:
            bound = source.first
            if start is not None:  # With `>`, the rows of the position itself are read again, too.
                bound = just_before(start) if _AFTER_CURSOR.search(source.query) else start
            query = source.query if select == "*" else f"SELECT {select} FROM ({source.query}) AS lookalike_rows"  # noqa: S608
            return text(query), {_CURSOR: self._bind(bound)}
        if source.query and not source.cursor:
            return text(source.query), {}
        start = source.first if start is None else start
        # Whoever runs the command has written the query, and the names of table and column are quoted.
        rows = f"({source.query}) AS lookalike_rows" if source.query else self._quoted(source.table)
        query, parameters = f"SELECT {select} FROM {rows}", {}  # noqa: S608
        if source.cursor:
            if start is not None:
                query += f" WHERE {self._column()} >= :{_CURSOR}"
                parameters = {_CURSOR: self._bind(start)}
            query += f" ORDER BY {self._column()}" if ordered else ""
        return text(query), parameters

    def _bind(self, value: Cursor | None) -> Any:
        """The value as a parameter: SQLite has neither times nor decimals, but their texts and doubles."""
        if self._engine.dialect.name != "sqlite":
            return value
        if isinstance(value, datetime):
            return value.isoformat(sep=" ")
        return value.isoformat() if isinstance(value, date) else float(value) if isinstance(value, Decimal) else value

    def _check_columns(self, names: Sequence[str]) -> None:
        if self._source.cursor and self._source.cursor not in names:
            raise BadSettings(f"no column {self._source.cursor} (--cursor) in the result; it has {', '.join(names)}")

    def _column(self) -> str:
        return self._engine.dialect.identifier_preparer.quote_identifier(self._source.cursor)

    def _quoted(self, table: str) -> str:
        return ".".join(map(self._engine.dialect.identifier_preparer.quote_identifier, table.split(".")))

    def _chunks(self, parts: Iterator[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
        while True:
            with self._errors():
                if (part := next(parts, None)) is None:
                    return
            yield part

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        with self._engine.connect() as connection:
            self._connection = connection
            try:
                yield connection
            finally:
                self._connection = None

    @contextmanager
    def _dropped_on_error(self, connection: Connection) -> Iterator[None]:
        """Where a result is not read to its end, close the connection: PyMySQL would read all the rest of it first."""
        raw: Any = connection.connection.driver_connection
        try:
            yield
        except BaseException:
            with suppress(Exception):  # It may be closed already, and each driver says that in its own way.
                if hasattr(raw, "_force_close"):
                    _forget_result(raw)
                connection.invalidate()
            raise

    def _begin_session(self, raw: Any, _: object) -> None:
        for statement in _SESSION.get(self._engine.dialect.name, ()):
            cursor = raw.cursor()
            cursor.execute(statement)
            cursor.close()
        if self._engine.dialect.name == "postgresql":
            raw.commit()  # What a transaction sets is undone when it is rolled back.

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Raise what drivers raise as our errors, without the password."""
        try:
            yield
        except LookalikeError:
            raise
        except DBAPIError as error:
            raise self._error(error.orig or error, lost=error.connection_invalidated) from None
        except SQLAlchemyError as error:
            raise BadSettings(f"{self._name}: {self._told(error)}") from None

    def _error(self, error: BaseException, *, lost: bool) -> LookalikeError:
        code = error.args[0] if error.args and isinstance(error.args[0], int) else 0
        state = str(getattr(error, "sqlstate", None) or "")
        message = f"{self._name}: {self._told(error)}"
        if _REFUSED.search(message):
            return BadSettings(message)
        # Psycopg gives no SQLSTATE where there was no connection.
        connecting = type(error).__name__ == "OperationalError" and hasattr(error, "sqlstate") and not state
        busy = "database is locked" in message or "interrupted" in message
        if lost or busy or connecting or state.startswith(_PASSING_STATES) or code in _PASSING_MYSQL:
            return Unavailable(message)
        return BadSettings(message)

    def _told(self, error: BaseException) -> str:
        """What a driver says, on one line."""
        said = error.args[1] if len(error.args) > 1 and isinstance(error.args[0], int) else error
        message = " ".join(str(said).split())
        if self._secret:
            message = message.replace(self._secret, "***")
        return message[:_MAX_MESSAGE]


def _forget_result(raw: Any) -> None:
    """Close a connection of PyMySQL with a result that is not read to its end, which it would read, dead or alive."""
    if raw._result is not None:
        raw._result.unbuffered_active, raw._result.connection = False, None
    raw._force_close()


def _parse_url(url: str) -> URL:
    """Raises BadSettings, without the URL."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise BadSettings("--sql: not a URL like postgresql://USER:PASSWORD@HOST/DATABASE") from None
    # SQLite would make an empty file.
    if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).is_file():
        raise BadSettings(f"--sql: no file {parsed.database}")
    return parsed.set(drivername=_DRIVERS.get(parsed.drivername, parsed.drivername))


def _describe(url: URL) -> str:
    """The database without user, password and options."""
    kind = url.get_backend_name()
    host = f"{url.host}:{url.port}" if url.port else url.host or ""
    return f"{kind}://{host}/{url.database or ''}"


def _binds(query: str) -> bool:
    """Whether a query has the parameter :cursor. Raises BadSettings for any other parameter."""
    names = [*text(query)._bindparams]
    if others := sorted(set(names) - {_CURSOR}):
        raise BadSettings(
            f"--query: :{others[0]} is no parameter, only :{_CURSOR} is; write \\:{others[0]} for a colon"
        )
    return bool(names)
