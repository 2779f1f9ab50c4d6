"""Answers of a trained model on recordings: on short ones as a whole, on long ones window by
window."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np

from ser import audio
from ser.run import errors, parallel
from ser.trained import models

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Seconds: the models know utterances of some seconds, and attention's memory grows with the square.
LONGEST = 60
SHORTEST = audio.SHORTEST / 1000  # seconds

# Decibels below full scale: a window none of whose tenths of a second is louder holds no speech.
# Of RAVDESS's 1440 clips, recorded in a studio, the quietest reaches -56; a room's noise lies
# between -70 and -50.
QUIET = -57
TENTH = audio.SAMPLE_RATE // 10
SILENCE = "(silence)"  # what stands in a label's place then

PIECE = 10 * audio.SAMPLE_RATE  # samples decoded at a time
AT_ONCE = 600  # seconds of windows that are answered together, and in memory
FINE = audio.SAMPLE_RATE // 20  # samples that a point of the outline stands for
POINTS = 4000  # of a drawn outline
TICKS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400)  # seconds
MOST_TICKS = 14


@dataclass(frozen=True)
class Window:
    """A part of a recording.

    Attributes:
        start, end: in seconds.
        samples: int16, shape (n,), 16 kHz.
    """

    start: float
    end: float
    samples: np.ndarray


@dataclass(frozen=True)
class Answer:
    """A model's answer on a part of a recording.

    Attributes:
        start, end: in seconds.
        probabilities: of the model's labels, shape (labels,); None: nobody speaks.
        outline: lowest and highest of each `FINE` samples, int16, shape (n, 2).
    """

    start: float
    end: float
    probabilities: np.ndarray | None
    outline: np.ndarray


def answer(model: models.Trained, clip: str, samples: np.ndarray) -> np.ndarray:
    """A model's probabilities of its labels, shape (labels,).

    Args:
        clip: name for messages.
        samples: int16, shape (n,), 16 kHz.

    Raises:
        UserError: the model has no answer.
    """
    probabilities = model.probabilities(samples / np.float32(2**15), clip)
    if not np.isfinite(probabilities).all():
        raise errors.UserError(f"{clip}: the model's answer is not a number")
    return probabilities


def hear(model: models.Trained, clip: str) -> tuple[np.ndarray | errors.UserError, list[str]]:
    """A model's answer on a file of up to `LONGEST` seconds (`-`: standard input), or the reason
    why there is none; and what should be known of the file."""
    notes: list[str] = []
    try:
        samples, notes = audio.decode(clip, limit=LONGEST)
        return answer(model, clip, samples), notes
    except errors.UserError as error:
        return error, notes


def cut(pieces: Iterable[np.ndarray], window: float, step: float) -> Iterator[Window]:
    """Cut a recording into windows, each with its mean taken off.

    The last one is shorter where the recording ends within it; less than `SHORTEST` beyond the one
    before is left out.

    Args:
        pieces: of `audio.pieces`, 16 kHz.
        window: length in seconds.
        step: from one start to the next, in seconds; not longer than a window.
    """
    size, hop = (round(seconds * audio.SAMPLE_RATE) for seconds in (window, step))
    held, start, end = np.empty(0), 0, 0  # samples from `start` on; end of the last window

    def taken(samples: np.ndarray) -> Window:
        rate = audio.SAMPLE_RATE
        return Window(start / rate, (start + len(samples)) / rate, audio.centred(samples))

    for piece in pieces:
        held = np.concatenate([held, piece])
        while len(held) >= size:
            yield taken(held[:size])
            start, end, held = start + hop, start + size, held[hop:]
    if start + len(held) - end >= TENTH:
        yield taken(held)


def is_silent(samples: np.ndarray) -> bool:
    """True for int16 samples, a tenth of a second at least, none of which is louder than `QUIET`;
    an offset is not heard."""
    tenths = samples[: len(samples) // TENTH * TENTH].reshape(-1, TENTH)
    return bool(tenths.std(axis=1).max() < 2**15 * 10 ** (QUIET / 20))


def answers(
    model: models.Trained, source: str, window: float, step: float, notes: list[str]
) -> Iterator[Answer]:
    """Answers on a recording of any length, window by window, on all cores.

    Args:
        source: path of a file, or `-` for standard input.
        window: length in seconds, `SHORTEST` to `LONGEST`.
        step: from one start to the next, in seconds, `SHORTEST` to `window`.
        notes: takes on, at the end, a line for each thing that should be known.

    Raises:
        UserError: as `audio.pieces`; or the model has no answer. All windows before have one.
    """

    def answered(part: Window | errors.UserError) -> Answer | errors.UserError:
        if isinstance(part, errors.UserError):
            return part
        whole = part.samples[: len(part.samples) // FINE * FINE].reshape(-1, FINE)
        outline = np.stack([whole.min(axis=1), whole.max(axis=1)], axis=1)
        try:
            shares = None if is_silent(part.samples) else answer(model, source, part.samples)
        except errors.UserError as error:
            return error
        return Answer(part.start, part.end, shares, outline)

    def parts() -> Iterator[Window | errors.UserError]:
        """An error stands in its place: what is before it is answered."""
        try:
            yield from cut(audio.pieces(source, notes, size=PIECE), window, step)
        except errors.UserError as error:
            yield error

    batches = parts()
    while batch := list(itertools.islice(batches, max(1, int(AT_ONCE / window)))):
        for found in parallel.streamed(answered, batch, None):
            if isinstance(found, errors.UserError):
                raise found
            yield found


def draw(answers: Sequence[Answer], labels: list[str], title: str) -> "Figure":
    """The probabilities along time over the waveform; silence stays blank.

    Args:
        answers: on one recording, one at least, in order.
    """
    # lazy import (0.5 s); without pyplot, which needs a screen
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    rows = max(2.0, 0.3 * len(labels))
    figure = Figure(figsize=(14, rows + 2.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[rows, 1.2])
    middles = np.array([(part.start + part.end) / 2 for part in answers])
    edges = [answers[0].start, *(middles[1:] + middles[:-1]) / 2, answers[-1].end]
    blank = np.full(len(labels), np.nan)
    shares = [blank if part.probabilities is None else part.probabilities for part in answers]
    mesh = upper.pcolormesh(
        edges, np.arange(len(labels) + 1), np.transpose(shares), cmap="magma_r", vmin=0, vmax=1
    )
    upper.set_facecolor("#dddddd")
    escaped = [label.replace("$", r"\$") for label in labels]
    upper.set_yticks(np.arange(len(labels)) + 0.5, escaped)
    upper.invert_yaxis()
    upper.set_title(title.replace("$", r"\$"))
    figure.colorbar(mesh, ax=upper, label="probability (grey: silence)", pad=0.01)

    fine = FINE / audio.SAMPLE_RATE
    following = [*(part.start for part in answers[1:]), np.inf]  # windows overlap
    times, outline = [], []
    for part, until in zip(answers, following, strict=True):
        at = part.start + fine * np.arange(len(part.outline))
        times.append(at[at < until])
        outline.append(part.outline[at < until])
    whole = np.concatenate(outline) / 2**15
    first = np.arange(0, len(whole), len(whole) // POINTS + 1)
    low, high = np.minimum.reduceat(whole[:, 0], first), np.maximum.reduceat(whole[:, 1], first)
    lower.fill_between(np.concatenate(times)[first], low, high, step="post", color="#3b82c4")
    peak = max(np.abs(whole).max(), 0.001)
    lower.set(ylim=(-peak, peak), ylabel="waveform", xlabel="time")
    lower.set_xlim(edges[0], edges[-1])
    seconds = next((step for step in TICKS if edges[-1] / step <= MOST_TICKS), TICKS[-1])
    lower.xaxis.set_major_locator(MultipleLocator(seconds))
    lower.xaxis.set_major_formatter(lambda at, _: str(timedelta(seconds=round(at))))
    return figure
