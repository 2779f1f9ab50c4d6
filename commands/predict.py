"""Predict the label of any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|probe|svm|FOLDER] [--json|--csv]
                               [--window SECONDS [--step SECONDS] [--plot FILE.png]]

CLIP is a path, or `-` for standard input. A file that has no answer is named on stderr and the rest
goes on; the exit code is then 1. A file of which something could not be read is answered, and named
on stderr with what is lost. Files are answered on all cores, or on a Dask cluster (see
docs/scaling.md), in the order of their names, and forgotten at once: thousands take no more memory
than a few. With --window a recording of any length is answered in windows, a row each; one without
speech is `(silence)` (docs/predicting.md). A model brings all that it needs, so that its folder can
be taken anywhere.

Reads:  the clips; the model in data/models/NAME, or one FOLDER of any kind; where that holds models
        of several folds, fold_0 and so on, their probabilities are averaged
Writes: FILE.png: with --plot, the probabilities along time over the waveform
"""

import argparse
import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ser import corpus
from ser.run import errors, outputs, parallel
from ser.trained import models, windows


def warn(model: models.Trained) -> None:
    """Say that a model was trained on the synthetic corpus, if it was."""
    if model.corpus == "demo":
        print(
            f"predict: {errors.as_line(str(model.folder))}: trained on the "
            f"{corpus.TITLES[model.corpus]}: what it answers says nothing about human speech",
            file=sys.stderr,
        )


# Start and end in seconds, of a whole clip neither, and the probabilities; None: silence.
Row = tuple[list[float], np.ndarray | None]
# A clip's name, and a row, the reason why there is none, or what should be known of the clip.
Found = tuple[str, Row | errors.UserError | str]


def clip_by_clip(model: models.Trained, clips: list[str]) -> Iterator[Found]:
    """Answers on whole clips, on all cores."""
    # Standard input is read here: no other process has it.
    piped = {clip: windows.hear(model, clip) for clip in {"-"} & {*clips}}
    answers = parallel.streamed(
        lambda clip: piped.get(clip) or windows.hear(model, clip), clips, None
    )
    for clip, (found, notes) in zip(clips, answers, strict=True):
        yield from ((clip, note) for note in notes)
        yield clip, found if isinstance(found, errors.UserError) else ([], found)


def window_by_window(
    model: models.Trained, clips: list[str], window: float, step: float, plot: Path | None
) -> Iterator[Found]:
    """Answers on the windows of long recordings; the picture of a single one."""
    for clip in clips:
        notes: list[str] = []
        answers = []
        try:
            for answer in windows.answers(model, clip, window, step, notes):
                yield clip, ([answer.start, answer.end], answer.probabilities)
                if plot:
                    answers.append(answer)
        except errors.UserError as error:
            yield clip, error
            continue
        yield from ((clip, note) for note in notes)
        if plot:
            figure = windows.draw(answers, model.labels, errors.as_line(clip))
            with outputs.whole(plot) as part:
                figure.savefig(part, dpi=110, format="png", metadata={"Software": None})


def printer(options: argparse.Namespace, labels: list[str]) -> Callable[[str, Row], None]:
    """A function that prints the row of a clip, as a table, CSV or JSON, after the header."""
    wide = max(9, *map(len, labels))
    times = ["start", "end"] if options.window else []
    header = ["clip", *times, "predicted", *labels]
    first = max(len(errors.as_line(clip)) for clip in options.clips)
    formats = [f"<{first}", *(">9.2f" for _ in times), f"<{wide}", *(f">{wide}.3f" for _ in labels)]
    table = csv.writer(sys.stdout, lineterminator="\n")
    if options.csv:
        table.writerow(header)
    elif not options.json:
        print(*map(format, header, (form.split(".")[0] for form in formats)))

    def show(clip: str, row: Row) -> None:
        seconds, probabilities = row
        shares = None if probabilities is None else probabilities.tolist()
        predicted = labels[np.argmax(shares)] if shares else windows.SILENCE
        cells = [errors.as_line(clip), *seconds, predicted, *(shares or [])]
        if options.json:
            by_label = dict(zip(labels, shares, strict=True)) if shares else None
            answer = {"predicted": predicted, "probabilities": by_label}
            print(json.dumps({"clip": clip, **dict(zip(times, seconds, strict=True)), **answer}))
        elif options.csv:
            table.writerow([*cells, *[None] * (len(header) - len(cells))])
        else:
            print(*map(format, cells, formats))
        sys.stdout.flush()

    return show


def parse() -> argparse.Namespace:
    """Read and check the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="an audio or video file, or - for standard input"
    )
    parser.add_argument(
        "--model",
        default="w2v",
        help="a name in data/models (default: w2v, the models of all folds, averaged), or a folder",
    )
    style = parser.add_mutually_exclusive_group()
    style.add_argument("--json", action="store_true", help="a JSON object per line, no table")
    style.add_argument("--csv", action="store_true", help="CSV instead of a table")
    parser.add_argument(
        "--window", type=float, help="length in seconds: recordings of any length, in windows"
    )
    parser.add_argument(
        "--step", type=float, help="from a window's start to the next (default: half a window)"
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE.png", help="draw the windows' probabilities along time"
    )
    options = parser.parse_args()
    if options.window is None:
        if options.step is not None or options.plot:
            raise errors.UserError("--step and --plot need --window")
        return options
    if options.step is None:
        options.step = max(windows.SHORTEST, options.window / 2)
    shortest, longest = windows.SHORTEST, windows.LONGEST
    if not shortest <= options.window <= longest:
        raise errors.UserError(f"--window {options.window:g}: expected {shortest} to {longest} s")
    if not shortest <= options.step <= options.window:
        raise errors.UserError(
            f"--step {options.step:g}: expected {shortest} s to a window, {options.window:g} s"
        )
    if options.plot and len(options.clips) > 1:
        raise errors.UserError(f"--plot draws one recording; there are {len(options.clips)}")
    return options


@errors.one_line
def main() -> None:
    """Load the model, answer clip by clip or window by window."""
    options = parse()
    model = models.load(options.model)
    warn(model)
    if options.window:
        found = window_by_window(model, options.clips, options.window, options.step, options.plot)
    else:
        found = clip_by_clip(model, options.clips)
    show = printer(options, model.labels)
    failed = False
    for clip, item in found:
        if isinstance(item, tuple):
            show(clip, item)
        elif isinstance(item, errors.UserError):
            failed = True
            print(f"predict: {item}", file=sys.stderr, flush=True)
        else:
            print(f"predict: {errors.as_line(clip)}: {item}", file=sys.stderr, flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
