"""Where workers keep the trials that they share, whose turn it is to take one, and who is alive.

Trials are kept in the file .checkpoints/search/journal.log, or where SEARCH_STORAGE says: in
another file, on a disk that several machines share, or in a PostgreSQL database
(postgresql://user@host/name), for machines that share nothing else.

Whose turn it is and who is alive, locks tell, which end with the process that holds them: the
operating system or the database's server lets go of a killed worker's.
"""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from filelock import FileLock, Timeout
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.exc import InterfaceError, OperationalError

from ser.run.errors import UserError

STATE = Path(".checkpoints/search")  # what searches go on from: outside git and DVC
TURN = "turn"  # the name of the lock that the worker whose turn it is holds


class FileLocks:
    """Locks by name, each a file in one folder."""

    def __init__(self, folder: Path):
        """Make the folder, if need be, and remove what killed workers left in it."""
        self.folder, self.held = folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        self.acquire(TURN)
        for file in folder.iterdir():
            if file.name != TURN and self.is_free(file.name):
                file.unlink()
        self.release(TURN)

    def acquire(self, name: str) -> None:
        """Wait for a lock and hold it."""
        self.held[name] = FileLock(self.folder / name)
        self.held[name].acquire()

    def release(self, name: str) -> None:
        """Let go of a lock."""
        self.held.pop(name).release()

    def is_free(self, name: str) -> bool:
        """Whether no other process holds a lock."""
        try:
            with FileLock(self.folder / name, blocking=False):
                return True
        except Timeout:
            return False


class DatabaseLocks:
    """Locks by name, PostgreSQL's advisory ones: they end with this object's connection."""

    def __init__(self, url: sqlalchemy.URL):
        """Connect, and have the server notice within a minute that this machine is gone."""
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self.connection = engine.connect()
        for setting, number in {"idle": 30, "interval": 10, "count": 3}.items():
            self.connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{setting} = {number}"))

    def acquire(self, name: str) -> None:
        """Wait for a lock and hold it."""
        self.call("pg_advisory_lock", name)

    def release(self, name: str) -> None:
        """Let go of a lock."""
        self.call("pg_advisory_unlock", name)

    def is_free(self, name: str) -> bool:
        """Whether no other connection holds a lock."""
        free = self.call("pg_try_advisory_lock", name)
        if free:
            self.release(name)
        return free

    def call(self, function: str, name: str) -> bool | None:
        """Call one of PostgreSQL's functions with the number that stands for a lock's name."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        return self.connection.scalar(sqlalchemy.select(getattr(sqlalchemy.func, function)(number)))


def database(place: str) -> tuple[BaseStorage, DatabaseLocks]:
    """A PostgreSQL database's trials and locks.

    Raises:
        UserError: no such URL, or nobody answers there.
    """
    name = place.partition("://")[0]
    try:
        url = sqlalchemy.make_url(place)
    except sqlalchemy.exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        raise UserError(
            f"SEARCH_STORAGE = {name}://…: expected a file's path or postgresql://user@host/name"
        )
    url = url.set(drivername="postgresql+psycopg")
    locks = DatabaseLocks(url)
    # Of workers that find an empty database, the first makes the tables.
    locks.acquire(TURN)
    storage = RDBStorage(url.render_as_string(hide_password=False))
    locks.release(TURN)
    return storage, locks


class TrialStore:
    """The trials' storage, and this process as one of its workers.

    Attributes:
        optuna: Optuna's storage.
        worker: this worker's name, which no other has or had.
    """

    def __init__(self):
        """Open the storage that SEARCH_STORAGE names.

        Raises:
            UserError: a URL that is none of PostgreSQL.
        """
        place, self.worker = os.environ.get("SEARCH_STORAGE", ""), uuid.uuid4().hex
        STATE.mkdir(parents=True, exist_ok=True)
        self.optuna: BaseStorage
        if "://" in place:
            self.optuna, self.locks = database(place)
        else:
            path = Path(place or STATE / "journal.log").resolve()
            self.locks = FileLocks(path.with_name(f"{path.name}.workers"))
            self.optuna = JournalStorage(JournalFileBackend(str(path)))
        self.locks.acquire(self.worker)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until it is this worker's turn; it is no other's until the end of the block."""
        self.locks.acquire(TURN)
        try:
            yield
        finally:
            self.locks.release(TURN)

    def is_dead(self, worker: str | None) -> bool:
        """Whether a worker, by name, is alive no more.

        To be asked during a turn: a worker that was killed in its own before it had signed a trial
        has no name.
        """
        return worker is None or (worker != self.worker and self.locks.is_free(worker))


@contextmanager
def database_trouble() -> Iterator[None]:
    """Make a user's error of a database that can't be reached, or not any more.

    Raises:
        UserError: it can't.
    """
    try:
        yield
    except (OperationalError, InterfaceError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if not isinstance(cause, OperationalError | InterfaceError):
            raise
        reason = " ".join(str(cause.orig).split())[:200]
        raise UserError(
            f"SEARCH_STORAGE: {reason}; the search goes on when started again"
        ) from None
