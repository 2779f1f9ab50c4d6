"""A Dask cluster for the work of `parallel`: joined where Dask's own variable,
DASK_SCHEDULER_ADDRESS, names its scheduler.

The workers need this machine's packages and, under the same path, the project's folder. They may
have been started anywhere and long ago: where they import from, and which folder paths are relative
to, is set right in each of them before its first item, also in those that join later.
"""

import asyncio
import hashlib
import importlib
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ser.run import code
from ser.run.errors import UserError

if TYPE_CHECKING:
    from distributed import Client, Future, WorkerPlugin
    from joblib.parallel import ParallelBackendBase

VARIABLE = "DASK_SCHEDULER_ADDRESS"
CONNECTING = 5  # seconds until a scheduler has to answer
STARTING = 60  # seconds until it has to have a worker
SERVED = "RAVDESS_SERVED"  # in a worker's environment: whose work it is prepared for

# Other versions give other bytes.
PACKAGES = (
    "av", "joblib", "librosa", "numpy", "pandas", "scikit-learn", "scipy", "soundfile", "soxr",
    "torch", "transformers",
)  # fmt: skip


def address() -> str | None:
    """Where the scheduler is; None: there is no cluster."""
    return os.environ.get(VARIABLE) or None


def served() -> str | None:
    """In a worker, whose work it is prepared for; elsewhere None."""
    return os.environ.get(SERVED)


class Work(NamedTuple):
    """How joblib is to be asked for work.

    Attributes:
        backend: joblib's; None: its own choice, since there is no cluster.
        function: to be called; on a cluster a stand-in, which workers take for the function itself.
        served: what a worker has to be prepared for, see `served`.
    """

    backend: "ParallelBackendBase | None"
    function: "Callable | Future"
    served: str | None


@contextmanager
def joined(function: Callable) -> Iterator[Work]:
    """Yield how to ask for the work that `function` does.

    It is sent to each worker of a cluster once, with all that it refers to.

    Raises:
        UserError: the cluster can't be reached, has no workers, or they can't do the work; or it
            breaks down on the way.
    """
    scheduler = address()
    if scheduler is None:
        yield Work(None, function, None)
        return
    from distributed import Client  # here, since it takes a second
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker

    for logger in ("distributed", "distributed.client"):  # what goes wrong is raised
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    reach(scheduler)
    with Client(scheduler, timeout=CONNECTING, set_as_default=False) as client:
        name = served_by(Path.cwd())
        prepare(client, name)
        try:
            sent = send(client, function)
            yield Work(backend(client), sent, name)
        except KilledWorker as error:
            raise UserError(
                f"{scheduler}: {1 + error.allowed_failures} workers died at the same chunk of "
                "work; their logs say of what, often of too little memory"
            ) from None
        except (FutureCancelledError, CommClosedError) as error:
            raise UserError(
                f"{scheduler}: the cluster lost the work ({reason(error)}); its logs say more"
            ) from None


def reach(scheduler: str) -> None:
    """Shake hands, as a client does first: it would wait for ever for something that is no
    scheduler, or take its answer for a size.

    Raises:
        UserError: there is none.
    """
    from distributed import Security
    from distributed.comm import connect

    async def shake_hands() -> None:
        how = Security().get_connection_args("client")
        comm = await asyncio.wait_for(connect(scheduler, CONNECTING, **how), 2 * CONNECTING)
        await comm.close()

    try:
        asyncio.run(shake_hands())
    except Exception as error:
        raise UserError(
            f"{VARIABLE} = {scheduler}: no Dask scheduler answers there ({reason(error)}); unset "
            "it for this machine's cores"
        ) from None


def reason(error: BaseException) -> str:
    """An error's message on one line, shortened."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def served_by(folder: Path) -> str:
    """A name for the work in `folder` with the code of this project as it is now."""
    digest = hashlib.sha256()
    for file in sorted(code.ROOT.glob("ser/**/*.py")):
        digest.update(file.read_bytes())
    return f"{folder} {digest.hexdigest()[:16]}"


def prepare(client: "Client", name: str) -> None:
    """Have the workers, those that join later too, work in this folder with this code, see
    `served_by`.

    Raises:
        UserError: there are none, or one can't.
    """
    scheduler = client.scheduler_info()["address"]
    try:
        client.wait_for_workers(1, timeout=STARTING)
    except TimeoutError:
        raise UserError(
            f"{scheduler}: a Dask scheduler without workers; `dask worker {scheduler}` starts one"
        ) from None
    versions = {package: metadata.version(package) for package in PACKAGES}
    plugin = preparation(str(code.ROOT), str(Path.cwd()), name, versions)
    try:
        client.register_plugin(plugin, name=SERVED)
    except RuntimeError as error:
        raise UserError(reason(error)) from None


def send(client: "Client", function: Callable) -> "Future":
    """A function on the cluster, where it lasts: the scheduler can have it made anew from the bytes
    that are sent here. What is scattered is gone with the worker that has the only copy left, and
    workers that are idle for two seconds drop theirs.

    Raises:
        UserError: a worker can't take it in.
    """
    import dask
    from distributed.protocol.pickle import dumps

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"}):
        sent = client.submit(pickle.loads, dumps(function), pure=False)
    if error := sent.exception():
        scheduler = client.scheduler_info()["address"]
        raise UserError(f"{scheduler}: the workers can't take in the work ({reason(error)})")
    return sent


def preparation(root: str, folder: str, name: str, versions: dict[str, str]) -> "WorkerPlugin":
    """What prepares a worker.

    Args:
        root: where the code lies.
        folder: what paths are relative to.
        name: see `served_by`.
        versions: of the packages that it must have.
    """
    from distributed import WorkerPlugin

    variable = SERVED

    class Preparation(WorkerPlugin):
        """Defined in here, so that it is sent as it is: a worker can't import it yet."""

        def setup(self, worker: Any) -> None:
            try:
                there = {package: metadata.version(package) for package in versions}
                other = [package for package in versions if versions[package] != there[package]]
                if other:
                    raise RuntimeError(
                        f"{other[0]} {there[other[0]]}, here {versions[other[0]]}: the bytes may "
                        "differ"
                    )
                if os.environ.get(variable) != name:  # left by another work tree, or older code
                    for module in [*sys.modules]:
                        if module.partition(".")[0] == "ser":
                            del sys.modules[module]
                sys.path[:] = [root, *(path for path in sys.path if path != root)]
                importlib.invalidate_caches()
                os.chdir(folder)
                if importlib.import_module("ser.run.cluster").served_by(Path(folder)) != name:
                    raise RuntimeError(f"{root} holds other code there than here")
            except (OSError, ImportError, RuntimeError) as error:
                raise RuntimeError(
                    f"Dask worker {worker.address}: {error}; it needs the same packages and files "
                    "under the same paths"
                ) from None
            os.environ[variable] = name

    return Preparation()


def backend(client: "Client") -> "ParallelBackendBase":
    """joblib's own backend for Dask, which is told of work that a cluster gives up, and would do
    the work of a single core itself."""
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):
        def submit(self, func: Any, callback: Callable) -> futures.Future:
            """Else `Parallel` waits for ever."""

            def failed(done: futures.Future) -> None:
                if done.exception():
                    callback(done.exception())

            future = super().submit(func, callback)
            future.add_done_callback(failed)
            return future

        def effective_n_jobs(self, n_jobs: int) -> int:
            """At least 2, or `Parallel` works here."""
            return max(2, super().effective_n_jobs(n_jobs))

    return Backend(client=client)
