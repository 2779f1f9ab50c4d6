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
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from filelock import BaseFileLock, FileLock, Timeout
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
        self.folder = folder
        self.held: dict[str, BaseFileLock] = {}
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

    def close(self) -> None:
        """Let go of all."""
        for name in list(self.held):
            self.release(name)

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
        self.engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self.connection = self.engine.connect()
        for setting, number in {"idle": 30, "interval": 10, "count": 3}.items():
            self.connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{setting} = {number}"))

    def acquire(self, name: str) -> None:
        """Wait for a lock and hold it."""
        self.call("pg_advisory_lock", name)

    def release(self, name: str) -> None:
        """Let go of a lock."""
        self.call("pg_advisory_unlock", name)

    def close(self) -> None:
        """Let go of all."""
        self.connection.close()
        self.engine.dispose()

    def is_free(self, name: str) -> bool:
        """Whether no other connection holds a lock."""
        free = self.call("pg_try_advisory_lock", name)
        if free:
            self.release(name)
        return bool(free)

    def call(self, function: str, name: str) -> bool | None:
        """Call one of PostgreSQL's functions with the number that stands for a lock's name."""
        number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], signed=True)
        return self.connection.scalar(sqlalchemy.select(getattr(sqlalchemy.func, function)(number)))


def postgresql(place: str) -> sqlalchemy.URL:
    """The URL of a PostgreSQL database.

    Raises:
        UserError: it is none.
    """
    try:
        url = sqlalchemy.make_url(place)
    except sqlalchemy.exc.ArgumentError:
        url = None
    if url is None or url.get_backend_name() != "postgresql":
        name = place.partition("://")[0]
        raise UserError(
            f"SEARCH_STORAGE = {name}://…: expected a file's path or postgresql://user@host/name"
        )
    return url.set(drivername="postgresql+psycopg")


class TrialStore:
    """The trials' storage, and this process as one of its workers.

    Attributes:
        optuna: Optuna's storage.
        worker: this worker's name, which no other has or had.
    """

    def __init__(self, place: str) -> None:
        """Open the storage that SEARCH_STORAGE names, or the one in `STATE` if that is empty.

        Raises:
            UserError: a URL that is none of PostgreSQL.
        """
        self.worker = uuid.uuid4().hex
        self.optuna: BaseStorage
        self.locks: FileLocks | DatabaseLocks
        STATE.mkdir(parents=True, exist_ok=True)
        if "://" in place:
            url = postgresql(place)
            self.locks = DatabaseLocks(url)
            with self.turn():  # of workers that find an empty database, the first makes the tables
                self.optuna = RDBStorage(url.render_as_string(hide_password=False))
        else:
            path = Path(place or STATE / "journal.log").resolve()
            self.locks = FileLocks(path.with_name(f"{path.name}.workers"))
            self.optuna = JournalStorage(JournalFileBackend(str(path)))
        self.locks.acquire(self.worker)

    def close(self) -> None:
        """Close all connections: this worker is alive no more."""
        if isinstance(self.optuna, RDBStorage):
            self.optuna.remove_session()
            self.optuna.engine.dispose()
        self.locks.close()

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
def opened() -> Iterator[TrialStore]:
    """The storage that SEARCH_STORAGE names, until the end of the block.

    Raises:
        UserError: it is no storage, can't be reached, or not any more.
    """
    try:
        with closing(TrialStore(os.environ.get("SEARCH_STORAGE", ""))) as store:
            yield store
    except (OperationalError, InterfaceError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        if not isinstance(cause, OperationalError | InterfaceError):
            raise
        reason = " ".join(str(cause.orig).split())[:200]
        message = f"SEARCH_STORAGE: {reason}; started again, the search goes on"
        raise UserError(message) from None
