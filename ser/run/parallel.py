"""The same function over many items, on every core, with a progress bar of what is done."""

import os
import threading
from collections.abc import Callable, Iterable, Iterator

import joblib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

LARGEST_CHUNK = 8  # items: enough that sending them to another machine costs little
this_thread = threading.local()


def over(function: Callable, items: Iterable, desc: str | None, unit: str = "clip") -> list:
    """`[function(item) for item in items]` on all cores; see `streamed`."""
    return list(streamed(function, items, desc, unit))


def streamed(function: Callable, items: Iterable, desc: str | None, unit: str = "clip") -> Iterator:
    """What `function` makes of each item, in order, each as soon as its turn comes, on all cores.

    In threads, since nearly all of the work goes into NumPy, BLAS, libsvm, PyTorch and FFmpeg,
    which let go of Python's lock: nothing is forked, and what one thread has loaded serves all. It
    is only what joblib is asked to prefer; under `joblib.parallel_config("dask")`, for instance,
    chunks of items go to a cluster instead. BLAS keeps to one thread for each item: there are as
    many items at work as cores, and the last digits of its products depend on the number of its
    threads.

    Args:
        function: of one item.
        items: they are handed out in chunks of up to `LARGEST_CHUNK`.
        desc: name of the progress bar; None: no bar.
        unit: what the bar counts.

    Raises:
        whatever `function` raises; items not yet begun are then left alone.
    """
    items = list(items)
    size = min(LARGEST_CHUNK, max(1, len(items) // (4 * joblib.effective_n_jobs(-1))))
    chunks = [items[start : start + size] for start in range(0, len(items), size)]
    calls = (joblib.delayed(in_order)(function, chunk, os.getpid()) for chunk in chunks)
    parallel = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    with (
        threadpool_limits(1),  # of this process, for as long as any thread is at work
        tqdm(total=len(items), desc=desc, unit=unit, mininterval=1, disable=desc is None) as bar,
    ):
        for results in parallel(calls):
            for result in results:
                bar.update()
                yield result


def in_order(function: Callable, chunk: list, limited: int) -> list:
    """One chunk of `streamed`, in whichever process or on whichever machine.

    In the process `limited` there is a limit already, but for OpenMP, which counts by thread; it is
    set but once in each, since that takes as long as a clip or two.
    """
    if os.getpid() != limited:
        with threadpool_limits(1):
            return [function(item) for item in chunk]
    if not hasattr(this_thread, "limit"):
        this_thread.limit = threadpool_limits(1, user_api="openmp")
    return [function(item) for item in chunk]
