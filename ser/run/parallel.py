"""The same function over many items, on every core or a Dask cluster, with a progress bar."""

import logging
import os
import pickle
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser.run.errors import UserError

if TYPE_CHECKING:
    from distributed import WorkerPlugin

SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # Dask's own variable
CONNECTING, STARTING = 5, 60  # seconds until the scheduler has to answer, and to have a worker
LARGEST_CHUNK = 8  # items: enough that sending them to another machine costs little


def cluster_address() -> str | None:
    """The address of the Dask scheduler; None: there is no cluster."""
    return os.environ.get(SCHEDULER) or None


def over(
    function: Callable,
    items: Iterable,
    desc: str | None,
    unit: str = "clip",
    largest: int = LARGEST_CHUNK,
) -> list:
    """`[function(item) for item in items]` on all cores; see `streamed`."""
    return list(streamed(function, items, desc, unit, largest))


def streamed(
    function: Callable,
    items: Iterable,
    desc: str | None,
    unit: str = "clip",
    largest: int = LARGEST_CHUNK,
) -> Iterator:
    """Yield `function(item)` for each item, in order, each as soon as its turn comes.

    In threads, which share what is loaded; steps that hold Python's lock gain nothing from them
    (docs/scaling.md). On a cluster if there is one. Each item has one BLAS thread, since the last
    digits of products depend on their number.

    Args:
        function: of one item.
        items: all of them are handed out at once.
        desc: name of the progress bar; None: no bar.
        unit: of the bar.
        largest: items in a chunk that is sent to a cluster, at most; 1 where each takes long.

    Raises:
        whatever `function` raises; items not yet begun are then left alone.
        UserError: the cluster cannot be reached, or its workers cannot do the work.
    """
    items = list(items)
    with (
        on_cluster(function, largest) if cluster_address() else in_threads(function) as start,
        tqdm(total=len(items), desc=desc, unit=unit, mininterval=1, disable=desc is None) as bar,
    ):
        futures = deque(start(items))
        while futures:
            for result in futures.popleft().result():
                bar.update()
                yield result


@contextmanager
def in_threads(function: Callable) -> Iterator[Callable]:
    """Yield a function from items to futures of chunks of one, in as many threads as cores.

    At an error or a signal the items at work are waited for, so that no thread is inside a library
    when Python ends, or writes into a folder that is being removed.
    """
    # OpenMP counts its threads for each thread, BLAS for the process.
    one_openmp_thread = partial(threadpool_limits, 1, user_api="openmp")
    pool = ThreadPoolExecutor(joblib.cpu_count(), initializer=one_openmp_thread)
    try:
        with threadpool_limits(1):
            yield lambda items: [pool.submit(lambda item: [function(item)], item) for item in items]
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def on_cluster(function: Callable, largest: int) -> Iterator[Callable]:
    """Yield a function from items to futures of chunks of them, on the workers of the cluster.

    By Dask's own client: joblib's backend for Dask waits for ever for a chunk that the cluster
    gives up, as it does where the memory of the workers is too small.
    """
    import dask  # takes a second
    from distributed import Client
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.protocol.pickle import dumps
    from distributed.scheduler import KilledWorker

    def work(function: Callable, chunk: list) -> list:
        """Nested, so that it is sent as it is: the scheduler reads it and lacks this module."""
        with threadpool_limits(1):
            return [function(item) for item in chunk]

    def start(items: list) -> list:
        size = min(largest, max(1, len(items) // (4 * sum(client.ncores().values()))))
        chunks = [items[first : first + size] for first in range(0, len(items), size)]
        # Sent once and as bytes, from which another worker can have it where one dies.
        sent = client.submit(pickle.loads, dumps(function), pure=False)
        return [client.submit(work, sent, chunk, pure=False) for chunk in chunks]

    address = cluster_address()
    for logger in ("distributed", "distributed.client"):  # what goes wrong is raised
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 TB"})
    try:
        client = Client(address, timeout=CONNECTING, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{SCHEDULER} = {address}: no Dask scheduler answers ({error})") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=STARTING)
            client.register_plugin(in_this_folder(), name="ser")
        except TimeoutError:
            raise UserError(f"{address}: no worker; `dask worker {address}` starts one") from None
        except OSError as error:
            raise UserError(f"{address}: workers need this folder too ({error})") from None
        try:
            yield start
        except (KilledWorker, FutureCancelledError, CommClosedError) as error:
            raise UserError(f"{address}: the cluster lost the work ({error!r})") from None


def in_this_folder() -> "WorkerPlugin":
    """A Dask plugin that has workers, those that join later too, work in the current folder, with
    the code of this project as it is now."""
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
