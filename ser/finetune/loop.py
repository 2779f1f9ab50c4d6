"""A training on its way: with a progress bar, saved now and then, stopped by Ctrl-C or SIGTERM
without loss, and continued by the same command."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ser.finetune.state import Store
from ser.run import errors, processes

PAUSE = 1.0  # seconds between looks at what the steps left behind, since a GPU has to wait for them
FORECAST = 20  # seconds after which it is known how long the rest will take


@contextmanager
def events(log: Path) -> Iterator[SummaryWriter]:
    """TensorBoard's writer, whose thread would print what it hands to this one to raise, such as a
    full disk."""
    before = threading.excepthook

    def leave_out(raised: threading.ExceptHookArgs) -> None:
        if not isinstance(raised.exc_value, OSError):
            before(raised)

    threading.excepthook = leave_out
    try:
        with SummaryWriter(str(log)) as writer:
            yield writer
    finally:
        threading.excepthook = before


class Training(Protocol):
    """What can be run: steps that can be taken one by one, from any state that was saved."""

    accelerator: Accelerator
    steps: list  # of each step, its clips
    done: int  # steps taken
    curve: list[dict[str, float]]  # a row per settled step: step, loss, batch_size and others

    def begin(self) -> None:
        """Get ready for the first step, however long it takes; in all processes at once."""

    def advance(self) -> None:
        """Take a step."""

    def settle(self) -> None:
        """Bring `curve` up to date, in all processes at once."""

    def state(self) -> dict:
        """What `restore` needs to go on from here."""

    def restore(self, state: dict) -> None:
        """Go to where `state` was taken."""


@contextmanager
def listening() -> Iterator[list[int]]:
    """A list to which SIGINT and SIGTERM are added instead of what they did before."""
    signals = []
    before = {
        number: signal.signal(number, lambda number, _: signals.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(
    training: Training, store: Store, title: str, log: Path, forecast: Callable[[float], str]
) -> None:
    """Take all steps that are left, from the state in `store`, if there is one.

    From the first step on a signal waits for the end of the step, and for the state to be saved;
    before that there is nothing to save.

    Args:
        title: of the progress bar.
        log: folder for TensorBoard's event files.
        forecast: what to say about the seconds that the whole training will have taken.

    Raises:
        Stopped: by a signal to any of the processes, or since their parent is gone; the state is
            saved.
    """
    accelerator, first = training.accelerator, training.accelerator.is_main_process
    (saved,) = broadcast_object_list([store.load() if first else None])
    if saved:
        training.restore(saved)
        accelerator.print(f"{title}: goes on after step {training.done} of {len(training.steps)}")
    else:
        training.begin()
    sizes = [len(step) for step in training.steps]
    began = look = time.monotonic()
    shown, start = training.done, sum(sizes[: training.done])
    every, due = 1, training.done + 1  # in steps, the same in all processes
    said = False  # the forecast
    with (
        listening() as signals,
        events(log) if first else nullcontext() as writer,
        tqdm(total=sum(sizes), initial=start, desc=title, unit="clip", mininterval=1,
             disable=not first) as bar,
    ):  # fmt: skip
        while training.done < len(sizes):
            training.advance()
            if training.done < min(due, len(sizes)):
                continue
            training.settle()
            if writer:
                for row in training.curve[shown:]:
                    bar.update(row["batch_size"])
                    bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                    for name in row.keys() - {"step"}:
                        writer.add_scalar(name, row[name], row["step"])
            shown, now = training.done, time.monotonic()
            if first and not said and now - began > FORECAST:
                seconds = (now - began) * sum(sizes) / (sum(sizes[: training.done]) - start)
                bar.write(forecast(seconds), file=sys.stderr)
                said = True
            # One process told to stop stops all; and all agree when to look again.
            told = float(bool(signals) or processes.orphaned())
            shared = torch.tensor([told, now - look], device=accelerator.device)
            told, seconds = accelerator.reduce(shared, "sum").tolist()
            pause = PAUSE * accelerator.num_processes * every / max(seconds, 1e-6)
            every, look = min(max(1, int(pause)), 2 * every), now
            due = training.done + every
            if first and (told or store.due()):
                store.save(training.state())
            if told:
                accelerator.end_training()  # or NCCL complains
                raise errors.Stopped(
                    f"stopped after step {training.done} of {len(sizes)}; "
                    "the same command goes on from there",
                    next(iter(signals), signal.SIGTERM),
                )
