"""Compare the two models clip by clip: is the difference more than the noise between actors?

Reads:  data/svm/predictions.csv, data/w2v/fold_K/predictions.csv, params `folds`
Writes: metrics/compare.json: accuracy and UAR of both on the same clips, their difference (w2v -
        svm) with 95 % bounds paired over actors, how often only one of the two is right, and
        McNemar's exact p
"""

import pandas as pd
from scipy import stats

from ser import params, scoring
from ser.run import errors, outputs


def compare(svm: pd.DataFrame, w2v: pd.DataFrame) -> dict:
    """Figures of two prediction tables of the same clips.

    The bounds are a t interval over the actors' own differences. McNemar's test takes clips as
    independent, which those of one actor are not: of the two, trust the bounds.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    if list(svm["clip"]) != list(w2v["clip"]):
        raise errors.UserError(
            "data/svm and data/w2v: the two tables do not hold the same clips; run `dvc repro`"
        )
    right = {
        name: (table["actual"] == table["predicted"])
        for name, table in (("svm", svm), ("w2v", w2v))
    }
    difference = (right["w2v"].astype(float) - right["svm"]).groupby(svm["actor"]).mean()
    half_width = stats.t.ppf(0.975, len(difference) - 1) * stats.sem(difference)
    only_svm, only_w2v = (
        int((right["svm"] & ~right["w2v"]).sum()),
        int((right["w2v"] & ~right["svm"]).sum()),
    )
    scores = {
        name: scoring.rates(scoring.per_actor_confusion(table).sum(axis=0))
        for name, table in (("svm", svm), ("w2v", w2v))
    }
    return {
        "clips": len(svm),
        "accuracy_svm": float(scores["svm"]["accuracy"]),
        "accuracy_w2v": float(scores["w2v"]["accuracy"]),
        "accuracy_difference": float(difference.mean()),
        "accuracy_difference_low": float(difference.mean() - half_width),
        "accuracy_difference_high": float(difference.mean() + half_width),
        "uar_svm": float(scores["svm"]["uar"]),
        "uar_w2v": float(scores["w2v"]["uar"]),
        "only_svm_right": only_svm,
        "only_w2v_right": only_w2v,
        "both_right": int((right["svm"] & right["w2v"]).sum()),
        "mcnemar_p": float(stats.binomtest(only_svm, max(only_svm + only_w2v, 1)).pvalue),
    }


@errors.one_line
def main() -> None:
    """Read both tables for the folds of params.yaml, write the comparison."""
    folds = params.load().folds
    figures = compare(scoring.read("svm", folds), scoring.read("w2v", folds))
    outputs.write_json("metrics/compare.json", figures)
    difference, low, high = (
        100 * figures[f"accuracy_difference{bound}"] for bound in ("", "_low", "_high")
    )
    print(
        f"wav2vec 2.0 - SVM: {difference:+.1f} points of accuracy (95 % over actors: {low:+.1f} to {high:+.1f})"
    )


if __name__ == "__main__":
    main()
