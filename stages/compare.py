"""Compare every two models clip by clip: is the difference more than the noise between speakers?

Reads:  data/predictions/NAME/predictions.csv of the models in `models` that have one; params
            `folds`, `models`
Writes: metrics/compare.json: by pair, such as `w2v - svm`: how much higher the accuracy, uar and
            macro_f1 of the first are on the same clips, with 95 % bounds paired over speakers
            (accuracy_low, …); clips; how often only one of the two is right, or both
"""

import itertools

import pandas as pd

from ser import params, scoring, tables
from ser.run import errors, outputs


@errors.one_line
def main() -> None:
    """Read the tables for the folds of params.yaml, write the comparisons."""
    settings = params.load()
    models = [name for name in settings.models if (tables.MODELS / name).exists()]
    if len(models) < 2:
        raise errors.UserError(
            f"{tables.MODELS}: predictions of {', '.join(models) or 'no model'}; two are needed, "
            "`dvc repro`"
        )
    predictions = {name: tables.predictions(name, settings.folds) for name in models}
    pairs = {}
    for second, first in itertools.combinations(models, 2):
        pairs[f"{first} - {second}"] = scoring.compare(predictions[first], predictions[second])
    outputs.write_json("metrics/compare.json", pairs)
    print(pd.DataFrame(pairs).T.filter(regex="accuracy|uar").round(3))


if __name__ == "__main__":
    main()
