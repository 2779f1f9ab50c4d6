"""Pictures of results, as PNG files that need no browser."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from ser import corpus


def draw(predictions: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the confusion matrix as a PNG file, each row as shares: the diagonal is the recall."""
    figure = Figure(figsize=(7, 6.4), layout="constrained")  # without pyplot: needs no screen
    axes = figure.subplots()
    ConfusionMatrixDisplay.from_predictions(
        predictions["actual"], predictions["predicted"], labels=corpus.EMOTIONS, normalize="true",
        values_format=".2f", xticks_rotation=45, cmap="Blues", colorbar=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
