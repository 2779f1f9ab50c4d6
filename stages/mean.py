"""Predict by several models together: the mean of their probabilities.

All count the same, so there is nothing to choose, and nothing that could have seen the actors it is
scored on.

Reads:  data/MODEL/predictions.csv and protocol.txt of svm, probe and w2v (of that in a folder per
        fold); params `folds`
Writes: data/mean/: predictions.csv, as theirs; protocol.txt
"""

import numpy as np
import pandas as pd

from ser import params, scoring
from ser.corpus import EMOTIONS
from ser.run import errors, outputs


def mean(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The prediction table of the mean of several models' probabilities.

    Args:
        tables: of the same clips in the same order.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    first = tables[0]
    if any(list(table["clip"]) != list(first["clip"]) for table in tables):
        raise errors.UserError("data: the models' predictions are not of the same clips")
    probabilities = np.mean([table[list(EMOTIONS)] for table in tables], axis=0)
    together = first.assign(predicted=np.array(EMOTIONS)[probabilities.argmax(axis=1)])
    together[list(EMOTIONS)] = probabilities
    return together


@errors.one_line
def main() -> None:
    """Read the tables for the folds of params.yaml, write their mean."""
    folds = params.load().folds
    predictions = mean([scoring.read(model, folds) for model in scoring.ALONE])
    with outputs.whole("data/mean") as folder:
        folder.mkdir()
        predictions.to_csv(folder / "predictions.csv", index=False)
        titles = ", ".join(scoring.MODELS[model] for model in scoring.ALONE)
        text = f"mean of the probabilities of {titles}, each counting the same"
        (folder / "protocol.txt").write_text(text + "\n", encoding="utf-8")
    accuracy = (predictions["predicted"] == predictions["actual"]).mean()
    print(f"accuracy on held-out actors: {accuracy:.3f}")


if __name__ == "__main__":
    main()
