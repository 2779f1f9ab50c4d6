"""Predict by several models together: the mean of their probabilities.

All count the same, so there is nothing to choose, and nothing that could have seen the speakers it
is scored on.

Reads:  data/predictions/NAME/predictions.csv of the models in `mean`; params `folds`, `mean`,
            `models`
Writes: data/predictions/mean/: predictions.csv, as theirs; protocol.txt
"""

import numpy as np
import pandas as pd

from ser import params, tables
from ser.run import errors, outputs, resources


def mean(predictions: list[pd.DataFrame]) -> pd.DataFrame:
    """The predictions of the mean of several models' probabilities.

    Args:
        predictions: of the same clips in the same order.

    Raises:
        UserError: the tables do not hold the same clips.
    """
    first = predictions[0]
    if any(list(table["clip"]) != list(first["clip"]) for table in predictions):
        raise errors.UserError("data: the models' predictions are not of the same clips")
    labels = tables.labels(first)
    probabilities = np.mean([table[labels] for table in predictions], axis=0)
    clips = first.rename(columns={"actual": "label"})
    return tables.from_probabilities(clips, pd.DataFrame(probabilities, columns=labels))


@errors.one_line
def main() -> None:
    """Read the tables for the folds of params.yaml, write their mean."""
    settings = params.load()
    predictions = mean([tables.predictions(name, settings.folds) for name in settings.mean])
    titles = ", ".join(settings.models[name] for name in settings.mean)
    protocol = f"mean of the probabilities of {titles}, each counting the same"
    with outputs.whole("data/predictions/mean") as folder:
        tables.write_predictions(folder, predictions, protocol)
    resources.note("data/predictions/mean/predictions.csv")


if __name__ == "__main__":
    main()
