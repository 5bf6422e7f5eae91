"""Where the task queues are kept: one SQLite file by default, PostgreSQL by URL.

The place is ``SKYMILL_QUEUE_DB`` or an option of the commands: the path of a file or a URL
``postgresql://USER@HOST:PORT/NAME``. Without either it is ``skymill/queues.sqlite3`` below
``XDG_DATA_HOME`` (``~/.local/share``). A password comes from the environment (``PGPASSWORD`` or the
URL in ``SKYMILL_QUEUE_DB``) or from ``~/.pgpass``, never from an argument.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from skymill.data.errors import ConfigError, SkymillError

__all__ = [
    "Database",
    "PostgresDatabase",
    "QueueError",
    "SqliteDatabase",
    "Transaction",
    "default_location",
    "open_database",
]

#: Environment variable with the place of the queues.
VARIABLE = "SKYMILL_QUEUE_DB"
#: Patience with other processes that write [s].
_PATIENCE_S = 120.0

_TABLES = """
CREATE TABLE IF NOT EXISTS skymill_queue (
    id {serial},
    name TEXT NOT NULL UNIQUE,
    created {real} NOT NULL
);
CREATE TABLE IF NOT EXISTS skymill_task (
    id {serial},
    queue_id {integer} NOT NULL REFERENCES skymill_queue (id) ON DELETE CASCADE,
    task TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,
    lost INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    message TEXT NOT NULL DEFAULT '',
    log TEXT NOT NULL DEFAULT '',
    token TEXT,
    host TEXT,
    machine TEXT,
    pid INTEGER,
    pid_started {real},
    heartbeat {real},
    started {real},
    ended {real}
);
CREATE INDEX IF NOT EXISTS skymill_task_state ON skymill_task (queue_id, state, id);
CREATE TABLE IF NOT EXISTS skymill_requirement (
    task_id {integer} NOT NULL REFERENCES skymill_task (id) ON DELETE CASCADE,
    required_id {integer} NOT NULL REFERENCES skymill_task (id) ON DELETE CASCADE,
    PRIMARY KEY (task_id, required_id)
);
CREATE INDEX IF NOT EXISTS skymill_requirement_required ON skymill_requirement (required_id);
"""


class QueueError(SkymillError, RuntimeError):
    """The database of the queues cannot be used, or a queue is not as it has to be."""


class Transaction(Protocol):
    """Statements that happen together or not at all; ``?`` stands for a value."""

    def __call__(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Execute one statement.

        Parameters
        ----------
        statement : str
            SQL.
        values : sequence
            One for each ``?``.

        Returns
        -------
        list of tuple
            Its rows; empty if it has none.
        """
        ...


class Database(Protocol):
    """What the queues need of a database."""

    #: Words after the choice of one row, so that two processes choose different ones.
    choice: str

    @property
    def location(self) -> str:
        """Path or URL, without a password."""
        ...

    def transaction(self, *, write: bool = True) -> contextlib.AbstractContextManager[Transaction]:
        """Begin, and commit at the end of the ``with`` block.

        Parameters
        ----------
        write : bool
            Whether it changes anything.

        Returns
        -------
        context manager
            Yields the transaction.
        """
        ...


def default_location() -> str:
    """Where the queues are unless an option says otherwise.

    Returns
    -------
    str
        The value of ``SKYMILL_QUEUE_DB``, or the path of the default file.
    """
    own = os.environ.get(VARIABLE)
    if own:
        return own
    home = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return str(Path(home) / "skymill" / "queues.sqlite3")


def open_database(location: str | Path | None = None) -> Database:
    """The database of the queues.

    Parameters
    ----------
    location : str or Path, optional
        Path of an SQLite file or a URL of PostgreSQL; `default_location` if absent.

    Returns
    -------
    Database
        Ready for use, with its tables.

    Raises
    ------
    ConfigError
        If a URL is given with a password, or is of another database.
    QueueError
        If the database cannot be used.
    """
    given = location is not None
    text = str(location) if location is not None else default_location()
    scheme = text.partition("://")[0] if "://" in text else ""
    if scheme in ("postgresql", "postgres"):
        url, password = _split_password(text)
        if password and given and text != os.environ.get(VARIABLE):
            raise ConfigError(
                "a password may not stand in an argument, where every user of the machine sees "
                f"it; set PGPASSWORD or ~/.pgpass and give {url}"
            )
        if password:
            # Child processes, such as workers, inherit it.
            os.environ["PGPASSWORD"] = password
        return PostgresDatabase(url)
    if scheme == "sqlite":
        text = text.removeprefix("sqlite:///")
    elif scheme:
        raise ConfigError(
            f"queues are kept in a file or at postgresql://USER@HOST/NAME; got {scheme}://..."
        )
    return SqliteDatabase(Path(text).expanduser())


