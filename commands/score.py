"""Score a trained model on a labelled folder, such as another corpus than its own.

    python -m commands.score --model w2v|probe|svm|MODEL FOLDER
                             [--map FOLDER_LABEL=MODEL_LABEL,...] [--output DIR]

Labels of the same name correspond; --map names others, and may have several of the folder's
correspond to one of the model's. Those without a counterpart are left out on both sides: the
folder's clips of them, and the model's probabilities of them, of which the rest is made to sum to
1. A recording without an answer is named on stderr and left out; the exit code is then 1. A model
trained with `speaker_norm` normalises each of the folder's speakers by all of that speaker's clips.

Reads:  FOLDER/metadata.csv and the recordings (docs/corpora.md); the model in data/models/NAME, or
            in the folder MODEL
Writes: DIR (runs/score) as every model does:
            predictions.csv  a row per clip: clip, speaker, fold (0), actual, predicted, a
                             probability per label
            protocol.txt     how they came about, in one line
"""

import argparse
import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ser import corpus, scoring, tables
from ser.classifier import crossval
from ser.corpora import folder as own
from ser.corpora import ravdess
from ser.run import errors, outputs, parallel
from ser.trained import models, windows

WRITTEN = {"predictions.csv", "protocol.txt"}
FEWEST_CLIPS = 10  # of a speaker who is normalised
TITLES = {"accuracy": "accuracy", "uar": "UAR", "macro_f1": "macro-F1"}


def correspondence(text: str, theirs: list[str], ours: list[str]) -> dict[str, str]:
    """The model's label for each label of a folder that has a counterpart.

    Args:
        text: the value of --map, a line of CSV.
        theirs: labels of the folder.
        ours: labels of the model.

    Raises:
        UserError: `text` is mistaken, or fewer than two labels correspond.
    """
    named: dict[str, str] = {}
    for item in next(csv.reader([text], skipinitialspace=True), []):
        label, equals, counterpart = map(str.strip, item.partition("="))
        if not equals:
            raise errors.UserError(f"--map: {item}: expected FOLDER_LABEL=MODEL_LABEL")
        for name, known, whose in ((label, theirs, "folder"), (counterpart, ours, "model")):
            if name not in known:
                raise errors.UserError(
                    f"--map: {item}: the {whose} has no label {name!r}; it has {', '.join(known)}"
                )
        if label in named:
            raise errors.UserError(f"--map: {label} stands there twice")
        named[label] = counterpart
    pairs = {label: label for label in theirs if label in ours} | named
    if len({*pairs.values()}) < corpus.FEWEST_LABELS:
        raise errors.UserError(
            f"{len({*pairs.values()})} labels in common; expected {corpus.FEWEST_LABELS}: the "
            f"folder has {', '.join(theirs)}, the model {', '.join(ours)}; --map A=B names what "
            "corresponds"
        )
    return pairs


def is_own(model: models.Trained, folder: Path, clips: pd.DataFrame) -> bool:
    """True if a folder looks like the corpus that a model was trained on: by the folder's name, in
    RAVDESS by those of its clips."""
    if model.corpus == "ravdess":
        return any(ravdess.NAME.fullmatch(clip) for clip in clips["clip"])
    return model.corpus is not None and corpus.title(model.corpus) == folder.resolve().name


