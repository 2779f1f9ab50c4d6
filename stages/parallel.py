"""The same function over many items, on every core, with a progress bar."""

from collections.abc import Callable, Iterable

import joblib
from tqdm import tqdm


def over(function: Callable, items: Iterable, desc: str, unit: str = "clip") -> list:
    """`[function(item) for item in items]` on all cores, in order.

    joblib decides where: on all cores of this machine, or wherever `joblib.parallel_config` says.
    """
    items = tqdm(list(items), desc=desc, unit=unit, mininterval=1)  # of items handed out: no backend can be without that
    return joblib.Parallel(n_jobs=-1)(joblib.delayed(function)(item) for item in items)