def _split_password(url: str) -> tuple[str, str]:
    """A URL without its password, and the password."""
    try:
        parts = urlsplit(url)
        query = parse_qsl(parts.query, keep_blank_values=True)
        password = unquote(parts.password or "")
    except ValueError as exc:
        raise ConfigError(
            "the URL of the queues cannot be read; write postgresql://USER@HOST:PORT/NAME"
        ) from exc
    password = password or next((v for k, v in query if k == "password"), "")
    user, at, place = parts.netloc.rpartition("@")
    netloc = user.partition(":")[0] + at + place
    rest = urlencode([(k, v) for k, v in query if k != "password"])
    return urlunsplit((parts.scheme, netloc, parts.path, rest, "")), password


class SqliteDatabase:
    """Queues in one file; also on a shared disk, if that has POSIX locks.

    A connection lives as long as its transaction: it survives neither a fork nor a thread.

    Parameters
    ----------
    path : Path
        The file; made if absent.
    """

    choice = ""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise QueueError(f"the folder of the queues cannot be made: {exc}") from exc
        key = "INTEGER PRIMARY KEY AUTOINCREMENT"
        words = {"serial": key, "integer": "INTEGER", "real": "REAL"}
        if self._has_tables():
            return
        with self.transaction() as execute:
            for statement in _TABLES.format(**words).split(";"):
                if statement.strip():
                    execute(statement)

    def _has_tables(self) -> bool:
        if not self.path.exists():
            return False
        with self.transaction(write=False) as execute:
            query = "SELECT 1 FROM sqlite_master WHERE name = 'skymill_requirement_required'"
            return bool(execute(query))

    @property
    def location(self) -> str:
        """Path of the file."""
        return str(self.path)

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        """Begin with the lock for writing, and commit at the end of the ``with`` block.

        Parameters
        ----------
        write : bool
            Take the lock at once: a lock that is taken later can fail.

        Yields
        ------
        Transaction
            Executes statements.
        """
        try:
            connection = sqlite3.connect(self.path, timeout=_PATIENCE_S, isolation_level=None)
        except sqlite3.Error as exc:
            raise QueueError(f"the queues in {self.path} cannot be opened: {exc}") from exc

        def execute(statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            return connection.execute(statement, values).fetchall()

        try:
            connection.execute("PRAGMA foreign_keys = ON")
            _begin(connection, "BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield execute
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.Error as exc:
            raise QueueError(f"the queues in {self.path} cannot be used: {exc}") from exc
        finally:
            connection.close()


def _begin(connection: sqlite3.Connection, statement: str) -> None:
    """Begin; wait also where SQLite itself does not (a hot journal of a killed process)."""
    limit = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute(statement)
        except sqlite3.OperationalError as exc:
            if "locked" not in str(exc) or time.monotonic() > limit:
                raise
            time.sleep(0.05)
        else:
            return


class PostgresDatabase:
    """Queues in a PostgreSQL database.

    Parameters
    ----------
    url : str
        ``postgresql://USER@HOST:PORT/NAME``, without a password.
    """

    choice = "FOR UPDATE SKIP LOCKED"

    def __init__(self, url: str) -> None:
        try:
            import psycopg
        except ImportError as exc:
            raise QueueError(
                "queues in PostgreSQL need psycopg: pip install 'skymill[postgres]'"
            ) from exc
        self._psycopg: Any = psycopg
        self._url = url
        words = {
            "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
            "integer": "BIGINT",
            "real": "DOUBLE PRECISION",
        }
        with self.transaction() as execute:
            # Two processes that make the tables at once would meet in the system's catalogue.
            execute("SELECT pg_advisory_xact_lock(7350142)")
            for statement in _TABLES.format(**words).split(";"):
                if statement.strip():
                    execute(statement)

    @property
    def location(self) -> str:
        """The URL, which has no password."""
        return self._url

    @contextlib.contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        """Begin, and commit at the end of the ``with`` block.

        Parameters
        ----------
        write : bool
            Whether it changes anything.

        Yields
        ------
        Transaction
            Executes statements.
        """
        try:
            connection = self._psycopg.connect(self._url, connect_timeout=30)
        except self._psycopg.Error as exc:
            reason = " ".join(str(exc).split())
            raise QueueError(f"the queues at {self._url} cannot be opened: {reason}") from exc

        def execute(statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
            cursor = connection.execute(statement.replace("?", "%s"), values)
            return cursor.fetchall() if cursor.description is not None else []

        try:
            connection.read_only = not write
            with connection:
                yield execute
        except self._psycopg.Error as exc:
            reason = " ".join(str(exc).split())
            raise QueueError(f"the queues at {self._url} cannot be used: {reason}") from exc
