"""The same function over many items, on every core, with a progress bar."""

from collections.abc import Callable, Iterable

import joblib
from tqdm import tqdm


def over(function: Callable, items: Iterable, desc: str) -> list:
    """`[function(item) for item in items]` on all cores, in order.

    joblib decides where: all cores of this machine, or whatever `joblib.parallel_config` says.
    """
    items = list(items)
    jobs = joblib.Parallel(n_jobs=-1, return_as="generator", batch_size="auto")(joblib.delayed(function)(item) for item in items)
    return list(tqdm(jobs, total=len(items), desc=desc, unit="clip", mininterval=1))
