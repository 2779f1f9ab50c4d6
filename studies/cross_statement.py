"""Measure how far MFCC + SVM leans on the words: train on one of the corpus's two statements, test
on the other.

    python -m studies.cross_statement

Not a stage. RAVDESS has two sentences, so that the course of an MFCC in time partly matches the
text. For each block of features, and for all as params.yaml combines them, models are chosen and
trained as `svm_train` does, speakers disjoint, and tested on: the other statement; the same
statement; both, after training on as many clips in which the statements are mixed, the fair
reference.

Reads:  data/mfcc.parquet, data/folds.csv, params `svm_train`
Writes: nothing; prints a Markdown table
"""

import numpy as np
import pandas as pd

from ser import params, scoring
from ser.classifier import crossval
from ser.run import errors, parallel

TRAINED_ON = (1, 2, "mixed")
HEADINGS = (
    "features", "1 → 2", "2 → 1", "other statement", "mixed, as many clips", "same statement",
    "other - mixed, points",
)  # fmt: skip


def training(clips: pd.DataFrame, fold: int, statement: int | str) -> np.ndarray:
    """True for the clips to train on for a fold: that statement by all other speakers; mixed: each
    statement in one repetition.

    Both have as many clips of each label, intensity and speaker.

    Raises:
        UserError: the corpus has one statement or one repetition only.
    """
    if any(set(clips.get(name, ())) != {1, 2} for name in ("statement", "repetition")):
        raise errors.UserError(
            "data/folds.csv: needs clips of both statements and both repetitions"
        )
    chosen = clips["statement"] == (clips["repetition"] if statement == "mixed" else statement)
    return (chosen & (clips["fold"] != fold)).to_numpy()


def predict(data: crossval.Data, grid: list[dict], inner_folds: int, desc: str) -> pd.DataFrame:
    """Predictions of every clip by the models of its fold, which are trained on each of
    `TRAINED_ON`.

    Args:
        data: all clips.
        grid: what to choose from.
        inner_folds: of the cross-validation that chooses.
        desc: name of the progress bar.

    Returns:
        clip, speaker, fold, statement, actual, predicted, trained_on; three rows per clip, sorted
        by trained_on and clip.
    """
    clips = data.clips
    numbers = sorted(clips["fold"].unique())
    jobs = [(number, statement) for statement in TRAINED_ON for number in numbers]

    def held_out(job: tuple[int, int | str]) -> pd.DataFrame:
        _, _, probabilities = crossval.fit_fold(training(clips, *job), data, grid, inner_folds)
        rows = clips[clips["fold"] == job[0]].rename(columns={"label": "actual"})
        predicted = probabilities.loc[rows.index].idxmax(axis=1)
        return rows.assign(predicted=predicted, trained_on=str(job[1]))

    predictions = pd.concat(parallel.over(held_out, jobs, desc, unit="search"))
    return predictions.sort_values(["trained_on", "clip"], ignore_index=True)


def row(name: str, predictions: pd.DataFrame) -> str:
    """A line of the Markdown table from predictions of `predict`, figures in percent and points."""
    mixed = predictions[predictions["trained_on"] == "mixed"].reset_index(drop=True)
    alone = predictions[predictions["trained_on"] != "mixed"]
    crossed = alone["trained_on"] != alone["statement"].astype(str)
    other = alone[crossed].sort_values("clip", ignore_index=True)
    cells = [
        f"{(rows['actual'] == rows['predicted']).mean():.1%}"
        for _, rows in other.groupby("trained_on")
    ]
    for rows in (other, mixed, alone[~crossed]):
        rates = scoring.rates(scoring.per_speaker_confusion(rows).sum(axis=0))
        cells.append(f"{rates['accuracy']:.1%} / {rates['uar']:.1%}")
    cells.append(scoring.as_text(scoring.differences(other, mixed), "accuracy", "{:+.1f}"))
    return f"| {name} | {' | '.join(cells)} |"


@errors.one_line
def main() -> None:
    """Train for every block and for all, print the table."""
    settings = params.load().svm_train
    data = crossval.read("data/mfcc.parquet", "mfcc", settings)
    blocks = dict.fromkeys(data.table.columns.str.partition("_").get_level_values(0))
    choices = {f"`{block}` alone": [{block: 1.0}] for block in blocks}
    choices["all, as in params.yaml"] = settings.blocks
    lines = []
    for name, weights in choices.items():
        grid = crossval.candidates(weights, settings, data.table)
        lines.append(row(name, predict(data, grid, settings.inner_folds, name)))
    print(f"| {' | '.join(HEADINGS)} |")
    print("|---" * len(HEADINGS) + "|")
    print("\n".join(lines))
    print(
        "\nAccuracy / UAR; in brackets: 95 % bounds, a t interval over speakers, paired. "
        f"{crossval.protocol(settings)}"
    )


if __name__ == "__main__":
    main()
