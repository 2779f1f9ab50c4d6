"""The same function over many items, on every core, with a progress bar."""

import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor

import joblib
from tqdm import tqdm


def over(function: Callable, items: Iterable, desc: str, unit: str = "clip") -> list:
    """`[function(item) for item in items]` on all cores, in order.

    joblib decides where: on all cores of this machine, or wherever `joblib.parallel_config` says.
    """
    items = tqdm(
        list(items), desc=desc, unit=unit, mininterval=1
    )  # of items handed out: no backend can be without that
    return joblib.Parallel(n_jobs=-1)(joblib.delayed(function)(item) for item in items)


def streamed(function: Callable, items: Iterable, desc: str, unit: str = "clip") -> Iterator:
    """Like `over`, in threads, and each result is yielded as soon as its turn comes and then
    forgotten: for functions that spend their time outside of Python's lock, and large results."""
    items = list(items)
    jobs = (joblib.delayed(function)(item) for item in items)
    results = joblib.Parallel(n_jobs=-1, backend="threading", return_as="generator")(jobs)
    yield from tqdm(results, total=len(items), desc=desc, unit=unit, mininterval=1)


def forked(function: Callable, items: Iterable, desc: str, unit: str = "clip") -> list:
    """Like `over`, in processes forked from this one, with all that it has loaded at hand: for
    functions slow at their first call.

    Ctrl-C is left to this process, which then hands out no more items.
    """
    items = list(items)
    fork = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(
        joblib.cpu_count(),
        fork,
        initializer=signal.signal,
        initargs=(signal.SIGINT, signal.SIG_IGN),
    ) as pool:
        return list(
            tqdm(
                pool.map(function, items, chunksize=8),
                total=len(items),
                desc=desc,
                unit=unit,
                mininterval=1,
            )
        )
