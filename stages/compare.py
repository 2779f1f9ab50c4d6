"""Compare every two models clip by clip: is the difference more than the noise between actors?

Reads:  data/MODEL/predictions.csv, for w2v in a folder per fold, of the models that have one;
        params `folds`
Writes: metrics/compare.json: by pair, such as `w2v - svm`: how much higher the accuracy, uar and
            macro_f1 of the first are on the same clips, with 95 % bounds paired over actors
            (accuracy_low, …); clips; how often only one of the two is right, or both
"""

import itertools
from pathlib import Path

import pandas as pd

from ser import params, scoring
from ser.run import errors, outputs


def compare(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, float]:
    """Figures of two prediction tables of the same clips.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    figures = scoring.differences(first, second)
    right, too = (table["actual"] == table["predicted"] for table in (first, second))
    return {
        **figures,
        "clips": len(first),
        "only_first_right": int((right & ~too).sum()),
        "only_second_right": int((too & ~right).sum()),
        "both_right": int((right & too).sum()),
    }


@errors.one_line
def main() -> None:
    """Read the tables for the folds of params.yaml, write the comparisons."""
    folds = params.load().folds
    models = [model for model in scoring.MODELS if Path("data", model).exists()]
    if len(models) < 2:
        raise errors.UserError(
            f"data: predictions of {', '.join(models) or 'no model'}; two are needed, `dvc repro`"
        )
    tables = {model: scoring.read(model, folds) for model in models}
    pairs = {}
    for second, first in itertools.combinations(models, 2):
        pairs[f"{first} - {second}"] = compare(tables[first], tables[second])
    outputs.write_json("metrics/compare.json", pairs)
    print(pd.DataFrame(pairs).T.filter(regex="accuracy|uar").round(3))


if __name__ == "__main__":
    main()
