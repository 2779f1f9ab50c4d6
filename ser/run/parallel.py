"""The same function over many items, on every core or a cluster, with a progress bar of what is
done."""

import importlib
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ser.run import cluster
from ser.run.errors import UserError

LARGEST_CHUNK = 8  # items: enough that sending them to another machine costs little
this_thread = threading.local()
limited: set[str] = set()  # keys of the runs that keep this process's BLAS to one thread


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
    """What `function` makes of each item, in order, each as soon as its turn comes, on all cores.

    In threads: nothing is forked, and what one thread has loaded serves all. BLAS, libsvm and
    PyTorch let go of Python's lock; many small steps of NumPy and FFmpeg do not, and gain nothing
    from a second core (docs/scaling.md). It is only what joblib is asked to prefer; with a Dask
    cluster (see `cluster`) chunks of items go to its processes instead. BLAS keeps to one thread
    for each item: there are as many items at work as cores, and the last digits of its products
    depend on the number of its threads.

    Args:
        function: of one item.
        items: they are handed out in chunks.
        desc: name of the progress bar; None: no bar.
        unit: what the bar counts.
        largest: items in a chunk, at most; 1 where each takes long.

    Raises:
        whatever `function` raises; items not yet begun are then left alone.
        UserError: there should be a cluster, but it does not do the work.
    """
    items = list(items)
    with (
        cluster.joined(function) as work,
        threadpool_limits(1),  # of this process, for as long as any thread is at work
        tqdm(total=len(items), desc=desc, unit=unit, mininterval=1, disable=desc is None) as bar,
    ):
        cores = (work.backend or joblib).effective_n_jobs(-1)
        size = min(largest, max(1, len(items) // (4 * cores)))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        key, served = uuid.uuid4().hex, work.served
        limited.add(key)

        def call(function: Callable, chunk: list) -> list:
            """Sent as it is: a cluster's scheduler reads it too, and knows no module of ours."""
            return importlib.import_module("ser.run.parallel").in_order(
                function, chunk, key, served
            )

        parallel = joblib.Parallel(
            n_jobs=-1, prefer="threads", backend=work.backend, return_as="generator"
        )
        calls = (joblib.delayed(call)(work.function, chunk) for chunk in chunks)
        for results in parallel(calls):
            for result in results:
                bar.update()
                yield result


def in_order(function: Callable, chunk: list, key: str, served: str | None) -> list:
    """One chunk of `streamed`, in whichever process or on whichever machine.

    Args:
        key: of the call of `streamed`; no other has it.
        served: what a worker has to be prepared for, see `cluster.served`.

    Raises:
        UserError: it has meanwhile been prepared for something else, whose files have the same
            names.
    """
    check(served)
    if getattr(this_thread, "run", None) != key:
        # Once, since it takes as long as a clip or two. OpenMP counts by thread.
        threadpool_limits(1, user_api="openmp" if key in limited else None)
        this_thread.run = key
    with joblib.parallel_config("sequential"):  # libraries too keep to one thread for each item
        results = [function(item) for item in chunk]
    check(served)
    return results


def check(served: str | None) -> None:
    """Whether this process, if it is a cluster's worker, still works in the folder and with the
    code that it was prepared for.

    Raises:
        UserError: it does not.
    """
    if cluster.served() != served:
        raise UserError(
            "a Dask worker went over to another work tree, or to newer code; a cluster serves one "
            "at a time"
        )