def hear(
    model: models.Trained, folder: Path, clips: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The clips that have an answer, and the probabilities of the model's labels in each; of the
    others, and of what is lost of one, a line on stderr."""
    answers = {}
    paths = [str(folder / file) for file in clips["file"]]
    found = parallel.over(lambda path: windows.hear(model, path), paths, "score")
    for index, path, (answer, notes) in zip(clips.index, paths, found, strict=True):
        for note in notes:
            print(f"score: {errors.as_line(path)}: {note}", file=sys.stderr)
        if isinstance(answer, errors.UserError):
            print(f"score: {answer}", file=sys.stderr)
        else:
            answers[index] = answer
    if not answers:
        raise errors.UserError(f"{folder}: none of its {len(clips)} clips has an answer")
    answered, shares = clips.loc[list(answers)], np.stack(list(answers.values()))
    if model.together:
        if (counts := answered["speaker"].value_counts()).min() < FEWEST_CLIPS:
            raise errors.UserError(
                f"{folder}: {counts.min()} clips of speaker {counts.idxmin()}; expected "
                f"{FEWEST_CLIPS} at least: the model normalises each speaker by all clips of it"
            )
        shares = model.together(shares, answered["speaker"])
    return answered, pd.DataFrame(shares, answered.index, model.labels)


def figures(predictions: pd.DataFrame) -> str:
    """The figures with their bounds, what guessing gets, and the confusion, as text."""
    bounded, guessing = scoring.bounded(predictions), scoring.baseline(predictions)
    lines = [f"{TITLES[rate]:9} {scoring.as_text(bounded, rate)} %" for rate in scoring.RATES]
    lines.append(
        f"in brackets: 95 % bounds over speakers; chance is {guessing['chance']:.1%}, always the "
        f"most frequent label {guessing['majority']:.1%}"
    )
    labels = tables.labels(predictions)
    counts = pd.crosstab(predictions["actual"], predictions["predicted"])
    counts = counts.reindex(index=labels, columns=labels, fill_value=0)
    counts = counts.rename_axis(index="actual", columns="predicted:")
    recall = np.diagonal(counts) / counts.sum(axis=1)
    counts["recall"] = [f"{share:.1%}" if share == share else "" for share in recall]
    return "\n".join([*lines, "", counts.to_string()])


def described(clips: pd.DataFrame, ours: list[str], pairs: dict[str, str]) -> list[str]:
    """The model's labels that are scored, with the folder's where these are called otherwise; and
    what is left out."""
    scored = []
    for label in (label for label in ours if label in pairs.values()):
        others = [name for name, of in pairs.items() if of == label and name != label]
        scored.append(f"{label} ({', '.join(others)})" if others else label)
    counts = clips.loc[~clips["label"].isin(list(pairs)), "label"].value_counts(sort=False)
    theirs = [f"{label} ({number} clips)" for label, number in counts.items()]
    unscored = [label for label in ours if label not in pairs.values()]
    return [
        f"labels {', '.join(scored)}",
        f"left out: of the folder {', '.join(theirs) or 'none'}",
        f"of the model {', '.join(unscored) or 'none'}",
    ]


@errors.one_line
def main() -> None:
    """Hear the clips whose labels correspond, score the answers, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="with a metadata.csv")
    parser.add_argument("--model", required=True, help="a name in data/models, or a folder")
    parser.add_argument(
        "--map", default="", metavar="FOLDER_LABEL=MODEL_LABEL,...", help="labels that correspond"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("runs/score"))
    options = parser.parse_args()
    target = options.output  # which is replaced as a whole
    if target.exists() and not (
        target.is_dir() and {file.name for file in target.iterdir()} <= WRITTEN
    ):
        raise errors.UserError(f"--output {target}: holds something else; name another folder")
    model = models.load(options.model, by_speaker=True)
    clips = own.read(options.folder)
    theirs = corpus.labels(clips)
    pairs = correspondence(options.map, theirs, model.labels)
    labels = [label for label in model.labels if label in pairs.values()]

    used = clips[clips["label"].isin(list(pairs))]
    # Of a speaker who is normalised, clips of all labels count.
    answered, shares = hear(model, options.folder, clips if model.together else used)
    answered = answered[answered.index.isin(used.index)]
    shares = shares.loc[answered.index, labels]
    shares = shares.div(shares.sum(axis=1), axis=0)
    answered = answered.assign(fold=0, label=answered["label"].map(pairs))
    predictions = tables.from_probabilities(answered, shares)

    protocol = "; ".join([
        f"{model.folder}, trained on {corpus.title(model.corpus or 'an unknown corpus')}",
        f"scored on {corpus.title(str(options.folder.resolve()))}",
        f"{len(predictions)} of {len(clips)} clips of {predictions['speaker'].nunique()} speakers",
        *described(clips, model.labels, pairs),
    ])  # fmt: skip
    if is_own(model, options.folder, clips):
        protocol += "; the corpus that the model was trained on: VOICES IT KNOWS"
    if model.together:
        protocol += f"; {crossval.TRANSDUCTIVE}"
    protocol = errors.as_line(protocol)
    with outputs.whole(target) as folder:
        folder.mkdir()
        predictions.to_csv(folder / "predictions.csv", index=False)
        (folder / "protocol.txt").write_text(protocol + "\n", encoding="utf-8")
    print(protocol.replace("; ", "\n"), figures(predictions), sep="\n\n")
    sys.exit(1 if len(predictions) < len(used) else 0)


if __name__ == "__main__":
    main()
