"""One function over many items: in threads on all cores, or on a Dask cluster."""

import logging
import os
import pickle
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser.run import signals
from ser.run.errors import UserError

if TYPE_CHECKING:
    from distributed import WorkerPlugin

SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # Dask's own variable


def cluster_address() -> str | None:
    """The address of the Dask scheduler; None: there is no cluster."""
    return os.environ.get(SCHEDULER) or None


def over(
    function: Callable, items: Iterable, desc: str | None, unit: str = "clip", largest: int = 8
) -> list:
    """`[function(item) for item in items]` on all cores or a cluster; see `streamed`."""
    return list(streamed(function, items, desc, unit, largest))


def streamed(
    function: Callable, items: Iterable, desc: str | None, unit: str = "clip", largest: int = 8
) -> Iterator:
    """Yield `function(item)` for each item, in order, each as soon as its turn comes.

    Each item has one BLAS thread, since the last digits of products depend on their number.

    Args:
        function: of one item.
        items: all of them are handed out at once.
        desc: name of the progress bar; None: no bar.
        unit: of the bar.
        largest: items that are handed out together, at most; 1 where each takes long.

    Raises:
        whatever `function` raises; items not yet begun are then left alone.
        UserError: the cluster cannot be reached, or breaks down.
    """
    items = list(items)
    with (
        on_cluster(function) if cluster_address() else in_threads(function) as (submit, cores),
        tqdm(total=len(items), desc=desc, unit=unit, mininterval=1, disable=desc is None) as bar,
    ):
        size = min(largest, max(1, len(items) // (4 * cores)))
        with signals.caught() as caught:  # an interrupted submit would leave its lock locked
            futures = deque(submit(items[at : at + size]) for at in range(0, len(items), size))
        if caught:
            signal.raise_signal(caught[0])
        while futures:
            for result in futures.popleft().result():
                bar.update()
                yield result


@contextmanager
def in_threads(function: Callable) -> Iterator[tuple[Callable, int]]:
    """Yield a function that submits a chunk of items to a pool of threads, and their number.

    Threads share what is loaded; steps that hold Python's lock gain nothing from them
    (docs/scaling.md). At an error or a signal the chunks at work are waited for, so that no thread
    is inside a library when Python ends, or writes into a folder that is being removed.
    """
    from joblib import cpu_count  # lazy: 0.2 s, which stages that map nothing do without

    cores = cpu_count()
    # OpenMP counts its threads for each thread, BLAS for the process.
    pool = ThreadPoolExecutor(cores, initializer=partial(threadpool_limits, 1, user_api="openmp"))
    try:
        with threadpool_limits(1):
            yield lambda chunk: pool.submit(lambda: [function(item) for item in chunk]), cores
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def on_cluster(function: Callable) -> Iterator[tuple[Callable, int]]:
    """Yield a function that submits a chunk of items to the cluster's workers, and their number.

    By Dask's client: joblib's backend for Dask (1.6) waits for ever for a chunk that the cluster
    gives up, as it does where the memory of the workers is too small.
    """
    from distributed import Client  # takes a second
    from distributed.client import FutureCancelledError
    from distributed.protocol.pickle import dumps
    from distributed.scheduler import KilledWorker

    def work(function: Callable, chunk: list) -> list:
        """Nested, so that it is sent as it is: the scheduler may lack this module."""
        with threadpool_limits(1):
            return [function(item) for item in chunk]

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what goes wrong is raised
    try:
        client = Client(cluster_address(), timeout=5, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{SCHEDULER} = {cluster_address()}: no Dask scheduler answers ({error})"
        ) from None
    with client:
        try:
            client.wait_for_workers(1, timeout=60)
            client.register_plugin(in_this_folder(), name="ser")
        except TimeoutError:
            raise UserError(f"{cluster_address()}: a Dask scheduler without workers") from None
        except OSError as error:
            raise UserError(f"{cluster_address()}: workers need this folder too: {error}") from None
        # Sent once and as bytes, from which another worker can have it where one dies.
        sent = client.submit(pickle.loads, dumps(function), pure=False)
        cores = sum(client.ncores().values())
        try:
            yield lambda chunk: client.submit(work, sent, chunk, pure=False), cores
        except (KilledWorker, FutureCancelledError) as error:
            raise UserError(f"{cluster_address()}: the cluster lost the work ({error})") from None


def in_this_folder() -> "WorkerPlugin":
    """A Dask plugin that has workers, those that join later too, work in the current folder with
    this project's code as it is now: else an experiment in a work tree of its own, or an edit,
    would get the answers of another."""
    from distributed import WorkerPlugin

    folder, root = Path.cwd(), Path(__file__).parents[2]

    class InThisFolder(WorkerPlugin):
        """Nested for the same reason as `work`."""

        def setup(self, worker: object) -> None:
            os.chdir(folder)
            sys.path.insert(0, str(root))
            for name in [name for name in sys.modules if name.partition(".")[0] == "ser"]:
                del sys.modules[name]

    return InThisFolder()
