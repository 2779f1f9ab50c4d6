"""Pictures of results, as PNG files that need no browser."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.metrics import ConfusionMatrixDisplay

from ser import corpus


def draw(predictions: pd.DataFrame, title: str, path: Path) -> None:
    """Draw the confusion matrix, each row normalised to the recall of its emotion, as a PNG
    file."""
    figure, axes = plt.subplots(figsize=(7, 6.4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        predictions["actual"], predictions["predicted"], labels=corpus.EMOTIONS, normalize="true",
        values_format=".2f", xticks_rotation=45, cmap="Blues", colorbar=False, ax=axes,
    )  # fmt: skip
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    figure.savefig(path, dpi=110, format="png", metadata={"Software": None})
    plt.close(figure)
