"""Which clips each optimizer step takes and at what learning rate: the whole course of a training,
known before it starts."""

import numpy as np
import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler, get_wsd_schedule


def batches(
    clips: int, epochs: int, batch_size: int, growth: float, decay_start: float, seed: int
) -> list[np.ndarray]:
    """Cut `epochs` shuffles of the numbers 0 to clips - 1, one after another, into the batches of
    the optimizer's steps.

    Every clip comes once per epoch. A batch may end one epoch and begin the next, so that no step
    has a few left-over clips only; the last batch takes what is left, if that is less than half a
    batch.

    Args:
        growth: from `decay_start` of the way on, batches grow in a straight line to `growth` times
            `batch_size` at the end: a larger batch calms the gradient as a smaller step does. 1:
            they stay.
        decay_start: in (0, 1], as a share of all clips to be seen.

    Source: Smith et al. (2018), "Don't decay the learning rate, increase the batch size".
    """
    order = np.concatenate(
        [np.random.default_rng([seed, epoch]).permutation(clips) for epoch in range(epochs)]
    )
    cuts, position = [], 0
    while position < len(order):
        late = max(0.0, position / len(order) - decay_start) / max(1 - decay_start, 1e-9)
        size = round(batch_size * (1 + (growth - 1) * late))
        position += size if len(order) - position >= 1.5 * size else len(order) - position
        cuts.append(position)
    return np.split(order, cuts[:-1])


def learning_rate(
    optimizer: torch.optim.Optimizer,
    schedule: str,
    steps: list[np.ndarray],
    warmup: float,
    decay_start: float,
) -> LRScheduler:
    """A transformers schedule over `steps`: a linear warm-up, and after it one of four courses.

    Args:
        schedule: `wsd` stays until `decay_start` and then falls in a straight line to zero;
            `constant` stays; `linear` and `cosine` fall to zero from the end of the warm-up on.
        warmup, decay_start: shares of all clips to be seen.
    """
    done = np.cumsum([len(step) for step in steps]) / sum(len(step) for step in steps)
    rising = round(warmup * len(steps))
    if schedule == "wsd":
        falling = min(int((done > decay_start).sum()), len(steps) - rising)
        return get_wsd_schedule(optimizer, rising, falling, len(steps), decay_type="linear")
    name = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}[schedule]
    return get_scheduler(name, optimizer, rising, len(steps))
