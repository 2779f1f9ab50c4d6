"""Measure how far MFCC + SVM leans on the words: train on one of the corpus's two statements, test
on the other.

    python -m commands.cross_statement

Not a stage. RAVDESS has two sentences, so that the course of an MFCC in time partly matches the
text. For each block of features, and for all as params.yaml combines them, models are chosen and
trained as `svm_train` does, actors disjoint, and tested on: the other statement; the same
statement; both, after training on as many clips in which the statements are mixed, the fair
reference.

Reads:  data/mfcc.parquet, data/folds.csv, params `svm_train`
Writes: nothing; prints a Markdown table
"""

import joblib
import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from commands import ablation
from ser import params, scoring
from ser.run import errors, parallel
from ser.svm import model

TRAINED_ON = (1, 2, "mixed")


def training(clips: pd.DataFrame, fold: int, statement: int | str) -> np.ndarray:
    """Whether each clip is trained on for a fold: that statement by all other actors; mixed: each
    statement in one repetition.

    Both have as many clips of each emotion, intensity and actor.

    Raises:
        UserError: the corpus has one statement or one repetition only.
    """
    if any(set(clips[name]) != {1, 2} for name in ("statement", "repetition")):
        raise errors.UserError(
            "data/folds.csv: needs clips of both statements and both repetitions"
        )
    chosen = clips["statement"] == (clips["repetition"] if statement == "mixed" else statement)
    return (chosen & (clips["fold"] != fold)).to_numpy()


def predict(
    table: pd.DataFrame, clips: pd.DataFrame, settings: params.SvmTrain, desc: str
) -> pd.DataFrame:
    """Predictions of every clip by the models of its fold, which are trained on each of
    `TRAINED_ON`.

    Returns:
        clip, actor, fold, statement, actual, predicted, trained_on; three rows per clip, sorted by
        trained_on and clip.
    """
    jobs = [
        (fold, statement) for statement in TRAINED_ON for fold in sorted(clips["fold"].unique())
    ]

    def one(job: tuple[int, int | str]) -> pd.DataFrame:
        _, _, probabilities = model.fold((str(job), training(clips, *job)), table, clips, settings)
        held_out = (
            clips[clips["fold"] == job[0]]
            .assign(trained_on=str(job[1]))
            .rename(columns={"emotion": "actual"})
        )
        return held_out.assign(predicted=probabilities.loc[held_out.index].idxmax(axis=1))

    with (
        threadpool_limits(1),
        joblib.parallel_config(backend="threading"),
    ):  # as svm_train does, and why
        found = pd.concat(parallel.over(one, jobs, desc, unit="search"))
    return found.sort_values(["trained_on", "clip"], ignore_index=True)


def row(name: str, found: pd.DataFrame) -> str:
    """A line of the Markdown table from what `predict` returns, figures in percent and points."""
    mixed = found[found["trained_on"] == "mixed"].reset_index(drop=True)
    alone = found[found["trained_on"] != "mixed"]
    crossed = alone["trained_on"] != alone["statement"].astype(str)
    other = alone[crossed].sort_values("clip", ignore_index=True)
    cells = [
        f"{(rows['actual'] == rows['predicted']).mean():.1%}"
        for _, rows in other.groupby("trained_on")
    ]
    for rows in (other, mixed, alone[~crossed]):
        rates = scoring.rates(scoring.per_actor_confusion(rows).sum(axis=0))
        cells.append(f"{rates['accuracy']:.1%} / {rates['uar']:.1%}")
    cells.append(
        "{:+.1f} ± {:.1f}".format(*(100 * value for value in ablation.paired(other, mixed)))
    )
    return f"| {name} | {' | '.join(cells)} |"


@errors.one_line
def main() -> None:
    """Train for every block and for all, print the table."""
    settings = params.load().svm_train
    clips, table = model.read(settings)
    lines = []
    for block in dict.fromkeys(table.columns.str.partition("_").get_level_values(0)):
        alone = settings.model_copy(update={"blocks": [{block: 1.0}]})
        lines.append(row(f"`{block}` alone", predict(table, clips, alone, block)))
    lines.append(row("all, as in params.yaml", predict(table, clips, settings, "all")))
    print(
        "| features | 1 → 2 | 2 → 1 | other statement | mixed, as many clips | same statement | other - mixed |"
    )
    print("|---" * 7 + "|")
    print("\n".join(lines))
    print(f"\nAccuracy / UAR; ± standard error over actors. {model.protocol(settings)}")


if __name__ == "__main__":
    main()
