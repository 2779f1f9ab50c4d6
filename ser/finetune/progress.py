"""Progress bar, forecast and TensorBoard's events of a training: for watching only."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

FORECAST_SECONDS = 20  # after which the time that the rest takes is known


@contextmanager
def tensorboard(log: Path) -> Iterator[SummaryWriter]:
    """TensorBoard's writer into the folder `log`. Its thread hands a full disk to this one, which
    raises it, and does not print a traceback as well."""
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


@contextmanager
def shown(
    title: str, clips: int, start: int, log: Path, forecast: Callable[[float], str]
) -> Iterator[Callable[[list[dict]], None]]:
    """A function that takes the rows of curve.csv of the latest steps, and shows them.

    Args:
        title: of the progress bar.
        clips: to be seen in the whole training.
        start: clips that were seen before, in a training that goes on.
        log: folder for TensorBoard's event files.
        forecast: makes a line of the seconds that the whole training takes.
    """
    began, forecast_due = time.monotonic(), True
    with (
        tensorboard(log) as writer,
        tqdm(total=clips, initial=start, desc=title, unit="clip", mininterval=1) as bar,
    ):

        def show(rows: list[dict]) -> None:
            nonlocal forecast_due
            for row in rows:
                bar.update(row["batch_size"])
                bar.set_postfix(loss=f"{row['loss']:.3f}", refresh=False)
                for name in row.keys() - {"step"}:
                    writer.add_scalar(name, row[name], row["step"])
            seconds = time.monotonic() - began
            if forecast_due and seconds > FORECAST_SECONDS:
                bar.write(forecast(seconds * clips / (bar.n - start)), file=sys.stderr)
                forecast_due = False

        yield show
