"""Predict the emotion in any audio or video file that FFmpeg reads.

    python -m commands.predict CLIP... [--model w2v|probe|svm|FOLDER] [--json]

CLIP is a path, or `-` for standard input. A file that has no answer is named on stderr and the rest
goes on; the exit code is then 1. A file of which something could not be read is answered, and named
on stderr with what is lost. Files are answered on all cores, or on a Dask cluster (see
docs/scaling.md), in the order of their names, and forgotten at once: thousands take no more memory
than a few. A model brings all that it needs, so that its folder can be taken anywhere.

Reads:  the clips; the model in data/models/NAME, or one FOLDER of any kind; where that holds models
        of several folds, fold_0 and so on, their probabilities are averaged
"""

import argparse
import json
import sys

import numpy as np

from ser import audio, corpus
from ser.run import errors, parallel
from ser.trained import models

# Seconds: the models know utterances of some seconds, and attention's memory grows with the square.
LONGEST = 60


def warn(model: models.Trained) -> None:
    """Say that a model was trained on the synthetic corpus, if it was."""
    if model.corpus == "demo":
        print(
            f"predict: {errors.as_line(str(model.folder))}: trained on the "
            f"{corpus.TITLES[model.corpus]}: what it answers says nothing about human speech",
            file=sys.stderr,
        )


def decode(clip: str) -> tuple[np.ndarray | errors.UserError, list[str]]:
    """Decode a clip: int16 samples, shape (n,), 16 kHz, or the reason why there are none; and what
    should be known of them."""
    try:
        return audio.decode(clip, limit=LONGEST)
    except errors.UserError as error:
        return error, []


def answer(
    model: models.Trained, clip: str, samples: np.ndarray | errors.UserError
) -> np.ndarray | errors.UserError:
    """A clip's probabilities of the model's labels, shape (labels,); or the reason why there are
    none.

    Args:
        clip: name for messages.
        samples: what `decode` has first.
    """
    if isinstance(samples, errors.UserError):
        return samples
    try:
        probabilities = model.probabilities(samples / np.float32(2**15), clip)
    except errors.UserError as error:
        return error
    if not np.isfinite(probabilities).all():
        return errors.UserError(f"{clip}: the model's answer is not a number")
    return probabilities


@errors.one_line
def main() -> None:
    """Load the model, answer clip by clip."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "clips", nargs="+", metavar="CLIP", help="an audio or video file, or - for standard input"
    )
    parser.add_argument(
        "--model",
        default="w2v",
        help="a name in data/models (default: w2v, the models of all folds, averaged), or a folder",
    )
    parser.add_argument(
        "--json", action="store_true", help="a JSON object per line instead of a table"
    )
    options = parser.parse_args()
    model = models.load(options.model)
    warn(model)

    # Standard input is read here: no other process has it.
    piped = {clip: decode(clip) for clip in {"-"} & {*options.clips}}

    def hear(clip: str) -> tuple[np.ndarray | errors.UserError, list[str]]:
        samples, notes = piped[clip] if clip in piped else decode(clip)
        return answer(model, clip, samples), notes

    answers = parallel.streamed(hear, options.clips, None)

    labels = model.labels
    width = max(len(errors.as_line(clip)) for clip in options.clips)
    if not options.json:
        print("clip".ljust(width), "predicted".ljust(9), *(f"{label:>9}" for label in labels))
    failed = False
    for clip, (probabilities, notes) in zip(options.clips, answers, strict=True):
        for note in notes:
            print(f"predict: {errors.as_line(clip)}: {note}", file=sys.stderr, flush=True)
        if isinstance(probabilities, errors.UserError):
            failed = True
            print(f"predict: {probabilities}", file=sys.stderr, flush=True)
            continue
        predicted = labels[probabilities.argmax()]
        if options.json:
            by_label = dict(zip(labels, probabilities.tolist(), strict=True))
            print(json.dumps({"clip": clip, "predicted": predicted, "probabilities": by_label}))
        else:
            columns = [f"{probability:9.3f}" for probability in probabilities]
            print(errors.as_line(clip).ljust(width), predicted.ljust(9), *columns)
        sys.stdout.flush()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
